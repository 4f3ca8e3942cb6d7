"""Writes the folders of runs, correct or with one fault, without training anything."""

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
class FakeRun:
    """A made-up run; the defaults are a correct one."""

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
    distilled: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def write_run(path: Path, fake: FakeRun | None = None) -> Path:
    """Write a run folder and return it."""
    fake = fake or FakeRun()
    path.mkdir(parents=True)
    taught = any(term["name"] not in ("cross_entropy", "label_smoothing") for term in fake.losses)
    teacher = {"name": "resnet56", "weights": "teacher.safetensors"} if fake.teacher is not None else None
    recipe = {
        "data": {"source": "parquet", "path": "cifar10", "batch_size": 64, "augmentation": dict(fake.augmentation)},
        "teacher": teacher,
        "student": {"name": "resnet8", "options": dict(fake.options)},
        "losses": [dict(term) for term in fake.losses],
        "training": {"epochs": fake.epochs, "optimizer": {"lr": fake.rate}, **fake.training},
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    student_logits = logits(fake.student, fake.confidence)
    figures = _figures(student_logits, fake)
    lines(path / "metrics.jsonl", _metrics(fake, figures))
    omega = {"omega_mean": 1.0, "omega_median": 1.0, "omega_std": 0.1}
    group = {"p_low": 0.1, "p_high": 0.9, "p_mean": 0.5, "count": 100, **omega}
    common = {"step": 0, "loss": "kl", "temperature": 4.0, "target": None, "deciles": [group]}
    common |= {"count": 100, "mean": 1.0, "spearman": 0.4, "quantiles": {"50": 1.0}}
    rows = [{**common, "epoch": epoch, "saturated": share} for epoch, share in enumerate(fake.rescaling, start=1)]
    lines(path / "gradient_rescaling.jsonl", rows)
    lines(
        path / "weight_distance.jsonl", [{"step": 1, "epoch": 1.0, "distance": {"conv1": move}} for move in fake.moves]
    )
    lines(path / "timing.jsonl", [{"event": "progress", "step": 10, "seconds": 1.5}])
    if fake.finished:
        _finish(path, fake, student_logits, figures, fake.distilled if fake.distilled is not None else taught)
    return path


def _finish(path: Path, fake: FakeRun, student_logits: np.ndarray, figures: Row, taught: bool) -> None:
    tensors = {"labels": LABELS.astype(np.int64), "student_logits": student_logits}
    teacher = None
    if fake.teacher is not None:
        tensors["teacher_logits"] = logits(fake.teacher, 0.94)
        teacher = {
            **_score(tensors["teacher_logits"]),
            "model": "resnet56",
            "parameters": 853_018,
            "weights_hash": "f0" * 32,
        }
    save_file(tensors, path / "predictions.safetensors", {"class_names": json.dumps([f"c{k}" for k in range(CLASSES)])})
    summary = {
        "schema": 1,
        "name": "made up",
        "recipe_hash": "c0" * 32,
        "seed": 0,
        "steps": fake.epochs * fake.per_epoch,
        "epochs": float(fake.epochs),
        **figures,
        "count": COUNT,
        "correct": round(figures["top1"] * COUNT / 100),
        "model": "resnet8",
        "parameters": 78_042,
        "multiply_adds": 12_500_000,
        "bytes": 320_000,
        "teachers": {"teacher": teacher} if teacher is not None else {},
        "distilled": taught,
        "data": {
            "name": "cifar10",
            "classes": CLASSES,
            "train": 1280,
            "test": COUNT,
            "shape": [3, 32, 32],
            "fingerprint": "f1" * 32,
            "quality": {
                **{"train": 1280, "test": COUNT, "largest": 128, "smallest": 128},
                **{"largest_class": "a", "smallest_class": "a"},
                **dict.fromkeys(("shared", "shared_relabelled", "copies", "copies_relabelled", "empty_classes"), 0),
                "by_pixels": True,
            },
        },
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "processes": 1,
        "accumulate": 1,
        "hashes": dict.fromkeys(("init", "order", "views", "budget", "threads"), "a0" * 32),
    }
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def _metrics(fake: FakeRun, figures: Row) -> list[Row]:
    """Two lines of training and one evaluation an epoch; the rate falls after half of the run."""
    found: list[Row] = []
    total = fake.epochs * fake.per_epoch
    weights = {term["name"]: term.get("weight", 1.0) for term in fake.losses}
    # What is logged as the loss is of no account: weights that follow a schedule count as they end.
    weights = {name: weight["end"] if isinstance(weight, dict) else weight for name, weight in weights.items()}
    every = max(fake.per_epoch // 2, 1)
    for step in range(every, round(total * fake.done) + 1, every):
        part, epoch = step / total, step / fake.per_epoch
        # A wiggle, so that a fit has something to fit through.
        wiggle = 1 + 0.02 * math.sin(step)
        terms = {name: curve(part) * wiggle for name, curve in fake.loss_curves.items()}
        # In the recipe's order; a user's own loss is logged as it calls itself.
        loss = sum(weight * value for weight, value in zip(weights.values(), terms.values(), strict=True))
        rate = fake.rate * (1.0 if part <= 0.5 else 2 * (1 - part))
        losses_by_name = {f"loss/{name}": value for name, value in terms.items()}
        found.append({"step": step, "epoch": epoch, "split": "train", "loss": loss, **losses_by_name, "lr": rate})
        if step % fake.per_epoch == 0:
            row = {name: curve(part) for name, curve in {**_usual(figures), **fake.test}.items()}
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


def _figures(student_logits: np.ndarray, fake: FakeRun) -> Row:
    figures = _score(student_logits)
    if fake.teacher is not None:
        figures["agreement"] = 100 * float((student_logits.argmax(1) == fake.teacher).mean())
        figures["teacher_kl"] = 0.2
    # What a fault sets in the evaluations is in the summary, too.
    return {**figures, **{name: curve(1.0) for name, curve in fake.test.items() if name in figures}}


def _score(student_logits: np.ndarray) -> Row:
    raised = np.exp(student_logits - student_logits.max(1, keepdims=True))
    shares = raised / raised.sum(1, keepdims=True)
    right = student_logits.argmax(1) == LABELS
    top1 = 100 * float(right.mean())
    ece = abs(float(right.mean() - shares.max(1).mean()))
    nll = float(-np.log(shares[np.arange(COUNT), LABELS]).mean())
    return {"top1": top1, "correct": int(right.sum()), "count": COUNT, "nll": nll, "ece": ece}


def lines(path: Path, rows: list[Row]) -> None:
    """Write a log; none where there is nothing to tell."""
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
