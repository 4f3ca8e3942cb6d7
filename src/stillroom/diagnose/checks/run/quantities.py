"""Quantities of a run that several checks use: the slope of its loss, its loss on test images, what chance gives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillroom.diagnose.check import Skip
from stillroom.diagnose.checks.run.record import Row, RunRecord
from stillroom.losses.base import LossConfig
from stillroom.losses.registry import loss_class
from stillroom.schema.diagnosis import Plot
from stillroom.schema.predictions import softmax
from stillroom.train.optimisation import full_rate_steps

_NORMAL_95 = 1.959964
_CHUNK = 8192
_TINY = float(np.finfo(np.float64).tiny)
# A fit needs as many lines for its spread to be known.
_FIT = 4
# A rise of the loss over the lowest that it had been, and over its first value. Noise between lines stays below 1.5 in
# runs that learn; a tenth of the first loss keeps the last wiggles near zero from counting.
SPIKE, ABOVE_FIRST, _COUNTS = 3.0, 2.0, 0.1
# NLL relative to chance from which on the student has learned nothing.
_NEAR_CHANCE = 0.95
# Share of the loss that a doubling of the steps takes away where it still falls.
STILL_FALLING = 0.05
# Steps at the peak rate below which nothing is learned; the checks of a recipe use the same limit.
FEW_STEPS = 50
# Epochs after which a student that learns has left chance.
_BEGUN = 2


def require_trained(run: RunRecord) -> None:
    """Go on only with a run that ended and learned something; Skip where it did not."""
    if not run.finished:
        raise Skip("The run did not end.")
    require_not_collapsed(run)


def require_not_collapsed(run: RunRecord) -> None:
    """Go on only where the student learned something; Skip where it did not."""
    if has_collapsed(run):
        raise Skip("The student learned nothing; see diverged.")


def has_collapsed(run: RunRecord) -> bool:
    """Whether the student learned nothing: then nothing else about it can be judged."""
    if not is_at_chance(run):
        return False
    slope = loss_slope(run)
    # One that only began to learn is short of steps, not broken.
    began = run.epochs <= _BEGUN
    learning = slope is not None and slope.is_significant and slope.share >= STILL_FALLING and not _labels_are_flat(run)
    return loss_rise(run)[1] or not (began or learning or dropped_early(run))


def is_at_chance(run: RunRecord) -> bool:
    """Whether the last evaluation is no better than a model that ignores the image, of single-label data."""
    if run.task != "single_label":
        return False
    chance, nats = chance_accuracy(run), chance_nll(run)
    top1, nll = last(run.test, "top1"), last(run.test, "nll")
    if chance is None or nats is None or top1 is None or nll is None or run.student is None:
        return False
    reach = chance + 100 * margin(chance / 100, run.student.count)
    return top1 <= reach and nll >= _NEAR_CHANCE * nats


def loss_rise(run: RunRecord) -> tuple[float, bool, bool]:
    """The largest rise of the loss over its lowest before; whether that is a spike; whether the loss came back down."""
    losses = run.losses
    if len(losses) < 2:
        return 1.0, False, True
    first, low, rise = abs(losses[0]), losses[0], 1.0
    for loss in losses[1:]:
        if loss - low >= _COUNTS * first:
            rise = max(rise, loss / max(low, 1e-12))
        low = min(low, loss)
    spiked = rise >= SPIKE or max(losses) >= ABOVE_FIRST * first
    return rise, spiked, losses[-1] <= 1.5 * low


def dropped_early(run: RunRecord) -> bool:
    """Whether the schedule dropped the rate before anything could be learned."""
    return bool(run.planned) and full_rate_steps(run.recipe.training.schedule, run.planned or 0) < FEW_STEPS


def _labels_are_flat(run: RunRecord) -> bool:
    """Whether the loss on the labels stays at chance while another term's falls."""
    nats = chance_nll(run)
    ended = last(run.train, "loss/cross_entropy")
    return ended is not None and nats is not None and ended >= 0.98 * nats


@dataclass(frozen=True)
class LossSlope:
    """How fast the training loss still fell before the learning rate came down."""

    share: float  # of the loss that each doubling of the steps took away
    error: float | None  # its standard error; None where too few lines were logged

    @property
    def is_significant(self) -> bool:
        """Whether the fall stands out of the noise between the lines, as far as that is known."""
        return self.error is None or self.share > 2 * self.error

    def __str__(self) -> str:
        return f"{100 * self.share:.0f}%"


def loss_slope(run: RunRecord) -> LossSlope | None:
    """How fast the loss fell, in log loss against log steps, over the last doubling at half the peak rate or more.

    A falling rate takes the loss with it however long the run is; the slope before that shows whether there was more to
    learn.

    Returns:
        None with fewer than two lines of training.
    """
    rows = [(row, loss) for row in run.train if (loss := excess(run, row)) is not None and loss > 0]
    if len(rows) < 2:
        return None
    peak = max(row.get("lr", 0.0) for row, _ in rows)
    high = [each for each in rows if each[0].get("lr", 0.0) >= peak / 2]
    end = max((row["step"] for row, _ in high), default=0)
    chosen = [each for each in high if each[0]["step"] >= end / 2]
    if len(chosen) < 3:
        chosen = [each for each in rows if each[0]["step"] >= run.steps / 10]
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
    return LossSlope(1 - math.exp(slope), None if error is None else error * math.exp(slope))


def excess(run: RunRecord, row: Row) -> float | None:
    """The weighted loss of a line less its lower bound, which is the entropy of smoothed labels."""
    loss = run.loss(row)
    if loss is None:
        return None
    lasting = [term for term in run.recipe.losses if term.key in run.lasting]
    return loss - sum(run.weights[term.key] * lower_bound(term, run.classes) for term in lasting)


def lower_bound(term: LossConfig, classes: int | None) -> float:
    """The smallest value that a term can have.

    >>> from stillroom.losses.label_smoothing import LabelSmoothingConfig
    >>> round(lower_bound(LabelSmoothingConfig(smoothing=0.9), 10), 3)
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
class TrainTestLoss:
    """One term of the loss on training and on test images, in its own unit, above its lower bound."""

    name: str
    train: float
    test: float
    is_cross_entropy: bool = False

    @property
    def ratio(self) -> float:
        """Test over train: 1 where nothing was overfitted."""
        return self.test / max(self.train, 1e-9)


def train_test_loss(run: RunRecord) -> TrainTestLoss | None:
    """The first term whose value on the test images is known, with its last value in training."""
    values: tuple[Callable[[LossConfig], float | None], ...] = (
        lambda term: run.student.nll if is_cross_entropy(term) and run.student is not None else None,
        lambda term: _kl_on_test(run, term),
        lambda term: _smoothed_on_test(run, term),
    )
    for value, term in itertools.product(values, run.recipe.losses):
        ended = last(run.train, f"loss/{term.key}")
        test_value = value(term)
        if ended is not None and test_value is not None:
            bound = lower_bound(term, run.classes)
            train, test = max(ended - bound, 0.0), max(test_value - bound, 0.0)
            return TrainTestLoss(term.key, train, test, is_cross_entropy(term))
    return None


def is_cross_entropy(term: LossConfig) -> bool:
    """Whether a term is cross-entropy with the true labels, whose value on test images is their NLL."""
    return loss_class(term).rescaling_part == "labels"


def _kl_on_test(run: RunRecord, term: LossConfig) -> float | None:
    found = run.predictions
    # A part of the teacher's distribution is another loss than the whole.
    is_whole = loss_class(term).rescaling_part == "teacher" and not getattr(term, "target", None)
    temperature = term.softening_temperature
    if found is None or found.teacher_logits is None or not is_whole or temperature is None:
        return None
    total = 0.0
    for rows in _chunks(len(found.labels)):
        p = softmax(found.teacher_logits[rows] / temperature)
        q = softmax(found.student_logits[rows] / temperature)
        total += float((p * (np.log(np.maximum(p, _TINY)) - np.log(np.maximum(q, _TINY)))).sum())
    return temperature**2 * total / len(found.labels)


def _smoothed_on_test(run: RunRecord, term: LossConfig) -> float | None:
    found = run.predictions
    option = loss_class(term).smoothing_option
    if found is None or option is None:
        return None
    smoothing, total = getattr(term, option), 0.0
    for rows in _chunks(len(found.labels)):
        log_q = np.log(np.maximum(softmax(found.student_logits[rows]), _TINY))
        true = np.take_along_axis(log_q, found.labels[rows, None], axis=1)[:, 0]
        total -= float(((1 - smoothing) * true + smoothing * log_q.mean(1)).sum())
    return total / len(found.labels)


def _chunks(count: int) -> Iterator[slice]:
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
    found = [row for row in rows if key in row]
    return tuple(float(row["epoch"]) for row in found), tuple(float(row[key]) for row in found)


def chance_accuracy(run: RunRecord) -> float | None:
    """Top-1 in per cent of always predicting the commonest class; None where the classes are not known."""
    if run.predictions is not None:
        return 100 * float(np.bincount(run.predictions.labels).max()) / len(run.predictions.labels)
    return 100 / run.classes if run.classes else None


def chance_nll(run: RunRecord) -> float | None:
    """NLL in nats of predicting each class's frequency: log K where classes are equally frequent."""
    if run.predictions is not None:
        share = np.bincount(run.predictions.labels) / len(run.predictions.labels)
        share = share[share > 0]
        return -float((share * np.log(share)).sum())
    return math.log(run.classes) if run.classes else None


def margin(share: float, count: int) -> float:
    """Half the 95% interval of a share of so many images; both shares in [0, 1].

    >>> round(margin(0.5, 10_000), 4)
    0.0098
    """
    return _NORMAL_95 * math.sqrt(max(share * (1 - share), 0.0) / max(count, 1))


def loss_plot(run: RunRecord, title: str, mark: float | None = None) -> tuple[Plot, ...]:
    """The weighted training loss over epochs; empty with too few lines for a curve."""
    points = [(float(row["epoch"]), loss) for row in run.train if (loss := run.loss(row)) is not None]
    if len(points) < 3:
        return ()
    x, y = zip(*points, strict=True)
    return (Plot("line", title, x, y, "epoch", "training loss", mark),)


def evaluation_plot(run: RunRecord, key: str, title: str, label: str, mark: float | None = None) -> tuple[Plot, ...]:
    """A field of the evaluations over epochs; empty with too few lines for a curve."""
    x, y = series(run.test, key)
    return (Plot("line", title, x, y, "epoch", label, mark),) if len(x) >= 3 else ()


def decimals(values: NDArray[np.float64] | Sequence[float], digits: int = 4) -> tuple[float, ...]:
    """Plain numbers with a few decimals."""
    return tuple(round(float(value), digits) for value in values)
