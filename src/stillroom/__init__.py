"""stillroom: distil a PyTorch model into a smaller one, and know why it worked or why it did not.

>>> import stillroom as sr
>>> sr.KL(weight=0.9, temperature=4).config.temperature
4.0
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where names come from. Each is imported when first asked for: `import stillroom` is cheap, and does not import torch.
# Losses are not listed: the package of losses finds them by its files.
_HOME = {
    "BadInput": "errors",
    "Citation": "losses.base",
    "Diagnosis": "diagnose.diagnosis",
    "DistillResult": "api",
    "Ensemble": "api",
    "EvaluationInfo": "train.recorders",
    "Finding": "schema.diagnosis",
    "FunctionLoss": "losses.from_python",
    "Loss": "losses.base",
    "LossConfig": "losses.base",
    "LossInputs": "losses.base",
    "Peer": "api",
    "ProblemsFound": "diagnose.diagnosis",
    "Recipe": "recipe",
    "Remedy": "schema.diagnosis",
    "Requires": "losses.base",
    "RunFailed": "errors",
    "SelfTeacher": "api",
    "StepHook": "train.recorders",
    "StepInfo": "train.recorders",
    "StudyResult": "api",
    "WeightSchedule": "losses.base",
    "audit": "diagnose.audit.session",
    "check_setup": "diagnose.setup",
    "check_loss": "diagnose.loss",
    "class_relations": "class_relations",
    "compare": "api",
    "diagnose": "diagnose",
    "dissect": "api",
    "distill": "api",
    "evaluate": "api",
    "explain": "explain",
    "export": "api",
    "fidelity": "api",
    "load_recipe": "recipe",
    "load_run": "api",
    "paired_difference": "study.statistics",
    "targets": "losses.targets",
}


def __getattr__(name: str) -> Any:
    from stillroom.losses import loss_classes

    if name == "__all__":
        return sorted([*_HOME, *loss_classes()])
    module = f"stillroom.{_HOME[name]}" if name in _HOME else loss_classes().get(name)
    if module is None:
        raise AttributeError(f"module 'stillroom' has no attribute {name!r}")
    home = importlib.import_module(module)
    value = home if module.endswith(f".{name}") else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
