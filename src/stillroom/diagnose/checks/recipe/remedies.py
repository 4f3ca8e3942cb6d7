"""Changes as a recipe takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillroom.diagnose.checks.recipe.alternatives import explicit
from stillroom.diagnose.checks.recipe.case import Case
from stillroom.losses.base import Loss, WeightSchedule
from stillroom.losses.registry import is_custom
from stillroom.models.config import PreprocessName
from stillroom.models.preprocess import resolve_preprocess


def preprocess_override(case: Case) -> dict[str, Any]:
    """The mended teacher's preprocess as an override: by name where it has one, else by all its numbers."""
    data, wanted = case.setting.data.train, case.settled
    channels, is_pixels = data.channels, data.is_pixels
    name: PreprocessName
    for name in ("imagenet", "half", "unit", "none"):
        if (name == "imagenet" and channels != 3) or (name in ("half", "unit") and not is_pixels):
            continue
        named = resolve_preprocess(name, channels=channels, is_pixels=is_pixels)
        if explicit(named, channels, is_pixels=is_pixels) == wanted:
            return {"teacher.preprocess": name}
    numbers = wanted.model_dump(mode="json", exclude_defaults=True)
    return {"teacher.preprocess": numbers}


def key_of(case: Case, term: Loss[Any], option: str) -> str:
    """The dotted key of an option of a term of the loss, which may be the user's own."""
    place = case.losses.index(term)
    config = case.recipe.losses[place] if place < len(case.recipe.losses) else term.config
    # A name with dots in it would be taken for a path.
    where = str(place) if "." in config.name or ":" in config.name else config.name
    own = is_custom(config) and option not in ("weight", "name")
    return f"losses.{where}.options.{option}" if own else f"losses.{where}.{option}"


def scaled_weight(term: Loss[Any], factor: float) -> Any:
    """A term's weight times a factor, to two digits; a schedule keeps its shape.

    >>> from stillroom.losses.kl import KL
    >>> scaled_weight(KL(weight=300), 1 / 290)
    1.0
    """
    weight = term.config.weight
    if not isinstance(weight, WeightSchedule):
        return _two_digits(weight * factor)
    told: Mapping[str, Any] = weight.model_dump(mode="json")
    return {**told, "start": _two_digits(weight.start * factor), "end": _two_digits(weight.end * factor)}


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
