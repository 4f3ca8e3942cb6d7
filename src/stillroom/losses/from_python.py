"""Losses as people give them in Python: a loss, its name or options, a module of torch, a function of logits."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from stillroom.config import bad_input
from stillroom.errors import BadInput, format_error
from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.losses.registry import AnyLoss, build_loss, losses
from stillroom.losses.setup_context import SetupContext
from stillroom.models.modes import device_of
from stillroom.tasks import TASKS

Argument = Literal["student", "teacher", "labels"]

_LOGITS: tuple[Argument, ...] = ("student", "teacher")
_ALL: tuple[Argument, ...] = ("student", "teacher", "labels")
# What torch's losses compare; the others take something else than logits.
_TORCH: dict[type[nn.Module], tuple[Argument, ...]] = {
    **dict.fromkeys((nn.CrossEntropyLoss, nn.MultiMarginLoss, nn.BCEWithLogitsLoss), ("student", "labels")),
    **dict.fromkeys((nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss), _LOGITS),
}
_INSTEAD: dict[type[nn.Module], str] = {
    nn.KLDivLoss: "sr.KL(temperature=…): KLDivLoss takes logarithms of probabilities, and these are logits",
    nn.NLLLoss: "sr.CrossEntropy(): NLLLoss takes logarithms of probabilities, and these are logits",
}
_EXPECTED = "a function of (student_logits, teacher_logits) or (student_logits, teacher_logits, labels)"
# A second parameter of such a name may mean the labels as well as the teacher's logits.
_AMBIGUOUS = re.compile(r"labels?|targets?|y|y_true|ground_truth|gt", re.IGNORECASE)
_ENTRY: TypeAdapter[LossConfig] = TypeAdapter(AnyLoss)


# No file's loss of its own, as those are whose options are called a config.
class FunctionOptions(LossConfig):
    """A function's weight and name."""

    name: str = "function"


class FunctionLoss(Loss[FunctionOptions]):
    """A function of logits, or a loss of torch, as a term of the loss.

    Args:
        function: of (student_logits, teacher_logits) or (student_logits, teacher_logits, labels), to a scalar; or
            ``nn.MSELoss()``, ``nn.CrossEntropyLoss()`` and others of torch that take logits. It sees whole batches.
        weight: factor of the term.
        name: under which it is logged; left out: the function's.
        teacher: of several, the one that it reads.

    Raises:
        BadInput: it takes something else.

    >>> FunctionLoss(lambda student, teacher: (student - teacher).square().mean(), weight=0.5).name
    'lambda'
    """

    # Nobody knows whether it is a mean over samples, or of what labels.
    per_sample = False
    tasks = TASKS

    def __init__(
        self, function: Callable[..., Any], *, weight: Any = 1.0, name: str | None = None, teacher: str | None = None
    ) -> None:
        found = getattr(function, "__qualname__", type(function).__qualname__)
        short = name or re.sub(r"\W", "", found.rpartition(".")[2])
        self.original_name = short
        options: dict[str, Any] = {"name": short, "weight": weight, "teacher": teacher}
        super().__init__(**options)
        self.function = function
        self.arguments = _arguments(function)
        self.requires = Requires(teacher="teacher" in self.arguments, labels="labels" in self.arguments)
        home = getattr(function, "__module__", None) or type(function).__module__
        # What the recipe calls it: a word that no other function of the run has.
        self.path = f"{home}:{re.sub(r'[^.<>]', _word, found)}"

    def numbered(self, number: int) -> FunctionLoss:
        """The same under a name with a number: two lambdas are two terms."""
        other = copy.copy(self)
        other.config = self.config.model_copy(update={"name": f"{self.config.name}-{number}"})
        other.path = f"{self.path}.{number}"
        return other

    def setup(self, setup_context: SetupContext) -> None:
        """Try the function on a few random logits.

        Raises:
            BadInput: it fails on them, gives no scalar, or one that does not depend on the student.
        """
        classes, device = setup_context.num_classes, device_of(setup_context.student.model)
        draw = torch.Generator().manual_seed(0)
        student, teacher = (torch.randn(4, classes, generator=draw).to(device) for _ in range(2))
        labels = torch.arange(4, device=device) % classes
        if setup_context.task != "single_label":
            labels = nn.functional.one_hot(labels, classes).to(student)
        function = copy.deepcopy(self.function).to(device) if isinstance(self.function, nn.Module) else self.function
        values = {"student": student.requires_grad_(), "teacher": teacher, "labels": labels}
        field = f"losses.{self.config.name}"
        try:
            with torch.random.fork_rng(devices=[]):
                value = function(*(values[name] for name in self.arguments))
        except Exception as error:  # a user's function can fail in any way
            given = ", ".join(f"{name}{'' if name == 'labels' else '_logits'}" for name in self.arguments)
            expected = f"a function of ({given}); on logits [4, {classes}] it raised {format_error(error)}"
            raise BadInput(field, self.path, expected) from None
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise BadInput(field, self.path, f"a function that gives a scalar tensor, not {got}: take the batch's mean")
        if not value.requires_grad:
            raise BadInput(field, self.path, "a value that depends on the student's logits: this has no gradient")

    def forward(self, inputs: LossInputs) -> Tensor:
        values: dict[str, Tensor] = {"student": inputs.student.logits, "labels": inputs.labels}
        if self.requires.teacher:
            values["teacher"] = inputs.teacher_logits
        value: Tensor = self.function(*(values[name] for name in self.arguments))
        return value.reshape(())


def _word(match: re.Match[str]) -> str:
    return match[0] if match[0].isalnum() or match[0] == "_" else "_"


def _arguments(function: Callable[..., Any]) -> tuple[Argument, ...]:
    """What a function is called with, in order."""
    kind: type[Any] = type(function)
    if kind in _TORCH:
        return _TORCH[kind]
    if kind in _INSTEAD or kind.__module__ == "torch.nn.modules.loss":
        raise BadInput("losses", kind.__name__, _INSTEAD.get(kind, _EXPECTED))
    call = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # written in C, or compiled, without a signature
        raise BadInput("losses", function, f"{_EXPECTED}, such as a lambda around it") from None
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return _ALL
    needed = [p for p in parameters if p.kind in by_place and p.default is inspect.Parameter.empty]
    if len(needed) == 3:
        return _ALL
    if len(needed) != 2:
        words = ", ".join(p.name for p in needed)
        raise BadInput("losses", function, f"{_EXPECTED}, not of ({words})")
    if _AMBIGUOUS.fullmatch(needed[1].name):
        expected = f"{_EXPECTED}: {needed[1].name!r} may mean either; write lambda student, teacher, labels: …"
        raise BadInput("losses", function, expected)
    return _LOGITS


def as_losses(given: Sequence[Any]) -> list[Loss[Any]]:
    """The terms of the loss that a user lists.

    Args:
        given: losses, their names (``"kl"``), their options (``{"name": "kl", "temperature": 2}``), modules of torch
            that take logits, and functions of logits.

    Raises:
        BadInput: naming what cannot be used.

    >>> [loss.name for loss in as_losses(["kl", {"name": "cross_entropy", "weight": 0.1}, nn.MSELoss()])]
    ['kl', 'cross_entropy', 'MSELoss']
    """
    if isinstance(given, str | Mapping | Loss) or callable(given):
        given = [given]
    found: list[Loss[Any]] = []
    for each in given:
        loss = _as_loss(each)
        if isinstance(loss, FunctionLoss):
            functions = [other for other in found if isinstance(other, FunctionLoss)]
            twins = sum(other.original_name == loss.original_name for other in functions)
            loss = loss.numbered(twins + 1) if twins else loss
        found.append(loss)
    return found


def _as_loss(given: Any) -> Loss[Any]:
    if isinstance(given, Loss):
        return given
    if isinstance(given, type) and issubclass(given, Loss):
        return given()
    if isinstance(given, str | Mapping):
        content = {"name": given} if isinstance(given, str) else dict(given)
        try:
            return build_loss(_ENTRY.validate_python(content), "losses")
        except ValidationError as error:
            kind = losses().get(str(content.get("name")))
            raise bad_input(error, kind.Config if kind is not None else LossConfig, "losses") from None
    if isinstance(given, type) or not callable(given):
        raise BadInput("losses", given, f"a loss, its name, or {_EXPECTED}")
    return FunctionLoss(given)
