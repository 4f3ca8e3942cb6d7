"""The results of a study: the same bytes for the same runs, whoever made them, when and where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillroom.continual.metrics import aggregate_seeds
from stillroom.files import write_json, write_text
from stillroom.schema.continual import IncrementalRecord, MeanInterval, PairTasks
from stillroom.study.axis import axis_of
from stillroom.study.collect import Collected, Run, collect, read_optional
from stillroom.study.conclusions import conclude, terms_of
from stillroom.study.config import Pair, Study
from stillroom.study.cost import cost_table
from stillroom.study.differs import differences
from stillroom.study.equality import Inequality, compared, inequalities
from stillroom.study.folder import StudyFolder
from stillroom.study.measures import MEASURES, RELATIONS, TASKS, Measured
from stillroom.study.plan import Plan
from stillroom.study.statistics import Family, Ranks, against_baseline, between_all, interval, ranks_across_pairs
from stillroom.study.tables import NOT_EQUAL, comparisons_csv, runs_csv, table_csv, table_tex

SCHEMA = 1
_OPTIONAL = ("top5", "agreement", "teacher_kl", *RELATIONS, *TASKS)

# method → {seed: value}
Values = dict[str, dict[int, float]]


def write_results(folder: StudyFolder, plan: Plan, failures: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read the runs of a study, prove them equal or say what is not, and write the results and tables.

    Args:
        folder: the study's folder.
        plan: its runs, with what trials chose and what a budget in seconds came to.
        failures: cell id → why it failed.

    Returns:
        What ``results.json`` holds.

    Raises:
        BadInput: a file of a finished run, or of the study, is missing or damaged.
    """
    tuned, calibration = read_optional(folder.tuned), read_optional(folder.calibration)
    collected = collect(folder, plan, failures)
    unequal = inequalities(plan, collected.runs, tuned=tuned, calibration=calibration)
    made = results_of(folder, plan, collected, unequal, tuned=tuned, calibration=calibration)
    # As they are read back, so that whoever asks in this process sees what the file says.
    results: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    tables = {
        "runs.csv": runs_csv(results),
        "table.csv": table_csv(results),
        "comparisons.csv": comparisons_csv(results),
        "table.tex": table_tex(results),
    }
    for name, text in tables.items():
        write_text(folder.table(name), text)
    write_text(folder.cost, cost_table(folder, plan))
    # Last: whoever finds it finds the tables that belong to it.
    write_json(folder.results, results)
    return results


def results_of(
    folder: StudyFolder,
    plan: Plan,
    collected: Collected,
    unequal: Sequence[Inequality],
    *,
    tuned: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``results.json``.

    Args:
        folder: the study's folder.
        plan: its runs.
        collected: what there is of them.
        unequal: what keeps them from being an equal comparison.
        tuned: ``tuned.json``, where there is one.
        calibration: ``calibration.json``, where there is one.
    """
    study, measure = plan.study, MEASURES[plan.study.measure]
    level = round(1 - study.alpha, 12)
    axis = axis_of(plan)
    differ = differences(plan)
    stats = {pair.name: _statistics(study, pair.name, collected.runs, measure, unequal) for pair in study.all_pairs}
    ranks, ranked = _ranks(study, stats, measure, unequal)
    families = {name: one.baseline for name, one in stats.items()}
    tested = ranked if len(stats) > 1 and ranks.friedman is not None else None
    in_tasks = _in_tasks(study, collected.runs, level)
    conclusions = conclude(study, measure, unequal, collected.missing, families, tested, collected.runs)
    return {
        "schema": SCHEMA,
        "name": study.name,
        "question": study.question,
        "study_hash": study.hash(),
        "measure": measure.as_dict(),
        "alpha": study.alpha,
        "level": level,
        "baseline": study.against,
        "seeds": list(study.seeds),
        "budget": study.budget.model_dump(mode="json", exclude_none=True) if study.budget is not None else None,
        "methods": [{"name": one.name, "note": one.note, "differs": differ[one.name]} for one in study.methods],
        "pairs": [_pair_facts(pair, plan, collected.runs) for pair in study.all_pairs],
        # Not even as null: the results of a study without one are the bytes that they always were.
        **({"axis": axis} if axis is not None else {}),
        "equal": not unequal,
        "checked": compared(plan.study),
        "varies": list(plan.study.varies),
        "inequalities": [one.as_dict() for one in unequal],
        "missing": [
            {
                "pair": one.cell.pair,
                "method": one.cell.method,
                "seed": one.cell.seed,
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
        "ranks": {**ranks.as_dict(), "told": ranked},
        **({"incremental": in_tasks} if in_tasks else {}),
        "conclusions": conclusions,
        "tuned": tuned,
        "calibration": _without_clocks(calibration),
    }


@dataclass(frozen=True)
class _Statistics:
    values: Values
    baseline: Family
    every: Family


def _statistics(
    study: Study, pair: str, runs: Sequence[Run], measure: Measured, unequal: Sequence[Inequality]
) -> _Statistics:
    values: Values = {method.name: {} for method in study.methods}
    for run in runs:
        value = run.summary.value(measure.name)
        if run.cell.pair == pair and value is not None:
            values[run.cell.method][run.cell.seed] = value
    families = against_baseline(values, study.against, alpha=study.alpha), between_all(values, alpha=study.alpha)
    return _Statistics(values, *(_claimed(family, pair, unequal) for family in families))


def _claimed(family: Family, pair: str, unequal: Sequence[Inequality]) -> Family:
    """A family in which nothing is claimed of runs that were not equal."""
    comparisons = (one.without_claim(NOT_EQUAL) if terms_of(unequal, pair, one) else one for one in family.comparisons)
    return replace(family, comparisons=tuple(comparisons))


def _ranks(
    study: Study, stats: Mapping[str, _Statistics], measure: Measured, unequal: Sequence[Inequality]
) -> tuple[Ranks, str]:
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
        return ranks, ranks.told()
    if not ranks.pairs:
        ranks = replace(ranks, why="no pair that all methods have and whose runs are all equal")
    left_out = tuple(pair for pair in stats if pair in doubtful or pair in ranks.left_out)
    told = f"{ranks.told()}; left out for runs that are not equal: {', '.join(p for p in stats if p in doubtful)}"
    return replace(ranks, left_out=left_out), told


def _reason(runs: Sequence[Run], pair: str, name: str, measure: Measured) -> str:
    """Why a method has no such figure, where its runs say so."""
    whose = (run for run in runs if (run.cell.pair, run.cell.method) == (pair, name))
    return next((why for run in whose if (why := run.summary.why(measure.name))), "")


def _cell(values: Mapping[int, float], measure: Measured, level: float, reason: str = "") -> dict[str, Any]:
    seeds = {str(seed): value for seed, value in values.items()}
    if not values:
        empty = dict.fromkeys(("mean", "low", "high", "sd"))
        none = f"no run with {measure.title}" + (f": {reason}" if reason else "")
        return {"count": 0, **empty, "why": none, "told": "–", "seeds": seeds}
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
        "told": found.told(measure.digits),
        "seeds": seeds,
    }


def _family(family: Family, measure: Measured) -> dict[str, Any]:
    content = family.as_dict()
    for told, one in zip(content["comparisons"], family.comparisons, strict=True):
        told["equal"] = one.no_claim is None
        told["better"] = measure.better(one.verdict)
        told["told"] = one.told(measure.digits)
    return {**content, "told": family.told(measure.digits)}


def _run_facts(run: Run, folder: StudyFolder) -> dict[str, Any]:
    cell, summary = run.cell, run.summary
    path = folder.run(cell.pair, cell.method, cell.seed).relative_to(folder.path)
    figures = {
        "top1": summary.top1,
        "correct": summary.correct,
        "count": summary.count,
        "nll": summary.nll,
        "ece": summary.ece,
        **{name: summary.value(name) for name in _OPTIONAL if summary.value(name) is not None},
    }
    return {
        "pair": cell.pair,
        "method": cell.method,
        "seed": cell.seed,
        "run": path.as_posix(),
        **figures,
        "steps": summary.steps,
        "epochs": summary.epochs,
        "parameters": summary.parameters,
        "multiply_adds": summary.multiply_adds,
        "bytes": summary.bytes,
        "hashes": summary.hashes.model_dump(),
    }


def _pair_facts(pair: Pair, plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """What a pair is made of, by the baseline's first run; by its recipe where there is no run yet."""
    here = [run for run in runs if run.cell.pair == pair.name]
    first = next((run for run in here if run.cell.method == plan.study.against), here[0] if here else None)
    # A method from labels alone may have been run without one.
    teacher = next((run.summary.teacher for run in here if run.summary.teacher is not None), None)
    recipe = next(cell.recipe for cell in plan.cells if cell.pair == pair.name)
    summary = first.summary if first is not None else None
    named = next((c.recipe.teacher for c in plan.cells if c.pair == pair.name and c.recipe.teacher is not None), None)
    return {
        "name": pair.name,
        "note": pair.note,
        "student": recipe.student.name,
        "teacher": teacher.model if teacher else named.name if named else None,
        "data": summary.data.name if summary else None,
        "classes": summary.data.classes if summary else None,
        "train": summary.data.train if summary else None,
        "test": summary.data.test if summary else None,
        "teacher_top1": teacher.top1 if teacher else None,
        "teacher_parameters": teacher.parameters if teacher else None,
        "teacher_multiply_adds": teacher.multiply_adds if teacher else None,
        "parameters": summary.parameters if summary else None,
        "multiply_adds": summary.multiply_adds if summary else None,
        "steps": summary.steps if summary else None,
        "epochs": summary.epochs if summary else None,
        "precision": summary.precision if summary else None,
        "threads": recipe.training.threads,
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


def _in_tasks(study: Study, runs: Sequence[Run], level: float) -> list[dict[str, Any]]:
    """Each pair's methods whose classes came in tasks, task by task over their seeds; none where no run is in tasks."""

    def mean_interval(values: Sequence[float]) -> MeanInterval:
        found = interval(values, level=level)
        return MeanInterval(mean=found.mean, low=found.low, high=found.high)

    pairs = []
    for pair in study.all_pairs:
        records: dict[str, dict[int, IncrementalRecord]] = {}
        joint = None
        for run in runs:
            if run.cell.pair == pair.name and run.record is not None:
                records.setdefault(run.cell.method, {})[run.cell.seed] = run.record
                settings = run.recipe.incremental
                if joint is None and settings is not None and settings.joint:
                    joint = run.cell.method
        if records:
            bound = records.get(joint, {}) if joint is not None else {}
            methods = tuple(
                aggregate_seeds(one.name, records[one.name], bound, mean_interval)
                for one in study.methods
                if one.name in records
            )
            pairs.append(PairTasks(pair=pair.name, joint=joint, methods=methods).as_dict())
    return pairs
