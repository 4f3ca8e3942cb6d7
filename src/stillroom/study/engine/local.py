"""A study's jobs in processes of this machine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

from stillroom.study.engine.base import Engine, Job, Outcome
from stillroom.study.engine.pipes import Child, Said
from stillroom.study.engine.worker import SLOT_VARIABLE

_WORKER = "stillroom.study.engine.worker"


@dataclass
class _Worker:
    """A process with what it does."""

    child: Child
    job: Job | None = None
    since: float = 0.0


class LocalEngine(Engine):
    """One worker process for each slot, kept once it is started: it does one job after another.

    Args:
        slots: how many jobs go side by side.
        logs: folder in which each worker leaves what it prints, such as ``worker-0.log``.
    """

    name = "local"

    def __init__(self, slots: int, logs: Path) -> None:
        self.slots = slots
        self._logs = logs
        self._workers: dict[int, _Worker] = {}
        self._heard: Queue[tuple[Child, Said | None]] = Queue()

    def warm(self, jobs: int) -> None:
        """Start as many workers as there are jobs for: each takes seconds to import PyTorch."""
        for slot in range(min(self.slots, jobs)):
            if slot not in self._workers:
                self._workers[slot] = self._start(slot)

    def submit(self, job: Job) -> None:
        """Give the job to a worker that has none."""
        slot = next(slot for slot in range(self.slots) if self._is_free(slot))
        worker = self._workers.get(slot)
        if worker is None or not worker.child.alive:
            worker = self._workers[slot] = self._start(slot)
        worker.job, worker.since = job, time.perf_counter()
        worker.child.say(job.as_dict())

    def wait(self, timeout: float) -> list[Outcome]:
        """The jobs that ended since; returned as soon as there is one, and at once where none is under way."""
        deadline = time.monotonic() + timeout
        ended: list[Outcome] = []
        while ended or any(worker.job for worker in self._workers.values()):
            try:
                # One that ended may have brought others along.
                child, said = self._heard.get(timeout=0 if ended else max(deadline - time.monotonic(), 0))
            except Empty:
                # A child of a worker may hold its pipe open, so that its death is not heard.
                ended += [
                    self._died(worker) for worker in self._workers.values() if worker.job and not worker.child.alive
                ]
                break
            if (outcome := self._outcome(child, said)) is not None:
                ended.append(outcome)
        return ended

    def close(self) -> None:
        """End all workers, whatever they do."""
        for worker in self._workers.values():
            worker.child.terminate()
        for worker in self._workers.values():
            worker.child.end(patience=2.0)
        self._workers.clear()

    def _is_free(self, slot: int) -> bool:
        return slot not in self._workers or self._workers[slot].job is None

    def _start(self, slot: int) -> _Worker:
        # Each run sets its own threads; what is done around it shall not take every core from the others.
        environment = {"OMP_NUM_THREADS": "1", **os.environ, SLOT_VARIABLE: str(slot)}
        return _Worker(Child(_WORKER, self._logs / f"worker-{slot}.log", environment, self._hear))

    def _hear(self, child: Child, said: Said | None) -> None:
        self._heard.put((child, said))

    def _outcome(self, child: Child, said: Said | None) -> Outcome | None:
        """What a worker says, or its death, means for its job; None where it had none."""
        worker = next((worker for worker in self._workers.values() if worker.child is child), None)
        if worker is None or worker.job is None:
            return None
        if said is None:
            return self._died(worker)
        worker.job = None
        return Outcome(**said)

    def _died(self, worker: _Worker) -> Outcome:
        assert worker.job is not None
        job, worker.job = worker.job, None
        seconds = round(time.perf_counter() - worker.since, 4)
        return Outcome(job.id, "crashed", reason=worker.child.how_it_ended(), seconds=seconds)
