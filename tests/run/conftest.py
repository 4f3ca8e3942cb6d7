"""Small runs: a few steps on few digits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillroom.losses import setup_context
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.taps import Tap
from stillroom.models.weights import save_weights
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.run import Finished, execute
from stillroom.train.recorders import StepHook, StepInfo

SAME_BYTES = (
    "student.safetensors",
    "metrics.jsonl",
    "summary.json",
    "recipe.yaml",
    "predictions.safetensors",
    "class_relations.json",
    "class_relations.jsonl",
)


@pytest.fixture(scope="session", autouse=True)
def _taps_once() -> Iterator[None]:
    """The taps of a model of the zoo are found once, not in each run: tests/models looks at how they are found."""
    find, kept = setup_context.find_taps, {}

    def remember(model: nn.Module, example: Tensor, names: Any = None, **more: str) -> tuple[Tap, ...]:
        if names is not None or not type(model).__module__.startswith("stillroom."):
            return find(model, example, names, **more)
        key = (repr(model), example.shape)
        if key not in kept:
            kept[key] = find(model, example, **more)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup_context, "find_taps", remember)
        yield


class Stop(Exception):  # noqa: N818
    """A crash, at a step of the test's choice."""


class StopAt(StepHook):
    """Crashes a run there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            raise Stop


def stop_and_resume(recipe: Recipe, out: Path, step: int) -> None:
    """Crash a run at a step, then go on with it to its end."""
    with pytest.raises(Stop):
        execute(recipe, out, hooks=[StopAt(step)])
    # A hook's state is saved with the run, so the resumed run has one in its place.
    execute(recipe, out, resume=True, hooks=[StopAt(-1)])


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def bytes_of(run: Path) -> dict[str, bytes]:
    """Every file of a finished run that must not depend on clocks or kills."""
    apart = {"timing.jsonl", "environment.json", "checksums.sha256"}
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} - apart
    assert set(SAME_BYTES) <= names
    return {name: (run / name).read_bytes() for name in sorted(names)}


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Finished]:
    """Do what a recipe says, once for all tests that ask for the same: they read the run and write nothing into it."""
    root, kept = tmp_path_factory.mktemp("once"), dict[str, Finished]()

    def finished(recipe: Recipe) -> Finished:
        key = recipe.model_dump_json()
        if key not in kept:
            kept[key] = execute(recipe, root / str(len(kept)))
        return kept[key]

    return finished


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe, Path], None]:
    """Leave in a folder a run of a recipe that crashed after its tenth step."""
    root, kept = tmp_path_factory.mktemp("stopped"), dict[str, Path]()

    def leave(recipe: Recipe, out: Path) -> None:
        key = recipe.model_dump_json()
        if key not in kept:
            kept[key] = root / str(len(kept))
            with pytest.raises(Stop):
                execute(recipe, kept[key], hooks=[StopAt(10)])
        shutil.copytree(kept[key], out)

    return leave


def _save_teacher(path: Path, config: ModelConfig) -> Path:
    torch.manual_seed(0)
    save_weights(build(config, num_classes=10, in_channels=1, image_size=8), path)
    return path


@pytest.fixture(scope="session")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of digits with weights on disk; what it knows does not matter here."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    return _save_teacher(path, ModelConfig(name="resnet8", options={"width": 8}))


@pytest.fixture(scope="session")
def perceptron_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a perceptron."""
    path = tmp_path_factory.mktemp("perceptron") / "perceptron.safetensors"
    return _save_teacher(path, ModelConfig(name="mlp", options={"hidden": (16,)}))


@pytest.fixture
def content(teacher_weights: Path) -> dict[str, Any]:
    """A recipe of 2 epochs of 6 steps."""
    return {
        "data": {"train_limit": 200, "test_limit": 60, "batch_size": 32, "augmentation": {"pad_crop": 1, "cutout": 2}},
        "teacher": {"name": "resnet8", "options": {"width": 8}, "weights": str(teacher_weights)},
        "student": {"name": "resnet8", "options": {"width": 2}},
        "losses": [{"name": "cross_entropy", "weight": 0.5}, {"name": "kl", "weight": 0.5}],
        "training": {"epochs": 2, "log_every": 4, "precision": "float32", "device": "cpu", "threads": 1},
    }


@pytest.fixture
def perceptrons(content: dict[str, Any], perceptron_weights: Path) -> None:
    """Two small perceptrons in place of the networks, for tests that look at neither: half the time of a run."""
    content["teacher"] = {"name": "mlp", "options": {"hidden": [16]}, "weights": str(perceptron_weights)}
    content["student"] = {"name": "mlp", "options": {"hidden": [8]}}


@pytest.fixture
def recipe(content: dict[str, Any]) -> Callable[..., Recipe]:
    """The recipe with overrides, by dotted names."""
    from stillroom.recipe import apply_override

    def make(*overrides: str) -> Recipe:
        for override in overrides:
            apply_override(content, override)
        return parse_recipe(content)

    return make
