"""Faults of runs, one at a time: the run, the check that must find it, what its remedy must change."""

from __future__ import annotations

import numpy as np

from diagnose.run_folders import CLASSES, COUNT, KL, LABELS, FakeRun, falling, guesses, level, power, spike

ALONE = ({"name": "cross_entropy", "weight": 1.0},)
AT_CHANCE = np.zeros(COUNT, np.int64)
HELD = {"cross_entropy": level(0.9), "kl": level(5.0)}
WEAK = guesses(0.7, seed=3)


def lost_class(which: int, accuracy: float) -> np.ndarray:
    """Answers that are good but for one class."""
    answers = guesses(0.92, seed=1)
    rows = np.flatnonzero(which == LABELS)
    answers[rows] = which
    answers[rows[round(len(rows) * accuracy) :]] = (which + 1) % CLASSES
    return answers


def following(teacher: np.ndarray, share: float) -> np.ndarray:
    """A student that says what its teacher says of this share of the images, and is right on the others."""
    answers = LABELS.copy()
    rows = np.random.default_rng(5).permutation(COUNT)[: round(COUNT * share)]
    answers[rows] = teacher[rows]
    return answers


WRONG_TEACHER = guesses(0.72, seed=4, after=5)
# The run; the check that must report a problem; a key that its remedy changes, and to what.
FAULTS: dict[str, tuple[FakeRun, str, str | None, object]] = {
    "blew up": (
        FakeRun(
            loss_curves={"cross_entropy": spike(2.4, 90.0, 2.6), "kl": spike(12, 900, 13)}, student=AT_CHANCE, rate=5.0
        ),
        "diverged",
        "training.optimizer.lr",
        0.1,
    ),
    "never left chance": (
        FakeRun(loss_curves={"cross_entropy": level(2.4), "kl": level(12)}, student=AT_CHANCE, confidence=0.101),
        "diverged",
        "training.optimizer.lr",
        0.01,
    ),
    "did not come back": (
        FakeRun(loss_curves={"cross_entropy": spike(2.4, 20.0, 9.0), "kl": spike(12, 100, 60)}, student=WEAK),
        "diverged",
        "training.clip_norm",
        1.0,
    ),
    "weights of three hundred": (
        FakeRun(
            losses=({"name": "cross_entropy"}, {"name": "kl", "weight": 300, "temperature": 4.0}),
            loss_curves={"cross_entropy": spike(2.4, 90.0, 2.6), "kl": spike(12, 900, 13)},
            student=AT_CHANCE,
        ),
        "diverged",
        "losses.kl.weight",
        1.0,
    ),
    "stopped while it blew up": (
        FakeRun(
            loss_curves={"cross_entropy": spike(2.4, 90.0, 90.0), "kl": spike(12, 900, 900)}, done=0.4, finished=False
        ),
        "diverged",
        "training.optimizer.lr",
        0.01,
    ),
    "too short": (
        FakeRun(loss_curves={"cross_entropy": power(2.4, 0.3), "kl": power(12, 0.3)}, student=WEAK, confidence=0.7),
        "under_training",
        "training.epochs",
        60,
    ),
    "one epoch": (
        FakeRun(loss_curves={"cross_entropy": level(2.2), "kl": level(11)}, student=WEAK, confidence=0.7, epochs=1),
        "under_training",
        "training.epochs",
        10,
    ),
    "short in steps": (
        FakeRun(
            loss_curves={"cross_entropy": power(2.4, 0.3), "kl": power(12, 0.3)},
            student=WEAK,
            confidence=0.7,
            training={"epochs": None, "steps": 600},
        ),
        "under_training",
        "training.steps",
        1200,
    ),
    "too low a rate": (
        FakeRun(
            loss_curves={"cross_entropy": power(2.4, 0.3), "kl": power(12, 0.3)},
            student=WEAK,
            confidence=0.7,
            rate=0.0005,
        ),
        "under_training",
        "training.optimizer.lr",
        0.005,
    ),
    "average longer than the run": (
        FakeRun(student=AT_CHANCE, confidence=0.101, training={"ema": 0.9995}),
        "over_regularising",
        "training.ema",
        None,
    ),
    "short and decayed": (
        FakeRun(
            loss_curves={"cross_entropy": power(2.4, 0.3), "kl": power(12, 0.3)},
            student=WEAK,
            confidence=0.7,
            training={"optimizer": {"lr": 0.1, "weight_decay": 0.2}},
        ),
        "over_regularising",
        "training.optimizer.weight_decay",
        0.0005,
    ),
    "tiny teacher weight, errors copied": (
        FakeRun(
            losses=({"name": "cross_entropy"}, {"name": "kl", "weight": 0.0005, "temperature": 4.0}),
            student=guesses(0.94, seed=2, after=5),
        ),
        "kd_ignored",
        "losses.kl.weight",
        0.9,
    ),
    "rate dropped early": (
        FakeRun(
            loss_curves={"cross_entropy": level(2.3), "kl": level(11.5)},
            student=AT_CHANCE,
            confidence=0.101,
            training={"schedule": {"name": "multi_step", "milestones": [0.01, 0.02]}},
        ),
        "under_training",
        "training.schedule",
        {"name": "one_cycle"},
    ),
    "teacher scheduled too late": (
        FakeRun(
            losses=(
                {"name": "cross_entropy"},
                {"name": "kl", "weight": {"start": 0, "end": 0.9, "begin": 0.98, "until": 1}, "temperature": 4.0},
            ),
            student=guesses(0.94, seed=2, after=5),
        ),
        "kd_ignored",
        None,
        None,
    ),
    "rate far too low": (
        FakeRun(loss_curves={"cross_entropy": level(2.25), "kl": level(11)}, student=WEAK, confidence=0.7, rate=0.0005),
        "under_training",
        "training.optimizer.lr",
        0.005,
    ),
    "at chance with a rate of three": (
        FakeRun(
            loss_curves={"cross_entropy": level(2.303), "kl": level(12)},
            student=AT_CHANCE,
            confidence=0.101,
            training={"optimizer": {"lr": 3.0, "weight_decay": 5e-4}},
        ),
        "diverged",
        "training.optimizer.lr",
        0.1,
    ),
    "heavy cutout, disguised": (
        FakeRun(
            loss_curves={"cross_entropy": power(8.0, 0.25), "kl": power(40, 0.25)},
            student=WEAK,
            confidence=0.7,
            augmentation={"cutout": 24},
        ),
        "over_regularising",
        "data.augmentation.cutout",
        8,
    ),
    "weight decay of a half": (
        FakeRun(
            loss_curves=HELD, student=WEAK, confidence=0.7, training={"optimizer": {"lr": 0.1, "weight_decay": 0.5}}
        ),
        "over_regularising",
        "training.optimizer.weight_decay",
        0.0005,
    ),
    "held at chance by weight decay": (
        FakeRun(
            loss_curves={"cross_entropy": level(2.303), "kl": level(12)},
            student=AT_CHANCE,
            confidence=0.101,
            training={"optimizer": {"lr": 0.1, "weight_decay": 0.5}},
        ),
        "over_regularising",
        "training.optimizer.weight_decay",
        0.0005,
    ),
    "most units dropped": (
        FakeRun(
            loss_curves={"cross_entropy": level(2.303), "kl": level(12)},
            student=AT_CHANCE,
            confidence=0.101,
            options={"dropout": 0.9},
        ),
        "over_regularising",
        "student.options.dropout",
        0.1,
    ),
    "smoothed by nine tenths": (
        FakeRun(
            losses=({"name": "label_smoothing", "smoothing": 0.9}, {"name": "kl", "weight": 0.1}),
            loss_curves={"label_smoothing": level(2.5), "kl": level(16)},
            student=WEAK,
            confidence=0.7,
        ),
        "over_regularising",
        "losses.label_smoothing.smoothing",
        0.1,
    ),
    "moving average too long": (
        FakeRun(loss_curves=HELD, student=WEAK, confidence=0.7, training={"ema": 0.999}),
        "over_regularising",
        "training.ema",
        None,
    ),
    "half of the image cut out": (
        FakeRun(loss_curves=HELD, student=WEAK, confidence=0.7, augmentation={"pad_crop": 4, "cutout": 24}),
        "over_regularising",
        "data.augmentation.cutout",
        8,
    ),
    "overfitted": (
        FakeRun(
            loss_curves={"cross_entropy": falling(2.4, 0.002), "kl": falling(12, 0.5)},
            student=guesses(0.8, seed=3),
            confidence=0.8,
            augmentation={},
        ),
        "over_fitting",
        "data.augmentation.pad_crop",
        4,
    ),
    "overfitted without decay": (
        FakeRun(
            loss_curves={"cross_entropy": falling(2.4, 0.002), "kl": falling(12, 0.5)},
            student=guesses(0.8, seed=3),
            confidence=0.8,
            training={"optimizer": {"lr": 0.1, "weight_decay": 0.0}},
        ),
        "over_fitting",
        "training.optimizer.weight_decay",
        0.0005,
    ),
    "test loss rose": (
        FakeRun(
            loss_curves={"cross_entropy": falling(2.4, 0.05), "kl": falling(12, 0.5)},
            test={"nll": lambda part: 0.5 if part < 0.4 else 0.5 + part},
            student=guesses(0.8, seed=3),
            confidence=0.8,
        ),
        "over_fitting",
        None,
        None,
    ),
    "tiny teacher weight": (
        FakeRun(losses=({"name": "cross_entropy"}, {"name": "kl", "weight": 0.0005, "temperature": 4.0})),
        "kd_ignored",
        "losses.kl.weight",
        0.9,
    ),
    "came no closer": (
        FakeRun(loss_curves={"cross_entropy": falling(2.4, 0.25), "kl": level(12)}),
        "kd_ignored",
        None,
        None,
    ),
    "copies a poor teacher": (
        FakeRun(teacher=WRONG_TEACHER, student=following(WRONG_TEACHER, 0.99), confidence=0.73),
        "labels_drowned",
        "losses.cross_entropy.weight",
        0.5,
    ),
    "tiny label weight": (
        FakeRun(
            losses=({"name": "cross_entropy", "weight": 0.001}, KL[1]),
            student=guesses(0.86, seed=3),
            confidence=0.86,
        ),
        "labels_drowned",
        "losses.kl.weight",
        0.5,
    ),
    "errors copied": (
        FakeRun(teacher=WRONG_TEACHER, student=following(WRONG_TEACHER, 0.99), confidence=0.73),
        "teacher_errors_copied",
        "losses.cross_entropy.weight",
        0.5,
    ),
    "better than its teacher": (
        FakeRun(teacher=guesses(0.85, seed=2, after=5)),
        "student_at_teacher",
        "losses",
        [{"name": "cross_entropy"}],
    ),
    "too confident a teacher": (
        FakeRun(rescaling=(1.0, 0.97, 0.9, 0.8)),
        "rescaling_gone",
        "losses.kl.temperature",
        8.0,
    ),
    "underconfident": (FakeRun(confidence=0.6), "miscalibrated", None, None),
    "one class lost": (FakeRun(student=lost_class(3, 0.3)), "worse_classes", None, None),
}
