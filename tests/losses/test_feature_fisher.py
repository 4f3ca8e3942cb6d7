"""Features weighed by the teacher's gradients: which weights are asked for, and that several taps are their mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from losses.pairs import shared_context, tails_of
from stillroom.losses import functional
from stillroom.losses.base import Loss, LossInputs, Requires
from stillroom.losses.feature_fisher import FeatureFisher
from stillroom.losses.feature_full_fisher import FeatureFullFisher
from stillroom.losses.setup_context import SetupContext
from stillroom.recipe import parse_recipe
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput


def set_up(loss: Loss[Any], with_: SetupContext) -> Any:
    loss.setup(with_)
    return loss


def of_classes(count: int) -> SetupContext:
    both = shared_context("cnn", "vit")
    return SetupContext(both.student, both.teacher, num_classes=count, seed=0)


@pytest.mark.parametrize(
    ("samples", "classes", "drawn"),
    [("auto", 16, 0), ("auto", 17, 4), ("all", 100, 0), (2, 10, 2), (1, 100, 1)],
)
def test_up_to_16_classes_all_are_asked_about_and_of_more_some(samples: Any, classes: int, drawn: int) -> None:
    loss = set_up(FeatureFisher(samples=samples, temperature=2), of_classes(classes))
    assert loss.requires.fishers == (FisherOf("features", 2.0, drawn),)
    assert loss.requires.teacher_features == loss.requires.student_features == ("features",)
    assert loss.requires.fisher_means == () == loss.requires.tails


def test_the_mean_of_the_weights_is_read_where_they_are_divided_by_it() -> None:
    loss = set_up(FeatureFisher(scale="mse"), of_classes(10))
    assert loss.requires.fisher_means == loss.requires.fishers == (FisherOf("features", 4.0),)
    assert FeatureFisher.requires.fishers == (), "the class is left as it was"
    line = loss.describe_taps()
    assert line.startswith(
        "feature_fisher weighs by the teacher's gradients (student → teacher) features 16 → features"
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": "some"}, r"samples: unknown value 'some'; one of: "),
        ({"samples": 0}, r"samples: got 0; expected .*1"),
        ({"scale": "logits"}, r"scale: unknown value 'logits'; .*kl.*mse"),
        ({"temperature": 0}, r"temperature: got 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], match: str) -> None:
    content = {"student": {"name": "mlp"}, "teacher": {"name": "mlp"}}
    with pytest.raises(ValueError, match=match):
        parse_recipe({**content, "losses": [{"name": "feature_fisher", **options}]})


def lesson_of(loss: Any) -> tuple[LossInputs, dict[str, Tensor], dict[str, Tensor]]:
    """Random features at the pairs, those of the student leaves that gradients are wanted of."""
    draw = torch.Generator().manual_seed(3)
    student = {s.name: torch.randn(6, *s.shape, generator=draw).requires_grad_() for _, s in loss.pairs}
    features = {t.name: torch.randn(6, *t.shape, generator=draw) for t, _ in loss.pairs}
    weights = {of: torch.rand(features[of.tap].shape, generator=draw) for of in loss.requires.fishers}
    means = {of: 0.5 + place for place, of in enumerate(loss.requires.fisher_means)}
    tails = {tap: tails_of("cnn")[tap] for tap in loss.requires.tails}
    logits = torch.randn(6, 10, generator=draw)
    output = ModelOutput(logits, features, weights, means, tails=tails)
    inputs = LossInputs(ModelOutput(logits, student), output, torch.zeros(6), torch.arange(6), progress=0.0)
    mapped = dict(zip(features, (r(h) for r, h in zip(loss.connectors, student.values(), strict=True)), strict=True))
    return inputs, mapped, student


@pytest.mark.parametrize("scale", ["kl", "mse"])
def test_several_taps_are_the_mean_of_each(scale: Any) -> None:
    loss = set_up(FeatureFisher(taps="all", scale=scale), shared_context("cnn", "slim"))
    inputs, mapped, student = lesson_of(loss)
    teacher = inputs.teacher_output
    terms = [
        functional.feature_fisher(
            mapped[of.tap],
            teacher.features[of.tap],
            teacher.fishers[of],
            weight_scale=teacher.fisher_means[of] if scale == "mse" else None,
        ).item()
        for of in loss.requires.fishers
    ]
    assert len(set(terms)) == 4
    value = loss(inputs)
    assert value.item() == pytest.approx(sum(terms) / 4, rel=1e-5)
    value.backward()
    assert all(feature.grad is not None and feature.grad.any() for feature in student.values())
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_the_gap_at_several_taps_is_carried_through_the_tail_of_each() -> None:
    loss = set_up(FeatureFullFisher(taps="all"), shared_context("cnn", "slim"))
    inputs, mapped, student = lesson_of(loss)
    teacher, step = inputs.teacher_output, 1e-3
    p = torch.softmax(teacher.logits.double() / 4, 1)
    terms = []
    for tap in loss.requires.tails:
        tail, h = teacher.tail(tap).to(torch.float64), teacher.features[tap].double()
        # A difference of two answers instead of the derivative.
        gap = mapped[tap].detach().double() - h
        moved = (tail(h + step * gap) - tail(h - step * gap)) / (2 * step)
        terms.append(functional.half_variance(moved, p).item())
        tail.to(torch.float32)
    value = loss(inputs)
    assert value.item() == pytest.approx(sum(terms) / 4, rel=1e-2)
    value.backward()
    assert all(feature.grad is not None and feature.grad.any() for feature in student.values())
    assert not any(buffer.requires_grad for tail in teacher.tails.values() for buffer in tail.buffers())
    assert not set(loss.modules()) & {module for tail in teacher.tails.values() for module in tail.modules()}


def test_a_teacher_that_depends_on_no_feature_leaves_nothing_to_divide_by() -> None:
    both = shared_context("cnn", "slim")
    same = SetupContext(both.teacher, both.teacher, num_classes=10, seed=0)
    loss = set_up(FeatureFisher(scale="mse", connector="identity"), same)
    (of,) = loss.requires.fishers
    flat = ModelOutput(torch.zeros(2, 10), {"features": torch.zeros(2, 32)}, {of: torch.zeros(2, 32)}, {of: 0.0})
    inputs = LossInputs(
        ModelOutput(torch.zeros(2, 10), {"features": torch.ones(2, 32)}), flat, torch.zeros(2), torch.arange(2), 0.0
    )
    assert loss(inputs).item() == 0


def test_weights_in_another_memory_layout_weigh_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher, weight = (torch.rand(3, 4, 5, 6, generator=draw) for _ in range(3))
    plain = functional.feature_fisher(student, teacher, weight)
    last = student.to(memory_format=torch.channels_last)
    torch.testing.assert_close(functional.feature_fisher(last, teacher, weight), plain)
    torch.testing.assert_close(functional.feature_fisher(last, teacher.half(), weight.half()), plain, rtol=1e-2, atol=0)
    in_squared_units = functional.feature_fisher(last, teacher, weight, weight_scale=0.25)
    torch.testing.assert_close(in_squared_units, ((student - teacher).square() * weight / 0.25).mean())


def test_what_has_not_the_right_shape_is_refused() -> None:
    h, p = torch.zeros(2, 3), torch.full((2, 4), 0.25)
    with pytest.raises(ValueError, match=r"weight: got \(2, 4\); expected one weight a feature, \(2, 3\)"):
        functional.feature_fisher(h, h, torch.zeros(2, 4))
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"weight_scale: got .*; expected a number above 0"):
            functional.feature_fisher(h, h, h, weight_scale=scale)
    with pytest.raises(
        ValueError, match=r"jacobian: got \(2, 3, 4\); expected \[batch, classes, features\] = \(2, 4, 3"
    ):
        functional.feature_full_fisher(h, h, torch.zeros(2, 3, 4), p)
    with pytest.raises(ValueError, match=r"probabilities: got \(2, 4\); expected the shape of the logits, \(2, 3\)"):
        functional.half_variance(h, p)


def test_low_precision_is_left_at_once() -> None:
    draw = torch.Generator().manual_seed(0)
    moved, p = torch.randn(8, 5, generator=draw), torch.softmax(torch.randn(8, 5, generator=draw), 1)
    low = functional.half_variance(moved.bfloat16(), p)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, functional.half_variance(moved, p), rtol=0.01, atol=0)


def test_what_nobody_declared_is_not_there() -> None:
    silent = ModelOutput(torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match=r"tail at 'layer2': Requires\(teacher=True, tails=\('layer2',\)\)"):
        silent.tail("layer2")
    with pytest.raises(RuntimeError, match=r"Fisher weights of layer2 at τ = 4, all classes: .*fishers="):
        silent.fisher(FisherOf("layer2", 4.0))


def test_what_cannot_be_read_cannot_be_declared() -> None:
    of = FisherOf("layer2", 4.0)
    with pytest.raises(ValueError, match="tails without teacher=True"):
        Requires(tails=("layer2",))
    with pytest.raises(ValueError, match="fishers without teacher=True"):
        Requires(fishers=(of,))
    with pytest.raises(ValueError, match=r"fishers of \['layer2'\], which are not in teacher_features"):
        Requires(teacher=True, fishers=(of,))
    with pytest.raises(ValueError, match="fisher_means of weights that are not in fishers"):
        Requires(teacher=True, teacher_features=("layer2",), fisher_means=(of,))
