"""Every plot has its numbers as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.explanations import FakeExplanation, write_fake_explanation
from report.folders import Fake, write_run
from report.test_diagnosis_page import FINDINGS, write_diagnosis
from stillroom.report.charts import axis, band, error_bars, level, line, lying_bars, names_axis
from stillroom.report.explain.page import write_explanation
from stillroom.report.numbers import plot_numbers
from stillroom.report.run.page import write_report


def test_curves_over_one_axis_are_columns() -> None:
    data = [
        band([1, 2], [0, 1], [2, 3], "student"),
        line([1, 2], [0.5, 1.25], "a & b", "student", customdata=[0.1, None], hovertemplate="%{y} ± %{customdata}"),
        level([0, 2], 7.0, "Teacher", "teacher", "dash"),
    ]
    found = plot_numbers({"data": data, "layout": {"xaxis": axis("epoch"), "yaxis": axis("loss")}})
    assert found.heads == ["epoch", "a & b", "Teacher"]
    assert found.rows == [["0", "–", "7"], ["1", "0.5 ± 0.1", "–"], ["2", "1.25", "7"]]


def test_a_long_curve_is_thinned_to_its_end() -> None:
    curve = line(range(1, 1001), range(1, 1001), "loss", "student")
    found = plot_numbers({"data": [curve], "layout": {}})
    assert len(found.rows) == 25
    assert found.rows[-1] == ["1,000", "1,000"]
    assert found.note == "25 of 1000 points, evenly spread."


def test_bars_and_named_points_are_rows() -> None:
    bars = lying_bars([1.5, -2.0], ["1.5", "−2.0"], ["gained", "lost"])
    layout = {"xaxis": axis("points"), "yaxis": names_axis(["cat", "a < b"], [0, -1])}
    assert plot_numbers({"data": [bars], "layout": layout}).rows == [["cat", "1.5"], ["a < b", "−2"]]
    points = line([10, 20], [60, 70], "Methods", "student", text=["kl", "labels"])
    points["error_y"] = error_bars([(60, 55, 65), (70, None, None)], "student")
    found = plot_numbers({"data": [points], "layout": {"xaxis": axis("seconds"), "yaxis": axis("top-1")}})
    assert found.heads == ["name", "seconds", "top-1"]
    assert found.rows == [["kl", "10", "60 [55, 65]"], ["labels", "20", "70"]]


def test_a_heat_map_is_a_table_unless_it_is_large() -> None:
    ticks = {"tickvals": [0, 1], "ticktext": ["cat", "dog"]}
    heat = {"type": "heatmap", "z": [[1.0, 0.25], [None, 1.0]]}
    found = plot_numbers({"data": [heat], "layout": {"xaxis": ticks, "yaxis": ticks}})
    assert (found.heads, found.rows) == (["", "cat", "dog"], [["cat", "1", "0.25"], ["dog", "–", "1"]])
    large = plot_numbers({"data": [{"type": "heatmap", "z": [[0.0] * 100] * 100}], "layout": {}})
    assert large.rows == ()
    assert "100 rows" in large.note


@pytest.mark.parametrize("kind", ["run", "study", "explanation", "diagnosis"])
def test_no_plot_is_without_a_table(kind: str, studies: dict[str, Path], tmp_path: Path) -> None:
    if kind == "run":
        page = write_report([write_run(tmp_path / "run", Fake(each=5, examples=2))])
    elif kind == "study":
        page = studies["sweep"] / "report.html"
    elif kind == "explanation":
        page = write_explanation(write_fake_explanation(tmp_path / "run", FakeExplanation(images=2)))
    else:
        page = write_diagnosis(tmp_path, "runs/kl", FINDINGS, None)
    held = page.read_text(encoding="utf-8").split('<figure class="plot-box">')[1:]
    assert held
    for part in held:
        figure, follows = part.split("</figure>", 1)
        assert "<table" in figure or "as a table" in follows[:300]
