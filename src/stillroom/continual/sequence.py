"""What each task of a recipe is made of: its recipe, its data, its student, its teacher. Nothing here is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from stillroom.continual.head import State, made_for, student_of
from stillroom.continual.tasks import Order, Tasks, order_of
from stillroom.data.images import DataPair
from stillroom.data.loader import BatchSampler
from stillroom.errors import BadInput
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig
from stillroom.models.preprocess import resolve_preprocess
from stillroom.randomness import seeded
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents
from stillroom.run.run import prepare
from stillroom.teachers.config import TeacherConfig
from stillroom.train.device import resolve_device, resolve_precision


class Sequence:
    """The tasks of a recipe, each made into an ordinary run.

    Args:
        recipe: what to do.
        data: all of it.

    Attributes:
        recipe: with all written out that is chosen for it.
        tasks: the data of all tasks.
        keeps: whether a term keeps old knowledge, so that each task but the first has a teacher.
        total: optimizer steps of all tasks.

    Raises:
        BadInput: tasks, memory or losses do not fit the data.
    """

    def __init__(self, recipe: Recipe, data: DataPair) -> None:
        settings = recipe.incremental
        if settings is None:
            raise BadInput("incremental", None, "how many tasks the classes come in, such as {tasks: 5}")
        if settings.task is not None:
            raise BadInput("incremental.task", settings.task, "none: it stands in the recipe beside the run of a task")
        self.settings, self.device = settings, resolve_device(recipe.training.device)
        order = order_of(data.train.num_classes, settings.tasks, settings.shuffled_by(recipe.seed))
        self.tasks = Tasks(data, order, settings.memory, settings.joint)
        self.recipe = self._settled(recipe)
        reads = [loss.requires for loss in build_losses(recipe.losses)]
        self._alone = tuple(term for term, each in zip(recipe.losses, reads, strict=True) if not each.teacher)
        if not any(each.labels for each in reads if not each.teacher):
            expected = "a term that reads labels alone, such as cross_entropy: no teacher knows the newest classes"
            raise BadInput("losses", [term.name for term in recipe.losses], expected)
        self.keeps = any(each.teacher for each in reads)
        self.total = sum(self.steps(task)[0] for task in range(1, self.tasks.count + 1))

    @property
    def order(self) -> Order:
        """Which classes come when."""
        return self.tasks.order

    @property
    def title(self) -> str:
        """What reports call the whole."""
        way = self.settings.preset or " + ".join(term.name for term in self.recipe.losses)
        return self.recipe.name or f"{self.recipe.student.name}, {self.tasks.count} tasks, {way}"

    @property
    def student(self) -> ModelConfig:
        """The student without weights to begin with: they are but the first task's."""
        return self.recipe.student.model_copy(update={"weights": None})

    def empty_student(self, task: int) -> nn.Module:
        """A model for the weights of the student of a task."""
        return made_for(self.student, self.tasks.data.train, self.order.seen(task))

    def recipe_of(self, task: int) -> Recipe:
        """The recipe of one task, counted from 1: its name, and its teacher where it has one."""
        changes: dict[str, Any] = {
            "name": f"{self.title}: task {task} of {self.tasks.count}"[:80],
            # The first task has no teacher, and so not all terms of its preset.
            "incremental": self.settings.model_copy(update={"preset": None, "task": task}),
        }
        if task == 1:
            return self.recipe.model_copy(update={**changes, "losses": self._alone})
        if self.keeps:
            changes["teacher"] = TeacherConfig(
                name=self.student.name,
                # Told from the task's own folder, so that the whole may lie anywhere.
                weights=f"../{folder_of(Path(), task - 1).name}/student.safetensors",
                options=self.student.options,
                preprocess=self.student.preprocess,
            )
        return self.recipe.model_copy(update={**changes, "student": self.student})

    def components(self, task: int, data: DataPair, before: State | None) -> RunComponents:
        """What a task is made of: the student that was, grown, and as its teacher the student that was, as it was.

        Args:
            task: counted from 1.
            data: what it learns from and is judged on.
            before: weights of the student of the task before; None in the first.
        """
        seen, seed = self.order.seen, self.recipe.seed
        student = student_of(self.recipe.student, data.train, seen(task), seed, before, task)
        with seeded(seed, "connector-init"):
            losses = build_losses(self.recipe_of(task).losses)
        if before is None or not self.keeps:
            return RunComponents(data, student, losses)
        teacher = self.empty_student(task - 1)
        teacher.load_state_dict(dict(before))
        return RunComponents(data, student, losses, {"teacher": teacher}, seen(task - 1))

    def steps(self, task: int) -> tuple[int, int]:
        """A task's optimizer steps, and those of an epoch: whichever exemplars there will be, it is known how many."""
        images = len(self.tasks.new_rows(task)) + len(self.tasks.old_rows(task, self.tasks.planned(task)))
        per_epoch = BatchSampler(images, self.recipe.data.batch_size, self.recipe.seed).steps_per_epoch
        return self.recipe.training.total_steps(per_epoch), per_epoch

    def rehearse(self) -> None:
        """Put together the first two tasks as they will be, with weights that have learned nothing.

        Raises:
            BadInput: something in them cannot be used; told now, not after the first task.
        """
        before: State | None = None
        for task in (1, 2):
            recipe = self.recipe_of(task)
            # Nobody will ask this teacher again.
            recipe = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"enabled": False})})
            components = self.components(task, self.tasks.part(task, self.tasks.planned(task)), before)
            before = {name: tensor.clone() for name, tensor in components.student.state_dict().items()}
            prepare(recipe, components=components)

    def _settled(self, recipe: Recipe) -> Recipe:
        train, training, cache = self.tasks.data.train, recipe.training, recipe.cache
        precision = resolve_precision(training.precision, self.device)
        preprocess = resolve_preprocess(
            recipe.student.preprocess, channels=train.channels, is_pixels=train.is_pixels, field="student"
        )
        if cache.enabled == "auto":
            # The teacher of a task teaches it alone: what it said is of use to nobody afterwards.
            cache = cache.model_copy(update={"enabled": False})
        return recipe.model_copy(
            update={
                "training": training.model_copy(update={"device": self.device.type, "precision": precision}),
                "student": recipe.student.model_copy(update={"preprocess": preprocess or "none"}),
                "cache": cache,
            }
        )


def folder_of(out: Path, task: int) -> Path:
    """Where the run of a task lies, counted from 1.

    >>> folder_of(Path("runs/lwf"), 3).as_posix()
    'runs/lwf/tasks/03'
    """
    return out / "tasks" / f"{task:02d}"
