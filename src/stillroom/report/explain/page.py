"""One self-contained HTML page from an explanation: what distillation changed inside the student, and where."""

from __future__ import annotations

from pathlib import Path

from stillroom.report.explain.content import content
from stillroom.report.explain.maps import read_maps
from stillroom.report.explain.read import read_explanation
from stillroom.report.html import embedded, rendered, write_page

PAGE = "explain.html"


def write_explanation(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run's ``explain.json`` and ``explain-maps.npz``.

    Args:
        folder: of the run.
        out: the file to write; left out: ``explain.html`` beside them.

    Returns:
        The file that was written.

    Raises:
        BadInput: there is no explanation, it is damaged, or the page cannot be written.

    >>> write_explanation(Path("nowhere"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: explanation: got 'nowhere'; expected a run with explain.json; ...
    """
    told = read_explanation(folder)
    page = content(told, read_maps(folder, told))
    figures = {chart.key: chart.figure for chart in page.charts}
    text = rendered("explain/explain.html.j2", figures=figures, page=page, maps=embedded(page.pictures.held))
    return write_page(out if out is not None else folder / PAGE, text)
