"""What went wrong in a run, from the folder that it left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stillroom.diagnose.checks.run.answering import miscalibrated, teacher_errors_copied, worse_classes
from stillroom.diagnose.checks.run.ending import unfinished
from stillroom.diagnose.checks.run.learning import diverged, over_fitting, over_regularising, under_training
from stillroom.diagnose.checks.run.reading import Case, read_case
from stillroom.diagnose.checks.run.teaching import kd_ignored, labels_drowned, rescaling_gone, student_at_teacher
from stillroom.diagnose.finding import Finding
from stillroom.errors import BadInput

# Causes before what follows from them: of two that are sick, the first is to be mended first.
CHECKS: tuple[Callable[[Case], Finding], ...] = (
    unfinished,
    diverged,
    over_regularising,
    under_training,
    over_fitting,
    kd_ignored,
    labels_drowned,
    student_at_teacher,
    teacher_errors_copied,
    worse_classes,
    rescaling_gone,
    miscalibrated,
)


def diagnose_run(path: Path) -> list[Finding]:
    """Look at what a run left and say what cost its student accuracy.

    Args:
        path: the run's folder; of a run that did not end, only what it shows is judged.

    Returns:
        One finding a check, causes first: how it learned, what it took from its teacher, what it answers.

    Raises:
        BadInput: the folder is missing, is not a run's, or a file in it is damaged.

    >>> diagnose_run(Path("no-such-run"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: run: got 'no-such-run'; expected a folder that exists
    """
    if in_tasks(path):
        raise BadInput("run", str(path), f"a run of all classes at once; look at its tasks, such as {path}/tasks/02")
    case = read_case(path)
    return [check(case) for check in CHECKS]


def in_tasks(path: Path) -> bool:
    """Whether a folder is of classes that came in tasks: at each task's end its curves break off and begin anew."""
    return (path / "incremental.json").is_file()
