"""The recipes that ship are left in peace, and a real teacher asked wrongly is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "cifar100-part-resnet32-resnet8.yaml"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("STILLROOM_DATA" not in os.environ, reason="STILLROOM_DATA is not set: no real data"),
]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([], set()),
        (["teacher.preprocess=unit"], {"teacher_normalisation"}),
    ],
)
def test_a_real_teacher(overrides: list[str], problem: set[str]) -> None:
    findings = diagnose_recipe(load_recipe(RECIPE, ["training.device=cpu", *overrides]), images=300)
    assert {finding.check for finding in findings if finding.verdict == "problem"} == problem
    assert not [finding for finding in findings if finding.verdict == "warning"]
