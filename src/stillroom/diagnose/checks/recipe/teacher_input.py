"""Checks of the teacher's interface: its input, its class order, its batch statistics, the form of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stillroom.diagnose.check import CheckResult, Limits, check, percent
from stillroom.diagnose.checks.recipe.context import CheckContext, form_of
from stillroom.diagnose.checks.recipe.input_repair import Kind, RepairTrial
from stillroom.diagnose.checks.teacher_changes import GAIN, has_running_statistics
from stillroom.models.modes import eval_mode
from stillroom.schema.diagnosis import Plot, Remedy, Verdict

_INPUT_THRESHOLD = (
    f"Problem: with another input the teacher classifies {percent(GAIN.problem)} more of the $images correctly; "
    f"warning: {percent(GAIN.warning)}. In both cases chance alone would do that less than once in a thousand "
    "(McNemar's exact test on the same $images, divided by the number of changes tried). A teacher that gets its own "
    "input moves by less than a point between similar normalisations."
)
# Images that are classified twice, in other batches; so many in a batch the second time.
_TWICE, _FEW = 64, 8
MOVES = Limits(
    warning=0.1,
    problem=0.1,
    why="how far an image's logits may move, relative to their spread: bfloat16 moves them by a hundredth at most, "
    "statistics of eight images of one class by about a half",
)


@check(
    threshold=_INPUT_THRESHOLD,
    limits=[GAIN],
    source="A network works only on inputs of the scale that it was trained with.",
)
def teacher_normalisation(context: CheckContext) -> CheckResult:
    """Whether pixels are normalised as when the teacher was trained."""
    words = "Normalise the teacher's input as when it was trained."
    return _check_input(context, "normalisation", "normalisation", words, "No other normalisation could be tested")


@check(
    threshold=_INPUT_THRESHOLD,
    limits=[GAIN],
    source="OpenCV and Caffe read images as BGR, most other libraries as RGB; weights do not say which they need.",
)
def teacher_channel_order(context: CheckContext) -> CheckResult:
    """Whether colours come in the order that the teacher was trained with."""
    words = "Give the teacher its channels in the order that it was trained with."
    return _check_input(context, "channel_order", "channel order", words, "The $images have no colours to reorder")


@check(
    threshold=_INPUT_THRESHOLD,
    limits=[GAIN],
    source="Convolutions take images of any size, and recognise objects at the scale that they were trained with.",
)
def teacher_resize(context: CheckContext) -> CheckResult:
    """Whether images come at the size that the teacher was trained with."""
    words = "Give the teacher $images of the size that it was trained with."
    return _check_input(context, "resize", "size", words, "No other size could be tested")


def _check_input(context: CheckContext, kind: Kind, what: str, words: str, nothing: str) -> CheckResult:
    """Whether some other input makes the teacher more accurate."""
    context.require_model()
    context.require_class_order()
    repair = context.repair
    change, trials = repair.change(kind), repair.trials.get(kind, ())
    tried = [trial for trial in trials if trial.images]
    # Each change is compared on the images that it was tried on: one that gains nothing is given up early.
    largest = max(tried, key=lambda trial: trial.images, default=None)
    before_changes = largest.accuracy[0] if largest is not None else 0.0
    evidence: dict[str, Any] = {
        "accuracy": before_changes if repair.changes else repair.accuracy,
        "images": repair.images,
        "alternatives": {trial.name: trial.accuracy[1] for trial in tried},
        "accuracy_on_the_same_images": {trial.name: trial.accuracy[0] for trial in tried},
        "images_of_alternatives": {trial.name: trial.images for trial in tried},
        "not_tried": {trial.name: trial.why_not for trial in trials if trial.why_not},
    }
    names = tuple(trial.name for trial in tried)
    gains = tuple(round(100 * trial.gain, 2) for trial in tried)
    plots = [Plot("bars", f"Change of the teacher's accuracy by {what}", names, gains, what, "points, same $images")]
    if change is not None:
        before, after = change.accuracy
        summary = (
            f"The teacher classifies {percent(before)} of {change.images:,} training $images correctly with the "
            f"recipe's input, and {percent(after)} with {what} {change.name}."
        )
        evidence |= {"best": change.name, "gain": change.gain, "p": change.p}
        return CheckResult(
            GAIN.at_least(change.gain), summary, evidence, Remedy(words, context.preprocess_override()), plots
        )
    if not trials and not repair.changes and 1 - repair.accuracy < GAIN.warning:
        summary = f"The teacher classifies {percent(repair.accuracy)} of {repair.images:,} training $images correctly."
        return CheckResult("ok", summary, evidence)
    if not tried:
        reasons = [trial.why_not for trial in trials if trial.why_not]
        return CheckResult("skipped", f"{nothing}{f': {reasons[0]}' if reasons else ''}.", evidence)
    best = max(tried, key=lambda trial: trial.gain)
    summary = f"No other {what} makes the teacher more accurate: {_compare(best)}."
    return CheckResult("ok", summary, evidence, plots=plots)


def _compare(trial: RepairTrial) -> str:
    """Accuracy before and after a change, on the same images."""
    before, after = (percent(share) for share in trial.accuracy)
    return f"{after} of {trial.images:,} $images with {trial.name}, {before} of the same $images without"


@check(
    threshold=(
        f"Problem: with statistics recomputed from one batch of training $images the teacher classifies "
        f"{percent(GAIN.problem)} more of them correctly than with its running statistics; warning: "
        f"{percent(GAIN.warning)}; beyond chance, as for its input. Statistics of a few hundred $images are a little "
        f"worse than good running ones, never better by points. Problem, too: in other batches the logits of {_TWICE} "
        f"$images move by {MOVES.problem:g} of their spread (median $image): in evaluation mode they move by rounding "
        "alone."
    ),
    limits=[GAIN, MOVES],
    source="Ioffe & Szegedy, arXiv 1502.03167: in evaluation mode a network normalises by its running statistics.",
)
def teacher_batch_norm(context: CheckContext) -> CheckResult:
    """Whether the teacher's running statistics fit its input, and whether it uses them."""
    context.require_model()
    moved, again = _movement(context)
    if max(moved, again) >= MOVES.problem:
        evidence = {"moved_by_company": moved, "moved_by_chance": again, "images": min(_TWICE, len(context.sample))}
        summary = "The teacher's logits for $an_image depend on the other $images of its batch"
        if again >= MOVES.problem:
            summary = "The teacher's logits for the same $images differ each time"
        summary += f": they move by {percent(max(moved, again))} of their spread."
        words = (
            "Put the teacher into evaluation mode: its batch norms or dropout are still in training mode, or its "
            "batch norms keep no running statistics."
        )
        return CheckResult("problem", summary, evidence, Remedy(words))
    repair = context.repair
    if not has_running_statistics(context.teacher.model):
        return CheckResult("ok", "The teacher has no running statistics.")
    context.require_class_order()
    change, trials = repair.change("batch_norm"), repair.trials.get("batch_norm", ())
    if change is not None:
        before, after = change.accuracy
        summary = (
            f"The teacher's running statistics do not fit: {percent(before)} of {change.images:,} training $images are "
            f"classified correctly with them, {percent(after)} with statistics of one batch."
        )
        words = (
            "Recompute its running statistics (momentum None, training mode, a few hundred training $images, no "
            "optimizer) and save it; or use weights whose statistics were kept."
        )
        names = ("running statistics", "batch statistics")
        plot = Plot("bars", "The teacher's accuracy by statistics", names, (100 * before, 100 * after), "", "right, %")
        evidence = {"accuracy": before, "with_batch_statistics": after, "images": change.images, "p": change.p}
        return CheckResult(GAIN.at_least(change.gain), summary, evidence, Remedy(words), [plot])
    if not trials:
        summary = f"With its running statistics the teacher classifies {percent(repair.accuracy)} correctly."
        return CheckResult("ok", summary, {"accuracy": repair.accuracy, "images": repair.images})
    trial = trials[0]
    if not trial.images:
        return CheckResult("skipped", f"Batch statistics could not be tried: {trial.why_not}.")
    summary = f"Statistics of one batch change the teacher's accuracy by {100 * trial.gain:+.1f} points, no more."
    if trial.gain >= GAIN.warning:
        summary = "Statistics of one batch would undo a wrong input as well; another finding says what is wrong."
    before, after = trial.accuracy
    return CheckResult("ok", summary, {"accuracy": before, "with_batch_statistics": after, "images": trial.images})


def _movement(context: CheckContext) -> tuple[float, float]:
    """How far logits move in other batches, and when computed again; in spreads of the logits, the median image."""
    images = context.sample.images[:_TWICE]
    variant, queries = context.original_setup.variant, context.queries
    first = variant.logits(len(images)).double()
    # Images of a class together, a few at a time.
    order = torch.argsort(context.sample.labels[:_TWICE], stable=True)
    other = torch.cat(
        [queries.logits(variant.model, variant.preprocess, images[o], "") for o in torch.split(order, _FEW)]
    )
    twice = [queries.logits(variant.model, variant.preprocess, images, "").double() for _ in range(2)]
    scale = first.std(1).clamp_min(1e-6)

    def moved(one: torch.Tensor, two: torch.Tensor, rows: torch.Tensor) -> float:
        return float(((one - two).abs().amax(1) / scale[rows]).median())

    everything = torch.arange(len(images))
    return moved(other.double(), twice[0][order], order), moved(twice[0], twice[1], everything)


@check(
    threshold=(
        f"Problem: with its logits in another order, found on one half of the $images, the teacher classifies "
        f"{percent(GAIN.problem)} more of the other half correctly; warning: {percent(GAIN.warning)}; beyond chance. "
        "Problem, too: it has another number of logits than the data have classes."
    ),
    limits=[GAIN],
    source="Labels are numbers; if the class lists are ordered differently, the same class has different numbers.",
)
def class_order(context: CheckContext) -> CheckResult:
    """Whether the teacher's logits mean the classes that the data's labels mean."""
    repair = context.repair
    preprocess = None if context.stored is not None else context.teacher.preprocess_config
    change = repair.change("class_order")
    now: Sequence[object] | None = preprocess.class_order if preprocess is not None else None
    evidence: dict[str, Any] = {
        "columns": context.num_logits,
        "classes": context.num_classes,
        "images": repair.images,
    }
    fits = context.num_logits == context.num_classes or now
    counts = f"The teacher has {context.num_logits:,} logits for {context.num_classes:,} classes"
    if change is None and not fits:
        summary = f"{counts}, and no order of them fits the labels."
        return CheckResult("problem", summary, evidence, Remedy("Use a teacher of these classes."))
    if change is None:
        trials = repair.trials.get("class_order", ())
        summary = "The teacher's logits are in the data's order of classes."
        if trials and trials[0].images:
            gain = f"{100 * trials[0].gain:+.1f} points on $images it was not fitted to"
            summary = f"No other order of the classes makes the teacher more accurate: {gain}."
        return CheckResult("ok", summary, evidence)
    before, after = change.accuracy
    wanted = context.repaired_preprocess.class_order or range(context.num_classes)
    moved = [position for position, column in enumerate(wanted) if column != (now[position] if now else position)]
    evidence |= {"accuracy": before, "reordered": after, "gain": change.gain, "p": change.p, "moved": moved}
    summary = (
        f"The teacher's logits are in another order than the data's classes: {percent(before)} of {change.images:,} "
        f"$images are classified correctly as they are, {percent(after)} reordered."
    )
    if not fits:
        summary = f"{counts}; with the columns that fit it classifies {percent(after)} of the $images correctly."
    if context.stored is not None:
        remedy = Remedy("Write the columns of the logits in the order of class_names in inputs.json.")
    else:
        words = "Set preprocess.class_order: for each class the logit that means it."
        remedy = Remedy(words, context.preprocess_override())
    shares = (100 * before, 100 * after)
    plot = Plot("bars", "The teacher's accuracy", ("unchanged", "reordered"), shares, "", "right, %")
    verdict: Verdict = GAIN.at_least(change.gain) if fits else "problem"
    return CheckResult(verdict, summary, evidence, remedy, [plot])


@check(
    threshold=(
        "Problem: all outputs are 0 or more and each $image's sum to 1 within a hundredth, as after a softmax, or none "
        "is below 0 or above 1, as after a sigmoid. The softmax that every loss takes of them then sees numbers "
        "between 0 and 1, so nearly uniform targets at any temperature of 1 or more."
    ),
    source="A softmax of a softmax.",
)
def teacher_logits(context: CheckContext) -> CheckResult:
    """Whether both models give logits."""
    student = context.student.model
    preprocess = context.student.preprocess().to(context.run_context.device)
    with torch.no_grad(), eval_mode(student):
        outputs = student(preprocess(context.sample.images[:16].to(context.run_context.device)))
    has_teacher = context.recipe.teacher is not None
    forms = {"teacher": context.output_form if has_teacher else None, "student": form_of(outputs)}
    evidence = {f"{model}_gives": form for model, form in forms.items()}
    for model, form in forms.items():
        if form in ("probabilities", "sigmoids"):
            layer = "softmax" if form == "probabilities" else "sigmoid"
            why = "each $image's outputs sum to 1" if form == "probabilities" else "all outputs lie between 0 and 1"
            summary = f"The {model} gives {form}, not logits: {why}."
            words = f"Remove the {layer} from the model: losses apply a softmax themselves."
            if model == "teacher" and context.stored is not None:
                words = f"Store the logits, before the {layer}: losses apply a softmax themselves."
            return CheckResult("problem", summary, evidence, Remedy(words))
    return CheckResult("ok", "Both models give logits.", evidence)
