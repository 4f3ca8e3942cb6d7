"""Why a teacher is wrong about its images: another input, class order or batch statistics under which it is right."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from stillroom.data.images import rank_in_class
from stillroom.diagnose.chance import ALPHA, mcnemar
from stillroom.diagnose.checks.recipe.input_repair import (
    CLEAR,
    GAIN,
    assign_columns,
    has_running_statistics,
    recalibrate,
)
from stillroom.models.modes import device_of

# Gains that count as the same.
_NEAR = 0.03
# Images after which a change that has gained nothing is given up.
_FIRST = 128
# Images at a time.
_BATCH = 256
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
_MNIST = ((0.1307,), (0.3081,))

Ask = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class ErrorCause:
    """One change that would make the teacher more accurate.

    Attributes:
        check: the check that reports it.
        name: the change, in words.
        accuracy: before and after it, on the same images.
        images: how many.
        p: McNemar's p of the gain.
    """

    check: str
    name: str
    accuracy: tuple[float, float]
    images: int
    p: float

    @property
    def gain(self) -> float:
        """Share of the images that it gains."""
        return self.accuracy[1] - self.accuracy[0]


def explain_errors(
    teacher: nn.Module | None, images: Tensor | None, labels: Tensor, outputs: Tensor, ask: Ask, num_classes: int
) -> ErrorCause | None:
    """The change of input, class order or batch statistics that makes a teacher more accurate, beyond chance.

    Args:
        teacher: the model; None where only its outputs are at hand: then only another class order is tried.
        images: what it was given, [n, …] floats; None where that is no single tensor.
        labels: int64 [n].
        outputs: what it gave, [n, columns].
        ask: gives a model's outputs for images in evaluation mode, on the CPU.
        num_classes: K of the data.

    Returns:
        The change that gains most, or None where none does. Batch statistics only where no other change comes near:
        they undo whatever scale the input has.

    >>> explain_errors(None, None, torch.arange(40) % 4, torch.eye(4)[(torch.arange(40) + 1) % 4], None, 4).name
    'another order of its classes'
    """
    tried = [*_trials(teacher, images, labels, outputs, ask, num_classes)]
    allowed = ALPHA / max(len(tried), 1)
    helps = [one for one in tried if one.gain >= GAIN.warning and one.p < allowed]
    if not helps:
        return None
    most = max(one.gain for one in helps)
    first = [one for one in helps if one.check != "teacher_batch_norm" and one.gain >= most - _NEAR]
    return max(first or helps, key=lambda one: one.gain)


def _trials(
    teacher: nn.Module | None, images: Tensor | None, labels: Tensor, outputs: Tensor, ask: Ask, num_classes: int
) -> Iterator[ErrorCause]:
    correct = outputs.argmax(1) == labels
    if 1 - float(correct.double().mean()) < GAIN.warning:
        return  # nothing can gain enough to matter
    if outputs.shape[1] >= num_classes:
        yield _other_classes(labels, outputs, correct, num_classes)
    if teacher is None or images is None:
        return

    def compare(check: str, name: str, model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[ErrorCause]:
        for count in sorted({min(_FIRST, len(labels)), len(labels)}):
            try:
                logits = torch.cat([ask(model, each) for each in torch.split(change(images[:count]), _BATCH)])
            except Exception:  # a model may refuse another input, in its own words
                return
            now, before = logits.argmax(1) == labels[:count], correct[:count]
            p = mcnemar(int((now & ~before).sum()), int((before & ~now).sum()))
            shares = float(before.double().mean()), float(now.double().mean())
            found = ErrorCause(check, name, shares, count, p)
            if found.gain <= 0:
                return
        yield found

    for name, change in input_changes(images).items():
        yield from compare("teacher_input", name, teacher, change)
    if has_running_statistics(teacher):
        fresh = copy.deepcopy(teacher)
        recalibrate(fresh, images[:_BATCH].to(device_of(fresh)))
        yield from compare("teacher_batch_norm", "statistics of one batch", fresh, lambda x: x)


def _other_classes(labels: Tensor, outputs: Tensor, correct: Tensor, num_classes: int) -> ErrorCause:
    """Another order of the classes, fitted on one half of the images and judged on the other, both ways round."""
    halves = torch.from_numpy(rank_in_class(labels.numpy()) % 2 == 1)
    guess, now = outputs.argmax(1), torch.zeros(len(labels), dtype=torch.bool)
    for half in (False, True):
        fitted = assign_columns(guess[halves != half], labels[halves != half], num_classes, outputs.shape[1])
        judged = halves == half
        now[judged] = guess[judged] == fitted[labels[judged]]
    # A network that was never trained gains a little by any order that is fitted to it.
    is_clear = float(now.double().mean()) >= CLEAR
    p = mcnemar(int((now & ~correct).sum()), int((correct & ~now).sum())) if is_clear else 1.0
    shares = float(correct.double().mean()), float(now.double().mean())
    return ErrorCause("class_order", "another order of its classes", shares, len(labels), p)


def input_changes(images: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """What a teacher may have been trained on, made of what it is given.

    Args:
        images: what it is given, [n, …] floats.

    >>> list(input_changes(torch.rand(2, 1, 4, 4)))[:3]
    ['multiplied by 255', 'multiplied by 16', 'divided by 255']
    """
    low, high = float(images.min()), float(images.max())
    over = [axis for axis in range(images.dim()) if axis != 1 or images.dim() < 4]
    mean, std = images.mean(over, keepdim=True), images.std(over, keepdim=True).clamp_min(1e-6)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "multiplied by 255": lambda x: x * 255,
        "multiplied by 16": lambda x: x * 16,
        "divided by 255": lambda x: x / 255,
        "divided by 16": lambda x: x / 16,
        "normalised by the data's own mean and deviation": lambda x: (x - mean) / std,
        "moved from 0 … 1 to −1 … 1": lambda x: 2 * x - 1,
        "moved from −1 … 1 to 0 … 1": lambda x: (x + 1) / 2,
        "inverted": lambda x: low + high - x,
    }
    for name, (m, s) in (("ImageNet", _IMAGENET), ("CIFAR-10", _CIFAR), ("MNIST", _MNIST)):
        if images.dim() == 4 and images.shape[1] == len(m):
            shift, scale = (torch.tensor(each).view(1, -1, 1, 1).to(images) for each in (m, s))
            changes[f"normalised by {name}'s mean and deviation"] = partial(
                _affine, scale=1 / scale, shift=-shift / scale
            )
            changes[f"with {name}'s normalisation undone"] = partial(_affine, scale=scale, shift=shift)
    if images.dim() == 4:
        if images.shape[1] == 3:
            changes["with its channels reversed (RGB ↔ BGR)"] = lambda x: x.flip(1)
        changes["upside down"] = lambda x: x.flip(2)
        changes["mirrored"] = lambda x: x.flip(3)
        changes["rotated by 180°"] = lambda x: x.flip(2, 3)
        if images.shape[2] == images.shape[3]:
            changes["transposed"] = lambda x: x.transpose(2, 3)
    return changes


def _affine(x: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale + shift
