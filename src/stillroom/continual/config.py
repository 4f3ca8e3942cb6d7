"""The options of class-incremental learning, and the named ways to do it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from stillroom.config import Config

PresetName = Literal["finetune", "replay", "lwf", "icarl", "joint"]
PRESET_NAMES: tuple[str, ...] = get_args(PresetName)
MOST_TASKS = 20


@dataclass(frozen=True)
class Preset:
    """A way that has a name: what it sets, so that it cannot mean something else in two recipes.

    Attributes:
        what: it in a line.
        terms: the entries of the recipe's losses.
        options: the options of :class:`IncrementalConfig` that are its own.
        remembers: whether it needs a memory of exemplars; without, it has none.
    """

    what: str
    terms: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    remembers: bool = False


_LABELS = ({"name": "cross_entropy"},)
# Both of its papers soften by 2.
_OLD_ANSWERS = ({"name": "cross_entropy"}, {"name": "kl", "temperature": 2})
PRESETS: dict[str, Preset] = {
    "finetune": Preset("labels of the new classes alone: the floor", _LABELS, {"memory": 0}),
    "replay": Preset("labels, exemplars of the old classes among them", _LABELS, remembers=True),
    "lwf": Preset("Learning without Forgetting (arXiv 1606.09282): kl to the old model, no memory", _OLD_ANSWERS,
                  {"memory": 0}),
    "icarl": Preset("kl to the old model, a herded memory, the nearest mean of exemplars answers (arXiv 1611.07725)",
                    _OLD_ANSWERS, {"selection": "herding", "predict_by": "nearest_mean"}, remembers=True),
    "joint": Preset("every task learns from all images of all classes seen: the ceiling", _LABELS,
                    {"memory": 0, "joint": True}),
}  # fmt: skip


class IncrementalConfig(Config):
    """Classes come in tasks; the student of a task learns from its images, and its teacher is the one before it.

    The recipe's ``training`` is each task's, its length too; ``losses`` that read the teacher keep old knowledge,
    and the weight of such a term is the field's μ.
    """

    tasks: int = Field(ge=2, le=MOST_TASKS, description="Number of tasks that the classes are shared out to, evenly.")
    memory: int = Field(
        0,
        ge=0,
        description="Training images of old classes that are kept in all, the same number of each class; 0 keeps none.",
    )
    selection: Literal["herding", "random"] = Field(
        "herding",
        description="Which images are kept: herding takes those whose mean stays nearest the class's, in the student's "
        "penultimate features; random draws them by the run's seed.",
    )
    predict_by: Literal["logits", "nearest_mean"] = Field(
        "logits",
        description="What answers for the student: its logits, or the class whose exemplars' mean its features are "
        "nearest to, which needs a memory.",
    )
    joint: bool = Field(
        False, description="Learn each task from all training images of all classes seen: no memory bounds it."
    )
    class_seed: int | None = Field(
        None, ge=0, description="Seed that shuffles the classes; left out: the run's seed, so that each has its own."
    )
    task: int | None = Field(
        None, ge=1, description="Which task a run is: written in the recipe beside it, for no one to set."
    )
    preset: PresetName | None = Field(
        None,
        description="A way with a name, which sets the losses and what else is its own: "
        + "; ".join(f"{name}: {preset.what}" for name, preset in PRESETS.items())
        + ".",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_is_written_out(cls, given: Any) -> Any:
        preset = PRESETS.get(str(given.get("preset"))) if isinstance(given, dict) else None
        return {**preset.options, **given} if preset is not None else given

    @model_validator(mode="after")
    def _options_fit(self) -> IncrementalConfig:
        if self.preset is not None:
            preset = PRESETS[self.preset]
            for name, value in preset.options.items():
                if getattr(self, name) != value:
                    raise ValueError(f"{name} {_told(value)} beside preset {self.preset}, or no preset")
            if preset.remembers and not self.memory:
                raise ValueError(f"a memory of 1 or more beside preset {self.preset}")
        if self.joint and self.memory:
            raise ValueError("no memory beside joint, which learns from all images")
        if self.predict_by == "nearest_mean" and not self.memory:
            raise ValueError("a memory of 1 or more beside predict_by nearest_mean: it is the exemplars that answer")
        return self

    def shuffled_by(self, seed: int) -> int:
        """The seed that shuffles the classes of a run with this seed."""
        return seed if self.class_seed is None else self.class_seed


def with_terms(recipe: Any) -> Any:
    """A recipe as plain objects with the losses of its preset, where it names one and no losses.

    >>> [term["name"] for term in with_terms({"incremental": {"preset": "lwf"}})["losses"]]
    ['cross_entropy', 'kl']
    """
    incremental = recipe.get("incremental") if isinstance(recipe, dict) else None
    named = incremental.get("preset") if isinstance(incremental, dict) else None
    if named in PRESETS and recipe.get("losses") is None:
        return {**recipe, "losses": PRESETS[named].terms}
    return recipe


def overrides_of(preset: str) -> list[str]:
    """What makes a recipe, whatever it says, one of a preset: overrides as the command line takes them.

    >>> overrides_of("finetune")
    ['incremental.preset=finetune', 'losses=null', 'incremental.joint=false', 'incremental.predict_by=logits',
     'incremental.memory=0']
    """
    options = {"joint": False, "predict_by": "logits", **PRESETS[preset].options}
    named = [f"incremental.preset={preset}", "losses=null"]
    return [*named, *(f"incremental.{name}={_told(value)}" for name, value in options.items())]


def _told(value: object) -> str:
    return str(value).lower()
