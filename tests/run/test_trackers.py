"""Trackers get every figure of ``metrics.jsonl`` and change nothing; one that fails is left."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from run.conftest import bytes_of, read_lines
from stillroom.cli import run

WORDS = ["train", "recipes/digits.yaml", "data.train_limit=128", "training.epochs=2", "training.log_every=1"]


class Seen:
    """What the four packages were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.settings: dict[str, Any] = {}
        self.closed: list[str] = []
        for name in ("tensorboard", "torch.utils.tensorboard", "wandb", "mlflow", "trackio"):
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, module)
        seen = self

        class SummaryWriter:
            def __init__(self, folder: str) -> None:
                seen.settings["tensorboard"] = folder
                self.held: dict[str, float] = {}

            def add_text(self, name: str, text: str) -> None:
                seen.settings["tensorboard recipe"] = text

            def add_scalar(self, name: str, value: float, step: int) -> None:
                self.held[name] = value
                self.step = step

            def flush(self) -> None:
                seen.values.setdefault("tensorboard", []).append((self.step, self.held))
                self.held = {}

            def close(self) -> None:
                seen.closed.append("tensorboard")

        class Run:
            name = "wandb"

            def log(self, values: dict[str, float], step: int) -> None:
                seen.values.setdefault(self.name, []).append((step, values))

            def finish(self) -> None:
                seen.closed.append(self.name)

        def init(**options: Any) -> Run:
            seen.settings["wandb"] = options
            return Run()

        class Trackio(Run):
            name = "trackio"

        sys.modules["torch.utils.tensorboard"].SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
        sys.modules["wandb"].init = init  # type: ignore[attr-defined]
        trackio: Any = sys.modules["trackio"]
        trackio.init, trackio.log, trackio.finish = lambda **options: None, Trackio().log, Trackio().finish
        mlflow: Any = sys.modules["mlflow"]
        mlflow.set_experiment = lambda name: None
        mlflow.start_run = lambda run_name: None
        mlflow.log_params = lambda given: seen.settings.update(mlflow=given)
        mlflow.log_metrics = lambda values, step: seen.values.setdefault("mlflow", []).append((step, values))
        mlflow.end_run = lambda: seen.closed.append("mlflow")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def test_each_tracker_gets_every_line_and_changes_no_byte(seen: Seen, tmp_path: Path) -> None:
    names = ["tensorboard", "wandb", "mlflow", "trackio"]
    tracks = [word for name in names for word in ("--track", name)]
    assert run([*WORDS, *tracks, "--out", str(tmp_path / "tracked")]) == 0
    assert run([*WORDS, "--out", str(tmp_path / "plain")]) == 0
    assert bytes_of(tmp_path / "tracked") == bytes_of(tmp_path / "plain")
    lines = read_lines(tmp_path / "tracked" / "metrics.jsonl")
    place = ("step", "epoch", "split")
    expected = [
        (line["step"], {f"{line['split']}/{key}": value for key, value in line.items() if key not in place})
        for line in lines
    ]
    for name in names:
        got = [(step, {key: values[key] for key in values if key != "epoch"}) for step, values in seen.values[name]]
        assert got == expected, name
    assert sorted(seen.closed) == sorted(names)
    assert seen.settings["tensorboard"] == str(tmp_path / "tracked" / "tensorboard")
    assert seen.settings["wandb"]["name"] == "tracked"
    assert seen.settings["wandb"]["config"]["student.name"] == "resnet8"
    assert seen.settings["mlflow"]["training.epochs"] == "2"


def test_a_tracker_that_fails_is_left_and_the_run_goes_on(
    seen: Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("no network")

    sys.modules["wandb"].init = refuse  # type: ignore[attr-defined]
    assert run([*WORDS, "--track", "wandb", "--track", "mlflow", "--out", str(tmp_path / "run")]) == 0
    assert "tracker wandb stopped" in capsys.readouterr().err
    assert seen.closed == ["mlflow"]


@pytest.mark.parametrize(("name", "words"), [("tensorbord", "did you mean 'tensorboard'"), ("trackio", "pip install")])
def test_an_unknown_or_missing_tracker_is_one_line(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*WORDS, "--track", name, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert "--track: " in printed
    assert words in printed
    assert not (tmp_path / "run" / "recipe.yaml").exists()
