"""The sequence of tasks: each task's recipe, data, student and teacher, made into an ordinary run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from stillroom.continual.head import State, align_head, build_for_classes, student_for_task
from stillroom.continual.tasks import ClassOrder, TaskData, shuffle_classes
from stillroom.data.images import DataPair
from stillroom.data.loader import BatchSampler
from stillroom.errors import BadInput
from stillroom.losses.base import LossConfig, WeightSchedule
from stillroom.losses.cross_entropy import FirstClassConfig
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig
from stillroom.models.prepared import preprocess_for
from stillroom.models.weights import read_state
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents
from stillroom.run.run import prepare
from stillroom.teachers.config import TeacherConfig
from stillroom.train.device import resolve_device, resolve_precision


class TaskSequence:
    """The tasks of a recipe, each made into an ordinary run. Tasks are counted from 1.

    Attributes:
        recipe: resolved: all that is chosen automatically is written out.
        has_teacher: whether a term reads the teacher, so that each task but the first has one.
    """

    def __init__(self, recipe: Recipe, data: DataPair) -> None:
        settings = recipe.incremental
        if settings is None:
            raise BadInput("incremental", None, "how many tasks the classes come in, such as {tasks: 5}")
        if settings.task is not None:
            raise BadInput("incremental.task", settings.task, "none: it stands in the recipe of a task's own run")
        self.settings, self.device = settings, resolve_device(recipe.training.device)
        class_seed = settings.resolve_class_seed(recipe.seed)
        order = shuffle_classes(data.train.num_classes, settings.tasks, class_seed)
        self.tasks = TaskData(data, order, settings.memory, settings.joint)
        self.recipe = self._resolve(recipe)
        reads = [loss.requires for loss in build_losses(recipe.losses)]
        self._label_terms = tuple(term for term, each in zip(recipe.losses, reads, strict=True) if not each.teacher)
        if not any(each.labels for each in reads if not each.teacher):
            expected = "a term that reads labels alone, such as cross_entropy: no teacher knows the newest classes"
            raise BadInput("losses", [term.name for term in recipe.losses], expected)
        self.has_teacher = any(each.teacher for each in reads)
        self.total_steps = sum(self.task_steps(task)[0] for task in range(1, self.tasks.count + 1))

    @property
    def order(self) -> ClassOrder:
        """Which classes come when."""
        return self.tasks.order

    @property
    def title(self) -> str:
        """What reports call the whole."""
        method = self.settings.preset or " + ".join(term.name for term in self.recipe.losses)
        return self.recipe.name or f"{self.recipe.student.name}, {self.tasks.count} tasks, {method}"

    @property
    def student(self) -> ModelConfig:
        """The student without initial weights, which are for the first task only."""
        return self.recipe.student.without_weights()

    def empty_student(self, task: int) -> nn.Module:
        """A model to load the student of a task into."""
        return build_for_classes(self.student, self.tasks.data.train, self.order.seen(task))

    def task_recipe(self, task: int) -> Recipe:
        """The recipe of one task: its name, and its teacher where it has one."""
        changes: dict[str, Any] = {
            "name": f"{self.title}: task {task} of {self.tasks.count}"[:80],
            # The first task has no teacher, and so not all terms of its preset.
            "incremental": self.settings.model_copy(update={"preset": None, "task": task}),
        }
        if self.settings.joint:
            steps, _ = self.task_steps(task)
            changes["training"] = self.recipe.training.model_copy(update={"epochs": None, "steps": steps})
        if task == 1:
            return self.recipe.model_copy(update={**changes, "losses": self._label_terms})
        changes["losses"] = tuple(self._term_of_task(term, task) for term in self.recipe.losses)
        if self.has_teacher:
            changes["teacher"] = TeacherConfig(
                name=self.student.name,
                # Relative to the task's own folder, so that the whole can be moved.
                weights=f"../{task_folder(Path(), task - 1).name}/student.safetensors",
                options=self.student.options,
                preprocess=self.student.preprocess,
            )
        return self.recipe.model_copy(update={**changes, "student": self.student})

    def components(self, task: int, data: DataPair, before: State | None) -> RunComponents:
        """The parts of a task's run: the student before with a larger head, and as its teacher the student before."""
        seen, seed = self.order.seen, self.recipe.seed
        student = student_for_task(self.recipe.student, data.train, seen(task), seed, before, task)
        with seed_rng(seed, "connector-init"):
            losses = build_losses(self.task_recipe(task).losses)
        if before is None or not self.has_teacher:
            return RunComponents(data, student, losses)
        teacher = self.empty_student(task - 1)
        teacher.load_state_dict(dict(before))
        return RunComponents(data, student, losses, {"teacher": teacher}, seen(task - 1))

    def task_steps(self, task: int) -> tuple[int, int]:
        """A task's optimizer steps, and those of an epoch; the number of exemplars is known before they are chosen.

        Joint training has the steps of a sequence without a memory, or Ω would compare unequal budgets.
        """
        new = len(self.tasks.new_rows(task))
        old = len(self.tasks.old_rows(task, self.tasks.expected_memory(task)))
        own, whole = (
            BatchSampler(images, self.recipe.data.batch_size, self.recipe.seed).steps_per_epoch
            for images in (new, new + old)
        )
        return self.recipe.training.total_steps(own if self.settings.joint else whole), whole

    def read_student(self, out: Path, task: int) -> State:
        """The weights of a finished task's student as the next task, its evaluation and the result take them."""
        state, *before = (
            read_state(task_folder(out, each) / "student.safetensors", field="student")
            for each in (task, task - 1)[: 2 if self.settings.align_weights and task > 1 else 1]
        )
        return align_head(before[0], state) if before else state

    def _term_of_task(self, term: LossConfig, task: int) -> LossConfig:
        """A term as it is in one of the later tasks: its classes, its weight."""
        changes: dict[str, Any] = {}
        if self.settings.labels == "new" and isinstance(term, FirstClassConfig):
            changes["first_class"] = self.order.seen(task - 1)
        if self.settings.balance_terms:
            old = self.order.seen(task - 1) / self.order.seen(task)
            share = 1 - old if term in self._label_terms else old
            weight = term.weight
            changes["weight"] = (
                weight.model_copy(update={"start": weight.start * share, "end": weight.end * share})
                if isinstance(weight, WeightSchedule)
                else weight * share
            )
        return term.model_copy(update=changes) if changes else term

    def validate(self) -> None:
        """Build and check the first two tasks as they will be, with untrained weights."""
        before: State | None = None
        for task in (1, 2):
            recipe = self.task_recipe(task)
            # This teacher's outputs are of no use later.
            recipe = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"enabled": False})})
            data = self.tasks.task_data(task, self.tasks.expected_memory(task))
            components = self.components(task, data, before)
            before = {name: tensor.clone() for name, tensor in components.student.state_dict().items()}
            prepare(recipe, components=components)

    def _resolve(self, recipe: Recipe) -> Recipe:
        train, training, cache = self.tasks.data.train, recipe.training, recipe.cache
        with seed_rng(recipe.seed, "student-init"):  # what the model says of itself, as in any other run
            own = build_for_classes(recipe.student.without_weights(), train, train.num_classes)
        training = resolve_precision(training, self.device, own)
        preprocess = preprocess_for(train, recipe.student, "student", own)
        if cache.enabled == "auto":
            # The teacher of a task is used by that task only, so its outputs are not worth keeping.
            cache = cache.model_copy(update={"enabled": False})
        return recipe.model_copy(
            update={
                "training": training.model_copy(update={"device": self.device.type}),
                "student": recipe.student.model_copy(update={"preprocess": preprocess or "none"}),
                "cache": cache,
            }
        )


def task_folder(out: Path, task: int) -> Path:
    """The run folder of a task, counted from 1.

    >>> task_folder(Path("runs/lwf"), 3).as_posix()
    'runs/lwf/tasks/03'
    """
    return out / "tasks" / f"{task:02d}"
