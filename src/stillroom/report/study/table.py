"""The table: each method on each pair, with its interval, its difference to the baseline, and its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stillroom.report.formats import DASH, amount, change, counted, decimal, p_value, scaled, signed, whole
from stillroom.report.study.dots import Dot, Scale, scale
from stillroom.report.study.links import Links
from stillroom.report.study.model import Cell, Comparison, Measure, Pair, Run, Study

NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Number:
    """A number as it is shown, the small print below it, what its column is sorted by; empty where there is none."""

    text: str
    small: str = ""
    sort: str = ""


@dataclass(frozen=True)
class RunRow:
    """A run below its method's row."""

    seed: int
    value: str
    steps: str
    hashes: tuple[str, ...]
    address: str | None
    link: str


@dataclass(frozen=True)
class Row:
    """A method on a pair."""

    key: str
    name: str
    note: str
    is_baseline: bool
    is_equal: bool
    dot: Dot | None
    mean: Number
    difference: Number
    holm_p: Number
    effect: Number
    verdict: Number
    tone: str
    told: str
    seeds: Number
    runs: tuple[RunRow, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The table of a pair: its facts, its scale, its rows."""

    pair: Pair
    facts: tuple[str, ...]
    scale: Scale | None
    baseline_at: float | None
    rows: tuple[Row, ...]


def tables(study: Study, links: Links) -> tuple[Table, ...]:
    """The tables, in the order of the pairs."""
    return tuple(_table(study, place, pair, links) for place, pair in enumerate(study.pairs))


def _table(study: Study, place: int, pair: Pair, links: Links) -> Table:
    cells = {name: study.cells.get((pair.name, name)) for name in study.names}
    drawn = [(c.mean, c.low, c.high) for c in cells.values() if c is not None and c.mean is not None]
    scaling = scale(drawn) if drawn else None
    base = cells[study.baseline]
    rows = [
        _row(study, pair, name, f"{place}-{number}", cells, scaling, links) for number, name in enumerate(study.names)
    ]
    return Table(
        pair=pair,
        facts=tuple(facts(pair)),
        scale=scaling,
        baseline_at=scaling.at(base.mean) if scaling and base is not None and base.mean is not None else None,
        rows=tuple(rows),
    )


def facts(pair: Pair) -> list[str]:
    """What a pair is, in a few words each."""
    teacher = pair.teacher
    if teacher is not None and pair.teacher_top1 is not None:
        teacher += f" ({decimal(pair.teacher_top1, 2)}% top-1)"
    images = [
        f"{whole(count)} {what} images" for count, what in ((pair.train, "training"), (pair.test, "test")) if count
    ]
    length = [f"{whole(pair.steps)} steps" if pair.steps else "", f"{pair.epochs:g} epochs" if pair.epochs else ""]
    found = [
        f"student {pair.student}" if pair.student else "",
        f"teacher {teacher}" if teacher else "no teacher",
        f"data {pair.data}" if pair.data else "",
        ", ".join(images),
        f"{pair.classes} classes" if pair.classes else "",
        " = ".join(part for part in length if part),
        pair.precision or "",
        counted(pair.threads, "thread") if pair.threads else "",
    ]
    return [fact for fact in found if fact]


def _row(
    study: Study,
    pair: Pair,
    name: str,
    key: str,
    cells: Mapping[str, Cell | None],
    scaling: Scale | None,
    links: Links,
) -> Row:
    cell, measure = cells[name], study.measure
    found = study.to_baseline.get((pair.name, name))
    is_baseline = name == study.baseline
    runs = study.runs_of(pair.name, name)
    absent = [
        f"seed {each.seed}: {each.reason}" for each in study.missing if (each.pair, each.method) == (pair.name, name)
    ]
    has_mean = cell is not None and cell.mean is not None
    return Row(
        key=key,
        name=name,
        note=next(each.note for each in study.methods if each.name == name),
        is_baseline=is_baseline,
        is_equal=cell is None or cell.equal,
        dot=scaling.dot(cell.mean, cell.low, cell.high) if scaling and cell and cell.mean is not None else None,
        mean=mean_number(cell, measure),
        difference=_difference(found, measure),
        holm_p=_number(found.holm_p if found else None, p_value),
        effect=_number(found.effect if found else None, lambda value: signed(value, 2)),
        verdict=Number("baseline", "", "") if is_baseline else verdict(found, measure, study.baseline, has_mean),
        tone=tone(found, measure),
        told=found.told if found else "",
        seeds=Number(
            f"{cell.count if cell else 0}",
            f"of {len(study.seeds)}" if absent else "",
            str(cell.count if cell else 0),
        ),
        runs=tuple(_run(run, measure, links) for run in runs),
        absent=tuple(absent),
    )


def _number(value: float | None, written: Callable[[float], str]) -> Number:
    return Number(DASH) if value is None else Number(written(value), "", repr(value))


def mean_number(cell: Cell | None, measure: Measure) -> Number:
    """A mean over its interval; why there is none."""
    if cell is None or cell.mean is None:
        return Number(DASH, (cell.why if cell else None) or "no run finished")
    small = cell.why or ""
    if cell.low is not None and cell.high is not None:
        small = f"[{amount(cell.low, measure.digits)},{NO_BREAK}{amount(cell.high, measure.digits)}]"
    return Number(amount(cell.mean, measure.digits), small, repr(cell.mean))


def _difference(found: Comparison | None, measure: Measure) -> Number:
    if found is None or found.mean is None:
        return Number(DASH)
    small = "no interval"
    if found.low is not None and found.high is not None:
        small = f"[{change(found.low, measure.digits)},{NO_BREAK}{change(found.high, measure.digits)}]"
    return Number(change(found.mean, measure.digits), small, repr(found.mean))


def verdict(found: Comparison | None, measure: Measure, baseline: str, has_mean: bool = True) -> Number:
    """What a comparison says, in a word; where it says nothing, what would settle it. Nobody is called the best."""
    if found is None:
        return Number(DASH, "" if has_mean else "no run finished")
    if found.verdict != "undecided":
        side = "better" if (found.verdict == "higher") == measure.higher_is_better else "worse"
        return Number(found.verdict, f"{side} than {baseline}", "1" if found.verdict == "higher" else "-1")
    small = ""
    if found.mean is None:
        small = "no seed in common"
    elif found.seeds is not None:
        small = f"about {counted(found.seeds, 'seed')} would settle it"
    elif found.why is not None:
        small = found.why
    elif found.cap is not None:
        small = f"more than {counted(found.cap, 'seed')} would settle it, if any"
    return Number("undecided", small, "0")


def tone(found: Comparison | None, measure: Measure) -> str:
    """How a verdict is coloured: gained, lost, or not at all."""
    if found is None or found.verdict == "undecided":
        return ""
    return "gained" if (found.verdict == "higher") == measure.higher_is_better else "lost"


def _run(run: Run, measure: Measure, links: Links) -> RunRow:
    address, link = links.of(run.path)
    return RunRow(
        seed=run.seed,
        value=amount(run.value, measure.digits),
        steps=whole(run.steps),
        hashes=tuple(run.hashes.get(key, DASH) for key in ("init", "order", "views")),
        address=address,
        link=link,
    )


def sizes(study: Study, pair: str) -> list[str]:
    """The students' sizes on a pair in words: one line where all have one."""
    found: dict[tuple[int | None, int | None], list[str]] = {}
    for name in study.names:
        for run in study.runs_of(pair, name)[:1]:
            found.setdefault((run.parameters, run.multiply_adds), []).append(name)
    return [f"{scaled(size[0])} parameters, {scaled(size[1])} multiply-adds an image" for size in found]
