"""``stillroom report``, ``fidelity``, ``list``, ``schema`` and ``demo``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import AsJson, RunArgument, app, print_json
from stillroom.errors import BadInput


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run, and others to compare with it; or the folder of a study.", metavar="RUN…"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write; default: report.html in the first run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a self-contained HTML page: curves, teacher against student, per-class changes, how to reproduce it.

    Example: `stillroom report runs/distilled runs/labels`
    """
    from stillroom.report.run.page import write_report
    from stillroom.report.study.page import write_run_pages, write_study_report
    from stillroom.schema.study import is_study

    if len(runs) == 1 and is_study(runs[0]):
        write_run_pages(runs[0])
        page = write_study_report(runs[0], out)
    else:
        page = write_report(runs, out)
    if as_json:
        print_json({"report": str(page)})
    else:
        print(page)


@app.command()
def fidelity(
    run: RunArgument,
    images: Annotated[
        int, typer.Option("--images", help="Test images, evenly spread over the split; 16 or more.")
    ] = 512,
    temperature: Annotated[
        float,
        typer.Option("--temperature", help="τ of the divergences and of the Fisher weights."),
    ] = 4.0,
    as_json: AsJson = False,
) -> None:
    """Measure how well each loss of the KL family, at each depth, ranks images by the true teacher-student divergence.

    The gap between the two can be measured at any tap, with ever more exact weights: none (`feature_mse`), the Fisher
    diagonal (`feature_fisher`), the full Fisher matrix (`feature_full_fisher`), or the divergence itself, through the
    teacher's tail (`block_logit`; at the logits `kl`). For the student at each checkpoint, each of these is correlated
    with the true divergence over test images: 1, it ranks images as the divergence does; 0, it says nothing about it.

    Writes `fidelity.json` into the run's folder and renews its report. Keep checkpoints while training, or only the
    trained student can be measured: `stillroom distill … training.checkpoints=[0,1,2,5,10]`.

    Example: `stillroom fidelity runs/kl`
    """
    from stillroom.cli.terminal import ProgressBar, table
    from stillroom.report.study.page import rewrite_run_page
    from stillroom.run.fidelity.mapping import map_fidelity
    from stillroom.schema.fidelity import FIDELITY, WEIGHINGS

    found = map_fidelity(run, images=images, temperature=temperature, observer=ProgressBar())
    page = rewrite_run_page(run)
    if as_json:
        print_json({"run": str(run), "fidelity": str(run / FIDELITY), "report": str(page), **found.as_dict()})
        return
    stdout = Console(highlight=False)
    for truth, title in (("gap", "the divergence of the gap itself"), ("student", "the student's own divergence")):
        rows = []
        for place, weighing in enumerate(WEIGHINGS):
            members = [tap.members[place] for tap in found.taps]
            values = [(one.gap if truth == "gap" else one.student).pooled.value for one in members]
            rows.append([weighing, *("–" if value is None else f"{value:.2f}" for value in values)])
        header = ["", *(tap.teacher for tap in found.taps)]
        stdout.print(table(f"how each member ranks images against {title}", header, rows))
    stdout.print(f"report: {escape(str(page))}", soft_wrap=True)


@app.command(name="list")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="models, losses, data, optimizers or schedules; default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, losses, data sources, optimizers and schedules that a recipe can name.

    Example: `stillroom list losses`
    """
    from stillroom.cli.without_torch import without_torch

    with without_torch():
        from stillroom.cli.listing import listing
        from stillroom.cli.terminal import table

        lists = listing()
        if what is not None:
            if what not in lists:
                raise BadInput.unknown("list", what, lists)
            lists = {what: lists[what]}
        if as_json:
            print_json(lists)
            return
        stdout = Console(highlight=False)
        for kind, entries in lists.items():
            columns = list(entries[0])
            stdout.print(table(kind, columns, [[str(entry[c]) for c in columns] for entry in entries], right_from=9))


class SchemaOf(StrEnum):
    """The files that have a schema."""

    RECIPE = "recipe"
    STUDY = "study"


@app.command()
def schema(
    what: Annotated[SchemaOf, typer.Argument(help="recipe or study.", metavar="[recipe|study]")] = SchemaOf.RECIPE,
) -> None:
    """Print the JSON Schema of a recipe or of a study, for completion and checks in an editor.

    Save it, and begin a recipe with the line `# yaml-language-server: $schema=recipe.schema.json`.

    Example: `stillroom schema > recipe.schema.json`
    """
    from stillroom.cli.without_torch import without_torch

    with without_torch():
        from stillroom.recipe import Recipe, schema_of
        from stillroom.study.config import Study

        print(schema_of(Study if what is SchemaOf.STUDY else Recipe, f"stillroom {what.value}"))


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the demo's runs; default: a new one under runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Distil a small model on built-in data (handwritten digits) and write a report; needs no file and no download.

    Trains a teacher from labels, a student from labels alone, and the same student with the teacher.

    Example: `stillroom demo --out runs/demo`
    """
    from stillroom.cli.terminal import ProgressBar, stderr
    from stillroom.demo import run_demo
    from stillroom.run.records import fresh_folder

    folder = out if out is not None else fresh_folder(Path("runs"), "demo")
    results = run_demo(folder, ProgressBar(), lambda text: stderr.print(f"[bold]{escape(text)}[/bold]"))
    if as_json:
        print_json(results)
        return
    stdout = Console(highlight=False)
    for line in results["conclusion"]:
        stdout.print(escape(line), soft_wrap=True)
    stdout.print(f"report: {escape(results['report'])}", soft_wrap=True)
