"""Ranks across pairs (of teacher and student, or data sets): Friedman's test and a critical-difference diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from stillroom.errors import BadInput
from stillroom.study.statistics.paired import Doubles, Statistic, check_share, check_values
from stillroom.wording import counted


@dataclass(frozen=True)
class FriedmanTest(Statistic):
    """Friedman's test that all methods rank alike, with Iman and Davenport's correction."""

    chi_square: float  # Friedman's χ²_F, corrected for ties
    f: float | None  # Iman and Davenport's F_F; None where all pairs rank alike, for it is infinite then
    degrees: tuple[int, int]  # degrees of freedom of F_F
    p: float  # of F_F; where that is infinite, the exact chance that all pairs rank alike by accident

    def describe(self) -> str:
        """The test in words."""
        found = "all pairs rank alike" if self.f is None else f"F({self.degrees[0]}, {self.degrees[1]}) = {self.f:.3g}"
        return f"Friedman {found}, p = {self.p:.3g}"


@dataclass(frozen=True)
class AverageRanks(Statistic):
    """Average ranks of the methods, and which of them are not distinguished: what a diagram draws."""

    names: tuple[str, ...]  # the methods, first rank first
    average: tuple[float, ...]  # their average ranks, 1 the first
    pairs: tuple[str, ...]  # the pairs that were ranked
    left_out: tuple[str, ...]  # the pairs that some method lacks
    alpha: float  # the rate of false findings
    friedman: FriedmanTest | None  # the test that comes first; None where there is none
    critical_difference: float | None  # average ranks this far apart are distinguished; None likewise
    # groups of methods that are not distinguished, each as large as can be: the diagram's bars
    bars: tuple[tuple[str, ...], ...]
    why: str | None  # why there is no test; None where there is one

    def describe(self, digits: int = 2) -> str:
        """The ranks in words, with so many decimals."""
        count = f"over {counted(len(self.pairs), 'pair')}"
        # Without a pair there are names but no ranks.
        ranked = ", ".join(f"{name} {rank:.{digits}f}" for name, rank in zip(self.names, self.average, strict=False))
        words = [f"Average ranks {count}: {ranked}" if self.average else f"No ranks of {', '.join(self.names)}"]
        if self.friedman is None or self.critical_difference is None:
            words.append(f"no test: {self.why}")
        else:
            words.append(self.friedman.describe())
            words.append(f"critical difference {self.critical_difference:.{digits}f} (Nemenyi, {self.alpha:g})")
            if self.friedman.p > self.alpha:
                words.append("no difference shown, so none is looked for between two")
            else:
                if self.critical_difference > len(self.names) - 1:
                    words.append("too few pairs for ranks to tell any two apart")
                bars = "; ".join(" – ".join(bar) for bar in self.bars)
                words.append(f"not distinguished: {bars}" if bars else "all distinguished")
        if self.left_out:
            words.append(f"left out, as a method lacks them: {', '.join(self.left_out)}")
        return "; ".join(words)


def iman_davenport(statistic: Doubles, pairs: int, methods: int) -> tuple[Doubles, Doubles]:
    """F_F and its p; Friedman's χ² alone gives a p that is too large, and scipy has no other.

    Formula: ``F_F = (N−1)χ²_F / (N(k−1) − χ²_F)``, of F with k−1 and (k−1)(N−1) degrees of freedom.

    Args:
        statistic: χ²_F, [...].
        pairs: N.
        methods: k.

    Returns:
        F_F (infinite where all pairs rank alike) and p, [...].

    Paper:
        Iman and Davenport, Approximations of the critical region of the Friedman statistic, Communications in
        Statistics A9, 1980.

    >>> found, p = iman_davenport(np.array(9.28), 14, 4)
    >>> float(found.round(2)), float(p.round(3))
    (3.69, 0.02)
    """
    full = pairs * (methods - 1)
    rest = full - statistic
    alike = rest <= 1e-9 * full
    found = np.where(alike, np.inf, (pairs - 1) * statistic / np.where(alike, 1.0, rest))
    p = stats.f.sf(found, methods - 1, (methods - 1) * (pairs - 1))
    return np.asarray(found), np.asarray(p)


def friedman(ranks: Doubles) -> FriedmanTest:
    """Friedman's test over the ranks of each pair, corrected for ties, with Iman and Davenport's F.

    Args:
        ranks: [pairs, methods], at least 2 and 3; ties averaged.

    Returns:
        The test. Where all pairs rank alike F is infinite, and its p = 0 would be absurd for two pairs: the exact
        chance that the other pairs repeat the first's ranks is given instead, ``(k!/Π t!)^{1−N}``.

    Raises:
        BadInput: there are fewer pairs or methods.

    Paper:
        Friedman, The use of ranks to avoid the assumption of normality implicit in the analysis of variance, Journal
        of the American Statistical Association 32, 1937.

    >>> print(friedman(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])))
    Friedman all pairs rank alike, p = 0.167
    """
    if ranks.ndim != 2 or ranks.shape[0] < 2 or ranks.shape[1] < 3:
        raise BadInput("ranks", ranks.shape, "at least 2 pairs and 3 methods")
    pairs, k = ranks.shape
    # scipy divides by 0 where every method is tied on every pair.
    all_tied = bool((ranks == ranks[:, :1]).all())
    statistic = 0.0 if all_tied else float(stats.friedmanchisquare(*ranks.T).statistic)
    found, p = iman_davenport(np.asarray(statistic), pairs, k)
    degrees = (k - 1, (k - 1) * (pairs - 1))
    if math.isfinite(found):
        return FriedmanTest(statistic, float(found), degrees, float(p))
    tied = np.unique(ranks[0], return_counts=True)[1]
    ways = math.factorial(k) / math.prod(math.factorial(int(size)) for size in tied)
    return FriedmanTest(statistic, None, degrees, ways ** (1 - pairs))


def nemenyi(methods: int, pairs: int, alpha: float = 0.05) -> float:
    """How far apart average ranks must be to be distinguished, over all comparisons of two at once.

    Formula: ``CD = q_α/√2 · √(k(k+1)/(6N))``, q of the studentized range with infinitely many degrees of freedom.

    Args:
        methods: k.
        pairs: N.
        alpha: the rate of false findings over all k(k−1)/2.

    Returns:
        The critical difference, in ranks.

    Paper:
        Demšar, Statistical comparisons of classifiers over multiple data sets, Journal of Machine Learning Research
        7, 2006; after Nemenyi, Distribution-free multiple comparisons, 1963.

    >>> round(nemenyi(4, 14), 2)
    1.25
    """
    quantile = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * pairs))


def ranks_across_pairs(
    values: Mapping[str, Mapping[str, float]], *, higher_is_better: bool = True, alpha: float = 0.05
) -> AverageRanks:
    """Average ranks of the methods over several pairs, and which of them are distinguished.

    Formula: on each pair the best has rank 1, ties averaged; Friedman's test with Iman and Davenport's F; where that
    finds a difference, two are distinguished whose average ranks differ by Nemenyi's critical difference or more.

    Args:
        values: method → {pair: value}, a value the mean over its seeds. Pairs that a method lacks are left
            out for all, and named.
        higher_is_better: whether rank 1 is the highest value.
        alpha: the rate of false findings.

    Returns:
        What a critical-difference diagram draws; without test, and why, with fewer than two pairs or three
        methods. Both tests are approximations that want about ten pairs or more: of six methods that are
        alike, F finds a difference in 6% of studies of three to five pairs, not 5% (simulated); the two together, by
        which methods are distinguished here, in fewer than 5%.

    Raises:
        BadInput: there is no method, a value is not finite, or alpha is no rate.

    Paper:
        Demšar, Statistical comparisons of classifiers over multiple data sets, Journal of Machine Learning Research
        7, 2006.

    >>> found = ranks_across_pairs({"labels": {"digits": 90.0}, "kl": {"digits": 92.0}, "mse": {"digits": 91.0}})
    >>> print(found)
    Average ranks over 1 pair: kl 1.00, mse 2.00, labels 3.00; no test: one pair, which shows no spread of the ranks
    """
    rows = check_values(values, "pair")
    check_share("alpha", alpha)
    every = list(dict.fromkeys(pair for row in rows.values() for pair in row))
    pairs = tuple(pair for pair in every if all(pair in row for row in rows.values()))
    left_out = tuple(pair for pair in every if pair not in pairs)
    if not pairs:
        return AverageRanks(tuple(rows), (), (), left_out, alpha, None, None, (), "no pair that all methods have")
    table = np.array([[row[pair] for row in rows.values()] for pair in pairs])
    ranks = _ranked(-table if higher_is_better else table)
    average = ranks.mean(axis=0)
    order = np.argsort(average, kind="stable")
    names, sorted_ranks = tuple(list(rows)[place] for place in order), tuple(average[order].tolist())
    why = _why_not(len(rows), len(pairs))
    if why is not None:
        return AverageRanks(names, sorted_ranks, pairs, left_out, alpha, None, None, (), why)
    test, apart = friedman(ranks), nemenyi(len(rows), len(pairs), alpha)
    bars = (names,) if test.p > alpha else tuple(names[start:stop] for start, stop in groups(sorted_ranks, apart))
    return AverageRanks(names, sorted_ranks, pairs, left_out, alpha, test, apart, bars, None)


def groups(average: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """Stretches of sorted average ranks that lie less than the critical difference apart, none within another.

    Args:
        average: sorted upwards.
        critical_difference: in ranks.

    Returns:
        Start and stop of each stretch of two or more.

    >>> groups([1.0, 1.5, 2.2, 4.0], 1.0)
    [(0, 2), (1, 3)]
    """
    found: list[tuple[int, int]] = []
    for start, first in enumerate(average):
        stop = sum(rank - first < critical_difference for rank in average)
        if stop - start > 1 and (not found or stop > found[-1][1]):
            found.append((start, stop))
    return found


def _ranked(table: Doubles) -> Doubles:
    # Means over seeds that are equal on paper differ in their last digits by the order of summing: still a tie.
    rounded = np.array([[float(f"{value:.12g}") for value in row] for row in table])
    return np.asarray(stats.rankdata(rounded, axis=1), dtype=np.float64)


def _why_not(methods: int, pairs: int) -> str | None:
    if methods == 1:
        return "one method, nothing to compare"
    if methods == 2:
        return "two methods, for whom the paired difference says more"
    return "one pair, which shows no spread of the ranks" if pairs == 1 else None
