"""What the student and its teacher said of each test image, read from ``predictions.safetensors`` and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from stillroom.errors import BadInput
from stillroom.report.formats import clean

Floats = NDArray[np.floating[Any]]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Labels [N], logits [N,K], the names of the K classes, and the E images on which the two differ most."""

    labels: Whole
    student_logits: Floats
    teacher_logits: Floats | None
    class_names: tuple[str, ...]
    example_indices: Whole | None
    example_images: NDArray[np.uint8] | None


def read_predictions(path: Path, *, count: int, classes: int) -> Predictions | None:
    """Read the predictions of a run.

    Args:
        path: the file.
        count: how many test images ``summary.json`` speaks of.
        classes: how many classes the data has.

    Returns:
        The predictions, or None where the file does not exist.

    Raises:
        BadInput: the file is truncated or damaged, or its tensors do not fit one another or the summary.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    # safetensors raises errors of several kinds for a damaged file, by what is damaged.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput("predictions", str(path), f"a whole safetensors file ({reason})") from None

    def expect(holds: bool, what: str) -> None:
        if not holds:
            raise BadInput("predictions", str(path), what)

    expect("labels" in tensors and "student_logits" in tensors, "the tensors labels and student_logits")
    labels, student = tensors["labels"], tensors["student_logits"]
    teacher = tensors.get("teacher_logits")
    expect(labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer), "labels as whole numbers [N]")
    expect(len(labels) == count, f"{count} labels, as many as in summary.json, not {len(labels)}")
    expect(bool((labels >= 0).all() and (labels < classes).all()), f"labels from 0 to {classes - 1}")
    for name, logits in (("student_logits", student), ("teacher_logits", teacher)):
        if logits is not None:
            shape = f"{name} of shape [{count}, {classes}], not {list(logits.shape)}"
            expect(logits.shape == (count, classes) and np.issubdtype(logits.dtype, np.floating), shape)
            expect(bool(np.isfinite(logits).all()), f"{name} that are all finite")
    indices, images = tensors.get("example_indices"), tensors.get("example_images")
    if indices is not None and images is not None:
        expect(images.ndim == 4 and images.dtype == np.uint8, "example_images as uint8 [E, C, H, W]")
        expect(min(images.shape[1:]) > 0, "example_images of one pixel or more")
        expect(indices.shape == (len(images),), "one of example_indices for each of example_images")
        expect(np.issubdtype(indices.dtype, np.integer), "example_indices as whole numbers")
        expect(bool(((indices >= 0) & (indices < count)).all()), f"example_indices from 0 to {count - 1}")
    return Predictions(
        labels=labels.astype(np.int64),
        student_logits=student,
        teacher_logits=teacher,
        class_names=_class_names(metadata.get("class_names"), classes, path),
        example_indices=None if indices is None or images is None else indices.astype(np.int64),
        example_images=None if indices is None else images,
    )


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
