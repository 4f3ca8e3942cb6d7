"""The demo: a teacher, its student from labels alone, the same student distilled, on data that is embedded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillroom.observer import Observer
from stillroom.pipeline import DISTILLED, LABELS, TEACHER, run_steps
from stillroom.recipe import Recipe, parse_recipe

_DATA = {"source": "digits", "batch_size": 64, "augmentation": {"pad_crop": 1}}
_STUDENT = {"name": "resnet8", "options": {"width": 4}}


def demo_recipes(teacher_weights: Path) -> dict[str, Recipe]:
    """The three recipes of the demo, by the name of their folder."""
    teacher = {"name": "resnet20", "weights": str(teacher_weights)}
    training = {"epochs": 30, "evaluate_every": 2, "log_every": 10, "optimizer": {"lr": 0.1}}
    return {
        TEACHER: parse_recipe(
            {"name": "the teacher, from labels", "data": _DATA, "student": {"name": "resnet20"}, "training": training}
        ),
        LABELS: parse_recipe(
            {
                "name": "student from labels alone",
                "data": _DATA,
                "teacher": teacher,
                "student": _STUDENT,
                "training": training,
            }
        ),
        DISTILLED: parse_recipe(
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
        As :func:`stillroom.pipeline.run_steps`.

    Raises:
        BadInput: the folder holds something else.
    """
    return run_steps(demo_recipes(out / TEACHER / "student.safetensors"), out, observer, say)
