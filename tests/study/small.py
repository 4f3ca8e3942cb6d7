"""A study of seconds: two methods on a few digits, with a teacher that it trains itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from stillroom.study.engine.base import Engine, Job, Outcome

STUDY: dict[str, Any] = {
    "name": "small",
    "seeds": [0, 1],
    "budget": {"epochs": 2},
    "recipe": {
        "data": {"train_limit": 96, "test_limit": 40, "batch_size": 32, "augmentation": {"pad_crop": 1, "views": 2}},
        "teacher": {"name": "mlp", "weights": "study:big"},
        "student": {"name": "mlp", "options": {"hidden": [8]}},
        "training": {"log_every": 1, "precision": "float32", "device": "cpu"},
    },
    "teachers": [{"name": "big", "set": {"student": {"name": "mlp"}, "training": {"epochs": 2}}}],
    "methods": [
        {"name": "labels"},
        {"name": "kl", "set": {"losses": [{"name": "cross_entropy"}, {"name": "kl"}]}},
    ],
}
SAME_TABLES = ("results.json", "runs.csv", "table.csv", "comparisons.csv", "table.tex")


def small(**changes: Any) -> dict[str, Any]:
    """The small study with some fields replaced."""
    return {**copy.deepcopy(STUDY), **changes}


def study_file(folder: Path, **changes: Any) -> Path:
    """The small study as a file."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(small(**changes)))
    return path


def tables_of(study: Path) -> dict[str, bytes]:
    """The results of a study, which must not depend on clocks, kills, workers or engines."""
    return {name: (study / name).read_bytes() for name in SAME_TABLES}


class Scripted(Engine):
    """An engine whose jobs end as they are scripted, in the order in which they were begun.

    Args:
        slots: how many go side by side.
        endings: by job, how its attempts end one after another; done where there is nothing more.
    """

    name = "scripted"

    def __init__(self, slots: int = 1, endings: dict[str, list[Outcome]] | None = None) -> None:
        self.slots = slots
        self.endings = endings or {}
        self.begun: list[str] = []
        self.most = 0
        self._under_way: list[Job] = []

    def submit(self, job: Job) -> None:
        self.begun.append(job.id)
        self._under_way.append(job)
        self.most = max(self.most, len(self._under_way))
        assert len(self._under_way) <= self.slots

    def wait(self, timeout: float) -> list[Outcome]:
        job = self._under_way.pop(0)
        left = self.endings.get(job.id)
        return [left.pop(0) if left else Outcome(job.id, "done", {"top1": 50.0}, seconds=2.0)]

    def close(self) -> None:
        self._under_way.clear()
