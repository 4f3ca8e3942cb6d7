"""``stillroom incremental``: learn classes task by task."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import TRAIN, AsJson, Out, Overrides, RecipeFile, Resume, app, print_json, resumable
from stillroom.cli.runs import continues
from stillroom.continual.presets import PRESET_NAMES
from stillroom.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from stillroom.schema.continual import FinishedRecord, JointComparison

PresetName = StrEnum("PresetName", {name.upper(): name for name in PRESET_NAMES})  # type: ignore[misc]


@app.command(rich_help_panel=TRAIN)
def incremental(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    preset: Annotated[
        PresetName | None,
        typer.Option(
            "--preset",
            help="Named method, whatever the recipe's losses: finetune (lower bound), replay, lwf, icarl, wa or "
            "joint (upper bound). `stillroom schema` says what each sets.",
        ),
    ] = None,
    joint: Annotated[
        Path | None,
        typer.Option(
            "--joint",
            help="Folder of joint training (`--preset joint`) on the same tasks: prints Ω, the accuracy relative to "
            "it.",
            metavar="DIR",
        ),
    ] = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Learn classes task by task; the previous model is the teacher, against forgetting.

    The recipe's `incremental` sets the number of tasks and of exemplars; its `training` holds for each task. In task 1
    the student learns from labels. From task 2 on its teacher is the student of the task before, frozen, with the
    logits it had: terms that read a teacher (`kl`, `logit_mse`, `logit_fisher`, `feature_mse`, `feature_fisher`,
    `feature_full_fisher`, `block_logit` with `alpha: 0`) see old classes only, `cross_entropy` all classes seen.
    Feature terms may use `connector: identity`, as both networks have the same architecture.

    Leaves a folder with a run folder of each task (`tasks/01` …), the accuracy on every task after every task
    (`incremental.json`), and the last student, its classes in the data's own order. If it is stopped, the same command
    goes on with it, and ends with the same bytes.

    Example: `stillroom incremental recipes/incremental/digits.yaml --preset lwf --out runs/lwf`
    """
    from stillroom.cli.terminal import ProgressBar
    from stillroom.continual.presets import preset_overrides
    from stillroom.continual.run import run_tasks
    from stillroom.continual.summary import compare_with_joint
    from stillroom.recipe import load_recipe
    from stillroom.run.records import output_folder
    from stillroom.schema.base import read_json
    from stillroom.schema.continual import INCREMENTAL_FILE, FinishedRecord

    if resume and out is None:
        raise BadInput("--resume", None, "the run's folder by --out")
    resolved = load_recipe(recipe, [*(preset_overrides(preset.value) if preset else []), *(overrides or [])])
    with output_folder(out, f"{resolved.student.name}-incremental") as folder, resumable(out, folder):
        finished = run_tasks(resolved, folder, resume=resume or continues(folder), observer=ProgressBar())
    comparison = compare_with_joint(folder, joint) if joint is not None else None
    record = read_json(FinishedRecord, folder / INCREMENTAL_FILE)
    if as_json:
        content = {"run": str(folder), **finished.summary, "matrix": record.as_dict()["matrix"]}
        print_json(content if comparison is None else {**content, "joint": comparison.as_dict()})
        return
    stdout = Console(highlight=False)
    stdout.print(_accuracy_table(record))
    stdout.print(_metrics_line(record, comparison), soft_wrap=True)
    shown = escape(str(folder))
    stdout.print(f"run: {shown}   look at it: stillroom report {shown}", soft_wrap=True)


def _accuracy_table(record: FinishedRecord) -> Table:
    from stillroom.cli.terminal import table

    count = len(record.tasks)
    columns = ["after task", *(f"on {task}" for task in range(1, count + 1)), "mean", "old", "new", "exemplars"]
    rows = []
    for task, row in zip(record.tasks, record.matrix, strict=True):
        cells = [f"{value:.1f}" for value in row] + [""] * (count - len(row))
        old = "–" if task.balance.old is None else f"{task.balance.old:.1f}"
        means = [f"{task.accuracy:.2f}", old, f"{task.balance.new:.1f}"]
        rows.append([str(task.task), *cells, *means, f"{task.memory.exemplars:,}"])
    return table("accuracy on the classes of each task, %", columns, rows)


def _metrics_line(record: FinishedRecord, comparison: JointComparison | None) -> str:
    metrics = record.metrics
    line = (
        f"average incremental accuracy {metrics.average:.2f}% ({metrics.average_from_second:.2f}% without the "
        f"first task), final {metrics.final:.2f}%, forgetting {metrics.forgetting:.2f} points; "
        f"{metrics.task_local:.2f}% right among the classes of an image's own task"
    )
    if comparison is None:
        return line
    return line + (f", Ω {comparison.omega:.3f}" if comparison.omega is not None else f", no Ω: {comparison.why}")
