"""A study's folder, the recipe of each of its runs, and the number that its pairs differ in: known before any run."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput, nearest
from stillroom.recipe import Recipe, parse_recipe, set_value
from stillroom.study.config import Method, ModelPair, Study, SweepConfig, TeacherRun
from stillroom.wording import flat, whole_number, word

RecipeContent = dict[str, Any]
PairAndName = tuple[str, str]  # names of a pair and a method
# What trials chose, by pair and method, and by seed where each was tuned anew: key.path → value.
ChosenOptions = Mapping[PairAndName | tuple[str, str, int], Mapping[str, Any]]
# Steps that a budget in seconds came to, by pair and method.
CalibratedSteps = Mapping[PairAndName, int]

OWN_TEACHER = "study:"  # what the weights of a teacher that the study trains begin with
_ABSENT = object()
_LARGEST = 1e150  # further out, the distance between two places is no number any more


class StudyFolder:
    """The paths of a study's folder ``path``; nothing is made or read by asking for one.

    >>> StudyFolder(Path("s")).run("cifar10", "kl", 0).as_posix()
    's/runs/cifar10/kl/seed-0'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = path / "study.yaml"  # the resolved study
        self.runs = path / "runs"  # the folders of its runs
        self.plan = path / "plan.json"  # the runs that it comes to
        self.tuned = path / "tuned.json"  # what the trials chose
        self.calibration = path / "calibration.json"  # steps that a budget in seconds came to
        self.caches = path / "caches.json"  # what building the teachers' caches asked and took
        self.progress = path / "progress.json"  # the state of each job, for `stillroom watch`
        self.results = path / "results.json"  # every result, without clocks
        self.cost = path / "cost.csv"  # clocks, teacher passes, memory
        self.lock = path / "state" / "lock"  # held by the driver
        self.logs = path / "state" / "logs"  # what the workers print

    def table(self, name: str) -> Path:
        """``runs.csv``, ``table.csv``, ``comparisons.csv`` or ``table.tex``."""
        return self.path / name

    def run(self, pair: str, method: str, seed: int) -> Path:
        """The folder of a run."""
        return self.runs / pair / method / f"seed-{seed}"

    def preparation(self, pair: str, method: str) -> Path:
        """Where a method's jobs before its runs on a pair write."""
        return self.path / "state" / "preparing" / pair / method

    def trial(self, pair: str, method: str, number: int, seed: int | None = None) -> Path:
        """The folder of a trial's run; of a seed, where each is tuned anew."""
        whose = self.path / "trials" / pair / method
        return (whose if seed is None else whose / f"seed-{seed}") / f"trial-{number}"

    def teacher(self, name: str) -> Path:
        """The folder of the run that trains a teacher."""
        return self.path / "teachers" / name


@contextmanager
def reading_own_file(path: Path, remedy: str) -> Iterator[None]:
    """Report any error in reading a file that the study wrote as :class:`BadInput`, with what to do then."""
    try:
        yield
    except BadInput as error:
        raise BadInput.with_message("study", str(path), f"{error}; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput("study", str(path), f"a file as the study wrote it ({type(error).__name__}); {remedy}") from None


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study."""

    pair: str  # the pair's name
    method: str  # the method's name
    seed: int  # the study's seed, by which differences are paired
    content: RecipeContent  # the run's recipe as plain objects
    recipe: Recipe  # the same, checked

    @property
    def id(self) -> str:
        """What jobs and progress call it."""
        return f"run/{self.pair}/{self.method}/{self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """Every run of a study, in the order pair, method, seed."""

    study: Study
    runs: tuple[PlannedRun, ...]


def plan_of(
    study: Study, folder: StudyFolder, chosen: ChosenOptions | None = None, steps: CalibratedSteps | None = None
) -> StudyPlan:
    """The runs that a study comes to; BadInput where a recipe cannot be used, naming method and pair.

    Args:
        chosen: what trials chose; recipes as they are written where left out.
        steps: what a budget in seconds came to; one step a run where left out, to check recipes by.
    """
    runs = []
    for pair in study.all_pairs:
        for method in study.methods:
            where = (pair.name, method.name)
            content = recipe_content(study, folder, pair, method, (steps or {}).get(where))
            tuned = (pair.name, study.tuned_by(method).name)
            for seed in study.seeds:
                seeded = with_seed(copy.deepcopy(content), method, seed)
                values = (chosen or {}).get((*tuned, seed)) or (chosen or {}).get(tuned) or {}
                for key, value in values.items():
                    if tuned == where or _has_option(seeded, key):
                        set_value(seeded, key, value)
                runs.append(PlannedRun(*where, seed, seeded, _parsed(seeded, study, pair, method)))
    return StudyPlan(study, tuple(runs))


def _has_option(content: RecipeContent, key: str) -> bool:
    """Whether a recipe has an option, written or by default."""
    return value_at(parse_recipe(copy.deepcopy(content)).model_dump(mode="json"), key, _ABSENT) is not _ABSENT


def recipe_content(
    study: Study, folder: StudyFolder, pair: ModelPair, method: Method, steps: int | None = None
) -> RecipeContent:
    """A method's recipe on a pair, as plain objects: the study's, its budget, the pair's changes, its own.

    A method may so change what all should share, its length or its seed for one; the table then names it. BadInput
    where it names a teacher that the study does not train.
    """
    content = copy.deepcopy(study.recipe)
    budget = study.budget
    if budget is not None:
        length = {"epochs": budget.epochs, "steps": budget.steps}
        if budget.seconds is not None:
            length = {"epochs": None, "steps": steps or 1}
        merge(content, {"training": length})
    for where, changes in ((f"model_pairs.{pair.name}", pair.set), (f"methods.{method.name}", method.set)):
        try:
            merge(content, changes)
        except BadInput as error:
            raise error.within(where) from None
        # A length of one's own, in whichever unit, takes the place of the budget's.
        for unit, other in (("epochs", "steps"), ("steps", "epochs")):
            if _sets(changes, f"training.{unit}"):
                content["training"][other] = None
    _find_teachers(study, folder, content)
    _cache_teacher(content)
    _set_threads(content)
    content["name"] = method.name if not study.model_pairs else f"{method.name} on {pair.name}"
    return content


def teacher_content(study: Study, teacher: TeacherRun) -> RecipeContent:
    """The recipe that trains one of the study's own teachers, from labels; BadInput where it cannot be used."""
    content = copy.deepcopy(study.recipe)
    for key in ("teacher", "teachers", "losses", "student", "cache"):
        content.pop(key, None)
    merge(content, teacher.set)
    content["name"] = f"{teacher.name}, the teacher"
    _set_threads(content)
    try:
        parse_recipe(content)
    except BadInput as error:
        raise error.within(f"teachers.{teacher.name}") from None
    return content


def _find_teachers(study: Study, folder: StudyFolder, content: RecipeContent) -> None:
    """Put the path of the weights in the place of ``study:NAME``, for one teacher or several."""

    def found(field: str, teacher: Any) -> Any:
        weights = teacher.get("weights") if isinstance(teacher, dict) else None
        if not isinstance(weights, str) or not weights.startswith(OWN_TEACHER):
            return teacher
        names = [run.name for run in study.teachers]
        name = weights.removeprefix(OWN_TEACHER)
        if name not in names:
            hint = nearest(name, names) if names else "the study has no `teachers`"
            raise BadInput(f"{field}.weights", weights, f"one of the study's teachers ({hint})")
        return {**teacher, "weights": str(folder.teacher(name) / "student.safetensors")}

    if "teacher" in content:
        content["teacher"] = found("teacher", content["teacher"])
    if isinstance(content.get("teachers"), dict):
        content["teachers"] = {name: found(f"teachers.{name}", each) for name, each in content["teachers"].items()}


def _cache_teacher(content: RecipeContent) -> None:
    """Cache a teacher's outputs wherever they can be: one run may not save passes by it, a study does."""
    cache = content.setdefault("cache", {})
    augmentation = (content.get("data") or {}).get("augmentation") or {}
    fresh_each_epoch = isinstance(augmentation, dict) and augmentation.get("views") == 0
    if (content.get("teacher") or content.get("teachers")) and not fresh_each_epoch and isinstance(cache, dict):
        cache.setdefault("enabled", True)


def with_seed(content: RecipeContent, method: Method, seed: int) -> RecipeContent:
    """The recipe with a seed of the study, unless the method insists on its own."""
    return content if _sets(method.set, "seed") else {**content, "seed": seed}


def merge(content: RecipeContent, changes: Mapping[str, Any]) -> None:
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


def _set_threads(content: RecipeContent) -> None:
    """Leave the cores to runs side by side: a run of a study has one thread where its recipe does not say."""
    training = content.get("training")
    if training is None or (isinstance(training, dict) and training.get("threads", "auto") == "auto"):
        content["training"] = {**(training or {}), "threads": 1}


def threads_of(content: RecipeContent) -> int:
    """The CPU threads that a run of a study takes."""
    return int(content["training"]["threads"])


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


def _parsed(content: RecipeContent, study: Study, pair: ModelPair, method: Method) -> Recipe:
    try:
        return parse_recipe(content)
    except BadInput as error:
        where = f"methods.{method.name}" + (f" on {pair.name}" if study.model_pairs else "")
        raise error.within(where) from None


def value_at(whole: Any, key: str, otherwise: Any = None) -> Any:
    """The value at ``a.b`` of plain objects, items of a list by position or by name; what else where there is none.

    >>> recipe = {"losses": [{"name": "kl", "temperature": 4.0}]}
    >>> value_at(recipe, "losses.kl.temperature"), value_at(recipe, "losses.1.name", "none")
    (4.0, 'none')
    """
    for part in key.split("."):
        if isinstance(whole, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in whole]
            position = whole_number(part)
            if position is not None and position < len(whole):
                whole = whole[position]
            else:
                whole = whole[names.index(part)] if part in names else otherwise
        else:
            whole = whole.get(part, otherwise) if isinstance(whole, dict) else otherwise
    return whole


def resolve_path(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The path of a key with items of lists by their position: an item may be called by its name as well."""
    path: list[str] = []
    place: Any = content
    for part in key.split("."):
        if isinstance(place, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in place]
            position = whole_number(part)
            at = position if position is not None and position < len(place) else names.index(part)
            path.append(str(at))
            place = place[at]
        else:
            path.append(part)
            place = place.get(part) if isinstance(place, dict) else None
    return tuple(path)


def sweep_values(plan: StudyPlan) -> dict[str, Any] | None:
    """A study's sweep as ``results.json`` holds it: what it is, and where on it each pair lies; None without one.

    Raises:
        BadInput: a recipe does not have the field or no number there, two pairs have the same, methods of a pair
            do not, trials search it, or its logarithm is asked for and there is none.
    """
    sweep = plan.study.sweep
    if sweep is None:
        return None
    names = [pair.name for pair in plan.study.all_pairs]
    if len(names) < 2:
        raise BadInput("model_pairs", [pair.name for pair in plan.study.model_pairs], "two or more, for a sweep")
    values = {name: _number(sweep, name, [run for run in plan.runs if run.pair == name]) for name in names}
    for place, name in enumerate(names):
        twin = next((other for other in names[:place] if values[other] == values[name]), None)
        if twin is not None:
            both = f"both {twin!r} and {name!r} have {word(values[name])}"
            raise BadInput("sweep.field", sweep.field, f"a number that is another in each pair, but {both}")
        if sweep.log and values[name] <= 0:
            expected = f"false, or numbers above 0, but {name!r} has {word(values[name])} as {sweep.field}"
            raise BadInput("sweep.log", sweep.log, expected)
    _check_trials(sweep, plan)
    return {
        "field": sweep.field,
        "title": sweep.title or sweep.field,
        "log": sweep.log,
        "marks": [mark.model_dump() for mark in sweep.marks],
        "values": values,
    }


def _number(sweep: SweepConfig, pair: str, runs: Sequence[PlannedRun]) -> float:
    """The number that all methods have on a pair."""
    contents = [_whole(run) for run in runs]
    found = {run.method: value_at(content, sweep.field, _ABSENT) for run, content in zip(runs, contents, strict=True)}
    first, value = next(iter(found.items()))
    if all(one is _ABSENT for one in found.values()):
        known = {key for content in contents for key in flat(content)}
        close = difflib.get_close_matches(sweep.field, sorted(known), n=1, cutoff=0.6)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise BadInput("sweep.field", sweep.field, f"a field of every pair's recipe, but {pair!r} has none such{hint}")
    for name, other in found.items():
        if other != value:
            one, two = ("none" if each is _ABSENT else word(each) for each in (value, other))
            expected = f"one number for all methods of a pair, but on {pair!r} {first} has {one}, {name} {two}"
            raise BadInput("sweep.field", sweep.field, expected)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise BadInput("sweep.field", sweep.field, f"a number in every pair, but {pair!r} has {word(value)} there")
    return value


def _check_trials(sweep: SweepConfig, plan: StudyPlan) -> None:
    """Refuse what trials would change: a method's place on the sweep is the study's to set."""
    contents = {run.method: _whole(run) for run in plan.runs}
    for method in plan.study.methods:
        content = contents[method.name]
        mine = resolve_path(content, sweep.field)
        for key in plan.study.space_of(method):
            other = resolve_path(content, key)
            if mine[: len(other)] == other:
                expected = f"a field that no trial searches, but those of {method.name} search {key}"
                raise BadInput("sweep.field", sweep.field, expected)


def _whole(run: PlannedRun) -> Mapping[str, Any]:
    return run.recipe.model_dump(mode="json")
