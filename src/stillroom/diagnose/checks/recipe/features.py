"""Whether features are compared where they can be: wide enough, and at places that stand opposite each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.check import Check, require_teaching
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.checks.recipe.remedies import key_of
from stillroom.diagnose.finding import Finding, Remedy, Verdict
from stillroom.losses.base import Loss
from stillroom.models.config import ZOO
from stillroom.models.modes import eval_mode
from stillroom.models.reader import FEATURES, LOGITS, PRE
from stillroom.models.taps import Tap

# Shares of a model's work that two places may be apart.
_APART, _FAR = 0.25, 0.5


def _reading(case: Case) -> list[Loss[Any]]:
    require_teaching(case)
    found = [term for term in case.losses if term.pairs]
    if not found:
        raise Skip("No term of the loss compares features.")
    return found


@torch.no_grad()
def last_width(model: nn.Module, example: Tensor) -> int | None:
    """How many numbers the linear layer is given that makes the logits; None where no such layer is called.

    >>> last_width(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)), torch.zeros(2, 4))
    7
    """
    called: list[nn.Linear] = []
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [each.register_forward_hook(lambda module, given, answer: called.append(module)) for each in linear]
    try:
        with eval_mode(model):
            columns = model(example).shape[-1]
    finally:
        for handle in handles:
            handle.remove()
    return next((each.in_features for each in reversed(called) if each.out_features == columns), None)


class PenultimateWidth(Check):
    """Whether the features before the last layer have room for what the logits say."""

    name = "penultimate_width"
    threshold = (
        "Suspect: the student's features before the last layer have fewer dimensions than are taught, K − 1 or the "
        "teacher's if that is less; sick: fewer than half of that. Through a linear last layer, what the logits can "
        "differ in has no more dimensions than the features have. A ResNet-8 of cifar100-part under a teacher of 64 "
        "had 13% with 8, 24% with 24, 28% with 64 and 30% with 160 (kl); plain features lost more."
    )
    source = "Hsu et al., arXiv 2203.10163: enough feature dimensions are crucial."

    def examine(self, case: Case) -> Finding:
        """Count dimensions."""
        term, other, width = self._narrowest(case)
        needed = case.classes - 1
        room = min(needed, other)
        evidence = {"student": width, "teacher": other, "needed": needed, "term": term}
        verdict: Verdict = "ok"
        if width < room:
            verdict = "problem" if width < room / 2 else "warning"
        told = (
            f"The student's features have {width:,} dimensions and the teacher's {other:,}; the logits differ in "
            f"{needed:,}."
        )
        words = f"Give the student features of {room:,} dimensions or more before its last layer."
        return self.found(verdict, told, evidence, Remedy(words, self._wider(case, room)))

    def _narrowest(self, case: Case) -> tuple[str, int, int]:
        """The term, and how wide the features before the last layer of teacher and student are that it goes by."""
        require_teaching(case)
        pairs = [
            (term.name, teacher.shape[-1], student.shape[-1])
            for term in case.teaching
            for teacher, student in term.pairs
            if FEATURES in (teacher.name, student.name)
        ]
        if pairs:
            return min(pairs, key=lambda row: row[2])
        # Also who learns from logits alone can only say what its features have room for.
        example = case.sample.images[:2]
        student = last_width(case.student_copy(), case.student.preprocess()(example).to(case.setting.device))
        if student is None:
            raise Skip("Nobody knows which features are before the student's last layer.")
        teacher = last_width(case.teacher.model, case.teacher.preprocess()(example).to(case.setting.device))
        return case.teaching[0].name, teacher or case.classes - 1, student

    def _wider(self, case: Case, room: int) -> dict[str, Any]:
        config = case.recipe.student
        if config.name in ZOO and "penultimate" in ZOO[config.name].options.model_fields:
            return {"student.options.penultimate": room}
        hidden = config.options.get("hidden")
        if config.name == "mlp" and isinstance(hidden, list | tuple) and hidden:
            return {"student.options.hidden": [*hidden[:-1], room]}
        return {}


class Taps(Check):
    """Whether taps named by hand stand opposite each other."""

    name = "taps"
    threshold = (
        f"Depth is the share of a model's multiply-adds done by then. Sick: a pair named by hand is {_FAR:.0%} of "
        "the depth or more apart, or of two resolutions, where the student has a place that fits better; or two "
        f"pairs cross. Suspect: {_APART:.0%} apart where a nearer place is there. Pairs that were found by "
        "themselves are not judged."
    )
    source = "A connector maps what is there; what a later layer has not worked out yet it cannot map."

    def examine(self, case: Case) -> Finding:
        """Compare the pairs with those that are found."""
        worst: tuple[int, str, Loss[Any]] | None = None
        judged = []
        for term in _reading(case):
            if isinstance(term.config.taps, str):
                continue
            for place, (teacher, student) in enumerate(term.pairs):
                rank, why = self._pair(case, teacher, student)
                crossed = any((teacher.depth - t.depth) * (student.depth - s.depth) < 0 for t, s in term.pairs[:place])
                if crossed:
                    rank, why = 2, f"{teacher.name} and {student.name} cross another pair"
                judged.append(
                    {"teacher": teacher.name, "student": student.name, "apart": abs(teacher.depth - student.depth)}
                )
                if worst is None or rank > worst[0]:
                    worst = rank, why, term
        if worst is None:
            raise Skip("All taps were found by themselves.")
        rank, why, term = worst
        verdict: Verdict = ("ok", "warning", "problem")[rank]
        told = f"{term.name} compares {why}." if rank else "The taps that were named stand opposite each other."
        return self.found(verdict, told, {"pairs": judged}, self._remedy(case, term))

    def _pair(self, case: Case, teacher: Tap, student: Tap) -> tuple[int, str]:
        """How bad a pair is, 0 to 2, and why."""
        apart = abs(teacher.depth - student.depth)
        name = teacher.name.removesuffix(PRE)
        opposite = {t.name: s for t, s in case.setup_context.pairs}.get(name)
        better = opposite or min(
            (tap for tap in case.setup_context.student.taps if tap.name != LOGITS),
            key=lambda tap: abs(tap.depth - teacher.depth),
        )
        if better.name == student.name.removesuffix(PRE):
            return 0, ""
        gain = apart - abs(teacher.depth - better.depth)
        sizes = teacher.resolution, student.resolution
        told = f"{teacher.name} with {student.name}, {apart:.0%} of the depth apart"
        if None not in sizes and sizes[0] != sizes[1]:
            told = f"{told} and {_side(teacher)} against {_side(student)} pixels"
            if better.resolution == teacher.resolution:
                return 2, told
        if gain <= 0:
            return 0, ""
        return (2 if apart >= _FAR else 1 if apart >= _APART else 0), told

    def _remedy(self, case: Case, term: Loss[Any]) -> Remedy:
        opposite = {t.name: s.name for t, s in case.setup_context.pairs if t.name != LOGITS}
        wanted = list(dict.fromkeys(t.name.removesuffix(PRE) for t, _ in term.pairs))
        if all(name in opposite for name in wanted):
            pairs = [{"teacher": name, "student": opposite[name]} for name in wanted]
            return Remedy(
                "Compare each of the teacher's places with the student's opposite it.",
                {key_of(case, term, "taps"): pairs},
            )
        return Remedy("Let the taps be found.", {key_of(case, term, "taps"): "all"})


def _side(tap: Tap) -> str:
    return "×".join(map(str, tap.resolution or ()))
