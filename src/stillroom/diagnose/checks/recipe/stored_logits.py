"""Check of logits that were stored elsewhere: whether each row belongs to the image in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillroom.diagnose.chance import ALPHA, lower_bound, mcnemar
from stillroom.diagnose.check import CheckResult, Limits, Skip, check, percent
from stillroom.diagnose.checks.recipe.context import CheckContext, is_constant
from stillroom.diagnose.checks.teacher_changes import GAIN
from stillroom.schema.diagnosis import Remedy, Verdict
from stillroom.wording import counted

# Places that rows may have moved by.
_SHIFTS = (-3, -2, -1, 1, 2, 3)
# Views that are looked at, and images of each.
_VIEWS, _OF_VIEW = 8, 256
UNSURE = Limits(
    warning=0.25,
    problem=0.3,
    why="confidence less accuracy: a teacher without any calibration is about ten points too sure of images like those "
    "of its training; with an accuracy near chance it is a problem",
)
EMPTY = Limits(1e-9, 0.01, "share of rows that give every class the same: a model does so for no image")
_CHANCE = 1.5


@check(
    threshold=(
        f"Problem: {EMPTY.problem:.0%} of the rows give every class the same (warning: one does); or the logits "
        f"{_SHIFTS[-1]} or fewer rows on are right for {percent(GAIN.problem)} more of the $images, beyond chance; or "
        f"they are sure of their classes, {UNSURE.problem:g} beyond their accuracy, and that is not above {_CHANCE:g} "
        f"times chance (99.9% bound). Warning: they are {UNSURE.warning:g} surer than they are right. Of training "
        "$images, each of the first views, and test $images."
    ),
    source="Logits that are stored by batch while the loader shuffles belong to other images.",
    limits=[EMPTY, UNSURE],
    problem="Stored logits of other $images",
    title="Rows of the stored logits",
)
def stale_answers(context: CheckContext) -> CheckResult:
    """Whether stored logits belong to the images in their places."""
    context.require_distillation()
    if context.stored is None:
        return CheckResult("ok", "The teacher is a model: its logits are computed from the $images themselves.")
    evidence: dict[str, Any] = {}
    words = (
        "Compute the logits again, $image by $image in the order of the inputs, from a loader that does not shuffle."
    )
    worst: CheckResult | None = None
    for what, logits, labels in _parts(context):
        for verdict, summary in _faults(context, what, logits, labels, evidence):
            if worst is None or (verdict == "problem" and worst.verdict == "warning"):
                worst = CheckResult(verdict, summary, evidence, Remedy(words))
    if worst is not None:
        return worst
    shares = [value for key, value in evidence.items() if key.startswith("accuracy of ")]
    return CheckResult("ok", f"The stored logits are right for {percent(shares[0])} of the training $images.", evidence)


def _parts(context: CheckContext) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The logits that are looked at: of which images, in the data's class order, with the labels."""
    assert context.stored is not None
    yield "training $images", context.stored_logits, context.sample.labels
    rows = context.stored_rows[:_OF_VIEW]
    for view in range(1, min(context.stored.views, _VIEWS)):
        logits = context.in_order(context.stored.logits(view, rows))
        yield f"training $images in view {view}", logits, context.sample.labels[: len(rows)]
    try:
        yield "test $images", context.stored_test_logits, context.test_sample.labels
    except Skip:
        return


def _faults(
    context: CheckContext, what: str, logits: Tensor, labels: Tensor, evidence: dict[str, Any]
) -> Iterator[tuple[Verdict, str]]:
    assert context.stored is not None
    count = len(labels)
    empty = float(is_constant(logits).double().mean())
    correct = logits.argmax(1) == labels
    right = int(correct.sum())
    confidence = float(logits.double().softmax(1).amax(1).mean())
    share = percent(right / count)
    evidence |= {f"accuracy of {what}": right / count, f"confidence on {what}": confidence}
    if empty:
        evidence[f"empty rows, {what}"] = empty
        summary = f"{percent(empty)} of the stored rows of {what} are empty: they give every class the same."
        yield EMPTY.at_least(empty), summary
        return
    shift = _shift(context, correct, labels) if what == "training $images" else None
    if shift is not None:
        evidence["shift"] = by = shift[0]
        rows, side = counted(abs(by), "row"), "late" if by > 0 else "early"
        yield (
            "problem",
            f"The stored logits stand {rows} too {side}: they are right for {share} of {count:,} training $images as "
            f"they are, for {percent(shift[1])} with the rows moved back.",
        )
        return
    chance = float(torch.bincount(labels).max()) / count
    too_sure = confidence - right / count
    level = f"The stored logits of {what} are sure of their classes ({percent(confidence)} on the mean) and right for"
    if too_sure >= UNSURE.problem and lower_bound(right, count) <= _CHANCE * chance:
        yield "problem", f"{level} {share} of {count:,}: they belong to other $images."
    elif too_sure >= UNSURE.warning:
        yield "warning", f"{level} only {share} of {count:,}: some may belong to other $images."


def _shift(context: CheckContext, correct: Tensor, labels: Tensor) -> tuple[int, float] | None:
    """By how many rows the logits stand too late, and the accuracy with that undone; None where that gains nothing."""
    assert context.stored is not None
    best = None
    for by in _SHIFTS:
        rows = np.clip(context.stored_rows + by, 0, context.stored.count - 1)
        now = context.in_order(context.stored.logits(0, rows)).argmax(1) == labels
        gained, lost = int((now & ~correct).sum()), int((correct & ~now).sum())
        share = float(now.double().mean())
        is_better = (gained - lost) / len(labels) >= GAIN.problem and mcnemar(gained, lost) < ALPHA / len(_SHIFTS)
        if is_better and (best is None or share > best[1]):
            best = (by, share)
    return best
