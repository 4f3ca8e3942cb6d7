"""A study file (YAML) and the measures that a study can compare. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, StringConstraints, ValidationError, model_validator

from stillroom.config import Config, bad_input
from stillroom.errors import BadInput, format_error, nearest
from stillroom.files import canonical_json, digest
from stillroom.recipe import apply_override, read_yaml
from stillroom.tasks import TASK_INFO, Task

# A name is also a folder's and a column's.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,47}$")]
_SINGLE_LABEL_PARTS = ("relations", "incremental")
AllowedDifference = Literal[
    "student",
    "augmentation",
    "budget",
    "batch size",
    "data",
    "teacher",
    "precision",
    "threads",
    "moving average",
    "early stopping",
    "compiled",
    "cache",
    "tuning",
    "tasks",
    "memory",
]
MeasureName = Literal[
    "top1",
    "top5",
    "nll",
    "ece",
    "agreement",
    "teacher_kl",
    "map",
    "macro_f1",
    "micro_f1",
    "bce",
    "r2",
    "mae",
    "mse",
    "teacher_mae",
    "relation_score",
    "relation_truth",
    "relation_teacher",
    "average_incremental",
    "forgetting",
    "task_local",
    "old_only",
]


@dataclass(frozen=True)
class StudyMeasure:
    """A measure of a run."""

    name: MeasureName  # its name in `summary.json`
    title: str  # what tables call it
    unit: str  # its unit; empty where it has none
    difference: str  # the unit of a difference
    digits: int  # decimals that are shown
    higher_is_better: bool  # which way is better
    # the part of `summary.json` that holds it (`measures`, `relations` or `incremental`); empty: the top
    part: Literal["", "measures", "relations", "incremental"] = ""
    key: str = ""  # its name there

    @property
    def header(self) -> str:
        """The title with the unit.

        >>> MEASURES["top1"].header
        'top-1 (%)'
        """
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def better(self, verdict: str) -> bool | None:
        """Whether ``higher`` or ``lower`` is better; None of what is undecided.

        >>> MEASURES["nll"].better("lower"), MEASURES["nll"].better("undecided")
        (True, None)
        """
        return None if verdict not in ("higher", "lower") else (verdict == "higher") == self.higher_is_better

    def value_in(self, summary: Mapping[str, Any]) -> Any:
        """The measure in a run's summary; None where there is none.

        >>> MEASURES["relation_truth"].value_in({"relations": {"truth": 0.8}}), MEASURES["top1"].value_in({})
        (0.8, None)
        """
        held = summary.get(self.part) if self.part else summary
        return held.get(self.key or self.name) if isinstance(held, Mapping) else None

    def as_dict(self) -> dict[str, Any]:
        """The fields for ``results.json``."""
        return {key: value for key, value in asdict(self).items() if key not in ("difference", "part", "key")}


MEASURES: dict[str, StudyMeasure] = {
    one.name: one
    for one in (
        StudyMeasure("top1", "top-1", "%", "points", 2, True),
        StudyMeasure("top5", "top-5", "%", "points", 2, True),
        StudyMeasure("nll", "negative log-likelihood", "nats", "nats", 4, False),
        StudyMeasure("ece", "calibration error", "", "", 4, False),
        StudyMeasure("agreement", "agreement with the teacher", "%", "points", 2, True),
        StudyMeasure("teacher_kl", "divergence from the teacher", "nats", "nats", 4, False),
        StudyMeasure(
            "relation_score", "likeness within superclasses less between", "", "", 4, True, "relations", "score"
        ),
        StudyMeasure(
            "relation_truth", "agreement with the true class relations", "", "", 4, True, "relations", "truth"
        ),
        StudyMeasure(
            "relation_teacher", "agreement with the teacher's class relations", "", "", 4, True, "relations", "teacher"
        ),
        StudyMeasure(
            "average_incremental", "average incremental accuracy", "%", "points", 2, True, "incremental", "average"
        ),
        StudyMeasure("forgetting", "forgetting", "points", "points", 2, False, "incremental", "forgetting"),
        StudyMeasure("task_local", "task-local accuracy", "%", "points", 2, True, "incremental", "task_local"),
        StudyMeasure("old_only", "accuracy among old classes", "%", "points", 2, True, "incremental", "old_only"),
        *(
            StudyMeasure(
                cast(MeasureName, one.name),
                one.title,
                one.unit,
                "points" if one.unit == "%" else one.unit,
                one.digits,
                one.higher_is_better,
                "measures",
            )
            for task in ("multi_label", "regression")
            for one in TASK_INFO[task].measures
        ),
        StudyMeasure("teacher_mae", "MAE to teacher", "", "", 4, False),
    )
}
_OF_TASK: dict[Task, tuple[str, ...]] = {
    task: tuple(each.name for each in (*info.measures, *info.compared)) for task, info in TASK_INFO.items()
}
# The measures that runs of each task can have; those of parts of a summary are of single-label data.
MEASURES_OF: dict[Task, tuple[str, ...]] = {
    **_OF_TASK,
    "single_label": tuple(
        name for name in MEASURES if name in _OF_TASK["single_label"] or MEASURES[name].part in _SINGLE_LABEL_PARTS
    ),
}


class Range(Config):
    """Numbers to search between."""

    low: float = Field(description="The smallest number.")
    high: float = Field(description="The largest number.")
    log: bool = Field(False, description="Search on a log scale.")
    whole: bool = Field(False, description="Whole numbers only.")

    @model_validator(mode="after")
    def _range_is_one(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low below high, not {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low above 0 where the search goes by factors, not {self.low:g}")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("whole numbers as low and high")
        return self


Space = dict[str, Range | tuple[Any, ...]]


class Method(Config):
    """One way to make the student."""

    name: Name = Field(description="What tables call it; also the name of its folder.")
    set: dict[str, Any] = Field(
        default_factory=dict,
        description="What it changes in the recipe: fields, nested or as key.path; lists are replaced whole.",
    )
    tune: Space = Field(
        default_factory=dict,
        description="What its trials search besides tuning.space: key.path to a list of choices, or {low, high, log}.",
    )
    note: str = Field("", max_length=400, description="A sentence about it, for the report.")


class ModelPair(Config):
    """A teacher and a student, or data: every method is run on each pair."""

    name: Name = Field(description="What tables call it; also the name of its folder.")
    set: dict[str, Any] = Field(default_factory=dict, description="What it changes in the recipe.")
    note: str = Field("", max_length=400, description="A sentence about it, for the report.")


class Threshold(Config):
    """A value of the sweep that the figure shows by a line of its own."""

    at: float = Field(ge=-1e150, le=1e150, description="Where it lies, in the sweep's own numbers.")
    label: str = Field("", max_length=60, description="Its label in the figure.")


class SweepConfig(Config):
    """The one number that a study's pairs differ in, such as a width: the report draws the measure along it."""

    field: str = Field(
        min_length=1,
        description="Its key.path in the recipe, such as student.options.penultimate: a number in every pair, another "
        "in each.",
    )
    title: str = Field("", max_length=100, description="What the figure calls it; left out: the field.")
    log: bool = Field(False, description="Draw it on a log scale.")
    marks: tuple[Threshold, ...] = Field((), max_length=12, description="Values that the figure marks.")

    @model_validator(mode="after")
    def _marks_can_be_drawn(self) -> SweepConfig:
        wrong = next((mark.at for mark in self.marks if self.log and mark.at <= 0), None)
        if wrong is not None:
            raise ValueError(f"marks above 0 in a sweep that goes by factors, not {wrong:g}")
        return self


class Contrast(Config):
    """A planned comparison: the mean of some methods less the mean of others, at each seed."""

    name: str = Field(min_length=1, max_length=60, description="What the report calls it.")
    of: tuple[str, ...] = Field(min_length=1, description="Methods whose mean is taken at each seed.")
    less: tuple[str, ...] = Field(min_length=1, description="Methods whose mean is subtracted at the same seed.")
    between: tuple[str, str] | None = Field(
        None,
        description="Two pairs: the difference on the first less that on the second, an interaction; left out: the "
        "difference on each pair by itself.",
    )
    note: str = Field("", max_length=400, description="A sentence about it, for the report.")

    @model_validator(mode="after")
    def _sides_differ(self) -> Contrast:
        names = [*self.of, *self.less]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"each method once in `of` and `less`, but {twice!r} is there {names.count(twice)} times")
        if self.between is not None and self.between[0] == self.between[1]:
            raise ValueError(f"two different pairs in `between`, not {self.between[0]!r} twice")
        return self


class TeacherRun(Config):
    """A teacher that the study itself trains first, once, from labels."""

    name: Name = Field(description="A recipe's `teacher.weights: study:NAME` means what it came to.")
    set: dict[str, Any] = Field(
        description="What it changes in the study's recipe, whose teacher and losses it does without: "
        "its `student`, the model to train, at least.",
    )


class RunBudget(Config):
    """How long each run is: the same for every method."""

    epochs: int | None = Field(None, ge=1, description="Passes over the training images.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps.")
    seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds of training steps, evaluations apart; turned into steps once for each method, by "
        "timing its recipe alone, then fixed.",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> RunBudget:
        if sum(value is not None for value in (self.epochs, self.steps, self.seconds)) != 1:
            raise ValueError("one of epochs, steps and seconds")
        return self


class Pruning(Config):
    """Successive halving: all trials are made short, and the best go on from the weights that they have."""

    keep: int = Field(ge=1, description="Trials that go on to the whole length of a trial; the others are pruned.")
    length: float = Field(gt=0, lt=1, description="Length of the first part, as a share of a trial's.")


class Tuning(Config):
    """Trials that choose each method's options on a part of the training images, the test split untouched."""

    trials: int = Field(ge=1, description="Trials of each method on each pair; the first is the recipe as written.")
    space: Space = Field(
        default_factory=dict,
        description="What every method's trials search: key.path to a list of choices, or {low, high, log}.",
    )
    holdout: float = Field(
        0.2, gt=0, lt=1, description="Share of the training images held out from trials, to evaluate them."
    )
    length: float = Field(1.0, gt=0, le=1, description="Length of a trial, as a share of a run's.")
    measure: MeasureName | None = Field(
        None, description="The measure that ranks trials; default: the study's measure."
    )
    seed: int = Field(0, ge=0, description="Seed of the search and of the trials' runs.")
    repeat: Literal["once", "per_seed"] = Field(
        "once",
        description="Tune once, for all seeds: the study compares methods at one tuning. Or anew for each seed, its "
        "runs' seed and the search's another each time: it compares methods with their tuning.",
    )
    pruning: Pruning | None = Field(None, description="Judge trials early and prune most; left out: none is pruned.")
    by: str | None = Field(
        None,
        description="The method whose trials choose for all that have no `tune` of their own, as far as they have the "
        "options; left out: each method has its own trials.",
    )
    storage: str | None = Field(
        None,
        description="URL of the database that holds the trials, $VARIABLES in it replaced; "
        "left out: tuning.db (SQLite) in the study folder.",
    )


def _task_of(recipe: Any) -> Task | None:
    """The task that a study's recipe says its data have, where it is not one class an image."""
    data = recipe.get("data") if isinstance(recipe, Mapping) else None
    task = data.get("task") if isinstance(data, Mapping) else None
    return task if task in ("multi_label", "regression") else None


class Study(Config):
    """Many runs, one question: methods × pairs × seeds under one budget."""

    name: Name = Field(description="What the report calls it.")
    question: str = Field("", max_length=400, description="What the study asks, in a sentence.")
    recipe: dict[str, Any] = Field(description="What all runs share: a recipe, or the path of a recipe file.")
    methods: tuple[Method, ...] = Field(min_length=1, description="The methods that are compared.")
    teachers: tuple[TeacherRun, ...] = Field((), description="Teachers that are trained first, from labels.")
    model_pairs: tuple[ModelPair, ...] = Field(
        (), description="Teachers and students, or data; left out: the recipe's own."
    )
    sweep: SweepConfig | None = Field(None, description="The one number that the pairs differ in; default: none.")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds, fixed before looking; differences are paired by them."
    )
    baseline: str | None = Field(None, description="The method that the others are compared with; left out: the first.")
    budget: RunBudget | None = Field(None, description="Length of each run; left out: the recipe's.")
    tuning: Tuning | None = Field(None, description="Trials of each method; left out: recipes as they are written.")
    contrasts: tuple[Contrast, ...] = Field(
        (),
        max_length=100,
        description="Planned comparisons of means of methods, corrected together on each pair; written down before "
        "the first run, or the report calls them exploratory. Default: none.",
    )
    allowed_differences: tuple[AllowedDifference, ...] = Field(
        (),
        description="What methods differ in on purpose, besides their losses, optimizer, schedule and clip_norm; "
        "left out: nothing, and a difference makes the study unequal.",
    )
    measure: MeasureName = Field(
        "top1",
        description="What is compared after the last epoch: on the test split, or, by relation_score, relation_truth "
        "and relation_teacher, in the student's last layer; or, by average_incremental, forgetting, task_local and "
        "old_only, over all tasks that the classes came in.",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="Family-wise error rate of each table.")
    retries: int = Field(2, ge=0, description="How often a run is restarted if its process dies.")

    @model_validator(mode="before")
    @classmethod
    def _measure_of_task(cls, given: Any) -> Any:
        task = _task_of(given.get("recipe")) if isinstance(given, dict) else None
        if task is None or "measure" in given:
            return given
        return {**given, "measure": TASK_INFO[task].primary.name}

    @model_validator(mode="after")
    def _measure_fits_task(self) -> Study:
        task = _task_of(self.recipe)
        for measure in (self.measure, self.tuning.measure if self.tuning is not None else None):
            if task is not None and measure is not None and measure not in MEASURES_OF[task]:
                expected = f"a measure of {TASK_INFO[task].title}: {', '.join(MEASURES_OF[task])}"
                raise BadInput("measure", measure, expected)
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Study:
        named = {
            "method": [method.name for method in self.methods],
            "pair": [pair.name for pair in self.model_pairs],
            "teacher": [teacher.name for teacher in self.teachers],
            "contrast": [contrast.name for contrast in self.contrasts],
        }
        for what, names in named.items():
            folded = [name.casefold() for name in names]  # some file systems do not tell cases apart
            twice = next((name for name in names if folded.count(name.casefold()) > 1), None)
            if twice is not None:
                raise ValueError(f"each {what} once, but {twice!r} is there {folded.count(twice.casefold())} times")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("each seed once")
        names = [method.name for method in self.methods]
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"a method as baseline, not {self.baseline!r} ({nearest(self.baseline, names)})")
        for contrast in self.contrasts:
            for field, known in (("of", names), ("less", names), ("between", named["pair"])):
                unknown = next((one for one in getattr(contrast, field) or () if one not in known), None)
                if unknown is not None:
                    what = "pairs" if field == "between" else "methods"
                    hint = nearest(unknown, known) if known else "the study has no model_pairs"
                    raise ValueError(
                        f"the study's {what} in contrasts.{contrast.name}.{field}, not {unknown!r} ({hint})"
                    )
        if self.tuning is None and any(method.tune for method in self.methods):
            raise ValueError("tuning.trials with a method's tune")
        if self.tuning is not None and self.tuning.by not in (None, *names):
            raise ValueError(f"a method as tuning.by, not {self.tuning.by!r} ({nearest(self.tuning.by or '', names)})")
        return self

    @property
    def baseline_name(self) -> str:
        """The baseline, or the first method where none is named."""
        return self.baseline if self.baseline is not None else self.methods[0].name

    @property
    def all_pairs(self) -> tuple[ModelPair, ...]:
        """The pairs, or the one that the recipe is."""
        return self.model_pairs or (ModelPair(name="all"),)

    @property
    def in_tasks(self) -> bool:
        """Whether some recipe of it has classes that come in tasks."""
        sets = [*(pair.set for pair in self.model_pairs), *(method.set for method in self.methods)]
        return any(key.split(".")[0] == "incremental" for each in (self.recipe, *sets) for key in each)

    def tuned_by(self, method: Method) -> Method:
        """The method whose trials choose a method's options: itself, or that of ``tuning.by``."""
        by = self.tuning.by if self.tuning is not None else None
        return method if by is None or method.tune else next(one for one in self.methods if one.name == by)

    def space_of(self, method: Method) -> Space:
        """What a method's own trials search: ``tuning.space`` and its own ``tune``, which wins; empty without any."""
        if self.tuning is None or self.tuned_by(method) is not method:
            return {}
        return {**self.tuning.space, **method.tune}

    def as_dict(self) -> dict[str, Any]:
        """The study for JSON and YAML; where its trials are stored is left out: it may hold a password."""
        content = self.model_dump(mode="json")
        if self.tuning is not None:
            del content["tuning"]["storage"]
            # What a study does without, its hash does not know.
            for name in ("by", "repeat", "pruning"):
                if content["tuning"].get(name) in (None, "once"):
                    content["tuning"].pop(name, None)
        # As in results.json: the hash of a study without one does not know the field.
        if self.sweep is None:
            del content["sweep"]
        if not self.contrasts:
            del content["contrasts"]
        return content

    def hash(self) -> str:
        """SHA-256 of what decides the runs, 64 hex digits: contrasts are asked of them afterwards."""
        return digest(canonical_json({key: value for key, value in self.as_dict().items() if key != "contrasts"}))


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file; a recipe named by its path is read, from the study file's folder or the working folder.

    Raises:
        BadInput: a file cannot be read, is not YAML, or holds a bad value.
    """
    content = read_yaml(path, "study", "`name`, `recipe` and `methods`")
    if "student" in content and not {"recipe", "methods"} & content.keys():
        raise BadInput("study", str(path), f"a study; this file is a recipe: `stillroom distill {path}` runs it")
    recipe = content.get("recipe")
    if isinstance(recipe, str):
        file = path.parent / recipe
        with suppress(OSError, ValueError):  # no file can have such a name: reading it says so
            file = file if file.exists() else Path(recipe)
        content["recipe"] = read_yaml(file, "recipe", "at least `student`")
    for override in overrides:
        apply_override(content, override)
    return parse_study(content)


def parse_study(content: object) -> Study:
    """Check a study given as plain objects.

    Raises:
        BadInput: naming the field, the value, what was expected and the nearest valid name.

    >>> parse_study({"name": "x", "recipe": {}, "methods": []})
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: methods: got []; expected at least 1 item
    """
    if not isinstance(content, dict):
        raise BadInput("study", content, "a mapping of `name`, `recipe` and `methods`")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise bad_input(error, Study) from None
    except ValueError as error:  # such as a number of thousands of digits, which cannot be written
        raise BadInput("study", content, f"values that can be written ({format_error(error)})") from None
