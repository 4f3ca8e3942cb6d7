"""From a study to its recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.errors import BadInput
from stillroom.study.config import load_study, parse_study
from stillroom.study.equality import planned_differences
from stillroom.study.plan import StudyFolder, plan_of, sweep_values, teacher_content
from stillroom.study.tuning import check_spaces, trial_content
from study.small import small

FOLDER = StudyFolder(Path("/x"))


def recipes(**changes: Any) -> dict[str, dict[str, Any]]:
    cells = plan_of(parse_study(small(**changes)), FOLDER).runs
    return {f"{cell.method}/{cell.seed}": cell.recipe.model_dump(mode="json") for cell in cells}


def test_every_pair_method_and_seed_has_a_cell_in_this_order() -> None:
    study = parse_study(small(model_pairs=[{"name": "p"}, {"name": "q", "set": {"data.train_limit": 50}}]))
    cells = plan_of(study, FOLDER).runs
    assert [cell.id for cell in cells[:5]] == [
        "run/p/labels/0",
        "run/p/labels/1",
        "run/p/kl/0",
        "run/p/kl/1",
        "run/q/labels/0",
    ]
    assert [cell.recipe.data.train_limit for cell in cells] == [96] * 4 + [50] * 4
    assert cells[0].recipe.name == "labels on p"


def test_the_budget_rules_over_the_recipe_and_a_method_over_both() -> None:
    found = recipes(
        budget={"steps": 7},
        methods=[
            {"name": "a"},
            {"name": "long", "set": {"training": {"epochs": 3}}},
            {"name": "own", "set": {"seed": 9}},
        ],
    )
    assert (found["a/0"]["training"]["steps"], found["a/0"]["training"]["epochs"]) == (7, None)
    assert (found["long/0"]["training"]["steps"], found["long/0"]["training"]["epochs"]) == (None, 3)
    assert [found[f"own/{seed}"]["seed"] for seed in (0, 1)] == [9, 9]
    assert [found[f"a/{seed}"]["seed"] for seed in (0, 1)] == [0, 1]


def test_a_pair_may_have_a_length_of_its_own() -> None:
    study = parse_study(small(model_pairs=[{"name": "p", "set": {"training.steps": 5}}]))
    training = plan_of(study, FOLDER).runs[0].recipe.training
    assert (training.steps, training.epochs) == (5, None)


def test_chosen_values_and_calibrated_steps_enter_the_recipes() -> None:
    study = parse_study(small(budget={"seconds": 5}))
    plan = plan_of(
        study, FOLDER, {("all", "kl"): {"losses.kl.temperature": 2.0}}, {("all", "kl"): 12, ("all", "labels"): 30}
    )
    by_name = {cell.method: cell.recipe for cell in plan.runs}
    assert (by_name["labels"].training.steps, by_name["kl"].training.steps) == (30, 12)
    assert by_name["kl"].losses[1].temperature == 2.0


def test_answers_are_kept_unless_no_view_comes_twice() -> None:
    assert recipes()["kl/0"]["cache"]["enabled"] is True
    fresh = small()["recipe"] | {"data": {"augmentation": {"pad_crop": 1, "views": 0}}}
    assert recipes(recipe=fresh)["kl/0"]["cache"]["enabled"] == "auto"
    said = small()["recipe"] | {"cache": {"enabled": False}}
    assert recipes(recipe=said)["kl/0"]["cache"]["enabled"] is False


def test_the_study_s_own_teacher_is_trained_from_labels_and_found() -> None:
    study = parse_study(small())
    content = teacher_content(study, study.teachers[0])
    assert content["student"] == {"name": "mlp"}
    assert not {"teacher", "losses"} & set(content)
    assert recipes()["kl/0"]["teacher"]["weights"] == "/x/teachers/big/student.safetensors"
    with pytest.raises(BadInput, match=r"teacher.weights: got 'study:bigg'; .*did you mean 'big'"):
        recipes(recipe=small()["recipe"] | {"teacher": {"name": "mlp", "weights": "study:bigg"}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"losses": [{"name": "kll"}]}, "methods.bad: losses"),
        ({"losses.kl.temperature": 2}, "methods.bad"),
        ({"training": {"epoch": 2}}, "methods.bad: training.epoch: unknown field 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_bad_recipe_names_its_method(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        recipes(methods=[{"name": "bad", "set": change}])
    assert words in str(caught.value)


def test_a_trial_is_shorter_and_judged_on_held_out_images() -> None:
    study = parse_study(small(tuning={"trials": 2, "length": 0.5, "holdout": 0.25, "seed": 7}))
    content = trial_content(study, FOLDER, study.all_pairs[0], study.methods[1])
    assert (content["data"]["holdout"], content["training"]["epochs"], content["seed"]) == (0.25, 1, 7)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes" / "studies").glob("*.yaml")), ids=lambda path: path.name
)
def test_the_studies_that_ship_are_equal_as_planned(path: Path) -> None:
    study = load_study(path)
    check_spaces(study, FOLDER)
    plan = plan_of(study, FOLDER)
    assert planned_differences(plan) == []
    assert (sweep_values(plan) is None) == (study.sweep is None)
