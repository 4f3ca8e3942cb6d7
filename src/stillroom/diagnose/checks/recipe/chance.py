"""How much counts can differ by chance: what few images can prove, and what they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence

# One false accusation in a thousand diagnoses of a healthy recipe, for each check.
ALPHA = 1e-3
# The normal quantile of a one-sided bound at that level.
_Z = 3.0902


def paired(gained: int, lost: int) -> float:
    """How likely chance alone makes one of two ways to ask so much better on the same images (McNemar, exact).

    Formula: ``P(X ≥ gained)``, X binomial of ``gained + lost`` draws at 1/2: where both are equally good, an image that
    one alone has right is as often the one's as the other's.

    Args:
        gained: images that only the second has right.
        lost: images that only the first has right.

    >>> paired(0, 0), paired(5, 0)
    (1.0, 0.03125)
    """
    count = gained + lost
    tail = sum(math.comb(count, k) for k in range(gained, count + 1))
    return float(tail / 2**count)


def at_least(correct: int, count: int) -> float:
    """The share that lies behind a count, at the least: Wilson's lower bound at ``ALPHA``.

    >>> round(at_least(90, 100), 2), at_least(0, 10)
    (0.77, 0.0)
    """
    return _wilson(correct, count, -1)


def at_most(correct: int, count: int) -> float:
    """The share that lies behind a count, at the most: Wilson's upper bound at ``ALPHA``.

    >>> round(at_most(10, 100), 2)
    0.23
    """
    return _wilson(correct, count, 1)


def _wilson(correct: int, count: int, side: int) -> float:
    share, z2 = correct / count, _Z**2
    middle = share + z2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return min(max((middle + side * half) / (1 + z2 / count), 0.0), 1.0)


def differ(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether the share of the first of two samples lies above the second's by more than chance at ``ALPHA``.

    Two proportions that have nothing to do with each other, pooled: ``(p₁ − p₂)/√(p(1 − p)(1/n₁ + 1/n₂)) > z``.

    Args:
        first: how many, and of how many.
        second: the like.

    >>> differ((50, 500), (10, 500)), differ((12, 500), (10, 500))
    (True, False)
    """
    (a, n), (b, m) = first, second
    pooled = (a + b) / (n + m)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return spread > 0 and (a / n - b / m) / spread > _Z


def more_by(first: tuple[int, int], second: tuple[int, int]) -> float:
    """By how much the share of the first of two samples lies above the second's, at the least, at ``ALPHA``.

    ``p₁ − p₂ − z·√(p₁(1 − p₁)/n₁ + p₂(1 − p₂)/n₂)``, each share with half a count more on either side, as a sample
    without one says less than that there is none.

    Args:
        first: how many, and of how many.
        second: the like.

    >>> round(more_by((200, 500), (25, 250)), 2), more_by((30, 500), (12, 250)) < 0.02
    (0.21, True)
    """
    (p, n), (q, m) = (((count + 0.5) / (total + 1), total) for count, total in (first, second))
    return p - q - _Z * math.sqrt(p * (1 - p) / n + q * (1 - q) / m)


def median(values: Sequence[float]) -> float:
    """The middle value, of two the mean.

    >>> median([3.0, 1.0, 2.0]), median([1.0, 2.0])
    (2.0, 1.5)
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
