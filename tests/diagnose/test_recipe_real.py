"""No check fires on a recipe that ships; the wrong input of a real teacher is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stillroom.diagnose.checks.recipe import input_repair
from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "cifar100-part-resnet32-resnet8.yaml"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("STILLROOM_DATA" not in os.environ, reason="STILLROOM_DATA is not set: no real data"),
]


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        ([], set()),
        (["teacher.preprocess=unit"], {"teacher_normalisation"}),
    ],
)
def test_a_real_teacher(overrides: list[str], problems: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # At 64 pixels a batch takes four times as long as at its own 32: half of that is tried here alone.
    monkeypatch.setattr(input_repair, "_COST", 1e9)
    exact = ["training.device=cpu", "training.precision=float32"]
    fewer = ["data.train_limit=1000", "data.test_limit=500"]
    findings = diagnose_recipe(load_recipe(RECIPE, [*exact, *fewer, *overrides]), images=64)
    assert {finding.check for finding in findings if finding.verdict == "problem"} == problems
    assert not [finding for finding in findings if finding.verdict == "warning"]
