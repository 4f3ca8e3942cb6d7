"""What an accuracy matrix tells: how good after each task, how much is forgotten, how far below all data at once.

The matrix a_{k,j} is the accuracy on the classes of task j after task k, in per cent, j ≤ k: a list of rows, row k of
k numbers. Tasks count alike in every mean, also where one has a class more than another; what is pooled over images is
called so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = Sequence[Sequence[float]]
Labels = npt.NDArray[np.int64]


def accuracy_row(labels: Labels, answers: Labels, task_of: Labels, tasks: int) -> list[float]:
    """The accuracy on the classes of each task: one row of the matrix.

    Formula: ``a_j = 100 · #{right answers among images of task j} / #{images of task j}``.

    Args:
        labels: the true classes, [N].
        answers: the classes answered, over all classes seen, [N].
        task_of: the task of each class, from 0, [K].
        tasks: k, how many tasks there were.

    Returns:
        k numbers, in per cent.

    Raises:
        ValueError: a task has no image.

    >>> accuracy_row(np.array([0, 1, 2, 2]), np.array([0, 0, 2, 2]), np.array([0, 0, 1]), 2)
    [50.0, 100.0]
    """
    groups = task_of[labels]
    counts = np.bincount(groups, minlength=tasks)
    if len(counts) != tasks or not counts.all():
        raise ValueError(f"got images of tasks {sorted(set(groups.tolist()))}; expected some of each of {tasks}")
    right = np.bincount(groups[labels == answers], minlength=tasks)
    return [float(100.0 * one / count) for one, count in zip(right.tolist(), counts.tolist(), strict=True)]


def after_each(matrix: Matrix) -> list[float]:
    """The mean accuracy over the tasks so far, after each task.

    Formula: ``A_k = mean_{j≤k} a_{k,j}``.

    Args:
        matrix: a, rows of 1 … N numbers, in per cent.

    Returns:
        A_1 … A_N.

    Raises:
        ValueError: the rows are not of 1, 2, … finite numbers.

    >>> after_each([[90.0], [40.0, 80.0]])
    [90.0, 60.0]
    """
    _check(matrix)
    return [math.fsum(row) / len(row) for row in matrix]


def average_incremental(matrix: Matrix, *, first: int = 1) -> float:
    """The mean of the accuracies after each task.

    Formula: ``(1/N) Σ_k A_k``; the first task, which nothing came before, counts unless ``first`` is 2.

    Args:
        matrix: a, rows of 1 … N numbers, in per cent.
        first: the first k that counts.

    Raises:
        ValueError: the rows are not of 1, 2, … finite numbers, or none is left.

    >>> average_incremental([[90.0], [40.0, 80.0]]), average_incremental([[90.0], [40.0, 80.0]], first=2)
    (75.0, 60.0)
    """
    counted = after_each(matrix)[first - 1 :]
    if not counted:
        raise ValueError(f"got {len(matrix)} tasks; expected at least {first}")
    return math.fsum(counted) / len(counted)


def final_accuracy(matrix: Matrix) -> float:
    """The mean accuracy over all tasks after the last: A_N.

    Raises:
        ValueError: the rows are not of 1, 2, … finite numbers.
    """
    return after_each(matrix)[-1]


def forgetting(matrix: Matrix) -> float | None:
    """How much of its best accuracy each old task has lost in the end, the mean over them; below 0, old tasks gained.

    Formula: ``(1/(N−1)) Σ_{j<N} (max_{j≤k<N} a_{k,j} − a_{N,j})``.

    Args:
        matrix: a, rows of 1 … N numbers, in per cent.

    Returns:
        In points; None with one task, of which nothing can be forgotten.

    Raises:
        ValueError: the rows are not of 1, 2, … finite numbers.

    Paper: Chaudhry et al., Riemannian Walk for Incremental Learning, arXiv 1801.10112.

    >>> forgetting([[90.0], [40.0, 80.0], [50.0, 20.0, 70.0]])
    50.0
    """
    _check(matrix)
    count = len(matrix)
    lost = [max(matrix[k][j] for k in range(j, count - 1)) - matrix[-1][j] for j in range(count - 1)]
    return math.fsum(lost) / len(lost) if lost else None


def offline_normalised(accuracies: Sequence[float], offline: Sequence[float]) -> float | None:
    """How near a learner stays to one that has all data at once: 1 is as good.

    Formula: ``Ω = (1/N) Σ_k A_k / A_k^offline``.

    Args:
        accuracies: A_1 … A_N.
        offline: the like of joint training.

    Returns:
        Ω; None where an offline accuracy is 0, which nothing can be told by.

    Raises:
        ValueError: not as many of both, or none.

    Paper: Hayes et al., New Metrics and Experimental Paradigms for Continual Learning, CVPR Workshops 2018.

    >>> offline_normalised([90.0, 45.0], [90.0, 90.0])
    0.75
    """
    if not accuracies or len(accuracies) != len(offline):
        raise ValueError(f"got {len(accuracies)} and {len(offline)} accuracies; expected as many, and at least one")
    if any(ceiling <= 0 for ceiling in offline):
        return None
    return math.fsum(a / b for a, b in zip(accuracies, offline, strict=True)) / len(offline)


@dataclass(frozen=True)
class Balance:
    """Whether a student after a task still sees old classes beside the newest, all in per cent of test images.

    Attributes:
        old: accuracy on the classes of earlier tasks; None in the first task.
        new: accuracy on the classes of the newest task.
        answered_new: share of all answers that fall on classes of the newest task.
        are_new: share of all images that are of it: what an unbiased student would answer.
    """

    old: float | None
    new: float
    answered_new: float
    are_new: float


def balance(labels: Labels, answers: Labels, first_new: int) -> Balance:
    """Old classes against new ones.

    Args:
        labels: the true classes, [N]; those of the newest task are ``first_new`` and above.
        answers: the classes answered, [N].
        first_new: how many old classes there are.

    Raises:
        ValueError: there is no image of the newest task, or none of the old ones.

    >>> balance(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 1)
    Balance(old=50.0, new=100.0, answered_new=75.0, are_new=50.0)
    """
    new, right = labels >= first_new, labels == answers
    if not new.any() or (first_new and new.all()):
        raise ValueError("expected images of the newest task, and of the old ones where there are any")
    return Balance(
        old=_percent(right[~new]) if first_new else None,
        new=_percent(right[new]),
        answered_new=_percent(answers >= first_new),
        are_new=_percent(new),
    )


def _percent(flags: npt.NDArray[np.bool_]) -> float:
    return 100.0 * int(flags.sum()) / len(flags)


def _check(matrix: Matrix) -> None:
    lengths = [len(row) for row in matrix]
    if not lengths or lengths != [*range(1, len(lengths) + 1)]:
        raise ValueError(f"matrix: got rows of {lengths} numbers; expected 1, 2, …, one for each task so far")
    if not all(math.isfinite(value) for row in matrix for value in row):
        raise ValueError("matrix: expected finite numbers")
