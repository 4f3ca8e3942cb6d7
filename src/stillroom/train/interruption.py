"""Ctrl-C and SIGTERM during training: the step ends first, so that a save can be made."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Holds back the first Ctrl-C or SIGTERM while the context lasts; the second one interrupts at once.

    Signals that interrupt nothing anyway (ignored, or with the system's own handler) are left alone, as are those of a
    thread that is not the main one.

    >>> with Interruption() as interruption:
    ...     signal.raise_signal(signal.SIGINT)
    ...     interruption.pending
    True
    """

    def __init__(self) -> None:
        self.pending = False
        self._held_back = True
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Let signals interrupt at once in here, an earlier one too: for what takes long and can be done again."""
        self._held_back = False
        try:
            if self.pending:
                raise KeyboardInterrupt
            yield
        finally:
            self._held_back = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._held_back and not self.pending:
            self.pending = True
        else:
            self._handlers[number](number, frame)
