"""From a loss's config to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from stillroom.config import bad_input
from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.losses.blockwise import BlockLogit
from stillroom.losses.config import CustomLossConfig, LossConfig
from stillroom.losses.features import FeatureMSE
from stillroom.losses.fisher import FeatureFisher, FeatureFullFisher
from stillroom.losses.labels import CrossEntropy, LabelSmoothing
from stillroom.losses.logits import KL, LogitFisher, LogitMSE
from stillroom.models.custom import find_callable

BUILT_IN: tuple[type[Loss[Any]], ...] = (
    *(CrossEntropy, LabelSmoothing),
    *(KL, LogitMSE, LogitFisher),
    *(FeatureMSE, FeatureFisher, FeatureFullFisher),
    BlockLogit,
)
_BY_CONFIG = {loss.Config: loss for loss in BUILT_IN}


def build_loss(config: LossConfig, field: str = "loss") -> Loss[Any]:
    """Make the loss a config describes.

    Raises:
        BadInput: a module:Class of your own that cannot be imported, is no Loss, or refuses its options.

    >>> from stillroom.losses.config import KLConfig
    >>> build_loss(KLConfig(temperature=2)).config.temperature
    2.0
    """
    if isinstance(config, CustomLossConfig):
        return _build_custom(config, field)
    return _BY_CONFIG[type(config)](config)


def build_losses(configs: Sequence[LossConfig]) -> list[Loss[Any]]:
    """Make all terms of a loss, in order."""
    return [build_loss(config, f"losses.{position}") for position, config in enumerate(configs)]


def describe(loss: Loss[Any]) -> dict[str, Any]:
    """The recipe entry that makes this loss again."""
    dumped: dict[str, Any] = loss.config.model_dump(mode="json")
    if type(loss) in BUILT_IN:
        return dumped
    options = {key: value for key, value in dumped.items() if key not in ("name", "weight")}
    kind = type(loss)
    return {"name": f"{kind.__module__}:{kind.__qualname__}", "weight": dumped["weight"], "options": options}


def _build_custom(config: CustomLossConfig, field: str) -> Loss[Any]:
    kind = find_callable(config.name, field=field)
    if not (isinstance(kind, type) and issubclass(kind, Loss)):
        raise BadInput(f"{field}.name", config.name, "a subclass of stillroom.Loss")
    options: dict[str, Any] = {"weight": config.weight, **config.options}
    if kind.Config.model_fields["name"].is_required():
        options["name"] = config.name.partition(":")[2]
    try:
        return kind(kind.Config.model_validate(options))
    except ValidationError as error:
        raise bad_input(error, kind.Config, f"{field}.options") from None
