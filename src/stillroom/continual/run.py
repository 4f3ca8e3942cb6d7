"""Run a recipe whose classes come in tasks: an ordinary run for each, begun with the student of the one before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stillroom.continual.exemplars import (
    ExemplarMemory,
    Rows,
    draw_exemplars,
    herd,
    nearest_mean_scores,
    penultimate_features,
    update_memory,
)
from stillroom.continual.head import reorder_head
from stillroom.continual.sequence import TaskSequence, task_folder
from stillroom.continual.summary import (
    FIGURES,
    TaskResult,
    build_record,
    build_summary,
    data_fingerprint,
    merge_metrics,
    merge_timing,
    progress_line,
    read_predictions,
    scores_in_data_order,
)
from stillroom.data.images import DataPair
from stillroom.data.quality import describe_data
from stillroom.data.sources import load
from stillroom.errors import BadInput, shorten
from stillroom.files import write_text
from stillroom.models.prepared import PreparedModel, predict, prepare_model
from stillroom.models.weights import load_weights, save_weights
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.artifacts import write_predictions
from stillroom.run.records import check_free, check_same_recipe, environment
from stillroom.run.resolve import with_threads
from stillroom.run.run import Finished, Prepared, execute
from stillroom.schema.base import json_line, parse, read_json, write
from stillroom.schema.continual import EXEMPLARS_FILE, INCREMENTAL_FILE, ExemplarRows, IncrementalRecord
from stillroom.schema.run import ENVIRONMENT, SUMMARY, RunSummary
from stillroom.train.device import exact_float32, launched, threads
from stillroom.train.evaluation import score
from stillroom.train.folder import RunFolder


def run_tasks(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    data: DataPair | None = None,
    latency: bool = True,
) -> Finished:
    """Run a recipe that has ``incremental``; leaves a run folder, with a run folder of each task in it.

    Args:
        resume: continue where it was stopped, within a task too; what is finished is returned as it is.
        data: the data of ``recipe.data``, if read before; default: it is read.

    Returns:
        The whole: its student has all classes, in the data's own order.

    Raises:
        BadInput: something in the recipe, its data or the folder cannot be used; nothing was lost.
        RunFailed: a training cannot continue.
    """
    observer = observer or Observer()
    check_free(out, resume)
    with _sequence(recipe, data, observer) as sequence:
        check_same_recipe(sequence.recipe, out)
        try:
            with TasksFolder(out) as run_folder:
                if (out / "summary.json").exists():
                    return _load_finished(sequence, run_folder, observer)
                return _run(sequence, run_folder, observer, latency=latency)
        finally:
            observer.run_ended()


def prepare_tasks(recipe: Recipe, data: DataPair | None = None, observer: Observer | None = None) -> Prepared:
    """Check a recipe by building its first two tasks; nothing is written."""
    with _sequence(recipe, data, observer or Observer()) as sequence:
        sequence.validate()
        return Prepared(sequence.total_steps, sequence.task_steps(1)[1], 0, 0.0)


@contextmanager
def _sequence(recipe: Recipe, data: DataPair | None, observer: Observer) -> Iterator[TaskSequence]:
    if launched() > 1:
        raise BadInput("processes", launched(), "one: tasks go one after another")
    recipe = with_threads(recipe)
    with threads(recipe.training.threads), exact_float32():
        data = data or load(recipe.data)
        describe_data(data, observer.note)
        yield TaskSequence(recipe, data)


class TasksFolder(RunFolder):
    """The folder of the whole while it is being written."""

    def _withdraw(self) -> None:
        if any(self.path.glob("tasks/*/state/last.pt")) or any(self.path.glob("tasks/*/summary.json")):
            return
        super()._withdraw()
        (self.path / INCREMENTAL_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.path / "tasks", ignore_errors=True)


class CumulativeObserver(Observer):
    """One progress bar over all tasks: passes on a task's progress with steps and epochs counted over all."""

    def __init__(self, inner: Observer, title: str, total: int) -> None:
        self._inner = inner
        self._title = title
        self._total = total
        self._steps, self._epochs = 0, 0.0
        self._shown = False
        self._noted: set[str] = set()

    def task_ended(self, steps: int, epochs: float, result: str) -> None:
        """A task is done, or was done before: its length, and its result in a line."""
        self._steps += steps
        self._epochs += epochs
        self._inner.note(result)
        if self._shown:
            self._inner.stepped(self._steps)

    def run_started(self, title: str, total_steps: int, done: int) -> None:
        if not self._shown:
            self._inner.run_started(self._title, self._total, self._steps + done)
        self._shown = True

    def stepped(self, step: int) -> None:
        self._inner.stepped(self._steps + step)

    def logged(self, line: dict[str, Any]) -> None:
        counted = {"step": self._steps + line["step"], "epoch": round(self._epochs + line["epoch"], 6)}
        self._inner.logged({**line, **counted})

    def phase(self, what: str, done: int, total: int) -> None:
        self._inner.phase(what, done, total)

    def note(self, text: str) -> None:
        """Pass it on once; tasks repeat themselves."""
        if text not in self._noted:
            self._noted.add(text)
            self._inner.note(text)

    def run_ended(self) -> None:
        """Ignore it: a task has ended, not the whole."""


def _run(sequence: TaskSequence, run_folder: RunFolder, observer: Observer, *, latency: bool) -> Finished:
    """Run the tasks that are not done, and write the results of all.

    Everything that passes from one task to the next is read from files, so that a resumed sequence ends with the same
    bytes.
    """
    tasks, out = sequence.tasks, run_folder.path
    if not (out / "recipe.yaml").exists():
        sequence.validate()
        write_text(out / "recipe.yaml", sequence.recipe.to_yaml(), checksum=True)
    _check_order(sequence, out)
    cumulative = CumulativeObserver(observer, f"{tasks.count} tasks", sequence.total_steps)
    folders = [task_folder(out, task) for task in range(1, tasks.count + 1)]
    memory, done = ExemplarMemory(), list[TaskResult]()
    record = build_record(sequence.recipe, tasks, done)
    for task, folder in enumerate(folders, start=1):
        before = sequence.read_student(out, task - 1) if task > 1 else None
        data = tasks.task_data(task, memory)
        finished = execute(
            sequence.task_recipe(task),
            folder,
            resume=True,
            observer=cumulative,
            components=sequence.components(task, data, before),
            latency=latency and task == tasks.count,
            describe=False,
        )
        student = _load_student(sequence, out, task)
        memory = _choose_exemplars(sequence, folder, task, memory, student)
        done.append(_evaluate(sequence, folder, data, finished.summary, memory, student))
        record = build_record(sequence.recipe, tasks, done)
        write(out / INCREMENTAL_FILE, record)
        write_text(out / "metrics.jsonl", merge_metrics(folders[:task], done), checksum=True)
        cumulative.task_ended(finished.summary["steps"], finished.summary["epochs"], progress_line(record))
    return _write_results(sequence, run_folder, done, record)


def _load_finished(sequence: TaskSequence, run_folder: RunFolder, observer: Observer) -> Finished:
    """Return what was finished before, if it was made of the same data."""
    out = run_folder.path
    summary = read_json(RunSummary, out / SUMMARY)
    if summary.data.fingerprint != data_fingerprint(sequence.tasks):
        raise BadInput("--resume", str(out), "the same data as the finished tasks there")
    observer.note("all tasks are finished already")
    # A kill between the summary and the end leaves this behind.
    run_folder.finish()
    model = sequence.empty_student(sequence.tasks.count)
    load_weights(model, out / "student.safetensors", field="student")
    return Finished(out, summary.as_dict(), model.eval())


def _check_order(sequence: TaskSequence, out: Path) -> None:
    """Refuse to continue with another order of classes; write this one down where none is yet."""
    path, order = out / INCREMENTAL_FILE, tuple(sequence.order.classes)
    if not path.exists():
        write(path, build_record(sequence.recipe, sequence.tasks, []))
    elif (before := read_json(IncrementalRecord, path).class_order) != order:
        expected = f"the class order that it was started with, {shorten(before, 60)}; now it is {shorten(order, 60)}"
        raise BadInput("--resume", str(out), expected)


def _load_student(sequence: TaskSequence, out: Path, task: int) -> PreparedModel:
    """The student of a finished task: always from its file, so that a resumed one is bit by bit the same."""
    model = sequence.empty_student(task)
    model.load_state_dict(dict(sequence.read_student(out, task)))
    data = sequence.tasks.data.train
    return prepare_model(model.to(sequence.device), sequence.student, data, "student", sequence.order.seen(task))


def _choose_exemplars(
    sequence: TaskSequence, folder: Path, task: int, memory: ExemplarMemory, student: PreparedModel
) -> ExemplarMemory:
    """The exemplars after a task: chosen with its student and written into its folder, or read from there."""
    settings, tasks, seen = sequence.settings, sequence.tasks, sequence.order.seen
    if not settings.memory:
        return ExemplarMemory()
    path = folder / EXEMPLARS_FILE
    if path.exists():
        return _read_exemplars(path, seen(task), len(tasks.data.train))

    def choose(position: int, rows: Rows, count: int) -> Rows:
        if settings.selection == "random":
            picked = draw_exemplars(len(rows), count, sequence.recipe.seed, position)
        else:
            images = tasks.data.train.images[torch.from_numpy(rows)]
            picked = herd(penultimate_features(student, images), count).numpy()
        chosen: Rows = rows[picked]
        return chosen

    new = [tasks.class_rows(position) for position in range(seen(task - 1), seen(task))]
    memory = update_memory(memory, new, tasks.exemplars_per_class(task), choose)
    # Not indented: each number would be a line of its own.
    write_text(path, json_line(ExemplarRows(task=task, rows=memory.rows)), checksum=True)
    return memory


def _read_exemplars(path: Path, classes: int, images: int) -> ExemplarMemory:
    try:
        rows = read_json(ExemplarRows, path).rows
    except BadInput:
        rows = ()
    if len(rows) != classes or not all(each and max(each) < images for each in rows):
        raise BadInput("--resume", str(path), "exemplars of every class seen; remove the file to choose them again")
    return ExemplarMemory(rows)


def _evaluate(
    sequence: TaskSequence,
    folder: Path,
    data: DataPair,
    summary: dict[str, Any],
    memory: ExemplarMemory,
    student: PreparedModel,
) -> TaskResult:
    """A finished task's result: from its run's own logits, from those of the aligned head, or from exemplars."""
    labels, scores = read_predictions(folder)
    figures: dict[str, Any] = {name: summary[name] for name in FIGURES if name in summary}
    if sequence.settings.predict_by == "nearest_mean":
        images = sequence.tasks.data.train.images
        exemplars = [penultimate_features(student, images[torch.tensor(rows)]) for rows in memory.rows]
        scores = nearest_mean_scores(penultimate_features(student, data.test.images), exemplars)
    elif sequence.settings.align_weights:
        scores = predict(student.model, student.preprocess(), data.test.images, device=sequence.device)
    else:
        return TaskResult(summary, labels, scores, figures, memory)
    figures = score(scores, labels).as_dict()
    return TaskResult(summary, labels, scores, figures, memory)


def _write_results(
    sequence: TaskSequence, run_folder: RunFolder, done: list[TaskResult], record: IncrementalRecord
) -> Finished:
    """Write the results of the whole, the summary last."""
    tasks, out = sequence.tasks, run_folder.path
    folders = [task_folder(out, task) for task in range(1, tasks.count + 1)]
    before, last = (sequence.read_student(out, task) for task in (tasks.count - 1, tasks.count))
    model = sequence.empty_student(tasks.count)
    model.load_state_dict(reorder_head(before, last, sequence.order.positions))
    save_weights(model, out / "student.safetensors", checksum=True)
    write_predictions(out, tasks.data.test, scores_in_data_order(done[-1].scores, tasks), {})
    write_text(out / "timing.jsonl", merge_timing(folders), checksum=True)
    write(out / ENVIRONMENT, environment(sequence.device))
    summary = build_summary(
        sequence.recipe, tasks, done, record, title=sequence.title, has_teacher=sequence.has_teacher
    )
    write(out / SUMMARY, parse(RunSummary, summary, out / SUMMARY))
    run_folder.finish()
    return Finished(out, summary, model.eval())
