"""How each method is drawn, the same in every plot: a colour, a dash, a symbol; thirty of them differ."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.report.study.model import Study

# The baseline keeps the grey to itself, so that what is compared with it stands out.
_COLOURS = ("student", "other-1", "other-4", "other-2", "lost", "other-3")
_BASELINE = "teacher"
# Plotly's name, then the pattern in pixels that the legend's samples are drawn with.
_DASHES = (("solid", ""), ("dash", "7 4"), ("dot", "2 3"), ("dashdot", "7 3 2 3"), ("longdash", "12 4"))
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")


@dataclass(frozen=True)
class Look:
    """The role of a colour, a dash as plotly names it and as a pattern, a symbol."""

    colour: str
    dash: str
    pattern: str
    symbol: str


def looks(study: Study) -> dict[str, Look]:
    """A look for each method."""
    others = [name for name in study.names if name != study.baseline]
    found = {study.baseline: Look(_BASELINE, *_DASHES[0], "circle")}
    for number, name in enumerate(others):
        turn = number // len(_COLOURS) % len(_DASHES)
        found[name] = Look(_COLOURS[number % len(_COLOURS)], *_DASHES[turn], _SYMBOLS[turn])
    return found
