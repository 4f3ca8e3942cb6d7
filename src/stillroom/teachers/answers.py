"""Answers made elsewhere, by a teacher that cannot be run here: checked against the questions they answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair
from stillroom.errors import BadInput, shorten
from stillroom.files import canonical_json, digest

QUESTIONS = "questions.json"
SCHEMA = 1
_ASK = "`stillroom export-inputs RECIPE --out FOLDER` writes the questions"


def questions_of(data: DataPair, augmentation: AugmentationConfig, *, same_for_views: bool) -> dict[str, Any]:
    """What answers must be answers to: the images, their order, how each view changes them, the classes.

    Where a part of the training split is held out, they are answers to all of it, as for a run that learns from all.

    Args:
        data: both splits.
        augmentation: what is done to training images.
        same_for_views: the training images are shown once, as they are.

    Raises:
        BadInput: each epoch has a view of its own, so that there is no end of questions.
    """
    varied = augmentation.changes and not same_for_views
    views = 1 if same_for_views else augmentation.different_views
    if views == 0:
        raise BadInput("data.augmentation.views", 0, "1 or more: with 0 each epoch asks about new images")
    train, test = data.train.parent, data.test
    asked: dict[str, Any] = {
        "schema": SCHEMA,
        "augmentation": augmentation.model_dump(exclude={"views"}) if varied else None,
        "views": views,
        "train": {"images": len(train), "fingerprint": train.fingerprint},
    }
    # Images that are held out of the training split are no others than it has.
    if test.subset_info is None:
        asked["test"] = {"images": len(test), "fingerprint": test.fingerprint}
    return {**asked, "class_names": list(train.class_names)}


@dataclass(frozen=True)
class OutsideAnswers:
    """Logits made elsewhere, memory-mapped.

    Attributes:
        train: [V, N, K], for each view of each training image.
        test: [M, K]; None where there are none.
        fingerprint: SHA-256 of the files, 64 hex digits.
        unchanged: whether the training images were shown as they are.
    """

    train: npt.NDArray[Any]
    test: npt.NDArray[Any] | None
    fingerprint: str
    unchanged: bool

    def as_they_are(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any] | None:
        """The answers to some training images as evaluation shows them; None where no such view was asked about.

        Args:
            rows: which, int64 [n].
        """
        return self.train[0, rows] if self.unchanged else None


def read_answers(folder: Path, wanted: dict[str, Any]) -> OutsideAnswers:
    """Read ``train-logits.npy`` [V, N, K] (or [N, K] for one view) and, if there, ``test-logits.npy`` [M, K].

    Args:
        folder: holds them beside the ``questions.json`` that they answer.
        wanted: the run's own questions, from :func:`questions_of`.

    Raises:
        BadInput: a file is missing or no array of numbers, has another shape, or answers other questions: each
            difference is named.
    """
    asked = _read_questions(folder)
    differs = [
        f"{key} is {shorten(asked.get(key), 60)}, this run has {shorten(wanted[key], 60)}"
        for key in wanted
        if key != "views" and asked.get(key) != wanted[key]
    ]
    views, there = wanted["views"], asked.get("views")
    enough = isinstance(there, int) and there >= views
    if not enough:
        differs.append(f"views is {shorten(there)}, this run has {views}")
    if differs:
        raise BadInput("teacher.answers", str(folder), f"answers to this run's questions; {'; '.join(differs)}")
    there, classes = int(asked["views"]), len(wanted["class_names"])
    train = _array(folder / "train-logits.npy")
    if train.ndim == 2:
        train = train[None]
    _check_shape(folder / "train-logits.npy", train, (there, wanted["train"]["images"], classes))
    test = None
    if "test" in wanted and (folder / "test-logits.npy").exists():
        test = _array(folder / "test-logits.npy")
        _check_shape(folder / "test-logits.npy", test, (wanted["test"]["images"], classes))
    contents = [canonical_json(asked)]
    contents += [_sha256(folder / name) for name in ("train-logits.npy", "test-logits.npy") if (folder / name).exists()]
    return OutsideAnswers(train, test, digest(*contents), wanted["augmentation"] is None)


def _read_questions(folder: Path) -> dict[str, Any]:
    try:
        asked = json.loads((folder / QUESTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no JSON"
        raise BadInput(
            "teacher.answers", str(folder), f"a folder with a readable {QUESTIONS} ({reason}); {_ASK}"
        ) from None
    if not isinstance(asked, dict) or asked.get("schema") != SCHEMA:
        raise BadInput("teacher.answers", str(folder / QUESTIONS), f"questions of schema {SCHEMA}; {_ASK}")
    return asked


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "no array"
        raise BadInput("teacher.answers", str(path), f"logits as a .npy file of numbers ({reason})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise BadInput("teacher.answers", str(path), "logits as a .npy file of floating-point numbers")
    return array


def _check_shape(path: Path, array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise BadInput("teacher.answers", str(path), f"logits of shape {list(shape)}, not {list(array.shape)}")


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
