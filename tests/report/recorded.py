"""Writes what a run tells of its last layer and of ω, by hand, into a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def geometry(
    names: tuple[str, ...],
    groups: tuple[str, ...] | None,
    *,
    own: float = 0.4,
    teacher: bool = True,
    truth: bool = False,
) -> dict[str, Any]:
    """The content of a ``class_relations.json`` in which classes of a superclass have one cosine, others another."""
    held = groups or tuple(str(number // 2) for number in range(len(names)))

    def cosines(within: float) -> list[list[float]]:
        return [
            [1.0 if i == j else within if a == b else -0.05 for j, b in enumerate(held)] for i, a in enumerate(held)
        ]

    first = {group: place for place, group in reversed(list(enumerate(held)))}
    known = groups is not None
    return {
        "schema": 1,
        "classes": len(names),
        "class_names": list(names),
        "superclasses": list(groups) if groups is not None else None,
        "score": {
            "student": own + 0.05 if known else None,
            "teacher": 0.65 if known and teacher else None,
            "truth": 0.55 if known and truth else None,
        },
        "agreement": {
            "truth": 0.8 if truth else None,
            "teacher": 0.9 if teacher else None,
            "teacher_truth": 0.95 if truth and teacher else None,
        },
        "why": {} if known else {"score": "the data name no superclasses"},
        "has_teacher": teacher,
        "has_truth": truth,
        "ordered_by": "superclasses" if known else "teacher",
        "order": sorted(range(len(names)), key=lambda place: first[held[place]]),
        "maps": {
            "student": cosines(own),
            "teacher": cosines(0.6) if teacher else None,
            "truth": cosines(0.5) if truth else None,
        },
    }


def write_geometry(run: Path, content: dict[str, Any]) -> Path:
    """Put it into a run's folder with three epochs of figures that grow to the last; return the folder."""
    (run / "class_relations.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    figures = {"score": content["score"]["student"]} | {k: content["agreement"][k] for k in ("truth", "teacher")}
    rows = [
        {"step": 50 * epoch, "epoch": float(epoch)}
        | {key: None if value is None else round(value * epoch / 2, 6) for key, value in figures.items()}
        for epoch in range(3)
    ]
    lines(run / "class_relations.jsonl", rows)
    return run


def rescaling(
    epoch: float, *, saturated: float = 0.0, known: bool = False, spearman: float | None = 0.8
) -> dict[str, Any]:
    """A line of ``gradient_rescaling.jsonl``: ω grows with p_y."""
    each = [
        {
            "p_low": p - 0.04,
            "p_high": p + 0.04,
            "p_mean": p,
            "omega_mean": 2 * p,
            "omega_median": 2 * p + 0.01 * epoch,
            "omega_low": 2 * p - 0.1,
            "omega_high": 2 * p + 0.2,
            "omega_std": 0.1,
            "count": 20,
        }
        for p in np.linspace(0.05, 0.95, 10).tolist()
    ]
    margins = [
        {key.replace("p_", "margin_"): value for key, value in group.items() if key != "p_mean"}
        | {"margin_mean": place / 2, "p_mean": 0.3}
        for place, group in enumerate(each)
    ]
    return {
        "step": int(50 * epoch),
        "epoch": epoch,
        "loss": "kl",
        "temperature": 4.0,
        "target": None,
        "count": 200,
        "mean": 1.0,
        "spearman": spearman,
        "saturated": saturated,
        "quantiles": {"5": 0.1, "50": 1.0, "95": 1.9},
        "deciles": each,
        "known_spearman": 0.5 if known else None,
        "known_deciles": margins if known else None,
    }
