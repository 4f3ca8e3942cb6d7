"""The depth × fidelity map of a finished run, written as ``fidelity.json``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stillroom.errors import BadInput
from stillroom.models.reader import LOGITS
from stillroom.observer import Observer
from stillroom.randomness import derive_seed
from stillroom.run.components import RunObjects
from stillroom.run.fidelity.measure import AT_LOGITS, AT_TAP, RIDGE, Doubles, TapPairValues, load_run, measure
from stillroom.run.fidelity.statistics import predictions, resampled
from stillroom.schema.base import six_digits, six_digits_or_none, write
from stillroom.schema.fidelity import (
    FIDELITY,
    WEIGHINGS,
    Fidelity,
    FidelityCheckpoint,
    FidelityMember,
    FidelityTap,
    MemberPrediction,
    RankCorrelation,
    Weighing,
)
from stillroom.train.device import exact_float32, threads

RESAMPLES = 500
# Fewer would rank by chance.
FEWEST = 16
# Those in units of the divergence: the identity has units of its own.
_ON_SCALE_OF_KL: tuple[Weighing, ...] = ("diagonal", "full", "exact")


def map_fidelity(
    run: Path,
    *,
    images: int = 512,
    temperature: float = 4.0,
    observer: Observer | None = None,
    objects: RunObjects | None = None,
    teacher: str | None = None,
) -> Fidelity:
    """Make the map of a finished run, and write it as ``fidelity.json`` in its folder.

    Args:
        run: its folder; it had a teacher, and kept ``training.checkpoints``, or its trained student alone is looked at.
        images: of the test split, evenly spread; all where it has no more.
        temperature: τ of all divergences.
        observer: shows how it goes.
        objects: of a run made in Python, what its recipe cannot make again.
        teacher: which of several teachers, by its name; left out: the most accurate.

    Returns:
        What was written.

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
            loaded = load_run(run, observer, objects, teacher)
            # As the run itself: other threads would give other last bits.
            with threads(loaded.recipe.training.threads):
                values = measure(loaded, images=images, temperature=temperature)
        for skipped in values.skipped:
            observer.note(f"no map connects {skipped}")
        counts = resampled(values.images, RESAMPLES, derive_seed(loaded.recipe.seed, "bootstrap"))
        fidelity = Fidelity(
            recipe_hash=loaded.recipe_hash,
            teacher=loaded.teacher_name,
            temperature=float(temperature),
            images=values.images,
            fitted_on=values.fitted,
            ridge=RIDGE,
            resamples=RESAMPLES,
            checkpoints=tuple(
                FidelityCheckpoint(epoch=checkpoint.epoch, divergence=six_digits(float(each.mean())))
                for checkpoint, each in zip(loaded.checkpoints, values.divergence, strict=True)
            ),
            taps=tuple(_tap(pair, values.divergence, counts) for pair in values.pairs),
        )
    finally:
        observer.run_ended()
    write(run / FIDELITY, fidelity)
    return fidelity


def _tap(pair: TapPairValues, divergence: Doubles, counts: Doubles) -> FidelityTap:
    gap = pair.values[-1]
    of_gap, of_student = predictions(pair.values, np.stack([gap, divergence]), counts)
    losses = AT_LOGITS if pair.teacher.name == LOGITS else AT_TAP
    return FidelityTap(
        teacher=pair.teacher.name,
        student=pair.student.name,
        depth=six_digits(pair.teacher.depth),
        kind=pair.teacher.kind,
        shape=tuple(pair.teacher.shape),
        drawn_classes=pair.draws,
        explained=tuple(six_digits(share) for share in pair.explained),
        divergence=tuple(six_digits(float(each.mean())) for each in gap),
        members=tuple(
            FidelityMember(
                weighing=weighing,
                loss=loss,
                gap=_round(first, with_ratio=weighing in _ON_SCALE_OF_KL),
                student=_round(second, with_ratio=weighing in _ON_SCALE_OF_KL),
            )
            for weighing, loss, first, second in zip(WEIGHINGS, losses, of_gap, of_student, strict=True)
        ),
    )


def _round(prediction: MemberPrediction, *, with_ratio: bool) -> MemberPrediction:
    pooled, within = (
        RankCorrelation(**{name: six_digits_or_none(value) for name, value in found})
        for found in (prediction.pooled, prediction.within)
    )
    return MemberPrediction(
        pooled=pooled,
        within=within,
        by_checkpoint=tuple(six_digits_or_none(each) for each in prediction.by_checkpoint),
        ratio=six_digits_or_none(prediction.ratio) if with_ratio else None,
    )
