"""What can be compared, with its unit and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stillroom.study.config import Measure


@dataclass(frozen=True)
class Measured:
    """A measure of a run.

    Attributes:
        name: its name in ``summary.json``.
        title: what tables call it.
        unit: its unit; empty where it has none.
        difference: the unit of a difference.
        digits: decimals that are told.
        higher_is_better: which way is better.
    """

    name: Measure
    title: str
    unit: str
    difference: str
    digits: int
    higher_is_better: bool

    @property
    def header(self) -> str:
        """The title with the unit.

        >>> MEASURES["top1"].header
        'top-1 (%)'
        """
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def better(self, verdict: str) -> bool | None:
        """Whether ``higher`` or ``lower`` is better; None of what is undecided.

        >>> MEASURES["nll"].better("lower"), MEASURES["nll"].better("undecided")
        (True, None)
        """
        if verdict not in ("higher", "lower"):
            return None
        return (verdict == "higher") == self.higher_is_better

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "difference"}


MEASURES: dict[str, Measured] = {
    one.name: one
    for one in (
        Measured("top1", "top-1", "%", "points", 2, True),
        Measured("top5", "top-5", "%", "points", 2, True),
        Measured("nll", "negative log-likelihood", "nats", "nats", 4, False),
        Measured("ece", "calibration error", "", "", 4, False),
        Measured("agreement", "agreement with the teacher", "%", "points", 2, True),
        Measured("teacher_kl", "divergence from the teacher", "nats", "nats", 4, False),
        Measured("relation_score", "likeness within superclasses less between", "", "", 4, True),
        Measured("relation_truth", "agreement with the true class relations", "", "", 4, True),
        Measured("relation_teacher", "agreement with the teacher's class relations", "", "", 4, True),
        Measured("average_incremental", "average incremental accuracy", "%", "points", 2, True),
        Measured("forgetting", "forgetting", "points", "points", 2, False),
    )
}
# Where in ``relations`` of a summary they stand.
RELATIONS: dict[str, str] = {
    "relation_score": "score",
    "relation_truth": "truth",
    "relation_teacher": "teacher",
}
# Where in ``incremental`` of a summary they stand.
TASKS: dict[str, str] = {"average_incremental": "average", "forgetting": "forgetting"}


def figure_of(summary: Mapping[str, Any], measure: Measure) -> Any:
    """What a summary tells of a measure; None where it tells nothing.

    >>> figure_of({"top1": 71.5, "relations": {"truth": 0.8}}, "relation_truth"), figure_of({}, "relation_score")
    (0.8, None)
    """
    for part, places in (("relations", RELATIONS), ("incremental", TASKS)):
        if measure in places:
            held = summary.get(part)
            return held.get(places[measure]) if isinstance(held, Mapping) else None
    return summary.get(measure)
