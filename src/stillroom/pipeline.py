"""One command from images to a small model: a teacher, its student from labels, the same student distilled, a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from stillroom.data.config import IMAGE_FILES, SIZED, DataConfig
from stillroom.data.hub import find_data
from stillroom.data.image_folder import TEST_ALTERNATIVES, USUAL_SPLITS, class_folders, image_splits
from stillroom.data.image_table import table_splits
from stillroom.data.images import DataPair
from stillroom.data.parquet import parquet_splits
from stillroom.data.sources import detect_layout, load, parse_data_argument
from stillroom.errors import BadInput
from stillroom.files import CHECKSUMS, is_partial, write_bytes
from stillroom.losses.registry import default_losses
from stillroom.models.config import ModelConfig
from stillroom.models.external import default_image_size, is_external, pretrained_state
from stillroom.models.registry import brings_weights
from stillroom.observer import Observer
from stillroom.recipe import Recipe, apply_override, parse_recipe
from stillroom.report.run.page import write_report
from stillroom.run.components import InputFacts, build_components, build_model
from stillroom.run.run import Finished, execute
from stillroom.tasks import TASK_INFO, Measure, Task

TEACHER, LABELS, DISTILLED = "teacher", "labels", "distilled"
PAGE, PRETRAINED = "report.html", "pretrained.safetensors"
_HELD_OUT = 0.2
# Side of images for models of our own, which take any.
_OWN_SIZE = 64
_TITLES = {
    TEACHER: "the teacher, trained from labels",
    LABELS: "the student, from labels alone",
    DISTILLED: "the same student, with the teacher's help",
}


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    data: str  # a folder of images, a CSV file that lists them, hf:NAME, or the name of built-in data
    teacher: str  # a model's name, as ``timm:resnet50``
    student: str  # a model's name
    teacher_weights: str | None = None  # a file of weights; where its last layer is for other classes it is fine-tuned
    pretrained: bool = False  # fetch the teacher's published weights
    image_size: int | None = None  # side in pixels; None takes the models' own
    epochs: int = 10  # of each run
    seed: int = 0
    overrides: tuple[str, ...] = ()  # changes of every recipe, ``key.path=value``


def run_request(request: Request, out: Path, observer: Observer, say: Callable[[str], None]) -> dict[str, Any]:
    """Do what was asked for; the same request goes on with a folder where it was stopped.

    Leaves a run folder for each step, whose ``recipe.yaml`` makes it again, and a page.

    Returns:
        ``runs``, ``report``, ``seconds``, a ``conclusion`` in lines, and ``next``: what to try, a line each.

    Raises:
        BadInput: the data, a model, its weights, an option or the folder cannot be used; what is finished stays.
    """
    began = time.perf_counter()
    if request.pretrained and request.teacher_weights is not None:
        raise BadInput("--pretrained", True, "either it or --teacher-weights")
    known = {*_TITLES, PAGE, PRETRAINED, CHECKSUMS}
    if out.exists() and (not out.is_dir() or not {i.name for i in out.iterdir() if not is_partial(i)} <= known):
        raise BadInput("--out", str(out), "a new or empty folder, or one that this command began")
    config = _data(request, say)
    weights = request.teacher_weights
    if request.pretrained:
        weights = str(out / PRETRAINED)
        if not Path(weights).exists():
            write_bytes(Path(weights), safetensors.torch.save(pretrained_state(request.teacher)), checksum=True)
    # Read once for all runs; the overrides hold for what is read, too.
    data = load(_recipe(request, config, "", {"name": request.student}).data)
    recipes = _recipes(request, config, data, weights, out, say)
    _try_models(recipes, data.train)
    finished: dict[str, Finished] = {}
    for place, (name, recipe) in enumerate(recipes.items(), start=1):
        say(f"{place}/{len(recipes)}  {_TITLES[name]}")
        components = build_components(recipe, data)
        finished[name] = execute(recipe, out / name, resume=True, observer=observer, components=components)
    page = write_report([finished[DISTILLED].path, finished[LABELS].path], out / PAGE)
    summaries = {name: run.summary for name, run in finished.items()}
    return {
        "runs": {name: str(run.path) for name, run in finished.items()},
        "report": str(page),
        "seconds": round(time.perf_counter() - began, 1),
        "conclusion": _conclusion(summaries),
        "next": _next(out, summaries),
    }


def _try_models(recipes: Mapping[str, Recipe], facts: InputFacts) -> None:
    """Make each model once: a misspelt student is not to be found when its teacher has been trained."""
    for step, option in ((TEACHER, "--teacher"), (LABELS, "--student")):
        if step in recipes:
            try:
                with torch.random.fork_rng(devices=[]):
                    build_model(recipes[step].student, facts, "student")
            except BadInput as error:
                if error.field == "student.name":
                    raise BadInput(option, error.value, error.expected) from None
                raise


def _data(request: Request, say: Callable[[str], None]) -> DataConfig:
    """The data options: layout, splits, the side that image files are brought to."""
    folder = find_data(request.data, "--data")
    splits = _splits(folder) if folder.is_dir() else None
    if splits is None:
        config = parse_data_argument(request.data)
        there = table_splits(folder) if config.source == "csv" else parquet_splits(folder) if folder.is_dir() else {}
        splits = _usual_splits(there)
    else:
        config = DataConfig(source="folders", path=request.data)
    if splits is not None:
        train, test = splits
        config = config.model_copy(update={"train_split": train, "test_split": test or "test"})
        if test is None:
            config = config.model_copy(update={"holdout": _HELD_OUT})
            say(f"no test split in {request.data}: {_HELD_OUT:.0%} of its images are kept for the test")
    if config.source not in IMAGE_FILES and request.image_size is None:
        return config
    if config.source not in SIZED:
        raise BadInput("--image-size", request.image_size, f"none: {config.source} has images of one size")
    side = request.image_size or max(_image_size(name) for name in (request.teacher, request.student))
    if _recipe(request, config, "", {"name": request.student}).data.task == "regression":
        # A part of a picture, mirrored or in other colours, may have another number.
        return config.model_copy(update={"image_size": side, "batch_size": 64})
    jitter = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    augmentation = {"random_resized_crop": {}, "flip": True, "color_jitter": jitter, "views": 4}
    return DataConfig.model_validate(
        {**config.model_dump(exclude_unset=True), "image_size": side, "batch_size": 64, "augmentation": augmentation}
    )


def _splits(folder: Path) -> tuple[str, str | None] | None:
    """The names of the training and the test split, in whatever case; None of what is no folder of image files.

    The folder itself, ``.``, is the training split where its class folders lie right below.
    """
    found = {name.lower(): name for name in image_splits(folder)}
    if "train" not in found or not set(found) <= set(USUAL_SPLITS):
        # One folder of images next to a list of them is no class.
        classes = class_folders(folder)
        listed = len(classes) < 2 and table_splits(folder)
        return (".", None) if classes and not listed and not image_splits(folder, USUAL_SPLITS) else None
    if detect_layout(folder, "--data", found.values()) != "folders":
        return None
    return _usual_splits(found.values())


def _usual_splits(names: Iterable[str]) -> tuple[str, str | None] | None:
    """Of splits, in whatever case, that to learn from and that to test on; None where none is called train."""
    found = {name.lower(): name for name in names}
    if "train" not in found:
        return None
    return found["train"], next((found[name] for name in ("test", *TEST_ALTERNATIVES) if name in found), None)


def _image_size(name: str) -> int:
    return default_image_size(name) if is_external(name) else _OWN_SIZE


def _recipes(
    request: Request,
    config: DataConfig,
    data: DataPair,
    weights: str | None,
    out: Path,
    say: Callable[[str], None],
) -> dict[str, Recipe]:
    """The recipe of each step, the teacher's only where it must learn the classes first."""
    teacher: dict[str, Any] = {"name": request.teacher, **({"weights": weights} if weights is not None else {})}
    recipes: dict[str, Recipe] = {}
    knows = weights is not None and _knows_classes(ModelConfig(**teacher), data.train)
    if not knows and not (weights is None and brings_weights(request.teacher)):
        if weights is not None:
            say(f"the last layer of {weights} is for other classes: it is made anew, and the teacher is fine-tuned")
            teacher["head"] = "new"
        else:
            say(
                f"{request.teacher} begins with random weights and learns your images first; --teacher-weights FILE or "
                "--pretrained begin with better ones"
            )
        recipes[TEACHER] = _recipe(request, config, f"{request.teacher}, teacher", teacher, tuned=weights is not None)
        teacher = {"name": request.teacher, "weights": str(out / TEACHER / "student.safetensors")}
    student = {"name": request.student}
    losses = default_losses(data.train.task, teacher=True)
    recipes[LABELS] = _recipe(request, config, f"{request.student} from labels", student, teacher)
    recipes[DISTILLED] = _recipe(request, config, f"{request.student} distilled", student, teacher, losses=losses)
    return recipes


def _knows_classes(teacher: ModelConfig, facts: InputFacts) -> bool:
    """Whether a file of weights fits a model of the data's classes; False where all but its last layer does.

    Raises:
        BadInput: more than the last layer does not fit.
    """
    try:
        build_model(teacher, facts, "teacher")
    except BadInput as error:
        try:
            build_model(teacher.model_copy(update={"head": "new"}), facts, "teacher")
        except BadInput:
            raise error from None
        return False
    return True


def _recipe(
    request: Request,
    data: DataConfig,
    name: str,
    student: Mapping[str, Any],
    teacher: Mapping[str, Any] | None = None,
    *,
    losses: Any = None,
    tuned: bool = False,
) -> Recipe:
    optimizer: dict[str, Any] = {}
    if is_external(str(student["name"])):
        # The rate of a fine-tuning is a third of AdamW's own; both are mild for any architecture.
        optimizer = {"name": "adamw", "lr": 3e-4 if tuned else 1e-3}
    content: dict[str, Any] = {
        "name": name,
        "data": data.model_dump(mode="json", exclude_unset=True),
        "student": dict(student),
        "training": {"epochs": request.epochs, **({"optimizer": optimizer} if optimizer else {})},
        "seed": request.seed,
        **({"teacher": dict(teacher)} if teacher is not None else {}),
        **({"losses": losses} if losses is not None else {}),
    }
    for override in request.overrides:
        # What is about the loss or the student's teacher changes the runs that have them.
        part = override.partition("=")[0].partition(".")[0]
        held_by = {"data": True, "training": True, "seed": True, "student": teacher is not None}
        if held_by.get(part, losses is not None):
            apply_override(content, override)
    if content["data"].get("task") == "regression" and "optimizer" not in content["training"]:
        # Squared errors have no bound: at the default rate of classes their first steps run away.
        content["training"]["optimizer"] = {"lr": 0.02}
    return parse_recipe(content)


def _conclusion(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    labels, distilled = summaries[LABELS], summaries[DISTILLED]
    shown = {
        "teacher": distilled["teachers"]["teacher"],
        "student, labels": labels,
        "student, distilled": distilled,
    }
    measure = _measure(distilled)
    change = f"{_level(distilled) - _level(labels):+.{measure.digits}f}{' points' if measure.unit == '%' else ''}"
    return [
        *(
            f"{name:19} {measure.written(_level(each))}  {each['parameters']:>11,} parameters"
            for name, each in shown.items()
        ),
        f"distilling changed {measure.title} by {change} on {distilled['count']} test "
        "images (one seed: no interval, so no claim).",
    ]


def _measure(summary: Mapping[str, Any]) -> Measure:
    """What models of a run's task are ranked by."""
    task: Task = (summary.get("measures") or {}).get("task", "single_label")
    return TASK_INFO[task].primary


def _level(side: Mapping[str, Any]) -> float:
    """That measure of a student or a teacher."""
    return float((side.get("measures") or side)[_measure(side).name])


def _next(out: Path, summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What to try next, the most useful first."""
    labels, distilled = summaries[LABELS], summaries[DISTILLED]
    teacher, measure = _level(distilled["teachers"]["teacher"]), _measure(distilled)
    measure = replace(measure, digits=1) if measure.unit == "%" else measure
    lines = []
    if teacher < _level(labels):
        levels = [measure.written(level) for level in (teacher, _level(labels))]
        lines.append(
            f"The teacher ({levels[0]}) is weaker than the student from labels ({levels[1]}): begin with "
            "pretrained weights, or train it for longer (--epochs)."
        )
    if _level(distilled) < _level(labels):
        lines.append(f"Why is the distilled student worse?  stillroom diagnose {out / DISTILLED}")
    else:
        lines.append(f"Is anything wrong with the run?      stillroom diagnose {out / DISTILLED}")
    lines += [
        f"Take the student along:              stillroom export {out / DISTILLED} --format onnx --pixels",
        f"Make it again, or change it:         stillroom distill {out / DISTILLED / 'recipe.yaml'} training.epochs=30",
    ]
    return lines
