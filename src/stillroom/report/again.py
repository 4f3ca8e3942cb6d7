"""A run's page made again, after something was added to its folder."""

from __future__ import annotations

from pathlib import Path

from stillroom.report.page import write_report
from stillroom.report.study.page import is_study, write_run_pages


def make_again(run: Path) -> Path:
    """Make a run's page again; the page of a study's run goes on belonging to the study's.

    Args:
        run: the run's folder.

    Returns:
        The page.

    Raises:
        BadInput: the folder, or its study's, is damaged, or the page cannot be written.
    """
    page = run / "report.html"
    study = next((folder for folder in run.resolve().parents if is_study(folder)), None)
    if study is None:
        return write_report([run])
    page.unlink(missing_ok=True)
    write_run_pages(study)
    # A run that lies in a study's folder without being one of its runs.
    return page if page.is_file() else write_report([run])
