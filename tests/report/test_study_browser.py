"""The study's page in a real browser: quiet, on its own, and every control does what it says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from report.browser import Visits, Watched, check_page

pytestmark = pytest.mark.browser
# "usual" is "unequal" without its notices.
NAMES = ("four", "many", "alone", "unequal", "failed", "huge", "sweep", "evil")


@pytest.fixture
def four(visit: Visits, studies: dict[str, Path]) -> Iterator[Watched]:
    watched = visit.on_desk(studies["four"] / "report.html")
    yield watched
    watched.assert_quiet()


def see_all(watched: Watched) -> None:
    watched.scroll_through()
    watched.unfold()
    for row in watched.page.query_selector_all(".unfold[aria-expanded=false]")[:3]:
        if row.is_visible():
            row.click()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_quiet_asks_for_nothing_and_fits(visit: Visits, studies: dict[str, Path], name: str) -> None:
    check_page(visit(studies[name] / "report.html"), see_all, accessible="body" if name == "four" else "")


def test_a_column_sorts_by_mouse_and_by_key(four: Watched) -> None:
    table = four.page.locator("#table [data-panel=pair]:visible table.contest")

    def order() -> list[str]:
        return table.locator(":scope > tbody > tr:not(.detail) > th").all_text_contents()

    head = table.locator("th[aria-sort]", has_text="top-1")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    upwards = order()
    means = [float(text) for text in table.locator("td.subject").evaluate_all("all => all.map(c => c.dataset.value)")]
    assert means == sorted(means)
    head.locator("button").focus()
    four.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert order() == upwards[::-1]
    name = table.locator("th[aria-sort]", has_text="Method")
    name.locator("button").click()
    assert order() == sorted(order())
    assert head.get_attribute("aria-sort") == "none"


def test_rows_without_a_number_stay_last_and_details_follow_their_row(four: Watched) -> None:
    table = four.page.locator("#table [data-panel=pair]:visible table.contest")
    unfold = table.locator(".unfold", has_text="mse")
    if unfold.get_attribute("aria-expanded") == "false":
        unfold.click()
    button = table.locator("th[aria-sort]", has_text="Difference").locator("button")
    for _ in range(2):
        button.click()
        assert table.locator(":scope > tbody > tr:not(.detail) > th").last.text_content() == "labels"
        seen = table.locator(":scope > tbody > tr:visible")
        texts = seen.evaluate_all("rows => rows.map(row => row.className + row.cells[0].textContent.trim())")
        place = next(place for place, text in enumerate(texts) if text.endswith("mse"))
        assert texts[place + 1].startswith("detail")


def test_a_row_unfolds_to_its_runs_and_leads_to_them(visit: Visits, studies: dict[str, Path]) -> None:
    watched = visit.on_desk(studies["usual"] / "report.html")
    button = watched.page.locator(".unfold", has_text="kl")
    row = watched.page.locator(f"#{button.get_attribute('aria-controls')}")
    if button.get_attribute("aria-expanded") == "true":
        button.click()
    assert not row.is_visible()
    button.focus()
    watched.page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    assert row.locator("tbody tr").count() == 3
    row.locator("a").nth(1).click()
    watched.page.wait_for_load_state("load")
    assert watched.page.url.endswith("runs/cifar100/kl/seed-1/report.html")
    watched.page.locator("nav .home").click()
    watched.page.wait_for_load_state("load")
    assert watched.page.url == watched.address


def test_the_page_of_a_run_reads_plotly_from_the_study_alone(
    visit: Visits, studies: dict[str, Path], tmp_path: Path
) -> None:
    study = studies["usual"]
    with visit.anew(study / "runs/cifar100/kl/seed-0/report.html") as watched:
        watched.scroll_through()
        assert watched.errors == []
        assert watched.console == []
        assert watched.outside == [(study / "plotly.js").resolve().as_uri()]
    alone = tmp_path / "a" / "b" / "c" / "d"
    shutil.copytree(study / "runs/cifar100/kl/seed-0", alone)
    with visit.anew(alone / "report.html") as watched:
        watched.page.locator("#plot-top1").scroll_into_view_if_needed()
        watched.page.locator("#plot-top1", has_text="plotly.js").wait_for()
        assert watched.errors == []


def test_the_pair_switch_turns_all_sections(four: Watched) -> None:
    page = four.page
    four.scroll_through()
    assert set(page.locator(".pair-name:visible").all_text_contents()) == {"digits"}
    page.locator("#table [data-switch=pair] button", has_text="cifar100").click()
    assert set(page.locator(".pair-name:visible").all_text_contents()) == {"cifar100"}
    assert page.locator("[data-switch=pair] button[aria-pressed=true]").all_text_contents() == ["cifar100"] * 3
    four.scroll_through()
    wide = page.locator("#cost [data-plot]:visible .main-svg").first.bounding_box()["width"]
    assert wide == page.locator("#cost [data-plot]:visible").bounding_box()["width"]


def test_the_cost_can_be_chosen(four: Watched) -> None:
    page = four.page
    for kind, title in (("Teacher passes", "teacher passes, images"), ("Parameters", "parameters, numbers")):
        page.locator("#cost [data-switch=cost] button", has_text=kind).click()
        four.scroll_through()
        assert page.locator("#cost [data-plot]:visible").count() == 1
        assert page.locator("#cost [data-plot]:visible .xtitle").text_content() == title
        assert page.locator("#cost [data-plot]:visible .trace").count() == 2


def test_names_in_a_plot_are_whole_on_a_phone(visit: Visits, studies: dict[str, Path]) -> None:
    watched = visit(studies["four"] / "report.html")
    watched.turn_to(width=390, dark=True)
    watched.scroll_through()
    spaces = watched.page.evaluate(
        """() => [...document.querySelectorAll("#cost .textpoint")].filter((name) => name.checkVisibility())
            .map((one) => {
            const at = one.getBoundingClientRect(), edge = one.closest("[data-plot]").getBoundingClientRect();
            return Math.min(at.left - edge.left, edge.right - at.right);
        })"""
    )
    assert spaces
    assert min(spaces) >= 0


def test_curves_and_bands_are_hidden_and_shown(four: Watched) -> None:
    four.scroll_through()
    plot = four.page.locator("#plot-curve-0")
    curves = plot.locator(".trace.scatter")
    assert curves.count() == 5 + 5 + 1
    four.page.locator("[data-curve=bands]").click()
    assert curves.count() == 5 + 1
    four.page.locator("[data-curve=run-1]").click()
    assert curves.count() == 4 + 1
    four.page.locator("[data-curves=none]").click()
    assert curves.count() == 1
    four.page.locator("[data-curves=all]").click()
    assert curves.count() == 5 + 1


def test_many_bands_wait_to_be_asked_for(visit: Visits, studies: dict[str, Path]) -> None:
    watched = visit.on_desk(studies["many"] / "report.html")
    button = watched.page.locator("[data-curve=bands]")
    assert button.get_attribute("aria-pressed") == "false"
    watched.scroll_through()
    curves = watched.page.locator("#plot-curve-0 .trace.scatter")
    before = curves.count()
    button.click()
    assert curves.count() == before + 30


def test_the_theme_turns_drawings_too(four: Watched) -> None:
    four.scroll_through()
    look = "getComputedStyle(document.querySelector('.contest tbody tr:last-of-type circle, .contest circle')).stroke"
    light = four.page.evaluate(look)
    four.page.locator("#theme").click()
    assert four.page.evaluate(look) != light


def test_without_scripts_all_is_there(context: Any, studies: dict[str, Path]) -> None:
    context = context.browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto((studies["four"] / "report.html").resolve().as_uri())
        assert page.locator("#table .contest:visible").count() == 4
        assert page.locator("tr.detail:visible").count() == 20
    finally:
        context.close()


def test_it_prints(four: Watched) -> None:
    assert len(four.page.pdf()) > 100_000
