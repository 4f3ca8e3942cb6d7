"""Writes run folders as runs leave them, healthy or with one thing wrong, without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

CLASSES, EACH = 10, 200
COUNT = CLASSES * EACH
LABELS = np.repeat(np.arange(CLASSES), EACH)
KL = ({"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4.0})
Row = dict[str, Any]
# From the share of the run that is done, above 0, to a value.
Curve = Callable[[float], float]


def falling(first: float, last: float) -> Curve:
    """As a run that learns all it can: steep at first, level from half of it on."""
    return lambda part: last + (first - last) * math.exp(-30 * part)


def power(first: float, exponent: float, at: float = 0.02) -> Curve:
    """Each doubling of the steps takes the same share away, to the very end."""
    return lambda part: first * (max(part, at) / at) ** -exponent


def level(value: float) -> Curve:
    """The same throughout."""
    return lambda part: value


def spike(first: float, high: float, last: float) -> Curve:
    """Blows up a third through the run."""
    return lambda part: first if part < 0.3 else high if part < 0.5 else last


def guesses(accuracy: float, *, seed: int, after: int = 1) -> np.ndarray:
    """Answers of which this share is right in each class; the wrong ones name the class so many places on."""
    rng = np.random.default_rng(seed)
    answers = LABELS.copy()
    for label in range(CLASSES):
        rows = np.flatnonzero(label == LABELS)
        wrong = rng.permutation(rows)[: round(len(rows) * (1 - accuracy))]
        answers[wrong] = (label + after + rng.integers(0, 4, len(wrong))) % CLASSES
    return answers


def logits(answers: np.ndarray, confidence: float) -> np.ndarray:
    """Logits by which each answer is given with the same confidence."""
    found = np.zeros((len(answers), CLASSES), np.float32)
    found[np.arange(len(answers)), answers] = math.log(confidence * (CLASSES - 1) / (1 - confidence))
    return found


@dataclass(frozen=True)
class Left:
    """What a made-up run is like; as it stands, a healthy one."""

    losses: tuple[Row, ...] = KL
    training: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] = field(default_factory=lambda: {"pad_crop": 4, "flip": True})
    loss_curves: Mapping[str, Curve] = field(
        default_factory=lambda: {"cross_entropy": falling(2.4, 0.25), "kl": falling(12.0, 0.6)}
    )
    test: Mapping[str, Curve] = field(default_factory=dict)
    student: np.ndarray = field(default_factory=lambda: guesses(0.92, seed=1))
    teacher: np.ndarray | None = field(default_factory=lambda: guesses(0.94, seed=2, after=5))
    confidence: float = 0.92
    rescaling: tuple[float, ...] = ()
    moves: tuple[float, ...] = ()
    epochs: int = 30
    per_epoch: int = 20
    done: float = 1.0
    finished: bool = True
    rate: float = 0.1
    taught: bool | None = None


def write(path: Path, left: Left | None = None) -> Path:
    """Write a run folder and return it."""
    left = left or Left()
    path.mkdir(parents=True)
    taught = any(term["name"] not in ("cross_entropy", "label_smoothing") for term in left.losses)
    teacher = {"name": "resnet56", "weights": "teacher.safetensors"} if left.teacher is not None else None
    recipe = {
        "data": {"source": "parquet", "path": "cifar10", "batch_size": 64, "augmentation": dict(left.augmentation)},
        "teacher": teacher,
        "student": {"name": "resnet8"},
        "losses": [dict(term) for term in left.losses],
        "training": {"epochs": left.epochs, "optimizer": {"lr": left.rate}, **left.training},
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    said = logits(left.student, left.confidence)
    figures = _figures(said, left)
    lines(path / "metrics.jsonl", _metrics(left, figures))
    rows = [{"epoch": float(place + 1), "step": 0, "saturated": share} for place, share in enumerate(left.rescaling)]
    lines(
        path / "gradient_rescaling.jsonl",
        [{**row, "mean": 1.0, "spearman": 0.4, "quantiles": {"50": 1.0}} for row in rows],
    )
    lines(path / "weight_distance.jsonl", [{"step": 1, "epoch": 1.0, "moves": {"conv1": move}} for move in left.moves])
    lines(path / "timing.jsonl", [{"event": "progress", "step": 10, "seconds": 1.5}])
    if left.finished:
        _finish(path, left, said, figures, left.taught if left.taught is not None else taught)
    return path


def _finish(path: Path, left: Left, said: np.ndarray, figures: Row, taught: bool) -> None:
    tensors = {"labels": LABELS.astype(np.int64), "student_logits": said}
    teacher = None
    if left.teacher is not None:
        tensors["teacher_logits"] = logits(left.teacher, 0.94)
        teacher = {**_score(tensors["teacher_logits"]), "model": "resnet56", "parameters": 853_018}
    save_file(tensors, path / "predictions.safetensors", {"class_names": json.dumps([f"c{k}" for k in range(CLASSES)])})
    summary = {
        "schema": 1,
        "name": "made up",
        "seed": 0,
        **figures,
        "count": COUNT,
        "correct": round(figures["top1"] * COUNT / 100),
        "model": "resnet8",
        "parameters": 78_042,
        "teacher": teacher,
        "taught": taught,
        "data": {"name": "cifar10", "classes": CLASSES, "train": 1280, "test": COUNT, "shape": [3, 32, 32]},
    }
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def _metrics(left: Left, figures: Row) -> list[Row]:
    """Two lines of training and one evaluation an epoch; the rate falls after half of the run."""
    found: list[Row] = []
    total = left.epochs * left.per_epoch
    weights = {term["name"]: term.get("weight", 1.0) for term in left.losses}
    # What is logged as the loss is of no account: weights that follow a schedule count as they end.
    weights = {name: weight["end"] if isinstance(weight, dict) else weight for name, weight in weights.items()}
    every = max(left.per_epoch // 2, 1)
    for step in range(every, round(total * left.done) + 1, every):
        part, epoch = step / total, step / left.per_epoch
        # A wiggle, so that a fit has something to fit through.
        wiggle = 1 + 0.02 * math.sin(step)
        terms = {name: curve(part) * wiggle for name, curve in left.loss_curves.items()}
        loss = sum(weights[name] * value for name, value in terms.items())
        rate = left.rate * (1.0 if part <= 0.5 else 2 * (1 - part))
        told = {f"loss/{name}": value for name, value in terms.items()}
        found.append({"step": step, "epoch": epoch, "split": "train", "loss": loss, **told, "lr": rate})
        if step % left.per_epoch == 0:
            row = {name: curve(part) for name, curve in {**_usual(figures), **left.test}.items()}
            found.append({"step": step, "epoch": epoch, "split": "test", **row})
    return found


def _usual(figures: Row) -> dict[str, Curve]:
    """Evaluations that come to what the run came to."""
    return {
        "top1": lambda part: figures["top1"] * min(1.0, 0.4 + part),
        "nll": falling(2.3, figures["nll"]),
        "ece": level(figures["ece"]),
        **({"agreement": lambda part: figures["agreement"] * min(1.0, 0.4 + part)} if "agreement" in figures else {}),
        **({"teacher_kl": falling(2.0, figures["teacher_kl"])} if "teacher_kl" in figures else {}),
    }


def _figures(said: np.ndarray, left: Left) -> Row:
    figures = _score(said)
    if left.teacher is not None:
        figures["agreement"] = 100 * float((said.argmax(1) == left.teacher).mean())
        figures["teacher_kl"] = 0.2
    # What a plant says of the evaluations, the summary says too.
    return {**figures, **{name: curve(1.0) for name, curve in left.test.items() if name in figures}}


def _score(said: np.ndarray) -> Row:
    raised = np.exp(said - said.max(1, keepdims=True))
    shares = raised / raised.sum(1, keepdims=True)
    right = said.argmax(1) == LABELS
    top1 = 100 * float(right.mean())
    ece = abs(float(right.mean() - shares.max(1).mean()))
    nll = float(-np.log(shares[np.arange(COUNT), LABELS]).mean())
    return {"top1": top1, "correct": int(right.sum()), "count": COUNT, "nll": nll, "ece": ece}


def lines(path: Path, rows: list[Row]) -> None:
    """Write a log; none where there is nothing to tell."""
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
