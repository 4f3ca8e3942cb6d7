"""A study's jobs in processes of this machine."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

from stillroom.study.engine.base import Engine, Job, Outcome
from stillroom.study.engine.pipes import Message, WorkerProcess
from stillroom.study.engine.worker import SLOT_VARIABLE

_WORKER_MODULE = "stillroom.study.engine.worker"
_JOBS_MODULE = "stillroom.study.engine.jobs"  # what a worker imports
_PATIENCE = 10.0  # seconds that workers have to end a step and save


@dataclass
class _Slot:
    """A worker with the job that it does."""

    process: WorkerProcess
    job: Job | None = None
    since: float = 0.0


class LocalEngine(Engine):
    """One worker process for each slot, kept once it is started: it does one job after another.

    Args:
        slots: how many jobs go side by side.
        logs: folder in which each worker leaves what it prints, such as ``worker-0.log``.
        fork: begin the first workers as copies of this process, which has done nothing with PyTorch but import it.
    """

    name = "local"

    def __init__(self, slots: int, logs: Path, *, fork: bool = False) -> None:
        self.slots = slots
        # Of several threads, a copy would hold the locks for ever; each worker chooses its own GPU before it imports
        # PyTorch; and the libraries of macOS do not survive a fork.
        alone = sys.platform == "linux" and threading.active_count() == 1
        self._fork = fork and alone and shutil.which("nvidia-smi") is None
        self._logs = logs
        self._workers: dict[int, _Slot] = {}
        self._messages: Queue[tuple[WorkerProcess, Message | None]] = Queue()

    def warm(self, jobs: int) -> None:
        """Start as many workers as there are jobs for: each takes seconds to import PyTorch, where it is no copy."""
        if self._fork:
            importlib.import_module(_JOBS_MODULE)
        for slot in range(min(self.slots, jobs)):
            if slot not in self._workers:
                self._workers[slot] = self._start(slot, fork=self._fork)

    def submit(self, job: Job) -> None:
        """Give the job to a worker that has none."""
        slot = next(slot for slot in range(self.slots) if slot not in self._workers or self._workers[slot].job is None)
        worker = self._workers.get(slot)
        if worker is None or not worker.process.alive:
            worker = self._workers[slot] = self._start(slot)
        worker.job, worker.since = job, time.perf_counter()
        worker.process.send(job.as_dict())

    def wait(self, timeout: float) -> list[Outcome]:
        """The jobs that ended since; returned as soon as there is one, and at once where none is under way."""
        deadline = time.monotonic() + timeout
        ended: list[Outcome] = []
        while ended or any(worker.job for worker in self._workers.values()):
            try:
                # One that ended may have brought others along.
                process, message = self._messages.get(timeout=0 if ended else max(deadline - time.monotonic(), 0))
            except Empty:
                # A child of a worker may hold its pipe open, so that its death sends no message.
                ended += [_crashed(one) for one in self._workers.values() if one.job and not one.process.alive]
                break
            worker = next((one for one in self._workers.values() if one.process is process), None)
            if worker is None or worker.job is None:
                continue
            if message is None:
                ended.append(_crashed(worker))
            else:
                worker.job = None
                ended.append(Outcome(**message))
        return ended

    def close(self) -> None:
        """End all workers; a run that one of them trains is saved first."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.stop(patience=_PATIENCE)
        self._workers.clear()

    def _start(self, slot: int, *, fork: bool = False) -> _Slot:
        # Each run sets its own threads; what is done around it shall not take every core from the others.
        environment = {"OMP_NUM_THREADS": "1", **os.environ, SLOT_VARIABLE: str(slot)}
        log = self._logs / f"worker-{slot}.log"
        return _Slot(
            WorkerProcess(
                _WORKER_MODULE,
                log,
                environment,
                lambda process, message: self._messages.put((process, message)),
                fork=fork,
            )
        )


def _crashed(worker: _Slot) -> Outcome:
    assert worker.job is not None
    job, worker.job = worker.job, None
    seconds = round(time.perf_counter() - worker.since, 4)
    return Outcome(job.id, "crashed", reason=worker.process.describe_end(), seconds=seconds)
