"""Multi-label and regression data, from a recipe, from the command line and from Python."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, r2_score
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import stillroom as sr
from run.conftest import read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.data.config import DataConfig
from stillroom.data.dataset import from_dataset
from stillroom.data.images import DataPair
from stillroom.data.quality import describe_data, measure_quality
from stillroom.data.sources import load, read_digits
from stillroom.diagnose.run import diagnose_run
from stillroom.errors import BadInput
from stillroom.models.weights import save_weights
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.components import build_model
from stillroom.run.run import execute
from stillroom.schema.base import read_json
from stillroom.schema.predictions import read_predictions
from stillroom.schema.run import RunSummary
from stillroom.study.collect import read_prediction_figures
from stillroom.study.config import parse_study
from stillroom.tasks import TASK_INFO, Task
from stillroom.teachers.ensemble import mean_outputs

OTHERS: tuple[Task, ...] = ("multi_label", "regression")
LABELS = {"multi_label": "binary_cross_entropy", "regression": "target_mse"}
LOGITS = {"multi_label": "bce_kl", "regression": "logit_mse"}


def recipe(task: Task, weights: Path | None = None, **changes: Any) -> Recipe:
    """Three epochs of 4 steps; from labels alone, or with a teacher."""
    teacher = {"teacher": {"name": "mlp", "options": {"hidden": [24]}, "weights": str(weights)}} if weights else {}
    losses = [{"name": LABELS[task], "weight": 0.5}, {"name": LOGITS[task], "weight": 0.5}] if weights else None
    content: dict[str, Any] = {
        "data": {"source": "digits", "task": task, "train_limit": 128, "test_limit": 100, "batch_size": 32},
        **teacher,
        "student": {"name": "mlp", "options": {"hidden": [12]}},
        **({"losses": losses} if losses else {}),
        "training": {"epochs": 3, "log_every": 1, "device": "cpu", "precision": "float32", "threads": 1},
        **changes,
    }
    return parse_recipe(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("targets")


@pytest.fixture(scope="module", params=OTHERS)
def runs(request: pytest.FixtureRequest, folder: Path) -> tuple[Task, Path]:
    """A folder with a teacher's weights, a run from labels alone and a distilled one, of each task."""
    task: Task = request.param
    home = folder / task
    data = read_digits("train", task=task)
    torch.manual_seed(0)
    teacher = build_model(recipe(task, Path("x")).all_teachers["teacher"].without_weights(), data, "teacher")
    optimizer = torch.optim.Adam(teacher.parameters(), 0.01)
    images = data.images[:].float().sub(127).div(80)
    loss = nn.BCEWithLogitsLoss() if task == "multi_label" else nn.MSELoss()
    for _ in range(40):
        optimizer.zero_grad()
        loss(teacher(images), data.labels).backward()
        optimizer.step()
    save_weights(teacher, home / "teacher.safetensors")
    execute(recipe(task), home / "labels")
    execute(recipe(task, home / "teacher.safetensors"), home / "kd")
    return task, home


def same_files(one: Path, other: Path) -> bool:
    names = ("student.safetensors", "metrics.jsonl", "summary.json", "recipe.yaml", "predictions.safetensors")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_measures_are_those_of_the_predictions(runs: tuple[Task, Path]) -> None:
    task, home = runs
    summary = read_json(RunSummary, home / "kd" / "summary.json")
    held = read_predictions(home / "kd" / "predictions.safetensors", task=task)
    z, y = held.student_logits, held.labels
    found = json.loads((home / "kd" / "summary.json").read_text())["measures"]
    if task == "multi_label":
        expected = {
            "map": 100 * average_precision_score(y, z, average="macro"),
            "macro_f1": 100 * f1_score(y, z > 0, average="macro"),
            "micro_f1": 100 * f1_score(y, z > 0, average="micro"),
        }
        assert found["class_ap"]["even"] == pytest.approx(100 * average_precision_score(y[:, 0], z[:, 0]))
        assert summary.agreement is not None
    else:
        expected = {"r2": r2_score(y, z), "mae": np.abs(z - y).mean(), "mse": ((z - y) ** 2).mean()}
        assert list(found["target_r2"]) == ["ink", "row", "column"]
        assert summary.agreement is None
        assert summary.teacher_mae == pytest.approx(np.abs(z - held.teachers["teacher"]).mean(), rel=1e-6)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert summary.task == task
    assert summary.top1 is None
    last = read_lines(home / "kd" / "metrics.jsonl")[-1]
    assert last[TASK_INFO[task].primary.name] == found[TASK_INFO[task].primary.name]
    # What a study computes again from the predictions is what the summary says.
    figures = read_prediction_figures(home / "kd" / "predictions.safetensors").figures
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    teacher = summary.teachers["teacher"].measures
    assert teacher is not None
    assert getattr(teacher, TASK_INFO[task].primary.name) > found[TASK_INFO[task].primary.name]


def test_a_recipe_without_losses_learns_from_the_labels_of_its_task() -> None:
    assert [loss.name for loss in recipe("multi_label").losses] == ["binary_cross_entropy"]
    assert [loss.name for loss in recipe("regression").losses] == ["target_mse"]


def test_resume_and_cache_change_no_byte(runs: tuple[Task, Path], tmp_path: Path) -> None:
    task, home = runs
    made = recipe(task, home / "teacher.safetensors")
    for place in range(2):  # the order of entries in a file must not depend on chance
        stop_and_resume(made, tmp_path / f"stopped-{place}", step=9)
        assert same_files(tmp_path / f"stopped-{place}", home / "kd")
    live = recipe(task, home / "teacher.safetensors", cache={"enabled": False})
    execute(live, tmp_path / "live")
    losses = [
        [line["loss"] for line in read_lines(path / "metrics.jsonl") if line["split"] == "train"]
        for path in (tmp_path / "live", home / "kd")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_diagnose_and_report_judge_by_the_measure_of_the_task(runs: tuple[Task, Path], tmp_path: Path) -> None:
    task, home = runs
    found = {finding.check: finding for finding in diagnose_run(home / "kd")}
    title = TASK_INFO[task].primary.title
    assert found["teacher_at_chance"].verdict != "problem"
    assert title in found["teacher_at_chance"].summary
    assert found["below_labels"].verdict != "skipped"
    assert found["kd_ignored"].verdict != "skipped"
    assert found["worse_classes"].verdict == "skipped"
    assert "single-label" in found["worse_classes"].summary
    assert not [each for each in found.values() if each.verdict == "skipped" and each.check.startswith("student")][1:]
    page = tmp_path / "page.html"
    assert run(["report", str(home / "kd"), str(home / "labels"), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert title in text
    assert "labels alone" in text
    assert ("has_loop" if task == "multi_label" else "column") in text


def test_a_teacher_that_knows_nothing_is_a_problem_before_training(tmp_path: Path) -> None:
    for task in OTHERS:
        weights = tmp_path / f"{task}.safetensors"
        made = recipe(task, weights)
        torch.manual_seed(1)
        data = read_digits("train", task=task)
        save_weights(build_model(made.all_teachers["teacher"].without_weights(), data, "teacher"), weights)
        found = {finding.check: finding for finding in sr.diagnose(made, images=256).findings}
        if task == "regression":
            assert found["teacher_at_chance"].verdict == "problem"
        assert found["loss_finite"].verdict == "ok"
        assert found["class_order"].verdict == "skipped"


def test_the_command_line_evaluates_and_exports(runs: tuple[Task, Path], capsys: pytest.CaptureFixture[str]) -> None:
    task, home = runs
    model = ["--model", "mlp", "--option", "hidden=[24]", "--weights", str(home / "teacher.safetensors")]
    assert run(["evaluate", *model, "--data", "digits", "--task", task, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["count"] == 500
    assert found[TASK_INFO[task].primary.name] > 0.5
    assert run(["evaluate", *model, "--data", "digits", "--task", task]) == 0
    assert TASK_INFO[task].primary.title in capsys.readouterr().out
    assert run(["export", str(home / "kd"), "--format", "pt2"]) == 0
    assert (home / "kd" / "export" / "student.pt2").exists()
    capsys.readouterr()
    assert run(["fidelity", str(home / "kd")]) == 2
    assert "single-label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"losses": [{"name": "kl"}]}, r"losses\.kl.*bce_kl"),
        ({"losses": [{"name": "cross_entropy"}]}, r"losses\.cross_entropy.*binary_cross_entropy"),
        ({"losses": [{"name": "target_mse"}]}, r"losses\.target_mse.*multi-label data"),
        ({"incremental": {"tasks": 2}, "teacher": None}, "no data.task multi_label"),
        ({"data": {"source": "shapes", "task": "multi_label"}}, "one class each"),
        ({"data": {"source": "digits", "label_columns": ["a"]}}, "data.task multi_label or regression"),
        ({"data": {"source": "parquet", "path": "x", "task": "regression"}}, "label_columns"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_with_a_reason(
    changes: dict[str, Any], match: str, runs: tuple[Task, Path], tmp_path: Path
) -> None:
    weights = runs[1].parent / "multi_label" / "teacher.safetensors"
    with pytest.raises(BadInput, match=match):
        execute(recipe("multi_label", weights, **changes), tmp_path / "run")


def test_a_study_compares_the_measure_of_its_task() -> None:
    shared = {"data": {"source": "digits", "task": "regression"}, "student": {"name": "mlp"}}
    content: dict[str, Any] = {"name": "x", "recipe": shared, "methods": [{"name": "labels"}]}
    assert parse_study(content).measure == "r2"
    with pytest.raises(BadInput, match=r"measure: got 'top1'.*r2"):
        parse_study({**content, "measure": "top1"})


def of_vectors(task: Task, count: int = 64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=draw)
    return x, (x[:, :3] > 0).float() if task == "multi_label" else x[:, :3] * 2


@pytest.mark.parametrize("task", OTHERS)
def test_python_infers_the_task_and_says_so(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = of_vectors(task)
    data, net = TensorDataset(x, y), lambda width: nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
    torch.manual_seed(0)
    result = sr.distill(net(16), net(4), data, data, epochs=2, batch_size=16, out=tmp_path / "run", progress=True)
    said = capsys.readouterr().err
    assert f"{task} of 3" in said
    assert [loss["name"] for loss in result.summary["losses"]] == [LABELS[task], LOGITS[task]]
    assert result.summary["measures"]["task"] == task
    assert result.evaluate()[TASK_INFO[task].primary.name] == pytest.approx(
        result.summary["measures"][TASK_INFO[task].primary.name]
    )
    items = [
        (image, label.numpy() if task == "regression" else label.tolist()) for image, label in zip(x, y, strict=True)
    ]
    assert torch.equal(from_dataset(items).labels, y)
    assert from_dataset(items).task == task
    again = sr.load_run(tmp_path / "run", student=net(4), train=data, test=data)
    assert again.evaluate() == result.evaluate()
    function = lambda student, teacher, labels: ((student - labels) ** 2).mean()  # noqa: E731
    mine = sr.distill(
        net(16), net(4), data, data, [function], epochs=1, batch_size=16, out=tmp_path / "own", progress=False
    )
    assert mine.summary["steps"] == 4


def test_unlabelled_images_and_held_out_ones_have_rows_of_nan() -> None:
    config = DataConfig(source="digits", task="multi_label", labelled=0.25, holdout=0.2, train_limit=200)
    pair = load(config)
    assert pair.train.labelled < len(pair.train)
    assert pair.test.labelled == len(pair.test)
    items = [(torch.rand(3), None), (torch.rand(3), torch.tensor([0.5, 1.0]))]
    assert from_dataset(items).labelled == 1


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0.0, 1.0], "class numbers, as integers"),
        ([[1, 0], [0, 1]], "one-hot"),
        ([[1, 2], [0, 1]], "0 or 1 for each class"),
        ([[0.5, 1.0], [1.0]], r"a vector of 2, as the first \(item 1\)"),
        ([3, [0.5, 1.0]], r"a class number.*\(item 1\)"),
    ],
)
def test_labels_that_may_mean_either_are_refused(labels: list[Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        from_dataset([(torch.rand(3), label) for label in labels])


def test_a_split_on_which_nothing_can_be_measured_is_refused() -> None:
    x, y = of_vectors("regression")
    constant = y.clone()
    constant[:, 1] = 7
    train, test = (from_dataset(TensorDataset(x, each)) for each in (y, constant))
    with pytest.raises(BadInput, match="'1' is the same for all 64 images"):
        DataPair(train, test)


def test_targets_of_another_scale_are_said_and_copies_are_counted() -> None:
    x, y = of_vectors("regression")
    lines: list[str] = []
    pair = DataPair(*(from_dataset(TensorDataset(x, 1000 * y)) for _ in range(2)))
    describe_data(pair, lines.append)
    assert any("standard deviation" in line for line in lines)
    quality = measure_quality(pair)
    assert (quality.shared, quality.shared_relabelled, quality.copies) == (64, 0, 0)


def write_parquet(folder: Path, split: str, targets: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    pictures = []
    for place in range(len(next(iter(targets.values())))):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4), 20 * place, np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    pq.write_table(pa.table({"image": pictures, **targets}), folder / f"{split}.parquet")


def test_parquet_reads_several_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pets"
    targets = {"cat": [1, 0, 1, 1], "dog": [True, True, False, True], "weight": [1.5, 2.0, 3.5, 0.0]}
    for split in ("train", "test"):
        write_parquet(folder, split, targets)
    options: dict[str, Any] = {"source": "parquet", "path": str(folder)}
    pair = load(DataConfig(**options, task="multi_label", label_columns=("cat", "dog")))
    assert pair.train.labels.tolist() == [[1, 1], [0, 1], [1, 0], [1, 1]]
    assert pair.train.class_names == ("cat", "dog")
    pair = load(DataConfig(**options, task="regression", label_columns=("weight",), train_limit=2))
    assert pair.test.labels.flatten().tolist() == targets["weight"]
    assert len(pair.train) == 2
    with pytest.raises(BadInput, match=r"label_columns.*'dogs'.*dog"):
        load(DataConfig(**options, task="multi_label", label_columns=("dogs",)))
    with pytest.raises(BadInput, match="0 or 1"):
        load(DataConfig(**options, task="multi_label", label_columns=("weight",)))


def test_several_teachers_are_averaged_by_their_task() -> None:
    z = [torch.tensor([[0.0, 80.0]]), torch.tensor([[2.0, -80.0]])]
    assert mean_outputs(z, [1, 1], task="regression").tolist() == [[1.0, 0.0]]
    mean = mean_outputs(z, [1, 1], task="multi_label").sigmoid()
    assert mean.tolist() == [pytest.approx([(0.5 + torch.tensor(2.0).sigmoid().item()) / 2, 0.5])]
