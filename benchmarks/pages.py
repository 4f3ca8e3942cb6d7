"""Pages of results: a title, what was measured and how, a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]


def write_page(out: Path | None, title: str, text: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a page of one table, or print it where no file is named."""
    page = "\n".join([f"# {title}", "", text, "", *table(head, rows)])
    if out is None:
        print(page)
    else:
        out.write_text(f"{page}\n", encoding="utf-8")
