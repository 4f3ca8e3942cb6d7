"""A recipe becomes the study that takes its teacher apart, and its results what each level brings."""

from __future__ import annotations

from typing import Any

import pytest

from stillroom.errors import BadInput
from stillroom.recipe import Recipe, parse_recipe
from stillroom.study.config import Study
from stillroom.study.dissect import LEVELS, PARTS, attribution, dissecting
from stillroom.study.plan import StudyFolder, plan_of
from stillroom.study.tuning import check_spaces

VALUES = {
    "labels": [30.0, 31.0, 32.0],
    "uniform": [31.0, 32.0, 32.5],
    "class_similarity": [33.0, 34.5, 35.0],
    "true_class": [32.0, 33.0, 33.0],
    "true_class_similarity": [36.0, 36.0, 37.0],
    "top_k": [36.0, 37.0, 38.0],
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


def test_every_level_is_a_method_of_equal_trials(tmp_path: Any) -> None:
    study = dissecting(recipe(), classes=10, seeds=(4, 5))
    assert [one.name for one in study.methods] == ["labels", *(level.name for level in LEVELS)]
    assert (study.baseline_name, study.seeds) == ("labels", (4, 5))
    assert terms(study, "full")[1] == {"name": "kl", "weight": 0.9, "temperature": 3.0}
    assert terms(study, "true_class")[1]["target"] == {"name": "true_class"}
    assert terms(study, "top_k")[1]["target"]["k"] == 5
    assert [term["weight"] for term in terms(study, "uniform")] == pytest.approx([0.9, 0.09])
    folder = StudyFolder(tmp_path / "study")
    assert len(plan_of(study, folder).runs) == 14
    check_spaces(study, folder)
    assert dissecting(recipe(), classes=10, trials=0).tuning is None


@pytest.mark.parametrize("classes", [2, 3, 100])
def test_no_more_classes_are_kept_than_there_are(classes: int) -> None:
    study = dissecting(recipe(), classes=classes)
    top = next(one for one in study.methods if one.name == "top_k")
    tried = top.tune.get("losses.kl.target.k", ())
    assert all(k <= classes for k in (terms(study, "top_k")[1]["target"]["k"], *tried))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"teacher": None, "losses": [{"name": "cross_entropy"}]}, "teacher: got None; expected one teacher model"),
        ({"losses": [{"name": "logit_mse"}]}, r"losses: got \['logit_mse'\]; expected kl among them"),
    ],
)
def test_a_recipe_that_cannot_be_taken_apart_is_reported(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        dissecting(recipe(**changes), classes=10)


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
    found = attribution(results({**VALUES, "true_class": [], "full": [40.0]}, missing=[{}]))
    parts = {part["name"]: part for part in found["pairs"][0]["parts"]}
    assert parts["instance"]["mean"] is None
    assert parts["what is left"]["seeds"] == 1
    assert not found["sound"]
