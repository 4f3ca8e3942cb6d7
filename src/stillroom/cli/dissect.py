"""The command that takes a teacher's knowledge apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import AsJson, app, print_json
from stillroom.cli.studies import NO, EngineName, OnEngine, StudyOut, Workers
from stillroom.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table


@app.command()
def dissect(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a distillation by kl (YAML).", metavar="RECIPE.yaml")],
    out: StudyOut,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the recipe, such as `training.epochs=3`.", metavar="KEY.PATH=VALUE"),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, paired, such as 0,1,2.", metavar="LIST")] = "0,1,2",
    trials: Annotated[
        int, typer.Option("--trials", min=0, help="Trials of each level at half length; 0 takes the recipe as it is.")
    ] = 3,
    workers: Workers = None,
    engine: OnEngine = EngineName.LOCAL,
    as_json: AsJson = False,
) -> None:
    """Take the teacher's knowledge apart: what does each level of its answer bring the student?

    The student learns from the labels alone and from each level of the teacher's answer (uniform, class_similarity,
    true_class, true_class_similarity, top_k, full), with equal budgets, trials and paired seeds. What the whole answer
    brings is told as the sum of universe, domain, instance, their interaction and what is left, with intervals.

    Example: `stillroom dissect recipes/digits.yaml --out studies/dissected`
    """
    from stillroom.cli.live import LiveStudy
    from stillroom.cli.terminal import stderr
    from stillroom.data.sources import load
    from stillroom.recipe import load_recipe
    from stillroom.report.study.page import write_run_pages, write_study_report
    from stillroom.study.compare import compare as run_study
    from stillroom.study.dissect import dissecting, write_dissection
    from stillroom.study.engine import engine_maker
    from stillroom.study.plan import StudyFolder

    settled = load_recipe(recipe, overrides or [])
    classes = load(settled.data).train.num_classes
    study = dissecting(settled, classes=classes, seeds=_numbers(seeds), trials=trials)
    found = run_study(study, out, engine_maker(engine.value, workers, None), LiveStudy(stderr))
    told = write_dissection(StudyFolder(out), found.results)
    write_run_pages(out)
    page = write_study_report(out)
    if as_json:
        print_json({"study": str(out), "report": str(page), **told})
    else:
        stdout = Console(highlight=False)
        for pair in told["pairs"]:
            stdout.print(_table(pair))
            stdout.print(escape(pair["text"]), soft_wrap=True)
        for finding in found.results["inequalities"]:
            stdout.print(f"[bold red]unequal: {escape(finding['text'])}[/bold red]", soft_wrap=True)
        stdout.print(f"{found.seconds:.0f} s   report: {escape(str(page))}", soft_wrap=True)
    if not found.sound:
        raise typer.Exit(NO)


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise BadInput("--seeds", text, "whole numbers of 0 or more, such as 0,1,2")
    return [int(word) for word in words]


def _table(pair: dict[str, Any]) -> Table:
    from stillroom.cli.terminal import table

    def row(part: dict[str, Any]) -> list[str]:
        share = part.get("share")
        spread = "–" if part["low"] is None else f"{part['low']:+.2f} … {part['high']:+.2f}"
        mean = "–" if part["mean"] is None else f"{part['mean']:+.2f}"
        return [part["name"], part["note"], mean, spread, "" if share is None else f"{share:.0%}"]

    rows = [row(part) for part in (*pair["parts"], pair["total"])]
    return table(
        "what each part of the answer brings", ["part", "meaning", "points", "95%", "share"], rows, right_from=2
    )
