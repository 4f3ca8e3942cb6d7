"""Who follows the progress of a run: a terminal, or nobody."""

from __future__ import annotations

from typing import Any


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
