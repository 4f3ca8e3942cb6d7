"""One batch through the student: the only module that is wrapped, so that every parameter is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, RunFailed
from stillroom.models.preprocess import Preprocess
from stillroom.objectives.base import Lesson, Objective
from stillroom.teacher.knowledge import Knowledge


class DistillStep(nn.Module):
    """Student, connectors and objectives: a batch and the teacher's Knowledge in, the losses out.

    Args:
        student: the model that learns.
        objectives: the terms of the loss.
        preprocess: what the student's own input goes through.
    """

    def __init__(
        self,
        student: nn.Module,
        objectives: Sequence[Objective[Any]],
        preprocess: Preprocess,
    ) -> None:
        super().__init__()
        self.student = student
        self.objectives = nn.ModuleList(objectives)
        self.preprocess = preprocess
        self._terms = list(objectives)

    @property
    def names(self) -> list[str]:
        """The terms' names, in order."""
        return [term.name for term in self._terms]

    @property
    def reads_teacher(self) -> bool:
        """Whether any term needs the teacher's answer."""
        return any(term.reads.teacher for term in self._terms)

    def check_accumulation(self, accumulate: int) -> None:
        """Refuse micro-batches where a term is no mean over samples.

        Raises:
            BadInput: naming the term.
        """
        whole = [term.name for term in self._terms if not term.per_sample]
        if accumulate > 1 and whole:
            raise BadInput("training.accumulate", accumulate, f"1: {whole[0]} compares the samples of a whole batch")

    def forward(
        self, images: Tensor, labels: Tensor, index: Tensor, teacher: Knowledge | None, progress: float
    ) -> tuple[Tensor, list[Tensor]]:
        """The weighted loss, and each term's own value.

        Args:
            images: [B, C, H, W] as the data gives them.
            labels: int64 [B].
            index: the samples' indices in the training set, int64 [B].
            teacher: the teacher's answer, or None where no term reads it.
            progress: fraction of the training done, in [0, 1).

        Returns:
            The scalar Σ weight·term, and the terms in order, before their weights.
        """
        logits = self.preprocess.reorder(self.student(self.preprocess(images)))
        lesson = Lesson(Knowledge(logits), teacher, labels, index, progress)
        values: list[Tensor] = [term(lesson) for term in self._terms]
        total = logits.new_zeros((), dtype=values[0].dtype)
        for term, value in zip(self._terms, values, strict=True):
            total = total + term.config.weight_at(progress) * value
        return total, values


def check_not_silent(step: DistillStep, values: Sequence[Tensor]) -> None:
    """Stop a run one of whose terms teaches nothing: every term must give the student a gradient at the first step.

    Raises:
        RunFailed: naming the term.
    """
    parameters = [p for p in step.student.parameters() if p.requires_grad]
    if not parameters:
        raise RunFailed("the student has no trainable parameter")
    for name, value in zip(step.names, values, strict=True):
        gradients = (
            torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) if value.requires_grad else ()
        )
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise RunFailed(
                f"objective {name!r} gives the student no gradient at the first step (its value is "
                f"{value.item():.6g}): it would silently do nothing. "
                "Does the student equal the teacher, or is its answer detached?"
            )
