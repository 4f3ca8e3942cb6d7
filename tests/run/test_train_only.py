"""A student of which a part is trained: the rest keeps its weights and statistics, and it is said which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from run.conftest import bytes_of, stop_and_resume
from stillroom.errors import BadInput
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.run import execute

Make = Callable[..., Recipe]
STUDENT = "student={name: resnet8, options: {width: 4}}"


class Notes(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def part(recipe: Make, *modules: str) -> Recipe:
    return recipe(STUDENT, f"training.train_only=[{', '.join(modules)}]", "training.checkpoints=[0]")


def moved(out: Path) -> set[str]:
    first, last = (load_file(out / name) for name in ("checkpoints/epoch-0000.safetensors", "student.safetensors"))
    return {name for name in first if not torch.equal(first[name], last[name])}


def test_what_is_not_trained_keeps_weights_and_statistics(recipe: Make, tmp_path: Path) -> None:
    notes = Notes()
    out = execute(part(recipe, "linear", "layer3.*.conv2"), tmp_path / "run", observer=notes).path
    assert moved(out) == {"linear.weight", "linear.bias", "layer3.0.conv2.weight"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["trained"]["modules"] == ["layer3.0.conv2", "linear"]
    assert 0 < summary["trained"]["parameters"] < summary["trained"]["of"] == summary["parameters"]
    (line,) = (line for line in notes.lines if "frozen" in line)
    assert line.startswith("training layer3.0.conv2, linear alone: ")


def test_all_modules_are_all_of_the_student(recipe: Make, tmp_path: Path) -> None:
    execute(recipe(STUDENT), tmp_path / "whole")
    execute(recipe(STUDENT, "training.train_only=['*']"), tmp_path / "named")
    whole, named = (bytes_of(tmp_path / name)["student.safetensors"] for name in ("whole", "named"))
    assert whole == named
    assert "train_only" not in (tmp_path / "whole" / "recipe.yaml").read_text()


def test_a_run_of_a_part_resumes_to_the_same_bytes(recipe: Make, tmp_path: Path) -> None:
    whole = part(recipe, "layer3", "linear")
    execute(whole, tmp_path / "whole")
    stop_and_resume(whole, tmp_path / "again", 3)
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "again")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("layer33", "training.train_only: got 'layer33'; expected a module of the student (did you mean 'layer3'?)"),
        ("linear.*", "a module of the student (did you mean 'linear'?)"),
    ],
)
def test_a_module_that_is_not_there_is_named_with_the_nearest(
    recipe: Make, tmp_path: Path, module: str, expected: str
) -> None:
    with pytest.raises(BadInput) as error:
        execute(part(recipe, module), tmp_path / "run")
    assert expected in str(error.value)


def test_a_module_without_weights_cannot_be_trained(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"training\.train_only: got 'flatten'; expected a module with weights"):
        execute(part(recipe, "flatten"), tmp_path / "run")


def test_features_then_the_layers_above(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published: a first run matches features alone, a second trains what lies above them."""
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    first = recipe(STUDENT, "losses=[{name: feature_mse}]")
    execute(first, tmp_path / "features")
    weights = f"student.weights={tmp_path / 'features' / 'student.safetensors'}"
    above = recipe(
        STUDENT, weights, "losses=[{name: cross_entropy}]", "training.train_only=[linear]", "training.checkpoints=[0]"
    )
    execute(above, tmp_path / "above")
    assert moved(tmp_path / "above") == {"linear.weight", "linear.bias"}
