"""Exemplars: the few training images of old classes that are kept, the same number of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.randomness import permutation

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Memory:
    """The exemplars of each class seen, the best first, so that a smaller memory is the beginning of a larger one.

    Attributes:
        rows: of each class, in the order in which classes came, places in the training split.
    """

    rows: tuple[tuple[int, ...], ...] = ()

    @property
    def count(self) -> int:
        """How many exemplars there are in all."""
        return sum(map(len, self.rows))

    def reduced(self, each: int) -> Memory:
        """The first ``each`` of every class.

        >>> Memory(((4, 2, 9), (7,))).reduced(2)
        Memory(rows=((4, 2), (7,)))
        """
        return Memory(tuple(rows[:each] for rows in self.rows))

    def all_rows(self) -> Rows:
        """The places of all exemplars, class by class: int64 [count]."""
        return np.array([row for rows in self.rows for row in rows], dtype=np.int64)


def quota(memory: int, classes: int) -> int:
    """How many exemplars of each class a memory holds: ⌊M / classes seen⌋.

    >>> quota(200, 6)
    33
    """
    return memory // classes


def enlarged(memory: Memory, new: Sequence[Rows], each: int, choose: Callable[[int, Rows, int], Rows]) -> Memory:
    """The memory after a task: old classes keep their first exemplars, new ones get theirs.

    Args:
        memory: before.
        new: of each new class, the places of its training images.
        each: exemplars a class, see :func:`quota`; a class of fewer images keeps all.
        choose: given the number of a class in the order of classes, its images' places, and how many are wanted, those
            to keep, the best first.
    """
    first = len(memory.rows)
    added = (choose(first + place, rows, min(each, len(rows))) for place, rows in enumerate(new))
    return Memory((*memory.reduced(each).rows, *(tuple(rows.tolist()) for rows in added)))


def herded(features: Tensor, count: int) -> Tensor:
    """The images whose mean stays nearest to the mean of all, picked one after another.

    Formula: the j-th is ``argmin_x ‖μ − (φ(x) + Σ_{i<j} φ(x_i)) / j‖`` over the images not yet picked, φ features of
    length 1, μ their mean; of equals the first.

    Args:
        features: penultimate features of one class, [n, d].
        count: how many are wanted, at most n.

    Returns:
        int64 [count], in the order in which they were picked.

    Raises:
        ValueError: features of another shape, or fewer than are wanted.

    Paper: Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, arXiv 1611.07725.

    >>> herded(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), 2).tolist()
    [1, 0]
    """
    if features.dim() != 2 or not 0 <= count <= len(features):
        raise ValueError(f"got features {tuple(features.shape)} to pick {count} of; expected [n, d], n of as many")
    unit = normalised(features)
    mean = unit.mean(0)
    free = torch.ones(len(unit), dtype=torch.bool)
    picked = torch.empty(count, dtype=torch.int64)
    # With ‖φ‖ = 1 the nearest mean is the largest product with what is still missing of j·μ.
    missing = mean.clone()
    for place in range(count):
        fit = torch.where(free, unit @ missing, torch.tensor(-torch.inf, dtype=unit.dtype))
        chosen = int(fit.argmax())
        picked[place], free[chosen] = chosen, False
        missing += mean - unit[chosen]
    return picked


def drawn(size: int, count: int, seed: int, number: int) -> Rows:
    """A random choice among the images of a class, a pure function of (seed, the class's number): int64 [count].

    A smaller choice is the beginning of a larger one.

    Args:
        size: number of images.
        count: how many are wanted.
        seed: the run's.
        number: the class's, in the order of classes.
    """
    return permutation(size, seed, "exemplars", number)[:count]


def nearest_mean_scores(features: Tensor, exemplars: Sequence[Tensor]) -> Tensor:
    """How near images are to the mean of each class's exemplars; the nearest class is the answer.

    Formula: ``s_c = −‖φ(x) − μ_c‖²``, φ features of length 1, μ_c the mean of the exemplars' φ, of length 1 again.

    Args:
        features: of the images, [N, d].
        exemplars: of each class, features of its exemplars, [n, d].

    Returns:
        float32 [N, K], 0 or below.

    Paper: Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, arXiv 1611.07725.

    >>> right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> nearest_mean_scores(2 * right, [right, up]).tolist()
    [[0.0, -2.0]]
    """
    means = torch.stack([normalised(normalised(each).mean(0, keepdim=True))[0] for each in exemplars])
    # 2 − 2φ·μ, as both have length 1; rounding must not make a distance negative.
    scores: Tensor = (2 * normalised(features) @ means.T - 2).clamp_max(0).float()
    return scores


def normalised(features: Tensor) -> Tensor:
    """Features of length 1, float64 [n, d]; a feature of nothing but zeros stays as it is."""
    wide = features.double()
    unit: Tensor = wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit
