"""What is wrong with a recipe, before it is trained."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stillroom.data.loader import BatchSampler
from stillroom.data.quality import measure_quality
from stillroom.data.sources import load
from stillroom.diagnose.check import Check
from stillroom.diagnose.checks.data import data_checks
from stillroom.diagnose.checks.recipe import (
    features,
    loss,
    loss_balance,
    stale_cache,
    stored_logits,
    targets,
    teacher_input,
    teacher_quality,
    temperature,
    text_input,
    training,
)
from stillroom.diagnose.checks.recipe.context import CheckContext, gather_components, open_context
from stillroom.errors import BadInput
from stillroom.losses.registry import is_custom, loss_class
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents
from stillroom.schema.diagnosis import VERDICTS, Finding
from stillroom.train.device import exact_float32, reuse_memory, threads

IMAGES = 1024
# Causes before what follows from them.
INPUT_CHECKS: tuple[Check[CheckContext], ...] = (
    teacher_input.teacher_logits,
    teacher_input.class_order,
    teacher_input.teacher_normalisation,
    teacher_input.teacher_channel_order,
    teacher_input.teacher_resize,
    teacher_input.teacher_batch_norm,
    teacher_quality.teacher_accuracy,
)
_OF_PIXELS = (teacher_input.teacher_normalisation, teacher_input.teacher_channel_order, teacher_input.teacher_resize)
_OPTION_CHECKS: tuple[Check[CheckContext], ...] = (
    loss.loss_finite,
    loss.teacher_unused,
    loss_balance.loss_balance,
    training.learning_rate,
    training.budget,
    training.student_statistics,
    training.regularisation,
)
CHECKS: tuple[Check[CheckContext], ...] = (
    *data_checks(lambda context: measure_quality(context.run_context.data)),
    stored_logits.stale_answers,
    *INPUT_CHECKS,
    teacher_quality.teacher_label_smoothing,
    temperature.teacher_confidence,
    temperature.temperature,
    *_OPTION_CHECKS,
    teacher_quality.augmentation,
    teacher_quality.disputed_labels,
    features.taps,
    features.penultimate_width,
    teacher_quality.capacity_gap,
    stale_cache.stale_cache,
)

# What a run can afford before it begins.
QUICK_CHECKS: tuple[Check[CheckContext], ...] = (*INPUT_CHECKS, *_OPTION_CHECKS)
# Images that quick checks look at: at the most, and so few that nothing would be proved by less.
_QUICK_IMAGES, _LEAST = 256, 64


def diagnose_recipe(
    recipe: Recipe,
    *,
    images: int = IMAGES,
    observer: Observer | None = None,
    components: RunComponents | None = None,
    checks: Sequence[Check[CheckContext]] = CHECKS,
    quick: bool = False,
) -> list[Finding]:
    """Check a recipe's teacher, student, data and loss without training anything.

    The teacher classifies some training images and half as many test images, with the inputs that it may have been
    trained with, too; each term of the loss is differentiated once before training.

    Args:
        recipe: what would be run.
        images: how many training images are looked at, at the most; fewer prove less.
        observer: is given the progress.
        components: the objects that the recipe names; built from it where left out.
        checks: what is checked.
        quick: leave out the input's other sizes, which can take seconds.

    Returns:
        One finding a check, problems first, causes before what follows from them. A part that is broken leaves only
        those checks skipped that need it.

    Raises:
        BadInput: the recipe names something that cannot be found, read or made, as for a run.

    Example:
        >>> from stillroom.recipe import parse_recipe
        >>> recipe = parse_recipe({"student": {"name": "mlp"}, "training": {"steps": 5, "device": "cpu"}})
        >>> [(finding.check, finding.verdict) for finding in diagnose_recipe(recipe, images=64)][0]
        ('budget', 'problem')
    """
    observer = observer or Observer()
    reuse_memory()
    found: dict[str, list[Finding]] = {}
    try:
        # As its run would: more threads than cores are free make it slower, not faster.
        with threads(recipe.training.threads), exact_float32():
            for part in _single_teachers(recipe, components):
                context = open_context(part.recipe, images=images, observer=observer, components=part.components)
                context.queries.tries_sizes = not quick
                findings = found.setdefault(part.name, [])
                chosen = [*(targets.CHECKS if context.task != "single_label" else ()), *checks]
                if context.run_context.data.train.tokens is not None and checks in (CHECKS, QUICK_CHECKS):
                    chosen = [each for each in chosen if each not in _OF_PIXELS]
                    # Causes of what the teacher's accuracy shows.
                    place = chosen.index(teacher_quality.teacher_accuracy)
                    chosen[place:place] = text_input.CHECKS
                for position, check in enumerate(chosen):
                    observer.phase("checks", position, len(chosen))
                    findings.append(part.as_of_whole(check.attempt(context)))
                observer.phase("checks", len(chosen), len(chosen))
    finally:
        observer.run_ended()
    return sorted(_merged(found), key=lambda finding: VERDICTS.index(finding.verdict))


@dataclass(frozen=True)
class _SingleTeacher:
    """A recipe of several teachers with one of them alone."""

    name: str  # the teacher's; empty where the recipe has no more
    recipe: Recipe  # with this teacher as ``teacher``
    components: RunComponents | None
    places: Sequence[int] = ()  # of each of its losses, the position in the whole recipe

    def as_of_whole(self, finding: Finding) -> Finding:
        """A finding whose remedy changes the whole recipe."""
        if not self.name or finding.remedy is None:
            return finding
        overrides = {self._key(key): value for key, value in finding.remedy.overrides.items() if key != "losses"}
        return replace(finding, remedy=replace(finding.remedy, overrides=overrides))

    def _key(self, key: str) -> str:
        first, _, rest = key.partition(".")
        if first == "teacher":
            return f"teachers.{self.name}.{rest}"
        if first == "losses":
            term, _, option = rest.partition(".")
            names = [loss.name for loss in self.recipe.losses]
            position = int(term) if term.isdecimal() else names.index(term)
            return f"losses.{self.places[position]}.{option}"
        return key


def _single_teachers(recipe: Recipe, components: RunComponents | None) -> Iterator[_SingleTeacher]:
    """The recipe with each of its teachers alone: with the losses that read it, and those that read none.

    Of a mean of teachers each member is looked at, with the losses that read the mean.
    """
    if recipe.teachers is None:
        yield _SingleTeacher("", recipe, components)
        return
    data = components.data if components is not None else load(recipe.data)
    reads = [loss.teacher or recipe.default_teacher for loss in recipe.losses]
    if components is None:
        # What a class of the user's reads is not known before it is made: it may be a teacher.
        needs = [
            loss.teacher is not None or loss_class(loss).requires.teacher or is_custom(loss) for loss in recipe.losses
        ]
    else:
        needs = [loss.requires.teacher for loss in components.losses]
    taught = {read for read, need in zip(reads, needs, strict=True) if need}
    for name, config in recipe.teachers.items():
        means = [other for other, each in recipe.teachers.items() if name in (each.members or ()) and other in taught]
        mine = name if name in taught else next(iter(means), None)
        if config.members is not None or mine is None:
            continue
        places = [place for place, read in enumerate(reads) if not needs[place] or read == mine]
        losses = tuple(recipe.losses[place].model_copy(update={"teacher": None}) for place in places)
        part = recipe.model_copy(update={"teacher": config, "teachers": None, "losses": losses})
        if components is None:
            own = gather_components(part, data, lambda text: None)
        else:
            terms = [copy.deepcopy(components.losses[place]) for place in places]
            models = {"teacher": components.teachers[name]} if name in components.teachers else {}
            own = replace(components, losses=terms, teachers=models)
        yield _SingleTeacher(name, part, own, places)


def _merged(found: Mapping[str, list[Finding]]) -> list[Finding]:
    """The findings of each teacher, check by check; what is the same for all is said once."""
    merged: list[Finding] = []
    for each in zip(*found.values(), strict=True):
        if all((one.verdict, one.summary) == (each[0].verdict, each[0].summary) for one in each):
            merged.append(each[0])
        else:
            named = zip(found, each, strict=True)
            merged += [replace(one, summary=f"Teacher {name}: {one.summary}") for name, one in named]
    return merged


def quick_line(recipe: Recipe, components: RunComponents) -> str | None:
    """What the cheap checks of a run that is about to begin find, in one line; None where they cannot be made.

    They look at no more images than a hundredth of those that the run will train on, and try no other image sizes.

    Args:
        recipe: what will be run.
        components: copies of its objects: checks may move them to the run's device.
    """
    began = time.perf_counter()
    try:
        steps = BatchSampler(len(components.data.train), recipe.data.batch_size, recipe.seed).steps_per_epoch
        images = min(recipe.training.total_steps(steps) * recipe.data.batch_size // 100, _QUICK_IMAGES)
        checks = QUICK_CHECKS if images >= _LEAST else tuple(c for c in QUICK_CHECKS if c not in INPUT_CHECKS)
        findings = diagnose_recipe(recipe, images=max(images, _LEAST), components=components, checks=checks, quick=True)
    except BadInput:  # the run itself says it
        return None
    problems = [finding for finding in findings if finding.verdict == "problem"]
    judged = sum(finding.verdict != "skipped" for finding in findings)
    seconds = f"{time.perf_counter() - began:.1f} s"
    if not problems:
        return f"checked before training: nothing wrong, as far as {judged} quick checks can tell ({seconds})"
    first = problems[0]
    more = f"; and {', '.join(each.check for each in problems[1:])}" if len(problems) > 1 else ""
    return f"checked before training ({seconds}): {first.check}: {first.summary.rstrip('.')}{more}"
