"""What can be compared, with its unit and which way is better."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stillroom.studies.config import Measure


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
    )
}
