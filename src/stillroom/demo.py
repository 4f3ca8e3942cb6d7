"""The demo: a teacher, its student from labels alone, the same student distilled, on data that is embedded."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput
from stillroom.files import is_partial
from stillroom.observer import Observer
from stillroom.recipe import Recipe, parse_recipe
from stillroom.report.run.page import write_report
from stillroom.run.run import Finished, execute

_DATA = {"source": "digits", "batch_size": 64, "augmentation": {"pad_crop": 1}}
_STUDENT = {"name": "resnet8", "options": {"width": 4}}


def demo_recipes(teacher_weights: Path) -> dict[str, Recipe]:
    """The three recipes of the demo, by the name of their folder."""
    teacher = {"name": "resnet20", "weights": str(teacher_weights)}
    training = {"epochs": 30, "evaluate_every": 2, "log_every": 10, "optimizer": {"lr": 0.1}}
    return {
        "teacher": parse_recipe(
            {"name": "the teacher, from labels", "data": _DATA, "student": {"name": "resnet20"}, "training": training}
        ),
        "labels": parse_recipe(
            {
                "name": "student from labels alone",
                "data": _DATA,
                "teacher": teacher,
                "student": _STUDENT,
                "training": training,
            }
        ),
        "distilled": parse_recipe(
            {
                "name": "student distilled",
                "data": _DATA,
                "teacher": teacher,
                "student": _STUDENT,
                "losses": [
                    {"name": "cross_entropy", "weight": 0.1},
                    {"name": "kl", "weight": 0.9, "temperature": 4},
                ],
                "training": training,
            }
        ),
    }


def run_demo(out: Path, observer: Observer, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the demo; a stopped demo continues.

    Returns:
        ``runs``, ``report``, ``seconds`` and a ``conclusion`` in lines.

    Raises:
        BadInput: the folder holds something else.
    """
    began = time.perf_counter()
    known = {"teacher", "labels", "distilled", "report.html"}
    if out.exists() and (not out.is_dir() or not {i.name for i in out.iterdir() if not is_partial(i)} <= known):
        raise BadInput("--out", str(out), "a new or empty folder, or a demo's")
    finished: dict[str, Finished] = {}
    steps = {
        "teacher": "1/3  a teacher, trained from labels",
        "labels": "2/3  the student, from labels alone",
        "distilled": "3/3  the same student, with the teacher's help",
    }
    for name, recipe in demo_recipes(out / "teacher" / "student.safetensors").items():
        say(steps[name])
        finished[name] = execute(recipe, out / name, resume=True, observer=observer)
    page = write_report([finished["distilled"].path, finished["labels"].path], out / "report.html")
    return {
        "runs": {name: str(run.path) for name, run in finished.items()},
        "report": str(page),
        "seconds": round(time.perf_counter() - began, 1),
        "conclusion": _conclusion({name: run.summary for name, run in finished.items()}),
    }


def _conclusion(summaries: dict[str, dict[str, Any]]) -> list[str]:
    teacher, labels, distilled = summaries["teacher"], summaries["labels"], summaries["distilled"]
    return [
        f"teacher             {teacher['top1']:.2f}%  {teacher['parameters']:>9,} parameters",
        f"student, labels     {labels['top1']:.2f}%  {labels['parameters']:>9,} parameters",
        f"student, distilled  {distilled['top1']:.2f}%  {distilled['parameters']:>9,} parameters",
        f"distilling changed top-1 by {distilled['top1'] - labels['top1']:+.2f} points on {distilled['count']} test "
        "images (one seed: no interval, so no claim).",
    ]
