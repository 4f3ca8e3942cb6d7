"""The teacher cache: outputs of each view of each image, computed once, stored on disk and shared by runs.

A folder holds one identity and its views. Every block is verified when it is opened; what fails is refused.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.files import cache_root, remove_partial, write_json
from stillroom.schema.base import read_json
from stillroom.schema.cache import IDENTITY, CacheFile, CacheIdentity
from stillroom.teachers.cache_format import (
    FORMAT,
    Array,
    CacheSpec,
    ViewRecord,
    arrays_in,
    arrays_of,
    checksums,
    differences,
    encode,
    join_top,
    map_array,
    read_record,
    refusal,
    rest_of,
    view_name,
)
from stillroom.teachers.cache_store import (
    cache_keys,
    check_room,
    in_words,
    locked,
    readable,
    reporting_errors,
)
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput

Query = Callable[[int, npt.NDArray[np.int64]], ModelOutput]
Note = Callable[[str], None]
Phase = Callable[[str, int, int], None]


def covering_specs(spec: CacheSpec, root: Path) -> list[CacheSpec]:
    """Other caches of the same teacher outputs that store all that this one does, the smallest first.

    Logits do not depend on which taps are read, so a run that needs logits alone, or fewer taps, can use any of these.
    Only the identity files are read here.
    """
    found = []
    for key in cache_keys(root):
        other = _read(root / key / IDENTITY, spec) if key != spec.key else None
        # The same parts give the same key: then nothing else differs.
        if other is not None and other.key == key and _covers(other, spec):
            found.append(other)
    return sorted(found, key=lambda other: (len(other.taps) + len(other.fishers), other.key))


def _covers(other: CacheSpec, spec: CacheSpec) -> bool:
    return set(spec.taps) <= set(other.taps) and set(spec.fishers) <= set(other.fishers)


def _read(path: Path, spec: CacheSpec) -> CacheSpec | None:
    """The spec of another cache, if it differs from this one in taps and Fisher weights alone."""
    try:
        kept = read_json(CacheFile, path).identity.kept
        fishers = tuple(FisherOf(**of.as_dict()) for of in kept.fishers or ())
        return replace(spec, taps=kept.taps, fishers=fishers)
    except (ValueError, TypeError):
        return None  # damaged, or another version's: its own runs will tell


class CacheFolder:
    """A cache's folder. What it holds is verified; anything else than what was written is refused.

    Args:
        folder: may not exist yet.
        spec: what it should hold.
    """

    def __init__(self, folder: Path, spec: CacheSpec) -> None:
        self.folder = folder
        self.spec = spec

    def check_identity(self) -> bool:
        """Whether the folder holds a cache of this identity; False for an empty one. Another identity is refused."""
        path = self.folder / IDENTITY
        if not path.exists():
            orphans = any(self.folder.glob("view-*"))
            # Looked for again: another process may have begun to build between the two looks.
            if not path.exists():
                if orphans:
                    expected = "the identity file of the views in this folder: it is missing"
                    raise refusal(self.folder, IDENTITY, expected)
                return False
        content = self._read(path)
        try:
            written: Any = json.loads(content)
            found_format = written["format"]
            if found_format != FORMAT:
                expected = f"a cache of format {FORMAT}, not {found_format}: another version of stillroom wrote it"
                raise refusal(self.folder, IDENTITY, expected)
            identity = CacheFile.model_validate(written).identity
        except BadInput:
            raise
        except (ValueError, TypeError, KeyError):
            raise refusal(self.folder, IDENTITY, "an unharmed JSON file: this one is damaged") from None
        if differs := differences(identity.as_dict(), self.spec.identity):
            raise refusal(self.folder, IDENTITY, f"the cache of this run, but it differs: {'; '.join(differs)}")
        return True

    def write_identity(self) -> None:
        """Write the identity file.

        Raises:
            OSError: from the disk.
        """
        identity = CacheIdentity.model_validate(self.spec.identity)
        write_json(self.folder / IDENTITY, CacheFile(format=FORMAT, identity=identity).as_dict())

    def record(self, view: int) -> ViewRecord | None:
        """The record of a complete view; None if the view is missing or incomplete."""
        path = self.record_path(view)
        if not path.exists():
            # In this order, as another process may be building: the progress file is there before the data, and goes
            # after the record has come.
            there = any(self.folder.glob(f"{view_name(view)}.*.bin"))
            orphans = there and not self.progress_path(view).exists()
            if not path.exists():
                if orphans:
                    expected = f"the JSON file of view {view}: it is missing, so the data cannot be verified"
                    raise refusal(self.folder, path.name, expected)
                return None
        try:
            return read_record(self._read(path), self.spec, view)
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            raise refusal(self.folder, path.name, str(error)) from None

    def is_complete(self, view: int) -> bool:
        """Whether a view is complete, by its JSON and the sizes of its files."""
        record = self.record(view)
        if record is None:
            return False
        for array in self.arrays(record):
            path = array.path(self.folder, view)
            size = path.stat().st_size if path.exists() else -1
            if size < 0:
                raise refusal(self.folder, path.name, f"the data of view {view}: the file is missing")
            if size != array.bytes:
                how = "cut short" if size < array.bytes else "too long"
                raise refusal(self.folder, path.name, f"{array.bytes:,} bytes, not {size:,}: the file is {how}")
        return True

    def complete(self) -> list[int]:
        """The views that have a complete record."""
        found = (re.fullmatch(r"view-(\d{4,})\.json", path.name) for path in self.folder.glob("view-*.json"))
        return sorted(int(match[1]) for match in found if match)

    def arrays(self, record: ViewRecord) -> list[Array]:
        """The arrays of a view, by its record."""
        return arrays_of(self.spec, record.features(self.spec))

    def map(self, view: int, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a complete view, or some of them: every block verified, memory-mapped."""
        record = self.record(view)
        if record is None:
            raise self._unfinished(view)
        mapped = {}
        for array in self.arrays(record):
            if names is not None and array.name not in names:
                continue
            path = array.path(self.folder, view)
            sums = [int(word, 16) for word in record.arrays[array.name].crc32.split()]
            try:
                mapped[array.name] = map_array(path, array, self.spec, sums)
            except FileNotFoundError:
                raise refusal(self.folder, path.name, f"the data of view {view}: the file is missing") from None
            except (OSError, ValueError) as error:
                raise refusal(self.folder, path.name, getattr(error, "strerror", None) or str(error)) from None
        return mapped

    def images_done(self, view: int) -> int:
        """Images of a view that are built, for showing another process's progress. Refuses nothing."""
        if self.record_path(view).exists():
            return self.spec.count
        try:
            blocks = self.progress_path(view).read_bytes().count(b"\n") - 1
        except OSError:
            return 0
        return min(max(blocks, 0) * self.spec.block, self.spec.count)

    def record_path(self, view: int) -> Path:
        """Path of a view's JSON, written last."""
        return self.folder / f"{view_name(view)}.json"

    def progress_path(self, view: int) -> Path:
        """Path of the checksums of a view that is being built."""
        return self.folder / f"{view_name(view)}.progress"

    def _unfinished(self, view: int) -> BadInput:
        begun = self.progress_path(view).exists()
        how = f"half-built, {self.images_done(view):,} of {self.spec.count:,} images" if begun else "not built"
        expected = f"a complete view {view}: it is {how}; a run that may build the cache continues there"
        return BadInput("cache", str(self.folder), expected)

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise refusal(self.folder, path.name, f"a file that can be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise refusal(self.folder, path.name, "an unharmed JSON file: this one is damaged") from None


class ViewBuilder:
    """Builds one view, or resumes a build that was killed.

    The order of writes makes it safe. First comes the progress file's header (what is being built). Each block writes
    its data and then its checksums. At the end the data are flushed, the view's JSON is written, and the progress file
    is removed. So a block without checksums is written again, and data without either file are not ours.

    Args:
        cache_folder: the cache's folder, locked by this process.
        arrays: what a view consists of.
        view: its number.
        needed: bytes that are still to be written, for the message about a full disk.
    """

    def __init__(self, cache_folder: CacheFolder, arrays: Sequence[Array], view: int, needed: int) -> None:
        self._cache_folder, self._arrays, self._view, self._needed = cache_folder, list(arrays), view, needed
        self._spec = cache_folder.spec
        self._paths = [array.path(cache_folder.folder, view) for array in self._arrays]
        self._sums: list[list[int]] = []

    def build(self, query: Query, done: Callable[[int], None], note: Note) -> int:
        """Query the teacher for the missing images and complete the view."""
        progress = self._cache_folder.progress_path(self._view)
        with ExitStack() as stack:
            with reporting_errors(self._cache_folder.folder, self._needed):
                kept, length = self._found(progress, note)
                log = stack.enter_context(_opened(progress))
                files = [stack.enter_context(_opened(path)) for path in self._paths]
                self._cut(log, files, kept, length)
            there = min(len(kept) * self._spec.block, self._spec.count)
            done(there)
            for place, block in enumerate(self._spec.blocks()):
                if place < len(kept):
                    continue
                rows = np.arange(block.start, block.stop, dtype=np.int64)
                answers = encode(query(self._view, rows), self._spec, self._arrays, self._view, rows)
                with reporting_errors(self._cache_folder.folder, self._needed):
                    self._write(log, files, [answers[array.name] for array in self._arrays])
                done(len(rows))
            with reporting_errors(self._cache_folder.folder, self._needed):
                for file in files:
                    os.fsync(file.fileno())
        with reporting_errors(self._cache_folder.folder, self._needed):
            record = ViewRecord.of(self._spec, self._view, self._arrays, self._sums)
            write_json(self._cache_folder.record_path(self._view), record.model_dump(mode="json"))
            progress.unlink()
        return self._spec.count - there

    def _found(self, progress: Path, note: Note) -> tuple[list[list[int]], int]:
        """The checksums of the valid blocks, and the length of the progress file up to them."""
        if not progress.exists():
            return [], 0
        lines = progress.read_bytes().splitlines(keepends=True)
        listed, ends = _complete(lines, len(self._arrays))
        if not lines or not self._is_ours(lines[0]):
            return [], 0
        with ExitStack() as stack:
            try:
                files = [stack.enter_context(path.open("rb")) for path in self._paths]
            except FileNotFoundError:
                return [], len(lines[0])
            there = [
                checksums(file, array, self._spec, limit=len(listed))
                for file, array in zip(files, self._arrays, strict=True)
            ]
        good = 0
        for found, sums in zip(zip(*there, strict=False), listed, strict=False):
            if list(found) != sums:
                break
            good += 1
        if good < len(listed):
            first = good * self._spec.block
            where = f"half-built view {self._view} in {self._cache_folder.folder}"
            note(f"{where} is damaged: built again from sample {first} on")
        return listed[:good], ends[good]

    def _is_ours(self, line: bytes) -> bool:
        """Whether the progress file's header is complete and describes what is being built.
        S
                    # Looked for again: another process may have begun to build between the two looks.
        --
                    # Checked again: another process may have started to build in between.
        """
        try:
            begun = read_record(line.decode("utf-8"), self._spec, self._view)
        except ValueError:
            return False
        return line.endswith(b"\n") and begun == ViewRecord.of(self._spec, self._view, self._arrays)

    def _cut(self, log: BinaryIO, files: list[BinaryIO], kept: list[list[int]], length: int) -> None:
        """Truncate after the valid blocks and continue there."""
        self._sums = [*kept]
        log.truncate(length)
        log.seek(length)
        rows = min(len(kept) * self._spec.block, self._spec.count)
        if not length:
            begun = ViewRecord.of(self._spec, self._view, self._arrays)
            _write_all(log, begun.model_dump_json().encode("utf-8") + b"\n")
            os.fsync(log.fileno())
        for file, array in zip(files, self._arrays, strict=True):
            file.truncate(rows * array.row_bytes)
            file.seek(rows * array.row_bytes)

    def _write(self, log: BinaryIO, files: list[BinaryIO], answers: list[npt.NDArray[Any]]) -> None:
        sums = []
        for file, answer in zip(files, answers, strict=True):
            content = answer.tobytes()
            _write_all(file, content)
            sums.append(zlib.crc32(content))
        _write_all(log, json.dumps(sums).encode() + b"\n")
        self._sums.append(sums)


def begun(cache_folder: CacheFolder, view: int) -> ViewRecord | None:
    """The record of a half-built view; None if none was started."""
    try:
        with cache_folder.progress_path(view).open("rb") as log:
            return read_record(log.readline().decode("utf-8"), cache_folder.spec, view)
    except (OSError, ValueError):
        return None


def built_bytes(cache_folder: CacheFolder, arrays: Sequence[Array], view: int) -> int:
    """Bytes of a view that are on the disk already."""
    paths = [array.path(cache_folder.folder, view) for array in arrays]
    return sum(path.stat().st_size for path in paths if path.exists())


def _complete(lines: Sequence[bytes], width: int) -> tuple[list[list[int]], list[int]]:
    """The blocks listed by complete lines, and the offset at which each ends; the first offset ends the header."""
    listed: list[list[int]] = []
    ends = [len(lines[0])] if lines else [0]
    for line in lines[1:]:
        try:
            sums = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(sums, list) or len(sums) != width:
            break
        listed.append(sums)
        ends.append(ends[-1] + len(line))
    return listed, ends


def _opened(path: Path) -> BinaryIO:
    # Unbuffered, so that a kill loses nothing that was written.
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b", buffering=0)


def _write_all(file: BinaryIO, content: bytes) -> None:
    """Write everything: on a nearly full disk one call may write only a part."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


_CHECKED_IMAGES = 16  # of a view
_CHECKED_VIEWS = 8
_ROUNDING = {"float16": 2.0**-10, "float32": 2.0**-22}
_PIECE = 1 << 26  # bytes copied to a device at a time

Maps = Mapping[str, npt.NDArray[Any]]


class StoredOutputs:
    """The outputs of a cache, open for reading; :meth:`TeacherCache.open` makes it.

    Nothing is read before it is needed. The arrays are memory-mapped, and processes share the pages that they read.
    On a GPU they are copied to the device if they fit into a quarter of its free memory.

    Args:
        spec: what is stored.
        views: the arrays of each view by name.
        device: where outputs are wanted.
        folder: the cache's folder, for errors.

    Attributes:
        spec: what is stored.
        views: the numbers of the views that are open.
        resident: whether the arrays are on the device.
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
        """The stored outputs for some images.

        Args:
            rows: the images, int64 [B], in any order, repeats allowed.
            view: their view.

        Returns:
            ModelOutput in float32, on the device: logits [B, K], the features of each tap, and Fisher weights.

        Raises:
            IndexError: no such image, or the view is not open.
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

    def check(self, query: Query, *, tolerance: float = 1e-3) -> None:
        """Query the teacher again on a few images, and refuse outputs that differ from those stored.

        The identity names the teacher's weights, but custom code can change while they stay equal. Up to 16 images,
        evenly spread, of each of up to 8 views, first and last included, are queried again. Two outputs agree if, in
        each image, no number differs by more than (r + ``tolerance``) · the image's largest |number|, r = 2⁻¹⁰ for
        float16 and 2⁻²² for float32.

        Args:
            query: the teacher.
            tolerance: allowed difference between batches of different size or two machines, relative to the largest
                number; bfloat16 needs a few per cent.

        Raises:
            BadInput: they do not agree; which image and view, and by how much.
        """
        some = np.unique(np.linspace(0, self.spec.count - 1, _CHECKED_IMAGES).astype(np.int64))
        places = np.unique(np.linspace(0, len(self.views) - 1, _CHECKED_VIEWS).astype(np.int64))
        share = _ROUNDING[self.spec.dtype] + tolerance
        for view in (self.views[place] for place in places):
            for what, stored, now in self._both(query(view, some), some, view):
                _compare(what, stored, now, share, some, view, self._folder)

    def _both(
        self, output: ModelOutput, rows: npt.NDArray[np.int64], view: int
    ) -> list[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
        """Stored and new outputs in the same form, with a name for each pair."""
        maps = {name: array[rows] for name, array in self._maps[view].items()}
        logits = _as_array(output.logits)
        if logits.shape != (len(rows), self.spec.classes):
            raise self._stale(f"logits of shape {list(logits.shape)} for {len(rows)} images")
        pairs = []
        if self.spec.top_k is None:
            pairs.append(("logits", maps["logits"], logits))
        else:
            # Compared at the stored classes: at the edge, two nearly equal ones may change places.
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
            now = _as_array(output.features[tap]) if tap in output.features else np.empty(0)
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
    """Copy a mapped array to the device in pieces, so that it need not fit into the CPU's memory."""
    like = torch.from_numpy(np.empty(0, dtype=_on_device(array)))
    loaded = torch.empty(array.shape, dtype=like.dtype, device=device)
    step = max(_PIECE // max(array[:1].nbytes, 1), 1)
    for start in range(0, len(array), step):
        piece = np.array(array[start : start + step], dtype=_on_device(array))
        loaded[start : start + step].copy_(torch.from_numpy(piece))
    return loaded


def _as_array(output: Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(output.detach().to("cpu", torch.float64).numpy())


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
    how = f"now gives other outputs for image {rows[worst]} in view {view}: max|Δ| of its {what} is {off:.3g}"
    raise _stale(folder, f"{how}, more than the {most:.3g} of rounding")


def _stale(folder: Path, how: str) -> BadInput:
    expected = f"the outputs of this teacher; stale: the teacher {how}; remove the folder {folder} to query it again"
    return BadInput("cache", folder.name, expected)


@dataclass(frozen=True)
class Built:
    """The cost of completing a cache."""

    images_queried: int  # images that this call queried the teacher for, each view counted
    seconds: float  # duration of the call, waiting for another process included
    bytes: int  # size of the views that were requested


class TeacherCache:
    """A teacher's outputs for each view of each image, stored under a hash of all that they depend on.

    Args:
        spec: which outputs, and in which form.
        max_gb: a larger cache is not built; units of 10⁹ bytes.
        root: the folder of caches; default :func:`cache_root`.
        what: its name in notes.

    Attributes:
        spec: which outputs, and in which form.
        folder: the cache's folder.

    >>> import tempfile
    >>> cache = TeacherCache(CacheSpec({"data": "abc"}, count=3, classes=2), root=Path(tempfile.mkdtemp()))
    >>> def query(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
    ...     return ModelOutput(torch.from_numpy(rows)[:, None] + torch.tensor([0.0, 0.5]) + view)
    >>> cache.ensure([0, 1], query).images_queried, cache.ensure([0, 1], query).images_queried
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
        self._cache_folder = CacheFolder(self.folder, spec)

    def ensure(
        self,
        views: Sequence[int],
        query: Query,
        *,
        planned: Sequence[int] = (),
        note: Note = lambda text: None,
        phase: Phase = lambda what, done, total: None,
    ) -> Built:
        """Complete these views: query the teacher for what is missing.

        If all are complete, nothing is written, so the folder may be read-only. Otherwise one process builds and the
        others wait. A view that a killed build left incomplete is continued.

        Args:
            views: the views' numbers.
            query: the teacher: from a view and images, int64 [B], to its output; called for ``spec.block`` images at
                a time, in order.
            planned: all views that will be wanted: the size of these is announced and must be allowed.
            note: called with the size before anything is built.
            phase: called with progress: what, images done, images in total.

        Raises:
            BadInput: the folder is damaged, the cache would be too large for ``max_gb`` or the disk, or an output
                cannot be stored. What was built stays.
        """
        begin = time.perf_counter()
        wanted = sorted(set(views))
        if not wanted or wanted[0] < 0:
            raise ValueError(f"views: got {list(views)}; expected one or more numbers of 0 or more")
        images = 0
        if self.missing(wanted):
            with locked(self.folder, lambda: self._wait(wanted, phase)):
                if missing := self.missing(wanted):
                    images = self._build(wanted, missing, planned, query, note, phase)
        return Built(images, time.perf_counter() - begin, self._bytes(wanted))

    def covering(self, views: Sequence[int]) -> TeacherCache:
        """This cache if these views are complete, else a cache that stores the same and more, else this one.

        Raises:
            BadInput: this cache's folder is damaged.
        """
        if not self.missing(views):
            return self
        for spec in covering_specs(self.spec, self.folder.parent):
            other = TeacherCache(spec, max_gb=self._max_gb, root=self.folder.parent, what=self._what)
            with suppress(BadInput):  # a damaged other cache does not matter: this one can be built
                if not other.missing(views):
                    return other
        return self

    def open(
        self, views: Sequence[int], device: torch.device | str = "cpu", *, only: CacheSpec | None = None
    ) -> StoredOutputs:
        """Open complete views for reading, every block verified.

        Args:
            views: the views' numbers.
            device: where outputs are wanted.
            only: which outputs are wanted, if this cache covers another.

        Raises:
            BadInput: a view is missing, half-built, damaged or another cache's.
        """
        with readable(self.folder):
            self._cache_folder.check_identity()
            if only is None or only == self.spec:
                maps = {view: self._cache_folder.map(view) for view in sorted(set(views))}
                return StoredOutputs(self.spec, maps, torch.device(device), self.folder)
            names = arrays_in(only, self.spec)
            there = {view: self._cache_folder.map(view, names.values()) for view in sorted(set(views))}
        maps = {view: {name: arrays[other] for name, other in names.items()} for view, arrays in there.items()}
        return StoredOutputs(only, maps, torch.device(device), self.folder)

    def missing(self, views: Sequence[int]) -> list[int]:
        """Those of the views that are not complete; BadInput where the folder is damaged."""
        wanted = sorted(set(views))
        with readable(self.folder):
            if not self._cache_folder.check_identity():
                return wanted
            return [view for view in wanted if not self._cache_folder.is_complete(view)]

    def _wait(self, wanted: Sequence[int], phase: Phase) -> bool:
        """Show the progress of the process that is building; true once it has built what is wanted."""
        done = sum(self._cache_folder.images_done(view) for view in wanted)
        phase(f"{self._what}: waiting for another process to build it", done, len(wanted) * self.spec.count)
        return not self.missing(wanted)

    def _build(
        self,
        wanted: Sequence[int],
        missing: Sequence[int],
        planned: Sequence[int],
        query: Query,
        note: Note,
        phase: Phase,
    ) -> int:
        counted = _CountedQuery(query)
        arrays = self._arrays(missing, counted)
        planned = sorted({*wanted, *planned})
        all_missing = self.missing(planned)
        self._announce(planned, all_missing, arrays, note)
        whole = sum(array.bytes for array in arrays)
        needed = whole * len(all_missing) - sum(built_bytes(self._cache_folder, arrays, view) for view in all_missing)
        check_room(self.folder, needed)
        with reporting_errors(self.folder, needed):
            self.folder.mkdir(exist_ok=True)
            remove_partial(self.folder)
            if not self._cache_folder.check_identity():
                self._cache_folder.write_identity()
            for view in self._cache_folder.complete():  # a kill just after a view was completed leaves this behind
                self._cache_folder.progress_path(view).unlink(missing_ok=True)
        done, total = 0, len(missing) * self.spec.count

        def progress(images: int) -> None:
            nonlocal done
            done += images
            phase(f"{self._what}: building", done, total)

        for view in missing:
            left = whole * len(missing) - whole * (done // self.spec.count)
            ViewBuilder(self._cache_folder, arrays, view, left).build(counted, progress, note)
        return counted.images

    def _arrays(self, missing: Sequence[int], counted: _CountedQuery) -> list[Array]:
        """The arrays of a view: known already, or from a view that was started, or else from the first outputs."""
        if not self.spec.taps:
            return arrays_of(self.spec, {})
        for view in self._cache_folder.complete():
            if (record := self._cache_folder.record(view)) is not None:
                return self._cache_folder.arrays(record)
        for view in missing:
            if (record := begun(self._cache_folder, view)) is not None:
                return self._cache_folder.arrays(record)
        first = next(self.spec.blocks())
        output = counted.first(missing[0], np.arange(first.start, first.stop, dtype=np.int64))
        for tap in self.spec.taps:
            if tap not in output.features:
                raise BadInput("teacher", tap, f"features at it with the logits; it gave {sorted(output.features)}")
        return arrays_of(self.spec, {tap: output.features[tap].shape[1:] for tap in self.spec.taps})

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
        there = "" if len(missing) == len(wanted) else f", {len(wanted) - len(missing)} of them already built"
        form = f"{views} of {spec.count:,} images, {logits}{features} each in {spec.dtype}"
        note(f"{self._what}: {form}: {in_words(size)} in {self.folder}{there}")
        if size > self._max_gb * 1e9:
            raise BadInput(
                "cache.max_gb",
                self._max_gb,
                f"room for {in_words(size)}, {form}: allow more, store less (cache.top_k, cache.dtype float16, fewer "
                "data.augmentation.views), or set cache.enabled false",
            )

    def _bytes(self, views: Sequence[int]) -> int:
        return sum(path.stat().st_size for view in views for path in self.folder.glob(f"{view_name(view)}.*.bin"))


class _CountedQuery:
    """A query that counts images, and holds its first output until it is used."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._kept: tuple[int, ModelOutput] | None = None
        self.images = 0

    def first(self, view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
        """Query the first block before its arrays are known."""
        self._kept = (view, output := self(view, rows))
        return output

    def __call__(self, view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
        if self._kept is not None and self._kept[0] == view and rows[0] == 0:
            (_, output), self._kept = self._kept, None
            return output
        self.images += len(rows)
        return self._query(view, rows)
