"""Whether methods were equal in all but what they are: proved by what their runs left, not promised.

Three proofs: the recipes of a pair agree in every field that is not the treatment (:func:`planned_differences` before
the runs, :func:`inequalities` after them); the runs' hashes of initial weights, order of images, views and budget agree
with each other and with what each run's own recipe gives; the reported figures are those of the last epoch, and the
predictions give the same (:func:`integrity_violations`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from stillroom.continual.metrics import accuracy_after_each_task, compute_metrics
from stillroom.data.augmentation import view_of
from stillroom.data.config import AugmentationConfig
from stillroom.data.loader import BatchSampler, epoch_order
from stillroom.files import canonical_json, digest
from stillroom.losses.registry import loss_class
from stillroom.recipe import Recipe
from stillroom.run.records import budget_hash, chain_hashes
from stillroom.study.collect import TEST_FIGURES, EvaluationRecord, FinishedRun, figure_of
from stillroom.study.config import Method, ModelPair, Study
from stillroom.study.plan import OWN_TEACHER, PlannedRun, StudyFolder, StudyPlan, recipe_content
from stillroom.study.tuning import own_values, points
from stillroom.wording import counted, flat, listed, places, word

# What is looked at, in the order in which it is reported.
CHECKED = (
    "recipe", "seed", "initial weights", "student", "order of images", "augmentation", "budget", "batch size",
    "micro-batches", "processes", "threads", "data", "test images", "tasks", "memory", "teacher", "cache",
    "moving average", "early stopping", "compiled", "precision", "device", "versions", "tuning", "reported epoch",
    "reported figures",
)  # fmt: skip
# What a seed decides is compared within the seed, versions over the whole study, all else within a pair.
_OF_A_SEED = ("initial weights", "order of images", "tasks")
_OF_THE_STUDY = ("versions",)
_COUNTED = ("steps", "epochs", "seconds")

THE_STUDYS = "the study's"
# No study has so many steps: where it comes through into a recipe, nothing else has set the length.
_MARKER_STEPS = 999_999_937
# Which threads read files, and when, changes no pixel.
_HANDLING = ("batch_size", "augmentation", "workers", "in_memory")
# What a run settles for itself, where the plan left it open.
_SETTLED = dict.fromkeys(
    ("training.device", "training.precision", "training.teacher_precision", "cache.enabled"), "auto"
)
_MOST_SHOWN = 3
_PLURAL = {"has": "have", "differs": "differ", "reports": "report"}

PairAndSeed = tuple[str, int | None]  # pair and seed; no seed where it is of all of them


@dataclass(frozen=True)
class Mismatch:
    """Something in which methods were not equal, or a run not what its recipe says, at one place."""

    what: str  # one of `CHECKED`
    methods: tuple[str, ...]  # who differ from the others, or from their own recipe
    place: PairAndSeed  # pair and seed
    verb: str  # of the sentence about the methods, in the third person singular
    rest: str  # the rest of that sentence
    label: str = ""  # what the sentence begins with; empty: `what`

    def sentence(self, methods: Sequence[str]) -> str:
        """The mismatch of these methods in words."""
        verb = _PLURAL.get(self.verb, self.verb) if len(methods) > 1 else self.verb
        return f"{self.label or self.what}: {listed(methods)} {verb} {self.rest}"


@dataclass(frozen=True)
class Inequality:
    """A mismatch over all its places."""

    what: str  # one of `CHECKED`
    methods: tuple[str, ...]  # who differ
    places: tuple[PairAndSeed, ...]  # pairs and seeds, in the order of the plan
    text: str  # the whole in one line

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs it is found on."""
        return tuple(dict.fromkeys(pair for pair, _ in self.places))

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return {
            "what": self.what,
            "pair": self.places[0][0],
            "seed": self.places[0][1],
            "methods": list(self.methods),
            "pairs": list(self.pairs),
            "seeds": sorted({seed for _, seed in self.places if seed is not None}),
            "text": self.text,
        }


@dataclass(frozen=True)
class FairnessField:
    """One thing about a run that methods must be equal in."""

    fields: Mapping[str, Any]  # names and values that describe it
    key: str = ""  # what must be equal; the fields where left out
    # whether the fields are only reasons of a difference that the key shows
    reasoned: bool = field(default=False, kw_only=True)
    # what it follows from, by name: runs that are meant to differ there are compared in this one only where they are
    # equal there
    follows: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @property
    def identity(self) -> str:
        """Equal where runs are equal in it."""
        return self.key or digest(canonical_json(self.fields))


@dataclass(frozen=True)
class _Row:
    method: str
    place: PairAndSeed
    fields: Mapping[str, FairnessField]


def planned_differences(plan: StudyPlan) -> list[str]:
    """The inequalities that recipes show before anything is run.

    Returns:
        A line each, in the words of the finished table; empty where recipes show none.
    """
    seconds = _seconds(plan)
    rows = [
        _Row(
            run.method,
            (run.pair, run.seed),
            planned_fields(run, plan.study, seconds.get((run.pair, run.method))),
        )
        for run in plan.runs
    ]
    found = [*_own_seeds(plan), *_compare(rows, plan.study, planned=True), *_compare_trials(plan)]
    return [one.text for one in _merge(found, plan)]


def inequalities(
    plan: StudyPlan,
    runs: Sequence[FinishedRun],
    *,
    tuned: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> list[Inequality]:
    """All that keeps the finished runs of a study from being an equal comparison.

    Returns:
        In the order of `CHECKED`; empty where runs were equal.
    """
    seconds = _seconds(plan)
    rows = [
        _Row(
            run.planned.method,
            (run.planned.pair, run.planned.seed),
            finished_fields(run, plan.study, seconds.get((run.planned.pair, run.planned.method))),
        )
        for run in runs
    ]
    found = [
        *_own_seeds(plan),
        *_compare(rows, plan.study),
        *_check_lengths(plan, calibration),
        *(_compare_trials(plan, tuned) if tuned is not None else []),
        *(violation for run in runs for violation in integrity_violations(run, plan.study)),
    ]
    return _merge(found, plan)


def checked_fields(study: Study) -> list[str]:
    """What methods must be equal in: all that is looked at, but what the study says shall differ."""
    left_out = (*study.allowed_differences, *(() if study.in_tasks else ("tasks", "memory")))
    return [what for what in CHECKED if what not in left_out]


def _merge(mismatches: Sequence[Mismatch], plan: StudyPlan) -> list[Inequality]:
    """Mismatches that say the same, in one line: of several methods, then over seeds and pairs."""
    names = [method.name for method in plan.study.methods]
    order = {(run.pair, run.seed): position for position, run in enumerate(plan.runs)}
    by_place: dict[Mismatch, set[str]] = {}
    for one in mismatches:
        by_place.setdefault(replace(one, methods=()), set()).update(one.methods)
    everywhere: dict[tuple[Mismatch, tuple[str, ...]], list[PairAndSeed]] = {}
    for one, who in by_place.items():
        methods = tuple(name for name in names if name in who)
        everywhere.setdefault((replace(one, place=("", None)), methods), []).append(one.place)
    found = []
    for (one, methods), where in everywhere.items():
        spots = sorted(where, key=lambda place: order.get((place[0], place[1] or 0), 0))
        line, shown = one.sentence(methods), places(spots, pairs=bool(plan.study.model_pairs))
        found.append(Inequality(one.what, methods, tuple(spots), f"{line} ({shown})" if shown else line))
    return sorted(found, key=lambda one: (CHECKED.index(one.what), [names.index(name) for name in one.methods]))


# -- what a recipe, and what a finished run, says


def planned_fields(run: PlannedRun, study: Study, seconds: float | None) -> dict[str, FairnessField]:
    """What a recipe alone says, by the names that an inequality goes by.

    Args:
        seconds: the budget that its length comes from, where it is one in seconds.
    """
    recipe, training = run.recipe, run.recipe.training
    if seconds is not None:
        length: dict[str, Any] = {"seconds": seconds}
    elif training.steps is not None:
        length = {"steps": training.steps}
    else:
        length = {"epochs": training.epochs or 10}
    found = {
        "student": FairnessField(_student(recipe) | {"weights": recipe.student.weights}),
        "budget": FairnessField(length),
        **_settings(recipe),
        "micro-batches": FairnessField({"": training.accumulate}),
        **_tasks(recipe, run),
        "data": FairnessField(_data(recipe)),
        "precision": FairnessField(_precision(recipe, training.precision)),
    }
    if recipe.teacher is not None or recipe.teachers is not None:
        found["teacher"] = FairnessField(_teacher(recipe, study))
        found["cache"] = FairnessField(_cache(recipe, run))
    return found


def finished_fields(run: FinishedRun, study: Study, seconds: float | None) -> dict[str, FairnessField]:
    """What a finished run says, by the names that an inequality goes by.

    Args:
        seconds: the budget that its length comes from, where it is one in seconds.
    """
    recipe, summary = run.recipe, run.summary
    seed = own_seed(run.planned, recipe)
    order = {"training images": summary.data.train, "seed": seed}
    start = {f"student.{key}": value for key, value in flat(recipe.student.model_dump(mode="json")).items()}
    of_student, of_data = {"student": digest(canonical_json(start))}, {"data": summary.data.fingerprint}
    shuffled = digest(canonical_json([summary.data.train, recipe.seed]))
    class_order = summary.incremental.class_order if summary.incremental is not None else None
    found = {
        "initial weights": FairnessField(
            {**start, "seed": seed}, summary.hashes.init, reasoned=True, follows=of_student
        ),
        "student": FairnessField(_student(recipe)),
        "order of images": FairnessField(order, shuffled, reasoned=True, follows=of_data),
        "budget": FairnessField({"steps": summary.steps} if seconds is None else {"seconds": seconds}),
        **_settings(recipe),
        "micro-batches": FairnessField({"": summary.accumulate}),
        "processes": FairnessField({"": summary.processes}),
        "data": FairnessField(_data(recipe), summary.data.fingerprint),
        "test images": FairnessField(
            {"count": run.predictions.count}, run.predictions.labels, reasoned=True, follows=of_data
        ),
        "precision": FairnessField(_precision(recipe, summary.precision)),
        **_tasks(recipe, run.planned, class_order),
        "versions": FairnessField({"stillroom": run.environment.stillroom, "torch": run.environment.torch}),
    }
    if summary.teachers:
        # Where weights or logits lie is no difference; what they are is.
        teacher = _teacher(recipe, study)
        rest = {key: value for key, value in teacher.items() if key.rpartition(".")[2] not in ("weights", "logits")}
        hashes = {name: facts.weights_hash for name, facts in summary.teachers.items()}
        found["teacher"] = FairnessField(teacher, digest(canonical_json([hashes, rest])))
        found["cache"] = FairnessField(_cache(recipe, run.planned))
    return found


def fields_of(recipe: Recipe, study: Study) -> dict[str, Any]:
    """A recipe as ``a.b: value``; a teacher that the study trained goes by its name, wherever the study lies."""
    content = flat(recipe.model_dump(mode="json"))
    fields = [f"{recipe.teacher_field(name)}.weights" for name in recipe.all_teachers]
    for teacher in study.teachers:
        place = StudyFolder(Path()).teacher(teacher.name) / "student.safetensors"
        for key in fields:
            weights = content.get(key)
            if isinstance(weights, str) and PurePath(weights).parts[-len(place.parts) :] == place.parts:
                content[key] = OWN_TEACHER + teacher.name
    return _without_reused_head(content, "student.", recipe)


def own_seed(run: PlannedRun, recipe: Recipe) -> int | str:
    """The recipe's seed where it is not the study's."""
    return THE_STUDYS if recipe.seed == run.seed else recipe.seed


def timed(study: Study) -> frozenset[tuple[str, str]]:
    """The (pair, method) whose length comes from a budget in seconds, which none of their own has replaced."""
    if study.budget is None or study.budget.seconds is None:
        return frozenset()
    return frozenset(
        (pair.name, method.name)
        for pair in study.all_pairs
        for method in study.methods
        if recipe_content(study, StudyFolder(Path()), pair, method, _MARKER_STEPS)["training"].get("steps")
        == _MARKER_STEPS
    )


def _settings(recipe: Recipe) -> dict[str, FairnessField]:
    training = recipe.training
    return {
        "augmentation": FairnessField(recipe.data.augmentation.model_dump(mode="json")),
        "batch size": FairnessField({"": recipe.data.batch_size}),
        "threads": FairnessField({"": training.threads}),
        "moving average": FairnessField({"": training.ema}),
        "early stopping": FairnessField({"patience": training.patience}),
        "compiled": FairnessField({"": training.compile}),
        "device": FairnessField({"": training.device}),
    }


def _tasks(recipe: Recipe, run: PlannedRun, order: Sequence[int] | None = None) -> dict[str, FairnessField]:
    """Which classes come when, and what is kept of old ones; all classes at once are one task."""
    settings = recipe.incremental
    if settings is None:
        return {"tasks": FairnessField({"tasks": 1}), "memory": FairnessField({"exemplars": "all"})}
    seed = settings.resolve_class_seed(recipe.seed)
    tasks = {"tasks": settings.tasks, "classes shuffled by": THE_STUDYS if seed == run.seed else seed}
    key = digest(canonical_json([settings.tasks, *order])) if order is not None else ""
    kept: dict[str, Any] = {"exemplars": "all" if settings.joint else settings.memory}
    if settings.memory:
        kept["selection"] = settings.selection
    return {"tasks": FairnessField(tasks, key), "memory": FairnessField(kept)}


def _precision(recipe: Recipe, of_steps: str) -> dict[str, Any]:
    """That of the training steps, and of frozen teachers where it is another."""
    of_teachers = recipe.training.teacher_precision
    alike = of_teachers in ("auto", recipe.training.precision)
    return {"": of_steps} | ({} if alike else {"of teachers": of_teachers})


def _student(recipe: Recipe) -> dict[str, Any]:
    content = flat(recipe.student.model_dump(mode="json"))
    training = recipe.training
    content |= {"trained": training.train_only} if training.train_only is not None else {}
    if training.recompute_batch_norm is not None:
        content["batch norms over"] = training.recompute_batch_norm
    content = _without_reused_head(content, "", recipe)
    return {key: value for key, value in content.items() if key != "weights"}


def _without_reused_head(content: dict[str, Any], student: str, recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields but for the teacher's last layer in the student, where it belongs to a loss, as to simkd."""
    if not any(loss_class(term).reuses_head for term in recipe.losses):
        return content
    return {key: value for key, value in content.items() if not key.startswith(f"{student}reused_head")}


def _teacher(recipe: Recipe, study: Study) -> dict[str, Any]:
    content = fields_of(recipe, study)
    several = {key: value for key, value in content.items() if key.partition(".")[0] == "teachers"}
    return several or {key.partition(".")[2]: value for key, value in content.items() if key.startswith("teacher.")}


def _cache(recipe: Recipe, run: PlannedRun) -> dict[str, Any]:
    """What cached outputs lose; whether they are cached is no difference unless live ones lose less."""
    cache = recipe.cache
    if cache.top_k is None or run.recipe.cache.enabled is False:
        return {"dtype": cache.dtype, "top_k": None}
    return {"dtype": cache.dtype, "top_k": cache.top_k, "off_top_k_temperature": cache.off_top_k_temperature}


def _data(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.data.model_dump(mode="json").items() if key not in _HANDLING}


# -- runs compared with each other


def _seconds(plan: StudyPlan) -> dict[tuple[str, str], float]:
    budget = plan.study.budget
    if budget is None or budget.seconds is None:
        return {}
    return dict.fromkeys(timed(plan.study), budget.seconds)


def _own_seeds(plan: StudyPlan) -> Iterator[Mismatch]:
    for run in plan.runs:
        seed = own_seed(run, run.recipe)
        if isinstance(seed, int):
            rest = f"{seed} in place of the study's"
            yield Mismatch("seed", (run.method,), (run.pair, run.seed), "has", rest)


def _compare(rows: Sequence[_Row], study: Study, *, planned: bool = False) -> list[Mismatch]:
    found: list[Mismatch] = []
    for what in checked_fields(study):
        scopes: dict[object, list[_Row]] = {}
        for row in rows:
            if what in row.fields:
                scopes.setdefault(_scope(what, row, study), []).append(row)
        for scope in scopes.values():
            found += _compare_scope(what, scope, study.baseline_name, planned)
    return found


def _scope(what: str, row: _Row, study: Study) -> object:
    if what in _OF_THE_STUDY:
        return None
    place = row.place if what in _OF_A_SEED else row.place[0]
    # What follows from something that methods are meant to differ in is compared where that is the same.
    return place, *(row.fields[what].follows.get(varied) for varied in study.allowed_differences)


def _compare_scope(what: str, rows: Sequence[_Row], baseline: str, planned: bool) -> Iterator[Mismatch]:
    """Who differ from what most runs have; from what the baseline has, where as many have the one as the other."""
    counts = Counter(row.fields[what].identity for row in rows)
    most = [row for row in rows if counts[row.fields[what].identity] == max(counts.values())]
    reference = next((row for row in most if row.method == baseline), most[0]).fields[what]
    for place in dict.fromkeys(row.place for row in rows):
        here = [row for row in rows if row.place == place]
        peers = [row.method for row in here if row.fields[what].identity == reference.identity]
        others: dict[str, list[_Row]] = {}
        for row in here:
            if row.method not in peers:
                others.setdefault(row.fields[what].identity, []).append(row)
        for group in others.values():
            mine = group[0].fields[what]
            if planned and not _comparable(mine, reference):
                continue
            rest = len(here) - len(group)
            if not peers:
                names = "the other runs"
            else:
                names = "the others" if len(peers) == rest and rest > 2 else listed(peers)
            verb, sentence = _describe(mine, reference, names)
            yield Mismatch(what, tuple(row.method for row in group), place, verb, sentence)


def _comparable(one: FairnessField, other: FairnessField) -> bool:
    """Whether recipes show it: not epochs against steps, nor what the machine is left to choose."""
    if "auto" in (one.fields.get(""), other.fields.get("")):
        return False
    return {*one.fields, *other.fields} != {"steps", "epochs"}


def _describe(mine: FairnessField, reference: FairnessField, peers: str) -> tuple[str, str]:
    """Verb and rest of the sentence about a difference."""
    fields, others = mine.fields, reference.fields
    keys = [key for key in {**fields, **others} if (key in fields) != (key in others) or fields[key] != others[key]]
    unknown = "the recipes do not say why"
    if mine.reasoned:
        reasons = [f"{key} {word(fields.get(key))} against {word(others.get(key))}" for key in keys]
        return "differs", f"from {peers} ({'; '.join(reasons) or unknown})"
    if not keys:
        return "differs", f"from {peers}, and {unknown}"
    if len(keys) == 1 and keys[0] in fields and keys[0] in others:
        # The reference's unit goes without saying.
        value = others[keys[0]]
        return "has", f"{_shown(keys[0], fields)}, {peers} {f'{value:,}' if keys[0] in _COUNTED else word(value)}"
    shown, theirs = ([_shown(key, each) for key in keys if key in each] for each in (fields, others))
    return "has", f"{listed(shown or ['none'])}, {peers} {listed(theirs or ['none'])}"


def _shown(key: str, fields: Mapping[str, Any]) -> str:
    value = fields[key]
    return counted(value, key.removesuffix("s")) if key in _COUNTED else f"{key} {word(value)}".strip()


def _check_lengths(plan: StudyPlan, calibration: Mapping[str, Any] | None) -> Iterator[Mismatch]:
    """Whether a budget in seconds became the steps that its calibration says."""
    seconds = _seconds(plan)
    measured = (calibration or {}).get("pairs") or {}
    for run in plan.runs:
        where = (run.pair, run.method)
        if where not in seconds:
            continue
        entry = (measured.get(run.pair) or {}).get(run.method) or {}
        known, steps = entry.get("steps"), run.recipe.training.steps or 0
        doubt = None
        if known != steps:
            doubt = f"the calibration says {counted(known, 'step') if isinstance(known, int) else 'nothing'}"
        elif (why := _not_calibrated(entry, calibration or {}, seconds[where])) is not None:
            doubt = f"which the calibration does not give: {why}"
        if doubt is not None:
            rest = f"{counted(steps, 'step')}, {doubt}"
            yield Mismatch("budget", (run.method,), (run.pair, run.seed), "has", rest)


def _not_calibrated(entry: Mapping[str, Any], calibration: Mapping[str, Any], seconds: float) -> str | None:
    """Why the time of a step that was measured does not come to the steps next to it; None where it does."""
    if calibration.get("seconds") != seconds:
        return f"it is of {word(calibration.get('seconds'))} seconds, not {word(seconds)}"
    each = entry.get("seconds_per_step")
    if not isinstance(each, int | float) or not each > 0 or not math.isfinite(seconds / each):
        return f"seconds_per_step is {word(each)}"
    given = max(int(seconds / each), 1)
    if given == entry["steps"]:
        return None
    return f"{word(seconds)} seconds of {word(each)} a step are {counted(given, 'step')}"


def _compare_trials(plan: StudyPlan, tuned: Mapping[str, Any] | None = None) -> list[Mismatch]:
    """Whether all were tuned by as many trials, or all that a smaller space has; as planned, where none were made."""
    study = plan.study
    found: list[Mismatch] = []
    for pair in study.all_pairs:
        by = {one.name: study.tuned_by(one) for one in study.methods}
        most = {name: _most_trials(study, pair, one) for name, one in by.items()}
        made: dict[str, object] = dict(most)
        if tuned is not None:
            entries = tuned.get(pair.name) or {}
            # Without an entry its search is not done, and neither are its runs.
            made = {
                name: entries[by[name].name].get("trials") if count else 0
                for name, count in most.items()
                if isinstance(entries.get(by[name].name), Mapping) or not count
            }
        full = [name for name, count in made.items() if count and count == most[name]]
        lengths = {most[name] for name in full}
        shown = f"{max(lengths)} or all of a smaller space" if len(lengths) > 1 else max(lengths, default=0)
        fields = {name: FairnessField({"trials": count}) for name, count in made.items()}
        fields |= dict.fromkeys(full, FairnessField({"trials": shown}, "all that it could"))
        found += _compare([_Row(name, (pair.name, None), {"tuning": one}) for name, one in fields.items()], study)
    return found


def _most_trials(study: Study, pair: ModelPair, method: Method) -> int:
    """How many trials a method's search has in all: fewer than the study's where its space has no more points."""
    space = study.space_of(method)
    if study.tuning is None or not space:
        return 0
    count = points(space)
    if count < study.tuning.trials:
        # The first trial is the recipe as it is written, wherever that lies.
        count += own_values(space, recipe_content(study, StudyFolder(Path()), pair, method)) is None
    return int(min(study.tuning.trials, count))


# -- a run against its own recipe


def integrity_violations(run: FinishedRun, study: Study) -> Iterator[Mismatch]:
    """What is wrong with a run by itself: it is not what its recipe gives, or does not report its last epoch."""
    planned = run.planned
    for what, verb, rest, *label in (*_recipe_violations(run, study), *_hash_violations(run), *_report_violations(run)):
        yield Mismatch(what, (planned.method,), (planned.pair, planned.seed), verb, rest, *label)


# What it is about, verb and rest of the sentence, and perhaps what the sentence begins with.
_Violation = tuple[str, str, str] | tuple[str, str, str, str]


def _recipe_violations(run: FinishedRun, study: Study) -> Iterator[_Violation]:
    if run.recipe_hash != run.summary.recipe_hash:
        yield "recipe", "has", "a recipe.yaml that its results were not made with"
    planned, made = fields_of(run.planned.recipe, study), fields_of(run.recipe, study)
    changed = [key for key in {**planned, **made} if _changed(key, planned, made)]
    if changed:
        values = [f"{key} {word(made.get(key))} in place of {word(planned.get(key))}" for key in changed[:_MOST_SHOWN]]
        more = f" and {len(changed) - _MOST_SHOWN} more" if len(changed) > _MOST_SHOWN else ""
        yield "recipe", "ran with", f"{listed(values)}{more}, which is not what the study asks for"
    if run.summary.seed != run.recipe.seed:
        yield "recipe", "ran with", f"seed {run.summary.seed} in place of the recipe's {run.recipe.seed}"


def _changed(key: str, planned: Mapping[str, object], made: Mapping[str, object]) -> bool:
    model, preprocess, _ = key.partition(".preprocess")
    # Left open or named, it is written out in numbers.
    if preprocess and isinstance(planned.get(model + preprocess, 0), str | None):
        return False
    if key in _SETTLED and planned.get(key) == _SETTLED[key]:
        return False
    if key == "cache.enabled" and not any(each.startswith(("teacher.", "teachers.")) for each in made):
        return False
    return (key in planned) != (key in made) or planned.get(key) != made.get(key)


def _hash_violations(run: FinishedRun) -> Iterator[_Violation]:
    """Whether the hashes are those that the recipe gives: that they agree with other runs' would prove too little."""
    recipe, summary, hashes = run.recipe, run.summary, run.summary.hashes
    tasks, images, lengths = summary.incremental, _trained_on(run), _lengths(run)
    steps = sum(lengths)
    epochs = [
        math.ceil(length / _steps_per_epoch(recipe, count)) for length, count in zip(lengths, images, strict=True)
    ]
    # The order of texts depends on all their lengths, a balanced one on all labels, which a run does not record.
    from_seed = summary.data.vocabulary is None and recipe.data.sampling == "shuffled"
    if from_seed and hashes.order != chain_hashes(
        [_order_hash(*each, recipe.seed) for each in zip(images, epochs, strict=True)]
    ):
        yield "order of images", "did not see", "the order that the recipe gives"
    if hashes.views != chain_hashes([_views_hash(recipe.data.augmentation, count) for count in epochs]):
        yield "augmentation", "did not see", "the views that the recipe gives"
    if hashes.threads != digest(canonical_json(recipe.training.threads)):
        yield "threads", "did not run on", "the threads that the recipe gives"
    budget = budget_hash(
        steps=steps,
        batch_size=recipe.data.batch_size,
        accumulate=summary.accumulate,
        processes=summary.processes,
        data=summary.data.fingerprint,
        tasks=None if tasks is None else len(tasks.tasks),
    )
    if hashes.budget != budget:
        yield "budget", "did not have", "the steps, the batch size and the data that the recipe gives"
    if summary.steps != steps:
        yield "budget", "did", f"{counted(summary.steps, 'step')} in place of the recipe's {steps:,}"
    if summary.precision != recipe.training.precision:
        rest = f"{word(summary.precision)} in place of the recipe's {recipe.training.precision}"
        yield "precision", "ran in", rest


def _trained_on(run: FinishedRun) -> list[int]:
    """How many images it learned from: of each task, where its classes came in tasks."""
    tasks = run.summary.incremental
    return [run.summary.data.train] if tasks is None else [task.train for task in tasks.tasks]


def _steps_per_epoch(recipe: Recipe, images: int) -> int:
    return BatchSampler(images, recipe.data.batch_size, recipe.seed).steps_per_epoch


def _lengths(run: FinishedRun) -> list[int]:
    """The length that the recipe gives, in optimizer steps: of each task, where its classes came in tasks."""
    images, settings = _trained_on(run), run.recipe.incremental
    if run.record is not None and settings is not None and settings.joint:
        images = [task.new for task in run.record.tasks]
    return [run.recipe.training.total_steps(_steps_per_epoch(run.recipe, count)) for count in images]


@lru_cache(maxsize=4096)
def _order_hash(images: int, epochs: int, seed: int) -> str:
    found = ""
    for epoch in range(epochs):
        found = digest(found.encode(), epoch_order(images, seed, epoch).tobytes())
    return found


@lru_cache(maxsize=4096)
def _views_hash(augmentation: AugmentationConfig, epochs: int) -> str:
    found = ""
    for epoch in range(epochs):
        found = digest(found.encode(), canonical_json([augmentation.model_dump(), view_of(epoch, augmentation)]))
    return found


def _report_violations(run: FinishedRun) -> Iterator[_Violation]:
    yield from _epoch_violations(run)
    yield from _figure_violations(run)
    yield from _task_violations(run)


def _epoch_violations(run: FinishedRun) -> Iterator[_Violation]:
    """Whether the summary reports the last step of all."""
    name, best_on_test = "reported epoch", "best-on-test reporting"
    if not run.evaluations:
        yield name, "left", "no evaluation on the test split"
        return
    last, end = run.evaluations[-1], sum(_lengths(run))
    reported = {figure: figure_of(run.summary, figure) for figure in TEST_FIGURES}
    other = [figure for figure in TEST_FIGURES if reported[figure] != last.figures.get(figure)]
    if other:

        def agrees(one: EvaluationRecord) -> bool:
            return all(one.figures.get(figure) == reported[figure] for figure in other)

        earlier = next((one for one in run.evaluations[:-1] if agrees(one)), None)
        if earlier is not None:
            rest = f"the figures after step {earlier.step:,}, not those after the last, {last.step:,}"
            yield name, "reports", rest, best_on_test
        else:
            value, given = reported[other[0]], last.figures.get(other[0])
            yield name, "reports", f"{other[0]} {word(value)}, the last evaluation says {word(given)}"
    if last.step != end:
        rest = f"the figures after step {last.step:,}, not those after the last, {end:,}"
        yield name, "reports", rest, best_on_test


def _figure_violations(run: FinishedRun) -> Iterator[_Violation]:
    """Whether the answers to the test images give what the summary reports."""
    name, summary, found = "reported figures", run.summary, run.predictions
    if summary.correct is not None and summary.top1 != 100.0 * summary.correct / summary.count:
        share = f"a top-1 of {word(summary.top1)}, which is not {summary.correct:,} of {summary.count:,}"
        yield name, "reports", share
    if summary.data.test != found.count:
        images = f"{counted(summary.data.test, 'test image')}, the predictions are of {found.count:,}"
        yield name, "reports", images
    reported, given = [], []
    if found.correct is not None and (summary.correct, summary.count) != (found.correct, found.count):
        reported.append(f"{summary.correct:,} of {summary.count:,} right")
        given.append(f"{found.correct:,} of {found.count:,}")
    for figure, value in found.figures.items():
        said = figure_of(summary, figure)
        # All but what is counted was summed in single precision.
        close = {} if figure == "agreement" else {"rel_tol": 1e-3, "abs_tol": 1e-4}
        if said is None or not math.isclose(said, value, **close):
            reported.append(f"{figure} {word(said)}")
            given.append(f"{value:.6g}")
    for figure in ("agreement", "teacher_kl"):
        if figure not in found.figures and getattr(summary, figure) is not None:
            reported.append(f"{figure} {word(getattr(summary, figure))}")
            given.append("none")
    if reported:
        yield name, "reports", f"{listed(reported)}, the predictions give {listed(given)}"


def _task_violations(run: FinishedRun) -> Iterator[_Violation]:
    """Whether the accuracies on each task after each give what is reported of all of them."""
    name, summary, record = "reported figures", run.summary.incremental, run.record
    if summary is None or record is None:
        return
    try:
        means = accuracy_after_each_task(record.matrix)
        given = compute_metrics(record.matrix, record.task_local, summary.old_only).as_dict()
    except ValueError as error:
        yield name, "left", f"no accuracies that can be read ({error})"
        return
    other = [what for what, value in given.items() if getattr(summary, what) != value]
    if other or means != [task.accuracy for task in record.tasks]:
        shown = f"{other[0]} {word(getattr(summary, other[0]))}" if other else "accuracies after each task"
        yield name, "reports", f"{shown}, which its accuracies on each task do not give"
