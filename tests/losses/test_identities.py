"""The identities that tie the KL family together, in float64: each member is a weaker reading of the one before it.

Exactly, KL through the teacher's tail; its second order, the full Fisher matrix in the features; of that, the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from losses.pairs import shared_context, tails_of
from losses.tester import last_layer, random_inputs, small_setup_context
from stillroom.losses import functional
from stillroom.losses.base import LossInputs
from stillroom.losses.feature_full_fisher import FeatureFullFisher
from stillroom.losses.setup_context import SetupContext
from stillroom.models.reader import FEATURES
from stillroom.models.tail import tail_of
from stillroom.teachers.fisher import head_fisher, tail_fisher, uniform_draws
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.tails import TeacherTail

CLASSES = 5
TAILS = ["linear", "tanh", "relu"]
TEMPERATURES = [1.0, 4.0]


@cache
def teacher_tail(kind: str) -> TeacherTail:
    """From 6 features on: one linear layer, or three with something between them."""
    torch.manual_seed(3)
    act = nn.ReLU if kind == "relu" else nn.Tanh
    deep = (nn.Linear(6, 8), act(), nn.Linear(8, 7), act(), nn.Linear(7, CLASSES))
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *(deep if kind != "linear" else (nn.Linear(6, CLASSES),))).double()
    # Weights large enough for answers that are not all alike.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    tail = TeacherTail(tail_of(net, "1", torch.randn(3, 4, dtype=torch.float64)))
    assert (tail.head is not None) == (kind == "linear")
    return tail


def features(batch: int = 4) -> Tensor:
    return torch.randn(batch, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def jacobian(tail: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """J = ∂z/∂h of each sample, [B, K, d]."""
    leaf = h.detach().clone().requires_grad_()
    logits = tail(leaf)
    columns = [torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)[0] for k in range(logits.shape[1])]
    return torch.stack([column.flatten(1) for column in columns], 1)


def fisher_in_features(tail: TeacherTail, h: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Jᵀ F J at h, [B, d, d], and p, [B, K]."""
    p = torch.softmax(tail(h) / tau, 1)
    each = jacobian(tail, h)
    return each.mT @ (torch.diag_embed(p) - p[:, :, None] * p[:, None]) @ each, p


def slope(rest: Callable[[float], Tensor]) -> float:
    """The power of the step that a rest falls with, fitted over a range of steps."""
    sizes = [0.02, 0.01, 0.005, 0.0025, 0.00125]
    fitted = np.polyfit(np.log(sizes), np.log([abs(rest(size).item()) for size in sizes]), 1)
    return float(fitted[0])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_minus_its_second_order_falls_as_the_cube_of_the_gap(temperature: float) -> None:
    inputs = random_inputs(classes=7)
    teacher = inputs.teacher_logits
    # A fixed direction, and small steps: along some, the cube's coefficient is small beside the next order's.
    direction = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0), dtype=teacher.dtype)

    def rest(size: float) -> Tensor:
        student = teacher + size * direction
        exact = functional.kl(student, teacher, temperature=temperature)
        return exact - functional.logit_fisher(student, teacher, temperature=temperature)

    assert slope(rest) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", TAILS)
def test_a_stone_minus_the_full_fisher_matrix_falls_as_the_cube_of_the_gap(kind: str, temperature: float) -> None:
    """Through a tail that bends, too: what it bends by is of second order in the gap, and weighed by the first."""
    tail, h = teacher_tail(kind), features()
    z, at_teacher = tail(h), jacobian(tail, h)
    p = torch.softmax(z / temperature, 1)
    direction = torch.randn(h.shape, generator=torch.Generator().manual_seed(1), dtype=h.dtype)

    def rest(size: float) -> Tensor:
        student = h + size * direction
        exact = functional.kl(tail(student), z, temperature=temperature)
        return exact - functional.feature_full_fisher(student, h, at_teacher, p)

    assert slope(rest) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_through_a_shared_last_layer_the_full_fisher_matrix_is_that_of_the_logits(temperature: float) -> None:
    inputs = random_inputs()
    tail = last_layer(CLASSES)
    student, teacher = inputs.student.features[FEATURES], inputs.teacher_features[FEATURES]
    wanted = functional.logit_fisher(tail(student), inputs.teacher_logits, temperature=temperature).item()
    p = torch.softmax(inputs.teacher_logits / temperature, 1)
    assert tail.head is not None
    everywhere = tail.head.expand(len(p), -1, -1)
    assert functional.feature_full_fisher(student, teacher, everywhere, p).item() == pytest.approx(wanted, rel=1e-12)
    loss = FeatureFullFisher(temperature=temperature, connector="identity")
    loss.setup(small_setup_context())
    assert loss(inputs).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", TAILS)
def test_the_hessian_of_a_stone_is_the_full_fisher_matrix_and_its_diagonal_the_weights(
    kind: str, temperature: float
) -> None:
    tail, h = teacher_tail(kind), features()
    matrices, _ = fisher_in_features(tail, h, temperature)
    for row in range(len(h)):
        at = h[row : row + 1]
        z = tail(at)

        def stone(moved: Tensor, z: Tensor = z) -> Tensor:
            options = {"temperature": temperature, "alpha": 0.0, "beta": 1.0, "gamma": 0.0}
            student, labels = torch.zeros_like(z), torch.tensor([0])
            # The student's own term stands beside the stone's.
            with_stone = functional.block_logit(student, z, [tail(moved[None])], labels, **options)
            return with_stone - functional.block_logit(student, z, [], labels, **options)

        # At the teacher's features p − q is 0, so what the tail bends by does not count: Gauss and Newton are right.
        hessian = torch.autograd.functional.hessian(stone, at[0])
        torch.testing.assert_close(hessian, matrices[row], rtol=1e-9, atol=1e-12)
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(tail_fisher(tail, h, temperature=temperature), diagonal)
    if tail.head is not None:
        torch.testing.assert_close(head_fisher(tail.head, tail(h), temperature=temperature), diagonal)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", TAILS)
def test_the_expected_square_of_the_gradients_is_the_full_fisher_matrix(kind: str, temperature: float) -> None:
    tail, h = teacher_tail(kind), features()
    matrices, p = fisher_in_features(tail, h, temperature)
    gradients = jacobian(lambda leaf: torch.log_softmax(tail(leaf) / temperature, 1), h)  # g_i = ∇_h log p_i
    expected = torch.einsum("bi,bij,bik->bjk", p, gradients, gradients)
    torch.testing.assert_close(expected, matrices / temperature**2)
    gap = torch.randn(h.shape, generator=torch.Generator().manual_seed(1), dtype=h.dtype)
    projected = (p * (gradients @ gap[..., None])[..., 0].square()).sum(1).mean()
    full = functional.feature_full_fisher(h + gap, h, jacobian(tail, h), p)
    assert full.item() == pytest.approx(0.5 * temperature**2 * projected.item(), rel=1e-9)


@pytest.mark.parametrize("kind", ["linear", "tanh"])
def test_weights_of_drawn_classes_are_right_in_the_mean(kind: str) -> None:
    tail, h, count = teacher_tail(kind), features(1), 20_000
    exact = tail_fisher(tail, h, temperature=1.0)[0]
    # One image under many names: each has draws of its own.
    draws = uniform_draws(1, np.arange(count), view=0)
    drawn = tail_fisher(tail, h.expand(count, -1), temperature=1.0, draws=draws)
    error = drawn.std(0) / count**0.5
    assert (error < 0.05 * exact).all(), "the test can tell"
    assert ((drawn.mean(0) - exact).abs() < 4 * error).all()
    # Two draws are the mean of one and one.
    both = tail_fisher(tail, h.expand(4, -1), temperature=1.0, draws=draws[0, :8].view(2, 4))
    torch.testing.assert_close(both, (drawn[:4] + drawn[4:8]) / 2)


def test_the_diagonal_keeps_of_the_gap_what_lies_along_the_axes() -> None:
    tail, h = teacher_tail("tanh"), features()
    weight, p = tail_fisher(tail, h, temperature=4.0), torch.softmax(tail(h) / 4, 1)
    for place in range(h.shape[1]):
        moved = h.clone()
        moved[:, place] += 0.7
        full = functional.feature_full_fisher(moved, h, jacobian(tail, h), p)
        assert functional.feature_fisher(moved, h, weight).item() == pytest.approx(full.item(), rel=1e-9)


@pytest.mark.parametrize(("teacher", "tap"), [("cnn", "layer2"), ("vit", "blocks.0")])
def test_the_class_carries_the_gap_as_the_written_down_jacobian_does(teacher: str, tap: str) -> None:
    tail, both = tails_of(teacher)[tap], shared_context(teacher, "slim")
    draw = torch.Generator().manual_seed(2)
    shape = both.teacher.tap(tap).shape
    at, student = (torch.randn(3, *shape, generator=draw) for _ in range(2))
    student.requires_grad_()
    output = ModelOutput(tail(at), {tap: at}, tails={tap: tail})
    inputs = LossInputs(
        ModelOutput(output.logits, {tap: student}), output, torch.zeros(3), torch.arange(3), progress=0.0
    )
    loss = FeatureFullFisher(taps=[{"teacher": tap, "student": tap}], connector="identity")
    loss.setup(SetupContext(both.teacher, both.teacher, num_classes=10, seed=0))
    value = loss(inputs)
    p = torch.softmax(output.logits / 4, 1)
    written = functional.feature_full_fisher(student, at, jacobian(tail, at), p)
    assert value.item() == pytest.approx(written.item(), rel=1e-4)
    (by_class,) = torch.autograd.grad(value, student)
    (by_hand,) = torch.autograd.grad(written, student)
    torch.testing.assert_close(by_class, by_hand, rtol=1e-3, atol=1e-4 * by_hand.abs().max().item())


def test_centred_mse_is_twice_the_limit_of_kl_at_a_high_temperature() -> None:
    inputs = random_inputs(classes=100)
    student, teacher = inputs.student.logits, inputs.teacher_logits
    ratio = functional.kl(student, teacher, temperature=1e4) / functional.logit_mse(student, teacher, centred=True)
    assert ratio.item() == pytest.approx(0.5, rel=1e-3)
    plain = functional.kl(student + 3, teacher, temperature=1e4) / functional.logit_mse(student + 3, teacher)
    assert abs(plain.item() - 0.5) > 0.05, "uncentred MSE is not this limit"


def test_a_constant_added_to_all_logits_costs_nothing_except_in_plain_mse() -> None:
    inputs = random_inputs()
    student, teacher = inputs.student.logits, inputs.teacher_logits
    for loss in (
        functional.kl,
        functional.logit_fisher,
        lambda s, t: functional.logit_fisher(s, t, diagonal=True),
        lambda s, t: functional.logit_mse(s, t, centred=True),
    ):
        assert loss(student + 5, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-9)
    assert functional.logit_mse(student + 5, teacher).item() > functional.logit_mse(student, teacher).item()
