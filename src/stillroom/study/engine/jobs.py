"""One job of a study, done in this process: a run, a trial, a teacher's cache, or the timing of a step."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
import statistics
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from stillroom.continual.run import prepare_tasks, run_tasks
from stillroom.data.config import DataConfig
from stillroom.data.images import DataPair
from stillroom.data.quality import Note
from stillroom.data.sources import load
from stillroom.errors import BadInput, OutOfMemory, RunFailed, format_error
from stillroom.files import Log, canonical_json, digest, find_input, write_text
from stillroom.memory import release_memory
from stillroom.observer import Observer
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.components import RunComponents, build_components
from stillroom.run.run import execute, prepare
from stillroom.schema.base import read_text
from stillroom.study.engine.base import Job, JobEnding, Outcome
from stillroom.train.device import exact_float32, threads

# Steps whose time is taken: enough for a median, after the first ones, which are slower.
_WARM_UP_STEPS, _TIMED_STEPS, _LOG_EVERY = 10, 60, 5


class RecentData:
    """The data read last, for the next jobs of this process: a study's runs share them, and decoding takes long.

    Not ``functools.lru_cache``, which drops the oldest only after the new one is read: memory has to hold one more.
    """

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._pairs: OrderedDict[str, DataPair] = OrderedDict()

    def get(self, config: DataConfig) -> DataPair:
        """The data a config names, as :func:`stillroom.data.sources.load` reads them.

        Raises:
            BadInput: they cannot be read.
        """
        # What the pixels depend on: all options but those of the batches, and the files as they are now.
        options = config.model_dump(mode="json", exclude={"batch_size", "augmentation"})
        key = digest(canonical_json([options, *_file_stats(config)]))
        if key not in self._pairs:
            while len(self._pairs) >= self._most:
                self._pairs.popitem(last=False)
            self._pairs[key] = load(config)
        self._pairs.move_to_end(key)
        return self._pairs[key]


def _file_stats(config: DataConfig) -> list[Any]:
    """Where the data lie, with name, size and time of each file there: data that were replaced are read again."""
    if config.path is None:
        return []
    folder = find_input(config.path).absolute()
    found: list[Any] = []
    for place in (folder, folder / "data"):
        with suppress(OSError):  # reading them gives the better message
            files = [place] if place.is_file() else sorted(place.iterdir())
            stats = [(path.name, path.stat()) for path in files]
            found.append([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])
    return [str(folder), found]


_DATA = RecentData()


# Makes what a recipe names, and tells what the user should know of it.
MakeComponents = Callable[[Recipe, Note | None], RunComponents]


def _materials(recipe: Recipe, note: Note | None = None) -> RunComponents:
    """As :func:`stillroom.run.components.build_components`, with the data kept for the next job."""
    data = _DATA.get(recipe.data)
    # As a run that makes its own: a model of the user's may draw weights from whatever stream it finds.
    with threads(recipe.training.threads), exact_float32(), seed_rng(recipe.seed, "dropout"):
        return build_components(recipe, data, note)


def attempt(job: Job, perform: Callable[[Job], dict[str, Any]] | None = None) -> Outcome:
    """Do a job in this process, and return any error as its ending.

    The traceback of an unexpected error is left next to the job's folder, see :func:`crash_log`.

    Args:
        job: what to do.
        perform: does it; left out: :func:`perform`.
    """
    started = time.perf_counter()

    def ended(ending: JobEnding, result: dict[str, Any] | None = None, reason: str = "") -> Outcome:
        return Outcome(job.id, ending, result or {}, reason, round(time.perf_counter() - started, 4))

    try:
        result = (perform or _perform)(job)
    except BadInput as error:
        return ended("bad_input", reason=str(error))
    except RunFailed as error:
        return ended("out_of_memory" if isinstance(error, OutOfMemory) else "failed", reason=str(error))
    except (Exception, SystemExit) as error:
        with suppress(OSError):
            write_text(crash_log(job), traceback.format_exc())
        return ended("crashed", reason=format_error(error))
    with suppress(OSError):
        crash_log(job).unlink(missing_ok=True)
    return ended("done", result)


def crash_log(job: Job) -> Path:
    """Where the traceback of a job goes: next to its folder, as a run goes on only in a folder of its own files."""
    out = Path(job.out)
    return out.with_name(f"{out.name}.crash.log")


def perform(job: Job) -> dict[str, Any]:
    """Do a job in a process of the study's own. What the process did before changes no byte of what a run leaves.

    Returns:
        Plain objects: the summary of a run or a trial; see :func:`build_cache` and :func:`calibrate` otherwise.

    Raises:
        BadInput: something in the job cannot be used.
        RunFailed: the training cannot go on.
    """
    if "torch._dynamo" in sys.modules:
        # It compiles a model's code a few times at most in a process, and from then on does without.
        torch.compiler.reset()
    _freeze_imports()
    gc.collect()
    release_memory()
    return do(job, _materials)


_perform = perform


def do(job: Job, make: MakeComponents) -> dict[str, Any]:
    """Do a job with what ``make`` makes of its recipes; returns and raises as :func:`perform`."""
    if job.kind in ("run", "trial"):
        result = _run(parse_recipe(job.recipe), Path(job.out), make)
    else:
        result = build_cache(job, make) if job.kind == "cache" else calibrate(job, make)
    # As JSON brings it to another process.
    plain: dict[str, Any] = json.loads(json.dumps(result, allow_nan=False))
    return plain


@cache
def _freeze_imports() -> None:
    """Leave what was imported out of the collections between jobs, which take 0.2 s each with it."""
    gc.collect()
    gc.freeze()


def _run(recipe: Recipe, out: Path, make: MakeComponents) -> dict[str, Any]:
    # No latencies: other jobs are at work on the same machine.
    if recipe.incremental is not None:
        return run_tasks(recipe, out, resume=True, data=_DATA.get(recipe.data), latency=False).summary
    return execute(recipe, out, resume=True, components=make(recipe, None), latency=False).summary


def build_cache(job: Job, make: MakeComponents = _materials) -> dict[str, Any]:
    """Check a method's recipes as their runs would, and have their teacher's outputs cached.

    Args:
        job: with ``options["recipes"]``, the content of each recipe: what a method's run or trial would do. For
            each, a line is added to ``asked.jsonl`` in its folder: images that the teacher was asked about, seconds.
        make: makes what a recipe names.

    Returns:
        ``notes``: what a user should know of the data and the models, a line each.
    """
    log = Log(Path(job.out) / "asked.jsonl")
    log.path.parent.mkdir(parents=True, exist_ok=True)
    notes = _Notes()
    for content in job.options["recipes"]:
        recipe = parse_recipe(content)
        if recipe.incremental is not None:
            found = prepare_tasks(recipe, _DATA.get(recipe.data), notes)
        else:
            found = prepare(recipe, components=make(recipe, notes.note))
        # At once: whoever is killed after this has still asked.
        log.append(json.dumps({"answers": found.answers, "seconds": found.seconds}) + "\n")
    return {"notes": list(notes.lines)}


class _Notes(Observer):
    """Keeps what is said of the data and of weights, each line once; the study's own process shows it."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}

    def note(self, text: str) -> None:
        """Keep a line."""
        self.lines[text] = None


def calibrate(job: Job, make: MakeComponents = _materials) -> dict[str, Any]:
    """Turn a budget in seconds into steps, by timing some steps of the very run.

    Args:
        job: with ``options["seconds"]``, how long a run may train.
        make: makes what a recipe names.

    Returns:
        ``steps`` and the median ``seconds_per_step`` that it follows from.

    Raises:
        BadInput: its classes come in tasks.
        RunFailed: no step could be timed.
    """
    folder = Path(job.out)
    shutil.rmtree(folder, ignore_errors=True)  # of a calibration that was stopped
    recipe = parse_recipe(job.recipe)
    if recipe.incremental is not None:
        raise BadInput("budget.seconds", job.options["seconds"], "a budget in epochs or steps of each task")
    length = {
        "epochs": None,
        "steps": _WARM_UP_STEPS + _TIMED_STEPS,
        "log_every": _LOG_EVERY,
        "evaluate_every": 1_000_000,
        "checkpoints": (),
    }
    short = recipe.model_copy(update={"training": recipe.training.model_copy(update=length)})
    try:
        execute(short, folder, components=make(recipe, None), latency=False)
        each = seconds_per_step(folder / "timing.jsonl")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"steps": max(int(job.options["seconds"] / each), 1), "seconds_per_step": each}


def seconds_per_step(timing: Path) -> float:
    """The median duration of a step, from a run's ``timing.jsonl``, its first steps left out.

    Raises:
        RunFailed: the run was too short.
    """
    lines = [json.loads(line) for line in read_text(timing).splitlines()]
    marks = [
        (line["step"], line["seconds"])
        for line in lines
        if line["event"] == "progress" and line["step"] >= _WARM_UP_STEPS
    ]
    each = [(b - a) / (n - m) for (m, a), (n, b) in itertools.pairwise(marks) if n > m]
    if not each or statistics.median(each) <= 0:
        raise RunFailed("no step could be timed; give the budget in steps or epochs")
    return float(f"{statistics.median(each):.4g}")
