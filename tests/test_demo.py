"""The demo as a new user runs it, and the page it leaves, opened in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import frozen_demo
import stillroom.demo
from report.browser import Watched, check_page
from stillroom.cli import run
from stillroom.recipe import Recipe


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo, of 4 of its 30 epochs."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    recipes = stillroom.demo.demo_recipes

    def shorter(weights: Path) -> dict[str, Recipe]:
        return {
            name: recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 4})})
            for name, recipe in recipes(weights).items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stillroom.demo, "demo_recipes", shorter)
        assert run(["demo", "--out", str(folder)]) == 0
        yield folder


def test_the_demo_distils_a_teacher_that_learned_and_a_student_that_learned(demo: Path) -> None:
    teacher, labels, distilled = (
        json.loads((demo / name / "summary.json").read_text()) for name in ("teacher", "labels", "distilled")
    )
    assert teacher["top1"] > 80
    assert distilled["parameters"] * 50 < teacher["parameters"]
    assert distilled["top1"] > 60
    assert distilled["hashes"] == labels["hashes"], "an equal comparison"
    assert distilled["teachers"]["teacher"]["correct"] == teacher["correct"], "the teacher is the one that was trained"


def test_the_kept_models_of_a_whole_demo_were_trained_with_the_recipes_that_ship() -> None:
    assert frozen_demo.trained_with() == frozen_demo.written(), frozen_demo.__doc__


def test_in_a_whole_demo_all_learned_and_the_distilled_student_agrees_with_its_teacher() -> None:
    said, labels = frozen_demo.classes_said()
    top1 = {name: 100 * float((classes == labels).double().mean()) for name, classes in said.items()}
    agreement = {name: 100 * float((classes == said["teacher"]).double().mean()) for name, classes in said.items()}
    assert top1["teacher"] > 98
    assert min(top1.values()) > 96
    assert agreement["distilled"] > agreement["labels"] - 1


def draw_and_hover(visit: Watched) -> None:
    """Draw every plot; in the wide window, move over the first until a point answers."""
    visit.scroll_through()
    if visit.page.viewport_size["width"] < 1000:
        return
    plot = visit.page.query_selector("[data-plot].js-plotly-plot")
    plot.scroll_into_view_if_needed()
    box = plot.query_selector(".nsewdrag").bounding_box()
    # Between two points there is nothing to tell.
    for step in range(1000):
        across = (step % 40 + 0.5) / 40
        visit.page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] / 2)
        visit.page.wait_for_timeout(50)
        if visit.page.locator(".hoverlayer .hovertext, .hoverlayer .legend").count():
            return
    pytest.fail("no point answers")


@pytest.mark.browser
def test_the_demos_page_is_quiet_fits_and_its_plots_answer_to_hover(demo: Path, browser: Any) -> None:
    check_page(browser, demo / "report.html", draw_and_hover)


def test_a_demo_killed_while_it_wrote_its_page_goes_on(demo: Path) -> None:
    (demo / ".report.html.abc.part").write_text("half")
    assert run(["demo", "--out", str(demo)]) == 0


def test_a_demo_that_is_there_is_not_run_again(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "distilled" / "student.safetensors").stat().st_mtime_ns
    assert run(["demo", "--out", str(demo), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert Path(printed["report"]) == demo / "report.html"
    assert (demo / "distilled" / "student.safetensors").stat().st_mtime_ns == before
