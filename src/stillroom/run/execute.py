"""Doing what a recipe says, and leaving a finished run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stillroom.errors import BadInput, OutOfMemory, RunFailed, format_error
from stillroom.memory import is_out_of_memory
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents, build_components
from stillroom.run.one import Finished, OneRun, Prepared
from stillroom.run.records import check_free, check_same_recipe
from stillroom.run.setting import RunContext
from stillroom.runtime import Observer
from stillroom.train.device import (
    exact_float32,
    forget_peak_memory,
    is_main_process,
    processes_of,
    resolve_device,
    resolve_precision,
    reuse_memory,
    threads,
)
from stillroom.train.folder import NullRunFolder, RunFolder
from stillroom.train.hooks import StepHook


def execute(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    components: RunComponents | None = None,
    hooks: Sequence[StepHook] = (),
    labels_alone: bool = False,
    latency: bool = True,
) -> Finished:
    """Do what a recipe says and leave a finished run folder.

    Args:
        recipe: what to do.
        out: the run folder; new, or one to resume.
        resume: go on where the folder's run was stopped; a finished run is given back as it is.
        observer: told how it goes.
        components: the objects that the recipe names; gathered from it where left out.
        hooks: called after each step.
        labels_alone: refuse losses that read a teacher.
        latency: time one answer of each model at the end; beside other busy processes it would say nothing.

    Raises:
        BadInput: something in the recipe or the folder cannot be used; nothing was lost.
        RunFailed: the training cannot go on.
    """
    if is_main_process():
        check_free(out, resume)
    with _made(recipe, observer or Observer(), components, hooks, labels_alone=labels_alone) as run:
        check_same_recipe(run.recipe, out)
        with RunFolder(out) if run.processes.is_main else NullRunFolder(out) as folder:
            try:
                # Asked under the lock: another process may have finished the run meanwhile.
                return run.finished(folder) if (out / "summary.json").exists() else run.go(folder, latency=latency)
            except (BadInput, RunFailed):
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                expected = "a smaller data.batch_size, student or teacher"
                raise OutOfMemory(f"out of memory ({format_error(error)}); try {expected}") from None
            finally:
                run.observer.run_ended()


def prepare(recipe: Recipe, *, observer: Observer | None = None, components: RunComponents | None = None) -> Prepared:
    """Check a recipe as a run would, and have its teacher's answers kept where it keeps them.

    Args:
        recipe: what would be done.
        observer: told how it goes.
        components: the objects that the recipe names; gathered from it where left out.

    Raises:
        BadInput: something in the recipe cannot be used.
    """
    with _made(recipe, observer or Observer(), components) as run:
        try:
            return run.prepare()
        finally:
            run.observer.run_ended()


@contextmanager
def _made(
    recipe: Recipe,
    observer: Observer,
    components: RunComponents | None,
    hooks: Sequence[StepHook] = (),
    *,
    labels_alone: bool = False,
) -> Iterator[OneRun]:
    """A run's parts, under its threads and arithmetic."""
    device = resolve_device(recipe.training.device)
    processes = processes_of(device)
    if not processes.is_main:
        observer = Observer()
    precision = resolve_precision(recipe.training.precision, device)
    settled = recipe.training.model_copy(update={"device": device.type, "precision": precision})
    recipe = recipe.model_copy(update={"training": settled})
    reuse_memory()
    forget_peak_memory(device)
    with threads(recipe.training.threads), exact_float32(), seed_rng(recipe.seed, "dropout"):
        components = components or build_components(recipe)
        reading = [loss.name for loss in components.losses if loss.requires.teacher]
        if labels_alone and reading:
            expected = "losses that read labels alone; `stillroom distill` takes a teacher"
            raise BadInput("losses", reading[0], expected)
        setting = RunContext(recipe, components.data, device, precision, processes, observer, components.known)
        yield OneRun(setting, components, hooks)
