"""Tests and bounds for counts of images, what a small sample can prove; and measures next to those of chance."""

from __future__ import annotations

import math

from stillroom.tasks import Measure

# One false alarm in a thousand diagnoses of a correct recipe, for each check.
ALPHA = 1e-3
# The one-sided normal quantile at that level.
_Z = 3.0902
# Share of the way from chance to a perfect model below which nothing was learned.
NOTHING = 0.02


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test, one-sided: p of so much better a second method if both were equally good.

    Formula: ``P(X ≥ gained)``, X binomial of ``gained + lost`` draws at 1/2: where both are equally good, an image that
    only one classifies correctly is as often the first's as the second's.

    Args:
        gained: images that only the second method classifies correctly.
        lost: images that only the first classifies correctly.

    >>> mcnemar(0, 0), mcnemar(5, 0)
    (1.0, 0.03125)
    """
    count = gained + lost
    tail = sum(math.comb(count, k) for k in range(gained, count + 1))
    return float(tail / 2**count)


def exceeds_chance(correct: int, count: int, chance: float, *, tries: int = 1) -> bool:
    """Whether so many of so many images are more than guesses of this accuracy give, by the exact binomial test.

    Of the best of several ``tries``, Bonferroni's bound.

    >>> exceeds_chance(30, 100, 0.1), exceeds_chance(12, 100, 0.1)
    (True, False)
    """
    from scipy.stats import binom  # slow to import

    return float(binom.sf(correct - 1, count, min(chance, 1.0))) < ALPHA / tries


def lower_bound(correct: int, count: int) -> float:
    """Wilson's lower bound of a share at ``ALPHA``.

    >>> round(lower_bound(90, 100), 2), lower_bound(0, 10)
    (0.77, 0.0)
    """
    share, z2 = correct / count, _Z**2
    middle = share + z2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return min(max((middle - half) / (1 + z2 / count), 0.0), 1.0)


def is_larger(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether the share in the first of two independent samples is larger, by a pooled z-test at ``ALPHA``.

    Formula: ``(p₁ − p₂)/√(p(1 − p)(1/n₁ + 1/n₂)) > z``.

    Args:
        first: the count, and the size of the sample.
        second: the same of the other sample.

    >>> is_larger((50, 500), (10, 500)), is_larger((12, 500), (10, 500))
    (True, False)
    """
    (a, n), (b, m) = first, second
    pooled = (a + b) / (n + m)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return spread > 0 and (a / n - b / m) / spread > _Z


def difference_bound(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Lower bound at ``ALPHA`` of the difference between the shares in two independent samples.

    Formula: ``p₁ − p₂ − z·√(p₁(1 − p₁)/n₁ + p₂(1 − p₂)/n₂)``, each share with half a count more on either side: a count
    of 0 in a small sample does not prove a share of 0.

    Args:
        first: the count, and the size of the sample.
        second: the same of the other sample.

    >>> round(difference_bound((200, 500), (25, 250)), 2), difference_bound((30, 500), (12, 250)) < 0.02
    (0.21, True)
    """
    (p, n), (q, m) = (((count + 0.5) / (total + 1), total) for count, total in (first, second))
    return p - q - _Z * math.sqrt(p * (1 - p) / n + q * (1 - q) / m)


def is_near_chance(measure: Measure, level: float, chance: float) -> bool:
    """Whether a model has gone less than ``NOTHING`` of the way from chance to a perfect one; NaN has gone none.

    >>> from stillroom.tasks import TASK_INFO
    >>> is_near_chance(TASK_INFO["regression"].primary, 0.01, 0.0)
    True
    """
    return not level - chance >= NOTHING * (measure.best - chance)
