"""Whether the teacher gets the input that it was trained with: normalisation, channel order, size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.check import Check, percent
from stillroom.diagnose.checks.recipe.mending import SICK, SUSPECT, Kind, Trial
from stillroom.diagnose.checks.recipe.remedies import preprocess_override
from stillroom.diagnose.finding import Finding, Plot, Remedy

_THRESHOLD = (
    f"Sick: asked in another way the teacher has {percent(SICK)} of the images more right, suspect "
    f"{percent(SUSPECT)}; and chance alone does that less than once in a thousand (McNemar's exact test on the same "
    "images, divided by the number of ways tried). A teacher that its own input reaches moves by less than a point "
    "between near normalisations."
)


class InputCheck(Check):
    """One way to change the teacher's input, judged by how many images it then has right.

    Attributes:
        kind: what of the input it is about.
        what: that, in words.
        words: what to do.
        nothing: why there may be nothing to try.
    """

    kind: ClassVar[Kind]
    what: ClassVar[str]
    words: ClassVar[str]
    nothing: ClassVar[str]
    threshold = _THRESHOLD

    def examine(self, case: Case) -> Finding:
        """Whether some other input serves the teacher better."""
        case.require_named()
        mending = case.mending
        taken, trials = mending.taken(self.kind), mending.trials.get(self.kind, ())
        now = mending.accuracy if not mending.changes else self._before(trials)
        tried = [trial for trial in trials if trial.images]
        evidence = {
            "accuracy": now,
            "images": mending.images,
            "alternatives": {trial.name: trial.correct / trial.images for trial in tried},
            "images_of_alternatives": {trial.name: trial.images for trial in tried},
            "not_tried": {trial.name: trial.why_not for trial in trials if trial.why_not},
        }
        if taken is None:
            return self._healthy(case, tried, trials, evidence)
        before, after = taken.before / taken.images, taken.correct / taken.images
        remedy = Remedy(self.words, preprocess_override(case))
        told = (
            f"The teacher has {percent(before)} of {taken.images:,} training images right as the recipe asks it, and "
            f"{percent(after)} with {self.what} {taken.name}."
        )
        evidence |= {"best": taken.name, "gain": taken.gain, "p": taken.p}
        verdict = "problem" if taken.gain >= SICK else "warning"
        return self.found(verdict, told, evidence, remedy, self._plot(before, tried))  # type: ignore[arg-type]

    def _healthy(
        self, case: Case, tried: Sequence[Trial], trials: Sequence[Trial], evidence: dict[str, object]
    ) -> Finding:
        accuracy, reasons = case.mending.accuracy, [trial.why_not for trial in trials if trial.why_not]
        if not trials and not case.mending.changes and 1 - accuracy < SUSPECT:
            told = (
                f"The teacher has {percent(accuracy)} of {case.mending.images:,} training images right as it is asked."
            )
            return self.found("ok", told, evidence)
        if not tried:
            return self.found("skipped", f"{self.nothing}{f': {reasons[0]}' if reasons else ''}.", evidence)
        best = max(tried, key=lambda trial: trial.gain)
        told = (
            f"No other {self.what} serves the teacher better: {best.name} changes its accuracy by "
            f"{100 * best.gain:+.1f} points."
        )
        return self.found("ok", told, evidence, plots=self._plot(self._before(tried), tried))

    def _before(self, trials: Sequence[Trial]) -> float:
        tried = [trial for trial in trials if trial.images]
        largest = max(tried, key=lambda trial: trial.images, default=None)
        return largest.before / largest.images if largest is not None else 0.0

    def _plot(self, before: float, tried: Sequence[Trial]) -> list[Plot]:
        names = ("as it is", *(trial.name for trial in tried))
        shares = (100 * before, *(100 * trial.correct / trial.images for trial in tried))
        title = f"The teacher's accuracy by {self.what}"
        return [Plot("bars", title, names, tuple(round(s, 2) for s in shares), self.what, "right, %")]


class TeacherNormalisation(InputCheck):
    """Whether pixels are normalised as when the teacher was trained."""

    name = "teacher_normalisation"
    kind = "normalisation"
    what = "normalisation"
    words = "Normalise the teacher's input as when it was trained."
    nothing = "No other normalisation could be tried"
    source = "A network is only the function it was trained to be on inputs of the scale that it was trained with."


class TeacherChannelOrder(InputCheck):
    """Whether colours come in the order that the teacher was trained with."""

    name = "teacher_channel_order"
    kind = "channel_order"
    what = "channel order"
    words = "Give the teacher its channels in the order that it was trained with."
    nothing = "The images have no colours to change places"
    source = "OpenCV and Caffe read images as BGR, most else as RGB; weights do not say which they are for."


class TeacherResize(InputCheck):
    """Whether images come at the size that the teacher was trained with."""

    name = "teacher_resize"
    kind = "resize"
    what = "size"
    words = "Give the teacher images of the size that it was trained with."
    nothing = "No other size could be tried"
    source = "Convolutions take images of any size, and know objects at the scale that they were trained with."
