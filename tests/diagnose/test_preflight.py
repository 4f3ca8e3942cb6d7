"""Checks before a run: quiet on a healthy recipe, and each of them sick on its own sickness alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from torch import nn

from diagnose import patients
from diagnose.patients import BASE, Patient
from stillroom.diagnose.checks.recipe.alternatives import recalibrate
from stillroom.diagnose.checks.recipe.checks import CHECKS
from stillroom.diagnose.finding import Finding
from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.models.preprocess import Preprocess, resolve_preprocess

IMAGES = 320
FEATURES = "losses=[{name: cross_entropy}, {name: feature_mse, taps: TAPS}]"


@pytest.fixture(scope="module")
def healthy() -> Patient:
    return Patient(BASE, patients.trained(0.0), patients.digits())


@pytest.fixture(scope="module")
def smoothed(healthy: Patient) -> Patient:
    return Patient(BASE, patients.trained(0.2), healthy.data)


def found(patient: Patient, *checks: str) -> dict[str, Finding]:
    chosen = [check for check in CHECKS if not checks or check.name in checks]
    findings = diagnose_recipe(patient.recipe, images=IMAGES, components=patient.components(), checks=chosen)
    for finding in findings:
        json.dumps(finding.as_dict(), allow_nan=False)
        assert finding.threshold
    return {finding.check: finding for finding in findings}


def sick(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.verdict == "problem"}


@pytest.fixture(scope="module")
def baseline(healthy: Patient) -> dict[str, Finding]:
    return found(healthy)


def test_a_healthy_recipe_is_left_in_peace(baseline: dict[str, Finding]) -> None:
    assert {name: f.summary for name, f in baseline.items() if f.verdict in ("problem", "warning")} == {}
    assert {name for name, f in baseline.items() if f.verdict == "skipped"} == {"taps"}


@dataclass(frozen=True)
class Planted:
    """A sickness: how it is planted, which check must see it, and what mends it where no recipe can.

    ``also`` are the checks that must see it too, ``maybe`` those that may.
    """

    check: str
    plant: Callable[[Patient], Patient]
    verdict: str = "problem"
    mended: Callable[[Patient], Patient] | None = None
    name: str = ""
    also: frozenset[str] = frozenset()
    maybe: frozenset[str] = frozenset()


def _recalibrated(patient: Patient) -> Patient:
    def change(teacher: nn.Module) -> nn.Module:
        pipe = Preprocess(resolve_preprocess("half", channels=1, is_pixels=True))
        recalibrate(teacher, pipe(patient.data.train.images))
        return teacher

    return patient.with_teacher(change)


TABLE = [
    Planted(
        "teacher_logits",
        lambda p: p.with_teacher(lambda t: nn.Sequential(t, nn.Softmax(1))),
        mended=lambda p: p.with_teacher(lambda t: t[0]),
    ),
    Planted(
        "teacher_logits",
        lambda p: p.with_teacher(lambda t: nn.Sequential(t, nn.Sigmoid())),
        mended=lambda p: p.with_teacher(lambda t: t[0]),
        name="sigmoid",
    ),
    Planted("class_order", lambda p: p.with_teacher(patients.with_classes([3, 0, 1, 2, 9, 5, 4, 7, 8, 6]))),
    Planted(
        "class_order",
        lambda p: p.with_teacher(patients.with_classes([-1, 3, 0, 1, 2, -1, 9, 5, 4, 7, 8, 6])),
        name="wide",
    ),
    Planted("teacher_normalisation", lambda p: p.but("teacher.preprocess=none")),
    # Statistics of a batch would undo this one as well.
    Planted("teacher_normalisation", lambda p: p.but("teacher.preprocess={mean: [0.5], std: [0.25]}"), name="squares"),
    Planted("teacher_normalisation", lambda p: p.but("teacher.preprocess={mean: [0.9], std: [0.1]}"), name="shifted"),
    Planted(
        "teacher_channel_order",
        lambda p: (
            p.with_teacher(lambda t: patients.Channel(t, 2)).with_data(patients.coloured).but("student.preprocess=half")
        ),
    ),
    Planted("teacher_resize", lambda p: p.with_teacher(patients.Quartered)),
    Planted("teacher_batch_norm", lambda p: p.with_teacher(patients.drifted), mended=_recalibrated),
    Planted(
        "teacher_batch_norm",
        lambda p: p.with_teacher(patients.Training),
        mended=lambda p: p.with_teacher(lambda t: t.inner),
        name="training mode",
    ),
    Planted("teacher_accuracy", lambda p: p.with_teacher(patients.forgetful)),
    Planted(
        "teacher_accuracy",
        lambda p: p.with_teacher(patients.Turned),
        mended=lambda p: p.with_teacher(lambda t: t.inner),
        name="lying on their side",
        # Digits twice as large may by chance be a little more alike upright and on their side.
        maybe=frozenset({"teacher_resize"}),
    ),
    Planted("teacher_confidence", lambda p: p.with_teacher(patients.louder(4)).but("losses.kl.temperature=1")),
    Planted("temperature", lambda p: p.but("losses.kl.temperature=1000"), name="void"),
    Planted("temperature", lambda p: p.but("losses.kl.temperature=32"), "warning", name="high"),
    Planted(
        "loss_balance",
        lambda p: p.but("losses.cross_entropy.weight=1", "losses.kl.weight=300"),
        name="drowned",
    ),
    Planted(
        "loss_balance",
        lambda p: p.but("losses.cross_entropy.weight=1", "losses.kl.weight=0.001"),
        name="starved",
    ),
    Planted("learning_rate", lambda p: p.but("training.optimizer.lr=3"), name="rate"),
    Planted("learning_rate", lambda p: p.but("training.optimizer.weight_decay=0.05"), name="decay"),
    Planted(
        "learning_rate",
        lambda p: p.but("training.schedule={name: multi_step, milestones: [0.02, 0.04]}"),
        name="dropped at once",
    ),
    Planted("learning_rate", lambda p: p.but("training.clip_norm=0.001"), name="clipped"),
    Planted("budget", lambda p: p.but("training.epochs=null", "training.steps=10")),
    Planted("budget", lambda p: p.but("training.epochs=1"), name="one epoch"),
    Planted("regularisation", lambda p: p.but("training.ema=0.999")),
    Planted("augmentation", lambda p: p.but("data.augmentation.cutout=6")),
    Planted(
        "disputed_labels",
        lambda p: p.with_data(patients.mislabelled),
        mended=lambda p: Patient(p.content, p.teacher, patients.digits()),
    ),
    Planted("taps", lambda p: p.but(FEATURES.replace("TAPS", "[{teacher: layer3, student: layer1}]"))),
    Planted("penultimate_width", lambda p: p.but(FEATURES.replace("TAPS", "features"), "student.options.width=1")),
    Planted("penultimate_width", lambda p: p.but("student.options.penultimate=4"), name="logits"),
    Planted(
        "capacity_gap",
        lambda p: p.but("student={name: mlp, options: {hidden: [1]}}"),
        "warning",
        lambda p: p.but("student={name: mlp, options: {hidden: [16]}}"),
        also=frozenset({"penultimate_width"}),
    ),
]


@pytest.mark.parametrize("planted", TABLE, ids=lambda planted: f"{planted.check}-{planted.name}".strip("-"))
def test_each_sickness_is_found_alone_and_mended(
    healthy: Patient, baseline: dict[str, Finding], planted: Planted
) -> None:
    patient = planted.plant(healthy)
    findings = found(patient)
    finding = findings[planted.check]
    assert finding.verdict == planted.verdict, finding
    assert sick(findings) - {planted.check} - planted.maybe == planted.also
    assert finding.remedy is not None
    assert finding.remedy.words
    mended = planted.mended(patient) if planted.mended else patient.but(*finding.remedy.arguments())
    after = found(mended, planted.check)[planted.check]
    assert after.verdict in ("ok", "skipped"), after


def test_two_sicknesses_that_hide_each_other_are_both_found(healthy: Patient) -> None:
    other = patients.with_classes([3, 0, 1, 2, 9, 5, 4, 7, 8, 6])
    patient = healthy.with_teacher(other).but("teacher.preprocess={mean: [-1], std: [0.1]}")
    findings = found(patient)
    assert sick(findings) == {"teacher_normalisation", "class_order"}
    remedy = findings["class_order"].remedy
    assert remedy is not None
    # One preprocess holds both remedies.
    assert remedy == replace(findings["teacher_normalisation"].remedy, words=remedy.words)
    assert sick(found(patient.but(*remedy.arguments()))) == set()


def test_a_smoothed_teacher_is_told_from_another(healthy: Patient, smoothed: Patient) -> None:
    findings = found(smoothed)
    assert sick(findings) == {"teacher_label_smoothing"}
    assert found(healthy, "teacher_label_smoothing")["teacher_label_smoothing"].verdict == "ok"
