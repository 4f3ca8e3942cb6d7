"""What the runs of all tasks come to together: the accuracy matrix, old against new, the summary of the whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stillroom.continual.exemplars import Memory
from stillroom.continual.hashes import budget_hash, chained
from stillroom.continual.metrics import (
    accuracy_row,
    after_each,
    average_incremental,
    balance,
    final_accuracy,
    forgetting,
)
from stillroom.continual.tasks import Tasks
from stillroom.errors import BadInput
from stillroom.files import digest
from stillroom.recipe import Recipe
from stillroom.run.artifacts import SCHEMA

NAME = "incremental.json"
FIGURES = ("top1", "correct", "count", "top5", "nll", "ece")
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Judged:
    """A task that is done.

    Attributes:
        summary: of its run.
        labels: the test images' classes, by their place in the order of classes, int64 [N].
        scores: what answers for the student, [N, classes seen]: the largest is the answer.
        figures: ``top1``, ``correct``, ``count``, ``nll`` and ``ece`` of these, as an evaluation has them.
        kept: the exemplars after the task.
    """

    summary: Row
    labels: Tensor
    scores: Tensor
    figures: Row
    kept: Memory


def answers_of(run: Path) -> tuple[Tensor, Tensor]:
    """A finished task's test labels [N] and logits [N, classes seen], in the order of classes.

    Raises:
        BadInput: they cannot be read.
    """
    try:
        tensors = load_file(run / "predictions.safetensors")
        return tensors["labels"], tensors["student_logits"]
    except Exception as error:
        raise BadInput("run", str(run / "predictions.safetensors"), f"a whole file ({type(error).__name__})") from None


def record_of(recipe: Recipe, tasks: Tasks, done: Sequence[Judged]) -> Row:
    """The content of ``incremental.json`` after some tasks: the same bytes for the same runs.

    Args:
        recipe: the whole's.
        tasks: the data of all tasks.
        done: the tasks that are done, in their order.
    """
    settings, order = recipe.incremental, tasks.order
    assert settings is not None
    names = tasks.data.train.class_names
    matrix = [_row(tasks, task, each) for task, each in enumerate(done, start=1)]
    means = after_each(matrix) if matrix else []
    return {
        "schema": SCHEMA,
        "preset": settings.preset,
        "seed": recipe.seed,
        "class_seed": settings.shuffled_by(recipe.seed),
        "class_order": list(order.classes),
        "class_names": [names[each] for each in order.classes],
        "equal_tasks": order.equal,
        "memory": {"exemplars": settings.memory, "selection": settings.selection, "joint": settings.joint},
        "predict_by": settings.predict_by,
        "planned": len(order.sizes),
        "tasks": [
            _task(tasks, task, each, mean) for (task, each), mean in zip(enumerate(done, start=1), means, strict=True)
        ],
        "matrix": matrix,
        "metrics": metrics_of(matrix) if len(done) == tasks.count else None,
    }


def data_fingerprint(tasks: Tasks) -> str:
    """The fingerprint of all data, as an ordinary run over all classes has it."""
    return digest(tasks.data.train.fingerprint.encode(), tasks.data.test.fingerprint.encode())


def metrics_of(matrix: Sequence[Sequence[float]]) -> Row:
    """What a whole matrix comes to; means are over tasks."""
    return {
        "average": average_incremental(matrix),
        "average_from_second": average_incremental(matrix, first=2),
        "final": final_accuracy(matrix),
        "forgetting": forgetting(matrix),
    }


def _row(tasks: Tasks, task: int, each: Judged) -> list[float]:
    return accuracy_row(each.labels.numpy(), each.scores.argmax(1).numpy(), tasks.order.task_of, task)


def _task(tasks: Tasks, task: int, each: Judged, mean: float) -> Row:
    labels, answers = each.labels.numpy(), each.scores.argmax(1).numpy()
    images = tasks.data.train.images
    one = images[:1]
    bytes_each = one.numel() * one.element_size()
    new = len(tasks.new_rows(task))
    return {
        "task": task,
        "classes": list(tasks.order.of(task)),
        "train": each.summary["data"]["train"],
        "new": new,
        "old": each.summary["data"]["train"] - new,
        "test": each.summary["data"]["test"],
        "steps": each.summary["steps"],
        "epochs": each.summary["epochs"],
        # Over tasks, and over images: the same where every task has as many test images.
        "accuracy": mean,
        "pooled": each.figures["top1"],
        "balance": asdict(balance(labels, answers, tasks.order.seen(task - 1))),
        "memory": {
            "exemplars": each.kept.count,
            "per_class": [len(rows) for rows in each.kept.rows],
            "bytes": each.kept.count * bytes_each,
        },
    }


def metrics_lines(tasks_folder: Sequence[Path], done: Sequence[Judged]) -> str:
    """``metrics.jsonl`` of the whole: each task's lines of training and the evaluation at its end, counted over all."""
    lines, steps, epochs = [], 0, 0.0
    for task, (folder, each) in enumerate(zip(tasks_folder, done, strict=True), start=1):
        for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if line["split"] == "train":
                place = {"step": steps + line["step"], "epoch": round(epochs + line["epoch"], 6)}
                lines.append({**line, **place, "task": task})
        steps, epochs = steps + each.summary["steps"], epochs + each.summary["epochs"]
        shown = {key: value for key, value in each.figures.items() if key not in ("correct", "count")}
        lines.append({"step": steps, "epoch": round(epochs, 6), "split": "test", "task": task, **shown})
    return "".join(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n" for line in lines)


def timing_lines(tasks_folder: Sequence[Path]) -> str:
    """``timing.jsonl`` of the whole: the tasks' own, a line that begins each."""
    lines = []
    for task, folder in enumerate(tasks_folder, start=1):
        lines.append(json.dumps({"event": "task", "task": task}) + "\n")
        lines.append((folder / "timing.jsonl").read_text(encoding="utf-8"))
    return "".join(lines)


def summary_of(recipe: Recipe, tasks: Tasks, done: Sequence[Judged], record: Row, *, title: str, taught: bool) -> Row:
    """``summary.json`` of the whole: that of an ordinary run over all classes, and what its tasks come to."""
    first, last = done[0].summary, done[-1].summary
    train, test = tasks.data.train, tasks.data.test
    fingerprint = data_fingerprint(tasks)
    steps = sum(each.summary["steps"] for each in done)
    parts = max(each.summary["accumulate"] for each in done)
    return {
        "schema": SCHEMA,
        "name": title,
        "recipe_hash": recipe.hash(),
        "seed": recipe.seed,
        "steps": steps,
        "epochs": round(sum(each.summary["epochs"] for each in done), 6),
        **done[-1].figures,
        **{key: last[key] for key in ("model", "parameters", "multiply_adds", "bytes")},
        "teachers": {},
        "taught": taught,
        "data": {
            "name": train.name,
            "classes": train.num_classes,
            "train": len(train),
            "test": len(test),
            "shape": list(train.images.shape[1:]),
            "pixels": train.is_pixels,
            "fingerprint": fingerprint,
        },
        "relations": last.get("relations"),
        "device": recipe.training.device,
        "precision": recipe.training.precision,
        "threads": first["threads"],
        "processes": 1,
        "accumulate": parts,
        "incremental": {
            **record["metrics"],
            "class_order": record["class_order"],
            "tasks": [{key: task[key] for key in ("train", "test", "steps")} for task in record["tasks"]],
            "memory": max(task["memory"]["exemplars"] for task in record["tasks"]),
        },
        "hashes": {
            "init": first["hashes"]["init"],
            "order": chained([each.summary["hashes"]["order"] for each in done]),
            "views": chained([each.summary["hashes"]["views"] for each in done]),
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


def in_data_columns(scores: Tensor, tasks: Tasks) -> Tensor:
    """Scores [N, K] with a column for each of the data's classes, in their own order."""
    return scores.index_select(1, torch.from_numpy(tasks.order.places)).contiguous()


def told(record: Row) -> str:
    """What the newest task came to, in a line."""
    task = record["tasks"][-1]
    seen = sum(len(each["classes"]) for each in record["tasks"])
    line = f"task {task['task']} of {record['planned']}: {task['accuracy']:.2f}% over {seen} classes"
    old, new = task["balance"]["old"], task["balance"]["new"]
    return line if old is None else f"{line}, {old:.2f}% on the old, {new:.2f}% on the new"
