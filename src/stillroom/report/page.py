"""One self-contained HTML page from finished run folders: how good the student is, what it costs, where it changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillroom.errors import BadInput
from stillroom.report.compare import names
from stillroom.report.content import content
from stillroom.report.html import rendered, write_page
from stillroom.report.read import RunFolder, read_run

EXPLAINED = "explain.html"


@dataclass(frozen=True)
class Home:
    """The study that a run belongs to, as its page knows it.

    Attributes:
        name: the study's name.
        page: the address of the study's page, from the run's.
        plotly: the address of the study's plotly, from the run's page.
    """

    name: str
    page: str
    plotly: str


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one HTML page about finished runs.

    Args:
        runs: run folders; the page is about the first, the others are compared beside it.
        out: the file to write; left out: ``report.html`` in the first run's folder.

    Returns:
        The file that was written.

    Raises:
        BadInput: a folder is missing, unfinished or damaged, or the page cannot be written.

    >>> write_report([])
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: runs: got []; expected at least one run folder
    """
    if not runs:
        raise BadInput("runs", [], "at least one run folder")
    seen: set[Path] = set()
    for run in runs:
        if run.resolve() in seen:
            raise BadInput("runs", str(run), "each run folder once")
        seen.add(run.resolve())
    target = out if out is not None else runs[0] / "report.html"
    if target.is_dir():
        raise BadInput("out", str(target), "a file, not a folder")
    # What `stillroom explain` wrote beside this page; a page elsewhere would not find it.
    is_explained = target.parent.resolve() == runs[0].resolve() and (runs[0] / EXPLAINED).is_file()
    return write_page(
        target, render([read_run(Path(run)) for run in runs], explained=EXPLAINED if is_explained else "")
    )


def render(runs: Sequence[RunFolder], home: Home | None = None, explained: str = "") -> str:
    """The page as text; the same runs give the same text.

    Args:
        runs: the page is about the first, the others are compared beside it.
        home: the study whose folder holds the run: the page links to it and takes plotly from there, so that three
            hundred pages do not each hold it.
        explained: the address of the page that says what the student has learned, where there is one.
    """
    labels = names(runs)
    told = content(list(zip(labels, runs, strict=True)))
    figures = {chart.key: chart.figure for chart in told.charts}
    return rendered(
        "report.html.j2",
        figures=figures,
        plotly_at=home.plotly if home is not None else None,
        page=told,
        home=home,
        explained=explained,
    )
