"""How good a model is on a split: accuracy, likelihood, calibration, closeness to the teacher. Always in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.data.images import LazyImages
from stillroom.memory import in_parts
from stillroom.models.external import declare_missing_ops
from stillroom.models.modes import eval_mode
from stillroom.models.preprocess import Preprocess
from stillroom.train.device import Processes

ECE_BINS = 15
EVALUATION_BATCH = 500


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


@torch.no_grad()
def predict(
    model: nn.Module,
    preprocess: Preprocess,
    images: Tensor | LazyImages,
    *,
    device: torch.device,
    batch_size: int = EVALUATION_BATCH,
    processes: Processes | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """The model's logits for every image, in eval mode and float32; every module's mode is put back.

    Args:
        model: the model, on ``device``.
        preprocess: what its input goes through; it also puts the logits in the data's class order.
        images: [N, C, H, W] as the data gives them.
        device: where the model is.
        batch_size: images at a time; fewer where memory runs out.
        processes: who shares the work; every one of them gets all the logits.
        on_batch: told the number of images done, after each batch.

    Returns:
        float32 [N, K] on the CPU, the same for any number of processes.
    """
    processes = processes or Processes()
    starts = range(0, len(images), batch_size)
    parts: dict[int, Tensor] = {}
    with eval_mode(model):
        # Whole batches are dealt out, so that each is computed as one process would.
        for start in starts[processes.rank :: processes.count]:
            batch = images[start : start + batch_size].to(device)
            ask = partial(_answer, model, preprocess, batch)
            parts[start] = torch.cat(in_parts(ask, len(batch)))
            if on_batch is not None:
                on_batch(min(start + batch_size * processes.count, len(images)))
    if processes.count == 1:
        return torch.cat(list(parts.values())).cpu()
    # A process may have had no batch, and so not know the number of classes.
    classes = torch.tensor(parts[0].shape[1] if processes.is_main else 0, device=device)
    logits = torch.zeros(len(images), int(processes.total(classes)), device=device)
    for start, part in parts.items():
        logits[start : start + len(part)] = part
    return processes.total(logits).cpu()


def _answer(model: nn.Module, preprocess: Preprocess, batch: Tensor, rows: slice) -> list[Tensor]:
    return [preprocess.reorder(model(preprocess(batch[rows])).float())]


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
