"""Lets torchvision be imported beside a PyTorch that its compiled extension was not built for."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import torch

# What torchvision's own modules ask for as they are imported.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# Held for good: the declarations go when their library does.
_declared: list[Any] = []


def declare_missing_ops() -> bool:
    """Declare the two operators without which torchvision cannot be imported, where its extension cannot be loaded.

    The torchvision of PyPI is built for CUDA; beside a PyTorch for the CPU alone, importing it, timm or torchmetrics
    raises ``operator torchvision::nms does not exist``. Its models need no operator of the extension: after this, all
    three can be imported. It does nothing where torchvision is not installed or its extension loads.

    Returns:
        Whether the operators are declared here rather than in the extension.

    >>> declare_missing_ops() == declare_missing_ops()
    True
    """
    if _declared:
        return True
    spec = importlib.util.find_spec("torchvision")
    if (
        spec is None
        or not spec.submodule_search_locations
        or _extension_loads(Path(spec.submodule_search_locations[0]))
    ):
        return False
    # A fragment: others may have declared some of them before.
    untyped: Any = torch.library
    library = untyped.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
    return True


def _extension_loads(folder: Path) -> bool:
    files = (folder / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return False
    operators: Any = torch.ops
    try:
        operators.load_library(str(found))
    except (ImportError, OSError):
        return False
    return True
