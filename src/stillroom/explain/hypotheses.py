"""The three hypotheses of Cheng et al. 2020, each a difference between two ways of training, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from stillroom.explain.metrics import ConceptStatistics, Doubles
from stillroom.schema.base import six_digits_or_none
from stillroom.schema.explanation import FEWEST_PAIRS, HypothesisMeasure, HypothesisTest, HypothesisVerdict, MeasureName

RESAMPLES = 2000
# Of Student's quantile for the part of seeds. Figures of concepts are rounded and bounded, which lets the interval of
# .95 miss 0 up to 5.5% of the time where networks differ much; with this it does at most 4.4%
# (docs/results/hypotheses.md).
_LEVEL = 0.96
# The student by distillation and the same from labels, of one seed.
StudentPair = tuple[ConceptStatistics, ConceptStatistics]


@dataclass(frozen=True)
class ConceptMeasure:
    """A measure that a hypothesis is about."""

    name: MeasureName  # as ``explain.json`` has it
    hypothesis: int  # 1 more and better concepts, 2 learned faster and together, 3 a steadier way
    sign: int  # 1 if the hypothesis expects distillation to raise it, −1 if to lower it
    # Of a run, given how often each image is counted, [R, I]: [R].
    value: Callable[[ConceptStatistics, Doubles], Doubles]


def _mean(of: Callable[[ConceptStatistics], Doubles | None]) -> Callable[[ConceptStatistics, Doubles], Doubles]:
    def value(run: ConceptStatistics, counts: Doubles) -> Doubles:
        values = of(run)
        if values is None:
            return np.full(len(counts), np.nan)
        there = np.isfinite(values)
        total = counts @ there
        return np.where(total > 0, counts @ np.where(there, values, 0) / np.maximum(total, 1), np.nan)

    return value


def _spread(run: ConceptStatistics, counts: Doubles) -> Doubles:
    if run.distance is None:
        return np.full(len(counts), np.nan)
    total = counts.sum(1)
    mean = counts @ run.distance / total
    return np.asarray(np.sqrt(np.maximum(counts @ run.distance**2 / total - mean**2, 0)))


MEASURES = (
    ConceptMeasure("n_fg", 1, 1, _mean(lambda run: run.n_fg[-1])),
    ConceptMeasure("n_bg", 1, -1, _mean(lambda run: run.n_bg[-1])),
    ConceptMeasure("ratio", 1, 1, _mean(lambda run: run.ratio[-1])),
    ConceptMeasure("d_mean", 2, -1, _mean(lambda run: run.distance)),
    ConceptMeasure("d_std", 2, -1, _spread),
    ConceptMeasure("rho", 3, 1, _mean(lambda run: run.stability)),
)
CLAIMS = {
    1: "distillation makes the student learn more concepts of the subject and fewer of the background",
    2: "distillation makes the student learn its concepts sooner and all at once",
    3: "distillation makes the student keep what it once learned",
}


def judge_hypotheses(
    pairs: Sequence[StudentPair], seed: int, *, resamples: int = RESAMPLES, decided: bool = True
) -> tuple[HypothesisTest, ...]:
    """Each hypothesis, with the difference of each of its measures and a 95% interval.

    The interval is over images and seeds. Images: they are drawn again, ``resamples`` times; an image that is drawn
    counts in both networks of each pair. Seeds: Student's interval of the pairs' differences, of level .96 as these
    are rounded and bounded. The two parts add as independent errors do, ``√(images² + seeds²)`` on each side. The
    concepts themselves stay as they are.

    A hypothesis is supported where the intervals of all its measures are clear of zero on the side that it claims,
    refuted where all are on the other, else undecided. **One pair or two decide nothing**: students of one method
    differ by their seed alone, and how much is hardly known; the interval of one pair is over images alone.

    Args:
        seed: of the draws.
        resamples: how often images are drawn again.
        decided: whether there may be verdicts; without, differences and intervals alone.
    """
    images = pairs[0][0].n_fg.shape[1]
    draws = np.random.default_rng(seed)
    counts = np.concatenate(
        [np.ones((1, images)), draws.multinomial(images, np.full(images, 1 / images), size=resamples)]
    ).astype(np.float64)
    measured = {measure.name: _test_measure(measure, pairs, counts, decided) for measure in MEASURES}
    tests = []
    for number, claim in CLAIMS.items():
        measures = tuple(measured[one.name] for one in MEASURES if one.hypothesis == number)
        verdict = _combine([each.verdict for each in measures if each.verdict is not None])
        tests.append(HypothesisTest(hypothesis=number, claim=claim, verdict=verdict, measures=measures))
    return tuple(tests)


def _test_measure(
    measure: ConceptMeasure, pairs: Sequence[StudentPair], counts: Doubles, decided: bool
) -> HypothesisMeasure:
    distilled, labels = (np.stack([measure.value(pair[side], counts) for pair in pairs], 1) for side in (0, 1))
    apart = distilled - labels
    there = np.isfinite(apart)
    known = there.sum(1)
    mean = np.where(known > 0, np.where(there, apart, 0).sum(1) / np.maximum(known, 1), np.nan)
    difference, drawn = mean[0], mean[1:][np.isfinite(mean[1:])]
    of_images = np.quantile(drawn, (0.025, 0.975)) - difference if len(drawn) else np.full(2, np.nan)
    of_seeds = student_half_width(apart[0][there[0]], _LEVEL)
    low, high = (difference + side * np.hypot(width, of_seeds) for side, width in zip((-1, 1), of_images, strict=True))
    return HypothesisMeasure(
        measure=measure.name,
        expected="higher" if measure.sign > 0 else "lower",
        distilled=six_digits_or_none(float(np.mean(distilled[0]))),
        labels=six_digits_or_none(float(np.mean(labels[0]))),
        difference=six_digits_or_none(float(difference)),
        low=six_digits_or_none(float(low)),
        high=six_digits_or_none(float(high)),
        verdict=_verdict(measure.sign, float(low), float(high), decided=decided and int(known[0]) >= FEWEST_PAIRS),
    )


def student_half_width(values: Doubles, level: float) -> float:
    """Half the width of Student's interval of a mean; 0 of one value, of which nothing is known.

    >>> values = np.array([1.0, 2.0, 3.0])
    >>> round(student_half_width(values, 0.95), 3), student_half_width(values[:1], 0.95)
    (2.484, 0.0)
    """
    if len(values) < 2:
        return 0.0
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _verdict(sign: int, low: float, high: float, *, decided: bool) -> HypothesisVerdict | None:
    """None where there is nothing to judge."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    if decided and (low > 0 or high < 0):
        return "supported" if sign * low > 0 else "refuted"
    return "undecided"


def _combine(verdicts: Sequence[HypothesisVerdict]) -> HypothesisVerdict | None:
    if not verdicts:
        return None
    first = verdicts[0]
    return first if all(verdict == first for verdict in verdicts) else "undecided"
