"""The classes' relations on the page: what is shown beside what, in which order, and how a damaged file is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report.browser import Visits, check_page
from report.folders import CIFAR10, EVIL, Fake, write_run
from report.parsed import Parsed
from report.recorded import geometry, lines, rescaling, write_geometry
from report.studies import FakeStudy, write_study
from stillroom.errors import BadInput
from stillroom.report.blocks import Values
from stillroom.report.run.data import read_run
from stillroom.report.run.page import run_page, write_report
from stillroom.report.study.page import write_study_report

KINDS = ("vehicle", "vehicle", "animal", "animal", "animal", "animal", "animal", "animal", "vehicle", "vehicle")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Fake(each=20, examples=2))


def page_of(*runs: Path) -> Parsed:
    return Parsed(write_report(runs).read_text(encoding="utf-8"))


def section(*runs: Path) -> Values:
    found = run_page([(run.name, read_run(run)) for run in runs]).relations
    assert found is not None
    return found


def test_without_the_files_there_is_no_section(run: Path) -> None:
    page = page_of(run)
    assert "relations" not in [attrs.get("id") for _, attrs in page.elements]
    assert "Relations" not in page.words


def test_the_numbers_are_put_in_words(run: Path) -> None:
    page = page_of(write_geometry(run, geometry(CIFAR10, KINDS, truth=True)))
    assert page.open == []
    for text in (
        "What the student knows of the classes’ relations",
        "more similar than of two by 0.45 in the student’s last layer (0.65 in the teacher’s and 0.55 in truth)",
        "The student’s map agrees to 0.80 with the true relations and 0.90 with its teacher’s",
        "the teacher’s own agrees to 0.95 with the truth",
        "Classes are sorted by superclass (2 of them, framed)",
        "From 0.00 before the training to 0.45. Dashed: the teacher’s, 0.65. Dotted: the truth’s, 0.55.",
        "−0.60",
    ):
        assert text in page.words, text
    for wrong in ("None", "NaN", "undefined"):
        assert wrong not in page.text
    plots = [attrs["data-plot"] for _, attrs in page.elements if "data-plot" in attrs]
    wanted = ["map-0", "map-1", "map-2", "relation-score", "relation-truth", "relation-teacher"]
    assert [key for key in plots if key in wanted] == wanted


def test_maps_share_one_scale_and_one_order(run: Path) -> None:
    found = section(write_geometry(run, geometry(CIFAR10, KINDS, truth=True)))
    assert [chart.title for chart in found.maps] == ["Student", "Teacher: resnet56", "Truth"]
    order = [0, 1, 8, 9, 2, 3, 4, 5, 6, 7]
    for chart, within in zip(found.maps, (0.4, 0.6, 0.5), strict=True):
        heat = chart.figure["data"][0]
        assert (heat["zmin"], heat["zmax"]) == (-0.6, 0.6)
        z = np.array(heat["z"], dtype=np.float64)
        assert np.isnan(z.diagonal()).all()
        assert np.nanmin(z[:4, :4]) == np.nanmax(z[4:, 4:]) == within
        assert (z[:4, 4:] == -0.05).all()
        axis = chart.figure["layout"]["xaxis"]
        assert axis["ticktext"] == [CIFAR10[number] for number in order]
        frames = [(shape["x0"], shape["x1"]) for shape in chart.figure["layout"]["shapes"]]
        assert frames == [(-0.5, 3.5), (3.5, 9.5)]
        assert [each["text"] for each in chart.figure["layout"]["annotations"]] == ["vehicle", "animal"]


def test_two_students_stand_beside_each_other(run: Path, tmp_path: Path) -> None:
    write_geometry(run, geometry(CIFAR10, KINDS))
    other = write_run(tmp_path / "other", Fake(each=20, examples=2, seed=1, name="another"))
    write_geometry(other, geometry(CIFAR10, KINDS, own=0.2))
    found = section(run, other)
    # One teacher taught both: its map is there once.
    assert [chart.title for chart in found.maps] == ["Student: run", "Student: other", "Teacher: resnet56"]
    scores = next(chart for chart in found.curves if chart.key == "relation-score")
    assert [trace["y"] for trace in scores.figure["data"]] == [[0, 0.225, 0.45], [0, 0.125, 0.25], [0.65, 0.65]]
    page = page_of(run, other)
    assert "Student: another" in page.words or "another" in page.words


def test_a_run_of_other_classes_is_left_out_and_named(run: Path, tmp_path: Path) -> None:
    write_geometry(run, geometry(CIFAR10, KINDS))
    other = write_run(tmp_path / "other", Fake(each=20, examples=2, seed=1))
    write_geometry(other, geometry(CIFAR10[::-1], KINDS))
    found = section(run, other)
    assert [chart.title for chart in found.maps] == ["Student", "Teacher: resnet56"]
    assert any("Not shown: other" in note for note in found.notes)


def test_what_is_not_there_is_said_or_left_out(run: Path) -> None:
    found = section(write_geometry(run, geometry(CIFAR10, None, teacher=False)))
    assert [chart.title for chart in found.maps] == ["Student"]
    assert not found.curves
    assert found.sentences[1:] == ["There is no score by superclass: the data name no superclasses."]
    assert found.maps[0].figure["layout"]["xaxis"]["showticklabels"]


def test_of_many_classes_only_figures_are_shown(run: Path) -> None:
    many = geometry(CIFAR10, KINDS) | {"maps": None, "order": None}
    found = section(write_geometry(run, many))
    assert not found.maps
    assert [chart.key for chart in found.curves] == ["relation-score", "relation-teacher"]
    assert "With 10 classes no maps are stored." in found.notes


def test_names_of_classes_stay_text(tmp_path: Path) -> None:
    names = tuple(f"{EVIL} {number}" for number in range(10))
    plain = write_geometry(write_run(tmp_path / "plain", Fake(each=20, examples=2)), geometry(CIFAR10, KINDS))
    evil = write_run(tmp_path / "evil", Fake(each=20, examples=2))
    groups = tuple(f"{EVIL} {kind}" for kind in KINDS)
    write_geometry(evil, geometry(names, groups) | {"why": {"truth": EVIL}, "has_truth": True})
    page = page_of(evil)
    assert EVIL in page.text
    assert "<" not in page.scripts[0]
    assert len(page.scripts) == len(page_of(plain).scripts)
    assert not any(attrs.get("src") == "x" for _, attrs in page.elements)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another schema": (lambda c: c.update(schema=2), "schema: got 2; expected 1"),
    "a name less": (lambda c: c["class_names"].pop(), "class_names: got '9 names'; expected one for each of the 10"),
    "a superclass less": (lambda c: c["superclasses"].pop(), "superclasses: got '9 names'"),
    "a class twice": (lambda c: c["order"].__setitem__(0, 1), "order: got"),
    "a row less": (lambda c: c["maps"]["student"].pop(), "maps.student: got '9 rows'"),
    "a cosine less": (lambda c: c["maps"]["teacher"][3].pop(), "maps.teacher"),
    "no cosine": (lambda c: c["maps"]["student"][0].__setitem__(1, 1.5), "maps.student: got 'what is no cosine'"),
    "no number": (
        lambda c: c["maps"]["student"][0].__setitem__(1, "x"),
        "maps.student.0.1: got 'x'; expected a number",
    ),
    "a number without end": (lambda c: c["maps"]["student"][0].__setitem__(1, 10**400), "maps.student"),
    "a lopsided map": (lambda c: c["maps"]["student"][0].__setitem__(9, 0.9), "the same above the diagonal"),
    "a score of 3": (lambda c: c["score"].update(student=3), "score.student: got 3; expected less than or equal to 2"),
    "no reasons": (lambda c: c.update(why={"score": 3}), "why.score: got 3; expected text"),
    "too many classes": (
        lambda c: c.update(classes=201, class_names=["x"] * 201, superclasses=None),
        "none of more than 200 classes",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_reported_in_one_line(run: Path, name: str) -> None:
    damage, expected = DAMAGED[name]
    held = geometry(CIFAR10, KINDS)
    write_geometry(run, held)
    damage(held)
    (run / "class_relations.json").write_text(json.dumps(held))
    with pytest.raises(BadInput) as caught:
        write_report([run])
    assert expected in str(caught.value)
    assert "class_relations.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_a_damaged_line_is_reported_by_its_number(run: Path) -> None:
    write_geometry(run, geometry(CIFAR10, KINDS))
    lines(run / "class_relations.jsonl", [{"epoch": 0.0, "score": 0.1}, {"epoch": 1.0, "score": "much"}])
    with pytest.raises(BadInput, match=r"class_relations\.jsonl: line 2: score: got 'much'"):
        write_report([run])


def test_a_study_of_relations_draws_them_over_the_epochs(tmp_path: Path) -> None:
    fake = FakeStudy(measure="relation_truth", level=0.7, gap=0.1, noise=0.01, methods=("labels", "kl"))
    study = write_study(tmp_path / "study", fake)
    for summary in study.glob("runs/*/*/*/summary.json"):
        write_geometry(summary.parent, geometry(CIFAR10, KINDS, truth=True))
    page = Parsed(write_study_report(study).read_text(encoding="utf-8"))
    assert "in the student’s last layer after the last epoch" in page.words
    assert "on the test split after" not in page.words
    figures = json.loads(page.scripts[0])
    curve = figures["curve-0"]
    assert "last layer" in curve["layout"]["yaxis"]["title"]["text"]
    drawn = [trace for trace in curve["data"] if trace.get("x") == [0, 1, 2]]
    assert [trace["y"] for trace in drawn] == [[0, 0.4, 0.8]] * 2


@pytest.mark.browser
def test_the_page_is_quiet_and_fits_a_desk_and_a_phone(visit: Visits, run: Path) -> None:
    long = tuple(f"a superclass with a long name {kind}" for kind in KINDS)
    write_geometry(run, geometry(CIFAR10, long, truth=True))
    lines(run / "gradient_rescaling.jsonl", [rescaling(epoch, known=True) for epoch in (1.0, 2.0, 3.0)])
    check_page(visit(write_report([run])))
