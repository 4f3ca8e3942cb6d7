"""The questions for a teacher that cannot be run here: every image of a run, in every view, as arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.data.augmentation import check_augmentable
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.data.loader import BatchLoader
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.files import atomic_write, write_json
from stillroom.recipe import Recipe
from stillroom.runtime import Observer
from stillroom.teachers.answers import QUESTIONS, questions_of

_AT_ONCE = 500


def write_questions(recipe: Recipe, out: Path, observer: Observer) -> dict[str, Any]:
    """Write what a teacher elsewhere must answer, as arrays of the images in each view.

    These are ``train-images.npy`` [V, N, C, H, W] and ``test-images.npy`` [M, C, H, W]. The answers go beside them:
    ``train-logits.npy`` [V, N, K], and ``test-logits.npy`` [M, K] for the comparison at the end; the classes in the
    order of ``class_names`` in ``questions.json``.

    Args:
        recipe: whose data and augmentation are meant; ``teacher.same_for_views`` asks about each image once.
        out: a new or empty folder.
        observer: told how it goes.

    Returns:
        ``folder``, ``views``, ``train``, ``test``, ``classes`` and ``bytes``.

    Raises:
        BadInput: the folder holds something, or each epoch has a view of its own.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput("--out", str(out), "a new or empty folder")
    # All of them: a run that holds a part out finds its answers among them.
    data = load(recipe.data.model_copy(update={"holdout": None}))
    check_augmentable(data.train, recipe.data.augmentation)
    same = recipe.teacher is not None and recipe.teacher.same_for_views
    questions = questions_of(data, recipe.data.augmentation, same_for_views=same)
    shown = AugmentationConfig() if same else recipe.data.augmentation
    total = questions["views"] * len(data.train) + len(data.test)

    def tell(done: int) -> None:
        observer.phase("writing images", done, total)

    written = _write(out / "train-images.npy", data.train, shown, questions["views"], tell)
    written += _write(
        out / "test-images.npy", data.test, AugmentationConfig(), None, lambda done: tell(total - len(data.test) + done)
    )
    write_json(out / QUESTIONS, questions)
    return {
        "folder": str(out),
        "views": questions["views"],
        "train": len(data.train),
        "test": len(data.test),
        "classes": data.train.num_classes,
        "bytes": written,
    }


def _write(
    path: Path, data: ImageSet, augmentation: AugmentationConfig, views: int | None, tell: Callable[[int], None]
) -> int:
    """One array of images, written as it is made: it may be larger than memory."""
    loader = BatchLoader(data, augmentation, torch.device("cpu"))
    starts = range(0, len(data), _AT_ONCE)
    blocks = [np.arange(start, min(start + _AT_ONCE, len(data))) for start in starts]
    shape = (views or 1, len(data), *data.images.shape[1:])
    kind = np.dtype(np.uint8 if data.is_pixels else np.float32)
    header = {"descr": kind.str, "fortran_order": False, "shape": shape if views else shape[1:]}
    # Written from front to back, not through a memory map: a full disk is then an error, not the end of the process.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for batch in loader.batches((rows, view) for view in range(views or 1) for rows in blocks):
            file.write(batch.images.contiguous().numpy().data)
            done += len(batch)
            tell(done)
    return int(np.prod(shape)) * kind.itemsize
