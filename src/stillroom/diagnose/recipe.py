"""What is wrong with a recipe, before it is run."""

from __future__ import annotations

from collections.abc import Sequence

from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.check import Check
from stillroom.diagnose.checks.recipe.checks import CHECKS
from stillroom.diagnose.checks.recipe.opening import open_case
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.finding import VERDICTS, Finding
from stillroom.errors import format_error
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents
from stillroom.train.device import exact_float32, reuse_memory, threads

IMAGES = 1024


def diagnose_recipe(
    recipe: Recipe,
    *,
    images: int = IMAGES,
    observer: Observer | None = None,
    components: RunComponents | None = None,
    checks: Sequence[Check] = CHECKS,
) -> list[Finding]:
    """Look at a recipe's teacher, student, data and loss without training anything.

    The teacher is asked about some training images and half as many test images, in the ways that it may have been
    meant to be asked, too; each term of the loss is asked for its gradient in the student as it begins.

    Args:
        recipe: what would be run.
        images: how many training images are looked at, at the most; fewer prove less.
        observer: told how it goes.
        components: the objects that the recipe names; gathered from it where left out.
        checks: what is asked.

    Returns:
        One finding a check, from sick to skipped, causes first. A part that is broken leaves skipped those checks alone
        that need it.

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
    try:
        # As its run would: more threads than cores are free make it slower, not faster.
        with threads(recipe.training.threads), exact_float32():
            case = open_case(recipe, images=images, observer=observer, components=components)
            findings = []
            for place, check in enumerate(checks):
                observer.phase("checks", place, len(checks))
                findings.append(_examined(check, case))
            observer.phase("checks", len(checks), len(checks))
    finally:
        observer.run_ended()
    return sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict))


def _examined(check: Check, case: Case) -> Finding:
    try:
        return check.examine(case)
    except Skip as why:
        return check.found("skipped", str(why))
    except Exception as error:  # a user's model or loss can fail in any way; the other checks go on
        return check.found("skipped", f"It could not be made: {format_error(error)}")
