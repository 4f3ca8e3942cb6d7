"""What a study found, in plain sentences: no claim without Holm's verdict, and none from unequal or single runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stillroom.study.collect import Missing, Run
from stillroom.study.config import Study
from stillroom.study.equality import Inequality
from stillroom.study.measures import Measured
from stillroom.study.statistics import PLANNING_CAUTION, Comparison, Family, PairedDifference
from stillroom.study.wording import counted, listed, places


def conclude(
    study: Study,
    measure: Measured,
    unequal: Sequence[Inequality],
    missing: Sequence[Missing],
    families: Mapping[str, Family],
    ranked: str | None = None,
    runs: Sequence[Run] = (),
) -> list[str]:
    """The study's findings as sentences.

    Args:
        study: the study.
        measure: what it compares.
        unequal: what keeps it from being an equal comparison; it is told first.
        missing: runs that are not there; told next.
        families: by pair, the comparisons with the baseline; those of unequal runs without a claim.
        ranked: the ranks over all pairs that may be ranked, in words; None where they tell nothing.
        runs: those that are finished: what of them has no such figure is told.

    Returns:
        Sentences; those of the comparisons in the order of pairs and methods.
    """
    sentences = [*_doubts(study, unequal, missing), *_undefined(study, measure, runs)]
    comparisons = [(pair, one) for pair, family in families.items() for one in family.comparisons]
    if not comparisons:
        sentences.append("There is one method: nothing is compared.")
    if runs and all(run.summary.value(measure.name) is None for run in runs):
        # It was said why; that they have no seed in common would mislead.
        comparisons = []
    for pair, one in comparisons:
        terms = terms_of(unequal, pair, one)
        where = f"On {pair}, " if study.pairs else ""
        told = _compared(one, measure) if not terms else _not_equal(one, terms)
        sentences.append(_capital(where + told))
    if ranked is not None:
        sentences.append(f"{ranked}.")
    if any(one.plan is not None and one.plan.why is None for _, one in comparisons):
        sentences.append(PLANNING_CAUTION)
    return sentences


def terms_of(unequal: Sequence[Inequality], pair: str, one: Comparison) -> list[str]:
    """In what the two of a comparison were not equal, or not what they say they were."""
    both = {one.method, one.against}
    return list(dict.fromkeys(found.what for found in unequal if pair in found.pairs and both & {*found.methods}))


def _doubts(study: Study, unequal: Sequence[Inequality], missing: Sequence[Missing]) -> list[str]:
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
            gaps.setdefault((one.cell.method, one.reason), []).append((one.cell.pair, one.cell.seed))
        told = [f"{name}, {places(where, pairs=bool(study.pairs))}: {reason}" for (name, reason), where in gaps.items()]
        are = "is" if len(missing) == 1 else "are"
        said.append(
            f"This table is not complete: {len(missing):,} of {cells:,} runs {are} missing ({'; '.join(told)})."
        )
    return said


def _undefined(study: Study, measure: Measured, runs: Sequence[Run]) -> list[str]:
    """Finished runs that the study's question has no answer for, and why."""
    without: dict[str, list[Run]] = {}
    for run in runs:
        if run.summary.value(measure.name) is None:
            without.setdefault(run.summary.why(measure.name), []).append(run)
    said = []
    for why, those in without.items():
        who = listed(name for name in _names(study) if any(run.cell.method == name for run in those))
        count = f"{len(those):,} of {counted(len(runs), 'finished run')} ({who})"
        said.append(f"There is no {measure.title} in {count}" + (f": {why}." if why else "."))
    return said


def _names(study: Study) -> list[str]:
    return [method.name for method in study.methods]


def _compared(one: Comparison, measure: Measured) -> str:
    found = one.difference
    names = f"{one.method} and {one.against}"
    if found is None:
        return f"{names} have no seed in common: nothing to compare{_gaps(one)}."
    if found.count == 1:
        told = f"{names} are level" if found.mean == 0 else _by(one, found, measure)
        return f"one seed: no interval, so no claim; there {told} in {measure.title}{_gaps(one)}."
    if found.low is None or found.high is None or one.adjusted is None:
        told = f"{_by(one, found, measure)} in {measure.title} in each of the {found.count} seeds"
        return f"{told}: no spread, as if they were one, so no claim{_gaps(one)}."
    numbers = f"{_interval(found, measure)}, Holm p = {one.adjusted:.3g}, {counted(found.count, 'seed')}"
    better = measure.better(one.verdict)
    if better is not None:
        word = "better" if better else "worse"
        return f"{one.method} is {word} than {one.against}: {measure.title} {one.verdict}, {numbers}{_gaps(one)}."
    if found.sd == 0 and found.mean == 0:
        return f"no difference is shown between {names}: {measure.title} is the same in every seed{_gaps(one)}."
    plan = f"; {one.plan.told()}" if one.plan is not None else ""
    return f"no difference is shown between {names}: {measure.title} {numbers}{plan}{_gaps(one)}."


def _by(one: Comparison, found: PairedDifference, measure: Measured) -> str:
    unit = f" {measure.difference}" if measure.difference else ""
    side = "higher" if found.mean > 0 else "lower"
    return f"{one.method} is {abs(found.mean):.{measure.digits}f}{unit} {side} than {one.against}"


def _interval(found: PairedDifference, measure: Measured) -> str:
    digits = measure.digits
    unit = f" {measure.difference}" if measure.difference else ""
    return f"{found.mean:+.{digits}f}{unit} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def _not_equal(one: Comparison, terms: Sequence[str]) -> str:
    return f"{one.method} and {one.against} are not compared on equal terms ({listed(terms)}): no claim."


def _gaps(one: Comparison) -> str:
    gaps = [(one.method, one.lacking), (one.against, one.against_lacking)]
    told = [f"{name} lacks {places([('', seed) for seed in seeds], pairs=False)}" for name, seeds in gaps if seeds]
    return f" ({', '.join(told)})" if told else ""


def _capital(text: str) -> str:
    # A method's name keeps its own spelling.
    return text[0].upper() + text[1:] if text.startswith(("no difference", "one seed")) else text
