"""What the readers share: errors of files and folders, the memory check, stacking of samples, threads."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stillroom.errors import BadInput

Item = TypeVar("Item")
Result = TypeVar("Result")


def list_folder(folder: Path, field: str = "data.path") -> list[Path]:
    """What lies in a folder, sorted by name; BadInput where it is missing, is no folder, or may not be read."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        raise BadInput(field, str(folder), "a folder that exists, here or under $STILLROOM_DATA") from None
    except NotADirectoryError:
        raise BadInput(field, str(folder), "a folder, not a file") from None
    except OSError as error:
        raise read_error(folder, error, field) from None


def read_error(path: Path, reason: Exception | str, field: str = "data.path") -> BadInput:
    """The error of a file or folder that cannot be read, with the reason in one line."""
    if isinstance(reason, OSError) and reason.strerror:
        reason = reason.strerror
    message = " ".join(str(reason).split()) or type(reason).__name__
    return BadInput(field, str(path), f"a file or folder that can be read ({message})")


def path_error(path: Path, expected: str) -> BadInput:
    """The error of a file or folder that is not what it should be."""
    return BadInput("data.path", str(path), expected)


def split_error(field: str, split: str, found: Iterable[str]) -> BadInput:
    """The error of a split that is not there, with those that are."""
    return BadInput(field, split, f"a split of the data, which has {', '.join(sorted(found)) or 'none'}")


def data_name(folder: Path) -> str:
    """The name of the data in a folder: the folder's own.

    >>> data_name(Path("some/where/cifar10/."))
    'cifar10'
    """
    return Path(os.path.abspath(folder)).name or "data"


def require_memory(needed: int, field: str, value: object) -> None:
    """Raise BadInput where this machine's memory has fewer than ``needed`` bytes, before anything is allocated."""
    has = machine_memory()
    if has is not None and needed > has:
        raise BadInput(
            field, value, f"data that fit into memory ({needed / 1e9:.1f} GB of this machine's {has / 1e9:.1f})"
        )


def machine_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


class ArrayStack:
    """Samples of one shape and type, stacked into one array as they come.

    Args:
        size: how many will come; None where unknown.

    >>> stack = ArrayStack(None, "data.path", "pets")
    >>> for value in range(3): stack.add(np.full((1, 2, 2), value, np.uint8))
    >>> stack.finish().shape
    (3, 1, 2, 2)
    """

    def __init__(self, size: int | None, field: str, value: object) -> None:
        self._size = size
        self._field = field
        self._value = value
        self._count = 0
        self._array: npt.NDArray[Any] = np.empty(0)

    def add(self, item: npt.NDArray[Any], *, mix_grey: bool = False) -> None:
        """Add one sample; with ``mix_grey``, grey [1, H, W] and RGB [3, H, W] ones may be mixed and become RGB.

        Raises:
            BadInput: its shape or type is not that of the first, or the array does not fit into memory.
        """
        if self._count == 0:
            self._grow(self._size if self._size is not None else 1, item.shape, item.dtype)
        elif self._count == len(self._array):
            self._grow(2 * self._count, self._array.shape[1:], self._array.dtype)
        if mix_grey and self._array.shape[2:] == item.shape[1:]:
            if self._array.shape[1] == 1 and item.shape[0] == 3:
                self._grow(len(self._array), item.shape, item.dtype)
            elif self._array.shape[1] == 3 and item.shape[0] == 1:
                item = np.broadcast_to(item, self._array.shape[1:])
        if item.shape != self._array.shape[1:] or item.dtype != self._array.dtype:
            first, other = (_describe(a, b) for a, b in ((self._array[0], item), (item, self._array[0])))
            raise BadInput(
                self._field,
                self._value,
                f"samples of one size, but sample 0 is {first} and sample {self._count} is {other}",
            )
        self._array[self._count] = item
        self._count += 1

    def finish(self) -> npt.NDArray[Any]:
        """All samples, [N, …]; BadInput where none came, or another number than announced."""
        if self._count == 0:
            raise BadInput(self._field, self._value, "at least 1 sample, but there is none")
        if self._size is not None and self._count != self._size:
            raise BadInput(self._field, self._value, f"{self._size} samples as announced, but {self._count} came")
        return self._array if self._count == len(self._array) else self._array[: self._count].copy()

    def _grow(self, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        require_memory(size * math.prod(shape) * dtype.itemsize, self._field, self._value)
        larger = np.empty((size, *shape), dtype)
        if self._count:
            larger[: self._count] = self._array[: self._count]
        self._array = larger


def _describe(item: npt.NDArray[Any], other: npt.NDArray[Any]) -> str:
    if item.ndim == 3 and item.shape[1:] != other.shape[1:]:
        return f"{item.shape[1]}×{item.shape[2]} pixels (height × width)"
    return f"{item.dtype} {list(item.shape)}"


def num_cores() -> int:
    """Number of processor cores that this process may use.

    >>> num_cores() >= 1
    True
    """
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """The function's result for each item, in the items' order, computed by ``workers`` threads.

    Few items are taken ahead, so they may be endless. Closed early, or after the first error, which it raises, it drops
    what has not begun and ends its threads.

    >>> list(map_in_order(abs, [-3, 2, -1], workers=2))
    [3, 2, 1]
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="stillroom-files")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def split_range(size: int, most: int, workers: int) -> Iterator[range]:
    """0 … size−1 in pieces of at most ``most`` that keep all workers busy: a job of one item costs more than it does.

    >>> list(split_range(5, most=64, workers=1))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    step = max(1, min(most, size // (2 * workers)))
    return (range(start, min(start + step, size)) for start in range(0, size, step))
