"""One command from images to a small model: a teacher, its student from labels, the same student distilled, a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.data.config import IMAGE_FILES, SIZED, DataConfig
from stillroom.data.hub import find_data
from stillroom.data.image_folder import TEST_ALTERNATIVES, USUAL_SPLITS, class_folders, image_splits
from stillroom.data.image_table import table_splits
from stillroom.data.images import DataPair
from stillroom.data.parquet import parquet_splits
from stillroom.data.reading import list_folder
from stillroom.data.sources import detect_layout, load, parse_data_argument, take_validation
from stillroom.diagnose.checks.running_statistics import STARTING
from stillroom.errors import BadInput
from stillroom.files import CHECKSUMS, is_partial
from stillroom.losses.registry import default_losses
from stillroom.models.config import ModelConfig
from stillroom.models.cost import latency_seconds
from stillroom.models.external import PRETRAINED, default_image_size, is_external, pretrained_file
from stillroom.models.registry import brings_weights
from stillroom.models.running_statistics import fresh_momentum, starting_share
from stillroom.observer import Observer
from stillroom.recipe import Recipe, apply_override, parse_recipe
from stillroom.report.run.page import write_report
from stillroom.run.artifacts import LATENCY_BATCHES
from stillroom.run.components import InputFacts, build_components, build_model
from stillroom.run.duration import Speed, measure_reading, measure_speed
from stillroom.run.latency import measure_latency
from stillroom.run.linear_head import fit_head
from stillroom.run.run import Finished, execute
from stillroom.schema.base import read_json, write
from stillroom.schema.run import PLAN, RunPlan
from stillroom.tasks import TASK_INFO, Measure, Task
from stillroom.train.device import resolve_device, resolve_threads
from stillroom.wording import counted

TEACHER, LABELS, DISTILLED = "teacher", "labels", "distilled"
PAGE, STARTED = "report.html", "teacher-start.safetensors"
# Shares of the training images: for the test where there is no other, and to measure along the way, from so many
# images of each class on.
_HELD_OUT, _VALIDATION, _LEAST_OF_A_CLASS = 0.2, 0.1, 10
_EPOCHS = 10
# Batches that running statistics are averages of.
_STATISTICS_BATCHES = 50
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
    epochs: int | None = None  # of each run; None: up to 10, as many as fit
    minutes: float = 10.0  # that the whole may take, where no epochs are given
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
    known = {*_TITLES, PAGE, STARTED, PLAN, CHECKSUMS}
    if out.exists() and (not out.is_dir() or not {i.name for i in out.iterdir() if not is_partial(i)} <= known):
        raise BadInput("--out", str(out), "a new or empty folder, or one that this command began")
    config = _data(request, say)
    weights = request.teacher_weights
    if request.pretrained:
        pretrained_file(request.teacher, "--pretrained", "--teacher-weights")
        weights = PRETRAINED
    # Read once for all runs; the overrides hold for what is read, too.
    data = load(_recipe(request, config, "", {"name": request.student}).data)
    momenta = _try_models(request, config, data.train)
    config, data = _with_validation(request, config, data, say)
    teacher = _teacher(request, data, weights)
    plan = _plan(request, config, data, teacher, momenta, out, began, say)
    lines: dict[str, None] = {}  # each once: both students are the same model
    recipes = {
        name: _with_statistics(recipe, len(data.train), momenta, lines.setdefault)
        for name, recipe in _recipes(request, config, data, teacher, plan, out, observer, say).items()
    }
    for line in lines:
        say(line)
    finished: dict[str, Finished] = {}
    for place, (name, recipe) in enumerate(recipes.items(), start=1):
        say(f"{place}/{len(recipes)}  {_TITLES[name]}")
        components = build_components(recipe, data)
        finished[name] = execute(
            recipe, out / name, resume=True, observer=observer, components=components, describe=place == 1
        )
    say("timing teacher and student")
    measure_latency(finished[DISTILLED].path)
    summaries = {name: run.summary for name, run in finished.items()}
    steps = _next(out, summaries)
    page = write_report([finished[DISTILLED].path, finished[LABELS].path], out / PAGE, steps)
    return {
        "runs": {name: str(run.path) for name, run in finished.items()},
        "report": str(page),
        "seconds": round(time.perf_counter() - began, 1),
        "conclusion": _conclusion(summaries),
        "next": [f"{why:37}{command}" if command else why for why, command in steps],
    }


def _try_models(request: Request, config: DataConfig, facts: InputFacts) -> dict[str, float | None]:
    """Make each model once: a misspelt student is not to be found when its teacher has been trained.

    Returns:
        The smallest momentum of each model's batch norms.
    """
    momenta = {}
    for option, name in (("--teacher", request.teacher), ("--student", request.student)):
        try:
            with torch.random.fork_rng(devices=[]):
                model = build_model(_recipe(request, config, "", {"name": name}).student, facts, "student")
            momenta[name] = fresh_momentum(model)
        except BadInput as error:
            if error.field == "student.name":
                raise BadInput(option, error.value, error.expected) from None
            raise
    return momenta


def _is_short(momentum: float | None, steps: int) -> bool:
    """Whether so many steps are too few for the running statistics of batch norms."""
    return starting_share(momentum, steps) >= STARTING.warning


def _with_statistics(
    recipe: Recipe, images: int, momenta: Mapping[str, float | None], say: Callable[[str], None]
) -> Recipe:
    """The recipe, with the running statistics of batch norms computed anew where it is too short for them."""
    student, training = recipe.student, recipe.training
    steps = training.total_steps(max(images // recipe.data.batch_size, 1))
    momentum = None if student.weights is not None else momenta.get(student.name)
    if training.recompute_batch_norm is not None or not _is_short(momentum, steps):
        return recipe
    say(
        f"{student.name} has batch norms of momentum {momentum:g}: {counted(steps, 'step')} leave their statistics at "
        f"{starting_share(momentum, steps):.0%} of their starting values, so they are computed anew before each "
        f"evaluation (training.recompute_batch_norm={_STATISTICS_BATCHES})"
    )
    training = training.model_copy(update={"recompute_batch_norm": _STATISTICS_BATCHES})
    return recipe.model_copy(update={"training": training})


def _data(request: Request, say: Callable[[str], None]) -> DataConfig:
    """The data options: layout, splits, the side that image files are brought to."""
    folder = find_data(request.data, "--data")
    by_name = "data.class_from=file_name" in request.overrides
    splits = _splits(folder, by_name) if folder.is_dir() else None
    if splits is None:
        config = parse_data_argument(request.data)
        there = table_splits(folder) if config.source == "csv" else parquet_splits(folder) if folder.is_dir() else {}
        splits = _usual_splits(there)
    else:
        config = DataConfig(source="folders", path=request.data, class_from="file_name" if by_name else "folder")
    if splits is not None:
        train, test, validation = splits
        config = config.model_copy(update={"train_split": train, "test_split": test or "test"})
        if validation is not None:
            config = config.model_copy(update={"validation": validation})
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


def _splits(folder: Path, by_name: bool) -> tuple[str, str | None, str | None] | None:
    """The training, test and validation split, in whatever case; None of what is no folder of image files.

    The folder itself, ``.``, is the training split where its class folders lie right below.
    """
    if by_name:
        names = [path.name for path in list_folder(folder) if path.is_dir() and path.name.lower() in USUAL_SPLITS]
        return _usual_splits(names) or (".", None, None)
    found = {name.lower(): name for name in image_splits(folder)}
    if "train" not in found or not set(found) <= set(USUAL_SPLITS):
        # One folder of images next to a list of them is no class.
        classes = class_folders(folder)
        listed = len(classes) < 2 and table_splits(folder)
        return (".", None, None) if classes and not listed and not image_splits(folder, USUAL_SPLITS) else None
    if detect_layout(folder, "--data", found.values()) != "folders":
        return None
    return _usual_splits(found.values())


def _usual_splits(names: Iterable[str]) -> tuple[str, str | None, str | None] | None:
    """Of splits, in whatever case, those to learn from, to test on and to measure along the way on.

    None where none is called train; a validation split is the test split where there is no other.
    """
    found = {name.lower(): name for name in names}
    if "train" not in found:
        return None
    others = [found[name] for name in ("test", *TEST_ALTERNATIVES) if name in found]
    return found["train"], others[0] if others else None, others[1] if len(others) > 1 else None


def _image_size(name: str) -> int:
    return default_image_size(name) if is_external(name) else _OWN_SIZE


def _with_validation(
    request: Request, config: DataConfig, data: DataPair, say: Callable[[str], None]
) -> tuple[DataConfig, DataPair]:
    """The data with a part of the training images to measure on along the way, so that the test is looked at once."""
    given = {override.partition("=")[0] for override in request.overrides}
    if config.validation is not None or given & {"data.validation", "data.labelled", "data.unlabelled"}:
        return config, data
    least = int(np.bincount(data.train.strata).min())
    if least < _LEAST_OF_A_CLASS:
        say(f"the smallest class has {counted(least, 'training image')}: none is kept to measure on along the way")
        return config, data
    say(f"{_VALIDATION:.0%} of the training images are kept to measure on along the way")
    content = {**config.model_dump(exclude_unset=True), "validation": _VALIDATION}
    return DataConfig.model_validate(content), take_validation(data, _VALIDATION)


@dataclass(frozen=True)
class _Teacher:
    """The teacher before the first run."""

    config: ModelConfig
    learns: bool  # whether its classes are not the data's: it is trained first
    has_weights: bool  # whether it begins with some


def _teacher(request: Request, data: DataPair, weights: str | None) -> _Teacher:
    config = ModelConfig(name=request.teacher, **({"weights": weights} if weights is not None else {}))
    if weights is None:
        return _Teacher(config, learns=not brings_weights(request.teacher), has_weights=False)
    return _Teacher(config, learns=not _knows_classes(config, data.train), has_weights=True)


def _plan(
    request: Request,
    config: DataConfig,
    data: DataPair,
    teacher: _Teacher,
    momenta: Mapping[str, float | None],
    out: Path,
    began: float,
    say: Callable[[str], None],
) -> RunPlan:
    """How many epochs fit into the minutes, from the time that a few images take; says it before the first run."""
    if (out / PLAN).is_file():
        before = read_json(RunPlan, out / PLAN)
        if request.epochs in (None, before.student_epochs):
            return before
    example = _recipe(request, config, "", {"name": request.student})
    training, augmentation, train = example.training, example.data.augmentation, data.train
    reading = measure_reading(train, augmentation, training)
    batch = example.data.batch_size
    timed = partial(measure_speed, batch=min(batch, len(train)), patience=_CALIBRATION * 60 * request.minutes)
    learner = timed(example.student, train, training, "student", learns=True)
    large = timed(teacher.config, train, training, "teacher", learns=teacher.learns)
    device = resolve_device(training.device)
    count = resolve_threads(training.threads)
    where = counted(count, "CPU thread") if device.type == "cpu" else str(device)
    fits = teacher.learns and teacher.has_weights
    elapsed = time.perf_counter() - began
    costs = _Costs(
        data,
        augmentation.different_views,
        reading,
        large,
        learner,
        {"teacher": None if teacher.has_weights else momenta[request.teacher], "student": momenta[request.student]},
        batch,
        fits,
        where,
        count,
        elapsed,
    )
    least = 0 if costs.fits and train.task == "single_label" else 1
    if not teacher.learns:
        choices = [(0, epochs) for epochs in range(_EPOCHS, 0, -1)]
    else:
        # The same for all; else the teacher's least, and as many of the student's as there is room for.
        choices = [(epochs, epochs) for epochs in range(_EPOCHS, 0, -1)]
        choices += [(least, epochs) for epochs in range(_EPOCHS, 0, -1)]
    if request.epochs is not None:
        choices = [(request.epochs * teacher.learns, request.epochs)]
    limit = _MARGIN * 60 * request.minutes
    chosen = next((pair for pair in choices if costs.seconds(*pair) <= limit), choices[-1])
    if request.epochs is None and chosen[0] == chosen[1]:
        larger = [(chosen[0], epochs) for epochs in range(_EPOCHS, chosen[1], -1)]
        chosen = next((pair for pair in larger if costs.seconds(*pair) <= limit), chosen)
    seconds = costs.seconds(*chosen)
    plan = RunPlan(teacher_epochs=chosen[0], student_epochs=chosen[1], seconds=round(seconds, 1))
    write(out / PLAN, plan)
    for line in _plan_lines(request, config, teacher, costs, plan, limit):
        say(line)
    return plan


# Of the minutes: an estimate is not exact. And what a batch may take that is timed for it.
_MARGIN, _CALIBRATION = 0.85, 0.03
# Images that a teacher answers again, to see that a cache holds its own answers; seconds of what does not depend on the
# number of images: a run's start and end, the page.
_CHECKED, _FIXED = 80, 6.0


@dataclass(frozen=True)
class _Costs:
    """Seconds of the parts of the work."""

    data: DataPair
    views: int  # of each image; 0: a new one each epoch
    reading: float  # and augmenting an image
    teacher: Speed
    student: Speed
    momenta: Mapping[str, float | None]  # of both models' fresh batch norms
    batch: int
    fits: bool  # whether the teacher's last layer is fitted first
    where: str  # what it is measured on
    threads: int
    elapsed: float  # since the command began

    def teacher_epochs(self, epochs: int) -> float:
        fitted = self.fits * len(self.data.train) * self.teacher.answer
        tested = bool(epochs) * len(self.data.test) * self.teacher.answer
        return fitted + self._training("teacher", self.teacher, epochs) + tested

    def answers(self, epochs: int) -> float:
        views = min(self.views or epochs, epochs)
        images = views * len(self.data.train.parent) + len(self.data.test) + _CHECKED
        return images * self.teacher.answer + views * len(self.data.train.parent) * self.reading

    def student_epochs(self, epochs: int) -> float:
        return 2 * (self._training("student", self.student, epochs) + len(self.data.test) * self.student.answer)

    def seconds(self, teacher_epochs: int, student_epochs: int) -> float:
        parts = self.teacher_epochs(teacher_epochs) + self.answers(student_epochs) + self.student_epochs(student_epochs)
        # At the end both are timed, on one thread.
        timed = (
            latency_seconds(speed.answer * self.threads, batch)
            for speed in (self.teacher, self.student)
            for batch in LATENCY_BATCHES
        )
        # The first run looks at every image for what is wrong with the data.
        described = (len(self.data.train.parent) + len(self.data.test)) * self.reading
        return self.elapsed + parts + described + sum(timed) + _FIXED

    def _training(self, which: str, speed: Speed, epochs: int) -> float:
        """All epochs, with an evaluation after each, before which running statistics may be computed anew."""
        images = len(self.data.train)
        steps = epochs * max(images // self.batch, 1)
        anew = _is_short(self.momenta[which], steps)
        seen = min(_STATISTICS_BATCHES * self.batch, images) * (speed.answer + self.reading) if anew else 0.0
        measured = len(self.data.validation or self.data.test)
        return epochs * (images * (speed.learn + self.reading) + seen + measured * speed.answer)


def _plan_lines(
    request: Request, config: DataConfig, teacher: _Teacher, costs: _Costs, plan: RunPlan, limit: float
) -> list[str]:
    first = f"teacher {counted(plan.teacher_epochs, 'epoch')} ({_minutes(costs.teacher_epochs(plan.teacher_epochs))}), "
    trained = f"{first}its" if plan.teacher_epochs else "the teacher's"
    lines = [
        f"plan: about {_minutes(plan.seconds)} on {costs.where}: {trained} answers "
        f"({_minutes(costs.answers(plan.student_epochs))}), student twice {counted(plan.student_epochs, 'epoch')} "
        f"({_minutes(costs.student_epochs(plan.student_epochs))})"
    ]
    if plan.seconds > limit > 0 and request.epochs is None:
        lines.append(
            f"that is more than {request.minutes:g} minutes (--minutes): a smaller --image-size or --teacher is faster"
        )
    elif request.epochs is None and (plan.student_epochs < _EPOCHS or 0 < plan.teacher_epochs < _EPOCHS):
        whole = costs.seconds(_EPOCHS * teacher.learns, _EPOCHS)
        half = f"; half of --image-size {config.image_size} takes a quarter" if config.image_size else ""
        lines.append(
            f"as many epochs as fit into --minutes {request.minutes:g}; all {_EPOCHS} take {_minutes(whole)} "
            f"(--epochs {_EPOCHS}){half}"
        )
    return lines


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.0f} min"


def _recipes(
    request: Request,
    config: DataConfig,
    data: DataPair,
    teacher: _Teacher,
    plan: RunPlan,
    out: Path,
    observer: Observer,
    say: Callable[[str], None],
) -> dict[str, Recipe]:
    """The recipe of each step, the teacher's only where it must learn the classes first."""
    taught = {"name": request.teacher, **({"weights": teacher.config.weights} if teacher.has_weights else {})}
    recipes: dict[str, Recipe] = {}
    epochs = plan.teacher_epochs
    if teacher.learns:
        if teacher.has_weights:
            whose = "the published weights" if request.pretrained else teacher.config.weights
            say(f"the last layer of {whose} is for other classes: it is made anew, and the teacher is fine-tuned")
            training = _recipe(request, config, "", {"name": request.student}).training
            fitted = (out / STARTED).is_file()
            if not fitted and data.train.task == "single_label":
                fitted = fit_head(teacher.config, data, training, out / STARTED, observer)
                observer.run_ended()
            taught |= {"weights": str(out / STARTED)} if fitted else {"head": "new"}
            epochs = epochs if fitted else max(epochs, 1)
        else:
            say(
                f"{request.teacher} begins with random weights and learns your images first; --teacher-weights FILE or "
                "--pretrained begin with better ones"
            )
        if epochs:
            name = f"{request.teacher}, teacher"
            recipes[TEACHER] = _recipe(request, config, name, taught, epochs=epochs, tuned=teacher.has_weights)
            taught = {"name": request.teacher, "weights": str(out / TEACHER / "student.safetensors")}
    student, epochs = {"name": request.student}, plan.student_epochs
    losses = default_losses(data.train.task, teacher=True)
    recipes[LABELS] = _recipe(request, config, f"{request.student} from labels", student, taught, epochs=epochs)
    recipes[DISTILLED] = _recipe(
        request, config, f"{request.student} distilled", student, taught, epochs=epochs, losses=losses
    )
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
    epochs: int = 1,
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
        "training": {"epochs": epochs, **({"optimizer": optimizer} if optimizer else {})},
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
    changed = {override.partition("=")[0].partition(".")[0] for override in request.overrides}
    if losses is not None and not changed & {"losses", "cache"} and data.augmentation.different_views:
        # So that the recipe, run again, asks the teacher nothing.
        content["cache"] = {"enabled": True}
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


def _next(out: Path, summaries: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What to try next, the most useful first: why, and a command, or none."""
    labels, distilled = summaries[LABELS], summaries[DISTILLED]
    teacher, measure = _level(distilled["teachers"]["teacher"]), _measure(distilled)
    measure = replace(measure, digits=1) if measure.unit == "%" else measure
    lines: list[tuple[str, str]] = []
    if teacher < _level(labels):
        levels = [measure.written(level) for level in (teacher, _level(labels))]
        why = f"The teacher ({levels[0]}) is weaker than the student from labels ({levels[1]}): begin with pretrained "
        lines.append((why + "weights, or train it for longer (--epochs).", ""))
    guessing = 100 / distilled["data"]["classes"] if measure.name == "top1" else 0.0
    if max(_level(labels), _level(distilled)) < 1.5 * guessing:
        lines.append(
            (f"Both students do little better than guessing ({guessing:.1f}%): train for longer (--epochs).", "")
        )
    worse = _level(distilled) < _level(labels)
    why = "Why is the distilled student worse?" if worse else "Is anything wrong with the run?"
    recipe = out / DISTILLED / "recipe.yaml"
    return [
        *lines,
        (why, f"stillroom diagnose {out / DISTILLED}"),
        ("Take the student along:", f"stillroom export {out / DISTILLED} --format onnx --pixels"),
        ("Make it again, or change it:", f"stillroom distill {recipe} training.epochs=30 --out {out}-longer"),
    ]
