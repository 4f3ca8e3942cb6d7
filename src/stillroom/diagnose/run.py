"""What went wrong in a run, from its folder."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillroom.diagnose.check import Check
from stillroom.diagnose.checks.data import data_checks
from stillroom.diagnose.checks.run import distillation, predictions, targets, training
from stillroom.diagnose.checks.run.baseline import with_baselines
from stillroom.diagnose.checks.run.record import RunRecord, read_run, require_quality
from stillroom.diagnose.recipe import INPUT_CHECKS, diagnose_recipe
from stillroom.errors import BadInput
from stillroom.models.modes import copy_model
from stillroom.recipe import Recipe, set_value
from stillroom.run.components import RunComponents, RunObjects
from stillroom.schema.diagnosis import Finding
from stillroom.tasks import Task

# Causes before what follows from them: of two problems, the first is to be fixed first.
CHECKS: tuple[Check[RunRecord], ...] = (
    training.unfinished,
    *data_checks(require_quality),
    training.student_statistics,
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


def checks_of(task: Task) -> tuple[Check[RunRecord], ...]:
    """The checks of a run whose labels are of a task; those made for another say that they are."""
    return CHECKS if task == "single_label" else (*targets.CHECKS, *CHECKS)


def diagnose_run(path: Path, objects: RunObjects | None = None, *, as_code: bool = True) -> list[Finding]:
    """Check a run folder for what cost the student accuracy.

    Runs of the same student from labels alone in the folders next to it are what some verdicts are held against.

    Args:
        path: the run's folder; of a run that did not end, only what was logged is judged.
        objects: of a run made in Python, its modules and images: the teacher's input is then checked, too.
        as_code: of a run made in Python, write remedies as arguments of ``stillroom.distill``; else as overrides.

    Returns:
        One finding a check, causes first: the teacher's input, how it trained, what it took from its teacher, what it
        predicts.

    Raises:
        BadInput: the folder is missing, is not a run's, or a file in it is damaged.

    >>> diagnose_run(Path("no-such-run"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: run: got 'no-such-run'; expected a folder that exists
    """
    if is_incremental(path):
        raise BadInput("run", str(path), f"a run of all classes at once; look at its tasks, such as {path}/tasks/02")
    record = with_baselines(read_run(path))
    findings = [check.run(record) for check in checks_of(record.task)]
    if record.recipe.data.source != "python":
        return findings
    findings = [*_check_input(record.recipe, objects or RunObjects()), *findings]
    return list(map(in_python, findings)) if as_code else findings


def _check_input(recipe: Recipe, objects: RunObjects) -> list[Finding]:
    """What the teacher of a Python run gets, and whether it is right for it."""
    if not recipe.all_teachers:
        return []
    if not recipe.model_teachers:
        why = "Only a teacher that is a module is looked at."
        return [Finding("teacher_input", "skipped", why)]
    if objects.data is None or objects.student is None or not objects.teachers:
        why = (
            "The run was made in Python, and its folder holds neither teacher nor images: run.diagnose() looks at "
            "them, and so does stillroom.load_run(folder, student=…, teacher=…, train=…, test=…).diagnose()."
        )
        return [Finding("teacher_input", "skipped", why)]
    teachers = {name: copy_model(model) for name, model in objects.teachers.items()}
    losses = [copy.deepcopy(loss) for loss in objects.losses]
    components = RunComponents(objects.data, copy_model(objects.student), losses, teachers)
    return diagnose_recipe(recipe, components=components, checks=INPUT_CHECKS)


def in_python(finding: Finding) -> Finding:
    """A finding whose remedy is written as arguments of ``stillroom.distill``, as the run has no recipe to change.

    >>> from stillroom.schema.diagnosis import Remedy
    >>> remedy = Remedy("…", {"training.optimizer.lr": 0.01, "teacher.preprocess": "imagenet"})
    >>> in_python(Finding("x", "problem", "…", remedy=remedy)).remedy.code
    "sr.distill(…, teacher_preprocess='imagenet', training={'optimizer': {'lr': 0.01}})"
    """
    if finding.remedy is None or not finding.remedy.overrides:
        return finding
    content: dict[str, Any] = {}
    losses = []
    for key, value in finding.remedy.overrides.items():
        first, _, rest = key.partition(".")
        if first == "losses" and rest:
            place, _, option = rest.partition(".")
            losses.append(f"{f'losses[{place}]' if place.isdecimal() else place}.{option}={value!r}")
        else:
            set_value(content, key, value)
    data = content.pop("data", {})
    for name, options in content.pop("teachers", {}).items():
        for key, value in options.items():
            content.setdefault("teacher", {}).setdefault(key, {})[name] = value
    arguments = {
        **{f"{who}_{key}": value for who in ("teacher", "student") for key, value in content.pop(who, {}).items()},
        **data,
        **content,
    }
    written = ", ".join(["…", *(f"{key}={value!r}" for key, value in arguments.items())])
    code = f"sr.distill({written})" if arguments else ""
    if losses:
        code += ("\n" if code else "") + f"# of the losses: {', '.join(losses)}"
    return replace(finding, remedy=replace(finding.remedy, overrides={}, code=code))


def is_incremental(path: Path) -> bool:
    """Whether a folder is of class-incremental training, whose curves begin anew with each task."""
    return (path / "incremental.json").is_file()
