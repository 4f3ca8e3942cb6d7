"""Checks of a recipe: none fires on a correct one, and each finds its own fault alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pytest
from torch import nn

from diagnose import setups
from diagnose.setups import Setup
from stillroom.diagnose.checks.teacher_changes import recalibrate
from stillroom.diagnose.recipe import CHECKS, diagnose_recipe
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.schema.diagnosis import Finding

pytestmark = pytest.mark.usefixtures("few_sizes")

IMAGES = 320
FEATURES = "losses=[{name: cross_entropy}, {name: feature_mse, taps: TAPS}]"


def found(setup: Setup, *checks: str) -> dict[str, Finding]:
    chosen = [check for check in CHECKS if not checks or check.id in checks]
    findings = diagnose_recipe(setup.recipe, images=IMAGES, components=setup.components(), checks=chosen)
    for finding in findings:
        json.dumps(asdict(finding), allow_nan=False)
        assert finding.threshold
    return {finding.check: finding for finding in findings}


def problems(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.verdict == "problem"}


def test_no_check_fires_on_a_correct_recipe(correct: Setup) -> None:
    findings = found(correct)
    assert {name: f.summary for name, f in findings.items() if f.needs_attention} == {}
    assert {name for name, f in findings.items() if f.verdict == "skipped"} == {"taps"}


@dataclass(frozen=True)
class Fault:
    """A fault, which check must find it, and what removes it where no recipe can.

    ``also`` lists checks that follow from it and report problems, too; ``may`` those that do so for some teachers.
    """

    check: str
    make: Callable[[Setup], Setup]
    verdict: str = "problem"
    repair: Callable[[Setup], Setup] | None = None
    name: str = ""
    also: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()


def _recalibrated(setup: Setup) -> Setup:
    def change(teacher: nn.Module) -> nn.Module:
        pipe = Preprocess(resolve_preprocess("half", channels=1, is_pixels=True))
        recalibrate(teacher, pipe(setup.data.train.images))
        return teacher

    return setup.with_teacher(change)


TABLE = [
    Fault(
        "teacher_logits",
        lambda p: p.with_teacher(lambda t: nn.Sequential(t, nn.Softmax(1))),
        repair=lambda p: p.with_teacher(lambda t: t[0]),
    ),
    Fault(
        "teacher_logits",
        lambda p: p.with_teacher(lambda t: nn.Sequential(t, nn.Sigmoid())),
        repair=lambda p: p.with_teacher(lambda t: t[0]),
        name="sigmoid",
    ),
    Fault("class_order", lambda p: p.with_teacher(setups.with_classes([3, 0, 1, 2, 9, 5, 4, 7, 8, 6]))),
    Fault(
        "class_order",
        lambda p: p.with_teacher(setups.with_classes([-1, 3, 0, 1, 2, -1, 9, 5, 4, 7, 8, 6])),
        name="wide",
    ),
    Fault("teacher_normalisation", lambda p: p.but("teacher.preprocess=none")),
    # Statistics of a batch would undo this one as well.
    Fault("teacher_normalisation", lambda p: p.but("teacher.preprocess={mean: [0.5], std: [0.25]}"), name="squares"),
    Fault("teacher_normalisation", lambda p: p.but("teacher.preprocess={mean: [0.9], std: [0.1]}"), name="shifted"),
    Fault(
        "teacher_channel_order",
        lambda p: (
            p.with_teacher(lambda t: setups.OneChannel(t, 2)).with_data(setups.coloured).but("student.preprocess=half")
        ),
    ),
    Fault("teacher_resize", lambda p: p.with_teacher(setups.FourTimesLarger)),
    Fault("teacher_batch_norm", lambda p: p.with_teacher(setups.drifted), repair=_recalibrated),
    Fault(
        "teacher_batch_norm",
        lambda p: p.with_teacher(setups.AlwaysTraining),
        repair=lambda p: p.with_teacher(lambda t: t.inner),
        name="training mode",
    ),
    Fault("teacher_accuracy", lambda p: p.with_teacher(setups.untrained)),
    Fault(
        "teacher_accuracy",
        lambda p: p.with_teacher(setups.RotatedInput),
        repair=lambda p: p.with_teacher(lambda t: t.inner),
        name="turned by a quarter",
        # At another size digits may look a little more alike upright and turned.
        may=frozenset({"teacher_resize"}),
    ),
    Fault("teacher_confidence", lambda p: p.with_teacher(setups.sharpened(4)).but("losses.kl.temperature=1")),
    Fault("temperature", lambda p: p.but("losses.kl.temperature=1000"), name="void"),
    Fault("temperature", lambda p: p.but("losses.kl.temperature=36"), "warning", name="high"),
    Fault(
        "loss_balance",
        lambda p: p.but("losses.cross_entropy.weight=1", "losses.kl.weight=300"),
        name="labels",
    ),
    Fault(
        "loss_balance",
        lambda p: p.but("losses.cross_entropy.weight=1", "losses.kl.weight=0.001"),
        name="teacher",
    ),
    Fault("learning_rate", lambda p: p.but("training.optimizer.lr=3"), name="rate"),
    Fault("learning_rate", lambda p: p.but("training.optimizer.weight_decay=0.05"), name="decay"),
    Fault(
        "learning_rate",
        lambda p: p.but("training.schedule={name: multi_step, milestones: [0.02, 0.04]}"),
        name="dropped at once",
    ),
    Fault("learning_rate", lambda p: p.but("training.clip_norm=0.001"), name="clipped"),
    Fault(
        "budget", lambda p: p.but("training.epochs=null", "training.steps=10"), also=frozenset({"student_statistics"})
    ),
    Fault("budget", lambda p: p.but("training.epochs=1"), name="one epoch"),
    Fault("regularisation", lambda p: p.but("training.ema=0.999")),
    Fault("augmentation", lambda p: p.but("data.augmentation.cutout=6")),
    Fault(
        "disputed_labels",
        lambda p: p.with_data(setups.mislabelled),
        repair=lambda p: Setup(p.content, p.teacher, setups.digits()),
    ),
    Fault("taps", lambda p: p.but(FEATURES.replace("TAPS", "[{teacher: layer3, student: layer1}]"))),
    Fault("penultimate_width", lambda p: p.but(FEATURES.replace("TAPS", "features"), "student.options.width=1")),
    Fault("penultimate_width", lambda p: p.but("student.options.penultimate=4"), name="logits"),
    Fault(
        "capacity_gap",
        lambda p: p.but("student={name: mlp, options: {hidden: [1]}}"),
        "warning",
        lambda p: p.but("student={name: mlp, options: {hidden: [16]}}"),
        also=frozenset({"penultimate_width"}),
    ),
]


@pytest.mark.parametrize("fault", TABLE, ids=lambda fault: f"{fault.check}-{fault.name}".strip("-"))
def test_each_fault_is_found_alone_and_its_remedy_removes_it(correct: Setup, fault: Fault) -> None:
    setup = fault.make(correct)
    findings = found(setup)
    finding = findings[fault.check]
    assert finding.verdict == fault.verdict, finding
    assert problems(findings) - {fault.check} - fault.may == fault.also
    assert finding.remedy is not None
    assert finding.remedy.words
    repaired = fault.repair(setup) if fault.repair else setup.but(*finding.remedy.arguments())
    after = found(repaired, fault.check)[fault.check]
    assert after.verdict in ("ok", "skipped"), after


def test_two_faults_that_hide_each_other_are_both_found(correct: Setup) -> None:
    other = setups.with_classes([3, 0, 1, 2, 9, 5, 4, 7, 8, 6])
    setup = correct.with_teacher(other).but("teacher.preprocess={mean: [-1], std: [0.1]}")
    findings = found(setup)
    assert problems(findings) == {"teacher_normalisation", "class_order"}
    remedy = findings["class_order"].remedy
    assert remedy is not None
    # One preprocess holds both remedies.
    assert remedy == replace(findings["teacher_normalisation"].remedy, words=remedy.words)
    assert problems(found(setup.but(*remedy.arguments()))) == set()


def test_a_smoothed_teacher_is_found(correct: Setup, smoothed: Setup) -> None:
    assert problems(found(smoothed)) == {"teacher_label_smoothing"}
    assert found(correct, "teacher_label_smoothing")["teacher_label_smoothing"].verdict == "ok"


def test_alternatives_are_compared_on_the_same_images(correct: Setup) -> None:
    """A change that gains nothing is given up after some images: its accuracy is then set beside that on these."""
    findings = found(correct.with_teacher(setups.RotatedInput), "teacher_normalisation", "teacher_resize")
    for finding in findings.values():
        evidence = finding.evidence
        images, after = evidence["images_of_alternatives"], evidence["alternatives"]
        assert set(images.values()) == {128, IMAGES} or set(images.values()) == {128}
        before = evidence["accuracy_on_the_same_images"]
        assert before.keys() == after.keys()
        (plot,) = finding.plots
        gains = dict(zip(plot.x, plot.y, strict=True))
        for name, count in images.items():
            assert gains[name] == pytest.approx(100 * (after[name] - before[name]), abs=0.02)
            assert after[name] * count == pytest.approx(round(after[name] * count), abs=0.05)
        if finding.verdict == "ok":
            best = max(gains, key=lambda name: gains[name])
            assert f"of {images[best]} images with {best}" in finding.summary
            assert "of the same images without" in finding.summary
