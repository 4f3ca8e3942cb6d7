"""Changes that may make a teacher more accurate: of its input, the order of its classes, its batch statistics.

The checks of a recipe, of a set-up and of a training loop try them alike; each makes its own changed teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn

from stillroom.data.images import rank_in_class
from stillroom.diagnose.chance import ALPHA, mcnemar
from stillroom.diagnose.check import Limits
from stillroom.models.modes import eval_mode
from stillroom.models.running_statistics import recompute_statistics, running_norms

GAIN = Limits(
    warning=0.02,
    problem=0.05,
    why="share of all images that a change must gain; normalisations as near as those of ImageNet and of CIFAR move a "
    "correctly set up teacher by less than a point",
)
# Share of the images of reassigned classes that must then be classified correctly: what is left by chance where a
# broken teacher gives one class for nearly all images is far less.
CLEAR = 0.4
# Images at a time: few enough for the caches of a small machine, many enough for batch statistics.
BATCH = 256
# Images after which a change that has gained nothing is given up.
_FIRST = 128
# Gains that count as the same.
_NEAR = 0.03
# Mean and standard deviation of pixels/255.
_STATISTICS = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "MNIST": ((0.1307,), (0.3081,)),
}


T = TypeVar("T", bound="Trial")


@dataclass(frozen=True)
class Trial:
    """A change of a teacher, compared with the teacher before it on the same images."""

    kind: str  # what was changed, or the check that reports it
    name: str  # to what, such as ``half``
    images: int = 0  # how many images it was tried on
    correct: int = 0  # of these, classified correctly after the change
    before: int = 0  # of these, classified correctly before it
    p: float = 1.0  # McNemar's p of the gain

    @property
    def gain(self) -> float:
        """The share of images that it gains."""
        return (self.correct - self.before) / self.images if self.images else 0.0

    @property
    def accuracy(self) -> tuple[float, float]:
        """Accuracy before and after the change, on the same images."""
        return self.before / self.images, self.correct / self.images


def paired_p(now: Tensor, before: Tensor) -> float:
    """McNemar's p that as many more images as these are classified correctly by chance: bool [n] each."""
    return mcnemar(int((now & ~before).sum()), int((before & ~now).sum()))


def compare(before: Tensor, is_correct: Callable[[int], Tensor]) -> tuple[int, int, int, float]:
    """A trial's counts ``images, correct, before, p``: of a few images first, of all where the change gains by these.

    Args:
        before: which images are classified correctly without the change, bool [n].
        is_correct: which of the first so many are with it.
    """
    most = len(before)
    for count in sorted({min(_FIRST, most), most}):
        now, first = is_correct(count), before[:count]
        counts = count, int(now.sum()), int(first.sum()), paired_p(now, first)
        if counts[1] <= counts[2]:
            break
    return counts


def helpful(trials: Sequence[T], tried: int) -> list[T]:
    """The changes that gain enough, beyond chance: of several, one is the best by chance alone."""
    return [each for each in trials if each.gain >= GAIN.warning and each.p < ALPHA / max(tried, 1)]


def largest_gain(helps: Sequence[T]) -> T:
    """The change that gains most; batch statistics only where no other change comes near.

    Batch statistics undo whatever scale the input has, and so a wrong normalisation, too.
    """
    most = max(each.gain for each in helps)
    inputs = [each for each in helps if not each.kind.endswith("batch_norm") and each.gain >= most - _NEAR]
    return max(inputs or helps, key=lambda each: each.gain)


def halves_of(labels: Tensor) -> Tensor:
    """Which of two halves each image is in, both spread over the classes: bool [n]."""
    return torch.from_numpy(rank_in_class(labels.numpy()) % 2 == 1)


def correct_in_other_order(
    guess: Tensor, labels: Tensor, num_classes: int, num_logits: int, order: Tensor | None = None
) -> Tensor:
    """Images classified correctly in the best class order, fitted on one half and judged on the other: bool [n]."""
    halves, now = halves_of(labels), torch.zeros(len(labels), dtype=torch.bool)
    for half in (False, True):
        judged = halves == half
        fitted = assign_columns(guess[~judged], labels[~judged], num_classes, num_logits, order)
        now[judged] = guess[judged] == fitted[labels[judged]]
    return now


def assign_columns(
    guess: Tensor, labels: Tensor, num_classes: int, num_logits: int, order: Tensor | None = None
) -> Tensor:
    """For each class a column of its own, so that as many images as possible are classified correctly: int64 [K]."""
    counts = torch.bincount(labels * num_logits + guess, minlength=num_classes * num_logits)
    counts = counts.view(num_classes, num_logits).double()
    now = torch.arange(num_classes) if order is None else order
    if len(now):
        # Of equals, the present order stays.
        counts[torch.arange(num_classes), now] += 0.5
    return assign_columns_by(counts)


def assign_columns_by(worth: Tensor) -> Tensor:
    """For each row of [R, C], R ≤ C, a column of its own, so that the worths sum to the most: int64 [R]."""
    # Slow to import, and needed here alone.
    from scipy.optimize import linear_sum_assignment

    _, chosen = linear_sum_assignment(worth.numpy(), maximize=True)
    return torch.from_numpy(chosen)


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
    # x as pixels/255.
    low_, range_ = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high - low, 1e-6))
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "multiplied by 255": lambda x: x * 255,
        "multiplied by 16": lambda x: x * 16,
        "divided by 255": lambda x: x / 255,
        "divided by 16": lambda x: x / 16,
        "normalised by the data's own mean and deviation": lambda x: (x - mean) / std,
        "scaled to −1 … 1": lambda x: 2 * (x - low_) / range_ - 1,
        "scaled to 0 … 1": lambda x: (x - low_) / range_,
        "inverted": lambda x: low + high - x,
    }
    if (low_, range_) == (0.0, 1.0):
        del changes["scaled to 0 … 1"]
    for name, (m, s) in _STATISTICS.items():
        if images.dim() == 4 and images.shape[1] == len(m):
            shift, scale = (torch.tensor(each).view(1, -1, 1, 1).to(images) for each in (m, s))
            changes[f"normalised by {name}'s mean and deviation"] = partial(
                _affine, scale=1 / (range_ * scale), shift=-(low_ / range_ + shift) / scale
            )
            changes[f"denormalised by {name}'s mean and deviation"] = partial(_affine, scale=scale, shift=shift)
    if images.dim() == 4:
        if images.shape[1] == 3:
            changes["reversed in its channels (RGB ↔ BGR)"] = lambda x: x.flip(1)
        changes["upside down"] = lambda x: x.flip(2)
        changes["mirrored"] = lambda x: x.flip(3)
        changes["rotated by 180°"] = lambda x: x.flip(2, 3)
        if images.shape[2] == images.shape[3]:
            changes["transposed"] = lambda x: x.transpose(2, 3)
    return changes


def _affine(x: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale + shift


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a model normalises by running statistics.

    >>> has_running_statistics(nn.BatchNorm2d(3)), has_running_statistics(nn.LayerNorm(3))
    (True, False)
    """
    return bool(running_norms(model))


@torch.no_grad()
def statistics_misfit(model: nn.Module, inputs: Tensor) -> float:
    """How far a model's running statistics are from those of a batch of its input.

    Formula: the mean over channels of ``|μ − m|/s + |log(σ²/s²)|/2``, the median over layers; μ and σ² are the running
    mean and variance, m and s² those of the batch.

    >>> norm = nn.BatchNorm1d(1).eval()
    >>> statistics_misfit(norm, torch.tensor([[1.0], [3.0]])) > 1
    True
    >>> recalibrate(norm, torch.tensor([[1.0], [3.0]]))
    >>> statistics_misfit(norm, torch.tensor([[1.0], [3.0]]))
    0.0
    """
    found: list[float] = []

    def measure(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(norm.running_mean, Tensor)
        assert isinstance(norm.running_var, Tensor)
        x = args[0].double()
        over = [axis for axis in range(x.dim()) if axis != 1]
        var = x.var(over).clamp_min(1e-12)
        shift = (norm.running_mean.double() - x.mean(over)).abs() / var.sqrt()
        found.append(float((shift + (norm.running_var.double().clamp_min(1e-12) / var).log().abs() / 2).mean()))

    handles = [norm.register_forward_pre_hook(measure) for norm in running_norms(model).values()]
    try:
        with eval_mode(model):
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return median(found) if found else 0.0


def recalibrate(model: nn.Module, inputs: Tensor) -> None:
    """Recompute a model's running statistics from one batch of its input; nothing else of it changes.

    >>> norm = nn.BatchNorm1d(1)
    >>> recalibrate(norm, torch.tensor([[1.0], [3.0]]))
    >>> norm.running_mean.item(), norm.running_var.item()
    (2.0, 2.0)
    """
    recompute_statistics(model, running_norms(model), [inputs])
