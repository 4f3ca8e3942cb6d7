"""What is wrong with a study: whether its table can be believed, which methods are better off without a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stillroom.diagnose.check import Check
from stillroom.diagnose.checks.run.baseline import with_baselines
from stillroom.diagnose.checks.run.record import RunRecord, read_run
from stillroom.diagnose.checks.run.training import unfinished
from stillroom.diagnose.checks.study import methods, table
from stillroom.diagnose.run import checks_of, is_incremental
from stillroom.schema.diagnosis import Finding
from stillroom.schema.study import CellKey, StudyResults, read_study
from stillroom.wording import IMAGES

# Whether the table can be believed.
CHECKS: tuple[Check[StudyResults], ...] = (
    table.unequal,
    table.failed_runs,
    table.too_few_seeds,
    table.baseline_not_tuned,
)


def diagnose_study(path: Path) -> list[Finding]:
    """Check a study's results and the folders of its runs.

    Returns:
        First whether the table can be believed; then each distilled method against the same student from labels alone;
        then the checks of runs: a problem of a method where most of its runs have it. A check that no method fails is
        one finding.

    Raises:
        BadInput: the folder is missing, has no results yet, or a file in it is damaged.

    >>> diagnose_study(Path("no-such-study"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: study: got 'no-such-study'; expected a folder that exists
    """
    study = read_study(path)
    checks: Sequence[Check[RunRecord]] = ()
    checked: dict[CellKey, list[methods.CheckedRun]] = {}
    baselines: list[RunRecord] = []
    unit = IMAGES
    # Runs from labels first: the others are held against them.
    for run in sorted(study.runs, key=lambda one: one.method != study.baseline):
        # A run that was moved away keeps its line in the table. Findings are kept; images of runs from labels alone.
        if (path / run.run).is_dir() and not is_incremental(path / run.run):
            record = with_baselines(read_run(path / run.run), baselines)
            unit = record.unit
            # The study says itself which runs are missing.
            checks = [check for check in checks_of(record.task) if check is not unfinished]
            if not record.is_distilled:
                baselines.append(record)
            found = methods.CheckedRun(run, tuple(check.run(record) for check in checks), record.is_distilled)
            checked.setdefault((run.pair, run.method), []).append(found)
    findings = [
        *(check.run(study) for check in CHECKS),
        *methods.better_without(study, checked),
        *methods.check_methods(study, checks, checked),
    ]
    return [finding.filled(unit) for finding in findings]
