"""What each method cost, as medians over the seeds, and the measure against it: one plot a pair and kind of cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

from stillroom.report.blocks import Values
from stillroom.report.charts import LIGHT, Chart, Figure, axis, error_bars, escaped, figure_of, rounded, value_range
from stillroom.report.formats import DASH, amount, scaled, short, three_digits, whole
from stillroom.report.study.charts import Range, Styles
from stillroom.schema.study import COST, CellKey, CostRow, MeasureInfo, PairInfo, StudyResults, read_costs
from stillroom.wording import counted, listed

# A plot as most screens show it, in pixels; by it names are placed so that they do not lie over one another.
_WIDTH, _HEIGHT, _LETTER, _LINE = 900.0, 300.0, 7.0, 16.0
# Of more points than this, those on the front alone are named.
_NAMED = 12
_SIZES = ("parameters", "multiply_adds")
_CLOCKS = ("training_seconds", "evaluation_seconds", "teacher_answers", "peak_memory_mb", "images_per_second")


def seconds(value: float) -> str:
    """A time in the unit that suits it.

    >>> seconds(0.5), seconds(77.0), seconds(600.0), seconds(9000.0)
    ('0.5 s', '77.0 s', '10.0 min', '2.50 h')
    """
    if value < 120:
        return f"{value:.1f} s"
    return f"{three_digits(value / 60)} min" if value < 7200 else f"{three_digits(value / 3600)} h"


def _megabytes(value: float) -> str:
    return f"{three_digits(value)} MB"


@dataclass(frozen=True)
class CostKind:
    """One kind of cost: its key, its words, how its numbers and an axis of them are written, what to know about it.

    ``is_measured``: another run of the same method would give another number, as with clocks and memory.
    """

    key: str
    title: str
    unit: str
    written: Callable[[float], str]
    note: str
    ticks: str = "~s"
    is_measured: bool = False


KINDS = (
    CostKind(
        "training_seconds",
        "Training time",
        "seconds",
        seconds,
        "Seconds of training, median over seeds, without evaluation and trials. Measured on this machine: runs that "
        "shared its cores slowed each other down.",
        ",~g",
        is_measured=True,
    ),
    CostKind(
        "teacher_answers",
        "Teacher passes",
        "$images",
        whole,
        "$Images that a run itself gave the teacher, median over the seeds; cached outputs were computed once, when "
        "the cache was built.",
    ),
    CostKind("parameters", "Parameters", "numbers", scaled, "Trainable weights of the student."),
    CostKind("multiply_adds", "Multiply-adds", "for one $image", scaled, "Of the student, for one $image."),
    CostKind("peak_memory_mb", "Peak memory", "MB", _megabytes, "Median over the seeds.", ",~g", is_measured=True),
)
# The table's columns: title, key, how numbers are written.
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Training", "training_seconds", seconds),
    ("Evaluation", "evaluation_seconds", seconds),
    ("$Images a second", "images_per_second", whole),
    ("Teacher passes", "teacher_answers", whole),
    ("Peak memory", "peak_memory_mb", _megabytes),
    ("Parameters", "parameters", scaled),
    ("Multiply-adds", "multiply_adds", scaled),
)


@dataclass(frozen=True)
class CostTotal:
    """The sum over trials, over the caches that were built, or of a teacher's training."""

    count: int = 0
    seconds: float = 0.0
    answers: float = 0.0

    def add(self, seconds: float | None, answers: float | None) -> CostTotal:
        """The sum with one more."""
        return CostTotal(self.count + 1, self.seconds + (seconds or 0.0), self.answers + (answers or 0.0))


@dataclass(frozen=True)
class StudyCosts:
    """Medians over seeds by (pair, method) and kind; trials by (pair, method); caches by pair; teachers.

    ``found`` says whether there is a ``cost.csv``; ``values`` are what each seed's run took.
    """

    found: bool
    medians: dict[CellKey, dict[str, float]] = field(default_factory=dict)
    values: dict[CellKey, dict[str, list[float]]] = field(default_factory=dict)
    trials: dict[CellKey, CostTotal] = field(default_factory=dict)
    caches: dict[str, CostTotal] = field(default_factory=dict)
    teachers: dict[str, CostTotal] = field(default_factory=dict)


def study_costs(study: StudyResults, folder: Path) -> StudyCosts:
    """Read ``cost.csv`` and add the students' sizes from the results; BadInput where the file is damaged."""
    rows = read_costs(folder / COST)
    costs = StudyCosts(rows is not None)
    runs: dict[CellKey, list[CostRow]] = {}
    for row in rows or ():
        key = (row.pair or "", row.method or "")
        if row.kind == "run":
            runs.setdefault(key, []).append(row)
        elif row.kind == "trial":
            total = costs.trials.get(key, CostTotal())
            costs.trials[key] = total.add(row.training_seconds, row.teacher_answers)
        elif row.kind == "cache":
            costs.caches[key[0]] = costs.caches.get(key[0], CostTotal()).add(row.cache_seconds, row.teacher_answers)
        elif row.kind == "teacher":
            total = costs.teachers.get(key[1], CostTotal())
            costs.teachers[key[1]] = total.add(row.training_seconds, row.teacher_answers)
    for key, held in runs.items():
        values = {clock: [v for row in held if (v := getattr(row, clock)) is not None] for clock in _CLOCKS}
        costs.medians[key] = {clock: median(found) for clock, found in values.items() if found}
        costs.values[key] = values
    for pair in study.model_pairs:
        for name in study.names:
            # One student has one size over its seeds; were it not so, the first would do.
            for run in study.runs_of(pair.name, name)[:1]:
                sizes = {size: float(getattr(run, size)) for size in _SIZES}
                costs.medians.setdefault((pair.name, name), {}).update(sizes)
    return costs


def cost_rows(study: StudyResults, costs: StudyCosts) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """The table of costs: pair, method, and a cell for each of :data:`COLUMNS`."""
    rows = []
    for pair in study.model_pairs:
        for name in study.names:
            held = costs.medians.get((pair.name, name), {})
            cells = tuple(written(held[key]) if key in held else DASH for _, key, written in COLUMNS)
            rows.append((pair.name, name, cells))
    return tuple(rows)


def cost_notes(study: StudyResults, costs: StudyCosts) -> tuple[str, ...]:
    """What the table of runs leaves out: teachers trained here, caches, trials."""
    notes = [
        f"The teacher {name}, trained here: {seconds(spent.seconds)}, once for all."
        for name, spent in costs.teachers.items()
    ]
    for pair in study.model_pairs:
        where = f" on {pair.name}" if len(study.model_pairs) > 1 else ""
        cache = costs.caches.get(pair.name)
        if cache is not None:
            built = f"{whole(cache.answers)} $images, {seconds(cache.seconds)}"
            notes.append(f"The teacher’s cache{where}: {built}, once for all.")
        trials = [
            f"{name} {seconds(spent.seconds)} ({counted(spent.count, 'trial')})"
            for name in study.names
            if (spent := costs.trials.get((pair.name, name))) is not None
        ]
        if trials:
            notes.append(f"Trials{where}, not counted above: {', '.join(trials)}.")
    return tuple(notes)


@dataclass(frozen=True)
class CostPoint:
    """A method: its cost, its mean, its interval."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None

    @property
    def ends(self) -> tuple[float, float | None, float | None]:
        """The mean and its interval."""
        return self.y, self.low, self.high


@dataclass(frozen=True)
class CostChoice:
    """A kind of cost on a pair: a plot, or the words that say why there is none."""

    kind: CostKind
    chart: Chart | None
    words: str


def trade_offs(study: StudyResults, costs: StudyCosts, styles: Styles) -> tuple[Values, ...]:
    """The plots, in the order of the pairs and of the kinds of cost."""
    return tuple(
        Values(
            pair=pair,
            choices=tuple(_choice(study, f"cost-{place}-{kind.key}", pair, kind, costs, styles) for kind in KINDS),
        )
        for place, pair in enumerate(study.model_pairs)
    )


def first_choice(trade_offs: Sequence[Values]) -> str:
    """The kind of cost that is shown at first: one that has a plot somewhere."""
    plotted = [choice.kind.key for each in trade_offs for choice in each.choices if choice.chart is not None]
    return next((kind.key for kind in KINDS if kind.key in plotted), KINDS[0].key)


def front(points: Sequence[CostPoint], higher_is_better: bool, noise: float = 0.0) -> list[CostPoint]:
    """Those that no other beats in one without losing in the other, the cheapest first.

    Args:
        points: the methods.
        higher_is_better: of the measure.
        noise: costs that differ by no more are taken for the same.

    >>> found = [CostPoint(name, x, y, None, None) for name, x, y in (("a", 1, 60), ("b", 2, 59), ("c", 3, 61))]
    >>> [point.name for point in front(found, True)], [point.name for point in front(found, False)]
    (['a', 'c'], ['a', 'b'])
    >>> [point.name for point in front(found, True, noise=2)]
    ['c']
    """
    sign = -1.0 if higher_is_better else 1.0

    def is_beaten(point: CostPoint) -> bool:
        """By one that is better for no more, or as good for less."""
        return any(
            (sign * other.y < sign * point.y and other.x <= point.x + noise)
            or (other.y == point.y and other.x < point.x - noise)
            for other in points
        )

    return sorted((point for point in points if not is_beaten(point)), key=lambda one: (one.x, sign * one.y))


def _choice(
    study: StudyResults, key: str, pair: PairInfo, kind: CostKind, costs: StudyCosts, styles: Styles
) -> CostChoice:
    points, absent = [], []
    for name in study.names:
        cell = study.cells.get((pair.name, name))
        x = costs.medians.get((pair.name, name), {}).get(kind.key)
        if cell is not None and cell.mean is not None and x is not None:
            points.append(CostPoint(name, x, cell.mean, cell.low, cell.high))
        else:
            absent.append(name)
    without_chart = partial(CostChoice, kind, None)
    if not points:
        return without_chart(f"{kind.title}: not recorded for any run of this pair.")
    if len(points) == 1:
        only = f"{points[0].name}, {kind.written(points[0].x)}"
        return without_chart(f"{kind.title}: recorded for {only} alone, so nothing can be compared.")
    if len({point.x for point in points}) == 1:
        same = f"{kind.title}: the same for all, {kind.written(points[0].x)}"
        why = ", as all train the same student" if kind.key in _SIZES else ""
        return without_chart(f"{same}{why}. They differ in the measure alone: see the table.")
    noise = _noise(pair, kind, points, costs)
    low, high = min(point.x for point in points), max(point.x for point in points)
    if high - low <= noise:
        held = (costs.values.get((pair.name, point.name), {}).get(kind.key, []) for point in points)
        one = all(len(values) < 2 for values in held)
        why = "one seed shows no spread" if one else f"seeds alone can make {kind.written(noise)} of difference"
        ends = f"{kind.written(low)} to {kind.written(high)}"
        return without_chart(f"{kind.title}: {ends}, which is noise ({why}): no trade-off is drawn. See the table.")
    return CostChoice(kind, _chart(study, key, kind, points, absent, styles, noise), "")


# Student's t at 95% by the degrees of freedom; from the last one on it is taken for all.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def _noise(pair: PairInfo, kind: CostKind, points: Sequence[CostPoint], costs: StudyCosts) -> float:
    """How far apart two methods of the same cost can be measured.

    The largest spread of a method over its seeds, or, if that is more, the 95% interval of a difference of two means,
    of the standard deviation of all methods: two seeds that agree by chance say little. Where no method has two seeds,
    half of the smallest cost: of clocks less would say nothing.
    """
    if not kind.is_measured:
        return 0.0
    found = [costs.values.get((pair.name, point.name), {}).get(kind.key, []) for point in points]
    held = [values for values in found if len(values) > 1]
    if not held:
        return 0.5 * min(point.x for point in points)
    spread = max(max(values) - min(values) for values in held)
    freedom = sum(len(values) - 1 for values in held)
    deviation = math.sqrt(sum((value - fmean(values)) ** 2 for values in held for value in values) / freedom)
    seeds = min(map(len, held))
    return max(spread, _T95[min(freedom, len(_T95)) - 1] * deviation * math.sqrt(2 / seeds))


def _chart(
    study: StudyResults,
    key: str,
    kind: CostKind,
    points: list[CostPoint],
    absent: list[str],
    styles: Styles,
    noise: float,
) -> Chart:
    best = front(points, study.measure.higher_is_better, noise)
    low, high = min(point.x for point in points), max(point.x for point in points)
    is_log = low > 0 and high / low > 30
    if is_log:
        x_range = low / 1.4, high * 1.8
    else:
        x_range = (
            0.0 if kind.is_measured or 0 <= low < 0.5 * high else low - 0.1 * (high - low),
            high + 0.14 * (high - low),
        )
    y_range = value_range([point.ends for point in points], reach=2.0, margin=0.1)
    title = f"{kind.title.lower()}, {kind.unit}{' (log scale)' if is_log else ''}"
    # A logarithmic axis takes the exponents of its ends.
    ends = (math.log10(x_range[0]), math.log10(x_range[1])) if is_log else x_range
    placed = [replace(point, x=math.log10(point.x)) for point in points] if is_log else points
    names = _labels(placed, {point.name for point in best}, ends, y_range)
    x = axis(title, tickformat=kind.ticks, type="log" if is_log else "linear", range=list(ends))
    y = axis(f"{study.measure.label}, {study.measure.place}", range=list(y_range))
    traces = [_steps(best, x_range[1]), _dots(study.measure, kind, points, best, styles, names)]
    heading = f"{study.measure.heading} against {kind.title.lower()}"
    words = _words(study, kind, best, absent)
    if noise:
        words += f" Runs of one method differ by up to {kind.written(noise)}; costs closer than that count as the same."
    return Chart(key, heading, words, 400, figure_of(traces, x, y))


def _steps(best: Sequence[CostPoint], beyond: float) -> Figure:
    """The front as steps: the best that is to be had up to each cost."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": rounded([*(point.x for point in best), beyond]),
        "y": rounded([*(point.y for point in best), best[-1].y]),
        "name": "Pareto front",
        "line": {"color": LIGHT["axis"], "width": 1.6, "shape": "hv", "dash": "dot"},
        "hoverinfo": "skip",
    }


def _dots(
    measure: MeasureInfo,
    kind: CostKind,
    points: Sequence[CostPoint],
    best: Sequence[CostPoint],
    styles: Styles,
    names: tuple[list[str], list[str]],
) -> Figure:
    on_front = {point.name for point in best}
    symbols = [styles[one.name].symbol + ("" if one.name in on_front else "-open") for one in points]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": rounded([point.x for point in points]),
        "y": rounded([point.y for point in points], 7),
        "text": names[0],
        "textposition": names[1],
        "meta": "named",  # in a narrow window the page places them anew
        "textfont": {"color": LIGHT["ink"], "size": 12},
        "cliponaxis": False,
        "name": "Methods",
        "customdata": [[escaped(one.name, 60), _mean(one, measure), kind.written(one.x)] for one in points],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        "marker": {
            "size": 10,
            "color": [LIGHT[styles[point.name].colour] for point in points],
            "symbol": symbols,
            "line": {"width": 1.8},
        },
        "error_y": error_bars([point.ends for point in points], "axis"),
    }


def _mean(point: CostPoint, measure: MeasureInfo) -> str:
    mean = amount(point.y, measure.digits)
    if point.low is None or point.high is None:
        return f"{mean} (no interval)"
    return f"{mean} [{amount(point.low, measure.digits)}, {amount(point.high, measure.digits)}]"


def _labels(
    points: Sequence[CostPoint], on_front: set[str], x_range: Range, y_range: Range
) -> tuple[list[str], list[str]]:
    """The names of points where there is space, of many points of those on the front; hovering shows all."""
    at = [(_share(point.x, x_range) * _WIDTH, (1 - _share(point.y, y_range)) * _HEIGHT) for point in points]
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in at]
    texts, places = [""] * len(points), ["top right"] * len(points)
    # The front's first: where space is short, its names are the ones to keep.
    for number in sorted(range(len(points)), key=lambda place: points[place].name not in on_front):
        (x, y), point = at[number], points[number]
        name = short(point.name, 22)
        wide = len(name) * _LETTER
        boxes = {
            "top right": (x + 9, y - _LINE - 4, x + 9 + wide, y - 2),
            "bottom right": (x + 9, y + 2, x + 9 + wide, y + _LINE + 4),
            "top left": (x - 9 - wide, y - _LINE - 4, x - 9, y - 2),
            "bottom left": (x - 9 - wide, y + 2, x - 9, y + _LINE + 4),
            "top center": (x - wide / 2, y - _LINE - 10, x + wide / 2, y - 8),
            "bottom center": (x - wide / 2, y + 8, x + wide / 2, y + _LINE + 10),
        }
        free = [
            (place, box)
            for place, box in boxes.items()
            if box[0] >= 0 and box[2] <= _WIDTH and not any(_overlap(box, other) for other in taken)
        ]
        if free and (len(points) <= _NAMED or point.name in on_front):
            texts[number], places[number] = escaped(name), free[0][0]
            taken.append(free[0][1])
    return texts, places


def _share(value: float, along: Range) -> float:
    return (value - along[0]) / ((along[1] - along[0]) or 1.0)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _words(study: StudyResults, kind: CostKind, best: Sequence[CostPoint], absent: Sequence[str]) -> str:
    text = f"{kind.note} On the Pareto front (none is as good for less): {listed(point.name for point in best)}."
    text += (
        f" The front uses the means; bars are {study.percent} intervals; where they overlap the order may be chance."
    )
    return text + (f" Not shown, as a number is missing: {listed(absent)}." if absent else "")
