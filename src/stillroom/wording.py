"""Values, names, counts and places in words: the same wherever something is written."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple


class Unit(NamedTuple):
    """What a sample of the data is called.

    A sentence that can be of any data holds it as a field (``$image``, ``$images``, ``$an_image``, ``$pixels``), and
    whoever makes a finding, a note or a page of the sentence fills it in.

    >>> TEXTS.fill("500 test $images, nats $an_image"), IMAGES.fill("500 test $images, nats $an_image")
    ('500 test texts, nats a text', '500 test images, nats an image')
    """

    one: str
    article: str
    parts: str  # what one is made of

    @property
    def many(self) -> str:
        """The plural."""
        return f"{self.one}s"

    def fill(self, sentence: str) -> str:
        """A sentence with the unit filled in."""
        article, one = self.article, self.one
        for field, word in (
            ("$an_image", f"{article} {one}"),
            ("$An_image", f"{article.capitalize()} {one}"),
            ("$image", one),
            ("$Image", one.capitalize()),
            ("$pixels", self.parts),
        ):
            sentence = sentence.replace(field, word)
        return sentence


IMAGES, TEXTS = Unit("image", "an", "pixels"), Unit("text", "a", "tokens")


def word(value: object) -> str:
    """A value of a recipe as YAML would write it, in a line; a path by its file's name.

    >>> [word(value) for value in (True, None, 4.0, 0.05, [1, 2], {"a": 1}, "/weights/a.th")]
    ['true', 'none', '4', '0.05', '[1, 2]', '{"a": 1}', 'a.th']
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.12g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(word(item) for item in value)}]"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    text = plain(str(value))
    return PurePath(text).name or text if text.startswith("/") else text


def whole_number(text: str) -> int | None:
    """The whole number from 0 that a text is, of at most 18 digits, which Python always converts; None for others.

    >>> whole_number("12"), whole_number("-1"), whole_number("²"), whole_number("9" * 5000)
    (12, None, None, None)
    """
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def plain(text: str, limit: int = 300) -> str:
    """Text in one line, without what a terminal or a spreadsheet would act upon.

    >>> plain("RunFailed:\\n  loss is not finite\\x1b[31m")
    'RunFailed: loss is not finite [31m'
    """
    shown = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def listed(names: Iterable[object]) -> str:
    """Names as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed([])
    ('a', 'a, b and c', '')
    """
    *before, last = [str(name) for name in names] or [""]
    return f"{', '.join(before)} and {last}" if before else last


def counted(count: float, thing: str) -> str:
    """So many things.

    >>> counted(1, "seed"), counted(5616, "step")
    ('1 seed', '5,616 steps')
    """
    number = f"{int(count):,}" if float(count).is_integer() else word(count)
    return f"{number} {thing}{'s' * (count != 1)}"


def places(where: Sequence[tuple[str, int | None]], *, pairs: bool) -> str:
    """Pairs with their seeds, in words.

    Args:
        where: (pair, seed), the seed None where it is of all of them.
        pairs: whether the study has pairs to be named.

    >>> places([("a", 0), ("a", 1), ("b", 0), ("b", 1)], pairs=True)
    'pairs a and b, seeds 0, 1'
    >>> places([("a", 0), ("b", 1)], pairs=True)
    'pair a, seed 0; pair b, seed 1'
    """
    seeds: dict[str, list[int]] = {}
    for pair, seed in where:
        seeds.setdefault(pair, []).extend([] if seed is None else [seed])
    alike: dict[tuple[int, ...], list[str]] = {}
    for pair, those in seeds.items():
        alike.setdefault(tuple(sorted(set(those))), []).append(pair)
    shown = []
    for those_seeds, those_pairs in alike.items():
        parts = [f"pair{'s' * (len(those_pairs) > 1)} {listed(those_pairs)}"] if pairs else []
        if those_seeds:
            parts.append(f"seed{'s' * (len(those_seeds) > 1)} {', '.join(map(str, those_seeds))}")
        shown.append(", ".join(parts))
    return "; ".join(part for part in shown if part)


def loss(terms: Sequence[Mapping[str, Any]]) -> str:
    """The losses of a recipe as a sum.

    >>> loss([{"name": "cross_entropy", "weight": 0.5}, {"name": "kl", "weight": 1.0, "temperature": 4.0}])
    '0.5 cross_entropy + kl (temperature 4)'
    """
    shown = []
    for term in terms:
        weight = term.get("weight", 1.0)
        if isinstance(weight, Mapping):
            factor = f"{word(weight.get('start'))}→{word(weight.get('end'))} "
        else:
            factor = "" if weight == 1 else f"{word(weight)} "
        options = [f"{key} {word(value)}" for key, value in term.items() if key not in ("name", "weight")]
        shown.append(f"{factor}{term['name']}" + (f" ({', '.join(options)})" if options else ""))
    return " + ".join(shown)


def flat(content: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``a.b: value``, lists left whole, but for lists of things that have names.

    >>> flat({"a": {"b": [1, 2]}, "losses": [{"name": "kl", "temperature": 2.0}], "c": {}})
    {'a.b': [1, 2], 'losses.kl.name': 'kl', 'losses.kl.temperature': 2.0}
    """
    if isinstance(content, Mapping):
        items = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list) and content and all(isinstance(item, dict) and "name" in item for item in content):
        items = [(str(item["name"]), item) for item in content]
    else:
        return {prefix.removesuffix("."): content}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{prefix}{key}.")
    return found
