"""Commands about studies: many runs, one question."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import AsJson, app, print_json
from stillroom.errors import BadInput

if TYPE_CHECKING:
    from stillroom.study.compare import StudyOutcome

NO = 1


class EngineName(StrEnum):
    """Who does the jobs."""

    LOCAL = "local"
    RAY = "ray"


StudyOut = Annotated[
    Path, typer.Option("--out", help="Folder of the study; one that was stopped goes on.", metavar="DIR")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Runs side by side; left out: as many as their threads leave cores for."),
]
OnEngine = Annotated[EngineName, typer.Option("--engine", help="Processes of this machine, or a Ray cluster.")]


@app.command()
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
            help="Address of the Ray cluster, such as 10.0.0.1:6379; left out: $RAY_ADDRESS, or one of our own.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare ways to make a student: methods × pairs × seeds, equal budgets, intervals, a report.

    Every run of a seed has the same initial weights, order of images, augmentation, budget and threads as the others;
    the table checks that by hashes and says what differs (exit code 1). Stopped at any instant, the same command goes
    on. `stillroom watch DIR` looks on from another terminal.

    Example: `stillroom compare recipes/studies/digits.yaml --out studies/digits`
    """
    from stillroom.cli.live import LiveStudy
    from stillroom.cli.terminal import stderr
    from stillroom.report.study.page import write_run_pages, write_study_report
    from stillroom.study.compare import compare as run_study
    from stillroom.study.config import load_study
    from stillroom.study.engine import engine_maker

    if address is not None and engine is not EngineName.RAY:
        raise BadInput("--address", address, "--engine ray beside it")
    settled = load_study(study, overrides or [])
    found = run_study(settled, out, engine_maker(engine.value, workers, address), LiveStudy(stderr))
    write_run_pages(out)
    page = write_study_report(out)
    if as_json:
        print_json(
            {"study": str(out), "report": str(page), "sound": found.sound, "seconds": found.seconds, **found.results}
        )
    else:
        _tell(found, page)
    if not found.sound:
        raise typer.Exit(NO)


def _tell(found: StudyOutcome, page: Path) -> None:
    from stillroom.cli.terminal import table
    from stillroom.study.tables import terminal_table

    stdout = Console(highlight=False)
    header, *rows = terminal_table(found.results)
    stdout.print(table(found.results["name"], header, rows, right_from=2))
    for finding in found.results["inequalities"]:
        stdout.print(f"[bold red]unequal: {escape(finding['text'])}[/bold red]", soft_wrap=True)
    for gap in found.results["missing"]:
        where = f"{gap['method']} on {gap['pair']}, seed {gap['seed']}"
        stdout.print(f"[bold red]missing: {escape(where)}: {escape(gap['reason'])}[/bold red]", soft_wrap=True)
    for sentence in found.results["conclusions"]:
        stdout.print(escape(sentence), soft_wrap=True)
    stdout.print(f"{found.seconds:.0f} s   report: {escape(str(page))}", soft_wrap=True)


@app.command()
def watch(
    study: Annotated[Path, typer.Argument(help="Folder of a study that goes on.", metavar="DIR")],
    once: Annotated[bool, typer.Option("--once", help="Show how far it is, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a study from another terminal; it is not touched.

    Example: `stillroom watch studies/digits`
    """
    from dataclasses import asdict

    from stillroom.cli.live import shown, watching
    from stillroom.study.plan import StudyFolder
    from stillroom.study.progress import read_progress

    path = StudyFolder(study).progress
    progress = read_progress(path)
    if as_json:
        print_json({"alive": progress.alive, "seconds_left": progress.seconds_left(), **asdict(progress)})
        return
    stdout = Console(highlight=False)
    if once or not progress.alive or not stdout.is_terminal:
        stdout.print(shown(progress))
    else:
        with watching(stdout, progress) as live:
            while progress.alive:
                time.sleep(1.0)
                progress = read_progress(path)
                live.update(shown(progress), refresh=True)
    if not progress.alive and not progress.complete:
        stdout.print("nobody works on this study now: the same `stillroom compare` goes on with it")
