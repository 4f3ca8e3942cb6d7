"""The phases of a study, one after another; each does only what is not done yet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput, RunFailed
from stillroom.files import write_json
from stillroom.recipe import parse_recipe
from stillroom.run.records import read_json
from stillroom.study.config import Method, Pair, Study
from stillroom.study.engine.base import Engine, Job, Outcome
from stillroom.study.folder import StudyFolder, wholly
from stillroom.study.measures import figure_of
from stillroom.study.plan import Cell, Content, Plan, plan_of, recipe_content, teacher_content, threads_of
from stillroom.study.progress import JobState, Progress
from stillroom.study.schedule import Schedule, StudyObserver
from stillroom.study.trials import Trials, Where, chosen_of, entries, expected_trials, read_tuned, trial_content

# Makes the engine for a study in this folder whose jobs take this many threads each.
EngineMaker = Callable[[StudyFolder, int], Engine]

# Steps of a run whose budget in seconds is not known in steps yet: more than it will have, so that all views are kept.
_PLENTY = 1_000_000


@dataclass
class Driver:
    """Does a study's jobs. A context manager: leaving it ends them.

    Attributes:
        plan: its runs, as far as they are known before trials and calibration.
        folder: where it lies; the caller holds its lock.
        make_engine: makes the engine; called only where there is something left to do.
        observer: told how it goes.
        engine: who does the jobs, once there are any.
        stuck: why methods cannot be run on a pair.
    """

    plan: Plan
    folder: StudyFolder
    make_engine: EngineMaker
    observer: StudyObserver
    engine: Engine | None = None
    stuck: dict[Where, str] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        """The study."""
        return self.plan.study

    def __enter__(self) -> Driver:
        self.progress = Progress(self.study.name, self.study.measure, workers=0, pid=os.getpid())
        # At once: whoever watches must not take an earlier driver's end for this one's.
        self.progress.write(self.folder.progress)
        self.observer.started(self.progress)
        return self

    def __exit__(self, *_: object) -> None:
        if self.engine is not None:
            self.engine.close()
        self.progress.ended = True
        with suppress(OSError):  # a full disk, most likely, which is told already
            self.progress.write(self.folder.progress)

    def warm(self) -> None:
        """Start whoever will do the jobs, if there are any."""
        waiting = sum(not _finished(self.folder, cell) for cell in self.plan.cells)
        if waiting:
            self._schedule()
            assert self.engine is not None
            self.engine.warm(waiting)

    def prepared(self) -> Plan:
        """The plan with all that comes before the runs: answers kept, budgets in seconds fixed, options chosen."""
        waiting = any(not _finished(self.folder, cell) for cell in self.plan.cells)
        # All that is to come, so that the time left is that of the whole.
        if self.study.tuning is not None and waiting:
            self.progress.add(expected_trials(self.study, self.folder))
        self.progress.add(Job(cell.id, "run", cell.content, "") for cell in self.plan.cells)
        if waiting:
            self._train_teachers()
            self._keep_answers()
        steps = self._steps()
        chosen = chosen_of(read_tuned(self.folder))
        if self.study.tuning is not None and waiting:
            trials = Trials(self.study, self.folder, steps, leave_out=self.stuck)
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
        # All methods of a seed before the next seed: a table of fewer seeds is there early, and paired.
        for cell in sorted(plan.cells, key=lambda cell: self.study.seeds.index(cell.seed)):
            out = self.folder.run(cell.pair, cell.method, cell.seed)
            content = json.loads(cell.recipe.model_dump_json())
            job = Job(cell.id, "run", content, str(out), threads=cell.recipe.training.threads)
            self.progress.add([job])
            reason = self.stuck.get((cell.pair, cell.method))
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
                jobs.append(Job(f"teacher/{teacher.name}", "run", content, str(out), threads=threads_of(content)))
        if not jobs:
            return
        for outcome in self._schedule().do("training the teacher", jobs):
            told = f"teachers.{outcome.id.partition('/')[2]}: {outcome.reason}"
            if outcome.ending == "bad_input":
                raise BadInput.with_message("teachers", None, told)
            if outcome.ending != "done":
                raise RunFailed(told)

    def _keep_answers(self) -> None:
        """One build of each teacher's cache for the whole study, before any run's clock starts.

        Every recipe is checked as its run would check it, so that what nobody can run is told before an hour has gone.
        """
        jobs: dict[str, list[tuple[int, Job]]] = {pair.name: [] for pair in self.study.all_pairs}
        for method in self.study.methods:
            for pair in self.study.all_pairs:
                content = self._content(pair, method)
                recipes = [content]
                if self.study.tuning is not None:
                    recipes.append(trial_content(self.study, self.folder, pair, method, _PLENTY))
                out = self.folder.preparing(pair.name, method.name)
                job = self._job("prepare", pair, method, content, out, {"recipes": recipes})
                jobs[pair.name].append((_reads(content), job))
        # Who reads most of a teacher goes first, alone: what is kept for it, the others find there.
        ordered = {name: [job for _, job in sorted(mine, key=lambda each: -each[0])] for name, mine in jobs.items()}

        def then(job: Job, outcome: Outcome) -> list[Job]:
            mine = ordered[job.id.split("/")[1]]
            return mine[1:] if job.id == mine[0].id else []

        self.progress.add(job for mine in ordered.values() for job in mine)
        first = [mine[0] for mine in ordered.values()]
        self._each(self._schedule().do("keeping the teachers' answers", first, then))
        told: dict[str, dict[str, float]] = {}
        for pair, method in entries(self.study):
            asked = self.folder.preparing(pair.name, method.name) / "asked.jsonl"
            lines = asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []
            mine = told.setdefault(pair.name, {"answers": 0, "seconds": 0.0})
            for line in (json.loads(line) for line in lines if line.endswith("}")):
                mine["answers"] += line["answers"]
                mine["seconds"] = round(mine["seconds"] + line["seconds"], 3)
        write_json(self.folder.caches, told)

    def _steps(self) -> dict[Where, int]:
        """What a budget in seconds comes to: timed once, each method alone, and then fixed."""
        if self.study.budget is None or self.study.budget.seconds is None:
            return {}
        seconds = self.study.budget.seconds
        known: dict[str, dict[str, Any]] = {}
        if self.folder.calibration.exists():
            with wholly(self.folder.calibration, "remove it to time the steps again"):
                known = json.loads(self.folder.calibration.read_text(encoding="utf-8"))["pairs"]
                _steps_of(known)
        jobs = []
        for pair, method in entries(self.study):
            if method.name in known.get(pair.name, {}) or (pair.name, method.name) in self.stuck:
                continue
            out = self.folder.preparing(pair.name, method.name) / "calibration"
            content, options = self._content(pair, method), {"seconds": seconds}
            jobs.append(self._job("calibrate", pair, method, content, out, options))

        def then(job: Job, outcome: Outcome) -> list[Job]:
            # After each: what was timed stays as it was, whenever the study is stopped.
            if outcome.ending == "done":
                _, pair_name, name = job.id.split("/")
                known.setdefault(pair_name, {})[name] = outcome.result
                write_json(self.folder.calibration, {"seconds": seconds, "pairs": known})
            return []

        if jobs:
            self._each(self._schedule().do("timing a step", jobs, then, alone=True))
        return _steps_of(known)

    def _content(self, pair: Pair, method: Method) -> Content:
        """The recipe of a method's first run, as far as it is known before the trials."""
        content = recipe_content(self.study, self.folder, pair, method, _PLENTY)
        return content | {"seed": self.study.seeds[0]}

    def _job(self, what: str, pair: Pair, method: Method, content: Content, out: Path, options: dict[str, Any]) -> Job:
        kind: Any = {"prepare": "cache", "calibrate": "calibrate"}[what]
        where = f"{what}/{pair.name}/{method.name}"
        return Job(where, kind, content, str(out), threads=threads_of(content), options=options)

    def _each(self, outcomes: Iterable[Outcome]) -> None:
        """Go on without the methods for which a job before the runs failed.

        Raises:
            BadInput: a recipe was refused: whoever wrote it wants to know before the others have run for an hour.
        """
        for outcome in outcomes:
            what, pair, method = outcome.id.split("/")
            where = f"methods.{method}" + (f" on {pair}" if self.study.pairs else "")
            if outcome.ending == "bad_input":
                raise BadInput.with_message(where, None, f"{where}: {outcome.reason}")
            if outcome.ending != "done":
                self.stuck[pair, method] = f"{'preparing' if what == 'prepare' else 'timing'} it: {outcome.reason}"

    def _schedule(self) -> Schedule:
        if self.engine is None:
            threads = max(cell.recipe.training.threads for cell in self.plan.cells)
            self.engine = self.make_engine(self.folder, threads)
            self.progress.workers = self.engine.slots
        return Schedule(self.engine, self.study.retries, self.progress, self.folder.progress, self.observer)

    def _done_before(self, state: JobState, out: Path) -> None:
        value = figure_of(read_json(out / "summary.json"), self.study.measure)
        state.status = "done"
        state.value = float(value) if isinstance(value, (int, float)) else None


def _reads(content: Content) -> int:
    """How much of a teacher a recipe reads beside its logits, roughly: it orders the builds and decides nothing."""
    return sum(config.cached_features for config in parse_recipe(content).losses)


def _steps_of(known: dict[str, dict[str, Any]]) -> dict[Where, int]:
    return {(pair, name): int(told["steps"]) for pair, mine in known.items() for name, told in mine.items()}


def _finished(folder: StudyFolder, cell: Cell) -> bool:
    return (folder.run(cell.pair, cell.method, cell.seed) / "summary.json").exists()


def _plan_told(plan: Plan, folder: StudyFolder) -> dict[str, Any]:
    cells = [
        {
            "pair": cell.pair,
            "method": cell.method,
            "seed": cell.seed,
            "run": folder.run(cell.pair, cell.method, cell.seed).relative_to(folder.path).as_posix(),
        }
        for cell in plan.cells
    ]
    return {"schema": 1, "study_hash": plan.study.hash(), "cells": cells}
