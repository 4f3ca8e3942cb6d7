"""What the checks of a set-up look at: a few batches, and what both models say of them; nothing is changed by it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.diagnose.chance import lower_bound
from stillroom.diagnose.check import Skip, lazy
from stillroom.diagnose.checks.loss.call import Role, find_loss_function, scalar_of
from stillroom.diagnose.checks.recipe.context import form_of
from stillroom.diagnose.checks.recipe.input_repair import OutputForm
from stillroom.diagnose.checks.setup.initialisation import untrained_layers
from stillroom.diagnose.checks.setup.teacher_errors import explain_errors
from stillroom.diagnose.checks.teacher_changes import Trial
from stillroom.errors import BadInput, format_error
from stillroom.losses.base import Loss
from stillroom.models.modes import device_of

# Images of the first batches that are looked at, at the most.
IMAGES = 512
# Accuracy in multiples of chance that a teacher must prove to exceed.
CHANCE = 1.5
# Rows of the batch that the loss is differentiated on.
_ROWS = 64
_LABEL_NAMES = ("label", "labels", "target", "targets", "y")
_INPUT_NAMES = ("pixel_values", "image", "images", "img", "x", "input", "inputs")

Inputs = Tensor | Mapping[str, Any]


class TrainingSetup:
    """A teacher, a student and what they are trained with, before the first step.

    Args:
        teacher: the model, or its stored logits [N, K] in the order of the loader's dataset.
        student: the model that learns.
        batches: (inputs, labels) of the first batches.
        loss: of (student logits, teacher logits, labels); None for none.
        optimizer: the student's; None for none.
        loader: where the batches came from.

    Attributes:
        labels: class numbers of all images looked at, int64 [n].
        num_classes: K, the number of the student's logits.
    """

    def __init__(
        self,
        teacher: nn.Module | Tensor,
        student: nn.Module,
        batches: Sequence[tuple[Inputs, Tensor]],
        *,
        loss: Callable[..., Any] | None,
        optimizer: torch.optim.Optimizer | None,
        loader: Any,
    ) -> None:
        self.student, self.loss, self.optimizer, self.loader = student, loss, optimizer, loader
        self._teacher = teacher
        self.batches = list(batches)
        self.labels = torch.cat([class_numbers(labels) for _, labels in self.batches])
        self.num_classes = run_model(student, self.batches[0][0], field="student", training=False).shape[-1]

    @property
    def teacher(self) -> nn.Module:
        """The teacher's model; Skip where its logits are stored."""
        if isinstance(self._teacher, Tensor):
            raise Skip("The teacher's logits are stored; there is no model to run.")
        return self._teacher

    @property
    def is_stored(self) -> bool:
        """Whether the teacher's logits are stored, rather than computed for each batch."""
        return isinstance(self._teacher, Tensor)

    @property
    def images(self) -> Tensor:
        """All images looked at, [n, …]; Skip where the inputs are no single tensor of numbers."""
        parts = [inputs for inputs, _ in self.batches]
        if not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
            raise Skip("The models' input is not one tensor of floats.")
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if len({part.shape[1:] for part in tensors}) > 1:
            raise Skip("The batches have inputs of different shapes.")
        return torch.cat(tensors)

    @lazy
    def outputs(self) -> Tensor:
        """What the teacher gives in evaluation mode, or what is stored of it, float32 [n, columns]."""
        if isinstance(self._teacher, Tensor):
            return self._teacher[: len(self.labels)].detach().float().cpu()
        return self.outputs_for([inputs for inputs, _ in self.batches]).cpu()

    def outputs_for(self, inputs: Iterable[Inputs], model: nn.Module | None = None) -> Tensor:
        """What the teacher, or another model, gives in evaluation mode for these batches, float32 [n, columns]."""
        model = self.teacher if model is None else model
        return torch.cat([run_model(model, each, field="teacher", training=False).cpu() for each in inputs])

    @lazy
    def teacher_logits(self) -> Tensor:
        """The teacher's logits, or its stored ones where those are in the order of the batches, float32 [n, K]."""
        logits: Tensor = self.outputs
        if not bool(logits.isfinite().all()):
            raise Skip("The teacher's outputs are not finite.")
        return logits

    @lazy
    def accuracy(self) -> tuple[int, int]:
        """How many of how many images the teacher classifies correctly."""
        return int((self.teacher_logits.argmax(1) == self.labels).sum()), len(self.labels)

    @lazy
    def form(self) -> OutputForm:
        """Whether the teacher gives logits, or what becomes of them."""
        return form_of(self.outputs[:64])

    @lazy
    def chance(self) -> float:
        """Share of the commonest class."""
        return float(torch.bincount(self.labels).max()) / len(self.labels)

    @lazy
    def is_at_chance(self) -> bool:
        """Whether the teacher's accuracy is not shown to be above chance."""
        correct, count = self.accuracy
        return lower_bound(correct, count) <= min(CHANCE * self.chance, 1.0)

    @lazy
    def confidence(self) -> float:
        """The mean of the teacher's largest probabilities."""
        return float(self.teacher_logits.softmax(1).amax(1).mean())

    @lazy
    def explanation(self) -> Trial | None:
        """The change that makes the teacher more accurate, where there is one."""
        teacher = self._teacher if isinstance(self._teacher, nn.Module) else None
        try:
            images = self.images
        except Skip:
            images = None
        classes = max(self.num_classes, int(self.labels.max()) + 1)
        logits = self.teacher_logits
        return explain_errors(teacher, images, self.labels, logits, lambda m, x: self.outputs_for([x], m), classes)

    @lazy
    def untrained(self) -> tuple[dict[str, str], int]:
        """The teacher's layers that follow the law of their initialisation, and how many it has."""
        return untrained_layers(self.teacher)

    @lazy
    def cause(self) -> str | None:
        """The check that says why the teacher knows little; None where none does."""
        if self.form != "logits":
            return "probabilities_for_logits"
        if self.explanation is not None:
            return self.explanation.kind
        if not self.is_at_chance:
            return None
        if self.is_stored:
            return "stale_answers" if self.confidence >= 2 * self.chance else None
        return "weights_not_loaded" if self.untrained[0] else None

    @lazy
    def gradients(self) -> Gradients:
        """The gradient of the loss in every parameter that might be trained, from the first batch."""
        return _gradients(self)

    @property
    def optimized(self) -> set[int]:
        """Identities of the optimizer's parameters; Skip where there is no optimizer."""
        if self.optimizer is None:
            raise Skip("No optimizer was given.")
        return {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that might be trained: the student's parameters, and those of a loss that is a module."""
        found = {f"student.{name}": each for name, each in self.student.named_parameters()}
        if isinstance(self.loss, nn.Module):
            teachers = (
                {id(each) for each in self._teacher.parameters()} if isinstance(self._teacher, nn.Module) else set()
            )
            mine = {id(each) for each in found.values()} | teachers
            found |= {f"loss.{name}": each for name, each in self.loss.named_parameters() if id(each) not in mine}
        return found


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradient of a loss, and how it depends on the teacher."""

    value: float  # the loss on the first batch
    norms: dict[str, float]  # its gradient's norm in each parameter; parameters that it does not reach are left out
    logits_gradient: Tensor  # the gradient in the student's logits, [b, K]
    without_teacher: Tensor | None  # the same with the teacher's logits of other rows; None where there is no loss

    @property
    def finite(self) -> bool:
        """Whether value and gradients are finite."""
        numbers = (self.value, *self.norms.values())
        return bool(np.isfinite(numbers).all()) and bool(self.logits_gradient.isfinite().all())


def _gradients(setup: TrainingSetup) -> Gradients:
    inputs, labels = setup.batches[0]
    rows = min(_ROWS, len(labels))
    inputs, labels = first_rows(inputs, rows), labels[:rows]
    wanted = setup.parameters()
    trained = {name: each for name, each in wanted.items() if each.requires_grad}
    with torch.enable_grad():
        logits = run_model(setup.student, inputs, field="student", training=True, gradient=True)
        labels = labels.to(logits.device)
        if setup.loss is None:
            value, other = F.cross_entropy(logits, labels), None
        else:
            teacher_logits = setup.teacher_logits[:rows].to(logits.device)
            value = call_loss(setup.loss, logits, teacher_logits, labels)
            moved = logits.detach().clone().requires_grad_()
            shuffled = call_loss(setup.loss, moved, teacher_logits.roll(1, 0), labels)
            other = _in_logits(shuffled, moved)
        in_logits = _in_logits(value, logits)
        found = (
            torch.autograd.grad(value, list(trained.values()), allow_unused=True)
            if value.requires_grad and trained
            else [None] * len(trained)
        )
    norms = {name: float(each.double().norm()) for name, each in zip(trained, found, strict=True) if each is not None}
    return Gradients(float(value.detach()), norms, in_logits, other)


def _in_logits(value: Tensor, logits: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(logits)
    (found,) = torch.autograd.grad(value, [logits], retain_graph=True, allow_unused=True)
    return torch.zeros_like(logits) if found is None else found.detach()


def call_loss(loss: Callable[..., Any], student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of student logits, teacher logits and labels, given to the arguments that they are for.

    Raises:
        Skip: it takes other arguments, or gives no number.
    """
    tensors: dict[Role, Tensor] = {"student": student_logits, "teacher": teacher_logits, "labels": labels}
    try:
        classes, device = student_logits.shape[-1], student_logits.device
        found = find_loss_function(loss, num_classes=classes, device=device, reorder=False)
    except BadInput as error:
        raise Skip(f"The loss could not be called: {error}") from None
    if more := found.roles - tensors.keys():
        raise Skip(f"The loss takes {' and '.join(sorted(more))}, more than logits and labels.")
    if isinstance(loss, nn.Module) and not isinstance(loss, Loss):
        found = replace(found, function=loss)  # itself, not the copy that was tried
    try:
        raw = found.raw(tensors)
    except Exception as error:
        raise Skip(f"The loss raised {format_error(error)} on the first batch.") from None
    value, returned = scalar_of(raw.reshape(()) if isinstance(raw, Tensor) and raw.numel() == 1 else raw)
    if value is None or returned:
        raise Skip(f"The loss gives {returned}, not one number.")
    return value


def run_model(model: nn.Module, inputs: Inputs, *, field: str, training: bool | None, gradient: bool = False) -> Tensor:
    """A model's logits for a batch, float32 [b, K], on its device.

    Args:
        model: takes a tensor, or the entries of a mapping by name.
        inputs: the batch without its labels.
        field: what an error calls the model.
        training: in training mode or in evaluation mode; None for the modes that its modules are in.
        gradient: whether the result has one.

    Raises:
        BadInput: it fails, or gives no logits [batch, classes].
    """
    device = device_of(model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        if training is not None:
            model.train(training)
        with torch.set_grad_enabled(gradient):
            if isinstance(inputs, Mapping):
                moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
                try:
                    output = model(**moved)
                except TypeError:
                    output = model(main_input(moved))
            else:
                output = model(inputs.to(device))
    except Exception as error:
        expected = f"a model that takes the loader's inputs; it raised {format_error(error)}"
        raise BadInput(field, type(model).__name__, expected) from None
    finally:
        for module, mode in modes:
            module.training = mode
    logits = logits_in(output)
    if logits is None or logits.dim() < 2:
        given = f"a tensor of shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        expected = f"a model that gives logits [batch, classes], not {given}"
        raise BadInput(field, type(model).__name__, expected)
    return logits.float() if gradient else logits.detach().float().flatten(0, -2)


def logits_in(output: object) -> Tensor | None:
    """The logits in what a model gives: a tensor, the ``logits`` of a mapping or an object, the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, tuple | list):
        return next((each for each in output if isinstance(each, Tensor)), None)
    return None


def main_input(inputs: Mapping[str, Any]) -> Any:
    """The image of a batch that is a mapping, by its usual name, else its first tensor."""
    named = next((inputs[name] for name in _INPUT_NAMES if name in inputs), None)
    return named if named is not None else next(each for each in inputs.values() if isinstance(each, Tensor))


def first_rows(inputs: Inputs, rows: int) -> Inputs:
    """The first rows of a batch."""
    if isinstance(inputs, Mapping):
        return {k: v[:rows] if isinstance(v, Tensor) and v.dim() else v for k, v in inputs.items()}
    return inputs[:rows]


def class_numbers(labels: Tensor) -> Tensor:
    """Class numbers of labels, int64 [b]; those of mixed labels [b, K] are their largest."""
    if labels.is_floating_point() and labels.dim() == 2:
        labels = labels.argmax(1)
    return labels.detach().cpu().long().flatten()


def split_batch(batch: object) -> tuple[Inputs, Tensor]:
    """Inputs and labels of what a loader gives; BadInput where it is neither a pair nor a mapping with labels."""
    if isinstance(batch, Mapping):
        name = next((each for each in _LABEL_NAMES if each in batch), None)
        if name is not None:
            return {key: each for key, each in batch.items() if key != name}, torch.as_tensor(batch[name])
    if isinstance(batch, tuple | list) and len(batch) >= 2 and isinstance(batch[0], Tensor | Mapping):
        try:
            return batch[0], torch.as_tensor(batch[1])
        except (TypeError, ValueError, RuntimeError):
            pass
    kinds = ", ".join(type(each).__name__ for each in batch) if isinstance(batch, tuple | list) else ""
    given = f"{type(batch).__name__} of {kinds}" if kinds else type(batch).__name__
    raise BadInput("loader", given, "batches of (inputs, labels), or mappings with a `label`")


def draw_batches(loader: Iterable[Any], most: int = IMAGES) -> list[tuple[Inputs, Tensor]]:
    """The loader's first batches, until there are enough images.

    Raises:
        BadInput: it gives none, or other things than batches.
    """
    if isinstance(loader, tuple) and len(loader) == 2 and isinstance(loader[0], Tensor):
        loader = [loader]  # one batch
    found: list[tuple[Inputs, Tensor]] = []
    count = 0
    for batch in loader:
        inputs, labels = split_batch(batch)
        found.append((inputs, labels))
        count += len(labels)
        if count >= most:
            break
    if not count:
        raise BadInput("loader", type(loader).__name__, "at least 1 batch, but it gives none")
    return found


@contextmanager
def unchanged(*modules: object, loader: object = None) -> Iterator[None]:
    """Put back what running models and drawing batches changes: modes, buffers, random generators.

    >>> norm = nn.BatchNorm1d(2)
    >>> with unchanged(norm):
    ...     _ = norm.eval(), norm.train()(torch.ones(4, 2) * torch.rand(1))
    >>> norm.num_batches_tracked.item()
    0
    """
    mine = [module for module in modules if isinstance(module, nn.Module)]
    modes = [(each, each.training) for module in mine for each in module.modules()]
    buffers = [(each, each.detach().clone()) for module in mine for each in module.buffers()]
    generators = list(_generators(loader))
    states = [generator.get_state() for generator in generators]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with ExitStack() as stack:
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            for each, mode in modes:
                each.training = mode
            with torch.no_grad():
                for buffer, before in buffers:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


def _generators(loader: object) -> Iterator[torch.Generator]:
    """The generators that a loader draws from, each once."""
    seen: set[int] = set()
    sampler = getattr(loader, "sampler", None)
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    for owner in (loader, sampler, inner, getattr(loader, "dataset", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and id(generator) not in seen:
            seen.add(id(generator))
            yield generator
