"""The page in a real browser: quiet, on its own, and every control does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from report.browser import Visits, Watched, check_page
from report.folders import EVIL

pytestmark = pytest.mark.browser


@pytest.fixture
def taught(visit: Visits, pages: dict[str, Path]) -> Iterator[Watched]:
    """The usual page; whatever a test does with it, the page stays quiet."""
    watched = visit.on_desk(pages["taught"])
    yield watched
    watched.assert_quiet()


@pytest.fixture
def dark(visit: Visits, pages: dict[str, Path]) -> Watched:
    """A page for a reader who prefers a dark theme."""
    return visit.on_desk(pages["labels"], dark=True)


def test_it_opens_without_waiting_for_plotly(taught: Watched) -> None:
    """Which is by far the most of the page, and takes seconds to read."""
    held = "document.getElementById('plotly')"
    assert taught.page.evaluate(f"{held}.type") == "text/plain", "the browser passes it over"
    assert taught.page.evaluate(f"{held}.textContent.length / document.documentElement.outerHTML.length") > 0.8
    assert taught.page.evaluate("[...document.scripts].every((script) => script.src === '')")


def test_plots_wait_until_they_come_into_view(taught: Watched) -> None:
    drawn = taught.page.locator(".js-plotly-plot").count()
    taught.scroll_through()
    assert drawn < taught.page.locator(".js-plotly-plot").count() == taught.page.locator("[data-plot]").count()


@pytest.mark.parametrize("name", ["taught", "labels", "hundred", "evil"])
def test_a_page_is_quiet_asks_for_nothing_and_fits_its_window(visit: Visits, pages: dict[str, Path], name: str) -> None:
    check_page(visit(pages[name]), accessible="body" if name == "taught" else "")


@pytest.mark.parametrize(("plot", "across", "said"), [("top1", 0.5, "epoch"), ("classes", 0.85, "test images")])
def test_hovering_tells_the_numbers(taught: Watched, plot: str, across: float, said: str) -> None:
    taught.scroll_through()
    box = taught.page.locator(f"#plot-{plot}")
    box.scroll_into_view_if_needed()
    place = box.bounding_box()
    for shift in (0, 4):
        taught.page.mouse.move(place["x"] + place["width"] * across + shift, place["y"] + place["height"] * 0.1)
    label = box.locator(".hoverlayer text").first
    label.wait_for(timeout=120_000)
    assert said in box.locator(".hoverlayer").text_content()


def test_the_theme_button_turns_page_and_plots(taught: Watched) -> None:
    taught.scroll_through()

    def look() -> list[str]:
        return taught.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                      document.querySelector('#plot-top1 .main-svg').style.background]"""
        )

    light = look()
    button = taught.page.locator("#theme")
    assert button.text_content() == "Dark theme"
    button.click()
    dark = look()
    assert button.text_content() == "Light theme"
    assert all(before != after for before, after in zip(light, dark, strict=True))
    button.click()
    assert look() == light


def test_the_readers_preference_is_followed(dark: Watched) -> None:
    assert dark.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 26)"


def test_the_filter_shows_what_it_counts(taught: Watched) -> None:
    cards = taught.page.locator(".card")
    total = cards.count()
    for show in ("lost", "gained"):
        button = taught.page.locator(f"[data-show={show}]")
        button.click()
        visible = taught.page.locator(".card:visible")
        assert 0 < visible.count() < total
        assert visible.count() == taught.page.locator(f".card[data-group={show}]").count()
        assert f"({visible.count()})" in button.text_content()
        assert button.get_attribute("aria-pressed") == "true"
        assert taught.page.locator("#shown").text_content() == f"Showing {visible.count()} of {total} images."
    taught.page.locator("[data-show=all]").click()
    assert taught.page.locator(".card:visible").count() == total


def test_a_curve_is_hidden_and_shown(taught: Watched) -> None:
    taught.scroll_through()
    curves = taught.page.locator("#plot-top1 .trace.scatter")
    before = curves.count()
    button = taught.page.locator("[data-curve=run-1]")
    button.click()
    assert curves.count() == before - 1
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert curves.count() == before


def test_the_table_of_classes_sorts(taught: Watched) -> None:
    taught.unfold()
    head = taught.page.locator(".sortable th", has_text="Class")
    first = taught.page.locator(".sortable tbody tr:first-child th")
    head.locator("button").click()
    assert (head.get_attribute("aria-sort"), first.text_content()) == ("ascending", "airplane")
    head.locator("button").click()
    assert (head.get_attribute("aria-sort"), first.text_content()) == ("descending", "truck")


def test_the_command_is_copied(taught: Watched) -> None:
    button = taught.page.locator("[data-copy=command]")
    button.click()
    # By a locator: what polls in the page is refused by its policy.
    taught.page.locator("[data-copy=command]", has_text="Copied").wait_for()


def test_a_plot_is_saved_as_a_picture(taught: Watched) -> None:
    taught.scroll_through()
    taught.page.locator("#plot-top1").hover()
    with taught.page.expect_download() as download:
        taught.page.locator("#plot-top1 [data-title='Save as a PNG']").click()
    assert download.value.suggested_filename == "stillroom-top1.png"


def test_no_button_sends_a_plot_away(taught: Watched) -> None:
    taught.scroll_through()
    titles = taught.page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert set(titles) == {"Save as a PNG", "Zoom", "Pan", "Reset axes"}


def test_printing_draws_every_plot_and_leaves_the_theme_as_it_was(visit: Visits, pages: dict[str, Path]) -> None:
    with visit.anew(pages["labels"], dark=True) as watched:
        assert len(watched.page.pdf()) > 100_000
        assert watched.page.locator(".js-plotly-plot").count() == watched.page.locator("[data-plot]").count()
        assert watched.page.evaluate("document.documentElement.dataset.theme") is None
        watched.assert_quiet()


def test_what_others_wrote_runs_nowhere(visit: Visits, pages: dict[str, Path]) -> None:
    watched = visit.on_desk(pages["evil"])
    watched.scroll_through()
    watched.unfold()
    box = watched.page.locator("#plot-classes")
    box.scroll_into_view_if_needed()
    box.locator(".bars path").first.hover(force=True)  # plotly lays a sheet over them
    box.locator(".hoverlayer text").first.wait_for(timeout=120_000)
    assert "<img" in box.locator(".hoverlayer").text_content()
    assert watched.page.locator("[onerror]").count() == 0
    assert watched.page.locator("h1").text_content() == EVIL
    watched.page.wait_for_timeout(200)
    watched.assert_quiet()


def test_keyboard_focus_is_seen(dark: Watched) -> None:
    dark.page.keyboard.press("Tab")
    assert dark.page.evaluate("document.activeElement.className") == "skip"
    dark.page.keyboard.press("Tab")
    assert dark.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_every_control_is_reached_by_tab_in_the_order_of_the_page_and_works_by_enter(dark: Watched) -> None:
    page = dark.page
    page.goto(dark.address)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the link that skips the bar
    assert page.evaluate("location.hash") == "#main"
    reachable = "a[href], button:not([hidden]), summary, [tabindex='0']"
    wanted = page.evaluate(
        f"""() => [...document.querySelectorAll("main :is({reachable})")]
            .filter((one) => one.checkVisibility()).map((one, place) => (one.dataset.place = place))"""
    )
    seen = []
    while len(seen) < len(wanted):
        page.keyboard.press("Tab")
        place, outline, is_in_view = page.evaluate(
            """() => { const one = document.activeElement, box = one.getBoundingClientRect();
                const isInView = box.top < innerHeight && box.bottom > 0;
                return [one.dataset.place, getComputedStyle(one).outlineStyle, isInView]; }"""
        )
        assert (outline, is_in_view) == ("solid", True)
        if place is not None:  # plots that come into view bring buttons of their own
            seen.append(int(place))
    assert seen == wanted
    summary = page.locator(".of-plot > summary").first
    for is_open in (True, False):
        summary.press("Enter")
        assert page.evaluate("document.querySelector('.of-plot').open") is is_open


def test_the_policy_refuses_what_a_script_would_fetch(dark: Watched) -> None:
    text = dark.page.evaluate(
        """() => new Promise((done) => {
            addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            fetch("https://example.invalid/").catch(() => {});
        })"""
    )
    assert text == "connect-src"
