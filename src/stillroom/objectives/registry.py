"""From an objective's config to the objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from stillroom.config import bad_input
from stillroom.errors import BadInput
from stillroom.models.own import find_callable
from stillroom.objectives.base import Objective
from stillroom.objectives.blockwise import BlockLogit
from stillroom.objectives.config import CustomObjectiveConfig, ObjectiveConfig
from stillroom.objectives.features import FeatureMSE
from stillroom.objectives.gradients import FeatureFisher, FeatureFullFisher
from stillroom.objectives.labels import CrossEntropy, LabelSmoothing
from stillroom.objectives.logits import KL, LogitFisher, LogitMSE

BUILT_IN: tuple[type[Objective[Any]], ...] = (
    *(CrossEntropy, LabelSmoothing),
    *(KL, LogitMSE, LogitFisher),
    *(FeatureMSE, FeatureFisher, FeatureFullFisher),
    BlockLogit,
)
_BY_CONFIG = {objective.Config: objective for objective in BUILT_IN}


def build_objective(config: ObjectiveConfig, field: str = "objective") -> Objective[Any]:
    """Make the objective a config describes.

    Raises:
        BadInput: a module:Class of your own that cannot be imported, is no Objective, or refuses its options.

    >>> from stillroom.objectives.config import KLConfig
    >>> build_objective(KLConfig(temperature=2)).config.temperature
    2.0
    """
    if isinstance(config, CustomObjectiveConfig):
        return _build_custom(config, field)
    return _BY_CONFIG[type(config)](config)


def build_objectives(configs: Sequence[ObjectiveConfig]) -> list[Objective[Any]]:
    """Make all terms of a loss, in order."""
    return [build_objective(config, f"objectives.{position}") for position, config in enumerate(configs)]


def describe(objective: Objective[Any]) -> dict[str, Any]:
    """The recipe entry that makes this objective again."""
    dumped: dict[str, Any] = objective.config.model_dump(mode="json")
    if type(objective) in BUILT_IN:
        return dumped
    options = {key: value for key, value in dumped.items() if key not in ("name", "weight")}
    kind = type(objective)
    return {"name": f"{kind.__module__}:{kind.__qualname__}", "weight": dumped["weight"], "options": options}


def _build_custom(config: CustomObjectiveConfig, field: str) -> Objective[Any]:
    kind = find_callable(config.name, field=field)
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise BadInput(f"{field}.name", config.name, "a subclass of stillroom.Objective")
    options: dict[str, Any] = {"weight": config.weight, **config.options}
    if kind.Config.model_fields["name"].is_required():
        options["name"] = config.name.partition(":")[2]
    try:
        return kind(kind.Config.model_validate(options))
    except ValidationError as error:
        raise bad_input(error, kind.Config, f"{field}.options") from None
