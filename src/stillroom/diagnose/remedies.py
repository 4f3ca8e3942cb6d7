"""Recipe overrides that remedies consist of: the path of a loss term's option, its weight, a usual value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stillroom.losses.base import LossConfig, WeightSchedule
from stillroom.losses.registry import is_custom
from stillroom.recipe import Recipe
from stillroom.train.config import ScheduleConfig
from stillroom.train.optimisation import lr_factor

# Rates that most students learn at, by optimizer; those of sgd are for a momentum of .9.
USUAL_RATE = {"sgd": 0.1, "adamw": 1e-3}
# Steps that a schedule is looked at.
_SAMPLED = 1000
# What a step forgets of a weight, rate times decay: usual is .1 times 5e-4.
USUAL_FORGETTING = 5e-5


def option_path(losses: Sequence[LossConfig], position: int, option: str) -> str:
    """The dotted path of an option of a loss term, as recipe overrides take it.

    Args:
        losses: the terms of a recipe.
        position: which of them.
        option: a field of the term, or an option of the user's own loss.

    >>> from stillroom.recipe import parse_recipe
    >>> losses = [{"name": "kl"}, {"name": "my.module:Loss", "options": {"scale": 2}}]
    >>> recipe = parse_recipe({"student": {"name": "mlp"}, "teacher": {"name": "mlp"}, "losses": losses})
    >>> option_path(recipe.losses, 0, "weight"), option_path(recipe.losses, 1, "scale")
    ('losses.kl.weight', 'losses.1.options.scale')
    """
    term = losses[position]
    # A path is split at its dots, so that a module's name cannot stand in one; nor can a name that two terms have.
    is_name = not {".", ":"} & set(term.name) and sum(each.name == term.name for each in losses) == 1
    key = term.name if is_name else str(position)
    inner = "options." if is_custom(term) and option not in type(term).model_fields else ""
    return f"losses.{key}.{inner}{option}"


def path_in(recipe: Recipe, name: str, option: str) -> str:
    """The same, for a term known by its key."""
    keys = [term.key for term in recipe.losses]
    return option_path(recipe.losses, keys.index(name), option)


def scaled_weight(config: LossConfig, factor: float) -> Any:
    """A term's weight times a factor, to two digits; a schedule keeps its shape.

    >>> from stillroom.losses.kl import KLConfig
    >>> scaled_weight(KLConfig(weight=300), 1 / 290)
    1.0
    """
    weight = config.weight
    if not isinstance(weight, WeightSchedule):
        return two_digits(weight * factor)
    content: dict[str, Any] = weight.model_dump(mode="json")
    return {**content, "start": two_digits(weight.start * factor), "end": two_digits(weight.end * factor)}


def mean_weight(config: LossConfig) -> float:
    """A term's weight; of a scheduled one the mean over the training.

    >>> from stillroom.losses.kl import KLConfig
    >>> mean_weight(KLConfig(weight=WeightSchedule(start=0, end=1)))
    0.5
    """
    if not config.has_schedule:
        return float(config.weight_at(0.0))
    steps = 20
    ends = (config.weight_at(0.0) + config.weight_at(1.0)) / 2
    return round((ends + sum(config.weight_at(step / steps) for step in range(1, steps))) / steps, 6)


def taught_weight(config: LossConfig, schedule: ScheduleConfig, total: int) -> float:
    """A term's weight over the training, each step by its learning rate: what comes when the rate is low moves nothing.

    >>> from stillroom.losses.kl import KLConfig
    >>> late = KLConfig(weight=WeightSchedule(start=0, end=1, begin=0.9))
    >>> taught_weight(late, ScheduleConfig(), 1000) < mean_weight(late) / 10
    True
    """
    if not config.has_schedule:
        return mean_weight(config)
    steps = range(0, total, max(total // _SAMPLED, 1))
    rates = [lr_factor(schedule, step, total) for step in steps]
    weights = [config.weight_at(step / total) for step in steps]
    whole = sum(rates)
    return sum(rate * weight for rate, weight in zip(rates, weights, strict=True)) / whole if whole else 0.0


def usual_decay(lr: float) -> float:
    """A weight decay that is usual at a learning rate, to one digit.

    >>> usual_decay(0.1)
    0.0005
    """
    return float(f"{USUAL_FORGETTING / lr:.1g}")


def two_digits(value: float) -> float:
    """A number to two significant digits."""
    return float(f"{value:.2g}")
