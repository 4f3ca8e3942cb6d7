"""How long the models of a finished run take, for its report; a run itself does not wait for it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import torch

from stillroom.data.images import ImageSet
from stillroom.errors import BadInput
from stillroom.files import Log, compact_checksums
from stillroom.models.prepared import PreparedModel, with_layout
from stillroom.recipe import Recipe
from stillroom.run.artifacts import latencies
from stillroom.run.components import RunObjects
from stillroom.run.export import SummaryFacts
from stillroom.run.records import load_run_recipe
from stillroom.schema.base import read_json
from stillroom.schema.run import SUMMARY, TIMING, DataSummary, RunSummary, TimingEvent, read_timing
from stillroom.train.device import exact_float32, resolve_device


def measure_latency(run: Path, objects: RunObjects | None = None) -> bool:
    """Time student and teachers of a finished run, and write it to ``timing.jsonl``; only where that has none.

    The models are made of the recipe, with random weights: time does not depend on them. Those that cannot be made
    again are left out.

    Args:
        run: its folder.
        objects: what the recipe cannot make.

    Returns:
        Whether something was timed.
    """
    if not (run / SUMMARY).is_file() or any(event.event == "latency" for event in read_timing(run / TIMING)):
        return False
    with suppress(BadInput, OSError):  # a page can be made of a folder that cannot be written, or read whole
        return _measure(run, objects or RunObjects())
    return False


def _measure(run: Path, objects: RunObjects) -> bool:
    recipe, data = load_run_recipe(run), read_json(RunSummary, run / SUMMARY).data
    if recipe.incremental is not None or not data.shape:
        return False
    images = _blank(data)
    models: dict[str, PreparedModel] = {}
    with suppress(BadInput):
        models["student"] = with_layout(objects.make_student(recipe, images), recipe.student, images, "student")
    for name, config in recipe.all_teachers.items():
        if config.is_model:
            with suppress(BadInput):
                models[name] = _teacher(name, recipe, images, objects)
    for prepared in models.values():
        prepared.model.to(resolve_device(recipe.training.device)).eval()
    log = Log(run / TIMING)
    with exact_float32():
        for line in latencies(models, images):
            log.append(json.dumps(TimingEvent.model_validate(line).as_dict()) + "\n")
    compact_checksums(run)
    return bool(models)


def _teacher(name: str, recipe: Recipe, images: ImageSet, objects: RunObjects) -> PreparedModel:
    config = recipe.all_teachers[name]
    bare = recipe.with_teachers({**recipe.all_teachers, name: config.without_weights()})
    model = objects.make_teacher(name, bare, images)
    return with_layout(model, config, images, recipe.teacher_field(name))


def _blank(data: DataSummary) -> ImageSet:
    """Two images of the run's form."""
    dtype = getattr(torch, data.dtype or "float32")
    return SummaryFacts(data.classes, data.shape, data.pixels is not False, dtype, data.vocabulary).examples(2)
