"""Planned contrasts: means of methods against means of others, by pair and between pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from stillroom.errors import BadInput
from stillroom.report.study.page import write_study_report
from stillroom.schema.study import read_study
from stillroom.study.compare import StudyOutcome, compare
from stillroom.study.config import parse_study
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.statistics import planned_contrasts
from study.small import small

PAIRS = [{"name": "slow", "set": {"training.optimizer.lr": 0.05}}, {"name": "fast"}]
METHODS = [
    {"name": "labels"},
    {"name": "kl", "set": {"losses": [{"name": "kl"}]}},
    {"name": "mse", "set": {"losses": [{"name": "logit_mse"}]}},
]
TAUGHT = {"name": "Is a teacher worth it?", "of": ["kl", "mse"], "less": ["labels"], "note": "Both losses."}
LOGITS = {"name": "mse for kl", "of": ["mse"], "less": ["kl"]}
TURNED = {**TAUGHT, "name": "more where it is slow", "between": ["slow", "fast"]}


def done(out: Path, **changes: Any) -> tuple[StudyOutcome, list[str]]:
    engine = InProcessEngine()
    whole = {"methods": METHODS, "model_pairs": PAIRS, "seeds": [0, 1, 2], **changes}
    return compare(parse_study(small(**whole)), out, lambda folder, threads: engine), engine.done


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("contrasts") / "s"
    done(out, contrasts=[TAUGHT, LOGITS, TURNED])
    return out


def by_hand(out: Path, pair: str) -> np.ndarray:
    """TAUGHT at each seed, from the runs themselves."""
    runs = {(run.method, run.seed): run.value("top1") for run in read_study(out).runs if run.pair == pair}
    return np.array([(runs["kl", s] + runs["mse", s]) / 2 - runs["labels", s] for s in (0, 1, 2)])


def test_they_are_what_scipy_finds_and_corrected_by_family(planned: Path) -> None:
    found = {(one.name, one.pair): one for one in read_study(planned).contrasts}
    each = [(name, pair) for pair in ("slow", "fast") for name in (TAUGHT["name"], LOGITS["name"])]
    assert list(found) == [*each, (TURNED["name"], None)]
    for pair in ("slow", "fast"):
        mine, other = (found[name, pair].comparison for name in (TAUGHT["name"], LOGITS["name"]))
        differences = by_hand(planned, pair)
        assert mine.difference is not None
        assert mine.difference.mean == pytest.approx(differences.mean())
        assert mine.difference.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
        assert (mine.family, other.family) == (2, 2)
        ps = [float(one.difference.p) for one in (mine, other) if one.difference and one.difference.p is not None]
        first, second = sorted(ps)
        by_holm = {first: min(1.0, 2 * first), second: min(1.0, max(2 * first, second))}
        assert [one.holm_p for one in (mine, other)] == pytest.approx([by_holm[p] for p in ps])
    turned = found[TURNED["name"], None].comparison
    assert turned.difference is not None
    assert turned.difference.mean == pytest.approx((by_hand(planned, "slow") - by_hand(planned, "fast")).mean())
    assert turned.family == 1


def test_they_are_said_in_the_conclusions_and_in_the_table(planned: Path) -> None:
    study = read_study(planned)
    assert study.conclusions[0].startswith("Is a teacher worth it? on slow: mean of kl and mse less labels: ")
    assert "Holm p = " in study.conclusions[0] or "no claim" in study.conclusions[0]
    rows = (planned / "comparisons.csv").read_text()
    assert "contrast Is a teacher worth it?" in rows
    assert "slow − fast" in rows
    page = write_study_report(planned).read_text()
    assert 'id="contrasts"' in page
    assert "mean of kl, mse, less labels" in page
    assert "Both losses." in page
    assert "exploratory" not in page.split('id="contrasts"')[1].split("</section>")[0]


def test_what_is_asked_later_runs_nothing_again_and_is_called_exploratory(planned: Path) -> None:
    later = {"name": "later", "of": ["kl"], "less": ["labels"]}
    found, jobs = done(planned, contrasts=[TAUGHT, later])
    assert jobs == []
    shown = {(one.name, one.pair): one.planned for one in read_study(planned).contrasts}
    assert shown == {(TAUGHT["name"], p): True for p in ("slow", "fast")} | {
        ("later", p): False for p in ("slow", "fast")
    }
    assert any(
        line.startswith("later on fast (written down after the first run: exploratory)")
        for line in found.results["conclusions"]
    )
    assert "exploratory: written down after" in write_study_report(planned).read_text()
    # The study's own file stays as it was begun with.
    assert [one["name"] for one in yaml.safe_load((planned / "study.yaml").read_text())["contrasts"]] == [
        TAUGHT["name"], LOGITS["name"], TURNED["name"],
    ]  # fmt: skip


def test_what_is_written_down_before_the_first_run_is_planned(tmp_path: Path) -> None:
    out = tmp_path / "s"
    out.mkdir()
    begun = parse_study(small(methods=METHODS, model_pairs=PAIRS, seeds=[0]))
    (out / "study.yaml").write_text(yaml.safe_dump(begun.as_dict()))  # stopped before its first run
    done(out, seeds=[0], contrasts=[LOGITS])
    assert [one.planned for one in read_study(out).contrasts] == [True, True]


def test_a_study_without_any_is_what_it_was() -> None:
    study = parse_study(small())
    assert "contrasts" not in study.as_dict()
    asked = parse_study(small(methods=METHODS, contrasts=[LOGITS]))
    assert asked.hash() == parse_study(small(methods=METHODS)).hash()


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [
        ({"of": ["kd"], "less": ["labels"]}, r"methods in contrasts\.c\.of, not 'kd'"),
        ({"of": ["kl"], "less": ["kl"]}, "each method once in `of` and `less`, but 'kl' is there 2 times"),
        ({"of": [], "less": ["kl"]}, "of"),
        ({"of": ["kl"], "less": ["mse"], "between": ["slow", "slow"]}, "two different pairs"),
        ({"of": ["kl"], "less": ["mse"], "between": ["slow", "quick"]}, r"pairs in contrasts\.c\.between, not 'quick'"),
    ],
)
def test_a_contrast_of_what_is_not_there_is_refused(contrast: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        parse_study(small(methods=METHODS, model_pairs=PAIRS, contrasts=[{"name": "c", **contrast}]))


def test_seeds_that_a_side_lacks_are_left_out_and_named() -> None:
    values = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 2.0, 1: 2.5}, "c": {0: 3.0, 1: 5.0, 2: 6.5}}
    (one,) = planned_contrasts(values, [(("a", "b"), ("c",))]).comparisons
    assert (one.seeds, one.lacking, one.against_lacking) == ((0, 1), (2,), ())
    assert one.difference is not None
    assert one.difference.mean == pytest.approx((1.5 - 3 + 2.25 - 5) / 2)
    with pytest.raises(BadInput, match="methods on both sides"):
        planned_contrasts(values, [(("a",), ("d",))])


def test_nothing_planned_is_found_by_chance_more_often_than_alpha() -> None:
    draws = np.random.default_rng(7)
    false = 0
    for _ in range(400):
        values = {name: dict(enumerate(draws.normal(size=5))) for name in "abcd"}
        asked = [(("a", "b"), ("c", "d")), (("a",), ("b",)), (("c",), ("d",))]
        false += any(one.decided for one in planned_contrasts(values, asked).comparisons)
    assert false <= 32  # 20 expected of 400; 32 has p < .01
