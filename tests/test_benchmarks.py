"""The race of ``benchmarks/speed.py`` and ``gpu.py``: every method makes its steps, on a tiny pair in this process."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, Any, Any]:
    """The modules of the worker and of its job, and a job."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    import speed_job
    import speed_worker

    for name in ("speed_job", "speed_worker"):
        monkeypatch.delitem(sys.modules, name)
    job = speed_job.Job(
        do="prepare",
        teacher="resnet8",
        student="resnet8",
        classes=6,
        weights=str(tmp_path / "teacher.safetensors"),
        given=None,
        data=None,
        images=64,
        batch=16,
        views=1,
        threads=1,
        device="cpu",
        folder=str(tmp_path),
    )
    return speed_worker, speed_job, job


class Baton:
    """Takes three steps, then ends; keeps the answers it is given."""

    passes = 1
    device = torch.device("cpu")

    def __init__(self, over: type[Exception]) -> None:
        self.over, self.steps, self.answers = over, 0, dict[str, Any]()

    def tell(self, **answer: Any) -> None:
        """Keep it."""
        self.answers |= answer

    def ready(self) -> None:
        """Nothing to wait for."""

    def stepped(self) -> None:
        """Count."""
        self.steps += 1
        if self.steps == 3:
            raise self.over


def test_each_method_of_the_race_makes_its_steps(race: tuple[Any, Any, Any], tmp_path: Path) -> None:
    worker, jobs, job = race
    steps, answers = {}, {}
    left_out = {jobs.COMPILED}  # compiles for a minute
    for number, method in enumerate(["prepare", "build", *jobs.VARIANTS, *jobs.GPU_ONLY, *jobs.ABLATION]):
        baton = Baton(worker.Over)
        try:
            if method not in left_out:
                worker.work(replace(job, do=method, folder=str(tmp_path / str(number))), baton)
        except worker.Over:
            pass
        steps[method], answers[method] = baton.steps, baton.answers
    assert answers["prepare"]["machine"]["torch"] == torch.__version__
    assert answers["build"]["images"] >= 64
    assert answers["build"]["bytes"] > 0
    idle = {"prepare", "build", *left_out} | (set() if torch.cuda.is_available() else {jobs.GRAPHED})
    assert {method: count for method, count in steps.items() if count != 3} == dict.fromkeys(idle, 0)
