"""The three models of a whole demo, kept in half precision with the recipes that trained them.

``stillroom demo --out FOLDER``, then ``cd tests && python -m frozen_demo FOLDER``, makes the file again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stillroom.data.sources import read_digits
from stillroom.demo import demo_recipes
from stillroom.models.prepared import logits_of, prepare_model
from stillroom.models.registry import build
from stillroom.observer import Observer

FILE = Path(__file__).parent / "goldens" / "demo.safetensors"
RECIPES = demo_recipes(Path("teacher.safetensors"))


def written() -> dict[str, Any]:
    """What the demo's recipes say, defaults left out."""
    return {name: recipe.model_dump(mode="json", exclude_unset=True) for name, recipe in RECIPES.items()}


def freeze(folder: Path) -> None:
    weights = {
        f"{name}.{key}": tensor.half() if tensor.is_floating_point() else tensor
        for name in RECIPES
        for key, tensor in load_file(folder / name / "student.safetensors").items()
    }
    save_file(weights, FILE, {"recipes": json.dumps(written())})


def trained_with() -> dict[str, Any]:
    """The recipes, as they were when the models were trained."""
    with safe_open(FILE, "pt") as file:
        return json.loads(file.metadata()["recipes"])  # type: ignore[no-any-return]


def classes_said() -> tuple[dict[str, Tensor], Tensor]:
    """The classes that each model gives the test images, and their labels."""
    data, weights = read_digits("test"), load_file(FILE)
    found = {}
    for name, recipe in RECIPES.items():
        model = build(recipe.student, num_classes=10, in_channels=1, image_size=8)
        own = {key.removeprefix(f"{name}."): t for key, t in weights.items() if key.startswith(f"{name}.")}
        model.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in own.items()})
        prepared = prepare_model(model.eval(), recipe.student, data, "student")
        found[name] = logits_of(prepared, data, torch.device("cpu"), Observer(), "evaluating").argmax(1)
    return found, data.labels


if __name__ == "__main__":
    freeze(Path(sys.argv[1]))
