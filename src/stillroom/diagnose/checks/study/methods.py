"""Checks of a study's methods: each against labels alone, and the checks of runs over the seeds of each method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillroom.diagnose.check import Check, CheckResult
from stillroom.diagnose.checks.run.record import RunRecord
from stillroom.losses.registry import labels_alone
from stillroom.schema.diagnosis import VERDICTS, Finding, Plot, Remedy, Verdict
from stillroom.schema.study import CellKey, ComparisonResult, RunResult, StudyResults
from stillroom.study.statistics import PLANNING_CAUTION
from stillroom.wording import counted, listed


@dataclass(frozen=True)
class CheckedRun:
    """A run of a study, its findings, and whether a term of its loss reads the teacher."""

    run: RunResult
    findings: tuple[Finding, ...]
    is_distilled: bool


def better_without(study: StudyResults, checked: Mapping[CellKey, Sequence[CheckedRun]]) -> Iterator[Finding]:
    """Whether each distilled method is better than the same student trained on labels alone.

    Args:
        study: the study.
        checked: its runs, by model pair and method.

    Yields:
        A finding for each method that is not; one for all that are.
    """
    is_distilled = {name: any(one.is_distilled for one in runs) for (_, name), runs in checked.items()}
    plain = [name for name in study.names if is_distilled.get(name) is False]
    if not plain or not any(is_distilled.values()):
        yield _better_without(study, "").skipped(
            "The study does not have both a method trained on labels alone and a distilled one."
        )
        return
    labels = study.baseline if study.baseline in plain else plain[0]
    check = _better_without(study, labels)
    better: list[str] = []
    for pair in study.model_pairs:
        for name in study.names:
            found = _comparison(study, pair.name, name, labels) if is_distilled.get(name) else None
            if found is None:
                continue
            run = next((one.run for one in checked.get((pair.name, name), ())), None)
            finding = _compare(check, study, pair.name, name, labels, found, run)
            if finding.verdict == "ok":
                better.append(f"{name}{f' on {pair.name}' if len(study.model_pairs) > 1 else ''}")
            else:
                yield finding
    if better:
        summary = f"Better with its teacher than {labels} without, Holm-corrected: {listed(better)}."
        yield check.finding(CheckResult("ok", summary, {"methods": better, "against": labels}))


def _better_without(study: StudyResults, labels: str) -> Check[Any]:
    return Check(
        id="better_without",
        measure=lambda _: CheckResult("skipped", ""),
        threshold=(
            f"Problem: worse than {labels or 'labels alone'} at Holm's p of {study.alpha:g} or less, paired by seed; "
            "warning: undecided. A difference of means without a test decides nothing."
        ),
        source="Distillation must beat training on labels alone.",
        problem="Better without distillation",
        title="With or without a teacher",
    )


def _comparison(study: StudyResults, pair: str, name: str, labels: str) -> tuple[ComparisonResult, int] | None:
    """The comparison of the two, and its sign: from the baseline's comparisons where it is there."""
    if labels == study.baseline:
        found = study.to_baseline.get((pair, name))
        return (found, 1) if found is not None else None
    for one in study.between.get(pair, ()):
        if {one.method, one.against} == {name, labels}:
            return one, 1 if one.method == name else -1
    return None


def _compare(
    check: Check[Any],
    study: StudyResults,
    pair: str,
    name: str,
    labels: str,
    found: tuple[ComparisonResult, int],
    run: RunResult | None,
) -> Finding:
    (one, sign), measure = found, study.measure
    where = f"{name}{f' on {pair}' if len(study.model_pairs) > 1 else ''}"
    low, high = (None, None) if one.difference is None else (one.difference.low, one.difference.high)
    if sign < 0:
        low, high = (None if high is None else -high), (None if low is None else -low)
    mean = None if one.mean is None else sign * one.mean
    evidence: dict[str, Any] = {
        "method": name,
        "where": where,
        "pair": pair,
        "against": labels,
        "measure": measure.name,
        "difference": mean,
        "low": low,
        "high": high,
        "holm_p": one.holm_p,
        "seeds": one.count,
        "seeds_that_would_settle": one.seeds_needed,
        "run": run.run if run is not None else None,
    }
    if one.seeds_needed is not None:
        check = replace(check, source=PLANNING_CAUTION)
    cells = [study.cells.get((pair, each)) for each in (name, labels)]
    if any(cell is not None and not cell.equal for cell in cells):
        summary = f"{where} and {labels} were not run on equal terms: they cannot be compared."
        return check.finding(CheckResult("skipped", summary, evidence))
    if mean is None:
        return check.finding(CheckResult("skipped", f"{where} and {labels} have no seed in common.", evidence))
    amount = f"{mean:+.{measure.digits}f}{measure.points}"
    if low is not None and high is not None:
        amount += f" [{low:+.{measure.digits}f}, {high:+.{measure.digits}f}]"
    numbers = f"{measure.title} {amount} against {labels}, {counted(one.count, 'seed')}"
    if one.holm_p is not None:
        numbers += f", Holm p = {one.holm_p:.3g}"
    plots = _plot_by_seed(study, pair, name, labels)
    if one.verdict == "undecided":
        is_ahead = (mean > 0) == measure.higher_is_better and mean != 0
        lean = f"the mean is {'for' if is_ahead else 'against'} the teacher"
        settle = (
            f"about {one.seeds_needed:,} seeds in all would settle it"
            if one.seeds_needed is not None
            else _no_plan(one)
        )
        summary = f"Not decided whether {where} is better with its teacher; {lean}: {numbers}; {settle}."
        remedy = Remedy("Declare more seeds before testing again; until then claim no gain from this teacher.")
        # What is not decided is not named as a problem.
        finding = check.finding(CheckResult("warning", summary, evidence, remedy, plots))
        return replace(finding, title=f"{check.title}: {where}")
    if ((one.verdict == "higher") == (sign > 0)) == measure.higher_is_better:
        summary = f"{where} is better with its teacher: {numbers}."
        return check.finding(CheckResult("ok", summary, evidence, None, plots))
    summary = f"This student is better without distillation: {where}: {numbers}."
    words = "Train it on labels, or first fix the problems of its runs below."
    remedy = Remedy(words, {"losses": labels_alone()})
    finding = check.finding(CheckResult("problem", summary, evidence, remedy, plots))
    return replace(finding, title=f"{check.problem}: {where}")


def _plot_by_seed(study: StudyResults, pair: str, name: str, labels: str) -> tuple[Plot, ...]:
    """The difference in each seed that both have."""
    mine, theirs = (
        {run.seed: run.value(study.measure.name) for run in study.runs_of(pair, each)} for each in (name, labels)
    )
    both = [
        (seed, value, other)
        for seed, value in mine.items()
        if value is not None and (other := theirs.get(seed)) is not None
    ]
    if not both:
        return ()
    seeds = tuple(f"seed {seed}" for seed, _, _ in both)
    differences = tuple(round(value - other, study.measure.digits) for _, value, other in both)
    unit = study.measure.points.strip()
    label = f"{study.measure.title}{f', {unit}' if unit else ''}"
    return (Plot("bars", f"{name} less {labels}", seeds, differences, "", label),)


def _no_plan(one: ComparisonResult) -> str:
    if one.plan is None:
        return "no interval with one seed"
    if one.plan.why is not None:
        return f"how many seeds would settle it is not known ({one.plan.why})"
    return f"more than {one.plan.cap:,} seeds would settle it, if any"


def check_methods(
    study: StudyResults, checks: Sequence[Check[RunRecord]], checked: Mapping[CellKey, Sequence[CheckedRun]]
) -> Iterator[Finding]:
    """The checks of runs, over the seeds of each method.

    Args:
        study: the study.
        checks: the checks of runs.
        checked: the study's runs, by model pair and method, with a finding of each check.

    Yields:
        For each check the methods with a problem or a warning, equal ones together; or that none has.
    """
    for number, check in enumerate(checks if checked else ()):
        of_methods = (
            f"{check.threshold} Of a method: a problem where most of its runs have it, a warning where one has."
        )
        check = replace(check, threshold=of_methods)
        merged = [
            _over_seeds(study, check, place, [(one.run, one.findings[number]) for one in runs])
            for place, runs in checked.items()
        ]
        # Methods with the same verdict and the same remedy share a finding.
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for one in merged:
            if one.needs_attention:
                arguments = one.remedy.arguments() if one.remedy is not None else []
                groups.setdefault((one.verdict, *arguments), []).append(one)
        yield from sorted(map(_share_finding, groups.values()), key=lambda one: VERDICTS.index(one.verdict))
        if not groups:
            yield _none_affected(check, merged)


def _share_finding(found: Sequence[Finding]) -> Finding:
    first = found[0]
    if len(found) == 1:
        return replace(first, title=f"{first.heading}: {first.evidence['where']}")
    others = [str(one.evidence["where"]) for one in found[1:]]
    also = f"{others[0]} likewise" if len(others) == 1 else f"{len(others)} others likewise"
    evidence = {**first.evidence, "alike": {str(one.evidence["where"]): one.evidence["means"] for one in found}}
    return replace(first, summary=f"{first.summary.removesuffix('.')}; {also}.", evidence=evidence)


def _none_affected(check: Check[RunRecord], merged: Sequence[Finding]) -> Finding:
    passed = [one for one in merged if one.verdict == "ok"]
    if not passed:
        # The last method is the likeliest to have a teacher, and so to say what was missing.
        return check.skipped(str(merged[-1].evidence["summary"]))
    names = list(dict.fromkeys(str(one.evidence["method"]) for one in passed))
    summary = (
        f"No problem in any of {counted(len(names), 'method')}." if len(names) > 1 else f"No problem in {names[0]}."
    )
    return check.finding(CheckResult("ok", summary, {"methods": names}))


def _over_seeds(
    study: StudyResults, check: Check[RunRecord], place: CellKey, found: Sequence[tuple[RunResult, Finding]]
) -> Finding:
    """One check over a method's seeds: a problem where most of its runs have it, a warning where some have."""
    pair, method = place
    problems = [each for each in found if each[1].verdict == "problem"]
    affected = [each for each in found if each[1].needs_attention]
    judged = [each for each in found if each[1].verdict != "skipped"]
    verdict: Verdict = "ok" if judged else "skipped"
    if 2 * len(problems) > len(found):
        verdict = "problem"
    elif problems or 2 * len(affected) > len(found):
        verdict = "warning"
    run, shown = next(iter(problems or affected or judged or found))
    where = f"{method}{f' on {pair}' if len(study.model_pairs) > 1 else ''}"
    evidence: dict[str, Any] = {
        "method": method,
        "pair": pair,
        "where": where,
        "run": run.run,
        "summary": shown.summary,
        "seeds": len(found),
        "problem_seeds": [each.seed for each, one in found if one.verdict == "problem"],
        "warning_seeds": [each.seed for each, one in found if one.verdict == "warning"],
        "means": _means([one for _, one in (affected or judged)]),
    }
    of = f" (seed {run.seed}; {len(affected)} of {counted(len(found), 'seed')})" if len(found) > 1 else ""
    summary = f"{where}: {shown.summary[:1].lower()}{shown.summary[1:].removesuffix('.')}{of}."
    return check.finding(CheckResult(verdict, summary, evidence, shown.remedy, shown.plots))


def _means(found: Sequence[Finding]) -> dict[str, float]:
    """The evidence that is a number in every run, as means."""
    keys = [
        key for key in (found[0].evidence if found else {}) if all(_is_number(one.evidence.get(key)) for one in found)
    ]
    return {key: sum(float(one.evidence[key]) for one in found) / len(found) for key in keys}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
