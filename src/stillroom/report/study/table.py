"""The tables of a study's page, and what they link to: each method with its interval, each against each, ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from stillroom.report.blocks import Number, Values
from stillroom.report.charts import nice
from stillroom.report.formats import DASH, MINUS, amount, change, decimal, p_value, short, signed, whole
from stillroom.schema.study import (
    CellResult,
    ComparisonResult,
    MeasureInfo,
    PairInfo,
    RanksResult,
    RunResult,
    StudyResults,
)
from stillroom.wording import counted

PAGE = "report.html"
_FILES = {
    "table.csv": "the table, one row per method and pair",
    "table.tex": "the same for LaTeX",
    "runs.csv": "one row per run",
    "comparisons.csv": "every paired difference",
    "cost.csv": "clocks, teacher passes, memory, one line a run",
    "results.json": "everything on this page but clocks",
    "study.yaml": "the study, every field written out",
    "tuned.json": "the tuned options, and every trial",
}
_NO_BREAK = "\u00a0"
# The drawing of a mean with its interval, in pixels.
_WIDTH, _EDGE = 200.0, 10.0
# Further out than this many times the spread of the means, an interval is cut: with two seeds one can be so wide that
# every other would shrink to a point.
_REACH = 1.5
_TICK_LETTERS = 18
# With more methods the columns of a matrix carry numbers in place of names, and the cells their p alone.
NAMED = 8
# The critical-difference diagram, in pixels.
_LEFT, _RIGHT, _AXIS, _BAR, _NAME, _LETTERS = 280.0, 660.0, 58.0, 9.0, 21.0, 26


@dataclass(frozen=True)
class Links:
    """Addresses of a study's files."""

    folder: Path  # the study's folder
    start: str  # the address of that folder from the page; empty where the page lies in it

    def of(self, run: str) -> tuple[str | None, str]:
        """The address of a run's page, and the words that link to it; of its folder where it has no page."""
        folder = self.folder / run
        if (folder / PAGE).is_file():
            return f"{self.start}{quote(run)}/{PAGE}", "Report"
        if folder.is_dir():
            return f"{self.start}{quote(run)}/", "Folder"
        return None, "removed"

    def files(self) -> list[tuple[str, str, str]]:
        """Address, name and content of the study's files."""
        return [(f"{self.start}{name}", name, what) for name, what in _FILES.items() if (self.folder / name).is_file()]


def links(folder: Path, page: Path) -> Links:
    """The addresses from a page to a study's folder.

    >>> links(Path("s"), Path("s/report.html")).start, links(Path("s"), Path("pages/s.html")).start
    ('', '../s/')
    """
    start = Path(os.path.relpath(folder.resolve(), page.resolve().parent)).as_posix()
    return Links(folder, "" if start == "." else f"{quote(start)}/")


@dataclass(frozen=True)
class Scale:
    """From values to pixels, and the ticks worth a number."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Where a value is drawn, within the drawing."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(_EDGE + (_WIDTH - 2 * _EDGE) * min(max(share, 0.0), 1.0), 1)

    def dot(self, mean: float, low: float | None, high: float | None) -> Values:
        """A mean and its interval in pixels."""
        if low is None or high is None:
            return Values(x=self.at(mean), low=None, high=None, cut_low=False, cut_high=False)
        return Values(
            x=self.at(mean), low=self.at(low), high=self.at(high), cut_low=low < self.low, cut_high=high > self.high
        )


def scale(values: Sequence[tuple[float, float | None, float | None]]) -> Scale:
    """The scale that holds these means, and their intervals where those are not much wider than the means' spread."""
    means = [mean for mean, _, _ in values]
    margins = sorted(mean - low for mean, low, _ in values if low is not None)
    spread = max(max(means) - min(means), margins[len(margins) // 2] if margins else 0.0)
    lows = [low for _, low, _ in values if low is not None]
    highs = [high for _, _, high in values if high is not None]
    start = max(min([*means, *lows]), min(means) - _REACH * spread)
    end = min(max([*means, *highs]), max(means) + _REACH * spread)
    if not end > start or not math.isfinite(end - start):
        return Scale(means[0], means[0], ((_WIDTH / 2, _tick(means[0], 0.0)),))
    plain = Scale(start, end, ())
    for most in (4, 2, 1):
        ticks = [(plain.at(tick), _tick(tick, end - start)) for tick in nice(start, end, most)]
        if sum(len(text) for _, text in ticks) <= _TICK_LETTERS:
            break
    return Scale(start, end, tuple(ticks))


def _tick(value: float, span: float) -> str:
    if abs(value) >= 1e6 or (value and abs(value) < 1e-4):
        text = f"{value:.2g}"
    else:
        digits = max(0, -math.floor(math.log10(span / 4))) if span > 0 else 2
        text = f"{value:.{min(digits, 6)}f}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def pair_tables(study: StudyResults, links: Links) -> tuple[Values, ...]:
    """The tables, in the order of the pairs."""
    return tuple(_table(study, place, pair, links) for place, pair in enumerate(study.model_pairs))


def _table(study: StudyResults, place: int, pair: PairInfo, links: Links) -> Values:
    cells = [study.cells.get((pair.name, name)) for name in study.names]
    drawn = [(c.mean, c.low, c.high) for c in cells if c is not None and c.mean is not None]
    scaling = scale(drawn) if drawn else None
    base = study.cells.get((pair.name, study.baseline))
    return Values(
        pair=pair,
        facts=_facts(pair),
        scale=scaling,
        baseline_at=scaling.at(base.mean) if scaling and base is not None and base.mean is not None else None,
        rows=tuple(
            _row(study, pair.name, name, f"{place}-{number}", scaling, links) for number, name in enumerate(study.names)
        ),
    )


def _facts(pair: PairInfo) -> list[str]:
    """What a pair is, in a few words each."""
    teacher = pair.teacher
    if teacher is not None and pair.teacher_top1 is not None:
        teacher += f" ({decimal(pair.teacher_top1, 2)}% top-1)"
    images = [
        f"{whole(count)} {what} $images" for count, what in ((pair.train, "training"), (pair.test, "test")) if count
    ]
    length = [counted(length, unit) for length, unit in ((pair.steps, "step"), (pair.epochs, "epoch")) if length]
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


def _row(study: StudyResults, pair: str, name: str, key: str, scaling: Scale | None, links: Links) -> Values:
    measure = study.measure
    cell, found = study.cells.get((pair, name)), study.to_baseline.get((pair, name))
    is_baseline = name == study.baseline
    absent = [f"seed {each.seed}: {each.reason}" for each in study.missing if (each.pair, each.method) == (pair, name)]
    count = cell.count if cell else 0
    has_mean = cell is not None and cell.mean is not None
    effect = found.difference.effect if found is not None and found.difference is not None else None
    return Values(
        key=key,
        name=name,
        note=next(each.note for each in study.methods if each.name == name),
        is_baseline=is_baseline,
        is_equal=cell is None or cell.equal,
        dot=scaling.dot(cell.mean, cell.low, cell.high) if scaling and cell and cell.mean is not None else None,
        mean=mean_number(cell, measure),
        difference=_difference(found, measure),
        holm_p=_number(found.holm_p if found else None, p_value),
        effect=_number(effect, lambda value: signed(value, 2)),
        verdict=Number("baseline") if is_baseline else verdict(found, measure, study.baseline, has_mean),
        tone=tone(found, measure),
        text=found.text if found else "",
        seeds=Number(str(count), f"of {len(study.seeds)}" if absent else "", str(count)),
        runs=tuple(_run(run, measure, links) for run in study.runs_of(pair, name)),
        absent=tuple(absent),
    )


def _number(value: float | None, written: Callable[[float], str]) -> Number:
    return Number(DASH) if value is None else Number(written(value), "", repr(value))


def mean_number(cell: CellResult | None, measure: MeasureInfo) -> Number:
    """A mean over its interval; why there is none."""
    if cell is None or cell.mean is None:
        return Number(DASH, (cell.why if cell else None) or "no run finished")
    small = cell.why or ""
    if cell.low is not None and cell.high is not None:
        small = f"[{amount(cell.low, measure.digits)},{_NO_BREAK}{amount(cell.high, measure.digits)}]"
    return Number(amount(cell.mean, measure.digits), small, repr(cell.mean))


def _difference(found: ComparisonResult | None, measure: MeasureInfo) -> Number:
    if found is None or found.difference is None:
        return Number(DASH)
    held, small = found.difference, "no interval"
    if held.low is not None and held.high is not None:
        small = f"[{change(held.low, measure.digits)},{_NO_BREAK}{change(held.high, measure.digits)}]"
    return Number(change(held.mean, measure.digits), small, repr(held.mean))


def verdict(found: ComparisonResult | None, measure: MeasureInfo, baseline: str, has_mean: bool = True) -> Number:
    """What a comparison says, in a word; where it says nothing, what would settle it. Nobody is called the best."""
    if found is None:
        return Number(DASH, "" if has_mean else "no run finished")
    if found.verdict != "undecided":
        side = "better" if (found.verdict == "higher") == measure.higher_is_better else "worse"
        return Number(found.verdict, f"{side} than {baseline}", "1" if found.verdict == "higher" else "-1")
    small, plan = "", found.plan
    if found.difference is None:
        small = "no seed in common"
    elif plan is not None and plan.seeds is not None:
        small = f"about {counted(plan.seeds, 'seed')} would settle it"
    elif plan is not None:
        small = plan.why or f"more than {counted(plan.cap, 'seed')} would settle it, if any"
    return Number("undecided", small, "0")


def contrast_table(study: StudyResults) -> Values | None:
    """The planned contrasts in their families, drawn on one scale with its zero; None where there are none."""
    if not study.contrasts:
        return None
    measure = study.measure
    differences = [one.comparison.difference for one in study.contrasts]
    drawn = [(each.mean, each.low, each.high) for each in differences if each is not None]
    scaling = scale([*drawn, (0.0, None, None)]) if drawn else None
    rows = []
    for one, found in zip(study.contrasts, differences, strict=True):
        decision = verdict(one.comparison, measure, study.baseline)
        # Of a difference of differences, neither side is the better one.
        colour = tone(one.comparison, measure) if one.between is None else ""
        if one.comparison.verdict != "undecided":
            side = {"gained": "better", "lost": "worse"}.get(colour, "")
            decision = Number(decision.text, side, decision.sort)
        rows.append(
            Values(
                name=one.name,
                note=one.note,
                where=one.pair or " less ".join(one.between or ()),
                sides=(", ".join(one.of), ", ".join(one.less)),
                is_mean=(len(one.of) > 1, len(one.less) > 1),
                is_planned=one.planned,
                is_baseline=False,
                dot=scaling.dot(found.mean, found.low, found.high) if scaling and found is not None else None,
                difference=_difference(one.comparison, measure),
                holm_p=_number(one.comparison.holm_p, p_value),
                verdict=decision,
                tone=colour,
                text=one.comparison.text,
                seeds=whole(found.count) if found is not None else "0",
            )
        )
    return Values(rows=tuple(rows), scale=scaling, baseline_at=scaling.at(0.0) if scaling else None)


def tone(found: ComparisonResult | None, measure: MeasureInfo) -> str:
    """How a verdict is coloured: gained, lost, or not at all."""
    if found is None or found.verdict == "undecided":
        return ""
    return "gained" if (found.verdict == "higher") == measure.higher_is_better else "lost"


def _run(run: RunResult, measure: MeasureInfo, links: Links) -> Values:
    address, link = links.of(run.run)
    return Values(
        seed=run.seed,
        value=amount(run.value(measure.name), measure.digits),
        steps=whole(run.steps),
        hashes=(run.hashes.init, run.hashes.order, run.hashes.views),
        address=address,
        link=link,
    )


def matrices(study: StudyResults) -> tuple[Values, ...]:
    """The matrices, in the order of the pairs; none where there is nothing to compare."""
    if len(study.methods) < 2:
        return ()
    return tuple(_matrix(study, pair) for pair in study.model_pairs)


def _matrix(study: StudyResults, pair: PairInfo) -> Values:
    found = study.between.get(pair.name, ())
    by_names = {(each.method, each.against): each for each in found}
    rows = [
        Values(
            number=number,
            name=name,
            cells=tuple(None if name == other else _cell(study, name, other, by_names) for other in study.names),
        )
        for number, name in enumerate(study.names, start=1)
    ]
    return Values(
        pair=pair, count=len(found), decided=sum(each.verdict != "undecided" for each in found), rows=tuple(rows)
    )


def _cell(study: StudyResults, name: str, other: str, found: dict[tuple[str, str], ComparisonResult]) -> Values:
    straight, turned = found.get((name, other)), found.get((other, name))
    each = straight or turned
    if each is None or each.mean is None:
        return Values(text="–", small="", title=f"{name} − {other}: no seed in common", tone="", strength=0)
    mean = each.mean if straight is not None else -each.mean
    colour = tone(each, study.measure)
    if straight is None and colour:
        colour = "lost" if colour == "gained" else "gained"
    p = each.holm_p
    small = f"p {p_value(p)}" if p is not None else "no p"
    text = change(mean, study.measure.digits)
    strength = 0 if not colour or p is None else 3 if p <= study.alpha / 50 else 2 if p <= study.alpha / 5 else 1
    return Values(
        text=text,
        small=small,
        title=f"{name} − {other}: {text}{study.measure.points}, Holm {small}",
        tone=colour,
        strength=strength,
    )


def rank_diagram(ranks: RanksResult | None) -> Values | None:
    """The diagram; None where there is no test, so that no picture claims what no test has found."""
    if ranks is None or ranks.critical_difference is None or len(ranks.names) < 2 or not ranks.average:
        return None
    count = len(ranks.names)
    per_rank = (_RIGHT - _LEFT) / (count - 1)

    def at(rank: float) -> float:
        return round(_LEFT + (min(max(rank, 1.0), float(count)) - 1) * per_rank, 1)

    places = dict(zip(ranks.names, ranks.average, strict=True))
    bars = _bars([(at(min(held)), at(max(held))) for held in ([places[n] for n in bar] for bar in ranks.bars) if held])
    levels = len({bar.y for bar in bars})
    first = _AXIS + 14 + levels * _BAR + 16
    half = (count + 1) // 2
    names = [
        Values(
            text=short(name, _LETTERS),
            whole=name,
            rank=f"{rank:.2f}",
            x=at(rank),
            # Those further out stand higher, so that no line crosses another.
            y=first + _NAME * (number if number < half else count - 1 - number),
            is_left=number < half,
        )
        for number, (name, rank) in enumerate(places.items())
    ]
    step = max(1, -(-(count - 1) // 15))
    fits = ranks.critical_difference <= count - 1
    length = min(ranks.critical_difference * per_rank, _RIGHT - _LEFT)
    text = f"critical difference {ranks.critical_difference:.2f}"
    return Values(
        height=max(name.y for name in names) + 14,
        axis=_AXIS,
        left=_LEFT,
        right=_RIGHT,
        ticks=tuple((at(rank), str(rank)) for rank in range(1, count + 1, step)),
        ruler=(_LEFT, round(_LEFT + length, 1)) if fits else None,
        ruler_text=text if fits else f"{text}, longer than the axis",
        names=tuple(names),
        bars=bars,
    )


def _bars(spans: list[tuple[float, float]]) -> tuple[Values, ...]:
    """The bars, each on the first level where it touches no other."""
    levels: list[float] = []
    found = []
    for start, end in sorted(spans):
        level = next((place for place, taken in enumerate(levels) if taken < start - 8), len(levels))
        levels[level : level + 1] = [end]
        found.append(Values(start=start - 4, end=end + 4, y=_AXIS + 12 + level * _BAR))
    return tuple(found)
