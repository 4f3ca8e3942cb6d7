"""The inherited tester: one subclass a loss, its properties declared, a reason where one does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from stillroom.diagnose.loss import check_loss
from stillroom.losses import functional
from stillroom.losses.base import Loss, LossInputs
from stillroom.losses.registry import build_loss, describe
from stillroom.losses.setup_context import ModelInfo, SetupContext, TrainingSamples
from stillroom.models.reader import FEATURES
from stillroom.models.tail import tail_of
from stillroom.models.text import TextEncoder
from stillroom.recipe import parse_recipe
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.tails import TeacherTail

# What of the student a loss under test reads; its tests move that.
Answer = Literal["logits", "features", "map"]

# Taps of maps; the second is the same in both models, for losses that read two stages.
MAPS = ("1", "4")

# Fisher weights that a batch holds: drawn ones, and the mean of those that follow from the teacher's last layer.
DRAWN, MEAN_OF, MEAN = FisherOf(FEATURES, 4.0, 2), FisherOf(FEATURES, 4.0), 0.37


@cache
def last_layer(classes: int, dtype: torch.dtype = torch.float64) -> TeacherTail:
    """The teacher's, from features as wide as its logits: a rotation, so that features can be found for any logits."""
    draw = torch.Generator().manual_seed(classes)
    layer = nn.Linear(classes, classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.qr(torch.randn(classes, classes, generator=draw, dtype=torch.float64))[0])
        layer.bias.copy_(torch.randn(classes, generator=draw, dtype=torch.float64))
    example = torch.randn(2, classes, generator=draw, dtype=torch.float64)
    return TeacherTail(tail_of(nn.Sequential(nn.Tanh(), layer), FEATURES, example)).to(dtype)


def random_inputs(batch: int = 6, classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> LossInputs:
    """Random answers; the penultimate features are as wide as the logits, so that one test serves both.

    The teacher's logits are those of its features, through a last layer that its tail holds.
    """
    draw = torch.Generator().manual_seed(seed)

    def answer() -> Tensor:
        return 3 * torch.randn(batch, classes, generator=draw, dtype=torch.float64)

    student, teacher = answer(), answer()
    labels = torch.randint(classes, (batch,), generator=draw)
    features, weights = answer(), answer().square() / 9
    exact = last_layer(classes)
    map_s, map_t, last = (torch.randn(batch, 3, 2, 2, generator=draw, dtype=torch.float64).to(dtype) for _ in range(3))
    head, bias = exact.head, exact(torch.zeros(1, classes, dtype=torch.float64))
    assert head is not None
    return LossInputs(
        student=ModelOutput(student.to(dtype), {FEATURES: features.to(dtype), MAPS[0]: map_s, MAPS[1]: last}),
        teacher=ModelOutput(
            teacher.to(dtype),
            # The inverse of a rotation is its transpose.
            {FEATURES: ((teacher - bias) @ head).to(dtype), MAPS[0]: map_t, MAPS[1]: last.clone()},
            fishers={DRAWN: weights.to(dtype)},
            fisher_means={MEAN_OF: MEAN},
            tails={FEATURES: last_layer(classes, dtype)},
        ),
        labels=labels,
        index=torch.arange(batch),
        progress=0.0,
    )


def output_of(output: ModelOutput | None, answer: Answer = "logits") -> Tensor:
    assert output is not None
    return output.logits if answer == "logits" else output.features[FEATURES if answer == "features" else MAPS[0]]


def with_output(output: ModelOutput | None, answer: Answer, value: Tensor) -> ModelOutput:
    """The same output with other logits or features."""
    assert output is not None
    if answer == "logits":
        return replace(output, logits=value)
    return replace(output, features={**output.features, FEATURES if answer == "features" else MAPS[0]: value})


def with_student(inputs: LossInputs, value: Tensor, answer: Answer = "logits") -> LossInputs:
    return replace(inputs, student=with_output(inputs.student, answer, value))


def select(inputs: LossInputs, rows: Tensor) -> LossInputs:
    def part(output: ModelOutput | None) -> ModelOutput:
        assert output is not None
        features = {tap: feature[rows] for tap, feature in output.features.items()}
        fishers = {of: weight[rows] for of, weight in output.fishers.items()}
        return replace(output, logits=output.logits[rows], features=features, fishers=fishers)

    return LossInputs(
        part(inputs.student), part(inputs.teacher), inputs.labels[rows], inputs.index[rows], inputs.progress
    )


@cache
def small_setup_context(width: int = 5, classes: int = 5) -> SetupContext:
    """A teacher and a student of one hidden layer each, of one width; the same for all, as finding taps takes time."""

    def model_info(field: Literal["teacher", "student"]) -> ModelInfo:
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, classes))
        return ModelInfo(net, lambda: torch.rand(2, 1, 2, 2), field)

    samples = TrainingSamples(40, torch.arange(40), torch.arange(40) % classes)
    return SetupContext(model_info("student"), model_info("teacher"), num_classes=classes, seed=0, samples=samples)


@cache
def text_setup_context() -> SetupContext:
    """The like of two encoders of texts, of one block of width 4 with two heads."""

    def model_info(field: Literal["teacher", "student"]) -> ModelInfo:
        ids = torch.tensor([[2, 7, 3, -1], [2, 8, 9, 3]], dtype=torch.int32)
        return ModelInfo(TextEncoder(10, 4, 5, dim=4, depth=1, heads=2, dropout=0.0), lambda: ids, field)

    return SetupContext(model_info("student"), model_info("teacher"), num_classes=5, seed=0)


@cache
def map_setup_context() -> SetupContext:
    """The like of two stages of maps."""

    def model_info(field: Literal["teacher", "student"]) -> ModelInfo:
        stages = [nn.Conv2d(1, 3, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 3, 1), nn.ReLU()]
        net = nn.Sequential(*stages, nn.Flatten(), nn.Linear(12, 5))
        return ModelInfo(net, lambda: torch.rand(2, 1, 4, 4), field)

    return SetupContext(model_info("student"), model_info("teacher"), num_classes=5, seed=0)


class LossTester:
    """Subclass it as ``TestName(LossTester)``; every property below is then held.

    Attributes:
        loss: the class under test.
        answer: what of the student it reads.
        variants: the options it is tested with.
        reference: a plain float64 computation, worked from the formula alone: (inputs, options) → float.
        precision: how near 0 the gradient is at the minimum.
        checked: the pure function, in the arguments that ``check_loss`` knows; None for that of the loss's own name.
        eval_mode: whether it is tested in evaluation mode, as it normalises or remembers batches.
        not_held: property → the reason why it does not hold; such a property is checked to be *false* where that
            can be checked, so that a reason cannot outlive its cause.
    """

    loss: ClassVar[type[Loss[Any]]]
    answer: ClassVar[Answer] = "logits"
    variants: ClassVar[list[dict[str, Any]]] = [{}]
    reference: ClassVar[Callable[[LossInputs, dict[str, Any]], float]]
    precision: ClassVar[float] = 1e-12
    checked: ClassVar[Callable[..., Tensor] | None] = None
    eval_mode: ClassVar[bool] = False
    not_held: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def make(self, variant: dict[str, Any]) -> Loss[Any]:
        loss = self.loss(**variant)
        loss.setup(map_setup_context() if self.answer == "map" else small_setup_context())
        return loss.double().train(not self.eval_mode)

    def inputs(self, batch: int = 6, classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> LossInputs:
        return self.labelled(random_inputs(batch, classes, seed, dtype), classes)

    def labelled(self, inputs: LossInputs, classes: int) -> LossInputs:
        """The inputs with labels of the form that it reads, from class numbers."""
        return inputs

    def select(self, inputs: LossInputs, rows: Tensor) -> LossInputs:
        return select(inputs, rows)

    def student_of(self, inputs: LossInputs) -> Tensor:
        return output_of(inputs.student, self.answer)

    def teacher_of(self, inputs: LossInputs) -> Tensor:
        return output_of(inputs.teacher, self.answer)

    def with_student(self, inputs: LossInputs, value: Tensor) -> LossInputs:
        return with_student(inputs, value, self.answer)

    def test_equals_the_formula(self, make: Loss[Any], variant: dict[str, Any]) -> None:
        for seed in range(3):
            inputs = self.inputs(seed=seed)
            assert make(inputs).item() == pytest.approx(type(self).reference(inputs, variant), rel=1e-9)

    def test_returns_a_scalar_that_is_not_negative(self, make: Loss[Any]) -> None:
        value = make(self.inputs())
        assert value.shape == ()
        assert value.item() >= 0

    def test_minimum_when_student_equals_teacher(self, make: Loss[Any]) -> None:
        inputs = self.inputs()
        student = self.teacher_of(inputs).clone().requires_grad_()
        value = make(self.with_student(inputs, student))
        (gradient,) = torch.autograd.grad(value, student)
        if "minimum" in self.not_held:
            assert gradient.abs().max() > 1e-4, f"it holds after all: {self.not_held['minimum']}"
            return
        if "zero" in self.not_held:
            assert abs(value.item()) > 1e-3, f"it holds after all: {self.not_held['zero']}"
        else:
            assert value.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < self.precision
        moved = [student + 0.1 * torch.randn_like(student) for _ in range(5)]
        assert all(make(self.with_student(inputs, each)) > value for each in moved)

    def test_gradient_is_right_in_float64(self, make: Loss[Any]) -> None:
        inputs = self.inputs(batch=3)
        student = self.student_of(inputs).clone().requires_grad_()
        right = torch.autograd.gradcheck(
            lambda z: make(self.with_student(inputs, z)), (student,), raise_exception="gradient" not in self.not_held
        )
        assert right != ("gradient" in self.not_held), "it holds after all"

    def test_no_gradient_reaches_the_teacher(self, make: Loss[Any]) -> None:
        inputs = self.inputs()
        teacher = inputs.teacher_output
        outputs = [teacher.logits, *teacher.features.values(), *teacher.fishers.values()]
        for answer in outputs:
            answer.requires_grad_()
        student = self.student_of(inputs).clone().requires_grad_()
        make(self.with_student(inputs, student)).backward()
        assert all(answer.grad is None for answer in outputs)
        assert student.grad is not None
        assert student.grad.abs().max() > 0

    def test_order_of_the_batch_does_not_matter(self, make: Loss[Any]) -> None:
        inputs = self.inputs()
        shuffled = self.select(inputs, torch.tensor([3, 1, 5, 0, 4, 2]))
        same = make(shuffled).item() == pytest.approx(make(inputs).item(), rel=1e-9)
        assert same != ("order" in self.not_held)

    def test_batch_is_the_mean_of_its_samples(self, make: Loss[Any]) -> None:
        inputs = self.inputs()
        values = [make(self.select(inputs, torch.tensor([row]))).item() for row in range(6)]
        mean = sum(values) / 6
        assert (make(inputs).item() == pytest.approx(mean, rel=1e-9)) == self.loss.per_sample

    def test_bfloat16_stays_close(self, make: Loss[Any]) -> None:
        exact = make(self.inputs(batch=32)).item()
        low = make.float()(self.inputs(batch=32, dtype=torch.bfloat16))
        assert low.dtype == torch.float32
        assert low.item() == pytest.approx(exact, rel=0.02)

    def test_two_classes(self, make: Loss[Any], variant: dict[str, Any]) -> None:
        if "two classes" in self.not_held:
            pytest.skip(self.not_held["two classes"])
        inputs = self.inputs(classes=2)
        assert make(inputs).item() == pytest.approx(type(self).reference(inputs, variant), rel=1e-9)

    def test_batch_of_one(self, make: Loss[Any], variant: dict[str, Any]) -> None:
        inputs = self.inputs(batch=1)
        assert make(inputs).item() == pytest.approx(type(self).reference(inputs, variant), rel=1e-9)

    def test_empty_batch_gives_zero_and_zero_gradient(self, make: Loss[Any]) -> None:
        inputs = self.inputs(batch=0)
        student = self.student_of(inputs).clone().requires_grad_()
        value = make(self.with_student(inputs, student))
        value.backward()
        assert value.item() == 0
        assert student.grad is not None
        assert not student.grad.isnan().any()

    def test_wide_logits_stay_finite_in_float32(self, make: Loss[Any]) -> None:
        narrow = self.inputs(dtype=torch.float32)
        inputs = replace(narrow, teacher=with_output(narrow.teacher, self.answer, 200 * self.teacher_of(narrow)))
        student = (200 * self.student_of(inputs)).requires_grad_()
        value = make.float()(self.with_student(inputs, student))
        value.backward()
        assert torch.isfinite(value)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()

    @pytest.mark.parametrize("classes", [2, 5])
    def test_saturated_logits_give_no_nan(self, make: Loss[Any], classes: int) -> None:
        if self.answer != "logits":
            pytest.skip("its logits are not what it reads")
        inputs = self.inputs(batch=2, classes=classes, dtype=torch.float32)
        sure = 80 * torch.eye(classes)[[0, 1]]
        assert inputs.teacher is not None
        inputs = replace(inputs, teacher=replace(inputs.teacher, logits=sure), labels=torch.tensor([0, 1]))
        inputs = self.labelled(inputs, classes)
        for student in (sure, sure.flip(0), -sure):
            moved = student.clone().requires_grad_()
            value = make.float()(self.with_student(inputs, moved))
            value.backward()
            assert torch.isfinite(value)
            assert moved.grad is not None
            assert torch.isfinite(moved.grad).all()

    def test_wrong_shapes_are_refused(self, make: Loss[Any]) -> None:
        inputs = self.inputs()
        with pytest.raises(ValueError, match="expected"):
            make(self.with_student(inputs, self.student_of(inputs)[:4]))

    def test_recipe_and_python_make_the_same(self, make: Loss[Any]) -> None:
        recipe = parse_recipe({"student": {"name": "mlp"}, "losses": [describe(make)]})
        again = build_loss(recipe.losses[0])
        assert type(again) is type(make)
        assert again.config == make.config

    def test_check_loss_finds_no_problem_in_the_pure_function(self) -> None:
        function = type(self).checked or getattr(functional, self.loss.Config.model_fields["name"].default)
        check_loss(function, num_classes=5).raise_for_problems()

    def test_options_are_checked(self) -> None:
        with pytest.raises(ValueError, match=f"{self.loss.__name__}.*unknown field"):
            self.loss(no_such_option=1)

    def test_says_what_it_is(self) -> None:
        assert self.loss.__doc__
        assert self.loss.citation is not None or "citation" in self.not_held
        assert self.loss.tasks
