"""The headline of a study names who leads and says whether that is decided; clocks that are noise draw no trade-off."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.studies import FakeStudy, edit_results, write_study
from stillroom.report.charts import Chart
from stillroom.report.study.charts import series_styles
from stillroom.report.study.costs import CostChoice, StudyCosts, trade_offs
from stillroom.report.study.words import headline
from stillroom.schema.study import StudyResults, read_study


def study(tmp_path: Path, **changes: object) -> StudyResults:
    options = {"methods": ("labels", "kl", "mse"), "tuned": False, **changes}
    return read_study(write_study(tmp_path / "study", FakeStudy(**options)))  # type: ignore[arg-type]


def test_a_leader_that_is_decided(tmp_path: Path) -> None:
    found = study(tmp_path, gap=3.0, noise=0.05, seeds=(0, 1, 2, 3, 4))
    best = max((cell for cell in found.cells.values()), key=lambda cell: cell.mean or 0.0)
    text = headline(found)
    assert text.startswith(f"{best.method} leads with {best.mean:.2f}% top-1: ")
    assert "points above labels, decided with 5 seeds" in text


def test_a_leader_that_is_not_decided(tmp_path: Path) -> None:
    text = headline(study(tmp_path, gap=0.3, noise=2.0))
    assert "leads with" in text or "No method beats labels" in text
    assert "3 seeds do not decide it" in text or "none differs from it significantly" in text
    assert "decided with" not in text


def test_lower_is_better_where_it_is(tmp_path: Path) -> None:
    found = study(tmp_path, measure="nll", level=0.9, gap=0.1, noise=0.001)
    best = min((cell for cell in found.cells.values()), key=lambda cell: cell.mean or 0.0)
    assert best.method in headline(found).split(",")[0]


def test_several_pairs_are_counted(tmp_path: Path) -> None:
    text = headline(study(tmp_path, pairs=("small", "large"), gap=3.0, noise=0.05))
    assert text.startswith("By the mean, ")
    assert "all 2 pairs" in text or ("small" in text and "large" in text)
    assert "decided" in text


def test_unequal_and_empty_studies_have_no_leader(tmp_path: Path) -> None:
    assert "not equal" in headline(study(tmp_path, unequal=True))
    folder = write_study(tmp_path / "empty", FakeStudy(methods=("labels", "kl"), tuned=False))
    edit_results(folder, runs=[], cells=[], families=[], ranks=None)
    assert headline(read_study(folder)).startswith("Nothing can be compared yet")
    assert "no other method" in headline(study(tmp_path / "one", methods=("labels",)))


@pytest.fixture
def three(tmp_path: Path) -> StudyResults:
    return study(tmp_path)


def chosen(study: StudyResults, medians: tuple[float, ...], spread: float | None, seeds: int = 3) -> CostChoice:
    """The choice of training time where methods took these medians, each of this spread over its seeds."""
    keys = [("cifar100", name) for name in study.names]
    values = {}
    for key, value in zip(keys, medians, strict=True):
        ends = [value - (spread or 0) / 2, value + (spread or 0) / 2]
        values[key] = {"training_seconds": [value] if spread is None else (ends + [value] * seeds)[:seeds]}
    costs = StudyCosts(
        True, {key: {"training_seconds": value} for key, value in zip(keys, medians, strict=True)}, values
    )
    (pair,) = trade_offs(study, costs, series_styles(study))
    return pair.choices[0]


def test_clocks_that_differ_as_much_within_a_method_draw_no_trade_off(three: StudyResults) -> None:
    found = chosen(three, (10.0, 10.5, 11.0), 1.5)
    assert found.chart is None
    assert "10.0 s to 11.0 s, which is noise (seeds alone can make 1.5 s of difference)" in found.words
    drawn = chosen(three, (10.0, 20.0, 30.0), 1.5).chart
    assert isinstance(drawn, Chart)
    assert "costs closer than that count as the same" in drawn.caption
    assert drawn.figure["layout"]["xaxis"]["range"][0] == 0.0


def test_two_seeds_that_agree_by_chance_draw_no_trade_off(three: StudyResults) -> None:
    # With many seeds, .4 s apart each, a second of difference is no chance; of two seeds a method it may be.
    assert "seeds alone can make 0.9 s of difference" in chosen(three, (10.0, 10.4, 10.8), 0.4, seeds=2).words
    assert chosen(three, (10.0, 10.4, 11.0), 0.4, seeds=6).chart is not None
    assert chosen(three, (10.0, 10.4, 11.0), 0.4, seeds=2).chart is not None
    assert chosen(three, (10.0, 20.0, 30.0), 0.4, seeds=2).chart is not None


def test_with_one_seed_only_large_differences_of_clocks_are_drawn(three: StudyResults) -> None:
    assert "one seed shows no spread" in chosen(three, (10.0, 12.0, 14.0), None).words
    assert chosen(three, (10.0, 12.0, 30.0), None).chart is not None
