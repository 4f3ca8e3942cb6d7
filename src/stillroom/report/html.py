"""What every page shares: the policy, templates that escape, data that can stand in a script, plotly."""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from stillroom.errors import BadInput
from stillroom.files import write_text
from stillroom.report.charts import DARK, LIGHT, TEMPLATE, css, dark_of_light
from stillroom.report.formats import short
from stillroom.report.numbers import plot_numbers
from stillroom.wording import IMAGES, Unit

_PACKAGE = "stillroom.report"
# Nothing is fetched and nothing is sent: styles and scripts are the page's own, images are data. Plotly hands a
# picture of a plot to the reader as a blob; without `blob:` its camera button would fail.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
# For a page that reads plotly from a file of its study's folder: from where the page itself is, or from this disk.
POLICY_IN_STUDY = POLICY.replace("script-src", "script-src 'self' file:")


def rendered(
    template: str, *, figures: dict[str, Any], plotly_at: str | None = None, unit: Unit = IMAGES, **context: Any
) -> str:
    """A page as text.

    Args:
        template: its name in ``templates``; it extends ``base.html.j2``.
        figures: the plots by key.
        plotly_at: the address of plotly, from the page; left out, it stands in the page where there are plots.
        unit: what a sample of the data is called, which the page's sentences leave open.
        context: what else the template lays out.
    """
    return unit.fill(
        _environment()
        .get_template(template)
        .render(
            policy=POLICY if plotly_at is None else POLICY_IN_STUDY,
            light=Markup(css(LIGHT)),
            dark=Markup(css(DARK)),
            style=Markup(_text("style.css")),
            script=Markup(_text("page.js")),
            plotly=Markup(plotly_text()) if figures and plotly_at is None else None,
            plotly_at=plotly_at if figures else None,
            figures=embedded(figures),
            template=embedded(dict(TEMPLATE)),
            shades=embedded(dark_of_light()),
            **context,
        )
    )


def write_page(target: Path, page: str) -> Path:
    """Write a page, atomically."""
    if target.is_dir():
        raise BadInput("out", str(target), "a file, not a folder")
    try:
        write_text(target, page)
    except OSError as error:
        raise BadInput("out", str(target), f"a place that can be written ({error.strerror})") from None
    return target


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


def breakable(text: str) -> Markup:
    """A name, escaped, that may be broken between its parts, so that a column need not be as wide as all of it.

    >>> print(breakable("timm:resnet_18<"))
    timm:<wbr>resnet_<wbr>18&lt;
    """
    return Markup(re.sub(r"([:_./-])(?=\w)", r"\1<wbr>", str(escape(text))))


def with_code(text: str) -> Markup:
    """A text, escaped, with what stands between backticks as code.

    >>> print(with_code("give `a <b>`"))
    give <code>a &lt;b&gt;</code>
    """
    parts = str(escape(text)).split("`")
    return Markup("".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts)))


@cache
def plotly_text() -> str:
    """Plotly as it can stand inside a ``<script>`` element, or in a file."""
    # plotly.js-cartesian-dist-min: all that the plots need, in a third of the whole library.
    packed = resources.files(_PACKAGE).joinpath("vendor", "plotly-cartesian.min.js.gz").read_bytes()
    # Within a script element these would end it, or change how its end is found.
    return gzip.decompress(packed).decode("utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "unbroken": unbroken,
        "breakable": breakable,
        "short": short,
        "with_code": with_code,
        "numbers": plot_numbers,
    }
    return environment


@cache
def _text(name: str) -> str:
    return resources.files(_PACKAGE).joinpath("templates", name).read_text(encoding="utf-8")
