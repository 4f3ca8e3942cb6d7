"""``stillroom compare``, ``watch`` and ``dissect``: studies of many runs."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import COMPARE, AsJson, Overrides, app, print_json, resumable
from stillroom.errors import BadInput
from stillroom.wording import whole_number

if TYPE_CHECKING:
    from rich.table import Table

    from stillroom.study.compare import StudyOutcome
    from stillroom.study.config import Study

NO = 1


class EngineName(StrEnum):
    """Where the jobs of a study run."""

    LOCAL = "local"
    RAY = "ray"


StudyOut = Annotated[Path, typer.Option("--out", help="Folder of the study; a stopped study continues.", metavar="DIR")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Runs at a time; default: as many as the cores allow.")
]
OnEngine = Annotated[EngineName, typer.Option("--engine", help="Processes on this machine, or a Ray cluster.")]


@app.command(rich_help_panel=COMPARE)
def compare(
    study: Annotated[Path, typer.Argument(help="Study file (YAML).", metavar="STUDY.yaml")],
    out: StudyOut,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to the study, such as `budget.epochs=3 recipe.training.threads=2`.", metavar="KEY.PATH=VALUE"
        ),
    ] = None,
    workers: Workers = None,
    engine: OnEngine = EngineName.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Address of the Ray cluster, such as 10.0.0.1:6379; default: $RAY_ADDRESS, or a new local one.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare training methods: methods × model pairs × seeds under one budget, with intervals and a report.

    All runs of a seed have the same initial weights, order of images, augmentation, budget and threads; hashes prove
    it, and a difference is reported (exit code 1). If the study is stopped, the same command continues it. `stillroom
    watch DIR` shows its progress in another terminal.

    Example: `stillroom compare recipes/studies/digits.yaml --out studies/digits`
    """
    from stillroom.study.config import load_study

    if address is not None and engine is not EngineName.RAY:
        raise BadInput("--address", address, "--engine ray with it")
    resolved = load_study(study, overrides or [])
    found = _run(resolved, out, engine, workers, address)
    page = _write_pages(out)
    if as_json:
        print_json(
            {"study": str(out), "report": str(page), "sound": found.sound, "seconds": found.seconds, **found.results}
        )
    else:
        _print_results(found, page)
    if not found.sound:
        raise typer.Exit(NO)


def _run(study: Study, out: Path, engine: EngineName, workers: int | None, address: str | None) -> StudyOutcome:
    from stillroom.cli import app as application
    from stillroom.cli.live import LiveStudy
    from stillroom.cli.terminal import stderr
    from stillroom.study.compare import compare as run_study
    from stillroom.study.engine import engine_maker

    application.keep_modules()
    make_engine = engine_maker(engine.value, workers, address, application.OWN_PROCESS)
    with resumable():
        return run_study(study, out, make_engine, LiveStudy(stderr))


def _write_pages(out: Path) -> Path:
    from stillroom.report.study.page import write_run_pages, write_study_report

    write_run_pages(out)
    return write_study_report(out)


def _print_inequalities(found: StudyOutcome, stdout: Console) -> None:
    for finding in found.results["inequalities"]:
        stdout.print(f"[bold red]unequal: {escape(finding['text'])}[/bold red]", soft_wrap=True)


def _print_results(found: StudyOutcome, page: Path) -> None:
    from stillroom.cli.terminal import table
    from stillroom.study.tables import terminal_table

    stdout = Console(highlight=False)
    header, *rows = terminal_table(found.results)
    stdout.print(table(found.results["name"], header, rows, right_from=2))
    _print_inequalities(found, stdout)
    for gap in found.results["missing"]:
        where = f"{gap['method']} on {gap['pair']}, seed {gap['seed']}"
        stdout.print(f"[bold red]missing: {escape(where)}: {escape(gap['reason'])}[/bold red]", soft_wrap=True)
    for sentence in found.results["conclusions"]:
        stdout.print(escape(sentence), soft_wrap=True)
    stdout.print(f"{found.seconds:.0f} s   report: {escape(str(page))}", soft_wrap=True)


@app.command(rich_help_panel=COMPARE)
def watch(
    study: Annotated[Path, typer.Argument(help="Folder of a running study.", metavar="DIR")],
    once: Annotated[bool, typer.Option("--once", help="Show the progress once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the progress of a running study, from another terminal.

    Example: `stillroom watch studies/digits`
    """
    from dataclasses import asdict

    from stillroom.cli.live import live_display, render_progress
    from stillroom.study.plan import StudyFolder
    from stillroom.study.progress import read_progress

    path = StudyFolder(study).progress
    progress = read_progress(path)
    if as_json:
        print_json({"alive": progress.alive, "seconds_left": progress.seconds_left(), **asdict(progress)})
        return
    stdout = Console(highlight=False)
    if once or not progress.alive or not stdout.is_terminal:
        stdout.print(render_progress(progress))
    else:
        with live_display(stdout, progress) as live:
            while progress.alive:
                time.sleep(1.0)
                progress = read_progress(path)
                live.update(render_progress(progress), refresh=True)
    if not progress.alive and not progress.complete:
        stdout.print("the study is not running; the same `stillroom compare` continues it")


@app.command(rich_help_panel=COMPARE)
def dissect(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a distillation by kl (YAML).", metavar="RECIPE.yaml")],
    out: StudyOut,
    overrides: Overrides = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Seeds of each level, such as 0,1,2.", metavar="LIST")
    ] = "0,1,2",
    trials: Annotated[
        int,
        typer.Option("--trials", min=0, help="Trials that choose rate and temperature, by the full output; 0: none."),
    ] = 0,
    workers: Workers = None,
    engine: OnEngine = EngineName.LOCAL,
    as_json: AsJson = False,
) -> None:
    """Ablate the teacher's output: how much accuracy does each level of its knowledge bring?

    Trains the student from labels alone and from each level of the teacher's output (universe, domain, instance,
    domain_and_instance, full), which differ in the target of kl alone: weights, temperature, learning rate, length and
    seeds are the same. The gain of the full output is reported as a sum of universe, domain, instance, their
    interaction and a rest, with intervals.

    Example: `stillroom dissect recipes/cifar10-resnet56-resnet8.yaml --out studies/dissected`
    """
    from stillroom.recipe import load_recipe
    from stillroom.study.dissect import dissecting, write_dissection
    from stillroom.study.plan import StudyFolder

    resolved = load_recipe(recipe, overrides or [])
    study = dissecting(resolved, seeds=_parse_seeds(seeds), trials=trials)
    found = _run(study, out, engine, workers, None)
    dissection = write_dissection(StudyFolder(out), found.results)
    page = _write_pages(out)
    if as_json:
        print_json({"study": str(out), "report": str(page), **dissection})
    else:
        stdout = Console(highlight=False)
        for pair in dissection["pairs"]:
            stdout.print(_dissection_table(pair))
            stdout.print(escape(pair["text"]), soft_wrap=True)
        _print_inequalities(found, stdout)
        stdout.print(f"{found.seconds:.0f} s   report: {escape(str(page))}", soft_wrap=True)
    if not found.sound:
        raise typer.Exit(NO)


def _parse_seeds(text: str) -> list[int]:
    numbers = [whole_number(word.strip()) for word in text.split(",")]
    seeds = [number for number in numbers if number is not None]
    if len(seeds) < len(numbers):
        raise BadInput("--seeds", text, "whole numbers of 0 or more, such as 0,1,2")
    return seeds


def _dissection_table(pair: dict[str, Any]) -> Table:
    from stillroom.cli.terminal import table

    def row(part: dict[str, Any]) -> list[str]:
        share = part.get("share")
        spread = "–" if part["low"] is None else f"{part['low']:+.2f} … {part['high']:+.2f}"
        mean = "–" if part["mean"] is None else f"{part['mean']:+.2f}"
        return [part["name"], part["note"], mean, spread, "" if share is None else f"{share:.0%}"]

    rows = [row(part) for part in (*pair["parts"], pair["total"])]
    return table(
        "gain from each part of the teacher's output", ["part", "meaning", "points", "95%", "share"], rows, right_from=2
    )
