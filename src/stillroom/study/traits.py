"""What must be equal between methods, read from a recipe before the runs or from the runs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from stillroom.files import canonical, digest
from stillroom.recipe import Recipe
from stillroom.study.collect import Run
from stillroom.study.config import Study
from stillroom.study.folder import StudyFolder
from stillroom.study.plan import OWN, Cell, recipe_content
from stillroom.study.wording import flat

THE_STUDYS = "the study's"
# No study has so many steps: where it comes through into a recipe, nothing else has set the length.
_MARK = 999_999_937
# Which threads read files, and when, changes no pixel.
_HANDLING = ("batch_size", "augmentation", "workers", "in_memory")


@dataclass(frozen=True)
class Trait:
    """One thing about a run.

    Attributes:
        fields: what tells it: names and values.
        key: what must be equal; the fields where left out.
        reasoned: whether the fields are but reasons of a difference that the key shows.
        follows: what it follows from, by name: runs that are meant to differ there are compared in this one only
            where they are equal there.
    """

    fields: Mapping[str, Any]
    key: str = ""
    reasoned: bool = field(default=False, kw_only=True)
    follows: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @property
    def identity(self) -> str:
        """Equal where runs are equal in it."""
        return self.key or digest(canonical(self.fields))


def foreseen_traits(cell: Cell, study: Study, seconds: float | None) -> dict[str, Trait]:
    """What a recipe alone tells, by the names that an inequality goes by.

    Args:
        cell: the run that is planned.
        study: the study.
        seconds: the budget that its length comes from, where it is one in seconds.
    """
    recipe = cell.recipe
    traits = {
        "student": Trait(_student(recipe) | {"weights": recipe.student.weights}),
        "augmentation": Trait(recipe.data.augmentation.model_dump(mode="json")),
        "budget": Trait(_length(recipe) if seconds is None else {"seconds": seconds}),
        **_settings(recipe),
        "micro-batches": Trait({"": recipe.training.accumulate}),
        **_tasks(recipe, cell),
        "data": Trait(_data(recipe)),
        "precision": Trait({"": recipe.training.precision}),
        "device": Trait({"": recipe.training.device}),
    }
    if recipe.teacher is not None:
        traits["teacher"] = Trait(_teacher(recipe, study))
        traits["cache"] = Trait(_cache(recipe, cell))
    return traits


def traits_of(run: Run, study: Study, seconds: float | None) -> dict[str, Trait]:
    """What a finished run tells, by the names that an inequality goes by.

    Args:
        run: the run.
        study: the study.
        seconds: the budget that its length comes from, where it is one in seconds.
    """
    recipe, summary = run.recipe, run.summary
    seed = own_seed(run.cell, recipe)
    order = {"training images": summary.data.train, "seed": seed}
    start = {f"student.{key}": value for key, value in flat(recipe.student.model_dump(mode="json")).items()}
    of_student, of_data = {"student": digest(canonical(start))}, {"data": summary.data.fingerprint}
    shuffled = digest(canonical([summary.data.train, recipe.seed]))
    traits = {
        "initial weights": Trait({**start, "seed": seed}, summary.hashes.init, reasoned=True, follows=of_student),
        "student": Trait(_student(recipe)),
        "order of images": Trait(order, shuffled, reasoned=True, follows=of_data),
        "augmentation": Trait(recipe.data.augmentation.model_dump(mode="json")),
        "budget": Trait({"steps": summary.steps} if seconds is None else {"seconds": seconds}),
        **_settings(recipe),
        "data": Trait(_data(recipe), summary.data.fingerprint),
        "micro-batches": Trait({"": summary.accumulate}),
        "processes": Trait({"": summary.processes}),
        "test images": Trait({"count": run.answers.count}, run.answers.labels, reasoned=True, follows=of_data),
        "precision": Trait({"": summary.precision}),
        "device": Trait({"": recipe.training.device}),
        **_tasks(recipe, run.cell, summary.incremental.class_order if summary.incremental is not None else None),
        "versions": Trait({name: run.environment.get(name) for name in ("stillroom", "torch")}),
    }
    if summary.teacher is not None and recipe.teacher is not None:
        # Where its weights lie is no difference; what they are is.
        told = _teacher(recipe, study)
        known = {key: value for key, value in told.items() if key not in ("weights", "answers")}
        traits["teacher"] = Trait(told, digest(canonical([summary.teacher.weights_hash, known])))
        traits["cache"] = Trait(_cache(recipe, run.cell))
    return traits


def fields_of(recipe: Recipe, study: Study) -> dict[str, Any]:
    """A recipe as ``a.b: value``; a teacher that the study trained goes by its name, wherever the study lies."""
    content = flat(recipe.model_dump(mode="json"))
    weights = content.get("teacher.weights")
    for teacher in study.teachers:
        place = StudyFolder(Path()).teacher(teacher.name) / "student.safetensors"
        if isinstance(weights, str) and PurePath(weights).parts[-len(place.parts) :] == place.parts:
            content["teacher.weights"] = OWN + teacher.name
    return content


def own_seed(cell: Cell, recipe: Recipe) -> int | str:
    """The recipe's seed where it is not the study's."""
    return THE_STUDYS if recipe.seed == cell.seed else recipe.seed


def timed(study: Study) -> frozenset[tuple[str, str]]:
    """The (pair, method) whose length comes from a budget in seconds, which none of their own has replaced."""
    if study.budget is None or study.budget.seconds is None:
        return frozenset()
    return frozenset(
        (pair.name, method.name)
        for pair in study.all_pairs
        for method in study.methods
        if recipe_content(study, StudyFolder(Path()), pair, method, _MARK)["training"].get("steps") == _MARK
    )


def _settings(recipe: Recipe) -> dict[str, Trait]:
    return {
        "batch size": Trait({"": recipe.data.batch_size}),
        "threads": Trait({"": recipe.training.threads}),
        "moving average": Trait({"": recipe.training.ema}),
        "compiled": Trait({"": recipe.training.compile}),
    }


def _tasks(recipe: Recipe, cell: Cell, order: Sequence[int] | None = None) -> dict[str, Trait]:
    """Which classes come when, and what is kept of old ones; all classes at once are one task."""
    settings = recipe.incremental
    if settings is None:
        return {"tasks": Trait({"tasks": 1}), "memory": Trait({"exemplars": "all"})}
    seed = settings.resolve_class_seed(recipe.seed)
    told = {"tasks": settings.tasks, "classes shuffled by": THE_STUDYS if seed == cell.seed else seed}
    key = digest(canonical([settings.tasks, *order])) if order is not None else ""
    kept: dict[str, Any] = {"exemplars": "all" if settings.joint else settings.memory}
    if settings.memory:
        kept["selection"] = settings.selection
    return {"tasks": Trait(told, key), "memory": Trait(kept)}


def _student(recipe: Recipe) -> dict[str, Any]:
    content = flat(recipe.student.model_dump(mode="json"))
    return {key: value for key, value in content.items() if key != "weights"}


def _teacher(recipe: Recipe, study: Study) -> dict[str, Any]:
    content = fields_of(recipe, study)
    return {key.partition(".")[2]: value for key, value in content.items() if key.startswith("teacher.")}


def _cache(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    """What kept answers lose; whether they are kept is no difference but where answers asked live lose less."""
    cache = recipe.cache
    if cache.top_k is None or cell.recipe.cache.enabled is False:
        return {"dtype": cache.dtype, "top_k": None}
    return {"dtype": cache.dtype, "top_k": cache.top_k, "off_top_k_temperature": cache.off_top_k_temperature}


def _data(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.data.model_dump(mode="json").items() if key not in _HANDLING}


def _length(recipe: Recipe) -> dict[str, Any]:
    training = recipe.training
    return {"steps": training.steps} if training.steps is not None else {"epochs": training.epochs or 10}
