"""Options of class-incremental learning. Nothing here imports torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from stillroom.config import Config
from stillroom.continual.presets import PRESETS, PresetName, as_yaml

MAX_TASKS = 20


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
                    raise ValueError(f"{name} {as_yaml(value)} with preset {self.preset}, or no preset")
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
