"""Checks of the student, its loss, its optimizer and its data in a set-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillroom.diagnose.check import CheckResult, Skip, check, percent
from stillroom.diagnose.checks.recipe.teacher_quality import CAPACITY
from stillroom.diagnose.checks.recipe.training import HIGH_RATE, LOW_RATE
from stillroom.diagnose.checks.setup.initialisation import LEAST, initial_law
from stillroom.diagnose.checks.setup.training_setup import TrainingSetup
from stillroom.diagnose.remedies import USUAL_RATE
from stillroom.models.cost import parameters
from stillroom.schema.diagnosis import Remedy, Verdict

_MOST_NAMED = 3
# Items of the dataset that are read twice.
_TWICE = 6


@check(
    threshold="Problem: the optimizer holds a parameter of the teacher, or teacher and student share memory.",
    source="A teacher that moves with its student agrees with it whatever it does.",
)
def teacher_trained(setup: TrainingSetup) -> CheckResult:
    """Whether anything of the teacher would be trained."""
    teacher, student = setup.teacher, setup.student
    if teacher is student:
        return CheckResult(
            "problem",
            "Teacher and student are the same module.",
            remedy=Remedy("Give the student a copy: copy.deepcopy(model)."),
        )
    mine = {each.data_ptr(): name for name, each in student.named_parameters() if each.numel()}
    shared = [name for name, each in teacher.named_parameters() if each.numel() and each.data_ptr() in mine]
    if shared:
        summary = f"{len(shared)} of the teacher's parameters share memory with the student's ({_names(shared)})."
        return CheckResult(
            "problem", summary, {"shared": shared}, Remedy("Give the student weights of its own: copy.deepcopy(...).")
        )
    optimized = setup.optimized
    held = [name for name, each in teacher.named_parameters() if id(each) in optimized]
    if held:
        count = sum(1 for _ in teacher.parameters())
        summary = f"The optimizer holds {len(held)} of the teacher's {count} parameters ({_names(held)})."
        return CheckResult(
            "problem", summary, {"held": held}, Remedy("Give the optimizer the student's parameters alone.")
        )
    return CheckResult("ok", "Nothing of the teacher is in the optimizer, and it shares no memory with the student.")


@check(
    threshold=(
        "Problem: a parameter that the loss has a gradient for, and that still has its initial weights, is in no "
        "group of the optimizer. Warning: one that looks trained already, as a frozen part may be meant."
    ),
    source="A projector between features that nobody trains keeps its random map.",
)
def parameters_left_out(setup: TrainingSetup) -> CheckResult:
    """Whether the optimizer holds everything that the loss trains."""
    _require_finite(setup)
    optimized, gradients, wanted = setup.optimized, setup.gradients, setup.parameters()
    reached = {name: each for name, each in wanted.items() if gradients.norms.get(name)}
    left = {name: each for name, each in reached.items() if id(each) not in optimized}
    unreached = [name for name, each in wanted.items() if id(each) in optimized and name not in gradients.norms]
    evidence = {"left_out": list(left), "without_gradient": unreached, "trained": len(reached) - len(left)}
    if not left:
        if unreached:
            summary = (
                f"The optimizer holds {len(unreached)} parameters that the loss does not reach ({_names(unreached)})."
            )
            return CheckResult(
                "warning", summary, evidence, Remedy("Use them in the loss, or leave them out of the optimizer.")
            )
        return CheckResult(
            "ok", f"The optimizer holds all {len(reached)} parameters that the loss has a gradient for.", evidence
        )
    share = sum(each.numel() for each in left.values()) / sum(each.numel() for each in reached.values())
    # A bias alone follows no law; it goes with the weights next to it.
    matrices = [each for each in left.values() if each.dim() >= 2]
    random = not matrices or any(each.numel() < LEAST or initial_law(each) is not None for each in matrices)
    summary = (
        f"{len(left)} parameters that the loss has a gradient for are not in the optimizer ({_names(list(left))}), "
        f"{percent(share)} of all that it has one for."
    )
    words = "Add them to the optimizer, or freeze them with requires_grad_(False) where that is meant."
    return CheckResult("problem" if random else "warning", summary, evidence, Remedy(words))


@check(
    threshold="Warning: the student has dropout or batch norms, and is in evaluation mode.",
    source="In evaluation mode dropout rests, and batch norms keep the statistics that they have.",
)
def student_mode(setup: TrainingSetup) -> CheckResult:
    """Whether the student is in training mode."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    resting = [name for name, each in setup.student.named_modules() if isinstance(each, kinds) and not each.training]
    if not resting:
        return CheckResult("ok", "Nothing of the student is in evaluation mode that matters.")
    summary = f"{len(resting)} dropout or batch norm layers of the student are in evaluation mode ({_names(resting)})."
    return CheckResult(
        "warning", summary, {"layers": resting}, Remedy("Call `student.train()` at the start of each epoch.")
    )


@check(
    threshold="Problem: the loss or its gradient is not finite on the first batch, before anything is trained.",
    source="What is not finite stays so.",
)
def loss_finite(setup: TrainingSetup) -> CheckResult:
    """Whether the loss can be computed."""
    found = setup.gradients
    evidence = {"loss": found.value}
    if found.finite:
        return CheckResult(
            "ok", f"The loss is {found.value:.4g} on the first batch, and its gradient is finite.", evidence
        )
    what = "loss" if not np.isfinite(found.value) else "gradient"
    words = "Compute it from log_softmax in float32, and look for a division by 0 or a logarithm of 0."
    return CheckResult("problem", f"The {what} is not finite on the first batch.", evidence, Remedy(words))


@check(
    threshold="Problem: the loss has no gradient in the student's logits, or none in its parameters.",
    source="A detached graph trains nothing, without a word.",
)
def student_no_gradient(setup: TrainingSetup) -> CheckResult:
    """Whether the loss moves the student."""
    found = setup.gradients
    _require_finite(setup)
    norm = sum(each**2 for name, each in found.norms.items() if name.startswith("student.")) ** 0.5
    evidence = {"gradient_norm": norm}
    if norm > 0:
        return CheckResult("ok", f"The student's gradient has norm {norm:.3g} on the first batch.", evidence)
    words = "Compute the loss from the student's output itself: no detach(), no no_grad(), no .data, no argmax."
    return CheckResult("problem", "The loss gives the student no gradient.", evidence, Remedy(words))


@check(
    threshold="Problem: the gradient is the same, to a millionth, with the teacher's logits of other images.",
    source="A loss that does not read the teacher distils nothing.",
)
def teacher_unused(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher's logits matter to the loss."""
    if setup.loss is None:
        raise Skip("No loss was given.")
    _require_finite(setup)
    found = setup.gradients
    assert found.without_teacher is not None
    size = float(found.logits_gradient.norm())
    moved = float((found.logits_gradient - found.without_teacher).norm()) / max(size, 1e-30)
    evidence = {"gradient_moved": moved}
    if moved > 1e-6 or size == 0:
        return CheckResult(
            "ok", f"Another image's teacher logits change the gradient by {percent(min(moved, 1))}.", evidence
        )
    summary = "The gradient does not depend on the teacher's logits."
    return CheckResult("problem", summary, evidence, Remedy("Put the teacher's logits into the loss."))


@check(
    threshold=(
        f"Peak rates, those of SGD times .1/(1 − momentum): warning from {HIGH_RATE['sgd'].warning:g} (SGD) and "
        f"{HIGH_RATE['adamw'].warning:g} (Adam), problem from {HIGH_RATE['sgd'].problem:g} and "
        f"{HIGH_RATE['adamw'].problem:g}; warning below {LOW_RATE['sgd'].warning:g} and {LOW_RATE['adamw'].warning:g}, "
        f"problem below {LOW_RATE['sgd'].problem:g} and {LOW_RATE['adamw'].problem:g}."
    ),
    limits=[*HIGH_RATE.values(), *LOW_RATE.values()],
    source="Smith & Topin, arXiv 1708.07120; Loshchilov & Hutter, arXiv 1711.05101.",
)
def learning_rate(setup: TrainingSetup) -> CheckResult:
    """Whether the optimizer's rate is of a usual size."""
    optimizer = setup.optimizer
    if optimizer is None:
        raise Skip("No optimizer was given.")
    kind = {"SGD": "sgd", "Adam": "adamw", "AdamW": "adamw", "NAdam": "adamw", "RAdam": "adamw"}.get(
        type(optimizer).__name__
    )
    if kind is None:
        raise Skip(f"What rates {type(optimizer).__name__} usually takes is not known here.")
    group = max(optimizer.param_groups, key=lambda each: float(each["lr"]))
    lr, momentum = float(group["lr"]), float(group.get("momentum", 0.0))
    rate = lr * (0.1 / (1 - momentum) if kind == "sgd" and momentum < 1 else 1.0)
    verdict: Verdict = HIGH_RATE[kind].at_least(rate)
    if verdict == "ok":
        verdict = LOW_RATE[kind].below(rate)
    usual = USUAL_RATE[kind] / (rate / lr if rate else 1.0)
    summary = f"The rate {lr:g} is of a usual size for {type(optimizer).__name__}."
    if verdict != "ok":
        times = lr / usual
        factor = f"{times:.3g} times" if times >= 1 else f"1/{1 / max(times, 1e-12):,.0f} of"
        summary = f"The rate {lr:g} is {factor} what is usual for {type(optimizer).__name__} ({usual:.2g})."
    # A warm-up begins low.
    verdict = "warning" if verdict == "problem" and rate < LOW_RATE[kind].warning else verdict
    return CheckResult(verdict, summary, {"lr": lr, "rate": rate}, Remedy(f"Start from {usual:.2g}."))


@check(
    threshold=(
        f"Warning: the teacher has {CAPACITY.warning:g} times the student's parameters or more, {CAPACITY.problem:g} "
        "times or more in the second degree."
    ),
    limits=[CAPACITY],
    source="Mirzadeh et al., arXiv 1902.03393.",
)
def capacity_gap(setup: TrainingSetup) -> CheckResult:
    """Whether the student is large enough for its teacher."""
    sizes = parameters(setup.teacher), parameters(setup.student)
    times = sizes[0] / max(sizes[1], 1)
    evidence = {"teacher_parameters": sizes[0], "student_parameters": sizes[1], "times": times}
    summary = f"The teacher has {times:.3g} times the student's {sizes[1]:,} parameters."
    verdict: Verdict = "ok" if CAPACITY.at_least(times) == "ok" else "warning"
    return CheckResult(verdict, summary, evidence, Remedy("Try a student between the two, or an assistant teacher."))


@check(
    threshold=(
        "Problem, of stored logits: an item of the dataset is another image when read again; or they are sure of their "
        "classes, and these are right no more often than by chance."
    ),
    source="A stored answer belongs to one view of an image; random transforms show another each time.",
)
def stale_answers(setup: TrainingSetup) -> CheckResult:
    """Whether stored outputs belong to the images that the student sees."""
    if setup.cause == "stale_answers":
        correct, count = setup.accuracy
        evidence: dict[str, Any] = {"confidence": setup.confidence, "accuracy": correct / count, "images": count}
        summary = (
            f"The stored logits give a class {percent(setup.confidence)} on the mean, and it is the label's in "
            f"{percent(correct / count)} of {count:,} images: they belong to other images."
        )
        words = "Store logits by the dataset's index, from a loader that does not shuffle."
        return CheckResult("problem", summary, evidence, Remedy(words))
    dataset = getattr(setup.loader, "dataset", None)
    if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        raise Skip("The loader has no dataset of items to read twice.")
    rows = np.random.default_rng(0).choice(len(dataset), min(_TWICE, len(dataset)), replace=False)
    changed = sum(not _same(dataset[int(row)], dataset[int(row)]) for row in rows)
    evidence = {"items": len(rows), "changed": changed}
    if not changed:
        return CheckResult("ok", f"{len(rows)} items of the dataset are the same when read twice.", evidence)
    summary = (
        f"{changed} of {len(rows)} items of the dataset are other images when read again: its transforms are random"
    )
    if not setup.is_stored:
        return CheckResult("ok", f"{summary}. Run the teacher on the very tensors that the student sees.", evidence)
    words = "Run the teacher on each batch, or store its outputs for views that can be repeated."
    return CheckResult("problem", f"{summary}, and the stored logits belong to other views.", evidence, Remedy(words))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _names(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")


def _require_finite(setup: TrainingSetup) -> None:
    if not setup.gradients.finite:
        raise Skip("The loss is not finite.")
