"""Options of class-incremental learning, and its presets. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from stillroom.config import Config

PresetName = Literal["finetune", "replay", "lwf", "icarl", "wa", "joint"]
PRESET_NAMES: tuple[str, ...] = get_args(PresetName)
MAX_TASKS = 20


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


class IncrementalConfig(Config):
    """Classes come in tasks; the teacher of a task is the student of the task before.

    The recipe's ``training`` holds for each task, its length too. ``losses`` that read the teacher preserve old
    knowledge; the weight of such a term is called μ in the literature.
    """

    tasks: int = Field(ge=2, le=MAX_TASKS, description="Number of tasks that the classes are divided into, evenly.")
    memory: int = Field(
        0,
        ge=0,
        description="Number of exemplars: training images of old classes kept in all, as many of each; 0 keeps none.",
    )
    selection: Literal["herding", "random"] = Field(
        "herding",
        description="How exemplars are chosen: herding takes those whose mean stays nearest the class's, in the "
        "student's penultimate features; random draws them by the run's seed.",
    )
    predict_by: Literal["logits", "nearest_mean"] = Field(
        "logits",
        description="What predicts: the student's logits, or the class whose exemplars' mean its features are nearest "
        "to, which needs a memory.",
    )
    joint: bool = Field(
        False,
        description="Learn each task from all training images of all classes seen, in as many optimizer steps as the "
        "task's own images alone would take: no memory bounds it.",
    )
    labels: Literal["seen", "new"] = Field(
        "seen",
        description="Classes that cross_entropy and binary_cross_entropy are over: all seen, or those of the task "
        "alone, so that the labels do not lower the old classes' logits.",
    )
    align_weights: bool = Field(
        False,
        description="After each task scale the weights of the new logits so that their mean norm is that of the old "
        "ones' (weight aligning): a student is biased to new classes.",
    )
    balance_terms: bool = Field(
        False,
        description="From the second task on multiply the weight of each term that reads the teacher by λ = old "
        "classes / classes seen, and of the others by 1 − λ.",
    )
    class_seed: int | None = Field(
        None, ge=0, description="Seed that shuffles the classes; default: the run's seed, an order for each seed."
    )
    task: int | None = Field(
        None, ge=1, description="Number of the task: written into the recipe of a task's own run, not to be set."
    )
    preset: PresetName | None = Field(
        None,
        description="A named method, which sets the losses and its own options: "
        + "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
        + ".",
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        preset = PRESETS.get(str(given.get("preset"))) if isinstance(given, dict) else None
        return {**preset.options, **given} if preset is not None else given

    @model_validator(mode="after")
    def _check_options(self) -> IncrementalConfig:
        if self.preset is not None:
            preset = PRESETS[self.preset]
            for name, value in preset.options.items():
                if getattr(self, name) != value:
                    raise ValueError(f"{name} {_as_yaml(value)} with preset {self.preset}, or no preset")
            if preset.needs_memory and not self.memory:
                raise ValueError(f"a memory of 1 or more with preset {self.preset}")
        if self.joint and self.memory:
            raise ValueError("memory 0 with joint, which learns from all images")
        if self.predict_by == "nearest_mean" and not self.memory:
            raise ValueError("a memory of 1 or more with predict_by nearest_mean: the exemplars predict")
        return self

    def resolve_class_seed(self, seed: int) -> int:
        """The seed that shuffles the classes of a run with this seed."""
        return seed if self.class_seed is None else self.class_seed


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
    return [*named, *(f"incremental.{name}={_as_yaml(value)}" for name, value in options.items())]


def _as_yaml(value: object) -> str:
    return str(value).lower()
