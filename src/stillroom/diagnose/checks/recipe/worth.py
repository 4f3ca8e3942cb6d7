"""Whether the teacher is worth listening to, and near enough to be followed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.chance import ALPHA, at_least, paired
from stillroom.diagnose.checks.recipe.check import Check, percent, require_teaching
from stillroom.diagnose.checks.recipe.mending import SICK
from stillroom.diagnose.checks.recipe.sample import Sample
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict
from stillroom.losses.registry import labels_alone

# Of one who has seen no image.
_CHANCE = 1.5
# Images after which a way to turn them that has gained nothing is given up.
_FIRST = 128
# How much larger a teacher may be: the demo's is 53 times its student and still helps it, 100 times is where the
# literature puts an assistant in between; 300 times leaves a student that cannot hold what it is told.
_TOO_MANY_TIMES, _TIMES, _SURE_TIMES = 300.0, 100.0, 30.0
_SURE = 0.95


def linear_model(train: Sample, test: Sample, classes: int) -> Tensor:
    """What a linear model of a few images' pixels says of others: ridge regression on the classes, int64 [m].

    Args:
        train: what it is fitted to.
        test: what it is asked about.
        classes: K.
    """
    x, asked = (each.images.flatten(1).double() for each in (train, test))
    mean, scale = x.mean(0), x.std(0).mean().clamp_min(1e-9)
    x, asked = (x - mean) / scale, (asked - mean) / scale
    target = torch.nn.functional.one_hot(train.labels, classes).double()
    # With fewer images than pixels, the smaller of the two systems; a tenth of the mean square keeps it from exactness.
    kernel = x @ x.T
    weight = 0.1 * kernel.diagonal().mean()
    solved = torch.linalg.solve(kernel + weight * torch.eye(len(x), dtype=x.dtype), target - target.mean(0))
    said: Tensor = asked @ x.T @ solved + target.mean(0)
    return said.argmax(1)


class TeacherAccuracy(Check):
    """Whether the teacher knows more than is to be had for nothing."""

    name = "teacher_accuracy"
    threshold = (
        f"Sick: on test images the teacher is not above {_CHANCE:g} times chance (99.9% bound), or it has fewer "
        "right than a linear model of the sample's pixels, beyond chance on the same images. What labels alone "
        "would give a student is not known before it is trained; a linear model of a few images is far below it. Sick, "
        f"too: of images turned or mirrored it has {percent(SICK)} more right, by more than chance."
    )
    source = "A student follows its teacher's errors as well."

    def examine(self, case: Case) -> Finding:
        """Score the teacher on test images, beside a linear model."""
        require_teaching(case)
        labels, count = case.test.labels, len(case.test)
        right = case.test_logits.argmax(1) == labels
        correct = int(right.sum())
        chance = float(torch.bincount(labels, minlength=case.classes).max()) / count
        simple = linear_model(case.sample, case.test, case.classes) == labels
        evidence: dict[str, Any] = {
            "test_accuracy": correct / count,
            "test_images": count,
            "training_accuracy": case.accuracy,
            "linear_model": int(simple.sum()) / count,
            "chance": chance,
        }
        share = percent(correct / count)
        words = "Take a teacher that has learned this task; learn from labels until there is one."
        remedy = Remedy(words, {"losses": labels_alone()})
        names = ("teacher", "linear model", "chance")
        shares = (100 * correct / count, 100 * evidence["linear_model"], 100 * chance)
        plot = Plot("bars", "Right on test images", names, tuple(round(s, 2) for s in shares), "", "right, %")
        if at_least(correct, count) <= _CHANCE * chance:
            told = f"The teacher has {share} of {count:,} test images right; chance is {percent(chance)}."
            return self.found("problem", told, evidence, remedy, [plot])
        if paired(int((simple & ~right).sum()), int((right & ~simple).sum())) < ALPHA:
            told = (
                f"The teacher has {share} of {count:,} test images right, less than a linear model of "
                f"{len(case.sample):,} images' pixels ({percent(evidence['linear_model'])})."
            )
            return self.found("problem", told, evidence, remedy, [plot])
        turned = _turned(case)
        if turned is not None:
            name, before, after, images = turned
            evidence |= {"turned": name, "accuracy_turned": after / images, "accuracy_as_they_are": before / images}
            told = (
                f"The teacher has {percent(before / images)} of {images:,} training images right as they are, and "
                f"{percent(after / images)} {name}: it has learned to see them so."
            )
            words = "Store the images as the teacher was trained to see them, or take a teacher of images like these."
            return self.found("problem", told, evidence, Remedy(words), [plot])
        return self.found("ok", f"The teacher has {share} of {count:,} test images right.", evidence, plots=[plot])


def _turned(case: Case) -> tuple[str, int, int, int] | None:
    """A way to turn the images after which the teacher has many more right: its name, before, after, of how many."""
    images, labels = case.sample.images, case.sample.labels
    right = case.teacher_logits.argmax(1) == labels
    if images.ndim != 4 or 1 - float(right.double().mean()) < SICK:
        return None
    ways = {"upside down": images.flip(2), "mirrored": images.flip(3), "turned by a half": images.flip(2, 3)}
    if images.shape[2] == images.shape[3]:
        ways["turned by a quarter, to the left"] = images.rot90(1, (2, 3))
        ways["turned by a quarter, to the right"] = images.rot90(3, (2, 3))
        ways["with rows for columns"] = images.transpose(2, 3)
    reading, best = case.mended.reading, None
    for name, turned in ways.items():
        for count in sorted({min(_FIRST, len(images)), len(images)}):
            said = case.ask(reading.model, reading.preprocess, turned[:count], f"images {name}")
            now, before = case.mended.named(said).argmax(1) == labels[:count], right[:count]
            gain = (int(now.sum()) - int(before.sum())) / count
            if gain < SICK:
                break
            p = paired(int((now & ~before).sum()), int((before & ~now).sum()))
            if count == len(images) and p < ALPHA / len(ways) and (best is None or int(now.sum()) > best[2]):
                best = (name, int(before.sum()), int(now.sum()), count)
    return best


class CapacityGap(Check):
    """Whether the student can follow a teacher of that size."""

    name = "capacity_gap"
    threshold = (
        f"Suspect: the teacher has {_TIMES:g} times the student's parameters and a third as many times its "
        f"multiply-adds, or more; from {_SURE_TIMES:g} times on where it is also sure of nearly every image at the "
        f"recipe's temperature (middle top probability of {_SURE} or more). Sick: {_TOO_MANY_TIMES:g} times, or "
        f"{_TIMES:g} times and so sure. The demo's student gains from a teacher of 53 times its size."
    )
    source = "Mirzadeh et al., arXiv 1902.03393; Cho & Hariharan, arXiv 1910.01348: larger teachers can teach worse."

    def examine(self, case: Case) -> Finding:
        """Compare sizes."""
        require_teaching(case)
        (large, work), (small, less) = case.costs["teacher"], case.costs["student"]
        times, effort = large / max(small, 1), work / max(less, 1)
        temperatures = [float(t) for term in case.teaching if (t := getattr(term.config, "temperature", None))]
        tau = min(temperatures, default=1.0)
        sure = float((case.teacher_logits.double() / tau).softmax(1).amax(1).median())
        evidence = {
            "parameters": times,
            "multiply_adds": effort,
            "teacher_parameters": large,
            "student_parameters": small,
            "confidence": sure,
            "temperature": tau,
        }
        told = f"The teacher has {times:.3g} times the student's parameters and {effort:.3g} times its multiply-adds."
        far = min(times, 3 * effort)
        sharp = bool(temperatures) and sure >= _SURE
        verdict: Verdict = "ok"
        if far >= _TOO_MANY_TIMES or (far >= _TIMES and sharp):
            verdict = "problem"
        elif far >= _TIMES or (far >= _SURE_TIMES and sharp):
            verdict = "warning"
        if verdict != "ok":
            told = f"{told[:-1]}; its middle confidence at τ = {tau:g} is {percent(sure)}."
        words = (
            "Try a teacher in between, or one of fewer steps; a student that follows a small teacher closely beats "
            "one that follows a large one from afar."
        )
        return self.found(verdict, told, evidence, Remedy(words))
