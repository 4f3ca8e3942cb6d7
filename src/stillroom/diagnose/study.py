"""What is wrong with a study: can its table be believed, who is better off without a teacher, what ails whom."""

from __future__ import annotations

from pathlib import Path

from stillroom.diagnose.checks.run.ending import unfinished
from stillroom.diagnose.checks.run.methods import Examined, Place, in_methods
from stillroom.diagnose.checks.run.reading import read_case
from stillroom.diagnose.checks.run.table import baseline_not_tuned, failed_runs, too_few_seeds, unequal
from stillroom.diagnose.checks.run.without import better_without
from stillroom.diagnose.finding import Finding
from stillroom.diagnose.run import CHECKS, in_tasks
from stillroom.schema.study import read_study


def diagnose_study(path: Path) -> list[Finding]:
    """Look at a study's results and at what each of its runs left.

    Args:
        path: the study's folder, with results.

    Returns:
        First whether the table can be believed; then each distilled method against the same student from labels
        alone; then what ails each method: a check is sick where it is in most of its runs. Checks that no
        method fails are told in one finding each.

    Raises:
        BadInput: the folder is missing, has no results yet, or a file in it is damaged.

    >>> diagnose_study(Path("no-such-study"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: study: got 'no-such-study'; expected a folder that exists
    """
    study = read_study(path)
    # The study says itself which runs are missing.
    checks = [check for check in CHECKS if check is not unfinished]
    examined: dict[Place, list[Examined]] = {}
    for run in study.runs:
        # One that was moved away keeps its line in the table. Of a case the findings stay, not its images.
        if (path / run.run).is_dir() and not in_tasks(path / run.run):
            case = read_case(path / run.run)
            found = Examined(run, tuple(check(case) for check in checks), case.taught)
            examined.setdefault((run.pair, run.method), []).append(found)
    return [
        unequal(study),
        failed_runs(study),
        too_few_seeds(study),
        baseline_not_tuned(study),
        *better_without(study, examined),
        *in_methods(study, examined),
    ]
