"""Hands jobs to an engine, starts again those that died, and keeps the state of the study in ``progress.json``."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from stillroom.errors import BadInput
from stillroom.files import canonical_json, digest, write_text
from stillroom.schema.study import ProgressFile
from stillroom.study.config import MEASURES, MeasureName
from stillroom.study.engine.base import Engine, Job, Outcome

Status = Literal["waiting", "running", "done", "failed"]
_SILENT = 60.0  # seconds after which a driver that wrote nothing is taken for dead
_TAIL = 4096  # bytes from a log's end in which its last whole line lies
_WAIT = 0.25  # seconds between two calls of the observer
_WRITE = 1.0  # seconds between two writes of the progress: of thousands of jobs one takes a fifth of a second


@dataclass
class JobState:
    """Where a job stands."""

    id: str  # the job's
    status: Status = "waiting"  # waiting, running, done or failed
    attempts: int = 0  # how often it was begun, by this driver
    began: float = 0.0  # clock time of its last start, in seconds; 0 before
    seconds: float = 0.0  # duration once it is done
    reason: str = ""  # why it failed, or what its last attempt died of
    value: float | None = None  # what it came to, the study's measure for a run; None where there is none yet
    out: str = ""  # its folder
    length: dict[str, int] = field(default_factory=dict)  # of a run: its `epochs` or `steps`

    @property
    def kind(self) -> str:
        """What it does: the first word of its id."""
        return self.id.partition("/")[0]

    @property
    def group(self) -> str:
        """Pair and method, whose trials and runs take about as long for each epoch or step; else the job itself."""
        return "/".join(self.id.split("/")[1:3]) if self.kind in ("trial", "run") else self.id

    @property
    def size(self) -> int:
        """Epochs or steps; 1 where it has neither."""
        return next(iter(self.length.values()), 1)

    def set_value(self, summary: dict[str, Any], measure: MeasureName) -> None:
        """Take over the study's measure from a run's summary."""
        value = MEASURES[measure].value_in(summary)
        self.value = float(value) if isinstance(value, (int, float)) else None

    def share(self) -> float:
        """How much of it is done, 0 to 1: of a running run, by its last logged step."""
        if self.status in ("done", "failed"):
            return 1.0
        if self.status == "waiting" or not self.length:
            return 0.0
        line = last_line(Path(self.out) / "metrics.jsonl")
        done = [line.get(unit.removesuffix("s"), 0) / whole for unit, whole in self.length.items()]
        return float(min([*done, 1.0]))


@dataclass
class StudyProgress:
    """Where a study stands."""

    name: str  # the study's
    measure: MeasureName  # what `value` is
    workers: int  # how many jobs go side by side
    phase: str = ""  # what it does now, in words
    began: float = field(default_factory=time.time)  # clock time of the driver's start, in seconds
    updated: float = 0.0  # clock time of the last change
    pid: int = field(default_factory=os.getpid)  # the driver's process
    jobs: dict[str, JobState] = field(default_factory=dict)  # every job so far known, by its id
    ended: bool = False  # whether the driver has stopped

    @property
    def alive(self) -> bool:
        """Whether a driver works on it, wherever that is: it would have written lately."""
        return not self.ended and time.time() - self.updated < _SILENT

    @property
    def complete(self) -> bool:
        """Whether every job is done."""
        return all(state.status == "done" for state in self.jobs.values())

    def add(self, jobs: Iterable[Job]) -> None:
        """Add jobs to come; those known already keep their state."""
        for job in jobs:
            training = job.recipe.get("training", {}) if job.kind in ("run", "trial") else {}
            state = self.jobs.setdefault(job.id, JobState(job.id))
            state.out = job.out
            # A recipe in tasks has this length for each.
            tasks = int((job.recipe.get("incremental") or {}).get("tasks") or 1)
            state.length = {unit: tasks * int(training[unit]) for unit in ("epochs", "steps") if training.get(unit)}

    def forget_waiting(self, ids: Collection[str]) -> None:
        """Jobs that were expected, and that nobody will do."""
        self.jobs = {name: state for name, state in self.jobs.items() if state.status != "waiting" or name not in ids}

    def job_started(self, job: Job) -> None:
        """A job was handed to a process."""
        state = self.jobs[job.id]
        state.status, state.began, state.attempts = "running", time.time(), state.attempts + 1

    def job_ended(self, outcome: Outcome, *, again: bool) -> None:
        """A job ended; ``again`` where it will be started once more."""
        state = self.jobs[outcome.id]
        state.reason = outcome.reason
        state.seconds = outcome.seconds
        state.status = "waiting" if again else "done" if outcome.ending == "done" else "failed"
        state.set_value(outcome.result, self.measure)

    def of_kind(self, kind: str) -> list[JobState]:
        """The jobs of a kind, in their order."""
        return [state for state in self.jobs.values() if state.kind == kind]

    def seconds_left(self) -> float | None:
        """About how long all known jobs take still; None where nothing is known yet."""
        known: dict[str, list[float]] = {}
        for state in self.jobs.values():
            # Those found done were done by an earlier driver, which took its clock along.
            if state.status == "done" and state.attempts:
                for key in (state.group, state.kind):
                    known.setdefault(key, []).append(state.seconds / state.size)
        total = 0.0
        for state in self.jobs.values():
            if state.status in ("waiting", "running"):
                share = state.share()
                alike = known.get(state.group) or known.get(state.kind)
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
        content = ProgressFile.model_validate(asdict(self)).as_dict()
        # Within the file, as it is written every second: a list of its checksums would grow for days.
        write_text(path, json.dumps({**content, "checksum": digest(canonical_json(content))}))


def read_progress(path: Path) -> StudyProgress:
    """Read what a driver wrote; BadInput where there is none, or it cannot be read."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("checksum") != digest(canonical_json(content)):
            raise ValueError("damaged")
        held = ProgressFile.model_validate(content).as_dict()
        del held["schema"]
        jobs = {key: JobState(**value) for key, value in held.pop("jobs").items()}
        return StudyProgress(**held, jobs=jobs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        expected = "the folder of a study that `stillroom compare` has started"
        if not isinstance(error, FileNotFoundError):
            expected += f"; its progress cannot be read ({type(error).__name__})"
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


# What to do next, by how a job ended.
NextJobs = Callable[[Job, Outcome], Iterable[Job]]


class StudyObserver:
    """Called as a study goes; a live table overrides what it shows. Every method does nothing here."""

    def started(self, progress: StudyProgress) -> None:
        """The driver begins."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def alarm(self, text: str) -> None:
        """Something that must not be overlooked."""

    def ended(self, state: JobState, progress: StudyProgress) -> None:
        """A job ended for good."""

    def refresh(self, progress: StudyProgress) -> None:
        """Called several times a second."""

    def stopped(self) -> None:
        """The driver stops, well or not."""


class Scheduler:
    """Does jobs on an engine.

    Args:
        retries: how often a job whose process died is begun again.
    """

    def __init__(
        self, engine: Engine, retries: int, progress: StudyProgress, path: Path, observer: StudyObserver
    ) -> None:
        self._engine = engine
        self._retries = retries
        self._progress = progress
        self._path = path
        self._observer = observer
        self._written = 0.0

    def do(
        self, phase: str, jobs: Iterable[Job], then: NextJobs | None = None, *, alone: bool = False
    ) -> list[Outcome]:
        """Do jobs, in their order as far as they go side by side.

        Args:
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
                self._progress.job_started(job)
                self._engine.submit(job)
            outcomes = self._engine.wait(_WAIT)
            for outcome in outcomes:
                job = under_way.pop(outcome.id)
                again = outcome.ending == "crashed" and self._progress.jobs[job.id].attempts <= self._retries
                self._progress.job_ended(outcome, again=again)
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
            self._observer.refresh(self._progress)
        self._write()
        return found

    def _write(self) -> None:
        self._progress.write(self._path)
        self._written = time.monotonic()
