"""Ablate the teacher's output: train the student on each level of it alone, and report what each level brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillroom.errors import BadInput
from stillroom.losses.registry import labels_alone, loss_class
from stillroom.recipe import Recipe
from stillroom.schema.base import parse, write
from stillroom.schema.study import DISSECTION, Dissection
from stillroom.study.config import Study, parse_study
from stillroom.study.plan import StudyFolder
from stillroom.study.statistics import interval


@dataclass(frozen=True)
class AnswerLevel:
    """A level of the teacher's output that is a target by itself."""

    name: str  # the method's
    target: str  # of ``kl``
    note: str  # what it isolates


# The first four are a two-by-two design: the true class's probability is the mean of all or each image's own, and the
# others share the rest evenly or as the teacher's mean answer to the class does.
LEVELS = (
    AnswerLevel("universe", "mean_confidence", "The teacher's mean confidence, the other classes equal."),
    AnswerLevel("domain", "class_relations", "Its mean confidence, the others as its mean answer to the class."),
    AnswerLevel("instance", "true_class", "Its confidence in each image, the other classes equal."),
    AnswerLevel("domain_and_instance", "true_class_relations", "Both."),
    AnswerLevel("full", "full", "All of the teacher's output."),
)


@dataclass(frozen=True)
class GainPart:
    """A part of the gain of the full output, as a difference of methods."""

    name: str  # what reports call it
    note: str  # what it means
    of: Mapping[str, int]  # methods and the factors of their figures


# The first five add up to the last.
PARTS = (
    GainPart("universe", "labels smoothed to the teacher's mean confidence", {"universe": 1, "labels": -1}),
    GainPart("domain", "class relations beyond the universe", {"domain": 1, "universe": -1}),
    GainPart("instance", "confidence in each image beyond the universe", {"instance": 1, "universe": -1}),
    GainPart(
        "interaction",
        "domain and instance together, beyond what each brings alone",
        {"domain_and_instance": 1, "domain": -1, "instance": -1, "universe": 1},
    ),
    GainPart("what is left", "the full output beyond these", {"full": 1, "domain_and_instance": -1}),
)
TOTAL = GainPart("all", "the full output against labels", {"full": 1, "labels": -1})


def dissecting(recipe: Recipe, *, seeds: Sequence[int] = (0, 1, 2), trials: int = 0) -> Study:
    """The study that takes a recipe's teacher apart: one design, in which methods differ in their target alone.

    Methods are the labels alone, and the recipe's own losses with each level as the target of ``kl``. The weights, the
    temperature, the learning rate and the length are the same in all of them; trials, where asked for, choose learning
    rate and temperature by the full output, for all.

    Args:
        recipe: with a teacher, and ``kl`` among its losses.
        trials: of the full output; 0 takes the recipe's options as they are.

    Raises:
        BadInput: the recipe has no teacher that can be run, or no ``kl`` term.
    """
    if recipe.teacher is None:
        raise BadInput("teacher", None, "one teacher model: its output is what is ablated")
    kl = next((term for term in recipe.losses if loss_class(term).accepts_target), None)
    if kl is None or kl.has_schedule:
        names = [term.name for term in recipe.losses]
        raise BadInput("losses", names, "kl among them, of a weight that is a number: its target is varied")
    losses = [term.model_dump(mode="json") for term in recipe.losses]
    place = recipe.losses.index(kl)
    losses[place].pop("target", None)

    def taught(level: AnswerLevel) -> dict[str, Any]:
        changed = losses[place] | ({"target": {"name": level.target}} if level.name != "full" else {})
        return {
            "name": level.name,
            "note": level.note,
            "set": {"losses": [*losses[:place], changed, *losses[place + 1 :]]},
        }

    content = recipe.model_dump(mode="json", exclude_unset=True)
    lr = recipe.training.optimizer.lr
    study: dict[str, Any] = {
        "name": "dissection",
        "question": "Which part of the teacher's output makes the student better?",
        "seeds": list(seeds),
        "baseline": "labels",
        "recipe": {key: value for key, value in content.items() if key not in ("name", "seed", "losses")},
        "methods": [
            {"name": "labels", "note": "The labels alone.", "set": {"losses": labels_alone()}},
            *map(taught, LEVELS),
        ],
    }
    if trials:
        space = {
            "training.optimizer.lr": {"low": lr / 3, "high": lr * 3, "log": True},
            f"losses.{kl.name}.temperature": [2.0, 4.0, 8.0],
        }
        study["tuning"] = {"trials": trials, "length": 0.5, "holdout": 0.2, "space": space, "by": "full"}
    return parse_study(study)


def attribution(results: Mapping[str, Any]) -> dict[str, Any]:
    """How much of the gain of the full output each level brings, from a dissection's results.

    Each part is a difference of methods, worked out seed by seed, with Student's interval over the seeds; its share
    is its mean over the whole's, and is given only where the whole's interval is clear of 0.

    Returns:
        What ``dissection.json`` holds.

    >>> def cell(name, *values):
    ...     return {"pair": "all", "method": name, "seeds": {str(s): v for s, v in enumerate(values)}}
    >>> names = ["labels", "universe", "domain", "instance", "domain_and_instance", "full"]
    >>> cells = [cell(name, 10.0 + 2 * place, 10.1 + 2.1 * place) for place, name in enumerate(names)]
    >>> results = {"model_pairs": [{"name": "all"}], "cells": cells, "level": 0.95, "equal": True, "missing": []}
    >>> found = attribution(results)
    >>> parts = found["pairs"][0]["parts"]
    >>> [round(part["mean"], 2) for part in parts], round(found["pairs"][0]["total"]["mean"], 2)
    ([2.05, 2.05, 4.1, 0.0, 2.05], 10.25)
    """
    level = float(results["level"])
    pairs = []
    for pair in results["model_pairs"]:
        values = {cell["method"]: cell["seeds"] for cell in results["cells"] if cell["pair"] == pair["name"]}
        total = _part(TOTAL, values, level)
        clear = total["low"] is not None and (total["low"] > 0 or total["high"] < 0)
        parts = [_part(part, values, level) for part in PARTS]
        for part in parts:
            part["share"] = part["mean"] / total["mean"] if clear and part["mean"] is not None else None
        gains = [_part(GainPart(one.name, one.note, {one.name: 1, "labels": -1}), values, level) for one in LEVELS]
        pairs.append(
            {"pair": pair["name"], "total": total, "parts": parts, "gains": gains, "text": _words(total, parts)}
        )
    return {
        "schema": 1,
        "measure": results.get("measure"),
        "level": level,
        "sound": bool(results["equal"]) and not results["missing"],
        "pairs": pairs,
    }


def write_dissection(folder: StudyFolder, results: Mapping[str, Any]) -> dict[str, Any]:
    """Work the attribution out, and write ``dissection.json`` into the study's folder."""
    found = attribution(results)
    path = folder.table(DISSECTION)
    write(path, parse(Dissection, found, path))
    return found


def _part(part: GainPart, values: Mapping[str, Mapping[str, float]], level: float) -> dict[str, Any]:
    seeds = [seed for seed in values.get("labels", {}) if all(seed in values.get(name, {}) for name in part.of)]
    found: dict[str, Any] = {"name": part.name, "note": part.note, "of": dict(part.of), "seeds": len(seeds)}
    if not seeds:
        return found | {"mean": None, "low": None, "high": None}
    gain = interval(
        [sum(factor * values[name][seed] for name, factor in part.of.items()) for seed in seeds], level=level
    )
    return found | {"mean": gain.mean, "low": gain.low, "high": gain.high}


def _words(total: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> str:
    if total["mean"] is None:
        return "The runs with the full output or with labels are missing."
    gain = _number(total)
    if total["low"] is None or total["low"] <= 0 <= total["high"]:
        return f"The gain of the full output is not clearly different from 0: {gain}. No shares are given."
    clear = [part for part in parts if part["low"] is not None and not part["low"] <= 0 <= part["high"]]
    shares = ", ".join(f"{part['name']} {_number(part)}, {part['share']:.0%} of it" for part in clear)
    return f"The full output brings {gain}. Clearly different from 0: {shares or 'no part by itself'}."


def _number(part: Mapping[str, Any]) -> str:
    if part["low"] is None:
        return f"{part['mean']:+.2f}"
    return f"{part['mean']:+.2f} [{part['low']:+.2f}, {part['high']:+.2f}]"
