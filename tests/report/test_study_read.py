"""A study's folder that cannot be used is reported in one line; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from report.studies import FakeStudy, axis, edit_results, write_study
from stillroom.errors import BadInput
from stillroom.report.study.page import write_run_pages, write_study_report
from stillroom.schema.study import is_study

GONE = {"pair": "cifar100", "method": "kl", "seed": 0, "reason": "failed", "status": "failed"}
CELL = {"pair": "cifar100", "method": "labels", "count": 1, "mean": 1.0, "low": None, "high": None}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", FakeStudy(methods=("labels", "kl"), seeds=(0, 1), epochs=2))


def refused(study: Path) -> str:
    with pytest.raises(BadInput) as caught:
        write_study_report(study)
    message = str(caught.value)
    assert "\n" not in message
    assert not (study / "report.html").exists()
    return message


def test_what_is_a_study(study: Path, tmp_path: Path) -> None:
    assert is_study(study)
    assert not is_study(tmp_path)
    assert not is_study(tmp_path / "nowhere")


def test_folders_that_are_none(study: Path, tmp_path: Path) -> None:
    assert "expected a folder that exists" in refused(tmp_path / "nowhere")
    assert "expected a study's folder, with results.json" in refused(tmp_path)
    (study / "results.json").unlink()
    assert "a study with results; the `stillroom compare`" in refused(study)
    with pytest.raises(BadInput):
        write_run_pages(study)


@pytest.mark.parametrize("text", ["{", "[]", "", "\x00\xff", '{"a": ' * 5000, '{"schema": ' + "9" * 5000 + "}"])
def test_damaged_results(study: Path, text: str) -> None:
    (study / "results.json").write_text(text, encoding="latin-1")
    assert "results.json" in refused(study)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "schema: got 2; expected 1"),
        ({"name": None}, "name: got None; expected text"),
        ({"measure": []}, "measure: got []; expected a mapping"),
        ({"measure": {"name": "top1", "title": "x", "unit": "%", "digits": -1}}, "measure.digits: got -1"),
        ({"methods": []}, "methods: got []; expected at least one"),
        ({"model_pairs": []}, "model_pairs: got []; expected at least one"),
        ({"baseline": "crd"}, "baseline: got 'crd'; expected labels or kl"),
        ({"alpha": "x"}, "alpha: got 'x'; expected a number"),
        ({"alpha": 2}, "alpha: got 2; expected less than or equal to 1"),
        ({"level": 10**400}, "level: got 1000"),
        ({"seeds": ["a"]}, "seeds.0: got 'a'; expected a whole number"),
        (
            {"missing": [{"pair": "elsewhere", "method": "kl", "seed": 0, "reason": "x"}]},
            "missing.0.pair: got 'elsewhere'",
        ),
        ({"cells": [CELL | {"mean": "x"}]}, "cells.0.mean: got 'x'; expected a number"),
        ({"cells": [CELL | {"method": "x"}]}, "cells.0.method: got 'x'; expected labels or kl"),
        ({"cells": [1]}, "cells.0: got 1; expected a mapping"),
        ({"families": [{"pair": "cifar100", "baseline": {"kind": "x"}}]}, "families.0.baseline.baseline: missing"),
        ({"ranks": {"names": ["x"], "average": [1.0]}}, "ranks.names: got 'x'; expected labels or kl"),
        ({"ranks": {"names": ["kl"], "average": [1.0, 2.0]}}, "ranks.average: got [1.0, 2.0]"),
        ({"conclusions": "x"}, "conclusions: got 'x'; expected a list"),
        ({"tuned": {"cifar100": {"kl": {"all": 3}}}}, "tuned.cifar100.kl."),
        ({"calibration": {"seconds": 1, "pairs": {"cifar100": []}}}, "calibration.pairs.cifar100: got []"),
        ({"budget": {"epochs": "x"}}, "budget.epochs"),
        ({"sweep": axis({})}, "sweep.values.cifar100: got None; expected a number"),
        ({"sweep": axis({"cifar100": 1e151})}, "sweep.values.cifar100"),
        ({"sweep": axis({"cifar100": 0})}, "sweep.values: got {'cifar100': 0}; expected another number in each pair"),
        ({"sweep": axis({"cifar100": 1}, (0, "x"))}, "and all above 0"),
    ],
)
def test_a_wrong_value_is_named(study: Path, changes: dict[str, Any], said: str) -> None:
    edit_results(study, **changes)
    assert said in refused(study)


@pytest.mark.parametrize("path", ["../../etc", "/etc", "javascript:alert(1)", "runs/../../x", "runs", "elsewhere/a"])
def test_a_run_outside_the_folder(study: Path, path: str) -> None:
    runs = json.loads((study / "results.json").read_text())["runs"]
    edit_results(study, runs=[runs[0] | {"run": path}])
    assert "expected a path within the study's folder, in runs/" in refused(study)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "the columns kind, pair and method"),
        ("kind,pair,method,training_seconds\nrun,cifar100,kl,fast\n", "line 2: training_seconds: got 'fast'"),
        ("kind,pair,method,training_seconds\nrun,cifar100,kl,-1\n", "greater than or equal to 0"),
        ("kind,pair,method,training_seconds\nrun,cifar100,kl,inf\n", "a finite number"),
        ('kind,pair,method\n"run', "a CSV file"),
    ],
)
def test_damaged_costs(study: Path, text: str, said: str) -> None:
    (study / "cost.csv").write_text(text)
    assert said in refused(study)


def test_costs_of_what_the_study_does_not_know_are_left_out(study: Path) -> None:
    (study / "cost.csv").write_text("kind,pair,method,training_seconds\nrun,x,y,1\nother,,,\n")
    write_study_report(study)


def test_an_out_that_cannot_be_written(study: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a file, not a folder"):
        write_study_report(study, tmp_path)
    with pytest.raises(BadInput, match="a place that can be written"):
        write_study_report(study, study / "study.yaml" / "report.html")
