"""Runs that hold out a part of the training images: one teacher cache with full runs, and no look at the test split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from run.conftest import bytes_of, read_lines
from run.test_precomputed import elsewhere
from stillroom.cli import run
from stillroom.data.augmentation import augment
from stillroom.data.config import DataConfig
from stillroom.data.images import DataPair
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.recipe import Recipe
from stillroom.report.run.page import write_report
from stillroom.run.components import build_components
from stillroom.run.run import Finished, execute
from stillroom.train.recorders import StepHook, StepInfo

pytestmark = pytest.mark.usefixtures("perceptrons")
Make = Callable[..., Recipe]
SHOWN = "data.augmentation={pad_crop: 1, flip: true, views: 2}"
OPTIONS = (SHOWN, "training.epochs=3", "cache.enabled=true", "cache.dtype=float32", "teacher.preprocess=unit")
HELD = "data.holdout=0.2"


class Counting(nn.Module):
    """A teacher that notes what it is asked; its answers do not depend on what else is in the batch."""

    asked: ClassVar[list[Tensor]] = []

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        # Fewer are asked about to try it out, and to see that it is still the same.
        if len(x) > 16:
            self.asked.extend((x.detach() * 255).round().to(torch.uint8))
        return x.flatten(1)[:, 20:30] * self.scale


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "answers"))
    Counting.asked.clear()
    return tmp_path / "answers"


def go(recipe: Recipe, out: Path) -> tuple[Finished, set[bytes], int]:
    """Do it, and tell which images the teacher was asked about, and about how many for the cache."""
    Counting.asked.clear()
    done = execute(recipe, out, components=replace(build_components(recipe), teachers={"teacher": Counting()}))
    built = sum(line["images"] for line in read_lines(out / "timing.jsonl") if line["event"] == "cache")
    return done, {image.numpy().tobytes() for image in Counting.asked}, built


def shown(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def pictures(recipe: Recipe) -> dict[str, set[bytes]]:
    """What there is to ask about."""
    whole = load(recipe.data.model_copy(update={"holdout": None}))
    held = load(recipe.data.model_copy(update={"holdout": 0.2})).test
    rows = np.arange(len(whole.train))
    views = [augment(whole.train.images[:], rows, recipe.data.augmentation, view) for view in range(2)]
    return {
        "views": shown(torch.cat(views)),
        "test": shown(whole.test.images[:]),
        "held out": shown(held.images[:]),
    }


def test_a_trial_after_a_full_run_asks_about_the_held_out_images_alone(recipe: Make, tmp_path: Path) -> None:
    whole, trial = recipe(*OPTIONS), recipe(*OPTIONS, HELD)
    there = pictures(whole)
    _, asked, built = go(whole, tmp_path / "whole")
    assert (built, asked) == (400, there["views"] | there["test"])
    done, asked, built = go(trial, tmp_path / "trial")
    assert (built, asked) == (0, there["held out"])
    assert done.summary["data"]["train"] == 160
    assert done.summary["count"] == done.summary["data"]["test"] == 40
    _, asked, built = go(recipe("training.optimizer.lr=0.05", "seed=7"), tmp_path / "another")
    assert (built, asked - there["held out"]) == (0, set())


def test_a_full_run_after_a_trial_asks_about_the_test_images_alone(
    recipe: Make, tmp_path: Path, empty_cache: Path
) -> None:
    whole = recipe(*OPTIONS)
    there = pictures(whole)
    go(whole, tmp_path / "whole first")
    go(recipe(HELD), tmp_path / "trial second")
    kept = {path.relative_to(empty_cache): path.read_bytes() for path in empty_cache.glob("*/*.bin")}
    shutil.rmtree(empty_cache)
    _, asked, built = go(recipe(HELD), tmp_path / "trial first")
    assert (built, asked) == (400, there["views"] | there["held out"])
    _, asked, built = go(whole, tmp_path / "whole second")
    assert (built, asked) == (0, there["test"])
    assert {path.relative_to(empty_cache): path.read_bytes() for path in empty_cache.glob("*/*.bin")} == kept
    for name in ("whole", "trial"):
        assert bytes_of(tmp_path / f"{name} first") == bytes_of(tmp_path / f"{name} second")


def test_cache_on_is_cache_off(recipe: Make, tmp_path: Path) -> None:
    on, _, built = go(recipe(*OPTIONS, HELD), tmp_path / "on")
    off, _, none = go(recipe("cache.enabled=false"), tmp_path / "off")
    assert (built, none) == (400, 0)
    first, second = bytes_of(on.path), bytes_of(off.path)
    for name in ("student.safetensors", "metrics.jsonl", "predictions.safetensors"):
        assert first[name] == second[name]
    assert on.summary["hashes"] == off.summary["hashes"]


def test_a_trial_learns_otherwise_than_a_full_run_and_its_summary_says_so(recipe: Make, tmp_path: Path) -> None:
    whole, _, _ = go(recipe(*OPTIONS), tmp_path / "whole")
    trial, _, _ = go(recipe(HELD), tmp_path / "trial")
    same = {key: whole.summary["hashes"][key] == trial.summary["hashes"][key] for key in whole.summary["hashes"]}
    assert same == {"init": True, "order": False, "views": True, "budget": False, "threads": True}
    assert whole.summary["data"]["fingerprint"] != trial.summary["data"]["fingerprint"]
    assert yaml.safe_load((trial.path / "recipe.yaml").read_text())["data"]["holdout"] == 0.2
    assert yaml.safe_load((whole.path / "recipe.yaml").read_text())["data"]["holdout"] is None


class KillAt(StepHook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            raise KeyboardInterrupt


def other_parts(recipe: Recipe) -> DataPair:
    """The same two sets, but one image of each has gone to the other."""
    pair = load(recipe.data)
    assert pair.train.subset_info is not None
    assert pair.test.subset_info is not None
    learned, held = pair.train.subset_info.rows.copy(), pair.test.subset_info.rows.copy()
    learned[0], held[0] = held[0], learned[0]
    return DataPair(pair.train.parent.subset(np.sort(learned)), pair.train.parent.subset(np.sort(held)))


def test_a_trial_that_is_killed_goes_on_to_the_same_bytes(recipe: Make, tmp_path: Path) -> None:
    made = recipe(*OPTIONS, HELD, "training.save_seconds=0")
    whole, _, _ = go(made, tmp_path / "whole")
    found, out = replace(build_components(made), teachers={"teacher": Counting()}), tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        execute(made, out, components=found, hooks=[KillAt(7)])
    # The same recipe of other data: what is learned from was cut otherwise.
    with pytest.raises(BadInput, match="data"):
        execute(made, out, resume=True, components=replace(found, data=other_parts(made)), hooks=[KillAt(-1)])
    execute(
        made,
        out,
        resume=True,
        components=replace(build_components(made), teachers={"teacher": Counting()}),
        hooks=[KillAt(-1)],
    )
    assert bytes_of(out) == bytes_of(whole.path)


class NotesIndices(Loss[LossConfig]):
    """Cross-entropy that notes which samples it was shown."""

    requires = Requires(labels=True, index=True)
    seen: ClassVar[set[int]] = set()

    def forward(self, inputs: LossInputs) -> Tensor:
        self.seen.update(inputs.index.tolist())
        return nn.functional.cross_entropy(inputs.student.logits, inputs.labels)


def test_a_loss_gets_the_samples_of_the_whole_set(recipe: Make, tmp_path: Path) -> None:
    made = recipe(*OPTIONS, HELD)
    found = build_components(made)
    NotesIndices.seen.clear()
    losses = [*found.losses, NotesIndices(name="notes")]
    execute(made, tmp_path / "run", components=replace(found, losses=losses, teachers={"teacher": Counting()}))
    assert found.data.train.subset_info is not None
    assert NotesIndices.seen == set(found.data.train.subset_info.rows.tolist())
    assert max(NotesIndices.seen) >= 160


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some of the digits as pictures in folders, those of the test split spoilt."""
    pair = load(DataConfig(train_limit=100, test_limit=20))
    for split, images in (("train", pair.train), ("test", pair.test)):
        for number in range(len(images)):
            place = tmp_path / "pictures" / split / images.class_names[int(images.labels[number])]
            place.mkdir(parents=True, exist_ok=True)
            if split == "train":
                Image.fromarray(images.images[number, 0].numpy()).save(place / f"{number:04d}.png")
            else:
                (place / f"{number:04d}.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_held_or_streamed_it_is_the_same_and_no_test_image_is_read(recipe: Make, folder: Path, tmp_path: Path) -> None:
    data = [*OPTIONS, HELD, f"data.path={folder}", "data.train_limit=null", "data.test_limit=null"]
    held, _, built = go(recipe(*data), tmp_path / "held")
    assert (held.summary["data"]["train"], held.summary["count"], built) == (80, 20, 200)
    streamed, _, built = go(recipe("data.in_memory=false", "data.workers=2"), tmp_path / "streamed")
    assert built == 200, "files that are not held have a fingerprint of their own"
    for name in ("student.safetensors", "metrics.jsonl", "predictions.safetensors"):
        assert bytes_of(held.path)[name] == bytes_of(streamed.path)[name]
    _, _, built = go(recipe("data.holdout=0.4"), tmp_path / "another")
    assert built == 0


@pytest.mark.parametrize("changes", [True, False], ids=["augmented", "as they are"])
def test_answers_from_elsewhere_serve_trials_too(
    content: dict[str, Any], perceptron_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    options = [SHOWN if changes else "data.augmentation={}", "training.epochs=3", "cache.dtype=float32"]
    # Also where the recipe holds a part out, questions are about all images.
    assert run(["export-inputs", "recipe.yaml", *options, HELD, "--out", "elsewhere"]) == 0
    assert np.load(tmp_path / "elsewhere" / "train-images.npy").shape == (2 if changes else 1, 200, 1, 8, 8)
    elsewhere(perceptron_weights, tmp_path / "elsewhere")
    there = "teacher={name: from elsewhere, logits: elsewhere}"
    assert run(["distill", "recipe.yaml", *options, there, "--out", "whole"]) == 0
    assert run(["distill", "recipe.yaml", *options, there, HELD, "--out", "trial"]) == 0
    assert run(["distill", "recipe.yaml", *options, HELD, "--out", "here"]) == 0
    trial, here = (json.loads((tmp_path / out / "summary.json").read_text()) for out in ("trial", "here"))
    lines = [read_lines(tmp_path / out / "metrics.jsonl") for out in ("trial", "here")]
    for left, right in zip(*lines, strict=True):
        assert left["split"] == right["split"]
        for key in set(left) - {"split"}:
            assert left[key] == pytest.approx(right[key], rel=1e-3, abs=1e-5), key
    # What it says of images as they are is known only where they were shown so.
    assert ("agreement" in trial) == (not changes)
    assert trial["count"] == here["count"] == 40


VALIDATION = "data.validation=0.2"


def test_with_validation_images_the_test_split_is_looked_at_once(recipe: Make, tmp_path: Path) -> None:
    found = execute(recipe(VALIDATION), tmp_path / "run")
    splits = [line["split"] for line in read_lines(found.path / "metrics.jsonl")]
    assert [split for split in splits if split != "train"] == ["validation", "validation", "test"]
    assert {key: found.summary["data"][key] for key in ("train", "validation", "test")} == {
        "train": 160,
        "validation": 40,
        "test": 60,
    }
    page = write_report([found.path]).read_text()
    assert "Validation top-1" in page
    assert "the test images were looked at once" in page
    trial = execute(recipe(VALIDATION, "data.validation=test", "data.test_split=train"), tmp_path / "named")
    assert trial.summary["data"]["validation"] == 500


def test_patience_ends_a_run_and_killed_it_goes_on_to_the_same_bytes(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"training\.patience: got 1; expected data\.validation"):
        execute(recipe("training.patience=1"), tmp_path / "without")
    # Nothing is learned, so nothing gets better.
    still = ("student={name: mlp, options: {hidden: [4]}}", "training.optimizer.lr=1e-12")
    made = recipe(VALIDATION, "training.patience=2", "training.epochs=8", *still)
    whole = execute(made, tmp_path / "whole", hooks=[KillAt(-1)])
    assert whole.summary["epochs"] == 3
    assert whole.summary["stopped"] == {
        "after": 3.0,
        "of": 8.0,
        "patience": 2,
        "measure": "top1",
        "best": whole.summary["stopped"]["best"],
    }
    assert "stopped after epoch 3 of 8" in write_report([whole.path], tmp_path / "page.html").read_text()
    for place, step in (("early", 4), ("late", 14)):
        with pytest.raises(KeyboardInterrupt):
            execute(made, tmp_path / place, hooks=[KillAt(step)])
        execute(made, tmp_path / place, resume=True, hooks=[KillAt(-1)])
        assert bytes_of(tmp_path / place) == bytes_of(whole.path)
