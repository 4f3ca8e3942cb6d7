"""Measures against answers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.report.charts import thin
from stillroom.schema.predictions import (
    Confusion,
    calibration,
    confusions,
    margin_of_counts,
    paired_margin,
    per_class,
    score_images,
    softmax,
)


def test_probabilities_of_large_logits_are_finite() -> None:
    found = softmax(np.array([[1e4, -1e4], [0.0, 0.0]], dtype=np.float32))
    assert found.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_answers_give_guess_confidence_and_the_true_class() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.1, 0.6]]))
    found = score_images(logits, np.array([0, 0]))
    assert found.guess.tolist() == [0, 2]
    assert found.right.tolist() == [True, False]
    assert found.confidence == pytest.approx([0.7, 0.6])
    assert found.true_probability == pytest.approx([0.7, 0.3])


def test_answers_do_not_depend_on_the_pieces_they_are_worked_out_in() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20_000, 3)), rng.integers(0, 3, 20_000)
    probabilities = softmax(logits)
    found = score_images(logits, labels)
    assert found.confidence == pytest.approx(probabilities.max(1))
    assert found.true_probability == pytest.approx(probabilities[np.arange(20_000), labels])


def test_calibration_by_hand() -> None:
    # Two bins: .2 and .4 in the first (one of two right), .9 and .9 in the second (both right).
    found = calibration(np.array([0.2, 0.4, 0.9, 0.9]), np.array([True, False, True, True]), bins=2)
    assert found.counts.tolist() == [2, 2]
    assert found.accuracy.tolist() == [0.5, 1.0]
    assert found.confidence == pytest.approx([0.3, 0.9])
    assert found.ece == pytest.approx(0.5 * 0.2 + 0.5 * 0.1)


def test_full_confidence_is_in_the_last_bin_and_empty_bins_are_zero() -> None:
    found = calibration(np.array([1.0, 1.0]), np.array([True, True]))
    assert found.counts.tolist() == [0] * 14 + [2]
    assert found.ece == 0
    assert np.isfinite(found.accuracy).all()
    assert np.isfinite(found.confidence).all()


def test_accuracy_by_class_has_no_nan_for_a_class_without_images() -> None:
    accuracy, counts = per_class(np.array([True, False, False]), np.array([0, 0, 2]), 4)
    assert accuracy.tolist() == [50.0, 0.0, 0.0, 0.0]
    assert counts.tolist() == [2, 0, 1, 0]


def test_confusions_that_grew_come_first_and_shrunk_ones_not_at_all() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    teacher = np.array([0, 0, 2, 1, 0, 2])
    student = np.array([1, 1, 0, 0, 0, 2])
    assert confusions(labels, teacher, student, 3) == [Confusion(0, 1, 0, 2), Confusion(1, 0, 1, 2)]
    assert confusions(labels, teacher, student, 3, top=1) == [Confusion(0, 1, 0, 2)]
    assert confusions(labels, None, teacher, 3) == [Confusion(0, 2, 0, 1), Confusion(1, 0, 0, 1)]


def test_the_margin_of_paired_images_is_narrower_than_that_of_counts() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(10_000) < 0.9
    second = first & (rng.random(10_000) < 0.97)
    lost = float((first & ~second).mean())
    by_hand = 196 * np.sqrt((lost - lost**2) / 10_000)
    assert paired_margin(first, second) == pytest.approx(by_hand, rel=1e-3)
    assert paired_margin(first, second) < margin_of_counts(90, 87, 10_000)


def test_short_curves_are_left_alone() -> None:
    x = np.arange(10.0)
    assert thin(x, x)[0] is x


@pytest.mark.parametrize("count", [2001, 2003, 10_000, 123_457])
def test_long_curves_keep_ends_and_extremes(count: int) -> None:
    rng = np.random.default_rng(count)
    x, y = np.arange(float(count)), rng.normal(size=count)
    kept_x, kept_y = thin(x, y)
    assert len(kept_x) <= 2000
    assert (kept_x[0], kept_x[-1]) == (0, count - 1)
    assert (kept_y.min(), kept_y.max()) == (y.min(), y.max())
    assert (np.diff(kept_x) > 0).all()
