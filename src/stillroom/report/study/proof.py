"""What differs between methods, what trials chose for them, and what proves that the rest was equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stillroom.report.fields import Fields, is_finite
from stillroom.report.formats import DASH, amount, counted, whole
from stillroom.report.study.model import Missing, Study

_HASHES = {
    "init": "Initial weights",
    "order": "Order of images",
    "views": "Views",
    "budget": "Budget",
    "threads": "Threads",
}


@dataclass(frozen=True)
class Proof:
    """The hashes of a seed's runs on a pair: one where all agree, or each with who has it."""

    pair: str
    seed: int
    runs: int
    cells: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]


def hash_names() -> tuple[str, ...]:
    """What is hashed, in the order of the columns."""
    return tuple(_HASHES.values())


def proofs(study: Study) -> tuple[Proof, ...]:
    """A line for each seed of each pair that has a finished run."""
    found = []
    for pair in study.pairs:
        for seed in sorted({run.seed for run in study.runs if run.pair == pair.name}):
            runs = [run for run in study.runs if (run.pair, run.seed) == (pair.name, seed)]
            cells = []
            for key in _HASHES:
                held: dict[str, list[str]] = {}
                for run in runs:
                    held.setdefault(run.hashes.get(key, DASH), []).append(run.method)
                cells.append(tuple((value, tuple(names)) for value, names in held.items()))
            found.append(Proof(pair.name, seed, len(runs), tuple(cells)))
    return tuple(found)


@dataclass(frozen=True)
class Absent:
    """Runs without a result that share a reason."""

    reason: str
    runs: tuple[str, ...]


def absences(missing: tuple[Missing, ...], *, several_pairs: bool) -> tuple[Absent, ...]:
    """The missing runs by reason: what failed first, then what was not run yet."""
    by_reason: dict[str, dict[str, list[int]]] = {}
    for each in missing:
        where = f"{each.method} on {each.pair}" if several_pairs else each.method
        by_reason.setdefault(each.reason, {}).setdefault(where, []).append(each.seed)
    ordered = sorted(by_reason.items(), key=lambda item: item[0] == "not run yet")
    return tuple(
        Absent(reason, tuple(f"{name}, seed{'s' * (len(s) > 1)} {', '.join(map(str, s))}" for name, s in held.items()))
        for reason, held in ordered
    )


@dataclass(frozen=True)
class Trial:
    """One trial: its number, its values, what it reached, whether it was chosen."""

    number: str
    values: tuple[str, ...]
    value: str
    sort: str
    is_chosen: bool


@dataclass(frozen=True)
class Tuned:
    """What a method's trials on a pair chose."""

    pair: str
    name: str
    measure: str
    keys: tuple[str, ...]
    chosen: tuple[tuple[str, str], ...]
    value: str
    trials: tuple[Trial, ...]


def tuned(study: Study) -> tuple[Tuned, ...]:
    """What trials chose, in the order of pairs and methods.

    Raises:
        BadInput: a part of it has another form.
    """
    top = Fields(study.path / "tuned.json", dict(study.tuned))
    found = []
    for pair in study.pairs:
        held = top.maybe_inside(pair.name)
        for name in study.names:
            each = held.maybe_inside(name) if held is not None else None
            if each is not None:
                found.append(_tuned(pair.name, name, each, study.measure.digits))
    return tuple(found)


def _tuned(pair: str, name: str, fields: Fields, digits: int) -> Tuned:
    chosen = fields.maybe_inside("values")
    values = dict(chosen.content) if chosen is not None else {}
    trials = fields.listed("all")
    contents = [_values(trial) for trial in trials]
    keys = tuple(dict.fromkeys([*values, *(key for content in contents for key in content)]))
    best = next((place for place, content in enumerate(contents) if content == values), None)
    return Tuned(
        pair=pair,
        name=name,
        measure=fields.maybe_text("measure") or "",
        keys=keys,
        chosen=tuple((key, text(value)) for key, value in values.items()),
        value=amount(fields.maybe_number("value"), digits),
        trials=tuple(
            Trial(
                number=str(trial.content.get("number", place)),
                values=tuple(text(content[key]) if key in content else DASH for key in keys),
                value=amount(trial.maybe_number("value"), digits),
                sort=repr(trial.content.get("value")) if is_finite(trial.content.get("value")) else "",
                is_chosen=place == best,
            )
            for place, (trial, content) in enumerate(zip(trials, contents, strict=True))
        ),
    )


def _values(trial: Fields) -> dict[str, Any]:
    held = trial.maybe_inside("values")
    return dict(held.content) if held is not None else {}


def text(value: Any) -> str:
    """A recipe's value as short text.

    >>> text(0.0012345), text("cosine"), text([1, 2]), text(None)
    ('0.0012345', 'cosine', '[1, 2]', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def calibrated(study: Study) -> tuple[tuple[str, str, str], ...]:
    """Pair, method and the steps that a budget in seconds came to.

    Raises:
        BadInput: a part of it has another form.
    """
    pairs = Fields(study.path / "calibration.json", dict(study.calibration)).maybe_inside("pairs")
    found = []
    for pair in study.pairs:
        held = pairs.maybe_inside(pair.name) if pairs is not None else None
        for name in study.names:
            each = held.maybe_inside(name) if held is not None else None
            if each is not None:
                found.append((pair.name, name, whole(each.maybe_whole("steps"))))
    return tuple(found)


def budget(study: Study) -> str:
    """The length of each run, in words."""
    for key, what in (("epochs", "epoch"), ("steps", "step"), ("seconds", "second")):
        value = study.budget.get(key)
        if value is not None:
            return f"{counted(int(value), what) if value == int(value) else f'{value:g} {what}s'} a run"
    return "the recipe’s own length"
