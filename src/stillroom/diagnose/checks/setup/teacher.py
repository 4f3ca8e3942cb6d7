"""Checks of the teacher in a set-up: its weights, its mode, its input, its classes, what it has learned."""

from __future__ import annotations

from typing import Any

import torch

from stillroom.diagnose.chance import ALPHA, mcnemar
from stillroom.diagnose.check import CheckResult, Limits, Skip, check, percent
from stillroom.diagnose.checks.recipe.input_repair import SplitSample
from stillroom.diagnose.checks.recipe.teacher_quality import linear_model
from stillroom.diagnose.checks.setup.initialisation import unused_norms
from stillroom.diagnose.checks.setup.training_setup import CHANCE, TrainingSetup, run_model
from stillroom.diagnose.checks.teacher_changes import GAIN
from stillroom.schema.diagnosis import Remedy

MODE = Limits(
    0.01, 0.1, "how far logits move between the teacher's mode and evaluation mode, relative to their spread (median)"
)
CONSTANT = Limits(
    1e-2, 1e-3, "largest deviation of a class's probability over the images; a trained teacher's is .1 or more"
)
_GAIN_WORDS = (
    f"Problem: the teacher then classifies {percent(GAIN.problem)} more of the images correctly; warning: "
    f"{percent(GAIN.warning)}; beyond chance on the same images (McNemar's exact test, divided by the number of "
    "changes tried)."
)
# Of fewer images a linear model learns too little to compare with.
_LEAST_FOR_LINEAR = 100
_MOST_NAMED = 3


@check(
    threshold=(
        "Problem: the teacher's accuracy is not shown to be above chance, and layers of it still follow the law of "
        "their initialisation (Kolmogorov-Smirnov, p above .001). A teacher that knows its task is never a problem."
    ),
    source="`load_state_dict(strict=False)` takes no weight where no key fits, and says so only in what it returns.",
)
def weights_not_loaded(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher's weights were loaded."""
    laws, layers = setup.untrained
    norms = unused_norms(setup.teacher)
    evidence: dict[str, Any] = {"untrained_layers": laws, "layers": layers, "norms_without_statistics": norms}
    if setup.cause != "weights_not_loaded":
        return CheckResult("ok", "The teacher's weights are not those of a network that was never trained.", evidence)
    names = ", ".join([*laws][:_MOST_NAMED]) + (", …" if len(laws) > _MOST_NAMED else "")
    correct, count = setup.accuracy
    summary = (
        f"{len(laws)} of the teacher's {layers} layers still have their initial weights ({names}: "
        f"{next(iter(laws.values()))}), and it classifies {percent(correct / count)} of {count:,} images correctly: "
        "its weights were not loaded."
    )
    words = (
        "Load its weights with strict=True: else load_state_dict skips keys with another prefix, and says so to none."
    )
    return CheckResult("problem", summary, evidence, Remedy(words))


@check(
    threshold=(
        f"Problem: the teacher's logits move by {MODE.problem:g} of their spread between the mode it is in and "
        f"evaluation mode; warning: {MODE.warning:g}."
    ),
    limits=[MODE],
    source="In training mode dropout is at work, and batch norms use the batch's statistics and move their own.",
)
def teacher_mode(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher is in evaluation mode."""
    teacher = setup.teacher
    active = [name or type(module).__name__ for name, module in teacher.named_modules() if module.training]
    if not active:
        return CheckResult("ok", "The teacher is in evaluation mode.")
    inputs = setup.batches[0][0]
    one = run_model(teacher, inputs, field="teacher", training=None)
    other = run_model(teacher, inputs, field="teacher", training=False)
    moved = float(((one - other).abs().amax(1) / other.std(1).clamp_min(1e-6)).median())
    evidence = {"modules_in_training_mode": len(active), "moved": moved}
    summary = f"The teacher is in training mode, where its logits move by {percent(moved)} of their spread."
    if MODE.at_least(moved) == "ok":
        summary = "The teacher is in training mode, which changes nothing of what it gives."
    return CheckResult(
        MODE.at_least(moved),
        summary,
        evidence,
        Remedy("Call `teacher.eval()` before the loop, and after every `train()` of a module that holds it."),
    )


@check(
    threshold="Problem: the outputs of each image sum to 1, as after a softmax, or none lies outside 0 … 1.",
    source="A softmax of a softmax is nearly uniform.",
)
def probabilities_for_logits(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher gives logits."""
    form = setup.form
    if form == "logits":
        return CheckResult("ok", "The teacher gives logits.", {"teacher_gives": form})
    layer = "softmax" if form == "probabilities" else "sigmoid"
    summary = f"The teacher gives {form}, not logits; a loss that takes their softmax sees nearly uniform targets."
    return CheckResult(
        "problem", summary, {"teacher_gives": form}, Remedy(f"Remove the {layer} from the teacher's forward.")
    )


@check(threshold=_GAIN_WORDS, limits=[GAIN], source="A network works only on inputs like those of its training.")
def teacher_input(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher is given images as in its training: normalisation, scale, channels, orientation."""
    words = "Give the teacher its images as in its training: {name}."
    return _explained(setup, "teacher_input", "No other input makes the teacher more accurate", words)


@check(threshold=_GAIN_WORDS, limits=[GAIN], source="Class lists in another order give the same class other numbers.")
def class_order(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher's logits mean the classes of the labels."""
    columns, classes = setup.teacher_logits.shape[1], setup.num_classes
    evidence = {"columns": columns, "classes": classes}
    if columns != classes:
        summary = f"The teacher has {columns:,} logits and the student {classes:,}."
        words = "Use models of the same classes, or pick the teacher's columns that mean the student's."
        return CheckResult("problem", summary, evidence, Remedy(words))
    largest = int(setup.labels.max())
    if largest >= classes:
        summary = f"A label is {largest:,}, and the student has {classes:,} logits."
        return CheckResult(
            "problem", summary, evidence, Remedy("Number the classes from 0, and give the student a logit for each.")
        )
    words = "Reorder the teacher's columns: its classes are numbered otherwise than the labels."
    return _explained(setup, "class_order", "No other order of its classes makes the teacher more accurate", words)


@check(threshold=_GAIN_WORDS, limits=[GAIN], source="Ioffe & Szegedy, arXiv 1502.03167.")
def teacher_batch_norm(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher's running statistics fit its input."""
    words = "Recompute the teacher's running statistics on training images, or use weights that come with theirs."
    return _explained(setup, "teacher_batch_norm", "Statistics of a batch do not make the teacher more accurate", words)


def _explained(setup: TrainingSetup, name: str, nothing: str, words: str) -> CheckResult:
    """The finding of the change that explains the teacher's errors, where it is this check's."""
    correct, count = setup.accuracy
    evidence: dict[str, Any] = {"accuracy": correct / count, "images": count}
    found = setup.explanation
    if found is None or setup.cause != name or found.kind != name:
        return CheckResult(
            "ok", f"{nothing}: it classifies {percent(correct / count)} of {count:,} images correctly.", evidence
        )
    before, after = (percent(share) for share in found.accuracy)
    evidence |= {"change": found.name, "repaired": found.accuracy[1], "images": found.images, "p": found.p}
    summary = (
        f"The teacher classifies {before} of {found.images:,} images correctly as it is called, and {after} with "
        f"{_with(found.name)}."
    )
    return CheckResult(GAIN.at_least(found.gain), summary, evidence, Remedy(words.format(name=found.name)))


def _with(change: str) -> str:
    return change if change.startswith(("another", "statistics")) else f"images {change}"


@check(
    threshold=f"Problem: its accuracy is not shown to be above {CHANCE:g} times chance (99.9% bound).",
    source="A student learns its teacher's errors, too.",
)
def teacher_at_chance(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher knows more than the classes' shares."""
    correct, count = setup.accuracy
    evidence = {"accuracy": correct / count, "images": count, "chance": setup.chance}
    share, chance = percent(correct / count), percent(setup.chance)
    summary = f"The teacher classifies {share} of {count:,} images correctly; chance is {chance}."
    if not setup.is_at_chance:
        return CheckResult("ok", summary, evidence)
    if setup.cause is not None:
        return CheckResult("warning", f"{summary} It follows from {setup.cause}.", evidence)
    words = "Use a teacher that was trained on this task, and evaluate it on these batches first."
    return CheckResult("problem", summary, evidence, Remedy(words))


@check(
    threshold=(
        "Problem: on half of the images it is less accurate than a linear model fitted to the other half, beyond "
        "chance on the same images."
    ),
    source="A student learns its teacher's errors, too.",
)
def teacher_weak(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher is better than a linear model of a few images."""
    images, labels = setup.images.cpu(), setup.labels
    half = len(labels) // 2
    if half < _LEAST_FOR_LINEAR or int(labels.max()) >= setup.num_classes:
        raise Skip(f"{len(labels):,} images are too few for a linear model to compare with.")
    rows = torch.arange(len(labels))
    fitted, judged = (
        SplitSample(images[part], labels[part], rows[part].numpy()) for part in (rows[half:], rows[:half])
    )
    linear = linear_model(fitted, judged, setup.num_classes) == judged.labels
    teacher = setup.teacher_logits[:half].argmax(1) == judged.labels
    evidence = {
        "accuracy": float(teacher.double().mean()),
        "linear_model": float(linear.double().mean()),
        "images": half,
    }
    summary = (
        f"The teacher classifies {percent(evidence['accuracy'])} of {half:,} images correctly, a linear model of "
        f"{len(labels) - half:,} others {percent(evidence['linear_model'])}."
    )
    if mcnemar(int((linear & ~teacher).sum()), int((teacher & ~linear).sum())) >= ALPHA:
        return CheckResult("ok", summary, evidence)
    if setup.cause is not None or setup.is_at_chance:
        return CheckResult("warning", f"{summary} It follows from {setup.cause or 'teacher_at_chance'}.", evidence)
    return CheckResult("problem", summary, evidence, Remedy("Train the teacher for longer before it teaches."))


@check(
    threshold=(
        f"Problem: no class's probability varies by {CONSTANT.problem:g} over the images; warning: "
        f"{CONSTANT.warning:g}."
    ),
    limits=[CONSTANT],
    source="A target that is the same for every image teaches the classes' shares and nothing of the images.",
)
def target_constant(setup: TrainingSetup) -> CheckResult:
    """Whether the teacher's outputs tell images apart."""
    logits = setup.teacher_logits
    probabilities = logits if setup.form == "probabilities" else logits.softmax(1)
    spread = float(probabilities.std(0).max())
    evidence = {"largest_deviation": spread, "images": len(logits)}
    summary = f"The teacher's probabilities vary by {spread:.2g} over {len(logits):,} images, at the most."
    verdict = CONSTANT.below(spread)
    if verdict == "problem" and (setup.cause is not None or setup.is_at_chance):
        verdict, summary = "warning", f"{summary} It follows from {setup.cause or 'teacher_at_chance'}."
    return CheckResult(
        verdict, summary, evidence, Remedy("Look at the teacher's outputs: they hardly depend on the image.")
    )
