"""The options in a recipe: presets, what they cannot stand beside, and recipes that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stillroom.continual.presets import PRESET_NAMES, PRESETS, preset_overrides
from stillroom.errors import BadInput
from stillroom.recipe import load_recipe, parse_recipe

STUDENT = {"name": "resnet8"}


def test_a_recipe_without_tasks_does_not_speak_of_them() -> None:
    recipe = parse_recipe({"student": STUDENT})
    assert "incremental" not in recipe.to_yaml()
    assert "incremental" not in recipe.model_dump(mode="json")
    assert recipe.hash() == parse_recipe({"student": STUDENT, "incremental": None}).hash()
    assert recipe.hash() != parse_recipe({"student": STUDENT, "incremental": {"tasks": 2}}).hash()


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_a_preset_is_written_out_and_read_again(preset: str) -> None:
    memory = {"memory": 20} if PRESETS[preset].needs_memory else {}
    recipe = parse_recipe({"student": STUDENT, "incremental": {"tasks": 5, "preset": preset, **memory}})
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    settings = recipe.incremental
    assert settings is not None
    assert [term.name for term in recipe.losses] == [term["name"] for term in PRESETS[preset].losses]
    assert (settings.joint, settings.predict_by) == (
        preset == "joint",
        "nearest_mean" if preset == "icarl" else "logits",
    )


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_the_command_lines_preset_is_stronger_than_the_recipe(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    content = {
        "student": STUDENT,
        "losses": [{"name": "cross_entropy"}, {"name": "logit_mse"}],
        "incremental": {"tasks": 5, "memory": 30, "predict_by": "nearest_mean", "labels": "new", "align_weights": True},
    }
    path.write_text(yaml.safe_dump(content))
    settings = load_recipe(path, preset_overrides(preset)).incremental
    assert settings is not None
    assert settings.preset == preset
    assert settings.memory == (30 if PRESETS[preset].needs_memory else 0)
    assert settings.labels == ("new" if preset in ("lwf", "icarl") else "seen")
    assert (settings.align_weights, settings.balance_terms) == (preset == "wa", preset == "wa")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"incremental": {}}, "incremental.tasks: missing"),
        ({"incremental": {"tasks": 1}}, "incremental.tasks: got 1; expected greater than or equal to 2"),
        ({"incremental": {"tasks": 21}}, "incremental.tasks: got 21; expected less than or equal to 20"),
        ({"incremental": {"tasks": 2, "memory": -1}}, "incremental.memory: got -1"),
        ({"incremental": {"tasks": 2, "selection": "hording"}}, "did you mean 'herding'"),
        ({"incremental": {"tasks": 2, "memry": 3}}, "did you mean 'memory'"),
        ({"incremental": {"tasks": 2, "preset": "lwf", "memory": 9}}, "memory 0 with preset lwf"),
        ({"incremental": {"tasks": 2, "preset": "icarl"}}, "a memory of 1 or more with preset icarl"),
        ({"incremental": {"tasks": 2, "preset": "joint", "joint": False}}, "joint true with preset joint"),
        ({"incremental": {"tasks": 2, "joint": True, "memory": 9}}, "memory 0 with joint"),
        ({"incremental": {"tasks": 2, "predict_by": "nearest_mean"}}, "the exemplars predict"),
        (
            {"incremental": {"tasks": 2, "preset": "lwf"}, "losses": [{"name": "kl"}]},
            "no losses with preset lwf",
        ),
        ({"incremental": {"tasks": 2}, "teacher": {"name": "resnet8", "weights": "w"}}, "no teacher in the recipe"),
        (
            {"incremental": {"tasks": 2}, "training": {"record_gradient_rescaling": True}},
            "record_gradient_rescaling false",
        ),
        (
            {
                "incremental": {"tasks": 2},
                "student": {"name": "mlp", "preprocess": {"mean": [0], "std": [1], "class_order": [1, 0]}},
            },
            "no student.preprocess.class_order in the recipe",
        ),
    ],
)
def test_options_that_do_not_fit_give_a_one_line_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_recipe({"student": STUDENT, **changes})
    assert message in str(caught.value)
