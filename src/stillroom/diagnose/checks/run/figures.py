"""Numbers that several checks turn on: how fast the loss still fell, its value on test images, the level of chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillroom.diagnose.checks.run.reading import Case, Row
from stillroom.diagnose.finding import Plot
from stillroom.losses.base import LossConfig
from stillroom.losses.registry import loss_class
from stillroom.schema.predictions import softmax

_NORMAL_95 = 1.959964
_CHUNK = 8192
_TINY = float(np.finfo(np.float64).tiny)
# A fit needs as many lines for its spread to be known.
_FIT = 4


@dataclass(frozen=True)
class Fall:
    """How fast the training loss still fell before the learning rate came down.

    Attributes:
        share: of the loss that each doubling of the steps took away.
        error: its standard error; None where too few lines were logged.
        lines: how many lines it was fitted to.
    """

    share: float
    error: float | None
    lines: int

    @property
    def is_sure(self) -> bool:
        """Whether the fall stands out of the noise between the lines, as far as that is known."""
        return self.error is None or self.share > 2 * self.error

    @property
    def told(self) -> str:
        """Such as ``28%``."""
        return f"{100 * self.share:.0f}%"


def fall_of(case: Case) -> Fall | None:
    """How fast the loss fell, in log loss against log steps, over the last doubling at half the peak rate or more.

    A rate that comes down takes the loss with it however long the run is; what the loss did before that tells whether
    there was more to learn.

    Returns:
        None with fewer than two lines of training.
    """
    rows = [(row, loss) for row in case.train if (loss := excess(case, row)) is not None and loss > 0]
    if len(rows) < 2:
        return None
    peak = max(row.get("lr", 0.0) for row, _ in rows)
    high = [each for each in rows if each[0].get("lr", 0.0) >= peak / 2]
    end = max((row["step"] for row, _ in high), default=0)
    chosen = [each for each in high if each[0]["step"] >= end / 2]
    if len(chosen) < 3:
        chosen = [each for each in rows if each[0]["step"] >= case.steps / 10]
    if len({row["step"] for row, _ in chosen}) < 2:
        chosen = rows
    x = np.log2([float(row["step"]) for row, _ in chosen])
    y = np.log([loss for _, loss in chosen])
    spread = float(((x - x.mean()) ** 2).sum())
    if not spread:
        return None
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    error = None
    if len(x) >= _FIT:
        rest = y - y.mean() - slope * (x - x.mean())
        error = math.sqrt(float((rest**2).sum()) / (len(x) - 2) / spread)
    # One factor of the loss a doubling: e^slope.
    return Fall(1 - math.exp(slope), None if error is None else error * math.exp(slope), len(x))


def excess(case: Case, row: Row) -> float | None:
    """The weighted loss of a line less what no student can go below: the entropy of smoothed labels."""
    loss = case.loss(row)
    return (
        None
        if loss is None
        else loss - sum(case.weights[term.name] * floor_of(term, case.classes) for term in case.recipe.losses)
    )


def floor_of(term: LossConfig, classes: int | None) -> float:
    """The smallest value that a term can have.

    >>> from stillroom.losses.label_smoothing import LabelSmoothingConfig
    >>> round(floor_of(LabelSmoothingConfig(smoothing=0.9), 10), 3)
    2.266
    """
    option = loss_class(term).smoothing_option
    if option is None or not classes:
        return 0.0
    smoothing: float = getattr(term, option)
    other = smoothing / classes
    true = 1 - smoothing + other
    return -sum(share * math.log(share) * times for share, times in ((true, 1), (other, classes - 1)) if share > 0)


@dataclass(frozen=True)
class Held:
    """One term of the loss on training and on test images, in its own unit, above its floor."""

    name: str
    train: float
    test: float
    is_cross_entropy: bool = False

    @property
    def ratio(self) -> float:
        """Test over train: 1 where nothing was learned by heart."""
        return self.test / max(self.train, 1e-9)


def held(case: Case) -> Held | None:
    """The first term whose value on the test images is known, beside what it ended at in training."""
    values: tuple[Callable[[LossConfig], float | None], ...] = (
        lambda term: case.student.nll if is_cross_entropy(term) and case.student is not None else None,
        lambda term: _kl_on_test(case, term),
        lambda term: _smoothed_on_test(case, term),
    )
    for value, term in itertools.product(values, case.recipe.losses):
        ended = last(case.train, f"loss/{term.name}")
        on_test = value(term)
        if ended is not None and on_test is not None:
            floor = floor_of(term, case.classes)
            return Held(term.name, max(ended - floor, 0.0), max(on_test - floor, 0.0), is_cross_entropy(term))
    return None


def is_cross_entropy(term: LossConfig) -> bool:
    """Whether a term is cross-entropy with the true labels, whose value on test images is their NLL."""
    return loss_class(term).rescaling_part == "labels"


def _kl_on_test(case: Case, term: LossConfig) -> float | None:
    found = case.predictions
    # A part of the teacher's answer is another loss than the whole.
    is_whole = loss_class(term).rescaling_part == "teacher" and not getattr(term, "target", None)
    temperature = term.softening_temperature
    if found is None or found.teacher_logits is None or not is_whole or temperature is None:
        return None
    total = 0.0
    for rows in _pieces(len(found.labels)):
        p = softmax(found.teacher_logits[rows] / temperature)
        q = softmax(found.student_logits[rows] / temperature)
        total += float((p * (np.log(np.maximum(p, _TINY)) - np.log(np.maximum(q, _TINY)))).sum())
    return temperature**2 * total / len(found.labels)


def _smoothed_on_test(case: Case, term: LossConfig) -> float | None:
    found = case.predictions
    option = loss_class(term).smoothing_option
    if found is None or option is None:
        return None
    smoothing, total = getattr(term, option), 0.0
    for rows in _pieces(len(found.labels)):
        log_q = np.log(np.maximum(softmax(found.student_logits[rows]), _TINY))
        true = np.take_along_axis(log_q, found.labels[rows, None], axis=1)[:, 0]
        total -= float(((1 - smoothing) * true + smoothing * log_q.mean(1)).sum())
    return total / len(found.labels)


def _pieces(count: int) -> Iterator[slice]:
    """So that a thousand classes do not need all of their probabilities at once."""
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def last(rows: Sequence[Row], key: str) -> float | None:
    """The last value of a field; None where no line has it."""
    return next((float(row[key]) for row in reversed(rows) if key in row), None)


def series(rows: Sequence[Row], key: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Epochs and values of a field, where lines have it.

    >>> series([{"epoch": 1.0, "nll": 2.0}, {"epoch": 2.0}], "nll")
    ((1.0,), (2.0,))
    """
    held_rows = [row for row in rows if key in row]
    return tuple(float(row["epoch"]) for row in held_rows), tuple(float(row[key]) for row in held_rows)


def third(rows: Sequence[Row], number: int) -> Sequence[Row]:
    """The first (0), second (1) or last (2) third of lines; each has one at least where there is one at all.

    >>> [row["step"] for row in third([{"step": step} for step in range(6)], 2)]
    [4, 5]
    """
    size = max(len(rows) // 3, 1)
    return rows[-size:] if number == 2 else rows[number * size : (number + 1) * size]


def accuracy_of_chance(case: Case) -> float | None:
    """Top-1 in per cent of one who always names the commonest class; None where the classes are not known."""
    if case.predictions is not None:
        return 100 * float(np.bincount(case.predictions.labels).max()) / len(case.predictions.labels)
    return 100 / case.classes if case.classes else None


def nll_of_chance(case: Case) -> float | None:
    """Nats of one who says of each image how common each class is: log K where classes are alike."""
    if case.predictions is not None:
        share = np.bincount(case.predictions.labels) / len(case.predictions.labels)
        share = share[share > 0]
        return -float((share * np.log(share)).sum())
    return math.log(case.classes) if case.classes else None


def margin(share: float, count: int) -> float:
    """Half the 95% interval of a share of so many images; both shares in [0, 1].

    >>> round(margin(0.5, 10_000), 4)
    0.0098
    """
    return _NORMAL_95 * math.sqrt(max(share * (1 - share), 0.0) / max(count, 1))


def loss_plot(case: Case, title: str, mark: float | None = None) -> tuple[Plot, ...]:
    """The weighted training loss over epochs, unless there are too few lines for a line."""
    points = [(float(row["epoch"]), loss) for row in case.train if (loss := case.loss(row)) is not None]
    if len(points) < 3:
        return ()
    x, y = zip(*points, strict=True)
    return (Plot("line", title, x, y, "epoch", "training loss", mark),)


def evaluation_plot(case: Case, key: str, title: str, label: str, mark: float | None = None) -> tuple[Plot, ...]:
    """A figure of the evaluations over epochs, unless there are too few for a line."""
    x, y = series(case.test, key)
    return (Plot("line", title, x, y, "epoch", label, mark),) if len(x) >= 3 else ()


def rounded(values: NDArray[np.float64] | Sequence[float], digits: int = 4) -> tuple[float, ...]:
    """Plain numbers with a few decimals."""
    return tuple(round(float(value), digits) for value in values)
