"""A finished run's models and data once more: the teacher, the student at each epoch that was kept, the images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.data.images import DataPair
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.files import digest
from stillroom.losses.setup_context import SetupContext
from stillroom.models.prepared import PreparedModel, prepare_model
from stillroom.models.weights import state_hash
from stillroom.recipe import Recipe
from stillroom.run.components import build_model
from stillroom.run.exporting import load_student
from stillroom.run.introducing import meeting_of, prepare_teacher
from stillroom.run.records import read_json
from stillroom.run.setting import RunContext
from stillroom.runtime import Observer, Processes
from stillroom.train.device import resolve_device

_KEPT = re.compile(r"epoch-(\d+)\.safetensors")


@dataclass(frozen=True)
class Kept:
    """The student's weights at an epoch."""

    epoch: float
    path: Path


@dataclass(frozen=True)
class Subject:
    """A finished run as it can be asked again.

    Attributes:
        recipe: as it is written beside the run.
        setting: its data, and where models run now: in float32.
        teacher: as it taught, its weights known to be the same.
        student: a model for the weights of any of ``kept``.
        kept: the student at the epochs that were kept, the end of the training last.
        setup_context: which tap of the teacher stands opposite which of the student.
    """

    recipe: Recipe
    setting: RunContext
    teacher: PreparedModel
    student: PreparedModel
    kept: tuple[Kept, ...]
    setup_context: SetupContext

    @property
    def data(self) -> DataPair:
        """Both splits, as the run had them."""
        return self.setting.data


def load_subject(run: Path, observer: Observer) -> Subject:
    """Make ready what a finished run was made of, and see that it is the same.

    Args:
        run: its folder.
        observer: told how it goes, and that no checkpoints were kept, where that is so.

    Raises:
        BadInput: it is no finished run; it had no teacher, or one that cannot be run here; its data or its teacher are
            not there any more, or not what they were.
    """
    model, recipe, _ = load_student(run)
    summary = read_json(run / "summary.json")
    if recipe.teacher is None:
        raise BadInput("teacher", None, "a run with a teacher: what is told is how the student differs from it")
    if recipe.teacher.answers is not None:
        expected = "a teacher that can be run here: its features are read, and its answers alone do not hold them"
        raise BadInput("teacher.answers", recipe.teacher.answers, expected)
    if recipe.data.source == "python":
        expected = "a run made from a recipe: images and a teacher that were given in Python are not kept"
        raise BadInput("data.source", "python", expected)
    data = load(recipe.data)
    if _fingerprint(summary, "data") != digest(data.train.fingerprint.encode(), data.test.fingerprint.encode()):
        raise BadInput("data", data.train.name, "the images that the run had; these are others")
    device = resolve_device("auto")
    setting = RunContext(recipe, data, device, "float32", Processes(), observer)
    teacher = prepare_teacher(setting, build_model(recipe.teacher, data.train, "teacher"))
    assert teacher is not None
    if _fingerprint(summary, "teacher", "weights_hash") != state_hash(teacher.model):
        raise BadInput("teacher.weights", recipe.teacher.weights, "the weights that the run's teacher had")
    student = prepare_model(model.to(device), recipe.student, data.train, "student")
    kept = kept_weights(run, _number(summary, "epochs"))
    if len(kept) == 1:
        more = "training.checkpoints=[0,1,2,5,10] keeps the student at such epochs"
        observer.note(f"no checkpoints in {run}: the map is of the trained student alone; {more}")
    return Subject(recipe, setting, teacher, student, kept, meeting_of(setting, student, teacher))


def kept_weights(run: Path, epochs: float) -> tuple[Kept, ...]:
    """The student's weights that a finished run kept, the trained student's last.

    Args:
        run: its folder.
        epochs: its length.
    """
    found = [
        Kept(float(match[1]), path)
        for path in (run / "checkpoints").glob("epoch-*.safetensors")
        if (match := _KEPT.fullmatch(path.name))
    ]
    # A checkpoint of the last epoch is the trained student.
    before = sorted((kept for kept in found if kept.epoch < epochs), key=lambda kept: kept.epoch)
    return *before, Kept(epochs, run / "student.safetensors")


def _fingerprint(summary: dict[str, Any], part: str, key: str = "fingerprint") -> object:
    inside = summary.get(part)
    return inside.get(key) if isinstance(inside, dict) else None


def _number(summary: dict[str, Any], key: str) -> float:
    value = summary.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(key, value, "a number, as a finished run's summary.json holds it")
    return float(value)
