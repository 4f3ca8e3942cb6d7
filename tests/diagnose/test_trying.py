"""Remedies are tried at an equal budget, each alone and all together; what they bring back has its interval."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stillroom.diagnose.finding import Finding, Remedy, Verdict
from stillroom.diagnose.run import diagnose_run
from stillroom.diagnose.trying import fixes_of, study_of, try_remedies, varied
from stillroom.diagnose.writing import diagnosis_of, write_diagnosis
from stillroom.errors import BadInput
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.run import execute
from stillroom.study.config import Study
from stillroom.study.plan import StudyFolder, plan_of
from study.small import Here

RECIPE: dict[str, Any] = {
    "data": {"train_limit": 300, "test_limit": 200, "batch_size": 32},
    "student": {"name": "mlp", "options": {"hidden": [16]}},
    "training": {"epochs": 8, "log_every": 4, "precision": "float32", "device": "cpu"},
}
KL = [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9}]


def recipe(**changes: Any) -> Recipe:
    return parse_recipe({**RECIPE, **changes})


def taught(**changes: Any) -> Recipe:
    return recipe(teacher={"name": "mlp", "weights": "t.safetensors"}, losses=KL, **changes)


def finding(check: str, overrides: Mapping[str, Any], verdict: Verdict = "problem") -> Finding:
    return Finding(check, verdict, f"{check} it is.", remedy=Remedy("Do it.", overrides))


def methods(study: Study) -> dict[str, Any]:
    return {one.name: one.set for one in study.methods}


def test_each_remedy_is_a_method_and_so_are_all_and_labels() -> None:
    fixes = fixes_of(
        taught(),
        [
            finding("slow", {"training.optimizer.lr": 0.3}, "warning"),
            finding("cold", {"losses.kl.temperature": 2.0}),
            finding("fine", {"training.clip_norm": 1.0}, "ok"),
        ],
    )
    study = study_of(taught(), fixes, (3, 4))
    found = methods(study)
    assert list(found) == ["as-it-is", "fix-cold", "fix-slow", "all-fixes", "labels"]
    assert found["all-fixes"] == {"losses.kl.temperature": 2.0, "training.optimizer.lr": 0.3}
    assert found["labels"] == {"losses": [{"name": "cross_entropy"}]}
    assert (study.baseline_name, study.seeds, study.allowed_differences) == ("as-it-is", (3, 4), ())
    cells = plan_of(study, StudyFolder(Path("s"))).cells
    made = {(cell.method, cell.seed): cell.recipe for cell in cells}
    assert made["fix-cold", 3].losses[1].model_dump()["temperature"] == 2
    assert made["all-fixes", 4].training.optimizer.lr == 0.3
    assert made["as-it-is", 4].losses == taught().losses
    assert {one.training.epochs for one in made.values()} == {8}


def test_of_two_that_want_one_field_the_first_by_severity_is_taken_and_it_is_told() -> None:
    fixes = fixes_of(
        taught(),
        [
            finding("late", {"losses.kl.weight": 0.2, "training.clip_norm": 1.0}, "warning"),
            finding("early", {"losses.kl.weight": 0.5}),
            finding("whole", {"losses": [{"name": "cross_entropy"}]}, "warning"),
        ],
    )
    assert fixes.together is not None
    assert fixes.together.overrides == {"losses.kl.weight": 0.5, "training.clip_norm": 1.0}
    assert fixes.conflicts[0] == "losses.kl.weight: early wants 0.5, late 0.2; the first is taken"
    assert "early wants 0.5, whole losses" in fixes.conflicts[1]


def test_what_two_findings_want_alike_is_tried_once() -> None:
    same = {"training.clip_norm": 1.0}
    fixes = fixes_of(taught(), [finding("one", same), finding("two", same)])
    assert [(fix.name, fix.checks) for fix in fixes.each] == [("fix-one", ["one", "two"])]
    assert fixes.together is None, "all of one remedy are that remedy"


def test_one_check_found_twice_has_two_names() -> None:
    fixes = fixes_of(taught(), [finding("a b", {"training.clip_norm": value}) for value in (1.0, 2.0)])
    assert [fix.name for fix in fixes.each] == ["fix-a-b", "fix-a-b-2"]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({}, "nothing that a recipe can say"),
        ({"training.epochs": 8}, "the recipe is as its remedy wants it"),
        ({"training.epohs": 8}, "did you mean 'epochs'"),
        ({"losses.logit_mse.weight": 1.0}, "an item of the list by name"),
    ],
)
def test_what_cannot_be_tried_is_named_with_the_reason(overrides: dict[str, Any], why: str) -> None:
    fixes = fixes_of(taught(), [finding("sad", overrides)])
    assert fixes.each == []
    assert why in fixes.not_tried["sad"]


def test_nothing_is_run_where_nothing_can_be_tried(tmp_path: Path) -> None:
    told = try_remedies(taught(), [finding("sad", {})], tmp_path)
    assert told["fixes"] == []
    assert told["not_tried"][0]["check"] == "sad"
    assert list(tmp_path.iterdir()) == []
    page = write_diagnosis(tmp_path, "runs/x", [finding("sad", {})], told)
    assert "No remedy could be tried" in page.read_text(encoding="utf-8")


def test_data_of_python_cannot_be_read_again(tmp_path: Path) -> None:
    own = parse_recipe({**RECIPE, "data": {"source": "python"}})
    with pytest.raises(BadInput, match=r"data\.source"):
        try_remedies(own, [finding("sad", {"training.clip_norm": 1.0})], tmp_path)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("training.epochs", "budget"),
        ("training.optimizer.lr", None),
        ("losses.kl.weight", None),
        ("data.augmentation.pad_crop", "augmentation"),
        ("data.batch_size", "batch size"),
        ("data.train_limit", "data"),
        ("teacher.preprocess", "teacher"),
        ("student.options.width", "student"),
        ("training.ema", "moving average"),
    ],
)
def test_a_study_is_told_what_its_remedies_change(key: str, what: str | None) -> None:
    assert varied(key) == what


def test_a_longer_run_in_the_other_unit_takes_the_place_of_its_length() -> None:
    fixes = fixes_of(recipe(), [finding("short", {"training.steps": 200})])
    study = study_of(recipe(), fixes, (0,))
    assert study.allowed_differences == ("budget",)
    lengths = {
        cell.method: (cell.recipe.training.epochs, cell.recipe.training.steps)
        for cell in plan_of(study, StudyFolder(Path("s"))).cells
    }
    assert lengths == {"as-it-is": (8, None), "fix-short": (None, 200)}


def test_a_sick_run_is_mended_and_what_that_brings_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillroom.diagnose.trying.engine_maker", lambda *_: lambda folder, threads: Here())
    teacher = execute(recipe(student={"name": "mlp"}), tmp_path / "teacher", latency=False)
    broken = recipe(
        teacher={"name": "mlp", "weights": str(teacher.path / "student.safetensors")},
        losses=KL,
        training={**RECIPE["training"], "optimizer": {"lr": 0.1, "weight_decay": 1.0}},
    )
    run = execute(broken, tmp_path / "run", latency=False).path
    findings = diagnose_run(run)
    ailing = {one.check: one.verdict for one in findings if one.verdict in ("problem", "warning")}
    assert ailing["over_regularising"] == "problem"

    tried = try_remedies(broken, findings, tmp_path / "out", seeds=(0, 1, 2))
    fix = next(one for one in tried["fixes"] if "over_regularising" in one["checks"])
    assert (tried["equal"], tried["inequalities"], tried["missing"]) == (True, [], [])
    assert fix["verdict"] == "better"
    assert fix["low"] > 20, "points of accuracy"
    assert fix["times_the_steps"] == 1
    assert fix["regained"] == pytest.approx(fix["level"]["mean"] - tried["as_it_is"]["mean"])
    assert tried["lost"] == pytest.approx(tried["lost"] and max(_means(tried)) - tried["as_it_is"]["mean"])
    assert fix["share_of_loss"] == pytest.approx(fix["regained"] / tried["lost"])
    assert tried["labels"]["level"]["seeds"] == 3

    page = write_diagnosis(tmp_path / "out", str(run), findings, tried)
    told = json.loads((tmp_path / "out" / "diagnosis.json").read_text(encoding="utf-8"))
    assert told == json.loads(json.dumps(diagnosis_of(str(run), findings, tried)))
    assert f"Tried: {fix['name']} regained" in told["headline"] or "Tried: all-fixes regained" in told["headline"]
    assert "What the remedies brought" in page.read_text(encoding="utf-8")

    # The same call goes on with the study, and finds it done.
    monkeypatch.setattr("stillroom.diagnose.trying.engine_maker", lambda *_: None)
    assert try_remedies(broken, findings, tmp_path / "out", seeds=(0, 1, 2)) == tried


def _means(tried: dict[str, Any]) -> list[float]:
    levels = [tried["as_it_is"], tried["labels"]["level"], *(fix["level"] for fix in tried["fixes"])]
    return [level["mean"] for level in levels]
