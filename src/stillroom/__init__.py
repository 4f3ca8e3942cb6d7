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
    from stillroom.losses.base import Citation, Loss, LossInputs, Requires
    from stillroom.losses.blockwise import BlockLogit
    from stillroom.losses.config import LossConfig, WeightSchedule
    from stillroom.losses.features import FeatureMSE
    from stillroom.losses.fisher import FeatureFisher, FeatureFullFisher
    from stillroom.losses.labels import CrossEntropy, LabelSmoothing
    from stillroom.losses.logits import KL, LogitFisher, LogitMSE
    from stillroom.recipe import Recipe, load_recipe
    from stillroom.study.statistics import paired_difference
    from stillroom.train.hooks import StepHook, StepInfo

# Imported when first asked for: `import stillroom` must be cheap, and must not import torch. A room as a whole is its
# own home.
_HOME = {
    "BadInput": "errors",
    "CrossEntropy": "losses.labels",
    "BlockLogit": "losses.blockwise",
    "FeatureFisher": "losses.gradients",
    "FeatureFullFisher": "losses.gradients",
    "FeatureMSE": "losses.features",
    "KL": "losses.logits",
    "LabelSmoothing": "losses.labels",
    "LossInputs": "losses.base",
    "LogitFisher": "losses.logits",
    "LogitMSE": "losses.logits",
    "Loss": "losses.base",
    "LossConfig": "losses.config",
    "Paper": "losses.base",
    "Reads": "losses.base",
    "Recipe": "recipe",
    "Run": "api",
    "RunFailed": "errors",
    "StepHook": "training.hooks",
    "StepInfo": "training.hooks",
    "StudyResult": "api",
    "WeightSchedule": "losses.config",
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
    "LossInputs",
    "LogitFisher",
    "LogitMSE",
    "Loss",
    "LossConfig",
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
