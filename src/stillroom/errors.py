"""The one error a user can cause: bad input, told in a line and never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(ValueError):  # noqa: N818 - it names what happened, as the command line prints it
    """Something the user gave cannot be used: the field, the value, what was expected.

    The command line prints the message and exits with code 2; nothing is written or lost.

    >>> raise BadInput("seed", -1, "a whole number of 0 or more")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: seed: got -1; expected a whole number of 0 or more
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{field}: got {shorten(value)}; expected {expected}")

    @classmethod
    def worded(cls, field: str, value: object, message: str) -> BadInput:
        """Bad input told in words of its own."""
        error = cls(field, value, message)
        error.args = (message,)
        return error

    def within(self, where: str) -> BadInput:
        """The same, told as part of something larger.

        >>> str(BadInput("seed", -1, "0 or more").within("contestants.kl"))
        'contestants.kl: seed: got -1; expected 0 or more'
        """
        return BadInput.worded(f"{where}: {self.field}", self.value, f"{where}: {self}")


class RunFailed(RuntimeError):  # noqa: N818
    """A run cannot go on (a silent objective, a loss that is not finite): what happened, and what to try.

    The command line prints the message and exits with code 1; the run folder keeps its last checkpoint.
    """


def shorten(value: object, limit: int = 120) -> str:
    """The value as Python writes it, cut to ``limit`` characters.

    >>> shorten("a" * 200, limit=10)
    "'aaaaaaaa…"
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest valid name, or lists the valid ones.

    >>> nearest("temprature", ["weight", "temperature"])
    "did you mean 'temperature'?"
    >>> nearest("zzz", ["b", "a"])
    'one of: a, b'
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "one of: " + ", ".join(names)
