"""Opens a page in Chromium and watches it: what the console says, what leaves the page, what it asks the reader."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--process-per-site",  # pages of one context share a process
    "--js-flags=--max-lazy",  # compiles of plotly what a page calls
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
)


def find_chromium() -> str | None:
    """The browser on this machine, or None."""
    return next((path for name in EXECUTABLES if (path := shutil.which(name))), None)


@contextmanager
def browser_context() -> Iterator[Any]:
    """A context of a running Chromium, for a phone in the dark, or the test is skipped with the reason."""
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(EXECUTABLES)})")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        context = browser.new_context(
            viewport={"width": 390, "height": 900},
            color_scheme="dark",
            reduced_motion="reduce",  # a page that glides moves away from under the pointer
            accept_downloads=True,
        )
        context.set_default_timeout(120_000)  # ms: a busy machine draws slowly
        # Pages of files share a process as long as one of them is open; it compiles plotly once for all.
        context.new_page().goto(Path(__file__).parent.as_uri())
        yield context
        browser.close()


# In one call: between a hundred of them a busy machine waits longer than it draws.
_DRAW = """async () => {
    for (const plot of document.querySelectorAll("[data-plot]")) {
        if (!plot.checkVisibility()) continue;
        plot.scrollIntoView({block: "center"});
        for (let waited = 0; !plot.classList.contains("js-plotly-plot"); waited++) {
            if (waited > 10000) throw new Error(`${plot.id} is not drawn`);
            await new Promise((done) => setTimeout(done, 20));
        }
    }
}"""


@dataclass
class Watched:
    """A page and what happened on it since it was opened.

    Attributes:
        width: of its window, in CSS pixels.
        dark: whether its reader prefers a dark theme.
    """

    page: Any
    address: str
    width: int
    dark: bool
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    @property
    def outside(self) -> list[str]:
        """Requests other than for the page itself and for what it holds."""
        return [url for url in self.requests if url != self.address and not url.startswith(("data:", "blob:"))]

    def scroll_through(self) -> None:
        """Bring every plot that can be seen into view, one after the other, until each is drawn."""
        self.page.evaluate(_DRAW)
        self.page.wait_for_timeout(100)

    def unfold(self) -> None:
        """Open what is folded."""
        self.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        self.page.wait_for_timeout(100)

    def turn_to(self, *, width: int, dark: bool) -> None:
        """Another window and theme for the page as it is, with what is drawn on it."""
        if (self.width, self.dark) == (width, dark):
            return
        self.width, self.dark = width, dark
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.wait_for_timeout(100)

    def assert_quiet(self) -> None:
        """Nothing in the console, nothing thrown, nothing asked for from outside, no dialog."""
        assert self.errors == []
        assert self.console == []
        assert self.outside == []
        assert self.dialogs == []

    def assert_fits(self) -> None:
        """The page itself does not scroll sideways; in a narrow window no table does, so that no column is cut off."""
        wide = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], f"{wide[0]} pixels wide in a window of {wide[1]}"
        cut = self.page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter((box) => box.querySelector('table:not(.shaded)')"
            " && box.offsetParent && box.scrollWidth > box.clientWidth + 1).map((box) => box.ariaLabel)"
        )
        assert wide[1] > 760 or not cut, f"cut off: {cut}"


@functools.cache
def _axe() -> str:
    """The source of axe-core, or the test is skipped."""
    pytest.importorskip("axe_playwright_python")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def assert_accessible(page: Any, within: str) -> None:
    """In a part of a page, as it is, axe finds no violation of WCAG 2.1, levels A and AA: contrast, names, roles."""
    if not page.evaluate("'axe' in globalThis"):
        page.evaluate(_axe())
    found = page.evaluate(
        """(within) => axe.run(within, {resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21aa"]})
            .then(({violations}) => violations.flatMap(({id, nodes}) => nodes.map((one) => `${id}: ${one.html}`)))""",
        within,
    )
    assert not found, "\n".join(each[:300] for each in found[:20])


class Visits:
    """Pages that are opened once, on a phone in the dark, for several tests: each takes seconds to read and to draw.

    Args:
        context: a context of playwright.
        stack: closes them.
    """

    def __init__(self, context: Any, stack: ExitStack) -> None:
        self._context = context
        self._stack = stack
        self._open: dict[Path, Watched] = {}

    def __call__(self, path: Path) -> Watched:
        """The page of an HTML file as the last test left it."""
        if path not in self._open:
            self._open[path] = self._stack.enter_context(self.anew(path, width=390, dark=True))
        watched = self._open[path]
        watched.page.bring_to_front()  # behind another page it draws once a second, and a click waits for two drawings
        return watched

    @contextmanager
    def anew(self, path: Path, *, width: int = 1280, dark: bool = False) -> Iterator[Watched]:
        """The page of an HTML file as a reader finds it, in a window of this many CSS pixels."""
        page = self._context.new_page()
        watched = Watched(page, path.resolve().as_uri(), 390, dark=True)
        # Everything the console says counts: warnings are how a browser tells of a policy that was broken.
        page.on("console", lambda message: watched.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))

        def dismiss(dialog: Any) -> None:
            watched.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", dismiss)
        watched.turn_to(width=width, dark=dark)
        page.goto(watched.address)
        yield watched
        page.close()

    def on_desk(self, path: Path, *, dark: bool = False) -> Watched:
        """The same in a wide window."""
        watched = self(path)
        watched.turn_to(width=1280, dark=dark)
        return watched


def check_page(
    watched: Watched, draw: Callable[[Watched], object] = Watched.scroll_through, *, accessible: str = ""
) -> None:
    """What every page must hold, on a phone and then on a desk: quiet, alone, and no wider than the window.

    Args:
        watched: the page, as it was opened on a phone.
        draw: what a reader does to see all of it.
        accessible: the part that axe looks at, too, in both themes; of each kind of page, one is enough.
    """
    watched.turn_to(width=390, dark=True)
    watched.unfold()
    draw(watched)
    watched.assert_fits()
    if accessible:
        assert_accessible(watched.page, accessible)
    watched.turn_to(width=1280, dark=not accessible)
    draw(watched)
    watched.assert_fits()
    if accessible:
        assert_accessible(watched.page, accessible)
    watched.assert_quiet()
