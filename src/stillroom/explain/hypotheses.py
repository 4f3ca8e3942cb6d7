"""The three hypotheses of Cheng et al. 2020, each a difference between two ways of learning, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from stillroom.explain.figures import Doubles, Figures, rounded

Verdict = Literal["supported", "refuted", "undecided"]
RESAMPLES = 2000


@dataclass(frozen=True)
class Measure:
    """A figure that a hypothesis is about.

    Attributes:
        name: as ``explain.json`` has it.
        hypothesis: 1 more and better concepts, 2 learned faster and together, 3 a steadier way.
        sign: 1 where distillation is said to raise it, −1 where to lower it.
        value: of a run, for images counted as often as [R, I] says: [R].
    """

    name: str
    hypothesis: int
    sign: int
    value: Callable[[Figures, Doubles], Doubles]


def _mean(of: Callable[[Figures], Doubles | None]) -> Callable[[Figures, Doubles], Doubles]:
    def value(figures: Figures, counts: Doubles) -> Doubles:
        values = of(figures)
        if values is None:
            return np.full(len(counts), np.nan)
        there = np.isfinite(values)
        total = counts @ there
        return np.where(total > 0, counts @ np.where(there, values, 0) / np.maximum(total, 1), np.nan)

    return value


def _spread(figures: Figures, counts: Doubles) -> Doubles:
    if figures.reached is None:
        return np.full(len(counts), np.nan)
    total = counts.sum(1)
    mean = counts @ figures.reached / total
    return np.asarray(np.sqrt(np.maximum(counts @ figures.reached**2 / total - mean**2, 0)))


MEASURES = (
    Measure("n_fg", 1, 1, _mean(lambda run: run.n_fg[-1])),
    Measure("n_bg", 1, -1, _mean(lambda run: run.n_bg[-1])),
    Measure("ratio", 1, 1, _mean(lambda run: run.ratio[-1])),
    Measure("d_mean", 2, -1, _mean(lambda run: run.reached)),
    Measure("d_std", 2, -1, _spread),
    Measure("rho", 3, 1, _mean(lambda run: run.kept)),
)
CLAIMS = {
    1: "distillation makes the student learn more concepts of the subject and fewer of the background",
    2: "distillation makes the student learn its concepts sooner and all at once",
    3: "distillation makes the student keep what it once learned",
}


def judged(pairs: Sequence[tuple[Figures, Figures]], seed: int) -> list[dict[str, Any]]:
    """Each hypothesis, with the difference of each of its measures and a 95% interval.

    Images and pairs are drawn again, ``RESAMPLES`` times; an image that is drawn counts in both networks of each pair.
    How far a draw of pairs moves the mean is made wider, as few draws of few pairs know too little of their spread:
    √(n/(n − 1))·t_{n−1}/z, with which the pairs' part is as wide as Student's interval. One pair says nothing of other
    seeds: its interval is over images alone. The concepts themselves stay as they are.

    Args:
        pairs: the student by distillation and the same from labels, of each seed.
        seed: of the draws.

    Returns:
        ``explain.json``'s ``hypotheses``. A measure is supported or refuted where its interval lies on one side of 0,
        a hypothesis where all of its measures are; where a measure is refuted and none supported, it is refuted.
    """
    images = pairs[0][0].n_fg.shape[1]
    draws = np.random.default_rng(seed)
    counts = np.concatenate(
        [np.ones((1, images)), draws.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)]
    ).astype(np.float64)
    of_pairs = np.concatenate(
        [np.ones((1, len(pairs))), draws.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=RESAMPLES)]
    )
    measured = {measure.name: _measured(measure, pairs, counts, of_pairs) for measure in MEASURES}
    return [
        {
            "hypothesis": number,
            "claim": claim,
            "verdict": _together([each["verdict"] for each in of_this if each["verdict"] is not None]),
            "measures": of_this,
        }
        for number, claim in CLAIMS.items()
        for of_this in [[measured[one.name] for one in MEASURES if one.hypothesis == number]]
    ]


def _measured(
    measure: Measure, pairs: Sequence[tuple[Figures, Figures]], counts: Doubles, of_pairs: Doubles
) -> dict[str, Any]:
    distilled, labels = (np.stack([measure.value(pair[side], counts) for pair in pairs], 1) for side in (0, 1))
    apart = distilled - labels
    centre = _weighed(apart, np.ones_like(of_pairs))
    difference = centre + _wider(len(pairs)) * (_weighed(apart, of_pairs) - centre)
    drawn = difference[1:][np.isfinite(difference[1:])]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
    return {
        "measure": measure.name,
        "expected": "higher" if measure.sign > 0 else "lower",
        "distilled": rounded(float(np.mean(distilled[0]))),
        "labels": rounded(float(np.mean(labels[0]))),
        "difference": rounded(float(difference[0])),
        "low": rounded(float(low)),
        "high": rounded(float(high)),
        "verdict": _verdict(measure.sign, float(low), float(high)),
    }


def _wider(pairs: int) -> float:
    """Student's interval over the percentiles' of a bootstrap.

    >>> [round(_wider(pairs), 2) for pairs in (1, 3, 5, 100)]
    [1.0, 2.69, 1.58, 1.02]
    """
    if pairs == 1:
        return 1.0
    return float((pairs / (pairs - 1)) ** 0.5 * stats.t.ppf(0.975, pairs - 1) / stats.norm.ppf(0.975))


def _weighed(values: Doubles, counts: Doubles) -> Doubles:
    """The mean over pairs [R, P] of those that are known, each counted as drawn."""
    there = np.isfinite(values) & (counts > 0)
    total = (counts * there).sum(1)
    return np.asarray(np.where(total > 0, (counts * np.where(there, values, 0)).sum(1) / np.maximum(total, 1), np.nan))


def _verdict(sign: int, low: float, high: float) -> Verdict | None:
    """None where there is nothing to judge."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    if low > 0 or high < 0:
        return "supported" if sign * low > 0 else "refuted"
    return "undecided"


def _together(verdicts: Sequence[Verdict]) -> Verdict | None:
    if not verdicts:
        return None
    if all(verdict == "supported" for verdict in verdicts):
        return "supported"
    return "refuted" if "refuted" in verdicts and "supported" not in verdicts else "undecided"
