"""The demo as a new user runs it: its study in short, its planted fault, what goes on after a kill."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stillroom.demo
from processes import fork_python
from report.browser import Visits, check_page
from stillroom.cli import run
from stillroom.study.config import parse_study
from stillroom.study.engine.in_process import InProcessEngine

SHIPPED = copy.deepcopy(stillroom.demo._STUDY)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The demo of two seeds and few epochs, in this process, and what it printed as JSON."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    shorter = copy.deepcopy(stillroom.demo._STUDY)
    shorter["seeds"] = [0, 1]
    shorter["recipe"]["training"]["epochs"] = 2
    shorter["teachers"][0]["set"]["training.epochs"] = 1
    with pytest.MonkeyPatch.context() as patch:
        fork_python(patch)
        patch.setattr(stillroom.demo, "_STUDY", shorter)
        patch.setattr(stillroom.demo, "engine_maker", lambda *_: lambda folder, threads: InProcessEngine())
        printed: list[str] = []
        patch.setattr("stillroom.cli.start.print_json", lambda content: printed.append(json.dumps(content)))
        assert run(["demo", "--out", str(folder), "--json"]) == 0
        yield folder, json.loads(printed[0])


def test_the_demo_compares_under_equal_conditions(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = demo
    results = printed["results"]
    assert (results["equal"], results["missing"]) == (True, [])
    assert Path(printed["report"]) == folder / "study" / "report.html"
    summaries = [
        json.loads((folder / f"study/runs/all/{name}/seed-0/summary.json").read_text())
        for name in ("labels", "distilled")
    ]
    assert summaries[0]["hashes"] == summaries[1]["hashes"]
    assert [each["data"]["train"] for each in summaries] == [100, 100]
    teacher = json.loads((folder / "study/teachers/teacher/summary.json").read_text())
    assert teacher["data"]["train"] == 1297, "the teacher saw all images"
    assert summaries[1]["teachers"]["teacher"]["correct"] == teacher["correct"]


def test_the_planted_fault_is_found_where_it_is_and_nothing_else(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = demo
    (problem,) = printed["problems"]
    assert problem["check"] == "loss_scale"
    line = 1 + (folder / "faulty_distillation.py").read_text().splitlines().index(
        '    soft = F.kl_div(F.log_softmax(logits / T, dim=1), target, reduction="mean")'
    )
    assert problem["location"] == f"faulty_distillation.py:{line}"
    assert "160 times too weak" in problem["summary"]
    assert (folder / "audit" / "diagnosis.html").is_file()


def test_the_readme_shows_what_an_audit_of_the_script_prints(demo: tuple[Path, dict[str, Any]]) -> None:
    (problem,) = demo[1]["problems"]
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    block = readme.split("$ stillroom audit demo/faulty_distillation.py\n")[1].split("```")[0]
    shown = f"problem {problem['check']} {problem['location']}: {problem['summary']} → {problem['remedy']['words']}"
    assert " ".join(block.split()) == shown


def test_the_study_that_is_shipped_is_what_its_note_says() -> None:
    study = parse_study(SHIPPED)
    assert study.seeds == (0, 1, 2, 3, 4)
    assert [method.name for method in study.methods] == ["labels", "distilled"]
    assert SHIPPED["recipe"]["data"]["train_limit"] == 100


@pytest.mark.browser
def test_the_demos_page_is_quiet_and_fits(demo: tuple[Path, dict[str, Any]], visit: Visits) -> None:
    check_page(visit(demo[0] / "study" / "report.html"))


def test_a_demo_killed_while_it_wrote_goes_on_and_runs_nothing_again(
    demo: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stillroom.demo, "_audit", lambda script, out: demo[1]["problems"])  # a process of its own
    folder, _ = demo
    (folder / ".faulty_distillation.py.abc.part").write_text("half")
    student = folder / "study/runs/all/distilled/seed-0/student.safetensors"
    before = student.stat().st_mtime_ns
    assert run(["demo", "--out", str(folder)]) == 0
    assert student.stat().st_mtime_ns == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert run(["demo", "--out", str(tmp_path)]) == 2
