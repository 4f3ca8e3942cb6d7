"""stillroom: distil a PyTorch model into a smaller one, and know why it worked or why it did not.

>>> import stillroom as sr
>>> sr.KL(weight=0.9, temperature=4).config.temperature
4.0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stillroom import geometry, targets
    from stillroom.api import Run, StudyResult, compare, distill
    from stillroom.errors import BadInput, RunFailed
    from stillroom.objectives.base import Lesson, Objective, Paper, Reads
    from stillroom.objectives.blockwise import BlockLogit
    from stillroom.objectives.config import ObjectiveConfig, WeightSchedule
    from stillroom.objectives.features import FeatureMSE
    from stillroom.objectives.gradients import FeatureFisher, FeatureFullFisher
    from stillroom.objectives.labels import CrossEntropy, LabelSmoothing
    from stillroom.objectives.logits import KL, LogitFisher, LogitMSE
    from stillroom.recipe import Recipe, load_recipe
    from stillroom.studies.statistics import paired_difference
    from stillroom.training.hooks import StepHook, StepInfo

# Imported when first asked for: `import stillroom` must be cheap, and must not import torch. A room as a whole is its
# own home.
_HOME = {
    "BadInput": "errors",
    "CrossEntropy": "objectives.labels",
    "BlockLogit": "objectives.blockwise",
    "FeatureFisher": "objectives.gradients",
    "FeatureFullFisher": "objectives.gradients",
    "FeatureMSE": "objectives.features",
    "KL": "objectives.logits",
    "LabelSmoothing": "objectives.labels",
    "Lesson": "objectives.base",
    "LogitFisher": "objectives.logits",
    "LogitMSE": "objectives.logits",
    "Objective": "objectives.base",
    "ObjectiveConfig": "objectives.config",
    "Paper": "objectives.base",
    "Reads": "objectives.base",
    "Recipe": "recipe",
    "Run": "api",
    "RunFailed": "errors",
    "StepHook": "training.hooks",
    "StepInfo": "training.hooks",
    "StudyResult": "api",
    "WeightSchedule": "objectives.config",
    "compare": "api",
    "distill": "api",
    "geometry": "geometry",
    "load_recipe": "recipe",
    "paired_difference": "studies.statistics",
    "targets": "targets",
}

__all__ = [
    "KL",
    "BadInput",
    "BlockLogit",
    "CrossEntropy",
    "FeatureFisher",
    "FeatureFullFisher",
    "FeatureMSE",
    "LabelSmoothing",
    "Lesson",
    "LogitFisher",
    "LogitMSE",
    "Objective",
    "ObjectiveConfig",
    "Paper",
    "Reads",
    "Recipe",
    "Run",
    "RunFailed",
    "StepHook",
    "StepInfo",
    "StudyResult",
    "WeightSchedule",
    "compare",
    "distill",
    "geometry",
    "load_recipe",
    "paired_difference",
    "targets",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stillroom' has no attribute {name!r}")
    home = importlib.import_module(f"stillroom.{_HOME[name]}")
    value = home if _HOME[name] == name else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
