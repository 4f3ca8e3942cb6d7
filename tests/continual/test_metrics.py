"""Metrics of an accuracy matrix, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.continual.metrics import (
    accuracy_after_each_task,
    accuracy_row,
    answers_within,
    average_incremental,
    final_accuracy,
    forgetting,
    omega,
    task_balance,
)
from stillroom.schema.continual import TaskBalance

# Task 1 is learned to 90, falls to 60, comes back to 70; task 2 from 80 to 50; task 3 ends at 100.
MATRIX = [[90.0], [60.0, 80.0], [70.0, 50.0, 100.0]]


def test_means_over_tasks_and_over_time() -> None:
    assert accuracy_after_each_task(MATRIX) == [90.0, 70.0, pytest.approx(220 / 3)]
    assert final_accuracy(MATRIX) == pytest.approx(220 / 3)
    assert average_incremental(MATRIX) == pytest.approx((90 + 70 + 220 / 3) / 3)
    assert average_incremental(MATRIX, first=2) == pytest.approx((70 + 220 / 3) / 2)


def test_forgetting_is_from_the_best_before_the_last_task() -> None:
    # max(90, 60) − 70 and 80 − 50; the last task cannot have been forgotten.
    assert forgetting(MATRIX) == (20 + 30) / 2
    # After the last task it may be better than ever: then nothing is forgotten but gained.
    assert forgetting([[50.0], [70.0, 10.0]]) == -20
    assert forgetting([[50.0]]) is None


def test_omega_is_a_mean_of_shares() -> None:
    assert omega([90.0, 40.0, 20.0], [90.0, 80.0, 80.0]) == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert omega([90.0, 40.0], [90.0, 0.0]) is None


def test_tasks_count_alike_whatever_their_size() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2])
    answers = np.array([0, 0, 0, 1, 0, 2])
    row = accuracy_row(labels, answers, np.array([0, 1, 1]), 2)
    # 3 of 4 and 1 of 2: the mean over tasks is 62.5, over images 4 of 6.
    assert row == [75.0, 50.0]
    assert sum(row) / 2 == 62.5


def test_balance_of_old_and_new() -> None:
    labels, scores = np.array([0, 0, 1, 1, 2, 2]), np.eye(3)[[0, 2, 1, 2, 2, 0]]
    # Of the four old images two are answered with class 2; with classes 0 and 1 alone the first of equals is class 0.
    share = 100 * 2 / 6
    found = task_balance(labels, scores, 2)
    assert found == TaskBalance(old=50.0, old_only=75.0, new=50.0, answered_new=50.0, are_new=share)
    found = task_balance(labels, scores, 0)
    assert found == TaskBalance(old=None, old_only=None, new=50.0, answered_new=100.0, are_new=100.0)


def test_task_local_answers_are_the_best_of_the_images_own_task() -> None:
    tasks = np.array([0, 0, 1, 1])
    scores = np.array([[1.0, 2, 9, 8], [1, 2, 9, 8], [7, 9, 1, 2], [7, 9, -3, -4]])
    assert answers_within(scores, np.array([0, 1, 3, 2]), tasks).tolist() == [1, 1, 3, 2]
    # All answers fall on the newest classes, and none of the old ones' order is lost.
    labels, scores = np.array([0, 1, 2, 3]), np.eye(4) + 5 * (np.arange(4) >= 2)
    assert accuracy_row(labels, scores.argmax(1), tasks, 2) == [0.0, 100.0]
    assert accuracy_row(labels, answers_within(scores, labels, tasks), tasks, 2) == [100.0, 100.0]


@pytest.mark.parametrize("matrix", [[], [[1.0, 2.0]], [[1.0], [1.0]], [[1.0], [1.0, float("nan")]]])
def test_what_is_no_matrix_is_refused(matrix: list[list[float]]) -> None:
    for metric in (accuracy_after_each_task, forgetting, average_incremental):
        with pytest.raises(ValueError, match="expected"):
            metric(matrix)  # type: ignore[operator]


def test_a_task_without_images_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="expected some of each of 2"):
        accuracy_row(np.array([0]), np.array([0]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="expected as many"):
        omega([1.0], [])
    with pytest.raises(ValueError, match="newest task"):
        task_balance(np.array([0]), np.eye(2)[[0]], 1)
