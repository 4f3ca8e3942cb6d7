"""What the trials of a method search: checked on its recipe before anything runs. Nothing here imports torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from stillroom.errors import BadInput, shorten
from stillroom.recipe import Recipe, parse_recipe, set_value
from stillroom.study.config import Method, Range, Space, Tuning

DIGITS = 6  # significant, of the numbers that trials try: recipes stay readable
# What the study itself sets in a trial's recipe, or holds equal in all.
_OF_THE_STUDY = ("seed", "data.holdout", "training.epochs", "training.steps", "training.threads")
_WITHIN = (math.sqrt(5) - 1) / 2  # of the way from low to high: no whole number, where a field needs one


def merged_space(tuning: Tuning, method: Method) -> Space:
    """What a method's trials search: ``tuning.space`` and its own ``tune``, which wins.

    Args:
        tuning: the study's.
        method: one of it.

    >>> tuning = Tuning(trials=8, space={"training.optimizer.lr": (0.1, 0.2)})
    >>> merged_space(tuning, Method(name="kl", tune={"losses.kl.temperature": {"low": 1, "high": 8}}))
    {'training.optimizer.lr': (0.1, 0.2),
     'losses.kl.temperature': Range(low=1.0, high=8.0, log=False, whole=False)}
    """
    return {**tuning.space, **method.tune}


def points(space: Space) -> float:
    """How many different trials a space has; infinite where numbers are searched that need not be whole.

    >>> points({"a": ("x", "y"), "b": Range(low=1, high=3, whole=True)}), points({"a": Range(low=0, high=1)})
    (6, inf)
    """
    total: float = 1
    for search in space.values():
        if not isinstance(search, Range):
            total *= len(search)
        else:
            total *= int(search.high - search.low) + 1 if search.whole else math.inf
    return total


def readable(number: float, search: Range) -> int | float:
    """A number as a recipe shall have it: whole, or of 6 significant digits, and within its range.

    >>> readable(0.123456789, Range(low=0, high=1)), readable(0.123456789, Range(low=0, high=0.1234561))
    (0.123457, 0.1234561)
    """
    if search.whole:
        return int(number)
    return min(max(float(f"{number:.{DIGITS}g}"), search.low), search.high)


def own_values(space: Space, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The point of a space that a recipe as it is written stands for; None where it lies outside.

    Args:
        space: what is searched.
        content: the recipe; what it leaves out has its default.

    Raises:
        BadInput: it is no recipe.

    >>> recipe = {"student": {"name": "resnet8"}, "training": {"optimizer": {"lr": 0.05}}}
    >>> own_values({"training.optimizer.lr": Range(low=0.01, high=1), "data.batch_size": (64, 128)}, recipe)
    {'training.optimizer.lr': 0.05, 'data.batch_size': 128}
    >>> own_values({"training.optimizer.lr": (0.1, 0.2)}, recipe) is None
    True
    """
    whole = parse_recipe(dict(content)).model_dump(mode="json")
    values = {}
    for key, search in space.items():
        value = value_at(whole, key)
        if isinstance(search, Range):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return None
            if not search.low <= value <= search.high or (search.whole and value != int(value)):
                return None
            values[key] = int(value) if search.whole else float(value)
        else:
            place = place_of(value, search)
            if place is None:
                return None
            values[key] = search[place]
    return values


def place_of(value: Any, choices: tuple[Any, ...]) -> int | None:
    """Which of the choices a value is; true is not 1.

    >>> place_of(1, (True, 1.0)), place_of("x", (True, 1.0))
    (1, None)
    """
    for place, choice in enumerate(choices):
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return place
    return None


def check_space(tuning: Tuning, method: Method, content: Mapping[str, Any]) -> None:
    """Refuse what cannot be searched in a method's recipe, before anything runs.

    Each choice, and of each range both ends and a number between them, is set in the recipe alone; what several of them
    do together is for the trials to find out.

    Args:
        tuning: the study's.
        method: whose trials are meant.
        content: its recipe, as its runs have it.

    Raises:
        BadInput: the recipe has no such field or refuses such a value, a choice is there twice, two keys are one field,
            or the field is one that the study sets; by ``methods.NAME.tune.KEY`` or ``tuning.space.KEY``.

    >>> tuned = Method(name="kl", tune={"training.optimizer.lr": {"low": -1, "high": 1}})
    >>> check_space(Tuning(trials=8), tuned, {"student": {"name": "resnet8"}})
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: methods.kl.tune.training.optimizer.lr: got -1.0; expected greater than 0
    """
    recipe = parse_recipe(copy.deepcopy(dict(content)))
    searched: dict[tuple[str, ...], str] = {}
    for key, search in merged_space(tuning, method).items():
        own = key in method.tune
        field = f"methods.{method.name}.tune.{key}" if own else f"tuning.space.{key}"
        beside = "" if own else f" (method {method.name!r})"
        for value in _tried(search, field):
            _try(content, recipe, key, value, field, beside)
        path = resolved(content, key)
        for other, name in searched.items():
            if path[: len(other)] == other or other[: len(path)] == path:
                raise BadInput(field, key, f"a field of its own: {name!r} is searched too{beside}")
        searched[path] = key


def _tried(search: Range | tuple[Any, ...], field: str) -> list[Any]:
    if isinstance(search, Range):
        between = search.low + _WITHIN * (search.high - search.low)
        return [readable(number, search) for number in (search.low, search.high, between)]
    if not search:
        raise BadInput(field, [], "at least 1 choice, or {low, high, log}")
    for place, choice in enumerate(search):
        if place_of(choice, search) != place:
            raise BadInput(field, choice, "each choice once")
    return list(search)


def _try(content: Mapping[str, Any], recipe: Recipe, key: str, value: Any, field: str, beside: str) -> None:
    changed = copy.deepcopy(dict(content))
    try:
        set_value(changed, key, copy.deepcopy(value))
        tried = parse_recipe(changed)
    except BadInput as error:
        what = str(error).removeprefix(f"{error.field}: ")
        # The recipe's word for the field may be another: the item's position, or a field that does not fit it.
        elsewhere = "" if error.field.split(".")[-1] == key.split(".")[-1] else f" ({error.field} of the recipe)"
        refused = BadInput(field, value, error.expected)
        refused.args = (f"{field}: {what}{elsewhere}{beside}",)
        raise refused from None
    before, after = (whole.model_dump(mode="json") for whole in (recipe, tried))
    for kept in _OF_THE_STUDY:
        if value_at(before, kept) != value_at(after, kept):
            raise BadInput(field, shorten(value), f"a field that the study leaves alone; it sets {kept} itself{beside}")


def value_at(whole: Any, key: str, otherwise: Any = None) -> Any:
    """The value at ``a.b`` of plain objects, items of a list by position or by name; what else where there is none.

    >>> recipe = {"losses": [{"name": "kl", "temperature": 4.0}]}
    >>> value_at(recipe, "losses.kl.temperature"), value_at(recipe, "losses.1.name", "none")
    (4.0, 'none')
    """
    for part in key.split("."):
        if isinstance(whole, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in whole]
            if part.isdigit() and int(part) < len(whole):
                whole = whole[int(part)]
            else:
                whole = whole[names.index(part)] if part in names else otherwise
        else:
            whole = whole.get(part, otherwise) if isinstance(whole, dict) else otherwise
    return whole


def resolved(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The path of a key with items of lists by their position: an item may be called by its name as well."""
    path: list[str] = []
    place: Any = content
    for part in key.split("."):
        if isinstance(place, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in place]
            at = int(part) if part.isdigit() and int(part) < len(place) else names.index(part)
            path.append(str(at))
            place = place[at]
        else:
            path.append(part)
            place = place.get(part) if isinstance(place, dict) else None
    return tuple(path)
