"""Doing a study: lock, calibrate, keep the teachers' answers, tune, run, and make the table."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from stillroom.errors import BadInput, RunFailed, shorten
from stillroom.files import is_partial, write_json, write_text
from stillroom.runs.records import flatten, read_json
from stillroom.studies.config import Study
from stillroom.studies.engine.base import Engine, Job, Outcome
from stillroom.studies.equality import foreseen
from stillroom.studies.folder import StudyFolder
from stillroom.studies.plan import Cell, Plan, plan_of, recipe_content, teacher_content
from stillroom.studies.progress import JobState, Progress
from stillroom.studies.results import write_results
from stillroom.studies.schedule import Schedule, StudyObserver
from stillroom.studies.trials import (
    Trials,
    Where,
    check_spaces,
    chosen_of,
    entries,
    expected_trials,
    read_tuned,
    trial_content,
)

# Makes the engine for a study in this folder whose jobs take this many threads each.
EngineMaker = Callable[[StudyFolder, int], Engine]


@dataclass(frozen=True)
class Compared:
    """A study that was done.

    Attributes:
        path: its folder.
        results: what ``results.json`` holds.
        failures: why runs are missing, by their id.
        seconds: of this call.
    """

    path: Path
    results: dict[str, Any]
    failures: dict[str, str]
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether every run is there and all were equal: whether the table can be believed."""
        return bool(self.results["equal"]) and not self.results["missing"]


def compare(study: Study, out: Path, make_engine: EngineMaker, observer: StudyObserver | None = None) -> Compared:
    """Do a study, or go on with one; what is done already is not done again.

    Args:
        study: what to do.
        out: the study's folder: new, empty, or one in which this very study was begun.
        make_engine: makes the engine; called only where there is something left to do.
        observer: told how it goes.

    Returns:
        The results; with runs missing where they failed, which are tried again by the next call.

    Raises:
        BadInput: the study cannot be used, another process works on the folder, or the folder holds something else.
        RunFailed: nothing can be compared, such as where a budget in seconds could not be calibrated.
    """
    observer = observer or StudyObserver()
    began = time.perf_counter()
    folder = StudyFolder(out.resolve())
    # Refused here rather than after an hour.
    plan = plan_of(study, folder)
    check_spaces(study, folder)
    for teacher in study.teachers:
        teacher_content(study, teacher)
    _check_folder(folder, study)
    folder.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        expected = "a folder that no other process works on; `stillroom watch` shows how far it is"
        raise BadInput("--out", str(out), expected) from None
    try:
        # Again, under the lock: another process may have begun another study meanwhile.
        _check_folder(folder, study)
        if not folder.study.exists():
            write_text(folder.study, _as_yaml(study))
        with _Driver(study, folder, make_engine, observer) as driver:
            for warning in foreseen(plan):
                observer.alarm(f"unequal as planned: {warning}")
            plan = driver.prepared()
            failures = driver.run(plan)
        results = write_results(folder, plan, failures)
        return Compared(out, results, failures, round(time.perf_counter() - began, 1))
    finally:
        observer.stopped()
        lock.release()


@dataclass
class _Driver:
    """The phases of a study."""

    study: Study
    folder: StudyFolder
    make_engine: EngineMaker
    observer: StudyObserver
    engine: Engine | None = None
    stuck: dict[Where, str] = field(default_factory=dict)

    def __enter__(self) -> _Driver:
        self.progress = Progress(self.study.name, self.study.measure, workers=0, pid=os.getpid())
        self.observer.started(self.progress)
        return self

    def __exit__(self, *_: object) -> None:
        if self.engine is not None:
            self.engine.close()
        self.progress.ended = True
        with suppress(OSError):  # a full disk, most likely, which is told already
            self.progress.write(self.folder.progress)

    def prepared(self) -> Plan:
        """The plan with all that comes before the runs: answers kept, budgets in seconds fixed, options chosen."""
        cells = plan_of(self.study, self.folder).cells
        waiting = any(not _finished(self.folder, cell) for cell in cells)
        # All that is to come, so that the time left is that of the whole.
        if self.study.tuning is not None and waiting:
            self.progress.add(expected_trials(self.study, self.folder))
        self.progress.add(Job(cell.id, "run", cell.content, "") for cell in cells)
        if waiting:
            self._train_teachers()
            self._keep_answers()
        steps = self._steps()
        chosen = chosen_of(read_tuned(self.folder))
        if self.study.tuning is not None and waiting:
            trials = Trials(self.study, self.folder, steps)
            try:
                first = trials.first()
                if first:
                    self._schedule().do("choosing options", first, trials.then)
                self.progress.forget_waiting("trial")
                chosen = trials.chosen()
                self.stuck |= trials.failed
            finally:
                trials.close()
        return plan_of(self.study, self.folder, chosen, steps)

    def run(self, plan: Plan) -> dict[str, str]:
        """Do the runs that are not done; returns why some are missing."""
        jobs = []
        failures = {}
        # All contestants of a seed before the next seed: a table of fewer seeds is there early, and paired.
        for cell in sorted(plan.cells, key=lambda cell: self.study.seeds.index(cell.seed)):
            out = self.folder.run(cell.pair, cell.contestant, cell.seed)
            content = json.loads(cell.recipe.model_dump_json())
            job = Job(cell.id, "run", content, str(out), threads=cell.recipe.training.threads)
            self.progress.add([job])
            reason = self.stuck.get((cell.pair, cell.contestant))
            if _finished(self.folder, cell):
                self._done_before(self.progress.jobs[cell.id], out)
            elif reason is not None:
                failures[cell.id] = reason
                self.progress.jobs[cell.id].status = "failed"
                self.progress.jobs[cell.id].reason = reason
            else:
                jobs.append(job)
        write_json(self.folder.plan, _plan_told(plan, self.folder))
        if jobs:
            ended = self._schedule().do("running", jobs)
            failures |= {outcome.id: outcome.reason for outcome in ended if outcome.ending != "done"}
        return failures

    def _train_teachers(self) -> None:
        jobs = []
        for teacher in self.study.teachers:
            out = self.folder.teacher(teacher.name)
            if not (out / "summary.json").exists():
                content = teacher_content(self.study, teacher)
                threads = int(content.get("training", {}).get("threads") or 1)
                jobs.append(Job(f"teacher/{teacher.name}", "run", content, str(out), threads=threads))
        if jobs:
            self._succeed(self._schedule().do("training the teacher", jobs))

    def _keep_answers(self) -> None:
        """One build of each teacher's cache for the whole study, before any run's clock starts."""
        jobs = []
        for pair in self.study.all_pairs:
            recipes = []
            for contestant in self.study.contestants:
                content = recipe_content(self.study, self.folder, pair, contestant)
                recipes.append(content | {"seed": self.study.seeds[0]})
                if self.study.tuning is not None:
                    recipes.append(trial_content(self.study, self.folder, pair, contestant))
            if not any(content.get("teacher") for content in recipes):
                continue
            threads = max(int(content.get("training", {}).get("threads") or 1) for content in recipes)
            out = str(self.folder.path / "state")
            options = {"recipes": recipes, "log": str(self.folder.asked(pair.name))}
            jobs.append(Job(f"cache/{pair.name}", "cache", recipes[0], out, threads=threads, options=options))
        if not jobs:
            return
        outcomes = self._succeed(self._schedule().do("keeping the teacher's answers", jobs))
        told = {outcome.id.partition("/")[2]: outcome.result for outcome in outcomes}
        write_json(self.folder.caches, dict(sorted(told.items())))

    def _steps(self) -> dict[Where, int]:
        """What a budget in seconds comes to: timed once, each contestant alone, and then fixed."""
        if self.study.budget is None or self.study.budget.seconds is None:
            return {}
        seconds = self.study.budget.seconds
        told = read_json(self.folder.calibration) if self.folder.calibration.exists() else {}
        known: dict[str, dict[str, Any]] = told.get("pairs", {})
        jobs = []
        for pair, contestant in entries(self.study):
            if contestant.name not in known.get(pair.name, {}):
                content = recipe_content(self.study, self.folder, pair, contestant) | {"seed": self.study.seeds[0]}
                out = str(self.folder.path / "state" / "calibration" / pair.name / contestant.name)
                where = f"calibrate/{pair.name}/{contestant.name}"
                threads = int(content.get("training", {}).get("threads") or 1)
                jobs.append(Job(where, "calibrate", content, out, threads=threads, options={"seconds": seconds}))
        if jobs:
            for outcome in self._succeed(self._schedule().do("timing a step", jobs, alone=True)):
                _, pair_name, name = outcome.id.split("/")
                known.setdefault(pair_name, {})[name] = outcome.result
            write_json(self.folder.calibration, {"seconds": seconds, "pairs": known})
        return {(pair, name): int(found["steps"]) for pair, mine in known.items() for name, found in mine.items()}

    def _succeed(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Outcomes that all must be done: what they prepare, every run needs.

        Raises:
            BadInput: one refused its recipe.
            RunFailed: one could not be done.
        """
        outcomes = list(outcomes)
        for outcome in outcomes:
            if outcome.ending == "bad_input":
                raise BadInput.worded(outcome.id, None, f"{outcome.id}: {outcome.reason}")
            if outcome.ending != "done":
                raise RunFailed(f"{outcome.id}: {outcome.reason}")
        return outcomes

    def _schedule(self) -> Schedule:
        if self.engine is None:
            threads = max(cell.recipe.training.threads for cell in plan_of(self.study, self.folder).cells)
            self.engine = self.make_engine(self.folder, threads)
            self.progress.workers = self.engine.slots
        return Schedule(self.engine, self.study.retries, self.progress, self.folder.progress, self.observer)

    def _done_before(self, state: JobState, out: Path) -> None:
        value = read_json(out / "summary.json").get(self.study.measure)
        state.status = "done"
        state.value = float(value) if isinstance(value, (int, float)) else None


def _finished(folder: StudyFolder, cell: Cell) -> bool:
    return (folder.run(cell.pair, cell.contestant, cell.seed) / "summary.json").exists()


def _plan_told(plan: Plan, folder: StudyFolder) -> dict[str, Any]:
    cells = [
        {
            "pair": cell.pair,
            "contestant": cell.contestant,
            "seed": cell.seed,
            "run": folder.run(cell.pair, cell.contestant, cell.seed).relative_to(folder.path).as_posix(),
        }
        for cell in plan.cells
    ]
    return {"schema": 1, "study_hash": plan.study.hash(), "cells": cells}


def _as_yaml(study: Study) -> str:
    return str(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _check_folder(folder: StudyFolder, study: Study) -> None:
    """Refuse a folder that holds something else than this very study.

    Raises:
        BadInput: naming what differs.
    """
    path = folder.path
    if path.exists() and not path.is_dir():
        raise BadInput("--out", str(path), "a folder, not a file")
    if not path.exists():
        return
    if not folder.study.exists():
        if {item.name for item in path.iterdir() if not is_partial(item)} <= {"state"}:
            return
        raise BadInput("--out", str(path), "a new or empty folder, or a study's; this one holds other files")
    try:
        before = yaml.safe_load(folder.study.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise BadInput("--out", str(folder.study), "a readable study.yaml") from None
    old, new = flatten(before), flatten(study.model_dump(mode="json"))
    changed = [key for key in new | old if new.get(key) != old.get(key)]
    if changed:
        told = "; ".join(
            f"{key} is {shorten(new.get(key), 60)}, was {shorten(old.get(key), 60)}" for key in changed[:3]
        )
        raise BadInput("--out", str(path), f"the study that was begun there ({told}); give another one a new folder")
