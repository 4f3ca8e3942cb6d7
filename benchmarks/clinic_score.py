"""Counting what the clinic found: sensitivity, specificity, each with an interval, and each check by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

import stillroom.diagnose

Row = Mapping[str, Any]
ALL = ("recipe", "run", "study")


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's 95% interval.

    >>> Share(9, 10).told
    '9 of 10, .90 [.60, .98]'
    """

    hits: int
    of: int

    @property
    def told(self) -> str:
        if not self.of:
            return "–"
        ends = binomtest(self.hits, self.of).proportion_ci(method="wilson")
        share, low, high = (_share(value) for value in (self.hits / self.of, ends.low, ends.high))
        return f"{self.hits} of {self.of}, {share} [{low}, {high}]"


def _share(value: float) -> str:
    return "1" if value > 0.995 else f"{value:.2f}".removeprefix("0")


def digest_of_checks() -> str:
    """SHA-256 of the checks with all their thresholds: names and content of what is in preflight/ and postmortem/."""
    root = Path(str(stillroom.diagnose.__file__)).parent
    told = hashlib.sha256()
    for path in sorted(path for part in ("preflight", "postmortem") for path in (root / part).rglob("*.py")):
        told.update(f"{path.relative_to(root).as_posix()}\0".encode())
        told.update(hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()


def is_found(row: Row) -> bool:
    """Whether one of the expected checks is sick."""
    return any(row["verdicts"].get(check) == "sick" for check in row["expects"])


def is_suspected(row: Row) -> bool:
    """Whether none is sick, and one of them suspect."""
    return not is_found(row) and any(row["verdicts"].get(check) == "suspect" for check in row["expects"])


def alarms(row: Row, verdict: str = "sick") -> list[str]:
    """The checks that say so."""
    return [check for check, told in row["verdicts"].items() if told == verdict]


def sensitivity(rows: Iterable[Row]) -> Share:
    """Of the sick set-ups, those of which an expected check says so."""
    ill = [row for row in rows if row["expects"]]
    return Share(sum(map(is_found, ill)), len(ill))


def specificity(rows: Iterable[Row]) -> Share:
    """Of the healthy set-ups, those of which no check is sick."""
    well = [row for row in rows if not row["expects"]]
    return Share(sum(not alarms(row) for row in well), len(well))


def by_check(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Each check's counts: hits and misses where it is expected, alarms and silence on healthy set-ups."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        # Where one of several is expected and one of them spoke, the others missed nothing.
        spoke = is_found(row)
        for check, verdict in row["verdicts"].items():
            counts = found.setdefault(check, dict.fromkeys(("tp", "fn", "fp", "tn", "skipped", "elsewhere"), 0))
            if check in row["expects"]:
                counts["tp" if verdict == "sick" else "skipped" if verdict == "skipped" else "fn"] += (
                    verdict == "sick" or not spoke
                )
            elif row["expects"]:
                counts["elsewhere"] += verdict == "sick"
            else:
                counts["skipped" if verdict == "skipped" else "fp" if verdict == "sick" else "tn"] += 1
    return dict(sorted(found.items()))


def recovered(row: Row) -> tuple[float, float | None]:
    """What a sickness cost in points, and the share of it that the remedy brought back; None where nothing was lost."""
    healthy, sick, mended = (sum(row[name]) / len(row[name]) for name in ("healthy", "sick", "mended"))
    lost = healthy - sick
    return lost, (mended - sick) / lost if lost > 0 else None


def clearly_lost(row: Row) -> bool:
    """Whether the healthy set-up is better by 2 points or more on the mean, and in every seed."""
    pairs = zip(row["healthy"], row["sick"], strict=True)
    return recovered(row)[0] >= 2 and all(well > ill for well, ill in pairs)
