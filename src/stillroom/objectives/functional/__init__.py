"""The objectives as pure functions: tensors in, a scalar loss out, hyper-parameters by keyword."""

from stillroom.objectives.functional.features import feature_mse
from stillroom.objectives.functional.labels import cross_entropy, label_smoothing
from stillroom.objectives.functional.logits import kl, logit_fisher, logit_mse

__all__ = ["cross_entropy", "feature_mse", "kl", "label_smoothing", "logit_fisher", "logit_mse"]
