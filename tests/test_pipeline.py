"""One command from a folder of images to a page: splits, sizes, the teacher's weights, what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from stillroom import pipeline
from stillroom.cli import run
from stillroom.cli.terminal import ProgressBar
from stillroom.models import external
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.run.duration import Speed

MODELS = ["--teacher", "resnet8", "--student", "mlp", "--image-size", "8", "--epochs", "1"]


def write_photos(root: Path, *splits: str, classes: tuple[str, ...] = ("cat", "dog", "owl"), each: int = 10) -> Path:
    """Small pictures of several sizes and formats, a colour a class."""
    draw = np.random.default_rng(0)
    for split in splits or (".",):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for place in range(each):
                pixels = draw.integers(0, 90, (9 + place % 3, 12, 3), dtype=np.uint8)
                pixels[..., number % 3] += 120
                Image.fromarray(pixels).save(folder / f"{place}{('.png', '.jpg', '.bmp')[place % 3]}")
    return root


def distil(data: Path | str, out: Path, *arguments: str) -> dict[str, Any]:
    command = ["distill", "--data", str(data), *MODELS, "--out", str(out), "--json", *arguments]
    assert run(command) == 0
    return {name: json.loads((out / name / "summary.json").read_text()) for name in ("labels", "distilled")}


def test_a_folder_of_photos_becomes_a_student_and_its_recipe_makes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # The splits may be written in capitals.
    found = distil(write_photos(tmp_path / "photos", "Train", "Test"), out, "training.log_every=1")
    printed = capsys.readouterr()
    assert "begins with random weights" in printed.err
    results = json.loads(printed.out)
    assert set(results["runs"]) == {"teacher", "labels", "distilled"}
    assert (out / "report.html").is_file()
    splits = {name: found["distilled"]["data"][name] for name in ("train", "validation", "test")}
    assert splits == {"train": 27, "validation": 3, "test": 30}, "a part is kept to measure on along the way"
    lines = [json.loads(line)["split"] for line in (out / "distilled" / "metrics.jsonl").read_text().splitlines()]
    assert (lines.count("validation"), lines.count("test")) == (1, 1)
    page = (out / "report.html").read_text()
    assert "What to try next" in page
    assert "Latency was not measured" not in page
    assert "The latency of “mlp from labels” is the student’s" in page
    assert "plan: about" in printed.err
    # No step to speak of goes into the statistics of the teacher's batch norms; the student has none.
    assert "training.recompute_batch_norm=50" in printed.err
    recipes = [(out / name / "recipe.yaml").read_text() for name in ("teacher", "distilled")]
    assert ["recompute_batch_norm: 50" in each for each in recipes] == [True, False]
    assert found["distilled"]["hashes"] == found["labels"]["hashes"], "an equal comparison"
    assert len((out / "distilled" / "metrics.jsonl").read_text().splitlines()) > 1, "the override holds"
    assert run(["distill", str(out / "distilled" / "recipe.yaml"), "--out", str(tmp_path / "again")]) == 0
    students = [(each / "student.safetensors").read_bytes() for each in (out / "distilled", tmp_path / "again")]
    assert students[0] == students[1]
    before = (out / "distilled" / "student.safetensors").stat().st_mtime_ns
    distil(tmp_path / "photos", out, "training.log_every=1")
    assert (out / "distilled" / "student.safetensors").stat().st_mtime_ns == before


def test_without_epochs_as_many_are_done_as_fit_and_a_second_start_keeps_to_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photos(tmp_path / "photos", "train", "test")
    speeds = {"resnet8": Speed(answer=1.0, learn=3.0), "mlp": Speed(answer=0.0, learn=1.0)}
    monkeypatch.setattr(pipeline, "measure_speed", lambda config, *args, **options: speeds[config.name])
    monkeypatch.setattr(pipeline, "measure_reading", lambda *args: 0.0)
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    command = ["distill", "--data", str(photos), *MODELS[:-2], "--out", str(tmp_path / "out"), "training.threads=1"]
    assert run([*command, "--minutes", "24.6"]) == 0
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    # 27 images: 84 s an epoch for the teacher, and 27 to compute its running statistics anew; 27 for each student; 30 s
    # for its answers to each of 4 views, 30 to the test images, 80 to see that they are its own; timed at batch 1 four
    # times, at 64 as often, the student 40 times.
    assert (plan["teacher_epochs"], plan["student_epochs"]) == (4, 5)
    timing = 4 + 4 * 64 + 40 * 0.005
    assert plan["seconds"] == pytest.approx(4 * (84 + 27) + 30 + 4 * 30 + 30 + 80 + 2 * 5 * 27 + timing + 6)
    for name, epochs in (("teacher", 4), ("labels", 5), ("distilled", 5)):
        assert json.loads((tmp_path / "out" / name / "summary.json").read_text())["epochs"] == epochs
    printed = capsys.readouterr().err
    assert "teacher 4 epochs" in printed
    assert "--epochs 10" in printed
    assert run([*command, "--minutes", "60"]) == 0, "the folder's own plan"
    assert run(["distill", "--data", str(photos), *MODELS, "--minutes", "3"]) == 2


def test_class_folders_alone_keep_a_part_of_each_class_for_the_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos")
    found = distil(photos, tmp_path / "out")
    assert "20% of its images are kept" in capsys.readouterr().err
    assert (found["distilled"]["data"]["train"], found["distilled"]["data"]["test"]) == (24, 6)


@pytest.mark.parametrize(("classes", "runs"), [(3, {"labels", "distilled"}), (7, {"teacher", "labels", "distilled"})])
def test_a_teacher_that_knows_the_classes_is_taken_and_another_is_tuned(
    classes: int, runs: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    teacher = build(ModelConfig(name="resnet8"), num_classes=classes, in_channels=3, image_size=8)
    save_weights(teacher, tmp_path / "teacher.safetensors")
    photos = write_photos(tmp_path / "photos", "train", "test")
    distil(photos, tmp_path / "out", "--teacher-weights", str(tmp_path / "teacher.safetensors"))
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)["runs"]) == runs
    assert ("is for other classes" in printed.err) == ("teacher" in runs)
    assert ("a new last layer on the model's features" in printed.err) == ("teacher" in runs)
    assert (tmp_path / "out" / "teacher-start.safetensors").exists() == ("teacher" in runs)


def test_images_whose_names_begin_with_their_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path / "photos")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((tmp_path / "photos").glob("*/*")):
        path.rename(flat / f"{path.parent.name}_{path.name}")
    command = ["distill", "--data", str(flat), *MODELS, "--out", str(tmp_path / "out")]
    assert run(command) == 2
    assert "data.class_from=file_name" in capsys.readouterr().err
    found = distil(flat, tmp_path / "out", "data.class_from=file_name")
    assert (found["labels"]["data"]["classes"], found["labels"]["data"]["test"]) == (3, 6)
    (flat / "0123.png").write_bytes(next(flat.iterdir()).read_bytes())
    assert run([*command, "data.class_from=file_name"]) == 2
    assert "0123.png" in capsys.readouterr().err


def test_a_run_shows_no_figures_of_the_run_before_it() -> None:
    text = io.StringIO()
    bar = ProgressBar(Console(file=text, width=200))
    for line in ({"agreement": 50.0}, {"top1": 10.0}):
        bar.run_started("training", 1, 0)
        bar.logged({"split": "test", "epoch": 1, **line})
        bar.run_ended()
    assert text.getvalue().splitlines() == ["epoch 1: agrees 50.0%", "epoch 1: top-1 10.00%"]


def test_options_of_a_library_models_size() -> None:
    assert external.default_image_size("timm:resnet18") == 224


def test_weights_that_cannot_be_fetched_say_how_to_bring_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = external._import("timm", "teacher.name", "timm:resnet18")

    def no_network(name: str, **options: Any) -> None:
        raise OSError(f"{name}: no route to host, {options['pretrained']}")

    monkeypatch.setattr(timm, "create_model", no_network)
    photos = write_photos(tmp_path / "photos", "train", "test")
    command = ["distill", "--data", str(photos), "--teacher", "timm:resnet18", "--student", "mlp", "--pretrained"]
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "--pretrained" in error
    assert "timm.create_model('resnet18', pretrained=True)" in error
    assert "--teacher-weights" in error


def test_a_recipe_may_ask_for_published_weights_which_are_fetched_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = external._import("timm", "teacher.name", "timm:resnet18")

    asked = []
    make = timm.create_model

    def fetch(name: str, *, pretrained: bool = False, **options: Any) -> torch.nn.Module:
        asked.append(pretrained)
        if pretrained and name == "resnet18":
            raise OSError("no route to host")
        return make(name, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    photos = write_photos(tmp_path / "photos", "train", "test")
    content = {
        "data": {"path": str(photos), "image_size": 32},
        "student": {"name": "timm:test_resnet", "weights": "pretrained", "head": "new"},
        "training": {"steps": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    assert run(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "one")]) == 0
    assert "published weights of timm:test_resnet, SHA-256" in capsys.readouterr().err
    # The one command takes the same file.
    distil(photos, tmp_path / "two", "--teacher", "timm:test_resnet", "--image-size", "32", "--pretrained")
    assert "the published weights is for other classes" in capsys.readouterr().err
    assert not list((tmp_path / "two").glob("pretrained*"))
    assert asked.count(True) == 1
    assert (
        run(["train", str(tmp_path / "recipe.yaml"), "student.name=timm:resnet18", "--out", str(tmp_path / "x")]) == 2
    )
    error = capsys.readouterr().err
    assert "student.weights: the weights of timm:resnet18 could not be fetched" in error
    assert "pretrained=True" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "digits", "--teacher", "resnet8"], ["--student"]),
        (["--teacher", "resnet8"], ["--teacher", "--data"]),
        (["recipe.yaml", "--epochs", "3"], ["--epochs", "3", "--data"]),
        (["recipe.yaml", "--seed", "0"], ["--seed", "0", "--data"]),
        (["recipe.yaml", "--image-size", "8"], ["--image-size", "8", "--data"]),
        ([], ["RECIPE.yaml", "--data"]),
        (["recipe.yaml", "--data", "digits", "--teacher", "mlp", "--student", "mlp"], ["--data", "recipe.yaml"]),
        (["--data", "nowhere", "--teacher", "mlp", "--student", "mlp"], ["--data", "nowhere"]),
        (["--data", "digits", "--teacher", "mpl", "--student", "mlp"], ["mpl", "did you mean 'mlp'"]),
        (["--data", "digits", "--teacher", "mlp", "--student", "mlp", "--image-size", "8"], ["--image-size"]),
        (["--data", "digits", "--teacher", "mlp", "--student", "mlp", "--pretrained"], ["--pretrained", "timm"]),
        (
            ["--data", "digits", "--teacher", "mlp", "--student", "mlp", "--pretrained", "--teacher-weights", "w"],
            ["--pretrained", "--teacher-weights"],
        ),
        (["--data", "digits", "--teacher", "mlp", "--student", "mlp", "--teacher-weights", "w.pt"], ["w.pt"]),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["distill", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert "Traceback" not in error
