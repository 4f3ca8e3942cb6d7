"""A recipe becomes the study that takes its teacher apart, and its results what each level brings."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark_module import benchmark
from stillroom.errors import BadInput
from stillroom.losses import targets
from stillroom.recipe import Recipe, parse_recipe
from stillroom.study.compare import compare
from stillroom.study.config import Study
from stillroom.study.dissect import LEVELS, PARTS, attribution, dissecting
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.equality import planned_differences
from stillroom.study.plan import StudyFolder, plan_of
from stillroom.study.tuning import check_spaces
from stillroom.teachers.class_means import ClassMeans

truth = benchmark("dissect_truth")

VALUES = {
    "labels": [30.0, 31.0, 32.0],
    "universe": [31.0, 32.0, 32.5],
    "domain": [33.0, 34.5, 35.0],
    "instance": [32.0, 33.0, 33.0],
    "domain_and_instance": [36.0, 36.0, 37.0],
    "full": [40.0, 41.5, 41.0],
}


def recipe(**changes: Any) -> Recipe:
    content = {
        "teacher": {"name": "mlp", "weights": "teacher.safetensors"},
        "student": {"name": "mlp"},
        "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 3}],
        "training": {"steps": 8},
    }
    return parse_recipe(content | changes)


def terms(study: Study, name: str) -> list[dict[str, Any]]:
    found = next(one for one in study.methods if one.name == name)
    losses: list[dict[str, Any]] = found.set["losses"]
    return losses


def results(values: dict[str, list[float]], **changes: Any) -> dict[str, Any]:
    cells = [
        {"pair": "all", "method": name, "seeds": {str(seed): value for seed, value in enumerate(mine)}}
        for name, mine in values.items()
    ]
    return {"model_pairs": [{"name": "all"}], "cells": cells, "level": 0.95, "equal": True, "missing": [], **changes}


def test_methods_differ_in_their_target_alone(tmp_path: Any) -> None:
    study = dissecting(recipe(), seeds=(4, 5))
    assert [one.name for one in study.methods] == ["labels", *(level.name for level in LEVELS)]
    assert (study.baseline_name, study.seeds, study.tuning) == ("labels", (4, 5), None)
    whole = terms(study, "full")
    assert whole == [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 3.0}]
    for level in LEVELS[:-1]:
        first, last = terms(study, level.name)
        assert last.pop("target") == {"name": level.target}
        assert [first, last] == whole
        assert set(next(one for one in study.methods if one.name == level.name).set) == {"losses"}
    assert len(plan_of(study, StudyFolder(tmp_path / "study")).runs) == 12


def test_trials_of_the_full_output_set_the_options_of_all(tmp_path: Any) -> None:
    study, folder = dissecting(recipe(), trials=3), StudyFolder(tmp_path / "study")
    assert study.tuning is not None
    check_spaces(study, folder)
    assert planned_differences(plan_of(study, folder)) == []
    chosen = {("all", "full"): {"training.optimizer.lr": 0.07, "losses.kl.temperature": 8.0}}
    for run in plan_of(study, folder, chosen).runs:
        assert run.recipe.training.optimizer.lr == 0.07
        if run.method != "labels":
            assert run.recipe.losses[1].softening_temperature == 8.0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"teacher": None, "losses": [{"name": "cross_entropy"}]}, "teacher: got None; expected one teacher model"),
        ({"losses": [{"name": "logit_mse"}]}, r"losses: got \['logit_mse'\]; expected kl among them"),
    ],
)
def test_a_recipe_that_cannot_be_taken_apart_is_reported(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        dissecting(recipe(**changes))


def test_parts_by_hand_and_their_sum() -> None:
    found = attribution(results(VALUES))["pairs"][0]
    means = {part["name"]: part["mean"] for part in found["parts"]}
    assert means == pytest.approx(
        {
            "universe": (1 + 1 + 0.5) / 3,
            "domain": (2 + 2.5 + 2.5) / 3,
            "instance": (1 + 1 + 0.5) / 3,
            "interaction": (2 + 0.5 + 1.5) / 3,
            "what is left": (4 + 5.5 + 4) / 3,
        }
    )
    assert sum(means.values()) == pytest.approx(found["total"]["mean"])
    assert sum(part["share"] for part in found["parts"]) == pytest.approx(1)
    # Student's t of two degrees of freedom, on 10, 10.5 and 9.
    assert (found["total"]["low"], found["total"]["high"]) == pytest.approx((7.936, 11.731), abs=1e-3)
    assert found["text"].startswith("The full output brings +9.83 [+7.94, +11.73]. Clearly different from 0: ")


def test_parts_are_a_sum_whatever_the_figures() -> None:
    factors: dict[str, int] = {}
    for part in PARTS:
        for name, factor in part.of.items():
            factors[name] = factors.get(name, 0) + factor
    assert {name: factor for name, factor in factors.items() if factor} == {"full": 1, "labels": -1}


def test_no_shares_of_a_gain_that_may_be_nothing() -> None:
    found = attribution(results(VALUES | {"full": [29.0, 32.0, 32.5]}))["pairs"][0]
    assert all(part["share"] is None for part in found["parts"])
    assert "not clearly different from 0" in found["text"]


def test_missing_runs_leave_their_part_open() -> None:
    found = attribution(results({**VALUES, "instance": [], "full": [40.0]}, missing=[{}]))
    parts = {part["name"]: part for part in found["pairs"][0]["parts"]}
    assert parts["instance"]["mean"] is None
    assert parts["what is left"]["seeds"] == 1
    assert not found["sound"]


@pytest.mark.parametrize("teacher", ["relations", "confidence", "both"])
def test_answers_made_of_some_levels_are_the_targets_of_these(teacher: str) -> None:
    """So the full output brings exactly what these levels bring: what is left, and what is not theirs, is 0."""
    labels = torch.arange(20) % 4
    probability = np.where(np.arange(20) < 8, 0.9, 0.4)
    confident, related = truth.TEACHERS[teacher]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truth, "TASK", {"classes": 4, "superclasses": 2})
        answers = truth.answers(probability, labels.numpy(), confident=confident, related=related)
    table = torch.zeros(4, 4, dtype=torch.float64).index_add_(0, labels, torch.from_numpy(answers)) / 5
    means = ClassMeans(table, torch.full((4,), 5.0, dtype=torch.float64))
    rho = {
        "universe": targets.mean_confidence(labels, means),
        "domain": targets.class_relations(labels, means),
        "instance": targets.true_class(torch.from_numpy(answers), labels),
        "both": targets.true_class_relations(torch.from_numpy(answers), labels, means),
    }
    same = {name for name, each in rho.items() if torch.allclose(each, torch.from_numpy(answers), atol=1e-9)}
    assert same == {"relations": {"domain", "both"}, "confidence": {"instance", "both"}, "both": {"both"}}[teacher]
    alike = {(a, b) for a, b in itertools.combinations(rho, 2) if torch.allclose(rho[a], rho[b], atol=1e-9)}
    assert (
        alike
        == {
            "relations": {("universe", "instance"), ("domain", "both")},
            "confidence": {("universe", "domain"), ("instance", "both")},
            "both": set(),
        }[teacher]
    )


def test_a_teacher_of_class_relations_is_shown_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of benchmarks/dissect_truth.py, with all three teachers, more images and seeds, and whole trainings."""
    monkeypatch.setattr(truth, "TASK", {**truth.TASK, "train": 300, "test": 1000})
    study = truth.study_of(tmp_path / "teachers", (0, 1), ("relations",), epochs=2)
    found = compare(study, tmp_path / "study", lambda folder, threads: InProcessEngine())
    assert found.sound
    parts = {part["name"]: part["mean"] for part in attribution(found.results)["pairs"][0]["parts"]}
    assert [parts[name] for name in ("instance", "interaction", "what is left")] == pytest.approx([0, 0, 0], abs=0.11)
    assert parts["domain"] != 0
