"""What a window of the tape says of its losses: summands, logits, labels, values that a function is not meant for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from stillroom.diagnose.audit.source import listed_weights, source_text, squares_at
from stillroom.diagnose.audit.tape import (
    OF_CLASSES,
    Call,
    CodeLine,
    Node,
    RecordedLoss,
    Source,
    Tape,
    replay,
    tensors_in,
)
from stillroom.diagnose.checks.loop.record import (
    Answers,
    BackwardFacts,
    ComparingTerm,
    LostTerm,
    NarrowTeacher,
    Oddity,
    Term,
    TurnedLabels,
)
from stillroom.diagnose.checks.loss.context import spoken_lines

# Rows of a batch that values are looked at in, and elements of an input that are kept.
ROWS, ELEMENTS = 256, 2**20
# Numbers that are brought to float64 at a time.
PART = 2**15
_PASSES = frozenset(
    ("float", "half", "bfloat16", "double", "to", "type", "cuda", "cpu", "contiguous", "clone", "squeeze")
) | {"reshape", "view", "data"}
# Rows of stored answers are picked and put together by these.
PICKS = frozenset(("__getitem__", "index_select", "cat", "stack", "concat", "gather", "vstack", "__iter__", "unbind"))
_MOVES = PICKS | _PASSES | frozenset(("detach", "flatten", "unsqueeze", "split", "chunk", "narrow", "to_dense"))
_REORDERS = PICKS | {"flip", "roll", "chunk", "split", "take_along_dim", "lerp", "matmul", "__matmul__", "mm"}
_ENDS = (
    frozenset(
        (
            "kl_div",
            "cross_entropy",
            "nll_loss",
            "mse_loss",
            "l1_loss",
            "smooth_l1_loss",
            "huber_loss",
            "norm",
            "dist",
            "cdist",
        )
    )
    | frozenset(
        (
            "cosine_similarity",
            "cosine_embedding_loss",
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
            "softmax",
        )
    )
    | {"log_softmax", "margin_ranking_loss", "triplet_margin_loss", "ctc_loss", "gaussian_nll_loss", "soft_margin_loss"}
)
_HALF = (torch.float16, torch.bfloat16)


@dataclass(eq=False)
class Raw:
    """A call of ``backward`` before roles are known: the loss and its nodes."""

    loss: Tensor
    place: str | None
    nodes: list[int]
    sources: int
    gradient: int


def bits(mask: int, sources: Sequence[Source]) -> list[Source]:
    """The sources of a mask."""
    return [source for i, source in enumerate(sources) if mask >> i & 1]


@dataclass(frozen=True, eq=False)
class Summand:
    """A tensor that a loss is the weighted sum of."""

    tensor: Tensor  # the tensor
    weight: float = 1.0  # what multiplies it
    factors: tuple[float, ...] = ()  # the numbers that the weight is the product of
    names: tuple[tuple[str, bool], ...] = ()  # variables that hold them, or one minus them (then with True)
    named: Node | None = None  # the operation that such a number was met in
    truncated: str = ""  # the expression that cuts a factor of 0 to a whole number
    places: tuple[CodeLine, ...] = ()  # where it was multiplied

    def of(self, tensor: Tensor, factor: float = 1.0, node: Node | None = None) -> Summand:
        """The tensor that this one is a multiple of."""
        if node is None:
            return replace(self, tensor=tensor, weight=self.weight * factor)
        named = self.named or (node if node.names else None)
        cut = self.truncated or node.truncated
        places = (*self.places, *((node.place,) if node.place is not None else ()))
        return Summand(
            tensor, self.weight * factor, (*self.factors, factor), self.names + node.names, named, cut, places
        )


MAX_SPLITS = 1000


def summands(tape: Tape, loss: Tensor) -> list[Summand]:
    """What a loss is the weighted sum of."""
    found: list[Summand] = []
    todo, split = [Summand(loss)], 0
    while todo:
        one = todo.pop()
        # What an operation in place gives may be its own input: it has no parts, and a circle of them has an end.
        parts = _parts(tape, one) if len(found) + len(todo) <= 200 and split <= MAX_SPLITS else None
        split += 1
        if parts is None or any(part.tensor is one.tensor for part in parts):
            found.append(one)
        else:
            todo += reversed(parts)
    return found


def _parts(tape: Tape, one: Summand) -> list[Summand] | None:
    """What the last operation of a summand added or multiplied; None where it did neither.

    A number that was changed in place stands on the tape as one that was computed anew.
    """
    index = tape.origin(one.tensor)
    node = tape.nodes[index] if index is not None else None
    if node is None or node.call is not None or (one.tensor.numel() > 1 and node.name not in _PASSES):
        return None
    name, given = node.name, node.inputs
    if name in ("add", "__radd__", "sub", "__rsub__", "rsub"):
        scale = float(node.kwargs.get("alpha", 1))
        signs = (1.0, scale) if "add" in name else (-1.0, 1.0) if "rsub" in name else (1.0, -scale)
        operands = [*node.args[:2], *([node.kwargs["other"]] if "other" in node.kwargs else [])]
        return [one.of(each, sign) for each, sign in zip(operands, signs, strict=False) if isinstance(each, Tensor)]
    if name in ("mul", "__rmul__", "div", "true_divide", "multiply", "divide") and node.args:
        tensors = [each for each in node.args[:2] if isinstance(each, Tensor) and each.requires_grad]
        # Of a constant that was computed from networks, too.
        tensors = tensors or [each for each in given if len(given) == 1]
        other = next((each for each in node.args[:2] if each is not tensors[0]), None) if len(tensors) == 1 else None
        factor = _number(other)
        if isinstance(other, Tensor) and factor is not None and factor >= 16 and math.log2(factor) % 1 == 0:
            # A gradient scaler's factor, which is taken off again before the step.
            return [one.of(tensors[0])]
        if factor is not None and "mul" in name:
            return [one.of(tensors[0], factor, node)]
        return [one.of(tensors[0], 1 / factor, node)] if factor and other is node.args[1] else None
    if name in ("neg", "neg_", "negative"):
        return [one.of(given[0], -1.0)]
    if name in ("sum", "mean") and len(given) == 1:
        index = tape.origin(given[0])
        inner = tape.nodes[index] if index is not None else None
        if inner is not None and inner.name in ("stack", "cat") and all(each.numel() == 1 for each in inner.inputs):
            share = 1 / len(inner.inputs) if name == "mean" else 1.0
            return [one.of(each, share) for each in inner.inputs]
    if name in (*_PASSES, "sum", "mean") and len(given) == 1 and given[0].numel() == 1:
        return [one.of(given[0])]
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad:
        return float(value)
    return None


def loss_function(nodes: Sequence[Node]) -> Node | None:
    """The loss function that a term was made by: the last known one of its nodes, else its last operation."""
    for node in reversed(nodes):
        if node.call is None and node.name in _ENDS and node.sources:
            return node
    own = [node for node in nodes if node.call is None]
    return own[-1] if own else None


def term(
    tape: Tape, summand: Summand, learners: int, teachers: int, labels: set[int], students: int, *, full: bool = True
) -> Term:
    """One summand, described.

    Args:
        tape: the window.
        summand: the summand.
        learners: sources that learn.
        teachers: sources that teach.
        labels: tensors of labels, by identity.
        students: the learners with what was cut off from their gradient.
        full: whether the spread of the teacher's side is measured, too.
    """
    tensor, named = summand.tensor, summand.named
    sources, gradient = tape.bits(tensor)
    nodes = [tape.nodes[i] for i in tape.ancestors(tensor)]
    node = loss_function(nodes)
    spoke = named or node
    reads = any(id(given) in labels for each in nodes for given in each.inputs)
    chosen = [each for each in nodes if each.name in OF_CLASSES and tape.chosen_classes(each) is not None]
    given = (each.call for each in bits(sources & learners, tape.sources))
    return Term(
        place=node.where if node is not None else None,
        function=node.name if node is not None else "",
        weight=summand.weight,
        value=tensor.item() if tensor.numel() == 1 else None,
        labels=reads,
        student=bool(gradient & learners),
        teacher=bool(sources & teachers),
        connected=any(call is not None and bool(call.sources & teachers) for call in given),
        reads_student=bool(sources & students),
        summed=_summed(nodes),
        rows=_rows_summed(nodes),
        weight_names=summand.names,
        weight_lists=_listed(summand, named or node),
        apart=bool(gradient & learners and sources & teachers and _pushes_apart(nodes, node, summand.weight)),
        spread=_spread(tape, nodes, learners, teachers)
        if full and gradient & learners and sources & teachers
        else None,
        factors=summand.factors,
        truncated=summand.truncated,
        chosen=next((each.overwrites for each in chosen if each.overwrites), "") if chosen else None,
        words=spoken(spoke.place.file) if spoke is not None and spoke.place is not None else "",
        averaged=_rows_averaged(nodes) if tensor.numel() == 1 else 0,
    )


def cut_off(
    tape: Tape, gradient: int, learners: int, teachers: int, held: Callable[[Call], set[int]], trained: set[int]
) -> tuple[Call, Call] | None:
    """Networks that alone learn from a term, as what they are given of the student is cut off from its gradient.

    Args:
        tape: the window.
        gradient: what the term's gradient reaches.
        learners: sources that learn.
        teachers: sources that teach.
        held: the parameters of a call's network that an optimizer holds.
        trained: those that the gradient of the whole loss reaches.

    Returns:
        The call of such a network and the call that its input comes from; None where the gradient goes on to a network
        that reads the batch.
    """
    found: tuple[Call, Call] | None = None
    for source in upstream(tape, gradient & learners, learners):
        call = source.call
        if call is None:
            if source.kind == "parameter":
                continue
            return None
        if call.flowing & learners:
            continue
        givers = [each for each in tape.networks(call.sources) if each.module is not call.module]
        if not givers:
            return None  # it reads the batch: the student itself
        giver = next((each for each in givers if held(each) and held(each) <= trained), None)
        # A generator's images are given to teacher and student alike.
        fed = (each for each in bits(teachers, tape.sources) if each.call is not None)
        if giver is not None and not any(each.call.sources & call.sources for each in fed if each.call is not giver):  # type: ignore[union-attr]
            found = call, giver
    return found


def upstream(tape: Tape, gradient: int, among: int = -1) -> Iterator[Source]:
    """The sources that a gradient reaches, through networks that were given others' outputs, too."""
    todo, seen = gradient & among, 0
    while todo:
        bit = todo & -todo
        seen |= bit
        source = tape.sources[bit.bit_length() - 1]
        todo &= ~bit
        if source.call is not None:
            todo |= source.call.flowing & among & ~seen
        yield source


# What leaves the sign of a value as it is.
_AVERAGES = frozenset(("mean", "sum", "view", "reshape", "flatten", "squeeze", "to", "float", "nanmean"))
_DISTANCES = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"))


def _pushes_apart(nodes: Sequence[Node], node: Node | None, weight: float) -> bool:
    """Whether a term is a similarity that is minimised, or a distance that is maximised; no where that is not plain."""
    if node is not None and node.name == "cosine_embedding_loss" and weight > 0:
        return bool((node.argument(2, "target").detach() == -1).all())
    if node is None or not (
        (node.name == "cosine_similarity" and weight > 0) or (node.name in _DISTANCES and weight < 0)
    ):
        return False
    after = [each for each in nodes if each.call is None and each.sources & node.sources == node.sources]
    return all(each.name in _AVERAGES for each in after[after.index(node) + 1 :])


def _listed(summand: Summand, node: Node | None) -> tuple[str, ...]:
    if node is None or node.place is None or not summand.factors:
        return ()
    said = listed_weights(node.place.file)
    return tuple(said[each] for each in summand.factors if each in said)


def _spread(tape: Tape, nodes: Sequence[Node], learners: int, teachers: int) -> float | None:
    """How much the teacher's side of the first comparison with the student differs from row to row."""
    for node in nodes:
        if node.call is not None or not (node.sources & learners and node.sources & teachers):
            continue
        sides = [each for each in node.inputs if each.dim() >= 2 and each.is_floating_point()]
        given = [each for each in sides if tape.bits(each)[0] & teachers and not tape.bits(each)[1] & learners]
        if not given or len(given[0]) < 4:
            return None
        rows = given[0].detach()[:64].float().flatten(1)
        apart, size = torch._foreach_norm([rows - rows.mean(0), rows])
        return apart.item() / max(size.item(), 1e-12)
    return None


_PRODUCTS = ("bmm", "matmul", "mm", "__matmul__")


def _summed(nodes: Sequence[Node]) -> float:
    """How many numbers of each row the operations of a term sum up."""
    product = 1.0
    for node in nodes:
        if node.call is not None or not node.inputs or node.inputs[0].dim() < 2:
            continue
        rows, numbers = len(node.inputs[0]), node.inputs[0].numel()
        if node.name == "sum":
            product *= numbers / node.outputs[0].numel() / (rows if node.outputs[0].dim() == 0 else 1)
        elif node.name in ("mse_loss", "l1_loss", "smooth_l1_loss") and node.argument(4, "reduction", "mean") == "sum":
            product *= numbers / rows
        elif node.name in _PRODUCTS and len(node.inputs) > 1 and node.inputs[1].dim() > 1:
            # A Gram matrix: of a tensor and itself turned.
            one, other = node.inputs[:2]
            if one.shape[-1] == other.shape[-2] and one.data_ptr() == other.data_ptr():
                product *= one.shape[-1]
    return product if product > 1 else 0.0


def _rows_summed(nodes: Sequence[Node]) -> float:
    """How many rows a loss of class numbers sums up; 0 for a mean, and where there is no such loss."""
    for index, node in enumerate(nodes):
        if node.call is not None or node.name not in OF_CLASSES or node.inputs[0].dim() < 2:
            continue
        reduction = node.argument(6, "reduction", "mean")
        if reduction == "none":
            # The last operation that makes one number of many.
            later = [each.name for each in nodes[index + 1 :] if each.inputs and each.inputs[0].numel() > 1]
            reduction = next((name for name in reversed(later) if name in ("sum", "mean")), "none")
        if reduction == "sum":
            return node.inputs[0].numel() / node.inputs[0].shape[1]
    return 0.0


def _rows_averaged(nodes: Sequence[Node]) -> int:
    """How many rows a term is the mean of, by the last operation that makes one number of many; 0 for a sum."""
    for node in reversed(nodes):
        given = node.inputs[0] if node.inputs else None
        if node.call is not None or given is None or given.dim() == 0 or node.outputs[0].dim():
            continue
        reduction = "mean" if node.name == "mean" else "sum" if node.name == "sum" else ""
        if node.name in _ENDS:
            reduction = node.kwargs.get("reduction", "mean")
        return len(given) if reduction in ("mean", "batchmean") else 0
    return 0


@cache
def spoken(file: str) -> str:
    """What the texts and comments of a file say, a line each, and names of reversed divergences and accumulation."""
    source = source_text(file)
    names = re.findall(r"\b\w*(?:(?:reversed?|backward)_?kl|accumul)\w*", source, re.IGNORECASE)
    return "\n".join([*(text for _, text in spoken_lines(source)), *names])


def label_tensor(tape: Tape, nodes: Sequence[Node], rows: int, classes: int) -> tuple[Tensor | None, Tensor | None]:
    """The labels that the losses read, one for each row, and the tensor that they were handed as.

    Labels of some rows are brought to all rows, -100 where there is none. None where they are no class numbers, or
    were computed from a network's output.
    """
    targets = []
    for node in nodes:
        if node.name in ("cross_entropy", "nll_loss"):
            if _reads_first_columns(tape, node.inputs[0], classes):
                targets.append(node.argument(1, "target"))
        elif node.name in ("gather", "scatter", "scatter_"):
            targets.append(node.argument(2, "index"))
        elif node.name == "take_along_dim":
            targets.append(node.argument(1, "indices"))
        elif node.name == "one_hot":
            targets.append(node.argument(0, "tensor"))
        elif node.name == "__getitem__" and isinstance(node.args[1], tuple):
            targets += [each for each in node.args[1] if isinstance(each, Tensor)]
        elif _reads_table(node, classes):
            targets.append(node.args[1])
    for target in targets:
        if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype is torch.bool:
            continue
        index = tape.origin(target)
        if tape.networks(tape.bits(target)[0]):
            continue
        if target.numel() == rows and _are_classes(target, classes):
            return target.detach().reshape(-1).clone(), target
        if index is not None and tape.nodes[index].name in ("__getitem__", "masked_select", "index_select"):
            node = tape.nodes[index]
            base, chosen = node.inputs[0], node.inputs[-1]
            if base.numel() == rows and len(node.inputs) == 2 and _are_classes(base, classes):
                full = torch.full((rows,), -100, dtype=torch.long, device=base.device)
                flat = chosen.reshape(-1)
                full[flat] = base.reshape(-1)[flat].long()
                return full, target
    return None, None


def _reads_first_columns(tape: Tape, logits: Tensor, classes: int) -> bool:
    """Whether a label's number is that of a network's output, too: not where a later task has columns of its own."""
    for _ in range(8):
        if logits.dim() != 2 or logits.shape[1] >= classes:
            return True
        index = tape.origin(logits)
        if index is None or not tape.nodes[index].inputs:
            return True
        node = tape.nodes[index]
        whole = node.inputs[0]
        if whole.shape[-1:] != logits.shape[-1:]:
            picked = node.args[1] if node.name == "__getitem__" else None
            last = picked[-1] if isinstance(picked, tuple) else None
            if isinstance(last, slice):
                return last.start in (None, 0)
            return node.name != "narrow" or node.argument(2, "start") == 0
        logits = whole
    return True


# What moves numbers to other rows, so that two tensors of as many numbers cannot be compared one by one.
_MOVES_ROWS = PICKS | {"permute", "transpose", "t", "movedim", "flip", "roll", "split", "chunk", "sort", "argsort"}


def turned_labels(tape: Tape, target: Tensor, classes: int) -> TurnedLabels | None:
    """Rows whose label is a class only because an operation made one of a label that is none: ``y.clamp(min=0)``.

    Labels below 0, and 255, are followed through operations that keep each row in its place. What an assignment by a
    mask overwrote is known by the comparison that gave the mask. None where no row was turned.
    """
    index = tape.origin(target)
    for _ in range(8):
        node = tape.nodes[index] if index is not None else None
        if node is None or node.call is not None:
            return None
        if node.name in ("__setitem__", "masked_fill_") and len(node.args) > 1 and isinstance(node.args[1], Tensor):
            mask = node.args[1]
            if mask.dtype is torch.bool and mask.shape == node.inputs[0].shape and _are_unlabelled(tape, node):
                return _turned(mask, target, target)
        given = [
            (each, origin)
            for each, origin in zip(node.inputs, node.origins, strict=True)
            if not each.is_floating_point() and each.dtype is not torch.bool and each.numel() == target.numel()
        ]
        if not given:
            return None
        if node.name in _MOVES_ROWS and not (node.name == "__getitem__" and len(node.inputs) == 1):
            # A tensor that was picked may have been changed in place since: what was picked is picked again.
            picks = node.name == "__getitem__" and node.function(*node.args, **node.kwargs)
            given = [(picks, None)] if isinstance(picks, Tensor) and picks.numel() == target.numel() else []
        for each, _ in given:
            base, made = each.reshape(-1), target.reshape(-1)
            turned = (_no_class(base, classes)) & (made >= 0) & (made < classes)
            if bool(turned.any()):
                return _turned(turned, base, made)
        index = given[0][1][0] if given and given[0][1] is not None else None
    return None


def _turned(rows: Tensor, base: Tensor, made: Tensor) -> TurnedLabels:
    rows, base, made = (each.detach().reshape(-1) for each in (rows, base, made))
    return TurnedLabels(rows.clone(), frozenset(made[rows].tolist()), tuple(base[~rows].tolist()))


def _no_class(labels: Tensor, classes: int) -> Tensor:
    """Which labels say that a row has none: those below 0; 255, where it is the only number beyond the classes."""
    beyond = labels >= classes
    only = bool((labels[beyond] == 255).all())
    return (labels < 0) | (beyond if only else torch.zeros_like(beyond))


def _are_unlabelled(tape: Tape, node: Node) -> bool:
    """Whether an assignment goes to rows that a comparison found to be below 0, or to be a number below 0 or 255."""
    origin = node.origins[1]
    made = tape.nodes[origin[0]] if origin is not None else None
    number = made.args[1] if made is not None and len(made.args) > 1 else None
    if made is None or not isinstance(number, int):
        return False
    return (made.name in ("lt", "__lt__") and number <= 0) or (
        made.name in ("eq", "__eq__") and (number < 0 or number == 255)
    )


_ONE_HOT = frozenset(("one_hot", "scatter", "scatter_"))


def _are_classes(tensor: Tensor, classes: int) -> bool:
    return _lowest_class(tensor, classes) is not None


def _lowest_class(tensor: Tensor, classes: int) -> int | None:
    """The lowest of numbers of classes, below 0 where a row has none; None where they are something else."""
    if tensor.is_floating_point() or not tensor.numel():
        return None
    low, high = (int(each.item()) for each in tensor.aminmax())
    return low if 0 <= high < classes and low >= -100 else None


def _class_dim(tensor: Tensor) -> int | None:
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return None
    dim = 1 if tensor.dim() >= 4 else tensor.dim() - 1
    return dim if tensor.shape[dim] >= 2 else None


def flat(tensor: Tensor, class_dim: int) -> Tensor:
    """[N, K] in float32: classes last, all other dimensions together."""
    if tensor.dim() == 2 and class_dim == 1:
        return tensor.detach() if tensor.dtype is torch.float32 else tensor.detach().float()
    return tensor.detach().float().movedim(class_dim, -1).reshape(-1, tensor.shape[class_dim])


def first_rows(tensor: Tensor, class_dim: int) -> Tensor:
    """A copy of the first rows of :func:`flat`."""
    rows = flat(tensor, class_dim)
    return (rows[:ROWS] if len(rows) > ROWS else rows).clone()


_SOFTMAX = ("softmax", "log_softmax", "cross_entropy", "argmax", "max", "topk", "nll_loss", "logsumexp", "softmin")


def answers(
    tape: Tape, raw: Raw, parts: Sequence[Summand], learners: int, teachers: int, *, as_function: bool
) -> tuple[Answers | None, Source | None, Source | None]:
    """The logits of both in a loss, with the labels, and the loss as a function of them; and their sources.

    ``parts`` are the summands of the loss.
    """
    nodes = [tape.nodes[i] for i in raw.nodes if tape.nodes[i].call is None]
    softmaxed = 0
    for node in nodes:
        if node.name in _SOFTMAX and node.inputs:
            softmaxed |= tape.bits(node.inputs[0])[0]
    students = [each for each in _sources(tape, raw.gradient & learners) if _class_dim(each.tensor) is not None]
    # An output of this step before those of earlier ones, which a queue keeps.
    outputs = sorted(_sources(tape, raw.sources & teachers), key=lambda each: each.call is None)
    # As it was given, too, where rows or positions of both are picked alike.
    given = [one for each in outputs for one in (_picked(nodes, each, tape), each)]
    given = [each for each in given if _class_dim(each.tensor) is not None and each not in students]

    def is_logits(source: Source) -> bool:
        return bool(tape.bits(source.tensor)[0] & softmaxed)

    students.sort(key=is_logits, reverse=True)
    best: tuple[Source, Source | None] | None = None
    for student in students:
        match = [
            each
            for each in given
            if each.tensor.shape == student.tensor.shape and _common_node(tape, nodes, student, each) is not None
        ]
        match.sort(key=is_logits, reverse=True)
        if match and (is_logits(student) or is_logits(match[0]) or len(students) == 1):
            best = (student, match[0])
            break
    derived = False
    if best is None and students and is_logits(students[0]):
        best = (students[0], _derived(tape, nodes, students[0], learners, teachers))
        derived = best[1] is not None
    if best is None:
        return None, None, None
    student, teacher = best
    dim = _class_dim(student.tensor)
    assert dim is not None
    classes = student.tensor.shape[dim]
    rows = student.tensor.numel() // classes
    own = tape.bits(student.tensor)[0]
    labels, handed = label_tensor(tape, [node for node in nodes if node.sources & own], rows, classes)
    if labels is None:
        # One-hot labels are made without the student's answers.
        made = [node for node in nodes if node.name in _ONE_HOT or _reads_table(node, classes)]
        if made and not _are_mixed(nodes, made):
            labels, handed = label_tensor(tape, made, rows, classes)
    both = [student.tensor] + ([teacher.tensor] if teacher is not None else [])
    follow = both + ([handed] if handed is not None and handed.numel() == rows else [])
    loss: RecordedLoss | None = replay(tape, raw.loss, follow) if teacher is not None and as_function else None
    turned = None
    if labels is not None and handed is not None and handed.numel() == rows:
        labels, turned = _named_classes(tape, handed, classes)
    common = _common_node(tape, nodes, student, teacher) if teacher is not None else None
    own_teacher = tape.bits(teacher.tensor)[0] if teacher is not None else 0
    return (
        Answers(
            student=first_rows(student.tensor, dim),
            teacher=first_rows(teacher.tensor, dim) if teacher is not None else None,
            labels=labels,
            stored=teacher is not None and teacher.call is None,
            shape=tuple(student.tensor.shape),
            loss=loss,
            place=common.where if common is not None else None,
            class_dim=dim,
            ignored=_ignored(labels, student.tensor.shape, dim),
            teacher_terms=_comparing(tape, parts, both) if teacher is not None and as_function else [],
            derived=derived,
            of_classes=_of_classes(nodes, own, classes),
            handed=handed if handed is not None and handed.numel() == rows else None,
            turned=turned,
            changed=_changed_store(nodes, teacher) if teacher is not None and teacher.call is None else None,
            reordered=teacher is not None
            and any(each.name in _REORDERS and each.sources & own_teacher and not each.gradient for each in nodes),
            narrower=_narrower(nodes, student.tensor, outputs) if teacher is None or derived else None,
        ),
        student,
        teacher,
    )


def _narrower(nodes: Iterable[Node], student: Tensor, outputs: Iterable[Source]) -> NarrowTeacher | None:
    """A teacher of fewer classes, where the loss picks as many columns of the student's logits [B, K]."""
    if student.dim() != 2:
        return None
    teachers = {tuple(each.tensor.shape): each.tensor for each in outputs if each.tensor.is_floating_point()}
    for node in nodes:
        if not node.inputs or node.inputs[0] is not student:
            continue
        for part in node.outputs:
            teacher = teachers.get(tuple(part.shape))
            if teacher is None or part.dim() != 2 or len(part) != len(student) or part.shape[1] >= student.shape[1]:
                continue
            count = part.shape[1]
            for first in range(student.shape[1] - count + 1):
                if torch.equal(student.detach()[:, first : first + count], part.detach()):
                    where = node.where
                    return NarrowTeacher(teacher.detach()[:ROWS].float().clone(), first, where)
    return None


# What says which operation an argument makes; others are tensors, or tell rows and positions apart.
_NUMBERS = frozenset((int, float, bool, str, type(None)))


def form(tape: Tape, raw: Raw) -> tuple[Any, ...] | None:
    """What a loss is made of but for the numbers in its tensors: two of one form differ in values alone.

    None where a number that is no argument, a tensor of its own, may be a weight.
    """
    parts: list[Any] = [raw.place, raw.sources, raw.gradient]
    for index in raw.nodes:
        node = tape.nodes[index]
        out = node.outputs[0]
        if node.call is not None:
            parts += (index, id(node.call.module), node.sources, node.gradient, out.shape)
            continue
        if any(not each.requires_grad and each.dim() == 0 for each in node.inputs):
            return None
        parts += (index, node.name, id(node.place), node.origins, node.sources, node.gradient, out.shape, out.dtype)
        parts += (node.names, node.truncated, node.overwrites)
        parts += [each if type(each) in _NUMBERS else None for each in node.args]
        parts += [(key, each if type(each) in _NUMBERS else None) for key, each in node.kwargs.items()]
    return tuple(parts)


_Record = TypeVar("_Record", Term, Answers)


@dataclass(frozen=True, eq=False)
class Described:
    """A loss that was described, and where each of its tensors stands on the tape: in another of its form, as well."""

    terms: Sequence[Term]
    values: Sequence[tuple[int, int]]  # of each term, the node that gave it and which output it is
    answers: Answers | None
    student: int  # which source it is
    teacher: int | tuple[int, int] | None  # the same, or the node that gave it
    labels: tuple[int, int] | None  # a node that takes the labels, and which of its inputs they are
    half: Sequence[tuple[str, str | None]]
    vanished: Sequence[tuple[float, str, str | None]]
    adds_constant: bool

    @classmethod
    def of(
        cls,
        tape: Tape,
        raw: Raw,
        tensors: Sequence[Tensor],
        found: tuple[Answers | None, Source | None, Source | None],
        backward: BackwardFacts,
    ) -> Described | None:
        """None where another loss of its form may be described in another way.

        Args:
            tape: the window.
            raw: the loss.
            tensors: its summands.
            found: what :func:`answers` gave.
            backward: its description.
        """
        made = [tape.made_at(each) for each in tensors]
        values = [each for each in made if each is not None]
        answers, student, teacher = found
        place: int | tuple[int, int] | None = None
        numbers: tuple[int, int] | None = None
        if len(values) != len(made):
            return None
        if answers is not None and student is not None:
            if answers.handed is None or len(answers.shape) != 2:
                return None
            if teacher is not None:
                place = _index(tape.sources, teacher)
                place = tape.made_at(teacher.tensor) if place is None else place
                if place is None:
                    return None
            numbers = next(
                (
                    (index, slot)
                    for index in raw.nodes
                    for slot, each in enumerate(tape.nodes[index].inputs)
                    if each is answers.handed
                ),
                None,
            )
            if numbers is None:
                return None
        own = _index(tape.sources, student) if student is not None else 0
        if own is None:
            return None
        return cls(
            backward.terms,
            values,
            answers,
            own,
            place,
            numbers,
            backward.half,
            backward.vanished,
            backward.adds_constant,
        )

    def again(self, tape: Tape) -> tuple[list[Term], tuple[Answers | None, Source | None, Source | None]] | None:
        """The terms and the answers of another loss of the same form; None where its labels are no class numbers."""
        terms = []
        for term, (index, slot) in zip(self.terms, self.values, strict=True):
            tensor = tape.nodes[index].outputs[slot]
            value = tensor.item() if tensor.numel() == 1 else None
            terms.append(_like(term, value=value, spread=None, cut_off=None))
        known = self.answers
        if known is None or self.labels is None:
            return terms, (None, None, None)
        student = tape.sources[self.student]
        teacher: Source | None = None
        if isinstance(self.teacher, int):
            teacher = tape.sources[self.teacher]
        elif self.teacher is not None:
            tensor = tape.nodes[self.teacher[0]].outputs[self.teacher[1]]
            teacher = Source("constant", tensor, earlier=tape.networks(tape.bits(tensor)[0]))
        handed = tape.nodes[self.labels[0]].inputs[self.labels[1]]
        dim, classes = known.class_dim, student.tensor.shape[known.class_dim]
        low = _lowest_class(handed, classes)
        if low is None:
            return None
        labels, turned = _named_classes(tape, handed, classes, low)
        again = _like(
            known,
            student=first_rows(student.tensor, dim),
            teacher=first_rows(teacher.tensor, dim) if teacher is not None else None,
            labels=labels,
            handed=None,
            loss=None,
            student_call=None,
            teacher_call=None,
            teacher_origin=(),
            ignored=_ignored(labels, known.shape, dim) if low < 0 or turned is not None else None,
            teacher_terms=[],
            turned=turned,
            narrower=None,
        )
        return terms, (again, student, teacher)


def _like(record: _Record, **changes: Any) -> _Record:
    """A copy of a record with other values, past its constructor: it is made for every watched loss."""
    made = object.__new__(type(record))
    made.__dict__.update(record.__dict__)
    made.__dict__.update(changes)
    return made


def _index(sources: Sequence[Source], source: Source) -> int | None:
    return next((i for i, each in enumerate(sources) if each is source), None)


def _are_mixed(nodes: Sequence[Node], made: Sequence[Node]) -> bool:
    """Whether one-hot labels are mixed with others, or with their own in another order: no row has a class then."""
    labels = {id(each) for node in made for each in node.inputs if not each.is_floating_point()}
    rows = {id(out) for node in made for out in node.outputs}
    grown = True
    while grown:  # what is computed of them in place: their type, a factor
        follow = [n for n in nodes if n.name in _KEEPS_ROWS and any(id(each) in rows for each in n.inputs)]
        new = {id(out) for node in follow for out in node.outputs} - rows
        rows |= new
        grown = bool(new)
    moved = [n for n in nodes if n.name in _MOVES_ROWS and n.inputs and id(n.inputs[0]) in rows]
    picked = [n for n in moved if n.name != "__getitem__" or isinstance(n.args[1], Tensor)]
    return len(labels) > 1 or bool(picked)


_KEEPS_ROWS = frozenset(("float", "to", "type", "mul", "__rmul__", "mul_", "clone", "detach"))


def _reads_table(node: Node, classes: int) -> bool:
    """Whether rows of a table of class probabilities, as of smoothed labels, are picked by a tensor of numbers."""
    if node.name != "__getitem__" or not isinstance(node.args[1], Tensor) or node.args[1].dtype is torch.bool:
        return False
    table = node.args[0]
    return table.is_floating_point() and tuple(table.shape) == (classes, classes) and not node.gradient


def _named_classes(
    tape: Tape, handed: Tensor, classes: int, low: int | None = None
) -> tuple[Tensor, TurnedLabels | None]:
    """The labels of all rows, -100 where a row has none, and which rows were given one that they do not have.

    ``low`` is the lowest of them, where it is known.
    """
    labels, turned = handed.detach().clone().reshape(-1), turned_labels(tape, handed, classes)
    if turned is None and low is not None and low >= 0:
        return labels, None
    below = (labels < 0) & (labels >= -classes)
    if turned is None and bool(below.any()):
        uses = [node for node in tape.nodes if any(each is handed for each in node.inputs)]
        # Rows that are known by one number may be left out by it; other numbers below 0 would not be.
        named = any(node.name in ("eq", "__eq__", "ne", "__ne__") for node in uses)
        if not named and any(_reads_table(node, classes) for node in uses):
            picked = frozenset((labels[below] % classes).tolist())
            turned = TurnedLabels(below, picked, tuple(labels[~below].tolist()), by_index=True)
    return (labels.masked_fill(turned.rows, -100) if turned is not None and classes > 2 else labels), turned


def _of_classes(nodes: Sequence[Node], own: int, classes: int) -> bool:
    """Whether a softmax over as many numbers takes a student's output, or none does."""
    widths = {
        node.inputs[0].shape[-1 if node.name != "cross_entropy" else 1]
        for node in nodes
        if node.name in _SOFTMAX and node.inputs and node.inputs[0].dim() > 1 and node.sources & own
    }
    return not widths or any(width <= classes for width in widths)


def _changed_store(nodes: Sequence[Node], teacher: Source) -> str | None:
    """Where a part of stored answers is multiplied or divided in place, and so in the store, too."""
    store = teacher.tensor.untyped_storage().data_ptr()
    for node in nodes:
        if node.name in ("div_", "mul_", "__itruediv__", "__imul__", "__idiv__"):
            given = node.inputs[0]
            larger = given.untyped_storage().nbytes() > given.numel() * given.element_size()
            if larger and given.untyped_storage().data_ptr() == store:
                return node.where
    return None


def labelled(tape: Tape, raw: Raw, learners: int) -> tuple[Call, Tensor] | None:
    """A call of a network that learns whose logits a labels' term reads as they are, and the labels."""
    for node in (tape.nodes[i] for i in raw.nodes):
        if node.call is None and node.name in OF_CLASSES and node.gradient & learners and node.inputs[0].dim() == 2:
            index, target = tape.origin(node.inputs[0]), node.argument(1, "target")
            call = tape.nodes[index].call if index is not None else None
            whole = isinstance(target, Tensor) and not target.is_floating_point() and target.dim() == 1
            if call is not None and whole and not tape.networks(tape.bits(target)[0]):
                return call, target.detach().clone()
    return None


def adds_constant(tape: Tape, loss: Tensor) -> bool:
    """Whether a number that is computed outside torch, or from no network, is one of a loss's summands."""
    for node in _additions(tape, loss):
        for each in node.args[:2]:
            plain = _number(each)
            made = isinstance(each, Tensor) and tape.networks(tape.bits(each)[0])
            if plain is not None and abs(plain) > 1e-3 and not made:
                return True
    return False


def _additions(tape: Tape, loss: Tensor) -> Iterator[Node]:
    """What a loss is added up by, one number each."""
    for node in (tape.nodes[i] for i in tape.ancestors(loss)):
        if node.name in ("add", "__radd__") and node.outputs[0].dim() == 0:
            yield node


def numbers_added(tape: Tape, loss: Tensor, parts: Iterable[Summand]) -> float:
    """The sum of what a loss adds that no network made: plain numbers, and of its summands those made of such."""
    given = (each for node in _additions(tape, loss) for each in node.args[:2])
    total = float(sum(each for each in given if isinstance(each, int | float)))
    for one in parts:
        tensor = one.tensor
        if tensor.numel() == 1 and not tensor.requires_grad and not tape.networks(tape.bits(tensor)[0]):
            total += one.weight * float(tensor)
    return total


def numbers_read(tape: Tape, learners: int) -> tuple[tuple[float, str | None], ...]:
    """Values with a gradient to the student that the script looked at, as by ``.item()``, with their lines."""
    found = []
    for index in sorted(tape.read):
        node = tape.nodes[index] if index < len(tape.nodes) else None
        if node is not None and node.call is None and node.gradient & learners and node.outputs[0].numel() == 1:
            found.append((float(node.outputs[0].detach()), node.where))
    return tuple(found)


def _derived(tape: Tape, nodes: Sequence[Node], student: Source, learners: int, teachers: int) -> Source | None:
    """What was made of a teacher's outputs, of other shapes, and first has the form of the student's logits."""
    for node in nodes:
        if node.sources & teachers and not node.sources & learners and not node.gradient:
            for each in node.outputs:
                if each.shape == student.tensor.shape and each.is_floating_point():
                    found = Source("constant", each, earlier=tape.networks(node.sources))
                    return found if _common_node(tape, nodes, student, found) is not None else None
    return None


def _comparing(tape: Tape, parts: Sequence[Summand], both: Sequence[Tensor]) -> list[ComparingTerm]:
    """The summands that are computed from both logits."""
    found = []
    own = [tape.bits(each)[0] for each in both]
    for one in parts:
        sources = tape.bits(one.tensor)[0]
        made = replay(tape, one.tensor, both) if all(sources & each for each in own) else None
        if made is not None:
            squared = any(squares_at(each.file, each.line) for each in one.places)
            found.append(ComparingTerm(made, one.weight, one.factors, squared))
    return found


def _ignored(labels: Tensor | None, shape: Sequence[int], class_dim: int) -> Tensor | None:
    """Which rows have no label, in the shape of the logits without their classes."""
    if labels is None or not bool((labels < 0).any()):
        return None
    return (labels < 0).reshape([size for i, size in enumerate(shape) if i != class_dim])


def _sources(tape: Tape, mask: int) -> list[Source]:
    return bits(mask, tape.sources)


def _common_node(tape: Tape, nodes: Sequence[Node], student: Source, teacher: Source) -> Node | None:
    """The first operation that takes both logits, and not only two numbers made of them."""
    one, other = tape.bits(student.tensor)[0], tape.bits(teacher.tensor)[0]
    for node in nodes:
        if node.sources & one and node.sources & other:
            return node if any(each.numel() > 1 for each in node.inputs) else None
    return None


def _picked(nodes: Sequence[Node], source: Source, tape: Tape) -> Source:
    """The rows of a teacher's outputs that a step reads, where they were kept and picked; else the output itself."""
    tensor, picked = source.tensor, False
    for node in nodes:
        if node.name in _MOVES and any(each is tensor for each in node.inputs):
            tensor = node.outputs[0] if node.name != "__iter__" else tensor
            picked |= node.name in PICKS
    if not picked or (tensor.shape == source.tensor.shape and tensor.requires_grad):
        return source
    calls = tape.networks(tape.bits(tensor)[0])
    return Source("constant", tensor, earlier=calls)


def _simplex(rows: Tensor) -> bool:
    """Whether all rows are probabilities."""
    if rows.shape[-1] < 2 or not rows.numel() or not rows.amin().item() >= 0:
        return False
    return bool(((rows.sum(-1) - 1).abs() < 1e-3).all())


def _log_probabilities(tensor: Tensor) -> bool:
    """Whether the tensor is normalised log-probabilities along some dimension."""
    return any(bool((tensor.logsumexp(dim).abs() < 1e-2).all()) for dim in range(tensor.dim()))


def _sample(tensor: Tensor, dim: int) -> Tensor:
    dim = dim % max(tensor.dim(), 1)
    if dim == 1 and tensor.dim() == 2:
        return tensor.detach()[:64].float()
    return tensor.detach().movedim(dim, -1).reshape(-1, tensor.shape[dim])[:64].float()


def oddities(tape: Tape, raw: Raw, learners: int, teachers: int) -> list[Oddity]:
    """Values that a function is not meant for: a softmax of probabilities, ``kl_div`` of probabilities or of logits."""
    found = []

    def add(kind: str, node: Node, tensor: Tensor) -> None:
        sources, gradient = tape.bits(tensor)
        side = "student" if gradient & learners else "teacher" if sources & teachers else "none"
        if side != "none":
            where = node.where
            found.append(Oddity(kind, node.name, where, side))  # type: ignore[arg-type]

    # What the student's log-probabilities are computed from.
    predictions = [
        (node.inputs[0], node.origins[0])
        for node in (tape.nodes[i] for i in raw.nodes)
        if node.name == "log_softmax" and node.gradient & learners
    ]
    if teachers and (vain := _vain_mask(tape, raw)) is not None:
        found.append(Oddity("vain_mask", f"{vain.args[1]}", vain.where, "none"))
    for index in raw.nodes:
        node = tape.nodes[index]
        if node.call is not None or not node.inputs or not node.sources:
            continue
        given = node.inputs[0]
        if node.name in ("softmax", "log_softmax") and given.dim():
            dim = _softmax_dim(node)
            scale = _divided_by(tape, given)
            rows = _sample(given, dim) if scale == 1 else _sample(given, dim) * scale
            if rows.shape[-1] > 2 and _simplex(rows) and not _one_hot(rows):
                add("softmax_of_probabilities", node, given)
            wrong = _wrong_dim(tape, raw, node, given, dim)
            if wrong:
                add(wrong, node, given)
            if node.name == "softmax" and _sums_teachers(tape, given, node.origins[0], predictions):
                add("logits_summed", node, given)
        elif node.name == "cross_entropy" and given.dim() >= 2:
            rows = _sample(given, 1)
            if _simplex(rows) and rows.shape[-1] > 2:
                add("cross_entropy_of_probabilities", node, given)
            if _takes_softened(tape, node, raw):
                add("labels_softened", node, given)
        elif node.name in _DISTANCES and (one_of_two := _probabilities_against_logits(tape, node)) is not None:
            add("probabilities_against_logits", node, one_of_two)
        elif node.name == "nll_loss" and given.dim() >= 2:
            rows = _sample(given, 1)
            if _simplex(rows):
                add("nll_of_probabilities", node, given)
            elif bool((rows > 0).any()) and bool((rows.logsumexp(-1).abs() > 1e-2).any()):
                add("nll_of_logits", node, given)
        elif node.name == "mse_loss" and _sums_teachers(
            tape, node.inputs[1], node.origins[1], [(given, node.origins[0])]
        ):
            add("logits_summed", node, node.inputs[1])
        elif node.name == "logsumexp" and _simplex(_sample(given, -1)) and given.shape[-1] > 2:
            add("softmax_of_probabilities", node, given)
        elif node.name in _COMPARES and _compares_class_number(tape, node):
            add("class_for_confidence", node, given)
        elif node.name == "binary_cross_entropy_with_logits" and _binary_one_sided(tape, node):
            add("binary_one_sided", node, given)
        if node.name in _MIXES:
            mixed = _mixes_rows(tape, raw, node)
            if mixed:
                add(mixed, node, next(each for each in node.inputs if tape.bits(each)[1] & learners or each is given))
        if node.name == "kl_div":
            if _after(tape, given, "log_softmax") and _after(tape, node.argument(1, "target"), "softmax"):
                add("temperature_after_softmax", node, given)
            target = node.argument(1, "target")
            first, second = given.detach()[:64].float(), target.detach()[:64].float()
            if first.dim() and _simplex(first.reshape(-1, first.shape[-1])) and first.shape[-1] > 1:
                add("kl_div_input_probabilities", node, given)
            elif first.dim() and bool((first > 1e-4).any()) and not _log_probabilities(first):
                add("kl_div_input_logits", node, given)
            in_logs = bool(node.argument(5, "log_target", False))
            if _masked_on_one_side(first, second.exp() if in_logs else second):
                add("masked_on_one_side", node, given)
            if second.dim() and not in_logs and bool((second < 0).any()):
                add("kl_div_target_logs" if _log_probabilities(second) else "kl_div_target_logits", node, target)
            elif second.dim() and in_logs and _simplex(second.reshape(-1, second.shape[-1])):
                add("kl_div_log_target_probabilities", node, target)
    return found


def _vain_mask(tape: Tape, raw: Raw) -> Node | None:
    """A mask of the loss that compares labels with a number that none has, where the labels' term leaves out another
    number that some have."""
    nodes = [tape.nodes[i] for i in raw.nodes]
    left_out = []
    for node in nodes:
        target, number = node.argument(1, "target"), node.argument(4, "ignore_index", -100)
        named = node.name in OF_CLASSES and isinstance(target, Tensor) and not target.is_floating_point()
        if named and bool((target == number).any()):
            left_out.append(target.detach())
    for node in nodes:
        if node.name not in _EQUALS or len(node.inputs) != 1 or len(node.args) < 2:
            continue
        labels, number = node.inputs[0].detach(), _number(node.args[1])
        if number is None or labels.is_floating_point() or bool((labels == number).any()):
            continue
        if any(
            each.numel() == labels.numel() and torch.equal(each.reshape(-1), labels.reshape(-1)) for each in left_out
        ):
            return node
    return None


# No student that learns gives a class so small a log-probability: its logit was masked.
_MASKED = -200.0


def _masked_on_one_side(log_student: Tensor, target: Tensor) -> bool:
    """Whether classes that are masked for the student have a share of the target's mass."""
    if log_student.shape != target.shape:
        return False
    masked = (log_student < _MASKED) & log_student.isfinite()
    return bool(masked.any()) and float(target[masked].sum()) > 0.01 * float(target.sum()) > 0


def _combination(
    tape: Tape, tensor: Tensor, origin: tuple[int, int] | None, scale: float = 1.0
) -> list[tuple[Call, float]] | None:
    """The calls of networks whose outputs a tensor is a weighted sum of, with the weights; None where it is none."""
    node = tape.nodes[origin[0]] if origin is not None else None
    if node is None:
        return None
    if node.call is not None:
        return [(node.call, scale)]
    scales: list[float] = []
    if node.name in ("add", "add_", "__radd__") and not node.kwargs.get("alpha"):
        scales = [scale] * len(node.inputs)
    elif node.name in ("mul", "mul_", "__rmul__", "div", "div_", "true_divide") and len(node.inputs) == 1:
        number = next((_number(each) for each in node.args[:2] if not isinstance(each, Tensor)), None)
        scales = [scale / number if "div" in node.name else scale * number] if number else []
    elif node.name in ("sum", "mean") and len(node.inputs) == 1 and node.outputs[0].dim() == node.inputs[0].dim() - 1:
        inner = tape.nodes[node.origins[0][0]] if node.origins[0] is not None else None
        if inner is None or inner.name != "stack" or node.argument(1, "dim") != inner.argument(1, "dim", 0):
            return None
        share = scale / len(inner.inputs) if node.name == "mean" else scale
        node, scales = inner, [share] * len(inner.inputs)
    elif node.name in _PASSES | {"detach"} and len(node.inputs) == 1:
        scales = [scale]
    if not scales:
        return None
    parts = [
        _combination(tape, each, begin, own) for each, begin, own in zip(node.inputs, node.origins, scales, strict=True)
    ]
    if any(each is None for each in parts):
        return None
    return [each for part in parts if part is not None for each in part]


def _sums_teachers(
    tape: Tape,
    tensor: Tensor,
    origin: tuple[int, int] | None,
    predictions: Iterable[tuple[Tensor, tuple[int, int] | None]],
) -> bool:
    """Whether a target is the sum of the logits of networks that each read the batch, on the scale of a prediction."""
    parts = _combination(tape, tensor, origin) or []
    if len({id(call.module) for call, _ in parts}) < 2 or any(tape.networks(call.sources) for call, _ in parts):
        return False
    scales = [scale for _, scale in parts]
    if max(scales) - min(scales) > 1e-6:
        return False
    own = [_combination(tape, *each) for each in predictions]
    single = [each[0][1] for each in own if each is not None and len(each) == 1]
    return any(abs(scales[0] / each - 1) < 1e-3 for each in single) and not any(
        abs(sum(scales) / each - 1) < 1e-3 for each in single
    )


def _softmax_dim(node: Node) -> int:
    """The dimension of a softmax, with torch's own where none is given."""
    dim = node.argument(1, "dim")
    if isinstance(dim, int):
        return dim
    return 0 if node.inputs[0].dim() in (0, 1, 3) else 1


def _probabilities_against_logits(tape: Tape, node: Node) -> Tensor | None:
    """The side of a distance that is probabilities, where the other network's is logits."""
    if node.name == "kl_div" or len(node.inputs) != 2 or node.inputs[0].shape != node.inputs[1].shape:
        return None
    if node.inputs[0].dim() != 2 or node.inputs[0].shape[1] < 3 or not all(map(_origin_networks(tape), node.inputs)):
        return None
    rows = [each.detach()[:64].float() for each in node.inputs]
    plain = [_simplex(each) for each in rows]
    if plain[0] == plain[1]:
        return None
    other = rows[plain.index(False)]
    return node.inputs[plain.index(True)] if bool((other < -0.1).any()) and bool((other > 1.1).any()) else None


def _origin_networks(tape: Tape) -> Callable[[Tensor], tuple[Call, ...]]:
    return lambda tensor: tape.networks(tape.bits(tensor)[0])


_COMPARES = frozenset(each.format(name) for name in ("gt", "ge", "lt", "le") for each in ("{}", "__{}__"))
_EQUALS = frozenset(("eq", "ne", "__eq__", "__ne__", "not_equal"))
_COMPARES |= {"greater", "greater_equal", "less", "less_equal"}
_EXTREMES = frozenset(("max", "min", "topk", "sort"))
_UNCHANGED = _PASSES | {"__getitem__", "detach"}


def _compares_class_number(tape: Tape, node: Node) -> bool:
    """Whether the place of a largest output, a whole number, is compared with a share such as .8."""
    number = next((_number(each) for each in node.args[:2] if not isinstance(each, Tensor)), None)
    if number is None or not 0 < number < 1 or len(node.inputs) != 1 or node.inputs[0].is_floating_point():
        return False
    origin = node.origins[0]
    while origin is not None and tape.nodes[origin[0]].name in _UNCHANGED:
        origin = tape.nodes[origin[0]].origins[0]
    if origin is None:
        return False
    maker = tape.nodes[origin[0]]
    picks = maker.name == "argmax" or (maker.name in _EXTREMES and origin[1] == 1)
    # Of two classes, the number itself is a yes or no.
    return picks and maker.inputs[0].is_floating_point() and maker.inputs[0].shape[-1] > 2


_DIFFERENCES = frozenset(("sub", "__rsub__", "subtract"))
_REDUCING = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"))
_MIXES = frozenset(("mul", "__rmul__")) | _DIFFERENCES | _REDUCING
# What a sum of squares or of products passes through on its way to one number; a softmax over pairs does not.
_PLAIN_SUMS = frozenset(
    ("pow", "__pow__", "square", "abs", "neg", "mul", "__rmul__", "div", "true_divide", "add", "__radd__", "clamp")
) | {"sum", "mean", "sqrt", "sub", "rsub", "__rsub__", "clamp_min", "to", "float", "mul_", "div_", "add_"}


def _mixes_rows(tape: Tape, raw: Raw, node: Node) -> str:
    """How rows of two tensors meet that are not the same image's; empty where they are.

    ``rows_mixed``: [B] and [B, 1], or [B, K] and [B, 1, K], are broadcast to [B, B, …] and summed up; ``one_row``: one
    row that was picked from a network's answers meets all of another's. The differences of one network's rows from
    each other are meant, and so are pairs that a softmax or a matrix takes.
    """
    given = [each for each in node.inputs if each.is_floating_point() and each.dim()]
    if len(given) != 2 or given[0].dim() == given[1].dim():
        return ""
    row, column = sorted(given, key=lambda each: each.dim())
    if node.name in _DIFFERENCES and tape.bits(row)[0] == tape.bits(column)[0]:
        return ""
    if row.dim() == 1 and column.dim() == 2 and len(row) > 1 and column.shape == (len(row), 1):
        return "rows_mixed"
    try:
        shape = torch.broadcast_shapes(row.shape, column.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return ""
    if len(row) == len(column) > 1 and math.prod(shape) > max(row.numel(), column.numel()):
        meant = node.name not in _REDUCING and not _is_summed_plainly(tape, raw, node)
        return "" if meant or not all(map(_origin_networks(tape), given)) else "rows_mixed"
    if row.dim() == 1 and column.dim() == 2 and len(column) > 1 and len(row) > 1 and _is_one_answer(tape, row):
        return "one_row"
    return ""


def _is_summed_plainly(tape: Tape, raw: Raw, node: Node) -> bool:
    """Whether all that a loss makes of an operation's result is squared, weighted and summed up."""
    reached = {id(each) for each in node.outputs}
    for later in (tape.nodes[i] for i in raw.nodes):
        if any(id(each) in reached for each in later.inputs) and later.outputs:
            if later.name not in _PLAIN_SUMS:
                return False
            if later.outputs[0].dim():
                reached |= {id(each) for each in later.outputs}
    return True


def _is_one_answer(tape: Tape, row: Tensor) -> bool:
    """Whether a tensor was computed from one row, picked by its number, of a network's answers to a batch."""
    for node in (tape.nodes[i] for i in tape.ancestors(row)):
        if node.call is None and node.name in ("__getitem__", "select") and node.inputs[0].dim() == 2:
            index = tape.origin(node.inputs[0])
            call = tape.nodes[index].call if index is not None else None
            picked = node.args[1] if node.name == "__getitem__" else node.args[2] if node.args[1] == 0 else None
            batch = call.inputs[0].shape[:1] if call is not None and call.inputs and call.inputs[0].dim() else None
            if isinstance(picked, int) and batch == node.inputs[0].shape[:1] and not node.gradient:
                return True
    return False


def _after(tape: Tape, tensor: Tensor, name: str) -> bool:
    """Whether a tensor is what a softmax gave, divided by a number."""
    number, index = _divided_by(tape, tensor), tape.origin(tensor)
    if index is None or abs(number - 1) < 1e-6:
        return False
    before = tape.origin(tape.nodes[index].inputs[0])
    return before is not None and tape.nodes[before].name == name


_SIGMOIDS = frozenset(("sigmoid", "sigmoid_"))


def _binary_one_sided(tape: Tape, node: Node) -> bool:
    """Whether the logits of a binary cross-entropy and those of the sigmoids that it compares them with are divided
    by different numbers."""
    target = node.argument(1, "target")
    index = tape.origin(target) if isinstance(target, Tensor) else None
    while index is not None and tape.nodes[index].name in _PASSES | {"detach"} and tape.nodes[index].inputs:
        index = tape.origin(tape.nodes[index].inputs[0])
    given = tape.origin(node.inputs[0])
    if given is not None and tape.nodes[given].name in _SIGMOIDS:
        return False  # probabilities in place of logits, which is another mistake
    if index is None or tape.nodes[index].name not in _SIGMOIDS:
        return False
    student, teacher = (_divided_by(tape, each) for each in (node.inputs[0], tape.nodes[index].inputs[0]))
    return abs(student / teacher - 1) > 0.01


def _takes_softened(tape: Tape, node: Node, raw: Raw) -> bool:
    """Whether a labels' term takes logits that were divided for a softened term, which reads the same tensor."""
    target, given = node.argument(1, "target"), node.inputs[0]
    if _divided_by(tape, given) < 1.5 or not isinstance(target, Tensor) or target.is_floating_point():
        return False
    softened = (tape.nodes[i] for i in raw.nodes if tape.nodes[i].name == "log_softmax")
    return any(each.inputs[0] is given for each in softened)


def _one_hot(rows: Tensor) -> bool:
    return bool(((rows == 0) | (rows == 1)).all())


def _divided_by(tape: Tape, tensor: Tensor) -> float:
    """The number that a tensor was divided by just before."""
    index = tape.origin(tensor)
    if index is None:
        return 1.0
    node = tape.nodes[index]
    if node.name in ("div", "true_divide", "mul", "__rmul__", "mul_", "div_") and len(node.args) > 1:
        number = _number(node.args[1] if isinstance(node.args[0], Tensor) else node.args[0])
        if number:
            return number if "div" in node.name else 1 / number
    return 1.0


def _wrong_dim(tape: Tape, raw: Raw, node: Node, given: Tensor, dim: int) -> str:
    """How a softmax of a network's logits goes over something else than its classes; empty where it does not.

    ``softmax_over_the_batch``: over the first dimension. ``softmax_over_positions``: over another one, where the
    labels' term of the same logits says how many classes there are. ``classes_scrambled``: over rows that a view made
    of [B, K, H, W] without moving the classes to the end.
    """
    sources = [each for each in bits(node.sources, tape.sources) if each.kind in ("network", "constant")]
    dim %= given.dim()
    if any(each.tensor.shape == given.shape for each in sources):
        if dim == 0 and given.dim() > 1 and len(given) > 1:
            return "softmax_over_the_batch"
        named = {
            tuple(each.inputs[0].shape)
            for each in (tape.nodes[i] for i in raw.nodes)
            if each.name in OF_CLASSES and each.inputs[0].dim() > 1 and each.inputs[0].numel() <= given.numel()
        }
        classes = {shape[1] for shape in named}
        places = [i for i, size in enumerate(given.shape) if size in classes]
        return "softmax_over_positions" if given.dim() == 3 and len(places) == 1 and dim != places[0] else ""
    index = tape.origin(given)
    while index is not None and tape.nodes[index].name in ("div", "true_divide", "mul", "float", "to", "contiguous"):
        before = tape.nodes[index].origins[0]
        index = before[0] if before is not None else None
    made = tape.nodes[index] if index is not None else None
    if made is None or made.name not in ("view", "reshape") or dim != given.dim() - 1 or made.inputs[0].dim() != 4:
        return ""
    giver = tape.origin(made.inputs[0])
    direct = giver is not None and tape.nodes[giver].call is not None
    classes_first = made.inputs[0].shape[1] == given.shape[-1] != made.inputs[0].shape[-1]
    return "classes_scrambled" if direct and classes_first else ""


# Functions with an infinite derivative at 0.
_ROOTS = frozenset(("sqrt", "sqrt_", "rsqrt", "log"))
_POWERS = frozenset(("pow", "__pow__"))


def not_finite(tape: Tape, raw: Raw) -> tuple[str, str | None] | None:
    """The first operation of a loss, which is not finite or has such a gradient, that gave NaN or infinity.

    Where all values are finite, the first whose derivative is not: a root of 0.
    """
    for index in raw.nodes:
        node = tape.nodes[index]
        if node.call is not None:
            continue
        if any(each.is_floating_point() and bool(torch.isnan(each.detach()).any()) for each in node.outputs):
            empty = any(not each.numel() for each in node.inputs)
            return f"{node.name} of no rows" if empty else node.name, node.where
    if raw.loss.numel() == 1 and not bool(torch.isfinite(raw.loss.detach())):
        return "the loss", raw.place
    for node in (tape.nodes[i] for i in raw.nodes):
        if node.call is None and node.outputs[0].requires_grad and _is_root_of_zero(node):
            return f"the gradient of {node.name} at 0", node.where
    return None


def _is_root_of_zero(node: Node) -> bool:
    """Whether an operation's derivative is infinite where it was taken; that of a norm at 0 is 0 in torch."""
    if node.name in _POWERS:
        power = _number(node.args[1]) if len(node.args) > 1 else None
        if power is None or power >= 1:
            return False
    elif node.name not in _ROOTS:
        return False
    return bool((node.inputs[0].detach() == 0).any())


def half_operations(tape: Tape, raw: Raw) -> list[tuple[str, str | None]]:
    """Logarithms, exponentials and divergences that a loss computed in float16 or bfloat16."""
    wanted = ("log", "exp", "softmax", "log_softmax", "kl_div", "cross_entropy", "div", "pow", "mse_loss")
    return [
        (node.name, node.where)
        for node in (tape.nodes[i] for i in raw.nodes)
        if node.call is None and node.name in wanted and node.outputs[0].dtype in _HALF
    ]


def vanished(tape: Tape, raw: Raw) -> list[tuple[float, str, str | None]]:
    """Numbers that a loss adds, or clamps to, and that are 0 in the type they are added in."""
    found = []
    for node in (tape.nodes[i] for i in raw.nodes):
        if node.call is not None or node.outputs[0].dtype not in _HALF:
            continue
        if node.name in ("add", "add_", "__radd__", "clamp", "clamp_min", "clamp_", "clip", "maximum"):
            numbers = [each for each in (*node.args, *node.kwargs.values()) if isinstance(each, float) and each]
            for number in numbers:
                if float(torch.tensor(number, dtype=node.outputs[0].dtype)) == 0.0:
                    dtype = str(node.outputs[0].dtype).removeprefix("torch.")
                    found.append((number, dtype, node.where))
    return found


_OF_LABELS = frozenset(("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"))
_SUMS = frozenset(("add", "add_", "__radd__", "mul", "mul_", "__rmul__", "div", "true_divide", "stack", "sub", "rsub"))


def _meant_for_a_sum(tape: Tape, node: Node, learners: int, uses: set[int]) -> bool:
    """Whether an operation weights a loss, or adds it to another; a sum over steps, or over rows, only counts it."""
    if node.name not in _SUMS or node.outputs[0].dim() or not node.gradient & learners:
        return False
    others = [
        (tensor, origin)
        for tensor, origin in zip(node.inputs, node.origins, strict=True)
        if origin is None or origin[0] not in uses
    ]
    if others:
        return any(origin is not None and tape.bits(tensor)[1] & learners for tensor, origin in others)
    return any(isinstance(each, float) and each % 1 for each in (*node.args, *node.kwargs.values()))


def lost_terms(tape: Tape, reached: set[int], learners: int, teachers: int) -> list[LostTerm]:
    """Losses with a gradient to the student that no ``backward`` was computed from: of the teacher, or of labels."""
    found = []
    for index, node in enumerate(tape.nodes):
        if index in reached or node.call is not None or not node.gradient & learners or node.name not in _ENDS:
            continue
        if node.name in ("softmax", "log_softmax") or not (node.sources & teachers or node.name in _OF_LABELS):
            continue
        uses, weighted = {index}, False
        for later in range(index + 1, len(tape.nodes)):
            if any(origin is not None and origin[0] in uses for origin in tape.nodes[later].origins):
                weighted |= _meant_for_a_sum(tape, tape.nodes[later], learners, uses)
                uses.add(later)
        if not uses & reached:
            where = node.where
            found.append(LostTerm(node.name, where, bool(node.sources & teachers), weighted, bool(uses & tape.read)))
    return found


def row_prints(tensor: Tensor) -> list[tuple[float, float]]:
    """The sum and the length of each row, which padding with zeros leaves alone: what an image is recognised by."""
    rows = tensor.detach().reshape(tensor.shape[0], -1)
    # In parts: a copy of all rows in float64 takes longer to be given its memory than to be summed up.
    some = max(1, PART // max(1, rows.shape[1]))
    found: list[tuple[float, float]] = []
    for begin in range(0, len(rows), some):
        part = rows[begin : begin + some].double()
        sums, lengths = part.sum(1).tolist(), torch.linalg.vector_norm(part, dim=1).tolist()
        found += [(float(f"{a:.6g}"), float(f"{b:.6g}")) for a, b in zip(sums, lengths, strict=True)]
    return found


def sample_rows(tensors: Iterable[Tensor], copies: dict[int, Tensor]) -> Tensor | None:
    """The first rows of the first tensor that has rows, copied once for all networks that it is given to."""
    for tensor in tensors_in(*tensors):
        if tensor.dim() >= 2 or (tensor.dim() == 1 and not tensor.is_floating_point()):
            if id(tensor) not in copies:
                per_row = max(1, tensor[:1].numel())
                copies[id(tensor)] = tensor[: max(1, min(ROWS, ELEMENTS // per_row))].detach().clone()
            return copies[id(tensor)]
    return None
