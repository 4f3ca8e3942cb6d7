"""``stillroom report`` and ``fidelity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import UNDERSTAND, AsJson, RunArgument, app, print_json


@app.command(rich_help_panel=UNDERSTAND)
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

    Example: `stillroom report runs/distilled runs/labels`, or of a study: `stillroom report studies/digits`
    """
    from stillroom.report.run.page import write_report
    from stillroom.report.study.page import write_run_pages, write_study_report
    from stillroom.schema.study import STUDY

    if len(runs) == 1 and any((runs[0] / name).is_file() for name in (STUDY, "progress.json")):
        write_run_pages(runs[0])
        page = write_study_report(runs[0], out)
    else:
        from stillroom.run.latency import measure_latency

        for run in runs:
            measure_latency(run)
        page = write_report(runs, out)
    if as_json:
        print_json({"report": str(page)})
    else:
        print(page)


@app.command(rich_help_panel=UNDERSTAND)
def fidelity(
    run: RunArgument,
    images: Annotated[
        int, typer.Option("--images", help="Test images, evenly spread over the split; 16 or more.")
    ] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", help="τ of the divergences and of the Fisher weights.")
    ] = 4.0,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Which of several teachers, by its name; default: the most accurate."),
    ] = None,
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

    found = map_fidelity(run, images=images, temperature=temperature, teacher=teacher, observer=ProgressBar())
    page = rewrite_run_page(run)
    if as_json:
        print_json({"run": str(run), "fidelity": str(run / FIDELITY), "report": str(page), **found.as_dict()})
        return
    stdout = Console(highlight=False)
    for truth, title in (
        ("gap", "the divergence of its own gap"),
        ("student", "the student's divergence from the teacher"),
    ):
        rows = []
        for place, weighing in enumerate(WEIGHINGS):
            members = [tap.members[place] for tap in found.taps]
            values = [(one.gap if truth == "gap" else one.student).pooled.value for one in members]
            rows.append([weighing, *("–" if value is None else f"{value:.2f}" for value in values)])
        header = ["", *(tap.teacher for tap in found.taps)]
        stdout.print(table(f"rank correlation of each loss, at each tap, with {title}", header, rows))
    stdout.print(f"report: {escape(str(page))}", soft_wrap=True)
