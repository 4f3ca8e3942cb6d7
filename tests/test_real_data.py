"""The real teacher on the real images, through the commands of the README."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stillroom.cli import run

RECIPE = Path(__file__).parent.parent / "recipes" / "cifar10-resnet56-resnet8.yaml"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("STILLROOM_DATA" not in os.environ, reason="STILLROOM_DATA is not set: no real images to read"),
]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("model", "correct"), [("resnet56", 9339), ("resnet20", 9173)])
def test_the_public_teachers_are_right_exactly_as_often_as_published(
    capsys: pytest.CaptureFixture[str], model: str, correct: int
) -> None:
    weights = f"weights/{model}-cifar10.th"
    found = said(capsys, "evaluate", "--model", model, "--weights", weights, "--data", "cifar10", "--split", "test")
    assert (found["correct"], found["count"]) == (correct, 10_000)
    assert found["top1"] == correct / 100


def test_the_teacher_of_a_hundred_classes(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(
        capsys, "evaluate", "--model", "resnet32", "--weights", "weights/resnet32-cifar100.safetensors",
        "--data", "cifar100-part",
    )  # fmt: skip
    assert (found["correct"], found["count"]) == (3422, 5000)


def test_the_real_recipe_distils_exports_and_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    few = ["data.train_limit=1280", "data.test_limit=500", "training.epochs=2", "training.checkpoints=[]"]
    distilled, labels = str(tmp_path / "kl"), str(tmp_path / "labels")
    summary = said(capsys, "distill", str(RECIPE), *few, "--out", distilled)
    assert summary["teachers"]["teacher"]["correct"] > 440
    assert summary["top1"] > 15, "above chance after 40 steps"
    alone = said(capsys, "train", str(RECIPE), *few, "losses=[{name: cross_entropy}]", "--out", labels)
    assert alone["hashes"] == summary["hashes"]
    assert said(capsys, "export", distilled, "--format", "onnx", "--pixels")["max_rel_error"] < 1e-4
    assert Path(said(capsys, "report", distilled, labels)["report"]).stat().st_size < 10_000_000
