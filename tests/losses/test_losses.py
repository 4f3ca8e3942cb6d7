"""One row a loss: all that the tester holds it to, and a plain computation of its formula."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from losses.tester import DRAWN, MEAN, LossInputs, LossTester, Tensor, last_layer, output_of, with_output
from stillroom.losses import functional
from stillroom.losses.block_logit import BlockLogit
from stillroom.losses.cross_entropy import CrossEntropy
from stillroom.losses.feature_fisher import FeatureFisher
from stillroom.losses.feature_full_fisher import FeatureFullFisher
from stillroom.losses.feature_mse import FeatureMSE
from stillroom.losses.kl import KL
from stillroom.losses.label_smoothing import LabelSmoothing
from stillroom.losses.logit_fisher import LogitFisher, one_minus
from stillroom.losses.logit_mse import LogitMSE
from stillroom.losses.registry import losses
from stillroom.models.reader import FEATURES

GOLDENS = Path(__file__).parent.parent / "goldens"


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    shares = [math.exp(v - top) for v in row]
    return [s / sum(shares) for s in shares]


def rows(inputs: LossInputs) -> list[tuple[list[float], list[float], int]]:
    return list(
        zip(inputs.student.logits.tolist(), inputs.teacher_logits.tolist(), inputs.labels.tolist(), strict=True)
    )


def plain_label_smoothing(inputs: LossInputs, options: dict[str, Any]) -> float:
    s = options.get("smoothing", 0.1)
    total = 0.0
    for student, _, label in rows(inputs):
        q = softmax(student)
        total += sum(-((1 - s) * (k == label) + s / len(q)) * math.log(q[k]) for k in range(len(q)))
    return total / len(inputs.labels)


def plain_cross_entropy(inputs: LossInputs, options: dict[str, Any]) -> float:
    return plain_label_smoothing(inputs, {"smoothing": 0.0})


def plain_kl(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    total = 0.0
    for student, teacher, _ in rows(inputs):
        q, p = softmax([v / tau for v in student]), softmax([v / tau for v in teacher])
        total += tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(inputs.labels)


def plain_logit_mse(inputs: LossInputs, options: dict[str, Any]) -> float:
    total = 0.0
    for student, teacher, _ in rows(inputs):
        gap = [a - b for a, b in zip(student, teacher, strict=True)]
        mean = sum(gap) / len(gap) if options.get("centred") else 0.0
        total += sum((g - mean) ** 2 for g in gap) / len(gap)
    return total / len(inputs.labels)


def plain_logit_fisher(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 1.0)
    total = 0.0
    for student, teacher, _ in rows(inputs):
        gap = np.array(student) - np.array(teacher)
        p = np.array(softmax([v / tau for v in teacher]))
        fisher = np.diag(p) - np.outer(p, p)
        if options.get("diagonal"):
            gap = gap - gap.mean()
            fisher = np.diag(np.diag(fisher))
        total += 0.5 * gap @ fisher @ gap
    return float(total / len(inputs.labels))


def plain_feature_mse(inputs: LossInputs, options: dict[str, Any]) -> float:
    return float(np.mean([np.mean(gap**2) for gap in gaps(inputs)]))


def gaps(inputs: LossInputs) -> list[Any]:
    student, teacher = (
        output_of(output, "features").double().numpy() for output in (inputs.student, inputs.teacher_output)
    )
    return list(student - teacher)


def fisher_in_features(inputs: LossInputs, tau: float) -> list[Any]:
    """Jᵀ F J of each sample, J the teacher's last layer."""
    head = inputs.teacher_output.tails[FEATURES].head
    assert head is not None
    matrices = []
    for _, teacher, _ in rows(inputs):
        p = np.array(softmax([v / tau for v in teacher]))
        matrices.append(head.numpy().T @ (np.diag(p) - np.outer(p, p)) @ head.numpy())
    return matrices


def plain_feature_fisher(inputs: LossInputs, options: dict[str, Any]) -> float:
    weights = [np.diag(matrix) for matrix in fisher_in_features(inputs, options.get("temperature", 4.0))]
    if options.get("samples"):
        weights = list(inputs.teacher_output.fishers[DRAWN].numpy())
    values = [weight @ gap**2 for weight, gap in zip(weights, gaps(inputs), strict=True)]
    if options.get("scale") == "mse":
        return float(np.mean(values) / MEAN / len(weights[0]))
    return float(0.5 * np.mean(values))


def plain_feature_full_fisher(inputs: LossInputs, options: dict[str, Any]) -> float:
    matrices = fisher_in_features(inputs, options.get("temperature", 4.0))
    return float(np.mean([0.5 * g @ m @ g for g, m in zip(gaps(inputs), matrices, strict=True)]))


def plain_block_logit(inputs: LossInputs, options: dict[str, Any]) -> float:
    """Of one stone, which is all the stones' mean."""
    layer = last_layer(len(inputs.student.logits[0]))
    stone = layer(output_of(inputs.student, "features"))
    own = replace(inputs, teacher=replace(inputs.teacher_output, logits=stone))
    total = 0.0
    for logits in (inputs.student.logits, stone):
        of_it = replace(inputs, student=replace(inputs.student, logits=logits))
        total += options.get("alpha", 1.0) * plain_cross_entropy(of_it, {})
        total += options.get("beta", 1.0) * plain_kl(of_it, options)
        total += options.get("gamma", 1.0) * plain_kl(replace(own, student=of_it.student), options)
    return total


NOT_THE_TEACHERS = {"minimum": "it reads the labels, not the teacher"}


class TestCrossEntropy(LossTester):
    loss = CrossEntropy
    reference = plain_cross_entropy
    not_held = {**NOT_THE_TEACHERS, "citation": "older than papers on it"}


class TestLabelSmoothing(LossTester):
    loss = LabelSmoothing
    variants = [{}, {"smoothing": 0.0}, {"smoothing": 0.5}, {"smoothing": 1.0}]
    reference = plain_label_smoothing
    not_held = NOT_THE_TEACHERS


class TestKL(LossTester):
    loss = KL
    variants = [{}, {"temperature": 1.0}, {"temperature": 20.0}]
    reference = plain_kl


class TestLogitMSE(LossTester):
    loss = LogitMSE
    variants = [{}, {"centred": True}]
    reference = plain_logit_mse


class TestLogitFisher(LossTester):
    loss = LogitFisher
    variants = [{}, {"temperature": 4.0}, {"diagonal": True}, {"diagonal": True, "temperature": 4.0}]
    reference = plain_logit_fisher


class TestFeatureMSE(LossTester):
    loss = FeatureMSE
    answer = "features"
    # A connector that learns is worked by hand in test_features.py.
    variants = [{"connector": "identity"}, {"connector": "identity", "taps": ["features"]}]
    reference = plain_feature_mse


ALIKE = {"connector": "identity"}


class TestFeatureFisher(LossTester):
    loss = FeatureFisher
    answer = "features"
    variants = [ALIKE, {**ALIKE, "temperature": 1.0}, {**ALIKE, "scale": "mse"}, {**ALIKE, "samples": 2}]
    reference = plain_feature_fisher
    # Its weights, which no argument of a usual loss is like, are fixed.
    checked = staticmethod(
        lambda feat_s, feat_t: functional.feature_fisher(feat_s, feat_t, torch.ones_like(feat_t) / 9)
    )


def full_fisher_of_a_fixed_tail(feat_s: Tensor, feat_t: Tensor) -> Tensor:
    size = feat_t[0].numel()
    jacobian = torch.linspace(-1, 1, 3 * size, dtype=feat_t.dtype).reshape(3, size).sin().expand(len(feat_t), 3, size)
    probabilities = torch.tensor([0.5, 0.3, 0.2], dtype=feat_t.dtype).expand(len(feat_t), 3)
    return functional.feature_full_fisher(feat_s, feat_t, jacobian, probabilities)


class TestFeatureFullFisher(LossTester):
    loss = FeatureFullFisher
    answer = "features"
    variants = [ALIKE, {**ALIKE, "temperature": 1.0}]
    reference = plain_feature_full_fisher
    checked = staticmethod(full_fisher_of_a_fixed_tail)


def block_logit_without_stones(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    return functional.block_logit(student_logits, teacher_logits, [], labels, temperature=4.0, gamma=0.0)


class TestBlockLogit(LossTester):
    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    answer = "features"
    variants = [ALIKE, {**ALIKE, "alpha": 0.1, "beta": 0.0, "temperature": 1.0}]
    reference = plain_block_logit
    not_held = {
        "minimum": "a stone learns from the labels, too",
        "gradient": "the stones' mean is taken as it is: none flows to it",
    }


class TestBlockLogitWithoutTheStonesMean(LossTester):
    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    answer = "features"
    variants = [{**ALIKE, "gamma": 0.0}]
    reference = plain_block_logit
    not_held = {"minimum": "a stone learns from the labels, too"}


class TestBlockLogitOfTheStudentsOwnAnswer(LossTester):
    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    variants = [ALIKE]
    reference = plain_block_logit
    not_held = {"minimum": "the student learns from the labels and the stones, too"}


class TestBlockLogitOfTheTeacherAlone(LossTester):
    """The student's own answer is the teacher's, so that its features are all that is left to learn."""

    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    answer = "features"
    variants = [{**ALIKE, "alpha": 0.0, "gamma": 0.0}]
    reference = plain_block_logit

    def with_student(self, inputs: LossInputs, value: Tensor) -> LossInputs:
        other = with_output(inputs.student, "features", value)
        return replace(inputs, student=replace(other, logits=inputs.teacher_output.logits.detach()))


def test_every_built_in_loss_has_a_row() -> None:
    tested = {row.loss for row in LossTester.__subclasses__()}
    assert tested == set(losses().values())


def golden_pair() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(GOLDENS / "losses.npz", allow_pickle=False) as inputs:
        return torch.from_numpy(inputs["student_logits"]), torch.from_numpy(inputs["teacher_logits"])


@pytest.mark.parametrize(("name", "temperature"), [("kl_t1", 1.0), ("kl_t4", 4.0), ("kl_t20", 20.0)])
def test_kl_equals_its_golden_value(name: str, temperature: float) -> None:
    expected = json.loads((GOLDENS / "losses.json").read_text())[name]
    assert functional.kl(*golden_pair(), temperature=temperature).item() == pytest.approx(expected, rel=1e-6)


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
