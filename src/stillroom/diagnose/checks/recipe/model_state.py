"""Whether the teacher's own parts still fit its weights: running statistics, classes, the form of its answer."""

from __future__ import annotations

from typing import Any

import torch

from stillroom.diagnose.checks.recipe.alternatives import has_running_statistics
from stillroom.diagnose.checks.recipe.case import Case, form_of
from stillroom.diagnose.checks.recipe.check import Check, percent
from stillroom.diagnose.checks.recipe.mending import SICK, SUSPECT
from stillroom.diagnose.checks.recipe.remedies import preprocess_override
from stillroom.diagnose.finding import Finding, Plot, Remedy

# Images that are asked about twice, in other company; so many at a time the second time.
_TWICE, _FEW = 64, 8
# How far the answer to an image may move, of the spread of its logits: bfloat16 moves it by a hundredth at the most,
# statistics of eight images of one class by about a half.
_MOVES = 0.1


class TeacherBatchNorm(Check):
    """Whether the teacher's running statistics are those of its input, and it goes by them."""

    name = "teacher_batch_norm"
    threshold = (
        f"Sick: with statistics taken anew from one batch of the training images the teacher has {percent(SICK)} "
        f"more of them right than with those it remembers, suspect {percent(SUSPECT)}; by more than chance, as for "
        "its input. Statistics of a few hundred images are a little worse than good running ones, never better by "
        f"points. Sick, too: in other company the answers to {_TWICE} images move by {_MOVES:g} of the spread of their "
        "logits (middle image): in evaluation mode they move by rounding alone."
    )
    source = "Ioffe & Szegedy, arXiv 1502.03167: in evaluation mode a network normalises by what it remembers."

    def examine(self, case: Case) -> Finding:
        """Ask about the same images in other company; compare running statistics with those of a batch."""
        moves, again = self._moved(case)
        if max(moves, again) >= _MOVES:
            evidence = {"moved_by_company": moves, "moved_by_chance": again, "images": min(_TWICE, len(case.sample))}
            told = "The teacher's answer to an image depends on the other images of its batch"
            if again >= _MOVES:
                told = "The teacher answers the same images differently each time"
            told += f": it moves by {percent(max(moves, again))} of the spread of its logits."
            words = (
                "Bring it into evaluation mode: its batch norms or dropout are still in training mode, or its batch "
                "norms keep no running statistics."
            )
            return self.found("problem", told, evidence, Remedy(words))
        mending = case.mending
        if not has_running_statistics(case.teacher.model):
            return self.found("ok", "The teacher remembers no batch statistics.")
        case.require_named()
        taken = mending.taken("batch_norm")
        trials = mending.trials.get("batch_norm", ())
        if taken is not None:
            before, after = taken.before / taken.images, taken.correct / taken.images
            told = (
                f"The teacher's running statistics have drifted: {percent(before)} of {taken.images:,} training images "
                f"right with them, {percent(after)} with statistics of one batch."
            )
            words = (
                "Take its running statistics anew (momentum None, training mode, a few hundred training images, no "
                "optimizer) and save it; or use weights whose statistics were kept."
            )
            names = ("running statistics", "batch statistics")
            plot = Plot(
                "bars", "The teacher's accuracy by statistics", names, (100 * before, 100 * after), "", "right, %"
            )
            evidence = {"accuracy": before, "with_batch_statistics": after, "images": taken.images, "p": taken.p}
            verdict = "problem" if taken.gain >= SICK else "warning"
            return self.found(verdict, told, evidence, Remedy(words), [plot])  # type: ignore[arg-type]
        if not trials:
            told = f"With its running statistics the teacher has {percent(mending.accuracy)} of the images right."
            return self.found("ok", told, {"accuracy": mending.accuracy, "images": mending.images})
        trial = trials[0]
        if not trial.images:
            return self.found("skipped", f"Batch statistics could not be tried: {trial.why_not}.")
        told = f"Statistics of one batch change the teacher's accuracy by {100 * trial.gain:+.1f} points, no more."
        if trial.gain >= SUSPECT:
            told = "Statistics of one batch would undo a wrong input as well; what is wrong is told beside this."
        shares = {"accuracy": trial.before / trial.images, "with_batch_statistics": trial.correct / trial.images}
        return self.found("ok", told, {**shares, "images": trial.images})

    def _moved(self, case: Case) -> tuple[float, float]:
        """How far answers move in other company, and when asked again; in spreads of the logits, the middle image."""
        images = case.sample.images[:_TWICE]
        given = case.given.reading
        first = given.first(len(images)).double()
        # Those of a class together, a few at a time.
        order = torch.argsort(case.sample.labels[:_TWICE], stable=True)
        other = torch.cat([case.ask(given.model, given.preprocess, images[o], "") for o in torch.split(order, _FEW)])
        twice = [case.ask(given.model, given.preprocess, images, "").double() for _ in range(2)]
        scale = first.std(1).clamp_min(1e-6)

        def moved(one: torch.Tensor, two: torch.Tensor, rows: torch.Tensor) -> float:
            return float(((one - two).abs().amax(1) / scale[rows]).median())

        everything = torch.arange(len(images))
        return moved(other.double(), twice[0][order], order), moved(twice[0], twice[1], everything)


class ClassOrder(Check):
    """Whether the teacher's logits mean the classes that the data mean."""

    name = "class_order"
    threshold = (
        f"Sick: with its logits in another order, found on one half of the images, the teacher has {percent(SICK)} "
        f"more of the other half right, suspect {percent(SUSPECT)}, by more than chance; or it has another number of "
        "logits than the data have classes."
    )
    source = "Labels are numbers; two lists of the same names in another order agree on none of them."

    def examine(self, case: Case) -> Finding:
        """Assign columns to classes, and see whether the recipe's order is the one that fits."""
        teacher, mending = case.teacher, case.mending
        taken = mending.taken("class_order")
        evidence: dict[str, Any] = {"columns": case.columns, "classes": case.classes, "images": mending.images}
        preprocess = teacher.preprocess_config
        fits = case.columns == case.classes or (preprocess is not None and preprocess.class_order)
        if taken is None and not fits:
            told = (
                f"The teacher has {case.columns:,} logits for {case.classes:,} classes, and no order of them fits "
                "the labels."
            )
            return self.found("problem", told, evidence, Remedy("Take a teacher of these classes."))
        if taken is None:
            trials = mending.trials.get("class_order", ())
            told = "The teacher's logits are in the data's order of classes."
            if trials and trials[0].images:
                told = (
                    f"No other order of the classes serves better: {100 * trials[0].gain:+.1f} points on images it "
                    "was not found on."
                )
            return self.found("ok", told, evidence)
        before, after = taken.before / taken.images, taken.correct / taken.images
        order = case.settled.class_order
        moved = [c for c, column in enumerate(order or range(case.classes)) if column != self._now(case, c)]
        evidence |= {"accuracy": before, "reordered": after, "gain": taken.gain, "p": taken.p, "moved": moved}
        told = (
            f"The teacher's logits are in another order than the data's classes: {percent(before)} of "
            f"{taken.images:,} images right as they are, {percent(after)} reordered."
        )
        if not fits:
            told = (
                f"The teacher has {case.columns:,} logits for {case.classes:,} classes; the columns that fit have "
                f"{percent(after)} of the images right."
            )
        words = "Name for each class the logit that means it."
        remedy = Remedy(words, preprocess_override(case))
        plot = Plot(
            "bars", "The teacher's accuracy", ("as it is", "reordered"), (100 * before, 100 * after), "", "right, %"
        )
        verdict = "problem" if taken.gain >= SICK or not fits else "warning"
        return self.found(verdict, told, evidence, remedy, [plot])  # type: ignore[arg-type]

    def _now(self, case: Case, position: int) -> int:
        config = case.teacher.preprocess_config
        order = config.class_order if config is not None else None
        return order[position] if order is not None else position


class TeacherLogits(Check):
    """Whether the models give logits, not what becomes of them."""

    name = "teacher_logits"
    threshold = (
        "Sick: all answers are 0 or more and each image's sum to 1 within a hundredth, as after a softmax, or none is "
        "below 0 or above 1, as after a sigmoid. The softmax that every loss takes of them then sees numbers between 0 "
        "and 1: nearly the same for all classes, at any temperature of 1 or more."
    )
    source = "A softmax of a softmax."

    def examine(self, case: Case) -> Finding:
        """Look at the sums and the ends of a few answers."""
        student = case.student_copy().eval()
        pipe = case.student.preprocess().to(case.setting.device)
        with torch.no_grad():
            said = student(pipe(case.sample.images[:16].to(case.setting.device)))
        has_model = case.recipe.teacher is not None and case.recipe.teacher.logits is None
        forms = {"teacher": case.form if has_model else None, "student": form_of(said)}
        evidence = {f"{who}_gives": form for who, form in forms.items()}
        for who, form in forms.items():
            if form in ("probabilities", "sigmoids"):
                layer = "softmax" if form == "probabilities" else "sigmoid"
                why = "each image's answers sum to 1" if form == "probabilities" else "all answers lie between 0 and 1"
                told = f"The {who} gives {form} where logits belong: {why}."
                words = f"Take the {layer} out of the model: losses take a softmax themselves."
                return self.found("problem", told, evidence, Remedy(words))
        return self.found("ok", "Both models give logits.", evidence)
