"""Building a view block by block, so that a kill at any instant loses one block at most."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from stillroom.files import write_json
from stillroom.teachers.cache.coding import encode
from stillroom.teachers.cache.layout import Array, ViewRecord, checksums, read_record
from stillroom.teachers.cache.shelf import Shelf
from stillroom.teachers.cache.store import told
from stillroom.teachers.knowledge import ModelOutput

Ask = Callable[[int, npt.NDArray[np.int64]], ModelOutput]
Note = Callable[[str], None]
Phase = Callable[[str, int, int], None]


class ViewBuilder:
    """Builds one view, or what a killed build left of it.

    The order of writes is what makes it safe: the progress file's first line (what is being built), then, for each
    block, its data and then its checksums; at the end the data are flushed to the disk, the view's JSON is written,
    and the progress file removed. So a block that has no checksums is written again, and data without either file are
    no work of ours.

    Args:
        shelf: the cache's folder, held by this process alone.
        arrays: what a view consists of.
        view: its number.
        needed: bytes that are still to be written, for telling a full disk.
    """

    def __init__(self, shelf: Shelf, arrays: Sequence[Array], view: int, needed: int) -> None:
        self._shelf, self._arrays, self._view, self._needed = shelf, list(arrays), view, needed
        self._spec = shelf.spec
        self._paths = [array.path(shelf.folder, view) for array in self._arrays]
        self._sums: list[list[int]] = []

    def build(self, ask: Ask, done: Callable[[int], None], note: Note) -> int:
        """Ask about the images that are not there yet and complete the view.

        Args:
            ask: the teacher; not asked about a block that is there.
            done: told the number of images of each block, as it is done or found done.
            note: told where what was there is not good.

        Returns:
            Images asked about.

        Raises:
            BadInput: an answer cannot be kept, or the disk is full.
        """
        progress = self._shelf.progress_path(self._view)
        with ExitStack() as stack:
            with told(self._shelf.folder, self._needed):
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
                answers = encode(ask(self._view, rows), self._spec, self._arrays, self._view, rows)
                with told(self._shelf.folder, self._needed):
                    self._write(log, files, [answers[array.name] for array in self._arrays])
                done(len(rows))
            with told(self._shelf.folder, self._needed):
                for file in files:
                    os.fsync(file.fileno())
        with told(self._shelf.folder, self._needed):
            record = ViewRecord.of(self._spec, self._view, self._arrays, self._sums)
            write_json(self._shelf.record_path(self._view), record.model_dump(mode="json"))
            progress.unlink()
        return self._spec.count - there

    def _found(self, progress: Path, note: Note) -> tuple[list[list[int]], int]:
        """The checksums of the blocks that are there and good, and the length of the progress file up to them."""
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
            note(f"half-built view {self._view} in {self._shelf.folder} is damaged: asked again from image {first} on")
        return listed[:good], ends[good]

    def _is_ours(self, line: bytes) -> bool:
        """Whether the progress file's first line is whole and describes what is being built."""
        try:
            begun = read_record(line.decode("utf-8"), self._spec, self._view)
        except ValueError:
            return False
        return line.endswith(b"\n") and begun == ViewRecord.of(self._spec, self._view, self._arrays)

    def _cut(self, log: BinaryIO, files: list[BinaryIO], kept: list[list[int]], length: int) -> None:
        """Leave the good blocks alone, and stand after them."""
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


def begun(shelf: Shelf, view: int) -> ViewRecord | None:
    """What a half-built view says of itself; None where nothing is begun."""
    try:
        with shelf.progress_path(view).open("rb") as log:
            return read_record(log.readline().decode("utf-8"), shelf.spec, view)
    except (OSError, ValueError):
        return None


def built_bytes(shelf: Shelf, arrays: Sequence[Array], view: int) -> int:
    """Bytes of a view that lie on the disk already."""
    paths = [array.path(shelf.folder, view) for array in arrays]
    return sum(path.stat().st_size for path in paths if path.exists())


def _complete(lines: Sequence[bytes], width: int) -> tuple[list[list[int]], list[int]]:
    """The blocks listed by whole lines, and where each ends in the file; the first end is the first line's."""
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
    # Unbuffered: what is written is the system's at once, and no kill takes it away.
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b", buffering=0)


def _write_all(file: BinaryIO, content: bytes) -> None:
    """Write all of it: a disk that is getting full takes a part and says so."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
