"""What is wrong with a teacher, a student, their data, loss and optimizer, before a training loop begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stillroom.diagnose.check import Check
from stillroom.diagnose.checks.setup import student as student_checks
from stillroom.diagnose.checks.setup import teacher as teacher_checks
from stillroom.diagnose.checks.setup.training_setup import IMAGES, TrainingSetup, draw_batches, unchanged
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.errors import BadInput

# Causes before what follows from them.
CHECKS: tuple[Check[TrainingSetup], ...] = (
    student_checks.teacher_trained,
    teacher_checks.teacher_mode,
    teacher_checks.probabilities_for_logits,
    teacher_checks.class_order,
    teacher_checks.teacher_input,
    teacher_checks.teacher_batch_norm,
    teacher_checks.weights_not_loaded,
    teacher_checks.teacher_at_chance,
    teacher_checks.teacher_weak,
    teacher_checks.target_constant,
    student_checks.loss_finite,
    student_checks.student_no_gradient,
    student_checks.teacher_unused,
    student_checks.parameters_left_out,
    student_checks.student_mode,
    student_checks.stale_answers,
    student_checks.learning_rate,
    student_checks.capacity_gap,
)


def check_setup(
    teacher: nn.Module | Tensor,
    student: nn.Module,
    loader: Iterable[Any],
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    images: int = IMAGES,
) -> Diagnosis:
    """Check a teacher, a student and their data before a training loop of your own; a few batches, nothing is trained.

    Every module, mode, buffer, gradient and random generator is left as it was, so that the loop that follows does the
    same as without the check.

    Args:
        teacher: the model, as the loop would call it; or its stored logits [N, K] in the order of ``loader.dataset``.
        student: the model that learns.
        loader: a DataLoader or any iterable of batches (inputs, labels) or of mappings with a ``label``; or one batch.
        loss: of (student logits, teacher logits, labels), a function or a module.
        optimizer: the student's.
        images: how many images are looked at, at the most.

    Returns:
        The diagnosis: ``.problems``, ``.ok``, ``.raise_for_problems()``; it prints itself.

    Raises:
        BadInput: a model cannot be run on the batches, or there are none.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> x = torch.randn(300, 4)
    >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    >>> found = check_setup(teacher, student, [(x, teacher(x).argmax(1))], optimizer=optimizer)
    >>> found.ok
    True
    >>> forgotten = torch.optim.SGD([student.bias], lr=0.1)
    >>> found = check_setup(teacher, student, [(x, teacher(x).argmax(1))], optimizer=forgotten)
    >>> [problem.check for problem in found.problems]
    ['parameters_left_out']
    """
    for name, module in (("teacher", teacher), ("student", student)):
        if not isinstance(module, nn.Module) and not (name == "teacher" and isinstance(module, Tensor)):
            expected = "an nn.Module" + (", or its stored logits as a tensor [N, K]" if name == "teacher" else "")
            raise BadInput(name, type(module).__name__, expected)
    with unchanged(teacher, student, loss, loader=loader):
        source: Iterable[Any] = loader
        if isinstance(teacher, Tensor):
            source = _in_order(teacher, loader)
        setup = TrainingSetup(
            teacher, student, draw_batches(source, images), loss=loss, optimizer=optimizer, loader=loader
        )
        findings = [each.attempt(setup, raises=(BadInput,)) for each in CHECKS]
    return Diagnosis.of(f"{type(teacher).__name__} → {type(student).__name__}", findings, kind="setup")


def _in_order(logits: Tensor, loader: Any) -> Iterable[Any]:
    """Batches of the loader's dataset in its own order, as stored logits are."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        raise BadInput("loader", type(loader).__name__, "a DataLoader, as the teacher's logits are stored by its items")
    if logits.dim() != 2 or len(logits) != len(dataset):
        expected = f"stored logits [{len(dataset)}, classes], a row for each item of the dataset"
        raise BadInput("teacher", list(logits.shape), expected)
    return DataLoader(dataset, batch_size=64, collate_fn=loader.collate_fn)
