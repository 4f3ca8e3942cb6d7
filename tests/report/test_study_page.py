"""The page of a study as text: what it claims, what it owns up to, and that others' words stay words."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import plotly.graph_objects as go
import pytest

from report.folders import EVIL, Lazy
from report.parsed import Parsed
from report.studies import CHECKED, FakeStudy, edit_results, write_study
from stillroom.report.blocks import Values
from stillroom.report.html import POLICY, POLICY_IN_STUDY
from stillroom.report.study.page import study_page, write_run_pages, write_study_report
from stillroom.report.study.table import links
from stillroom.schema.study import is_study, read_study

NAMES = ("usual", "four", "many", "alone", "two", "unequal", "failed", "nll", "huge", "sweep", "evil")


@pytest.fixture(scope="module")
def pages(studies: dict[str, Path]) -> dict[str, Parsed]:
    return Lazy(lambda name: Parsed((studies[name] / "report.html").read_text(encoding="utf-8")))


def content(study: Path) -> Values:
    return study_page(read_study(study), study, links(study, study / "report.html"))


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_sound_html(pages: dict[str, Parsed], name: str) -> None:
    page = pages[name]
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for tag, attrs in page.elements if tag == "a" and attrs["href"][:1] == "#"}
    named = {attrs[key] for _, attrs in page.elements for key in ("aria-controls", "data-unfold") if key in attrs}
    assert (targets | named) <= set(ids)
    for wrong in ("NaN", "nan", "None", "Infinity", "undefined", "�", " inf"):
        assert wrong not in page.text, wrong
        assert not any(wrong in script for script in page.scripts[:2])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched(pages: dict[str, Parsed], name: str) -> None:
    for tag, attrs in pages[name].elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "img"}
        assert "src" not in attrs
        assert re.match(r"#|runs/|[a-z]+\.(csv|tex|json|yaml)$", str(attrs.get("href", "#")))
        assert not any(key.startswith("on") for key in attrs)
    assert [attrs["content"] for _, attrs in pages[name].elements if attrs.get("http-equiv")] == [POLICY]


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_what_plotly_takes(studies: dict[str, Path], name: str) -> None:
    for chart in content(studies[name]).charts:
        go.Figure(chart.figure)
        assert chart.caption


def test_what_others_wrote_stays_text(pages: dict[str, Parsed]) -> None:
    page = pages["evil"]
    assert EVIL in page.text
    assert len(page.scripts) == len(pages["usual"].scripts)
    assert not any(tag in {"img", "b"} for tag, _ in page.elements)
    assert "<" not in page.scripts[0], "the figures' JSON holds no tag, not even as text"
    shown = re.findall(r'"(?:name|text|customdata)":("[^"]*"|\[.*?\])', page.scripts[0])
    assert any("\\u0026lt;" in text for text in shown)


def test_the_same_folder_gives_the_same_bytes(studies: dict[str, Path], tmp_path: Path) -> None:
    before = (studies["four"] / "report.html").read_bytes()
    study = tmp_path / "copy"
    shutil.copytree(studies["four"], study)
    (study / "report.html").unlink()
    assert write_study_report(study).read_bytes() == before


def test_every_run_is_reached_from_its_row(studies: dict[str, Path], pages: dict[str, Parsed]) -> None:
    results = json.loads((studies["usual"] / "results.json").read_text())
    links = {str(attrs["href"]) for tag, attrs in pages["usual"].elements if tag == "a"}
    for run in results["runs"]:
        assert f"{run['run']}/report.html" in links
        assert (studies["usual"] / run["run"] / "report.html").is_file()


def test_links_start_from_where_the_page_lies(studies: dict[str, Path], tmp_path: Path) -> None:
    study = tmp_path / "a study"
    shutil.copytree(studies["usual"], study)
    page = Parsed(write_study_report(study, tmp_path / "pages" / "s.html").read_text(encoding="utf-8"))
    held = [str(attrs["href"]) for tag, attrs in page.elements if tag == "a" and attrs["href"][0] != "#"]
    assert "../a%20study/runs/cifar100/kl/seed-0/report.html" in held
    assert "../a%20study/table.csv" in held


def test_numbers_of_the_table(pages: dict[str, Parsed], studies: dict[str, Path]) -> None:
    words = pages["usual"].words
    results = json.loads((studies["usual"] / "results.json").read_text())
    for cell in results["cells"]:
        assert f"{cell['mean']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]".replace("-", "−") in words
    for each in results["families"][0]["baseline"]["comparisons"]:
        assert f"{each['difference']['mean']:+.2f}" in words
        assert f"{each['verdict']}" in words
    assert all(sentence in words for sentence in results["conclusions"])
    assert f"{len(CHECKED)} things were checked" in words
    assert not re.search(r"winner|best method|🏆|👑", words)


def test_an_unequal_study_is_alarming(pages: dict[str, Parsed], studies: dict[str, Path]) -> None:
    page = pages["unequal"]
    (alarm,) = (attrs for _, attrs in page.elements if attrs.get("id") == "unequal")
    assert "alarm" in str(alarm["class"])
    results = json.loads((studies["unequal"] / "results.json").read_text())
    assert all(each["text"] in page.words for each in results["inequalities"])
    assert "not equal to the others" in page.words
    assert "things were checked" not in page.words
    assert "All methods of a seed started from the same" not in page.words
    assert "differs" in page.words
    assert "This is not an equal comparison" not in pages["usual"].words


def test_missing_runs_are_listed_with_why(pages: dict[str, Parsed]) -> None:
    words = pages["unequal"].words
    assert "2 of 15 runs have no result." in words
    assert words.index("failed: not finite : mse, seed 1".replace(" :", ":")) < words.index("not run yet: crd, seed 2")
    assert "No result, seed 1: failed: not finite" in words
    assert "have no result" not in pages["usual"].words


def test_a_study_that_failed_altogether_claims_nothing(pages: dict[str, Parsed]) -> None:
    words = pages["failed"].words
    assert "9 of 9 runs have no result. Nothing can be compared yet." in words
    for claim in ("The hashes agree", "the hashes agree", "things were checked", "higher than", "better than"):
        assert claim not in words
    assert not any("data-plot" in attrs for _, attrs in pages["failed"].elements)


def test_lower_is_better_where_it_is(pages: dict[str, Parsed]) -> None:
    words = pages["nll"].words
    assert "lower better than labels" in words
    assert "higher better" not in words
    assert "lower is better" in words


def test_one_method_has_nothing_to_compare(pages: dict[str, Parsed]) -> None:
    words = pages["alone"].words
    for said in ("One method: nothing to compare", "one seed: no interval", "with one seed there is no band"):
        assert said in words


def test_one_student_has_no_plot_of_sizes(pages: dict[str, Parsed]) -> None:
    assert "Parameters: the same for all, 78.0 k, as all train the same student" in pages["usual"].words
    assert "Parameters: the same for all" not in pages["four"].words


def test_the_diagram_of_ranks_or_why_not(pages: dict[str, Parsed], studies: dict[str, Path]) -> None:
    text = json.loads((studies["four"] / "results.json").read_text())["ranks"]["text"]
    assert text in pages["four"].words
    assert any(attrs.get("class") == "ranks" for _, attrs in pages["four"].elements)
    assert "No diagram: one pair" in pages["usual"].words
    assert not any(attrs.get("class") == "ranks" for _, attrs in pages["usual"].elements)


def test_trials_are_all_there(pages: dict[str, Parsed]) -> None:
    assert pages["usual"].words.count("chosen") == 5
    assert "training.optimizer.lr 0.05" in pages["usual"].words
    assert "No trials: recipes are as they were written" in pages["alone"].words


def test_run_folders_that_are_gone_are_reported(studies: dict[str, Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(studies["usual"], study)
    shutil.rmtree(study / "runs" / "cifar100" / "kl")
    (study / "runs/cifar100/mse/seed-0/metrics.jsonl").write_text('{"split": "test", "epo')
    page = Parsed(write_study_report(study).read_text(encoding="utf-8"))
    assert "3 run folders of 15 are not there any more." in page.words
    assert not any("/kl/" in str(attrs.get("href")) for tag, attrs in page.elements if tag == "a")
    assert "4 runs without curves" in page.words
    assert "a JSON object in line 1" in page.words


def test_files_that_may_be_missing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", FakeStudy(epochs=2))
    for name in ("cost.csv", "study.yaml", "tuned.json", "table.tex"):
        (study / name).unlink()
    assert not is_study(study)
    page = Parsed(write_study_report(study).read_text(encoding="utf-8"))
    assert "holds no cost.csv" in page.words
    assert "holds no study.yaml" in page.words
    assert not any(str(attrs.get("href")).endswith(".tex") for _, attrs in page.elements)


def test_one_epoch_is_one_epoch(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", FakeStudy(epochs=1))
    page = Parsed(write_study_report(study).read_text(encoding="utf-8"))
    assert "= 1 epoch " in f"{page.words} "
    assert "1 epochs" not in page.words


def test_three_hundred_runs_stay_small(tmp_path: Path) -> None:
    names = ("labels", *(f"method-{number}" for number in range(19)))
    study = write_study(tmp_path / "study", FakeStudy(methods=names, seeds=tuple(range(15)), epochs=30))
    assert write_study_report(study).stat().st_size < 6_000_000
    with_plotly = (study / "report.html").read_text(encoding="utf-8").count('id="plotly"')
    assert with_plotly == 1


class TestPagesOfRuns:
    """write_run_pages."""

    @pytest.fixture
    def study(self, studies: dict[str, Path], tmp_path: Path) -> Path:
        study = tmp_path / "study"
        shutil.copytree(studies["usual"], study)
        for page in study.rglob("report.html"):
            page.unlink()
        return study

    def test_each_finished_run_gets_one_and_they_share_plotly(self, study: Path) -> None:
        assert write_run_pages(study) == 15
        assert write_run_pages(study) == 0
        page = Parsed((study / "runs/cifar100/kl/seed-1/report.html").read_text(encoding="utf-8"))
        assert [attrs["src"] for tag, attrs in page.elements if tag == "script" and "src" in attrs] == [
            "../../../../plotly.js"
        ]
        assert [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv")] == [POLICY_IN_STUDY]
        assert "http" not in POLICY_IN_STUDY
        home = next(attrs for _, attrs in page.elements if attrs.get("class") == "home")
        assert home["href"] == "../../../../report.html"
        assert sum(path.stat().st_size for path in study.rglob("report.html")) < 15 * 400_000

    def test_one_that_is_there_is_left(self, study: Path) -> None:
        kept = study / "runs/cifar100/kl/seed-1/report.html"
        kept.write_text("mine")
        assert write_run_pages(study) == 14
        assert kept.read_text() == "mine"

    def test_a_damaged_run_keeps_no_other_from_its_page(self, study: Path) -> None:
        (study / "runs/cifar100/kl/seed-1/predictions.safetensors").write_bytes(b"\xff" * 64)
        (study / "runs/cifar100/kl/seed-2/summary.json").unlink()
        shutil.rmtree(study / "runs/cifar100/mse/seed-0")
        assert write_run_pages(study) == 12
        page = Parsed(write_study_report(study).read_text(encoding="utf-8"))
        assert any(attrs.get("href") == "runs/cifar100/kl/seed-1/" for _, attrs in page.elements)


def test_a_path_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", FakeStudy(epochs=2))
    runs = json.loads((study / "results.json").read_text())["runs"]
    runs[0]["run"] = "runs/a b/?x=#é&"
    edit_results(study, runs=runs)
    (study / runs[0]["run"]).mkdir(parents=True)
    page = Parsed(write_study_report(study).read_text(encoding="utf-8"))
    assert any(attrs.get("href") == "runs/a%20b/%3Fx%3D%23%C3%A9%26/" for _, attrs in page.elements)


def test_of_many_comparisons_the_undecided_ones_are_folded(tmp_path: Path) -> None:
    undecided = [f"On cifar100, no difference is shown between m{number} and labels." for number in range(14)]
    folder = write_study(tmp_path / "many")
    edit_results(folder, conclusions=["kl is better than labels.", *undecided])
    page = write_study_report(folder).read_text()
    first, folded = page.split('id="undecided"')
    assert "kl is better than labels." in first
    assert "14 comparisons with labels in which no difference is shown" in folded
    assert all(each in folded and each not in first for each in undecided)
    assert 'id="undecided"' not in write_study_report(write_study(tmp_path / "few")).read_text()
