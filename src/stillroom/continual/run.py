"""Doing a recipe whose classes come in tasks: an ordinary run for each, begun with the student of the one before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.continual import summary as telling
from stillroom.continual.exemplars import Memory, nearest_mean_scores
from stillroom.continual.features import features_of
from stillroom.continual.head import in_data_order
from stillroom.continual.observer import OfAllTasks
from stillroom.continual.remembering import remembered
from stillroom.continual.sequence import Sequence, folder_of
from stillroom.continual.summary import NAME, Judged
from stillroom.data.images import DataPair
from stillroom.data.sources import load
from stillroom.errors import BadInput, shorten
from stillroom.files import write_json, write_text
from stillroom.models.prepared import PreparedModel, prepare_model
from stillroom.models.weights import load_weights, read_state, save_weights
from stillroom.recipe import Recipe
from stillroom.run.artifacts import write_predictions
from stillroom.run.records import check_free, check_same_recipe, environment, read_json
from stillroom.run.run import Finished, Prepared, execute
from stillroom.runtime import Observer
from stillroom.train.device import exact_float32, launched, threads
from stillroom.train.evaluation import score
from stillroom.train.folder import RunFolder


def execute_tasks(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    data: DataPair | None = None,
    latency: bool = True,
) -> Finished:
    """Do what a recipe with ``incremental`` says, and leave a finished folder: a run's, with a run's for each task.

    Args:
        recipe: what to do.
        out: the folder; new, or one to resume.
        resume: go on where it was stopped, within a task too; what is finished is given back as it is.
        observer: told how it goes, steps counted over all tasks.
        data: what ``recipe.data`` names, where it was read before; read where left out.
        latency: time the last student's answers at the end.

    Returns:
        The whole: its student tells all classes apart, in the data's own order.

    Raises:
        BadInput: something in the recipe, its data or the folder cannot be used; nothing was lost.
        RunFailed: a training cannot go on.
    """
    observer = observer or Observer()
    check_free(out, resume)
    with _made(recipe, data) as sequence:
        check_same_recipe(sequence.recipe, out)
        try:
            with TasksFolder(out):
                if (out / "summary.json").exists():
                    return _finished(sequence, out, observer)
                return _go(sequence, out, observer, latency=latency)
        finally:
            observer.run_ended()


def prepare_tasks(recipe: Recipe, data: DataPair | None = None) -> Prepared:
    """Check a recipe as its first two tasks would; nothing is written.

    Raises:
        BadInput: something in the recipe or its data cannot be used.
    """
    with _made(recipe, data) as sequence:
        sequence.rehearse()
        return Prepared(sequence.total, sequence.steps(1)[1], 0, 0.0)


@contextmanager
def _made(recipe: Recipe, data: DataPair | None) -> Iterator[Sequence]:
    if launched() > 1:
        raise BadInput("processes", launched(), "one: tasks go one after another")
    with threads(recipe.training.threads), exact_float32():
        yield Sequence(recipe, data or load(recipe.data))


class TasksFolder(RunFolder):
    """The folder of the whole while it is being written."""

    def _withdraw(self) -> None:
        if any(self.path.glob("tasks/*/state/last.pt")) or any(self.path.glob("tasks/*/summary.json")):
            return
        super()._withdraw()
        (self.path / NAME).unlink(missing_ok=True)
        shutil.rmtree(self.path / "tasks", ignore_errors=True)


def _go(sequence: Sequence, out: Path, observer: Observer, *, latency: bool) -> Finished:
    """Do the tasks that are not done, and tell what all come to.

    All that goes from one task to the next comes from files: what was stopped in between ends in the same bytes.
    """
    tasks = sequence.tasks
    if not (out / "recipe.yaml").exists():
        sequence.rehearse()
        write_text(out / "recipe.yaml", sequence.recipe.to_yaml())
    _check_order(sequence, out)
    watching = OfAllTasks(observer, f"{tasks.count} tasks", sequence.total)
    folders = [folder_of(out, task) for task in range(1, tasks.count + 1)]
    kept, done = Memory(), list[Judged]()
    record: dict[str, Any] = {}
    for task, folder in enumerate(folders, start=1):
        before = read_state(folders[task - 2] / "student.safetensors", field="student") if task > 1 else None
        data = tasks.part(task, kept)
        finished = execute(
            sequence.recipe_of(task),
            folder,
            resume=True,
            observer=watching,
            components=sequence.components(task, data, before),
            latency=latency and task == tasks.count,
        )
        student = _student(sequence, folder, task)
        kept = remembered(sequence, folder, task, kept, student)
        done.append(_judged(sequence, folder, data, finished.summary, kept, student))
        record = telling.record_of(sequence.recipe, tasks, done)
        write_json(out / NAME, record)
        write_text(out / "metrics.jsonl", telling.metrics_lines(folders[:task], done))
        watching.task_ended(finished.summary["steps"], finished.summary["epochs"], telling.told(record))
    return _end(sequence, out, done, record)


def _finished(sequence: Sequence, out: Path, observer: Observer) -> Finished:
    """Give back what was finished before, if it was made of the same data."""
    summary = read_json(out / "summary.json")
    if (summary.get("data") or {}).get("fingerprint") != telling.data_fingerprint(sequence.tasks):
        raise BadInput("--resume", str(out), "the same data as the finished tasks there")
    observer.note("all tasks are finished already")
    # A kill between the summary and the end leaves this behind.
    shutil.rmtree(out / "state", ignore_errors=True)
    model = sequence.empty_student(sequence.tasks.count)
    load_weights(model, out / "student.safetensors", field="student")
    return Finished(out, summary, model.eval())


def _check_order(sequence: Sequence, out: Path) -> None:
    """Refuse to go on with another order of classes; write this one down where none is yet."""
    path, order = out / NAME, list(sequence.order.classes)
    if not path.exists():
        write_json(path, telling.record_of(sequence.recipe, sequence.tasks, []))
    elif (before := read_json(path).get("class_order")) != order:
        expected = f"the class order that it was started with, {shorten(before, 60)}; now it is {shorten(order, 60)}"
        raise BadInput("--resume", str(out), expected)


def _student(sequence: Sequence, folder: Path, task: int) -> PreparedModel:
    """The student of a finished task: always from its file, so that a resumed one is bit by bit the same."""
    model = sequence.empty_student(task)
    load_weights(model, folder / "student.safetensors", field="student")
    data = sequence.tasks.data.train
    return prepare_model(model.to(sequence.device), sequence.student, data, "student", sequence.order.seen(task))


def _judged(
    sequence: Sequence, folder: Path, data: DataPair, summary: dict[str, Any], kept: Memory, student: PreparedModel
) -> Judged:
    """What a finished task is judged by: its run's own answers, or the means of exemplars."""
    labels, scores = telling.answers_of(folder)
    figures: dict[str, Any] = {name: summary[name] for name in telling.FIGURES if name in summary}
    if sequence.settings.predict_by == "nearest_mean":
        images = sequence.tasks.data.train.images
        exemplars = [features_of(student, images[torch.from_numpy(np.array(rows))]) for rows in kept.rows]
        scores = nearest_mean_scores(features_of(student, data.test.images), exemplars)
        figures = score(scores, labels).as_dict()
    return Judged(summary, labels, scores, figures, kept)


def _end(sequence: Sequence, out: Path, done: list[Judged], record: dict[str, Any]) -> Finished:
    """Write what the whole came to, the summary last."""
    tasks = sequence.tasks
    folders = [folder_of(out, task) for task in range(1, tasks.count + 1)]
    before, last = (read_state(folder / "student.safetensors", field="student") for folder in folders[-2:])
    model = sequence.empty_student(tasks.count)
    model.load_state_dict(in_data_order(before, last, sequence.order.places))
    save_weights(model, out / "student.safetensors")
    write_predictions(out, tasks.data.test, telling.in_data_columns(done[-1].scores, tasks), {})
    write_text(out / "timing.jsonl", telling.timing_lines(folders))
    write_json(out / "environment.json", environment(sequence.device))
    summary = telling.summary_of(sequence.recipe, tasks, done, record, title=sequence.title, taught=sequence.keeps)
    write_json(out / "summary.json", summary)
    shutil.rmtree(out / "state", ignore_errors=True)
    return Finished(out, summary, model.eval())
