"""``class_relations.json`` and ``.jsonl``, read and checked: how the last layers of a run relate the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillroom.errors import BadInput
from stillroom.report.fields import Fields

GEOMETRY, EPOCHS = "class_relations.json", "class_relations.jsonl"
FIGURES = ("score", "truth", "teacher")
WHO = ("student", "teacher", "truth")
# A run writes no larger maps, and a page of larger ones would not open.
MOST_CLASSES = 200
# How much two cosines rounded to four decimals may differ, though they are one.
_ROUNDED = 1.5e-4

Map = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EpochRelations:
    """What the student's last layer was like after an epoch, as ``class_relations.jsonl`` holds it."""

    epoch: float
    score: float | None
    truth: float | None
    teacher: float | None


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the two files hold.

    Attributes:
        class_names: K names.
        superclasses: of each class, where the data name any.
        score: of ``student``, ``teacher`` and ``truth``: likeness within superclasses less between them.
        agreement: ``truth`` and ``teacher``, of the student's map with theirs; ``teacher_truth``, of the teacher's.
        why: why figures are None, in words, by their name.
        order: the classes in the order in which maps show them; empty without maps.
        maps: by whose they are, cosines [K, K] of two classes each; without those that nobody has.
        epochs: in the order of the training.
    """

    class_names: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    score: dict[str, float | None]
    agreement: dict[str, float | None]
    why: dict[str, str]
    order: tuple[int, ...]
    maps: dict[str, Map]
    epochs: tuple[EpochRelations, ...]


def read_geometry(path: Path, content: dict[str, Any], lines: Sequence[dict[str, Any]]) -> Geometry:
    """Check what a run's files of relations hold.

    Args:
        path: the run folder, for messages.
        content: the object of ``class_relations.json``.
        lines: those of ``class_relations.jsonl``.

    Raises:
        BadInput: they are damaged.
    """
    fields = Fields(path / GEOMETRY, content)
    fields.one_of("schema", (1,))
    classes = fields.whole("classes", low=1)
    names = _one_a_class(fields, "class_names", classes)
    given = fields.maybe_inside("maps")
    if given is not None and classes > MOST_CLASSES:
        raise BadInput(f"{fields.path}: maps", f"{classes} classes", f"none of more than {MOST_CLASSES} classes")
    score, agreement = fields.inside("score"), fields.inside("agreement")
    why = fields.maybe_inside("why")
    return Geometry(
        class_names=names,
        superclasses=_one_a_class(fields, "superclasses", classes) if content.get("superclasses") is not None else None,
        score={who: score.maybe_number(who, -2, 2) for who in WHO},
        agreement={key: agreement.maybe_number(key, -1, 1) for key in ("truth", "teacher", "teacher_truth")},
        why={key: why.text(key) for key in FIGURES if key in why.content} if why is not None else {},
        order=_order(fields, classes) if given is not None else (),
        maps={who: _map(given, who, classes) for who in WHO if given.content.get(who) is not None} if given else {},
        epochs=tuple(_epoch(Fields(path / EPOCHS, line, f"line {n}: ")) for n, line in enumerate(lines, start=1)),
    )


def _one_a_class(fields: Fields, key: str, classes: int) -> tuple[str, ...]:
    found = fields.texts(key)
    if len(found) != classes:
        raise BadInput(f"{fields.path}: {key}", f"{len(found)} names", f"one for each of the {classes} classes")
    return found


def _order(fields: Fields, classes: int) -> tuple[int, ...]:
    order = fields.wholes("order")
    if sorted(order) != list(range(classes)):
        raise BadInput(f"{fields.path}: order", list(order), f"each of the {classes} class numbers once")
    return order


def _map(fields: Fields, who: str, classes: int) -> Map:
    rows = fields.content[who]
    expected = f"{classes} rows of {classes} cosines, the same above the diagonal as below it"
    field = f"{fields.path}: {fields.prefix}{who}"
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != classes for row in rows):
        raise BadInput(field, f"{type(rows).__name__}", expected)
    if len(rows) != classes:
        raise BadInput(field, f"{len(rows)} rows", expected)
    if any(isinstance(value, bool) or not isinstance(value, int | float) for row in rows for value in row):
        raise BadInput(field, "what is no number", expected)
    try:
        cosines = np.array(rows, dtype=np.float64)
    except OverflowError:
        raise BadInput(field, "a number without end", expected) from None
    # Comparisons with NaN are false, so that it is refused too.
    if not bool((np.abs(cosines) <= 1).all() and (np.abs(cosines - cosines.T) <= _ROUNDED).all()):
        raise BadInput(field, "what is no cosine", expected)
    return cosines


def _epoch(fields: Fields) -> EpochRelations:
    return EpochRelations(
        epoch=fields.number("epoch", low=0),
        score=fields.maybe_number("score", -2, 2),
        truth=fields.maybe_number("truth", -1, 1),
        teacher=fields.maybe_number("teacher", -1, 1),
    )
