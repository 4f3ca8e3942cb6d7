"""Runs in tasks through the command line: killed at a task's end and gone on with, byte by byte."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from continual.test_run import CONTENT, everything
from processes import Fate, stillroom
from stillroom.cli import run as command


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # Enough steps that a kill falls into them.
    training = {**CONTENT["training"], "steps": 20}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**CONTENT, "training": training}))
    return tmp_path


def test_killed_at_the_end_of_a_task_it_ends_byte_identical(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = workplace / "killed"
    # The first task's summary is there, and what follows from it is being made.
    summary = killed / "tasks" / "01" / "summary.json"
    ended = stillroom("incremental", "recipe.yaml", "--out", "killed", fate=Fate(kill_after_lines=(summary, 1)))
    assert ended.returncode == -signal.SIGKILL
    assert not (killed / "summary.json").exists()
    assert command(["incremental", "recipe.yaml", "--out", "whole", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["run"] == "whole"
    assert [len(row) for row in output["matrix"]] == [1, 2, 3]
    assert command(["incremental", "recipe.yaml", "--out", "killed", "--resume"]) == 0
    shown = capsys.readouterr()
    assert "accuracy on the classes of each task" in shown.out
    assert "task 3 of 3" in shown.err
    assert everything(killed) == everything(workplace / "whole")
    assert command(["incremental", "recipe.yaml", "seed=1", "--out", "killed", "--resume"]) == 2
    assert "seed is 1, was 0" in capsys.readouterr().err


def test_its_help_teaches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(["incremental", "--help"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for word in (
        "teacher is the student of the task before",
        "--preset",
        "--joint",
        "recipes/incremental/digits.yaml",
    ):
        assert word in output


def test_a_diagnosis_is_of_a_task_not_of_their_sequence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "incremental.json").write_text("{}")
    assert command(["diagnose", str(tmp_path)]) == 2
    assert "look at its tasks" in capsys.readouterr().err
