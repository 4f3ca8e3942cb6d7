"""Runs that were tampered with are found and named, whatever their hashes say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillroom.files import canonical_json, digest
from stillroom.study.collect import collect
from stillroom.study.equality import checked_fields, inequalities
from study.finished import KL, Made, edit, edit_tensors, lines_of, made, texts, write_lines

__all__ = ["made"]


def summary(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda run: edit(run / "summary.json", change)


def best_epoch(run: Path) -> None:
    """Report the figures of the first evaluation, as choosing the best on the test images would."""
    first = next(line for line in lines_of(run / "metrics.jsonl") if line["split"] == "test")
    figures = {key: first[key] for key in ("top1", "top5", "nll", "ece", "agreement", "teacher_kl")}
    figures["correct"] = round(first["top1"] * 0.6)
    edit(run / "summary.json", lambda found: found.update(figures))


def stopped_early(run: Path) -> None:
    """Leave out all that came after the first epoch."""
    write_lines(run / "metrics.jsonl", [line for line in lines_of(run / "metrics.jsonl") if line["step"] <= 3])
    best_epoch(run)


def recipe(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def tamper(run: Path) -> None:
        content = yaml.safe_load((run / "recipe.yaml").read_text())
        change(content)
        (run / "recipe.yaml").write_text(yaml.safe_dump(content))
        edit(run / "summary.json", lambda found: found.update(recipe_hash=digest(canonical_json(content))))

    return tamper


def other_answers(run: Path) -> None:
    edit_tensors(run / "predictions.safetensors", lambda t: {**t, "student_logits": -t["student_logits"]})


def other_labels(run: Path) -> None:
    edit_tensors(run / "predictions.safetensors", lambda t: {**t, "labels": t["labels"].flip(0).contiguous()})


def hashed(name: str) -> Callable[[Path], None]:
    return summary(lambda found: found["hashes"].update({name: "0" * 64}))


def out_of_memory(run: Path) -> None:
    found = json.loads((run / "summary.json").read_text())
    budget = {
        "steps": 6, "batch_size": 32, "accumulate": 4, "processes": 2,
        "data": found["data"]["fingerprint"], "reported": "last",
    }  # fmt: skip
    found |= {"accumulate": 4, "processes": 2}
    found["hashes"]["budget"] = digest(canonical_json(budget))
    (run / "summary.json").write_text(json.dumps(found))


TAMPERED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "the best epoch": (
        best_epoch,
        ["best-on-test reporting: kl reports the figures after step 3, not those after the last, 6"],
    ),
    "the end left out": (
        stopped_early,
        ["best-on-test reporting: kl reports the figures after step 3, not those after the last, 6"],
    ),
    "a figure out of thin air": (
        summary(lambda found: found.update(nll=0.125)),
        ["reported epoch: kl reports nll 0.125, the last evaluation says"],
    ),
    "another order": (hashed("order"), ["order of images: kl did not see the order that the recipe gives"]),
    "other views": (hashed("views"), ["augmentation: kl did not see the views that the recipe gives"]),
    "other threads": (hashed("threads"), ["threads: kl did not run on the threads that the recipe gives"]),
    "another budget": (
        hashed("budget"),
        ["budget: kl did not have the steps, the batch size and the data that the recipe gives"],
    ),
    "other initial weights": (
        hashed("init"),
        ["initial weights: kl differs from labels and mse (the recipes do not say why)"],
    ),
    "parts and processes": (
        out_of_memory,
        ["micro-batches: kl has 4, labels and mse 1", "processes: kl has 2, labels and mse 1"],
    ),
    "another teacher of the same name": (
        summary(lambda found: found["teachers"]["teacher"].update(weights_hash="0" * 64)),
        ["teacher: kl differs from labels and mse, and the recipes do not say why"],
    ),
    "another recipe": (
        recipe(lambda found: found["training"].update(clip_norm=1.0)),
        ["recipe: kl ran with training.clip_norm 1 in place of none, which is not what the study asks for"],
    ),
    "a longer run": (
        recipe(lambda found: found["training"].update(epochs=3)),
        [
            "recipe: kl ran with training.epochs 3 in place of 2, which is not what the study asks for",
            "order of images: kl did not see the order that the recipe gives",
            "augmentation: kl did not see the views that the recipe gives",
            "budget: kl did 6 steps in place of the recipe's 9",
            "budget: kl did not have the steps, the batch size and the data that the recipe gives",
            "best-on-test reporting: kl reports the figures after step 6, not those after the last, 9",
        ],
    ),
    "a recipe put there later": (
        summary(lambda found: found.update(recipe_hash="0" * 64)),
        ["recipe: kl has a recipe.yaml that its results were not made with"],
    ),
    "another run's seed": (
        summary(lambda found: found.update(seed=5)),
        ["recipe: kl ran with seed 5 in place of the recipe's 1"],
    ),
    "other answers": (other_answers, ["reported figures: kl reports "]),
    "another precision": (
        summary(lambda found: found.update(precision="bfloat16")),
        ["precision: kl has bfloat16, labels and mse float32", "precision: kl ran in bfloat16 in place of"],
    ),
    "another torch": (
        lambda run: edit(run / "environment.json", lambda found: found.update(torch="1.0")),
        ["versions: kl has torch 1.0, labels and mse "],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_run_is_found_and_named(made: Made, tmp_path: Path, name: str) -> None:
    tamper, wanted = TAMPERED[name]
    folder, plan = made.study(tmp_path / "s")
    tamper(folder.run("all", "kl", 1))
    found = inequalities(plan, collect(folder, plan).runs)
    for line in wanted:
        assert any(one.text.startswith(line) for one in found), [one.text for one in found]
    assert {(one.methods, one.places) for one in found} == {(("kl",), (("all", 1),))}
    if name in ("the best epoch", "the end left out", "a figure out of thin air"):
        # The predictions then tell another story, too.
        assert found.pop().what == "reported figures"
    if name != "other answers":
        assert len(found) == len(wanted), [one.text for one in found]


def test_what_follows_from_what_shall_differ_is_compared_where_that_is_the_same(made: Made, tmp_path: Path) -> None:
    few = {"data.train_limit": 70, "training.steps": 6}
    methods = [
        {"name": "small"},
        {"name": "small-kl", "set": {"losses": KL}},
        {"name": "wide", "set": {"student.options.hidden": [3]}},
        {"name": "taught", "set": {"student": {"weights": str(made.weights()), "options": {"hidden": [8]}}}},
        {"name": "few", "set": few},
        {"name": "few-kl", "set": {**few, "losses": KL}},
    ]
    folder, plan = made.study(tmp_path / "s", methods=methods, allowed_differences=["student", "data"], seeds=[0])
    assert texts(folder, plan) == []
    assert {"initial weights", "order of images", "test images"} <= set(checked_fields(plan.study))
    hashed("init")(folder.run("all", "small-kl", 0))
    recipe(lambda found: found.update(seed=7))(folder.run("all", "few-kl", 0))
    other_labels(folder.run("all", "few-kl", 0))
    found = [line for line in texts(folder, plan) if " differs from " in line]
    assert found == [
        "initial weights: small-kl differs from the others (the recipes do not say why) (seed 0)",
        "order of images: few-kl differs from few (seed 7 against the study's) (seed 0)",
        "test images: few-kl differs from few (the recipes do not say why) (seed 0)",
    ]


def test_other_labels_are_found_though_their_figures_agree(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    other_labels(folder.run("all", "kl", 1))
    found = texts(folder, plan)
    assert "test images: kl differs from labels and mse (the recipes do not say why) (seed 1)" in found


def test_a_better_count_than_the_predictions_give_is_found(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    run = folder.run("all", "mse", 0)
    right = json.loads((run / "summary.json").read_text())["correct"]
    edit(run / "summary.json", lambda found: found.update(correct=right + 1))
    found = texts(folder, plan)
    assert "which is not" in found[0]
    line = f"reported figures: mse reports {right + 1} of 60 right, the predictions give {right} of 60 (seed 0)"
    assert found[1] == line


def test_runs_of_one_method_with_another_torch_are_reported_by_their_seeds(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    for name in ("labels", "kl", "mse"):
        path = folder.run("all", name, 1) / "environment.json"
        edit(path, lambda found: found.update(torch="1.0"))
    edit(folder.run("all", "mse", 1) / "environment.json", lambda found: found.update(torch="2.0"))
    assert [line.partition(",")[0] for line in texts(folder, plan)] == [
        "versions: labels and kl have torch 1.0",
        "versions: mse has torch 2.0",
    ]
    assert "the other runs" in texts(folder, plan)[0]


def test_a_run_put_in_anothers_place_is_found(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    shutil.rmtree(folder.run("all", "kl", 1))
    shutil.copytree(folder.run("all", "kl", 0), folder.run("all", "kl", 1))
    found = texts(folder, plan)
    assert found[0] == "recipe: kl ran with seed 0 in place of 1, which is not what the study asks for (seed 1)"
    assert any(line.startswith("initial weights: kl differs") for line in found)
