"""Images that come one by one, put into one array; and the check that it fits into memory."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from stillroom.errors import BadInput


def machine_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def require_memory(needed: int, field: str, value: object) -> None:
    """Refuse data that cannot be held in memory, before anything is allocated.

    Args:
        needed: bytes.
        field: the field to name.
        value: what was given for it.

    Raises:
        BadInput: the machine has less.
    """
    has = machine_memory()
    if has is not None and needed > has:
        raise BadInput(
            field, value, f"data that fit into memory ({needed / 1e9:.1f} GB of this machine's {has / 1e9:.1f})"
        )


class Stack:
    """Arrays of one shape and type, added one by one.

    Args:
        size: how many will come; None where unknown.
        field: the field that errors name.
        value: what was given for it.

    >>> stack = Stack(None, "data.path", "pets")
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
        """Add one sample.

        Args:
            item: its array.
            mix_grey: whether grey [1, H, W] and RGB [3, H, W] may come mixed; the whole then becomes RGB.

        Raises:
            BadInput: its shape or type is not that of the first, or the whole cannot fit into memory.
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
            first, other = (_described(a, b) for a, b in ((self._array[0], item), (item, self._array[0])))
            raise BadInput(
                self._field,
                self._value,
                f"samples of one size, but sample 0 is {first} and sample {self._count} is {other}",
            )
        self._array[self._count] = item
        self._count += 1

    def finish(self) -> npt.NDArray[Any]:
        """All samples, [N, …].

        Raises:
            BadInput: none came, or fewer than were announced.
        """
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


def _described(item: npt.NDArray[Any], other: npt.NDArray[Any]) -> str:
    if item.ndim == 3 and item.shape[1:] != other.shape[1:]:
        return f"{item.shape[1]}×{item.shape[2]} pixels (height × width)"
    return f"{item.dtype} {list(item.shape)}"
