"""One job, done in this process."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from stillroom.continual.run import run_tasks
from stillroom.data.config import DataConfig
from stillroom.data.images import DataPair
from stillroom.data.sources import load
from stillroom.errors import BadInput, RunFailed, format_error
from stillroom.files import canonical, digest, find_input, write_text
from stillroom.memory import release
from stillroom.randomness import seeded
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.components import RunComponents, build_components
from stillroom.run.execute import execute
from stillroom.run.one import Finished
from stillroom.study.engine.base import Ending, Job, Outcome
from stillroom.train.device import exact_float32, threads


class KeptData:
    """The data read last, for the next jobs of this process: a study's runs share them, and decoding takes long.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._pairs: OrderedDict[str, DataPair] = OrderedDict()

    def get(self, config: DataConfig) -> DataPair:
        """The data a config names, as :func:`stillroom.data.sources.load` reads them.

        Raises:
            BadInput: they cannot be read.
        """
        key = _key(config)
        if key not in self._pairs:
            # Before others are read: memory has to hold so many, not one more.
            while len(self._pairs) >= self._most:
                self._pairs.popitem(last=False)
            self._pairs[key] = load(config)
        self._pairs.move_to_end(key)
        return self._pairs[key]


def _key(config: DataConfig) -> str:
    """What the pixels depend on: all options but those of the batches, and the files as they are now."""
    options = config.model_dump(mode="json", exclude={"batch_size", "augmentation"})
    return digest(canonical([options, *_files(config)]))


def _files(config: DataConfig) -> list[Any]:
    """Where the data lie, with name, size and time of each file there: data that were replaced are read again."""
    if config.path is None:
        return []
    folder = find_input(config.path).absolute()
    found: list[Any] = []
    for place in (folder, folder / "data"):
        with suppress(OSError):  # reading them tells it better
            stats = [(path.name, path.stat()) for path in sorted(place.iterdir())]
            found.append([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])
    return [str(folder), found]


_DATA = KeptData()


def data_of(recipe: Recipe) -> DataPair:
    """The data that a recipe names, kept for the next job.

    Raises:
        BadInput: they cannot be read.
    """
    return _DATA.get(recipe.data)


def components_of(recipe: Recipe) -> RunComponents:
    """All that a recipe names, as :func:`stillroom.run.components.gather` makes it, the data kept for the next job.

    Raises:
        BadInput: something cannot be found, read or made.
    """
    data = data_of(recipe)
    # As a run that makes its own: a model of the user's may draw weights from whatever stream it finds.
    with threads(recipe.training.threads), exact_float32(), seeded(recipe.seed, "dropout"):
        return build_components(recipe, data)


def done(recipe: Recipe, out: Path) -> Finished:
    """Do a recipe, all classes at once or in tasks, the data kept for the next job; what is done is not done again.

    Raises:
        BadInput: something in the recipe or the folder cannot be used.
        RunFailed: the training cannot go on.
    """
    # Others are at work on the same machine: latencies would tell of them.
    if recipe.incremental is not None:
        return run_tasks(recipe, out, resume=True, data=data_of(recipe), latency=False)
    return execute(recipe, out, resume=True, components=components_of(recipe), latency=False)


def perform(job: Job) -> dict[str, Any]:
    """Do a job in this process.

    What the process did before changes no byte of what a run leaves.

    Returns:
        Plain objects: the summary of a run or a trial; what preparing gave otherwise.

    Raises:
        BadInput: something in the job cannot be used.
        RunFailed: the training cannot go on.
    """
    _forget_other_jobs()
    if job.kind in ("run", "trial"):
        return _plain(done(parse_recipe(job.recipe), Path(job.out)).summary)
    from stillroom.study import preparing

    return _plain(preparing.build_cache(job) if job.kind == "cache" else preparing.calibrate(job))


def attempt(job: Job) -> Outcome:
    """Do a job in this process, and tell any error as its ending.

    The traceback of an error that nobody foresaw is left beside the job's folder, see :func:`crash_log`.
    """
    started = time.perf_counter()

    def ended(ending: Ending, result: dict[str, Any] | None = None, reason: str = "") -> Outcome:
        return Outcome(job.id, ending, result or {}, reason, round(time.perf_counter() - started, 4))

    try:
        result = perform(job)
    except BadInput as error:
        return ended("bad_input", reason=str(error))
    except RunFailed as error:
        return ended("failed", reason=str(error))
    except (Exception, SystemExit) as error:
        with suppress(OSError):
            write_text(crash_log(job), traceback.format_exc())
        return ended("crashed", reason=format_error(error))
    with suppress(OSError):
        crash_log(job).unlink(missing_ok=True)
    return ended("done", result)


def crash_log(job: Job) -> Path:
    """Where the traceback of a job goes: beside its folder, as a run goes on only in a folder of its own files."""
    out = Path(job.out)
    return out.with_name(f"{out.name}.crash.log")


def _forget_other_jobs() -> None:
    """Leave to a job the memory of those before it, and to its compiler none of their graphs."""
    if "torch._dynamo" in sys.modules:
        # It compiles a model's code a few times at most in a process, and from then on does without.
        torch.compiler.reset()
    gc.collect()
    release()


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """The content as JSON brings it to another process."""
    plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    return plain
