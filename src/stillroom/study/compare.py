"""Doing a study: check it, lock its folder, have its jobs done, and make the table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from stillroom.errors import BadInput, shorten
from stillroom.files import is_partial, write_text
from stillroom.run.records import flatten
from stillroom.study.axis import axis_of
from stillroom.study.config import Study
from stillroom.study.driver import Driver, EngineMaker
from stillroom.study.folder import StudyFolder
from stillroom.study.plan import plan_of, teacher_content
from stillroom.study.schedule import StudyObserver
from stillroom.study.trials import check_spaces
from stillroom.study.tuning import TrialStore


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
        RunFailed: nothing can be compared, as a teacher that the study trains itself could not be.
    """
    observer = observer or StudyObserver()
    began = time.perf_counter()
    folder = StudyFolder(out.resolve())
    # Refused here rather than after an hour.
    plan = plan_of(study, folder)
    check_spaces(study, folder)
    axis_of(plan)
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
        if study.tuning is not None:
            TrialStore(study.tuning.storage, folder.path).close()  # one that cannot be used is refused here
        with Driver(plan, folder, make_engine, observer) as driver:
            driver.warm()
            # Here, not above: they take seconds to import, in which the workers import what they need.
            from stillroom.study.equality import foreseen
            from stillroom.study.results import write_results

            for warning in foreseen(plan):
                observer.alarm(f"unequal as planned: {warning}")
            plan = driver.prepared()
            failures = driver.run(plan)
        results = write_results(folder, plan, failures)
        return Compared(out, results, failures, round(time.perf_counter() - began, 1))
    finally:
        observer.stopped()
        lock.release()


def _as_yaml(study: Study) -> str:
    return str(yaml.safe_dump(study.told(), sort_keys=False, allow_unicode=True))


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
    old, new = flatten(before), flatten(study.told())
    changed = [key for key in new | old if new.get(key) != old.get(key)]
    if changed:
        told = "; ".join(
            f"{key} is {shorten(new.get(key), 60)}, was {shorten(old.get(key), 60)}" for key in changed[:3]
        )
        raise BadInput("--out", str(path), f"the study that was begun there ({told}); give another one a new folder")
