"""Hands jobs to an engine, starts again what died, keeps the progress up to date."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from stillroom.study.engine.base import Engine, Job, Outcome
from stillroom.study.progress import JobState, Progress

_WAIT = 0.25  # seconds between two looks of whoever watches
_WRITE = 1.0  # seconds between two writes of the progress: of thousands of jobs one takes a fifth of a second

Then = Callable[[Job, Outcome], Iterable[Job]]


class StudyObserver:
    """Told how a study goes; a live table overrides what it shows. Every method does nothing here."""

    def started(self, progress: Progress) -> None:
        """The driver begins."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def alarm(self, text: str) -> None:
        """Something that must not be overlooked."""

    def ended(self, state: JobState, progress: Progress) -> None:
        """A job ended for good."""

    def looked(self, progress: Progress) -> None:
        """Called several times a second."""

    def stopped(self) -> None:
        """The driver stops, well or not."""


class Schedule:
    """Does jobs on an engine.

    Args:
        engine: who does them.
        retries: how often a job whose process died is begun again.
        progress: kept up to date.
        path: where the progress is written.
        observer: told how it goes.
    """

    def __init__(self, engine: Engine, retries: int, progress: Progress, path: Path, observer: StudyObserver) -> None:
        self._engine = engine
        self._retries = retries
        self._progress = progress
        self._path = path
        self._observer = observer
        self._written = 0.0

    def do(self, phase: str, jobs: Iterable[Job], then: Then | None = None, *, alone: bool = False) -> list[Outcome]:
        """Do jobs, in their order as far as they go side by side.

        Args:
            phase: what is done, in words.
            jobs: what to do.
            then: called with each job that ended for good; what it returns is done as well, before what waits.
            alone: one at a time, so that a clock shows what each takes by itself.

        Returns:
            How each ended, in the order in which they did.

        Raises:
            BadInput: the engine can do nothing any more.
        """
        waiting = deque(jobs)
        under_way: dict[str, Job] = {}
        found: list[Outcome] = []
        slots = 1 if alone else self._engine.slots
        self._progress.phase = phase
        self._progress.add(waiting)
        self._write()
        while waiting or under_way:
            while waiting and len(under_way) < slots:
                job = waiting.popleft()
                under_way[job.id] = job
                self._progress.begun(job)
                self._engine.submit(job)
            outcomes = self._engine.wait(_WAIT)
            for outcome in outcomes:
                job = under_way.pop(outcome.id)
                again = outcome.ending == "crashed" and self._progress.jobs[job.id].attempts <= self._retries
                self._progress.ended_with(outcome, again=again)
                if again:
                    self._observer.note(f"{job.id}: {outcome.reason}; started again")
                    waiting.appendleft(job)
                    continue
                found.append(outcome)
                self._observer.ended(self._progress.jobs[job.id], self._progress)
                if then is not None:
                    more = list(then(job, outcome))
                    self._progress.add(more)
                    waiting.extendleft(reversed(more))
            if time.monotonic() - self._written > _WRITE:
                self._write()
            self._observer.looked(self._progress)
        self._write()
        return found

    def _write(self) -> None:
        self._progress.write(self._path)
        self._written = time.monotonic()
