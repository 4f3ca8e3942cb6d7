"""A study whose pairs differ in one number: a bad sweep is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.errors import BadInput
from stillroom.study.compare import compare
from stillroom.study.config import parse_study
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.plan import StudyFolder, plan_of, sweep_values
from stillroom.study.results import write_results
from study.finished import study_of
from study.small import small

WIDTHS = [{"name": f"d{width}", "set": {"student.options.penultimate": width}} for width in (9, 4)]
AXIS = {"field": "student.options.penultimate", "title": "Width d", "log": True, "marks": [{"at": 9, "label": "K − 1"}]}
DECAY = "training.optimizer.weight_decay"


def found(sweep: dict[str, Any], **changes: Any) -> dict[str, Any] | None:
    return sweep_values(
        plan_of(study_of(**{"model_pairs": WIDTHS, "sweep": sweep, **changes}), StudyFolder(Path("/x")))
    )


def test_results_hold_the_axis_and_where_each_pair_lies(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    plan = plan_of(study_of(model_pairs=WIDTHS, sweep=AXIS), folder)
    results = write_results(folder, plan)
    assert results["sweep"] == {**AXIS, "values": {"d9": 9, "d4": 4}}
    assert '"d9": 9,' in folder.results.read_text(), "a whole number stays one"
    assert plan.study.as_dict()["sweep"]["field"] == AXIS["field"]


def test_a_study_without_one_is_what_it_was(tmp_path: Path) -> None:
    study = study_of(model_pairs=WIDTHS)
    assert "sweep" not in study.as_dict()
    assert "sweep" not in write_results(StudyFolder(tmp_path), plan_of(study, StudyFolder(tmp_path)))
    assert study.hash() != study_of(model_pairs=WIDTHS, sweep=AXIS).hash()


def test_fields_are_named_as_everywhere_and_the_title_may_be_left_out() -> None:
    pairs = [
        {"name": f"h{units}", "set": {"student": {"name": "mlp", "options": {"hidden": [units]}}}} for units in (3, 5)
    ]
    shown = found({"field": "student.options.hidden.0"}, model_pairs=pairs)
    assert shown is not None
    assert (shown["title"], shown["log"], shown["marks"]) == ("student.options.hidden.0", False, [])
    assert shown["values"] == {"h3": 3, "h5": 5}
    # A default is a number too.
    pairs = [{"name": "default"}, {"name": "double", "set": {"training.optimizer.lr": 0.2}}]
    shown = found({"field": "training.optimizer.lr"}, model_pairs=pairs)
    assert shown is not None
    assert shown["values"] == {"default": 0.1, "double": 0.2}


@pytest.mark.parametrize(
    ("sweep", "changes", "words"),
    [
        (
            {"field": "student.options.penultimat"},
            {},
            "sweep.field: got 'student.options.penultimat'; expected a field of every pair's recipe, but 'd9' has none "
            "such (did you mean 'student.options.penultimate'?)",
        ),
        (
            {},
            {"model_pairs": [*WIDTHS, {"name": "plain"}]},
            "a field of every pair's recipe, but 'plain' has none such",
        ),
        ({"field": "student.name"}, {}, "expected a number in every pair, but 'd9' has mlp there"),
        (
            {},
            {"model_pairs": [*WIDTHS, {"name": "none", "set": {"student.options.penultimate": None}}]},
            "a number in every pair, but 'none' has none there",
        ),
        ({"field": "data.augmentation.flip"}, {}, "expected a number in every pair"),
        (
            {"field": "training.optimizer.lr"},
            {},
            "sweep.field: got 'training.optimizer.lr'; expected a number that is another in each pair, but both 'd9' "
            "and 'd4' have 0.1",
        ),
        (
            {"field": DECAY},
            {"model_pairs": [{"name": "a", "set": {DECAY: 0.1}}, {"name": "b", "set": {DECAY: 0}}]},
            f"sweep.log: got True; expected false, or numbers above 0, but 'b' has 0 as {DECAY}",
        ),
        ({}, {"model_pairs": WIDTHS[:1]}, "model_pairs: got ['d9']; expected two or more"),
        (
            {},
            {"methods": [{"name": "a"}, {"name": "b", "set": {"student.options.penultimate": 5}}]},
            "expected one number for all methods of a pair, but on 'd9' a has 9, b 5",
        ),
        (
            {},
            {"tuning": {"trials": 2, "space": {"student.options": [{"penultimate": 3}, {"penultimate": 5}]}}},
            "a field that no trial searches, but those of labels search student.options",
        ),
    ],
)
def test_what_is_no_axis_is_reported_in_a_line(sweep: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        found({**AXIS, **sweep}, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"feild": "seed"}, "sweep.feild: unknown field 'feild'; did you mean 'field'?"),
        ({**AXIS, "marks": [{"at": 0}]}, "marks above 0 in a sweep that goes by factors, not 0"),
        ({**AXIS, "marks": [{"label": "x"}]}, "sweep.marks.0.at: missing"),
        ({**AXIS, "log": 2}, "sweep.log: got 2"),
    ],
)
def test_a_bad_axis_is_reported_when_the_study_is_read(sweep: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_study(small(sweep=sweep))
    assert words in str(caught.value)


def test_nothing_is_written_for_a_study_that_has_none_such(tmp_path: Path) -> None:
    study = parse_study(small(sweep={"field": "student.options.width"}, model_pairs=[{"name": "a"}, {"name": "b"}]))
    with pytest.raises(BadInput, match=r"sweep\.field"):
        compare(study, tmp_path / "s", lambda folder, threads: InProcessEngine())
    assert not (tmp_path / "s").exists()
