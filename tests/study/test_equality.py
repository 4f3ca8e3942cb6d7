"""Every planted inequality is found and named, by a recipe or by a tampered run; equal studies are left in peace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from stillroom.config import Config
from stillroom.study.collect import collect
from stillroom.study.config import AllowedDifference, parse_study
from stillroom.study.equality import (
    CHECKED,
    THE_STUDYS,
    finished_fields,
    inequalities,
    own_seed,
    planned_differences,
    planned_fields,
)
from stillroom.study.plan import StudyFolder, StudyPlan, plan_of
from study.finished import KL, Made, made, study_of, texts

__all__ = ["made"]


# -- equal studies


def test_methods_that_differ_in_what_they_are_alone_are_equal(made: Made, tmp_path: Path) -> None:
    study = made.content()
    study["methods"] += [
        {"name": "adam", "set": {"training.optimizer": {"name": "adamw", "lr": 0.01}, "training.clip_norm": 1.0}},
        {"name": "no-teacher", "set": {"teacher": None}},
        # As many steps as the epochs of the others.
        {"name": "in-steps", "set": {"training.steps": 6, "losses": KL}},
        {"name": "live", "set": {"cache.enabled": False, "cache.max_gb": 1.0, "losses": KL}},
        {"name": "often", "set": {"training.evaluate_every": 2, "training.log_every": 1}},
    ]
    folder, plan = made.study(tmp_path / "s", **study)
    assert texts(folder, plan) == []
    assert planned_differences(plan) == []


def test_what_shall_differ_is_no_inequality_and_all_else_still_is(made: Made, tmp_path: Path) -> None:
    methods = [
        {"name": "plain"},
        {"name": "wider", "set": {"student.options.hidden": [3], "data.augmentation.flip": True}},
    ]
    folder, plan = made.study(tmp_path / "s", methods=methods, allowed_differences=["student"], baseline="plain")
    assert [line.partition(":")[0] for line in texts(folder, plan)] == ["augmentation"]
    assert [line.partition(":")[0] for line in planned_differences(plan)] == ["augmentation"]


def test_what_the_machine_settles_is_no_difference_to_the_plan(made: Made, tmp_path: Path) -> None:
    study = made.content(seeds=[3])
    study["recipe"]["training"] |= {"precision": "auto", "device": "auto"}
    study["recipe"]["student"]["preprocess"] = "unit"
    folder, plan = made.study(tmp_path / "s", **study)
    assert texts(folder, plan) == []


def test_pairs_are_not_compared_with_each_other(made: Made, tmp_path: Path) -> None:
    pairs = [{"name": "small"}, {"name": "large", "set": {"student.options.hidden": [3], "data.train_limit": 70}}]
    folder, plan = made.study(tmp_path / "s", model_pairs=pairs)
    assert texts(folder, plan) == []


def test_trials_may_choose_another_learning_rate_for_each(made: Made, tmp_path: Path) -> None:
    tuning = {"trials": 2, "space": {"training.optimizer.lr": [0.1, 0.05]}}
    folder, plan = made.study(tmp_path / "s", tuning=tuning, run=False)
    plan = plan_of(plan.study, folder, {("all", "kl"): {"training.optimizer.lr": 0.05}})
    made.run(folder, plan)
    tuned = {"all": {name: {"trials": 2, "values": {}} for name in ("labels", "kl", "mse")}}
    assert texts(folder, plan, tuned=tuned) == []
    tuned["all"]["kl"]["trials"] = 40
    assert texts(folder, plan, tuned=tuned) == ["tuning: kl has trials 40, labels and mse 2"]


def tuned_by(**trials: int) -> dict[str, Any]:
    return {"all": {name: {"trials": count, "values": {}} for name, count in trials.items()}}


def test_tuning_one_and_not_the_others_is_unequal_unless_that_is_the_question(made: Made, tmp_path: Path) -> None:
    study = made.content(tuning={"trials": 8})
    study["methods"][1]["tune"] = {"training.optimizer.lr": {"low": 0.01, "high": 1.0}}
    folder, plan = made.study(tmp_path / "s", **study)
    found = ["tuning: kl has trials 8, labels and mse 0"]
    assert texts(folder, plan, tuned=tuned_by(labels=0, kl=8, mse=0)) == found
    assert texts(folder, plan, tuned=tuned_by(kl=8)) == found
    assert planned_differences(plan) == found
    varied = plan_of(parse_study({**study, "allowed_differences": ["tuning"]}), folder)
    assert texts(folder, varied, tuned=tuned_by(labels=0, kl=8, mse=0)) == planned_differences(varied) == []


def test_a_space_that_was_searched_whole_has_had_all_it_could(made: Made, tmp_path: Path) -> None:
    study = made.content(tuning={"trials": 8})
    labels, kl, mse = study["methods"]
    labels["tune"] = {"training.optimizer.lr": [0.1, 0.05]}
    # The recipe as it is written is a point of the first space and none of this one.
    kl["tune"] = {"training.optimizer.lr": [0.2, 0.05]}
    mse["tune"] = {"training.optimizer.lr": {"low": 0.01, "high": 1.0}}
    folder, plan = made.study(tmp_path / "s", **study)
    assert texts(folder, plan, tuned=tuned_by(labels=2, kl=3, mse=8)) == planned_differences(plan) == []
    assert texts(folder, plan, tuned=tuned_by(labels=2, kl=2, mse=8)) == [
        "tuning: kl has trials 2, labels and mse 8 or all of a smaller space"
    ]


def in_seconds(made: Made, path: Path, **changes: Any) -> tuple[StudyFolder, StudyPlan, dict[str, Any]]:
    folder, plan = made.study(path, run=False, **{"budget": {"seconds": 60}, **changes})
    steps = {"labels": 9, "kl": 5, "mse": 6}
    plan = plan_of(plan.study, folder, steps={("all", name): count for name, count in steps.items()})
    made.run(folder, plan)
    measured = {name: {"steps": count, "seconds_per_step": 59.9 / count} for name, count in steps.items()}
    return folder, plan, {"seconds": 60.0, "pairs": {"all": measured}}


def test_a_budget_in_seconds_gives_each_its_own_steps(made: Made, tmp_path: Path) -> None:
    folder, plan, calibration = in_seconds(made, tmp_path / "s")
    assert texts(folder, plan, calibration=calibration) == []
    assert planned_differences(plan) == []


def test_steps_that_are_not_the_calibrations_are_found(made: Made, tmp_path: Path) -> None:
    folder, plan, calibration = in_seconds(made, tmp_path / "s")
    calibration["pairs"]["all"]["kl"]["steps"] = 4
    found = ["budget: kl has 5 steps, the calibration says 4 steps (seeds 0, 1)"]
    assert texts(folder, plan, calibration=calibration) == found
    assert "budget: labels has 9 steps, the calibration says nothing (seeds 0, 1)" in texts(folder, plan)


@pytest.mark.parametrize(
    ("each", "why"),
    [
        (20.0, "60 seconds of 20 a step are 3 steps"),
        (1e9, "60 seconds of 1000000000 a step are 1 step"),
        (0, "seconds_per_step is 0"),
        (None, "seconds_per_step is none"),
    ],
)
def test_steps_that_the_time_of_a_step_does_not_give_are_found(
    made: Made, tmp_path: Path, each: float | None, why: str
) -> None:
    folder, plan, calibration = in_seconds(made, tmp_path / "s")
    calibration["pairs"]["all"]["kl"]["seconds_per_step"] = each
    found = f"budget: kl has 5 steps, which the calibration does not give: {why} (seeds 0, 1)"
    assert texts(folder, plan, calibration=calibration) == [found]


def test_a_calibration_of_another_budget_is_found(made: Made, tmp_path: Path) -> None:
    folder, plan, calibration = in_seconds(made, tmp_path / "s")
    found = texts(folder, plan, calibration={**calibration, "seconds": 30.0})
    assert "budget: kl has 5 steps, which the calibration does not give: it is of 30 seconds, not 60" in found[1]
    assert len(found) == 3


def test_a_length_of_ones_own_beside_a_budget_in_seconds_is_found(made: Made, tmp_path: Path) -> None:
    study = made.content()
    study["methods"][1]["set"]["training.epochs"] = 2
    folder, plan, calibration = in_seconds(made, tmp_path / "s", **{"methods": study["methods"]})
    assert texts(folder, plan, calibration=calibration) == [
        "budget: kl has 6 steps, labels and mse 60 seconds (seeds 0, 1)"
    ]
    assert planned_differences(plan) == ["budget: kl has 2 epochs, labels and mse 60 seconds (seeds 0, 1)"]


def test_a_study_that_was_moved_is_as_equal_as_before(made: Made, tmp_path: Path) -> None:
    study = made.content(teachers=[{"name": "big", "set": {"student": {"name": "mlp", "options": {"hidden": [8]}}}}])
    study["recipe"]["teacher"]["weights"] = "study:big"
    folder = StudyFolder(tmp_path / "here")
    (folder.teacher("big")).mkdir(parents=True)
    shutil.copy(made.weights(), folder.teacher("big") / "student.safetensors")
    _, plan = made.study(folder.path, **study)
    shutil.move(folder.path, tmp_path / "there")
    moved = StudyFolder(tmp_path / "there")
    assert texts(moved, plan_of(plan.study, moved)) == []


# -- planted by a method's recipe

SEEDS = " (seeds 0, 1)"
PLANTED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "twice the epochs": (
        {"training.epochs": 4},
        ["budget: kl has 12 steps, labels and mse 6"],
    ),
    "steps of its own": (
        {"training.steps": 7},
        ["budget: kl has 7 steps, labels and mse 6"],
    ),
    "another seed": (
        {"seed": 7},
        [
            "seed: kl has 7 in place of the study's",
            "initial weights: kl differs from labels and mse (seed 7 against the study's)",
            "order of images: kl differs from labels and mse (seed 7 against the study's)",
        ],
    ),
    "a wider student": (
        {"student.options.hidden": [3]},
        [
            "initial weights: kl differs from labels and mse (student.options.hidden [3] against [4])",
            "student: kl has options.hidden [3], labels and mse [4]",
        ],
    ),
    "a pretrained student": (
        {"student": {"weights": "{teacher}", "options": {"hidden": [8]}}},
        [
            "initial weights: kl differs from labels and mse "
            "(student.weights teacher-0.safetensors against none; student.options.hidden [8] against [4])",
            "student: kl has options.hidden [8], labels and mse [4]",
        ],
    ),
    "a student that sees other pixels": (
        {"student.preprocess": "unit"},
        ["student: kl has preprocess.mean [0] and preprocess.std [1], "
            "labels and mse preprocess.mean [0.5] and preprocess.std [0.5]"],
    ),
    "mirrored images": (
        {"data.augmentation.flip": True},
        ["augmentation: kl has flip true, labels and mse false"],
    ),
    "another augmentation seed": (
        {"data.augmentation.seed": 1, "data.augmentation.views": 2},
        ["augmentation: kl has seed 1 and views 2, labels and mse seed 0 and views 4"],
    ),
    "two threads": (
        {"training.threads": 2},
        ["threads: kl has 2, labels and mse 1"],
    ),
    "another precision": (
        {"training.precision": "bfloat16"},
        ["precision: kl has bfloat16, labels and mse float32"],
    ),
    "fewer images": (
        {"data.train_limit": 70},
        [
            "order of images: kl differs from labels and mse (training images 70 against 100)",
            "budget: kl has 4 steps, labels and mse 6",
            "data: kl has train_limit 70, labels and mse 100",
        ],
    ),
    "fewer test images": (
        {"data.test_limit": 30},
        [
            "data: kl has test_limit 30, labels and mse 60",
            "test images: kl differs from labels and mse (count 30 against 60)",
        ],
    ),
    "a smaller batch": (
        {"data.batch_size": 16},
        ["budget: kl has 12 steps, labels and mse 6", "batch size: kl has 16, labels and mse 32"],
    ),
    "a moving average": (
        {"training.ema": 0.9},
        ["moving average: kl has 0.9, labels and mse none"],
    ),
    "answers kept in full": (
        {"cache.dtype": "float32"},
        ["cache: kl has dtype float32, labels and mse float16"],
    ),
    "the largest answers": (
        {"cache.top_k": 3},
        ["cache: kl has top_k 3 and off_top_k_temperature 4, labels and mse top_k none"],
    ),
    "smaller parts": (
        {"training.accumulate": 2},
        ["micro-batches: kl has 2, labels and mse 1"],
    ),
    "another teacher": (
        {"teacher.weights": "{other}"},
        ["teacher: kl has weights teacher-1.safetensors, labels and mse teacher-0.safetensors"],
    ),
    "a teacher that sees other pixels": (
        {"teacher.preprocess": "none"},
        ["teacher: kl has preprocess none, labels and mse preprocess.mean [0.5], preprocess.std [0.5], "
            "preprocess.size none, preprocess.channel_order rgb and preprocess.class_order none"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_an_inequality_planted_by_a_recipe_is_found_and_named(made: Made, tmp_path: Path, name: str) -> None:
    changes, wanted = PLANTED[name]
    text = json.dumps(changes).replace("{teacher}", str(made.weights())).replace("{other}", str(made.weights(1)))
    folder, plan = made.planted(tmp_path / "s", json.loads(text))
    found = inequalities(plan, collect(folder, plan).runs)
    assert [one.text for one in found] == [line + SEEDS for line in wanted]
    assert {one.methods for one in found} == {("kl",)}
    assert {one.what for one in found} <= set(CHECKED)


FORESEEN = {
    "twice the epochs": "budget: kl has 4 epochs, labels and mse 2",
    "another seed": PLANTED["another seed"][1][0],
    "a wider student": PLANTED["a wider student"][1][1],
    "mirrored images": PLANTED["mirrored images"][1][0],
    "two threads": PLANTED["two threads"][1][0],
    "another precision": PLANTED["another precision"][1][0],
    "fewer images": PLANTED["fewer images"][1][2],
    "a smaller batch": PLANTED["a smaller batch"][1][1],
    "smaller parts": PLANTED["smaller parts"][1][0],
    "a moving average": PLANTED["a moving average"][1][0],
    "answers kept in full": PLANTED["answers kept in full"][1][0],
}


@pytest.mark.parametrize("name", FORESEEN)
def test_what_recipes_show_is_reported_before_anything_runs(made: Made, tmp_path: Path, name: str) -> None:
    study = made.content()
    study["methods"][1]["set"] |= PLANTED[name][0]
    _, plan = made.study(tmp_path / "s", run=False, **study)
    assert planned_differences(plan) == [FORESEEN[name] + SEEDS]


def test_answers_asked_live_are_not_cut_as_kept_ones_are(made: Made, tmp_path: Path) -> None:
    study = made.content()
    study["recipe"]["cache"] = {"top_k": 3}
    study["methods"][1]["set"] |= {"cache.enabled": False, "training.compile": True}
    _, plan = made.study(tmp_path / "s", run=False, **study)
    assert planned_differences(plan) == [
        "cache: kl has top_k none, labels and mse top_k 3 and off_top_k_temperature 4" + SEEDS,
        "compiled: kl has true, labels and mse false" + SEEDS,
    ]


# What methods are.
TREATMENT = ("losses", "training.optimizer", "training.schedule", "training.clip_norm")
# What changes no result: names, what is reported, shown and kept, how files are read.
WITHOUT_EFFECT = (
    "name",
    "data.in_memory",
    "data.workers",
    "training.log_every",
    "training.evaluate_every",
    "training.checkpoints",
    "training.record_weight_distance",
    "training.record_gradient_rescaling",
    "training.save_seconds",
    "cache.enabled",
    "cache.max_gb",
)


def fields(model: Config, prefix: str = "") -> Iterator[str]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        yield from fields(value, f"{prefix}{name}.") if isinstance(value, Config) else [prefix + name]


def changed(model: Any, key: str) -> Any:
    """With something else in a field, whether or not it would be a valid value."""
    name, _, rest = key.partition(".")
    value = getattr(model, name)
    if isinstance(value, tuple) and not rest:
        return model.model_copy(update={name: () if value else (7919,)})
    return model.model_copy(update={name: changed(value, rest) if rest else 7919 if value != 7919 else 7920})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_field_of_a_recipe_is_looked_at_or_the_treatment_or_changes_no_result(made: Made, tmp_path: Path) -> None:
    study = made.content(seeds=[0])
    study["recipe"]["cache"] = {"top_k": 3}
    folder, plan = made.study(tmp_path / "s", **study)
    run = collect(folder, plan).runs[1]
    planned = planned_fields(run.planned, plan.study, None)
    assert planned.keys() <= finished_fields(run, plan.study, None).keys() <= set(CHECKED)
    # Whole, or not at all: the fields of tasks are looked at in test_incremental.py, those of a teacher by `teacher:`.
    every = [key for key in fields(run.planned.recipe) if key not in ("incremental", "teachers")]
    assert len(every) > 50
    unseen = []
    for key in every:
        cell = replace(run.planned, recipe=changed(run.planned.recipe, key))
        found = planned_fields(cell, plan.study, None)
        if own_seed(cell, cell.recipe) == THE_STUDYS and all(
            found[one].identity == planned[one].identity for one in planned
        ):
            unseen.append(key)
    left = [key for key in unseen if not any(f"{key}.".startswith(f"{one}.") for one in TREATMENT)]
    assert sorted(left) == sorted(WITHOUT_EFFECT)
    assert {key.rpartition(".")[0] for key in set(unseen) - set(left)} == {"", *TREATMENT[1:3], "training"}


def test_each_of_several_teachers_is_looked_at(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s", **made.content(seeds=[0]))
    run = collect(folder, plan).runs[1]
    teacher = run.planned.recipe.teacher
    assert teacher is not None

    def identity(second: str) -> object:
        two = {"a": teacher, "b": teacher.model_copy(update={"name": second})}
        recipe = run.planned.recipe.model_copy(update={"teacher": None, "teachers": two})
        return planned_fields(replace(run.planned, recipe=recipe), plan.study, None)["teacher"].identity

    assert identity("resnet20") == identity("resnet20") != identity("resnet14")


def test_whatever_may_be_varied_is_looked_at() -> None:
    assert set(get_args(AllowedDifference)) < set(CHECKED)


def test_what_most_have_is_the_measure_and_in_a_tie_the_baselines(made: Made, tmp_path: Path) -> None:
    folder, plan = made.planted(tmp_path / "a", {"training.threads": 2}, who=("labels", "mse"))
    assert texts(folder, plan) == ["threads: kl has 1, labels and mse 2" + SEEDS]
    two = made.content()["methods"][:2]
    folder, plan = made.planted(tmp_path / "b", {"training.threads": 2}, methods=two, baseline="kl")
    assert texts(folder, plan) == ["threads: labels has 1, kl 2" + SEEDS]


def test_several_that_differ_are_reported_in_one_line(made: Made, tmp_path: Path) -> None:
    study = made.content()
    study["methods"] += [{"name": name} for name in ("a", "b", "c")]
    folder, plan = made.planted(tmp_path / "s", {"training.threads": 2}, who=("kl", "mse"), **study)
    assert texts(folder, plan) == ["threads: kl and mse have 2, the others 1" + SEEDS]


def test_seeds_and_pairs_are_merged_and_named(made: Made, tmp_path: Path) -> None:
    pairs = [{"name": "p"}, {"name": "q", "set": {"data.batch_size": 50}}]
    folder, plan = made.planted(tmp_path / "s", {"training.threads": 2}, model_pairs=pairs)
    found = inequalities(plan, collect(folder, plan).runs)
    assert [one.text for one in found] == ["threads: kl has 2, labels and mse 1 (pairs p and q, seeds 0, 1)"]
    assert found[0].as_dict() == {
        "what": "threads",
        "pair": "p",
        "seed": 0,
        "methods": ["kl"],
        "pairs": ["p", "q"],
        "seeds": [0, 1],
        "text": found[0].text,
    }


def test_before_any_run_nothing_is_found(tmp_path: Path) -> None:
    plan = plan_of(study_of(), StudyFolder(tmp_path))
    assert inequalities(plan, ()) == []
