"""Training images without labels, beside labelled ones or alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import stillroom as sr
from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.data.config import DataConfig
from stillroom.data.images import UNLABELLED
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.losses.cross_entropy import CrossEntropy
from stillroom.losses.kl import KL
from stillroom.models.preprocess import Preprocess
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute
from stillroom.teachers.output import ModelOutput
from stillroom.train.step import DistillStep


def step_of(share: float) -> tuple[DistillStep, torch.Tensor, dict[str, ModelOutput]]:
    torch.manual_seed(0)
    student = nn.Linear(4, 3).double()
    step = DistillStep(
        student, [CrossEntropy(), KL()], Preprocess(None, is_pixels=False), labelled_share=share
    ).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    return step, x, {"teacher": ModelOutput(torch.randn(8, 3, dtype=torch.float64))}


def test_losses_of_labels_leave_the_others_out_and_parts_of_a_batch_add_up() -> None:
    step, x, teacher = step_of(0.5)
    labels = torch.tensor([0, UNLABELLED, 2, UNLABELLED, 1, UNLABELLED, UNLABELLED, UNLABELLED])
    index = torch.arange(8)
    _, whole = step(x, labels, index, teacher, 0.0)
    z = step.student(x)
    known = labels != UNLABELLED
    # Three labels where a batch has four on average.
    assert whole[0].item() == pytest.approx(F.cross_entropy(z[known], labels[known]).item() * 3 / 4)
    expected = 16 * F.kl_div((z / 4).log_softmax(1), (teacher["teacher"].logits / 4).softmax(1), reduction="batchmean")
    assert whole[1].item() == pytest.approx(expected.item())
    parts = []
    for rows in (slice(0, 4), slice(4, 8)):
        answer = {"teacher": ModelOutput(teacher["teacher"].logits[rows])}
        parts.append(step(x[rows], labels[rows], index[rows], answer, 0.0)[1])
    assert (0.5 * parts[0][0] + 0.5 * parts[1][0]).item() == pytest.approx(whole[0].item())


def test_a_batch_without_a_label_has_no_loss_and_no_nan() -> None:
    step, x, teacher = step_of(0.1)
    labels = torch.full((8,), UNLABELLED)
    total, values = step(x, labels, torch.arange(8), teacher, 0.0)
    total.backward()
    assert values[0].item() == 0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in step.parameters())


def test_a_share_of_labels_is_the_same_for_every_seed_and_class_and_a_holdout_keeps_its_own() -> None:
    pair = load(DataConfig(labelled=0.1))
    assert pair.train.labelled == 130
    counts = torch.bincount(pair.train.labels[pair.train.labels >= 0], minlength=10)
    assert counts.min() >= 12
    assert counts.max() <= 14
    assert load(DataConfig(labelled=0.2)).train.labels[pair.train.labels >= 0].min() >= 0, "smaller lie within larger"
    held = load(DataConfig(labelled=0.0, holdout=0.2))
    assert held.train.labelled == 0
    assert held.test.labelled == len(held.test)


def test_a_folder_of_images_joins_the_training_images(tmp_path: Path) -> None:
    for name in ("a.png", "deep/er/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 12), 200).save(tmp_path / name)
    pair = load(DataConfig(train_limit=20, unlabelled=str(tmp_path)))
    assert pair.train.images.shape == (22, 1, 8, 8)
    assert pair.train.labels.tolist()[20:] == [UNLABELLED] * 2
    assert int(pair.train.images[21].float().mean()) == 200
    with pytest.raises(BadInput, match=r"data.unlabelled: got .*nowhere.*; expected a folder of image files"):
        load(DataConfig(unlabelled=str(tmp_path / "nowhere")))


@pytest.mark.usefixtures("perceptrons")
def test_a_run_with_few_labels_is_cached_resumed_reported_and_diagnosed(
    content: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    content["data"] |= {"labelled": 0.1}
    content["cache"] = {"enabled": False}
    live = execute(parse_recipe(content), tmp_path / "live")
    content["cache"] = {"enabled": True, "dtype": "float32"}
    cached = execute(parse_recipe(content), tmp_path / "cached")
    losses = [
        [line["loss"] for line in read_lines(each.path / "metrics.jsonl") if "loss" in line] for each in (live, cached)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    stop_and_resume(parse_recipe(content), tmp_path / "stopped", 7)
    assert bytes_of(tmp_path / "stopped") == bytes_of(cached.path)
    assert cached.summary["data"]["labelled"] == 20
    assert run(["report", str(cached.path)]) == 0
    assert "200 training images, 20 with a label" in (cached.path / "report.html").read_text()
    capsys.readouterr()
    assert run(["diagnose", str(cached.path), "--json"]) == 0
    about = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert about["imbalance"]["verdict"] == about["duplicates"]["verdict"] == "ok"


@pytest.mark.usefixtures("perceptrons")
def test_a_teacher_alone_teaches_without_any_label_and_a_loss_of_labels_is_refused(
    content: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    content["data"] |= {"labelled": 0}
    with pytest.raises(BadInput, match=r"losses.cross_entropy: .*none of the 200 training images has a label"):
        execute(parse_recipe(content), tmp_path / "refused")
    content["losses"] = [{"name": "kl"}]
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    assert run(["distill", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["data"]["labelled"] == 0
    assert run(["report", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run(["diagnose", str(tmp_path / "recipe.yaml"), "--images", "64", "--json"]) == 0
    about = {each["check"]: each["verdict"] for each in json.loads(capsys.readouterr().out)["findings"]}
    assert run(["diagnose", str(tmp_path / "run"), "--json"]) == 0
    assert "stillroom train" not in capsys.readouterr().out, "nothing can be learned from labels alone"
    assert about["imbalance"] == "skipped"
    assert about["loss_finite"] == about["teacher_unused"] == "ok"


def test_from_python_images_come_beside_or_with_the_label_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 6)
    items = [(x[row], row % 3 if row < 10 else None) for row in range(40)]
    test = torch.utils.data.TensorDataset(x, torch.arange(40) % 3)
    one = sr.distill(
        nn.Linear(6, 3), nn.Linear(6, 3), items, test, epochs=1, batch_size=8, out=tmp_path / "a", progress=False
    )
    assert (one.summary["data"]["train"], one.summary["data"]["labelled"]) == (40, 10)
    labelled = torch.utils.data.TensorDataset(x[:10], torch.arange(10) % 3)
    two = sr.distill(
        nn.Linear(6, 3), nn.Linear(6, 3), labelled, test, epochs=1, batch_size=8, unlabelled=x[10:],
        out=tmp_path / "b", progress=False,
    )  # fmt: skip
    assert two.summary["data"]["fingerprint"] == one.summary["data"]["fingerprint"]
    again = sr.load_run(tmp_path / "b", student=nn.Linear(6, 3), train=labelled, test=test, unlabelled=x[10:])
    assert again.summary == two.summary
    none = [(x[row], None) for row in range(40)]
    alone = sr.distill(
        nn.Linear(6, 3), nn.Linear(6, 3), none, test, ["kl"], epochs=1, out=tmp_path / "c", progress=False
    )
    assert alone.summary["data"]["labelled"] == 0
    with pytest.raises(BadInput, match=r"data.unlabelled: got .*of 5.; expected .*of 6"):
        sr.distill(
            nn.Linear(6, 3), nn.Linear(6, 3), labelled, test, unlabelled=x[:, :5], out=tmp_path / "d", progress=False
        )
    with pytest.raises(BadInput, match=r"data.test_split: got '0 labels'"):
        sr.distill(nn.Linear(6, 3), nn.Linear(6, 3), labelled, none, ["kl"], out=tmp_path / "e", progress=False)
