"""One batch through the student: the only module that is wrapped, so that every parameter is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, RunFailed
from stillroom.losses.base import Loss, LossInputs
from stillroom.models.preprocess import Preprocess
from stillroom.models.reader import TapReader
from stillroom.runtime import Processes
from stillroom.teachers.knowledge import ModelOutput

_ORDINALS = ("first", "second")


class DistillStep(nn.Module):
    """Student, connectors and losses: a batch and the teacher's Knowledge in, the losses out.

    Args:
        student: the model that learns.
        losses: the terms of the loss.
        preprocess: what the student's own input goes through.
        processes: who else works on the batch; terms that compare samples see the others' too.
        watch: shown each inputs, of this process's part of the batch.
        known: how many classes the teacher knows, the first ones: terms that read it see the student's logits of no
            others; None for all.
    """

    def __init__(
        self,
        student: nn.Module,
        losses: Sequence[Loss[Any]],
        preprocess: Preprocess,
        processes: Processes | None = None,
        watch: Callable[[LossInputs], None] | None = None,
        known: int | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.losses = nn.ModuleList(losses)
        self.preprocess = preprocess
        self._terms = list(losses)
        self._processes = processes or Processes()
        self._watch = watch
        self._known = known
        self._taps = TapReader(
            student, (tap for term in losses for tap in term.requires.student_features), field="student"
        )
        self._answer: Callable[[Tensor], Tensor] = self._run_student

    @property
    def names(self) -> list[str]:
        """The terms' names, in order."""
        return [term.name for term in self._terms]

    @property
    def reads_teacher(self) -> bool:
        """Whether any term needs the teacher's answer."""
        return any(term.requires.teacher for term in self._terms)

    @property
    def looked_at(self) -> list[int]:
        """For each term, how many steps are done when it must give a gradient; see :func:`check_not_silent`."""
        return [int(self._known is not None and term.requires.teacher) for term in self._terms]

    @property
    def whole_batch_terms(self) -> list[str]:
        """Names of the terms that compare the samples of a batch: they cannot be had from parts of it."""
        return [term.name for term in self._terms if not term.per_sample]

    def compile_student(self) -> None:
        """Run the student through ``torch.compile``; its parameters and their names stay what they are.

        The losses stay outside: their weights change with every step, and each change would compile anew.
        """
        self._answer = torch.compile(self._run_student, dynamic=False)

    def check_compilable(self) -> None:
        """Refuse to compile under taps: a layer that works in place would spoil what they read, unnoticed.

        Raises:
            BadInput: a term reads the student's features.
        """
        if self._taps.names:
            expected = f"false: a loss reads the student's features at {self._taps.names[0]!r}"
            raise BadInput("training.compile", True, expected)

    def check_accumulation(self, accumulate: int) -> None:
        """Refuse micro-batches where a term is no mean over samples.

        Raises:
            BadInput: naming the term.
        """
        whole = self.whole_batch_terms
        if accumulate > 1 and whole:
            raise BadInput("training.accumulate", accumulate, f"1: {whole[0]} compares the samples of a whole batch")

    def forward(
        self, images: Tensor, labels: Tensor, index: Tensor, teacher: ModelOutput | None, progress: float
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
        with self._taps:
            logits = self._answer(images)
        inputs = LossInputs(ModelOutput(logits, self._taps.take()), teacher, labels, index, progress)
        if self._watch is not None:
            self._watch(inputs)
        everyone = self._gathered(inputs) if self._processes.count > 1 and self.whole_batch_terms else inputs
        seen = {per_sample: (each, self._old(each)) for per_sample, each in ((True, inputs), (False, everyone))}
        values: list[Tensor] = [term(seen[term.per_sample][term.requires.teacher]) for term in self._terms]
        total = logits.new_zeros((), dtype=values[0].dtype)
        for term, value in zip(self._terms, values, strict=True):
            total = total + term.config.weight_at(progress) * value
        return total, values

    def _run_student(self, images: Tensor) -> Tensor:
        return self.preprocess.reorder(self.student(self.preprocess(images)))

    def _old(self, inputs: LossInputs) -> LossInputs:
        """The inputs as those see it who read the teacher: of the classes that it knows."""
        if self._known is None:
            return inputs
        return replace(inputs, student=replace(inputs.student, logits=inputs.student.logits[:, : self._known]))

    def _gathered(self, inputs: LossInputs) -> LossInputs:
        """The inputs of the whole batch, of which each process has a part."""
        gather = self._processes.gather

        def all_of(knowledge: ModelOutput) -> ModelOutput:
            features = {tap: gather(feature) for tap, feature in knowledge.features.items()}
            fishers = {of: gather(weight) for of, weight in knowledge.fishers.items()}
            return replace(knowledge, logits=gather(knowledge.logits), features=features, fishers=fishers)

        return replace(
            inputs,
            student=all_of(inputs.student),
            teacher=all_of(inputs.teacher) if inputs.teacher is not None else None,
            labels=gather(inputs.labels),
            index=gather(inputs.index),
        )


def is_compile_error(error: Exception) -> bool:
    """Whether ``torch.compile`` gave up: on the student's code, or for want of a compiler."""
    # Imported with the first compilation, and slow to.
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def check_not_silent(step: DistillStep, values: Sequence[Tensor], done: int = 0) -> None:
    """Stop a run one of whose terms teaches nothing: every term must give the student a gradient at the first step.

    A student that begins as its teacher, which knows some of the classes, has nothing to keep yet: terms that read it
    are looked at one step later.

    Args:
        step: student and terms.
        values: the terms' values.
        done: how many steps were done before: 0 or 1.

    Raises:
        RunFailed: naming the term.
    """
    parameters = [p for p in step.student.parameters() if p.requires_grad]
    if not parameters:
        raise RunFailed("the student has no trainable parameter")
    for name, value, at in zip(step.names, values, step.looked_at, strict=True):
        if at != done:
            continue
        gradients = (
            torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) if value.requires_grad else ()
        )
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise RunFailed(
                f"loss {name!r} gives the student no gradient at the {_ORDINALS[done]} step (its value is "
                f"{value.item():.6g}): it would silently do nothing. "
                "Does the student equal the teacher, or is its answer detached?"
            )
