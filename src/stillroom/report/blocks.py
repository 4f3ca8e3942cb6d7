"""Blocks that pages are made of: what the macros of ``macros.html.j2`` lay out."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace


class Values(SimpleNamespace):
    """What a template lays out, by the names that it is laid out by."""


@dataclass(frozen=True)
class Tile:
    """One number in large type, with what it is."""

    value: str
    what: str
    detail: str


@dataclass(frozen=True)
class Number:
    """A number as a table shows it, the small print below it, and what its column is sorted by."""

    text: str
    small: str = ""
    sort: str = ""


@dataclass(frozen=True)
class PageContext:
    """The study that a run's page belongs to: its name, and the addresses of its page and of its plotly from there."""

    name: str
    page: str
    plotly: str
