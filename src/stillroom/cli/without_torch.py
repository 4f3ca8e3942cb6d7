"""Reads the options of recipes and losses in half a second: torch, which takes two to import, is not imported.

``stillroom list`` and ``stillroom schema`` need the options of all losses, and a loss has its options and its module in
one file. So that file is imported with placeholders for torch's names, as Sphinx does to document a package
(``autodoc_mock_imports``). Nothing that was imported so is left behind.
"""

from __future__ import annotations

import sys
from abc import ABCMeta
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextmanager
def without_torch() -> Iterator[None]:
    """Give placeholders to whoever imports torch in a ``with`` block; where torch is there already, do nothing."""
    if "torch" in sys.modules:
        yield
        return
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            parent, _, child = name.rpartition(".")
            if name.partition(".")[0] in ("torch", "stillroom", "safetensors"):
                del sys.modules[name]
                if parent in sys.modules:
                    vars(sys.modules[parent]).pop(child, None)


class _PlaceholderType(ABCMeta):
    """A class that has any attribute, each the placeholder again; classes derived from it are ordinary."""

    def __getattr__(cls, name: str) -> Any:
        if cls is not Placeholder or name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is not Placeholder:
            return super().__call__(*args, **kwargs)
        # As a decorator it returns what it decorates.
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else cls

    def __getitem__(cls, item: Any) -> Any:
        return cls if cls is Placeholder else cls.__class_getitem__(item)


class Placeholder(metaclass=_PlaceholderType):
    """Stands for every class, function and constant of torch."""


class _PlaceholderModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] == "torch" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _PlaceholderModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""
