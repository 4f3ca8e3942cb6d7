"""What is computed from predictions: confidence, calibration, accuracy by class, confusions; all in numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]
Truths = NDArray[np.bool_]

BINS = 15
_CHUNK = 8192
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Answers:
    """For each image: the top guess, its probability, the true class's probability, whether the guess is right."""

    guess: Whole
    confidence: Doubles
    true_probability: Doubles
    right: Truths


def softmax(logits: NDArray[np.floating[Any]]) -> Doubles:
    """Probabilities of each row of logits, in double precision.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64)
    np.exp(shifted, out=shifted)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def answers(logits: NDArray[np.floating[Any]], labels: Whole) -> Answers:
    """What a model says of each image.

    Args:
        logits: [N,K].
        labels: the true classes [N].

    >>> found = answers(np.array([[0.0, np.log(3.0)]]), np.array([0]))
    >>> found.guess.tolist(), found.confidence.round(3).tolist(), found.true_probability.round(3).tolist()
    ([1], [0.75], [0.25])
    """
    guess = np.asarray(logits.argmax(axis=1), dtype=np.int64)
    confidence = np.empty(len(labels))
    true_probability = np.empty(len(labels))
    # In pieces, so that a thousand classes and a large test split do not need their probabilities at once.
    for start in range(0, len(labels), _CHUNK):
        piece = slice(start, start + _CHUNK)
        probabilities = softmax(logits[piece])
        confidence[piece] = probabilities.max(axis=1)
        true_probability[piece] = np.take_along_axis(probabilities, labels[piece, None], axis=1)[:, 0]
    return Answers(guess, confidence, true_probability, guess == labels)


@dataclass(frozen=True)
class Calibration:
    """Bins of equal width over confidence; ``confidence`` and ``accuracy`` are 0 where ``counts`` is 0."""

    edges: Doubles
    counts: Whole
    confidence: Doubles
    accuracy: Doubles
    ece: float


def calibration(confidence: Doubles, right: Truths, bins: int = BINS) -> Calibration:
    """Accuracy against confidence in bins of equal width, and the expected calibration error.

    ECE = Σ_b n_b/N · |accuracy_b − confidence_b|, in [0, 1].

    >>> round(calibration(np.array([0.9, 0.9]), np.array([True, False])).ece, 3)
    0.4
    """
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = np.maximum(counts, 1)
    mean = np.bincount(place, weights=confidence, minlength=bins) / held
    accuracy = np.bincount(place, weights=right.astype(np.float64), minlength=bins) / held
    ece = float((counts * np.abs(accuracy - mean)).sum() / max(len(confidence), 1))
    return Calibration(np.linspace(0, 1, bins + 1), counts, mean, accuracy, ece)


def per_class(right: Truths, labels: Whole, classes: int) -> tuple[Doubles, Whole]:
    """Accuracy of each class in per cent (0 for a class without images), and its number of images.

    >>> accuracy, counts = per_class(np.array([True, False, True]), np.array([0, 0, 1]), 3)
    >>> accuracy.tolist(), counts.tolist()
    ([50.0, 100.0, 0.0], [2, 1, 0])
    """
    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=right.astype(np.float64), minlength=classes)
    return 100 * hits / np.maximum(counts, 1), counts


@dataclass(frozen=True)
class Confusion:
    """How often images of class ``label`` were taken for class ``guess``, by the teacher and by the student."""

    label: int
    guess: int
    before: int
    after: int


def confusions(labels: Whole, before: Whole | None, after: Whole, classes: int, top: int = 10) -> list[Confusion]:
    """The pairs of classes confused most often, or those whose confusion grew most.

    Args:
        labels: the true classes [N].
        before: the teacher's guesses [N]; None counts the student's confusions alone.
        after: the student's guesses [N].
        classes: the number of classes.
        top: how many pairs at most; only pairs that grew are told.

    >>> confusions(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([1, 1, 1]), 2)
    [Confusion(label=0, guess=1, before=0, after=2)]
    """

    def matrix(guesses: Whole) -> Whole:
        table = np.bincount(labels * classes + guesses, minlength=classes * classes)
        table[:: classes + 1] = 0
        return table

    later = matrix(after)
    earlier = matrix(before) if before is not None else np.zeros_like(later)
    growth = later - earlier
    # Stable, so that equal pairs keep the order of the classes and a page is the same every time.
    order = np.argsort(-growth, kind="stable")[:top]
    return [
        Confusion(int(pair) // classes, int(pair) % classes, int(earlier[pair]), int(later[pair]))
        for pair in order
        if growth[pair] > 0
    ]


def paired_margin(first: Truths, second: Truths) -> float:
    """Half the 95% interval of the difference of two accuracies on the same images, in points.

    It tells what another draw of test images would change, and nothing of another seed.

    >>> paired_margin(np.array([True, False]), np.array([True, False]))
    0.0
    """
    difference = first.astype(np.float64) - second.astype(np.float64)
    return 100 * _NORMAL_95 * float(difference.std()) / math.sqrt(len(difference))


def margin_of_counts(first: float, second: float, count: int) -> float:
    """As :func:`paired_margin` where only the two accuracies in per cent are known: the wider, unpaired interval.

    >>> round(margin_of_counts(50, 50, 10_000), 2)
    1.39
    """
    variance = sum(p / 100 * (1 - p / 100) for p in (first, second)) / count
    return 100 * _NORMAL_95 * math.sqrt(variance)


def thin(x: Doubles, y: Doubles, limit: int = 2000) -> tuple[Doubles, Doubles]:
    """A curve of at most ``limit`` points that keeps its first and last point and every stretch's extremes.

    >>> x = np.arange(10_000.0); y = np.zeros(10_000); y[1234] = 9.0
    >>> kept_x, kept_y = thin(x, y, 100)
    >>> len(kept_x) <= 100, float(kept_y.max()), float(kept_x[-1])
    (True, 9.0, 9999.0)
    """
    if len(x) <= limit:
        return x, y
    keep = {0, len(x) - 1}
    for piece in np.array_split(np.arange(1, len(x) - 1), max((limit - 2) // 2, 1)):
        keep |= {int(piece[y[piece].argmin()]), int(piece[y[piece].argmax()])}
    order = sorted(keep)
    return x[order], y[order]
