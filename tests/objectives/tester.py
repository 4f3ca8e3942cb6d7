"""The inherited tester: one subclass an objective, its properties declared, a reason where one does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from stillroom.objectives.base import Lesson, Objective
from stillroom.objectives.registry import build_objective, describe
from stillroom.recipe import parse_recipe
from stillroom.teacher.knowledge import Knowledge


def random_lesson(batch: int = 6, classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Lesson:
    draw = torch.Generator().manual_seed(seed)
    return Lesson(
        student=Knowledge(3 * torch.randn(batch, classes, generator=draw, dtype=torch.float64).to(dtype)),
        teacher=Knowledge(3 * torch.randn(batch, classes, generator=draw, dtype=torch.float64).to(dtype)),
        labels=torch.randint(classes, (batch,), generator=draw),
        index=torch.arange(batch),
        progress=0.0,
    )


def with_student(lesson: Lesson, logits: Tensor) -> Lesson:
    return Lesson(Knowledge(logits), lesson.teacher, lesson.labels, lesson.index, lesson.progress)


def taken(lesson: Lesson, rows: Tensor) -> Lesson:
    assert lesson.teacher is not None
    return Lesson(
        Knowledge(lesson.student.logits[rows]),
        Knowledge(lesson.teacher.logits[rows]),
        lesson.labels[rows],
        lesson.index[rows],
        lesson.progress,
    )


class ObjectiveTester:
    """Subclass it as ``TestName(ObjectiveTester)``; every property below is then held.

    Attributes:
        objective: the class under test.
        variants: the options it is tested with.
        reference: a plain float64 computation, worked from the formula alone: (lesson, options) → float.
        not_held: property → the reason why it does not hold; such a property is checked to be *false* where that
            can be checked, so that a reason cannot outlive its cause.
    """

    objective: ClassVar[type[Objective[Any]]]
    variants: ClassVar[list[dict[str, Any]]] = [{}]
    reference: ClassVar[Callable[[Lesson, dict[str, Any]], float]]
    not_held: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def make(self, variant: dict[str, Any]) -> Objective[Any]:
        return self.objective(**variant)

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
        student = lesson.teacher_logits.clone().requires_grad_()
        loss = make(with_student(lesson, student))
        (gradient,) = torch.autograd.grad(loss, student)
        if "minimum" in self.not_held:
            assert gradient.abs().max() > 1e-3, f"it holds after all: {self.not_held['minimum']}"
            return
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < 1e-12
        assert all(make(with_student(lesson, student + 0.1 * torch.randn_like(student))) > 0 for _ in range(5))

    def test_gradient_is_right_in_float64(self, make: Objective[Any]) -> None:
        lesson = random_lesson(batch=3, classes=4)
        student = lesson.student.logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: make(with_student(lesson, z)), (student,))

    def test_no_gradient_reaches_the_teacher(self, make: Objective[Any]) -> None:
        lesson = random_lesson()
        lesson.teacher_logits.requires_grad_()
        student = lesson.student.logits.clone().requires_grad_()
        make(with_student(lesson, student)).backward()
        assert lesson.teacher_logits.grad is None
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
        student = lesson.student.logits.clone().requires_grad_()
        loss = make(with_student(lesson, student))
        loss.backward()
        assert loss.item() == 0
        assert student.grad is not None
        assert not student.grad.isnan().any()

    def test_wide_logits_stay_finite_in_float32(self, make: Objective[Any]) -> None:
        narrow = random_lesson(dtype=torch.float32)
        assert narrow.teacher is not None
        lesson = Lesson(
            narrow.student, Knowledge(200 * narrow.teacher.logits), narrow.labels, narrow.index, narrow.progress
        )
        student = (200 * lesson.student.logits).requires_grad_()
        loss = make(with_student(lesson, student))
        loss.backward()
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()

    def test_wrong_shapes_are_refused(self, make: Objective[Any]) -> None:
        lesson = random_lesson()
        with pytest.raises(ValueError, match="expected"):
            make(with_student(lesson, lesson.student.logits[:4]))

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
