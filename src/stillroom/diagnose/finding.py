"""What a check says: how sure it is, of what, by which numbers, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["problem", "warning", "ok", "skipped"]

# From what must be looked at first to what need not be.
VERDICTS: tuple[Verdict, ...] = ("problem", "warning", "ok", "skipped")


@dataclass(frozen=True)
class Remedy:
    """What to change, as a recipe says it.

    Attributes:
        words: one sentence that tells what to do.
        overrides: dotted recipe keys to new values; empty where no recipe can mend it (train another teacher, say).

    >>> Remedy("Use the teacher's own normalisation.", {"teacher.preprocess": "imagenet"}).arguments()
    ['teacher.preprocess=imagenet']
    """

    words: str
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The overrides as the command line takes them."""

        def told(value: Any) -> str:
            return value if isinstance(value, str) else json.dumps(value)

        return [f"{key}={told(value)}" for key, value in self.overrides.items()]


@dataclass(frozen=True)
class Plot:
    """Numbers that a person would rather look at; the report draws them.

    Attributes:
        kind: ``bars`` (a value for each label), ``line`` (y against x) or ``histogram`` (counts between edges).
        title: what it shows.
        x: labels, positions, or the n + 1 edges.
        y: n values.
        x_label: of the axis, with its unit.
        y_label: the like.
        mark: a position on the axis of the values where the threshold lies, if it has one.
    """

    kind: Literal["bars", "line", "histogram"]
    title: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    x_label: str = ""
    y_label: str = ""
    mark: float | None = None


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        verdict: ``sick`` (it costs accuracy), ``suspect`` (it may), ``healthy``, or ``skipped`` (nobody could tell).
        summary: one sentence for a tired engineer, with the number that decided.
        evidence: the numbers, by name.
        threshold: where the verdict turns, and why there.
        remedy: what to do; None where nothing is to be done.
        source: the paper or the reason behind it.
        plots: pictures of the evidence.
    """

    check: str
    verdict: Verdict
    summary: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    threshold: str = ""
    remedy: Remedy | None = None
    source: str = ""
    plots: tuple[Plot, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` and ``diagnosis.json`` hold it."""
        return asdict(self)
