"""Families of paired differences: to a baseline named beforehand, or between all; corrected for how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from stillroom.errors import BadInput, nearest
from stillroom.study.statistics.checks import check_alpha, checked
from stillroom.study.statistics.core import holm, number
from stillroom.study.statistics.pairs import PairedDifference, paired_difference
from stillroom.study.statistics.planning import PLANNING_CAUTION, Plan, plan

Values = Mapping[str, Mapping[int, float]]
Verdict = Literal["higher", "lower", "undecided"]
# Of the largest family whose plans are worked out: a plan takes milliseconds, and nobody reads thousands.
MOST_PLANNED = 200


@dataclass(frozen=True)
class Comparison:
    """One method less another, over the seeds that both have, as one of a family.

    Attributes:
        method: whose values are meant by higher or lower.
        against: whose values are subtracted.
        difference: the paired difference, with an interval of its own that knows nothing of the family; None where
            they have no seed in common.
        seeds: the seeds that both have.
        lacking: the seeds that the method lacks and the other has.
        against_lacking: the seeds that the other lacks.
        family: how many comparisons the family has, tested or not.
        alpha: the rate of false findings that the whole family keeps.
        adjusted: Holm's p, by which the verdict goes; None where there is no test.
        family_low: lower end of Bonferroni's interval: those of a family hold all at once, with 1 − alpha.
        family_high: its upper end.
        plan: how many seeds would settle it; None where it is decided, or the family has more than
            :data:`MOST_PLANNED` comparisons.
        no_claim: why nothing is claimed of it whatever its p, such as runs that were not equal; None where it may be.
    """

    method: str
    against: str
    difference: PairedDifference | None
    seeds: tuple[int, ...]
    lacking: tuple[int, ...]
    against_lacking: tuple[int, ...]
    family: int
    alpha: float
    adjusted: float | None = None
    family_low: float | None = None
    family_high: float | None = None
    plan: Plan | None = None
    no_claim: str | None = None

    @property
    def decided(self) -> bool:
        """Whether Holm's p is alpha or less, and something may be claimed of it."""
        return self.no_claim is None and self.adjusted is not None and self.adjusted <= self.alpha

    @property
    def verdict(self) -> Verdict:
        """Higher or lower where it is decided: of the numbers, which for a loss is not of the worth."""
        if not self.decided or self.difference is None:
            return "undecided"
        return "higher" if self.difference.mean > 0 else "lower"

    def told(self, digits: int = 2) -> str:
        """The comparison in words, with so many decimals."""
        words = f"{self.method} − {self.against}: {self._numbers(digits)}: {self._verdict()}"
        gaps = ((self.method, self.lacking), (self.against, self.against_lacking))
        missing = [f"{name} lacks seed{'s' * (len(seeds) > 1)} {_listed(seeds)}" for name, seeds in gaps if seeds]
        return f"{words} ({', '.join(missing)})" if missing else words

    def _numbers(self, digits: int) -> str:
        found = self.difference
        if found is None:
            return "no seed in common"
        mean = f"{found.mean:+.{digits}f}"
        if found.count == 1:
            return f"{mean} (one seed: no interval, no p)"
        if found.low is None or found.high is None or self.adjusted is None:
            return f"{mean} (no spread between the {found.count} seeds, as if they were one: no interval, no p)"
        words = [f"{mean} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]", f"p = {found.p:.3g}"]
        words.append(f"Holm p = {self.adjusted:.3g}")
        if found.effect is not None:
            words.append(f"d_z = {found.effect:+.2f}")
        return ", ".join([*words, f"{found.count} seeds"])

    def without_claim(self, why: str) -> Comparison:
        """The same numbers, undecided whatever they are."""
        return replace(self, plan=None, no_claim=why)

    def _verdict(self) -> str:
        found = self.difference
        if self.no_claim is not None:
            return f"no claim: {self.no_claim}"
        if self.decided or found is None or found.count == 1 or self.plan is None:
            return self.verdict
        if found.sd == 0:
            return self.verdict if found.mean else f"{self.verdict}, no seed shows a difference"
        return f"{self.verdict}, {self.plan.told()}"

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON; null where there is none."""
        return {
            "method": self.method,
            "against": self.against,
            "difference": self.difference and self.difference.as_dict(),
            "seeds": list(self.seeds),
            "lacking": list(self.lacking),
            "against_lacking": list(self.against_lacking),
            "family": self.family,
            "alpha": self.alpha,
            "holm_p": self.adjusted,
            "family_low": self.family_low,
            "family_high": self.family_high,
            "verdict": self.verdict,
            "plan": self.plan and self.plan.as_dict(),
        }

    def __str__(self) -> str:
        return self.told()


@dataclass(frozen=True)
class Family:
    """Comparisons that were asked together and share one rate of false findings.

    Attributes:
        kind: ``baseline`` (each against one, k − 1 of them) or ``all`` (each against each, k(k − 1)/2).
        baseline: the one; None where there is none.
        alpha: at most so many of such families without a true difference claim one.
        comparisons: in the order of the methods.
    """

    kind: Literal["baseline", "all"]
    baseline: str | None
    alpha: float
    comparisons: tuple[Comparison, ...]

    def told(self, digits: int = 2) -> str:
        """The family in words: what its numbers mean, a line a comparison, and the caution where seeds are counted."""
        what = f"Differences to {self.baseline}" if self.kind == "baseline" else "Differences between all pairs"
        if not self.comparisons:
            return f"{what}: one method, nothing to compare."
        count = len(self.comparisons)
        head = (
            f"{what}; intervals of {100 * (1 - self.alpha):g}%, each by itself; verdicts by Holm's p "
            f"over {count} comparison{'s' * (count > 1)} at {self.alpha:g}"
        )
        if count > MOST_PLANNED:
            head += f"; how many seeds would settle them is not worked out for more than {MOST_PLANNED}"
        lines = [f"{head}:", *(comparison.told(digits) for comparison in self.comparisons)]
        if any(comparison.plan is not None and comparison.plan.why is None for comparison in self.comparisons):
            lines.append(PLANNING_CAUTION)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            "kind": self.kind,
            "baseline": self.baseline,
            "alpha": self.alpha,
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
        }

    def __str__(self) -> str:
        return self.told()


def against_baseline(values: Values, baseline: str, *, alpha: float = 0.05) -> Family:
    """Each method less the baseline, paired by seed: k − 1 comparisons.

    Formula: per method the paired t test; Holm's correction over all k − 1.

    The baseline is a name, chosen before the runs. There is no way to ask for "against the best": the best of these
    values is partly the luckiest, so that the others' p against it, or its own, would come out too small. Which one
    wins is a question for :func:`between_all`, whose correction pays for the search.

    Args:
        values: method → {seed: value}, in any unit. Seeds that only one of two has are left out of their
            comparison, and named: a seed that failed for one method alone may be no accident.
        baseline: the method that the others are compared with.
        alpha: the rate of false findings in the whole family; the single intervals cover 1 − alpha.

    Returns:
        The family, in the order of the methods.

    Raises:
        BadInput: there is no method, a value is not finite, the baseline is none of them, or alpha is no rate.

    >>> found = against_baseline({"labels": {0: 33.6, 1: 34.1}, "kl": {0: 40.2}}, "labels")
    >>> print(found.comparisons[0])
    kl − labels: +6.60 (one seed: no interval, no p): undecided (kl lacks seed 1)
    """
    rows = checked(values, "seed")
    if baseline not in rows:
        hint = f"a method's name, chosen before the runs ({nearest(str(baseline), rows)})"
        raise BadInput("baseline", baseline, f"{hint}; no comparison is made with the best of the values themselves")
    return _family("baseline", baseline, rows, [(baseline, name) for name in rows if name != baseline], alpha)


def between_all(values: Values, *, alpha: float = 0.05) -> Family:
    """Each method less each one before it, paired by seed: k(k − 1)/2 comparisons.

    A family of its own: it and :func:`against_baseline` each keep alpha, not both together. Say beforehand which of
    the two answers the study's question. Beyond :data:`MOST_PLANNED` comparisons, which 21 methods have, it does
    not plan how many seeds would settle them.

    Args:
        values: method → {seed: value}, as for :func:`against_baseline`.
        alpha: the rate of false findings in the whole family.

    Returns:
        The family, in the order of the methods.

    Raises:
        BadInput: there is no method, a value is not finite, or alpha is no rate.

    >>> found = between_all({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0, 1: 2.0}})
    >>> print(found.comparisons[0])
    b − a: +0.00 [+0.00, +0.00], p = 1, Holm p = 1, 2 seeds: undecided, no seed shows a difference
    """
    rows = checked(values, "seed")
    return _family("all", None, rows, list(combinations(rows, 2)), alpha)


def _family(
    kind: Literal["baseline", "all"],
    baseline: str | None,
    rows: dict[str, dict[int, float]],
    pairs: Sequence[tuple[str, str]],
    alpha: float,
) -> Family:
    check_alpha(alpha)
    found = [_compared(rows, against, name, len(pairs), alpha) for against, name in pairs]
    if not found:
        return Family(kind, baseline, alpha, ())
    ps = [one.difference.p if one.difference is not None else None for one in found]
    adjusted = holm(np.array([np.nan if p is None else p for p in ps]))
    found = [replace(one, adjusted=number(p)) for one, p in zip(found, adjusted, strict=True)]
    if len(found) > MOST_PLANNED:
        return Family(kind, baseline, alpha, tuple(found))
    # Holm tests what is left at alpha / how many are left: that p settles one, if the decided ones stay decided.
    left = len(found) - sum(one.decided for one in found)
    planned = [
        one if one.decided or one.difference is None else replace(one, plan=plan(one.difference, alpha=alpha / left))
        for one in found
    ]
    return Family(kind, baseline, alpha, tuple(planned))


def _compared(rows: dict[str, dict[int, float]], against: str, name: str, size: int, alpha: float) -> Comparison:
    theirs, mine = rows[against], rows[name]
    seeds = tuple(sorted(mine.keys() & theirs.keys()))
    lacking, there = tuple(sorted(theirs.keys() - mine.keys())), tuple(sorted(mine.keys() - theirs.keys()))
    if not seeds:
        return Comparison(name, against, None, seeds, lacking, there, size, alpha)
    a, b = [theirs[seed] for seed in seeds], [mine[seed] for seed in seeds]
    wide = paired_difference(a, b, level=1 - alpha / size)
    one = Comparison(name, against, paired_difference(a, b, level=1 - alpha), seeds, lacking, there, size, alpha)
    return replace(one, family_low=wide.low, family_high=wide.high)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)
