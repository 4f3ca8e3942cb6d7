"""Training the remedies: the unchanged student, each remedy and all of them, at an equal budget and paired by seed."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput
from stillroom.losses.registry import labels_alone, loss_class
from stillroom.models.weights import Note
from stillroom.recipe import Recipe, parse_recipe, set_value
from stillroom.run.components import RunComponents, RunObjects
from stillroom.schema.diagnosis import ALL_REMEDIES, LABELS, UNCHANGED, VERDICTS, Finding, Verification, plain
from stillroom.schema.study import read_study
from stillroom.study.compare import compare
from stillroom.study.config import Study, parse_study
from stillroom.study.engine import engine_maker
from stillroom.study.engine.base import Engine
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.plan import StudyFolder
from stillroom.study.progress import StudyObserver
from stillroom.wording import word

# Folder of the study of the remedies.
FOLDER = "remedies"
# What a study must allow methods to differ in, by the beginning of the key that a remedy changes.
_DIFFERENCES = {
    "training.epochs": "budget",
    "training.steps": "budget",
    "data.augmentation": "augmentation",
    "data.batch_size": "batch size",
    "data": "data",
    "teacher": "teacher",
    "student": "student",
    "training.precision": "precision",
    "training.teacher_precision": "precision",
    "training.threads": "threads",
    "training.ema": "moving average",
    "training.compile": "compiled",
    "cache": "cache",
}
_LONGEST = 48
_OTHER_UNIT = {"training.epochs": "training.steps", "training.steps": "training.epochs"}


@dataclass
class RemedyMethod:
    """A remedy as a method of a study."""

    name: str  # the method's
    checks: list[str]  # the findings whose remedy it is
    overrides: dict[str, Any]  # dotted recipe keys to new values


@dataclass
class RemedyPlan:
    """Which remedies can be trained."""

    each: list[RemedyMethod] = field(default_factory=list)  # the remedies, those of problems first
    together: RemedyMethod | None = None  # all of them that fit together; None where that is the same as one of them
    conflicts: list[str] = field(default_factory=list)  # overrides of which only the first was taken together, in words
    not_verified: dict[str, str] = field(default_factory=dict)  # check → why its remedy cannot be trained

    @property
    def all(self) -> list[RemedyMethod]:
        """Each remedy, and all together."""
        return [*self.each, *([self.together] if self.together is not None else [])]


def verify_remedies(
    recipe: Recipe,
    findings: Sequence[Finding],
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
    observer: StudyObserver | None = None,
    objects: RunObjects | None = None,
) -> Verification:
    """Train the unchanged student, the remedy of each problem or warning, and all remedies together; and compare.

    Every run of a seed begins with the same weights and sees the same images in the same order, for as many steps; a
    remedy that is itself a longer or a shorter run says so. The same call continues a study that was stopped.

    Args:
        recipe: what was diagnosed.
        findings: what was found; remedies without overrides cannot be trained, and are listed.
        out: a folder; the study lies in ``remedies`` under it.
        seeds: fixed before looking; differences are paired by them.
        workers: runs at a time; left out: as many as their threads leave cores for.
        observer: is given the progress.
        objects: of a run made in Python, its modules and images, as :meth:`RunObjects.require_run` wants them; all is
            then trained in this process, one run after another. The student always begins with its own weights, so
            seeds differ in the order of images and in dropout.

    Raises:
        BadInput: the recipe names Python objects that are not given, or the folder holds another study.
        RunFailed: nothing can be compared.
    """
    plan = plan_remedies(recipe, findings, objects)
    content: dict[str, Any] = {
        "study": FOLDER,
        "seeds": list(seeds),
        "conflicts": plan.conflicts,
        "not_verified": [{"check": check, "why": why} for check, why in plan.not_verified.items()],
    }
    if plan.each:
        make_engine = engine_maker("local", workers, None)
        if objects is not None:
            make_engine = partial(_in_process, recipe, objects)
        elif recipe.data.source == "python":
            raise BadInput("data.source", "python", "data that a recipe can name: worker processes read it again")
        found = compare(study_of(recipe, plan, seeds), out / FOLDER, make_engine, observer)
        content |= _results(out / FOLDER, found.results, plan)
    return Verification.model_validate(plain(content))


def _in_process(recipe: Recipe, objects: RunObjects, folder: StudyFolder, threads: int) -> Engine:
    def make(changed: Recipe, note: Note | None) -> RunComponents:
        return objects.components(changed, recipe)

    return InProcessEngine(make)


def plan_remedies(recipe: Recipe, findings: Sequence[Finding], objects: RunObjects | None = None) -> RemedyPlan:
    """The remedies that can be trained, problems first, and all of them together.

    Args:
        recipe: what was diagnosed.
        findings: what was found.
        objects: of a run made in Python; a remedy that they do not allow is not trained.

    >>> from stillroom.schema.diagnosis import Remedy
    >>> recipe = parse_recipe({"student": {"name": "mlp"}})
    >>> rate = lambda check, verdict, lr: Finding(check, verdict, "", remedy=Remedy("", {"training.optimizer.lr": lr}))
    >>> plan = plan_remedies(recipe, [rate("slow", "warning", 0.3), rate("diverged", "problem", 0.01)])
    >>> [remedy.name for remedy in plan.each], plan.conflicts
    (['remedy-diverged', 'remedy-slow'], ['training.optimizer.lr: diverged wants 0.01, slow 0.3; the first is taken'])
    """
    plan = RemedyPlan()
    for one in sorted(findings, key=lambda one: VERDICTS.index(one.verdict)):
        if not one.needs_attention:
            continue
        overrides = dict(one.remedy.overrides) if one.remedy is not None else {}
        if not overrides:
            plan.not_verified.setdefault(one.check, "its remedy cannot be written in a recipe")
            continue
        try:
            changed = _apply(recipe, overrides)
            if objects is not None:
                objects.components(changed, recipe)
        except BadInput as error:
            plan.not_verified.setdefault(one.check, f"its remedy does not fit the recipe ({error})")
            continue
        if changed == recipe:
            plan.not_verified.setdefault(one.check, "the recipe already has what its remedy sets")
            continue
        same = next((remedy for remedy in plan.each if remedy.overrides == overrides), None)
        if same is not None:
            same.checks.append(one.check)
            continue
        plan.each.append(RemedyMethod(_unique_name(one.check, plan.each), [one.check], overrides))
    _combine(recipe, plan)
    return plan


def _combine(recipe: Recipe, plan: RemedyPlan) -> None:
    """All remedies together; of two that change the same field, the first."""
    taken: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for remedy in plan.each:
        for key, value in remedy.overrides.items():
            rival = next((other for other in taken if _overlap(other, key)), None)
            if rival is None:
                taken[key], owner[key] = value, remedy.checks[0]
            elif taken[rival] != value or rival != key:
                mine = f"{key} {word(value)}" if rival != key else word(value)
                wants = f"{owner[rival]} wants {word(taken[rival])}, {remedy.checks[0]} {mine}"
                plan.conflicts.append(f"{rival}: {wants}; the first is taken")
    if len(plan.each) < 2 or any(remedy.overrides == taken for remedy in plan.each):
        return
    try:
        _apply(recipe, taken)
    except BadInput as error:
        plan.conflicts.append(f"together they are not a valid recipe ({error}), so they were not trained together")
        return
    checks = [check for remedy in plan.each for check in remedy.checks]
    plan.together = RemedyMethod(ALL_REMEDIES, checks, taken)


def _overlap(one: str, other: str) -> bool:
    """Whether one key is the other, or lies within it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _apply(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    content = recipe.model_dump(mode="json")
    for key, value in overrides.items():
        set_value(content, key, copy.deepcopy(value))
        # A length in one unit replaces the other, as it does in a study's methods.
        other = _OTHER_UNIT.get(key)
        if other is not None and other not in overrides:
            set_value(content, other, None)
    return parse_recipe(content)


def _unique_name(check: str, others: Sequence[RemedyMethod]) -> str:
    """``remedy-<check>``, as a folder's name, and none of the others'."""
    stem = f"remedy-{re.sub(r'[^A-Za-z0-9_.+=-]', '-', check)}"[: _LONGEST - 3]
    names = {remedy.name for remedy in others}
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 99))) if name not in names)


def study_of(recipe: Recipe, plan: RemedyPlan, seeds: Sequence[int]) -> Study:
    """The study that compares the unchanged student with each remedy.

    Raises:
        BadInput: a seed is none.
    """
    content = recipe.model_dump(mode="json")
    del content["name"], content["seed"]
    methods: list[dict[str, Any]] = [{"name": UNCHANGED, "note": "The recipe as it was diagnosed."}]
    methods += [
        {"name": one.name, "set": dict(one.overrides), "note": f"Remedy for {', '.join(one.checks)}."[:400]}
        for one in plan.all
    ]
    if recipe.teacher is not None and [loss_class(term).rescaling_part for term in recipe.losses] != ["labels"]:
        plain_loss = {"losses": labels_alone()}
        methods.append({"name": LABELS, "set": plain_loss, "note": "The same student trained on labels alone."})
    keys = {key for one in plan.all for key in one.overrides}
    return parse_study(
        {
            "name": "remedies",
            "question": "How much accuracy does each remedy recover, at an equal budget?",
            "recipe": content,
            "methods": methods,
            "seeds": list(seeds),
            "baseline": UNCHANGED,
            "allowed_differences": sorted({what for key in keys if (what := difference_of(key)) is not None}),
        }
    )


def difference_of(key: str) -> str | None:
    """What a study calls the thing that a key changes; None where methods may differ in it anyway.

    >>> difference_of("data.augmentation.flip"), difference_of("training.optimizer.lr")
    ('augmentation', None)
    """
    parts = key.split(".")
    places = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((_DIFFERENCES[place] for place in places if place in _DIFFERENCES), None)


def _results(folder: Path, results: Mapping[str, Any], plan: RemedyPlan) -> dict[str, Any]:
    study = read_study(folder)
    pair = study.model_pairs[0].name
    sign = 1 if study.measure.higher_is_better else -1
    means = {name: study.cells[pair, name].mean for name in study.names}
    scores = {name: sign * mean for name, mean in means.items() if mean is not None}
    best = max(scores, key=lambda name: scores[name], default=None)
    lost = scores[best] - scores[UNCHANGED] if best is not None and UNCHANGED in scores else None
    steps = {name: next((run.steps for run in study.runs_of(pair, name)), None) for name in study.names}

    def score(name: str) -> dict[str, Any]:
        cell = study.cells[pair, name]
        return {"name": name, "mean": cell.mean, "low": cell.low, "high": cell.high, "seeds": cell.count}

    def against_unchanged(name: str) -> dict[str, Any]:
        found = study.to_baseline.get((pair, name))
        gained = None if found is None or found.mean is None else sign * found.mean
        held = None if found is None else found.difference
        ends = (None, None) if held is None else (held.low, held.high)
        low, high = (None if end is None else sign * end for end in (ends if sign > 0 else reversed(ends)))
        verdict: str = "undecided" if found is None else found.verdict
        is_better = "higher" if sign > 0 else "lower"
        if verdict != "undecided":
            verdict = "better" if verdict == is_better else "worse"
        return {
            "score": score(name),
            "regained": gained,
            "low": low,
            "high": high,
            "holm_p": None if found is None else found.holm_p,
            "verdict": verdict,
            "share_of_loss": None if gained is None or not lost or lost <= 0 else gained / lost,
            "seeds_to_decide": None if found is None else found.seeds_needed,
        }

    def verified(one: RemedyMethod) -> dict[str, Any]:
        mine, theirs = steps[one.name], steps[UNCHANGED]
        relative_steps = mine / theirs if mine and theirs else None
        own = {"name": one.name, "checks": one.checks, "overrides": one.overrides, "relative_steps": relative_steps}
        return {**own, **against_unchanged(one.name)}

    return {
        "measure": results["measure"],
        "unchanged": score(UNCHANGED),
        "labels": against_unchanged(LABELS) if LABELS in study.names else None,
        "best": best,
        "lost": lost,
        "remedies": [verified(one) for one in plan.all],
        "equal": study.equal,
        "inequalities": [one.text for one in study.inequalities],
        "missing": [f"{one.method}, seed {one.seed}: {one.reason}" for one in study.missing],
    }
