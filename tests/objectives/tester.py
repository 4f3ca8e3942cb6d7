"""The inherited tester: one subclass an objective, its properties declared, a reason where one does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from stillroom.models.finding import FEATURES
from stillroom.models.tail import tail_of
from stillroom.objectives.base import Lesson, Objective
from stillroom.objectives.meeting import Meeting, Party
from stillroom.objectives.registry import build_objective, describe
from stillroom.recipe import parse_recipe
from stillroom.teacher.fisher import FisherOf
from stillroom.teacher.knowledge import Knowledge
from stillroom.teacher.tails import TeacherTail

# What of the student an objective under test reads; its tests move that.
Answer = Literal["logits", "features"]

# Fisher weights that a lesson holds: drawn ones, and the mean of those that follow from the teacher's last layer.
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


def random_lesson(batch: int = 6, classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Lesson:
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
    head, bias = exact.head, exact(torch.zeros(1, classes, dtype=torch.float64))
    assert head is not None
    return Lesson(
        student=Knowledge(student.to(dtype), {FEATURES: features.to(dtype)}),
        teacher=Knowledge(
            teacher.to(dtype),
            # The inverse of a rotation is its transpose.
            {FEATURES: ((teacher - bias) @ head).to(dtype)},
            fishers={DRAWN: weights.to(dtype)},
            fisher_means={MEAN_OF: MEAN},
            tails={FEATURES: last_layer(classes, dtype)},
        ),
        labels=labels,
        index=torch.arange(batch),
        progress=0.0,
    )


def said(knowledge: Knowledge | None, answer: Answer = "logits") -> Tensor:
    assert knowledge is not None
    return knowledge.logits if answer == "logits" else knowledge.features[FEATURES]


def saying(knowledge: Knowledge | None, answer: Answer, value: Tensor) -> Knowledge:
    """The same knowledge with another answer."""
    assert knowledge is not None
    if answer == "logits":
        return replace(knowledge, logits=value)
    return replace(knowledge, features={**knowledge.features, FEATURES: value})


def with_student(lesson: Lesson, value: Tensor, answer: Answer = "logits") -> Lesson:
    return replace(lesson, student=saying(lesson.student, answer, value))


def taken(lesson: Lesson, rows: Tensor) -> Lesson:
    def part(knowledge: Knowledge | None) -> Knowledge:
        assert knowledge is not None
        features = {tap: feature[rows] for tap, feature in knowledge.features.items()}
        fishers = {of: weight[rows] for of, weight in knowledge.fishers.items()}
        return replace(knowledge, logits=knowledge.logits[rows], features=features, fishers=fishers)

    return Lesson(part(lesson.student), part(lesson.teacher), lesson.labels[rows], lesson.index[rows], lesson.progress)


@cache
def small_meeting(width: int = 5, classes: int = 5) -> Meeting:
    """A teacher and a student of one hidden layer each, of one width; the same for all, as finding taps takes time."""

    def party(field: Literal["teacher", "student"]) -> Party:
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, classes))
        return Party(net, lambda: torch.rand(2, 1, 2, 2), field)

    return Meeting(party("student"), party("teacher"), num_classes=classes, seed=0)


class ObjectiveTester:
    """Subclass it as ``TestName(ObjectiveTester)``; every property below is then held.

    Attributes:
        objective: the class under test.
        answer: what of the student it reads.
        variants: the options it is tested with.
        reference: a plain float64 computation, worked from the formula alone: (lesson, options) → float.
        not_held: property → the reason why it does not hold; such a property is checked to be *false* where that
            can be checked, so that a reason cannot outlive its cause.
    """

    objective: ClassVar[type[Objective[Any]]]
    answer: ClassVar[Answer] = "logits"
    variants: ClassVar[list[dict[str, Any]]] = [{}]
    reference: ClassVar[Callable[[Lesson, dict[str, Any]], float]]
    not_held: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def make(self, variant: dict[str, Any]) -> Objective[Any]:
        objective = self.objective(**variant)
        objective.meet(small_meeting())
        return objective

    def student_of(self, lesson: Lesson) -> Tensor:
        return said(lesson.student, self.answer)

    def teacher_of(self, lesson: Lesson) -> Tensor:
        return said(lesson.teacher, self.answer)

    def with_student(self, lesson: Lesson, value: Tensor) -> Lesson:
        return with_student(lesson, value, self.answer)

    def test_equals_the_formula(self, make: Objective[Any], variant: dict[str, Any]) -> None:
        for seed in range(3):
            lesson = random_lesson(seed=seed)
            assert make(lesson).item() == pytest.approx(type(self).reference(lesson, variant), rel=1e-9)

    def test_returns_a_scalar_that_is_not_negative(self, make: Objective[Any]) -> None:
        value = make(random_lesson())
        assert value.shape == ()
        assert value.item() >= 0

    def test_minimum_when_student_equals_teacher(self, make: Objective[Any]) -> None:
        lesson = random_lesson()
        student = self.teacher_of(lesson).clone().requires_grad_()
        loss = make(self.with_student(lesson, student))
        (gradient,) = torch.autograd.grad(loss, student)
        if "minimum" in self.not_held:
            assert gradient.abs().max() > 1e-3, f"it holds after all: {self.not_held['minimum']}"
            return
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < 1e-12
        assert all(make(self.with_student(lesson, student + 0.1 * torch.randn_like(student))) > 0 for _ in range(5))

    def test_gradient_is_right_in_float64(self, make: Objective[Any]) -> None:
        lesson = random_lesson(batch=3, classes=4)
        student = self.student_of(lesson).clone().requires_grad_()
        right = torch.autograd.gradcheck(
            lambda z: make(self.with_student(lesson, z)), (student,), raise_exception="gradient" not in self.not_held
        )
        assert right != ("gradient" in self.not_held), "it holds after all"

    def test_no_gradient_reaches_the_teacher(self, make: Objective[Any]) -> None:
        lesson = random_lesson()
        taught = lesson.taught
        told = [taught.logits, *taught.features.values(), *taught.fishers.values()]
        for answer in told:
            answer.requires_grad_()
        student = self.student_of(lesson).clone().requires_grad_()
        make(self.with_student(lesson, student)).backward()
        assert all(answer.grad is None for answer in told)
        assert student.grad is not None
        assert student.grad.abs().max() > 0

    def test_order_of_the_batch_does_not_matter(self, make: Objective[Any]) -> None:
        lesson = random_lesson()
        shuffled = taken(lesson, torch.tensor([3, 1, 5, 0, 4, 2]))
        assert make(shuffled).item() == pytest.approx(make(lesson).item(), rel=1e-12)

    def test_batch_is_the_mean_of_its_samples(self, make: Objective[Any]) -> None:
        lesson = random_lesson()
        alone = [make(taken(lesson, torch.tensor([row]))).item() for row in range(6)]
        mean = sum(alone) / 6
        assert (make(lesson).item() == pytest.approx(mean, rel=1e-9)) == self.objective.per_sample

    def test_bfloat16_stays_close(self, make: Objective[Any]) -> None:
        exact = make(random_lesson(batch=32)).item()
        low = make(random_lesson(batch=32, dtype=torch.bfloat16))
        assert low.dtype == torch.float32
        assert low.item() == pytest.approx(exact, rel=0.02)

    def test_two_classes(self, make: Objective[Any], variant: dict[str, Any]) -> None:
        lesson = random_lesson(classes=2)
        assert make(lesson).item() == pytest.approx(type(self).reference(lesson, variant), rel=1e-9)

    def test_batch_of_one(self, make: Objective[Any], variant: dict[str, Any]) -> None:
        lesson = random_lesson(batch=1)
        assert make(lesson).item() == pytest.approx(type(self).reference(lesson, variant), rel=1e-9)

    def test_empty_batch_gives_zero_and_zero_gradient(self, make: Objective[Any]) -> None:
        lesson = random_lesson(batch=0)
        student = self.student_of(lesson).clone().requires_grad_()
        loss = make(self.with_student(lesson, student))
        loss.backward()
        assert loss.item() == 0
        assert student.grad is not None
        assert not student.grad.isnan().any()

    def test_wide_logits_stay_finite_in_float32(self, make: Objective[Any]) -> None:
        narrow = random_lesson(dtype=torch.float32)
        lesson = replace(narrow, teacher=saying(narrow.teacher, self.answer, 200 * self.teacher_of(narrow)))
        student = (200 * self.student_of(lesson)).requires_grad_()
        loss = make(self.with_student(lesson, student))
        loss.backward()
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()

    def test_wrong_shapes_are_refused(self, make: Objective[Any]) -> None:
        lesson = random_lesson()
        with pytest.raises(ValueError, match="expected"):
            make(self.with_student(lesson, self.student_of(lesson)[:4]))

    def test_recipe_and_python_make_the_same(self, make: Objective[Any]) -> None:
        recipe = parse_recipe({"student": {"name": "mlp"}, "objectives": [describe(make)]})
        again = build_objective(recipe.objectives[0])
        assert type(again) is type(make)
        assert again.config == make.config

    def test_options_are_checked(self) -> None:
        with pytest.raises(ValueError, match=f"{self.objective.__name__}.*unknown field"):
            self.objective(no_such_option=1)

    def test_says_what_it_is(self) -> None:
        assert self.objective.__doc__
        assert self.objective.paper is not None or "paper" in self.not_held
