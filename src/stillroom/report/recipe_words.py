"""How a run was trained, in a few words, for the line under the title."""

from __future__ import annotations

from typing import Any

from stillroom.report.formats import short, whole
from stillroom.report.read import RunFolder


def facts(run: RunFolder) -> list[str]:
    """The run in keywords: data, models, losses, length, seed, precision."""
    train = run.data["train"]
    images = f", {whole(train)} training images" if isinstance(train, int) else ""
    found = [
        f"{run.data['name']}{images}",
        run.student.model + (f" from {run.teacher.model}" if run.teacher and run.taught else ""),
    ]
    terms = losses(run.recipe.get("losses"))
    if terms:
        found.append(terms)
    found += [f"{run.epochs:g} epochs, {whole(run.steps)} steps", f"seed {run.seed}"]
    if run.precision:
        found.append(run.precision)
    return found


def losses(terms: Any) -> str:
    """The loss as a sum in words; empty where the recipe does not tell.

    >>> losses([{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4.0}])
    '0.1 cross_entropy + 0.9 kl (temperature 4)'
    """
    if not isinstance(terms, list):
        return ""
    told = []
    for term in terms:
        if isinstance(term, dict) and isinstance(term.get("name"), str):
            options = [
                f"{key.replace('_', ' ')} {_option(value)}"
                for key, value in term.items()
                if key not in ("name", "weight") and isinstance(value, int | float | str | dict | list)
            ]
            told.append(
                f"{_weight(term.get('weight', 1.0))} {term['name']}" + (f" ({', '.join(options)})" if options else "")
            )
    return " + ".join(told)


def _option(value: Any) -> str:
    """An option's value in words: taps by their names, a target with its own options.

    >>> _option(["layer2", {"teacher": "layer3", "student": "blocks.1"}]), _option({"name": "top_k", "k": 5})
    ('layer2, layer3 with blocks.1', 'top_k k 5')
    """
    if isinstance(value, list):
        return ", ".join(_option(item) for item in value)
    if isinstance(value, dict):
        if {"teacher", "student"} == set(value):
            return f"{_value(value['teacher'])} with {_value(value['student'])}"
        rest = [f"{key.replace('_', ' ')} {_value(item)}" for key, item in value.items() if key != "name"]
        return " ".join([*([_value(value["name"])] if "name" in value else []), *rest])
    return _value(value)


def _weight(weight: Any) -> str:
    if isinstance(weight, dict):
        return f"{_value(weight.get('start'))}→{_value(weight.get('end'))}"
    return _value(weight)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else short(str(value), 40)
