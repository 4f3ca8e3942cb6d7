"""Terms of a loss that compare features of padded sequences, and masks of padding that a step computes for nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from stillroom.diagnose.audit.facts import Raw, bits, summands, upstream
from stillroom.diagnose.audit.tape import OF_CLASSES, Node, Source, Tape, replay
from stillroom.diagnose.checks.loop.record import PaddedFeatures

IGNORED = -100
# What takes another tensor for its form or its type alone.
_FORMS = frozenset(("expand_as", "view_as", "reshape_as", "type_as", "to"))


def padded_features(
    tape: Tape, raw: Raw, learners: int, teachers: int, reached: set[int], end: int | None
) -> list[PaddedFeatures]:
    """The terms of a loss that compare features [B, L, …], where the labels' term leaves padded positions out.

    Args:
        tape: the window.
        raw: the loss.
        learners: sources that learn.
        teachers: sources that teach.
        reached: the nodes that losses of the step were computed by.
        end: how many nodes there were when the optimizer stepped: later ones may belong to the next step.
    """
    nodes = [tape.nodes[i] for i in raw.nodes if tape.nodes[i].call is None]
    labelled = [node for node in nodes if node.name in OF_CLASSES and node.gradient & learners]
    targets = [each for each in map(_unlabelled, labelled) if each is not None]
    if not targets:
        return []
    logits = 0
    for node in labelled:
        logits |= tape.bits(node.inputs[0])[0]
    found = []
    for one in summands(tape, raw.loss):
        sources, gradient = tape.bits(one.tensor)
        if not sources & teachers or not gradient & learners or not one.weight:
            continue
        for student in bits(gradient & learners & ~logits, tape.sources):
            tensor = student.tensor
            if tensor.dim() < 3 or student.call is None:
                continue
            ignored = next(
                (e.reshape(tensor.shape[:2]) for e in targets if e.numel() == tensor.shape[:2].numel()), None
            )
            theirs = [each.tensor.shape[:2] for each in bits(sources & teachers, tape.sources)]
            if ignored is None or tensor.shape[:2] not in theirs or not _is_padding(tape, student, ignored):
                continue
            share = _share(tape, one.tensor, tensor, ignored)
            if share is not None:
                at = next((n for n in nodes if n.sources & teachers and tape.bits(tensor)[0] & n.sources), None)
                place = at.where if at is not None else None
                found.append(PaddedFeatures(share, place, _unused_mask(tape, ignored, reached, end)))
    return found


def _unlabelled(node: Node) -> Tensor | None:
    """Which rows a labels' term leaves out by their number; None where it leaves out none, or all."""
    target, number = node.argument(1, "target"), node.argument(4, "ignore_index", IGNORED)
    if not isinstance(target, Tensor) or target.is_floating_point() or not isinstance(number, int):
        return None
    ignored = target.detach() == number
    return ignored if bool(ignored.any()) and not bool(ignored.all()) else None


def _is_padding(tape: Tape, student: Source, ignored: Tensor) -> bool:
    """Whether rows without a label are the ends of sequences, and what the student was given there is constant.

    The first of the networks that a feature comes from is asked: a projector is given features.
    """
    steps = ignored.long().diff(dim=1)
    if not (bool((steps >= 0).all()) or bool((steps <= 0).all())):
        return False
    own = tape.bits(student.tensor)[0]
    for source in upstream(tape, own):
        call = source.call
        if call is None or tape.networks(call.sources):
            continue
        # A mask among them is constant where a prompt has no labels, too: all are asked.
        rows = [each.detach()[ignored] for each in call.inputs if each.shape[:2] == ignored.shape]
        if rows:
            return all(bool((at == at[:1]).all()) for at in rows)
    return False


def _share(tape: Tape, term: Tensor, features: Tensor, ignored: Tensor) -> float | None:
    """The share of a term's gradient to features that falls on ignored positions; None where it cannot be followed."""
    function = replay(tape, term, [features])
    if function is None:
        return None
    # A loss may draw numbers: the script's generator stays as it is.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if features.is_cuda else []):
        try:
            with torch.enable_grad():
                given = features.detach().clone().requires_grad_()
                (gradient,) = torch.autograd.grad(function(given).sum(), given, allow_unused=True)
        except RuntimeError:
            return None
    if gradient is None:
        return None
    size = gradient.flatten(2).float().norm(dim=-1)
    return float(size[ignored].sum() / size.sum().clamp_min(1e-30))


def _unused_mask(tape: Tape, ignored: Tensor, reached: set[int], end: int | None) -> str | None:
    """The line where a mask of the padding was computed that nothing reads: no loss, no network, no count.

    What is computed of it element by element is a mask, too. One that is put together of a mask that is used is none.
    """
    masks: set[int] = set()
    for index, node in enumerate(tape.nodes[:end]):
        if node.call is not None or not _is_mask(tape, node, ignored):
            continue
        masks.add(index)
        if any(origin is not None and origin[0] in masks for origin in node.origins):
            continue
        if not _is_used(tape, index, ignored.numel(), reached):
            return node.where
    return None


def _is_mask(tape: Tape, node: Node, ignored: Tensor) -> bool:
    out = node.outputs[0].detach()
    if out.numel() != ignored.numel() or out.requires_grad or tape.networks(tape.bits(node.outputs[0])[0]):
        return False
    kept = out.reshape(-1) != 0
    plain = out.dtype is torch.bool or bool(((out == 0) | (out == 1)).all())
    flat = ignored.reshape(-1).to(kept.device)
    return plain and (torch.equal(kept, flat) or torch.equal(kept, ~flat))


def _is_used(tape: Tape, index: int, numbers: int, reached: set[int]) -> bool:
    """Whether a loss, a network, or anything that picks, counts or leaves torch takes what a node gave."""
    if index in reached or tape.bits(tape.nodes[index].outputs[0])[0] & tape.escaped:
        return True
    made = {index}
    for later in range(index + 1, len(tape.nodes)):
        node = tape.nodes[later]
        others = [t for t, o in zip(node.inputs, node.origins, strict=True) if o is None or o[0] not in made]
        if len(others) < len(node.inputs):
            picks = node.outputs[0].numel() < numbers
            meets = node.name not in _FORMS and any(tape.networks(tape.bits(each)[0]) for each in others)
            if later in reached or node.call is not None or picks or meets:
                return True
            made.add(later)
    return False
