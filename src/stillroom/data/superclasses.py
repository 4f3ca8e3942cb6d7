"""Which classes belong together, as a file beside the data says."""

from __future__ import annotations

import json
from pathlib import Path

from stillroom.data.folders import unreadable
from stillroom.errors import BadInput, nearest

FILE = "superclasses.json"


def read_superclasses(folder: Path, class_names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The superclass of each class, from ``superclasses.json``: ``{"fish": ["ray", "shark"], "trees": ["oak"]}``.

    Args:
        folder: where the data lie.
        class_names: the data's K classes.

    Returns:
        K names, in the order of the classes; None where there is no such file.

    Raises:
        BadInput: it is no such mapping, names a class that the data do not have or one twice, or leaves one out.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError):
        raise _refused(path, "valid JSON") from None
    found: dict[str, str] = {}
    for superclass, members in _groups(content, path):
        for name in members:
            if name not in class_names:
                raise _refused(path, f"classes of the data alone, not {name!r} ({nearest(name, class_names)})")
            if name in found:
                raise _refused(
                    path, f"each class in one superclass, but {name!r} is in {found[name]!r} and {superclass!r}"
                )
            found[name] = superclass
    missing = [name for name in class_names if name not in found]
    if missing:
        told = ", ".join(map(repr, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise _refused(path, f"a superclass of every class, but it lacks {told}")
    return tuple(found[name] for name in class_names)


def _groups(content: object, path: Path) -> list[tuple[str, list[str]]]:
    # Objects come as lists of pairs, so that a superclass named twice does not quietly lose its first classes.
    groups = content if isinstance(content, list) else None
    whole = groups is not None and all(
        isinstance(group, tuple) and isinstance(group[1], list) and all(isinstance(name, str) for name in group[1])
        for group in groups
    )
    if groups is None or not whole:
        raise _refused(path, 'a mapping from superclasses to lists of class names, {"fish": ["ray", "shark"]}')
    names = [name for name, _ in groups]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _refused(path, f"each superclass once, but {twice!r} is there twice")
    return groups


def _refused(path: Path, expected: str) -> BadInput:
    return BadInput("data.path", str(path), expected)
