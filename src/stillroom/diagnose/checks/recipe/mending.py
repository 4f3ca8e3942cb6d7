"""What could be wrong with how a teacher is asked, tried against each other, so that one cause is told once.

A wrong normalisation, another order of classes and drifted batch statistics all end in the same low accuracy, and each
remedy helps a little against the others' causes. So each round tries every single change, takes the one after which the
teacher has most images right, if that is more than chance, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from stillroom.diagnose.checks.recipe import alternatives
from stillroom.diagnose.checks.recipe.alternatives import Candidate
from stillroom.diagnose.checks.recipe.chance import ALPHA, paired
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.checks.recipe.reading import Reading

if TYPE_CHECKING:
    from stillroom.diagnose.checks.recipe.case import Case

Kind = Literal["normalisation", "channel_order", "resize", "class_order", "batch_norm"]

# Of all images, what a change must gain to be worth a word, and to be called a sickness. A healthy teacher moves by
# less than a point between normalisations that differ as little as ImageNet's and CIFAR's own.
SUSPECT, SICK = 0.02, 0.05
# Images after which a change that has gained nothing is given up.
_FIRST = 128
# Of the images of classes that get another column, the share that must then be right: what is left by chance where a
# broken teacher says one class of nearly everything is far less.
_CLEAR = 0.4
# With fewer right, more than one thing may be wrong.
_LOST = 0.5
_ROUNDS = 3
# Gains that are as good as the same.
_NEAR = 0.03


@dataclass(frozen=True)
class State:
    """A way to ask the teacher.

    Attributes:
        reading: the model, ready, with what its input goes through.
        order: for each class of the data, a column of the logits; None where they agree, empty where nobody knows.
        whole: the model as a run would be given it.
    """

    reading: Reading
    order: Tensor | None
    whole: nn.Module

    def named(self, columns: Tensor) -> Tensor:
        """Columns of the model's logits in the order of the data's classes."""
        return columns if self.order is None else columns.index_select(1, self.order)

    def right(self, labels: Tensor, count: int) -> Tensor:
        """Which of the sample's first images it has right, bool [count]; none where nobody knows what a logit means."""
        said = self.named(self.reading.first(count))
        if not said.shape[1]:
            return torch.zeros(count, dtype=torch.bool)
        return said.argmax(1) == labels[:count]


@dataclass(frozen=True)
class Trial:
    """One change, tried.

    Attributes:
        kind: what was changed.
        name: to what, such as ``half``.
        images: how many images it was tried on.
        correct: of these, right after the change.
        before: of these, right before it.
        p: how likely chance alone makes that much of it.
        state: the teacher after the change.
        why_not: why it could not be tried, if so.
    """

    kind: Kind
    name: str
    images: int = 0
    correct: int = 0
    before: int = 0
    p: float = 1.0
    state: State | None = None
    why_not: str | None = None

    @property
    def gain(self) -> float:
        """The share of images that it gains."""
        return (self.correct - self.before) / self.images if self.images else 0.0


@dataclass(frozen=True)
class Mending:
    """What was found.

    Attributes:
        accuracy: the share of the sample that the teacher has right as the recipe asks it.
        settled: the teacher after all changes.
        changes: the changes that were taken, in order.
        trials: all changes of a kind that were tried when it was last in question.
        images: size of the sample.
    """

    accuracy: float
    settled: State
    changes: tuple[Trial, ...]
    trials: dict[Kind, tuple[Trial, ...]]
    images: int

    def taken(self, kind: Kind) -> Trial | None:
        """The change of a kind that was taken."""
        return next((trial for trial in self.changes if trial.kind == kind), None)


def mend(case: Case) -> Mending:
    """Try what could be wrong with how the teacher is asked, and take what helps most until nothing does."""
    labels, count = case.sample.labels, len(case.sample)
    state = case.given
    accuracy = float(state.right(labels, count).double().mean())
    changes: list[Trial] = []
    trials: dict[Kind, tuple[Trial, ...]] = {}
    for _ in range(_ROUNDS):
        right = state.right(labels, count)
        if 1 - float(right.double().mean()) < SUSPECT and (state.order is None or len(state.order)):
            break  # nothing can gain enough to matter
        tried = [*_tried(case, state, right, {change.kind for change in changes})]
        for kind in {trial.kind for trial in tried}:
            trials[kind] = tuple(trial for trial in tried if trial.kind == kind)
        # Of several, one is the best by chance alone.
        allowed = ALPHA / max(len(tried), 1)
        helps = [t for t in tried if t.state is not None and t.gain >= SUSPECT and t.p < allowed]
        best = [_likeliest(helps)] if helps else _two_at_once(case, right, tried, allowed)
        if not best:
            break
        changes += best
        assert best[-1].state is not None
        state = best[-1].state
    return Mending(accuracy, state, tuple(changes), trials, count)


def _likeliest(helps: Sequence[Trial]) -> Trial:
    """The change that helps most; statistics of a batch only where no other way to ask comes near.

    They undo whatever scale the input has, and so a wrong normalisation, too, which does not mend drifted ones.
    """
    most = max(trial.gain for trial in helps)
    inputs = [trial for trial in helps if trial.kind != "batch_norm" and trial.gain >= most - _NEAR]
    return max(inputs or helps, key=lambda trial: trial.gain)


def _tried(case: Case, state: State, right: Tensor, changed: set[Kind]) -> Iterator[Trial]:
    if "class_order" not in changed:
        yield from _permuted(case, state, right)
    if state.order is not None and not len(state.order):
        return  # an input is judged by the classes that it leads to
    kinds: Sequence[tuple[Kind, Iterator[Candidate]]] = (
        ("normalisation", alternatives.normalisations(case, state)),
        ("channel_order", alternatives.channel_orders(case, state)),
        ("resize", alternatives.sizes(case, state)),
        ("batch_norm", alternatives.batch_statistics(case, state)),
    )
    for kind, candidates in kinds:
        if kind not in changed:
            yield from (_compared(case, state, right, kind, candidate) for candidate in candidates)


def _two_at_once(case: Case, right: Tensor, tried: Sequence[Trial], allowed: float) -> list[Trial]:
    """Another input and another order of classes, where neither helps without the other; none if nothing does."""
    if float(right.double().mean()) >= _LOST:
        return []
    best: list[Trial] = []
    for trial in tried:
        if trial.state is None or trial.kind in ("class_order", "resize"):
            continue
        for order in _permuted(case, trial.state, right):
            better = not best or order.gain > best[1].gain
            if order.state is not None and order.gain >= SUSPECT and order.p < allowed and better:
                counts = {"images": order.images, "correct": order.correct, "before": order.before, "p": order.p}
                best = [replace(trial, **counts), order]  # type: ignore[arg-type]
    return best


def _compared(case: Case, state: State, right: Tensor, kind: Kind, candidate: Candidate) -> Trial:
    """A change of the input or the model on the images that the teacher was asked about before it."""
    if candidate.why_not is not None:
        return Trial(kind, candidate.name, why_not=candidate.why_not)
    labels, most = case.sample.labels, min(candidate.images, len(case.sample))
    try:
        made = candidate.make()
        changed = State(made, state.order, candidate.whole or state.whole)
        for count in sorted({min(_FIRST, most), most}):
            now, before = changed.right(labels, count), right[:count]
            trial = Trial(
                kind,
                candidate.name,
                count,
                int(now.sum()),
                int(before.sum()),
                paired(int((now & ~before).sum()), int((before & ~now).sum())),
                changed,
            )
            if trial.gain <= 0:
                break
    except Skip as why:
        return Trial(kind, candidate.name, why_not=str(why))
    except Exception as error:  # a model for one size refuses others in its own words
        from stillroom.errors import format_error

        return Trial(kind, candidate.name, why_not=format_error(error))
    return trial


def _permuted(case: Case, state: State, right: Tensor) -> Iterator[Trial]:
    """Another order of the classes: found on one half of the images, judged on the other, and the other way round."""
    labels, count = case.sample.labels, len(case.sample)
    columns = state.reading.first(count)
    if columns.shape[1] < case.classes:
        known = f"the teacher has {columns.shape[1]:,} logits for {case.classes:,} classes"
        yield Trial("class_order", "assignment", why_not=known)
        return
    said, halves = columns.argmax(1), case.sample.halves
    now = torch.zeros(count, dtype=torch.bool)
    for half in (False, True):
        fitted = _assigned(said[halves != half], labels[halves != half], case.classes, columns.shape[1], state.order)
        judged = halves == half
        now[judged] = said[judged] == fitted[labels[judged]]
    order = _assigned(said, labels, case.classes, columns.shape[1], state.order)
    before = state.order if state.order is not None else torch.arange(case.classes)
    moved = order != before if len(before) else torch.ones(case.classes, dtype=torch.bool)
    of_moved = moved[labels]
    clear = bool(of_moved.any()) and float(now[of_moved].double().mean()) >= _CLEAR
    p = paired(int((now & ~right).sum()), int((right & ~now).sum())) if clear else 1.0
    trial = Trial("class_order", "assignment", count, int(now.sum()), int(right.sum()), p)
    same = order.tolist() == list(range(columns.shape[1]))
    yield replace(trial, state=replace(state, order=None if same else order))


def _assigned(said: Tensor, labels: Tensor, classes: int, columns: int, order: Tensor | None) -> Tensor:
    """For each class a column of its own, so that as many images as possible come out right: int64 [K]."""
    # Slow to import, and needed here alone.
    from scipy.optimize import linear_sum_assignment

    counts = torch.bincount(labels * columns + said, minlength=classes * columns).view(classes, columns).double()
    now = torch.arange(classes) if order is None else order
    if len(now):
        # Of equals, what is there stays.
        counts[torch.arange(classes), now] += 0.5
    _, chosen = linear_sum_assignment(counts.numpy(), maximize=True)
    return torch.from_numpy(chosen)
