"""Image files through whole runs: held in memory or streamed, by any number of workers, the same run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from run.conftest import bytes_of, read_lines
from stillroom.cli import run
from stillroom.data.config import DataConfig
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.recipe import Recipe
from stillroom.run.run import execute

pytestmark = pytest.mark.usefixtures("perceptrons")
Make = Callable[..., Recipe]
OPTIONS = ["data.augmentation={pad_crop: 1, flip: alternate, views: 2}", "training.epochs=3", "cache.enabled=true"]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Some of the digits, as a folder of pictures for each class."""
    pair = load(DataConfig(train_limit=96, test_limit=40))
    for split, images in (("train", pair.train), ("val", pair.test)):
        for number in range(len(images)):
            folder = tmp_path / "pictures" / split / images.class_names[int(images.labels[number])]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.images[number, 0].numpy()).save(folder / f"{number:04d}.png")
    return tmp_path / "pictures"


def test_streamed_by_any_number_of_workers_is_held_in_memory(recipe: Make, digits: Path, tmp_path: Path) -> None:
    data = f"data.path={digits}"
    whole = execute(recipe(*OPTIONS, data, "data.train_limit=null", "data.test_limit=null"), tmp_path / "whole")
    assert whole.summary["data"]["train"] == 96
    for workers in (1, 3):
        options = [*OPTIONS, data, "data.in_memory=false", f"data.workers={workers}"]
        streamed = execute(recipe(*options), tmp_path / f"streamed-{workers}")
        assert read_lines(streamed.path / "metrics.jsonl") == read_lines(whole.path / "metrics.jsonl")
        for name in ("student.safetensors", "predictions.safetensors"):
            assert bytes_of(streamed.path)[name] == bytes_of(whole.path)[name]


def test_from_the_command_line(
    digits: Path, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        "data: {path: pictures, batch_size: 32}\nstudent: {name: mlp}\ntraining: {epochs: 2}\n"
    )
    assert run(["train", "recipe.yaml", "--out", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["classes"] == 10
    broken = digits / "train" / "3" / "zzz.png"
    broken.write_bytes(b"not a picture")
    assert run(["train", "recipe.yaml", "--out", "other"]) == 2
    assert "zzz.png" in capsys.readouterr().err


def test_a_file_that_is_cut_short_is_named_before_the_first_step_and_mended_the_run_goes_on(
    recipe: Make, digits: Path, tmp_path: Path
) -> None:
    victim = sorted((digits / "train" / "5").iterdir())[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-40])  # its header is whole
    streamed = [*OPTIONS, f"data.path={digits}", "data.in_memory=false"]
    with pytest.raises(BadInput, match=victim.name):
        execute(recipe(*streamed), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    skipping = execute(recipe(*streamed, "data.bad_files=skip", "training.epochs=1"), tmp_path / "skipping").summary
    assert skipping["data"]["skipped"] == {"train": [f"5/{victim.name}"], "test": []}
    assert skipping["data"]["train"] == 95
    victim.write_bytes(whole)
    execute(recipe(*streamed, "training.epochs=1"), tmp_path / "run", resume=True)
