"""The presets of class-incremental learning: published methods by name, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

PresetName = Literal["finetune", "replay", "lwf", "icarl", "wa", "joint"]
PRESET_NAMES: tuple[str, ...] = get_args(PresetName)


@dataclass(frozen=True)
class Preset:
    """A named method: what it sets, so that it means the same in every recipe."""

    description: str
    losses: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_memory: bool = False  # whether it needs exemplars; otherwise it has none


# What a preset given on the command line sets back where it does not name it.
_DEFAULTS = {
    "joint": False, "predict_by": "logits", "labels": "seen", "align_weights": False, "balance_terms": False,
}  # fmt: skip
_LABELS = ({"name": "cross_entropy"},)
# Both of its papers soften by 2.
_LABELS_AND_KL = ({"name": "cross_entropy"}, {"name": "kl", "temperature": 2})
PRESETS: dict[str, Preset] = {
    "finetune": Preset("labels of the new classes only: the lower bound", _LABELS, {"memory": 0}),
    "replay": Preset("labels, with exemplars of the old classes", _LABELS, needs_memory=True),
    "lwf": Preset("Learning without Forgetting (arXiv 1606.09282): cross-entropy over the new classes alone, kl to the "
                  "old model, no memory", _LABELS_AND_KL, {"memory": 0, "labels": "new"}),
    "icarl": Preset("iCaRL (arXiv 1611.07725): binary cross-entropy, of new classes with labels and of old ones with "
                    "the old model's answers, herded exemplars, nearest-mean-of-exemplars prediction",
                    ({"name": "binary_cross_entropy"}, {"name": "bce_kl"}),
                    {"selection": "herding", "predict_by": "nearest_mean", "labels": "new"}, needs_memory=True),
    "wa": Preset("weight aligning (arXiv 1911.07053): herded exemplars, kl to the old model, terms balanced by the "
                 "number of classes, the new logits' weights scaled to the norm of the old", _LABELS_AND_KL,
                 {"selection": "herding", "align_weights": True, "balance_terms": True}, needs_memory=True),
    "joint": Preset("every task learns from all images of all classes seen: the upper bound", _LABELS,
                    {"memory": 0, "joint": True}),
}  # fmt: skip


def apply_preset(recipe: Any) -> Any:
    """A recipe as plain objects with the losses of its preset, where it names one and no losses.

    >>> [term["name"] for term in apply_preset({"incremental": {"preset": "lwf"}})["losses"]]
    ['cross_entropy', 'kl']
    """
    incremental = recipe.get("incremental") if isinstance(recipe, dict) else None
    named = incremental.get("preset") if isinstance(incremental, dict) else None
    if named in PRESETS and recipe.get("losses") is None:
        return {**recipe, "losses": PRESETS[named].losses}
    return recipe


def preset_overrides(preset: str) -> list[str]:
    """Overrides, as the command line takes them, that turn any recipe into one of a preset.

    >>> preset_overrides("finetune")
    ['incremental.preset=finetune', 'losses=null', 'incremental.joint=false', 'incremental.predict_by=logits',
     'incremental.labels=seen', 'incremental.align_weights=false', 'incremental.balance_terms=false',
     'incremental.memory=0']
    """
    options = {**_DEFAULTS, **PRESETS[preset].options}
    named = [f"incremental.preset={preset}", "losses=null"]
    return [*named, *(f"incremental.{name}={as_yaml(value)}" for name, value in options.items())]


def as_yaml(value: object) -> str:
    """A value as an override writes it."""
    return str(value).lower()
