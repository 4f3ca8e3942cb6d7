"""The tables of an explanation as rows of text: hypotheses with their intervals, other choices, networks, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.report.explain.read import TEACHER, Explanation, Hypothesis, Measure, Which
from stillroom.report.explain.words import CLAIMS, OUTCOMES, choice, digits
from stillroom.report.formats import DASH, MINUS, amount, change, decimal, whole

WIDTH = 220.0
_EDGE = 12.0
# Letter, what stands below it, plain words, and what it is exactly.
SYMBOLS = {
    "n_fg": (
        "N",
        "fg",
        "concepts on the subject",
        "Cells of the subject whose information the layer has kept: their entropy lies more than b below the mean of "
        "the background’s cells. Mean over images, at the end of the training.",
    ),
    "n_bg": (
        "N",
        "bg",
        "concepts on the background",
        "The same for cells of the background. Mean over images, at the end of the training.",
    ),
    "ratio": (
        "λ",
        "",
        "the subject’s share of all concepts",
        "N_fg/(N_fg + N_bg) of each image, mean over the images that have concepts, at the end of the training.",
    ),
    "d_mean": (
        "D",
        "mean",
        "how far weights had moved when an image had most concepts",
        "The cumulative movement of the probed layer’s weights, relative to their first size, at the checkpoint at "
        "which an image has most concepts on its subject; mean over images. Small: learned fast.",
    ),
    "d_std": (
        "D",
        "std",
        "how much images differ in that",
        "The standard deviation of the same movement over images. Small: all concepts are learned at once.",
    ),
    "rho": (
        "ρ",
        "",
        "share of what was ever learned that stayed",
        "Of the subject’s cells that were a concept at any checkpoint, the share that is one at the end; mean over "
        "the images that ever had one. Large: few detours.",
    ),
}
_SIGNS = {"supported": "✓", "refuted": "✗", "undecided": "·", None: DASH}


@dataclass(frozen=True)
class Interval:
    """A difference and its 95% interval as places in pixels, 0 in the middle; ``side`` is where it is said to lie."""

    x: float
    low: float | None
    high: float | None
    side: str


@dataclass(frozen=True)
class Row:
    """A measure in the table of hypotheses."""

    letter: str
    below: str
    plain: str
    meaning: str
    expected: str
    distilled: str
    labels: str
    difference: str
    bounds: str
    interval: Interval | None
    verdict: str
    word: str
    told: str


@dataclass(frozen=True)
class Group:
    """A hypothesis in that table."""

    number: int
    title: str
    verdict: str
    word: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Cell:
    """A verdict in the table of choices, with that of each measure."""

    verdict: str
    word: str
    signs: tuple[tuple[str, str, str], ...]
    differs: bool


@dataclass(frozen=True)
class Choice:
    """A row of that table."""

    what: str
    images: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Network:
    """A row of the table of networks: who, what it is made of, its numbers as text."""

    name: str
    detail: str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A row of the table of agreement."""

    one: str
    other: str
    agree: str
    both_right: str
    count: str


def groups(told: Explanation) -> tuple[Group, ...]:
    """The table of hypotheses."""
    return tuple(
        Group(
            one.number,
            CLAIMS[one.number][0],
            one.verdict or "unmeasured",
            OUTCOMES[one.verdict],
            tuple(_row(measure) for measure in one.measures),
        )
        for one in told.hypotheses
    )


def _row(measure: Measure) -> Row:
    letter, below, plain, meaning = SYMBOLS[measure.name]
    places = digits([measure.distilled, measure.labels])
    finer = digits([measure.difference, measure.low, measure.high])
    bounds = ""
    if measure.low is not None and measure.high is not None:
        bounds = f"{change(measure.low, finer)} to {change(measure.high, finer)}"
    difference = DASH if measure.difference is None else change(measure.difference, finer)
    return Row(
        letter=letter,
        below=below,
        plain=plain,
        meaning=meaning,
        expected=f"said to be {measure.expected}",
        distilled=amount(measure.distilled, places),
        labels=amount(measure.labels, places),
        difference=difference,
        bounds=bounds,
        interval=interval(measure),
        verdict=measure.verdict or "unmeasured",
        word=OUTCOMES[measure.verdict],
        told=f"Difference {difference}, 95% interval {bounds or 'none'}; {measure.expected} was expected.",
    )


def interval(measure: Measure) -> Interval | None:
    """Where a difference is drawn, on a scale of its own with 0 in the middle; None where it was not measured.

    >>> interval(Measure("n_fg", "higher", 3.0, 1.0, 2.0, 1.0, 4.0, "supported"))
    Interval(x=159.0, low=134.5, high=208.0, side='higher')
    """
    if measure.difference is None:
        return None
    ends = [abs(value) for value in (measure.difference, measure.low, measure.high) if value is not None]
    limit = max(ends) or 1.0

    def at(value: float | None) -> float | None:
        return None if value is None else round(WIDTH / 2 + (WIDTH / 2 - _EDGE) * value / limit, 1)

    return Interval(at(measure.difference) or 0.0, at(measure.low), at(measure.high), measure.expected)


def choices(told: Explanation) -> tuple[Choice, ...]:
    """The verdicts as told, then under each other choice; nothing without a comparison."""
    if not told.sensitivity:
        return ()
    usual = {one.number: one.verdict for one in told.hypotheses}
    stop = "none" if told.stop is None else f"{told.stop:g}".replace("-", MINUS, 1)
    first = Choice(
        f"As told: b {told.threshold:g}, stop {stop}, grid {told.grid} × {told.grid}",
        whole(len(told.rows)),
        tuple(_cell(one, usual) for one in told.hypotheses),
    )
    others = (
        Choice(_sentence(choice(other)), whole(other.images), tuple(_cell(one, usual) for one in other.hypotheses))
        for other in told.sensitivity
    )
    return (first, *others)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(hypothesis: Hypothesis, usual: dict[int, str | None]) -> Cell:
    signs = tuple((SYMBOLS[one.name][0], SYMBOLS[one.name][1], _SIGNS[one.verdict]) for one in hypothesis.measures)
    return Cell(
        hypothesis.verdict or "unmeasured",
        OUTCOMES[hypothesis.verdict],
        signs,
        hypothesis.verdict != usual.get(hypothesis.number),
    )


def side(told: Explanation, place: int) -> str:
    """What the page calls a run by the way it learned."""
    if not told.labels:
        return "Student"
    return "Distilled" if told.runs[place].role == "explained" else "From labels"


def name_of(told: Explanation, which: Which) -> str:
    """A network's name; with its seed where there are several."""
    if which == TEACHER:
        return "Teacher"
    run = told.runs[which]
    return f"{side(told, which)}, seed {run.seed}" if len(told.distilled) > 1 else side(told, which)


HEADS = ("accuracy", "n_fg", "n_bg", "ratio", "d_mean", "d_std", "rho", "error")


def networks(told: Explanation) -> tuple[Network, ...]:
    """Each network at the end of its training."""
    found = []
    numbers: tuple[str, ...]
    for place, run in enumerate(told.runs):
        last = run.checkpoints[-1]
        error = run.errors[-1] if run.errors else None
        numbers = (
            DASH if run.accuracy is None else f"{decimal(100 * run.accuracy)}%",
            amount(last.n_fg, 1),
            amount(last.n_bg, 1),
            amount(last.ratio, 3),
            amount(run.d_mean, 3),
            amount(run.d_std, 3),
            amount(run.rho, 3),
            amount(error, 3),
        )
        found.append(Network(f"{side(told, place)}, seed {run.seed}", _detail(run.name, run.run), numbers))
    if told.teacher is not None:
        name, last = told.teacher
        numbers = (DASH, amount(last.n_fg, 1), amount(last.n_bg, 1), amount(last.ratio, 3), *[DASH] * 4)
        found.append(Network("Teacher", name, numbers))
    return tuple(found)


def _detail(name: str, folder: str) -> str:
    return name if name == folder else f"{name} · {folder}"


def pairs(told: Explanation) -> tuple[Pair, ...]:
    """How often two networks say the same."""
    return tuple(
        Pair(
            name_of(told, one.one),
            name_of(told, one.other),
            f"{decimal(100 * one.agree)}%",
            DASH if one.both_right is None else f"{decimal(100 * one.both_right)}%",
            whole(one.count),
        )
        for one in told.agreement
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None where there are none.

    >>> mean_of([1.0, None, 2.0]), mean_of([None])
    (1.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
