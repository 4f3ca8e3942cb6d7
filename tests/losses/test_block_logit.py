"""Stepping stones: where they lie, what each counts, and that nothing of the teacher is taken along."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losses.pairs import setup_context, shared_context, tails_of
from stillroom.errors import BadInput
from stillroom.losses import functional
from stillroom.losses.base import LossInputs
from stillroom.losses.block_logit import BlockLogit
from stillroom.losses.setup_context import SetupContext
from stillroom.recipe import parse_recipe
from stillroom.teachers.output import ModelOutput


def set_up(with_: SetupContext, **options: Any) -> BlockLogit:
    loss = BlockLogit(**options)
    loss.setup(with_)
    return loss


def stones(loss: BlockLogit) -> list[tuple[str, str]]:
    return [(teacher.name, student.name) for teacher, student in loss.pairs]


def test_a_stone_lies_at_each_pair_and_none_twice_that_only_pooling_parts() -> None:
    both = shared_context("cnn", "slim")
    loss = set_up(both)
    assert stones(loss) == [(name, name) for name in ("layer1", "layer2", "features")]
    assert loss.requires.tails == loss.requires.student_features == ("layer1", "layer2", "features")
    assert loss.requires.teacher_features == (), "of the teacher's own, nothing but the logits is read, or kept"
    assert loss.requires.labels
    assert loss.describe_taps().startswith("block_logit steps over (student → teacher) layer1 4×8×8 → layer1 8×8×8, ")
    assert stones(set_up(both, taps="light")) == [("layer2", "layer2"), ("features", "features")]
    assert stones(set_up(both, taps="features")) == [("features", "features")]


@pytest.mark.parametrize(("teacher", "student"), [("cnn", "vit"), ("vit", "slim")])
def test_any_two_models_have_stones(teacher: str, student: str) -> None:
    loss = set_up(shared_context(teacher, student))
    assert stones(loss)[-1] == ("features", "features")
    assert len(loss.pairs) > 1
    assert all(student.depth > 0 for _, student in loss.pairs)


def test_before_the_students_first_layer_lies_none() -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))

    both = setup_context(net(), net())
    assert "0" in [teacher.name for teacher, _ in both.pairs], "what is flattened is a place that every path crosses"
    assert stones(set_up(both)) == [("features", "features")]


def test_the_deepest_counts_most_in_whatever_order_they_are_named() -> None:
    both = shared_context("cnn", "slim")
    named = ["features", "layer3", {"teacher": "layer1", "student": "layer1"}]
    loss = set_up(both, taps=named)
    assert [teacher for teacher, _ in stones(loss)] == ["layer1", "layer3", "features"]
    assert [c.__class__.__name__ for c in loss.connectors] == ["MapConnector", "MapConnector", "VectorConnector"]


def plain(
    student: Tensor, teacher: Tensor, given: list[Tensor], labels: Tensor, tau: float, a: float, b: float, c: float
) -> float:
    """The formula, with numbers alone."""

    def divergence(logits: Tensor, target: Tensor) -> float:
        p, q = (torch.softmax(z / tau, 1) for z in (target, logits))
        return tau**2 * float((p * (p / q).log()).sum(1).mean())

    def task(logits: Tensor) -> float:
        return -sum(float(torch.softmax(row, 0)[y].log()) for row, y in zip(logits, labels, strict=True)) / len(labels)

    mean = sum(given) / len(given) if given else student
    total = 0.0
    for logits, weight in [(student, 1.0), *((z, 2.0 ** (i + 1 - len(given))) for i, z in enumerate(given))]:
        total += weight * (a * task(logits) + b * divergence(logits, teacher))  # type: ignore[arg-type]
        total += weight * c * divergence(logits, mean) if given else 0.0  # type: ignore[arg-type]
    return total


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(("tau", "a", "b", "c"), [(4.0, 1.0, 1.0, 1.0), (1.0, 0.3, 0.0, 2.0), (2.0, 0.0, 0.7, 0.0)])
def test_each_shallower_stone_counts_half(count: int, tau: float, a: float, b: float, c: float) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher, *given = (3 * torch.randn(4, 5, generator=draw, dtype=torch.float64) for _ in range(2 + count))
    labels = torch.tensor([0, 4, 2, 2])
    value = functional.block_logit(student, teacher, given, labels, temperature=tau, alpha=a, beta=b, gamma=c)
    assert value.item() == pytest.approx(plain(student, teacher, given, labels, tau, a, b, c), rel=1e-9)


def test_the_stones_mean_draws_the_student_and_is_drawn_by_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    student, one, other = (torch.randn(4, 5, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(3))
    labels, only = torch.zeros(4, dtype=torch.int64), {"alpha": 0.0, "beta": 0.0, "gamma": 1.0}
    value = functional.block_logit(student, student.detach(), [one, other], labels, **only)
    gradients = torch.autograd.grad(value, (student, one, other))
    mean = ((one + other) / 2).detach()
    for logits, weight, gradient in zip((student, one, other), (1.0, 0.5, 1.0), gradients, strict=True):
        (wanted,) = torch.autograd.grad(weight * functional.kl(logits, mean), logits)
        torch.testing.assert_close(gradient, wanted)
    # One stone is its own mean.
    value = functional.block_logit(student, student.detach(), [one], labels, **only)
    (gradient,) = torch.autograd.grad(value, one)
    assert gradient.abs().max() < 1e-12


def test_the_loss_is_of_the_stones_through_their_connectors_and_the_teachers_last_blocks() -> None:
    both = shared_context("cnn", "slim")
    teacher: Any = both.teacher.model.eval()
    loss = set_up(both, alpha=0.3, temperature=2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    draw = torch.Generator().manual_seed(3)
    student = {s.name: torch.randn(6, *s.shape, generator=draw).requires_grad_() for _, s in loss.pairs}
    logits, answer = torch.randn(6, 10, generator=draw), torch.randn(6, 10, generator=draw)
    labels = torch.arange(6)
    inputs = LossInputs(
        ModelOutput(logits, student), ModelOutput(answer, tails=tails_of("cnn")), labels, labels, progress=0.0
    )
    # What comes after each tap, by the model's own modules.
    after: dict[str, Any] = {
        "layer1": lambda h: after["layer2"](teacher.layer2(h)),
        "layer2": lambda h: after["features"](teacher.layer3(h).mean((2, 3))),
        "features": lambda h: list(teacher.modules())[-1](h),
    }
    mapped = [(t.name, r(student[s.name])) for (t, s), r in zip(loss.pairs, loss.connectors, strict=True)]
    given = [after[tap](features) for tap, features in mapped]
    wanted = functional.block_logit(logits, answer, given, labels, alpha=0.3, temperature=2)
    value = loss(inputs)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4)
    value.backward()
    assert all(feature.grad is not None and feature.grad.any() for feature in student.values())
    assert all(parameter.grad is not None for parameter in loss.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert {name.partition(".")[0] for name in loss.state_dict()} == {"connectors"}
    assert math.isfinite(value.item())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 0, "beta": 0, "gamma": 0}, "expected alpha, beta or gamma above 0"),
        ({"gamma": -1}, "gamma: got -1"),
        (
            {"taps": "layer2"},
            r"taps: got 'layer2'; expected all, light, features, or a list of taps such as \[layer2\]",
        ),
        ({"taps": ["logits"]}, "taps that are features"),
        ({"taps": ["layer2", "layer2"]}, "each of taps once, but layer2 is there twice"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], match: str) -> None:
    content = {"student": {"name": "mlp"}, "teacher": {"name": "mlp"}}
    with pytest.raises(BadInput, match=match):
        parse_recipe({**content, "losses": [{"name": "block_logit", **options}]})


def test_one_pair_by_two_names_is_refused() -> None:
    both = shared_context("cnn", "slim")
    taps = ["layer2", {"teacher": "layer2", "student": "layer2"}]
    with pytest.raises(BadInput, match=r"block_logit.taps: got .*'layer2'.*; expected each pair of taps once"):
        set_up(both, taps=taps)
    across = ["layer2", {"teacher": "layer2", "student": "layer1"}]
    assert stones(set_up(both, taps=across)) == [("layer2", "layer2"), ("layer2", "layer1")]
