"""Jobs that come before the runs: the teacher's answers kept, a budget in seconds turned into steps."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from stillroom.continual.run import prepare_tasks
from stillroom.errors import BadInput, RunFailed
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.run import execute, prepare
from stillroom.study.engine.base import Job
from stillroom.study.engine.performing import components_of, data_of

# Steps whose time is taken: enough for a median, after the first ones, which are slower.
_WARM, _TIMED, _EVERY = 10, 60, 5


def build_cache(job: Job) -> dict[str, Any]:
    """Check a method's recipes as their runs would, and have their teacher's answers kept.

    Args:
        job: with ``options["recipes"]``, the content of each recipe: what a method's run or trial would do. For
            each, a line is added to ``asked.jsonl`` in its folder: images that the teacher was asked about, seconds.
    """
    log = Path(job.out) / "asked.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    for content in job.options["recipes"]:
        recipe = parse_recipe(content)
        if recipe.incremental is not None:
            found = prepare_tasks(recipe, data_of(recipe))
        else:
            found = prepare(recipe, components=components_of(recipe))
        # At once: whoever is killed after this has still asked.
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"answers": found.answers, "seconds": found.seconds}) + "\n")
    return {}


def calibrate(job: Job) -> dict[str, Any]:
    """Turn a budget in seconds into steps, by timing some steps of the very run.

    Args:
        job: with ``options["seconds"]``, how long a run may train.

    Returns:
        ``steps`` and the median ``seconds_per_step`` that it follows from.

    Raises:
        BadInput: its classes come in tasks.
        RunFailed: no step could be timed.
    """
    folder = Path(job.out)
    # A calibration that was stopped told nothing yet.
    shutil.rmtree(folder, ignore_errors=True)
    recipe = parse_recipe(job.recipe)
    if recipe.incremental is not None:
        raise BadInput("budget.seconds", job.options["seconds"], "a budget in epochs or steps of each task")
    try:
        execute(_short(recipe), folder, components=components_of(recipe), latency=False)
        each = seconds_per_step(folder / "timing.jsonl")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"steps": max(int(job.options["seconds"] / each), 1), "seconds_per_step": each}


def _short(recipe: Recipe) -> Recipe:
    training = {
        "epochs": None,
        "steps": _WARM + _TIMED,
        "log_every": _EVERY,
        "evaluate_every": 1_000_000,
        "checkpoints": (),
    }
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})


def seconds_per_step(timing: Path) -> float:
    """The median duration of a step, from a run's ``timing.jsonl``, its first steps left out.

    Raises:
        RunFailed: the run was too short to tell.
    """
    lines = [json.loads(line) for line in timing.read_text(encoding="utf-8").splitlines()]
    marks = [(line["step"], line["seconds"]) for line in lines if line["event"] == "progress" and line["step"] >= _WARM]
    each = [(b - a) / (n - m) for (m, a), (n, b) in itertools.pairwise(marks) if n > m]
    if not each or statistics.median(each) <= 0:
        raise RunFailed("no step could be timed; give the budget in steps or epochs")
    return float(f"{statistics.median(each):.4g}")
