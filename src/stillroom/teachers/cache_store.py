"""The folder of caches: finding, listing, locking and removing them, and disk errors."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

from filelock import FileLock, Timeout

from stillroom.errors import BadInput
from stillroom.files import CACHE_VARIABLE, cache_root
from stillroom.schema.base import read_json
from stillroom.schema.cache import IDENTITY, CacheFile

_KEY = re.compile(r"[0-9a-f]{32}")
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_MOST_SHOWN = 8  # keys that a message lists
_POLL = 0.2  # seconds between attempts to take a lock that another process holds


class Listed(TypedDict):
    """One cache, as ``list_caches`` gives it.

    If its identity cannot be read, ``teacher`` and ``data`` are None and ``problem`` says why.
    """

    key: str
    teacher: str | None
    data: Any
    images: int | None
    views: int
    bytes: int
    folder: str
    problem: str | None


def list_caches(root: Path | None = None) -> list[Listed]:
    """Every cache under a root, sorted by key.

    Args:
        root: the folder of caches; default :func:`cache_root`.

    >>> list_caches(Path("no-such-folder"))
    []
    """
    root = root or cache_root()
    return [_listed(root / key) for key in cache_keys(root)]


def remove_cache(key: str, root: Path | None = None) -> Listed:
    """Remove one cache from the disk.

    Args:
        key: its key, or a unique prefix of it.
        root: the folder of caches; default :func:`cache_root`.

    Returns:
        The cache that was removed.

    Raises:
        BadInput: no cache, or more than one, matches the key; it is being built; or it cannot be removed.

    >>> remove_cache("0123", Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: cache: got '0123'; expected the key of a cache in no-such-folder; there is none
    """
    root = root or cache_root()
    for left in root.glob(".removed-*"):  # by a removal that was killed
        shutil.rmtree(left, ignore_errors=True)
    (found,) = find_keys([key], cache_keys(root), root)
    folder = root / found
    listed = _listed(folder)

    def busy() -> bool:
        raise BadInput("cache", key, "a cache that no process is building")

    with locked(folder, busy), reporting_errors(folder):
        # Renamed first, so that a kill leaves no damaged cache under this name.
        leaving = root / f".removed-{folder.name}-{os.getpid()}"
        folder.rename(leaving)
        shutil.rmtree(leaving)
    return listed


def find_keys(prefixes: Sequence[str], keys: Sequence[str], root: Path) -> list[str]:
    """The whole keys that unique prefixes mean, each once.

    Raises:
        BadInput: no key begins so, or several do, which are then listed; or there are none.

    >>> find_keys(["0a", "0a1"], ["0a12", "0b34"], Path("caches"))
    ['0a12']
    >>> find_keys(["0"], ["0a12", "0b34"], Path("caches"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: cache: got '0'; expected the key of a cache in caches; 2 begin so: 0a12, 0b34
    """
    found: dict[str, None] = {}
    for prefix in prefixes:
        matching = [key for key in keys if prefix and key.startswith(prefix)]
        if len(matching) == 1:
            found[matching[0]] = None
            continue
        hint = f"`stillroom cache` lists {len(keys)}" if keys else "there is none"
        if matching:
            shown = [key[: max(12, len(prefix) + 4)] for key in matching[:_MOST_SHOWN]]
            more = f" and {len(matching) - len(shown)} more" if len(matching) > len(shown) else ""
            hint = f"{len(matching)} begin so: {', '.join(shown)}{more}"
        raise BadInput("cache", prefix, f"the key of a cache in {root}; {hint}")
    return list(found)


@contextmanager
def locked(folder: Path, waiting: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock of a cache's folder; the operating system releases it if the holder dies.

    The lock file is next to the folder, so that it survives when the folder is removed and made again.

    Args:
        folder: the cache's; its parent is created if missing.
        waiting: called repeatedly while another process holds the lock; true stops waiting without the lock.

    Yields:
        Whether the lock is held.

    Raises:
        BadInput: the folder cannot be locked.
    """
    lock = FileLock(folder.with_name(folder.name + ".lock"), timeout=0)
    held = False
    try:
        with reporting_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        while not (held := _try(lock, folder)) and not waiting():
            time.sleep(_POLL)
        yield held
    finally:
        if held:
            lock.release()


def _try(lock: FileLock, folder: Path) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "it does not support locks"
        expected = f"a folder that can be written and locked ({reason}); ${CACHE_VARIABLE} names another"
        raise BadInput("cache", str(folder.parent), expected) from None
    return True


@contextmanager
def reporting_errors(folder: Path, needed: int = 0) -> Iterator[None]:
    """Convert disk errors to :class:`BadInput`: a full disk with the bytes needed, any other with its own text.

    >>> with reporting_errors(Path("/cache/ab12"), needed=4_000_000):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: cache: got '/cache/ab12'; expected room for 4.0 MB more (No space left on device): free
    some, or let $STILLROOM_CACHE name another folder; what is built so far is kept and goes on from there
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BadInput(
                "cache",
                str(folder),
                f"room for {in_words(needed)} more ({error.strerror}): free some, or let ${CACHE_VARIABLE} name "
                "another folder; what is built so far is kept and goes on from there",
            ) from None
        expected = f"a folder that can be written ({error.strerror}); ${CACHE_VARIABLE} names another"
        raise BadInput("cache", str(folder), expected) from None


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Convert a folder without read permission to :class:`BadInput`."""
    try:
        yield
    except OSError as error:
        raise BadInput("cache", str(folder), f"a folder that can be read ({error.strerror})") from None


def check_room(folder: Path, needed: int) -> None:
    """Refuse to write more bytes than the disk has free.

    Raises:
        BadInput: with the bytes needed and free.
    """
    with reporting_errors(folder):
        free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise BadInput(
            "cache",
            str(folder),
            f"room for {in_words(needed)}, of which {in_words(free)} are free: free some, let ${CACHE_VARIABLE} name "
            "another folder, or set cache.enabled false",
        )


def in_words(size: int) -> str:
    """A size in units of 1000 bytes.

    >>> in_words(999), in_words(4_000_000), in_words(10_240_000_000)
    ('999 bytes', '4.0 MB', '10.2 GB')
    """
    if size < 1000:
        return f"{size} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if size < 999.95 * factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e12:.1f} TB"


def cache_keys(root: Path) -> list[str]:
    """The names of all caches under a root, sorted."""
    with readable(root):
        if not root.is_dir():
            return []
        return sorted(entry.name for entry in root.iterdir() if _KEY.fullmatch(entry.name) and entry.is_dir())


def _listed(folder: Path) -> Listed:
    found, problem = None, None
    try:
        found = read_json(CacheFile, folder / IDENTITY).identity
    except BadInput:
        problem = f"{IDENTITY} is missing or damaged"
    parts = {} if found is None else found.parts
    teacher = parts.get("teacher")
    name = teacher.get("name") if isinstance(teacher, dict) else teacher
    return {
        "key": folder.name,
        "teacher": None if name is None else str(name),
        "data": parts.get("data"),
        "images": None if found is None else found.kept.images,
        "views": len(list(folder.glob("view-*.json"))),
        "bytes": _bytes(folder),
        "folder": str(folder),
        "problem": problem,
    }


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a running build removes files
            total += path.stat().st_size
    return total
