"""The page as text: what it shows, what it leaves out and why, and that nothing written by others is taken for HTML."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from safetensors.numpy import load_file, save_file

from report.folders import EVIL, Fake, Lazy, write_run
from report.parsed import Parsed
from stillroom.report.charts import DARK, LIGHT
from stillroom.report.html import POLICY, plotly_text
from stillroom.report.run.data import read_run
from stillroom.report.run.page import run_page, write_report
from stillroom.report.run.words import run_names

NAMES = ("taught", "labels", "hundred", "evil")


@pytest.fixture(scope="module")
def pages(pages: dict[str, Path]) -> dict[str, Parsed]:
    """The pages of the room, parsed."""
    return Lazy(lambda name: Parsed(pages[name].read_text(encoding="utf-8")))


def test_the_default_place_is_the_first_run_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Fake(each=5, examples=2))
    assert write_report([run]) == run / "report.html"
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []


def test_the_same_runs_give_the_same_bytes(runs: dict[str, Path], tmp_path: Path) -> None:
    first = write_report([runs["taught"], runs["labels"]], tmp_path / "a.html").read_bytes()
    assert write_report([runs["taught"], runs["labels"]], tmp_path / "b.html").read_bytes() == first


def test_what_is_not_plotly_is_small(pages: dict[str, Parsed]) -> None:
    for name in NAMES:
        page = pages[name]
        rest = sum(len(script) for script in page.scripts) - max(len(script) for script in page.scripts)
        images = sum(len(attrs.get("src") or "") for tag, attrs in page.elements if tag == "img")
        assert rest + images + len(page.text) < 400_000


def test_a_page_with_all_its_plots_is_below_3_megabytes(runs: dict[str, Path], tmp_path: Path) -> None:
    page = write_report([runs["taught"], runs["labels"], runs["seed1"]], tmp_path / "page.html")
    assert 1_500_000 < page.stat().st_size < 3_000_000


def test_the_plotly_of_the_pages_is_the_one_that_checks_their_figures() -> None:
    from plotly.offline import get_plotlyjs_version

    assert f"plotly.js (cartesian - minified) v{get_plotlyjs_version()}" in plotly_text()[:100]


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_whole(pages: dict[str, Parsed], name: str) -> None:
    page = pages[name]
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {str(attrs["href"]).removeprefix("#") for tag, attrs in page.elements if tag == "a"}
    assert links <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("alt") for tag, attrs in page.elements if tag == "img")
    assert all(attrs.get("aria-label") for _, attrs in page.elements if "data-plot" in attrs)
    for wrong in ("NaN", "nan%", "None", "Infinity", "undefined", "�", "$image", "$an_image", "$pixels"):
        assert wrong not in page.text
        assert not any(wrong in script for script in page.scripts[:2])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched(pages: dict[str, Parsed], name: str) -> None:
    for tag, attrs in pages[name].elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert str(attrs.get("src", "data:")).startswith("data:")
        assert str(attrs.get("href", "#")).startswith("#")
        assert not any(key.startswith("on") for key in attrs)
    policies = [attrs["content"] for _, attrs in pages[name].elements if attrs.get("http-equiv")]
    assert policies == [POLICY]
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]
    assert "eval" not in policies[0]


def test_what_others_wrote_stays_text(pages: dict[str, Parsed]) -> None:
    page = pages["evil"]
    assert EVIL in page.text
    assert len(page.scripts) == len(pages["taught"].scripts)
    assert not any(attrs.get("src") == "x" for _, attrs in page.elements)
    assert "<" not in page.scripts[0], "the figures' JSON holds no tag, not even as text"
    assert "49" not in re.findall(r"\$\{alert\(2\)\}(.*?)%\{x\}", page.text)


def test_names_in_plots_hold_no_html_that_plotly_reads(runs: dict[str, Path]) -> None:
    run = read_run(runs["evil"])

    def texts(part: object) -> list[str]:
        if isinstance(part, dict):
            return [text for item in part.values() for text in texts(item)]
        if isinstance(part, list):
            return [text for item in part for text in texts(item)]
        return [part] if isinstance(part, str) else []

    shown = [text for chart in run_page([(EVIL, run)]).charts for text in texts(chart.figure)]
    assert any("&lt;" in text for text in shown)
    assert not any(re.search(r"<(?!b>|/b>|br>|extra>|/extra>)", text) for text in shown)
    assert not any("onerror" in text and "<" in text for text in shown)


def test_the_verdict_and_its_comparisons_are_on_the_page(pages: dict[str, Parsed]) -> None:
    words = pages["taught"].words
    assert "Distilling gained" in words
    assert "of the same student from labels alone. The teacher has" in words
    assert "The same recipe with seed 1" in words
    assert "no interval" in words
    assert "last epoch, never the best one on the test split" in words
    assert "stillroom distill recipe.yaml --out RUN" in words


def test_an_unequal_comparison_is_flagged_in_red(pages: dict[str, Parsed]) -> None:
    assert "is not an equal comparison: these differ: data, order of images" in pages["evil"].words
    marks = [attrs["class"] for _, attrs in pages["evil"].elements if attrs.get("role") == "note"]
    assert marks == ["notice"]


def test_an_equal_comparison_is_not_flagged(runs: dict[str, Path], tmp_path: Path) -> None:
    out = write_report([runs["taught"], runs["labels"]], tmp_path / "page.html")
    assert "not an equal comparison" not in Parsed(out.read_text(encoding="utf-8")).words


def test_a_run_without_a_teacher_says_what_it_lacks(pages: dict[str, Parsed]) -> None:
    words = pages["labels"].words
    assert "it had no teacher to compare with" in words
    assert "comparison with a teacher, and this run has none" in words
    assert "stillroom train recipe.yaml --out RUN" in words
    assert "Accuracy by class" in words
    assert "Student against teacher" not in words


def test_many_classes_show_the_ends_and_a_whole_table(pages: dict[str, Parsed]) -> None:
    words = pages["hundred"].words
    assert "Of 100 classes, the 15 that lost most" in words
    assert "All 100 classes as a table" in words
    assert sum("data-value" in attrs for tag, attrs in pages["hundred"].elements if tag == "td") == 400


def test_a_folder_with_the_summary_alone_still_gives_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Fake(each=5))
    for path in run.iterdir():
        if path.name != "summary.json":
            path.unlink()
    out = write_report([run])
    page = Parsed(out.read_text(encoding="utf-8"))
    for missing in ("predictions.safetensors", "metrics.jsonl", "recipe.yaml", "environment.json"):
        assert f"holds no {missing}" in page.words
    assert out.stat().st_size < 100_000, "without plots there is no plotly"


def test_a_taught_run_without_the_teachers_answers(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["taught"], run)
    held = load_file(run / "predictions.safetensors")
    save_file({key: held[key] for key in ("labels", "student_logits")}, run / "predictions.safetensors")
    words = Parsed(write_report([run]).read_text(encoding="utf-8")).words
    assert "contain no teacher logits" in words
    assert "class 0" in words


def test_images_of_any_shape(tmp_path: Path) -> None:
    for place, shape in enumerate([(1, 8, 8), (3, 300, 200), (4, 5, 5), (2, 1, 1)]):
        run = write_run(tmp_path / f"run{place}", Fake(each=5, examples=2))
        held = load_file(run / "predictions.safetensors")
        held["example_images"] = np.zeros((2, *shape), dtype=np.uint8)
        save_file(held, run / "predictions.safetensors")
        # The one that is answered as the teacher answers it is left out.
        logits = held["student_logits"][held["example_indices"]].argmax(1)
        kept = int((logits != held["teacher_logits"][held["example_indices"]].argmax(1)).sum())
        page = Parsed(write_report([run]).read_text(encoding="utf-8"))
        assert sum(tag == "img" for tag, _ in page.elements) == kept == 1


def test_figures_are_what_plotly_takes(runs: dict[str, Path]) -> None:
    for keys in (["taught", "labels", "seed1"], ["labels"], ["hundred"]):
        read = [read_run(runs[key]) for key in keys]
        for chart in run_page(list(zip(run_names(read), read, strict=True))).charts:
            go.Figure(chart.figure)
            assert chart.caption


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", Fake(each=5, epochs=100, log_every=1)))
    assert len(run.train) == 5000
    for chart in run_page([("run", run)]).charts:
        assert all(len(trace["x"]) <= 2000 for trace in chart.figure["data"])


def test_reading_runs_needs_no_torch() -> None:
    import subprocess

    code = "import sys, stillroom.report.run.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("shades", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_curves_stand_out_from_their_ground(shades: dict[str, str]) -> None:
    for ground in ("surface", "sunken", "page"):
        for ink in ("ink", "muted", "link", "lost-ink", "gained-ink"):
            assert _contrast(shades[ink], shades[ground]) >= 4.5, (ink, ground)
    assert _contrast(shades["alarm-ink"], shades["alarm-fill"]) >= 4.5
    for curve in ("teacher", "student", "other-1", "other-2", "other-3", "other-4", "lost", "gained", "alarm"):
        assert _contrast(shades[curve], shades["surface"]) >= 3, curve


def test_each_light_colour_has_one_dark_one() -> None:
    assert set(LIGHT) == set(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)
