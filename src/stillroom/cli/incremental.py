"""The command that learns classes task by task."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import AsJson, Out, Overrides, RecipeFile, Resume, app, print_json
from stillroom.continual.config import PRESET_NAMES
from stillroom.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

PresetName = StrEnum("PresetName", {name.upper(): name for name in PRESET_NAMES})  # type: ignore[misc]


@app.command()
def incremental(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    preset: Annotated[
        PresetName | None,
        typer.Option(
            "--preset",
            help="finetune (the floor), replay, lwf, icarl or joint (the ceiling), whatever the recipe says of "
            "losses; `stillroom schema` tells what each sets.",
        ),
    ] = None,
    offline: Annotated[
        Path | None,
        typer.Option(
            "--joint", help="Folder of the same tasks learned jointly: tells Ω, how near this comes.", metavar="DIR"
        ),
    ] = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Learn classes that come task by task, the old model teaching the new one what it must not forget.

    The recipe's `incremental` says how many tasks there are and how many old images may be kept; its `training` is each
    task's. In task 1 the student learns from labels. From then on its teacher is the student of the task before,
    frozen, with the logits it had: terms that read a teacher (`kl`, `logit_mse`, `logit_fisher`, `feature_mse`,
    `feature_fisher`, `feature_full_fisher`, `block_logit` with `alpha: 0`) see old classes alone, `cross_entropy` all
    that were seen. Feature terms may compare as they are (`connector: identity`): both networks are one family.

    Leaves a folder with a run folder for each task (`tasks/01` …), the accuracy on every task after every task
    (`incremental.json`), and the student of the last, its classes in the data's own order. Stopped at any instant, the
    same command with `--resume` ends with the same bytes.

    Example: `stillroom incremental recipes/incremental/digits.yaml --preset lwf --out runs/lwf`
    """
    from stillroom.console import ProgressBar
    from stillroom.continual.config import overrides_of
    from stillroom.continual.joint import compare_offline
    from stillroom.continual.run import execute_tasks
    from stillroom.recipe import load_recipe
    from stillroom.run.records import fresh_folder, read_json

    if resume and out is None:
        raise BadInput("--resume", None, "the run's folder by --out")
    settled = load_recipe(recipe, [*(overrides_of(preset.value) if preset else []), *(overrides or [])])
    folder = out if out is not None else fresh_folder(Path("runs"), f"{settled.student.name}-incremental")
    finished = execute_tasks(settled, folder, resume=resume, observer=ProgressBar())
    near = compare_offline(folder, offline) if offline is not None else None
    record = read_json(folder / "incremental.json")
    if as_json:
        told = {"run": str(folder), **finished.summary, "matrix": record["matrix"]}
        print_json(told if near is None else {**told, "offline": near})
        return
    stdout = Console(highlight=False)
    stdout.print(_table(record))
    stdout.print(_conclusion(record, near), soft_wrap=True)
    shown = escape(str(folder))
    stdout.print(f"run: {shown}   look at it: stillroom report {shown}", soft_wrap=True)


def _table(record: dict[str, Any]) -> Table:
    from stillroom.console import table

    count = len(record["tasks"])
    columns = ["after task", *(f"on {task}" for task in range(1, count + 1)), "mean", "old", "new", "exemplars"]
    rows = []
    for task, row in zip(record["tasks"], record["matrix"], strict=True):
        cells = [f"{value:.1f}" for value in row] + [""] * (count - len(row))
        old, new = task["balance"]["old"], task["balance"]["new"]
        told = [f"{task['accuracy']:.2f}", "–" if old is None else f"{old:.1f}", f"{new:.1f}"]
        rows.append([str(task["task"]), *cells, *told, f"{task['memory']['exemplars']:,}"])
    return table("accuracy on the classes of each task, %", columns, rows)


def _conclusion(record: dict[str, Any], near: dict[str, Any] | None) -> str:
    metrics = record["metrics"]
    told = (
        f"average incremental accuracy {metrics['average']:.2f}% ({metrics['average_from_second']:.2f}% without the "
        f"first task), final {metrics['final']:.2f}%, forgetting {metrics['forgetting']:.2f} points"
    )
    if near is not None:
        omega = near["omega"]
        told += f", Ω {omega:.3f}" if omega is not None else f", no Ω: {near['why']}"
    return told
