"""Why a teacher is wrong about its images: another input, class order or batch statistics under which it is right."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from stillroom.diagnose.checks.teacher_changes import (
    BATCH,
    CLEAR,
    GAIN,
    Trial,
    compare,
    correct_in_other_order,
    has_running_statistics,
    helpful,
    input_changes,
    largest_gain,
    paired_p,
    recalibrate,
)
from stillroom.models.modes import device_of

Ask = Callable[[nn.Module, Tensor], Tensor]


def explain_errors(
    teacher: nn.Module | None, images: Tensor | None, labels: Tensor, outputs: Tensor, ask: Ask, num_classes: int
) -> Trial | None:
    """The change of input, class order or batch statistics that makes a teacher more accurate, beyond chance.

    Args:
        teacher: the model; None where only its outputs are at hand: then only another class order is tried.
        images: what it was given, [n, …] floats; None where that is no single tensor.
        labels: int64 [n].
        outputs: what it gave, [n, columns].
        ask: gives a model's outputs for images in evaluation mode, on the CPU.
        num_classes: K of the data.

    Returns:
        The change that gains most, its kind the check that reports it; None where none does.

    >>> explain_errors(None, None, torch.arange(40) % 4, torch.eye(4)[(torch.arange(40) + 1) % 4], None, 4).name
    'another order of its classes'
    """
    tried = [*_trials(teacher, images, labels, outputs, ask, num_classes)]
    helps = helpful(tried, len(tried))
    return largest_gain(helps) if helps else None


def _trials(
    teacher: nn.Module | None, images: Tensor | None, labels: Tensor, outputs: Tensor, ask: Ask, num_classes: int
) -> Iterator[Trial]:
    guess = outputs.argmax(1)
    correct = guess == labels
    if 1 - float(correct.double().mean()) < GAIN.warning:
        return  # nothing can gain enough to matter
    if outputs.shape[1] >= num_classes:
        now = correct_in_other_order(guess, labels, num_classes, outputs.shape[1])
        # A network that was never trained gains a little by any order that is fitted to it.
        p = paired_p(now, correct) if float(now.double().mean()) >= CLEAR else 1.0
        counts = len(labels), int(now.sum()), int(correct.sum()), p
        yield Trial("class_order", "another order of its classes", *counts)
    if teacher is None or images is None:
        return

    def attempt(check: str, name: str, model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[Trial]:
        def is_correct(count: int) -> Tensor:
            logits = torch.cat([ask(model, each) for each in torch.split(change(images[:count]), BATCH)])
            return logits.argmax(1) == labels[:count]

        try:
            trial = Trial(check, name, *compare(correct, is_correct))
        except Exception:  # a model may refuse another input, in its own words
            return
        if trial.gain > 0:
            yield trial

    for name, change in input_changes(images).items():
        yield from attempt("teacher_input", name, teacher, change)
    if has_running_statistics(teacher):
        fresh = copy.deepcopy(teacher)
        recalibrate(fresh, images[:BATCH].to(device_of(fresh)))
        yield from attempt("teacher_batch_norm", "statistics of one batch", fresh, lambda x: x)
