"""Atomic writing, so that a crash leaves the old file or the new one, hashes of content, and finding input files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATA_VARIABLE = "STILLROOM_DATA"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; when the block ends without an error, it replaces ``path`` in one step.

    Where the block raises, ``path`` is left as it was and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_partial(path: Path) -> bool:
    """Whether a file was left by a write that was killed.

    >>> is_partial(Path("run/.recipe.yaml.x1.part")), is_partial(Path("run/my.part"))
    (True, False)
    """
    return path.name.startswith(".") and path.suffix == ".part"


def remove_partial(folder: Path) -> None:
    """Remove the files that killed writes left in ``folder`` (its ``.NAME.*.part`` files)."""
    for leftover in filter(is_partial, folder.rglob("*.part")):
        leftover.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write an object as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def canonical_json(content: Any) -> bytes:
    """JSON bytes that depend on the content alone: sorted keys, no spaces.

    >>> canonical_json({"b": 1, "a": [1.5]})
    b'{"a":[1.5],"b":1}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each preceded by its length so that no two lists of parts collide; 64 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def find_input(path: str | Path) -> Path:
    """The file or folder a user named: as given, or else under the folder named by ``STILLROOM_DATA``.

    Returns the path as given where neither exists, so that the caller's error names what the user wrote.
    """
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    root = os.environ.get(DATA_VARIABLE)
    if root:
        under_root = Path(root).expanduser() / given
        if under_root.exists():
            return under_root
    return given
