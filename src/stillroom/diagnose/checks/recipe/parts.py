"""Parts that are worked out when first asked for, and of which a broken one harms only those that need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from stillroom.errors import format_error

T = TypeVar("T")


class Skip(Exception):  # noqa: N818 - it names what happens to the check
    """A check cannot be made: why, in one line."""


class part(Generic[T]):  # noqa: N801 - a decorator, as property is
    """A property that is worked out once; where that fails, it fails for all who ask, and by the same words.

    Args:
        make: what works it out. It raises :class:`Skip` where there is no such thing; what else it raises becomes one.

    >>> class Case:
    ...     @part
    ...     def broken(self) -> int:
    ...         print("tried")
    ...         return 1 // 0
    >>> case = Case()
    >>> for _ in range(2):
    ...     try:
    ...         case.broken
    ...     except Skip as why:
    ...         print(why)
    tried
    ZeroDivisionError: integer division or modulo by zero
    ZeroDivisionError: integer division or modulo by zero
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__
        self._name = make.__name__

    @overload
    def __get__(self, case: None, kind: type) -> part[T]: ...
    @overload
    def __get__(self, case: object, kind: type) -> T: ...
    def __get__(self, case: object | None, kind: type) -> part[T] | T:
        if case is None:
            return self
        kept: dict[str, Any] = case.__dict__.setdefault("_parts", {})
        if self._name not in kept:
            try:
                kept[self._name] = self._make(case)
            except Skip as why:
                kept[self._name] = why
            except Exception as error:  # a user's own model or loss can fail in any way
                kept[self._name] = Skip(format_error(error))
        found = kept[self._name]
        if isinstance(found, Skip):
            raise Skip(str(found))
        value: T = found
        return value
