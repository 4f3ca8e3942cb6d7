"""Checks of compared features: whether they are wide enough, and at matching depths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.losses.base import Loss
from stillroom.models.config import ZOO
from stillroom.models.modes import eval_mode
from stillroom.models.reader import FEATURES, LOGITS, PRE
from stillroom.models.taps import Tap
from stillroom.schema.diagnosis import Remedy, Verdict
from stillroom.tasks import TASKS

APART = Limits(warning=0.25, problem=0.5, why="share of a model's multiply-adds between two compared layers")


@torch.no_grad()
def last_width(model: nn.Module, example: Tensor) -> int | None:
    """Input width of the linear layer that makes the logits; None where no such layer is called.

    >>> last_width(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)), torch.zeros(2, 4))
    7
    """
    called: list[nn.Linear] = []
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [each.register_forward_hook(lambda module, inputs, output: called.append(module)) for each in linear]
    try:
        with eval_mode(model):
            columns = model(example).shape[-1]
    finally:
        for handle in handles:
            handle.remove()
    return next((each.in_features for each in reversed(called) if each.out_features == columns), None)


@check(
    threshold=(
        "Warning: the student's features before the last layer have fewer dimensions than are taught, K − 1 or the "
        "teacher's if that is less; problem: fewer than half of that. Through a linear last layer, the logits differ "
        "in no more dimensions than the features have. A ResNet-8 of cifar100-part under a teacher of 64 had 13% with "
        "8, 24% with 24, 28% with 64 and 30% with 160 (kl); plain features lost more."
    ),
    source="Hsu et al., arXiv 2203.10163: enough feature dimensions are crucial.",
)
def penultimate_width(context: CheckContext) -> CheckResult:
    """Whether the student's penultimate features are wide enough for what the logits say."""
    term, teacher, student = _narrowest(context)
    needed = context.num_classes - 1
    wanted = min(needed, teacher)
    evidence = {"student": student, "teacher": teacher, "needed": needed, "term": term}
    verdict: Verdict = "ok"
    if student < wanted:
        verdict = "problem" if student < wanted / 2 else "warning"
    summary = (
        f"The student's features have {student:,} dimensions and the teacher's {teacher:,}; the logits differ in "
        f"{needed:,}."
    )
    words = f"Give the student features of {wanted:,} dimensions or more before its last layer."
    return CheckResult(verdict, summary, evidence, Remedy(words, _wider(context, wanted)))


def _narrowest(context: CheckContext) -> tuple[str, int, int]:
    """A term, and the widths of the teacher's and the student's penultimate features that it compares."""
    context.require_distillation()
    pairs = [
        (term.name, teacher.shape[-1], student.shape[-1])
        for term in context.teacher_losses
        for teacher, student in term.pairs
        if FEATURES in (teacher.name, student.name)
    ]
    if pairs:
        return min(pairs, key=lambda row: row[2])
    # Terms on logits are limited by the features' width, too.
    example, device = context.sample.images[:2], context.run_context.device
    student = last_width(context.student.model, context.student.preprocess()(example).to(device))
    if student is None:
        raise Skip("The features before the student's last layer are not known.")
    teacher = last_width(context.teacher.model, context.teacher.preprocess()(example).to(device))
    return context.teacher_losses[0].name, teacher or context.num_classes - 1, student


def _wider(context: CheckContext, width: int) -> dict[str, Any]:
    config = context.recipe.student
    if config.name in ZOO and "penultimate" in ZOO[config.name].options.model_fields:
        return {"student.options.penultimate": width}
    hidden = config.options.get("hidden")
    if config.name == "mlp" and isinstance(hidden, list | tuple) and hidden:
        return {"student.options.hidden": [*hidden[:-1], width]}
    return {}


@check(
    threshold=(
        f"Depth is the share of a model's multiply-adds done by then. Problem: a pair named by hand is "
        f"{APART.problem:.0%} of the depth or more apart, or of two resolutions, where the student has a layer that "
        f"fits better; or two pairs cross. Warning: {APART.warning:.0%} apart where a nearer layer exists. Pairs that "
        "were found automatically are not judged."
    ),
    source="A connector can only map features that exist; it cannot replace the layers that have not run yet.",
    limits=[APART],
    tasks=TASKS,
)
def taps(context: CheckContext) -> CheckResult:
    """Whether taps named by hand are at matching depths."""
    context.require_distillation()
    terms = [term for term in context.losses if term.pairs]
    if not terms:
        raise Skip("No loss term compares features.")
    worst: tuple[int, str, Loss[Any]] | None = None
    judged = []
    for term in terms:
        if isinstance(term.config.taps, str):
            continue
        for position, (teacher, student) in enumerate(term.pairs):
            rank, why = _judge_pair(context, teacher, student)
            before = term.pairs[:position]
            if any((teacher.depth - t.depth) * (student.depth - s.depth) < 0 for t, s in before):
                rank, why = 2, f"{teacher.name} and {student.name} cross another pair"
            judged.append(
                {"teacher": teacher.name, "student": student.name, "apart": abs(teacher.depth - student.depth)}
            )
            if worst is None or rank > worst[0]:
                worst = rank, why, term
    if worst is None:
        raise Skip("All taps were found automatically.")
    rank, why, term = worst
    verdict: Verdict = ("ok", "warning", "problem")[rank]
    summary = f"{term.name} compares {why}." if rank else "The named taps are at matching depths."
    return CheckResult(verdict, summary, {"pairs": judged}, _matching_taps(context, term))


def _judge_pair(context: CheckContext, teacher: Tap, student: Tap) -> tuple[int, str]:
    """How bad a pair is, 0 to 2, and why."""
    apart = abs(teacher.depth - student.depth)
    name = teacher.name.removesuffix(PRE)
    opposite = {t.name: s for t, s in context.setup_context.pairs}.get(name)
    better = opposite or min(
        (tap for tap in context.setup_context.student.taps if tap.name != LOGITS),
        key=lambda tap: abs(tap.depth - teacher.depth),
    )
    if better.name == student.name.removesuffix(PRE):
        return 0, ""
    gain = apart - abs(teacher.depth - better.depth)
    sizes = teacher.resolution, student.resolution
    summary = f"{teacher.name} with {student.name}, {apart:.0%} of the depth apart"
    if None not in sizes and sizes[0] != sizes[1]:
        summary = f"{summary} and {_resolution(teacher)} against {_resolution(student)} pixels"
        if better.resolution == teacher.resolution:
            return 2, summary
    if gain <= 0:
        return 0, ""
    return (2 if apart >= APART.problem else 1 if apart >= APART.warning else 0), summary


def _matching_taps(context: CheckContext, term: Loss[Any]) -> Remedy:
    opposite = {t.name: s.name for t, s in context.setup_context.pairs if t.name != LOGITS}
    wanted = list(dict.fromkeys(t.name.removesuffix(PRE) for t, _ in term.pairs))
    path = context.option_path(term, "taps")
    if all(name in opposite for name in wanted):
        pairs = [{"teacher": name, "student": opposite[name]} for name in wanted]
        return Remedy("Compare each of the teacher's layers with the student's at the same depth.", {path: pairs})
    return Remedy("Let the taps be found automatically.", {path: "all"})


def _resolution(tap: Tap) -> str:
    return "×".join(map(str, tap.resolution or ()))
