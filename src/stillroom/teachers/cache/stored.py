"""What a teacher said before, looked up: as fast as an index into memory, and told apart from what it says now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.teachers.cache.building import Ask
from stillroom.teachers.cache.coding import join_top, rest_of
from stillroom.teachers.cache.identity import CacheSpec
from stillroom.teachers.knowledge import ModelOutput

_ASKED_AGAIN = 16  # images of a view
_VIEWS_ASKED_AGAIN = 8
_ROUNDING = {"float16": 2.0**-10, "float32": 2.0**-22}
_PIECE = 1 << 26  # bytes copied to a device at a time

Maps = Mapping[str, npt.NDArray[Any]]


class StoredAnswers:
    """The answers of a cache, open for reading; :meth:`TeacherCache.open` makes it.

    Nothing is read before it is asked for: the arrays are mapped, and the pages that a batch touches are shared by all
    processes that read them. On a GPU that can hold them in a quarter of its free memory they lie there instead.

    Args:
        spec: what is kept.
        views: of each view, its arrays by their names.
        device: where answers are wanted.
        folder: where they come from, for errors.

    Attributes:
        spec: what is kept.
        views: the numbers of the views that are open.
        resident: whether the arrays lie on the device.
    """

    def __init__(self, spec: CacheSpec, views: Mapping[int, Maps], device: torch.device, folder: Path) -> None:
        self.spec = spec
        self.views = tuple(sorted(views))
        self._maps = dict(views)
        self._device = device
        self._folder = folder
        self.resident = _fits(views, device)
        self._there: dict[int, dict[str, Tensor]] = {}
        if self.resident:
            for view, maps in views.items():
                self._there[view] = {name: _load(array, device) for name, array in maps.items()}

    def read(self, rows: npt.NDArray[np.int64], view: int) -> ModelOutput:
        """What the teacher said of some images.

        Args:
            rows: the images, int64 [B], in any order, any of them more than once.
            view: the view of them.

        Returns:
            Its Knowledge in float32, on the device: logits [B, K], the features of each tap, and Fisher weights.

        Raises:
            IndexError: there is no such image, or the view is not open.

        >>> from stillroom.teachers.cache.teacher_cache import TeacherCache
        >>> import tempfile
        >>> logits = torch.arange(6.0).reshape(3, 2)
        >>> cache = TeacherCache(CacheSpec({}, count=3, classes=2), root=Path(tempfile.mkdtemp()))
        >>> _ = cache.ensure([0], lambda view, rows: ModelOutput(logits[torch.from_numpy(rows)]))
        >>> cache.open([0]).read(np.array([2, 0]), 0).logits
        tensor([[4., 5.],
                [0., 1.]])
        """
        if view not in self._maps:
            raise IndexError(f"view {view}: expected one of the open views, {list(self.views)}")
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        # One look for both ends: a negative number, taken as unsigned, is larger than any count.
        if rows.size and rows.view(np.uint64).max() >= self.spec.count:
            raise IndexError(f"rows {rows.min()} to {rows.max()}: expected 0 to {self.spec.count - 1}")
        if self.resident:
            index = torch.from_numpy(rows).to(self._device, non_blocking=True)
            parts = {name: array.index_select(0, index) for name, array in self._there[view].items()}
        else:
            parts = {name: self._gather(array, rows) for name, array in self._maps[view].items()}
        return self._knowledge(parts)

    def check(self, ask: Ask, *, tolerance: float = 1e-3) -> None:
        """Ask the teacher again about a few images, and refuse answers that are no longer its own.

        The identity names the teacher's weights; code of one's own can change and leave them alike. Up to 16 images,
        evenly spread, of each of up to 8 views, the first and the last among them, are asked about again. Both answers
        agree where, in each image, no number differs by more than (r + ``tolerance``) · the image's largest |number|,
        r = 2⁻¹⁰ for float16 and 2⁻²² for float32.

        Args:
            ask: the teacher.
            tolerance: what its arithmetic may differ by between two batches of different size or two machines, relative
                to the largest number; bfloat16 needs a few per cent.

        Raises:
            BadInput: they do not agree; which image and view, and by how much.
        """
        some = np.unique(np.linspace(0, self.spec.count - 1, _ASKED_AGAIN).astype(np.int64))
        places = np.unique(np.linspace(0, len(self.views) - 1, _VIEWS_ASKED_AGAIN).astype(np.int64))
        share = _ROUNDING[self.spec.dtype] + tolerance
        for view in (self.views[place] for place in places):
            for what, stored, now in self._both(ask(view, some), some, view):
                _compare(what, stored, now, share, some, view, self._folder)

    def _both(
        self, said: ModelOutput, rows: npt.NDArray[np.int64], view: int
    ) -> list[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
        """What is stored and what is said now, brought to the same form, by what it is called.

        Fisher weights are not among it: they follow from the features and the tail, which are the answers' own, and
        one drawn class may change with the last bit of a probability.
        """
        maps = {name: array[rows] for name, array in self._maps[view].items()}
        logits = _as_array(said.logits)
        if logits.shape != (len(rows), self.spec.classes):
            raise self._stale(f"logits of shape {list(logits.shape)} for {len(rows)} images")
        pairs = []
        if self.spec.top_k is None:
            pairs.append(("logits", maps["logits"], logits))
        else:
            # Against the classes that were the largest then: at the edge, two near-equal ones may change places.
            classes = maps["classes"].astype(np.int64)
            top = np.take_along_axis(logits, classes, axis=1)
            left = np.ones(logits.shape, dtype=bool)
            np.put_along_axis(left, classes, False, axis=1)
            others = logits[left].reshape(len(rows), -1)
            rest = rest_of(others, top, top, self.spec.off_top_k_temperature)
            stored = np.column_stack([maps["values"], maps["rest"]])
            pairs.append(("logits", stored, np.column_stack([top, rest])))
        for place, tap in enumerate(self.spec.taps):
            stored = maps[f"feature-{place}"]
            now = _as_array(said.features[tap]) if tap in said.features else np.empty(0)
            if now.shape != stored.shape:
                raise self._stale(f"features at {tap} of shape {list(now.shape)}, not {list(stored.shape)}")
            pairs.append((f"features at {tap}", stored.reshape(len(rows), -1), now.reshape(len(rows), -1)))
        return pairs

    def _stale(self, how: str) -> BadInput:
        return _stale(self._folder, f"gives {how}")

    def _gather(self, array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> Tensor:
        # The rows were checked; "clip" spares a second check, and with it a buffer.
        taken = array.take(rows, axis=0, mode="clip")
        if taken.dtype == np.uint16:  # of which torch knows little
            taken = taken.astype(np.int32)
        tensor = torch.from_numpy(taken)
        if self._device.type == "cpu":
            return tensor
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _knowledge(self, parts: Mapping[str, Tensor]) -> ModelOutput:
        if self.spec.top_k is None:
            logits = parts["logits"].float()
        else:
            logits = join_top(parts["values"].float(), parts["classes"].long(), parts["rest"], self.spec.classes)
        features = {tap: parts[f"feature-{place}"].float() for place, tap in enumerate(self.spec.taps)}
        fishers = {of: parts[f"fisher-{place}"].float().square_() for place, of in enumerate(self.spec.fishers)}
        return ModelOutput(logits, features, fishers)


def _fits(views: Mapping[int, Maps], device: torch.device) -> bool:
    """Whether a GPU can hold the arrays in a quarter of its free memory."""
    if device.type != "cuda":
        return False
    needed = sum(array.size * _on_device(array).itemsize for maps in views.values() for array in maps.values())
    return 4 * needed < torch.cuda.mem_get_info(device)[0]


def _on_device(array: npt.NDArray[Any]) -> np.dtype[Any]:
    return np.dtype(np.int32) if array.dtype == np.uint16 else array.dtype


def _load(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A mapped array on the device, copied in pieces: all of it need not fit into the CPU's memory."""
    like = torch.from_numpy(np.empty(0, dtype=_on_device(array)))
    loaded = torch.empty(array.shape, dtype=like.dtype, device=device)
    step = max(_PIECE // max(array[:1].nbytes, 1), 1)
    for start in range(0, len(array), step):
        piece = np.array(array[start : start + step], dtype=_on_device(array))
        loaded[start : start + step].copy_(torch.from_numpy(piece))
    return loaded


def _as_array(said: Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(said.detach().to("cpu", torch.float64).numpy())


def _compare(
    what: str,
    stored: npt.NDArray[Any],
    now: npt.NDArray[Any],
    share: float,
    rows: npt.NDArray[np.int64],
    view: int,
    folder: Path,
) -> None:
    then = stored.astype(np.float64)
    largest = np.maximum(np.abs(then).max(axis=1, initial=0.0), np.finfo(np.float32).tiny)
    excess = np.abs(now - then).max(axis=1, initial=0.0) / (share * largest)
    if (excess <= 1).all():  # false for NaN as well
        return
    worst = int(np.nan_to_num(excess, nan=np.inf).argmax())
    off, most = excess[worst] * share * largest[worst], share * largest[worst]
    how = f"now says something else of image {rows[worst]} in view {view}: max|Δ| of its {what} is {off:.3g}"
    raise _stale(folder, f"{how}, more than the {most:.3g} of rounding")


def _stale(folder: Path, how: str) -> BadInput:
    expected = (
        f"the answers of this teacher; stale: the teacher {how}; remove the folder {folder} to have it asked again"
    )
    return BadInput("cache", folder.name, expected)
