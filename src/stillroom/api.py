"""Distillation in a few lines of Python; the same runs, folders and reports as the command line's."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from stillroom.cli.live import LiveStudy
from stillroom.cli.terminal import ProgressBar
from stillroom.data.dataset import from_dataset, from_images
from stillroom.data.images import ImageSet, make_pair
from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.losses.cross_entropy import CrossEntropy
from stillroom.losses.kl import KL
from stillroom.losses.registry import describe
from stillroom.models.modes import device_of
from stillroom.models.prepared import PreparedModel, predict, with_layout
from stillroom.models.preprocess import Preprocess, preprocess_choices
from stillroom.observer import Observer
from stillroom.recipe import Recipe, parse_recipe
from stillroom.report.run.page import write_report
from stillroom.report.study.page import write_run_pages, write_study_report
from stillroom.run.components import RunComponents
from stillroom.run.records import output_folder
from stillroom.run.run import execute
from stillroom.study.compare import compare as run_study
from stillroom.study.config import load_study, parse_study
from stillroom.study.engine import engine_maker
from stillroom.study.progress import StudyObserver
from stillroom.train.device import exact_float32
from stillroom.train.recorders import StepHook


@dataclass(frozen=True)
class DistillResult:
    """What :func:`distill` returns: a finished run.

    Attributes:
        path: its folder.
        summary: the result: ``top1``, ``agreement``, ``teachers`` and what else ``summary.json`` holds.
        prepared: the trained student with its preprocess.
    """

    path: Path
    summary: dict[str, Any]
    prepared: PreparedModel = field(repr=False)

    @property
    def student(self) -> nn.Module:
        """The trained student, in eval mode: your own module. It takes what :attr:`preprocess` gives."""
        return self.prepared.model

    @property
    def preprocess(self) -> Preprocess:
        """From images to the student's input, as stated for the run; floats pass as they are where none was."""
        return self.prepared.preprocess().to(device_of(self.student))

    def predict(self, images: Any) -> Tensor:
        """The student's logits for images of the form that it was trained on, as a run scores them.

        Args:
            images: a tensor [N, …], or images one after another: Pillow images, arrays, tensors.

        Returns:
            float32 [N, K] on the CPU, in the data's class order. Without a stated preprocess it is ``student(images)``.

        Raises:
            BadInput: bytes for a student of floats, or floats for one of bytes.
        """
        given = from_images(images)
        if (given.dtype == torch.uint8) != self.prepared.is_pixels:
            kind = "bytes" if self.prepared.is_pixels else "floats"
            raise BadInput("images", str(given.dtype), f"{kind}, as the run was trained on")
        with exact_float32():
            return predict(self.student, self.preprocess, given, device=device_of(self.student))

    def report(self, *others: DistillResult | Path | str) -> Path:
        """Write the page ``report.html`` of this run, compared with others if given; returns its path."""
        paths = [run.path if isinstance(run, DistillResult) else Path(run) for run in others]
        return write_report([self.path, *paths])


def distill(
    teacher: nn.Module | str | Path | Mapping[str, nn.Module | str | Path] | None,
    student: nn.Module,
    train: Dataset[Any],
    test: Dataset[Any],
    losses: Sequence[Loss[Any]] | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    augmentation: dict[str, Any] | None = None,
    teacher_preprocess: str | dict[str, Any] | None = None,
    student_preprocess: str | dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    cache: dict[str, Any] | None = None,
    seed: int = 0,
    name: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    hooks: Sequence[StepHook] = (),
    progress: bool = True,
) -> DistillResult:
    """Distil a teacher into a student, leaving a run folder; the modules given are left as they were.

    Args:
        teacher: the model that teaches; or a folder of logits of one that cannot be run here (`stillroom
            export-inputs`); or several of these by names, of which each loss then names its own (``KL(teacher="a")``);
            None trains from labels alone.
        student: the model that learns; a copy of it is trained and comes back as ``run.student``.
        train: dataset of (image, label), read once into memory. Floats go to both models as they are, whatever their
            values: ``run.student(x)`` is what was scored. Bytes (PIL images, uint8 tensors or arrays) need a stated
            preprocess for each model.
        test: the like, for evaluation.
        losses: the terms of the loss; default: ``[CrossEntropy(weight=0.1), KL(weight=0.9, temperature=4)]``.
        epochs: passes over the training images; default 10, unless ``steps`` is given.
        steps: optimizer steps, in place of epochs.
        batch_size: images a step.
        augmentation: options of ``data.augmentation``, such as ``{"pad_crop": 4, "flip": True}``; of bytes and floats.
        teacher_preprocess: what the images go through on their way to the teacher: ``"unit"`` (x/255), ``"half"``,
            ``"imagenet"``, ``"none"``, or ``{"mean": …, "std": …}``; floats are not divided by 255. Left out: nothing,
            which bytes do not allow. Of several teachers a mapping by their names.
        student_preprocess: the like for the student. ``run.predict(images)`` applies it; ``run.student`` is the bare
            module.
        training: further options of ``training``, such as ``{"precision": "float32", "ema": 0.999}``.
        cache: options of ``cache``, such as ``{"enabled": False}``; default: the teacher runs once on each view
            of each image where that saves passes.
        seed: of the order of images and of dropout.
        name: what reports call the run.
        out: the run folder; default: a new one under ``runs/``.
        resume: continue the run in the folder.
        hooks: called after each optimizer step.
        progress: show a progress bar on standard error.

    Returns:
        The finished run.

    Raises:
        BadInput: something given cannot be used; the message names it.
        RunFailed: the training cannot continue.

    >>> import torch, tempfile, stillroom as sr
    >>> data = torch.utils.data.TensorDataset(torch.rand(64, 1, 8, 8), torch.arange(64) % 4)
    >>> net = lambda width: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4))
    >>> run = sr.distill(net(32), net(4), data, data, epochs=2, out=tempfile.mkdtemp(), progress=False)
    >>> run.summary["steps"], run.summary["teachers"]["teacher"]["parameters"]
    (2, 2212)
    """
    if losses is None:
        losses = [CrossEntropy(weight=0.1), KL(weight=0.9, temperature=4)] if teacher is not None else [CrossEntropy()]
    if resume and out is None:
        raise BadInput("resume", resume, "the run's folder by out=")
    options = dict(training or {})
    for key, value in (("epochs", epochs), ("steps", steps)):
        if value is not None:
            if key in options:
                raise BadInput(f"training.{key}", options[key], f"one value, but {key}={value} is given too")
            options[key] = value
    teachers = _named_teachers(teacher)
    recipe = parse_recipe(
        {
            "name": name,
            "data": {"source": "python", "batch_size": batch_size, "augmentation": augmentation or {}},
            **_teacher_entries(teachers, teacher_preprocess, several=isinstance(teacher, Mapping)),
            "student": _entry(student, student_preprocess, "student"),
            "losses": [describe(loss) for loss in losses],
            "training": options,
            "cache": cache or {},
            "seed": seed,
        }
    )
    data = make_pair(from_dataset(train, name="train", field="train"), from_dataset(test, name="test", field="test"))
    _require_preprocess(recipe, data.train)
    # The classes' own config goes with the objects; the recipe's entries only say how to make them again.
    # Copies of the modules: a run moves them to its device, and keeps its hands off the user's.
    components = RunComponents(
        data,
        copy.deepcopy(student),
        [copy.deepcopy(loss) for loss in losses],
        {key: copy.deepcopy(model) for key, model in teachers.items() if isinstance(model, nn.Module)},
    )
    with output_folder(None if out is None else Path(out), name or "run") as folder:
        finished = execute(
            recipe,
            folder,
            resume=resume,
            observer=ProgressBar() if progress else Observer(),
            components=components,
            hooks=hooks,
        )
    return DistillResult(
        finished.path, finished.summary, with_layout(finished.student, recipe.student, data.train, "student")
    )


@dataclass(frozen=True)
class StudyResult:
    """A study that was done.

    Attributes:
        path: its folder.
        results: what ``results.json`` holds: cells with intervals, families of paired differences, inequalities.
        sound: whether every run is there and all were equal, so that the table can be believed.
    """

    path: Path
    results: dict[str, Any]
    sound: bool

    def report(self) -> Path:
        """Write the page ``report.html`` of the study, and one of each run that it links to; returns its path."""
        write_run_pages(self.path)
        return write_study_report(self.path)


def compare(
    study: str | Path | dict[str, Any],
    out: str | Path,
    *,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    progress: bool = True,
) -> StudyResult:
    """Compare training methods: methods × model pairs × seeds under one budget; a stopped study continues.

    Args:
        study: a study file, or its content.
        out: the study's folder.
        workers: runs at a time; default: as many as the cores allow.
        engine: processes of this machine, or a Ray cluster.
        address: of the Ray cluster; default: a new local one.
        progress: show the progress on standard error.

    Raises:
        BadInput: something in the study cannot be used, or another process works on the folder.
        RunFailed: what all runs need could not be done.

    >>> import tempfile, stillroom as sr
    >>> found = sr.compare({
    ...     "name": "widths", "seeds": [0], "budget": {"steps": 2},
    ...     "recipe": {"data": {"train_limit": 64, "test_limit": 64}, "student": {"name": "mlp"}},
    ...     "methods": [
    ...         {"name": "labels"}, {"name": "smoothed", "set": {"losses": [{"name": "label_smoothing"}]}}],
    ... }, tempfile.mkdtemp(), workers=1, progress=False)
    >>> found.sound, [cell["why"] for cell in found.results["cells"]]
    (True, ['one seed: no interval', 'one seed: no interval'])
    """
    settled = parse_study(study) if isinstance(study, dict) else load_study(Path(study))
    observer = LiveStudy() if progress else StudyObserver()
    found = run_study(settled, Path(out), engine_maker(engine, workers, address), observer)
    return StudyResult(found.path, found.results, found.sound)


def _require_preprocess(recipe: Recipe, images: ImageSet) -> None:
    """Refuse bytes for a module whose preprocess is not stated: what is right for it nobody but the user knows."""
    given = {recipe.teacher_field(name): config for name, config in recipe.all_teachers.items()}
    for place, config in {**given, "student": recipe.student}.items():
        if images.is_pixels and config.preprocess is None and getattr(config, "logits", None) is None:
            name = place.partition(".")[2]
            argument = f"teacher_preprocess[{name!r}]" if name else f"{place}_preprocess"
            choices = preprocess_choices(images.channels)
            expected = f"what the {place} takes, as the images are bytes: {choices}; or give floats, which go in as is"
            raise BadInput(argument, None, expected)


def _entry(model: object, preprocess: str | dict[str, Any] | None, field: str) -> dict[str, Any] | None:
    if model is None:
        return None
    if not isinstance(model, nn.Module):
        raise BadInput(field, model, "an nn.Module")
    kind = type(model)
    return {"name": f"{kind.__module__}:{kind.__qualname__}", "preprocess": preprocess}


def _named_teachers(teacher: object) -> dict[str, object]:
    """Every teacher by its name; a single one is named ``teacher``."""
    if isinstance(teacher, Mapping):
        return dict(teacher)
    return {} if teacher is None else {"teacher": teacher}


def _teacher_entries(
    teachers: Mapping[str, object], preprocess: str | dict[str, Any] | None, *, several: bool
) -> dict[str, Any]:
    """The recipe's ``teacher``, or ``teachers``, whose preprocess then goes by their names."""
    if not several:
        return {"teacher": next((_teacher_entry(teacher, preprocess) for teacher in teachers.values()), None)}
    if isinstance(preprocess, str):
        raise BadInput("teacher_preprocess", preprocess, "a mapping by the teachers' names")
    own = preprocess or {}
    return {"teachers": {name: _teacher_entry(teacher, own.get(name)) for name, teacher in teachers.items()}}


def _teacher_entry(teacher: object, preprocess: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if isinstance(teacher, str | Path):
        return {"name": Path(teacher).name, "logits": str(teacher), "preprocess": preprocess}
    return _entry(teacher, preprocess, "teacher")
