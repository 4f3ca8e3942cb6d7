"""A teacher that cannot be run here: questions out, answers in, and the same run as if it had been here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import stillroom as sr
from run.conftest import read_lines
from stillroom.cli import run
from stillroom.losses.registry import losses
from stillroom.models.config import ModelConfig
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import load_weights
from stillroom.recipe import Recipe
from stillroom.report.run.page import write_report

pytestmark = pytest.mark.usefixtures("perceptrons")
Make = Callable[..., Recipe]
OPTIONS = ["data.augmentation={pad_crop: 1, flip: true, views: 2}", "training.epochs=3", "cache.dtype=float32"]


@pytest.fixture
def place(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "kept"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def elsewhere(weights: Path, folder: Path, *, test: bool = True) -> None:
    """What somebody does with the questions on another machine."""
    teacher = build(ModelConfig(name="mlp", options={"hidden": (16,)}), num_classes=10, in_channels=1, image_size=8)
    load_weights(teacher, weights)
    pipe = Preprocess(resolve_preprocess(None, channels=1, is_pixels=True, field="teacher"))
    teacher.eval()
    images = np.load(folder / "train-images.npy")
    with torch.no_grad():
        answers = [teacher(pipe(torch.from_numpy(view))).numpy() for view in images]
        np.save(folder / "train-logits.npy", np.stack(answers))
        if test:
            shown = torch.from_numpy(np.load(folder / "test-images.npy"))
            # Column after column, as a transposed array is saved.
            np.save(folder / "test-logits.npy", np.asfortranarray(teacher(pipe(shown)).numpy()))


def export(*more: str) -> int:
    return run(["export-inputs", "recipe.yaml", *OPTIONS, *more, "--out", "answers"])


def distill(out: str, *more: str) -> int:
    teacher = "teacher={name: from elsewhere, logits: answers}"
    return run(["distill", "recipe.yaml", *OPTIONS, teacher, *more, "--out", out])


def test_answers_from_elsewhere_teach_what_the_model_would(
    place: Path, perceptron_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export() == 0
    asked = json.loads((place / "answers" / "inputs.json").read_text())
    assert (asked["views"], asked["train"]["images"], asked["test"]["images"]) == (2, 200, 60)
    assert np.load(place / "answers" / "train-images.npy").shape == (2, 200, 1, 8, 8)
    elsewhere(perceptron_weights, place / "answers")
    assert run(["distill", "recipe.yaml", *OPTIONS, "--out", "here"]) == 0
    assert distill("there") == 0
    here, there = (read_lines(place / out / "metrics.jsonl") for out in ("here", "there"))
    for left, right in zip(here, there, strict=True):
        for key, value in left.items():
            assert right[key] == (value if key == "split" else pytest.approx(value, rel=1e-4, abs=1e-6)), key
    summary = json.loads((place / "there" / "summary.json").read_text())
    assert summary["teachers"]["teacher"]["model"] == "from elsewhere"
    live = json.loads((place / "here" / "summary.json").read_text())
    assert summary["teachers"]["teacher"]["top1"] == live["teachers"]["teacher"]["top1"]
    assert write_report([place / "there", place / "here"]).exists()
    # A finished run is known by its answers: those to the test images, too.
    assert distill("there", "--resume") == 0
    assert summary["teachers"]["teacher"]["files"].keys() == {"train-logits.npy", "test-logits.npy"}
    content = bytearray((place / "answers" / "test-logits.npy").read_bytes())
    (place / "answers" / "test-logits.npy").write_bytes(content[:-2] + bytes([content[-2] ^ 1, content[-1]]))
    capsys.readouterr()
    assert distill("there", "--resume") == 2
    assert "expected the same teacher and test-logits.npy as the finished run there" in capsys.readouterr().err
    (place / "answers" / "test-logits.npy").write_bytes(content)
    changed = np.load(place / "answers" / "train-logits.npy")
    np.save(place / "answers" / "train-logits.npy", changed + 1)
    assert distill("there", "--resume") == 2


def test_without_answers_to_the_test_images_it_teaches_all_the_same(place: Path, perceptron_weights: Path) -> None:
    assert export() == 0
    elsewhere(perceptron_weights, place / "answers", test=False)
    assert distill("run") == 0
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert "top1" not in summary["teachers"]["teacher"]
    assert "agreement" not in summary
    assert summary["distilled"] is True
    assert write_report([place / "run"]).exists()


def test_one_answer_for_all_views_where_that_is_asked_for(place: Path, perceptron_weights: Path) -> None:
    same = "teacher={name: once, logits: answers, same_for_views: true}"
    assert export(same) == 0
    assert np.load(place / "answers" / "train-images.npy").shape == (1, 200, 1, 8, 8)
    elsewhere(perceptron_weights, place / "answers")
    assert distill("run") == 2, "answers to unaugmented images are not answers to augmented ones"
    assert distill("run", same) == 0


def test_from_python_a_folder_is_a_teacher(place: Path, perceptron_weights: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 10)
    student = build(ModelConfig(name="mlp"), num_classes=10, in_channels=1, image_size=8)
    with pytest.raises(sr.BadInput, match=r"teacher\.logits: got 'missing'; expected a folder with a readable"):
        sr.distill("missing", student, data, data, epochs=1, progress=False, out=place / "run")


def no_questions(folder: Path) -> None:
    (folder / "inputs.json").unlink()


def other_data(folder: Path) -> None:
    asked = json.loads((folder / "inputs.json").read_text())
    asked["train"]["fingerprint"] = "0" * 64
    asked["augmentation"]["seed"] = 5
    (folder / "inputs.json").write_text(json.dumps(asked))
    (folder / "checksums.sha256").unlink(missing_ok=True)  # by hand, not by accident


def no_logits(folder: Path) -> None:
    (folder / "train-logits.npy").unlink()


def too_few(folder: Path) -> None:
    np.save(folder / "train-logits.npy", np.zeros((2, 199, 10), np.float32))


def whole_numbers(folder: Path) -> None:
    np.save(folder / "train-logits.npy", np.zeros((2, 200, 10), np.int64))


def objects(folder: Path) -> None:
    np.save(folder / "train-logits.npy", np.array([Path("touched")], dtype=object), allow_pickle=True)


def not_finite(folder: Path) -> None:
    logits = np.load(folder / "train-logits.npy")
    logits[1, 7, 3] = np.nan
    np.save(folder / "train-logits.npy", logits)


def odd_on_test(folder: Path) -> None:
    logits = np.load(folder / "test-logits.npy")
    logits[5, 2] = np.inf
    np.save(folder / "test-logits.npy", logits)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_questions, "a folder with a readable inputs.json"),
        (other_data, "augmentation is {'seed': 5"),
        (other_data, "train is {'images': 200, 'fingerprint': '0000"),
        (no_logits, "train-logits.npy"),
        (too_few, "logits of shape [2, 200, 10], not [2, 199, 10]"),
        (whole_numbers, "floating-point numbers"),
        (objects, "logits as a .npy file of numbers"),
        (not_finite, "finite logits: those of image 7 in view 1"),
        (odd_on_test, "got 'test-logits.npy'; expected finite logits for every test image"),
    ],
)
def test_answers_to_something_else_are_refused(
    place: Path, perceptron_weights: Path, capsys: Any, harm: Callable[[Path], None], message: str
) -> None:
    assert export() == 0
    elsewhere(perceptron_weights, place / "answers")
    harm(place / "answers")
    capsys.readouterr()
    assert distill("run") == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export-inputs", "recipe.yaml", "--out", "."], "--out: got '.'; expected a new or empty folder"),
        (
            ["export-inputs", "recipe.yaml", "data.augmentation.views=0", "--out", "answers"],
            "data.augmentation.views: got 0; expected 1 or more",
        ),
        (
            ["export-inputs", "recipe.yaml", "data.augmentation.pad_crop=9", "--out", "answers"],
            "data.augmentation.pad_crop: got 9; expected less than the images' shorter side",
        ),
        (
            [
                "distill",
                "recipe.yaml",
                "teacher={name: a, logits: answers}",
                "data.augmentation.views=0",
                "--out",
                "run",
            ],
            "data.augmentation.views: got 0; expected 1 or more",
        ),
        (
            ["distill", "recipe.yaml", "teacher.logits=answers", "--out", "run"],
            "logits alone, or a model with weights",
        ),
        (
            ["distill", "recipe.yaml", "teacher={name: a, logits: answers}", "cache.enabled=false", "--out", "run"],
            "cache.enabled: got False; expected true or auto with teacher.logits",
        ),
    ],
)
def test_bad_input_is_reported(place: Path, capsys: Any, arguments: list[str], message: str) -> None:
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("loss", [name for name, kind in losses().items() if kind.family not in ("labels", "logits")])
def test_a_loss_that_reads_more_than_logits_is_refused_before_anything_is_written(
    loss: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "answers").mkdir()
    assert distill("out", f"losses=[{{name: {loss}}}]") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "got" in line]
    assert line.startswith(f"error: teacher.logits: got 'answers'; expected a model: loss '{loss}' ")
    assert not (place / "out" / "recipe.yaml").exists()
