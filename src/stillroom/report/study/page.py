"""One self-contained HTML page from a study's folder, and the pages of its runs, which share one plotly."""

from __future__ import annotations

import os
from pathlib import Path

from stillroom.errors import BadInput
from stillroom.files import write_text
from stillroom.report.html import plotly_text, rendered, write_page
from stillroom.report.page import Home, render
from stillroom.report.read import SUMMARY, read_run
from stillroom.report.study.content import content
from stillroom.report.study.links import PAGE, links
from stillroom.report.study.read import is_study, read_study

# Three hundred pages that each held it would be 1.4 GB.
PLOTLY = "plotly.js"
__all__ = ["is_study", "render_study", "write_run_pages", "write_study_report"]


def write_study_report(folder: Path, out: Path | None = None) -> Path:
    """Write one HTML page about a study.

    Rows link to the pages of their runs: call :func:`write_run_pages` before, or the links lead to the run folders.

    Args:
        folder: the study's folder.
        out: the file to write; left out: ``report.html`` in the study's folder.

    Returns:
        The file that was written.

    Raises:
        BadInput: the folder is missing, has no results yet or is damaged, or the page cannot be written.
    """
    target = out if out is not None else folder / PAGE
    return write_page(target, render_study(folder, target))


def render_study(folder: Path, page: Path) -> str:
    """The page as text; the same folder gives the same text.

    Args:
        folder: the study's folder.
        page: where the page will lie, from which its links start.

    Raises:
        BadInput: the folder is missing, has no results yet or is damaged.
    """
    told = content(read_study(folder), links(folder, page))
    figures = {chart.key: chart.figure for chart in told.charts}
    return rendered("study/study.html.j2", figures=figures, page=told, study=told.study)


def write_run_pages(folder: Path) -> int:
    """Write the page of every finished run that has none yet.

    They read ``plotly.js`` of the study's folder, and link back to the study's page. A run whose files are damaged or
    gone gets no page and keeps no other from getting theirs; the study's page then links to its folder or says that
    it is gone.

    Args:
        folder: the study's folder, with results.

    Returns:
        How many were written.

    Raises:
        BadInput: the study's folder is missing, has no results yet or is damaged, or a page cannot be written.
    """
    study = read_study(folder)
    written = 0
    for path in dict.fromkeys(run.path for run in study.runs):
        run = folder / path
        if (run / PAGE).exists() or not (run / SUMMARY).is_file():
            continue
        up = Path(os.path.relpath(folder, run)).as_posix()
        home = Home(study.name, f"{up}/{PAGE}", f"{up}/{PLOTLY}")
        try:
            page = render([read_run(run)], home)
        except BadInput:
            continue
        if not written:
            _write_plotly(folder / PLOTLY)
        write_page(run / PAGE, page)
        written += 1
    return written


def _write_plotly(path: Path) -> None:
    text = plotly_text()
    try:
        if not path.is_file() or path.stat().st_size != len(text.encode("utf-8")):
            write_text(path, text)
    except OSError as error:
        raise BadInput(PLOTLY, str(path), f"a place that can be written ({error.strerror})") from None
