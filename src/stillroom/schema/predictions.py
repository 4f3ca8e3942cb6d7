"""``predictions.safetensors``: reading it, and what it comes to (calibration, accuracy by class, confusions)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from stillroom.errors import BadInput
from stillroom.files import verify
from stillroom.schema.base import clean
from stillroom.schema.measures import image_losses
from stillroom.schema.run import RunSummary
from stillroom.tasks import TASKS, Task

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

PREDICTIONS = "predictions.safetensors"
BINS = 15
_CHUNK = 8192
_NORMAL_95 = 1.959964


@dataclass(frozen=True, eq=False)
class Predictions:
    """``predictions.safetensors``: labels [N], logits [N, K], class names, the E images that changed most.

    Of multi-label and regression data the labels are floats [N, K]; ``task`` says what they are.
    ``teachers`` holds the logits of each teacher by its name, ``reference`` is the one that is compared with.
    ``example_images`` are uint8 [E, C, H, W], ``example_indices`` their places among the test images; of texts there
    are ``example_texts`` in their place.
    """

    labels: NDArray[Any]
    student_logits: Floats
    teachers: Mapping[str, Floats]
    reference: str | None
    class_names: tuple[str, ...]
    example_indices: Integers | None
    example_images: NDArray[np.uint8] | None
    task: Task = "single_label"
    example_texts: tuple[str, ...] | None = None

    @property
    def teacher_logits(self) -> Floats | None:
        """The logits of the teacher that is compared with; None where there are none."""
        return None if self.reference is None else self.teachers.get(self.reference)


def read_run_predictions(run: Path, summary: RunSummary) -> Predictions | None:
    """The predictions in a run's folder, as its summary says that they are; None where there are none."""
    path = run / PREDICTIONS
    if not path.is_file():
        return None
    return read_predictions(
        path, count=summary.count, classes=summary.data.classes, reference=summary.reference, task=summary.task
    )


def read_predictions(
    path: Path,
    *,
    count: int | None = None,
    classes: int | None = None,
    images: bool = True,
    reference: str | None = "teacher",
    task: Task | None = "single_label",
) -> Predictions:
    """Read and check the predictions of a run.

    Args:
        path: the file.
        count: how many test images there are, where that is known.
        classes: K, where it is known.
        images: read the example images too.
        reference: the name of the teacher that is compared with; the only one goes by it.
        task: what the labels are to be; None: what the file says.

    Raises:
        BadInput: the file is missing, truncated or damaged, or its tensors do not fit one another.
    """
    try:
        verify(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, NDArray[Any]] = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - not a dict
                if images or not name.startswith("example_")
            }
    # safetensors raises errors of several kinds for a damaged file, by what is damaged.
    except BadInput:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput("predictions", str(path), f"a whole safetensors file ({reason})") from None

    def expect(holds: bool, what: str) -> None:
        if not holds:
            raise BadInput("predictions", str(path), what)

    expect("labels" in tensors and "student_logits" in tensors, "the tensors labels and student_logits")
    labels, student = tensors["labels"], tensors["student_logits"]
    teachers = {
        name.partition("/")[2] or reference or "teacher": logits
        for name, logits in tensors.items()
        if name.partition("/")[0] == "teacher_logits"
    }
    found: Task = next((each for each in TASKS if f"{each}_names" in metadata), "single_label")
    expect(task in (None, found), f"predictions of {task} data, not of {found}")
    if found == "single_label":
        expect(labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer), "labels as whole numbers [N]")
    expect(student.ndim == 2 and student.size > 0, "student_logits [N, K]")
    shape = (count if count is not None else len(labels), classes if classes is not None else student.shape[1])
    expect(len(labels) == shape[0], f"{shape[0]} labels, as many as in summary.json, not {len(labels)}")
    for name in (key for key in tensors if "_logits" in key):
        logits = tensors[name]
        expect(logits.shape == shape, f"{name} of shape {list(shape)}, not {list(logits.shape)}")
        expect(np.issubdtype(logits.dtype, np.floating), f"{name} as floating-point numbers")
        expect(bool(np.isfinite(logits).all()), f"{name} that are all finite")
    if found == "single_label":
        expect(bool((labels >= 0).all() and (labels < shape[1]).all()), f"labels from 0 to {shape[1] - 1}")
        labels = labels.astype(np.int64)
    else:
        expect(labels.shape == shape and np.issubdtype(labels.dtype, np.floating), f"labels as floats {list(shape)}")
        holds = np.isfinite(labels) if found == "regression" else (labels == 0) | (labels == 1)
        expect(bool(holds.all()), "finite labels" if found == "regression" else "labels of 0 and 1")
    indices, pictures = tensors.get("example_indices"), tensors.get("example_images")
    texts = _example_texts(tensors.get("example_texts"), expect)
    if indices is None or (pictures is None and texts is None):
        indices = pictures = texts = None
    else:
        if pictures is not None:
            expect(pictures.ndim == 4 and pictures.dtype == np.uint8, "example_images as uint8 [E, C, H, W]")
            expect(min(pictures.shape[1:]) > 0, "example_images of one pixel or more")
        held = len(pictures if pictures is not None else texts or ())
        expect(indices.shape == (held,), "one of example_indices for each of example_images or example_texts")
        expect(np.issubdtype(indices.dtype, np.integer), "example_indices as whole numbers")
        expect(bool(((indices >= 0) & (indices < shape[0])).all()), f"example_indices from 0 to {shape[0] - 1}")
        indices = indices.astype(np.int64)
    text = metadata.get("class_names" if found == "single_label" else f"{found}_names")
    names = _class_names(text, shape[1], path)
    return Predictions(labels, student, teachers, reference, names, indices, pictures, found, texts)


def _example_texts(coded: NDArray[Any] | None, expect: Callable[[bool, str], None]) -> tuple[str, ...] | None:
    """The texts of a tensor of bytes, which are a JSON list."""
    if coded is None:
        return None
    try:
        texts = json.loads(coded.astype(np.uint8).tobytes().decode())
    except ValueError:
        texts = None
    expect(isinstance(texts, list) and all(isinstance(each, str) for each in texts), "example_texts as a list of texts")
    return tuple(texts)


def _class_names(text: str | None, classes: int, path: Path) -> tuple[str, ...]:
    if text is None:
        return tuple(f"class {index}" for index in range(classes))
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or len(names) != classes:
        raise BadInput("predictions", str(path), f"class_names as a JSON list of {classes} names")
    return tuple(str(clean(str(name))) or f"class {index}" for index, name in enumerate(names))


@dataclass(frozen=True)
class ImageScores:
    """For each image: the top guess, its probability, the true class's probability, whether the guess is right."""

    guess: Integers
    confidence: Doubles
    true_probability: Doubles
    right: Bools


def softmax(logits: Floats) -> Doubles:
    """Probabilities of each row of logits, in double precision.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64)
    np.exp(shifted, out=shifted)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def score_images(logits: Floats, labels: Integers) -> ImageScores:
    """What a model says of each image.

    Args:
        logits: [N,K].
        labels: the true classes [N].

    >>> found = score_images(np.array([[0.0, np.log(3.0)]]), np.array([0]))
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
    return ImageScores(guess, confidence, true_probability, guess == labels)


@dataclass(frozen=True)
class Calibration:
    """Bins of equal width over confidence; ``confidence`` and ``accuracy`` are 0 where ``counts`` is 0."""

    edges: Doubles
    counts: Integers
    confidence: Doubles
    accuracy: Doubles
    ece: float


def calibration(confidence: Doubles, right: Bools, bins: int = BINS) -> Calibration:
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


def per_class(right: Bools, labels: Integers, classes: int) -> tuple[Doubles, Integers]:
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


def confusions(
    labels: Integers, before: Integers | None, after: Integers, classes: int, top: int = 10
) -> list[Confusion]:
    """The pairs of classes confused most often, or those whose confusion grew most.

    Args:
        labels: the true classes [N].
        before: the teacher's guesses [N]; None counts the student's confusions alone.
        after: the student's guesses [N].
        classes: the number of classes.
        top: how many pairs at most; only pairs that grew are listed.

    >>> confusions(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([1, 1, 1]), 2)
    [Confusion(label=0, guess=1, before=0, after=2)]
    """

    def matrix(guesses: Integers) -> Integers:
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


def paired_margin(first: Bools, second: Bools) -> float:
    """Half the 95% interval of the difference of two accuracies on the same images, in points.

    It tells what another draw of test images would change, and nothing of another seed.

    >>> paired_margin(np.array([True, False]), np.array([True, False]))
    0.0
    """
    difference = first.astype(np.float64) - second.astype(np.float64)
    return 100 * _NORMAL_95 * float(difference.std()) / math.sqrt(len(difference))


def loss_gap(task: Task, outputs: Floats, others: Floats, targets: NDArray[Any]) -> tuple[float, float]:
    """By how much the mean loss of an image is above that of other outputs, and half the 95% interval of that.

    As :func:`paired_margin`, of multi-label and regression data.

    >>> loss_gap("regression", np.array([[1.0], [3.0]]), np.array([[1.0], [1.0]]), np.array([[1.0], [1.0]]))[0]
    2.0
    """
    difference = image_losses(task, outputs, targets) - image_losses(task, others, targets)
    return float(difference.mean()), _NORMAL_95 * float(difference.std()) / math.sqrt(len(difference))


def margin_of_counts(first: float, second: float, count: int) -> float:
    """As :func:`paired_margin` where only the two accuracies in per cent are known: the wider, unpaired interval.

    >>> round(margin_of_counts(50, 50, 10_000), 2)
    1.39
    """
    variance = sum(p / 100 * (1 - p / 100) for p in (first, second)) / count
    return 100 * _NORMAL_95 * math.sqrt(variance)
