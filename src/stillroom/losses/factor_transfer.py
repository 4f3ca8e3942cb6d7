"""``factor_transfer``: normalised factors of a map."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stillroom.losses.attention_transfer import attention_map
from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import MapConfig, MapLoss
from stillroom.losses.numerics import batch_mean, check_maps


class FactorTransferConfig(MapConfig):
    """Normalised factors of both models' maps."""

    name: Literal["factor_transfer"] = "factor_transfer"
    power: int = Field(2, ge=1, description="Exponent of the activations, before their mean over channels.")


def factor_transfer(student_feature: Tensor, teacher_feature: Tensor, *, power: int = 2) -> Tensor:
    """Factor transfer: the mean absolute difference of normalised factors.

    Formula: ``mean_{b,i} |a_s − a_t|``, a = the mean over channels of h^power, flattened, of length 1 for each image.
    The larger of two grids is average-pooled to the smaller first. The paper's paraphraser is left out: the factors are
    the maps' own.

    Args:
        student_feature: [B, C, H, W], of any C.
        teacher_feature: the like; detached.
        power: exponent.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of images differ.

    Paper: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, arXiv 1802.04977.

    >>> x = torch.rand(2, 3, 4, 4)
    >>> factor_transfer(x, 3 * x).item() < 1e-6
    True
    """
    ((student, teacher),) = check_maps([student_feature], [teacher_feature])
    return batch_mean((attention_map(student, power) - attention_map(teacher, power)).abs().mean(1))


class FactorTransfer(MapLoss[FactorTransferConfig]):
    """Normalised factors, the mean over the stages; see :func:`factor_transfer`."""

    other_names = ("ft", "factor")
    citation = Citation(
        "Paraphrasing Complex Network: Network Compression via Factor Transfer", "1802.04977", "kim2018paraphrasing"
    )

    def forward(self, inputs: LossInputs) -> Tensor:
        pairs = zip(*self.maps(inputs), strict=True)
        return torch.stack([factor_transfer(*pair, power=self.config.power) for pair in pairs]).mean()
