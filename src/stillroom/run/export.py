"""Use outside of training: a finished run's student, the images for a teacher elsewhere, a model scored on a split."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stillroom.data.augmentation import check_augmentable
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.data.loader import BatchLoader
from stillroom.data.quality import describe_data
from stillroom.data.sources import load
from stillroom.data.tokens import Tokenization
from stillroom.errors import BadInput
from stillroom.files import atomic_write, verify, write_bytes, write_json
from stillroom.models.config import ModelConfig
from stillroom.models.cost import latency
from stillroom.models.export import GRAPHS, export_onnx, onnx_function, quantize_onnx
from stillroom.models.modes import copy_model
from stillroom.models.prepared import logits_of, prepare_model, with_layout
from stillroom.models.preprocess import Preprocess
from stillroom.models.weights import load_weights, read_state
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.components import RunObjects, build_model, needs_module
from stillroom.run.records import load_run_recipe
from stillroom.schema.base import read_json
from stillroom.schema.measures import measure_outputs
from stillroom.schema.run import SUMMARY, RunSummary, check_finished
from stillroom.teachers.precomputed import INPUTS, inputs_of
from stillroom.train.device import exact_float32, resolve_device, threads
from stillroom.train.evaluation import score, score_outputs

INT8 = "onnx-int8"
# What each form's file is called.
SUFFIXES = {"safetensors": "safetensors", "onnx": "onnx", INT8: "int8.onnx", "pt2": "pt2"}
FORMS = tuple(SUFFIXES)

# Images written at a time.
_BLOCK = 500


@dataclass(frozen=True)
class SummaryFacts:
    """What a finished run's summary says of its data."""

    num_classes: int
    shape: tuple[int, ...]
    is_pixels: bool
    dtype: torch.dtype = torch.float32
    vocabulary: int | None = None  # of texts: ids are below it

    def examples(self, count: int) -> ImageSet:
        """So many images of zeros, or texts of some tokens, as the data have them."""
        zeros = torch.zeros(count, *self.shape, dtype=torch.uint8 if self.is_pixels else self.dtype)
        if self.vocabulary is not None:  # texts of every token, as far as they go
            zeros = torch.arange(zeros.numel(), dtype=torch.int32).flip(0).reshape(zeros.shape) % self.vocabulary
        names = tuple(map(str, range(self.num_classes)))
        tokens = None if self.vocabulary is None else Tokenization(self.vocabulary, (), 0, "{}")
        return ImageSet(zeros, torch.zeros(count, dtype=torch.int64), names, "", tokens=tokens)

    @property
    def channels(self) -> int:
        """First dimension of a sample; 1 of texts."""
        return self.shape[0] if self.vocabulary is None else 1

    @property
    def image_size(self) -> int | None:
        """The side in pixels; None where the samples are not square images."""
        return self.shape[2] if len(self.shape) == 3 and self.shape[1] == self.shape[2] else None


def load_student(run: Path, objects: RunObjects | None = None) -> tuple[nn.Module, Recipe, SummaryFacts]:
    """The trained student of a finished run, in eval mode, with its recipe and what it must know of the data.

    Args:
        run: its folder.
        objects: what the recipe cannot make again.

    Raises:
        BadInput: the folder is no finished run, or its student cannot be made again from the recipe.
    """
    check_finished(run)
    recipe = load_run_recipe(run)
    data = read_json(RunSummary, run / SUMMARY).data
    if not data.shape or data.pixels is None:
        raise BadInput("run", str(run / SUMMARY), "a summary with its data's shape")
    dtype = getattr(torch, data.dtype or "float32")
    facts = SummaryFacts(data.classes, data.shape, data.pixels, dtype, data.vocabulary)
    objects = objects or RunObjects()
    model = objects.make_student(recipe, facts)
    try:
        load_weights(model, run / "student.safetensors", field="student")
    except BadInput:
        if (run / "student.safetensors").exists():
            verify(run / "student.safetensors")
        if recipe.data.source != "python" or objects.student is not None:
            raise
        # A class that is made without arguments, such as nn.Sequential, is another net.
        raise needs_module("student", recipe.student.name) from None
    return model.eval(), recipe, facts


def export_run(
    run: Path, form: str, out: Path | None, *, pixels: bool = False, objects: RunObjects | None = None
) -> dict[str, Any]:
    """Write the student of a finished run.

    Args:
        run: its folder.
        form: ``safetensors``; ``onnx``; ``onnx-int8``, with weights of 8 bits and measured against ``onnx``; or
            ``pt2``, a program of :mod:`torch.export`.
        out: the file; left out: ``RUN/export/student.<form>``.
        pixels: for graphs, take uint8 images and do the preprocess inside.
        objects: what the recipe cannot make again; safetensors need nothing.

    Returns:
        ``path``, ``bytes``, and for onnx and pt2 how far its logits are from the module's; for onnx-int8 ``int8`` and
        ``float32``, of each ``bytes``, ``milliseconds`` an image on one thread, ``count`` and measures on the test
        images; or ``not_measured``: why there are none.

    Raises:
        BadInput: the run or the file cannot be used.
        RunFailed: the exported model does not answer as the student does; nothing was written.
    """
    if form not in FORMS:
        raise BadInput.unknown("--format", form, FORMS)
    if pixels and form == "safetensors":
        raise BadInput("--pixels", form, "--format onnx, onnx-int8 or pt2: a file of weights does no preprocess")
    if out is not None and out.is_dir():
        raise BadInput("--out", str(out), "a file, not a folder")
    path = out if out is not None else run / "export" / f"student.{SUFFIXES[form]}"
    result: dict[str, Any] = {"path": str(path)}
    if form == "safetensors":
        # The file of the run itself, once it was read whole: no module is needed.
        check_finished(run)
        weights = run / "student.safetensors"
        read_state(weights, field="student")
        write_bytes(path, weights.read_bytes())
    else:
        model, recipe, facts = load_student(run, objects)
        if pixels and not facts.is_pixels:
            raise BadInput("--pixels", str(run), "a run on uint8 images; this one's were floats")
        examples = facts.examples(2)
        pipe = with_layout(model, recipe.student, examples, "student").preprocess()
        images = examples.images[:1]
        example, inside = (images, pipe) if pixels else (pipe(images), None)
        if form == INT8:
            with tempfile.TemporaryDirectory() as folder:
                whole = Path(folder) / "student.onnx"
                export_onnx(model, whole, example=example, pixels=inside)
                quantize_onnx(whole, path)
                return (
                    result | {"bytes": path.stat().st_size} | _measure_int8(whole, path, recipe, objects, pipe, inside)
                )
        check = GRAPHS[form](model, path, example=example, pixels=inside)
        result |= {
            "max_abs_error": check.max_abs_error,
            "max_rel_error": check.max_rel_error,
            "tolerance": check.tolerance,
        }
    return result | {"bytes": path.stat().st_size}


def _measure_int8(
    whole: Path, small: Path, recipe: Recipe, objects: RunObjects | None, pipe: Preprocess, inside: Preprocess | None
) -> dict[str, Any]:
    """Size, time and measures of a graph and of what quantisation made of it."""
    data = objects.data if objects is not None else None
    try:
        test = (data or load(recipe.data)).test
    except BadInput as error:
        return {"not_measured": str(error)}
    found: dict[str, Any] = {}
    for name, path in (("float32", whole), ("int8", small)):
        graph, outputs = onnx_function(path), []
        for start in range(0, len(test), _INT8_BATCH):
            images = test.images[start : start + _INT8_BATCH]
            outputs.append(graph(images) if inside is not None else pipe.reorder(graph(pipe(images).contiguous())))
        one = test.images[:1] if inside is not None else pipe(test.images[:1]).contiguous()
        with threads(1):  # as the graph has
            milliseconds = latency(graph, one, 1)
        figures = score_outputs(torch.cat(outputs), test.labels, test.task, test.class_names)
        found[name] = {"bytes": path.stat().st_size, "milliseconds": round(milliseconds, 4), **figures}
    return found


_INT8_BATCH = 50


def evaluate_model(
    config: ModelConfig,
    data: ImageSet,
    *,
    device: str = "auto",
    observer: Observer | None = None,
    model: nn.Module | None = None,
) -> dict[str, Any]:
    """Score a pretrained model on a split, in float32.

    Args:
        config: names the model and its preprocess.
        data: the split.
        device: where it runs.
        observer: follows the progress.
        model: the module itself, of which ``config`` is then the description; left as it was.

    Returns:
        ``top1``, ``correct``, ``count``, ``top5``, ``nll``, ``ece``, with their units of :class:`Score`; of multi-label
        and regression data ``task``, ``count``, its measures, and that of each class or target.

    Raises:
        BadInput: the model does not fit, or nothing can be measured on the split.
    """
    observer = observer or Observer()
    here = resolve_device(device)
    with exact_float32():
        made = build_model(config, data, "model", observer.note) if model is None else copy_model(model)
        model = made.to(here)
        prepared = prepare_model(model, config, data, "model")
        data.check_measurable("data")
        outputs = logits_of(prepared, data, here, observer, "evaluating")
        if data.task == "single_label":
            return score(outputs, data.labels).as_dict()
        found = measure_outputs(data.task, outputs.cpu().numpy(), data.labels.numpy(), data.class_names)
        return {**found.model_dump(), "count": len(data)}


def export_inputs(recipe: Recipe, out: Path, observer: Observer) -> dict[str, Any]:
    """Write the images that a teacher elsewhere computes logits for, in each view, as arrays.

    These are ``train-images.npy`` [V, N, C, H, W] and ``test-images.npy`` [M, C, H, W]. The logits go into that folder:
    ``train-logits.npy`` [V, N, K], and ``test-logits.npy`` [M, K] for the comparison at the end; the classes in the
    order of ``class_names`` in ``inputs.json``.

    Args:
        recipe: whose data and augmentation are meant; ``teacher.same_for_views`` shows each image once.
        out: a new or empty folder.
        observer: follows the progress.

    Returns:
        ``folder``, ``views``, ``train``, ``test``, ``classes`` and ``bytes``.

    Raises:
        BadInput: the folder holds something, or each epoch has a view of its own.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput("--out", str(out), "a new or empty folder")
    # All of them: a run that holds a part out finds its logits among them.
    data = load(recipe.data.model_copy(update={"holdout": None, "validation": None}))
    describe_data(data, observer.note)
    check_augmentable(data.train, recipe.data.augmentation)
    same = recipe.teacher is not None and recipe.teacher.same_for_views
    inputs = inputs_of(data, recipe.data.augmentation, same_for_views=same)
    shown = AugmentationConfig() if same else recipe.data.augmentation
    total = inputs["views"] * len(data.train) + len(data.test)

    def report(done: int) -> None:
        observer.phase("writing images", done, total)

    written = _write_images(out / "train-images.npy", data.train, shown, inputs["views"], report)
    done_before, unchanged = total - len(data.test), AugmentationConfig()
    written += _write_images(
        out / "test-images.npy", data.test, unchanged, None, lambda done: report(done_before + done)
    )
    write_json(out / INPUTS, inputs, checksum=True)
    return {
        "folder": str(out),
        "views": inputs["views"],
        "train": len(data.train),
        "test": len(data.test),
        "classes": data.train.num_classes,
        "bytes": written,
    }


def _write_images(
    path: Path, data: ImageSet, augmentation: AugmentationConfig, views: int | None, report: Callable[[int], None]
) -> int:
    """One array of images, written as it is made: it may be larger than memory."""
    loader = BatchLoader(data, augmentation, torch.device("cpu"), full_length=True)
    starts = range(0, len(data), _BLOCK)
    blocks = [np.arange(start, min(start + _BLOCK, len(data))) for start in starts]
    shape = (views or 1, len(data), *data.images.shape[1:])
    kind = np.dtype(np.uint8 if data.is_pixels else np.float32)
    header = {"descr": kind.str, "fortran_order": False, "shape": shape if views else shape[1:]}
    # Written from front to back, not through a memory map: a full disk is then an error, not the end of the process.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for batch in loader.batches((rows, view) for view in range(views or 1) for rows in blocks):
            file.write(batch.images.contiguous().numpy().data)
            done += len(batch)
            report(done)
    return int(np.prod(shape)) * kind.itemsize
