"""Writes run folders as a finished run leaves them, with numbers that hang together, without training anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import yaml
from safetensors.numpy import save_file

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EVIL = "</script><img src=x onerror=alert(1)><b>\"'&amp;${alert(2)}{{7*7}}%{x}"


T = TypeVar("T")


class Lazy(dict[str, T], Generic[T]):
    """Values by name, each made when it is first read: a process makes those alone that its tests look at."""

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = make

    def __missing__(self, name: str) -> T:
        self[name] = self._make(name)
        return self[name]


@dataclass(frozen=True)
class Fake:
    """What a made-up run is like."""

    name: str = "resnet8 ← resnet56"
    classes: tuple[str, ...] = CIFAR10
    each: int = 500
    seed: int = 0
    teacher: bool = True
    skill: float = 3.75
    teacher_skill: float = 4.35
    losses: tuple[dict[str, Any], ...] = (
        {"name": "cross_entropy", "weight": 0.1},
        {"name": "kl", "weight": 0.9, "temperature": 4.0},
    )
    epochs: int = 12
    steps_per_epoch: int = 50
    log_every: int = 10
    fingerprint: str = "f1" * 32
    init: str = "a0" * 32
    budget: str = "b0" * 32
    latency: bool = True
    examples: int = 36
    side: int = 32


def write_run(path: Path, fake: Fake | None = None) -> Path:
    """Write a run folder and return it."""
    fake = fake or Fake()
    path.mkdir(parents=True)
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(len(fake.classes)), fake.each)
    kin = _kinship(len(fake.classes), rng)
    shared = rng.normal(size=(len(labels), len(fake.classes)))
    teacher = _logits(labels, fake.teacher_skill, kin, shared, np.random.default_rng(1)) * 1.7
    student = _logits(labels, fake.skill, kin, shared, np.random.default_rng(2 + fake.seed)) * 1.25
    facts = measured(student, labels)
    summary: dict[str, Any] = {
        "schema": 1,
        "name": fake.name,
        "recipe_hash": "c0" * 32,
        "seed": fake.seed,
        "steps": fake.epochs * fake.steps_per_epoch,
        "epochs": float(fake.epochs),
        **facts,
        "parameters": 78042,
        "multiply_adds": 12_500_000,
        "bytes": 320_000,
        "model": "resnet8",
        "teachers": {},
        "distilled": fake.teacher,
        "data": {
            "name": f"cifar{len(fake.classes)}",
            "classes": len(fake.classes),
            "train": 50000,
            "test": len(labels),
            "fingerprint": fake.fingerprint,
        },
        "device": "cpu",
        "precision": "bfloat16",
        "threads": 1,
        "processes": 1,
        "accumulate": 1,
        "hashes": {
            "init": fake.init,
            "order": f"{fake.seed:02d}" * 32,
            "views": "d0" * 32,
            "budget": fake.budget,
            "threads": "1",
        },
    }
    tensors: dict[str, Any] = {"labels": labels.astype(np.int64), "student_logits": student.astype(np.float32)}
    if fake.teacher:
        taught = measured(teacher, labels)
        summary["teachers"]["teacher"] = {
            "model": "resnet56",
            **taught,
            "parameters": 853_018,
            "multiply_adds": 125_490_000,
            "bytes": 3_460_000,
            "weights_hash": "e0" * 32,
        }
        summary["agreement"] = round(100 * float((student.argmax(1) == teacher.argmax(1)).mean()), 2)
        summary["teacher_kl"] = _divergence(teacher, student)
        tensors["teacher_logits"] = teacher.astype(np.float32)
        if fake.examples:
            truth = np.arange(len(labels))
            change = _softmax(student)[truth, labels] - _softmax(teacher)[truth, labels]
            order = np.argsort(change)
            # Both ends, so that there is something to filter.
            chosen = np.concatenate(
                [order[: fake.examples * 2 // 3], order[-(fake.examples - fake.examples * 2 // 3) :]]
            )
            tensors["example_indices"] = chosen.astype(np.int64)
            tensors["example_images"] = np.stack([picture(int(labels[i]), int(i), fake.side) for i in chosen])
    save_file(tensors, path / "predictions.safetensors", metadata={"class_names": json.dumps(list(fake.classes))})
    _write_json(path / "summary.json", summary)
    _write_json(path / "environment.json", {"python": "3.11.9", "torch": "2.6.0", "processor": "x86_64, 2 cores"})
    recipe = {
        "name": fake.name,
        "data": {"source": "parquet", "path": "cifar10", "batch_size": 64},
        "teacher": {"name": "resnet56", "weights": "weights/resnet56-cifar10.th"} if fake.teacher else None,
        "student": {"name": "resnet8", "weights": None},
        "losses": [dict(term) for term in fake.losses],
        "training": {"epochs": fake.epochs, "optimizer": {"name": "sgd", "lr": 0.1}, "precision": "bfloat16"},
        "seed": fake.seed,
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    _write_lines(path / "metrics.jsonl", _metrics(fake, summary))
    _write_lines(path / "timing.jsonl", _timing(fake))
    return path


def edit_summary(run: Path, **changes: Any) -> None:
    """Change fields of a run's summary."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    _write_json(run / "summary.json", summary | changes)


def measured(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What an evaluation of these logits tells, worked out plainly."""
    probabilities = _softmax(logits)
    right = logits.argmax(1) == labels
    confidence = probabilities.max(1)
    ece = 0.0
    for low in np.arange(15) / 15:
        held = (confidence >= low) & (confidence < low + 1 / 15)
        if held.any():
            ece += held.mean() * abs(right[held].mean() - confidence[held].mean())
    order = (-logits).argsort(1)[:, :5]
    return {
        "top1": round(100 * float(right.mean()), 4),
        "correct": int(right.sum()),
        "count": len(labels),
        "top5": round(100 * float((order == labels[:, None]).any(1).mean()), 4),
        "nll": round(float(-np.log(probabilities[np.arange(len(labels)), labels]).mean()), 6),
        "ece": round(float(ece), 6),
    }


def picture(label: int, index: int, side: int = 32) -> np.ndarray:
    """A small colour picture [3, side, side]: a shape on a ground."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    ground = rng.uniform(90, 220, 3)[:, None, None] + 60 * (y * rng.normal() + x * rng.normal())
    radius = np.hypot(x - rng.uniform(-0.1, 0.1), y - rng.uniform(-0.1, 0.1))
    shape = radius < 0.22 + 0.08 * np.cos(np.arctan2(y, x) * (label % 5 + 2))
    colour = rng.uniform(0, 255, 3)[:, None, None]
    pixels = np.where(shape, colour + 50 * x, ground) + rng.normal(0, 7, (3, side, side))
    return pixels.clip(0, 255).astype(np.uint8)


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def _divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    p, q = _softmax(teacher), _softmax(student)
    return round(float((p * (np.log(p) - np.log(q))).sum(1).mean()), 6)


def _kinship(classes: int, rng: np.random.Generator) -> np.ndarray:
    """How much each class looks like each other, so that confusions are not all the same."""
    kin = np.abs(rng.normal(0, 0.55, (classes, classes)))
    kin[np.arange(classes), np.arange(classes)] = 0
    if classes == 10:
        kin[3, 5] = kin[5, 3] = 2.0
        kin[1, 9] = kin[9, 1] = 1.3
        kin[0, 8] = kin[8, 0] = 1.1
    return kin


def _logits(
    labels: np.ndarray, skill: float, kin: np.ndarray, shared: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    classes = kin.shape[0]
    logits = 0.8 * shared + 0.7 * rng.normal(size=shared.shape) + kin[labels]
    logits[np.arange(len(labels)), labels] += skill + 0.12 * rng.normal(size=classes)[labels]
    return logits


def _metrics(fake: Fake, summary: dict[str, Any]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(100 + fake.seed)
    total = fake.epochs * fake.steps_per_epoch
    lines: list[dict[str, Any]] = []
    for step in range(1, total + 1):
        part = step / total
        epoch = step / fake.steps_per_epoch
        if step % fake.log_every == 0 or step == total:
            terms = {}
            weighted = 0.0
            for place, term in enumerate(fake.losses):
                value = (2.4 - 0.4 * place) * np.exp(-2.2 * part) + 0.25 + 0.04 * abs(rng.normal())
                terms[f"loss/{term['name']}"] = round(float(value), 5)
                weighted += term.get("weight", 1.0) * float(value)
            rate = 0.1 * (part / 0.3 if part < 0.3 else 0.5 * (1 + np.cos(np.pi * (part - 0.3) / 0.7)))
            lines.append(
                {"step": step, "epoch": epoch, "split": "train", "loss": round(weighted, 5), **terms}
                | {"lr": round(float(rate), 6)}
            )
        if step % fake.steps_per_epoch == 0:
            left = (1 - part) ** 1.6 * (1 + 0.12 * rng.normal())
            top1 = summary["top1"] - 42 * max(left, 0.0)
            row = {
                "step": step,
                "epoch": epoch,
                "split": "test",
                "top1": round(float(top1), 3),
                "nll": 0.9,
                "ece": 0.05,
            }
            lines.append(row | ({"agreement": 80.0, "teacher_kl": 0.4} if fake.teacher else {}))
    return lines


def _timing(fake: Fake) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"event": "progress", "step": 10, "seconds": 1.5, "images_per_second": 1400.0}]
    if fake.latency:
        student = {"1": 1.21, "64": 22.4}
        lines.append({"event": "latency", "who": "student", "milliseconds": student, "threads": 1})
        if fake.teacher:
            teacher = {"1": 5.07, "64": 196.3}
            lines.append({"event": "latency", "who": "teacher", "milliseconds": teacher, "threads": 1})
    return [*lines, {"event": "finish", "step": 600, "seconds": 77.0}]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
