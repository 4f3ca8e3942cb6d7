"""What every comparison refuses: values that are no numbers, levels that are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from stillroom.errors import BadInput

Key = TypeVar("Key", int, str)

# Squares of larger ones leave double precision; no measure of a model comes near.
_LARGEST = 1e150


def is_value(value: object) -> bool:
    """Whether it is a finite number that can be squared.

    >>> is_value(1.5), is_value(float("nan")), is_value(None)
    (True, False, False)
    """
    if isinstance(value, int):  # which may be too large for a float
        return abs(value) <= _LARGEST
    return isinstance(value, (float, np.floating, np.integer)) and abs(float(value)) <= _LARGEST


def checked(values: Mapping[str, Mapping[Key, float]], what: str) -> dict[str, dict[Key, float]]:
    """The values of each method as plain floats.

    Args:
        values: method → {seed or pair: value}.
        what: what the inner names are, for the error.

    Returns:
        The same, in the same order.

    Raises:
        BadInput: there is no method, or a value is not a finite number; it names method and seed.

    >>> checked({"kl": {0: float("inf")}}, "seed")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: kl, seed 0: got inf; expected a finite number
    """
    if not values:
        raise BadInput("values", {}, "at least one method")
    for method, row in values.items():
        for key, value in row.items():
            if not is_value(value):
                raise BadInput(f"{method}, {what} {key}", value, "a finite number")
    return {method: {key: float(value) for key, value in row.items()} for method, row in values.items()}


def check_share(name: str, value: float, expected: str) -> None:
    """Refuse what is not strictly between 0 and 1.

    Raises:
        BadInput: it is not.
    """
    if not 0 < value < 1:
        raise BadInput(name, value, expected)


def check_alpha(alpha: float) -> None:
    """Refuse a rate of false findings that is none.

    Raises:
        BadInput: it is not between 0 and 1.
    """
    check_share("alpha", alpha, "a rate between 0 and 1, such as 0.05")
