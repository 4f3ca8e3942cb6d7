"""One self-contained HTML page from finished run folders: how good the student is, what it costs, where it changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from stillroom.errors import BadInput
from stillroom.files import write_text
from stillroom.report import palette
from stillroom.report.compare import names
from stillroom.report.content import content
from stillroom.report.formats import short
from stillroom.report.read import RunFolder, read_run

_PACKAGE = "stillroom.report"
# Nothing is fetched and nothing is sent: styles and scripts are the page's own, images are data. Plotly hands a
# picture of a plot to the reader as a blob; without `blob:` its camera button would fail.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one HTML page about finished runs.

    Args:
        runs: run folders; the page is about the first, the others are compared beside it.
        out: the file to write; left out: ``report.html`` in the first run's folder.

    Returns:
        The file that was written.

    Raises:
        BadInput: a folder is missing, unfinished or damaged, or the page cannot be written.

    >>> write_report([])
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: runs: got []; expected at least one run folder
    """
    if not runs:
        raise BadInput("runs", [], "at least one run folder")
    seen: set[Path] = set()
    for run in runs:
        if run.resolve() in seen:
            raise BadInput("runs", str(run), "each run folder once")
        seen.add(run.resolve())
    target = out if out is not None else runs[0] / "report.html"
    if target.is_dir():
        raise BadInput("out", str(target), "a file, not a folder")
    page = render([read_run(Path(run)) for run in runs])
    try:
        write_text(target, page)
    except OSError as error:
        raise BadInput("out", str(target), f"a place that can be written ({error.strerror})") from None
    return target


def render(runs: Sequence[RunFolder]) -> str:
    """The page as text; the same runs give the same text."""
    labels = names(runs)
    told = content(list(zip(labels, runs, strict=True)))
    figures = {chart.key: chart.figure for chart in told.charts}
    return str(
        _environment()
        .get_template("report.html.j2")
        .render(
            page=told,
            policy=POLICY,
            light=Markup(palette.css(palette.LIGHT)),
            dark=Markup(palette.css(palette.DARK)),
            style=Markup(_template("style.css")),
            script=Markup(_template("page.js")),
            plotly=Markup(_plotly()),
            figures=embedded(figures),
            shades=embedded(palette.dark_of_light()),
        )
    )


def embedded(content: Any) -> Markup:
    """An object as JSON that can stand inside a ``<script>`` element whatever texts it holds.

    >>> print(embedded({"name": "</script>"}))
    {"name":"\\u003c/script\\u003e"}
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def unbroken(text: str) -> Markup:
    """A text, escaped, in which ``top-1`` is not broken at its hyphen."""
    return Markup(str(escape(text)).replace("top-1", '<span class="unbroken">top-1</span>'))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"unbroken": unbroken, "short": short}
    return environment


def _template(name: str) -> str:
    return resources.files(_PACKAGE).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    # Here and not above: importing plotly takes longer than reading a run.
    from plotly.offline import get_plotlyjs

    # Within a script element these would end it, or change how its end is found.
    return str(get_plotlyjs()).replace("</script", "<\\/script").replace("<!--", "<\\!--")
