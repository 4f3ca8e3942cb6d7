"""Studies of classes that come in tasks: equal by what runs left, reported over all tasks, tampering found."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.errors import BadInput
from stillroom.study.collect import collect
from stillroom.study.compare import compare
from stillroom.study.config import parse_study
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.equality import inequalities, planned_differences, planned_fields
from stillroom.study.plan import StudyFolder, plan_of
from study.finished import edit

KL = [{"name": "cross_entropy"}, {"name": "kl", "temperature": 2}]
STUDY: dict[str, Any] = {
    "name": "in_tasks",
    "seeds": [0, 1],
    "budget": {"steps": 4},
    "baseline": "finetune",
    "measure": "average_incremental",
    "allowed_differences": ["memory"],
    "recipe": {
        "data": {"train_limit": 80, "test_limit": 40, "batch_size": 16},
        "student": {"name": "mlp", "options": {"hidden": [8]}},
        "incremental": {"tasks": 2},
        "training": {"log_every": 2, "evaluate_every": 99, "precision": "float32", "device": "cpu"},
    },
    "methods": [
        {"name": "finetune", "set": {"incremental.preset": "finetune"}},
        {"name": "kl", "set": {"incremental.memory": 20, "losses": KL}},
        {"name": "joint", "set": {"incremental.preset": "joint"}},
    ],
}


def study(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(STUDY), **changes}


def with_kl(**options: Any) -> dict[str, Any]:
    """The study with other options of tasks for one method."""
    changed = study()
    changed["methods"][1]["set"] = {"losses": KL, **options}
    return changed


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished study."""
    out = tmp_path_factory.mktemp("study") / "s"
    found = compare(parse_study(study()), out, lambda folder, threads: InProcessEngine())
    assert found.sound, found.results["inequalities"]
    return out


def test_results_tell_of_all_tasks(done: Path) -> None:
    results = json.loads((done / "results.json").read_text())
    assert {"tasks"} <= set(results["checked"])
    records = {
        (name, seed): json.loads((done / f"runs/all/{name}/seed-{seed}/incremental.json").read_text())
        for name in ("finetune", "kl", "joint")
        for seed in (0, 1)
    }
    (shown,) = results["incremental"]
    assert (shown["pair"], shown["joint"]) == ("all", "joint")
    for one in shown["methods"]:
        mine = [records[one["method"], seed] for seed in (0, 1)]
        for place, task in enumerate(one["tasks"]):
            assert task["accuracy"]["mean"] == pytest.approx(
                np.mean([each["tasks"][place]["accuracy"] for each in mine])
            )
        ceiling = [records["joint", seed] for seed in (0, 1)]
        shares = [
            np.mean([a["accuracy"] / b["accuracy"] for a, b in zip(each["tasks"], top["tasks"], strict=True)])
            for each, top in zip(mine, ceiling, strict=True)
        ]
        assert one["omega"]["mean"] == pytest.approx(np.mean(shares))
    cells = {cell["method"]: cell["seeds"] for cell in results["cells"]}
    assert cells["kl"] == {str(seed): records["kl", seed]["metrics"]["average"] for seed in (0, 1)}
    with (done / "runs.csv").open() as table:
        row = next(csv.DictReader(table))
    assert float(row["forgetting"]) == records["finetune", 0]["metrics"]["forgetting"]


def test_what_tasks_cost_is_reported_of_all_of_them(done: Path) -> None:
    with (done / "cost.csv").open() as table:
        row = next(row for row in csv.DictReader(table) if row["method"] == "kl")
    timing = (done / "runs/all/kl/seed-0/timing.jsonl").read_text().splitlines()
    ends: dict[int, float] = {}
    task = 0
    for event in map(json.loads, timing):
        task = event["task"] if event["event"] == "task" else task
        if event["event"] == "progress":
            ends[task] = event["seconds"]
    assert len(ends) == 2
    assert float(row["training_seconds"]) == pytest.approx(sum(ends.values()), abs=1e-3)
    # The second task's teacher, asked about 4 batches of 16.
    assert int(row["teacher_answers"]) == 64


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"allowed_differences": []}, "memory: kl has exemplars 20"),
        (with_kl(**{"incremental.memory": 20, "incremental.class_seed": 7}), "tasks: kl has classes shuffled by 7"),
        (with_kl(**{"incremental.memory": 20, "incremental.tasks": 3}), "tasks: kl has tasks 3"),
        (with_kl(**{"incremental": None, "losses": [{"name": "cross_entropy"}]}), "tasks: kl has"),
    ],
)
def test_methods_must_have_the_same_tasks_and_the_memory_they_say(changed: dict[str, Any], shown: str) -> None:
    plan = plan_of(parse_study(study(**changed)), StudyFolder(Path("s")))
    assert any(shown in line for line in planned_differences(plan)), planned_differences(plan)
    assert planned_differences(plan_of(parse_study(study()), StudyFolder(Path("s")))) == []


def test_every_option_of_tasks_is_looked_at_or_is_the_treatment() -> None:
    plan = plan_of(parse_study(study()), StudyFolder(Path("s")))
    cell = next(cell for cell in plan.runs if cell.method == "kl")
    planned = planned_fields(cell, plan.study, None)
    unseen = []
    assert cell.recipe.incremental is not None
    others = {"selection": "random", "predict_by": "nearest_mean", "joint": True, "preset": "icarl"}
    for name in type(cell.recipe.incremental).model_fields:
        options = cell.recipe.incremental.model_copy(update={name: others.get(name, 7)})
        other = replace(cell, recipe=cell.recipe.model_copy(update={"incremental": options}))
        found = planned_fields(other, plan.study, None)
        if all(found[one].identity == planned[one].identity for one in planned):
            unseen.append(name)
    # How it answers is what a method is; the others are names of what else is set.
    assert unseen == ["predict_by", "labels", "align_weights", "balance_terms", "task", "preset"]


def run_of(folder: Path) -> Path:
    return folder / "runs" / "all" / "kl" / "seed-0"


def _other_order(folder: Path) -> None:
    edit(run_of(folder) / "summary.json", lambda s: s["incremental"]["class_order"].reverse())


def _more_images(folder: Path) -> None:
    edit(run_of(folder) / "summary.json", lambda s: s["incremental"]["tasks"][1].update(train=40))


def _better(folder: Path) -> None:
    edit(run_of(folder) / "summary.json", lambda s: s["incremental"].update(average=99.0))


def _better_everywhere(folder: Path) -> None:
    edit(run_of(folder) / "incremental.json", lambda s: s["matrix"][1].__setitem__(0, 77.0))


def _best_on_test(folder: Path) -> None:
    edit(run_of(folder) / "summary.json", lambda s: s.update(top1=100 * 39 / 40, correct=39))


@pytest.mark.parametrize(
    ("tamper", "shown"),
    [
        (_other_order, "tasks: kl differs"),
        (_more_images, "order of images: kl did not see the order that the recipe gives"),
        (_better, "reported figures: kl reports average 99"),
        (_better_everywhere, "which its accuracies on each task do not give"),
        (_best_on_test, "reported epoch: kl reports"),
    ],
)
def test_what_was_changed_afterwards_is_found(
    done: Path, tmp_path: Path, tamper: Callable[[Path], None], shown: str
) -> None:
    # Without checksums: changed as an author of false results would, not as damage does.
    unlisted = shutil.ignore_patterns("checksums.sha256")
    folder = StudyFolder(Path(shutil.copytree(done, tmp_path / "s", ignore=unlisted)))
    plan = plan_of(parse_study(study()), folder)
    assert inequalities(plan, collect(folder, plan).runs) == []
    tamper(folder.path)
    found = [one.text for one in inequalities(plan, collect(folder, plan).runs)]
    assert any(shown in line for line in found), found


def test_a_damaged_record_is_named(done: Path, tmp_path: Path) -> None:
    # Without checksums: changed as an author of false results would, not as damage does.
    unlisted = shutil.ignore_patterns("checksums.sha256")
    folder = StudyFolder(Path(shutil.copytree(done, tmp_path / "s", ignore=unlisted)))
    edit(run_of(folder.path) / "incremental.json", lambda s: s.pop("matrix"))
    with pytest.raises(BadInput, match=r"incremental.json: matrix: missing"):
        collect(folder, plan_of(parse_study(study()), folder))


def test_trials_are_whole_sequences_on_what_is_held_out(tmp_path: Path) -> None:
    tuning = {"trials": 2, "length": 0.5, "holdout": 0.3, "space": {"training.optimizer.lr": [0.01, 0.2]}}
    content = study(seeds=[0], tuning=tuning, methods=STUDY["methods"][1:2], baseline="kl")
    engine = InProcessEngine()
    found = compare(parse_study(content), tmp_path / "s", lambda folder, threads: engine)
    assert found.sound, found.results["inequalities"]
    summary = json.loads((tmp_path / "s/trials/all/kl/trial-0/summary.json").read_text())
    assert (summary["steps"], summary["data"]["train"], summary["count"]) == (4, 56, 24)
    chosen = found.results["tuned"]["all"]["kl"]
    assert chosen["measure"] == "average_incremental"
    assert chosen["value"] == max(trial["value"] for trial in chosen["all"])


def test_a_budget_in_seconds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"budget.seconds: got 1.0; expected a budget in epochs or steps of each task"):
        compare(parse_study(study(budget={"seconds": 1})), tmp_path / "s", lambda folder, threads: InProcessEngine())


def test_a_study_without_tasks_does_not_speak_of_them() -> None:
    from stillroom.study.equality import checked_fields

    plain = study(allowed_differences=[], measure="top1", methods=[{"name": "a"}], baseline="a")
    plain["recipe"].pop("incremental")
    assert not {"tasks", "memory"} & set(checked_fields(parse_study(plain)))
