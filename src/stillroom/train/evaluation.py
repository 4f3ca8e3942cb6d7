"""How good a model is on a split: accuracy, likelihood, calibration, closeness to the teacher. Always in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from stillroom.models.external import declare_missing_ops

ECE_BINS = 15


@dataclass(frozen=True)
class Score:
    """How good logits are against labels.

    Attributes:
        top1: per cent right.
        correct: number right.
        count: number of images.
        top5: per cent with the label among the five largest; None with 5 classes or fewer.
        nll: mean negative log-likelihood, in nats.
        ece: expected calibration error, 15 equal-width bins, in [0, 1].
    """

    top1: float
    correct: int
    count: int
    top5: float | None
    nll: float
    ece: float

    def as_dict(self) -> dict[str, Any]:
        """The figures that apply, in the units above."""
        figures = {"top1": self.top1, "correct": self.correct, "count": self.count}
        if self.top5 is not None:
            figures["top5"] = self.top5
        return {**figures, "nll": self.nll, "ece": self.ece}


def score(logits: Tensor, labels: Tensor) -> Score:
    """Score logits [N, K] against labels [N]; ties go to the first class.

    >>> score(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0])).top1
    50.0
    """
    # torchmetrics imports torchvision where that is installed, whether it can be or not.
    declare_missing_ops()
    from torchmetrics.functional.classification import multiclass_calibration_error

    count, classes = logits.shape
    correct = int((logits.argmax(1) == labels).sum())
    top5 = None
    if classes > 5:
        top5 = 100.0 * int((logits.topk(5, dim=1).indices == labels[:, None]).any(1).sum()) / count
    probabilities = logits.softmax(1)
    # torchmetrics reads one column as a binary answer; a single class is always calibrated and always right.
    ece = float(multiclass_calibration_error(probabilities, labels, classes, ECE_BINS)) if classes > 1 else 0.0
    return Score(
        top1=100.0 * correct / count,
        correct=correct,
        count=count,
        top5=top5,
        nll=float(F.cross_entropy(logits, labels)),
        ece=ece,
    )


def compare(student_logits: Tensor, teacher_logits: Tensor) -> dict[str, float]:
    """How close a student's answers are to the teacher's.

    Returns:
        ``agreement``: per cent of images with the same top-1; ``teacher_kl``: mean KL(p‖q) at τ = 1, in nats.

    >>> z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> compare(z, z)
    {'agreement': 100.0, 'teacher_kl': 0.0}
    """
    same = int((student_logits.argmax(1) == teacher_logits.argmax(1)).sum())
    divergence = F.kl_div(
        student_logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="batchmean", log_target=True
    )
    # Rounding can leave a hair below zero where the two are equal.
    return {"agreement": 100.0 * same / len(student_logits), "teacher_kl": max(float(divergence), 0.0)}
