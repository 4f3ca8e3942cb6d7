"""Blocks that pages are made of: what the macros of ``macros.html.j2`` lay out."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

from stillroom.wording import of_texts

# What holds names and texts of the user's, or no words at all.
_KEPT = frozenset(
    {
        *("run", "members", "bars", "notices", "examples", "class_rows", "confusions", "by_superclass", "rows"),
        *("calibrations", "name", "key", "colour", "columns", "comparison"),
    }
)


class Values(SimpleNamespace):
    """What a template lays out, by the names that it is laid out by."""


def in_words_of_texts(value: Any) -> Any:
    """Blocks with what they say of images said of texts.

    >>> in_words_of_texts(Values(tile=Tile("0.5", "NLL", "nats an image"), name="image"))
    Values(tile=Tile(value='0.5', what='NLL', detail='nats a text'), name='image')
    """
    if isinstance(value, Values):
        return Values(
            **{name: each if name in _KEPT else in_words_of_texts(each) for name, each in vars(value).items()}
        )
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: getattr(value, each.name) for each in fields(value) if each.name not in _KEPT}
        return replace(value, **{name: in_words_of_texts(each) for name, each in held.items()})
    if isinstance(value, list | tuple) and any(not isinstance(each, str) for each in value):
        return type(value)(in_words_of_texts(each) for each in value)
    return of_texts(value)


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
