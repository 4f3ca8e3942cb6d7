"""The one number that a study's pairs differ in, read from their recipes before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from stillroom.errors import BadInput
from stillroom.study.config import Axis
from stillroom.study.plan import Cell, Plan
from stillroom.study.space import merged_space, resolved, value_at
from stillroom.study.wording import flat, word

_ABSENT = object()
# Further out, the room between two places is no number any more.
_FAR = 1e150


def axis_of(plan: Plan) -> dict[str, Any] | None:
    """A study's axis as ``results.json`` holds it: what it is, and where on it each pair lies.

    Args:
        plan: the study's runs; what its trials search was checked.

    Returns:
        None where the study has no axis.

    Raises:
        BadInput: a recipe does not have the field or no number there, two pairs have the same, methods of a pair
            do not, trials search it, or its logarithm is asked for and there is none.
    """
    axis = plan.study.axis
    if axis is None:
        return None
    names = [pair.name for pair in plan.study.all_pairs]
    if len(names) < 2:
        raise BadInput("pairs", [pair.name for pair in plan.study.pairs], "two or more, for an axis to lead along")
    values = {name: _number(axis, name, [cell for cell in plan.cells if cell.pair == name]) for name in names}
    for place, name in enumerate(names):
        twin = next((other for other in names[:place] if values[other] == values[name]), None)
        if twin is not None:
            both = f"both {twin!r} and {name!r} have {word(values[name])}"
            raise BadInput("axis.field", axis.field, f"a number that is another in each pair, but {both}")
        if axis.log and values[name] <= 0:
            expected = f"false, or numbers above 0, but {name!r} has {word(values[name])} as {axis.field}"
            raise BadInput("axis.log", axis.log, expected)
    _check_trials(axis, plan)
    marks = [mark.model_dump() for mark in axis.marks]
    return {"field": axis.field, "title": axis.title or axis.field, "log": axis.log, "marks": marks, "values": values}


def _number(axis: Axis, pair: str, cells: Sequence[Cell]) -> float:
    """The number that all methods have on a pair."""
    contents = [_content(cell) for cell in cells]
    found = {cell.method: value_at(content, axis.field, _ABSENT) for cell, content in zip(cells, contents, strict=True)}
    first, value = next(iter(found.items()))
    if all(one is _ABSENT for one in found.values()):
        known = {key for content in contents for key in flat(content)}
        close = difflib.get_close_matches(axis.field, sorted(known), n=1, cutoff=0.6)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise BadInput("axis.field", axis.field, f"a field of every pair's recipe, but {pair!r} has none such{hint}")
    for name, other in found.items():
        if other != value:
            one, two = ("none" if each is _ABSENT else word(each) for each in (value, other))
            expected = f"one number for all methods of a pair, but on {pair!r} {first} has {one}, {name} {two}"
            raise BadInput("axis.field", axis.field, expected)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _FAR:
        raise BadInput("axis.field", axis.field, f"a number in every pair, but {pair!r} has {word(value)} there")
    return value


def _check_trials(axis: Axis, plan: Plan) -> None:
    """Refuse what trials would change: a method's place on the axis is the study's to set."""
    tuning = plan.study.tuning
    if tuning is None:
        return
    contents = {cell.method: _content(cell) for cell in plan.cells}
    for method in plan.study.methods:
        content = contents[method.name]
        mine = resolved(content, axis.field)
        for key in merged_space(tuning, method):
            other = resolved(content, key)
            if mine[: len(other)] == other:
                expected = f"a field that no trial searches, but those of {method.name} search {key}"
                raise BadInput("axis.field", axis.field, expected)


def _content(cell: Cell) -> Mapping[str, Any]:
    return cell.recipe.model_dump(mode="json")
