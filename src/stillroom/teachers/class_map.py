"""From a teacher's classes to the data's: by names where they match, by a map where they differ."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import yaml

from stillroom.errors import BadInput, nearest
from stillroom.files import find_input, parse_yaml
from stillroom.models.config import ClassColumns, PreprocessConfig
from stillroom.teachers.config import TeacherConfig

_SEPARATORS = re.compile(r"[\s_-]+")


def column_names(config: TeacherConfig, field: str) -> tuple[str, ...] | None:
    """The names of a teacher's classes, one for each column of its logits, read from their file where it is one."""
    names = config.class_names
    if not isinstance(names, str):
        return names
    text = _read(names, f"{field}.class_names")
    try:
        found = json.loads(text)
    except ValueError:
        found = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise BadInput(f"{field}.class_names", names, "a file of names: a line each, or a JSON list")
    return tuple(found)


def resolve_class_map(config: TeacherConfig, classes: Sequence[str], field: str) -> TeacherConfig:
    """A teacher's options with names and map read, and the columns that they come to.

    Args:
        config: with a resolved preprocess as numbers.
        classes: names of the data's classes.
        field: what messages call the teacher.

    Returns:
        The options with ``preprocess.class_order`` written out.

    Raises:
        BadInput: a name is of no class, or fewer than two of the data's classes have a column.
    """
    names = column_names(config, field)
    chosen = _read_map(config, field)
    order = class_columns(names, chosen, classes, field=field)
    known = [name for name, columns in zip(classes, order, strict=True) if columns is not None]
    if len(known) < min(2, len(classes)):
        expected = f"two classes of the data or more ({', '.join(classes[:5])} …), not {len(known)}"
        if names is None:
            raise BadInput(
                f"{field}.class_map", chosen, f"{expected}: a column for each, or class_names, by which they match"
            )
        has = f"the teacher has {', '.join(names[:5])} …; class_map names those that are called otherwise"
        raise BadInput(f"{field}.class_names", list(names)[:5], f"{expected}; {has}")
    preprocess = config.preprocess
    assert isinstance(preprocess, PreprocessConfig)
    given = preprocess.class_order
    if given is not None and given != order:
        raise BadInput(f"{field}.preprocess.class_order", given, "none with class_names and class_map, which make it")
    preprocess = preprocess.model_copy(update={"class_order": order})
    return config.model_copy(update={"preprocess": preprocess, "class_names": names, "class_map": chosen})


def class_columns(
    names: Sequence[str] | None,
    chosen: Mapping[str, Sequence[str | int]] | None,
    classes: Sequence[str],
    *,
    field: str = "teacher",
) -> tuple[ClassColumns, ...]:
    """For each class of the data the column of the teacher's logits that means it, several, or None.

    Names match whatever their case and whether words are parted by spaces, ``_`` or ``-``; of a teacher's name such as
    ``"tench, Tinca tinca"`` each part may match.

    Args:
        names: of the teacher's classes, column by column.
        chosen: for some of the data's classes the teacher's, by name or column; none of an empty list.
        classes: names of the data's classes.

    >>> class_columns(["Dog", "big cat", "tench, Tinca tinca"], {"pet": ["Dog", "big cat"]}, ["tench", "pet", "car"])
    (2, (0, 1), None)
    """
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names or ()):
        for each in dict.fromkeys([_plain(name), *map(_plain, name.split(","))]):
            columns.setdefault(each, []).append(column)
    known = {_plain(name): name for name in classes}
    mapped: dict[str, list[int]] = {}
    for key, wanted in (chosen or {}).items():
        if _plain(key) not in known:
            raise BadInput(f"{field}.class_map", key, f"a class of the data: {nearest(key, classes)}")
        found: list[int] = []
        for one in wanted:
            if isinstance(one, str) and _plain(one) not in columns:
                hint = nearest(one, names) if names else "class_names says what they are called"
                raise BadInput(f"{field}.class_map.{key}", one, f"a class of the teacher: {hint}")
            found += columns[_plain(one)] if isinstance(one, str) else [one]
        mapped[_plain(key)] = found
    order: list[ClassColumns] = []
    for name in classes:
        mine = mapped.get(_plain(name), columns.get(_plain(name), []))
        if len(mine) > 1 and _plain(name) not in mapped:
            expected = f"one class of that name, but the columns {mine} are all called so; class_map says which"
            raise BadInput(f"{field}.class_names", name, expected)
        order.append(None if not mine else mine[0] if len(mine) == 1 else tuple(mine))
    return tuple(order)


def _read_map(config: TeacherConfig, field: str) -> dict[str, tuple[str | int, ...]] | None:
    content: object = config.class_map
    if isinstance(content, str):
        try:
            content = parse_yaml(_read(content, f"{field}.class_map"))
        except (yaml.YAMLError, ValueError, RecursionError):
            content = None
    if content is None and config.class_map is None:
        return None
    expected = "a mapping from the data's classes to the teacher's, {truck: [lorry, van]}, or a file that holds one"
    if not isinstance(content, Mapping):
        raise BadInput(f"{field}.class_map", config.class_map, expected)
    found: dict[str, tuple[str | int, ...]] = {}
    for key, value in content.items():
        items = value if isinstance(value, list | tuple) else [value]
        if not isinstance(key, str) or not all(isinstance(one, str | int) and one is not True for one in items):
            raise BadInput(f"{field}.class_map", {key: value}, expected)
        found[key] = tuple(items)
    return found


def _plain(name: str) -> str:
    return _SEPARATORS.sub(" ", name).strip().casefold()


def _read(name: str, field: str) -> str:
    try:
        return find_input(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadInput(field, name, f"a readable file ({reason})") from None
