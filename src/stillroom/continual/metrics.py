"""Metrics of class-incremental learning: accuracy matrix, averages, forgetting, Ω, and their means over seeds.

The matrix a_{k,j} is the accuracy on the classes of task j after task k, in per cent, j ≤ k: a list of rows, row k of
k numbers. Tasks have equal weight in every mean, even where one has a class more; a mean over images is called pooled.
Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from stillroom.schema.continual import (
    IncrementalMetrics,
    IncrementalRecord,
    MeanInterval,
    MethodTasks,
    TaskBalance,
    TaskMeans,
)

Matrix = Sequence[Sequence[float]]
Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating[npt.NBitBase]]


def accuracy_row(labels: Labels, answers: Labels, task_of: Labels, tasks: int) -> list[float]:
    """The accuracy on the classes of each task: one row of the matrix.

    Formula: ``a_j = 100 · #{right answers among images of task j} / #{images of task j}``.

    Args:
        labels: the true classes, [N].
        answers: the predicted classes, among all classes seen, [N].
        task_of: the task of each class, from 0, [K].

    >>> accuracy_row(np.array([0, 1, 2, 2]), np.array([0, 0, 2, 2]), np.array([0, 0, 1]), 2)
    [50.0, 100.0]
    """
    groups = task_of[labels]
    counts = np.bincount(groups, minlength=tasks)
    if len(counts) != tasks or not counts.all():
        raise ValueError(f"got images of tasks {sorted(set(groups.tolist()))}; expected some of each of {tasks}")
    right = np.bincount(groups[labels == answers], minlength=tasks)
    return [float(100.0 * one / count) for one, count in zip(right.tolist(), counts.tolist(), strict=True)]


def answers_within(scores: Scores, labels: Labels, group_of: Labels) -> Labels:
    """What would be answered if only classes of the image's own group were possible: int64 [N].

    With a group for each task this is the task-local answer (also called task-aware), which shows what a student still
    knows of an old task even where all its answers fall on newer classes.

    Args:
        scores: the larger, the likelier, [N, K].
        labels: the true classes, [N].
        group_of: the group of each class, [K]; of classes still to come it may hold more.

    >>> answers_within(np.array([[2.0, 1.0, 9.0]]), np.array([1]), np.array([0, 0, 1])).tolist()
    [0]
    """
    possible = group_of[None, : scores.shape[1]] == group_of[labels][:, None]
    answers: Labels = np.where(possible, scores, -np.inf).argmax(1)
    return answers


def accuracy_after_each_task(matrix: Matrix) -> list[float]:
    """The mean accuracy over the tasks so far, after each task.

    Formula: ``A_k = mean_{j≤k} a_{k,j}``.

    >>> accuracy_after_each_task([[90.0], [40.0, 80.0]])
    [90.0, 60.0]
    """
    _check(matrix)
    return [math.fsum(row) / len(row) for row in matrix]


def average_incremental(matrix: Matrix, *, first: int = 1) -> float:
    """The mean of the accuracies after each task.

    Formula: ``(1/N) Σ_k A_k``; the first task, which nothing came before, counts unless ``first`` is 2.

    >>> average_incremental([[90.0], [40.0, 80.0]]), average_incremental([[90.0], [40.0, 80.0]], first=2)
    (75.0, 60.0)
    """
    counted = accuracy_after_each_task(matrix)[first - 1 :]
    if not counted:
        raise ValueError(f"got {len(matrix)} tasks; expected at least {first}")
    return math.fsum(counted) / len(counted)


def final_accuracy(matrix: Matrix) -> float:
    """The mean accuracy over all tasks after the last: A_N."""
    return accuracy_after_each_task(matrix)[-1]


def forgetting(matrix: Matrix) -> float | None:
    """The loss from the best accuracy of each old task to its last, the mean over them; negative: old tasks improved.

    Formula: ``(1/(N−1)) Σ_{j<N} (max_{j≤k<N} a_{k,j} − a_{N,j})``.

    Returns:
        In points; None with one task.

    Paper: Chaudhry et al., Riemannian Walk for Incremental Learning, arXiv 1801.10112.

    >>> forgetting([[90.0], [40.0, 80.0], [50.0, 20.0, 70.0]])
    50.0
    """
    _check(matrix)
    count = len(matrix)
    lost = [max(matrix[k][j] for k in range(j, count - 1)) - matrix[-1][j] for j in range(count - 1)]
    return math.fsum(lost) / len(lost) if lost else None


def omega(accuracies: Sequence[float], joint: Sequence[float]) -> float | None:
    """Ω: accuracy relative to joint training on all data of the classes seen; 1 is as good.

    Formula: ``Ω = (1/N) Σ_k A_k / A_k^joint``.

    Returns:
        Ω; None where an accuracy of joint training is 0.

    Paper: Hayes et al., New Metrics and Experimental Paradigms for Continual Learning, CVPR Workshops 2018.

    >>> omega([90.0, 45.0], [90.0, 90.0])
    0.75
    """
    if not accuracies or len(accuracies) != len(joint):
        raise ValueError(f"got {len(accuracies)} and {len(joint)} accuracies; expected as many, and at least one")
    if any(bound <= 0 for bound in joint):
        return None
    return math.fsum(a / b for a, b in zip(accuracies, joint, strict=True)) / len(joint)


def task_balance(labels: Labels, scores: Scores, first_new: int) -> TaskBalance:
    """Whether a student still predicts old classes next to those of the newest task.

    Args:
        labels: the true classes, [N]; those of the newest task are ``first_new`` and above.
        scores: what predicts, [N, K].

    >>> task_balance(np.array([0, 0, 1, 1]), np.array([[1.0, 0], [0, 1], [0, 1], [0, 1]]), 1)
    TaskBalance(old=50.0, old_only=100.0, new=100.0, answered_new=75.0, are_new=50.0)
    """
    answers = scores.argmax(1)
    new, right = labels >= first_new, labels == answers
    among_old = answers_within(scores, labels, (np.arange(scores.shape[1]) >= first_new).astype(np.int64))
    if not new.any() or (first_new and new.all()):
        raise ValueError("expected images of the newest task, and of the old ones where there are any")
    return TaskBalance(
        old=_percent(right[~new]) if first_new else None,
        old_only=_percent((labels == among_old)[~new]) if first_new else None,
        new=_percent(right[new]),
        answered_new=_percent(answers >= first_new),
        are_new=_percent(new),
    )


def compute_metrics(matrix: Matrix, task_local: Matrix, old_only: float) -> IncrementalMetrics:
    """All metrics of two or more tasks.

    Args:
        task_local: the matrix of task-local accuracies.
        old_only: accuracy on the old classes among themselves after the last task, per cent.
    """
    lost = forgetting(matrix)
    if lost is None:
        raise ValueError("matrix: got 1 task; expected 2 or more")
    return IncrementalMetrics(
        average=average_incremental(matrix),
        average_from_second=average_incremental(matrix, first=2),
        final=final_accuracy(matrix),
        forgetting=lost,
        task_local=final_accuracy(task_local),
        old_only=old_only,
    )


def aggregate_seeds(
    method: str,
    records: Mapping[int, IncrementalRecord],
    joint: Mapping[int, IncrementalRecord],
    mean_interval: Callable[[Sequence[float]], MeanInterval],
) -> MethodTasks:
    """A method's accuracy after each task, mean matrix, balance, memory and Ω over its seeds.

    Args:
        records: of each seed; they may differ in their number of tasks, then those that all have count.
        joint: of the seeds that joint training has; Ω is over the seeds in both.
    """
    runs = list(records.values())
    count = min(len(record.tasks) for record in runs)

    def task_means(task: int) -> TaskMeans:
        tasks = [record.tasks[task] for record in runs]
        balances = [each.balance for each in tasks]
        old = [each.old for each in balances if each.old is not None]
        old_only = [each.old_only for each in balances if each.old_only is not None]
        return TaskMeans(
            accuracy=mean_interval([each.accuracy for each in tasks]),
            pooled=_mean([each.pooled for each in tasks]),
            old=_mean(old) if old else None,
            old_only=_mean(old_only) if old_only else None,
            task_local=_mean([math.fsum(record.task_local[task]) / (task + 1) for record in runs]),
            new=_mean([each.new for each in balances]),
            answered_new=_mean([each.answered_new for each in balances]),
            are_new=_mean([each.are_new for each in balances]),
            exemplars=max(each.memory.exemplars for each in tasks),
            bytes=max(each.memory.bytes for each in tasks),
        )

    return MethodTasks(
        method=method,
        seeds=tuple(sorted(records)),
        tasks=tuple(task_means(task) for task in range(count)),
        matrix=_mean_matrix([record.matrix for record in runs], count),
        task_local=_mean_matrix([record.task_local for record in runs], count),
        omega=_mean_omega(records, joint, mean_interval),
    )


def _mean_omega(
    records: Mapping[int, IncrementalRecord],
    joint: Mapping[int, IncrementalRecord],
    mean_interval: Callable[[Sequence[float]], MeanInterval],
) -> MeanInterval | None:
    """Ω over the seeds that joint training has as well; None where there are none, or it is undefined in one."""
    values = []
    for seed in sorted(set(records) & set(joint)):
        accuracies, bound = records[seed].accuracies, joint[seed].accuracies
        if len(accuracies) != len(bound) or (value := omega(accuracies, bound)) is None:
            return None
        values.append(value)
    return mean_interval(values) if values else None


def _mean_matrix(matrices: Sequence[Matrix], tasks: int) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(_mean([matrix[task][old] for matrix in matrices]) for old in range(task + 1)) for task in range(tasks)
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(flags: npt.NDArray[np.bool_]) -> float:
    return 100.0 * int(flags.sum()) / len(flags)


def _check(matrix: Matrix) -> None:
    lengths = [len(row) for row in matrix]
    if not lengths or lengths != [*range(1, len(lengths) + 1)]:
        raise ValueError(f"matrix: got rows of {lengths} numbers; expected 1, 2, …, one for each task so far")
    if not all(math.isfinite(value) for row in matrix for value in row):
        raise ValueError("matrix: expected finite numbers")
