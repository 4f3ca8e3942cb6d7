"""A study's jobs in this process, one after another: those of objects that no other process can make."""

from __future__ import annotations

from collections.abc import Callable

from stillroom.study.engine.base import Engine, Job, Outcome
from stillroom.study.engine.jobs import MakeComponents, attempt, do, perform


class InProcessEngine(Engine):
    """Does each job here, when it is waited for.

    Args:
        make: makes what a job's recipe names; left out: from the recipe, as a process of its own would.
    """

    name, slots = "in process", 1

    def __init__(self, make: MakeComponents | None = None) -> None:
        # What a process of its own does before a job, such as freezing objects, is not for a user's process.
        self._perform: Callable[[Job], dict[str, object]] = perform if make is None else lambda job: do(job, make)
        self.done: list[str] = []
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        """Keep the job until it is waited for."""
        self._jobs.append(job)

    def wait(self, timeout: float) -> list[Outcome]:
        """Do one job."""
        job = self._jobs.pop(0)
        self.done.append(job.id)
        return [attempt(job, self._perform)]

    def close(self) -> None:
        """Forget what was not begun."""
        self._jobs.clear()
