"""A teacher that cannot be run here: its logits, computed elsewhere, checked against the inputs that they are for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair
from stillroom.data.loader import BatchLoader
from stillroom.errors import BadInput, shorten
from stillroom.files import canonical_json, digest, find_input, read_bytes
from stillroom.runtime import Runtime
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.config import CacheConfig, TeacherConfig
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.source import CachedOutputs, Log, QueryCounter, Teacher, TeacherSource, check_finite

INPUTS = "inputs.json"
SCHEMA = 1
_HINT = "`stillroom export-inputs RECIPE --out FOLDER` writes the inputs"
_FIELD = "teacher.logits"


def inputs_of(data: DataPair, augmentation: AugmentationConfig, *, same_for_views: bool) -> dict[str, Any]:
    """The inputs that logits must be for: the images, their order, the augmentation of each view, the classes.

    With a held-out part of the training split, they still cover the whole split.

    Args:
        data: both splits.
        augmentation: of the training images.
        same_for_views: the training images are given once, unaugmented.

    Raises:
        BadInput: every epoch has a new view, so the inputs are unbounded.
    """
    varied = augmentation.changes and not same_for_views
    views = 1 if same_for_views else augmentation.different_views
    if views == 0:
        raise BadInput("data.augmentation.views", 0, "1 or more: with 0 each epoch shows new images")
    train, test = data.train.parent, data.test
    inputs: dict[str, Any] = {
        "schema": SCHEMA,
        "augmentation": augmentation.model_dump(exclude={"views"}) if varied else None,
        "views": views,
        "train": {"images": len(train), "fingerprint": train.fingerprint},
    }
    # Held-out images are part of the training split.
    if test.subset_info is None:
        inputs["test"] = {"images": len(test), "fingerprint": test.fingerprint}
    return {**inputs, "class_names": list(train.class_names)}


class PrecomputedLogits(TeacherSource):
    """Logits computed elsewhere as the teacher of a run; they enter the cache as a model's outputs do.

    The folder holds ``train-logits.npy`` [V, N, K] (or [N, K] for one view), optionally ``test-logits.npy`` [M, K],
    and the ``inputs.json`` that they are for.

    Args:
        config: its entry in the recipe.
        runtime: where it is read.
        data: both splits.
        augmentation: of the training images.
        cache: the recipe's cache options.

    Raises:
        BadInput: a file is missing, not an array of numbers, of another shape, or for other inputs: each difference
            is named.
    """

    def __init__(
        self,
        config: TeacherConfig,
        *,
        runtime: Runtime,
        data: DataPair,
        augmentation: AugmentationConfig,
        cache: CacheConfig,
    ) -> None:
        assert config.logits is not None
        self._runtime, self._data, self._cache = runtime, data, cache
        wanted = inputs_of(data, augmentation, same_for_views=config.same_for_views)
        folder = find_input(config.logits)
        inputs = _read_inputs(folder, wanted)
        self._views: int = wanted["views"]
        self._unchanged = wanted["augmentation"] is None
        shape = (int(inputs["views"]), wanted["train"]["images"], len(wanted["class_names"]))
        self._train = _read_array(folder / "train-logits.npy", shape)
        self._test = None
        if "test" in wanted and (folder / "test-logits.npy").exists():
            self._test = _read_array(folder / "test-logits.npy", (wanted["test"]["images"], shape[2]))
        names = [name for name in ("train-logits.npy", "test-logits.npy") if (folder / name).exists()]
        hashes = [_sha256(folder / name) for name in names]
        files = {name: content.hex() for name, content in zip(names, hashes, strict=True)}
        super().__init__(config.name, digest(canonical_json(inputs), *hashes), files)

    @property
    def views(self) -> int:
        """How many views the training images have."""
        return self._views

    @property
    def count(self) -> int:
        """How many training images there are logits for."""
        return int(self._train.shape[1])

    def logits(self, view: int, rows: npt.NDArray[np.int64]) -> Tensor:
        """The stored logits of some training images in one view, float32 [n, K], as they are in the file."""
        return torch.from_numpy(_rows(self._train[view, rows]))

    def compute_test_logits(self) -> Tensor | None:
        """From the folder; for held-out training images those of view 0, if that view is unaugmented."""
        info, test = self._data.test.subset_info, self._test
        if info is not None:
            test = self._train[0, info.rows] if self._unchanged else None
        if test is None:
            return None
        return check_finite(torch.from_numpy(_rows(test)), _FIELD, "test-logits.npy")

    def training_teacher(self, loader: BatchLoader, epochs: int, log: Log | None = None) -> Teacher:
        """From the cache."""

        def query(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
            return ModelOutput(self.logits(view, rows))

        train = self._data.train.parent
        parts = {"teacher": {"name": self.name, "logits": self.fingerprint}, "data": train.fingerprint}
        outputs = CachedOutputs(
            CacheSpec.of(self._cache, parts, count=len(train), classes=train.num_classes),
            range(min(self._views, epochs)),
            query,
            runtime=self._runtime,
            config=self._cache,
            # Reading a file queries no teacher.
            counter=QueryCounter(),
            log=log,
        )
        outputs.prepare()
        return outputs


def _read_inputs(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The folder's ``inputs.json``, checked to be what this run needs."""
    try:
        inputs = json.loads(read_bytes(folder / INPUTS))
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no JSON"
        raise BadInput(_FIELD, str(folder), f"a folder with a readable {INPUTS} ({reason}); {_HINT}") from None
    if not isinstance(inputs, dict) or inputs.get("schema") != SCHEMA:
        raise BadInput(_FIELD, str(folder / INPUTS), f"inputs of schema {SCHEMA}; {_HINT}")
    differs = [
        f"{key} is {shorten(inputs.get(key), 60)}, this run has {shorten(wanted[key], 60)}"
        for key in wanted
        if key != "views" and inputs.get(key) != wanted[key]
    ]
    views = inputs.get("views")
    if not isinstance(views, int) or views < wanted["views"]:
        differs.append(f"views is {shorten(views)}, this run has {wanted['views']}")
    if differs:
        raise BadInput(_FIELD, str(folder), f"logits for this run's inputs; {'; '.join(differs)}")
    return inputs


def _read_array(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A memory-mapped array of logits; [N, K] is read as one view."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "no array"
        raise BadInput(_FIELD, str(path), f"logits as a .npy file of numbers ({reason})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise BadInput(_FIELD, str(path), "logits as a .npy file of floating-point numbers")
    if len(shape) == 3 and array.ndim == 2:
        array = array[None]
    if array.shape != shape:
        raise BadInput(_FIELD, str(path), f"logits of shape {list(shape)}, not {list(array.shape)}")
    return np.asarray(array)


def _rows(logits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A copy, row after row in memory: a file may hold column after column, in Fortran's order."""
    return np.array(logits, dtype=np.float32, order="C")


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
