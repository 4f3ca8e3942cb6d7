"""What a study does now: kept in a file, so that it can be watched from another terminal."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from stillroom.errors import BadInput
from stillroom.files import write_text
from stillroom.study.config import Measure
from stillroom.study.engine.base import Job, Outcome
from stillroom.study.measures import figure_of

Status = Literal["waiting", "running", "done", "failed"]
_SILENT = 60.0  # seconds after which a driver that wrote nothing is taken for dead
_TAIL = 4096  # bytes from a log's end in which its last whole line lies


@dataclass
class JobState:
    """Where a job stands.

    Attributes:
        id: the job's.
        status: waiting, running, done or failed.
        attempts: how often it was begun, by this driver.
        began: clock time of its last start, in seconds; 0 before.
        seconds: duration once it is done.
        reason: why it failed, or what its last attempt died of.
        value: what it came to, the study's measure for a run; None where there is none yet.
        out: its folder.
        length: of a run: its ``epochs`` or ``steps``.
    """

    id: str
    status: Status = "waiting"
    attempts: int = 0
    began: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    value: float | None = None
    out: str = ""
    length: dict[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it does: the first word of its id."""
        return self.id.partition("/")[0]

    @property
    def whose(self) -> str:
        """Pair and method, whose trials and runs take about as long for each epoch or step; else the job itself."""
        return "/".join(self.id.split("/")[1:3]) if self.kind in ("trial", "run") else self.id

    @property
    def size(self) -> int:
        """Epochs or steps; 1 where it has neither."""
        return next(iter(self.length.values()), 1)

    def share(self) -> float:
        """How much of it is done, 0 to 1: of a running run, as its last logged step tells."""
        if self.status in ("done", "failed"):
            return 1.0
        if self.status == "waiting" or not self.length:
            return 0.0
        line = last_line(Path(self.out) / "metrics.jsonl")
        done = [line.get(unit.removesuffix("s"), 0) / whole for unit, whole in self.length.items()]
        return float(min([*done, 1.0]))


@dataclass
class Progress:
    """Where a study stands.

    Attributes:
        name: the study's.
        measure: what ``value`` is.
        workers: how many jobs go side by side.
        phase: what it does now, in words.
        began: clock time of the driver's start, in seconds.
        updated: clock time of the last change.
        pid: the driver's process.
        jobs: every job so far known, by its id.
        ended: whether the driver has stopped.
    """

    name: str
    measure: Measure
    workers: int
    phase: str = ""
    began: float = field(default_factory=time.time)
    updated: float = 0.0
    pid: int = field(default_factory=os.getpid)
    jobs: dict[str, JobState] = field(default_factory=dict)
    ended: bool = False

    @property
    def alive(self) -> bool:
        """Whether a driver works on it, wherever that is: it would have written lately."""
        return not self.ended and time.time() - self.updated < _SILENT

    @property
    def complete(self) -> bool:
        """Whether every job is done."""
        return all(state.status == "done" for state in self.jobs.values())

    def add(self, jobs: Iterable[Job]) -> None:
        """Tell of jobs to come; how far those known already are stays as it is."""
        for job in jobs:
            training = job.recipe.get("training", {}) if job.kind in ("run", "trial") else {}
            state = self.jobs.setdefault(job.id, JobState(job.id))
            state.out = job.out
            # A recipe in tasks has this length for each.
            tasks = int((job.recipe.get("incremental") or {}).get("tasks") or 1)
            state.length = {unit: tasks * int(training[unit]) for unit in ("epochs", "steps") if training.get(unit)}

    def forget_waiting(self, kind: str) -> None:
        """Jobs of a kind that were expected, and that nobody will do."""
        self.jobs = {
            name: state for name, state in self.jobs.items() if (state.kind, state.status) != (kind, "waiting")
        }

    def begun(self, job: Job) -> None:
        """A job was handed to a process."""
        state = self.jobs[job.id]
        state.status, state.began, state.attempts = "running", time.time(), state.attempts + 1

    def ended_with(self, outcome: Outcome, *, again: bool) -> None:
        """A job ended; ``again`` where it will be started once more."""
        state = self.jobs[outcome.id]
        state.reason = outcome.reason
        state.seconds = outcome.seconds
        state.status = "waiting" if again else "done" if outcome.ending == "done" else "failed"
        value = figure_of(outcome.result, self.measure)
        state.value = float(value) if isinstance(value, (int, float)) else None

    def of_kind(self, kind: str) -> list[JobState]:
        """The jobs of a kind, in their order."""
        return [state for state in self.jobs.values() if state.kind == kind]

    def seconds_left(self) -> float | None:
        """About how long all known jobs take still; None where nothing tells yet."""
        known: dict[str, list[float]] = {}
        for state in self.jobs.values():
            # Those found done were done by an earlier driver, which took its clock along.
            if state.status == "done" and state.attempts:
                for group in (state.whose, state.kind):
                    known.setdefault(group, []).append(state.seconds / state.size)
        total = 0.0
        for state in self.jobs.values():
            if state.status in ("waiting", "running"):
                share = state.share()
                alike = known.get(state.whose) or known.get(state.kind)
                if alike:
                    total += statistics.median(alike) * state.size * (1 - share)
                elif share > 0.02:
                    total += (time.time() - state.began) * (1 - share) / share
                else:
                    return None
        return total / max(self.workers, 1)

    def write(self, path: Path) -> None:
        """Write it for whoever watches."""
        self.updated = time.time()
        write_text(path, json.dumps(asdict(self)))


def read_progress(path: Path) -> Progress:
    """Read what a driver wrote.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        jobs = {key: JobState(**value) for key, value in content.pop("jobs").items()}
        return Progress(**content, jobs=jobs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        expected = f"the folder of a study that was begun ({type(error).__name__})"
        raise BadInput("study", str(path.parent), expected) from None


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a log of JSON objects; empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(log.tell() - _TAIL, 0))
            lines = log.read().rpartition(b"\n")[0].splitlines()
        found = json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
