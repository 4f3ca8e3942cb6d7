"""The test images that changed most between teacher and student, ready for the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillroom.report.formats import decimal
from stillroom.report.measures import Answers
from stillroom.report.predictions import Predictions

MOST = 60
_LARGEST = 112


@dataclass(frozen=True)
class Example:
    """One test image with what both models said of it."""

    uri: str
    index: int
    label: str
    outcome: str
    teacher_guess: str
    teacher_percent: str
    teacher_right: bool
    student_guess: str
    student_percent: str
    student_right: bool
    true_teacher: str
    true_student: str

    @property
    def group(self) -> str:
        """What the page filters by: lost, gained or same."""
        if self.teacher_right == self.student_right:
            return "same"
        return "gained" if self.student_right else "lost"


def examples(predictions: Predictions, student: Answers, teacher: Answers) -> list[Example]:
    """The example images of a run, at most 60, those whose true class changed most first."""
    indices, pixels = predictions.example_indices, predictions.example_images
    if indices is None or pixels is None:
        return []
    change = np.abs(student.true_probability[indices] - teacher.true_probability[indices])
    names = predictions.class_names
    found = []
    for place in np.argsort(-change, kind="stable")[:MOST]:
        index = int(indices[place])
        taught, learnt = bool(teacher.right[index]), bool(student.right[index])
        found.append(
            Example(
                uri=png_uri(pixels[place]),
                index=index,
                label=names[int(predictions.labels[index])],
                outcome=_OUTCOMES[taught, learnt],
                teacher_guess=names[int(teacher.guess[index])],
                teacher_percent=_percent(teacher.confidence[index]),
                teacher_right=taught,
                student_guess=names[int(student.guess[index])],
                student_percent=_percent(student.confidence[index]),
                student_right=learnt,
                true_teacher=_percent(teacher.true_probability[index]),
                true_student=_percent(student.true_probability[index]),
            )
        )
    return found


_OUTCOMES = {
    (True, False): "student lost",
    (False, True): "student gained",
    (True, True): "both right",
    (False, False): "both wrong",
}


def _percent(probability: float) -> str:
    return f"{decimal(100 * probability, 0)}%"


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """An image [C,H,W] as a PNG data URI; large ones are made smaller, other than 3 channels become grey.

    >>> png_uri(np.zeros((1, 2, 2), dtype=np.uint8))[:22]
    'data:image/png;base64,'
    """
    picture: NDArray[Any]
    if pixels.shape[0] == 3:
        picture = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    else:
        picture = pixels.mean(axis=0).round().astype(np.uint8)
    image = Image.fromarray(picture)
    image.thumbnail((_LARGEST, _LARGEST))
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
