"""From a study file to the recipe of every run, checked before anything is begun."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillroom.errors import BadInput, nearest
from stillroom.recipe import Recipe, parse_recipe, set_value
from stillroom.study.config import Method, Pair, Study, TeacherRun
from stillroom.study.folder import StudyFolder

Content = dict[str, Any]
# What trials chose, by pair and method: key.path → value.
Chosen = Mapping[tuple[str, str], Mapping[str, Any]]
# Steps that a budget in seconds came to, by pair and method.
Steps = Mapping[tuple[str, str], int]

# What the weights of a teacher that the study trains begin with.
OWN = "study:"


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        pair: the pair's name.
        method: the method's name.
        seed: the study's seed, by which differences are paired.
        content: the run's recipe as plain objects.
        recipe: the same, checked.
    """

    pair: str
    method: str
    seed: int
    content: Content
    recipe: Recipe

    @property
    def id(self) -> str:
        """What jobs and progress call it."""
        return f"run/{self.pair}/{self.method}/{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Every run of a study, in the order pair, method, seed."""

    study: Study
    cells: tuple[Cell, ...]


def plan_of(study: Study, folder: StudyFolder, chosen: Chosen | None = None, steps: Steps | None = None) -> Plan:
    """The runs that a study comes to.

    Args:
        study: the study.
        folder: where it lies.
        chosen: what trials chose; recipes as they are written where left out.
        steps: what a budget in seconds came to; one step a run where left out, to check recipes by.

    Raises:
        BadInput: a recipe cannot be used; the field names method and pair.
    """
    cells = []
    for pair in study.all_pairs:
        for method in study.methods:
            where = (pair.name, method.name)
            content = recipe_content(study, folder, pair, method, (steps or {}).get(where))
            for key, value in ((chosen or {}).get(where) or {}).items():
                set_value(content, key, value)
            for seed in study.seeds:
                seeded = with_seed(content, method, seed)
                cells.append(Cell(*where, seed, seeded, _parsed(seeded, study, pair, method)))
    return Plan(study, tuple(cells))


def recipe_content(study: Study, folder: StudyFolder, pair: Pair, method: Method, steps: int | None = None) -> Content:
    """A method's recipe on a pair, as plain objects: the study's, its budget, the pair's changes, its own.

    A method may so change what all should share, its length or its seed for one; the table then names it.

    Args:
        study: the study.
        folder: where it lies.
        pair: the pair.
        method: the method.
        steps: what a budget in seconds came to.

    Raises:
        BadInput: it names a teacher that the study does not train.
    """
    content = copy.deepcopy(study.recipe)
    budget = study.budget
    if budget is not None:
        length = {"epochs": budget.epochs, "steps": budget.steps}
        if budget.seconds is not None:
            length = {"epochs": None, "steps": steps or 1}
        merge(content, {"training": length})
    for changes in (pair.set, method.set):
        merge(content, changes)
        # A length of one's own, in whichever unit, takes the place of the budget's.
        for unit, other in (("epochs", "steps"), ("steps", "epochs")):
            if _sets(changes, f"training.{unit}"):
                content["training"][other] = None
    _find_teacher(study, folder, content)
    _keep_answers(content)
    content["name"] = method.name if not study.pairs else f"{method.name} on {pair.name}"
    return content


def teacher_content(study: Study, teacher: TeacherRun) -> Content:
    """The recipe that trains one of the study's own teachers, from labels, as plain objects.

    Args:
        study: the study.
        teacher: which.

    Raises:
        BadInput: it cannot be used.
    """
    content = copy.deepcopy(study.recipe)
    for key in ("teacher", "losses", "student", "cache"):
        content.pop(key, None)
    merge(content, teacher.set)
    content["name"] = f"{teacher.name}, the teacher"
    try:
        parse_recipe(content)
    except BadInput as error:
        raise error.within(f"teachers.{teacher.name}") from None
    return content


def _find_teacher(study: Study, folder: StudyFolder, content: Content) -> None:
    """Put the path of the weights in the place of ``study:NAME``."""
    teacher = content.get("teacher")
    if not isinstance(teacher, dict):
        return
    weights = teacher.get("weights")
    if isinstance(weights, str) and weights.startswith(OWN):
        names = [run.name for run in study.teachers]
        name = weights.removeprefix(OWN)
        if name not in names:
            hint = nearest(name, names) if names else "the study has no `teachers`"
            raise BadInput("teacher.weights", weights, f"one of the study's teachers ({hint})")
        content["teacher"] = {**teacher, "weights": str(folder.teacher(name) / "student.safetensors")}


def _keep_answers(content: Content) -> None:
    """Have a teacher's answers kept wherever they can be: one run may not save passes by it, a study does."""
    cache = content.setdefault("cache", {})
    augmentation = (content.get("data") or {}).get("augmentation") or {}
    fresh_each_epoch = isinstance(augmentation, dict) and augmentation.get("views") == 0
    if content.get("teacher") and not fresh_each_epoch and isinstance(cache, dict):
        cache.setdefault("enabled", True)


def with_seed(content: Content, method: Method, seed: int) -> Content:
    """The recipe with a seed of the study, unless the method insists on its own."""
    return content if _sets(method.set, "seed") else {**content, "seed": seed}


def merge(content: Content, changes: Mapping[str, Any]) -> None:
    """Put changes into a recipe in place: mappings are merged, all else is replaced; keys may be paths.

    >>> recipe = {"training": {"epochs": 3, "threads": 1}}
    >>> merge(recipe, {"training": {"epochs": 5}, "data.batch_size": 64}); recipe
    {'training': {'epochs': 5, 'threads': 1}, 'data': {'batch_size': 64}}
    """
    for key, value in changes.items():
        held = content.get(key)
        if isinstance(value, Mapping) and isinstance(held, dict):
            merge(held, value)
        else:
            set_value(content, key, copy.deepcopy(value))


def threads_of(content: Content) -> int:
    """The CPU threads that a recipe's run takes."""
    return int((content.get("training") or {}).get("threads") or 1)


def _sets(changes: Mapping[str, Any], key: str) -> bool:
    """Whether changes set this very field, however it is written."""
    place: Any = changes
    if key in place:
        return True
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return False
        place = place[part]
    return True


def _parsed(content: Content, study: Study, pair: Pair, method: Method) -> Recipe:
    try:
        return parse_recipe(content)
    except BadInput as error:
        where = f"methods.{method.name}" + (f" on {pair.name}" if study.pairs else "")
        raise error.within(where) from None
