"""What the checks of a loss function know of it: its answers to random logits of several shapes, scales and types."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import io
import itertools
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stillroom.diagnose.check import Skip, lazy
from stillroom.diagnose.checks.loss.call import (
    Form,
    LossFunction,
    LossOption,
    LossValue,
    Role,
    draw_tensors,
    may_be_probabilities,
    word_set,
    words_of,
)
from stillroom.diagnose.checks.loss.callers import makes_up_for_square
from stillroom.diagnose.checks.loss.identify import (
    GradientSample,
    LossFit,
    NamedTerm,
    Scaling,
    exponent,
    fit_terms,
    name_terms,
    refit,
)
from stillroom.errors import format_error

# Standard deviations of the random logits that a loss is fitted on: from nearly uniform answers to confident ones.
SCALES = (0.5, 1.0, 3.0, 8.0)
DRAWS = 3
# Sizes that a loss is called with, where it takes any.
BATCH, OTHER_BATCH, CLASSES, OTHER_CLASSES, LENGTH, OTHER_LENGTH = 6, 10, 7, 11, 4, 8
# Below this share of the usual a gradient counts as none: float64 leaves 1e-15, float32 1e-6.
NOTHING = 1e-5
Side = Literal["teacher", "labels"]


@dataclass(frozen=True)
class WeightMeaning:
    """What a weight option is said to weigh, and what it weighs."""

    option: LossOption  # the option
    grows: Side | None  # whose part of the gradient grows with it, measured; None where neither or both do
    said: Side | None  # whose share the name or a comment says it is; None where nothing does
    text: str  # the words that say so


@dataclass(frozen=True)
class Descent:
    """Where a descent over free logits ended."""

    agreement: float  # share of rows that end with the teacher's decision
    distance_before: float  # KL(teacher‖student) at its start
    distance_after: float  # the same at its end
    below: float  # how far the value ends below that at the teacher's answer, as a share of what it started above it

    @property
    def leads_away(self) -> bool:
        """Whether it ends farther from the teacher's answer, in its decisions too, or below its value."""
        is_farther = self.agreement < 0.5 and self.distance_after > self.distance_before
        return is_farther or (self.below > 0.05 and self.distance_after > self.distance_before)


class LossContext:
    """A loss function under test.

    Args:
        given: the loss as it was found.
        num_classes: classes that it is meant for.
        subject: the user's own object, whose documentation is read for what a weight means.
        sequences: whether its logits are [B, L, K]; None where nobody says.
    """

    def __init__(
        self, given: LossFunction, num_classes: int, subject: Any = None, *, sequences: bool | None = None
    ) -> None:
        self.given = given
        self.num_classes = num_classes
        self._sequences = sequences
        self.subject = subject if subject is not None else given.function

    # How it is called.

    @lazy
    def loss(self) -> LossFunction:
        """The loss, its teacher's answer handed over as it expects it, at hyper-parameters that hide no term."""
        loss = self.given
        if "teacher" in loss.roles and loss.argument("teacher").form == "plain":
            name = loss.argument("teacher").name
            forms: tuple[Form, ...] = ("log_probabilities", "probabilities", "softened")
            if may_be_probabilities(name) and not self._is_level(loss):
                for form in forms if "log" in words_of(name) else forms[1:]:
                    other = loss.in_form("teacher", form)
                    if self._is_level(other):
                        return other
        return loss

    def _is_level(self, loss: LossFunction) -> bool:
        """Whether the teacher's part of the gradient is nothing where the student answers as the teacher does."""
        try:
            return self.equality_gradient(loss) < 1e-3
        except Exception:  # the user's loss may refuse this form
            return False

    @property
    def has_teacher(self) -> bool:
        return "teacher" in self.given.roles

    @property
    def has_labels(self) -> bool:
        return "labels" in self.given.roles

    @property
    def is_of_features(self) -> bool:
        """Whether it compares features and no logits."""
        return "student" not in self.given.roles

    def lead(self, batch: int = BATCH, length: int = LENGTH) -> tuple[int, ...]:
        """The shape of a batch without the classes."""
        return (batch,) if self.given.layout == "rows" else (batch, length)

    def draw(
        self, *, seed: int = 0, scale: float = 3.0, classes: int | None = None, lead: Any = None
    ) -> dict[Role, Tensor]:
        """Random arguments."""
        lead = self.lead() if lead is None else lead
        return draw_tensors(self.given, lead=lead, classes=classes or self.classes, scale=scale, seed=seed)

    @lazy
    def classes(self) -> int:
        """A small number of classes where the loss takes any, else the number it is meant for."""
        for classes in (CLASSES, self.num_classes):
            try:
                self.given(draw_tensors(self.given, lead=self.lead(), classes=classes))
                return classes
            except Exception:
                continue
        return self.num_classes

    @lazy
    def base(self) -> LossValue:
        """One call on ordinary logits."""
        return self.loss(self.draw())

    def gradient(self, tensors: Mapping[Role, Tensor], loss: LossFunction | None = None) -> Tensor:
        """The student's gradient; zeros where there is none."""
        found = (loss or self.loss)(tensors).student
        like = tensors["student"] if "student" in tensors else tensors["student_features"]
        return found if found is not None else torch.zeros_like(like)

    @lazy
    def usual_gradient(self) -> float:
        """Norm of the gradient on ordinary logits."""
        norm = float(self.gradient(self.draw()).norm())
        if not np.isfinite(norm) or norm == 0:
            raise Skip("The loss gives the student no usable gradient.")
        return norm

    def changes(self, role: Role, loss: LossFunction | None = None) -> tuple[float, float]:
        """By which share the gradient and the value change where one argument is another."""
        first, second = self.draw(), self.draw(seed=1)
        if role == "labels":
            classes = first["student"].shape[-1] if "student" in first else self.classes
            other = {**first, "labels": (first["labels"] + 1) % classes}
        else:
            other = {**first, role: second[role]}
        loss = loss or self.loss
        one, two = loss(first), loss(other)
        before, after = one.student, two.student
        gradient = 0.0
        if before is not None and after is not None:
            gradient = float((before - after).norm() / before.norm().clamp(min=1e-300))
        value = 0.0
        if one.value is not None and two.value is not None:
            value = float((one.value - two.value).abs() / one.value.abs().clamp(min=1e-12))
        return gradient, value

    # Where its minimum lies.

    def equality_gradient(self, loss: LossFunction | None = None) -> float:
        """The teacher's part of the gradient where the student answers as the teacher, as a share of the usual.

        Over labels drawn from the student's own answer a proper scoring rule has no gradient on average, so what is
        left of a loss with labels is the teacher's part.
        """
        loss = loss or self.loss
        drawn = self.draw(seed=2, scale=2.0)
        equal = {**drawn, "student": drawn["teacher"]}
        return float(self.teacher_field(equal, loss).norm() / self.teacher_field(drawn, loss).norm().clamp(min=1e-300))

    @lazy
    def is_row_local(self) -> bool:
        """Whether the gradient of a row depends on that row alone."""
        whole, other = self.draw(lead=self.lead(8)), self.draw(seed=1, lead=self.lead(8))
        mixed = {role: torch.cat([tensor[:4], other[role][4:]]) for role, tensor in whole.items()}
        return _moved(self.gradient(whole)[:4], self.gradient(mixed)[:4]) < 1e-4

    @lazy
    def multiple_at_minimum(self) -> float | None:
        """Of a loss of relations between rows: where it is smallest, how many times the teacher's the student's are.

        None where that is about once, where no multiple is, and where a row depends on itself alone.
        """
        of_features = self.is_of_features
        student: Role = "student_features" if of_features else "student"
        teacher: Role = "teacher_features" if of_features else "teacher"
        with suppress(Exception):  # a loss that does not take such features, in whatever words
            if self.has_labels or self.is_row_local:
                return None
            tensors = self.draw(seed=2)

            def left(power: float) -> float:
                """The gradient, where that of a loss of directions alone does not shrink with the multiple."""
                multiple = tensors[teacher] * 2**power
                return float(self.gradient({**tensors, student: multiple}, self.loss).norm()) * max(1.0, 2**power)

            nearest = min(np.arange(-6.0, 6.01, 0.25), key=left)
            found = minimize_scalar(left, bounds=(nearest - 0.25, nearest + 0.25), method="bounded")
            if abs(found.x) > _CLEARLY_SCALED and found.fun < 0.01 * left(0.0):
                return float(2.0**found.x)
        return None

    def teacher_field(self, tensors: Mapping[Role, Tensor], loss: LossFunction) -> Tensor:
        """The teacher's part of the gradient: the mean over labels drawn from the student's own answer."""
        if not self.has_labels:
            return self.gradient(tensors, loss)
        student = tensors["student"]
        classes = student.shape[-1]
        share = student.softmax(-1)
        if self.is_row_local:
            # All labels of all rows in one call.
            many = {role: tensor.repeat_interleave(classes, 0) for role, tensor in tensors.items()}
            labels = torch.arange(classes).repeat(len(student)).reshape(-1, *[1] * (student.dim() - 2))
            many["labels"] = labels.expand(many["labels"].shape).contiguous()
            found = self.gradient(many, loss).reshape(len(student), classes, *student.shape[1:])
            return (found * share.movedim(-1, 1).unsqueeze(-1)).sum(1)
        total = torch.zeros_like(student)
        for label in range(classes):
            labels = torch.full_like(tensors["labels"], label)
            total += share[..., label : label + 1] * self.gradient({**tensors, "labels": labels}, loss)
        return total

    @lazy
    def descent(self) -> Descent:
        """Where minimising the teacher's part over free logits leads, from random ones."""
        tensors = self.draw(seed=3, scale=2.0, lead=self.lead(8))
        start, teacher = tensors["student"], tensors["teacher"]
        student, steps, largest = start.clone(), 80, 0.0
        for step in range(steps):
            field = self.teacher_field({**tensors, "student": student}, self.loss)
            norms = field.norm(dim=-1, keepdim=True)
            largest = max(largest, float(norms.max()))
            # Each row goes as far, whatever its gradient's size: losses differ in scale by powers of ten. A row that
            # is left with rounding errors, as beyond the margin of a hinge, stays where it is.
            student -= (norms > 1e-9 * largest) * 2.0 * (1 - step / steps) * field / norms.clamp(min=1e-30)

        def distance(z: Tensor) -> float:
            log_p = teacher.log_softmax(-1)
            return float((log_p.exp() * (log_p - z.log_softmax(-1))).sum(-1).mean())

        below = 0.0
        if not self.has_labels:
            values = (self.loss({**tensors, "student": each}).value for each in (student, teacher, start))
            at_end, at_equality, at_start = (float("nan") if value is None else float(value) for value in values)
            below = (at_equality - at_end) / max(abs(at_start - at_equality), 1e-300)
        agreement = float((student.argmax(-1) == teacher.argmax(-1)).double().mean())
        return Descent(agreement, distance(start), distance(student), below)

    # What it is.

    def samples(
        self,
        loss: LossFunction | None = None,
        *,
        batch: int = BATCH,
        classes: int | None = None,
        length: int = LENGTH,
        layout: str | None = None,
        draws: int = DRAWS,
    ) -> list[GradientSample]:
        """Random batches at several scales, with the loss's gradients."""
        loss = loss or self.loss
        lead = (batch,) if (layout or loss.layout) == "rows" else (batch, length)
        found = []
        for number, (scale, draw) in enumerate(itertools.product(SCALES, range(draws))):
            tensors = self.draw(seed=10 + number + 100 * draw, scale=scale, classes=classes, lead=lead)
            answer = loss(tensors)
            if answer.value is None or answer.student is None:
                raise Skip("The loss gives the student no gradient.")
            teacher, labels = tensors.get("teacher"), tensors.get("labels")
            found.append(GradientSample.of(tensors["student"], teacher, labels, answer.student, float(answer.value)))
        return found

    @lazy
    def setting(self) -> LossFunction:
        """The loss at hyper-parameters that hide nothing: weights that leave a term out, and τ = 1, are changed."""
        loss = self.loss
        temperature = loss.option("temperature")
        if temperature is not None and temperature.value == 1.0:
            loss = self._if_it_works(loss, **{temperature.name: 4.0})
        for option in (each for each in loss.options if each.kind == "weight" and each.value in (0.0, 1.0)):
            if self._hides_a_term(loss):
                loss = self._if_it_works(loss, **{option.name: 0.5})
        return loss

    @property
    def is_softened_for_the_check(self) -> bool:
        """Whether its default temperature of 1 was raised so that the temperature can be seen."""
        option = self.loss.option("temperature")
        return option is not None and self.setting.changed.get(option.name, option.value) != option.value

    def _hides_a_term(self, loss: LossFunction) -> bool:
        return any(role in loss.roles and self.changes(role, loss)[0] < NOTHING for role in ("teacher", "labels"))

    def _if_it_works(self, loss: LossFunction, **changed: float) -> LossFunction:
        try:
            other = loss.having(**changed)
            other(self.draw())
            return other
        except Exception:  # the hyper-parameter is bound to something else
            return loss

    @lazy
    def fit(self) -> LossFit:
        """What explains its gradient on random logits."""
        if self.is_of_features or "student" not in self.given.roles:
            raise Skip("It reads features, not logits.")
        return fit_terms(self.samples(self.setting))

    @lazy
    def column_fit(self) -> LossFit:
        """The same for softmaxes that run over the batch: rows and columns of student and teacher exchanged."""
        turned = []
        for sample in self.samples(self.setting, batch=BATCH):
            teacher = sample.teacher
            if teacher is None:
                raise Skip("It takes no teacher.")
            turned.append(
                GradientSample(
                    np.ascontiguousarray(sample.student.T),
                    np.ascontiguousarray(teacher.T),
                    None,
                    np.ascontiguousarray(sample.gradient.T),
                    float("nan"),
                    sample.batch,
                )
            )
        return fit_terms(turned)

    @lazy
    def sizes(self) -> dict[str, int]:
        """The sizes of the batches that were fitted."""
        lead = self.lead()
        batch, length = lead[0], lead[1] if len(lead) > 1 else 1
        return {"batch": batch, "length": length, "classes": self.classes}

    @lazy
    def scalings(self) -> tuple[Scaling, ...]:
        """How each term goes with the batch, the length, the classes and the temperature."""
        fit, loss = self.fit, self.setting
        powers: dict[str, list[int | None]] = {}
        variants: dict[str, tuple[dict[str, Any], float]] = {
            "batch": ({"batch": OTHER_BATCH}, OTHER_BATCH / BATCH),
            "classes": ({"classes": OTHER_CLASSES}, OTHER_CLASSES / self.classes),
        }
        if self.given.layout == "sequence":
            variants["length"] = ({"length": OTHER_LENGTH}, OTHER_LENGTH / LENGTH)
        for name, (sizes, ratio) in variants.items():
            powers[name] = self._powers(fit, sizes, ratio)
        temperature = loss.option("temperature")
        if temperature is not None:
            powers["temperature"] = self._temperature_powers(fit, temperature)
        count = len(fit.terms)
        return tuple(Scaling(**{name: of_terms[place] for name, of_terms in powers.items()}) for place in range(count))

    def _powers(self, fit: LossFit, sizes: dict[str, Any], ratio: float) -> list[int | None]:
        try:
            other = refit(fit, self.samples(self.setting, draws=1, **sizes))
        except Exception:  # a loss made for one size
            return [None] * len(fit.terms)
        return [
            exponent(two.coefficient / one.coefficient, ratio) if two is not None and one.coefficient else None
            for one, two in ((term, _like(other, term)) for term in fit.terms)
        ]

    def _temperature_powers(self, fit: LossFit, option: LossOption) -> list[int | None]:
        now = self.setting.changed.get(option.name, option.value)
        try:
            loss = self.loss.having(**{**self.setting.changed, option.name: 2 * now})
            other = refit(fit, self.samples(loss, draws=1), temperatures=True)
        except Exception:
            return [None] * len(fit.terms)
        found: list[int | None] = []
        for term in fit.terms:
            two = _like(other, term)
            follows = two is not None and term.temperature and abs(two.temperature / term.temperature - 2) < 0.02
            found.append(exponent(two.coefficient / term.coefficient, 2.0) if two is not None and follows else None)
        return found

    @lazy
    def terms(self) -> tuple[NamedTerm, ...]:
        """Its terms, with the factors that faults have put on them, at the number of classes it is meant for."""
        if not self.fit.is_known:
            raise Skip("It is in no known family.")
        scalings = self.scalings
        fit, sizes = self.fit, self.sizes
        if self.num_classes != self.classes and any(each.classes for each in scalings):
            try:
                fit = refit(fit, self.samples(self.setting, classes=self.num_classes, draws=1))
                sizes = {**sizes, "classes": self.num_classes}
            except Exception:  # the terms are as they were at the other number of classes
                fit = self.fit
        return name_terms(fit, sizes, scalings)

    # What its options are said to mean.

    @lazy
    def weights(self) -> list[WeightMeaning]:
        """What each weight option weighs, measured, and what its name or a comment says."""
        found = []
        for option in (each for each in self.loss.options if each.kind == "weight"):
            low, high = (self._if_it_works(self.loss, **{option.name: value}) for value in (0.25, 0.75))
            moves = {
                side: self._part(side, high) / max(self._part(side, low), 1e-300)
                for side in ("teacher", "labels")
                if side in self.loss.roles
            }
            growing = [side for side, ratio in moves.items() if ratio > 1.1]
            grows = growing[0] if len(growing) == 1 else None
            said, text = meaning_of(option.name, documentation(self.subject, option.name))
            found.append(WeightMeaning(option, grows, said, text))
        return found

    def grows_with_batch(self, side: Side) -> bool:
        """Whether a part is summed over the batch: the same rows twice do not halve the gradient of each."""
        first = self.draw()
        other = dict(first)
        other[side] = (first["labels"] + 1) % self.classes if side == "labels" else self.draw(seed=1)[side]
        rows = len(first["student"])

        def part(copies: int) -> float:
            one, two = (
                self.gradient({role: torch.cat([tensor] * copies) for role, tensor in each.items()})[:rows]
                for each in (first, other)
            )
            return float((one - two).norm())

        return part(2) > 0.75 * part(1)

    @lazy
    def has_mixed_reduction(self) -> bool:
        """Whether the same rows twice neither halve the gradient of each nor leave it."""
        first = self.draw()
        twice = {role: torch.cat([tensor, tensor]) for role, tensor in first.items()}
        once, again = self.gradient(first), self.gradient(twice)[: len(first["student"])]
        return min(_moved(once, again), _moved(once, 2 * again)) > 1e-3

    @lazy
    def fade_with_temperature(self) -> float | None:
        """What is left of the teacher's part at twice the temperature, where it is high; None without temperature."""
        option = self.loss.option("temperature")
        if option is None:
            return None
        low, high = (self._if_it_works(self.loss, **{option.name: value}) for value in (16.0, 32.0))
        return self._part("teacher", high) / max(self._part("teacher", low), 1e-300)

    @property
    def has_weights(self) -> bool:
        """Whether it has a weight among its hyper-parameters."""
        return self.loss.option("weight") is not None

    def is_unused_at_all(self, role: Role) -> bool:
        """Whether an argument moves the gradient at no value of the weights that was tried."""
        for option in (each for each in self.loss.options if each.kind == "weight"):
            for value in (0.0, 0.5, 1.0):
                other = self._if_it_works(self.loss, **{option.name: value})
                if self.changes(role, other)[0] > NOTHING:
                    return False
        return True

    def is_idle(self, option: LossOption) -> bool:
        """Whether a hyper-parameter changes nothing."""
        tensors = self.draw()
        low, high = (self._if_it_works(self.loss, **{option.name: option.value + step}) for step in (0.0, 0.31))
        return bool(torch.equal(self.gradient(tensors, low), self.gradient(tensors, high)))

    def reads(self, name: str) -> bool:
        """Whether the code of the loss reads the numbers of one of its arguments, not only its form."""
        made = _definition(self.subject)
        function = inspect.unwrap(made if inspect.isroutine(made) else getattr(made, "forward", made))
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            code = getattr(function, "__code__", None)
            return code is None or any(each.argval == name for each in dis.get_instructions(code))
        form = {
            id(each)
            for node in ast.walk(tree)
            for each in (
                [node.value]
                if isinstance(node, ast.Attribute) and node.attr in _FORM
                else node.args
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("len", "type")
                else [node.left]
                if isinstance(node, ast.Compare) and all(isinstance(one, ast.Is | ast.IsNot) for one in node.ops)
                else []
            )
        }
        uses = (each for each in ast.walk(tree) if isinstance(each, ast.Name) and each.id == name)
        return any(isinstance(each.ctx, ast.Load) and id(each) not in form for each in uses)

    @lazy
    def labels_mask(self) -> bool:
        """Whether a label that is no class takes a row out, where no other label changes anything.

        Tried are −100, −1, 255, and the whole numbers of its file.
        """
        drawn = self.draw()
        written = {int(each) for each in _WHOLE_NUMBERS.findall(_source(self.subject) or "")}
        for label in (-100, -1, 255, *sorted(written - set(range(-1, self.num_classes)))[:_MOST_LABELS]):
            hidden = drawn["labels"].clone()
            hidden[0] = label
            with suppress(Exception):  # it takes no such label
                if _moved(self.gradient(drawn), self.gradient({**drawn, "labels": hidden})) > NOTHING:
                    return True
        return False

    @lazy
    def is_guarded(self) -> bool:
        """Whether an epsilon or a clamp keeps it finite in float64 where probabilities are zero."""
        wide = {
            role: tensor.sign() * 900 if tensor.is_floating_point() else tensor for role, tensor in self.draw().items()
        }
        found = self.loss(wide)
        return all(each is None or bool(torch.isfinite(each).all()) for each in (found.value, found.student))

    @property
    def mentions_half(self) -> bool:
        """Whether its file uses half precision anywhere; true where there is no file to read."""
        source = _source(self.subject)
        return source is None or re.search(r"half|float16|bfloat16|bf16|fp16|autocast|\bamp\b", source) is not None

    @property
    def stores_minus_infinity(self) -> bool:
        """Whether its file fills logits with what is minus infinity in half precision, and uses half precision."""
        return self.mentions_half and _FILLS_LOW.search(_source(self.subject) or "") is not None

    @lazy
    def counts_masked_positions(self) -> bool:
        """Whether the teacher's part is averaged over ignored positions, too, while the labels' part is not."""
        layout = self.sequence_layout
        if layout is None or not self.has_labels or not self.has_teacher:
            return False
        batch, length = layout
        hidden = torch.zeros(layout, dtype=torch.bool)
        hidden[:, length // 2 :] = True

        def part(side: Side, lead: tuple[int, ...], *, hide: bool) -> float:
            first = self.draw(lead=lead)
            other = dict(first)
            other[side] = (
                (first["labels"] + 1) % self.classes if side == "labels" else self.draw(seed=1, lead=lead)[side]
            )
            if hide:
                for each in (first, other):
                    each["labels"] = each["labels"].masked_fill(hidden, -100)
            moved = self.gradient(first) - self.gradient(other)
            return float(moved[:, : length // 2].norm())

        usual = length / (length // 2)
        grows = {side: part(side, layout, hide=True) / max(part(side, layout, hide=False), 1e-300) for side in _OF_BOTH}
        if abs(grows["labels"] / usual - 1) > 0.02 or abs(grows["teacher"] - 1) > 0.02:
            return False
        # A sum over positions does not grow either; a mean halves where the sequences are twice as long.
        return part("teacher", layout, hide=False) > 1.4 * part("teacher", (batch, 2 * length), hide=False)

    @lazy
    def ends(self) -> dict[str, str]:
        """Hyper-parameters at their ends, and two classes: what is not finite there, or fails."""
        found = {}
        for option in self.loss.options:
            for value in (0.0, 1.0) if option.kind == "weight" else (1.0, 8.0):
                trouble = _trouble(self.loss.having(**{option.name: value}), self.draw())
                if trouble:
                    found[f"{option.name} = {value:g}"] = trouble
        if self.classes == CLASSES:
            trouble = _trouble(self.loss, self.draw(classes=2))
            if trouble:
                found["two classes"] = trouble
        return found

    # Sequences.

    @lazy
    def has_mask(self) -> bool:
        """Whether it takes a mask and reads it."""
        return "mask" in self.loss.roles and self.reads(self.loss.argument("mask").name)

    @lazy
    def sequence_layout(self) -> tuple[int, int] | None:
        """A batch of sequences that the loss takes; None where it is made for rows."""
        length = LENGTH if self.classes != LENGTH else LENGTH + 1
        layout = (3, length)
        try:
            found = self.loss(draw_tensors(self.given, lead=layout, classes=self.classes))
        except Exception:  # it takes rows alone
            return None
        return layout if found.student is not None else None

    @lazy
    def is_for_sequences(self) -> bool:
        """Whether it is made for sequences: it takes them with labels or a mask, or the user speaks of them."""
        if self.given.layout == "sequence" or self._sequences is not None:
            return self.given.layout == "sequence" or bool(self._sequences)
        if self.sequence_layout is None:
            return False
        own, file = _own_source(self.subject).lower(), (_source(self.subject) or "").lower()
        # Rows that are picked by a mask of labels take sequences, too, without being made for them.
        flattens = self.has_labels and self.changes("labels")[0] > NOTHING and _FLATTENS.search(own)
        if self.has_mask or flattens:
            return True
        return bool(_OF_SEQUENCES.search(own) or _IN_A_FILE.search(file))

    @lazy
    def speaks_of_padding(self) -> bool:
        """Whether sequences may be padded: their length is not that of all, as far as the user's text says."""
        file = _source(self.subject)
        return bool(self._sequences) or not file or _OF_PADDING.search(file.lower()) is not None

    @lazy
    def sequence_residual(self) -> float:
        """What its terms leave unexplained of the gradient on sequences; 0 where it is not made for them."""
        if self.given.layout != "rows" or not self.is_for_sequences or not self.fit.is_known:
            return 0.0
        try:
            return refit(self.fit, self.samples(self.setting, layout="sequence", draws=1)).residual
        except Exception:  # it takes sequences of one length
            return 0.0

    @lazy
    def length_powers(self) -> tuple[int | None, ...]:
        """How each term of a loss of rows goes with the length where it is given sequences."""
        if self.given.layout != "rows" or not self.is_for_sequences:
            return ()
        try:
            one, two = (
                refit(self.fit, self.samples(self.setting, layout="sequence", length=length, draws=1))
                for length in (LENGTH, OTHER_LENGTH)
            )
        except Exception:  # it takes sequences of one length
            return ()
        powers = []
        for term in self.fit.terms:
            first, second = _like(one, term), _like(two, term)
            known = first is not None and second is not None and first.coefficient
            powers.append(exponent(second.coefficient / first.coefficient, OTHER_LENGTH / LENGTH) if known else None)
        return tuple(powers)

    # What F.kl_div is given.

    @lazy
    def reverse_by_kl_div(self) -> bool:
        """Whether F.kl_div gets the student's probabilities as its target."""
        with _WatchKlDiv() as watch:
            self.loss(self.draw())
        return bool(watch.target_has_gradient)

    @property
    def says_reverse(self) -> bool:
        """Whether the user says that the divergence is reversed on purpose."""
        return says_reverse(f"{self.given.name} {documentation(self.subject)}")

    @property
    def is_named_a_sum(self) -> bool:
        """Whether the loss is called a sum over its rows: whoever calls it divides."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.given.name).lower()
        return not {"sum", "summed", "sums", "total"}.isdisjoint(name.rpartition(".")[2].split("_"))

    def is_made_up_for_by_its_caller(self, tau: float) -> bool:
        """Whether the file of the loss multiplies what it gives by τ², outside of it."""
        source = _source(self.subject)
        return source is not None and makes_up_for_square(source, self.given.name.rpartition(".")[2], tau)

    def _part(self, side: Side, loss: LossFunction) -> float:
        """How much the gradient moves with the teacher's answer, or with the labels."""
        first, second = self.draw(), self.draw(seed=1)
        other = {**first, side: second[side]}
        if side == "labels":
            other = {**first, "labels": (first["labels"] + 1) % self.classes}
        return float((self.gradient(first, loss) - self.gradient(other, loss)).norm())


def _like(fit: LossFit, term: Any) -> Any:
    kinds = ("cross_entropy", "label_smoothing") if term.kind in ("cross_entropy", "label_smoothing") else (term.kind,)
    alike = [each for each in fit.terms if each.kind in kinds]
    if term.kind in ("kl", "soft_cross_entropy") and not alike:
        alike = [each for each in fit.terms if each.kind in ("kl", "soft_cross_entropy")]
    return alike[0] if alike else None


# By which power of two the student's rows differ from the teacher's where a loss is smallest at a multiple of them.
_CLEARLY_SCALED = 0.3
# Whole numbers in a file, one of which may be the label of what is left out; so many are tried at most.
_WHOLE_NUMBERS, _MOST_LABELS = re.compile(r"(?<![\w.])-?\d{1,5}(?![\w.])"), 30
# Minus infinity, and numbers that become it in float16.
_FILLS_LOW = re.compile(
    r"-\s*[\d.]+e\+?(?:[5-9]|\d\d)"
    r"|-\s*(?:float\(|math\.|np\.|torch\.)?['\"]?inf|['\"]-inf|finfo\([^)]*\)\.min"
)
_OF_BOTH: tuple[Side, Side] = ("teacher", "labels")
# What a loss says of sequences in its own text, and what is plain enough anywhere in its file.
_OF_SEQUENCES = re.compile(
    r"\b(?:tokens?|sequences?|seq|seq_len|positions?|vocab|vocabulary|length)\b|\b(?:b|n|batch), ?(?:l|t|s|seq)\b"
)
_FLATTENS = re.compile(r"(?:view|reshape)\(-1|flatten\(|transpose\(-?[12], ?-?[12]\)|permute\(0, ?2, ?1")
_IN_A_FILE = re.compile(r"input_ids|seq_len|vocab_size|\[(?:b|n|batch), ?(?:l|t|s|seq|length)\b")
_OF_PADDING = re.compile(
    r"\bpad(?:s|ded)?\b|\bpadding\b(?! ?=)|pad_|_pad\b|ignore_index|-100\b|mask|token|input_ids|vocab|seq_len"
)


class _WatchKlDiv(TorchFunctionMode):
    """Sees whether the target of F.kl_div carries a gradient, which the teacher's answer does not."""

    target_has_gradient = False

    def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") == "kl_div":
            target = args[1] if len(args) > 1 else (kwargs or {}).get("target")
            self.target_has_gradient |= isinstance(target, Tensor) and target.requires_grad
        return function(*args, **(kwargs or {}))


_SAYS: Mapping[Side, frozenset[str]] = {
    "teacher": frozenset(
        ["teacher", "teachers", "soft", "distill", "distillation", "distilling", "distilled", "kd", "kl", "dark"]
    ),
    "labels": word_set("hard label labels ground ce cross truth supervised student task"),
}


def _trouble(loss: LossFunction, tensors: Mapping[Role, Tensor]) -> str:
    """What is wrong with one call; empty where nothing is."""
    try:
        found = loss(tensors)
    except Exception as error:  # a user's loss can fail in any way
        return format_error(error, 80)
    fine = all(each is None or bool(torch.isfinite(each).all()) for each in (found.value, found.student))
    return "" if fine else "not finite"


def _moved(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm().clamp(min=1e-300))


# What of a tensor is no number in it.
_FORM = frozenset(("shape", "size", "dim", "ndim", "numel", "device", "dtype", "new_zeros", "new_ones"))


def _definition(subject: Any) -> Any:
    return subject if inspect.isroutine(subject) or isinstance(subject, type) else type(subject)


def _source(subject: Any) -> str | None:
    """The text of the file that defines a loss; None where there is none."""
    target = inspect.unwrap(_definition(subject))
    try:
        module = inspect.getmodule(target)
        return inspect.getsource(module if module is not None else target)
    except (OSError, TypeError):
        return None


def documentation(subject: Any, option: str = "") -> str:
    """What the user wrote about a loss: its own docstrings and comments, else those of its file.

    Args:
        subject: the loss.
        option: a hyper-parameter; what the file says in another function or class that has it, too, is left out.
    """
    target = inspect.unwrap(_definition(subject))
    text = inspect.getdoc(target) or ""
    source = _source(subject)
    if source is None:
        return text
    try:
        own = range(*_lines_of(target))
    except (OSError, TypeError):
        own = range(0)
    try:
        others = [lines for lines, names in _definitions(source) if lines.start not in own and option in names]
    except SyntaxError:
        return text
    spoken = [
        (line, said) for line, said in spoken_lines(source) if line in own or not any(line in each for each in others)
    ]
    mine = "\n".join([text, *(said for line, said in spoken if line in own)])
    if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", mine):
        return mine
    return "\n".join([text, *(said for _, said in spoken)])


def _own_source(subject: Any) -> str:
    try:
        return inspect.getsource(inspect.unwrap(_definition(subject)))
    except (OSError, TypeError):
        return ""


def _lines_of(target: Any) -> tuple[int, int]:
    lines, start = inspect.getsourcelines(target)
    return start, start + len(lines)


@functools.lru_cache(maxsize=8)
def _definitions(source: str) -> tuple[tuple[range, frozenset[str]], ...]:
    """The lines of each function and class of a file, and the names of the arguments in it."""
    return tuple(
        (
            range(node.lineno, (node.end_lineno or node.lineno) + 1),
            frozenset(each.arg for each in ast.walk(node) if isinstance(each, ast.arg)),
        )
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    )


@functools.lru_cache(maxsize=8)
def spoken_lines(source: str) -> tuple[tuple[int, str], ...]:
    """Comments and texts of a file by line, with the name that they stand next to."""
    return tuple(_spoken_lines(source))


def _spoken_lines(source: str) -> Iterator[tuple[int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                before = token.line[: token.start[1]]
                named = re.match(r"\s*(?:self\.)?(\w+)\s*(?::[^=]+)?=", before) or re.match(r"\s*(\w+)\s*:", before)
                yield token.start[0], f"{named.group(1) + ': ' if named else ''}{token.string.lstrip('# ')}"
            elif token.type == tokenize.STRING:
                named = re.search(r"add_argument\(\s*[\"']--?([\w-]+)", token.line)
                text = token.string.strip("\"'")
                yield token.start[0], f"{named.group(1).replace('-', '_') + ': ' if named else ''}{text}"
    except (tokenize.TokenError, IndentationError):
        return


def says_reverse(text: str) -> bool:
    """Whether words say that a divergence is reversed on purpose.

    >>> says_reverse("KL(student || teacher)"), says_reverse("KL(teacher || student)")
    (True, False)
    """
    return bool(re.search(r"reverse|rkl|mode.?seeking|backward kl|student\W{1,5}teacher", text.lower()))


def says_forward(text: str) -> bool:
    """Whether words say that a divergence is the teacher's from the student's, and nothing of a reversed one.

    >>> says_forward("KL(teacher || student) at tau"), says_forward("reverse KL, not KL(teacher || student)")
    (True, False)
    """
    return bool(re.search(r"\bkld?\W{0,3}teacher\W{1,5}student", text.lower())) and not says_reverse(text)


def meaning_of(name: str, text: str) -> tuple[Side | None, str]:
    """Whose share a weight is said to be, by its name or by a sentence about it, and the words that say so.

    >>> meaning_of("alpha", "alpha: share of the teacher, 1 - alpha that of the labels")
    ('teacher', 'alpha: share of the teacher')
    >>> meaning_of("ce_weight", "")
    ('labels', 'ce_weight')
    """
    for side, of_side in _SAYS.items():
        if set(words_of(name)) & of_side:
            return side, name
    votes: list[tuple[Side, str]] = []
    for line in text.splitlines():
        # What is said of 1 − alpha is said of the other side.
        plain = re.sub(rf"\(?\s*1(?:\.0*)?\s*[-−–]\s*{re.escape(name)}\b\s*\)?", "REST", line)
        for clause in re.split(r"[,;.()]| and | while | whereas ", plain):
            if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", clause) or "REST" in clause:
                continue
            words = set(re.findall(r"[a-z]+", clause.lower()))
            sides = [side for side, of_side in _SAYS.items() if words & of_side]
            if len(sides) == 1:
                votes.append((sides[0], " ".join(clause.split())))
    if votes and len({side for side, _ in votes}) == 1:
        return votes[0]
    return None, ""
