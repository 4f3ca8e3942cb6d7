"""Lines of the source by package: code, docstrings, blank lines and comments.

python benchmarks/size.py [--check]

Prints the table of docs/architecture.md; ``--check`` fails where a package has grown beyond it by more than a tenth.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE, PAGE = ROOT / "src" / "stillroom", ROOT / "docs" / "architecture.md"
GROUND = "top level"


def count(path: Path) -> tuple[int, int, int]:
    """Lines of code, of docstrings, and blank or of comments alone."""
    text = path.read_text(encoding="utf-8")
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                documentation |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    found = [0, 0, 0]
    for number, line in enumerate(text.splitlines(), start=1):
        is_empty = not line.strip() or line.strip().startswith("#")
        found[1 if number in documentation else 2 if is_empty else 0] += 1
    return found[0], found[1], found[2]


def by_package() -> dict[str, list[int]]:
    """The three counts of each package, the largest first."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).parts
        name = f"`{parts[0]}/`" if len(parts) > 1 else GROUND
        found[name] = [a + b for a, b in zip(found[name], count(path), strict=True)]
    return dict(sorted(found.items(), key=lambda item: -sum(item[1])))


def main() -> int:
    """Print the table, or hold the source against it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="fail where a package has grown by more than a tenth")
    counts = by_package()
    if parser.parse_args().check:
        written = {
            name.strip(): int(code.replace(",", ""))
            for name, code in re.findall(
                r"^\| ([^|]+) \| ([\d,]+) \| [\d,]+ \| [\d,]+ \|$", PAGE.read_text(encoding="utf-8"), re.M
            )
        }
        grown = [name for name, (code, _, _) in counts.items() if code > 1.1 * written.get(name, 0)]
        print(
            "\n".join(f"{name}: {counts[name][0]:,} lines of code, {written.get(name, 0):,} written" for name in grown)
        )
        return int(bool(grown))
    print("| package | code | docstrings | blank and comments |\n|---|---|---|---|")
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    for name, each in (*counts.items(), ("all", total)):
        print(f"| {name} | {' | '.join(f'{number:,}' for number in each)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
