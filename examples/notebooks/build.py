"""Make the notebooks from the scripts, executed:  python examples/notebooks/build.py

A script's cells begin with `# %%`, those of text with `# %% [markdown]`. They run in one namespace, in this process.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = ("own_loss", "own_model", "api_teacher")


def cells(script: str) -> list[tuple[str, str]]:
    """(kind, text) of each cell of a script: ``code`` or ``markdown``; its docstring is none."""
    found = []
    for mark, text in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", script, re.DOTALL | re.MULTILINE):
        text = text.strip("\n")
        found.append(("markdown", re.sub(r"^# ?", "", text, flags=re.MULTILINE)) if mark else ("code", text))
    return found


def notebook(name: str) -> dict[str, Any]:
    """The notebook of a script, its code executed."""
    names: dict[str, Any] = {"__name__": name}
    made: list[dict[str, Any]] = []
    for place, (kind, text) in enumerate(cells((HERE.parent / f"{name}.py").read_text())):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{place}", "metadata": {}}
        if kind == "code":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(text, name, "exec", dont_inherit=True), names)
            said = re.sub(rf"{re.escape(tempfile.gettempdir())}/tmp\w+", "FOLDER", printed.getvalue()).splitlines(
                keepends=True
            )
            outputs = [{"name": "stdout", "output_type": "stream", "text": said}] if said else []
            cell |= {"execution_count": sum(c["cell_type"] == "code" for c in made) + 1, "outputs": outputs}
        made.append(cell | {"source": text.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        (HERE / f"{name}.ipynb").write_text(json.dumps(notebook(name), indent=1, ensure_ascii=False) + "\n")
