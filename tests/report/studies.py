"""Writes study folders as a finished study leaves them, with numbers that hang together, without training anything."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from report.folders import Fake, write_run
from stillroom.study.statistics import against_baseline, between_all, interval, ranks_across_pairs

MEASURES = {
    "top1": {"name": "top1", "title": "top-1", "unit": "%", "digits": 2, "higher_is_better": True},
    "nll": {"name": "nll", "title": "NLL", "unit": "nats", "digits": 4, "higher_is_better": False},
    "relation_truth": {
        "name": "relation_truth",
        "title": "agreement with the true class relations",
        "unit": "",
        "digits": 4,
        "higher_is_better": True,
    },
}
CHECKED = ["initial weights", "order of images", "views", "budget", "threads", "data", "precision", "reported epoch"]


@dataclass(frozen=True)
class FakeStudy:
    """What a made-up study is like."""

    name: str = "digits"
    question: str = "Which loss is worth its teacher under an equal budget?"
    methods: tuple[str, ...] = ("labels", "kl", "mse", "dkd", "crd")
    pairs: tuple[str, ...] = ("cifar100",)
    seeds: tuple[int, ...] = (0, 1, 2)
    measure: str = "top1"
    level: float = 60.0
    gap: float = 1.2
    noise: float = 0.35
    note: str = ""
    tuned: bool = True
    one_size: bool = True
    unequal: bool = False
    missing: dict[tuple[str, str, int], str] = field(default_factory=dict)
    epochs: int = 12
    whole_runs: bool = False
    differing: str = "kl, weight 0.9, temperature 4"
    axis: dict[str, Any] | None = None

    def has(self, pair: str, method: str, seed: int) -> bool:
        """Whether this run finished."""
        return (pair, method, seed) not in self.missing


def write_study(path: Path, fake: FakeStudy | None = None) -> Path:
    """Write a study's folder and return it."""
    fake = fake or FakeStudy()
    path.mkdir(parents=True)
    values = _values(fake)
    results = _results(fake, values)
    _json(path / "results.json", results)
    study = {"name": fake.name, "question": fake.question, "methods": [{"name": n} for n in fake.methods]}
    (path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if results["tuned"] is not None:
        _json(path / "tuned.json", {"schema": 1, "pairs": results["tuned"]})
    for name in ("runs.csv", "table.csv", "comparisons.csv", "table.tex"):
        (path / name).write_text("made up\n")
    _costs(path / "cost.csv", fake)
    for run in results["runs"]:
        _run(path / run["run"], fake, run)
    return path


def axis(
    values: dict[str, float], *marks: tuple[float, str], log: bool = True, title: str = "Width d"
) -> dict[str, Any]:
    """An axis as results.json has it."""
    text = [{"at": at, "label": label} for at, label in marks]
    return {"field": "student.options.penultimate", "title": title, "log": log, "marks": text, "values": values}


def edit_results(study: Path, **changes: Any) -> None:
    """Change fields of a study's results."""
    content = json.loads((study / "results.json").read_text(encoding="utf-8"))
    _json(study / "results.json", content | changes)


def _values(fake: FakeStudy) -> dict[str, dict[str, dict[int, float]]]:
    """pair → method → {seed: value}: methods climb, each seed shifts all of them alike."""
    rng = np.random.default_rng(3)
    found: dict[str, dict[str, dict[int, float]]] = {}
    for number, pair in enumerate(fake.pairs):
        shift = dict(zip(fake.seeds, rng.normal(0, 2 * fake.noise, len(fake.seeds)), strict=True))
        order = rng.permutation(len(fake.methods)) if number % 2 else np.arange(len(fake.methods))
        found[pair] = {
            name: {
                seed: round(
                    float(fake.level + 4 * number + shift[seed] + fake.gap * order[place] + rng.normal(0, fake.noise)),
                    6,
                )
                for seed in fake.seeds
                if fake.has(pair, name, seed)
            }
            for place, name in enumerate(fake.methods)
        }
    return found


def _results(fake: FakeStudy, values: dict[str, dict[str, dict[int, float]]]) -> dict[str, Any]:
    measure = MEASURES[fake.measure]
    digits, baseline = measure["digits"], fake.methods[0]
    families = []
    for pair in fake.pairs:
        held = {name: row for name, row in values[pair].items() if row}
        family: dict[str, Any] = {"pair": pair}
        asked = {
            "baseline": against_baseline(held, baseline) if baseline in held else None,
            "all": between_all(held) if held else None,
        }
        for kind, found in asked.items():
            family[kind] = {"kind": kind, "baseline": None, "alpha": 0.05, "comparisons": []}
            if found is not None:
                family[kind] = found.as_dict()
                for each, text in zip(family[kind]["comparisons"], found.comparisons, strict=True):
                    each["text"] = text.describe(digits)
        families.append(family)
    means: dict[str, dict[str, float]] = {name: {} for name in fake.methods}
    cells = []
    for pair in fake.pairs:
        for name in fake.methods:
            cells.append(_cell(pair, name, values[pair][name], digits, not fake.unequal or name != "kl"))
            if values[pair][name]:
                means[name][pair] = cells[-1]["mean"]
    ranks = ranks_across_pairs(means, higher_is_better=measure["higher_is_better"]) if any(means.values()) else None
    unequal = {"what": "budget", "pair": fake.pairs[0], "seed": 0, "methods": ["kl"]}
    text = f"budget: kl has 5,616 steps, {baseline} and mse 2,808 (pair {fake.pairs[0]}, seeds 0, 1, 2)"
    conclusions = [each["text"] for family in families for each in family["baseline"]["comparisons"]]
    return {
        "schema": 1,
        "name": fake.name,
        "question": fake.question,
        "study_hash": "5d" * 32,
        "measure": measure,
        "alpha": 0.05,
        "level": 0.95,
        "baseline": baseline,
        "seeds": list(fake.seeds),
        "budget": {"epochs": fake.epochs},
        "methods": [_method(fake, name) for name in fake.methods],
        "model_pairs": [_pair(fake, number, name) for number, name in enumerate(fake.pairs)],
        **({"sweep": fake.axis} if fake.axis is not None else {}),
        "equal": not fake.unequal,
        "checked": CHECKED,
        "inequalities": [unequal | {"text": text}] if fake.unequal else [],
        "missing": [
            {"pair": p, "method": c, "seed": s, "reason": reason, "status": _status(reason)}
            for (p, c, s), reason in fake.missing.items()
        ],
        "runs": [
            _run_entry(fake, pair, name, seed, value)
            for pair in fake.pairs
            for name in fake.methods
            for seed, value in values[pair][name].items()
        ],
        "cells": cells,
        "families": families,
        "ranks": ranks.as_dict() | {"text": ranks.describe(2)} if ranks is not None else None,
        "conclusions": conclusions[:8],
        "tuned": _tuned(fake) if fake.tuned else None,
        "calibration": None,
    }


def _status(reason: str) -> str:
    return "failed" if reason.startswith("failed") else "waiting"


def _method(fake: FakeStudy, name: str) -> dict[str, Any]:
    differs = (
        []
        if name == fake.methods[0]
        else [
            {"key": "losses", "value": fake.differing, "baseline": "cross_entropy"},
            {"key": "training.optimizer.lr", "value": "0.05", "baseline": "0.1"},
        ]
    )
    return {"name": name, "note": fake.note, "differs": differs}


def _pair(fake: FakeStudy, number: int, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "note": fake.note,
        "student": "resnet8",
        "teacher": "resnet32",
        "data": f"{name}-part",
        "classes": 10,
        "train": 15000,
        "test": 5000,
        "teacher_top1": 68.26 + 4 * number,
        "teacher_parameters": 460_000,
        "teacher_multiply_adds": 69_000_000,
        "parameters": 78_000,
        "multiply_adds": 12_000_000,
        "steps": 2808,
        "epochs": float(fake.epochs),
        "precision": "bfloat16",
        "threads": 1,
    }


def _cell(pair: str, name: str, row: dict[int, float], digits: int, equal: bool) -> dict[str, Any]:
    cell = {
        "pair": pair,
        "method": name,
        "equal": equal,
        "count": len(row),
        "seeds": {str(s): v for s, v in row.items()},
    }
    if not row:
        nothing = dict.fromkeys(("mean", "low", "high", "sd"))
        return cell | nothing | {"why": "no run finished", "text": "no run finished"}
    found = interval(list(row.values()))
    why = None
    if found.low is None:
        why = "one seed: no interval" if len(row) == 1 else "no spread between the seeds: no interval"
    held = {"mean": found.mean, "low": found.low, "high": found.high, "sd": found.sd}
    return cell | held | {"why": why, "text": found.describe(digits)}


def _run_entry(fake: FakeStudy, pair: str, name: str, seed: int, value: float) -> dict[str, Any]:
    place = fake.methods.index(name)
    steps = 5616 if fake.unequal and name == "kl" else 2808
    return {
        "pair": pair,
        "method": name,
        "seed": seed,
        "run": f"runs/{pair}/{name}/seed-{seed}",
        "top1": 61.0,
        "correct": 3050,
        "count": 5000,
        "nll": 1.4,
        "ece": 0.05,
        "steps": steps,
        "epochs": float(fake.epochs),
        "parameters": 78_000 if fake.one_size else 78_000 * (1 + place % 3),
        "multiply_adds": 12_000_000 if fake.one_size else 12_000_000 * (1 + place % 4),
        "bytes": 320_000,
        "hashes": {
            "init": f"{seed + 160:02x}" * 32,
            "order": f"{seed:02x}" * 32,
            "views": "d0" * 32,
            "budget": ("bb" if steps > 3000 else "b0") * 32,
            "threads": "1",
        },
    } | {fake.measure: value}


def _tuned(fake: FakeStudy) -> dict[str, Any]:
    key = "training.optimizer.lr"
    trials = [{"number": n, "values": {key: rate}, "value": 50 + n} for n, rate in enumerate((0.1, 0.02, 0.05))]
    trials.append({"number": 3, "values": {key: 3.0}, "value": None})
    each = {"trials": 4, "values": {key: 0.05}, "value": 52.0, "measure": fake.measure, "all": trials}
    return {pair: dict.fromkeys(fake.methods, each) for pair in fake.pairs}


def _costs(path: Path, fake: FakeStudy) -> None:
    clocks = ["training_seconds", "evaluation_seconds", "teacher_answers", "peak_memory_mb", "images_per_second"]
    clocks.append("cache_seconds")
    rng = np.random.default_rng(5)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "pair", "method", "seed", *clocks])
        writer.writerow(["teacher", "", "resnet32", "", 300.0, 4.0, 0, 900, 1500, 0])
        for pair in fake.pairs:
            writer.writerow(["cache", pair, "", "", "", "", 60000, "", "", 12.3])
            for place, name in enumerate(fake.methods):
                own = rng.uniform(60, 140)
                if fake.tuned:
                    writer.writerow(["trial", pair, name, 0, round(own / 2, 2), "", 0, "", "", 0])
                for seed in fake.seeds:
                    if fake.has(pair, name, seed):
                        answers = 0 if place == 0 else 5000 * (place % 4)
                        row = [round(own + rng.normal(0, 2), 3), 4.2, answers, round(600 + 3 * own), 1900, 0]
                        writer.writerow(["run", pair, name, seed, *row])


def _run(path: Path, fake: FakeStudy, run: dict[str, Any]) -> None:
    """A run's folder: whole, or only what the study's page reads of it."""
    if fake.whole_runs:
        write_run(path, Fake(name=f"{run['method']} on {run['pair']}", each=20, seed=run["seed"], examples=2))
    else:
        path.mkdir(parents=True)
        (path / "summary.json").write_text("{}")
    lines = []
    rng = np.random.default_rng(run["seed"])
    value = run[fake.measure]
    for epoch in range(1, fake.epochs + 1):
        left = (1 - epoch / fake.epochs) ** 1.6 * (1 + 0.1 * rng.normal())
        lines.append({"step": epoch * 10 - 5, "epoch": epoch - 0.5, "split": "train", "loss": 2.0 * left, "lr": 0.1})
        sign = 1 if MEASURES[fake.measure]["higher_is_better"] else -1
        reached = value - sign * 0.6 * abs(fake.level) * left
        row = {"step": epoch * 10, "epoch": float(epoch), "split": "test", "top1": 50.0, "nll": 1.0, "ece": 0.1}
        lines.append(row | {fake.measure: round(reached, 5)})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
