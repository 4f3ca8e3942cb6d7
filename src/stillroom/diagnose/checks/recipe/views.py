"""Whether the teacher still knows the images after they were augmented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillroom.data.config import AugmentationConfig
from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.chance import ALPHA, paired
from stillroom.diagnose.checks.recipe.check import Check, percent, require_teaching
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict

# Points of accuracy that augmentation may cost a teacher: its own training's costs one or two.
_SUSPECT, _SICK = 0.10, 0.25
# Images after which nothing more is asked where little was lost.
_FIRST = 256


class Augmentation(Check):
    """Whether the teacher has seen such views when it was trained."""

    name = "augmentation"
    threshold = (
        f"Suspect: the teacher has {_SUSPECT:.0%} fewer of the images right once they are augmented, sick "
        f"{_SICK:.0%}, beyond chance on the same images. A teacher loses a point or two to the augmentation that it "
        "was trained with itself."
    )
    source = "What a teacher says of views that it has never seen is a guess, and is taught as if it were knowledge."

    def examine(self, case: Case) -> Finding:
        """Ask it about augmented views of the sample's images."""
        require_teaching(case)
        config = case.recipe.data.augmentation
        if not config.changes:
            return self.found("ok", "Nothing is done to the training images.")
        right = case.teacher_logits.argmax(1) == case.sample.labels
        count = min(_FIRST, len(case.sample))
        lost, p, accuracy = self._lost(case, config, count)
        if lost >= _SUSPECT and count < len(case.sample):
            count = len(case.sample)
            lost, p, accuracy = self._lost(case, config, count)
        plain = float(right[:count].double().mean())
        evidence: dict[str, Any] = {"accuracy": plain, "augmented": accuracy, "lost": lost, "p": p, "images": count}
        sick = p < ALPHA and lost >= _SUSPECT
        verdict: Verdict = "ok" if not sick else "problem" if lost >= _SICK else "warning"
        told = (
            f"Augmentation costs the teacher {100 * lost:.1f} points: {percent(accuracy)} of {count:,} images right, "
            f"{percent(plain)} without."
        )
        if not sick:
            return self.found("ok", told, evidence)
        parts = {key: self._lost(case, without, min(count, _FIRST))[2] for key, without in _less(config)}
        evidence["without"] = parts
        best = max(parts, key=lambda key: parts[key])
        words = f"Leave out what the teacher has never seen ({best}), or take a teacher that was trained with it."
        value: Any = False if best == "flip" else 0
        names = ("plain", "augmented", *(f"without {key}" for key in parts))
        shares = tuple(round(100 * share, 2) for share in (plain, accuracy, *parts.values()))
        plot = Plot("bars", "The teacher's accuracy on augmented images", names, shares, "", "right, %")
        return self.found(verdict, told, evidence, Remedy(words, {f"data.augmentation.{best}": value}), [plot])

    def _lost(self, case: Case, config: AugmentationConfig, count: int) -> tuple[float, float, float]:
        """The share of images lost, how likely chance does that, and the accuracy that is left."""
        labels = case.sample.labels[:count]
        right = case.teacher_logits[:count].argmax(1) == labels
        if not config.changes:
            return 0.0, 1.0, float(right.double().mean())
        now = case.on_views(config, count).argmax(1) == labels
        p = paired(int((right & ~now).sum()), int((now & ~right).sum()))
        accuracy = float(now.double().mean())
        return float(right.double().mean()) - accuracy, p, accuracy


def _less(config: AugmentationConfig) -> Iterator[tuple[str, AugmentationConfig]]:
    """The augmentation without each of its parts."""
    nothing: dict[str, Any] = {"pad_crop": 0, "flip": False, "cutout": 0}
    for key, off in nothing.items():
        if getattr(config, key):
            yield key, config.model_copy(update={key: off})
