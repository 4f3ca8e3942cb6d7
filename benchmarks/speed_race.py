"""Worker processes, and the race between them: one baton, so that only one computes at a time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from speed_job import Job

# What decides how OpenMP's threads wait is torch's default for all: one user's setting must not slip in.
OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "GOMP_CPU_AFFINITY", "OMP_PROC_BIND", "KMP_AFFINITY")
PATIENCE = 10.0  # seconds that a worker has to end by itself


class Failed(Exception):  # noqa: N818 - it says what happened, as stillroom's own do
    """A worker cannot go on; ``bad_input`` where it is the user who can mend it."""

    def __init__(self, message: str, bad_input: bool = False) -> None:
        super().__init__(message)
        self.bad_input = bad_input


class Worker:
    """One process of a job's program, ended when the block ends, however it ends."""

    def __init__(self, job: Job, cache: Path) -> None:
        self.job = job
        folder = Path(job.folder)
        folder.mkdir(parents=True)
        self._log = folder.with_suffix(".log")
        environment = {key: value for key, value in os.environ.items() if key not in OPENMP}
        environment |= {"OMP_NUM_THREADS": str(job.threads), "STILLROOM_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name(job.worker)), job.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                # Ctrl-C is for the driver, which then ends its workers.
                start_new_session=True,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            # Without a baton it ends by itself; a long build, or a compilation, knows nothing of batons.
            self._process.wait(PATIENCE if error is None else 0.5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def answer(self) -> dict[str, Any]:
        """What it says next.

        Raises:
            Failed: it refuses the job, or died.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise Failed(f"the worker of {self.job.do!r} died with exit code {self._process.wait()}:\n{tail}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise Failed(said["error"], bad_input=True)
        return said

    def steps(self, count: int) -> dict[str, Any]:
        """Let it make so many steps."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer that does not come says why
        return self.answer()


@dataclass
class Race:
    """What was measured of the methods of one pair at one batch size.

    Attributes:
        seconds: of each round's steps, by method.
        first: seconds of the first steps, which compile, choose and allocate.
        last: the last answer of each: memory, the share of a core used while waiting, and the most page
            faults of a round.
        skipped: why a method did not take part.
        machine: what a worker says of the machine.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


def run_race(
    jobs: Sequence[Job],
    cache: Path,
    *,
    warmup: int,
    rounds: int,
    steps: int,
    tick: Callable[[str], None],
    until: float | None = None,
) -> Race:
    """Round after round, each method makes its steps, in an order drawn afresh.

    Args:
        jobs: the methods.
        cache: folder of the kept answers, the same for all.
        warmup: rounds that are not counted.
        rounds: rounds that are.
        steps: steps of each method in each round.
        tick: called with who goes next.
        until: no round but the first that counts begins after this time of the monotonic clock.
    """
    race = Race()
    order = random.Random(0)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for job in jobs:
            tick(f"starting {job.do}")
            worker = stack.enter_context(Worker(job, cache))
            said = worker.answer()
            if "skip" in said:
                race.skipped[job.do] = said["skip"]
                continue
            race.machine = said["machine"]
            workers[job.do] = worker
        for number in range(warmup + rounds):
            if until is not None and time.monotonic() > until and race.seconds:
                break
            for name in order.sample(list(workers), len(workers)):
                tick(f"round {number + 1 - warmup} of {rounds}: {name}" if number >= warmup else f"warming up {name}")
                said = workers[name].steps(steps)
                if "skip" in said:
                    race.skipped[name] = said["skip"]
                    del workers[name]
                    continue
                if number == 0:
                    race.first[name] = said["seconds"]
                if number >= warmup:
                    race.seconds.setdefault(name, []).append(said["seconds"])
                    race.last[name] = {**said, "faults": max(said["faults"], race.last.get(name, said)["faults"])}
    return race


def ask_once(job: Job, cache: Path) -> dict[str, Any]:
    """The one answer of a worker that takes no baton."""
    with Worker(job, cache) as worker:
        return worker.answer()
