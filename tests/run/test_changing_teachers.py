"""A student taught by its own moving average or snapshot, by the last generation, or by a peer that learns with it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import nn

import stillroom as sr
from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.data.loader import BatchSampler
from stillroom.errors import BadInput
from stillroom.losses.functional import kl
from stillroom.recipe import parse_recipe
from stillroom.report.run.data import read_run
from stillroom.report.run.words import headline
from stillroom.run.run import execute

PLAIN = {
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0, "weight_decay": 0},
    "schedule": {"name": "constant"},
    "log_every": 1,
    "precision": "float32",
    "device": "cpu",
    "threads": 1,
}
POINTS = torch.utils.data.TensorDataset(
    torch.randn(24, 5, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3
)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(5, 3)


def batches(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = POINTS.tensors
    sampler = BatchSampler(24, 8, 0)
    return [
        (x[rows], y[rows]) for step in range(steps) for rows in [torch.from_numpy(sampler.indices(*divmod(step, 3)))]
    ]


def train(teacher: Any, out: Path, steps: int, losses: list[Any], **more: Any) -> sr.DistillResult:
    return sr.distill(
        teacher,
        net(0),
        POINTS,
        POINTS,
        losses,
        steps=steps,
        batch_size=8,
        training=PLAIN,
        out=out,
        progress=False,
        **more,
    )


LOSSES = [sr.CrossEntropy(weight=0.5), sr.KL(weight=0.5, temperature=2.0)]


def test_a_mean_teacher_is_the_moving_average_of_the_students_weights(tmp_path: Path) -> None:
    done = train(sr.SelfTeacher(ema=0.9), tmp_path / "r", 5, LOSSES)
    student, teacher = net(0), net(0)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for step, (x, y) in enumerate(batches(5)):
        z = student(x)
        term = kl(z, teacher(x).detach(), temperature=2)
        line = [each for each in read_lines(done.path / "metrics.jsonl") if each["split"] == "train"][step]
        assert line["loss/kl"] == pytest.approx(term.item(), rel=1e-4, abs=1e-8)
        optimizer.zero_grad()
        (0.5 * F.cross_entropy(z, y) + 0.5 * term).backward()
        optimizer.step()
        with torch.no_grad():
            for average, current in zip(teacher.parameters(), student.parameters(), strict=True):
                average.lerp_(current, 0.1)
    weights = load_file(done.path / "student.safetensors")
    torch.testing.assert_close(weights["weight"], student.weight.detach(), rtol=1e-4, atol=1e-6)
    right = (teacher(POINTS.tensors[0]).argmax(1) == POINTS.tensors[1]).double().mean().item()
    facts = done.summary["teachers"]["teacher"]
    assert facts["model"] == "moving average of the student"
    assert facts["top1"] == pytest.approx(100 * right), "scored as it is at the end"


def test_a_snapshot_is_the_student_of_an_epoch_before(tmp_path: Path) -> None:
    done = train(sr.SelfTeacher(snapshot=1), tmp_path / "r", 5, LOSSES)
    lines = [line for line in read_lines(done.path / "metrics.jsonl") if line["split"] == "train"]
    # Right after the snapshot at the end of the first epoch of three steps, teacher and student are one.
    assert lines[0]["loss/kl"] == pytest.approx(0, abs=1e-7)
    assert lines[1]["loss/kl"] > 0
    assert lines[3]["loss/kl"] == pytest.approx(0, abs=1e-7)
    assert lines[4]["loss/kl"] > 0


def test_two_students_learn_from_each_other(tmp_path: Path) -> None:
    done = train(sr.Peer(net(7)), tmp_path / "r", 4, LOSSES)
    one, two = net(0), net(7)
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], 0.1)
    for x, y in batches(4):
        z, w = one(x), two(x)
        labels = F.cross_entropy(z, y) + F.cross_entropy(w, y)
        mutual = kl(z, w.detach(), temperature=2) + kl(w, z.detach(), temperature=2)
        optimizer.zero_grad()
        (0.5 * labels + 0.5 * mutual).backward()
        optimizer.step()
    torch.testing.assert_close(done.student.weight.detach(), one.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(done.peers["teacher"].weight.detach(), two.weight.detach(), rtol=1e-4, atol=1e-6)
    assert torch.equal(load_file(done.path / "teacher.safetensors")["weight"], done.peers["teacher"].weight.detach())
    facts = done.summary["teachers"]["teacher"]
    right = (two(POINTS.tensors[0]).argmax(1) == POINTS.tensors[1]).double().mean().item()
    assert facts["top1"] == pytest.approx(100 * right)


TEACHERS: dict[str, dict[str, Any]] = {
    "ema": {"ema": 0.8},
    "snapshot": {"snapshot": 1},
    "peer": {"name": "resnet8", "options": {"width": 3}, "learns": True},
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_recipe_is_resumed_exactly_reported_and_diagnosed(
    kind: str, content: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    content["teacher"] = TEACHERS[kind]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    whole = tmp_path / "whole"
    assert run(["distill", str(tmp_path / "recipe.yaml"), "--out", str(whole)]) == 0
    stop_and_resume(parse_recipe(content), tmp_path / "stopped", 8)
    assert bytes_of(tmp_path / "stopped") == bytes_of(whole)
    again = execute(parse_recipe(content), whole, resume=True)
    assert again.summary == json.loads((whole / "summary.json").read_text())
    assert run(["report", str(whole)]) == 0
    facts = json.loads((whole / "summary.json").read_text())["teachers"]["teacher"]
    assert (facts.get("follows_student"), facts.get("peer")) == ((None, True) if kind == "peer" else (True, None))
    said, page = headline(read_run(whole)), (whole / "report.html").read_text()
    assert "teacher" not in said
    assert ("its peer" in said) == (kind == "peer"), "a student is not compared with its own average"
    assert ("of its own weights" in said) == (kind != "peer")
    assert ("Student against peer" in page) == (kind == "peer")
    assert "Student against teacher" not in page
    # A network that learns, too, has no map of depths, and the page names none.
    assert "stillroom fidelity" not in page
    assert run(["fidelity", str(whole)]) == 2
    capsys.readouterr()
    for target in (str(whole), str(tmp_path / "recipe.yaml")):
        assert run(["diagnose", target, "--json"]) == 0
        found = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
        odd = {"teacher_accuracy", "student_at_teacher", "teacher_errors_copied", "class_order", "capacity_gap"}
        assert {check for check in odd & found.keys() if found[check]["verdict"] in ("problem", "warning")} == set()


def test_a_generation_is_born_of_the_last(content: dict[str, Any], tmp_path: Path) -> None:
    del content["teacher"]
    first = execute(parse_recipe({**content, "losses": [{"name": "cross_entropy"}]}), tmp_path / "0")
    content["teacher"] = {**content["student"], "weights": str(first.path / "student.safetensors")}
    second = execute(parse_recipe({**content, "seed": 1}), tmp_path / "1")
    assert second.summary["teachers"]["teacher"]["top1"] == first.summary["top1"]
    assert second.summary["parameters"] == first.summary["parameters"]


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"ema": 0.9, "snapshot": 1}, {}, r"teacher: .*one of ema and snapshot"),
    ({"ema": 1.0}, {}, r"teacher.ema: got 1.0"),
    ({"ema": 0.9, "weights": "x"}, {}, r"ema alone"),
    ({"ema": 0.9}, {"cache": {"enabled": True}}, r"cache.enabled: got True; .*changes with the student"),
    ({"ema": 0.9}, {"losses": [{"name": "block_logit"}]}, r"losses.block_logit: .*teacher changes"),
    (TEACHERS["peer"], {"losses": [{"name": "feature_mse"}]}, r"losses.feature_mse: .*without parameters"),
]


@pytest.mark.parametrize(("teacher", "more", "message"), BAD, ids=[message[:20] for *_, message in BAD])
def test_what_cannot_be_is_one_line(
    teacher: dict[str, Any], more: dict[str, Any], message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    content |= {"teacher": copy.deepcopy(teacher), **more}
    with pytest.raises(BadInput, match=message):
        execute(parse_recipe(content), tmp_path / "r")


def test_a_mean_teacher_teaches_features(content: dict[str, Any], tmp_path: Path) -> None:
    content |= {"teacher": {"ema": 0.5}, "losses": [{"name": "cross_entropy"}, {"name": "feature_mse"}]}
    content["training"] |= {"epochs": None, "steps": 3, "log_every": 1}
    lines = read_lines(execute(parse_recipe(content), tmp_path / "r").path / "metrics.jsonl")
    assert all(line["loss/feature_mse"] > 0 for line in lines if line["split"] == "train")
