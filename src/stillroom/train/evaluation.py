"""Metrics of a model on a split: accuracy, likelihood, calibration, agreement with the teacher. Always in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.schema.measures import compare_outputs, figures_of, measure_outputs
from stillroom.tasks import Task

ECE_BINS = 15


@dataclass(frozen=True)
class Score:
    """Metrics of logits against labels."""

    top1: float  # per cent correct
    correct: int  # number correct
    count: int  # number of images
    top5: float | None  # per cent with the label among the five largest; None with 5 classes or fewer
    nll: float  # mean negative log-likelihood, in nats
    ece: float  # expected calibration error, 15 equal-width bins, in [0, 1]

    def as_dict(self) -> dict[str, Any]:
        """The metrics that apply, in the units above."""
        figures = {"top1": self.top1, "correct": self.correct, "count": self.count}
        if self.top5 is not None:
            figures["top5"] = self.top5
        return {**figures, "nll": self.nll, "ece": self.ece}


def score(logits: Tensor, labels: Tensor) -> Score:
    """Score logits [N, K] against labels [N]; ties go to the first class.

    >>> score(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0])).top1
    50.0
    """
    count, classes = logits.shape
    correct = int((logits.argmax(1) == labels).sum())
    top5 = None
    if classes > 5:
        top5 = 100.0 * int((logits.topk(5, dim=1).indices == labels[:, None]).any(1).sum()) / count
    probabilities = logits.softmax(1)
    # With a single class every prediction is correct and calibrated.
    ece = expected_calibration_error(probabilities, labels) if classes > 1 else 0.0
    return Score(
        top1=100.0 * correct / count,
        correct=correct,
        count=count,
        top5=top5,
        nll=float(F.cross_entropy(logits, labels)),
        ece=ece,
    )


def score_outputs(outputs: Tensor, labels: Tensor, task: Task, names: Sequence[str]) -> dict[str, Any]:
    """The figures of a model's outputs [N, K] on a split, by what the labels are; see :func:`score`.

    >>> score_outputs(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]]), "regression", ["x"])
    {'r2': -1.0, 'mae': 0.5, 'mse': 0.5, 'count': 2}
    """
    if task == "single_label":
        return score(outputs, labels).as_dict()
    found = measure_outputs(task, outputs.cpu().numpy(), labels.cpu().numpy(), names)
    return {**figures_of(found), "count": len(outputs)}


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = ECE_BINS) -> float:
    """Expected calibration error: Σ_b n_b/N · |accuracy_b − confidence_b| over bins of equal width.

    Args:
        probabilities: [N, K].
        labels: [N].
        bins: of the largest probability, from 0 to 1.

    Returns:
        A number in [0, 1].

    Paper: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.

    >>> round(expected_calibration_error(torch.tensor([[0.8, 0.2], [0.7, 0.3]]), torch.tensor([0, 1])), 6)
    0.45
    """
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.float(), guess.eq(labels).float()
    edges = torch.linspace(0, 1, bins + 1, device=confidence.device)
    # A confidence of exactly 1 would get a separate bin.
    place = torch.bucketize(confidence, edges, right=True) - 1

    def sums(values: Tensor) -> Tensor:
        return torch.zeros(bins + 1, device=confidence.device).scatter_add_(0, place, values)

    count = sums(torch.ones_like(confidence))
    accuracy, mean = (torch.nan_to_num(sums(values) / count) for values in (right, confidence))
    return float(((accuracy - mean).abs() * (count / count.sum())).sum())


def compare(student_logits: Tensor, teacher_logits: Tensor, task: Task = "single_label") -> dict[str, float]:
    """Agreement of a student's outputs with the teacher's; of multi-label and regression data, :func:`compare_outputs`.

    Returns:
        ``agreement``: per cent of images with the same top-1; ``teacher_kl``: mean KL(p‖q) at τ = 1, in nats.

    >>> z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> compare(z, z)
    {'agreement': 100.0, 'teacher_kl': 0.0}
    """
    if task != "single_label":
        return compare_outputs(task, student_logits.cpu().numpy(), teacher_logits.cpu().numpy())
    same = int((student_logits.argmax(1) == teacher_logits.argmax(1)).sum())
    divergence = F.kl_div(
        student_logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="batchmean", log_target=True
    )
    # Rounding can give a value just below zero if the two are equal.
    return {"agreement": 100.0 * same / len(student_logits), "teacher_kl": max(float(divergence), 0.0)}
