"""The teacher cache: what a teacher says of each view of each image, said once, kept, and shared by runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stillroom.errors import BadInput
from stillroom.files import sweep_partial
from stillroom.teachers.cache.building import Ask, Note, Phase, ViewBuilder, begun, built_bytes
from stillroom.teachers.cache.covering import arrays_in, covering_specs
from stillroom.teachers.cache.identity import CacheSpec
from stillroom.teachers.cache.layout import Array, arrays_of, view_name
from stillroom.teachers.cache.shelf import Shelf
from stillroom.teachers.cache.store import cache_root, check_room, in_words, locked, readable, told
from stillroom.teachers.cache.stored import StoredAnswers
from stillroom.teachers.knowledge import ModelOutput

__all__ = ["Built", "CacheSpec", "StoredAnswers", "TeacherCache"]


@dataclass(frozen=True)
class Built:
    """What it took to have a cache complete.

    Attributes:
        images_asked: images that the teacher was asked about by this call, each view of them counted.
        seconds: duration of the call, waiting for another process included.
        bytes: size of the views that were wanted.
    """

    images_asked: int
    seconds: float
    bytes: int


class TeacherCache:
    """What a teacher says of each view of each image, kept under a name that says what it depends on.

    Args:
        spec: which answers, and in which form.
        max_gb: a larger cache is not built; units of 10⁹ bytes.
        root: where caches lie; :func:`cache_root` where left out.
        what: what notes call it.

    Attributes:
        spec: which answers, and in which form.
        folder: where it lies.

    >>> import tempfile
    >>> cache = TeacherCache(CacheSpec({"data": "abc"}, count=3, classes=2), root=Path(tempfile.mkdtemp()))
    >>> def ask(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
    ...     return ModelOutput(torch.from_numpy(rows)[:, None] + torch.tensor([0.0, 0.5]) + view)
    >>> cache.ensure([0, 1], ask).images_asked, cache.ensure([0, 1], ask).images_asked
    (6, 0)
    >>> cache.open([0, 1]).read(np.array([2]), view=1).logits
    tensor([[3.0000, 3.5000]])
    """

    def __init__(
        self, spec: CacheSpec, *, max_gb: float = 10.0, root: Path | None = None, what: str = "teacher cache"
    ) -> None:
        self.spec = spec
        self.folder = (root or cache_root()) / spec.key
        self._max_gb = max_gb
        self._what = what
        self._shelf = Shelf(self.folder, spec)

    def ensure(
        self,
        views: Sequence[int],
        ask: Ask,
        *,
        note: Note = lambda text: None,
        phase: Phase = lambda what, done, total: None,
    ) -> Built:
        """Have these views complete: what is missing is asked, what is there is left alone.

        Where all are there, nothing is written, so that the folder may be read-only. Else one process builds and the
        others wait; a view that a killed build left is gone on with.

        Args:
            views: the views' numbers.
            ask: the teacher: a view and images, int64 [B], to its ModelOutput of them. It is asked about
                ``spec.block`` images at a time, in order.
            note: told the size before anything is built.
            phase: told what goes on: what, images done, images in all.

        Returns:
            What it took.

        Raises:
            BadInput: something in the folder is not what it should be, the cache would be too large for ``max_gb`` or
                the disk, or an answer cannot be kept. What was built stays.
        """
        begin = time.perf_counter()
        wanted = sorted(set(views))
        if not wanted or wanted[0] < 0:
            raise ValueError(f"views: got {list(views)}; expected one or more numbers of 0 or more")
        images = 0
        if self.missing(wanted):
            with locked(self.folder, lambda: self._wait(wanted, phase)):
                if missing := self.missing(wanted):
                    images = self._build(wanted, missing, ask, note, phase)
        return Built(images, time.perf_counter() - begin, self._bytes(wanted))

    def covering(self, views: Sequence[int]) -> TeacherCache:
        """Where these views are complete: this cache, or one that keeps the same answers and more; this if neither.

        Args:
            views: the views' numbers.

        Raises:
            BadInput: something in this cache's folder is not what it should be.
        """
        if not self.missing(views):
            return self
        for spec in covering_specs(self.spec, self.folder.parent):
            other = TeacherCache(spec, max_gb=self._max_gb, root=self.folder.parent, what=self._what)
            with suppress(BadInput):  # what is wrong there does not concern who can build his own
                if not other.missing(views):
                    return other
        return self

    def open(
        self, views: Sequence[int], device: torch.device | str = "cpu", *, only: CacheSpec | None = None
    ) -> StoredAnswers:
        """Open complete views for reading, every block of them verified.

        Args:
            views: the views' numbers.
            device: where answers are wanted.
            only: what of it is wanted, where this cache covers another.

        Raises:
            BadInput: a view is not there, half-built, damaged or another cache's.
        """
        with readable(self.folder):
            self._shelf.check_identity()
            if only is None or only == self.spec:
                maps = {view: self._shelf.map(view) for view in sorted(set(views))}
                return StoredAnswers(self.spec, maps, torch.device(device), self.folder)
            names = arrays_in(only, self.spec)
            there = {view: self._shelf.map(view, names.values()) for view in sorted(set(views))}
        maps = {view: {name: arrays[other] for name, other in names.items()} for view, arrays in there.items()}
        return StoredAnswers(only, maps, torch.device(device), self.folder)

    def missing(self, views: Sequence[int]) -> list[int]:
        """Those of the views that are not complete.

        Raises:
            BadInput: something in the folder is not what it should be.
        """
        wanted = sorted(set(views))
        with readable(self.folder):
            if not self._shelf.check_identity():
                return wanted
            return [view for view in wanted if not self._shelf.is_complete(view)]

    def _wait(self, wanted: Sequence[int], phase: Phase) -> bool:
        """While another process builds: tell how far it is; true once it has built what is wanted."""
        done = sum(self._shelf.images_done(view) for view in wanted)
        phase(f"{self._what}: waiting for another process to build it", done, len(wanted) * self.spec.count)
        return not self.missing(wanted)

    def _build(self, wanted: Sequence[int], missing: Sequence[int], ask: Ask, note: Note, phase: Phase) -> int:
        asking = _Asking(ask)
        arrays = self._arrays(missing, asking)
        self._announce(wanted, missing, arrays, note)
        whole = sum(array.bytes for array in arrays)
        needed = whole * len(missing) - sum(built_bytes(self._shelf, arrays, view) for view in missing)
        check_room(self.folder, needed)
        with told(self.folder, needed):
            self.folder.mkdir(exist_ok=True)
            sweep_partial(self.folder)
            if not self._shelf.check_identity():
                self._shelf.write_identity()
            for view in self._shelf.complete():  # a kill just after a view was completed leaves this behind
                self._shelf.progress_path(view).unlink(missing_ok=True)
        done, total = 0, len(missing) * self.spec.count

        def progress(images: int) -> None:
            nonlocal done
            done += images
            phase(f"{self._what}: building", done, total)

        for view in missing:
            left = whole * len(missing) - whole * (done // self.spec.count)
            ViewBuilder(self._shelf, arrays, view, left).build(asking, progress, note)
        return asking.images

    def _arrays(self, missing: Sequence[int], asking: _Asking) -> list[Array]:
        """What a view consists of: known before, or from a view that is begun, or else from the first answers."""
        if not self.spec.taps:
            return arrays_of(self.spec, {})
        for view in self._shelf.complete():
            if (record := self._shelf.record(view)) is not None:
                return self._shelf.arrays(record)
        for view in missing:
            if (record := begun(self._shelf, view)) is not None:
                return self._shelf.arrays(record)
        first = next(self.spec.blocks())
        said = asking.first(missing[0], np.arange(first.start, first.stop, dtype=np.int64))
        for tap in self.spec.taps:
            if tap not in said.features:
                raise BadInput("teacher", tap, f"features at it beside the logits; it gave {sorted(said.features)}")
        return arrays_of(self.spec, {tap: said.features[tap].shape[1:] for tap in self.spec.taps})

    def _announce(self, wanted: Sequence[int], missing: Sequence[int], arrays: Sequence[Array], note: Note) -> None:
        spec = self.spec
        size = len(wanted) * sum(array.bytes for array in arrays)
        views = "1 view" if len(wanted) == 1 else f"{len(wanted)} views"
        logits = f"{spec.classes:,} logits"
        if spec.top_k is not None:
            logits = f"the {spec.top_k:,} largest of {logits}"
        features = f" and features at {', '.join(spec.taps)}" if spec.taps else ""
        if spec.fishers:
            features += f" with Fisher weights of {'; '.join(map(str, spec.fishers))}"
        there = "" if len(missing) == len(wanted) else f", {len(wanted) - len(missing)} of them there already"
        form = f"{views} of {spec.count:,} images, {logits}{features} each in {spec.dtype}"
        note(f"{self._what}: {form}: {in_words(size)} in {self.folder}{there}")
        if size > self._max_gb * 1e9:
            raise BadInput(
                "cache.max_gb",
                self._max_gb,
                f"room for {in_words(size)}, {form}: allow more, keep less (cache.top_k, cache.dtype float16, fewer "
                "data.augmentation.views), or set cache.enabled false",
            )

    def _bytes(self, views: Sequence[int]) -> int:
        return sum(path.stat().st_size for view in views for path in self.folder.glob(f"{view_name(view)}.*.bin"))


class _Asking:
    """The teacher, with a count of what it was asked, and its first answers kept until they are wanted."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._kept: tuple[int, ModelOutput] | None = None
        self.images = 0

    def first(self, view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
        """Ask about the first block before it is known where the answers go."""
        self._kept = (view, said := self(view, rows))
        return said

    def __call__(self, view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
        if self._kept is not None and self._kept[0] == view and rows[0] == 0:
            (_, said), self._kept = self._kept, None
            return said
        self.images += len(rows)
        return self._ask(view, rows)
