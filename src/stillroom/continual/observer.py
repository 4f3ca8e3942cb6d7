"""One progress bar over all tasks, with the time left of all."""

from __future__ import annotations

from typing import Any

from stillroom.runtime import Observer


class OfAllTasks(Observer):
    """Passes on how a task goes, its steps and epochs counted over all tasks.

    Args:
        inner: told of the whole.
        title: what the whole is called.
        total: its optimizer steps.
    """

    def __init__(self, inner: Observer, title: str, total: int) -> None:
        self._inner = inner
        self._title = title
        self._total = total
        self._steps, self._epochs = 0, 0.0
        self._shown = False
        self._noted: set[str] = set()

    def task_ended(self, steps: int, epochs: float, told: str) -> None:
        """A task is done, or was done before: so long it was, and this is what it came to."""
        self._steps += steps
        self._epochs += epochs
        self._inner.note(told)
        if self._shown:
            self._inner.stepped(self._steps)

    def run_started(self, title: str, total_steps: int, done: int) -> None:
        """Begin the bar with the first task, move it with the others."""
        if not self._shown:
            self._inner.run_started(self._title, self._total, self._steps + done)
        self._shown = True

    def stepped(self, step: int) -> None:
        """Steps of the tasks before, and of this one."""
        self._inner.stepped(self._steps + step)

    def logged(self, line: dict[str, Any]) -> None:
        """A task's line, counted over all."""
        counted = {"step": self._steps + line["step"], "epoch": round(self._epochs + line["epoch"], 6)}
        self._inner.logged({**line, **counted})

    def phase(self, what: str, done: int, total: int) -> None:
        """As it is."""
        self._inner.phase(what, done, total)

    def note(self, text: str) -> None:
        """Once: tasks say the same again."""
        if text not in self._noted:
            self._noted.add(text)
            self._inner.note(text)

    def run_ended(self) -> None:
        """Not yet: a task is over, not the whole."""
