"""Student's intervals, paired t tests with Holm's correction, and the number of seeds that a study needs.

The distributions are scipy's. Four things are computed here, each for a reason:

- The t statistic: ``scipy.stats.ttest_rel`` gives p = 0 for differences that are equal but not zero, and p = 1e-13
  where 82.31 − 82.21 and 81.11 − 81.01 differ in the 14th digit. Both are no evidence, and give no p here.
- Holm's correction: scipy has Benjamini and Hochberg's only (``false_discovery_control``).
- Hedges' correction of d_z: scipy has none.
- Power: ``scipy.stats.nct`` is NaN for many large shifts with few seeds (a seventh of the cases in the tests).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, pairwise
from typing import Any, Literal, SupportsFloat, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from stillroom.errors import BadInput, nearest
from stillroom.wording import listed

Doubles = NDArray[np.float64]
SeedValues = Mapping[str, Mapping[int, float]]  # method → {seed: value}
Direction = Literal["higher", "lower", "undecided"]
KeyT = TypeVar("KeyT", int, str)

MOST_PLANNED = 200  # comparisons of a family; a plan takes milliseconds, and nobody reads thousands
_LARGEST = 1e150  # squares of larger values leave double precision
# What 100·correct/count and a subtraction can lose, as a share of the larger value; no measurement is so fine.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)
# Gauss and Legendre's rule on [0, 1]: within 1e-5 of the noncentral t wherever scipy has that.
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(128) + np.array([[1.0], [0.0]])) / 2

PLANNING_CAUTION = (
    "How many seeds is an estimate from these few, for planning only: a difference that luck made large asks for too "
    "few. Adding seeds until p is small finds differences that are not there; declare the new number of seeds first, "
    "then test the new seeds by themselves, or share alpha between looks that were planned beforehand."
)


# -- input


def is_value(value: object) -> bool:
    """Whether it is a finite number that can be squared.

    >>> is_value(1.5), is_value(float("nan")), is_value(None)
    (True, False, False)
    """
    if isinstance(value, int):  # which may be too large for a float
        return abs(value) <= _LARGEST
    return isinstance(value, (float, np.floating, np.integer)) and abs(float(value)) <= _LARGEST


def check_values(values: Mapping[str, Mapping[KeyT, float]], key_name: str) -> dict[str, dict[KeyT, float]]:
    """The values of each method as plain floats, in the same order.

    Args:
        values: method → {seed or pair: value}.
        key_name: what the inner names are, for the error.

    Raises:
        BadInput: there is no method, or a value is not a finite number; it names method and seed.

    >>> check_values({"kl": {0: float("inf")}}, "seed")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: kl, seed 0: got inf; expected a finite number
    """
    if not values:
        raise BadInput("values", {}, "at least one method")
    for method, row in values.items():
        for key, value in row.items():
            if not is_value(value):
                raise BadInput(f"{method}, {key_name} {key}", value, "a finite number")
    return {method: {key: float(value) for key, value in row.items()} for method, row in values.items()}


def check_share(name: str, value: float, expected: str = "a rate between 0 and 1, such as 0.05") -> None:
    """Refuse a value that is not strictly between 0 and 1; BadInput where it is not."""
    if not 0 < value < 1:
        raise BadInput(name, value, expected)


def _number(value: SupportsFloat) -> float | None:
    """A number of an array without axes; None for NaN."""
    found = float(value)
    return None if math.isnan(found) else found


# -- arithmetic over arrays, whose last axis is the seeds or the tests


@dataclass(frozen=True)
class PairedT:
    """Arrays without the axis of the seeds."""

    mean: Doubles  # the mean
    sd: Doubles  # the sample's standard deviation, n − 1 degrees of freedom; NaN with one seed
    margin: Doubles  # half the interval; NaN with one seed, and where the seeds show no spread
    p: Doubles  # two-sided p; NaN where there is no test


def student(values: Doubles, *, level: float = 0.95, size: Doubles | None = None) -> PairedT:
    """Mean, standard deviation, half of Student's interval and the t test against 0.

    Formula: ``x̄ ± t_{n−1,(1+level)/2} · s/√n``; ``t = x̄/(s/√n)``, ``p = 2·P(T_{n−1} ≥ |t|)``.

    Args:
        values: [..., n], n seeds.
        level: coverage of the interval, between 0 and 1.
        size: the largest value [...] that the values were computed from; theirs by default. A spread that rounding
            of such values explains counts as none.

    Returns:
        Arrays [...], in the values' unit. Values that are all zero have p = 1 and a margin of 0. Values that are all
        equal but not zero have neither.

    >>> found = student(np.array([80.0, 81.0, 82.0]))
    >>> float(found.mean), float(found.sd), round(float(found.margin), 3)
    (81.0, 1.0, 2.484)
    """
    count = values.shape[-1]
    mean = np.asarray(values.mean(axis=-1))
    if count == 1:
        none = np.full_like(mean, np.nan)
        return PairedT(mean, none, none, none)
    size = np.abs(values).max(axis=-1) if size is None else size
    sd = values.std(axis=-1, ddof=1)
    sd = np.where(sd <= _ROUNDING * size, 0.0, sd)
    spread = np.where(sd > 0, sd, 1.0)
    zero = (sd == 0) & (np.abs(mean) <= _ROUNDING * size)
    p = np.minimum(2 * stats.t.sf(np.abs(mean) * math.sqrt(count) / spread, count - 1), 1.0)
    margin = np.where(sd > 0, float(stats.t.ppf((1 + level) / 2, count - 1)) * sd / math.sqrt(count), np.nan)
    return PairedT(
        np.where(zero, 0.0, mean),
        sd,
        np.where(zero, 0.0, margin),
        np.where(sd > 0, p, np.where(zero, 1.0, np.nan)),
    )


def paired_t(a: Doubles, b: Doubles, *, level: float = 0.95) -> PairedT:
    """The paired t test of b − a, both [..., n] over the same n seeds; see :func:`student`.

    >>> found = paired_t(np.array([[80.0, 81.0], [5.0, 5.0]]), np.array([[80.0, 81.0], [6.0, 6.0]]))
    >>> found.p.tolist()
    [1.0, nan]
    """
    return student(b - a, level=level, size=np.maximum(np.abs(a).max(axis=-1), np.abs(b).max(axis=-1)))


def holm(p: Doubles) -> Doubles:
    """Holm's adjusted p: at most α of all families without a true difference have one of them at α or below.

    Formula: sorted upwards, ``p̃_(i) = max_{j≤i} min(1, (m − j + 1)·p_(j))``.

    Args:
        p: [..., m], the m tests of a family; NaN where there was no test. It still counts among the m, as if its p
            were 1, so that a test that fell out makes no other one easier.

    Returns:
        [..., m], NaN where p is.

    Paper:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    known = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(known, axis=-1, kind="stable")
    steps = np.take_along_axis(known, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(known)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0), axis=-1)
    return np.where(np.isnan(p), np.nan, adjusted)


def hedges(count: int) -> float:
    """The factor that makes d_z = d̄/s_d unbiased; without it five seeds overstate d_z by a quarter.

    Formula: ``J(ν) = Γ(ν/2) / (√(ν/2)·Γ((ν−1)/2))``, ν = n − 1.

    Args:
        count: number of seeds n.

    Returns:
        A factor below 1; 0 with two seeds or fewer, where d_z has no mean that could be corrected.

    Paper:
        Hedges, Distribution theory for Glass's estimator of effect size and related estimators, Journal of
        Educational Statistics 6, 1981.

    >>> round(hedges(5), 3), hedges(2)
    (0.798, 0.0)
    """
    if count < 3:
        return 0.0
    half = (count - 1) / 2
    return math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)


def power_of(effect: float, count: int, alpha: float = 0.05) -> float:
    """The chance that the two-sided paired t test finds a difference.

    Formula: ``E_s[Φ(δ − c·s) + Φ(−δ − c·s)]`` with ``δ = |d|·√n``, ``c = t_{n−1,1−α/2}`` and ``s² ~ χ²_{n−1}/(n−1)``:
    the tails of the noncentral t.

    Args:
        effect: the true difference in standard deviations of the differences.
        count: number of seeds, at least 2.
        alpha: the p at which it counts as found.

    Returns:
        A probability.

    >>> round(power_of(0.5, 34), 3)
    0.808
    """
    freedom = (count - 1) / 2
    shift, critical = abs(effect) * math.sqrt(count), float(stats.t.isf(alpha / 2, count - 1))
    # Over the shares of s, in two pieces: where c·s passes δ the integrand falls from 1 to 0, for large c as a cliff.
    cliff = float(special.gammainc(freedom, freedom * (shift / critical) ** 2))
    total = 0.0
    for low, high in pairwise([0.0, cliff, 1.0] if 0 < cliff < 1 else [0.0, 1.0]):
        at = critical * np.sqrt(special.gammaincinv(freedom, low + (high - low) * _NODES) / freedom)
        total += (high - low) * float(_WEIGHTS @ (special.ndtr(shift - at) + special.ndtr(-shift - at)))
    return min(total, 1.0)


class Statistic:
    """A dataclass of results, which prints as the words of :meth:`describe`."""

    def describe(self) -> str:
        """What was found, in words."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON; null where there is none."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def __str__(self) -> str:
        return self.describe()


# -- one method


@dataclass(frozen=True)
class SeedMean(Statistic):
    """A mean over seeds with Student's interval."""

    mean: float  # the mean
    sd: float | None  # the sample's standard deviation; None with one seed
    low: float | None  # lower end of the interval; None with one seed, or where all values are equal
    high: float | None  # its upper end; None likewise
    count: int  # number of seeds
    level: float  # coverage of the interval

    def describe(self, digits: int = 2) -> str:
        """The mean in words, with so many decimals."""
        mean = f"{self.mean:.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} ({'one seed' if self.count == 1 else 'no spread between the seeds'}: no interval)"
        return f"{mean} [{self.low:.{digits}f}, {self.high:.{digits}f}], {self.count} seeds"


def interval(values: Sequence[float], *, level: float = 0.95) -> SeedMean:
    """Mean of the values with Student's interval.

    Formula: ``x̄ ± t_{n−1,(1+level)/2} · s/√n``.

    Args:
        values: one a seed, in any unit; the seeds fixed before looking.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The mean; without interval where there is one seed, which says nothing of the spread, or where all values are
        equal: an interval of no width would claim to know the mean of all seeds exactly.

    Raises:
        BadInput: there is no value, one is not finite, or the level is no coverage.

    >>> print(interval([80.0, 81.0, 82.0]))
    81.00 [78.52, 83.48], 3 seeds
    >>> print(interval([80.0]))
    80.00 (one seed: no interval)
    """
    if len(values) == 0:
        raise BadInput("values", values, "at least one")
    if not all(is_value(value) for value in values):
        raise BadInput("values", list(values), "finite values")
    check_share("level", level, "a coverage between 0 and 1, such as 0.95")
    array = np.asarray(values, dtype=np.float64)
    found = student(array, level=level)
    mean, sd, margin = float(array.mean()), _number(found.sd), _number(found.margin)
    low, high = (None, None) if margin is None or sd == 0 else (mean - margin, mean + margin)
    return SeedMean(mean, sd, low, high, len(values), level)


# -- two methods


@dataclass(frozen=True)
class PairedDifference(Statistic):
    """How much higher b is than a, over pairs of the same seed."""

    mean: float  # mean of b − a
    low: float | None  # lower end of the interval; None with one pair, or where all differences are equal but not zero
    high: float | None  # its upper end; None likewise
    p: float | None  # two-sided p of the paired t test; 1 where every difference is zero; None likewise
    count: int  # number of pairs
    sd: float | None = None  # standard deviation of the differences; None with one pair
    # D_z, the mean difference in standard deviations of the differences, with Hedges' correction; None with fewer than
    # three pairs, where it cannot be corrected, or without spread.
    effect: float | None = None

    def describe(self, digits: int = 2) -> str:
        """The difference in words, with so many decimals."""
        mean = f"{self.mean:+.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} ({'one pair' if self.count == 1 else 'no spread between the pairs'}: no interval)"
        return f"{mean} [{self.low:+.{digits}f}, {self.high:+.{digits}f}], p = {self.p:.3g}, {self.count} pairs"


def paired_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> PairedDifference:
    """Mean of the paired differences b − a with Student's interval.

    Formula: ``d̄ ± t_{n−1,(1+level)/2} · s_d/√n``; effect ``d_z = J(n−1)·d̄/s_d``.

    Args:
        a: one value a seed.
        b: the other's values, in the same order of seeds.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The difference; without interval and p where there is one pair, for one pair says nothing of the spread, and
        where all differences are equal but not zero: the formula's p = 0 would be the strongest claim from the
        poorest data. Differences that rounding explains count as equal.

    Raises:
        BadInput: the lengths differ, there is no pair, a value is not finite, or the level is no coverage.

    >>> print(paired_difference([80.0, 81.0, 82.0], [82.0, 82.5, 84.5]))
    +2.00 [+0.76, +3.24], p = 0.0202, 3 pairs
    >>> print(paired_difference([80.0], [82.0]))
    +2.00 (one pair: no interval)
    """
    if len(a) != len(b) or len(a) == 0:
        raise BadInput("pairs", (len(a), len(b)), "as many values of one as of the other, at least one")
    if not all(is_value(value) for value in [*a, *b]):
        raise BadInput("pairs", [*a, *b], "finite values")
    check_share("level", level, "a coverage between 0 and 1, such as 0.95")
    found = paired_t(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), level=level)
    count, mean, sd, margin = len(a), float(found.mean), _number(found.sd), _number(found.margin)
    low, high = (None, None) if margin is None else (mean - margin, mean + margin)
    effect = hedges(count) * mean / sd if sd and count > 2 else None
    return PairedDifference(mean, low, high, _number(found.p), count, sd, effect)


# -- how many seeds


@dataclass(frozen=True)
class SeedEstimate(Statistic):
    """How many seeds would settle a difference."""

    count: int  # the seeds there are
    seeds: int | None  # the seeds in all that it would take; None beyond the cap, or where it cannot be said
    power: float  # the chance that so many seeds find the difference, were it what it seems
    alpha: float  # the p that would settle it
    cap: int  # the largest number that was tried
    why: str | None = None  # why it cannot be said; None where it can

    @property
    def more(self) -> int | None:
        """How many seeds more than there are; None where their number is not known."""
        return None if self.seeds is None else self.seeds - self.count

    def describe(self) -> str:
        """The number in words; :data:`PLANNING_CAUTION` belongs with it."""
        if self.why is not None:
            return f"unknown how many seeds would settle it: {self.why}"
        if self.seeds is None:
            return f"more than {self.cap:,} seeds would settle it, if any"
        return f"about {self.seeds:,} seeds in all ({self.more:,} more) would settle it with power {self.power:g}"

    def as_dict(self) -> dict[str, Any]:
        """The fields and ``more`` for JSON."""
        return {**asdict(self), "more": self.more}


def seeds_to_settle(
    differences: Sequence[float], *, power: float = 0.8, alpha: float = 0.05, cap: int = 1000
) -> SeedEstimate | None:
    """How many seeds would settle a difference, were its mean and spread what they seem.

    Formula: the smallest n whose paired t test at α has the power for ``d = d̄/s_d``.

    An estimate from the same few seeds, for planning only. The observed d̄/s_d is itself uncertain: the true number
    may well be several times more. And it must not become "add seeds until p is small": each look at the growing
    data is another chance of a false finding, so that α is no longer the rate of them. Declare the new number of
    seeds first and test the new seeds by themselves; or plan the looks beforehand and give each its share of α.

    Args:
        differences: the paired differences, one a seed.
        power: the chance of finding it that is wanted.
        alpha: the p that settles it; for a family the corrected one, which its comparisons' plans take.
        cap: the largest number of seeds to try.

    Returns:
        The plan, which says why where there is none (one seed, no spread, no difference); None where the differences
        are decided already.

    Raises:
        BadInput: there is no difference, one is not finite, or power, alpha or cap are none.

    >>> print(seeds_to_settle([0.2, 1.1, -0.4]))
    about 52 seeds in all (49 more) would settle it with power 0.8
    >>> print(seeds_to_settle([2.0, 1.5, 2.5]))
    None
    """
    found = paired_difference(np.zeros(len(differences)).tolist(), differences)
    return _plan_seeds(found, power=power, alpha=alpha, cap=cap)


def _plan_seeds(
    found: PairedDifference, *, power: float = 0.8, alpha: float = 0.05, cap: int = 1000
) -> SeedEstimate | None:
    check_share("power", power, "a chance between 0 and 1, such as 0.8")
    check_share("alpha", alpha)
    if cap < 2:
        raise BadInput("cap", cap, "at least 2 seeds")
    why = None
    if found.count == 1:
        why = "one seed shows no spread"
    elif found.sd == 0:
        why = "the seeds show no spread" if found.mean else "no seed shows a difference"
    if why is not None:
        return SeedEstimate(found.count, None, power, alpha, cap, why)
    if found.p is None or found.p <= alpha or found.sd is None:
        return None
    effect = found.mean / found.sd
    # Power grows with the seeds. These did not settle it, so that it takes one more at least.
    low, high = found.count + 1, max(cap, found.count + 1)
    if high > cap or power_of(effect, high, alpha) < power:
        return SeedEstimate(found.count, None, power, alpha, cap)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, middle, alpha) >= power else (middle + 1, high)
    return SeedEstimate(found.count, low, power, alpha, cap)


# -- families of comparisons


@dataclass(frozen=True)
class PairedComparison(Statistic):
    """One method less another, over the seeds that both have, as one of a family."""

    method: str  # whose values are meant by higher or lower
    against: str  # whose values are subtracted
    # the paired difference, with an interval of its own that knows nothing of the family; None where they have no
    # seed in common
    difference: PairedDifference | None
    seeds: tuple[int, ...]  # the seeds that both have
    lacking: tuple[int, ...]  # the seeds that the method lacks and the other has
    against_lacking: tuple[int, ...]  # the seeds that the other lacks
    family: int  # how many comparisons the family has, tested or not
    alpha: float  # the rate of false findings that the whole family keeps
    holm_p: float | None = None  # Holm's p, by which the verdict goes; None where there is no test
    # lower end of Bonferroni's interval: those of a family hold all at once, with 1 − alpha
    family_low: float | None = None
    family_high: float | None = None  # its upper end
    # how many seeds would settle it; None where it is decided, or the family has more than :data:`MOST_PLANNED`
    # comparisons
    plan: SeedEstimate | None = None
    # why nothing is claimed of it whatever its p, such as runs that were not equal; None where it may be
    no_claim: str | None = None

    @property
    def decided(self) -> bool:
        """Whether Holm's p is alpha or less, and something may be claimed of it."""
        return self.no_claim is None and self.holm_p is not None and self.holm_p <= self.alpha

    @property
    def verdict(self) -> Direction:
        """Higher or lower where it is decided: of the numbers, which for a loss is not better or worse."""
        if not self.decided or self.difference is None:
            return "undecided"
        return "higher" if self.difference.mean > 0 else "lower"

    def without_claim(self, why: str) -> PairedComparison:
        """The same numbers, undecided whatever they are."""
        return replace(self, plan=None, no_claim=why)

    def describe(self, digits: int = 2) -> str:
        """The comparison in words, with so many decimals."""
        words = f"{self.method} − {self.against}: {self._numbers(digits)}: {self._outcome()}"
        gaps = ((self.method, self.lacking), (self.against, self.against_lacking))
        missing = [
            f"{name} lacks seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" for name, seeds in gaps if seeds
        ]
        return f"{words} ({', '.join(missing)})" if missing else words

    def _numbers(self, digits: int) -> str:
        found = self.difference
        if found is None:
            return "no seed in common"
        mean = f"{found.mean:+.{digits}f}"
        if found.count == 1:
            return f"{mean} (one seed: no interval, no p)"
        if found.low is None or found.high is None or self.holm_p is None:
            return f"{mean} (no spread between the {found.count} seeds, as if they were one: no interval, no p)"
        words = [f"{mean} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]", f"p = {found.p:.3g}"]
        words.append(f"Holm p = {self.holm_p:.3g}")
        if found.effect is not None:
            words.append(f"d_z = {found.effect:+.2f}")
        return ", ".join([*words, f"{found.count} seeds"])

    def _outcome(self) -> str:
        found = self.difference
        if self.no_claim is not None:
            return f"no claim: {self.no_claim}"
        if self.decided or found is None or found.count == 1 or self.plan is None:
            return self.verdict
        if found.sd == 0:
            return self.verdict if found.mean else f"{self.verdict}, no seed shows a difference"
        return f"{self.verdict}, {self.plan.describe()}"

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON; null where there is none."""
        content = {name: value for name, value in asdict(self).items() if name not in ("plan", "no_claim")}
        return {**content, "verdict": self.verdict, "plan": self.plan and self.plan.as_dict()}


@dataclass(frozen=True)
class HolmFamily(Statistic):
    """Comparisons that share one rate of false findings."""

    # `baseline` (each against one, k − 1 of them), `all` (each against each, k(k − 1)/2) or `planned` (contrasts)
    kind: Literal["baseline", "all", "planned"]
    baseline: str | None  # the one; None where there is none
    alpha: float  # at most so many of such families without a true difference claim one
    comparisons: tuple[PairedComparison, ...]  # in the order of the methods

    def describe(self, digits: int = 2) -> str:
        """The family in words: what its numbers mean, a line a comparison, and the caution where seeds are counted."""
        what = {"all": "Differences between all pairs", "planned": "Planned contrasts"}.get(
            self.kind, f"Differences to {self.baseline}"
        )
        if not self.comparisons:
            return f"{what}: one method, nothing to compare."
        count = len(self.comparisons)
        head = (
            f"{what}; intervals of {100 * (1 - self.alpha):g}%, each by itself; verdicts by Holm's p "
            f"over {count} comparison{'s' * (count > 1)} at {self.alpha:g}"
        )
        if count > MOST_PLANNED:
            head += f"; how many seeds would settle them is not worked out for more than {MOST_PLANNED}"
        lines = [f"{head}:", *(comparison.describe(digits) for comparison in self.comparisons)]
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


def against_baseline(values: SeedValues, baseline: str, *, alpha: float = 0.05) -> HolmFamily:
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
    rows = check_values(values, "seed")
    if baseline not in rows:
        hint = f"a method's name, chosen before the runs ({nearest(str(baseline), rows)})"
        raise BadInput("baseline", baseline, f"{hint}; no comparison is made with the best of the values themselves")
    return _family("baseline", baseline, rows, [(baseline, name) for name in rows if name != baseline], alpha)


def between_all(values: SeedValues, *, alpha: float = 0.05) -> HolmFamily:
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
    rows = check_values(values, "seed")
    return _family("all", None, rows, list(combinations(rows, 2)), alpha)


def planned_contrasts(
    values: SeedValues, contrasts: Sequence[tuple[Sequence[str], Sequence[str]]], *, alpha: float = 0.05
) -> HolmFamily:
    """The mean of some methods less the mean of others, paired by seed: as many comparisons as were planned.

    Formula: at seed s ``d_s = mean_{m ∈ of} x_{m,s} − mean_{m ∈ less} x_{m,s}``; the paired t test of d; Holm's
    correction over the contrasts.

    Fewer questions than :func:`between_all` asks, so that each needs less: but only where they were written down
    before the runs.

    Args:
        values: method → {seed: value}, as for :func:`against_baseline`. A side has a value at the seeds that all its
            methods have.
        contrasts: for each the methods whose mean is taken, and those whose mean is subtracted.
        alpha: the rate of false findings over all contrasts.

    Returns:
        The family, in the order of the contrasts; ``method`` and ``against`` name the sides.

    Raises:
        BadInput: there is no method, a contrast names none or an unknown one, a value is not finite, or alpha is no
            rate.

    >>> found = {"a": {0: 1.0, 1: 2.5, 2: 2.0}, "b": {0: 3.0, 1: 4.0, 2: 4.5}, "c": {0: 4.0, 1: 6.0, 2: 5.0}}
    >>> print(planned_contrasts(found, [(("b", "c"), ("a",))]).comparisons[0])
    mean of b and c − a: +2.58 [+2.22, +2.94], p = 0.00104, Holm p = 0.00104, d_z = +10.10, 3 seeds: higher
    """
    rows = check_values(values, "seed")
    sides: dict[str, dict[int, float]] = {}
    named = [(_side(sides, rows, less), _side(sides, rows, of)) for of, less in contrasts]
    return _family("planned", None, sides, named, alpha)


def _side(sides: dict[str, dict[int, float]], rows: dict[str, dict[int, float]], names: Sequence[str]) -> str:
    """Work out the mean of methods at the seeds that all have; returns what it is called."""
    unknown = next((name for name in names if name not in rows), None)
    if unknown is not None or not names:
        raise BadInput("contrasts", unknown, f"methods on both sides ({nearest(unknown or '', rows)})")
    title = names[0] if len(names) == 1 else f"mean of {listed(names)}"
    seeds = set.intersection(*(set(rows[name]) for name in names))
    sides[title] = {seed: sum(rows[name][seed] for name in names) / len(names) for seed in sorted(seeds)}
    return title


def _family(
    kind: Literal["baseline", "all", "planned"],
    baseline: str | None,
    rows: dict[str, dict[int, float]],
    pairs: Sequence[tuple[str, str]],
    alpha: float,
) -> HolmFamily:
    check_share("alpha", alpha)
    found = [_compare(rows, against, name, len(pairs), alpha) for against, name in pairs]
    if not found:
        return HolmFamily(kind, baseline, alpha, ())
    ps = [one.difference.p if one.difference is not None else None for one in found]
    adjusted = holm(np.array([np.nan if p is None else p for p in ps]))
    found = [replace(one, holm_p=_number(p)) for one, p in zip(found, adjusted, strict=True)]
    if len(found) <= MOST_PLANNED:
        # Holm tests what is left at alpha / how many are left: that p settles one, if the decided ones stay decided.
        left = len(found) - sum(one.decided for one in found)
        found = [
            one
            if one.decided or one.difference is None
            else replace(one, plan=_plan_seeds(one.difference, alpha=alpha / left))
            for one in found
        ]
    return HolmFamily(kind, baseline, alpha, tuple(found))


def _compare(rows: dict[str, dict[int, float]], against: str, name: str, size: int, alpha: float) -> PairedComparison:
    theirs, mine = rows[against], rows[name]
    seeds = tuple(sorted(mine.keys() & theirs.keys()))
    lacking, there = tuple(sorted(theirs.keys() - mine.keys())), tuple(sorted(mine.keys() - theirs.keys()))
    if not seeds:
        return PairedComparison(name, against, None, seeds, lacking, there, size, alpha)
    a, b = [theirs[seed] for seed in seeds], [mine[seed] for seed in seeds]
    difference, wide = (paired_difference(a, b, level=1 - rate) for rate in (alpha, alpha / size))
    one = PairedComparison(name, against, difference, seeds, lacking, there, size, alpha)
    return replace(one, family_low=wide.low, family_high=wide.high)
