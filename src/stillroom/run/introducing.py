"""The teacher made ready, and introduced with the student to the losses, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.losses.setup_context import ModelInfo, SetupContext
from stillroom.models.modes import device_of
from stillroom.models.prepared import PreparedModel, prepare_model
from stillroom.run.setting import RunContext

# Images that taps are found on: more than one, as they are not to be all alike.
_EXAMPLES = 4


def prepare_teacher(setting: RunContext, model: nn.Module | None) -> PreparedModel | None:
    """The recipe's teacher on the run's device, the same in every process; None where there is no model to run.

    Raises:
        BadInput: it does not fit the data.
    """
    config = setting.recipe.teacher
    if config is None or model is None or config.answers is not None:
        return None
    setting.processes.copy_weights(model.to(setting.device))
    return prepare_model(model, config, setting.data.train, "teacher", setting.taught_classes)


def introduce(
    losses: Sequence[Loss[Any]], setting: RunContext, student: PreparedModel, teacher: PreparedModel | None
) -> None:
    """Let the losses meet the models, and say what those that read features have chosen.

    Raises:
        BadInput: one of them cannot be computed from these models.
    """
    setup_context = meeting_of(setting, student, teacher)
    for loss in losses:
        loss.setup(setup_context)
        if setting.known is not None:
            check_keeps(loss)
        if (line := loss.describe_taps()) is not None:
            setting.observer.note(line)


def check_keeps(loss: Loss[Any]) -> None:
    """Refuse a term that a teacher of some of the classes cannot be read by.

    Args:
        loss: one that has met teacher and student.

    Raises:
        BadInput: it sets the teacher against labels that this has never heard of, or knows samples by an index that
            means another image in each task.
    """
    reads = loss.requires
    field = f"losses.{loss.name}"
    if reads.teacher and reads.labels:
        expected = "a term that does not set labels against the teacher's answer: it has no logits of the new classes"
        free = loss.label_free_option
        hint = f" ({free[0]}: {free[1]} leaves the labels to another loss)" if free is not None else ""
        raise BadInput(field, loss.name, expected + hint)
    if reads.teacher and reads.index:
        expected = "a term that does not go by a sample's index: in each task it means another image"
        raise BadInput(field, loss.name, expected)


def meeting_of(setting: RunContext, student: PreparedModel, teacher: PreparedModel | None) -> SetupContext:
    """Teacher and student as losses meet them: where they can be read, what stands opposite what."""
    config = setting.recipe.teacher
    return SetupContext(
        ModelInfo(student.model, _examples(student, setting), "student"),
        ModelInfo(teacher.model, _examples(teacher, setting), "teacher") if teacher is not None else None,
        num_classes=setting.taught_classes,
        seed=setting.recipe.seed,
        answers=config.answers if config is not None else None,
    )


def _examples(prepared: PreparedModel, setting: RunContext) -> Callable[[], Tensor]:
    images = setting.data.train.images
    return lambda: prepared.preprocess()(images[:_EXAMPLES]).to(device_of(prepared.model))
