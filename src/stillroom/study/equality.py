"""Whether methods were equal in all but what they are: proved by what their runs left, not promised."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.study.collect import Run
from stillroom.study.config import Method, Pair, Study
from stillroom.study.folder import StudyFolder
from stillroom.study.honesty import dishonest
from stillroom.study.plan import Plan, recipe_content
from stillroom.study.space import merged_space, own_values, points
from stillroom.study.traits import Trait, foreseen_traits, own_seed, timed, traits_of
from stillroom.study.wording import counted, listed, places, word

# What is looked at, in the order in which it is told.
CHECKED = (
    "recipe",
    "seed",
    "initial weights",
    "student",
    "order of images",
    "augmentation",
    "budget",
    "batch size",
    "micro-batches",
    "processes",
    "threads",
    "data",
    "test images",
    "tasks",
    "memory",
    "teacher",
    "cache",
    "moving average",
    "compiled",
    "precision",
    "device",
    "versions",
    "tuning",
    "reported epoch",
    "reported figures",
)
# What a seed decides is compared within the seed, versions over the whole study, all else within a pair.
_OF_A_SEED = ("initial weights", "order of images", "tasks")
_OF_THE_STUDY = ("versions",)
_COUNTED = ("steps", "epochs", "seconds")

Place = tuple[str, int | None]


@dataclass(frozen=True)
class Finding:
    """Something in which methods were not equal, at one place.

    Attributes:
        what: one of :data:`CHECKED`.
        methods: who differ from the others, or from their own recipe.
        told: it in words; ``{names}``, ``{has}`` and ``{differs}`` stand for the methods and their verbs.
        place: pair and seed; no seed where it is of all of them.
    """

    what: str
    methods: tuple[str, ...]
    told: str
    place: Place


@dataclass(frozen=True)
class Inequality:
    """A finding over all its places.

    Attributes:
        what: one of :data:`CHECKED`.
        methods: who differ.
        places: pairs and seeds, in the order of the plan.
        told: the whole in one line.
    """

    what: str
    methods: tuple[str, ...]
    places: tuple[Place, ...]
    told: str

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs it is found on."""
        return tuple(dict.fromkeys(pair for pair, _ in self.places))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds it is found in."""
        return tuple(sorted({seed for _, seed in self.places if seed is not None}))

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return {
            "what": self.what,
            "pair": self.places[0][0],
            "seed": self.places[0][1],
            "methods": list(self.methods),
            "pairs": list(self.pairs),
            "seeds": list(self.seeds),
            "told": self.told,
        }


@dataclass(frozen=True)
class _Row:
    method: str
    place: Place
    traits: Mapping[str, Trait]


def foreseen(plan: Plan) -> list[str]:
    """The inequalities that recipes show before anything is run.

    Args:
        plan: the study's runs.

    Returns:
        A line each, in the words of the finished table; empty where recipes show none.
    """
    seconds = _seconds(plan)
    rows = [
        _Row(
            cell.method,
            (cell.pair, cell.seed),
            foreseen_traits(cell, plan.study, seconds.get((cell.pair, cell.method))),
        )
        for cell in plan.cells
    ]
    findings = [*_own_seeds(plan), *_compared(rows, plan.study, comparable=_same_terms), *_trials(plan)]
    return [one.told for one in merged(findings, plan)]


def inequalities(
    plan: Plan,
    runs: Sequence[Run],
    *,
    tuned: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> list[Inequality]:
    """All that keeps the finished runs of a study from being an equal comparison.

    Args:
        plan: the study's runs.
        runs: the finished ones.
        tuned: ``tuned.json``, where there is one.
        calibration: ``calibration.json``, where there is one.

    Returns:
        In the order of :data:`CHECKED`; empty where runs were equal.
    """
    seconds = _seconds(plan)
    rows = [
        _Row(
            run.cell.method,
            (run.cell.pair, run.cell.seed),
            traits_of(run, plan.study, seconds.get((run.cell.pair, run.cell.method))),
        )
        for run in runs
    ]
    found = [
        *_own_seeds(plan),
        *_compared(rows, plan.study),
        *_lengths(plan, calibration),
        *(_trials(plan, tuned) if tuned is not None else []),
    ]
    for run in runs:
        place = (run.cell.pair, run.cell.seed)
        found += [Finding(what, (run.cell.method,), told, place) for what, told in dishonest(run, plan.study)]
    return merged(found, plan)


def merged(findings: Sequence[Finding], plan: Plan) -> list[Inequality]:
    """Findings that say the same, in one line: of several methods, then over seeds and pairs."""
    names = [method.name for method in plan.study.methods]
    order = {(cell.pair, cell.seed): position for position, cell in enumerate(plan.cells)}
    together: dict[tuple[str, str, Place], set[str]] = {}
    for one in findings:
        together.setdefault((one.what, one.told, one.place), set()).update(one.methods)
    everywhere: dict[tuple[str, str, tuple[str, ...]], list[Place]] = {}
    for (what, told, place), who in together.items():
        methods = tuple(name for name in names if name in who)
        everywhere.setdefault((what, told, methods), []).append(place)
    found = []
    for (what, told, methods), where in everywhere.items():
        spots = sorted(where, key=lambda place: order.get((place[0], place[1] or 0), 0))
        line = _spoken(told, methods)
        shown = places(spots, pairs=bool(plan.study.pairs))
        found.append(Inequality(what, methods, tuple(spots), f"{line} ({shown})" if shown else line))
    return sorted(found, key=lambda one: (CHECKED.index(one.what), [names.index(name) for name in one.methods]))


def _spoken(told: str, methods: Sequence[str]) -> str:
    several = len(methods) > 1
    words = {
        "{names}": listed(methods),
        "{has}": "have" if several else "has",
        "{differs}": "differ" if several else "differs",
    }
    for token, spoken in words.items():
        told = told.replace(token, spoken)
    return told


def _seconds(plan: Plan) -> dict[tuple[str, str], float]:
    budget = plan.study.budget
    if budget is None or budget.seconds is None:
        return {}
    return dict.fromkeys(timed(plan.study), budget.seconds)


def _own_seeds(plan: Plan) -> list[Finding]:
    found = []
    for cell in plan.cells:
        seed = own_seed(cell, cell.recipe)
        if isinstance(seed, int):
            told = f"seed: {{names}} {{has}} {seed} in place of the study's"
            found.append(Finding("seed", (cell.method,), told, (cell.pair, cell.seed)))
    return found


def compared(study: Study) -> list[str]:
    """What methods must be equal in: all that is looked at, but what the study says shall differ."""
    left_out = (*study.varies, *(() if study.in_tasks else ("tasks", "memory")))
    return [what for what in CHECKED if what not in left_out]


def _compared(
    rows: Sequence[_Row], study: Study, comparable: Callable[[Trait, Trait], bool] = lambda a, b: True
) -> list[Finding]:
    found: list[Finding] = []
    for what in compared(study):
        scopes: dict[object, list[_Row]] = {}
        for row in rows:
            if what in row.traits:
                scopes.setdefault(_scope(what, row, study), []).append(row)
        for scope in scopes.values():
            found += _within(what, scope, study.against, comparable)
    return found


def _scope(what: str, row: _Row, study: Study) -> object:
    if what in _OF_THE_STUDY:
        return None
    place = row.place if what in _OF_A_SEED else row.place[0]
    # What follows from something that methods are meant to differ in is compared where that is the same.
    return place, *(row.traits[what].follows.get(varied) for varied in study.varies)


def _within(
    what: str, rows: Sequence[_Row], baseline: str, comparable: Callable[[Trait, Trait], bool]
) -> list[Finding]:
    """Who differ from what most runs have; from what the baseline has, where as many have the one as the other."""
    counts = Counter(row.traits[what].identity for row in rows)
    most = [row for row in rows if counts[row.traits[what].identity] == max(counts.values())]
    reference = next((row for row in most if row.method == baseline), most[0]).traits[what]
    found = []
    for place in dict.fromkeys(row.place for row in rows):
        here = [row for row in rows if row.place == place]
        peers = [row.method for row in here if row.traits[what].identity == reference.identity]
        others: dict[str, list[_Row]] = {}
        for row in here:
            if row.method not in peers:
                others.setdefault(row.traits[what].identity, []).append(row)
        for group in others.values():
            trait = group[0].traits[what]
            if comparable(trait, reference):
                told = f"{what}: {_difference(trait, reference, _peers(peers, len(here) - len(group)))}"
                found.append(Finding(what, tuple(row.method for row in group), told, place))
    return found


def _same_terms(one: Trait, other: Trait) -> bool:
    """Whether recipes can tell: not epochs beside steps, nor what the machine is left to choose."""
    if "auto" in (one.fields.get(""), other.fields.get("")):
        return False
    return {*one.fields, *other.fields} != {"steps", "epochs"}


def _peers(peers: Sequence[str], rest: int) -> str:
    if not peers:
        return "the other runs"
    return "the others" if len(peers) == rest and rest > 2 else listed(peers)


def _difference(trait: Trait, reference: Trait, peers: str) -> str:
    keys = [key for key in {**trait.fields, **reference.fields} if _differs(trait.fields, reference.fields, key)]
    if not keys and not trait.reasoned:
        return f"{{names}} {{differs}} from {peers}, and the recipes do not tell why"
    if trait.reasoned:
        reasons = [f"{key} {word(trait.fields.get(key))} against {word(reference.fields.get(key))}" for key in keys]
        return f"{{names}} {{differs}} from {peers} ({'; '.join(reasons) or 'the recipes do not tell why'})"
    if len(keys) == 1 and keys[0] in trait.fields and keys[0] in reference.fields:
        # The reference's unit goes without saying.
        value = reference.fields[keys[0]]
        told = f"{value:,}" if keys[0] in _COUNTED else word(value)
        return f"{{names}} {{has}} {_shown(keys[0], trait.fields)}, {peers} {told}"
    mine, theirs = ([_shown(key, one.fields) for key in keys if key in one.fields] for one in (trait, reference))
    return f"{{names}} {{has}} {listed(mine or ['none'])}, {peers} {listed(theirs or ['none'])}"


def _differs(mine: Mapping[str, Any], theirs: Mapping[str, Any], key: str) -> bool:
    return (key in mine) != (key in theirs) or mine.get(key) != theirs.get(key)


def _shown(key: str, fields: Mapping[str, Any]) -> str:
    value = fields[key]
    if key in _COUNTED:
        return counted(value, key.removesuffix("s"))
    return f"{key} {word(value)}".strip()


def _lengths(plan: Plan, calibration: Mapping[str, Any] | None) -> list[Finding]:
    """Whether a budget in seconds became the steps that its calibration says."""
    found = []
    seconds = _seconds(plan)
    measured = (calibration or {}).get("pairs") or {}
    for cell in plan.cells:
        if (cell.pair, cell.method) not in seconds:
            continue
        entry = (measured.get(cell.pair) or {}).get(cell.method) or {}
        known, steps = entry.get("steps"), cell.recipe.training.steps or 0
        doubt = None
        if known != steps:
            doubt = f"the calibration says {counted(known, 'step') if isinstance(known, int) else 'nothing'}"
        elif (why := _not_given(entry, calibration or {}, seconds[cell.pair, cell.method])) is not None:
            doubt = f"which the calibration does not give: {why}"
        if doubt is not None:
            told = f"budget: {{names}} {{has}} {counted(steps, 'step')}, {doubt}"
            found.append(Finding("budget", (cell.method,), told, (cell.pair, cell.seed)))
    return found


def _not_given(entry: Mapping[str, Any], calibration: Mapping[str, Any], seconds: float) -> str | None:
    """Why the time of a step that was measured does not come to the steps beside it; None where it does."""
    if calibration.get("seconds") != seconds:
        return f"it is of {word(calibration.get('seconds'))} seconds, not {word(seconds)}"
    each = entry.get("seconds_per_step")
    if not isinstance(each, int | float) or not each > 0 or not math.isfinite(seconds / each):
        return f"seconds_per_step is {word(each)}"
    given = max(int(seconds / each), 1)
    if given == entry["steps"]:
        return None
    return f"{word(seconds)} seconds of {word(each)} a step are {counted(given, 'step')}"


def _trials(plan: Plan, tuned: Mapping[str, Any] | None = None) -> list[Finding]:
    """Whether all were tuned by as many trials, or all that a smaller space has; as planned, where none were made."""
    study = plan.study
    found: list[Finding] = []
    for pair in study.all_pairs:
        most = {one.name: _most_trials(study, pair, one) for one in study.methods}
        made: dict[str, object] = dict(most)
        if tuned is not None:
            entries = tuned.get(pair.name) or {}
            # Without an entry its search is not done, and neither are its runs.
            made = {
                name: entries[name].get("trials") if count else 0
                for name, count in most.items()
                if isinstance(entries.get(name), Mapping) or not count
            }
        full = [name for name, count in made.items() if count and count == most[name]]
        lengths = {most[name] for name in full}
        told = f"{max(lengths)} or all of a smaller space" if len(lengths) > 1 else max(lengths, default=0)
        traits = {name: Trait({"trials": count}) for name, count in made.items()}
        traits |= dict.fromkeys(full, Trait({"trials": told}, "all that it could"))
        found += _compared([_Row(name, (pair.name, None), {"tuning": one}) for name, one in traits.items()], study)
    return found


def _most_trials(study: Study, pair: Pair, method: Method) -> int:
    """How many trials a method's search has in all: fewer than the study's where its space has no more points."""
    tuning = study.tuning
    space = merged_space(tuning, method) if tuning is not None else {}
    if tuning is None or not space:
        return 0
    count = points(space)
    if count < tuning.trials:
        # The first trial is the recipe as it is written, wherever that lies.
        count += own_values(space, recipe_content(study, StudyFolder(Path()), pair, method)) is None
    return int(min(tuning.trials, count))
