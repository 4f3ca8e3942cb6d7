"""A study from its file to its tables: check it, lock its folder, do its jobs phase by phase, write the results.

Each phase does only what is not done yet: train the study's own teachers, cache their outputs, time a budget in
seconds, search options, run. Where each seed is tuned anew, a seed's searches and runs come before the next seed's.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from stillroom.errors import BadInput, RunFailed, shorten
from stillroom.files import CHECKSUMS, compact_checksums, is_partial, parse_yaml, write_text
from stillroom.recipe import parse_recipe
from stillroom.run.records import flatten
from stillroom.schema.base import read_json, read_object, read_text, write
from stillroom.schema.study import CachesFile, CalibrationFile, PlanFile, PlannedRunInfo
from stillroom.study.config import Method, ModelPair, Study
from stillroom.study.engine import EngineMaker
from stillroom.study.engine.base import Engine, Job, Outcome
from stillroom.study.plan import (
    CalibratedSteps,
    PairAndName,
    PlannedRun,
    RecipeContent,
    StudyFolder,
    StudyPlan,
    plan_of,
    reading_own_file,
    recipe_content,
    sweep_values,
    teacher_content,
    threads_of,
)
from stillroom.study.progress import Scheduler, StudyObserver, StudyProgress
from stillroom.study.tuning import (
    Trials,
    TrialStore,
    check_spaces,
    chosen_of,
    expected_trials,
    pairs_and_methods,
    read_tuned,
    trial_content,
)

# Steps of a run whose budget in seconds is not known in steps yet: more than it will have, so that all views are kept.
_PLENTY = 1_000_000


@dataclass(frozen=True)
class StudyOutcome:
    """A study that was done."""

    path: Path  # its folder
    results: dict[str, Any]  # what `results.json` holds
    failures: dict[str, str]  # why runs are missing, by their id
    seconds: float  # of this call

    @property
    def sound(self) -> bool:
        """Whether every run is there and all were equal: whether the table can be believed."""
        return bool(self.results["equal"]) and not self.results["missing"]


def compare(study: Study, out: Path, make_engine: EngineMaker, observer: StudyObserver | None = None) -> StudyOutcome:
    """Do a study, or go on with one; what is done already is not done again.

    Args:
        out: the study's folder: new, empty, or one in which this very study was begun.
        make_engine: makes the engine; called only where there is something left to do.

    Returns:
        The results; with runs missing where they failed, which are tried again by the next call.

    Raises:
        BadInput: the study cannot be used, another process works on the folder, or the folder holds something else.
        RunFailed: nothing can be compared, as a teacher that the study trains itself could not be.
    """
    observer = observer or StudyObserver()
    began = time.perf_counter()
    folder = StudyFolder(out.resolve())
    # Refused here rather than after an hour.
    plan = plan_of(study, folder)
    check_spaces(study, folder)
    sweep_values(plan)
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
        # Contrasts may be written down until the first run begins: trials and teachers do not answer them.
        if not folder.study.exists() or not any(folder.runs.glob("*")):
            write_text(folder.study, _as_yaml(study), checksum=True)
        if study.tuning is not None:
            TrialStore(study.tuning.storage, folder.path).close()  # one that cannot be used is refused here
        with StudyDriver(plan, folder, make_engine, observer) as driver:
            driver.warm()
            # Here, not above: they take seconds to import, in which the workers import what they need.
            from stillroom.study.equality import planned_differences
            from stillroom.study.results import write_results

            for warning in planned_differences(plan):
                observer.alarm(f"unequal as planned: {warning}")
            plan = driver.prepare()
            failures = driver.run(plan)
        results = write_results(folder, plan, failures)
        compact_checksums(folder.path)
        return StudyOutcome(out, results, failures, round(time.perf_counter() - began, 1))
    finally:
        observer.stopped()
        lock.release()


def _as_yaml(study: Study) -> str:
    return str(yaml.safe_dump(study.as_dict(), sort_keys=False, allow_unicode=True))


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
        if {item.name for item in path.iterdir() if not is_partial(item)} <= {"state", CHECKSUMS}:
            return
        raise BadInput("--out", str(path), "a new or empty folder, or a study's; this one holds other files")
    try:
        before = parse_yaml(read_text(folder.study))
    except BadInput:
        raise
    except (ValueError, RecursionError, yaml.YAMLError):
        raise BadInput("--out", str(folder.study), "a readable study.yaml") from None
    old, new = flatten(before), flatten(study.as_dict())
    # What is asked of the runs afterwards changes none of them; the report says which was asked later.
    changed = [key for key in new | old if new.get(key) != old.get(key) and key.split(".")[0] != "contrasts"]
    if changed:
        shown = "; ".join(
            f"{key} is {shorten(new.get(key), 60)}, was {shorten(old.get(key), 60)}" for key in changed[:3]
        )
        raise BadInput("--out", str(path), f"the study that was begun there ({shown}); give another one a new folder")


@dataclass
class StudyDriver:
    """Does a study's jobs. A context manager: leaving it ends them."""

    plan: StudyPlan  # its runs, as far as they are known before trials and calibration
    folder: StudyFolder  # where it lies; the caller holds its lock
    make_engine: EngineMaker  # makes the engine; called only where there is something left to do
    observer: StudyObserver  # called as it goes
    engine: Engine | None = None  # who does the jobs, once there are any
    stuck: dict[PairAndName, str] = field(default_factory=dict)  # why methods cannot be run on a pair
    failures: dict[str, str] = field(default_factory=dict)  # why runs are missing, by their id
    steps: CalibratedSteps = field(default_factory=dict)  # what a budget in seconds came to
    trials: Trials | None = None  # its searches, once there are any

    @property
    def study(self) -> Study:
        """The study."""
        return self.plan.study

    def __enter__(self) -> StudyDriver:
        self.progress = StudyProgress(self.study.name, self.study.measure, workers=0, pid=os.getpid())
        # At once: a reader must not take an earlier driver's end for this one's.
        self.progress.write(self.folder.progress)
        self.observer.started(self.progress)
        return self

    def __exit__(self, *_: object) -> None:
        if self.engine is not None:
            self.engine.close()
        self.progress.ended = True
        with suppress(OSError):  # a full disk, most likely, which is reported already
            self.progress.write(self.folder.progress)

    def warm(self) -> None:
        """Start whoever will do the jobs, if there are any."""
        waiting = sum(not _finished(self.folder, run) for run in self.plan.runs)
        if waiting:
            self._schedule()
            assert self.engine is not None
            self.engine.warm(waiting)

    def prepare(self) -> StudyPlan:
        """The plan with all that comes before the runs: answers kept, budgets in seconds fixed, options chosen."""
        waiting = any(not _finished(self.folder, run) for run in self.plan.runs)
        # All that is to come, so that the time left is that of the whole.
        if self.study.tuning is not None and waiting:
            self.progress.add(expected_trials(self.study, self.folder))
        self.progress.add(Job(run.id, "run", run.content, "") for run in self.plan.runs)
        if waiting:
            self._train_teachers()
            self._cache_teachers()
        self.steps = self._steps()
        if self.study.tuning is not None and waiting:
            self._tune()
        return self._plan_with_options()

    def run(self, plan: StudyPlan) -> dict[str, str]:
        """Do the runs that are not done; returns why some are missing."""
        write(self.folder.plan, _plan_file(plan, self.folder))
        # All methods of a seed before the next seed: a table of fewer seeds is there early, and paired.
        jobs = [job for seed in self.study.seeds for job in self._runs(plan, seed)]
        if jobs:
            self._schedule().do("running", jobs, self._note_failure)
        return self.failures

    def _plan_with_options(self) -> StudyPlan:
        return plan_of(self.study, self.folder, chosen_of(read_tuned(self.folder)), self.steps)

    def _tune(self) -> None:
        """Choose options. Where each seed has its own, its runs follow: a table of fewer seeds is there early."""
        assert self.study.tuning is not None
        self.trials = trials = Trials(self.study, self.folder, self.steps, leave_out=self.stuck)
        self.progress.forget_waiting(trials.made())
        try:
            if self.study.tuning.repeat == "once":
                if first := trials.first():
                    self._schedule().do("choosing options", first, trials.next_jobs)
                trials.chosen()
            else:
                self._tune_by_seed(trials)
            self.progress.forget_waiting([state.id for state in self.progress.of_kind("trial")])
        finally:
            trials.close()

    def _tune_by_seed(self, trials: Trials) -> None:
        def runs(seed: int) -> list[Job]:
            trials.chosen()
            return self._runs(self._plan_with_options(), seed)

        def next_jobs(job: Job, outcome: Outcome) -> list[Job]:
            if job.kind == "run":
                return self._note_failure(job, outcome)
            seed = trials.seed_of(job)
            more = trials.next_jobs(job, outcome)
            return more or (runs(seed) if trials.over(seed) else [])

        first = [job for seed in self.study.seeds for job in trials.first(seed) or runs(seed)]
        if first:
            self._schedule().do("choosing options and running, seed by seed", first, next_jobs)

    def _runs(self, plan: StudyPlan, seed: int) -> list[Job]:
        """The runs of a seed that are to be done; for those that cannot be, the reason is kept."""
        jobs = []
        for run in plan.runs:
            if run.seed != seed:
                continue
            out = self.folder.run(run.pair, run.method, run.seed)
            content = json.loads(run.recipe.model_dump_json())
            job = Job(run.id, "run", content, str(out), threads=threads_of(content))
            self.progress.add([job])
            state = self.progress.jobs[run.id]
            if _finished(self.folder, run):
                if state.status != "done":
                    state.status = "done"
                    state.set_value(read_object(out / "summary.json"), self.study.measure)
            elif run.id not in self.failures:
                reason = self._why_not(run)
                if reason is None:
                    jobs.append(job)
                else:
                    self.failures[run.id] = reason
                    state.status, state.reason = "failed", reason
        return jobs

    def _why_not(self, run: PlannedRun) -> str | None:
        """Why a run cannot be done; None where it can."""
        if (reason := self.stuck.get((run.pair, run.method))) is not None or self.trials is None:
            return reason
        method = next(each for each in self.study.methods if each.name == run.method)
        return self.trials.failure(run.pair, self.study.tuned_by(method).name, run.seed)

    def _note_failure(self, job: Job, outcome: Outcome) -> list[Job]:
        if outcome.ending != "done":
            self.failures[job.id] = outcome.reason
        return []

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
            message = f"teachers.{outcome.id.partition('/')[2]}: {outcome.reason}"
            if outcome.ending == "bad_input":
                raise BadInput.with_message("teachers", None, message)
            if outcome.ending != "done":
                raise RunFailed(message)

    def _cache_teachers(self) -> None:
        """One build of each teacher's cache for the whole study, before any run's clock starts.

        Every recipe is checked as its run would check it, so that what cannot run is refused before an hour has gone.
        """
        jobs: dict[str, list[tuple[int, Job]]] = {pair.name: [] for pair in self.study.all_pairs}
        for method in self.study.methods:
            for pair in self.study.all_pairs:
                content = self._content(pair, method)
                recipes = [content]
                if self.study.tuning is not None:
                    recipes.append(trial_content(self.study, self.folder, pair, method, _PLENTY))
                out = self.folder.preparation(pair.name, method.name)
                job = self._job("prepare", pair, method, content, out, {"recipes": recipes})
                jobs[pair.name].append((_teacher_reads(content), job))
        # Who reads most of a teacher goes first, alone: what is kept for it, the others find there.
        ordered = {name: [job for _, job in sorted(mine, key=lambda each: -each[0])] for name, mine in jobs.items()}

        noted: set[str] = set()

        def next_jobs(job: Job, outcome: Outcome) -> list[Job]:
            for line in outcome.result.get("notes", ()):
                if line not in noted:
                    noted.add(line)
                    self.observer.note(line)
            mine = ordered[job.id.split("/")[1]]
            return mine[1:] if job.id == mine[0].id else []

        self.progress.add(job for mine in ordered.values() for job in mine)
        first = [mine[0] for mine in ordered.values()]
        self._each(self._schedule().do("caching the teachers' outputs", first, next_jobs))
        found: dict[str, dict[str, Any]] = {}
        for pair, method in pairs_and_methods(self.study):
            asked = self.folder.preparation(pair.name, method.name) / "asked.jsonl"
            lines = read_text(asked).splitlines() if asked.exists() else []
            mine = found.setdefault(pair.name, {"answers": 0, "seconds": 0.0})
            for line in map(json.loads, lines):
                mine["answers"] += line["answers"]
                mine["seconds"] = round(mine["seconds"] + line["seconds"], 3)
        write(self.folder.caches, CachesFile.model_validate({"pairs": found}))

    def _steps(self) -> dict[PairAndName, int]:
        """What a budget in seconds comes to: timed once, each method alone, and then fixed."""
        if self.study.budget is None or self.study.budget.seconds is None:
            return {}
        seconds = self.study.budget.seconds
        known: dict[str, dict[str, Any]] = {}
        if self.folder.calibration.exists():
            with reading_own_file(self.folder.calibration, "remove it to time the steps again"):
                known = read_json(CalibrationFile, self.folder.calibration).as_dict()["pairs"]
        jobs = []
        for pair, method in pairs_and_methods(self.study):
            if method.name in known.get(pair.name, {}) or (pair.name, method.name) in self.stuck:
                continue
            out = self.folder.preparation(pair.name, method.name) / "calibration"
            content, options = self._content(pair, method), {"seconds": seconds}
            jobs.append(self._job("calibrate", pair, method, content, out, options))

        def next_jobs(job: Job, outcome: Outcome) -> list[Job]:
            # After each: what was timed stays as it was, whenever the study is stopped.
            if outcome.ending == "done":
                _, pair_name, name = job.id.split("/")
                known.setdefault(pair_name, {})[name] = outcome.result
                write(self.folder.calibration, CalibrationFile.model_validate({"seconds": seconds, "pairs": known}))
            return []

        if jobs:
            self._each(self._schedule().do("timing a step", jobs, next_jobs, alone=True))
        return _steps_of(known)

    def _content(self, pair: ModelPair, method: Method) -> RecipeContent:
        """The recipe of a method's first run, as far as it is known before the trials."""
        content = recipe_content(self.study, self.folder, pair, method, _PLENTY)
        return content | {"seed": self.study.seeds[0]}

    def _job(
        self,
        what: str,
        pair: ModelPair,
        method: Method,
        content: RecipeContent,
        out: Path,
        options: dict[str, Any],
    ) -> Job:
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
            where = f"methods.{method}" + (f" on {pair}" if self.study.model_pairs else "")
            if outcome.ending == "bad_input":
                raise BadInput.with_message(where, None, f"{where}: {outcome.reason}")
            if outcome.ending != "done":
                self.stuck[pair, method] = f"{'preparing' if what == 'prepare' else 'timing'} it: {outcome.reason}"

    def _schedule(self) -> Scheduler:
        if self.engine is None:
            threads = max(int(run.recipe.training.threads) for run in self.plan.runs)
            self.engine = self.make_engine(self.folder, threads)
            self.progress.workers = self.engine.slots
        return Scheduler(self.engine, self.study.retries, self.progress, self.folder.progress, self.observer)


def _teacher_reads(content: RecipeContent) -> int:
    """How much of a teacher a recipe reads besides its logits, roughly: it orders the builds and decides nothing."""
    return sum(config.cached_features for config in parse_recipe(content).losses)


def _steps_of(known: dict[str, dict[str, Any]]) -> dict[PairAndName, int]:
    return {(pair, name): int(entry["steps"]) for pair, mine in known.items() for name, entry in mine.items()}


def _finished(folder: StudyFolder, run: PlannedRun) -> bool:
    return (folder.run(run.pair, run.method, run.seed) / "summary.json").exists()


def _plan_file(plan: StudyPlan, folder: StudyFolder) -> PlanFile:
    runs = [
        PlannedRunInfo(
            pair=run.pair,
            method=run.method,
            seed=run.seed,
            run=folder.run(run.pair, run.method, run.seed).relative_to(folder.path).as_posix(),
        )
        for run in plan.runs
    ]
    return PlanFile(study_hash=plan.study.hash(), runs=tuple(runs))
