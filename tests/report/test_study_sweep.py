"""The figure of a study whose pairs lie on an axis: every number is where it belongs, and labels stay legible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from report.parsed import Parsed
from report.studies import FakeStudy, axis, write_study
from stillroom.report.blocks import Values
from stillroom.report.study.charts import series_styles, sweep_section
from stillroom.schema.study import StudyResults, read_study

WIDTHS = {"d24": 24.0, "d8": 8.0, "d99": 99.0}
NAMES = ("kl", "mse", "crd")


def made(path: Path, **changes: Any) -> tuple[StudyResults, Values]:
    """A study's numbers and its figure."""
    options: dict[str, Any] = {"methods": NAMES, "pairs": tuple(WIDTHS), "epochs": 1, "tuned": False, **changes}
    study = read_study(write_study(path / "study", FakeStudy(**{"axis": axis(WIDTHS, (99, "d = K − 1")), **options})))
    found = sweep_section(study, series_styles(study))
    assert found is not None
    return study, found


def lines(found: Values) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in found.chart.figure["data"]}


def test_points_are_the_means_in_order_of_the_axis_with_their_intervals(tmp_path: Path) -> None:
    study, found = made(tmp_path)
    for name in NAMES:
        line = lines(found)[name]
        cells = [study.cells[pair, name] for pair in ("d8", "d24", "d99")]
        assert line["y"] == pytest.approx([cell.mean for cell in cells], rel=1e-4)
        assert line["x"] == pytest.approx([8, 24, 99], rel=0.05)
        bars = line["error_y"]
        for cell, above, below in zip(cells, bars["array"], bars["arrayminus"], strict=True):
            assert cell.mean is not None
            assert (cell.mean - below, cell.mean + above) == pytest.approx((cell.low, cell.high), rel=1e-4)
    # Beside one another, in the order of the methods, the middle one on its value.
    assert [trace["x"][0] for trace in found.chart.figure["data"][:3]] == sorted(
        trace["x"][0] for trace in found.chart.figure["data"][:3]
    )
    assert lines(found)["mse"]["x"] == [8, 24, 99]
    assert found.title == "Top-1 against width d"
    assert (found.columns, [name for name, _ in found.rows]) == (("8", "24", "99"), list(NAMES))


def test_marks_are_where_they_are_on_either_kind_of_axis(tmp_path: Path) -> None:
    for log in (True, False):
        _, found = made(tmp_path / str(log), axis=axis(WIDTHS, (99, "d = K − 1"), (24, ""), log=log))
        layout = found.chart.figure["layout"]
        assert [shape["x0"] for shape in layout["shapes"]] == [99, 24]
        (label,) = layout["annotations"]
        assert (label["text"], label["x"]) == ("d = K − 1", math.log10(99) if log else 99)
        assert layout["xaxis"]["type"] == ("log" if log else "linear")
        assert ("(log scale)" in layout["xaxis"]["title"]["text"]) == log
        assert "Dashed: d = K − 1 (99) and 24." in found.chart.caption


def test_labels_that_would_lie_over_one_another_get_rows_and_numbers_are_left_out(tmp_path: Path) -> None:
    close = {"d24": 24.0, "d8": 23.9, "d99": 99.0}
    marks = [(at, f"a label of some length at {at}") for at in (90, 95, 99)]
    _, found = made(tmp_path, axis=axis(close, *marks))
    layout = found.chart.figure["layout"]
    assert len({label["yshift"] for label in layout["annotations"]}) == 3
    assert {label["xanchor"] for label in layout["annotations"]} == {"right"}
    assert layout["xaxis"]["ticktext"] == ["24", "99"]


@pytest.mark.parametrize(("level", "drawn"), [(60.0, True), (10.0, False)])
def test_a_teacher_far_off_does_not_flatten_the_lines(tmp_path: Path, level: float, drawn: bool) -> None:
    study, found = made(tmp_path, level=level, gap=0.5)
    assert ("Teacher" in lines(found)) == drawn
    low, high = found.chart.figure["layout"]["yaxis"]["range"]
    means = [cell.mean for cell in study.cells.values() if cell.mean is not None]
    assert low <= min(means) < max(means) <= high
    if drawn:
        # Each pair's own, at its place.
        assert lines(found)["Teacher"]["x"] == [8, 24, 99]
        assert lines(found)["Teacher"]["y"] == [72.26, 68.26, 76.26]
        assert "The dotted line is the teacher’s 68.26% to 76.26%." in found.chart.caption
    else:
        assert "The teacher’s 68.26% to 76.26% lies outside the frame." in found.chart.caption


def test_gaps_and_single_seeds_are_reported(tmp_path: Path) -> None:
    gone = {("d24", "mse", 0): "failed: it broke"}
    _, found = made(tmp_path, seeds=(0,), missing=gone)
    line = lines(found)["mse"]
    assert line["y"][1] is None
    assert "error_y" not in line
    assert set(line["marker"]["symbol"]) == {"circle-open"}
    for said in ("A hollow point has no interval.", "Without a finished run: mse at 24."):
        assert said in found.chart.caption
    assert "Bars are" not in found.chart.caption


def test_an_interval_that_two_seeds_make_wide_is_cut_and_reported(tmp_path: Path) -> None:
    _, found = made(tmp_path, seeds=(0, 1), noise=3.0, gap=0.0)
    low, high = found.chart.figure["layout"]["yaxis"]["range"]
    assert low >= 0
    assert high <= 101
    assert "cut where they leave the frame" in found.chart.caption


def test_a_loss_has_no_teacher_in_per_cent(tmp_path: Path) -> None:
    _, found = made(tmp_path, measure="nll", level=1.4, gap=-0.03, noise=0.01)
    assert "Teacher" not in lines(found)
    assert "teacher" not in found.chart.caption


def test_only_a_study_with_an_axis_and_a_run_has_one(studies: dict[str, Path]) -> None:
    for name, shown in (("sweep", True), ("four", False), ("failed", False)):
        page = Parsed((studies[name] / "report.html").read_text(encoding="utf-8"))
        assert any(attrs.get("id") == "sweep" for _, attrs in page.elements) == shown
    words = Parsed((studies["sweep"] / "report.html").read_text(encoding="utf-8")).words
    # Before what was found, which is a sentence a pair.
    assert words.index("Top-1 against width d") < words.index(read_study(studies["sweep"]).conclusions[0])


def test_numbers_very_far_apart_are_drawn(tmp_path: Path) -> None:
    _, found = made(tmp_path, axis=axis({"d24": 1e-150, "d8": 1.0, "d99": 1e150}, (1e150, "far")), level=60.0)
    assert all(math.isfinite(place) for trace in found.chart.figure["data"] for place in trace["x"])
