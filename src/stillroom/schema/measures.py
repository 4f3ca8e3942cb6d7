"""Measures of multi-label and regression outputs: pure functions of arrays, and the object that files hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stillroom.schema.base import JsonObject, NonNegative, Percent
from stillroom.tasks import TASK_INFO, Task

Array = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]


class MultiLabelMeasures(JsonObject):
    """Of a model of multi-label data; ``class_ap`` is null for a class without an image in the split."""

    task: Literal["multi_label"] = "multi_label"
    map: Percent
    macro_f1: Percent
    micro_f1: Percent
    bce: NonNegative
    class_ap: dict[str, Percent | None]


class RegressionMeasures(JsonObject):
    """Of a model of regression data."""

    task: Literal["regression"] = "regression"
    r2: Annotated[float, Field(le=1)]
    mae: NonNegative
    mse: NonNegative
    target_r2: dict[str, Annotated[float, Field(le=1)]]


TargetMeasures = Annotated[MultiLabelMeasures | RegressionMeasures, Field(discriminator="task")]


def figures_of(measures: MultiLabelMeasures | RegressionMeasures) -> dict[str, float]:
    """The measures that are one number, by name, the one that ranks models first.

    >>> figures_of(measure_outputs("regression", np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]), ["x"]))
    {'r2': -1.0, 'mae': 0.5, 'mse': 0.5}
    """
    return {measure.name: float(getattr(measures, measure.name)) for measure in TASK_INFO[measures.task].measures}


def measure_outputs(
    task: Task, outputs: Array, targets: Array, names: Sequence[str]
) -> MultiLabelMeasures | RegressionMeasures:
    """Measure outputs against targets, in double precision.

    Args:
        task: ``multi_label`` or ``regression``.
        outputs: logits of each class, or the numbers themselves, [N, K].
        targets: 0 or 1 of each class, or numbers, [N, K].
        names: of the K classes or targets.

    >>> logits, labels = np.array([[2.0, -1.0], [-1.0, 3.0]]), np.array([[1, 0], [0, 1]])
    >>> measure_outputs("multi_label", logits, labels, ["cat", "dog"]).map
    100.0
    """
    z, y = outputs.astype(np.float64), targets.astype(np.float64)
    if task == "regression":
        error = z - y
        explained = 1 - (error**2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
        return RegressionMeasures(
            r2=float(explained.mean()),
            mae=float(np.abs(error).mean()),
            mse=float((error**2).mean()),
            target_r2={name: float(value) for name, value in zip(names, explained, strict=True)},
        )
    precision = [average_precision(z[:, k], y[:, k]) for k in range(z.shape[1])]
    known = [each for each in precision if each is not None]
    yes = z > 0
    both, sizes = (yes * y).sum(0), yes.sum(0) + y.sum(0)
    f1 = 2 * both / np.maximum(sizes, 1)
    return MultiLabelMeasures(
        map=min(100 * float(np.mean(known)), 100.0),
        macro_f1=100 * float(f1.mean()),
        micro_f1=100 * float(2 * both.sum() / max(sizes.sum(), 1)),
        # log(1 + e^z) − y·z, without overflow.
        bce=float((np.logaddexp(0, z) - y * z).mean()),
        class_ap={
            name: None if each is None else min(100 * each, 100.0) for name, each in zip(names, precision, strict=True)
        },
    )


def average_precision(scores: Array, positive: Array) -> float | None:
    """Average precision Σ_n (R_n − R_{n−1})·P_n over the thresholds, in [0, 1]; None without a positive.

    Equal scores are one threshold, so the order of images does not matter.

    >>> average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order] > 0)
    if not hits.size or not hits[-1]:
        return None
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    recall = hits[ends] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * hits[ends] / (ends + 1)).sum())


def compare_outputs(task: Task, student: Array, teacher: Array) -> dict[str, float]:
    """How close a student's outputs are to its teacher's, [N, K] each; the names are those of the task's ``compared``.

    >>> compare_outputs("regression", np.array([[1.0]]), np.array([[3.0]]))
    {'teacher_mae': 2.0}
    """
    z, t = student.astype(np.float64), teacher.astype(np.float64)
    if task == "regression":
        return {"teacher_mae": float(np.abs(z - t).mean())}
    p = np.exp(-np.logaddexp(0, -t))
    # KL(p‖q) = p·(t − z) + log(1 + e^z) − log(1 + e^t).
    divergence = p * (t - z) + np.logaddexp(0, z) - np.logaddexp(0, t)
    return {"agreement": 100 * float(((z > 0) == (t > 0)).mean()), "teacher_kl": max(float(divergence.mean()), 0.0)}


def why_not_measurable(task: Task, targets: Array, names: Sequence[str]) -> str:
    """Why no model can be measured on a split; empty where one can.

    >>> why_not_measurable("regression", np.array([[1.0, 2.0], [1.0, 3.0]]), ["a", "b"])
    "a target that is not constant: 'a' is the same for all 2 $images, and its R² is undefined"
    """
    if task == "regression":
        constant = np.flatnonzero(targets.max(0) == targets.min(0))
        if constant.size:
            which = f"{names[constant[0]]!r} is the same for all {len(targets)} $images"
            return f"a target that is not constant: {which}, and its R² is undefined"
    if task == "multi_label" and not targets.any():
        return f"at least one $image with a class: all of the {len(targets)} $images have none"
    return ""


def chance_level(task: Task, targets: Array) -> float:
    """The first measure of a model that gives each image the same: R² of 0, or mAP as large as classes are frequent.

    >>> chance_level("multi_label", np.array([[1.0, 0.0], [0.0, 0.0]]))
    50.0
    """
    if task == "regression":
        return 0.0
    frequency = targets.mean(0)
    return 100 * float(frequency[frequency > 0].mean()) if (frequency > 0).any() else 0.0


def image_losses(task: Task, outputs: Array, targets: Array) -> Doubles:
    """Loss of each image, mean over its K outputs: squared error, or binary cross-entropy in nats, float64 [N].

    >>> image_losses("regression", np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]])).tolist()
    [2.0]
    """
    z, y = outputs.astype(np.float64), targets.astype(np.float64)
    return np.asarray(((z - y) ** 2 if task == "regression" else np.logaddexp(0, z) - y * z).mean(1))
