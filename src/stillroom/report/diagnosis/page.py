"""One self-contained HTML page from a diagnosis: what is wrong, the number that decided, what to do."""

from __future__ import annotations

from pathlib import Path

from stillroom.report.diagnosis.content import content
from stillroom.report.diagnosis.read import read_diagnosis
from stillroom.report.html import rendered, write_page

PAGE = "diagnosis.html"


def write_diagnosis_page(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a folder's ``diagnosis.json``.

    Args:
        folder: where it lies.
        out: the file to write; left out: ``diagnosis.html`` beside it.

    Returns:
        The file that was written.

    Raises:
        BadInput: there is no diagnosis, it is damaged, or the page cannot be written.

    >>> write_diagnosis_page(Path("nowhere"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: diagnosis: got 'nowhere'; expected a folder with diagnosis.json; ...
    """
    told = content(read_diagnosis(folder))
    figures = {chart.key: chart.figure for chart in told.charts}
    page = rendered("diagnosis/diagnosis.html.j2", figures=figures, page=told, diagnosis=told.diagnosis)
    return write_page(out if out is not None else folder / PAGE, page)
