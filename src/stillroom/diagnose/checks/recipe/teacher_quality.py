"""Checks of what the teacher has learned: accuracy, smoothing, labels, augmentation, capacity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.tokens import is_tokens
from stillroom.diagnose.chance import ALPHA, difference_bound, is_larger, lower_bound, mcnemar
from stillroom.diagnose.check import CheckResult, Limits, Skip, check, percent
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.diagnose.checks.recipe.input_repair import SplitSample
from stillroom.diagnose.checks.recipe.stored_logits import stale_answers
from stillroom.diagnose.checks.recipe.temperature import soft_terms
from stillroom.diagnose.checks.teacher_changes import GAIN
from stillroom.losses.registry import labels_alone
from stillroom.schema.diagnosis import Plot, Remedy, Verdict

# The checks that report what was wrong with a teacher's input, by what was changed.
_CHECKED_BY = {
    "normalisation": "teacher_normalisation",
    "channel_order": "teacher_channel_order",
    "resize": "teacher_resize",
    "batch_norm": "teacher_batch_norm",
    "tokenizer": "teacher_tokenizer",
    "case": "teacher_case",
}
# Accuracy in multiples of chance that a teacher must prove to exceed.
_CHANCE = 1.5
# Accuracy below which a teacher is called weak.
_WEAK = 0.5
# Images after which an orientation that has gained nothing, or an augmentation that has lost little, is given up.
_FIRST_ORIENTED, _FIRST_AUGMENTED = 128, 256

FLATNESS = Limits(
    warning=0.72,
    problem=0.74,
    why="entropy of the probabilities of all classes but the true one, as a share of log(K − 1), in the median image, "
    "less half of what mean confidence stays below accuracy. Training with smoothing ends in targets that are flat and "
    "nearly reached; a teacher that is young, or too weak for its task, is as flat but far less sure than it is right. "
    "Picked on 140 teachers of digits and Fashion-MNIST without smoothing (ResNets, MLPs, linear models; 10 to 360 "
    "steps: at most .725 where the surest image in a hundred has log-odds of 2) and 36 with .05, .1 and .2: networks "
    "with .1 or more have at least .75, with .05 .67 to .92. The public ResNets of CIFAR have .2 to .3",
)
# How far mean confidence stays below accuracy on images that a smoothed teacher was trained on, and the entropy from
# which on it does not matter.
_UNSURE, _FLATTEST = 0.05, 0.8
# Entropy from which on classes are hardly related.
_FLAT = 0.63
# Log-odds of the surest image in a hundred. A target with a share of ε elsewhere has no more than log(1/ε) at its best,
# and overshoots by about two; below 2 a teacher has not reached any usual target yet.
_LOG_ODDS, _YOUNG_ODDS = 6.0, 2.0
# Of images that it does not know, a teacher says much the same of all classes, smoothed or not: how far above chance
# its accuracy must be, as a share of the way to 1; and correct images that are needed.
_KNOWS, _LEAST = 0.3, 64

# From this probability on a teacher that contradicts a label disputes it.
_SURE = 0.95
DISPUTED = Limits(0.05, 0.15, "share of disputed images: some hundredths of curated data sets are mislabelled at most")
MORE_WRONG = Limits(
    0.03,
    0.1,
    "how much more often it misclassifies training images than test images, at least and in the sample: it has usually "
    "been trained on the former",
)
# A teacher below this accuracy cannot judge labels.
_JUDGE = 0.5
_WORST = 20

AUGMENTATION = Limits(
    0.10, 0.25, "accuracy that a teacher loses on augmented images: one or two points with its training augmentation"
)

CAPACITY = Limits(
    warning=100.0,
    problem=300.0,
    why="how many times as large the teacher is: the demo's is 53 times its student and still helps it, 100 times is "
    "where the literature puts an assistant in between; 300 times leaves a student that cannot fit it",
)
# The warning for a teacher that is sure of nearly every image: its median top probability.
_SURE_TIMES, _SURE_TEACHER = 30.0, 0.95


def linear_model(train: SplitSample, test: SplitSample, classes: int) -> Tensor:
    """Classes that a linear model predicts of pixels, or of how often each token comes: ridge regression, int64 [m]."""
    images = torch.cat([train.images, test.images])
    whole = _token_counts(images) if is_tokens(images) else images.flatten(1).double()
    x, asked = whole[: len(train)], whole[len(train) :]
    mean, scale = x.mean(0), x.std(0).mean().clamp_min(1e-9)
    x, asked = (x - mean) / scale, (asked - mean) / scale
    target = torch.nn.functional.one_hot(train.labels, classes).double()
    # With fewer images than pixels, the smaller of the two systems; a tenth of the mean square as ridge.
    kernel = x @ x.T
    weight = 0.1 * kernel.diagonal().mean()
    solved = torch.linalg.solve(kernel + weight * torch.eye(len(x), dtype=x.dtype), target - target.mean(0))
    scores: Tensor = asked @ x.T @ solved + target.mean(0)
    return scores.argmax(1)


def _token_counts(ids: Tensor) -> Tensor:
    counts = torch.zeros(len(ids), int(ids.max()) + 1, dtype=torch.float64)
    return counts.scatter_add_(1, ids.clamp_min(0).long(), (ids >= 0).double())


@check(
    threshold=(
        f"Problem: on test $images the teacher's accuracy is not above {_CHANCE:g} times chance (99.9% bound), or "
        "below that of a linear model of the sample's $pixels, beyond chance on the same $images. What labels alone "
        "would give a student is not known before it is trained; a linear model of a few $images is far below it. "
        f"Problem, too: it classifies {percent(GAIN.problem)} more of turned or mirrored images correctly, beyond "
        f"chance. Warning: its accuracy is below {_WEAK:.0%}."
    ),
    source="A student also learns its teacher's errors.",
    limits=[GAIN],
)
def teacher_accuracy(context: CheckContext) -> CheckResult:
    """Whether the teacher has learned the task."""
    context.require_distillation()
    test, logits, what = context.test_sample, None, "test"
    try:
        logits = context.test_logits
    except Skip:
        if context.stored is None:
            raise
        # Stored for the training images alone: these are half for a linear model to be fitted to, half to be judged by.
        half, what = context.sample.halves, "training"
        test = context.sample.part(half)
        logits = context.teacher_logits[half]
    labels, count = test.labels, len(test)
    is_correct = logits.argmax(1) == labels
    correct = int(is_correct.sum())
    chance = float(torch.bincount(labels, minlength=context.num_classes).max()) / count
    fitted = context.sample if what == "test" else context.sample.part(~context.sample.halves)
    linear = linear_model(fitted, test, context.num_classes) == labels
    evidence: dict[str, Any] = {
        f"{what}_accuracy": correct / count,
        f"{what}_images": count,
        **({"training_accuracy": context.accuracy, "training_images": len(context.sample)} if what == "test" else {}),
        "linear_model": int(linear.sum()) / count,
        "chance": chance,
    }
    share = percent(correct / count)
    remedy = Remedy(
        "Use a teacher that was trained on this task; without one, train on labels.", {"losses": labels_alone()}
    )
    shares = (100 * correct / count, 100 * evidence["linear_model"], 100 * chance)
    names = ("teacher", "linear model", "chance")
    plots = [Plot("bars", "Correct on test $images", names, tuple(round(s, 2) for s in shares), "", "right, %")]
    summary = f"The teacher classifies {share} of {count:,} {what} $images correctly{_as_repaired(context)}"
    if lower_bound(correct, count) <= _CHANCE * chance:
        summary = f"{summary}; chance is {percent(chance)}."
        if context.stored is not None and (stale := stale_answers.run(context)).verdict == "problem":
            return CheckResult("warning", f"{summary} It follows from {stale.check}.", evidence, None, plots)
        return CheckResult("problem", summary, evidence, remedy, plots)
    if mcnemar(int((linear & ~is_correct).sum()), int((is_correct & ~linear).sum())) < ALPHA:
        reads = "texts' words" if is_tokens(test.images) else "images' pixels"
        less = f"less than a linear model of {len(context.sample):,} {reads} ({percent(evidence['linear_model'])})"
        return CheckResult("problem", f"{summary}, {less}.", evidence, remedy, plots)
    oriented = _other_orientation(context)
    if oriented is not None:
        name, before, after, images = oriented
        evidence |= {"turned": name, "accuracy_turned": after / images, "accuracy_as_they_are": before / images}
        summary = (
            f"The teacher classifies {percent(before / images)} of {images:,} training $images correctly unchanged, "
            f"and {percent(after / images)} of the same $images {name}: it was trained on $images like that."
        )
        words = "Store the images in the orientation of the teacher's training, or use a teacher of images like these."
        return CheckResult("problem", summary, evidence, Remedy(words), plots)
    if correct / count < _WEAK:
        words = "Train the teacher for longer before it teaches, or use a better one."
        return CheckResult("warning", f"{summary}: it is young or weak.", evidence, Remedy(words), plots)
    return CheckResult("ok", f"{summary}.", evidence, plots=plots)


def _as_repaired(context: CheckContext) -> str:
    """What was repaired before the teacher's accuracy was measured, for its sentence."""
    if not context.repair.changes:
        return ""
    repaired = " and ".join(change.kind.replace("_", " ") for change in context.repair.changes)
    return f" once its {repaired} is corrected (see {_CHECKED_BY.get(context.repair.changes[0].kind, 'class_order')})"


def _other_orientation(context: CheckContext) -> tuple[str, int, int, int] | None:
    """An orientation in which the teacher is far more accurate: its name, correct before and after, of how many."""
    images, labels = context.sample.images, context.sample.labels
    if context.stored is not None:
        return None
    correct = context.teacher_logits.argmax(1) == labels
    if images.ndim != 4 or 1 - float(correct.double().mean()) < GAIN.problem:
        return None
    oriented = {"upside down": images.flip(2), "mirrored": images.flip(3), "rotated by 180°": images.flip(2, 3)}
    if images.shape[2] == images.shape[3]:
        oriented["rotated by 90° to the left"] = images.rot90(1, (2, 3))
        oriented["rotated by 90° to the right"] = images.rot90(3, (2, 3))
        oriented["transposed"] = images.transpose(2, 3)
    best = None
    for name, turned in oriented.items():
        for count in sorted({min(_FIRST_ORIENTED, len(images)), len(images)}):
            now = context.logits_for(turned[:count], f"images {name}", check_finite=False).argmax(1) == labels[:count]
            before = correct[:count]
            if (int(now.sum()) - int(before.sum())) / count < GAIN.problem:
                break
            p = mcnemar(int((now & ~before).sum()), int((before & ~now).sum()))
            is_better = best is None or int(now.sum()) > best[2]
            if count == len(images) and p < ALPHA / len(oriented) and is_better:
                best = (name, int(before.sum()), int(now.sum()), count)
    return best


@dataclass(frozen=True)
class Flatness:
    """What tells a teacher trained with label smoothing from another."""

    # Of the probabilities of all classes but the true one, as a share of log(K − 1), in the median of the images that
    # are classified correctly.
    entropy: float
    unsure: float  # accuracy less mean confidence
    log_odds: float  # of the true class in the surest image in a hundred
    counts: tuple[int, ...]  # how many images in each twentieth of ``entropy``

    @property
    def smoothing(self) -> float:
        """What the check of smoothing goes by: the entropy, less half of what it is unsure by."""
        return self.entropy - self.unsure / 2


def flatness(logits: Tensor, labels: Tensor) -> Flatness:
    """Measure a teacher's outputs for images that it was trained on.

    Args:
        logits: [n, K], K above 2.
        labels: int64 [n].

    >>> smoothed = torch.full((64, 5), -1.0).scatter(1, torch.zeros(64, 1, dtype=torch.int64), 3.0)
    >>> round(flatness(smoothed, torch.zeros(64, dtype=torch.int64)).entropy, 3)
    1.0
    """
    z = logits.double()
    correct = z.argmax(1) == labels
    unsure = float(correct.double().mean() - z.softmax(1).amax(1).mean())
    z, true = z[correct], labels[correct][:, None]
    logs = z.scatter(1, true, -math.inf).log_softmax(1)
    shares = -torch.where(logs.isinf(), 0.0, logs.exp() * logs).sum(1) / math.log(z.shape[1] - 1)
    odds = z.gather(1, true).squeeze(1) - z.scatter(1, true, -math.inf).logsumexp(1)
    counts = torch.histc(shares, bins=20, min=0.0, max=1.0)
    return Flatness(
        float(shares.median()), unsure, float(torch.quantile(odds, 0.99)), tuple(int(c) for c in counts.tolist())
    )


@check(
    threshold=(
        "Entropy of the probabilities of the classes that are not true, as a share of the largest, less half of what "
        f"mean confidence stays below accuracy: problem from {FLATNESS.problem:g}, warning from {FLATNESS.warning:g}, "
        f"where confidence is {percent(_UNSURE)} or more below accuracy or that entropy {percent(_FLATTEST)} or more, "
        f"and the surest $image in a hundred has log-odds of {_YOUNG_ODDS:g} to {_LOG_ODDS:g}. A young or weak teacher "
        "is as flat, and far less sure than it is right."
    ),
    source=(
        "Müller et al., arXiv 1906.02629; Tang et al., arXiv 2002.03532: smoothing loses how classes are related, "
        "and teaches worse."
    ),
    limits=[FLATNESS],
)
def teacher_label_smoothing(context: CheckContext) -> CheckResult:
    """Whether the teacher's outputs are those of one trained with label smoothing."""
    logits, labels = context.teacher_logits, context.sample.labels
    soft_terms(context)  # without one, the student does not learn from how classes are related
    if logits.shape[1] < 4:
        raise Skip(f"With {logits.shape[1]} classes there are too few other classes to relate.")
    right = int((logits.argmax(1) == labels).sum())
    chance = 1 / logits.shape[1]
    if right < _LEAST or context.accuracy < chance + _KNOWS * (1 - chance):
        accuracy = percent(context.accuracy)
        raise Skip(f"The teacher's accuracy is {accuracy}; outputs of so weak a teacher do not show smoothing.")
    found = flatness(logits, labels)
    evidence = {
        "entropy_of_others": found.entropy,
        "accuracy_less_confidence": found.unsure,
        "log_odds_of_surest": found.log_odds,
        "images": right,
    }
    is_flat = found.log_odds < _LOG_ODDS and (found.unsure >= _UNSURE or found.entropy >= _FLATTEST)
    is_young = is_flat and (found.log_odds < _YOUNG_ODDS or found.smoothing < FLATNESS.warning)
    verdict: Verdict = FLATNESS.at_least(found.smoothing) if is_flat and not is_young else "ok"
    share = percent(found.entropy)
    summary = f"The teacher's probabilities of the other classes have {share} of the largest entropy: it relates them."
    if verdict != "ok":
        summary = (
            "The teacher looks trained with label smoothing: it gives the classes that are not true nearly the same "
            f"probability, {share} of the largest entropy."
        )
    elif is_young and found.entropy >= _FLAT:
        summary = (
            f"The teacher is young or weak rather than smoothed: it is right for {percent(context.accuracy)} of the "
            f"training $images and {percent(max(found.unsure, 0.0))} less sure of them."
        )
    elif found.entropy >= _FLAT:
        summary = f"The teacher relates classes weakly ({share} of the largest entropy), but is calibrated."
    words = (
        "Use a teacher trained without label smoothing (nor mixup): how classes are related is not in these weights."
    )
    edges = tuple(round(edge / 20, 2) for edge in range(21))
    title = "Entropy of the teacher's probabilities of the other classes"
    label = "entropy, share of log(K − 1)"
    plot = Plot("histogram", title, edges, found.counts, label, "$images", _FLAT)
    return CheckResult(verdict, summary, evidence, Remedy(words), [plot])


@check(
    threshold=(
        f"$An_image is disputed where the teacher gives another class than its label a probability of {_SURE} or more. "
        f"Warning: at least {DISPUTED.warning:.0%} of all training $images are (99.9% bound for the sample), problem "
        f"{DISPUTED.problem:.0%}; warning, too, where they are disputed more often than test $images, beyond chance "
        "and by 2 points. Benchmarks hold some hundredths of wrong labels (Northcutt et al., arXiv 2103.14749); a "
        "teacher disputes $images that it was trained on less often than others. However sure it is: warning where it "
        f"has at least {MORE_WRONG.warning:.0%} more of the training labels wrong than of the test labels (99.9% "
        f"bound), problem where it is {MORE_WRONG.problem:.0%} in the sample, too."
    ),
    source="Where the two disagree, labels and teacher pull the student in opposite directions.",
    limits=[DISPUTED, MORE_WRONG],
)
def disputed_labels(context: CheckContext) -> CheckResult:
    """How many training images the teacher confidently gives another class than their label."""
    if context.accuracy < _JUDGE:
        raise Skip(f"The teacher's accuracy is {percent(context.accuracy)}; it cannot judge labels.")
    labels, test_labels = context.sample.labels, context.test_sample.labels
    total, total_test = len(labels), len(test_labels)
    p = context.teacher_logits.double().softmax(1)
    sure, guess = p.max(1)
    disputed = (guess != labels) & (sure >= _SURE)
    count = int(disputed.sum())
    sure_test, guess_test = context.test_logits.double().softmax(1).max(1)
    count_test = int(((guess_test != test_labels) & (sure_test >= _SURE)).sum())
    order = torch.argsort(p.gather(1, labels[:, None]).squeeze(1))
    worst = [place for place in order.tolist() if disputed[place]][:_WORST]
    bound = lower_bound(count, total)
    wrong, wrong_test = int((guess != labels).sum()), int((guess_test != test_labels).sum())
    extra = difference_bound((wrong, total), (wrong_test, total_test))
    evidence = {
        "share": count / total,
        "images": total,
        "share_of_test": count_test / total_test,
        "test_images": total_test,
        "worst": [
            {
                "image": int(context.sample.rows[place]),
                "label": int(labels[place]),
                "teacher": int(guess[place]),
                "confidence": float(sure[place]),
            }
            for place in worst
        ],
        "wrong": wrong / total,
        "wrong_of_test": wrong_test / total_test,
        "more_wrong_by": extra,
    }
    is_more = is_larger((count, total), (count_test, total_test)) and count / total - count_test / total_test >= 0.02
    verdict: Verdict = "ok"
    is_far_more = extra >= MORE_WRONG.warning and wrong / total - wrong_test / total_test >= MORE_WRONG.problem
    if bound >= DISPUTED.problem or is_far_more:
        verdict = "problem"
    elif bound >= DISPUTED.warning or is_more or extra >= MORE_WRONG.warning:
        verdict = "warning"
    summary = (
        f"The teacher disputes {percent(count / total)} of the labels of {total:,} training $images "
        f"({percent(count_test / total_test)} of {total_test:,} test $images)."
    )
    if extra >= MORE_WRONG.warning and bound < DISPUTED.warning:
        summary = (
            f"The teacher, seldom confident, contradicts {percent(wrong / total)} of {total:,} training labels and "
            f"{percent(wrong_test / total_test)} of {total_test:,} test labels."
        )
    words = "Check the listed $images and correct their labels; until then weight the teacher above the labels."
    classes = torch.bincount(labels[disputed], minlength=context.num_classes)
    most = classes.argsort(descending=True)[:10].tolist()
    class_names = context.run_context.data.train.class_names
    names, values = tuple(class_names[c] for c in most), tuple(float(classes[c]) for c in most)
    plot = Plot("bars", "Disputed $images by label", names, values, "label", "disputed $images")
    return CheckResult(verdict, summary, evidence, Remedy(words), [plot] if count else [])


@check(
    threshold=(
        f"Warning: the teacher classifies {AUGMENTATION.warning:.0%} fewer of the $images correctly once they are "
        f"augmented, problem {AUGMENTATION.problem:.0%}, beyond chance on the same $images. A teacher loses a point or "
        "two to the augmentation that it was trained with itself."
    ),
    source="A teacher's outputs for augmentations that it was not trained on are unreliable.",
    limits=[AUGMENTATION],
)
def augmentation(context: CheckContext) -> CheckResult:
    """Whether the teacher classifies augmented images as well as plain ones."""
    context.require_distillation()
    config = context.recipe.data.augmentation
    if not config.changes:
        return CheckResult("ok", "The training $images are not augmented.")
    correct = context.teacher_logits.argmax(1) == context.sample.labels
    count = min(_FIRST_AUGMENTED, len(context.sample))
    lost, p, accuracy = _lost_to(context, config, count)
    if lost >= AUGMENTATION.warning and count < len(context.sample):
        count = len(context.sample)
        lost, p, accuracy = _lost_to(context, config, count)
    plain = float(correct[:count].double().mean())
    evidence: dict[str, Any] = {"accuracy": plain, "augmented": accuracy, "lost": lost, "p": p, "images": count}
    summary = (
        f"Augmentation costs the teacher {100 * lost:.1f} points: {percent(accuracy)} of {count:,} $images correct, "
        f"{percent(plain)} without."
    )
    if p >= ALPHA or lost < AUGMENTATION.warning:
        return CheckResult("ok", summary, evidence)
    first = min(count, _FIRST_AUGMENTED)
    parts = {key: _lost_to(context, without, first)[2] for key, without in _without_each_part(config)}
    evidence |= {"without": parts, "images_without": first}
    best = max(parts, key=lambda key: parts[key])
    words = f"Remove the augmentation that the teacher was not trained with ({best}), or use a teacher that was."
    value: Any = type(config).model_fields[best].default
    names = ("plain", "augmented", *(f"without {key}" for key in parts))
    shares = tuple(round(100 * share, 2) for share in (plain, accuracy, *parts.values()))
    plot = Plot("bars", "The teacher's accuracy on augmented $images", names, shares, "", "right, %")
    remedy = Remedy(words, {f"data.augmentation.{best}": value})
    return CheckResult(AUGMENTATION.at_least(lost), summary, evidence, remedy, [plot])


def _lost_to(context: CheckContext, config: AugmentationConfig, count: int) -> tuple[float, float, float]:
    """Accuracy lost to augmentation, McNemar's p of it, and the accuracy that is left."""
    labels = context.sample.labels[:count]
    before = context.teacher_logits[:count].argmax(1) == labels
    if not config.changes:
        return 0.0, 1.0, float(before.double().mean())
    now = context.logits_for_views(config, count).argmax(1) == labels
    p = mcnemar(int((before & ~now).sum()), int((now & ~before).sum()))
    accuracy = float(now.double().mean())
    return float(before.double().mean()) - accuracy, p, accuracy


def _without_each_part(config: AugmentationConfig) -> Iterator[tuple[str, AugmentationConfig]]:
    for key in (each for each in config.parts if each not in ("mixup", "cutmix")):  # scored on one label
        yield key, config.model_copy(update={key: type(config).model_fields[key].default})


@check(
    threshold=(
        f"Warning: the teacher has {CAPACITY.warning:g} times the student's parameters and a third as many times its "
        f"multiply-adds, or more; from {_SURE_TIMES:g} times on where it is also sure of nearly every $image at the "
        f"recipe's temperature (median top probability of {_SURE_TEACHER} or more). Problem: {CAPACITY.problem:g} "
        f"times, or {CAPACITY.warning:g} times and so sure. The demo's student gains from a teacher 53 times its size."
    ),
    source="Mirzadeh et al., arXiv 1902.03393; Cho & Hariharan, arXiv 1910.01348: larger teachers can teach worse.",
    limits=[CAPACITY],
)
def capacity_gap(context: CheckContext) -> CheckResult:
    """Whether the student can follow a teacher of that size."""
    context.require_distillation()
    (large, work), (small, less) = context.costs["teacher"], context.costs["student"]
    times, effort = large / max(small, 1), work / max(less, 1)
    temperatures = [float(t) for term in context.teacher_losses if (t := getattr(term.config, "temperature", None))]
    tau = min(temperatures, default=1.0)
    sure = float((context.teacher_logits.double() / tau).softmax(1).amax(1).median())
    evidence = {
        "parameters": times,
        "multiply_adds": effort,
        "teacher_parameters": large,
        "student_parameters": small,
        "confidence": sure,
        "temperature": tau,
    }
    summary = f"The teacher has {times:.3g} times the student's parameters and {effort:.3g} times its multiply-adds."
    gap = min(times, 3 * effort)
    is_sure = bool(temperatures) and sure >= _SURE_TEACHER
    verdict = CAPACITY.at_least(gap)
    if is_sure and gap >= _SURE_TIMES:
        verdict = "problem" if gap >= CAPACITY.warning else "warning"
    if verdict != "ok":
        summary = f"{summary[:-1]}; its median confidence at τ = {tau:g} is {percent(sure)}."
    words = (
        "Try a teacher of intermediate size, or one trained for fewer steps; a student that follows a small teacher "
        "beats one that cannot follow a large one."
    )
    return CheckResult(verdict, summary, evidence, Remedy(words))
