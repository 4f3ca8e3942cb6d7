"""The results of a study: statistics, ranks and conclusions; the same bytes for the same runs, whoever made them.

``results.json`` holds no clocks; :class:`stillroom.schema.study.StudyResults` describes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stillroom.continual.metrics import aggregate_seeds
from stillroom.files import write_json, write_text
from stillroom.recipe import Recipe
from stillroom.schema.base import parse, read_optional
from stillroom.schema.continual import IncrementalRecord, MeanInterval, PairTasks
from stillroom.schema.study import CalibrationFile, StudyResults, TunedFile
from stillroom.study.collect import (
    CollectedRuns,
    FinishedRun,
    UnfinishedRun,
    collect,
    measure_of,
    why_no_measure,
)
from stillroom.study.config import MEASURES, ModelPair, Study, StudyMeasure
from stillroom.study.contrasts import ContrastFinding, comparison_facts, find_contrasts
from stillroom.study.equality import Inequality, checked_fields, fields_of, inequalities, timed
from stillroom.study.plan import StudyFolder, StudyPlan, resolve_path, sweep_values
from stillroom.study.statistics import (
    PLANNING_CAUTION,
    AverageRanks,
    HolmFamily,
    PairedComparison,
    PairedDifference,
    against_baseline,
    between_all,
    interval,
    ranks_across_pairs,
)
from stillroom.study.tables import NOT_EQUAL, comparisons_csv, cost_table, runs_csv, table_csv, table_tex
from stillroom.wording import counted, listed, places, plain, word
from stillroom.wording import loss as loss_text

# Measures that a run may lack; they follow the others.
_OPTIONAL = tuple(name for name in MEASURES if name not in ("top1", "nll", "ece"))
_LENGTH = ("training.steps", "training.epochs")
_MOST_CHARACTERS = 120
_PER_SEED = "tuned for each seed"

SeedValues = dict[str, dict[int, float]]  # method → {seed: value}


def write_results(folder: StudyFolder, plan: StudyPlan, failures: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read the runs of a study, prove them equal or say what is not, and write the results and tables.

    Args:
        plan: its runs, with what trials chose and what a budget in seconds came to.
        failures: run id → why it failed.

    Returns:
        What ``results.json`` holds.

    Raises:
        BadInput: a file of a finished run, or of the study, is missing or damaged.
    """
    tuned_file = read_optional(TunedFile, folder.tuned)
    tuned = None if tuned_file is None else tuned_file.as_dict()["pairs"]
    calibration_file = read_optional(CalibrationFile, folder.calibration)
    calibration = None if calibration_file is None else calibration_file.as_dict()
    collected = collect(folder, plan, failures)
    unequal = inequalities(plan, collected.runs, tuned=tuned, calibration=calibration)
    made = results_of(folder, plan, collected, unequal, tuned=tuned, calibration=calibration)
    # As they are read back, so that whoever asks in this process sees what the file says.
    results: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    parse(StudyResults, results, folder.results)
    tables = {
        "runs.csv": runs_csv(results),
        "table.csv": table_csv(results),
        "comparisons.csv": comparisons_csv(results),
        "table.tex": table_tex(results),
    }
    for name, text in tables.items():
        write_text(folder.table(name), text, checksum=True)
    write_text(folder.cost, cost_table(folder, plan), checksum=True)
    # Last: whoever finds it finds the tables that belong to it.
    write_json(folder.results, results, checksum=True)
    return results


def results_of(
    folder: StudyFolder,
    plan: StudyPlan,
    collected: CollectedRuns,
    unequal: Sequence[Inequality],
    *,
    tuned: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``results.json``.

    Args:
        unequal: what keeps them from being an equal comparison.
    """
    study, measure = plan.study, MEASURES[plan.study.measure]
    level = round(1 - study.alpha, 12)
    sweep = sweep_values(plan)
    differ = differences(plan)
    stats = {pair.name: _statistics(study, pair.name, collected.runs, measure, unequal) for pair in study.all_pairs}
    ranks, ranked = _ranks(study, stats, measure, unequal)
    families = {name: one.baseline for name, one in stats.items()}
    tested = ranked if len(stats) > 1 and ranks.friedman is not None else None
    in_tasks = _in_tasks(study, collected.runs, level)
    by_pair = {name: one.values for name, one in stats.items()}
    contrasts = find_contrasts(study, folder, by_pair, unequal) if study.contrasts else []
    conclusions = conclude(study, measure, unequal, collected.missing, families, tested, collected.runs, contrasts)
    return {
        "schema": 1,
        "name": study.name,
        "question": study.question,
        "study_hash": study.hash(),
        "measure": measure.as_dict(),
        "alpha": study.alpha,
        "level": level,
        "baseline": study.baseline_name,
        "seeds": list(study.seeds),
        "budget": study.budget.model_dump(mode="json", exclude_none=True) if study.budget is not None else None,
        "methods": [{"name": one.name, "note": one.note, "differs": differ[one.name]} for one in study.methods],
        "model_pairs": [_pair_facts(pair, plan, collected.runs) for pair in study.all_pairs],
        # Not even as null: the results of a study without one are the bytes that they always were.
        **({"sweep": sweep} if sweep is not None else {}),
        "equal": not unequal,
        "checked": checked_fields(study),
        "allowed_differences": list(study.allowed_differences),
        "inequalities": [one.as_dict() for one in unequal],
        "missing": [
            {
                "pair": one.planned.pair,
                "method": one.planned.method,
                "seed": one.planned.seed,
                "reason": one.reason,
                "status": one.status,
            }
            for one in collected.missing
        ],
        "runs": [_run_facts(run, folder) for run in collected.runs],
        "cells": [
            {
                "pair": pair,
                "method": name,
                "equal": not any(pair in one.pairs and name in one.methods for one in unequal),
                **_cell(one.values[name], measure, level, _reason(collected.runs, pair, name, measure)),
            }
            for pair, one in stats.items()
            for name in one.values
        ],
        "families": [
            {"pair": pair, "baseline": _family(one.baseline, measure), "all": _family(one.every, measure)}
            for pair, one in stats.items()
        ],
        **({"contrasts": [one.as_dict(measure) for one in contrasts]} if contrasts else {}),
        "ranks": {**asdict(ranks), "text": ranked},
        **({"incremental": in_tasks} if in_tasks else {}),
        "conclusions": conclusions,
        **({"tuning": tuning_info(study)} if study.tuning is not None else {}),
        "tuned": tuned,
        "calibration": _without_clocks(calibration),
    }


@dataclass(frozen=True)
class _Statistics:
    values: SeedValues
    baseline: HolmFamily
    every: HolmFamily


def _statistics(
    study: Study, pair: str, runs: Sequence[FinishedRun], measure: StudyMeasure, unequal: Sequence[Inequality]
) -> _Statistics:
    values: SeedValues = {method.name: {} for method in study.methods}
    for run in runs:
        value = measure_of(run.summary, measure.name)
        if run.planned.pair == pair and value is not None:
            values[run.planned.method][run.planned.seed] = value
    families = against_baseline(values, study.baseline_name, alpha=study.alpha), between_all(values, alpha=study.alpha)
    return _Statistics(values, *(_claimed(family, pair, unequal) for family in families))


def _claimed(family: HolmFamily, pair: str, unequal: Sequence[Inequality]) -> HolmFamily:
    """A family in which nothing is claimed of runs that were not equal."""
    comparisons = (
        one.without_claim(NOT_EQUAL) if _unequal_in(unequal, pair, one) else one for one in family.comparisons
    )
    return replace(family, comparisons=tuple(comparisons))


def _ranks(
    study: Study, stats: Mapping[str, _Statistics], measure: StudyMeasure, unequal: Sequence[Inequality]
) -> tuple[AverageRanks, str]:
    """The ranks over the pairs whose runs are all there and all equal, and the same in words."""
    doubtful = {pair for one in unequal for pair in one.pairs}
    # A mean over fewer seeds is of other runs than the others' are: such a pair is not ranked, and named.
    means = {
        method.name: {
            pair: interval(list(one.values[method.name].values())).mean
            for pair, one in stats.items()
            if len(one.values[method.name]) == len(study.seeds) and pair not in doubtful
        }
        for method in study.methods
    }
    ranks = ranks_across_pairs(means, higher_is_better=measure.higher_is_better, alpha=study.alpha)
    if not doubtful:
        return ranks, ranks.describe()
    if not ranks.pairs:
        ranks = replace(ranks, why="no pair that all methods have and whose runs are all equal")
    left_out = tuple(pair for pair in stats if pair in doubtful or pair in ranks.left_out)
    text = f"{ranks.describe()}; left out for runs that are not equal: {', '.join(p for p in stats if p in doubtful)}"
    return replace(ranks, left_out=left_out), text


def _reason(runs: Sequence[FinishedRun], pair: str, name: str, measure: StudyMeasure) -> str:
    """Why a method has no such figure, where its runs say so."""
    whose = (run for run in runs if (run.planned.pair, run.planned.method) == (pair, name))
    return next((why for run in whose if (why := why_no_measure(run.summary, measure.name))), "")


def _cell(values: Mapping[int, float], measure: StudyMeasure, level: float, reason: str = "") -> dict[str, Any]:
    seeds = {str(seed): value for seed, value in values.items()}
    if not values:
        empty = dict.fromkeys(("mean", "low", "high", "sd"))
        none = f"no run with {measure.title}" + (f": {reason}" if reason else "")
        return {"count": 0, **empty, "why": none, "text": "–", "seeds": seeds}
    found = interval(list(values.values()), level=level)
    why = None
    if found.low is None:
        why = f"{'one seed' if found.count == 1 else 'no spread between the seeds'}: no interval"
    return {
        "count": found.count,
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "sd": found.sd,
        "why": why,
        "text": found.describe(measure.digits),
        "seeds": seeds,
    }


def _family(family: HolmFamily, measure: StudyMeasure) -> dict[str, Any]:
    comparisons = [comparison_facts(one, measure) for one in family.comparisons]
    return {**family.as_dict(), "comparisons": comparisons, "text": family.describe(measure.digits)}


def _run_facts(run: FinishedRun, folder: StudyFolder) -> dict[str, Any]:
    planned, summary = run.planned, run.summary
    path = folder.run(planned.pair, planned.method, planned.seed).relative_to(folder.path)
    optional = {name: measure_of(summary, name) for name in _OPTIONAL}
    return {
        "pair": planned.pair,
        "method": planned.method,
        "seed": planned.seed,
        "run": path.as_posix(),
        **{
            name: value
            for name in ("top1", "correct", "count", "nll", "ece")
            if (value := getattr(summary, name)) is not None
        },
        **{name: value for name, value in optional.items() if value is not None},
        **{name: getattr(summary, name) for name in ("steps", "epochs", "parameters", "multiply_adds", "bytes")},
        "hashes": summary.hashes.model_dump(),
    }


def _pair_facts(pair: ModelPair, plan: StudyPlan, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """What a pair is made of, by the baseline's first run; by its recipe where there is no run yet."""
    here = [run for run in runs if run.planned.pair == pair.name]
    first = next((run for run in here if run.planned.method == plan.study.baseline_name), here[0] if here else None)
    # A method from labels alone may have been run without one; of several teachers only their names are shown.
    teacher = next((run.summary.teacher for run in here if len(run.summary.teachers) == 1), None)
    models = next(
        (tuple(one.model for one in run.summary.teachers.values()) for run in here if run.summary.teachers), ()
    )
    recipes = [run.recipe for run in plan.runs if run.pair == pair.name]
    planned = next((recipe.all_teachers for recipe in recipes if recipe.all_teachers), {})
    named = models or tuple(one.name for one in planned.values() if one.name is not None)
    summary = first.summary if first is not None else None
    data = summary.data if summary is not None else None
    return {
        "name": pair.name,
        "note": pair.note,
        "student": recipes[0].student.name,
        "teacher": " + ".join(named) or None,
        "data": data.name if data else None,
        **{name: getattr(data, name, None) for name in ("classes", "train", "test")},
        **{f"teacher_{name}": getattr(teacher, name, None) for name in ("top1", "parameters", "multiply_adds")},
        **{name: getattr(summary, name, None) for name in ("parameters", "multiply_adds", "steps", "epochs")},
        "precision": summary.precision if summary else None,
        "threads": recipes[0].training.threads,
    }


def _without_clocks(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The steps that a budget in seconds came to: with it fixed, they are no clock any more."""
    if calibration is None:
        return None
    pairs = calibration.get("pairs") or {}
    return {
        "seconds": calibration.get("seconds"),
        "pairs": {
            pair: {name: {"steps": found.get("steps")} for name, found in sorted(mine.items())}
            for pair, mine in sorted(pairs.items())
        },
    }


def _in_tasks(study: Study, runs: Sequence[FinishedRun], level: float) -> list[dict[str, Any]]:
    """Each pair's methods whose classes came in tasks, task by task over their seeds."""

    def mean_interval(values: Sequence[float]) -> MeanInterval:
        found = interval(values, level=level)
        return MeanInterval(mean=found.mean, low=found.low, high=found.high)

    pairs = []
    for pair in study.all_pairs:
        records: dict[str, dict[int, IncrementalRecord]] = {}
        joint = None
        for run in runs:
            if run.planned.pair == pair.name and run.record is not None:
                records.setdefault(run.planned.method, {})[run.planned.seed] = run.record
                settings = run.recipe.incremental
                if joint is None and settings is not None and settings.joint:
                    joint = run.planned.method
        if records:
            bound = records.get(joint, {}) if joint is not None else {}
            methods = tuple(
                aggregate_seeds(one.name, records[one.name], bound, mean_interval)
                for one in study.methods
                if one.name in records
            )
            pairs.append(PairTasks(pair=pair.name, joint=joint, methods=methods).as_dict())
    return pairs


def tuning_info(study: Study) -> dict[str, Any]:
    """How methods were tuned, and so what the intervals of a study are about."""
    tuning = study.tuning
    assert tuning is not None
    trials = counted(tuning.trials, "trial")
    if tuning.pruning is not None:
        trials += f", of which {tuning.pruning.keep} were not pruned"
    whose = "Each method was tuned" if tuning.by is None else f"All methods have what was chosen by {tuning.by}, tuned"
    if tuning.repeat == "per_seed":
        text = f"{whose} anew for each seed ({trials}): what is compared is a method with its tuning."
    else:
        text = f"{whose} once ({trials}): what is compared is a method at one tuning, whose luck no interval shows."
    return {"repeat": tuning.repeat, "trials": tuning.trials, "by": tuning.by, "text": text}


# -- what a method is


def differences(plan: StudyPlan) -> dict[str, list[dict[str, str]]]:
    """How each method's recipes differ from the baseline's, options that trials chose included.

    Returns:
        For each method ``key``, ``value`` and ``baseline`` of each difference, as text; where pairs differ in it,
        each value with its pairs.
    """
    study = plan.study
    own_length = timed(study)
    first = {(run.pair, run.method): run.recipe for run in reversed(plan.runs)}
    baseline = next(one for one in study.methods if one.name == study.baseline_name)
    found = {}
    for method in study.methods:
        values: dict[str, dict[str, tuple[str, str]]] = {}
        for pair in study.all_pairs:
            mine, theirs = first[pair.name, method.name], first[pair.name, study.baseline_name]
            pair_values = _differing(mine, theirs, study)
            if study.tuning is not None and study.tuning.repeat == "per_seed":
                searched = [
                    {".".join(resolve_path(recipe.model_dump(mode="json"), key)) for key in study.space_of(whose)}
                    for recipe, whose in ((mine, method), (theirs, baseline))
                ]
                pair_values = {
                    key: (
                        _PER_SEED if key in searched[0] else both[0],
                        _PER_SEED if key in searched[1] else both[1],
                    )
                    for key, both in pair_values.items()
                }
            if {(pair.name, method.name), (pair.name, study.baseline_name)} <= own_length:
                # What a second buys is a result, and the calibration holds it.
                pair_values = {key: both for key, both in pair_values.items() if key not in _LENGTH}
            for key, both in pair_values.items():
                values.setdefault(key, {})[pair.name] = both
        found[method.name] = [
            {"key": key, "value": _over(0, on, study), "baseline": _over(1, on, study)} for key, on in values.items()
        ]
    return found


def _differing(mine: Recipe, theirs: Recipe, study: Study) -> dict[str, tuple[str, str]]:
    one, other = ({k: v for k, v in fields_of(r, study).items() if k != "name"} for r in (mine, theirs))
    found: dict[str, tuple[str, str]] = {}
    if [term.name for term in mine.losses] != [term.name for term in theirs.losses]:
        found["losses"] = (_losses(mine), _losses(theirs))
        one, other = ({k: v for k, v in fields.items() if not k.startswith("losses.")} for fields in (one, other))
    for key in {**other, **one}:
        if one.get(key) != other.get(key):
            found[key] = (_short(one, key), _short(other, key))
    return found


def _short(fields: dict[str, Any], key: str) -> str:
    return plain(word(fields.get(key)), _MOST_CHARACTERS)


def _losses(recipe: Recipe) -> str:
    return plain(loss_text([term.model_dump(mode="json") for term in recipe.losses]), _MOST_CHARACTERS)


def _over(side: int, on: dict[str, tuple[str, str]], study: Study) -> str:
    pairs = [pair.name for pair in study.all_pairs]
    values: dict[str, list[str]] = {}
    for pair, both in on.items():
        values.setdefault(both[side], []).append(pair)
    if len(values) == 1 and len(on) == len(pairs):
        return next(iter(values))
    return "; ".join(f"{value} (on {listed(where)})" for value, where in values.items())


# -- conclusions


def conclude(
    study: Study,
    measure: StudyMeasure,
    unequal: Sequence[Inequality],
    missing: Sequence[UnfinishedRun],
    families: Mapping[str, HolmFamily],
    ranked: str | None = None,
    runs: Sequence[FinishedRun] = (),
    contrasts: Sequence[ContrastFinding] = (),
) -> list[str]:
    """The study's findings as sentences.

    Args:
        unequal: what keeps it from being an equal comparison; it comes first.
        missing: runs that are not there; they come next.
        families: by pair, the comparisons with the baseline; those of unequal runs without a claim.
        ranked: the ranks over all pairs that may be ranked, in words; None where they tell nothing.
        runs: those that are finished: what of them has no such figure is said.
        contrasts: what was planned: it comes before the comparisons with the baseline.

    Returns:
        Sentences; those of the comparisons in the order of pairs and methods.
    """
    sentences = [*_doubts(study, unequal, missing), *_undefined(study, measure, runs)]
    sentences += [one.sentence(measure, several_pairs=bool(study.model_pairs)) for one in contrasts]
    comparisons = [(pair, one) for pair, family in families.items() for one in family.comparisons]
    if not comparisons:
        sentences.append("There is one method: nothing is compared.")
    if runs and all(measure_of(run.summary, measure.name) is None for run in runs):
        # It was said why; that they have no seed in common would mislead.
        comparisons = []
    for pair, one in comparisons:
        terms = _unequal_in(unequal, pair, one)
        where = f"On {pair}, " if study.model_pairs else ""
        if terms:
            sentence = f"{one.method} and {one.against} are not compared on equal terms ({listed(terms)}): no claim."
        else:
            sentence = _conclusion(one, measure, capital=not where)
        sentences.append(where + sentence)
    if ranked is not None:
        sentences.append(f"{ranked}.")
    if study.tuning is not None:
        sentences.append(tuning_info(study)["text"])
    if any(
        one.plan is not None and one.plan.why is None
        for one in [*(each.comparison for each in contrasts), *(one for _, one in comparisons)]
    ):
        sentences.append(PLANNING_CAUTION)
    return sentences


def _unequal_in(unequal: Sequence[Inequality], pair: str, one: PairedComparison) -> list[str]:
    """In what the two of a comparison were not equal, or not what they say they were."""
    both = {one.method, one.against}
    return list(dict.fromkeys(found.what for found in unequal if pair in found.pairs and both & {*found.methods}))


def _doubts(study: Study, unequal: Sequence[Inequality], missing: Sequence[UnfinishedRun]) -> list[str]:
    said = []
    if unequal:
        what = listed(dict.fromkeys(found.what for found in unequal))
        who = listed(name for name in _names(study) if any(name in found.methods for found in unequal))
        said.append(
            f"This table is not to be believed as it stands: its runs are not equal in {what} ({who}); "
            "what that touches is not claimed below."
        )
    if missing:
        cells = len(study.all_pairs) * len(study.methods) * len(study.seeds)
        gaps: dict[tuple[str, str], list[tuple[str, int | None]]] = {}
        for one in missing:
            gaps.setdefault((one.planned.method, one.reason), []).append((one.planned.pair, one.planned.seed))
        shown = [
            f"{name}, {places(where, pairs=bool(study.model_pairs))}: {reason}"
            for (name, reason), where in gaps.items()
        ]
        are = "is" if len(missing) == 1 else "are"
        said.append(
            f"This table is not complete: {len(missing):,} of {cells:,} runs {are} missing ({'; '.join(shown)})."
        )
    return said


def _undefined(study: Study, measure: StudyMeasure, runs: Sequence[FinishedRun]) -> list[str]:
    """Finished runs that the study's question has no answer for, and why."""
    without: dict[str, list[FinishedRun]] = {}
    for run in runs:
        if measure_of(run.summary, measure.name) is None:
            without.setdefault(why_no_measure(run.summary, measure.name), []).append(run)
    said = []
    for why, those in without.items():
        who = listed(name for name in _names(study) if any(run.planned.method == name for run in those))
        count = f"{len(those):,} of {counted(len(runs), 'finished run')} ({who})"
        said.append(f"There is no {measure.title} in {count}" + (f": {why}." if why else "."))
    return said


def _names(study: Study) -> list[str]:
    return [method.name for method in study.methods]


def _conclusion(one: PairedComparison, measure: StudyMeasure, *, capital: bool) -> str:
    # A method's name keeps its own spelling.
    no_difference = "No difference" if capital else "no difference"
    found = one.difference
    names = f"{one.method} and {one.against}"
    if found is None:
        return f"{names} have no seed in common: nothing to compare{_gaps(one)}."
    if found.count == 1:
        said = f"{names} are level" if found.mean == 0 else _by(one, found, measure)
        one_seed = "One seed" if capital else "one seed"
        return f"{one_seed}: no interval, so no claim; there {said} in {measure.title}{_gaps(one)}."
    if found.low is None or found.high is None or one.holm_p is None:
        said = f"{_by(one, found, measure)} in {measure.title} in each of the {found.count} seeds"
        return f"{said}: no spread, as if they were one, so no claim{_gaps(one)}."
    numbers = f"{_interval(found, measure)}, Holm p = {one.holm_p:.3g}, {counted(found.count, 'seed')}"
    better = measure.better(one.verdict)
    if better is not None:
        word = "better" if better else "worse"
        return f"{one.method} is {word} than {one.against}: {measure.title} {one.verdict}, {numbers}{_gaps(one)}."
    if found.sd == 0 and found.mean == 0:
        return f"{no_difference} is shown between {names}: {measure.title} is the same in every seed{_gaps(one)}."
    plan = f"; {one.plan.describe()}" if one.plan is not None else ""
    return f"{no_difference} is shown between {names}: {measure.title} {numbers}{plan}{_gaps(one)}."


def _by(one: PairedComparison, found: PairedDifference, measure: StudyMeasure) -> str:
    unit = f" {measure.difference}" if measure.difference else ""
    side = "higher" if found.mean > 0 else "lower"
    return f"{one.method} is {abs(found.mean):.{measure.digits}f}{unit} {side} than {one.against}"


def _interval(found: PairedDifference, measure: StudyMeasure) -> str:
    digits = measure.digits
    unit = f" {measure.difference}" if measure.difference else ""
    return f"{found.mean:+.{digits}f}{unit} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def _gaps(one: PairedComparison) -> str:
    gaps = [(one.method, one.lacking), (one.against, one.against_lacking)]
    shown = [f"{name} lacks {places([('', seed) for seed in seeds], pairs=False)}" for name, seeds in gaps if seeds]
    return f" ({', '.join(shown)})" if shown else ""
