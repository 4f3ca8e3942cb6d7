"""Trying remedies: a student as it is, with each remedy and with all of them, at one budget and paired by seed."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillroom.diagnose.finding import VERDICTS, Finding
from stillroom.errors import BadInput
from stillroom.losses.registry import labels_alone, loss_class
from stillroom.recipe import Recipe, parse_recipe, set_value
from stillroom.schema.study import read_study
from stillroom.study.compare import compare
from stillroom.study.config import Study, parse_study
from stillroom.study.engine import engine_maker
from stillroom.study.progress import StudyObserver
from stillroom.study.wording import word

AS_IT_IS, ALL, LABELS = "as-it-is", "all-fixes", "labels"
# Where the study of the remedies lies, beside what tells of it: a study's folder takes nothing else in.
FOLDER = "remedies"
# What a remedy changes that a study must be told of: by the beginning of its key.
_VARIES = {
    "training.epochs": "budget",
    "training.steps": "budget",
    "data.augmentation": "augmentation",
    "data.batch_size": "batch size",
    "data": "data",
    "teacher": "teacher",
    "student": "student",
    "training.precision": "precision",
    "training.threads": "threads",
    "training.ema": "moving average",
    "training.compile": "compiled",
    "cache": "cache",
}
_LONGEST = 48


@dataclass
class Fix:
    """One way to mend the student.

    Attributes:
        name: the method's.
        checks: the findings whose remedy it is.
        verdict: the worst of them.
        overrides: dotted recipe keys to new values.
    """

    name: str
    checks: list[str]
    verdict: str
    overrides: dict[str, Any]


@dataclass
class Fixes:
    """What is to be tried, what cannot be, and what of it cannot be had together.

    Attributes:
        each: the remedies, those of what is sick first.
        together: all of them that can be had at once; None where that is not another thing than one of them.
        conflicts: overrides of which only the first was taken together, in words.
        not_tried: check → why its remedy is none that a recipe can take.
    """

    each: list[Fix] = field(default_factory=list)
    together: Fix | None = None
    conflicts: list[str] = field(default_factory=list)
    not_tried: dict[str, str] = field(default_factory=dict)


def try_remedies(
    recipe: Recipe,
    findings: Sequence[Finding],
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
    observer: StudyObserver | None = None,
) -> dict[str, Any]:
    """Train the student as it is, with the remedy of each sick or suspect finding, and with all of them; and compare.

    Every run of a seed begins with the same weights and sees the same images in the same order, for as many steps;
    a remedy that is itself a longer or a shorter run says so. The same call goes on with a study that was stopped.

    Args:
        recipe: what was diagnosed.
        findings: what was found; those without overrides cannot be tried, and are named.
        out: a folder; the study lies in ``remedies`` under it.
        seeds: fixed before looking; differences are paired by them.
        workers: runs side by side; left out: as many as their threads leave cores for.
        observer: told how it goes.

    Returns:
        What ``diagnosis.json`` holds as ``tried``: ``as_it_is``, ``labels`` (the same student from labels alone; None
        where the recipe is that), ``fixes`` with the accuracy each regained, its interval, and its share of what was
        lost against the best of all; ``conflicts``, ``not_tried``, and what keeps the study from being believed.

    Raises:
        BadInput: the recipe names objects of Python that no file holds, or the folder holds another study.
        RunFailed: nothing can be compared.
    """
    fixes = fixes_of(recipe, findings)
    told: dict[str, Any] = {
        "study": FOLDER,
        "seeds": list(seeds),
        "fixes": [],
        "conflicts": fixes.conflicts,
        "not_tried": [{"check": check, "why": why} for check, why in fixes.not_tried.items()],
    }
    if not fixes.each:
        return told
    if recipe.data.source == "python":
        raise BadInput("data.source", "python", "data that a recipe can name: worker processes read it again")
    study = study_of(recipe, fixes, seeds)
    found = compare(study, out / FOLDER, engine_maker("local", workers, None), observer)
    return {**told, **_results(out / FOLDER, found.results, fixes)}


def fixes_of(recipe: Recipe, findings: Sequence[Finding]) -> Fixes:
    """The remedies that can be tried, in the order of severity, and all of them together.

    Args:
        recipe: what they change.
        findings: what was found.

    >>> from stillroom.diagnose.finding import Remedy
    >>> recipe = parse_recipe({"student": {"name": "mlp"}})
    >>> rate = lambda check, verdict, lr: Finding(check, verdict, "", remedy=Remedy("", {"training.optimizer.lr": lr}))
    >>> found = fixes_of(recipe, [rate("slow", "warning", 0.3), rate("diverged", "problem", 0.01)])
    >>> [fix.name for fix in found.each], found.conflicts
    (['fix-diverged', 'fix-slow'], ['training.optimizer.lr: diverged wants 0.01, slow 0.3; the first is taken'])
    """
    fixes = Fixes()
    ailing = [one for one in findings if one.verdict in ("problem", "warning")]
    for one in sorted(ailing, key=lambda one: VERDICTS.index(one.verdict)):
        overrides = dict(one.remedy.overrides) if one.remedy is not None else {}
        if not overrides:
            fixes.not_tried.setdefault(one.check, "its remedy is nothing that a recipe can say")
            continue
        try:
            changed = _changed(recipe, overrides)
        except BadInput as error:
            fixes.not_tried.setdefault(one.check, f"its remedy does not fit the recipe ({error})")
            continue
        if changed == recipe:
            fixes.not_tried.setdefault(one.check, "the recipe is as its remedy wants it")
            continue
        same = next((fix for fix in fixes.each if fix.overrides == overrides), None)
        if same is not None:
            same.checks.append(one.check)
            continue
        fixes.each.append(Fix(_name(one.check, fixes.each), [one.check], one.verdict, overrides))
    _put_together(recipe, fixes)
    return fixes


def _put_together(recipe: Recipe, fixes: Fixes) -> None:
    """All remedies at once; of two that want the same field to be different, the first by severity."""
    taken: dict[str, Any] = {}
    owner: dict[str, str] = {}
    checks: list[str] = []
    for fix in fixes.each:
        for key, value in fix.overrides.items():
            rival = next((held for held in taken if _touch(held, key)), None)
            if rival is None:
                taken[key], owner[key] = value, fix.checks[0]
            elif taken[rival] != value or rival != key:
                mine = f"{key} {word(value)}" if rival != key else word(value)
                fixes.conflicts.append(
                    f"{rival}: {owner[rival]} wants {word(taken[rival])}, {fix.checks[0]} {mine}; the first is taken"
                )
        checks += fix.checks
    if len(fixes.each) < 2 or any(fix.overrides == taken for fix in fixes.each):
        return
    try:
        _changed(recipe, taken)
    except BadInput as error:
        fixes.conflicts.append(f"together they are no recipe ({error}), and were not tried so")
        return
    fixes.together = Fix(ALL, checks, fixes.each[0].verdict, taken)


def _touch(one: str, other: str) -> bool:
    """Whether one key is the other, or lies within it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _changed(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    content = recipe.model_dump(mode="json")
    for key, value in overrides.items():
        set_value(content, key, copy.deepcopy(value))
        # A length in one unit takes the place of the other, as it does in a study's methods.
        other = {"training.epochs": "training.steps", "training.steps": "training.epochs"}.get(key)
        if other is not None and other not in overrides:
            set_value(content, other, None)
    return parse_recipe(content)


def _name(check: str, others: Sequence[Fix]) -> str:
    """``fix-<check>``, as a folder's name, and none of the others'."""
    stem = f"fix-{re.sub(r'[^A-Za-z0-9_.+=-]', '-', check)}"[: _LONGEST - 3]
    names = {fix.name for fix in others}
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 99))) if name not in names)


def study_of(recipe: Recipe, fixes: Fixes, seeds: Sequence[int]) -> Study:
    """The study that compares the student as it is with what its remedies make of it.

    Args:
        recipe: what was diagnosed.
        fixes: what is to be tried.
        seeds: fixed before looking.

    Raises:
        BadInput: a seed is none.
    """
    content = recipe.model_dump(mode="json")
    del content["name"], content["seed"]
    tried = [*fixes.each, *([fixes.together] if fixes.together is not None else [])]
    methods: list[dict[str, Any]] = [{"name": AS_IT_IS, "note": "The recipe as it was diagnosed."}]
    methods += [
        {"name": fix.name, "set": dict(fix.overrides), "note": f"Against {', '.join(fix.checks)}."[:400]}
        for fix in tried
    ]
    if not _is_labels_alone(recipe):
        methods.append(
            {"name": LABELS, "set": {"losses": labels_alone()}, "note": "The same student, its teacher unheard."}
        )
    keys = {key for fix in tried for key in fix.overrides}
    return parse_study(
        {
            "name": "remedies",
            "question": "What does each remedy bring back, at an equal budget?",
            "recipe": content,
            "methods": methods,
            "seeds": list(seeds),
            "baseline": AS_IT_IS,
            "allowed_differences": sorted({told for key in keys if (told := varied(key)) is not None}),
        }
    )


def varied(key: str) -> str | None:
    """What a study calls the thing that a key changes; None where methods may differ in it anyway.

    >>> varied("data.augmentation.flip"), varied("training.optimizer.lr")
    ('augmentation', None)
    """
    parts = key.split(".")
    places = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((_VARIES[place] for place in places if place in _VARIES), None)


def _is_labels_alone(recipe: Recipe) -> bool:
    parts = [loss_class(term).rescaling_part for term in recipe.losses]
    return parts == ["labels"] or recipe.teacher is None


def _results(folder: Path, results: Mapping[str, Any], fixes: Fixes) -> dict[str, Any]:
    study = read_study(folder)
    pair = study.model_pairs[0].name
    sign = 1 if study.measure.higher_is_better else -1
    means = {name: study.cells[pair, name].mean for name in study.names}
    known = {name: sign * mean for name, mean in means.items() if mean is not None}
    best = max(known, key=lambda name: known[name], default=None)
    lost = known[best] - known[AS_IT_IS] if best is not None and AS_IT_IS in known else None
    steps = {name: next((run.steps for run in study.runs_of(pair, name)), None) for name in study.names}

    def level(name: str) -> dict[str, Any]:
        cell = study.cells[pair, name]
        return {"name": name, "mean": cell.mean, "low": cell.low, "high": cell.high, "seeds": cell.count}

    def against(name: str) -> dict[str, Any]:
        found = study.to_baseline.get((pair, name))
        gained = None if found is None or found.mean is None else sign * found.mean
        held = None if found is None else found.difference
        ends = (None, None) if held is None else (held.low, held.high)
        low, high = (None if end is None else sign * end for end in (ends if sign > 0 else reversed(ends)))
        share = None if gained is None or not lost or lost <= 0 else gained / lost
        verdict: str = "undecided" if found is None else found.verdict
        if sign < 0:
            verdict = {"higher": "lower", "lower": "higher"}.get(verdict, verdict)
        return {
            "regained": gained,
            "low": low,
            "high": high,
            "holm_p": None if found is None else found.holm_p,
            "verdict": {"higher": "better", "lower": "worse"}.get(verdict, verdict),
            "share_of_loss": share,
            "seeds_that_would_settle": None if found is None or found.plan is None else found.plan.seeds,
        }

    def fixed(fix: Fix) -> dict[str, Any]:
        mine, theirs = steps[fix.name], steps[AS_IT_IS]
        return {
            "name": fix.name,
            "checks": fix.checks,
            "overrides": dict(fix.overrides),
            "level": level(fix.name),
            **against(fix.name),
            "times_the_steps": mine / theirs if mine and theirs else None,
        }

    tried = [*fixes.each, *([fixes.together] if fixes.together is not None else [])]
    return {
        "measure": results["measure"],
        "as_it_is": level(AS_IT_IS),
        "labels": {"level": level(LABELS), **against(LABELS)} if LABELS in study.names else None,
        "best": best,
        "lost": lost,
        "fixes": [fixed(fix) for fix in tried],
        "equal": study.equal,
        "inequalities": [one.text for one in study.inequalities],
        "missing": [f"{one.method}, seed {one.seed}: {one.reason}" for one in study.missing],
    }
