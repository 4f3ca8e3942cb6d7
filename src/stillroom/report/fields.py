"""Checked access to a JSON object: each wrong value is named with its file, its field and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput


class Fields:
    """The fields of one JSON object of a file.

    >>> Fields(Path("summary.json"), {"top1": "high"}).number("top1", low=0, high=100)
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: summary.json: top1: got 'high'; expected a number from 0 to 100
    """

    def __init__(self, path: Path, content: dict[str, Any], prefix: str = "") -> None:
        self.path = path
        self.content = content
        self.prefix = prefix

    def text(self, key: str) -> str:
        """A text, which must be there."""
        value = self.content.get(key)
        if not isinstance(value, str):
            raise self._bad(key, "text")
        return value

    def maybe_text(self, key: str) -> str | None:
        """A text, or None where there is none."""
        return None if self.content.get(key) is None else self.text(key)

    def number(self, key: str, low: float | None = None, high: float | None = None) -> float:
        """A finite number within bounds, which must be there."""
        value: Any = self.content.get(key)
        outside = not is_finite(value) or (low is not None and value < low) or (high is not None and value > high)
        if outside:
            raise self._bad(key, "a number" + _bounds(low, high))
        return float(value)

    def maybe_number(self, key: str, low: float | None = None, high: float | None = None) -> float | None:
        """A finite number within bounds, or None where there is none."""
        return None if self.content.get(key) is None else self.number(key, low, high)

    def whole(self, key: str, low: int = 0, high: int | None = None) -> int:
        """A whole number within bounds, which must be there."""
        value = self.content.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise self._bad(key, "a whole number" + _bounds(low, high))
        return value

    def maybe_whole(self, key: str, low: int = 0) -> int | None:
        """A whole number, or None where there is none."""
        return None if self.content.get(key) is None else self.whole(key, low)

    def flag(self, key: str, otherwise: bool) -> bool:
        """True or false, or what else holds where it is not reported."""
        value = self.content.get(key, otherwise)
        if not isinstance(value, bool):
            raise self._bad(key, "true or false")
        return value

    def one_of(self, key: str, values: Sequence[object]) -> None:
        """Refuse any other value."""
        if self.content.get(key) not in values:
            raise self._bad(key, " or ".join(map(str, values)))

    def inside(self, key: str) -> Fields:
        """The fields of a nested object."""
        value = self.content.get(key)
        if not isinstance(value, dict):
            raise self._bad(key, "a mapping")
        return Fields(self.path, value, f"{self.prefix}{key}.")

    def maybe_inside(self, key: str) -> Fields | None:
        """The fields of a nested object, or None where there is none."""
        return None if self.content.get(key) is None else self.inside(key)

    def listed(self, key: str) -> list[Fields]:
        """The fields of each object of a list; none where the list is not there."""
        return [
            Fields(self.path, value, f"{self.prefix}{key}[{place}].")
            for place, value in enumerate(self._list(key, dict, "mappings"))
        ]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; none where it is not there."""
        return tuple(self._list(key, str, "texts"))

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; none where it is not there."""
        return tuple(self._list(key, int, "whole numbers"))

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; none where it is not there."""
        held = self._list(key, (int, float), "numbers")
        if not all(is_finite(value) for value in held):
            raise self._bad(key, "a list of finite numbers")
        return tuple(map(float, held))

    def _list(self, key: str, kind: type | tuple[type, ...], what: str) -> list[Any]:
        value = [] if self.content.get(key) is None else self.content[key]
        if not isinstance(value, list) or not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
            raise self._bad(key, f"a list of {what}")
        return value

    def _bad(self, key: str, expected: str) -> BadInput:
        return BadInput(f"{self.path}: {self.prefix}{key}", self.content.get(key), expected)


def is_finite(value: object) -> bool:
    """Whether a value of a JSON file is a number that a float can hold.

    >>> is_finite(1.5), is_finite(True), is_finite(float("nan")), is_finite(10**400)
    (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    return f" of {low:g} or more" if low is not None else ""
