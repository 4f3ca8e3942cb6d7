"""What runs cost: clocks, teacher passes, memory. Kept apart from the results, as no two machines agree on it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from stillroom.study.collect import read_optional
from stillroom.study.folder import StudyFolder
from stillroom.study.plan import Plan
from stillroom.study.tables import csv_text

COLUMNS = (
    "kind",
    "pair",
    "method",
    "seed",
    "training_seconds",
    "evaluation_seconds",
    "teacher_answers",
    "peak_memory_mb",
    "images_per_second",
    "cache_seconds",
    "trial",
)


def cost_table(folder: StudyFolder, plan: Plan) -> str:
    """``cost.csv``: a line for each run that was begun, each trial, each pair's cache and each teacher trained.

    Args:
        folder: the study's folder.
        plan: its runs.

    Raises:
        BadInput: ``caches.json`` is damaged.
    """
    return csv_text(COLUMNS, [[row.get(column) for column in COLUMNS] for row in _rows(folder, plan)])


def cost_of(path: Path) -> dict[str, Any]:
    """What a run cost, from its ``timing.jsonl``; nothing that the file does not tell.

    Args:
        path: the run's folder.

    Returns:
        ``training_seconds`` (summed over resumes, without evaluations and without what a kill lost),
        ``evaluation_seconds``, ``teacher_answers`` (images that the teacher was asked about), ``peak_memory_mb``,
        ``images_per_second`` (the median), ``cache_seconds``.
    """
    events = list(_events(path / "timing.jsonl"))
    if not events:
        return {}
    progress = [event for event in events if event.get("event") == "progress"]
    # A run that asked nothing says 0; one that does not say is known by its caches alone.
    told = [event for event in events if event.get("event") == "teacher"]
    asked = _sum(told, "answers") if told else _sum(_of(events, "cache"), "images")
    rates, memory = _numbers(progress, "images_per_second"), _numbers(progress, "peak_memory_mb")
    return {
        "training_seconds": _training(events),
        "evaluation_seconds": round(_sum(_of(events, "evaluation"), "seconds"), 4),
        "teacher_answers": int(asked),
        "peak_memory_mb": max(memory, default=None),
        "images_per_second": round(median(rates), 1) if rates else None,
        "cache_seconds": round(_sum(_of(events, "cache"), "seconds"), 4),
    }


def _rows(folder: StudyFolder, plan: Plan) -> Iterator[dict[str, Any]]:
    for cell in plan.cells:
        cost = cost_of(folder.run(cell.pair, cell.method, cell.seed))
        if cost:
            yield {"kind": "run", "pair": cell.pair, "method": cell.method, "seed": cell.seed, **cost}
    for pair in plan.study.all_pairs:
        for method in plan.study.methods:
            for number in _trials(folder.trial(pair.name, method.name, 0).parent):
                cost = cost_of(folder.trial(pair.name, method.name, number))
                yield {"kind": "trial", "pair": pair.name, "method": method.name, "trial": number, **cost}
    for name, told in sorted((read_optional(folder.caches) or {}).items()):
        if isinstance(told, Mapping):
            cost = {"teacher_answers": told.get("answers"), "cache_seconds": told.get("seconds")}
            yield {"kind": "cache", "pair": name, **cost}
    for teacher in plan.study.teachers:
        cost = cost_of(folder.teacher(teacher.name))
        if cost:
            yield {"kind": "teacher", "method": teacher.name, **cost}


def _trials(path: Path) -> list[int]:
    names = [item.name.removeprefix("trial-") for item in path.glob("trial-*")]
    return sorted(int(name) for name in names if name.isdecimal())


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return
    for line in lines:
        # A killed run may leave half a line, which takes nothing from the result.
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def _training(events: list[dict[str, Any]]) -> float:
    """The last clock of each start, the evaluations before it taken off.

    The clock of a resumed run, and of the next task, begins anew, and says so or runs backwards.
    """
    total = last = before = evaluated = 0.0
    for event in events:
        seconds = next(iter(_numbers([event], "seconds")), 0.0)
        if event.get("event") == "evaluation":
            evaluated += seconds
        elif event.get("event") in ("resume", "task") or (event.get("event") == "progress" and seconds < last):
            total, last, before, evaluated = total + last - before, 0.0, 0.0, 0.0
        if event.get("event") == "progress":
            last, before = seconds, evaluated
    return round(max(total + last - before, 0.0), 4)


def _of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event.get("event") == kind]


def _sum(events: list[dict[str, Any]], key: str) -> float:
    return sum(_numbers(events, key))


def _numbers(events: list[dict[str, Any]], key: str) -> list[float]:
    values = [event.get(key) for event in events]
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
