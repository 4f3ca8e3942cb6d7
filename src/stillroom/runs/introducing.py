"""The teacher made ready, and introduced with the student to the objectives, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.models.cost import device_of
from stillroom.objectives.base import Objective
from stillroom.objectives.features import TapObjective
from stillroom.objectives.meeting import Meeting, Party
from stillroom.runs.materials import Dressed, dress
from stillroom.runs.setting import Setting

# Images that taps are found on: more than one, as they are not to be all alike.
_EXAMPLES = 4


def dress_teacher(setting: Setting, model: nn.Module | None) -> Dressed | None:
    """The recipe's teacher on the run's device, the same in every process; None where there is no model to run.

    Raises:
        BadInput: it does not fit the data.
    """
    config = setting.recipe.teacher
    if config is None or model is None or config.answers is not None:
        return None
    setting.processes.copy_weights(model.to(setting.device))
    return dress(model, config, setting.data.train, "teacher", setting.taught_classes)


def introduce(
    objectives: Sequence[Objective[Any]], setting: Setting, student: Dressed, teacher: Dressed | None
) -> None:
    """Let the objectives meet the models, and say what those that read features have chosen.

    Raises:
        BadInput: one of them cannot be computed from these models.
    """
    meeting = meeting_of(setting, student, teacher)
    for objective in objectives:
        objective.meet(meeting)
        if setting.known is not None:
            check_keeps(objective)
        if isinstance(objective, TapObjective):
            setting.observer.note(objective.told())


def check_keeps(objective: Objective[Any]) -> None:
    """Refuse a term that a teacher of some of the classes cannot be read by.

    Args:
        objective: one that has met teacher and student.

    Raises:
        BadInput: it sets the teacher against labels that this has never heard of, or knows samples by an index that
            means another image in each task.
    """
    reads = objective.reads
    field = f"objectives.{objective.name}"
    if reads.teacher and reads.labels:
        expected = "a term that does not set labels against the teacher's answer: it has no logits of the new classes"
        hint = " (alpha: 0 leaves the labels to cross_entropy)" if objective.name == "block_logit" else ""
        raise BadInput(field, objective.name, expected + hint)
    if reads.teacher and reads.index:
        expected = "a term that does not go by a sample's index: in each task it means another image"
        raise BadInput(field, objective.name, expected)


def meeting_of(setting: Setting, student: Dressed, teacher: Dressed | None) -> Meeting:
    """Teacher and student as objectives meet them: where they can be read, what stands opposite what."""
    config = setting.recipe.teacher
    return Meeting(
        Party(student.model, _examples(student, setting), "student"),
        Party(teacher.model, _examples(teacher, setting), "teacher") if teacher is not None else None,
        num_classes=setting.taught_classes,
        seed=setting.recipe.seed,
        answers=config.answers if config is not None else None,
    )


def _examples(dressed: Dressed, setting: Setting) -> Callable[[], Tensor]:
    images = setting.data.train.images
    return lambda: dressed.pipe()(images[:_EXAMPLES]).to(device_of(dressed.model))
