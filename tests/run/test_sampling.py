"""What is drawn into batches: balanced classes, mixed images; and what refuses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from run.conftest import bytes_of, stop_and_resume
from stillroom.errors import BadInput
from stillroom.recipe import Recipe
from stillroom.run.run import execute

pytestmark = pytest.mark.usefixtures("perceptrons")
Make = Callable[..., Recipe]


def test_balanced_sampling_changes_the_order_alone_and_resumes_to_the_same_bytes(recipe: Make, tmp_path: Path) -> None:
    made = recipe("data.sampling=balanced", "training.save_seconds=0")
    balanced = execute(made, tmp_path / "balanced").summary["hashes"]
    stop_and_resume(made, tmp_path / "stopped", 3)
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "balanced")
    shuffled = execute(recipe("data.sampling=shuffled"), tmp_path / "shuffled").summary["hashes"]
    assert {key for key, value in shuffled.items() if balanced[key] != value} == {"order"}
    assert "sampling" not in (tmp_path / "shuffled" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("overrides", "field", "fact"),
    [
        (["data.sampling=balanced", "data.labelled=0.5"], "data.sampling", "images without a label"),
        (
            ["data.augmentation.mixup=0.2", "losses=[{name: kl, target: true_class}]"],
            "data.augmentation.mixup",
            "reads one label",
        ),
        (["data.augmentation.cutmix=1", "losses=[{name: dkd}]"], "data.augmentation.cutmix", "reads one label"),
        (["data.augmentation.mixup=0.2", "data.labelled=0.5"], "data.augmentation.mixup", "have no label to mix"),
        (
            ["data.augmentation.cutmix=1", "training.record_gradient_rescaling=true"],
            "data.augmentation.cutmix",
            "of one label",
        ),
    ],
)
def test_what_needs_one_class_an_image_is_refused(
    recipe: Make, tmp_path: Path, overrides: list[str], field: str, fact: str
) -> None:
    with pytest.raises(BadInput) as raised:
        execute(recipe(*overrides), tmp_path / "run")
    assert (raised.value.field, fact in raised.value.expected) == (field, True), raised.value
    assert not (tmp_path / "run" / "recipe.yaml").exists()
