"""Whether a student is better off without distillation: its study's own comparison with labels alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillroom.diagnose.checks.run.methods import Examined, Place
from stillroom.diagnose.finding import Finding, Plot, Remedy
from stillroom.losses.registry import labels_alone
from stillroom.schema.study import ComparisonResult, StudyResults
from stillroom.study.statistics import PLANNING_CAUTION
from stillroom.study.wording import counted, listed


def better_without(study: StudyResults, examined: Mapping[Place, Sequence[Examined]]) -> Iterator[Finding]:
    """Each distilled method against the same student from labels alone."""
    check = "better_without"
    taught = {name: any(one.taught for one in held) for (_, name), held in examined.items()}
    plain = [name for name in study.names if taught.get(name) is False]
    if not plain or not any(taught.values()):
        yield Finding(check, "skipped", "No method learns from labels alone beside one that is distilled.")
        return
    labels = study.baseline if study.baseline in plain else plain[0]
    kept: list[str] = []
    for pair in study.model_pairs:
        for name in study.names:
            if not taught.get(name):
                continue
            found = _compared(study, pair.name, name, labels)
            if found is None:
                continue
            one, sign = found
            finding = _with_or_without(study, pair.name, one, sign, name, labels, examined)
            if finding.verdict == "ok":
                where = f"{name}{f' on {pair.name}' if len(study.model_pairs) > 1 else ''}"
                kept.append(where)
            else:
                yield finding
    if kept:
        told = f"Better with its teacher than {labels} without, Holm-corrected: {listed(kept)}."
        yield Finding(check, "ok", told, {"methods": kept, "against": labels})


def _compared(study: StudyResults, pair: str, name: str, labels: str) -> tuple[ComparisonResult, int] | None:
    """The comparison of the two, and whether its sign must be turned: of the baseline's family where it is there."""
    if labels == study.baseline:
        found = study.to_baseline.get((pair, name))
        return (found, 1) if found is not None else None
    for one in study.between.get(pair, ()):
        if {one.method, one.against} == {name, labels}:
            return one, 1 if one.method == name else -1
    return None


def _with_or_without(
    study: StudyResults,
    pair: str,
    one: ComparisonResult,
    sign: int,
    name: str,
    labels: str,
    examined: Mapping[Place, Sequence[Examined]],
) -> Finding:
    check, measure = "better_without", study.measure
    where = f" on {pair}" if len(study.model_pairs) > 1 else ""
    low, high = (None, None) if one.difference is None else (one.difference.low, one.difference.high)
    if sign < 0:
        low, high = (None if high is None else -high), (None if low is None else -low)
    mean = None if one.mean is None else sign * one.mean
    run = next((one.run for one in examined.get((pair, name), ())), None)
    evidence: dict[str, Any] = {
        "method": name,
        "where": f"{name}{where}",
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
    threshold = (
        f"Sick: worse than {labels} at Holm's p of {study.alpha:g} or less, paired by seed; suspect: undecided. A "
        "mean alone decides nothing."
    )
    source = "Distillation must beat the labels that it came with."
    if one.seeds_needed is not None:
        source = PLANNING_CAUTION
    cells = [study.cells.get((pair, each)) for each in (name, labels)]
    if any(cell is not None and not cell.equal for cell in cells):
        told = f"{name}{where} and {labels} were not run on equal terms: nothing can be said of them."
        return Finding(check, "skipped", told, evidence, threshold, None, source)
    if mean is None:
        return Finding(check, "skipped", f"{name}{where} and {labels} have no seed in common.", evidence)
    digits = measure.digits
    amount = f"{mean:+.{digits}f}{measure.points}"
    if low is not None and high is not None:
        amount += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    numbers = f"{measure.title} {amount} against {labels}, {counted(one.count, 'seed')}"
    if one.holm_p is not None:
        numbers += f", Holm p = {one.holm_p:.3g}"
    plot = _by_seed(study, pair, name, labels)
    if one.verdict == "undecided":
        side = (mean > 0) == measure.higher_is_better and mean != 0
        lean = "leans to" if side else "leans against"
        needed = one.seeds_needed
        settle = f"about {needed:,} seeds in all would settle it" if needed is not None else _no_plan(one)
        told = (
            f"Not decided whether {name}{where} is better with its teacher; it {lean} the teacher: {numbers}; {settle}."
        )
        remedy = Remedy("Declare more seeds before looking again; until then claim no gain from this teacher.")
        return Finding(check, "warning", told, evidence, threshold, remedy, source, plot)
    is_better = ((one.verdict == "higher") == (sign > 0)) == measure.higher_is_better
    if is_better:
        return Finding(
            check,
            "ok",
            f"{name}{where} is better with its teacher: {numbers}.",
            evidence,
            threshold,
            None,
            source,
            plot,
        )
    told = f"This student is better off without distillation: {name}{where}: {numbers}."
    words = "Train it from the labels, or mend first what is sick in its runs below."
    remedy = Remedy(words, {"losses": labels_alone()})
    return Finding(check, "problem", told, evidence, threshold, remedy, source, plot)


def _by_seed(study: StudyResults, pair: str, name: str, labels: str) -> tuple[Plot, ...]:
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
    return (
        Plot(
            "bars",
            f"{name} less {labels}",
            seeds,
            differences,
            "",
            f"{study.measure.title}{f', {unit}' if unit else ''}",
        ),
    )


def _no_plan(one: ComparisonResult) -> str:
    if one.plan is None:
        return "no interval with one seed"
    if one.plan.why is not None:
        return f"no telling how many seeds would settle it ({one.plan.why})"
    return f"more than {one.plan.cap:,} seeds would settle it, if any"
