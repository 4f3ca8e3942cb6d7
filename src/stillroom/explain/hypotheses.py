"""The three hypotheses of Cheng et al. 2020, each a difference between two ways of training, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from stillroom.explain.metrics import ConceptStatistics, Doubles
from stillroom.schema.base import six_digits_or_none
from stillroom.schema.explanation import HypothesisMeasure, HypothesisTest, HypothesisVerdict, MeasureName

RESAMPLES = 2000
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


def judge_hypotheses(pairs: Sequence[StudentPair], seed: int) -> tuple[HypothesisTest, ...]:
    """Each hypothesis, with the difference of each of its measures and a 95% interval.

    Images and pairs are drawn again, ``RESAMPLES`` times; an image that is drawn counts in both networks of each pair.
    How far a draw of pairs moves the mean is made wider, as few draws of few pairs know too little of their spread:
    √(n/(n − 1))·t_{n−1}/z, with which the pairs' part is as wide as Student's interval. With one pair
    the interval is over images alone. The concepts themselves stay as they are.
    """
    images = pairs[0][0].n_fg.shape[1]
    draws = np.random.default_rng(seed)
    counts = np.concatenate(
        [np.ones((1, images)), draws.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)]
    ).astype(np.float64)
    of_pairs = np.concatenate(
        [np.ones((1, len(pairs))), draws.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=RESAMPLES)]
    )
    measured = {measure.name: _test_measure(measure, pairs, counts, of_pairs) for measure in MEASURES}
    tests = []
    for number, claim in CLAIMS.items():
        measures = tuple(measured[one.name] for one in MEASURES if one.hypothesis == number)
        verdict = _combine([each.verdict for each in measures if each.verdict is not None])
        tests.append(HypothesisTest(hypothesis=number, claim=claim, verdict=verdict, measures=measures))
    return tuple(tests)


def _test_measure(
    measure: ConceptMeasure, pairs: Sequence[StudentPair], counts: Doubles, of_pairs: Doubles
) -> HypothesisMeasure:
    distilled, labels = (np.stack([measure.value(pair[side], counts) for pair in pairs], 1) for side in (0, 1))
    apart = distilled - labels
    centre = _weighted_mean(apart, np.ones_like(of_pairs))
    difference = centre + _widening(len(pairs)) * (_weighted_mean(apart, of_pairs) - centre)
    drawn = difference[1:][np.isfinite(difference[1:])]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
    return HypothesisMeasure(
        measure=measure.name,
        expected="higher" if measure.sign > 0 else "lower",
        distilled=six_digits_or_none(float(np.mean(distilled[0]))),
        labels=six_digits_or_none(float(np.mean(labels[0]))),
        difference=six_digits_or_none(float(difference[0])),
        low=six_digits_or_none(float(low)),
        high=six_digits_or_none(float(high)),
        verdict=_verdict(measure.sign, float(low), float(high)),
    )


def _widening(pairs: int) -> float:
    """Student's interval over the percentiles' of a bootstrap.

    >>> [round(_widening(pairs), 2) for pairs in (1, 3, 5, 100)]
    [1.0, 2.69, 1.58, 1.02]
    """
    if pairs == 1:
        return 1.0
    return float((pairs / (pairs - 1)) ** 0.5 * stats.t.ppf(0.975, pairs - 1) / stats.norm.ppf(0.975))


def _weighted_mean(values: Doubles, counts: Doubles) -> Doubles:
    """The mean over pairs [R, P] of those that are known, each counted as drawn."""
    there = np.isfinite(values) & (counts > 0)
    total = (counts * there).sum(1)
    return np.asarray(np.where(total > 0, (counts * np.where(there, values, 0)).sum(1) / np.maximum(total, 1), np.nan))


def _verdict(sign: int, low: float, high: float) -> HypothesisVerdict | None:
    """None where there is nothing to judge."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    if low > 0 or high < 0:
        return "supported" if sign * low > 0 else "refuted"
    return "undecided"


def _combine(verdicts: Sequence[HypothesisVerdict]) -> HypothesisVerdict | None:
    if not verdicts:
        return None
    if all(verdict == "supported" for verdict in verdicts):
        return "supported"
    return "refuted" if "refuted" in verdicts and "supported" not in verdicts else "undecided"
