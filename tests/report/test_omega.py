"""How the teacher rescales each sample, on the page: which epochs, in which words, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from report.folders import Fake, write_run
from report.parsed import Parsed
from report.recorded import lines, rescaling
from stillroom.errors import BadInput
from stillroom.report.blocks import Values
from stillroom.report.run.data import read_run
from stillroom.report.run.gradient_rescaling import rescaling_section
from stillroom.report.run.page import write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Fake(each=20, examples=2))


def section(run: Path, *rows: dict[str, Any]) -> Values:
    lines(run / "gradient_rescaling.jsonl", list(rows))
    found = rescaling_section(read_run(run))
    assert found is not None
    return found


def test_a_run_that_recorded_nothing_has_no_section(run: Path) -> None:
    assert rescaling_section(read_run(run)) is None
    assert "omega" not in [a.get("id") for _, a in Parsed(write_report([run]).read_text(encoding="utf-8")).elements]


def test_first_middle_and_last_epoch_are_drawn(run: Path) -> None:
    found = section(run, *(rescaling(float(epoch)) for epoch in range(1, 6)))
    assert [name for name, _, _ in found.legend] == ["epoch 1", "epoch 3", "epoch 5"]
    assert [chart.key for chart in found.charts] == ["omega-p", "omega-rank", "omega-saturated"]
    curves = found.charts[0].figure["data"]
    # Hardest first; the median of each tenth, its quartiles as bars.
    assert [trace["y"][0] for trace in curves] == pytest.approx([0.11, 0.13, 0.15])
    last = curves[-1]
    assert last["error_y"]["array"] == pytest.approx([0.15] * 10, abs=1e-4)
    assert last["error_y"]["arrayminus"] == pytest.approx([0.15] * 10, abs=1e-4)
    assert found.charts[0].figure["layout"]["xaxis"]["ticktext"][0] == "0.05"


@pytest.mark.parametrize(("count", "names"), [(1, ["epoch 1"]), (2, ["epoch 1", "epoch 2"])])
def test_of_few_epochs_there_are_fewer_curves(run: Path, count: int, names: list[str]) -> None:
    found = section(run, *(rescaling(float(epoch)) for epoch in range(1, count + 1)))
    assert [name for name, _, _ in found.legend] == names
    assert len(found.charts[0].figure["data"]) == count
    assert len(found.charts) == (1 if count == 1 else 3)


def test_the_words_say_what_the_numbers_do(run: Path) -> None:
    section(run, rescaling(1.0, spearman=0.9, known=True), rescaling(2.0, spearman=0.4, known=True))
    page = Parsed(write_report([run]).read_text(encoding="utf-8"))
    assert page.open == []
    for text in (
        "How the teacher rescales each sample",
        "hardest (it gives the true class 5.0%) had a median ω of 0.12, the tenth it is most confident on (95.0%)",
        "follows the teacher’s confidence roughly: rank correlation 0.40 in the last epoch, 0.90 in the first",
        "rank correlation with ω is 0.50",
        "Saturated at τ = 4: none of the samples.",
        "ω by true sample difficulty",
    ):
        assert text in page.words, text
    assert "Raise τ" not in page.words
    assert ("a", {"href": "#omega"}) in page.elements


@pytest.mark.parametrize(
    ("saturated", "text"),
    [
        (0.0, ""),
        (0.04, ""),
        (
            0.05,
            "Part of the signal is lost (5.0% saturated). A higher τ recovers it (losses.kl.temperature, now 4)",
        ),
        (0.5, "The teacher is too confident: for 50.0% of the samples"),
        (1.0, "Raise τ (losses.kl.temperature, now 4)"),
    ],
)
def test_a_saturated_teacher_gets_advice(run: Path, saturated: float, text: str) -> None:
    found = section(run, rescaling(1.0, saturated=saturated))
    assert text in found.advice
    assert bool(found.advice) == bool(text)
    assert ("none of the samples" in found.sentences[-1]) == (saturated == 0)


def test_samples_that_are_pulled_alike_is_stated(run: Path) -> None:
    found = section(run, rescaling(1.0, spearman=None), rescaling(2.0, spearman=None, saturated=1.0))
    assert "ω is the same for all samples: the teacher does not distinguish them." in found.sentences
    assert found.charts[1].figure["data"][0]["y"] == []


def test_a_record_without_quartiles_has_no_bars(run: Path) -> None:
    row = rescaling(1.0)
    for group in row["deciles"]:
        del group["omega_low"], group["omega_high"]
    del row["known_spearman"], row["known_deciles"]
    (curve,) = section(run, row).charts[0].figure["data"]
    assert "error_y" not in curve


def test_outliers_do_not_flatten_the_rest(run: Path) -> None:
    row = rescaling(1.0)
    row["deciles"][-1] |= {"omega_low": -1e90, "omega_mean": -1e95}
    low, high = section(run, row).charts[0].figure["layout"]["yaxis"]["range"]
    assert -1 < low < 0
    assert 1.9 < high < 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"saturated": 1.5}, "line 2: saturated: got 1.5; expected less than or equal to 1"),
        ({"spearman": "much"}, "line 2: spearman: got 'much'"),
        ({"deciles": []}, "line 2: deciles: got []; expected at least 1"),
        ({"deciles": [{"p_mean": 0.1}]}, "line 2: deciles.0.omega_mean: missing"),
        ({"known_deciles": [{"margin_mean": 0.1}]}, "line 2: known_deciles.0."),
        ({"epoch": None}, "line 2: epoch: got None"),
    ],
)
def test_a_damaged_line_is_reported(run: Path, change: dict[str, Any], expected: str) -> None:
    lines(run / "gradient_rescaling.jsonl", [rescaling(1.0), rescaling(2.0) | change])
    with pytest.raises(BadInput) as caught:
        write_report([run])
    assert expected in str(caught.value)
    assert "gradient_rescaling.jsonl" in str(caught.value)
