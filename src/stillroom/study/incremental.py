"""What methods whose classes come in tasks came to, task by task, over their seeds: for ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillroom.continual.metrics import offline_normalised
from stillroom.study.collect import FinishedRun
from stillroom.study.config import Study
from stillroom.study.statistics import interval
from stillroom.study.tasks import Record

Content = dict[str, Any]
_BALANCE = ("old", "new", "answered_new", "are_new")


def incremental_results(study: Study, runs: Sequence[FinishedRun], level: float) -> list[Content] | None:
    """Each pair's methods in tasks: accuracy after each task, the mean matrix, old against new, memory, Ω.

    Args:
        study: the study.
        runs: its finished runs.
        level: coverage of the intervals.

    Returns:
        None where no run is in tasks.
    """
    found = []
    for pair in study.all_pairs:
        records: dict[str, dict[int, Record]] = {}
        joint = None
        for run in runs:
            if run.planned.pair == pair.name and run.record is not None:
                records.setdefault(run.planned.method, {})[run.planned.seed] = run.record
                settings = run.recipe.incremental
                if joint is None and settings is not None and settings.joint:
                    joint = run.planned.method
        if records:
            ceiling = records.get(joint, {}) if joint is not None else {}
            found.append(
                {
                    "pair": pair.name,
                    "offline": joint,
                    "methods": [
                        {"method": one.name, **_method(records[one.name], ceiling, level)}
                        for one in study.methods
                        if one.name in records
                    ],
                }
            )
    return found or None


def _method(records: Mapping[int, Record], ceiling: Mapping[int, Record], level: float) -> Content:
    held = list(records.values())
    # Methods may differ in their number of tasks, seeds of one may not.
    count = min(len(record.tasks) for record in held)
    tasks = range(count)
    return {
        "seeds": sorted(records),
        "tasks": [
            {
                "accuracy": _spread([record.tasks[task].accuracy for record in held], level),
                "pooled": _mean([record.tasks[task].pooled for record in held]),
                **{name: _mean([getattr(record.tasks[task].balance, name) for record in held]) for name in _BALANCE},
                "exemplars": max(record.tasks[task].memory.exemplars for record in held),
                "bytes": max(record.tasks[task].memory.bytes for record in held),
            }
            for task in tasks
        ],
        "matrix": [[_mean([record.matrix[task][old] for record in held]) for old in range(task + 1)] for task in tasks],
        "omega": _omega(records, ceiling, level),
    }


def _omega(records: Mapping[int, Record], ceiling: Mapping[int, Record], level: float) -> Content | None:
    """Ω over the seeds that joint training has as well; None where there are none, or it is undefined in one."""
    values = []
    for seed in sorted(set(records) & set(ceiling)):
        mine, theirs = ([task.accuracy for task in each[seed].tasks] for each in (records, ceiling))
        if len(mine) != len(theirs) or (value := offline_normalised(mine, theirs)) is None:
            return None
        values.append(value)
    return _spread(values, level) if values else None


def _spread(values: Sequence[float], level: float) -> Content:
    found = interval(list(values), level=level)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
