"""``stillroom demo``, ``list`` and ``schema``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import START, AsJson, app, print_json, resumable
from stillroom.errors import BadInput


@app.command(rich_help_panel=START)
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the demo's runs; default: a new one under runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Distil a small model on built-in data (handwritten digits) and write a report; needs no file and no download.

    Trains a teacher, then a student on few labels, five seeds without and five with the teacher, and prints how many
    points the teacher adds, with a 95% interval. Then audits a plain PyTorch script in which a fault is planted.

    Example: `stillroom demo --out runs/demo`
    """
    from stillroom.cli import app as application
    from stillroom.cli.live import LiveStudy
    from stillroom.cli.terminal import stderr
    from stillroom.demo import run_demo
    from stillroom.run.records import output_folder

    with output_folder(out, "demo") as folder, resumable(out, folder):
        results = run_demo(
            folder,
            LiveStudy(stderr),
            lambda text: stderr.print(f"[bold]{escape(text)}[/bold]", soft_wrap=True),
            fork=application.OWN_PROCESS,
        )
    if as_json:
        print_json(results)
        return
    stdout = Console(highlight=False)
    for line in results["conclusion"]:
        stdout.print(escape(line), soft_wrap=True)
    for page, what in (
        ("report", "the table first, then a seed of `distilled` to see what changed"),
        ("audit", "the fault, where it is, and the line to write instead"),
    ):
        stdout.print(f"open {escape(results[page])}: {what}", soft_wrap=True)


@app.command(name="list", rich_help_panel=START)
def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            help="models, losses, data, optimizers or schedules (default: these), or the checks of a diagnosis."
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", help="Losses of one family: labels, logits, features, relations or gradients."),
    ] = None,
    requires: Annotated[
        str | None, typer.Option("--requires", help="Losses that require it: teacher, labels, index or features.")
    ] = None,
    per_sample: Annotated[
        str | None, typer.Option("--per-sample", help="yes: losses that are a mean over samples; no: the others.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Losses for single_label, multi_label or regression data.")
    ] = None,
    cacheable: Annotated[
        str | None,
        typer.Option("--cacheable", help="Losses for which a cache holds the teacher's logits, features or gradients."),
    ] = None,
    paper: Annotated[
        str | None, typer.Option("--paper", help="Losses of papers with these words in the title, or this number.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, losses, data sources, optimizers and schedules that a recipe can name.

    `checks` are those that `diagnose`, `check` and `audit` make: what each looks for, and its threshold.

    Example: `stillroom list losses --family features`
    """
    from stillroom.cli.without_torch import without_torch

    if what == "checks":
        from stillroom.cli.checklist import check_entries

        _print_lists({"checks": check_entries()}, as_json)
        return

    with without_torch():
        from stillroom.cli.listing import listing, narrow_loss, select_losses

        lists = listing()
        if what is not None:
            if what not in lists:
                raise BadInput.unknown("list", what, [*lists, "checks"])
            lists = {what: lists[what]}
        wanted = {
            "family": family,
            "requires": requires,
            "per_sample": per_sample,
            "cacheable": cacheable,
            "task": task,
            "paper": paper,
        }
        if any(wanted.values()):
            if what not in (None, "losses"):
                option = next(f"--{key.replace('_', '-')}" for key, word in wanted.items() if word)
                raise BadInput(option, what, "`stillroom list losses` with it")
            lists = {"losses": select_losses(lists.get("losses", []), **wanted)}
            if not lists["losses"]:
                asked = ", ".join(f"--{key.replace('_', '-')} {word}" for key, word in wanted.items() if word)
                raise BadInput("list losses", asked, "a combination that some loss has")
        if "losses" in lists and not as_json:
            # Seven columns do not fit a terminal.
            lists["losses"] = [narrow_loss(entry) for entry in lists["losses"]]
        _print_lists(lists, as_json)


def _print_lists(lists: dict[str, list[dict[str, str]]], as_json: bool) -> None:
    """A table each, or one JSON object."""
    from stillroom.cli.terminal import table

    if as_json:
        print_json(lists)
        return
    stdout = Console(highlight=False)
    for kind, entries in lists.items():
        columns = list(entries[0])
        shown = table(kind, columns, [[str(entry[c]) for c in columns] for entry in entries], right_from=9)
        shown.columns[0].no_wrap = True  # a name is copied into a recipe
        stdout.print(shown)


class SchemaOf(StrEnum):
    """The files that have a schema."""

    RECIPE = "recipe"
    STUDY = "study"


@app.command(rich_help_panel=START)
def schema(
    what: Annotated[SchemaOf, typer.Argument(help="recipe or study.", metavar="recipe|study")] = SchemaOf.RECIPE,
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
