"""The two errors a user meets, each one line and never a traceback, and helpers to write their messages."""

from __future__ import annotations

import difflib
import re
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
        super().__init__(_line(f"{cut(field, 200)}: got {shorten(value)}; expected {expected}"))

    @classmethod
    def with_message(cls, field: str, value: object, message: str) -> BadInput:
        """The error with a message of its own, in place of ``got …; expected …``."""
        error = cls(field, value, message)
        error.args = (_line(message),)
        return error

    @classmethod
    def unknown(cls, field: str, value: object, names: Iterable[str]) -> BadInput:
        """A value that is none of the valid names; the message lists them, the nearest first.

        >>> str(BadInput.unknown("--mask", "center", ["centre", "positive", "FILE.npy"]))
        "--mask: unknown value 'center'; did you mean 'centre'? One of: centre, positive, FILE.npy"
        """
        names = list(names)
        listed = ", ".join(names)
        close = _close_match(str(value), names)
        hint = f"one of: {listed}" if close is None else f"did you mean {close!r}? One of: {listed}"
        error = cls.with_message(field, value, f"{field}: unknown value {shorten(value)}; {hint}")
        error.expected = f"one of: {listed}"
        return error

    def within(self, where: str) -> BadInput:
        """The same error with the place of its field put before it.

        >>> str(BadInput("seed", -1, "0 or more").within("methods.kl"))
        'methods.kl: seed: got -1; expected 0 or more'
        """
        return BadInput.with_message(f"{where}: {self.field}", self.value, f"{where}: {self}")


class RunFailed(RuntimeError):  # noqa: N818
    """A run cannot continue (a silent loss, a loss that is not finite): what happened, and what to try.

    The command line prints the message and exits with code 1; the run folder keeps its last checkpoint.
    """


class OutOfMemory(RunFailed):
    """A run out of memory; the message says what to try."""


def format_error(error: BaseException, limit: int = 200) -> str:
    """An exception in one line: its type and the first line of its message.

    >>> format_error(ValueError("a bad depth\\nand more"))
    'ValueError: a bad depth'
    """
    lines = str(error).strip().splitlines()
    return cut(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, limit)


def shorten(value: object, limit: int = 120) -> str:
    """The value as Python writes it, cut to ``limit`` characters; a path in its middle, as its end names the file.

    >>> shorten("a" * 200, limit=10)
    "'aaaaaaaa…"
    >>> shorten("/data/" + "very/" * 20 + "deep/model.safetensors", limit=40)
    "'/data/very/v…ry/deep/model.safetensors'"
    >>> print(shorten("C:\\\\runs"))  # a path of Windows can be pasted back
    'C:\\runs'
    >>> shorten(shorten)  # where it lies in memory says nothing
    '<function shorten>'
    """
    try:
        text = repr(value)
        if isinstance(value, str) and value.isprintable():
            text = text.replace("\\\\", "\\")
        elif not isinstance(value, str | bytes):
            text = re.sub(r" at 0x[0-9a-fA-F]+(?=>)", "", text)
    except ValueError:  # a whole number, alone or inside, of more digits than Python writes
        text = "a number of thousands of digits"
    if len(text) > limit and "/" in text and not any(each.isspace() for each in text):
        start = limit // 3
        return f"{text[:start]}…{text[start + 1 - limit :]}"
    return cut(text, limit)


def cut(text: str, limit: int = 1000) -> str:
    """A text of at most so many characters: no message is longer, whatever was given.

    >>> cut("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest valid name, or lists the valid ones.

    >>> nearest("temprature", ["weight", "temperature"])
    "did you mean 'temperature'?"
    >>> nearest("zzz", ["b", "a"])
    'one of: a, b'
    """
    names = sorted(set(known))
    close = _close_match(name, names)
    return f"did you mean {close!r}?" if close is not None else "one of: " + ", ".join(names)


def _line(text: str) -> str:
    """A text as one line of at most 1,000 characters; fields may be names that someone else wrote."""
    return cut("".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text[:2000]))


def _close_match(name: str, names: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), None)
