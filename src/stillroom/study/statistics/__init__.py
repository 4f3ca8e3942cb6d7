"""Comparisons of few runs: paired by seed, corrected for their number, without a claim where the data are too few.

Over plain numbers (points, nats, any unit):

- :func:`interval`: the mean of one method over its seeds.
- :func:`paired_difference`: two methods, the same seeds.
- :func:`against_baseline`, :func:`between_all`, :func:`planned_contrasts`: a family of such differences,
  Holm-corrected, each with a verdict.
- :func:`seeds_to_settle`: how many seeds would settle what is undecided; for planning only.
- :func:`ranks_across_pairs`: ranks over several data sets or teachers, and what a critical-difference diagram shows.

No function compares with "the best": a winner picked on the values that the test reads looks better than it is, and
its p means nothing. Name a baseline before the runs, or compare all pairs, whose correction pays for the search.

>>> found = {"labels": {0: 33.6, 1: 34.1, 2: 33.0}, "kl": {0: 40.2, 1: 39.1, 2: 39.4}}
>>> print(against_baseline(found, "labels").comparisons[0])
kl − labels: +6.00 [+3.83, +8.17], p = 0.00696, Holm p = 0.00696, d_z = +3.88, 3 seeds: higher
"""

from stillroom.study.statistics.paired import (
    PLANNING_CAUTION,
    HolmFamily,
    PairedComparison,
    PairedDifference,
    SeedEstimate,
    SeedMean,
    against_baseline,
    between_all,
    interval,
    paired_difference,
    planned_contrasts,
    seeds_to_settle,
)
from stillroom.study.statistics.ranks import AverageRanks, FriedmanTest, friedman, nemenyi, ranks_across_pairs

__all__ = [
    "PLANNING_CAUTION", "AverageRanks", "FriedmanTest", "HolmFamily", "PairedComparison", "PairedDifference",
    "SeedEstimate", "SeedMean", "against_baseline", "between_all", "friedman", "interval", "nemenyi",
    "paired_difference", "planned_contrasts", "ranks_across_pairs", "seeds_to_settle",
]  # fmt: skip
