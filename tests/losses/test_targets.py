"""The parts of a teacher's answer, worked by hand; and ω, against autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import stillroom
from stillroom.losses import targets
from stillroom.teachers.class_means import ClassMeans

# Two classes alike, one orthogonal to both, one opposite to the first.
HEAD = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [-0.5, 0.0]], dtype=torch.float64)
P = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
OPTIONS = {"power": 0.5, "temperature": 0.4}

Target = Callable[[Tensor, Tensor, Tensor], Tensor]


def means_of(p: Tensor) -> ClassMeans:
    """Mean answers as some teacher may have them: of class 0 an image like each row of p, of class 1 one of them."""
    classes = p.shape[1]
    table = torch.full((classes, classes), 1 / classes, dtype=torch.float64)
    table[0] = p.detach().double().mean(0)
    return ClassMeans(table, torch.ones(classes, dtype=torch.float64))


TARGETS: dict[str, Target] = {
    "uniform": lambda p, head, y: targets.uniform(y, p.shape[1]),
    "class_similarity": lambda p, head, y: targets.class_similarity(head, y, **OPTIONS),
    "top_k 1": lambda p, head, y: targets.top_k(p, 1),
    "top_k 2": lambda p, head, y: targets.top_k(p, 2),
    "top_k K": lambda p, head, y: targets.top_k(p, p.shape[1]),
    "true_class": lambda p, head, y: targets.true_class(p, y),
    "true_class_similarity": lambda p, head, y: targets.true_class_similarity(p, head, y, **OPTIONS),
    "mean_confidence": lambda p, head, y: targets.mean_confidence(y, means_of(p)),
    "class_relations": lambda p, head, y: targets.class_relations(y, means_of(p)),
    "true_class_relations": lambda p, head, y: targets.true_class_relations(p, y, means_of(p)),
    "full": lambda p, head, y: targets.full(p),
}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found: Tensor, wanted: list[list[float]]) -> None:
    assert found.dtype == torch.float64
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-9)


def similarity(row: int) -> list[float]:
    """KD-sim of one class of HEAD, from its formula alone."""
    rows = HEAD.tolist()
    shares = []
    for other in rows:
        dot = sum(a * b for a, b in zip(rows[row], other, strict=True))
        cosine = dot / math.hypot(*rows[row]) / math.hypot(*other)
        shares.append(math.exp(math.copysign(abs(cosine) ** 0.5, cosine) / 0.4))
    return [share / sum(shares) for share in shares]


def test_uniform_by_hand() -> None:
    close(targets.uniform(LABELS, 5), [[0.2] * 5] * 2)


def test_targets_of_class_means_by_hand() -> None:
    # Class 0 has two images, class 1 one, classes 2 and 3 none.
    table = torch.tensor([[0.6, 0.2, 0.2, 0.0], [0.1, 0.9, 0.0, 0.0], [0.0] * 4, [0.0] * 4], dtype=torch.float64)
    means = ClassMeans(table, torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    close(targets.mean_confidence(LABELS, means), [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    close(targets.class_relations(LABELS, means), [[0.7, 0.15, 0.15, 0.0], [0.3, 0.7, 0.0, 0.0]])
    close(targets.true_class_relations(P, LABELS, means), [[0.5, 0.25, 0.25, 0.0], [0.8, 0.2, 0.0, 0.0]])
    # A class without images says nothing of the others.
    close(targets.class_relations(torch.tensor([3]), means), [[0.1, 0.1, 0.1, 0.7]])


def test_class_similarity_by_hand() -> None:
    close(targets.class_similarity(HEAD, LABELS, **OPTIONS), [similarity(0), similarity(1)])
    # The plain numbers of the first: cosines 1, √½, 0, −1.
    shares = [math.exp(2.5), math.exp(0.5**0.25 / 0.4), 1.0, math.exp(-2.5)]
    close(targets.class_similarity(HEAD, LABELS[:1], **OPTIONS), [[share / sum(shares) for share in shares]])


def test_top_k_by_hand() -> None:
    close(targets.top_k(P, 2), [[0.5, 0.3, 0.1, 0.1], [0.15, 0.15, 0.3, 0.4]])
    close(targets.top_k(P, 1), [[0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3], [0.2, 0.2, 0.2, 0.4]])
    close(targets.top_k(P, 4), P.tolist())


def test_true_class_by_hand() -> None:
    close(targets.true_class(P, LABELS), [[0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3], [0.8 / 3, 0.2, 0.8 / 3, 0.8 / 3]])


def test_true_class_similarity_by_hand() -> None:
    wanted = []
    for row, (p, y) in enumerate(zip(P.tolist(), LABELS.tolist(), strict=True)):
        likeness = similarity(row)
        rest = sum(likeness) - likeness[y]
        wanted.append([p[y] if i == y else (1 - p[y]) * likeness[i] / rest for i in range(4)])
    close(targets.true_class_similarity(P, HEAD, LABELS, **OPTIONS), wanted)


def test_full_is_the_answer() -> None:
    assert torch.equal(targets.full(P), P)


def test_of_equals_the_first_are_kept() -> None:
    p = torch.tensor([[0.2, 0.3, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    close(targets.top_k(p, 1), [[0.7 / 3, 0.3, 0.7 / 3, 0.7 / 3], [0.25] * 4])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("batch", "classes"), [(7, 10), (5, 2), (1, 3), (0, 4)])
def test_rows_sum_to_one(name: str, batch: int, classes: int) -> None:
    p = torch.softmax(5 * random(batch, classes), 1)
    labels = torch.arange(batch) % classes
    rho = TARGETS[name](p, random(classes, 6, seed=1), labels)
    assert rho.shape == (batch, classes)
    assert bool((rho >= 0).all())
    assert torch.allclose(rho.sum(1), torch.ones(batch, dtype=torch.float64), rtol=0, atol=1e-9)


SURE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("head", [random(3, 4), torch.zeros(3, 4), torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0]])])
def test_answers_without_a_doubt_and_rows_of_zeros_are_defined(name: str, dtype: torch.dtype, head: Tensor) -> None:
    # The true class has all of it, none of it, and all of it.
    rho = TARGETS[name](SURE.to(dtype), head.to(dtype), torch.tensor([0, 2, 2]))
    assert bool(torch.isfinite(rho).all())
    assert torch.allclose(rho.sum(1).double(), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_row_of_zeros_is_like_itself_and_no_other() -> None:
    head = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    rho = targets.class_similarity(head, torch.tensor([0, 1]), power=1.0, temperature=1.0)
    wanted = [[math.e, 1.0, 1.0], [1.0, math.e, math.e]]
    close(rho, [[share / sum(row) for share in row] for row in wanted])


def test_two_classes_leave_the_other_one_all_the_rest() -> None:
    p = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    for name in ("top_k 1", "true_class", "true_class_similarity", "full"):
        close(TARGETS[name](p, random(2, 3), torch.tensor([1])), [[0.9, 0.1]])


@pytest.mark.parametrize("gap", [30.0, 80.0])
def test_what_is_left_beside_a_sure_class_is_kept_in_float32(gap: float) -> None:
    logits = torch.tensor([[gap, 0.0, 1.0, 2.0]], dtype=torch.float64)
    head, labels = random(4, 8), torch.tensor([0])
    for name, target in TARGETS.items():
        exact = target(torch.softmax(logits, 1), head, labels)
        low = target(torch.softmax(logits.float(), 1), head.float(), labels).double()
        assert torch.allclose(low, exact, rtol=1e-4, atol=0), name


@pytest.mark.parametrize("name", TARGETS)
def test_half_precision_is_widened_and_no_gradient_flows(name: str) -> None:
    p, head = P.bfloat16().requires_grad_(), HEAD.bfloat16().requires_grad_()
    rho = TARGETS[name](p, head, LABELS)
    assert not rho.requires_grad
    # Those that hold no softened output of this batch are as exact as what they are made of.
    exact = name in ("uniform", "mean_confidence", "class_relations")
    assert rho.dtype == (torch.float64 if exact else torch.float32)
    assert torch.allclose(rho.double(), TARGETS[name](P, HEAD, LABELS), rtol=0.02, atol=0.01)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: targets.top_k(P, 5), "k: got 5; expected 1 … 4, the number of classes"),
    (lambda: targets.top_k(P, 0), "k: got 0"),
    (lambda: targets.top_k(P[0], 1), "expected \\[batch, classes\\]"),
    (lambda: targets.true_class(P, LABELS[:1]), "labels: got shape"),
    (lambda: targets.true_class(P[:, :1], LABELS), "2 classes or more"),
    (lambda: targets.uniform(LABELS, 0), "num_classes: got 0"),
    (lambda: targets.uniform(P, 4), "labels: got shape"),
    (lambda: targets.class_similarity(HEAD, LABELS, power=0, temperature=1), "power: got 0; expected a number above 0"),
    (lambda: targets.class_similarity(HEAD, LABELS, power=1, temperature=float("nan")), "temperature: got nan"),
    (lambda: targets.class_similarity(HEAD[0], LABELS, **OPTIONS), "head_weight: got shape"),
    (lambda: targets.true_class_similarity(P, HEAD[:3], LABELS, **OPTIONS), "head_weight: got 3 rows; expected one"),
    (lambda: targets.gradient_rescale(P, P[:1], LABELS, temperature=1, weight=0.5), "logits: got student"),
    (lambda: targets.gradient_rescale(P, P, LABELS[:1], temperature=1, weight=0.5), "labels: got shape"),
    (lambda: targets.gradient_rescale(P, P, LABELS, temperature=0, weight=0.5), "temperature: got 0"),
    (lambda: targets.gradient_rescale(P, P, LABELS, temperature=1, weight=1.5), "weight: got 1.5"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def gradients(student: Tensor, target: Tensor, labels: Tensor, temperature: float, weight: float) -> Tensor:
    """∂L/∂z of each sample, L = (1 − λ)·CE + λ·H(ρ, q_τ), by autograd."""
    z = student.clone().requires_grad_()
    soft = -(target * F.log_softmax(z / temperature, 1)).sum(1)
    loss = (1 - weight) * F.cross_entropy(z, labels, reduction="none") + weight * soft
    return torch.autograd.grad(loss.sum(), z)[0]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_omega_is_the_ratio_of_gradients_in_the_true_class_and_in_the_others(temperature: float, weight: float) -> None:
    student, teacher = 3 * random(40, 6), 3 * random(40, 6, seed=1)
    labels = torch.arange(40) % 6
    omega = targets.gradient_rescale(student, teacher, labels, temperature=temperature, weight=weight)
    mixed = gradients(student, torch.softmax(teacher / temperature, 1), labels, temperature, weight)
    alone = gradients(student, torch.softmax(teacher, 1), labels, temperature, 0.0)
    true = F.one_hot(labels, 6).bool()
    assert torch.allclose(omega, mixed[true] / alone[true], rtol=1e-9, atol=1e-12)
    others = [torch.where(true, 0.0, each).sum(1) for each in (mixed, alone)]
    assert torch.allclose(omega, others[0] / others[1], rtol=1e-9, atol=1e-12)


def test_omega_by_hand() -> None:
    student, teacher = torch.log(P[:1]), torch.log(torch.tensor([[0.8, 0.1, 0.06, 0.04]], dtype=torch.float64))
    omega = targets.gradient_rescale(student, teacher, LABELS[:1], temperature=1.0, weight=0.25)
    assert omega.tolist() == pytest.approx([0.75 + 0.25 * (0.8 - 0.5) / (1 - 0.5)], abs=1e-12)
    p, q = (math.sqrt(a) / sum(map(math.sqrt, row)) for a, row in ((0.8, [0.8, 0.1, 0.06, 0.04]), (0.5, P[0].tolist())))
    omega = targets.gradient_rescale(student, teacher, LABELS[:1], temperature=2.0, weight=0.25)
    assert omega.tolist() == pytest.approx([0.75 + 0.25 / 2 * (p - q) / 0.5], abs=1e-12)


def test_a_saturated_teacher_at_temperature_1_treats_all_samples_alike_and_a_higher_one_does_not() -> None:
    student, labels = 2 * random(50, 10), torch.arange(50) % 10
    teacher = 50.0 * F.one_hot(labels, 10) + random(50, 10, seed=1)
    omega = targets.gradient_rescale(student, teacher, labels, temperature=1.0, weight=0.7)
    assert torch.allclose(omega, torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-9)
    assert targets.gradient_rescale(student, teacher, labels, temperature=20.0, weight=0.7).std() > 1e-3


def test_the_true_class_of_kd_pt_has_the_gradient_of_kd_for_any_student() -> None:
    student, teacher, labels = 3 * random(30, 7), 3 * random(30, 7, seed=1), torch.arange(30) % 7
    p = torch.softmax(teacher, 1)
    kd, pt = (gradients(student, rho, labels, 1.0, 1.0) for rho in (p, targets.true_class(p, labels)))
    true = F.one_hot(labels, 7).bool()
    assert torch.allclose(kd[true], pt[true], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(kd[~true], pt[~true], atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("theirs", "mine"), [(30.0, 31.0), (31.0, 30.0), (60.0, 30.0), (2.0, 32.0), (-30.0, -31.0)])
def test_omega_in_float32_is_right_where_answers_are_sure(temperature: float, theirs: float, mine: float) -> None:
    student, teacher = (torch.tensor([[gap, 0.0, 0.5]], dtype=torch.float64) for gap in (mine, theirs))
    labels = torch.tensor([0])
    options = {"temperature": temperature, "weight": 0.9}
    exact = targets.gradient_rescale(student, teacher, labels, **options)
    low = targets.gradient_rescale(student.float(), teacher.float(), labels, **options)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=1e-4)
    if mine < 32:
        # Autograd in float64 agrees; beyond, it is autograd that has no digits left.
        mixed = gradients(student, torch.softmax(teacher / temperature, 1), labels, temperature, 0.9)
        alone = gradients(student, torch.softmax(teacher, 1), labels, temperature, 0.0)
        assert exact.item() == pytest.approx((mixed / alone)[0, 0].item(), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_omega_is_never_nan(dtype: torch.dtype, weight: float) -> None:
    gaps = [-1000.0, -40.0, 0.0, 40.0, 1000.0]
    rows = torch.tensor([[gap, 0.0] for gap in gaps], dtype=dtype)
    labels = torch.zeros(len(gaps), dtype=torch.long)
    for teacher in rows:
        for temperature in (1.0, 4.0):
            omega = targets.gradient_rescale(
                rows, teacher.expand_as(rows), labels, temperature=temperature, weight=weight
            )
            assert not bool(omega.isnan().any())
    none = targets.gradient_rescale(rows[:0], rows[:0], labels[:0], temperature=1.0, weight=weight)
    assert none.shape == (0,)


def test_a_student_that_says_what_is_taught_has_only_its_labels_part_left() -> None:
    logits = random(5, 4)
    omega = targets.gradient_rescale(logits, logits + 3, torch.arange(5) % 4, temperature=1.0, weight=0.4)
    assert torch.allclose(omega, torch.full((5,), 0.6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_package_offers_the_room_without_importing_torch_first() -> None:
    assert stillroom.losses.targets is targets
    assert {"uniform", "class_similarity", "top_k", "true_class", "true_class_similarity", "full"} <= {*targets.__all__}
