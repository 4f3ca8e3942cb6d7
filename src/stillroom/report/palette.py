"""The page's colours by role, light and dark; the shades of Okabe and Ito, darkened or lightened only for contrast."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Values of LIGHT are all different: a figure is written in light colours, and the page turns it dark by looking each
# of them up here.
LIGHT: Mapping[str, str] = MappingProxyType(
    {
        "page": "#f6f7f9",
        "surface": "#ffffff",
        "sunken": "#f1f3f6",
        "ink": "#1a2230",
        "muted": "#566073",
        "line": "#dfe3e9",
        "grid": "#e9ecf0",
        "axis": "#9aa3b1",
        "link": "#005f96",
        "teacher": "#4a4f59",
        "student": "#0072b2",
        "other-1": "#b87900",
        "other-2": "#c2609b",
        "other-3": "#8f8300",
        "other-4": "#1b8a6b",
        "lost": "#d55e00",
        "gained": "#009e73",
        "lost-ink": "#a84300",
        "gained-ink": "#006b4c",
        "alarm": "#b3261e",
        "alarm-ink": "#8c1d18",
        "alarm-fill": "#fdeeec",
    }
)
DARK: Mapping[str, str] = MappingProxyType(
    {
        "page": "#10141a",
        "surface": "#181e27",
        "sunken": "#212936",
        "ink": "#e7ebf1",
        "muted": "#a6b0c0",
        "line": "#303948",
        "grid": "#283140",
        "axis": "#6f7b8e",
        "link": "#7cc4f2",
        "teacher": "#d3d9e2",
        "student": "#56b4e9",
        "other-1": "#e69f00",
        "other-2": "#e493bf",
        "other-3": "#e5da3c",
        "other-4": "#4fd0a8",
        "lost": "#f0803c",
        "gained": "#2fc196",
        "lost-ink": "#ffa36b",
        "gained-ink": "#5fdcb4",
        "alarm": "#f2766b",
        "alarm-ink": "#ffb4ab",
        "alarm-fill": "#3a1f1e",
    }
)
OTHERS = 4


def other(position: int) -> str:
    """The role of the n-th comparison run's colour, from 0.

    >>> other(0), other(4)
    ('other-1', 'other-1')
    """
    return f"other-{position % OTHERS + 1}"


def css(colours: Mapping[str, str]) -> str:
    """The colours as CSS custom properties.

    >>> css({"ink": "#000000"})
    '--ink:#000000;'
    """
    return "".join(f"--{role}:{colour};" for role, colour in colours.items())


def dark_of_light() -> dict[str, str]:
    """Which dark colour stands for each light one."""
    return {LIGHT[role]: DARK[role] for role in LIGHT}
