"""Addresses from the study's page to what lies in its folder; none leads to what is not there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PAGE = "report.html"
_FILES = {
    "table.csv": "the table, one line a method and pair",
    "table.tex": "the same for LaTeX",
    "runs.csv": "one line a run",
    "comparisons.csv": "every paired difference",
    "cost.csv": "clocks, teacher answers, memory, one line a run",
    "results.json": "everything on this page but clocks",
    "study.yaml": "the study, every field written out",
    "tuned.json": "what trials chose, and every trial",
}


@dataclass(frozen=True)
class Links:
    """Addresses of a study's files.

    Attributes:
        folder: the study's folder.
        start: the address of that folder from the page; empty where the page lies in it.
    """

    folder: Path
    start: str

    def of(self, run: str) -> tuple[str | None, str]:
        """The address of a run's page, and the words that link to it; of its folder where it has no page.

        Args:
            run: the run's path from the study's folder.
        """
        folder = self.folder / run
        if (folder / PAGE).is_file():
            return f"{self.start}{quote(run)}/{PAGE}", "Report"
        if folder.is_dir():
            return f"{self.start}{quote(run)}/", "Folder"
        return None, "removed"

    def files(self) -> list[tuple[str, str, str]]:
        """Address, name and content of the files beside the page."""
        return [(f"{self.start}{name}", name, what) for name, what in _FILES.items() if (self.folder / name).is_file()]


def links(folder: Path, page: Path) -> Links:
    """The addresses from a page to a study's folder.

    >>> links(Path("s"), Path("s/report.html")).start, links(Path("s"), Path("pages/s.html")).start
    ('', '../s/')
    """
    start = Path(os.path.relpath(folder.resolve(), page.resolve().parent)).as_posix()
    return Links(folder, "" if start == "." else f"{quote(start)}/")
