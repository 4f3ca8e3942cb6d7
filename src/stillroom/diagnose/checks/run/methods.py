"""What ails the methods of a study: the checks of runs, over each one's seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillroom.diagnose.finding import VERDICTS, Finding, Verdict
from stillroom.schema.study import RunResult, StudyResults
from stillroom.study.wording import counted

# A method on a pair.
Place = tuple[str, str]


@dataclass(frozen=True)
class Examined:
    """A run of a study, what each check says of it, and whether a term of its loss reads the teacher."""

    run: RunResult
    findings: tuple[Finding, ...]
    taught: bool


def in_methods(study: StudyResults, examined: Mapping[Place, Sequence[Examined]]) -> Iterator[Finding]:
    """The checks of runs, over the seeds of each method.

    Args:
        study: the study.
        examined: its runs; each went through the same checks.

    Yields:
        For each check the methods that ail, those alike together; or that none does.
    """
    first = next((each[0] for each in examined.values() if each), None)
    for number, check in enumerate(first.findings if first is not None else ()):
        by_place = {place: [(one.run, one.findings[number]) for one in held] for place, held in examined.items()}
        together = [_together(study, place, found) for place, found in by_place.items()]
        ailing = [one for one in together if one.verdict in ("problem", "warning")]
        # Methods that ail alike and are mended alike are told once.
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for one in ailing:
            mended = one.remedy.arguments() if one.remedy is not None else []
            groups.setdefault((one.verdict, *mended), []).append(one)
        yield from sorted(map(_told_once, groups.values()), key=lambda one: VERDICTS.index(one.verdict))
        if not ailing:
            yield _in_none(check.check, together)


def _told_once(found: Sequence[Finding]) -> Finding:
    if len(found) == 1:
        return found[0]
    first = found[0]
    others = [str(one.evidence["where"]) for one in found[1:]]
    told = f"{others[0]} alike" if len(others) == 1 else f"{len(others)} others alike"
    evidence = {**first.evidence, "alike": {str(one.evidence["where"]): one.evidence["means"] for one in found}}
    return replace(first, summary=f"{first.summary.removesuffix('.')}; {told}.", evidence=evidence)


def _in_none(name: str, together: Sequence[Finding]) -> Finding:
    healthy = [one for one in together if one.verdict == "ok"]
    if not healthy:
        # The last is the likeliest to have a teacher, and so to say what was missing.
        return Finding(name, "skipped", str(together[-1].evidence["summary"]))
    names = list(dict.fromkeys(str(one.evidence["method"]) for one in healthy))
    told = f"In none of {counted(len(names), 'method')}." if len(names) > 1 else f"Not in {names[0]}."
    return Finding(name, "ok", told, {"methods": names}, healthy[0].threshold, None, healthy[0].source)


def _together(study: StudyResults, place: Place, found: Sequence[tuple[RunResult, Finding]]) -> Finding:
    """One check over a method's seeds: sick where most of its runs are, suspect where some are."""
    pair, method = place
    sick = [each for each in found if each[1].verdict == "problem"]
    ailing = [each for each in found if each[1].verdict in ("problem", "warning")]
    judged = [each for each in found if each[1].verdict != "skipped"]
    verdict: Verdict = "ok" if judged else "skipped"
    if 2 * len(sick) > len(found):
        verdict = "problem"
    elif sick or 2 * len(ailing) > len(found):
        verdict = "warning"
    run, shown = next(iter(sick or ailing or judged or found))
    where = f"{method}{f' on {pair}' if len(study.model_pairs) > 1 else ''}"
    evidence: dict[str, Any] = {
        "method": method,
        "pair": pair,
        "where": where,
        "run": run.run,
        "summary": shown.summary,
        "seeds": len(found),
        "sick_seeds": [each.seed for each, one in found if one.verdict == "problem"],
        "suspect_seeds": [each.seed for each, one in found if one.verdict == "warning"],
        "means": _means([one for _, one in (ailing or judged)]),
    }
    of = f" (seed {run.seed}; {len(ailing)} of {counted(len(found), 'seed')})" if len(found) > 1 else ""
    told = f"{where}: {_lower(shown.summary).removesuffix('.')}{of}."
    threshold = f"{shown.threshold} Of a method: sick where most of its runs are, suspect where one is."
    remedy = shown.remedy if verdict in ("problem", "warning") else None
    return replace(shown, verdict=verdict, summary=told, evidence=evidence, threshold=threshold, remedy=remedy)


def _means(found: Sequence[Finding]) -> dict[str, float]:
    """The evidence that is a number in every run, as means."""
    keys = [
        key for key in (found[0].evidence if found else {}) if all(_is_number(one.evidence.get(key)) for one in found)
    ]
    return {key: sum(float(one.evidence[key]) for one in found) / len(found) for key in keys}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
