"""The depth × fidelity map of a finished run: made, and written beside it as ``fidelity.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stillroom.errors import BadInput
from stillroom.files import write_json
from stillroom.models.reader import LOGITS
from stillroom.randomness import derive_seed
from stillroom.run.fidelity.fitting import RIDGE
from stillroom.run.fidelity.loading import Subject, load_subject
from stillroom.run.fidelity.measuring import Doubles, Measured, Opposite, measure
from stillroom.run.fidelity.members import AT_LOGITS, AT_TAP, ON_SCALE_OF_KL, WEIGHINGS
from stillroom.run.fidelity.statistics import Correlation, Prediction, predictions, resampled
from stillroom.run.records import read_json
from stillroom.runtime import Observer
from stillroom.train.device import exact_float32, threads

SCHEMA = 1
NAME = "fidelity.json"
RESAMPLES = 500
# Fewer would rank by chance.
FEWEST = 16


def map_fidelity(
    run: Path, *, images: int = 512, temperature: float = 4.0, observer: Observer | None = None
) -> dict[str, Any]:
    """Make the map of a finished run, and write it as ``fidelity.json`` in its folder.

    Args:
        run: its folder; it had a teacher, and kept ``training.checkpoints``, or its trained student alone is looked at.
        images: of the test split, evenly spread; all where it has no more.
        temperature: τ of all divergences.
        observer: told how it goes.

    Returns:
        What was written; docs/architecture.md says what is in it.

    Raises:
        BadInput: the run, its teacher, its data or an option cannot be used.
        RunFailed: what is measured is not finite.
    """
    if images < FEWEST:
        raise BadInput("--images", images, f"{FEWEST} or more")
    if not (temperature > 0 and np.isfinite(temperature)):
        raise BadInput("--temperature", temperature, "a number above 0")
    observer = observer or Observer()
    try:
        with exact_float32():
            subject = load_subject(run, observer)
            # As the run itself: other threads would give other last bits.
            with threads(subject.recipe.training.threads):
                measured = measure(subject, images=images, temperature=temperature)
        for skipped in measured.skipped:
            observer.note(f"no map connects {skipped}")
        content = _content(run, subject, measured, temperature)
    finally:
        observer.run_ended()
    write_json(run / NAME, content)
    return content


def _content(run: Path, subject: Subject, measured: Measured, temperature: float) -> dict[str, Any]:
    counts = resampled(measured.images, RESAMPLES, derive_seed(subject.recipe.seed, "bootstrap"))
    return {
        "schema": SCHEMA,
        "recipe_hash": read_json(run / "summary.json").get("recipe_hash"),
        "temperature": temperature,
        "images": measured.images,
        "fitted_on": measured.fitted,
        "ridge": RIDGE,
        "resamples": RESAMPLES,
        "checkpoints": [
            {"epoch": kept.epoch, "divergence": _rounded(float(each.mean()))}
            for kept, each in zip(subject.kept, measured.divergence, strict=True)
        ],
        "taps": [_tap(opposite, measured.divergence, counts) for opposite in measured.opposites],
    }


def _tap(opposite: Opposite, divergence: Doubles, counts: Doubles) -> dict[str, Any]:
    teacher, student, values = opposite.teacher, opposite.student, opposite.values
    gap = values[-1]
    of_gap, of_student = predictions(values, np.stack([gap, divergence]), counts)
    losses = AT_LOGITS if teacher.name == LOGITS else AT_TAP
    return {
        "teacher": teacher.name,
        "student": student.name,
        "depth": _rounded(teacher.depth),
        "kind": teacher.kind,
        "shape": list(teacher.shape),
        "drawn_classes": opposite.draws,
        "explained": [_rounded(share) for share in opposite.explained],
        "divergence": [_rounded(float(each.mean())) for each in gap],
        "members": [
            {
                "weighing": weighing,
                "loss": loss,
                "gap": _prediction(first, with_ratio=weighing in ON_SCALE_OF_KL),
                "student": _prediction(second, with_ratio=weighing in ON_SCALE_OF_KL),
            }
            for weighing, loss, first, second in zip(WEIGHINGS, losses, of_gap, of_student, strict=True)
        ],
    }


def _prediction(prediction: Prediction, *, with_ratio: bool) -> dict[str, Any]:
    return {
        "pooled": _correlation(prediction.pooled),
        "within": _correlation(prediction.within),
        "by_checkpoint": [_rounded(each) for each in prediction.by_checkpoint],
        "ratio": _rounded(prediction.ratio) if with_ratio else None,
    }


def _correlation(found: Correlation) -> dict[str, float | None]:
    return {"value": _rounded(found.value), "low": _rounded(found.low), "high": _rounded(found.high)}


def _rounded(value: float | None) -> float | None:
    """To six significant digits: what lies beyond them is the machine's rounding."""
    return None if value is None else float(f"{value:.6g}")
