"""One cache's folder: what is in it, whether it is what is wanted, and which views are complete."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy.typing as npt

from stillroom.errors import BadInput
from stillroom.files import write_json
from stillroom.teachers.cache.identity import FORMAT, CacheSpec, differences
from stillroom.teachers.cache.layout import Array, ViewRecord, arrays_of, map_array, read_record, refusal, view_name
from stillroom.teachers.cache.store import IDENTITY


class Shelf:
    """A cache's folder, read with distrust: what is not exactly what was written is refused.

    Args:
        folder: may not be there yet.
        spec: what it should hold.
    """

    def __init__(self, folder: Path, spec: CacheSpec) -> None:
        self.folder = folder
        self.spec = spec

    def check_identity(self) -> bool:
        """Whether the folder holds a cache of this identity; False where it holds none yet.

        Raises:
            BadInput: it holds another's, of another format, or its identity is missing or damaged.
        """
        path = self.folder / IDENTITY
        if not path.exists():
            orphans = any(self.folder.glob("view-*"))
            # Looked for again: another process may have begun to build between the two looks.
            if not path.exists():
                if orphans:
                    expected = "the file that says what the views beside it are: it is missing"
                    raise refusal(self.folder, IDENTITY, expected)
                return False
        content = self._read(path)
        try:
            written: Any = json.loads(content)
            found_format, identity = written["format"], written["identity"]
        except (ValueError, TypeError, KeyError):
            raise refusal(self.folder, IDENTITY, "an unharmed JSON file: this one is damaged") from None
        if found_format != FORMAT:
            expected = f"a cache of format {FORMAT}, not {found_format}: another version of stillroom wrote it"
            raise refusal(self.folder, IDENTITY, expected)
        if differs := differences(identity, self.spec.identity):
            raise refusal(self.folder, IDENTITY, f"this run's cache, not a foreign one: {'; '.join(differs)}")
        return True

    def write_identity(self) -> None:
        """Make the folder what it is to be; OSError where the disk refuses."""
        write_json(self.folder / IDENTITY, {"format": FORMAT, "identity": self.spec.identity})

    def record(self, view: int) -> ViewRecord | None:
        """What a complete view says of itself; None where the view is half-built or not there.

        Raises:
            BadInput: its JSON is damaged, or missing beside data that no build was stopped in.
        """
        path = self.record_path(view)
        if not path.exists():
            building = self.progress_path(view).exists()
            orphans = not building and any(self.folder.glob(f"{view_name(view)}.*.bin"))
            # Looked for again: another process may have completed the view between the looks.
            if not path.exists():
                if orphans:
                    expected = f"the file that makes view {view} complete: it is missing, its data alone prove nothing"
                    raise refusal(self.folder, path.name, expected)
                return None
        try:
            return read_record(self._read(path), self.spec, view)
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            raise refusal(self.folder, path.name, str(error)) from None

    def is_complete(self, view: int) -> bool:
        """Whether a view is all there, by its JSON and the sizes of its files.

        Raises:
            BadInput: it is said to be, and is not.
        """
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
        """The views that say that they are complete."""
        found = (re.fullmatch(r"view-(\d{4,})\.json", path.name) for path in self.folder.glob("view-*.json"))
        return sorted(int(match[1]) for match in found if match)

    def arrays(self, record: ViewRecord) -> list[Array]:
        """The arrays of a view that says this of itself."""
        return arrays_of(self.spec, record.features(self.spec))

    def map(self, view: int, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a complete view, or some of them, every block verified, memory-mapped.

        Raises:
            BadInput: the view is not there, half-built or damaged.
        """
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
        """Images of a view that are built, for showing how far another process is; it refuses nothing."""
        if self.record_path(view).exists():
            return self.spec.count
        try:
            blocks = self.progress_path(view).read_bytes().count(b"\n") - 1
        except OSError:
            return 0
        return min(max(blocks, 0) * self.spec.block, self.spec.count)

    def record_path(self, view: int) -> Path:
        """A view's JSON, written last."""
        return self.folder / f"{view_name(view)}.json"

    def progress_path(self, view: int) -> Path:
        """The checksums of a view that is being built."""
        return self.folder / f"{view_name(view)}.progress"

    def _unfinished(self, view: int) -> BadInput:
        begun = self.progress_path(view).exists()
        how = f"half-built, {self.images_done(view):,} of {self.spec.count:,} images" if begun else "not built"
        expected = f"a complete view {view}: it is {how}; a run that may build the cache goes on there"
        return BadInput("cache", str(self.folder), expected)

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise refusal(self.folder, path.name, f"a file that can be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise refusal(self.folder, path.name, "an unharmed JSON file: this one is damaged") from None
