"""What went wrong in a run, from its folder."""

from __future__ import annotations

from pathlib import Path

from stillroom.diagnose.check import Check
from stillroom.diagnose.checks.data import data_checks
from stillroom.diagnose.checks.run import distillation, predictions, training
from stillroom.diagnose.checks.run.record import RunRecord, read_run, require_quality
from stillroom.errors import BadInput
from stillroom.schema.diagnosis import Finding

# Causes before what follows from them: of two problems, the first is to be fixed first.
CHECKS: tuple[Check[RunRecord], ...] = (
    training.unfinished,
    *data_checks(require_quality),
    training.diverged,
    training.over_regularising,
    training.under_training,
    training.over_fitting,
    distillation.kd_ignored,
    distillation.labels_drowned,
    distillation.student_at_teacher,
    predictions.teacher_errors_copied,
    predictions.worse_classes,
    distillation.rescaling_gone,
    predictions.miscalibrated,
)


def diagnose_run(path: Path) -> list[Finding]:
    """Check a run folder for what cost the student accuracy.

    Args:
        path: the run's folder; of a run that did not end, only what was logged is judged.

    Returns:
        One finding a check, causes first: how it trained, what it took from its teacher, what it predicts.

    Raises:
        BadInput: the folder is missing, is not a run's, or a file in it is damaged.

    >>> diagnose_run(Path("no-such-run"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: run: got 'no-such-run'; expected a folder that exists
    """
    if is_incremental(path):
        raise BadInput("run", str(path), f"a run of all classes at once; look at its tasks, such as {path}/tasks/02")
    record = read_run(path)
    return [check.run(record) for check in CHECKS]


def is_incremental(path: Path) -> bool:
    """Whether a folder is of class-incremental training, whose curves begin anew with each task."""
    return (path / "incremental.json").is_file()
