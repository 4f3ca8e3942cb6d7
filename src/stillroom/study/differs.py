"""What makes a method another than the baseline, from their recipes: the treatment, in short values."""

from __future__ import annotations

from typing import Any

from stillroom.recipe import Recipe
from stillroom.study.config import Study
from stillroom.study.plan import Plan
from stillroom.study.traits import fields_of, timed
from stillroom.study.wording import listed, loss, plain, word

_LENGTH = ("training.steps", "training.epochs")
_LIMIT = 120


def differences(plan: Plan) -> dict[str, list[dict[str, str]]]:
    """How each method's recipes differ from the baseline's, options that trials chose included.

    Args:
        plan: the study's runs.

    Returns:
        For each method ``key``, ``value`` and ``baseline`` of each difference, as text; where pairs differ in it,
        each value with its pairs.
    """
    study = plan.study
    own_length = timed(study)
    first = {(cell.pair, cell.method): cell.recipe for cell in reversed(plan.cells)}
    found = {}
    for method in study.methods:
        values: dict[str, dict[str, tuple[str, str]]] = {}
        for pair in study.all_pairs:
            mine, theirs = first[pair.name, method.name], first[pair.name, study.against]
            told = _told(mine, theirs, study)
            if {(pair.name, method.name), (pair.name, study.against)} <= own_length:
                # What a second buys is a result, and the calibration tells it.
                told = {key: both for key, both in told.items() if key not in _LENGTH}
            for key, both in told.items():
                values.setdefault(key, {})[pair.name] = both
        found[method.name] = [
            {"key": key, "value": _over(0, on, study), "baseline": _over(1, on, study)} for key, on in values.items()
        ]
    return found


def _told(mine: Recipe, theirs: Recipe, study: Study) -> dict[str, tuple[str, str]]:
    one, other = ({k: v for k, v in fields_of(r, study).items() if k != "name"} for r in (mine, theirs))
    told: dict[str, tuple[str, str]] = {}
    if [term.name for term in mine.losses] != [term.name for term in theirs.losses]:
        told["losses"] = (_loss(mine), _loss(theirs))
        one, other = ({k: v for k, v in fields.items() if not k.startswith("losses.")} for fields in (one, other))
    for key in {**other, **one}:
        if one.get(key) != other.get(key):
            told[key] = (_short(one, key), _short(other, key))
    return told


def _short(fields: dict[str, Any], key: str) -> str:
    return plain(word(fields.get(key)), _LIMIT)


def _loss(recipe: Recipe) -> str:
    return plain(loss([term.model_dump(mode="json") for term in recipe.losses]), _LIMIT)


def _over(side: int, on: dict[str, tuple[str, str]], study: Study) -> str:
    pairs = [pair.name for pair in study.all_pairs]
    values: dict[str, list[str]] = {}
    for pair, both in on.items():
        values.setdefault(both[side], []).append(pair)
    if len(values) == 1 and len(on) == len(pairs):
        return next(iter(values))
    return "; ".join(f"{value} (on {listed(where)})" for value, where in values.items())
