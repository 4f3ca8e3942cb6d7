"""The diagonal of a teacher's Fisher matrix: right for a sure teacher too, and drawn alike wherever it is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stillroom.files import canonical_json
from stillroom.randomness import counter_uniform
from stillroom.teachers.fisher import FisherOf, drawn_classes, head_fisher, tail_fisher, uniform_draws

CLASSES, WIDTH = 5, 7


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, CLASSES)


def by_pairs(head: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Var_{i∼p}(W_ij) = Σ_{i<k} p_i p_k (W_ij − W_kj)²: a sum of what is not negative, so nothing cancels."""
    p, w = torch.softmax(logits.double() / temperature, 1), head.double()
    total = torch.zeros(len(p), w.shape[1], dtype=torch.float64)
    for i in range(len(w)):
        for k in range(i):
            total += (p[:, i] * p[:, k])[:, None] * (w[i] - w[k]).square()
    return total


def sure(gap: float, rows: int = 4) -> Tensor:
    """Logits of a teacher that is sure of another class in each row."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.rand(rows, CLASSES, generator=draw)
    return logits.scatter_add(1, torch.arange(rows)[:, None] % CLASSES, torch.full((rows, 1), gap))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("gap", [0.0, 5.0, 30.0, 60.0])
def test_before_a_last_layer_the_weights_are_right_in_float32_however_sure_the_teacher(
    gap: float, temperature: float
) -> None:
    head, logits = layer().weight, sure(gap)
    weights = head_fisher(head, logits, temperature=temperature)
    assert weights.dtype == torch.float32
    assert (weights > 0).all()
    assert not weights.requires_grad
    torch.testing.assert_close(weights.double(), by_pairs(head, logits, temperature), rtol=1e-6, atol=0)


def test_features_that_move_no_answer_weigh_nothing() -> None:
    head = layer().weight.detach().clone()
    head[:, 2] = 0.3  # it moves all logits alike
    weights = head_fisher(head, sure(3.0), temperature=1.0)
    assert weights[:, 2].max() < 1e-15 < weights[:, [0, 1, 3]].min()
    assert head_fisher(head, torch.zeros(0, CLASSES), temperature=1.0).shape == (0, WIDTH)


@pytest.mark.parametrize("gap", [0.0, 30.0, 60.0])
def test_through_a_tail_the_weights_are_right_in_float32_however_sure_the_teacher(gap: float) -> None:
    linear = layer().requires_grad_(False)
    # Features that the layer makes these logits of.
    features = (sure(gap).double() - linear.bias.double()) @ torch.linalg.pinv(linear.weight.double()).T
    weights = tail_fisher(linear, features.float(), temperature=1.0)
    assert weights.dtype == torch.float32
    assert (weights > 0).all()
    said = linear(features.float())
    torch.testing.assert_close(weights.double(), by_pairs(linear.weight, said, 1.0), rtol=1e-4, atol=0)


def test_a_drawn_class_of_a_sure_teacher_gives_its_own_small_gradient() -> None:
    """1 − p of the likeliest is 0 in float32 at such a gap; what is left of it are the others."""
    linear = layer().requires_grad_(False)
    features = torch.linalg.pinv(linear.weight) @ (torch.tensor([30.0, 0, 0, 0, 0]) - linear.bias)
    said = linear(features[None]).double()
    (drawn,) = tail_fisher(linear, features[None], temperature=1.0, draws=torch.zeros(1, 1))
    p = torch.softmax(said, 1)[0]
    towards = -p
    towards[0] = p[1:].sum()
    torch.testing.assert_close(drawn.double(), (towards @ linear.weight.double()).square(), rtol=1e-4, atol=0)


def bends(h: Tensor) -> Tensor:
    return layer().requires_grad_(False)(torch.tanh(h).flatten(1)[:, :WIDTH])


def test_each_image_is_weighed_by_itself_under_no_gradient_and_autocast() -> None:
    features = torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(2))
    draws = uniform_draws(2, np.arange(6), view=1)
    for drawn in (None, draws):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            whole = tail_fisher(bends, features, temperature=4.0, draws=drawn)
        assert whole.shape == features.shape
        assert whole.dtype == torch.float32
        assert not whole.requires_grad
        assert (whole >= 0).all()
        order = torch.tensor([4, 0, 5])
        some = tail_fisher(bends, features[order], temperature=4.0, draws=None if drawn is None else drawn[:, order])
        torch.testing.assert_close(some, whole[order], rtol=1e-5, atol=1e-9)
        assert tail_fisher(
            bends, features[:0], temperature=4.0, draws=None if drawn is None else drawn[:, :0]
        ).shape == (0, 3, 3)
    assert not torch.allclose(whole, tail_fisher(bends, features, temperature=4.0)), "two drawn classes are not all"


def test_what_lies_past_the_features_that_are_read_weighs_nothing() -> None:
    weights = tail_fisher(bends, torch.randn(2, 3, 3), temperature=4.0)
    assert (weights.flatten(1)[:, WIDTH:] == 0).all()
    assert (weights.flatten(1)[:, :WIDTH] > 0).all()


def test_features_in_low_precision_are_weighed_in_float32() -> None:
    features = torch.randn(2, 3, 3).bfloat16()
    weights = tail_fisher(bends, features, temperature=4.0)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, tail_fisher(bends, features.float(), temperature=4.0))


def test_draws_depend_on_the_draw_the_view_and_the_image_alone() -> None:
    rows = np.array([7, 3, 1000])
    draws = uniform_draws(3, rows, view=2)
    assert draws.shape == (3, 3)
    assert draws.dtype == torch.float64
    assert torch.equal(uniform_draws(3, rows[::-1].copy(), view=2), draws.flip(1)), "not on the order"
    assert torch.equal(uniform_draws(2, rows[:1], view=2), draws[:2, :1]), "nor on what else is drawn"
    torch.manual_seed(5)
    assert torch.equal(uniform_draws(3, rows, view=2), draws), "nor on any generator"
    others = [uniform_draws(3, rows, view=3), uniform_draws(3, rows + 1, view=2), draws.roll(1, 0)]
    assert all(not torch.isclose(draws, other).any() for other in others)
    assert not np.isclose(counter_uniform(0, 2, rows, 0), draws[0].numpy()).any(), "a stream of its own"
    many = uniform_draws(1, np.arange(20_000), view=0)
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean().item() == pytest.approx(0.5, abs=0.01)


def test_classes_are_drawn_as_often_as_they_are_likely() -> None:
    p = torch.tensor([[0.0, 0.5, 0.0, 0.2, 0.3, 0.0]])
    count = 50_000
    drawn = drawn_classes(p.expand(count, -1), uniform_draws(1, np.arange(count), view=0))
    often = torch.bincount(drawn[0], minlength=6) / count
    assert (often[p[0] == 0] == 0).all(), "never one that cannot be"
    torch.testing.assert_close(often, p[0], atol=4 * 0.5 / count**0.5, rtol=0)


@pytest.mark.parametrize(
    ("p", "draw", "wanted"),
    [
        ([0.25, 0.75], 0.0, 0),
        ([0.25, 0.75], 0.25, 1),
        ([0.0, 1.0], 0.0, 1),
        ([1.0, 0.0], 1 - 2**-53, 0),
        # Ten tenths in float32 are more than 1, and less than 1 in another order.
        ([0.1] * 10, 1 - 2**-53, 9),
    ],
)
def test_the_ends_of_the_distribution_are_met(p: list[float], draw: float, wanted: int) -> None:
    drawn = drawn_classes(torch.tensor([p]), torch.tensor([[draw]], dtype=torch.float64))
    assert drawn.tolist() == [[wanted]]


def test_what_is_meant_has_one_name_whatever_number_it_is_written_with() -> None:
    one, other = FisherOf("layer2", 4), FisherOf("layer2", 4.0)
    assert one == other
    assert canonical_json(one.as_dict()) == canonical_json(other.as_dict())
    assert sorted([FisherOf("b", 1.0), FisherOf("a", 4.0, 2), FisherOf("a", 4.0)])[0] == FisherOf("a", 4.0)


def test_a_tail_that_is_linear_in_places_is_weighed_as_the_layer_alone() -> None:
    linear = layer().double().requires_grad_(False)
    h = torch.randn(3, WIDTH, dtype=torch.float64)
    tail: Callable[[Tensor], Tensor] = nn.Sequential(nn.Identity(), linear, nn.Identity())
    for temperature in (1.0, 4.0):
        weights = tail_fisher(tail, h, temperature=temperature)
        torch.testing.assert_close(weights, head_fisher(linear.weight, linear(h), temperature=temperature))
