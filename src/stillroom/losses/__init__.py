"""Losses: one file each, with its options, its pure function, its module, its citation and its flags.

A file of this folder that defines ``class NAME(Loss[NAMEConfig])``, or a subclass of a base whose name ends in
``Loss``, is a loss: :mod:`stillroom.losses.registry` finds it, and nothing else lists it.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


@cache
def loss_classes() -> dict[str, str]:
    """The class of every loss in this folder and the file's module, read from the text: nothing is imported.

    >>> loss_classes()["LogitMSE"]
    'stillroom.losses.logit_mse'
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(_is_loss(base) for base in node.bases):
                found[node.name] = f"{__name__}.{path.stem}"
    return found


def _is_loss(base: ast.expr) -> bool:
    """``SomeLoss[SomeConfig]``; a base for several losses has a type variable in place of the config."""
    if not isinstance(base, ast.Subscript):
        return False
    return ast.unparse(base.value).endswith("Loss") and ast.unparse(base.slice).endswith("Config")
