"""A student that ends in its teacher's last layer: trained, stopped, loaded, exported, scored without the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stillroom as sr
from run.conftest import bytes_of, read_lines
from stillroom.cli import run as cli
from stillroom.errors import BadInput
from stillroom.models.reused_head import ReusedHead
from stillroom.models.weights import read_state, state_hash
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.components import RunObjects, build_components
from stillroom.run.export import load_student
from stillroom.run.run import execute


def reusing(recipe: Recipe, **changes: Any) -> Recipe:
    return parse_recipe({**recipe.model_dump(mode="json"), "losses": [{"name": "simkd"}], **changes})


def test_the_student_is_whole_without_its_teacher(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    small = reusing(recipe("data.train_limit=96", "training.log_every=1"))
    finished = execute(small, tmp_path / "whole")
    student = finished.student
    assert isinstance(student, ReusedHead)
    losses = [line["loss"] for line in read_lines(tmp_path / "whole" / "metrics.jsonl") if line["split"] == "train"]
    assert losses[-1] < losses[0]
    # The head is the teacher's to the bit, and none of it has moved.
    assert small.teacher is not None
    assert small.teacher.weights is not None
    teacher = read_state(small.teacher.weights, field="teacher")
    assert torch.equal(student.state_dict()["head.weight"], teacher["linear.weight"])
    assert torch.equal(student.state_dict()["head.bias"], teacher["linear.bias"])

    loaded, again, _ = load_student(tmp_path / "whole")
    assert again.student.reused_head is not None
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded(images), student.eval()(images))

    # The initial weights that all methods of a seed share are those of the student before it was given the head.
    init = json.loads((finished.path / "summary.json").read_text())["hashes"]["init"]
    assert init == state_hash(build_components(small).student)

    # The written recipe reproduces the run.
    assert cli(["distill", str(tmp_path / "whole" / "recipe.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "whole")
    assert cli(["export", str(tmp_path / "whole"), "--format", "pt2", "--out", str(tmp_path / "student.pt2")]) == 0
    program = torch.export.load(tmp_path / "student.pt2").module()
    assert torch.allclose(program(images), loaded(images), atol=1e-5)


class Perceptron(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh())
        self.classifier = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.body(images))
        return logits


def test_modules_of_ones_own_without_maps_keep_their_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, student = Perceptron(12), Perceptron(5)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
    data = torch.utils.data.TensorDataset(images, labels)
    result = sr.distill(
        teacher, student, data, data, losses=["simkd"], epochs=1, batch_size=16, out=tmp_path / "run", progress=False
    )
    assert all(torch.equal(student.state_dict()[name], tensor) for name, tensor in before.items())
    loaded, _, _ = load_student(tmp_path / "run", RunObjects(student=Perceptron(5)))
    assert torch.equal(loaded.state_dict()["head.weight"], teacher.classifier.weight)
    assert loaded(images).shape == (64, 10)
    assert result.path == tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "teacher"),
        ({"student": {"name": "resnet8", "preprocess": {"mean": [0.5], "std": [0.5], "class_order": list(range(10))}}},
         r"student\.preprocess\.class_order"),
    ],
)  # fmt: skip
def test_what_it_cannot_be_done_with_is_named(
    recipe: Callable[..., Recipe], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        execute(reusing(recipe("data.train_limit=32"), **changes), tmp_path / "run")
