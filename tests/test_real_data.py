"""The real teacher on the real images, through the commands of the README."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet
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


def thinned(source: str, folder: Path, every: int) -> str:
    """Every so many-th row of a real test split, in a folder of its own, which a command is given."""
    table = pyarrow.parquet.read_table(Path(os.environ["STILLROOM_DATA"], source, "test.parquet"))
    folder.mkdir()
    pyarrow.parquet.write_table(table.take(list(range(0, len(table), every))), folder / "test.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("model", "weights", "data", "every", "correct"),
    [
        # Of all images, as docs/results/pretrained.md has them: 9,173 and 9,339 of 10,000, and 3,422 of 5,000.
        ("resnet20", "resnet20-cifar10.th", "cifar10", 10, 923),
        ("resnet56", "resnet56-cifar10.th", "cifar10", 10, 942),
        ("resnet32", "resnet32-cifar100.safetensors", "cifar100-part", 5, 704),
    ],
)
def test_public_teachers_are_as_right_as_published_on_a_thousand_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, weights: str, data: str, every: int, correct: int
) -> None:
    part = thinned(data, tmp_path / "part", every)
    found = said(capsys, "evaluate", "--model", model, "--weights", f"weights/{weights}", "--data", part)
    assert (found["correct"], found["count"], found["top1"]) == (correct, 1000, correct / 10)


def test_the_real_recipe_distils_and_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # One view, so that the teacher answers once for all epochs.
    views = ["data.augmentation.views=1", "training.epochs=5", "training.checkpoints=[]", "training.log_every=4"]
    few = ["data.train_limit=256", "data.test_limit=100", *views]
    distilled, labels = str(tmp_path / "kl"), str(tmp_path / "labels")
    summary = said(capsys, "distill", str(RECIPE), *few, "--out", distilled)
    assert summary["teachers"]["teacher"]["correct"] > 88
    lines = [json.loads(line) for line in Path(distilled, "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.85 * losses[0], "it learns"
    alone = said(capsys, "train", str(RECIPE), *few, "losses=[{name: cross_entropy}]", "--out", labels)
    assert alone["hashes"] == summary["hashes"]
    assert Path(said(capsys, "report", distilled, labels)["report"]).stat().st_size < 10_000_000
