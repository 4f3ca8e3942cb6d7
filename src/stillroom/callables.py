"""Packages that can be called: ``sr.explain(run)`` and also ``from stillroom.explain import concepts``.

Importing a submodule binds it to its name in the parent package: ``stillroom.explain`` is the package as soon as any
file imports from it, and a function of that name would be there or not, depending on who imported what before. So the
package itself can be called. It hands on to the function of its name in :mod:`stillroom.api`, where all commands have
their form in Python. Nothing is imported before the call.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that hands a call on to the function of its name in :mod:`stillroom.api`."""

    @property
    def function(self) -> Any:
        """What a call of the package calls."""
        return getattr(importlib.import_module("stillroom.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)


def make_callable(package: str) -> None:
    """Let a package be called, from the end of its ``__init__``.

    >>> import stillroom.diagnose
    >>> callable(stillroom.diagnose)
    True
    """
    sys.modules[package].__class__ = CallablePackage
