"""Honest comparisons of few runs: paired by seed, corrected for their number, and silent where there is too little.

What asks what, over plain numbers (points, nats, whatever the values are in):

- :func:`interval`: the mean of one method over its seeds.
- :func:`paired_difference`: two methods, the same seeds.
- :func:`against_baseline`, :func:`between_all`: a family of such differences, Holm-corrected, each with a verdict.
- :func:`seeds_to_settle`: how many seeds would settle what is undecided; for planning only.
- :func:`ranks_across_pairs`: ranks over several data sets or teachers, and what a critical-difference diagram shows.

No function compares with "the best": a winner picked on the values that the test reads looks better than it is, and
its p means nothing. Name a baseline before the runs, or compare all pairs: there the search for a winner is paid for.

>>> found = {"labels": {0: 33.6, 1: 34.1, 2: 33.0}, "kl": {0: 40.2, 1: 39.1, 2: 39.4}}
>>> print(against_baseline(found, "labels").comparisons[0])
kl − labels: +6.00 [+3.83, +8.17], p = 0.00696, Holm p = 0.00696, d_z = +3.88, 3 seeds: higher
"""

from stillroom.study.statistics.families import Comparison, Family, against_baseline, between_all
from stillroom.study.statistics.intervals import Interval, interval
from stillroom.study.statistics.pairs import PairedDifference, paired_difference
from stillroom.study.statistics.planning import PLANNING_CAUTION, Plan, seeds_to_settle
from stillroom.study.statistics.ranks import Friedman, Ranks, friedman, nemenyi, ranks_across_pairs

__all__ = [
    "PLANNING_CAUTION",
    "Comparison",
    "Family",
    "Friedman",
    "Interval",
    "PairedDifference",
    "Plan",
    "Ranks",
    "against_baseline",
    "between_all",
    "friedman",
    "interval",
    "nemenyi",
    "paired_difference",
    "ranks_across_pairs",
    "seeds_to_settle",
]
