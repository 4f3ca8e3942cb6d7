"""Weights files and images of every kind that people have, and what becomes of each: right, or one line.

    python benchmarks/oddities.py --out docs/results/oddities.md

Each weights file is made of one small network, and loaded into another of the same shape: then the two must be equal to
the last bit (or to the precision of the file), or an error must say in one line why not. Each image lies in a data set
of two classes that is read as `stillroom train` reads it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oddities_images import IMAGE_CASES, try_images
from oddities_weights import WEIGHTS_CASES, try_weights


@dataclass(frozen=True)
class Row:
    """One case: what was given, what should come of it, what did."""

    group: str
    name: str
    expected: str
    happened: str
    right: bool


def rows_of(kind: str, names: Sequence[str] = ()) -> list[Row]:
    """Try the cases of a kind, ``weights`` or ``images``; only those named, where any are."""
    cases, attempt = (WEIGHTS_CASES, try_weights) if kind == "weights" else (IMAGE_CASES, try_images)
    rows = []
    for case in cases:
        if names and case.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            right, happened = attempt(case, Path(folder))
        rows.append(Row(case.group, case.name, case.expected, happened, right))
    return rows


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table of rows that begin with their group, which is shown where it changes."""
    lines, group = ["| | " + " | ".join(head) + " |", "| --- " * (1 + len(head)) + "|"], ""
    for mine, *others in rows:
        cells = ("" if mine == group else mine, *others)
        group = mine
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return lines


def page(tables: dict[str, list[Row]]) -> str:
    """The tables as Markdown."""
    everything = [row for rows in tables.values() for row in rows]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    lines = [
        "# Weights files and images of every kind",
        "",
        "`python benchmarks/oddities.py --out docs/results/oddities.md`",
        "",
        f"{sum(row.right for row in everything)} of {len(everything)} are right or refused in one line; peak memory of "
        f"the process {peak:.1f} GB. *Loads* means equal to the last bit, or to the precision of the file; a line in "
        "quotes is what the user sees; an error ends the command with exit code 2 before anything is trained.",
    ]
    for kind, rows in tables.items():
        cells = (
            (row.group, row.name, row.expected, ("" if row.right else "**wrong:** ") + row.happened) for row in rows
        )
        lines += ["", f"## {kind.capitalize()}: {len(rows)} cases", ""]
        lines += table(("case", "expected", "what happened"), cells)
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write; left out, it is printed.")
    parser.add_argument("--kind", choices=("weights", "images"), help="Only these.")
    given = parser.parse_args()
    tables = {kind: rows_of(kind) for kind in ("weights", "images") if given.kind in (None, kind)}
    text = page(tables)
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text, encoding="utf-8")
    wrong = [row for rows in tables.values() for row in rows if not row.right]
    for row in wrong:
        print(f"{row.group}: {row.name}: expected {row.expected}; {row.happened}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
