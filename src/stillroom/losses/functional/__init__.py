"""The losses as pure functions: tensors in, a scalar loss out, hyper-parameters by keyword."""

from stillroom.losses.functional.blockwise import block_logit
from stillroom.losses.functional.features import feature_fisher, feature_full_fisher, feature_mse, half_variance
from stillroom.losses.functional.labels import cross_entropy, label_smoothing
from stillroom.losses.functional.logits import kl, logit_fisher, logit_mse

__all__ = [
    "block_logit",
    "cross_entropy",
    "feature_fisher",
    "feature_full_fisher",
    "feature_mse",
    "half_variance",
    "kl",
    "label_smoothing",
    "logit_fisher",
    "logit_mse",
]
