"""``relational``: distances and angles between the images of a batch."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import PlainFeatureConfig, PooledLoss
from stillroom.losses.numerics import check_batch


class RelationalConfig(PlainFeatureConfig):
    """Distances and angles between the images of a batch."""

    name: Literal["relational"] = "relational"
    distance_weight: float = Field(25.0, ge=0, description="Factor of the distances.")
    angle_weight: float = Field(50.0, ge=0, description="Factor of the angles.")


def relational(
    student_pooled: Tensor, teacher_pooled: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Relational KD: distances between two images and angles at one of three, of both models.

    Formula: ``w_d·mean_{ij} ℓ(d_s − d_t) + w_a·mean_{ijk} ℓ(cos_s − cos_t)``, d = distance divided by the mean of those
    above 0, cos_ijk the cosine of the angle at i between j and k (0 where two of them coincide), ℓ the smooth L1 with
    β = 1; means over all B² and B³ entries. The B³ cosines come from the B² inner products, so that their cost does not
    grow with d.

    Args:
        student_pooled: [B, d], of any width.
        teacher_pooled: [B, d]; detached.
        distance_weight: w_d.
        angle_weight: w_a.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of images differ.

    Paper: Park et al., Relational Knowledge Distillation, arXiv 1904.05068.

    >>> x = torch.rand(4, 6)
    >>> relational(x, 3 * x).item() < 1e-9
    True
    """
    student, teacher = check_batch(student_pooled, teacher_pooled)
    if not len(student):
        return student.sum()
    with torch.no_grad():
        distance_t, angle_t = _relations(teacher, angles=angle_weight > 0)
    distance_s, angle_s = _relations(student, angles=angle_weight > 0)
    total = distance_weight * F.smooth_l1_loss(distance_s, distance_t)
    if angle_s is not None and angle_t is not None:
        total = total + angle_weight * F.smooth_l1_loss(angle_s, angle_t)
    return total


def _relations(x: Tensor, *, angles: bool) -> tuple[Tensor, Tensor | None]:
    """Distances of mean 1 [B, B], and the cosines at i between j and k [B, B, B]."""
    # Distances do not see the mean, and small numbers cancel less.
    x = x - x.mean(0)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances > 0
    relative = distances / torch.where(apart, distances, 0.0).sum().clamp_min(1e-12) * apart.sum()
    if not angles:
        return relative, None
    inner = x @ x.T
    # (x_j − x_i)·(x_k − x_i), at each i.
    at_i = inner[None] - inner[:, :, None] - inner[:, None, :] + inner.diagonal()[:, None, None]
    inverse = torch.where(apart, 1 / torch.where(apart, distances, 1.0), 0.0)
    return relative, at_i * inverse[:, :, None] * inverse[:, None, :]


class Relational(PooledLoss[RelationalConfig]):
    """Distances and angles between the images of a batch, the mean over the pairs of taps; see :func:`relational`."""

    other_names = ("rkd",)
    citation = Citation("Relational Knowledge Distillation", "1904.05068", "park2019relational")
    family = "relations"

    def forward(self, inputs: LossInputs) -> Tensor:
        options = self.config
        values = [
            relational(student, teacher, distance_weight=options.distance_weight, angle_weight=options.angle_weight)
            for student, teacher in self.pooled_pairs(inputs)
        ]
        return torch.stack(values).mean()
