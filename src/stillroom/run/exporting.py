"""A finished run's student, written for use elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillroom.errors import BadInput
from stillroom.models.export import export_onnx, export_safetensors
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.models.weights import load_weights
from stillroom.recipe import Recipe
from stillroom.run.components import build_model
from stillroom.run.records import load_run_recipe, read_json


@dataclass(frozen=True)
class SummaryFacts:
    """What a finished run's summary says of its data."""

    num_classes: int
    shape: tuple[int, ...]
    is_pixels: bool

    @property
    def channels(self) -> int:
        """First dimension of a sample."""
        return self.shape[0]

    @property
    def image_size(self) -> int | None:
        """The side in pixels; None where the samples are not square images."""
        return self.shape[2] if len(self.shape) == 3 and self.shape[1] == self.shape[2] else None


def load_student(run: Path) -> tuple[nn.Module, Recipe, SummaryFacts]:
    """The trained student of a finished run, in eval mode, with its recipe and what it must know of the data.

    Raises:
        BadInput: the folder is no finished run, or its student cannot be made again from the recipe.
    """
    if not run.is_dir():
        raise BadInput("run", str(run), "a run folder")
    recipe = load_run_recipe(run)
    if not (run / "summary.json").exists():
        raise BadInput("run", str(run), "a finished run; go on with it by --resume")
    data = read_json(run / "summary.json").get("data")
    try:
        facts = SummaryFacts(data["classes"], tuple(data["shape"]), data["pixels"])  # type: ignore[index]
    except (TypeError, KeyError):
        raise BadInput("run", str(run / "summary.json"), "a summary with its data's shape") from None
    model = build_model(recipe.student.model_copy(update={"weights": None}), facts, "student")
    load_weights(model, run / "student.safetensors", field="student")
    return model.eval(), recipe, facts


def export_run(run: Path, form: str, out: Path | None, *, pixels: bool = False) -> dict[str, Any]:
    """Write the student of a finished run.

    Args:
        run: its folder.
        form: ``safetensors`` or ``onnx``.
        out: the file; left out: ``RUN/export/student.<form>``.
        pixels: for onnx, take uint8 images and do the preprocess inside.

    Returns:
        ``path``, ``bytes``, and for onnx how far its logits are from PyTorch's.

    Raises:
        BadInput: the run or the file cannot be used.
        RunFailed: the exported model does not answer as the student does; nothing was written.
    """
    if pixels and form != "onnx":
        raise BadInput("--pixels", form, "--format onnx: a file of weights does no preprocess")
    if out is not None and out.is_dir():
        raise BadInput("--out", str(out), "a file, not a folder")
    model, recipe, facts = load_student(run)
    path = out if out is not None else run / "export" / f"student.{form}"
    told: dict[str, Any] = {"path": str(path)}
    if form == "safetensors":
        export_safetensors(model, path)
    else:
        if pixels and not facts.is_pixels:
            raise BadInput("--pixels", str(run), "a run on uint8 images; this one's were floats")
        settled = resolve_preprocess(recipe.student.preprocess, channels=facts.channels, is_pixels=facts.is_pixels)
        pipe = Preprocess(settled, is_pixels=facts.is_pixels)
        images = torch.zeros(1, *facts.shape, dtype=torch.uint8 if facts.is_pixels else torch.float32)
        check = export_onnx(model, path, example=images if pixels else pipe(images), pixels=pipe if pixels else None)
        told |= {
            "max_abs_error": check.max_abs_error,
            "max_rel_error": check.max_rel_error,
            "tolerance": check.tolerance,
        }
    return told | {"bytes": path.stat().st_size}
