"""Fences the examples of docstrings, so that Markdown does not read their brackets as links."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Examples in docstrings as blocks of Python."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence every run of lines that begins with a prompt."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
