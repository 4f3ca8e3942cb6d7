"""One row an objective, and the identities that tie the KL family together."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectives.tester import Lesson, ObjectiveTester, random_lesson, said
from stillroom.objectives import functional
from stillroom.objectives.features import FeatureMSE
from stillroom.objectives.functional.logits import one_minus
from stillroom.objectives.labels import CrossEntropy, LabelSmoothing
from stillroom.objectives.logits import KL, LogitFisher, LogitMSE
from stillroom.objectives.registry import BUILT_IN

GOLDENS = Path(__file__).parent.parent / "goldens"


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    shares = [math.exp(v - top) for v in row]
    return [s / sum(shares) for s in shares]


def rows(lesson: Lesson) -> list[tuple[list[float], list[float], int]]:
    return list(
        zip(lesson.student.logits.tolist(), lesson.teacher_logits.tolist(), lesson.labels.tolist(), strict=True)
    )


def plain_label_smoothing(lesson: Lesson, options: dict[str, Any]) -> float:
    s = options.get("smoothing", 0.1)
    total = 0.0
    for student, _, label in rows(lesson):
        q = softmax(student)
        total += sum(-((1 - s) * (k == label) + s / len(q)) * math.log(q[k]) for k in range(len(q)))
    return total / len(lesson.labels)


def plain_cross_entropy(lesson: Lesson, options: dict[str, Any]) -> float:
    return plain_label_smoothing(lesson, {"smoothing": 0.0})


def plain_kl(lesson: Lesson, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    total = 0.0
    for student, teacher, _ in rows(lesson):
        q, p = softmax([v / tau for v in student]), softmax([v / tau for v in teacher])
        total += tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(lesson.labels)


def plain_logit_mse(lesson: Lesson, options: dict[str, Any]) -> float:
    total = 0.0
    for student, teacher, _ in rows(lesson):
        gap = [a - b for a, b in zip(student, teacher, strict=True)]
        mean = sum(gap) / len(gap) if options.get("centred") else 0.0
        total += sum((g - mean) ** 2 for g in gap) / len(gap)
    return total / len(lesson.labels)


def plain_logit_fisher(lesson: Lesson, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 1.0)
    total = 0.0
    for student, teacher, _ in rows(lesson):
        gap = np.array(student) - np.array(teacher)
        p = np.array(softmax([v / tau for v in teacher]))
        fisher = np.diag(p) - np.outer(p, p)
        if options.get("diagonal"):
            gap = gap - gap.mean()
            fisher = np.diag(np.diag(fisher))
        total += 0.5 * gap @ fisher @ gap
    return float(total / len(lesson.labels))


def plain_feature_mse(lesson: Lesson, options: dict[str, Any]) -> float:
    total = 0.0
    pairs = zip(said(lesson.student, "features").tolist(), said(lesson.teacher, "features").tolist(), strict=True)
    for student, teacher in pairs:
        total += sum((a - b) ** 2 for a, b in zip(student, teacher, strict=True)) / len(teacher)
    return total / len(lesson.labels)


NOT_THE_TEACHERS = {"minimum": "it reads the labels, not the teacher"}


class TestCrossEntropy(ObjectiveTester):
    objective = CrossEntropy
    reference = plain_cross_entropy
    not_held = {**NOT_THE_TEACHERS, "paper": "older than papers on it"}


class TestLabelSmoothing(ObjectiveTester):
    objective = LabelSmoothing
    variants = [{}, {"smoothing": 0.0}, {"smoothing": 0.5}, {"smoothing": 1.0}]
    reference = plain_label_smoothing
    not_held = NOT_THE_TEACHERS


class TestKL(ObjectiveTester):
    objective = KL
    variants = [{}, {"temperature": 1.0}, {"temperature": 20.0}]
    reference = plain_kl


class TestLogitMSE(ObjectiveTester):
    objective = LogitMSE
    variants = [{}, {"centred": True}]
    reference = plain_logit_mse


class TestLogitFisher(ObjectiveTester):
    objective = LogitFisher
    variants = [{}, {"temperature": 4.0}, {"diagonal": True}, {"diagonal": True, "temperature": 4.0}]
    reference = plain_logit_fisher


class TestFeatureMSE(ObjectiveTester):
    objective = FeatureMSE
    answer = "features"
    # A connector that learns is worked by hand in test_features.py.
    variants = [{"connector": "identity"}, {"connector": "identity", "taps": ["features"]}]
    reference = plain_feature_mse


def test_every_built_in_objective_has_a_row() -> None:
    tested = {row.objective for row in ObjectiveTester.__subclasses__()}
    assert tested == set(BUILT_IN)


def golden_pair() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(GOLDENS / "objectives.npz", allow_pickle=False) as inputs:
        return torch.from_numpy(inputs["student_logits"]), torch.from_numpy(inputs["teacher_logits"])


@pytest.mark.parametrize(("name", "temperature"), [("kl_t1", 1.0), ("kl_t4", 4.0), ("kl_t20", 20.0)])
def test_kl_equals_its_golden_value(name: str, temperature: float) -> None:
    expected = json.loads((GOLDENS / "objectives.json").read_text())[name]
    assert functional.kl(*golden_pair(), temperature=temperature).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_minus_its_second_order_falls_as_the_cube_of_the_gap(temperature: float) -> None:
    lesson = random_lesson(classes=7)
    teacher = lesson.teacher_logits
    # A fixed direction, and small steps: along some, the cube's coefficient is small beside the next order's.
    direction = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0), dtype=teacher.dtype)
    rest = []
    for size in (0.01, 0.005, 0.0025):
        student = teacher + size * direction
        exact = functional.kl(student, teacher, temperature=temperature)
        rest.append(abs(exact - functional.logit_fisher(student, teacher, temperature=temperature)).item())
    assert rest[0] / rest[1] == pytest.approx(8, rel=0.25)
    assert rest[1] / rest[2] == pytest.approx(8, rel=0.15)


def test_centred_mse_is_twice_the_limit_of_kl_at_a_high_temperature() -> None:
    lesson = random_lesson(classes=100)
    student, teacher = lesson.student.logits, lesson.teacher_logits
    ratio = functional.kl(student, teacher, temperature=1e4) / functional.logit_mse(student, teacher, centred=True)
    assert ratio.item() == pytest.approx(0.5, rel=1e-3)
    plain = functional.kl(student + 3, teacher, temperature=1e4) / functional.logit_mse(student + 3, teacher)
    assert abs(plain.item() - 0.5) > 0.05, "uncentred MSE is not this limit"


def test_a_constant_added_to_all_logits_costs_nothing_except_in_plain_mse() -> None:
    lesson = random_lesson()
    student, teacher = lesson.student.logits, lesson.teacher_logits
    for loss in (
        functional.kl,
        functional.logit_fisher,
        lambda s, t: functional.logit_fisher(s, t, diagonal=True),
        lambda s, t: functional.logit_mse(s, t, centred=True),
    ):
        assert loss(student + 5, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-9)
    assert functional.logit_mse(student + 5, teacher).item() > functional.logit_mse(student, teacher).item()


def test_fisher_diagonal_of_a_confident_teacher_keeps_its_small_weights_in_float32() -> None:
    teacher = torch.tensor([[30.0, 0.0, 0.0]])
    student = torch.tensor([[0.0, 30.0, 0.0]])
    low = functional.logit_fisher(student, teacher, diagonal=True).item()
    exact = functional.logit_fisher(student.double(), teacher.double(), diagonal=True).item()
    assert low == pytest.approx(exact, rel=1e-5)
    assert one_minus(torch.softmax(teacher, 1))[0, 0].item() == pytest.approx(2 * math.exp(-30), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_does_not_soften_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        functional.kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)
