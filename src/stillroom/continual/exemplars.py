"""Exemplars: the few training images of old classes that are kept, how they are chosen, and the nearest-mean answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.images import Images
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.prepared import EVALUATION_BATCH, PreparedModel
from stillroom.models.reader import FEATURES, TapReader
from stillroom.randomness import permutation

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExemplarMemory:
    """The exemplars of each class seen, the best first, so that a smaller memory is the beginning of a larger one."""

    rows: tuple[tuple[int, ...], ...] = ()  # of each class, in the order of classes, indices into the training split

    @property
    def count(self) -> int:
        """Number of exemplars in all."""
        return sum(map(len, self.rows))

    def truncate(self, per_class: int) -> ExemplarMemory:
        """The first ``per_class`` of every class.

        >>> ExemplarMemory(((4, 2, 9), (7,))).truncate(2)
        ExemplarMemory(rows=((4, 2), (7,)))
        """
        return ExemplarMemory(tuple(rows[:per_class] for rows in self.rows))

    def all_rows(self) -> Rows:
        """The indices of all exemplars, class by class: int64 [count]."""
        return np.array([row for rows in self.rows for row in rows], dtype=np.int64)


def update_memory(
    memory: ExemplarMemory, new: Sequence[Rows], per_class: int, choose: Callable[[int, Rows, int], Rows]
) -> ExemplarMemory:
    """The memory after a task: old classes keep their first exemplars, new classes get theirs.

    Args:
        per_class: exemplars of a class; a class with fewer images keeps all.
        choose: given the position of a class in the order of classes, the indices of its images and the number wanted,
            returns those to keep, the best first.
    """
    first = len(memory.rows)
    added = (choose(first + place, rows, min(per_class, len(rows))) for place, rows in enumerate(new))
    return ExemplarMemory((*memory.truncate(per_class).rows, *(tuple(rows.tolist()) for rows in added)))


def herd(features: Tensor, count: int) -> Tensor:
    """Herding: pick images one after another so that their mean stays nearest to the mean of all.

    Formula: the j-th is ``argmin_x ‖μ − (φ(x) + Σ_{i<j} φ(x_i)) / j‖`` over the images not yet picked, φ features of
    length 1, μ their mean; of equals the first.

    Args:
        features: penultimate features of one class, [n, d].

    Returns:
        int64 [count], in the order in which they were picked.

    Paper: Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, arXiv 1611.07725.

    >>> herd(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), 2).tolist()
    [1, 0]
    """
    if features.dim() != 2 or not 0 <= count <= len(features):
        raise ValueError(f"got features {tuple(features.shape)} to pick {count} of; expected [n, d], n of as many")
    unit = _unit_length(features)
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


def draw_exemplars(size: int, count: int, seed: int, position: int) -> Rows:
    """A random choice among the images of a class, a pure function of (seed, class position): int64 [count].

    A smaller choice is the beginning of a larger one.
    """
    return permutation(size, seed, "exemplars", position)[:count]


def nearest_mean_scores(features: Tensor, exemplars: Sequence[Tensor]) -> Tensor:
    """Closeness of images to the mean of each class's exemplars; the nearest class is the answer.

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
    means = torch.stack([_unit_length(_unit_length(each).mean(0, keepdim=True))[0] for each in exemplars])
    # 2 − 2φ·μ, as both have length 1; rounding must not make a distance negative.
    scores: Tensor = (2 * _unit_length(features) @ means.T - 2).clamp_max(0).float()
    return scores


@torch.no_grad()
def penultimate_features(student: PreparedModel, images: Images) -> Tensor:
    """The input of the logit layer for images as they are: float32 [N, d] on the CPU."""
    device = device_of(student.model)
    preprocess = student.preprocess().to(device)
    taps = TapReader(student.model, [FEATURES], field="student")
    found = []
    with eval_mode(student.model):
        for start in range(0, len(images), EVALUATION_BATCH):
            with taps:
                student.model(preprocess(images[start : start + EVALUATION_BATCH].to(device)))
            found.append(taps.take()[FEATURES].flatten(1).float().cpu())
    return torch.cat(found)


def _unit_length(features: Tensor) -> Tensor:
    """Features of length 1, float64 [n, d]; an all-zero feature stays zero."""
    wide = features.double()
    unit: Tensor = wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit
