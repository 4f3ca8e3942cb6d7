"""Finished runs and test images to explain: the student at each checkpoint, the images and their foreground."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from stillroom.data.images import ImageSet
from stillroom.data.quality import Note, describe_data
from stillroom.errors import BadInput
from stillroom.explain.grid import above_zero, centre_box, check_masks, from_boxes, on_grid
from stillroom.models.modes import device_of
from stillroom.models.prepared import PreparedModel, prepare_model
from stillroom.models.reader import FEATURES, LOGITS
from stillroom.models.taps import find_taps
from stillroom.recipe import Recipe
from stillroom.run.components import RunObjects
from stillroom.run.export import load_student
from stillroom.run.fidelity.measure import Checkpoint, evenly_spread, saved_checkpoints
from stillroom.schema.base import read_json, read_text
from stillroom.schema.explanation import FEWEST_IMAGES
from stillroom.schema.run import RunSummary

MaskName = Literal["auto", "masks", "centre", "positive"]
MASK_NAMES: tuple[str, ...] = get_args(MaskName)

_EXAMPLES = 4
_KEEP = "training.checkpoints=[0,1,2,5,10] keeps the student at such epochs"


@dataclass(frozen=True)
class RunToExplain:
    """A finished run."""

    path: Path  # its folder
    recipe: Recipe  # as it is written there
    summary: RunSummary  # its ``summary.json``
    student: PreparedModel  # a model for the weights of any of ``checkpoints``
    checkpoints: tuple[Checkpoint, ...]  # the student at the epochs that were kept, the end of the training last
    tap: str  # where its features are read
    # A layer, and how far its weights had moved at each checkpoint; None if not recorded.
    weight_distance: tuple[str, tuple[float, ...]] | None
    objects: RunObjects = field(default_factory=RunObjects)  # what its recipe cannot make again

    @property
    def epochs(self) -> tuple[float, ...]:
        """Of the checkpoints."""
        return tuple(checkpoint.epoch for checkpoint in self.checkpoints)


@dataclass(frozen=True)
class ImageSample:
    """The test images on which all runs are compared."""

    rows: tuple[int, ...]  # their places in the test split, int64 [I]
    images: Tensor  # as they are stored, [I, C, H, W]
    labels: Tensor  # int64 [I]
    foreground: Tensor  # bool [I, g, g]
    mask: str  # what made it
    fingerprint: str  # of the split they are from

    def select(self, chosen: Tensor) -> ImageSample:
        """Those of the images that are chosen, bool [I]."""
        rows = tuple(row for row, use in zip(self.rows, chosen.tolist(), strict=True) if use)
        parts = {name: getattr(self, name)[chosen] for name in ("images", "labels", "foreground")}
        return replace(self, rows=rows, **parts)


def runs_in(paths: Sequence[Path]) -> list[Path]:
    """The run folders that paths name: each path itself, or the ``seed-N`` folders in it, as in a study."""
    found = []
    for path in paths:
        seeds = [each for each in path.glob("seed-*") if each.name.removeprefix("seed-").isdecimal() and each.is_dir()]
        alone = (path / "recipe.yaml").exists() or not seeds
        found += [path] if alone else sorted(seeds, key=lambda each: int(each.name.removeprefix("seed-")))
    return found


def matched_runs(runs: Sequence[Path], baselines: Sequence[Path], samples: int) -> tuple[list[Path], list[Path]]:
    """The runs to explain and those from labels, for ``samples`` test images or texts.

    Raises:
        BadInput: too few samples, or another number of baselines than of runs.
    """
    if samples < FEWEST_IMAGES:
        raise BadInput("--images", samples, f"{FEWEST_IMAGES} or more")
    found, others = runs_in(runs), runs_in(baselines)
    if others and len(others) != len(found):
        raise BadInput("--baseline", f"{len(others)} runs", f"one for each of the {len(found)} runs to explain")
    return found, others


def check_seeds(loaded: Sequence[RunToExplain], explained: int) -> None:
    """Refuse baselines, which come after the explained runs, of other seeds than theirs."""
    for run, baseline in zip(loaded, loaded[explained:], strict=False):
        if run.recipe.seed != baseline.recipe.seed:
            expected = f"the seed of {run.path}, {run.recipe.seed}: the same first weights and order of images"
            raise BadInput("--baseline", f"{baseline.path} of seed {baseline.recipe.seed}", expected)


def is_of_texts(run: Path) -> bool:
    """Whether a finished run is of texts, which are explained by their words."""
    path = run / "summary.json"
    return path.is_file() and read_json(RunSummary, path).data.vocabulary is not None


def load_runs(
    runs: Sequence[Path], tap: str | None, objects: Mapping[Path, RunObjects] | None = None
) -> list[RunToExplain]:
    """Load runs that are to be compared, and check that they can be; ``objects`` are those of runs made in Python."""
    if len({run.resolve() for run in runs}) < len(runs):
        raise BadInput("run", [str(run) for run in runs], "each run once")
    found: list[RunToExplain] = []
    for run in runs:
        given = (objects or {}).get(run, RunObjects())
        model, recipe, facts = load_student(run, given)
        summary = read_json(RunSummary, run / "summary.json")
        summary.require_single_label("concepts are compared with accuracy")
        kept = saved_checkpoints(run, summary.epochs)
        if len(kept) < 2:
            raise BadInput("run", str(run), f"a run that kept checkpoints: {_KEEP}")
        data = facts.examples(_EXAMPLES)
        zeros = data.images[:]
        student = prepare_model(model, recipe.student, data, "student")
        place = found[0].tap if found else tap or last_stage(student, zeros)
        find_taps(model, student.preprocess()(zeros), [place], field="student")
        found.append(
            RunToExplain(
                run, recipe, summary, student, kept, place, weight_distance_at(run, recipe, kept, place), given
            )
        )
        first = found[0]
        for what, mine, others in (
            ("data", summary.data.fingerprint, first.summary.data.fingerprint),
            ("student", recipe.student.model_dump(), first.recipe.student.model_dump()),
            ("training.checkpoints", list(found[-1].epochs), list(first.epochs)),
        ):
            if mine != others:
                raise BadInput("run", str(run), f"the same {what} as {first.path} has, to be compared with it")
    return found


def last_stage(student: PreparedModel, example: Tensor) -> str:
    """The last tap of a model with spatial features: the input of the pooling."""
    inputs = student.preprocess()(example).to(device_of(student.model))
    taps = find_taps(student.model, inputs, field="student")
    spatial = [tap.name for tap in taps if tap.kind != "vector"]
    if spatial:
        return spatial[-1]
    hidden = [tap.name for tap in taps if tap.name not in (FEATURES, LOGITS)]
    return hidden[-1] if hidden else taps[-1].name


def load_teacher(run: RunToExplain, data: ImageSet) -> PreparedModel | None:
    """The teacher of a run, of several the most accurate, if it can be run here."""
    name = run.summary.reference_of(run.recipe.model_teachers)
    if name is None:
        return None
    config = run.recipe.all_teachers[name]
    teacher = run.objects.make_teacher(name, run.recipe, data).eval()
    return prepare_model(teacher, config, data, run.recipe.teacher_field(name))


def load_images(
    run: RunToExplain, *, count: int, grid: int, mask: str, note: Note = lambda text: None
) -> tuple[ImageSample, ImageSet]:
    """Test images, evenly spread, and their foreground cells."""
    own = Path(mask) if mask.endswith(".npy") else None
    if own is None and mask not in MASK_NAMES:
        raise BadInput.unknown("--mask", mask, [*MASK_NAMES, "FILE.npy"])
    pair = run.objects.load_data(run.recipe, run.summary.data.fingerprint)
    describe_data(pair, note)
    test = pair.test
    if len(test.images.shape) != 4:
        raise BadInput("data", list(test.images.shape[1:]), "images [C, H, W]")
    rows = evenly_spread(len(test), count)
    index = torch.from_numpy(rows)
    images = test.images[index]
    masks = test.masks[index] if test.masks is not None else None
    rule = mask if mask != "auto" else "masks" if masks is not None else "centre"
    if own is not None:
        masks, rule = read_masks(own, test)
        masks = masks[index]
    elif rule == "positive":
        masks = above_zero(images)
    elif rule == "masks" and masks is None:
        raise BadInput("--mask", "masks", "data with masks, such as shapes; else a .npy file, centre, positive")
    if rule == "centre" or masks is None:
        cells = centre_box(len(images), grid)
    else:
        try:
            cells = on_grid(check_masks(masks, images), grid)
        except BadInput as error:
            if error.field == "grid":
                raise
            raise BadInput("--mask", rule, f"{error.expected}; got {error.value}") from None
        full = torch.nonzero(cells.flatten(1).all(1))[:, 0]
        if len(full):
            raise BadInput("--mask", rule, f"some background in each image; all cells of {int(full[0])} are none")
    return ImageSample(tuple(map(int, rows)), images, test.labels[index], cells, rule, test.fingerprint), test


def read_masks(path: Path, test: ImageSet) -> tuple[Tensor, str]:
    """Masks or boxes of a test split's images, in their order, from a ``.npy`` file.

    Args:
        path: the file: bool or 0 and 1 [N, H, W], or boxes in pixels, int [N, 4] (top, left, bottom, right).

    Returns:
        Masks, bool [N, H, W], and what they were made of: ``masks`` or ``boxes``.
    """
    held = read_npy(path)
    count, height, width = len(test), *test.images.shape[2:]
    whole = held.dtype == np.bool_ or np.issubdtype(held.dtype, np.integer)
    if whole and held.shape == (count, 4) and held.dtype != np.bool_:
        return from_boxes(torch.from_numpy(held.astype(np.int64)), height, width), "boxes"
    if not whole or held.shape != (count, height, width) or not bool(np.isin(held, (0, 1)).all()):
        got = f"{held.dtype} {list(held.shape)}"
        expected = f"masks of 0 and 1 {[count, height, width]} or boxes, whole numbers {[count, 4]}: of the test split"
        raise BadInput("--mask", got, expected)
    return torch.from_numpy(held.astype(np.bool_)), "masks"


def read_npy(path: Path) -> Any:
    """The array of a mask's ``.npy`` file; BadInput where it cannot be read."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput("--mask", str(path), f"a .npy file that can be read ({error})") from None


def weight_distance_at(
    run: Path, recipe: Recipe, checkpoints: Sequence[Checkpoint], tap: str
) -> tuple[str, tuple[float, ...]] | None:
    """The weight distance of the probed layer at each checkpoint, interpolated in ``weight_distance.jsonl``.

    The layer is the last one recorded within the tap, else the last one recorded.
    """
    layers, log = recipe.training.record_weight_distance, run / "weight_distance.jsonl"
    if not layers or not log.exists():
        return None
    layer = ([layer for layer in layers if layer == tap or layer.startswith(f"{tap}.")] or list(layers))[-1]
    lines = [json.loads(line) for line in read_text(log).splitlines()]
    epochs = [0.0, *(float(line["epoch"]) for line in lines)]
    distances = [0.0, *(float(line["distance"][layer]) for line in lines)]
    return layer, tuple(float(each) for each in np.interp([one.epoch for one in checkpoints], epochs, distances))
