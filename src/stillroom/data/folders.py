"""What can go wrong with a folder, told in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from stillroom.errors import BadInput


def entries(folder: Path, field: str = "data.path") -> list[Path]:
    """What lies in a folder, sorted by name.

    Raises:
        BadInput: it is missing, is not a folder, or may not be read.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        raise BadInput(field, str(folder), "a folder that exists, here or under $STILLROOM_DATA") from None
    except NotADirectoryError:
        raise BadInput(field, str(folder), "a folder, not a file") from None
    except OSError as error:
        raise unreadable(folder, error, field) from None


def unreadable(path: Path, reason: Exception | str, field: str = "data.path") -> BadInput:
    """The error of a file or folder that cannot be read, with the reason."""
    if isinstance(reason, OSError) and reason.strerror:
        reason = reason.strerror
    # Some libraries' messages run over several lines; an error here is one.
    told = " ".join(str(reason).split()) or type(reason).__name__
    return BadInput(field, str(path), f"a file or folder that can be read ({told})")


def missing_split(field: str, split: str, found: Iterable[str]) -> BadInput:
    """The error of a split that is not there, with those that are."""
    names = ", ".join(sorted(found))
    return BadInput(field, split, f"a split of the data, which has {names or 'none'}")


def folder_name(folder: Path) -> str:
    """What to call the data of a folder: its own name.

    >>> folder_name(Path("some/where/cifar10/."))
    'cifar10'
    """
    return Path(os.path.abspath(folder)).name or "data"
