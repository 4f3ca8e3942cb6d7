"""What a page shows of classes that came in tasks: every number where it belongs, damage reported, names escaped."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from report.browser import Visits, check_page
from report.folders import EVIL, Fake, write_run
from report.parsed import Parsed
from report.studies import FakeStudy, edit_results, write_study
from stillroom.errors import BadInput
from stillroom.report.blocks import Values
from stillroom.report.run.data import read_run
from stillroom.report.run.page import run_page, write_report
from stillroom.report.study.page import write_study_report

MATRIX = [[90.0], [60.0, 80.0], [70.0, 50.0, 100.0]]
MEANS = [90.0, 70.0, 220 / 3]
RECORD: dict[str, Any] = {
    "schema": 1,
    "preset": None,
    "seed": 0,
    "class_seed": 0,
    "class_order": [2, 0, 1],
    "class_names": ["ship", EVIL, "cat"],
    "equal_tasks": True,
    "memory": {"exemplars": 30, "selection": "herding", "joint": False},
    "predict_by": "logits",
    "planned": 3,
    "tasks": [
        {
            "task": task + 1,
            "classes": [task],
            "train": 100 + 10 * task,
            "new": 100,
            "old": 10 * task,
            "test": 50 * (task + 1),
            "steps": 4,
            "epochs": 1.0,
            "accuracy": MEANS[task],
            "pooled": MEANS[task],
            "balance": {
                "old": None if not task else 65.0,
                "old_only": None if not task else 81.0,
                "new": MATRIX[task][task],
                "answered_new": 61.5,
                "are_new": 100 / (task + 1),
            },
            "memory": {"exemplars": 30, "per_class": [10, 10, 10], "bytes": 92160},
        }
        for task in range(3)
    ],
    "matrix": MATRIX,
    "task_local": [[94.0], [90.0, 92.0], [84.0, 80.0, 100.0]],
    "metrics": {
        "average": 77.8,
        "average_from_second": 71.7,
        "final": 220 / 3,
        "forgetting": 25.0,
        "task_local": 88.0,
        "old_only": 81.0,
    },
}


def run_folder(path: Path, record: dict[str, Any] | None = None, **options: Any) -> Path:
    run = write_run(path, Fake(each=5, examples=2, teacher=False, **options))
    (run / "incremental.json").write_text(json.dumps(record or RECORD))
    return run


def section(*runs: Path) -> tuple[Values, Values]:
    page = run_page([(f"run {place}", read_run(run)) for place, run in enumerate(runs)])
    assert page.tasks is not None
    return page, page.tasks


def test_every_number_is_where_it_belongs(tmp_path: Path) -> None:
    page, tasks = section(run_folder(tmp_path / "run"))
    assert page.command.startswith("stillroom incremental recipe.yaml")
    assert page.headline == (
        "After 3 tasks the student’s accuracy on all 3 classes is 73.3%, the mean over tasks; "
        "since its best on each, old tasks lost 25.0 points on average."
    )
    (line,) = tasks.accuracy.figure["data"]
    assert (line["x"], line["y"]) == ([1.0, 2.0, 3.0], pytest.approx(MEANS, rel=1e-4))
    shown = {trace["name"]: trace["y"] for trace in tasks.balance.figure["data"]}
    assert shown["old classes"] == [65.0, 65.0]
    assert shown["newest classes"] == [80.0, 100.0]
    assert shown["predictions of the newest"] == [61.5, 61.5]
    assert shown["$images of the newest"] == pytest.approx([50.0, 33.333])
    cells = [[one.text if one else None for one in row] for row in tasks.heats[0].rows]
    assert cells == [["90.0", None, None], ["60.0", "80.0", None], ["70.0", "50.0", "100.0"]]
    assert tasks.heats[1].rows[2][1].text == "80.0"
    assert "88.0% are right (chance 100.0%)" in tasks.sentences[2]
    assert "81.0% of the old $images" in tasks.sentences[2]
    assert tasks.rows[2].cells[3:7] == ("73.33", "88.00", "65.00", "81.00")
    assert tasks.rows[2].cells[-2:] == ("30", "92.2 kB")
    assert "73.3% (the mean over tasks)" in tasks.sentences[0]
    assert "lost 25.0 points" in tasks.sentences[0]
    assert "61.5% of its predictions" in tasks.sentences[1]
    assert "chosen by herding" in tasks.notes[0]


def test_runs_that_differ_in_the_seed_are_one_line_with_a_band(tmp_path: Path) -> None:
    better = copy.deepcopy(RECORD)
    for task in better["tasks"]:
        task["accuracy"] += 2
    runs = [run_folder(tmp_path / "a", seed=0), run_folder(tmp_path / "b", better, seed=1)]
    _, tasks = section(*runs)
    band, line = tasks.accuracy.figure["data"]
    assert line["y"] == pytest.approx([mean + 1 for mean in MEANS], rel=1e-4)
    assert band["y"] == pytest.approx([*(mean + 2 for mean in MEANS), *reversed(MEANS)], rel=1e-4)
    assert "2 seeds" in line["name"]


def test_the_page_is_whole_and_takes_no_name_for_html(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    comparison = {"schema": 1, "omega": 0.875, "why": None, "accuracies": [70.0], "joint": [80.0]}
    (run / "joint.json").write_text(json.dumps(comparison))
    page = Parsed(write_report([run]).read_text(encoding="utf-8"))
    assert page.open == []
    assert "Ω = 0.875" in page.text
    assert not any(tag == "img" and attrs.get("src") == "x" for tag, attrs in page.elements)


@pytest.mark.browser
def test_the_page_is_quiet_and_fits_a_desk_and_a_phone(visit: Visits, tmp_path: Path) -> None:
    check_page(visit(write_report([run_folder(tmp_path / "run")])), accessible="#tasks")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"matrix": [[1.0]]}, "matrix: got [[1.0]]; expected 3 rows of 1, 2, … numbers"),
        ({"matrix": [[1.0], [1.0, 2.0], [1.0, 2.0, 101.0]]}, "matrix.2.2: got 101.0"),
        ({"metrics": None}, "metrics: got None"),
        ({"schema": 2}, "schema: got 2; expected 1"),
    ],
)
def test_damage_is_reported(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_run(run_folder(tmp_path / "run", {**RECORD, **change}))
    assert text in str(caught.value)


def test_a_studys_page_shows_each_methods_course(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", FakeStudy(methods=("labels", "kl"), epochs=1, tuned=False))
    task = {
        "pooled": 70.0,
        "old": 60.0,
        "old_only": 70.0,
        "task_local": 85.0,
        "new": 90.0,
        "answered_new": 55.0,
        "are_new": 50.0,
    }
    one = {
        "method": "kl",
        "seeds": [0, 1, 2],
        "tasks": [
            {**task, "accuracy": {"mean": 90.0, "low": None, "high": None}, "exemplars": 30, "bytes": 9000},
            {**task, "accuracy": {"mean": 70.0, "low": 64.0, "high": 76.0}, "exemplars": 28, "bytes": 8400},
        ],
        "matrix": [[90.0], [60.0, 80.0]],
        "task_local": [[90.0], [85.0, 85.0]],
        "omega": {"mean": 0.912, "low": 0.9, "high": 0.924},
    }
    edit_results(study, incremental=[{"pair": "cifar100", "joint": "joint", "methods": [one]}])
    page = Parsed(write_study_report(study).read_text(encoding="utf-8"))
    assert page.open == []
    for text in ("Task by task", "0.912 [0.900, 0.924]", "55.0 of 50.0", "9.00 kB", "as a share of joint’s"):
        assert text in page.text
    edit_results(study, incremental=[{"pair": "cifar100", "joint": None, "methods": [{**one, "matrix": [[1]]}]}])
    with pytest.raises(BadInput, match="matrix"):
        write_study_report(study)
