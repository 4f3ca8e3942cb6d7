"""Results of all tasks together: the record, the summary, merged logs, and the comparison with joint training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stillroom.continual.exemplars import ExemplarMemory
from stillroom.continual.metrics import (
    accuracy_after_each_task,
    accuracy_row,
    answers_within,
    compute_metrics,
    omega,
    task_balance,
)
from stillroom.continual.tasks import TaskData
from stillroom.data.images import DataPair
from stillroom.errors import BadInput
from stillroom.files import digest, verify
from stillroom.recipe import Recipe
from stillroom.run.artifacts import data_facts
from stillroom.run.records import budget_hash, chain_hashes
from stillroom.schema.base import read_json, read_text, write
from stillroom.schema.continual import (
    INCREMENTAL_FILE,
    JOINT_FILE,
    ExemplarCount,
    FinishedRecord,
    IncrementalRecord,
    IncrementalSummary,
    JointComparison,
    MemorySettings,
    TaskLength,
    TaskRecord,
)

FIGURES = ("top1", "correct", "count", "top5", "nll", "ece")


@dataclass(frozen=True, eq=False)
class TaskResult:
    """A finished task."""

    summary: dict[str, Any]
    labels: Tensor  # the test images' classes, by their position in the order of classes, int64 [N]
    # What predicts, logits or nearness to exemplars' means, [N, classes seen]: the largest is the answer.
    scores: Tensor
    figures: dict[str, Any]  # ``top1``, ``correct``, ``count``, ``nll`` and ``ece`` of these, as an evaluation has them
    memory: ExemplarMemory


def read_predictions(run: Path) -> tuple[Tensor, Tensor]:
    """A finished task's test labels [N] and logits [N, classes seen], in the order of classes."""
    try:
        verify(run / "predictions.safetensors")
        tensors = load_file(run / "predictions.safetensors")
        return tensors["labels"], tensors["student_logits"]
    except BadInput:
        raise
    except Exception as error:
        raise BadInput("run", str(run / "predictions.safetensors"), f"a whole file ({type(error).__name__})") from None


def build_record(recipe: Recipe, tasks: TaskData, done: Sequence[TaskResult]) -> IncrementalRecord:
    """The content of ``incremental.json`` after some tasks: the same bytes for the same runs."""
    settings, order = recipe.incremental, tasks.order
    assert settings is not None
    names = tasks.data.train.class_names
    matrix = [
        accuracy_row(each.labels.numpy(), each.scores.argmax(1).numpy(), order.task_of, task)
        for task, each in enumerate(done, start=1)
    ]
    task_local = [
        accuracy_row(labels, answers_within(scores, labels, order.task_of), order.task_of, task)
        for task, (labels, scores) in enumerate(((each.labels.numpy(), each.scores.numpy()) for each in done), start=1)
    ]
    means = accuracy_after_each_task(matrix) if matrix else []
    records = tuple(
        _task_record(tasks, task, each, mean)
        for task, (each, mean) in enumerate(zip(done, means, strict=True), start=1)
    )
    return IncrementalRecord(
        preset=settings.preset,
        seed=recipe.seed,
        class_seed=settings.resolve_class_seed(recipe.seed),
        class_order=order.classes,
        class_names=tuple(names[each] for each in order.classes),
        equal_tasks=order.equal,
        memory=MemorySettings(exemplars=settings.memory, selection=settings.selection, joint=settings.joint),
        predict_by=settings.predict_by,
        planned=tasks.count,
        tasks=records,
        matrix=tuple(map(tuple, matrix)),
        task_local=tuple(map(tuple, task_local)),
        metrics=(
            compute_metrics(matrix, task_local, records[-1].balance.old_only or 0.0)
            if len(done) == tasks.count
            else None
        ),
    )


def _task_record(tasks: TaskData, task: int, result: TaskResult, mean: float) -> TaskRecord:
    image = tasks.data.train.images[:1]
    summary, new = result.summary, len(tasks.new_rows(task))
    return TaskRecord(
        task=task,
        classes=tasks.order.classes_of(task),
        train=summary["data"]["train"],
        new=new,
        old=summary["data"]["train"] - new,
        test=summary["data"]["test"],
        steps=summary["steps"],
        epochs=summary["epochs"],
        accuracy=mean,
        pooled=result.figures["top1"],
        balance=task_balance(result.labels.numpy(), result.scores.numpy(), tasks.order.seen(task - 1)),
        memory=ExemplarCount(
            exemplars=result.memory.count,
            per_class=tuple(len(rows) for rows in result.memory.rows),
            bytes=result.memory.count * image.numel() * image.element_size(),
        ),
    )


def progress_line(record: IncrementalRecord) -> str:
    """The result of the newest task in a line."""
    task = record.tasks[-1]
    seen = sum(len(each.classes) for each in record.tasks)
    line = f"task {task.task} of {record.planned}: {task.accuracy:.2f}% over {seen} classes"
    old, new = task.balance.old, task.balance.new
    return line if old is None else f"{line}, {old:.2f}% on the old, {new:.2f}% on the new"


def data_fingerprint(tasks: TaskData) -> str:
    """The fingerprint of all data, as an ordinary run over all classes has it."""
    return digest(tasks.data.train.fingerprint.encode(), tasks.data.test.fingerprint.encode())


def build_summary(
    recipe: Recipe,
    tasks: TaskData,
    done: Sequence[TaskResult],
    record: IncrementalRecord,
    title: str,
    has_teacher: bool,
) -> dict[str, Any]:
    """``summary.json`` of the whole: that of an ordinary run over all classes, and the metrics of its tasks."""
    first, last = done[0].summary, done[-1].summary
    train, test = tasks.data.train, tasks.data.test
    fingerprint = data_fingerprint(tasks)
    steps = sum(each.summary["steps"] for each in done)
    parts = max(each.summary["accumulate"] for each in done)
    assert record.metrics is not None, "a summary is written when all tasks are done"
    in_tasks = IncrementalSummary(
        **record.metrics.as_dict(),
        class_order=record.class_order,
        tasks=tuple(TaskLength(train=task.train, test=task.test, steps=task.steps) for task in record.tasks),
        memory=max(task.memory.exemplars for task in record.tasks),
    )
    return {
        "schema": 1,
        "name": title,
        "recipe_hash": recipe.hash(),
        "seed": recipe.seed,
        "steps": steps,
        "epochs": round(sum(each.summary["epochs"] for each in done), 6),
        **done[-1].figures,
        **{key: last[key] for key in ("model", "parameters", "multiply_adds", "bytes")},
        "teachers": {},
        "distilled": has_teacher,
        "data": data_facts(DataPair(train, test), fingerprint),
        "relations": last.get("relations"),
        "device": recipe.training.device,
        "precision": recipe.training.precision,
        "threads": first["threads"],
        "processes": 1,
        "accumulate": parts,
        "incremental": in_tasks.as_dict(),
        "hashes": {
            "init": first["hashes"]["init"],
            "order": chain_hashes([each.summary["hashes"]["order"] for each in done]),
            "views": chain_hashes([each.summary["hashes"]["views"] for each in done]),
            "budget": budget_hash(
                steps=steps,
                batch_size=recipe.data.batch_size,
                accumulate=parts,
                processes=1,
                data=fingerprint,
                tasks=len(done),
            ),
            "threads": first["hashes"]["threads"],
        },
    }


def merge_metrics(folders: Sequence[Path], done: Sequence[TaskResult]) -> str:
    """``metrics.jsonl`` of the whole: each task's training lines and its last evaluation, steps counted over all."""
    lines, steps, epochs = [], 0, 0.0
    for task, (folder, result) in enumerate(zip(folders, done, strict=True), start=1):
        for text in read_text(folder / "metrics.jsonl").splitlines():
            line = json.loads(text)
            if line["split"] == "train":
                place = {"step": steps + line["step"], "epoch": round(epochs + line["epoch"], 6)}
                lines.append({**line, **place, "task": task})
        steps, epochs = steps + result.summary["steps"], epochs + result.summary["epochs"]
        shown = {key: value for key, value in result.figures.items() if key not in ("correct", "count")}
        lines.append({"step": steps, "epoch": round(epochs, 6), "split": "test", "task": task, **shown})
    return "".join(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n" for line in lines)


def merge_timing(folders: Sequence[Path]) -> str:
    """``timing.jsonl`` of the whole: the tasks' own, with a line before each."""
    lines = []
    for task, folder in enumerate(folders, start=1):
        lines.append(json.dumps({"event": "task", "task": task}) + "\n")
        lines.append(read_text(folder / "timing.jsonl"))
    return "".join(lines)


def scores_in_data_order(scores: Tensor, tasks: TaskData) -> Tensor:
    """Scores [N, K] with a column for each of the data's classes, in their own order."""
    return scores.index_select(1, torch.from_numpy(tasks.order.positions)).contiguous()


def compare_with_joint(run: Path, joint: Path) -> JointComparison:
    """Compute Ω of a finished run in tasks, and write it into its folder as ``joint.json``.

    Returns:
        Ω (None with the reason where it is undefined), and the accuracies after each task of both.
    """
    mine, bound = (_finished_record(folder) for folder in (run, joint))
    if not bound.memory.joint:
        raise BadInput("--joint", str(joint), "a run of joint training: `stillroom incremental --preset joint`")
    if (mine.class_names, mine.class_order) != (bound.class_names, bound.class_order):
        raise BadInput("--joint", str(joint), "a run of the same classes in the same order")
    if [task.classes for task in mine.tasks] != [task.classes for task in bound.tasks]:
        raise BadInput("--joint", str(joint), "a run of the same tasks")
    value = omega(mine.accuracies, bound.accuracies)
    comparison = JointComparison(
        omega=value,
        why=None if value is not None else "joint training got no image right after some task",
        accuracies=tuple(mine.accuracies),
        joint=tuple(bound.accuracies),
    )
    write(run / JOINT_FILE, comparison)
    return comparison


def _finished_record(folder: Path) -> FinishedRecord:
    if not (folder / INCREMENTAL_FILE).is_file() or not (folder / "summary.json").is_file():
        raise BadInput("--joint", str(folder), "the folder of a finished run in tasks")
    return read_json(FinishedRecord, folder / INCREMENTAL_FILE)
