"""One job in this process: what is kept for the next changes nothing, and every error is an ending."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import stillroom.study.engine.jobs as performing
from stillroom.data.config import AugmentationConfig, DataConfig
from stillroom.run.run import execute
from stillroom.study.engine import ray_client
from stillroom.study.engine.jobs import RecentData, attempt, crash_log, perform
from stillroom.train.folder import RunFolder
from study.engine.jobs import job, left_by, recipe, saved

MINE = """
import torch
from torch import nn
class Drawn(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes), nn.Dropout(0.5))
"""


def test_a_process_of_a_cluster_that_is_asked_to_end_saves_and_says_so_in_a_line(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, sent = RunFolder.append, []

    def asked_to_end(self: RunFolder, name: str, line: dict[str, object]) -> None:
        append(self, name, line)
        if name == "metrics.jsonl" and not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    what = job(place / "run", recipe(save_seconds=1e6))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(RunFolder, "append", asked_to_end)
    try:
        outcome = json.loads(ray_client.do(json.dumps({"job": what.as_dict(), "cwd": str(place)})))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert outcome["ending"] == "crashed"
    assert outcome["reason"] == "its process was asked to end; a run saved first, and goes on"
    assert saved(what)


def test_a_run_gives_its_summary_and_times_no_models(place: Path) -> None:
    summary = perform(job(place / "run"))
    assert summary == json.loads((place / "run" / "summary.json").read_text())
    events = [json.loads(line)["event"] for line in (place / "run" / "timing.jsonl").read_text().splitlines()]
    assert "latency" not in events
    assert "progress" in events
    assert perform(job(place / "run")) == summary, "a finished run is given back"


def test_a_teacher_that_draws_its_weights_is_the_same_after_any_other_job(place: Path) -> None:
    (place / "drawn_models.py").write_text(MINE)
    content = {**recipe(), "teacher": {"name": "drawn_models:Drawn"}, "student": {"name": "drawn_models:Drawn"}}
    for name, before in (("first", 0), ("later", 2)):
        for seed in range(before):
            perform(job(place / f"{name}-{seed}", recipe(seed=seed)))
        perform(job(place / name, content))
    from stillroom.recipe import parse_recipe

    execute(parse_recipe(content), place / "alone")
    assert left_by(place / "first") == left_by(place / "later") == left_by(place / "alone")


def test_errors_are_endings(place: Path) -> None:
    refused = attempt(job(place / "refused", {**recipe(), "sead": 1}))
    assert (refused.ending, refused.reason) == ("bad_input", "sead: unknown field 'sead'; did you mean 'seed'?")
    failed = attempt(job(place / "failed", recipe(optimizer={"lr": 1e30})))
    assert failed.ending == "failed"
    assert "finite" in failed.reason
    unforeseen = job(place / "unforeseen", kind="cache")
    crashed = attempt(unforeseen)
    assert (crashed.ending, crashed.reason, crashed.result) == ("crashed", "KeyError: 'recipes'", {})
    assert "Traceback" in crash_log(unforeseen).read_text()


def test_a_crash_leaves_its_traceback_until_the_job_is_done(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = job(place / "run")
    with monkeypatch.context() as patch:
        patch.setattr(performing, "execute", lambda *_, **__: {}["gone"])
        assert attempt(what).ending == "crashed"
    assert crash_log(what) == place / "run.crash.log"
    assert crash_log(what).exists()
    outcome = attempt(what)
    assert (outcome.ending, outcome.reason) == ("done", "")
    assert outcome.seconds > 0
    assert not crash_log(what).exists()


def test_data_are_kept_by_what_decides_their_pixels() -> None:
    kept = RecentData(most=2)
    small, large = DataConfig(train_limit=20), DataConfig(train_limit=30)
    first = kept.get(small)
    assert kept.get(small.model_copy(update={"batch_size": 4})) is first
    assert kept.get(small.model_copy(update={"augmentation": AugmentationConfig(pad_crop=1)})) is first
    assert len(kept.get(large).train) == 30
    assert kept.get(small) is first
    kept.get(DataConfig(train_limit=40))
    assert kept.get(small) is first, "used last, it was kept rather than the other"
    kept.get(large)
    kept.get(DataConfig(train_limit=40))
    assert kept.get(small) is not first


def test_data_that_were_replaced_are_read_again(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name, shade in (("a", 0), ("b", 255)):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (4, 4), shade).save(tmp_path / split / name / "1.png")
    kept = RecentData()
    config = DataConfig(path=str(tmp_path))
    first = kept.get(config)
    assert kept.get(config) is first
    Image.new("L", (4, 4), 9).save(tmp_path / "train" / "a" / "2.png")
    os.utime(tmp_path / "train")
    assert len(kept.get(config).train) == 3
