"""Remedies are trained at an equal budget, each alone and all together; what they regain has its interval."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.diagnose.run import diagnose_run
from stillroom.diagnose.verify import difference_of, plan_remedies, study_of, verify_remedies
from stillroom.errors import BadInput
from stillroom.recipe import Recipe, parse_recipe
from stillroom.report.diagnosis import write_diagnosis_page
from stillroom.run.run import execute
from stillroom.schema.diagnosis import Finding, Remedy, Verdict, Verification
from stillroom.study.config import Study
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.plan import StudyFolder, plan_of

RECIPE: dict[str, Any] = {
    "data": {"train_limit": 300, "test_limit": 200, "batch_size": 32},
    "student": {"name": "mlp", "options": {"hidden": [16]}},
    "training": {"epochs": 8, "log_every": 4, "precision": "float32", "device": "cpu"},
}
KL = [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9}]


def recipe(**changes: Any) -> Recipe:
    return parse_recipe({**RECIPE, **changes})


def distilled(**changes: Any) -> Recipe:
    return recipe(teacher={"name": "mlp", "weights": "t.safetensors"}, losses=KL, **changes)


def finding(check: str, overrides: Mapping[str, Any], verdict: Verdict = "problem") -> Finding:
    return Finding(check, verdict, f"{check} it is.", remedy=Remedy("Do it.", overrides))


def methods(study: Study) -> dict[str, Any]:
    return {one.name: one.set for one in study.methods}


def test_each_remedy_is_a_method_and_so_are_all_and_labels() -> None:
    plan = plan_remedies(
        distilled(),
        [
            finding("slow", {"training.optimizer.lr": 0.3}, "warning"),
            finding("cold", {"losses.kl.temperature": 2.0}),
            finding("fine", {"training.clip_norm": 1.0}, "ok"),
        ],
    )
    study = study_of(distilled(), plan, (3, 4))
    found = methods(study)
    assert list(found) == ["unchanged", "remedy-cold", "remedy-slow", "all-remedies", "labels"]
    assert found["all-remedies"] == {"losses.kl.temperature": 2.0, "training.optimizer.lr": 0.3}
    assert found["labels"] == {"losses": [{"name": "cross_entropy"}]}
    assert (study.baseline_name, study.seeds, study.allowed_differences) == ("unchanged", (3, 4), ())
    cells = plan_of(study, StudyFolder(Path("s"))).runs
    made = {(cell.method, cell.seed): cell.recipe for cell in cells}
    assert made["remedy-cold", 3].losses[1].model_dump()["temperature"] == 2
    assert made["all-remedies", 4].training.optimizer.lr == 0.3
    assert made["unchanged", 4].losses == distilled().losses
    assert {one.training.epochs for one in made.values()} == {8}


def test_of_two_that_change_one_field_the_first_is_taken_and_the_conflict_is_listed() -> None:
    plan = plan_remedies(
        distilled(),
        [
            finding("late", {"losses.kl.weight": 0.2, "training.clip_norm": 1.0}, "warning"),
            finding("early", {"losses.kl.weight": 0.5}),
            finding("whole", {"losses": [{"name": "cross_entropy"}]}, "warning"),
        ],
    )
    assert plan.together is not None
    assert plan.together.overrides == {"losses.kl.weight": 0.5, "training.clip_norm": 1.0}
    assert plan.conflicts[0] == "losses.kl.weight: early wants 0.5, late 0.2; the first is taken"
    assert "early wants 0.5, whole losses" in plan.conflicts[1]


def test_the_same_remedy_of_two_findings_is_trained_once() -> None:
    same = {"training.clip_norm": 1.0}
    plan = plan_remedies(distilled(), [finding("one", same), finding("two", same)])
    assert [(remedy.name, remedy.checks) for remedy in plan.each] == [("remedy-one", ["one", "two"])]
    assert plan.together is None, "all of one remedy are that remedy"


def test_one_check_found_twice_has_two_names() -> None:
    plan = plan_remedies(distilled(), [finding("a b", {"training.clip_norm": value}) for value in (1.0, 2.0)])
    assert [remedy.name for remedy in plan.each] == ["remedy-a-b", "remedy-a-b-2"]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({}, "cannot be written in a recipe"),
        ({"training.epochs": 8}, "the recipe already has what its remedy sets"),
        ({"training.epohs": 8}, "did you mean 'epochs'"),
        ({"losses.logit_mse.weight": 1.0}, "an item of the list by name"),
    ],
)
def test_a_remedy_that_cannot_be_trained_is_listed_with_the_reason(overrides: dict[str, Any], why: str) -> None:
    plan = plan_remedies(distilled(), [finding("sad", overrides)])
    assert plan.each == []
    assert why in plan.not_verified["sad"]


def written(folder: Path, target: str, findings: list[Finding], verification: Verification) -> tuple[Any, str]:
    """The JSON and the page of a diagnosis."""
    Diagnosis.of(target, findings, verification).write(folder)
    page = write_diagnosis_page(folder).read_text(encoding="utf-8")
    return json.loads((folder / "diagnosis.json").read_text(encoding="utf-8")), page


def test_nothing_is_run_where_no_remedy_can_be_trained(tmp_path: Path) -> None:
    verification = verify_remedies(distilled(), [finding("sad", {})], tmp_path)
    assert verification.remedies == ()
    assert verification.not_verified[0].check == "sad"
    assert list(tmp_path.iterdir()) == []
    _, page = written(tmp_path, "runs/x", [finding("sad", {})], verification)
    assert "No remedy could be trained" in page


def test_data_of_python_cannot_be_read_again(tmp_path: Path) -> None:
    own = parse_recipe({**RECIPE, "data": {"source": "python"}})
    with pytest.raises(BadInput, match=r"data\.source"):
        verify_remedies(own, [finding("sad", {"training.clip_norm": 1.0})], tmp_path)


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
def test_a_study_lists_what_its_remedies_change(key: str, what: str | None) -> None:
    assert difference_of(key) == what


def test_a_longer_run_in_the_other_unit_takes_the_place_of_its_length() -> None:
    plan = plan_remedies(recipe(), [finding("short", {"training.steps": 200})])
    study = study_of(recipe(), plan, (0,))
    assert study.allowed_differences == ("budget",)
    lengths = {
        cell.method: (cell.recipe.training.epochs, cell.recipe.training.steps)
        for cell in plan_of(study, StudyFolder(Path("s"))).runs
    }
    assert lengths == {"unchanged": (8, None), "remedy-short": (None, 200)}


def test_a_remedy_is_trained_and_what_it_regains_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillroom.diagnose.verify.engine_maker", lambda *_: lambda folder, threads: InProcessEngine())
    teacher = execute(recipe(student={"name": "mlp"}), tmp_path / "teacher", latency=False)
    broken = recipe(
        teacher={"name": "mlp", "weights": str(teacher.path / "student.safetensors")},
        losses=KL,
        training={**RECIPE["training"], "optimizer": {"lr": 0.1, "weight_decay": 1.0}},
    )
    run = execute(broken, tmp_path / "run", latency=False).path
    findings = [one for one in diagnose_run(run) if one.check == "over_regularising"]
    assert [one.verdict for one in findings] == ["problem"]

    verification = verify_remedies(broken, findings, tmp_path / "out", seeds=(0, 1, 2))
    (remedy,) = verification.remedies
    assert remedy.checks == ("over_regularising",)
    assert (verification.equal, verification.inequalities, verification.missing) == (True, (), ())
    assert remedy.verdict == "better"
    assert remedy.low is not None
    assert remedy.low > 20, "points of accuracy"
    assert remedy.relative_steps == 1
    assert verification.unchanged is not None
    assert verification.labels is not None
    means = [one.mean or 0.0 for one in (verification.unchanged, verification.labels.score, remedy.score)]
    assert remedy.regained == pytest.approx(means[2] - means[0])
    assert verification.lost == pytest.approx(max(means) - means[0])
    assert remedy.share_of_loss == pytest.approx(remedy.regained / verification.lost)
    assert verification.labels.score.seeds == 3

    content, page = written(tmp_path / "out", str(run), findings, verification)
    assert content == json.loads(json.dumps(Diagnosis.of(str(run), findings, verification).as_dict()))
    assert f"Verified: {remedy.name} regained" in content["headline"]
    assert "What the remedies brought" in page

    # The same call continues the study, and finds it done.
    monkeypatch.setattr("stillroom.diagnose.verify.engine_maker", lambda *_: None)
    assert verify_remedies(broken, findings, tmp_path / "out", seeds=(0, 1, 2)) == verification
