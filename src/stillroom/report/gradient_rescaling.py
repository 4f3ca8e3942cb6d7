"""``gradient_rescaling.jsonl``, read and checked: how strongly each sample pulled at the student, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput
from stillroom.report.fields import Fields

RESCALING = "gradient_rescaling.jsonl"
_MOST_GROUPS = 1000


@dataclass(frozen=True)
class Group:
    """Samples that are alike in one thing, and ω of them.

    Attributes:
        at: the mean of what they are alike in: the teacher's p_y, or the known margin.
        low: the smallest of it.
        high: the largest.
        median: of ω.
        quartiles: of ω, where they were recorded.
        count: how many samples.
    """

    at: float
    low: float
    high: float
    median: float
    quartiles: tuple[float, float] | None
    count: int


@dataclass(frozen=True)
class Rescaling:
    """One epoch: ω by the teacher's p_y and by what is known of the samples, the hardest group first.

    Attributes:
        epoch: it ended there.
        count: samples.
        spearman: rank correlation of ω with p_y.
        known_spearman: with the known margin.
        saturated: share of samples of which the teacher says no more than the label does.
        groups: by p_y.
        known_groups: by the known margin; empty where it is not known.
    """

    epoch: float
    count: int
    spearman: float | None
    known_spearman: float | None
    saturated: float
    groups: tuple[Group, ...]
    known_groups: tuple[Group, ...]


def read_rescaling(path: Path, lines: Sequence[dict[str, Any]]) -> tuple[Rescaling, ...]:
    """Check what a run's ``gradient_rescaling.jsonl`` holds.

    Args:
        path: the file, for messages.
        lines: its lines.

    Raises:
        BadInput: they are damaged.
    """
    return tuple(_epoch(Fields(path, line, f"line {number}: ")) for number, line in enumerate(lines, start=1))


def _epoch(fields: Fields) -> Rescaling:
    return Rescaling(
        epoch=fields.number("epoch", low=0),
        count=fields.whole("count", low=1),
        spearman=fields.maybe_number("spearman", -1, 1),
        known_spearman=fields.maybe_number("known_spearman", -1, 1),
        saturated=fields.number("saturated", 0, 1),
        groups=_groups(fields, "deciles", "p"),
        known_groups=_groups(fields, "known_deciles", "margin"),
    )


def _groups(fields: Fields, key: str, by: str) -> tuple[Group, ...]:
    rows = fields.listed(key)
    if len(rows) > _MOST_GROUPS or (key == "deciles" and not rows):
        raise BadInput(f"{fields.path}: {fields.prefix}{key}", f"{len(rows)} groups", f"1 to {_MOST_GROUPS}")
    return tuple(_group(row, by) for row in rows)


def _group(fields: Fields, by: str) -> Group:
    low, high = (fields.maybe_number(f"omega_{end}") for end in ("low", "high"))
    return Group(
        at=fields.number(f"{by}_mean"),
        low=fields.number(f"{by}_low"),
        high=fields.number(f"{by}_high"),
        median=fields.number("omega_median"),
        quartiles=(low, high) if low is not None and high is not None else None,
        count=fields.whole("count", low=1),
    )
