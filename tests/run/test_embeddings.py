"""A teacher that gives embeddings and no logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stillroom as sr
from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.errors import BadInput
from stillroom.models.weights import save_weights
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute


def backbone(in_channels: int = 1) -> nn.Module:
    """A model of embeddings that a recipe can name."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(in_channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def embedding(content: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    save_weights(backbone(), tmp_path / "backbone.safetensors")
    content["teacher"] = {
        "name": "run.test_embeddings:backbone",
        "weights": str(tmp_path / "backbone.safetensors"),
        "embeddings": True,
    }
    content["losses"] = [{"name": "cross_entropy"}, {"name": "feature_mse"}, {"name": "similarity_preserving"}]
    return content


def test_features_and_relations_are_learned_cached_and_resumed(
    embedding: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    embedding["cache"] = {"enabled": False}
    live = execute(parse_recipe(embedding), tmp_path / "live")
    embedding["cache"] = {"enabled": True, "dtype": "float32"}
    cached = execute(parse_recipe(embedding), tmp_path / "cached")
    for left, right in zip(*(read_lines(each.path / "metrics.jsonl") for each in (live, cached)), strict=True):
        for key in ("loss/feature_mse", "loss/similarity_preserving"):
            assert left.get(key, 0.0) == pytest.approx(right.get(key, 0.0), rel=1e-4)
    stop_and_resume(parse_recipe(embedding), tmp_path / "stopped", 7)
    assert bytes_of(tmp_path / "stopped") == bytes_of(cached.path)
    assert "top1" not in cached.summary["teachers"]["teacher"]
    assert run(["report", str(cached.path)]) == 0
    (tmp_path / "recipe.yaml").write_text(json.dumps(embedding))
    capsys.readouterr()
    for target in (str(cached.path), str(tmp_path / "recipe.yaml")):
        assert run(["diagnose", target, "--json"]) == 0
        found = {each["check"]: each["verdict"] for each in json.loads(capsys.readouterr().out)["findings"]}
        odd = {"teacher_accuracy", "teacher_logits", "class_order", "teacher_unused", "loss_finite"} & found.keys()
        assert {found[check] for check in odd} <= {"skipped", "ok"}


@pytest.mark.parametrize("loss", ["kl", "logit_mse", "block_logit", "feature_fisher", "srrl"])
def test_a_loss_that_needs_logits_is_refused(loss: str, embedding: dict[str, Any], tmp_path: Path) -> None:
    embedding["losses"] = [{"name": loss}]
    with pytest.raises(BadInput, match=rf"losses.{loss}: .*embeddings, no logits"):
        execute(parse_recipe(embedding), tmp_path / "r")


class ReadsBoth(sr.Loss[sr.LossConfig]):
    """A user's loss that reads logits that are not there."""

    def setup(self, setup_context: Any) -> None:
        self.requires = sr.Requires(teacher=True, teacher_features=("features",), student_features=("features",))

    def forward(self, inputs: sr.LossInputs) -> Tensor:
        return (inputs.student.logits - inputs.teacher_logits).square().mean()


def test_from_python(tmp_path: Path) -> None:
    x, y = torch.rand(40, 1, 6, 6), torch.arange(40) % 3
    data = torch.utils.data.TensorDataset(x, y)
    student = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3))
    given: dict[str, Any] = {"steps": 2, "progress": False, "teacher_options": {"embeddings": True}}
    done = sr.distill(backbone(), student, data, data, ["cross_entropy", "relational"], out=tmp_path / "a", **given)
    assert done.summary["teachers"]["teacher"]["model"].endswith("Sequential")
    assert (
        sr.load_run(tmp_path / "a", student=student, teacher=backbone(), train=data, test=data).summary == done.summary
    )
    with pytest.raises(BadInput, match=r"teacher.embeddings: .*no logits"):
        sr.distill(backbone(), student, data, data, [ReadsBoth(name="both")], out=tmp_path / "b", **given)
    with pytest.raises(BadInput, match=r"embeddings \[batch, d\], not \[2, 1, 4, 4\]"):
        sr.distill(nn.Conv2d(1, 1, 3), student, data, data, ["feature_mse"], out=tmp_path / "c", **given)
