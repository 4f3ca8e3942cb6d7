"""One batch through student and losses: the only module that is wrapped for DDP, so that it contains every
parameter."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stillroom.data.images import has_label
from stillroom.data.loader import MixedLabels
from stillroom.data.tokens import is_tokens
from stillroom.errors import BadInput, RunFailed, format_error
from stillroom.losses.base import Loss, LossInputs
from stillroom.memory import is_out_of_memory
from stillroom.models.prepared import PreparedModel
from stillroom.models.preprocess import Preprocess
from stillroom.models.reader import TapReader
from stillroom.runtime import Processes
from stillroom.teachers.output import ModelOutput

_ORDINALS = ("first", "second")
# What follows from the step at which a loss is not finite.
_BEFORE = (
    ": no weight has moved yet, so the learning rate is not the cause; look in the loss for a logarithm or a division "
    "of 0, a softmax without its maximum taken off, or an input that is not finite",
    ": a single step has led there; try a lower training.optimizer.lr, or look in the loss for a division by 0",
)


class DistillStep(nn.Module):
    """Student, connectors and losses: maps a batch and the teachers' outputs to the losses.

    Args:
        student: the model that learns.
        losses: the loss terms.
        preprocess: of the student's input.
        processes: that share the batch; terms that compare samples see all parts of it.
        watch: functions by loss name, called with that loss's inputs for this process's part of the batch.
        num_teacher_classes: how many classes the teacher knows, the first ones: terms that read it see only these
            student logits; None for all.
        teacher_names: for each loss, the name of the teacher that it reads; default: all read the only one.
        labelled_share: of the training images; the terms that read labels leave the others out.
        peers: students that learn with this one, by their names as its teachers: every term has a second part, in which
            the peer learns, from this student where it is the peer that teaches.
        same_at_start: names of the teachers that equal the student at the first step.
        frozen: modules of the student that stay in evaluation mode.
    """

    def __init__(
        self,
        student: nn.Module,
        losses: Sequence[Loss[Any]],
        preprocess: Preprocess,
        *,
        processes: Processes | None = None,
        watch: Mapping[str, Callable[[LossInputs], None]] | None = None,
        num_teacher_classes: int | None = None,
        teacher_names: Sequence[str | None] | None = None,
        labelled_share: float = 1.0,
        peers: Mapping[str, PreparedModel] | None = None,
        same_at_start: Collection[str | None] = (),
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        # No child of its own: as the student's they are there already.
        self._frozen = tuple(frozen)
        self.student = student
        self.losses = nn.ModuleList(losses)
        self.preprocess = preprocess
        self._terms = list(losses)
        self._processes = processes or Processes()
        self._watch = dict(watch or {})
        self._num_teacher_classes = num_teacher_classes
        self.teacher_names = list(teacher_names or [None] * len(losses))
        self._labelled_share = labelled_share
        self._same_at_start = same_at_start
        self.peers = nn.ModuleDict({name: peer.model for name, peer in (peers or {}).items()})
        self._peer_preprocess = {name: peer.preprocess() for name, peer in (peers or {}).items()}
        # Terms that had no image with a label in the last batch.
        self.without_labels: set[str] = set()
        self._taps = TapReader(
            student, (tap for term in losses for tap in term.requires.student_features), field="student"
        )
        self._takes_input_gradient = any(term.requires.input_gradient for term in losses)
        # What DistributedDataParallel reads: else it would send these buffers from process 0 before every batch.
        self._ddp_params_and_buffers_to_ignore = [
            f"losses.{place}.{name}" for place, term in enumerate(losses) for name in term.local_buffers
        ]
        self._run: Callable[[Tensor], Tensor] = self._run_student
        # Of the first step, by term: its value against the student's own logits where the teacher's are these, rounded.
        self.unrounded: dict[str, Tensor] = {}

    @property
    def names(self) -> list[str]:
        """The terms' names, in order."""
        return [term.name for term in self._terms]

    @property
    def reads_teacher(self) -> bool:
        """Whether any term reads a teacher."""
        return any(term.requires.teacher for term in self._terms)

    def train(self, mode: bool = True) -> DistillStep:
        """Training or evaluation mode, but for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def after_step(self) -> None:
        """Let the terms update what they keep of the batch, once the optimizer has stepped."""
        for term in self._terms:
            term.after_step()

    @property
    def checked_after(self) -> list[int]:
        """For each term, after how many steps it must give a gradient; see :func:`check_not_silent`."""
        pairs = zip(self._terms, self.teacher_names, strict=True)
        begin_alike = self._num_teacher_classes is not None
        return [int(term.requires.teacher and (begin_alike or name in self._same_at_start)) for term, name in pairs]

    @property
    def whole_batch_terms(self) -> list[str]:
        """Names of the terms that compare the samples of a batch, and cannot be computed from parts of it."""
        return [term.name for term in self._terms if not term.per_sample]

    def compile_student(self) -> None:
        """Compile the student with ``torch.compile``; its parameters and their names stay the same.

        The losses stay outside: their weights change with every step, and each change would recompile.
        """
        self._run = torch.compile(self._run_student, dynamic=False)

    def check_compilable(self) -> None:
        """Refuse to compile under taps: in-place layers would silently change the tapped features.

        Raises:
            BadInput: a term reads the student's features, or its gradient in the images, which a compiled student's
                backward pass cannot be differentiated for.
        """
        if self._takes_input_gradient:
            name = next(term.name for term in self._terms if term.requires.input_gradient)
            raise BadInput("training.compile", True, f"false: {name} differentiates the student's gradient")
        if self._taps.names:
            expected = f"false: a loss reads the student's features at {self._taps.names[0]!r}"
            raise BadInput("training.compile", True, expected)

    def check_accumulation(self, accumulate: int) -> None:
        """Refuse micro-batches if a term is not a mean over samples.

        Raises:
            BadInput: naming the term.
        """
        whole = self.whole_batch_terms
        if accumulate > 1 and whole:
            raise BadInput("training.accumulate", accumulate, f"1: {whole[0]} compares the samples of a whole batch")

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        teachers: Mapping[str, ModelOutput],
        progress: float,
        mixed: MixedLabels | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The weighted loss, and each term's value.

        Args:
            images: [B, C, H, W], raw.
            labels: int64 [B], or floats [B, K], as :class:`LossInputs` has them.
            index: the samples' indices in the training set, int64 [B].
            teachers: the output of each teacher that a term reads, by name.
            progress: fraction of the training done, in [0, 1).
            mixed: the second labels of images that are mixed of two.

        Returns:
            The scalar Σ weight·term, and the terms in order, before their weights.
        """
        if self._takes_input_gradient:
            images = images.detach().to(images.dtype if images.is_floating_point() else torch.float32).requires_grad_()
        # Fused attention cannot be differentiated twice.
        with self._taps, sdpa_kernel(SDPBackend.MATH) if self._takes_input_gradient else nullcontext():
            logits = self._run(images)
        learning = {name: ModelOutput(self._run_peer(name, images)) for name in self.peers}
        teachers = {**teachers, **{name: replace(peer, logits=peer.logits.detach()) for name, peer in learning.items()}}
        mask = images >= 0 if is_tokens(images) else None
        part = _Batch(ModelOutput(logits, self._taps.take()), teachers, labels, index, mixed, mask)
        whole = part.gathered(self._processes) if self._processes.count > 1 and self.whole_batch_terms else part
        values: list[Tensor] = []
        for term, name in zip(self._terms, self.teacher_names, strict=True):
            inputs = self._inputs(term, part if term.per_sample else whole, name, progress)
            if term.requires.input_gradient:
                inputs = replace(inputs, images=images, white=255.0 if self.preprocess.is_pixels else 1.0)
            if term.name in self._watch:
                self._watch[term.name](inputs)
            value = self._value_of(term, inputs)
            for peer, output in learning.items():
                other = ModelOutput(logits.detach()) if name == peer else None
                answers = {**teachers, **({peer: other} if other is not None else {})}
                turned = _Batch(output, answers, labels, index, mixed, mask)
                if whole is not part and not term.per_sample:
                    turned = turned.gathered(self._processes)
                value = value + self._value_of(term, self._inputs(term, turned, name, progress))
            values.append(value)
            if progress == 0 and inputs.teacher and not self._leaves_out(term) and _differs_by_storage(inputs):
                # Rounded in the cache, a teacher that the student equals gives a gradient, of the rounding alone.
                answer = replace(inputs.teacher, logits=inputs.student.logits.detach())
                self.unrounded[term.name] = _value(term, replace(inputs, teacher=answer))
        total = logits.new_zeros((), dtype=values[0].dtype)
        for term, value in zip(self._terms, values, strict=True):
            total = total + term.config.weight_at(progress) * value
        return total, values

    def _run_student(self, images: Tensor) -> Tensor:
        return self.preprocess.reorder(self.student(self.preprocess(images)))

    def _run_peer(self, name: str, images: Tensor) -> Tensor:
        preprocess = self._peer_preprocess[name]
        if preprocess.mean.device != images.device:
            self._peer_preprocess[name] = preprocess = preprocess.to(images.device)
        return preprocess.reorder(self.peers[name](preprocess(images)))

    def _value_of(self, term: Loss[Any], inputs: LossInputs) -> Tensor:
        return self._of_labelled(term, inputs) if self._leaves_out(term) else _value(term, inputs)

    def _leaves_out(self, term: Loss[Any]) -> bool:
        """Whether a term leaves out the images without a label."""
        return term.requires.labels and self._labelled_share < 1

    def _of_labelled(self, term: Loss[Any], inputs: LossInputs) -> Tensor:
        """A term's mean over the images that have a label.

        It is their sum divided by as many as a batch has on average, so that parts of a batch add up, and a batch
        with few labels counts for as much less.
        """
        rows = has_label(inputs.labels).nonzero().flatten()
        if not len(rows):
            self.without_labels.add(term.name)
            return inputs.student.logits.sum() * 0
        self.without_labels.discard(term.name)
        share = len(rows) / len(inputs.labels) / self._labelled_share
        teacher = inputs.teacher.rows(rows) if inputs.teacher is not None else None
        part = replace(
            inputs,
            student=inputs.student.rows(rows),
            teacher=teacher,
            labels=inputs.labels[rows],
            index=inputs.index[rows],
            mask=inputs.mask[rows] if inputs.mask is not None else None,
        )
        return _value(term, part) * share

    def _inputs(self, term: Loss[Any], batch: _Batch, name: str | None, progress: float) -> LossInputs:
        """A term's inputs: its teacher, and the student's logits of the classes that this teacher knows."""
        student = batch.student
        if self._num_teacher_classes is not None and term.requires.teacher:
            student = replace(student, logits=student.logits[:, : self._num_teacher_classes])
        teacher = None
        # A term that does not declare the teacher never gets it: another term's need would hide that until it is gone.
        if term.requires.teacher:
            teacher = next(iter(batch.teachers.values()), None) if name is None else batch.teachers.get(name)
        if teacher is not None and teacher.classes is not None:
            student = replace(student, logits=student.logits.index_select(1, teacher.classes))
        return LossInputs(student, teacher, batch.labels, batch.index, progress, mixed=batch.mixed, mask=batch.mask)


@dataclass(frozen=True)
class _Batch:
    """A batch, or this process's part of it."""

    student: ModelOutput
    teachers: Mapping[str, ModelOutput]
    labels: Tensor
    index: Tensor
    mixed: MixedLabels | None = None
    mask: Tensor | None = None  # of texts, where there is a token

    def gathered(self, processes: Processes) -> _Batch:
        """The whole batch, gathered from all processes; losses that compare samples read no mixed labels."""
        gather = processes.gather

        def gathered(output: ModelOutput) -> ModelOutput:
            features = {tap: gather(feature) for tap, feature in output.features.items()}
            fishers = {of: gather(weight) for of, weight in output.fishers.items()}
            return replace(output, logits=gather(output.logits), features=features, fishers=fishers)

        student = gathered(self.student)
        teachers = {name: gathered(output) for name, output in self.teachers.items()}
        mask = gather(self.mask) if self.mask is not None else None
        return _Batch(student, teachers, gather(self.labels), gather(self.index), mask=mask)


def _value(term: Loss[Any], inputs: LossInputs) -> Tensor:
    """A term's value, checked to be a scalar.

    Raises:
        BadInput: it cannot be computed, or is something else; the message names the term, and the line where it failed.
    """
    field = f"losses.{term.name}"
    try:
        value = term(inputs)
    except (BadInput, RunFailed):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        place = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
        hint = ""
        if inputs.teacher is None and isinstance(error, AttributeError) and "NoneType" in str(error):
            hint = "; a loss that reads the teacher declares requires = Requires(teacher=True)"
        elif isinstance(error, KeyError):
            hint = "; the taps that a loss reads are declared, as student_features or teacher_features of its requires"
        where = f"{Path(place.filename).name}:{place.lineno}"
        message = f"{field}: this loss cannot be computed; it raised {format_error(error)} at {where}{hint}"
        raise BadInput.with_message(field, term.name, message) from error
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    if isinstance(value, Tensor):
        got, do = f"a tensor of shape {list(value.shape)}", "take its mean over the batch: .mean()"
    else:
        got, do = f"{type(value).__name__}", "return a tensor that is computed from the student's output, no .item()"
    message = f"{field}: forward returned {got}; expected a scalar tensor, the batch's mean; {do}"
    raise BadInput.with_message(field, got, message)


def _differs_by_storage(inputs: LossInputs) -> bool:
    """Whether the teacher's logits are the student's as float16 stores them; an embedding teacher has none."""
    if not inputs.teacher_output.has_logits:
        return False
    student, teacher = inputs.student.logits.detach(), inputs.teacher_logits
    if student.shape != teacher.shape or torch.equal(student, teacher):
        return False
    return bool((student.half().float() == teacher).float().mean() > 0.99)


def is_compile_error(error: Exception) -> bool:
    """Whether ``torch.compile`` failed on the student's code, or for lack of a compiler."""
    # Imported with the first compilation, and slow to.
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def check_not_silent(step: DistillStep, values: Sequence[Tensor], done: int = 0) -> None:
    """Stop a run if one of its terms gives the student no gradient at the first step.

    A student initialised from a teacher of some of the classes equals it at the first step, so terms that read that
    teacher are checked one step later.

    Args:
        step: student and terms.
        values: the terms' values.
        done: steps done before: 0 or 1.

    Raises:
        RunFailed: naming the term.
    """
    parameters = [p for p in step.student.parameters() if p.requires_grad]
    if not parameters:
        raise RunFailed("the student has no trainable parameter")
    for name, value in zip(step.names, values, strict=True):
        if not bool(value.isfinite()):
            raise RunFailed(f"loss {name!r} is not finite at step {done + 1} ({value.item()}){_BEFORE[done]}")
    for name, value, at in zip(step.names, values, step.checked_after, strict=True):
        if at != done or name in step.without_labels:
            continue
        value = step.unrounded.pop(name, value)
        gradients = (
            torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) if value.requires_grad else ()
        )
        if not all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients):
            raise RunFailed(
                f"the gradient of loss {name!r} is not finite at step {done + 1}, though its value is "
                f"{value.item():.6g}{_BEFORE[done]}"
            )
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise RunFailed(
                f"loss {name!r} gives the student no gradient at the {_ORDINALS[done]} step (its value is "
                f"{value.item():.6g}): it would silently have no effect. "
                "Does the student equal the teacher, or are its logits detached?"
            )
