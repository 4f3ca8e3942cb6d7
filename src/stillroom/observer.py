"""Who follows the progress of a run: a terminal, or nobody."""

from __future__ import annotations

from typing import Any

from stillroom.wording import of_texts


class Observer:
    """Follows the progress of a run; a progress bar overrides what it shows. Every method does nothing here."""

    began: float | None = None  # when the command began that it follows, by ``time.perf_counter``; None: with the run

    def run_started(self, title: str, total_steps: int, done: int) -> None:
        """Training begins at step ``done``."""

    def stepped(self, step: int) -> None:
        """``step`` optimizer steps are done."""

    def logged(self, line: dict[str, Any]) -> None:
        """A line was added to metrics.jsonl."""

    def phase(self, what: str, done: int, total: int) -> None:
        """Something other than training goes on: ``done`` of ``total`` images."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def run_ended(self) -> None:
        """Training is over, well or not."""


class TextObserver(Observer):
    """Passes on the progress of a run on texts; what is said of images is said of texts."""

    def __init__(self, inner: Observer) -> None:
        self._inner, self.began = inner, inner.began

    def run_started(self, title: str, total_steps: int, done: int) -> None:
        self._inner.run_started(title, total_steps, done)

    def stepped(self, step: int) -> None:
        self._inner.stepped(step)

    def logged(self, line: dict[str, Any]) -> None:
        self._inner.logged(line)

    def phase(self, what: str, done: int, total: int) -> None:
        self._inner.phase(of_texts(what), done, total)

    def note(self, text: str) -> None:
        self._inner.note(of_texts(text))

    def run_ended(self) -> None:
        self._inner.run_ended()
