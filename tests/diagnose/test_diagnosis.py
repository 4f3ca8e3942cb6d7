"""The object that every door of the diagnosis returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stillroom as sr
from report.folders import EVIL
from stillroom.diagnose.diagnosis import Diagnosis, ProblemsFound
from stillroom.report.diagnosis import page_of
from stillroom.schema.diagnosis import Finding, Kind, Remedy, read_diagnosis

WRONG = Finding(
    "loss_scale",
    "problem",
    "Its KL term is 16 times too weak.",
    remedy=Remedy("Multiply it by τ².", code="loss = kd * tau**2"),
    location="train.py:88",
)
FINE, OPEN = Finding("batch_split", "ok", "It is."), Finding("labels_unused", "skipped", "It takes no labels.")


def test_it_is_printed_with_place_remedy_and_line_of_code() -> None:
    lines = str(Diagnosis.of("losses.py:kd", [FINE, OPEN, WRONG], kind="loss")).splitlines()
    assert lines[0].split(maxsplit=2) == ["problem", "loss_scale", "train.py:88: Its KL term is 16 times too weak."]
    assert lines[1].strip() == "→ Multiply it by τ²."
    assert lines[2].strip() == "loss = kd * tau**2"
    assert lines[3].split(maxsplit=2) == ["ok", "batch_split", "It is."]
    assert lines[4] == "skipped  labels_unused: It takes no labels."
    assert lines[5] == "1 thing is wrong with this loss. Do this first, at train.py:88: Multiply it by τ²."


@pytest.mark.parametrize(("kind", "word"), [("setup", "set-up"), ("loop", "training loop"), ("loss", "loss")])
def test_its_headline_names_what_was_diagnosed(kind: Kind, word: str) -> None:
    assert Diagnosis.of("x", [FINE], kind=kind).headline.startswith(f"Nothing is wrong with this {word}")


def test_problems_fail_a_test_and_nothing_else_does() -> None:
    sr.Diagnosis.of(
        "kd", [FINE, OPEN, Finding("half_precision", "warning", "Rough.")], kind="loss"
    ).raise_for_problems()
    with pytest.raises(ProblemsFound) as raised:
        Diagnosis.of("kd", [WRONG, Finding("teacher_unused", "problem", "Unused.")], kind="loss").raise_for_problems()
    assert isinstance(raised.value, AssertionError)
    for text in ("kd", "loss_scale", "train.py:88", "16 times", "loss = kd * tau**2", "teacher_unused: Unused."):
        assert text in str(raised.value)
    assert not raised.value.diagnosis.ok


def test_it_is_saved_as_file_and_page_and_read_again(tmp_path: Path) -> None:
    page = Diagnosis.of("kd", [WRONG, FINE], kind="loss").save(tmp_path / "new")
    content = json.loads((tmp_path / "new" / "diagnosis.json").read_text())
    assert (content["kind"], content["findings"][0]["remedy"]["code"]) == ("loss", "loss = kd * tau**2")
    assert read_diagnosis(tmp_path / "new").findings[0].location == "train.py:88"
    assert "loss = kd * tau**2" in page.read_text()
    assert page_of(read_diagnosis(tmp_path / "new")).attention[0].finding.remedy == WRONG.remedy


def test_a_notebook_shows_everything_escaped_and_fetches_nothing() -> None:
    remedy = Remedy(EVIL, {"a": EVIL}, EVIL)
    found = Diagnosis.of(EVIL, [Finding("x", "problem", EVIL, remedy=remedy, location=EVIL), OPEN], kind="loop")
    html = found._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert EVIL not in html
    assert "Not judged" in html


def test_a_loop_without_a_name_is_not_named_twice() -> None:
    html = Diagnosis.of("training loop", [FINE], kind="loop")._repr_html_()
    assert "Training loop" in html
    assert "Training loop training loop" not in html


def test_what_nothing_could_judge_says_why_in_the_headline() -> None:
    why = "There is no teacher."
    diagnosis = Diagnosis.of("train.py", [Finding(name, "skipped", why) for name in ("a", "b")], kind="loop")
    assert str(diagnosis) == why
