"""The page of a diagnosis: what is wrong, the number that decided, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.report.charts import Chart
from stillroom.report.diagnosis.plots import chart, threshold
from stillroom.report.formats import DASH, MINUS, amount, change, counted, join, p_value, times
from stillroom.report.html import rendered, write_page
from stillroom.schema.diagnosis import (
    ALL_REMEDIES,
    LABELS,
    UNCHANGED,
    VERDICTS,
    Diagnosis,
    Finding,
    RemedyComparison,
    RemedyScore,
    Verification,
    VerifiedRemedy,
    read_diagnosis,
)

PAGE = "diagnosis.html"
WORDS = {"problem": "Problem", "warning": "Warning", "ok": "OK", "skipped": "Not judged"}
_DEEP = 3


def write_diagnosis_page(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a folder's ``diagnosis.json``.

    Args:
        folder: where it lies.
        out: the file to write; left out: ``diagnosis.html`` beside it.

    Returns:
        The file that was written.

    Raises:
        BadInput: there is no diagnosis, it is damaged, or the page cannot be written.

    >>> write_diagnosis_page(Path("nowhere"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: diagnosis: got 'nowhere'; expected a folder with diagnosis.json; ...
    """
    content = page_of(read_diagnosis(folder))
    figures = {chart.key: chart.figure for chart in content.charts}
    page = rendered("diagnosis/diagnosis.html.j2", figures=figures, page=content, diagnosis=content.diagnosis)
    return write_page(out if out is not None else folder / PAGE, page)


@dataclass(frozen=True)
class EvidencePlot:
    """A plot, and what its dashed line is."""

    chart: Chart
    dashed: str


@dataclass(frozen=True)
class FindingCard:
    """One finding as it is laid out; ``is_repeated`` says that its command stands further up already."""

    number: int
    finding: Finding
    word: str
    charts: tuple[EvidencePlot, ...]
    evidence: tuple[tuple[str, str], ...]
    is_repeated: bool

    @property
    def title(self) -> str:
        return self.finding.heading


@dataclass(frozen=True)
class RemedyRow:
    """One line of the table of remedies; ``width`` is the share of the loss as per cent of a bar."""

    name: str
    title: str
    note: str
    level: str
    interval: str
    is_best: bool
    regained: str = ""
    bounds: str = ""
    verdict: str = ""
    word: str = ""
    share: str = ""
    width: float = 0.0


@dataclass(frozen=True)
class VerificationPart:
    """What the remedies brought."""

    summary: str
    measure: str
    rows: tuple[RemedyRow, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class DiagnosisPage:
    """What the template lays out."""

    diagnosis: Diagnosis
    counts: tuple[tuple[str, str, int], ...]
    attention: tuple[FindingCard, ...]
    passed: tuple[FindingCard, ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...]
    verification: VerificationPart | None

    @property
    def charts(self) -> list[Chart]:
        """Every plot of the page."""
        return [one.chart for card in (*self.attention, *self.passed) for one in card.charts]


def page_of(diagnosis: Diagnosis) -> DiagnosisPage:
    """Work out what the page shows."""
    commands = [diagnosis.command, *(finding.command for finding in diagnosis.findings)]
    cards = [
        _card(number, finding, is_repeated=bool(finding.command) and finding.command in commands[: number + 1])
        for number, finding in enumerate(diagnosis.findings)
    ]
    by_verdict = {verdict: [card for card in cards if card.finding.verdict == verdict] for verdict in VERDICTS}
    reasons: dict[str, list[str]] = {}
    for card in by_verdict["skipped"]:
        reasons.setdefault(card.finding.summary, []).append(card.title)
    titles = {finding.check: finding.heading for finding in diagnosis.findings}
    verification = diagnosis.verification
    return DiagnosisPage(
        diagnosis=diagnosis,
        counts=tuple(
            (verdict, WORDS[verdict], len(by_verdict[verdict])) for verdict in VERDICTS[2:] if by_verdict[verdict]
        ),
        attention=(*by_verdict["problem"], *by_verdict["warning"]),
        passed=tuple(by_verdict["ok"]),
        skipped=tuple((reason, tuple(of)) for reason, of in reasons.items()),
        verification=_verification(verification, titles) if verification is not None else None,
    )


def _card(number: int, finding: Finding, *, is_repeated: bool) -> FindingCard:
    # What was not judged has nothing to draw.
    plots = finding.plots if finding.verdict != "skipped" else ()
    return FindingCard(
        number=number,
        finding=finding,
        word=WORDS[finding.verdict],
        charts=tuple(
            EvidencePlot(chart(plot, f"f{number}-{place}"), threshold(plot)) for place, plot in enumerate(plots)
        ),
        evidence=tuple(_rows(finding.evidence)),
        is_repeated=is_repeated,
    )


def _rows(evidence: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in evidence.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict) and value and depth < _DEEP:
            yield from _rows(value, f"{name}: ", depth + 1)
        elif value not in (None, [], {}, ""):
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if isinstance(value, float):
        return f"{value:,.4g}".replace("-", MINUS, 1) if value < 0 else f"{value:,.4g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)


def _verification(verification: Verification, titles: Mapping[str, str]) -> VerificationPart:
    rows = []
    if verification.unchanged is not None:
        rows.append(_score_row(UNCHANGED, "The student as it is", "", verification.unchanged, verification))
    for one in verification.remedies:
        note = f"{times(one.relative_steps)} the steps" if _has_other_length(one) and one.relative_steps else ""
        rows.append(_row(one, one.name, _remedy_title(one, titles), note, verification))
    if verification.labels is not None:
        rows.append(_row(verification.labels, LABELS, "The same student from labels alone", "", verification))
    warnings = [f"Not equal: {text}." for text in verification.inequalities]
    warnings += [f"Missing: {text}." for text in verification.missing]
    notes = [f"Conflict in {ALL_REMEDIES}: {text}." for text in verification.conflicts]
    notes += [f"{titles.get(one.check, one.check)}: not verified, {one.why}." for one in verification.not_verified]
    if any(map(_has_other_length, verification.remedies)):
        notes.append("A remedy that changes the length of the run is not at an equal budget: its gain has a price.")
    if verification.lost is not None and verification.lost > 0:
        notes.append("The loss is taken against the best of these means, which is partly the luckiest.")
    measure = verification.measure
    title = f"{measure.title}{f', {measure.unit}' if measure.unit else ''}" if measure is not None else ""
    return VerificationPart(_summary(verification, titles), title, tuple(rows), tuple(notes), tuple(warnings))


def _summary(verification: Verification, titles: Mapping[str, str]) -> str:
    if not verification.remedies:
        return "No remedy could be trained: none of them is something that a recipe can say."
    digits = verification.digits
    seeds = f"{counted(len(verification.seeds), 'seed')}, the same weights and images for all of a seed"
    best = verification.best_remedy
    if best is None:
        summary = f"No remedy is shown to help ({seeds})."
    else:
        share = ""
        if best.share_of_loss is not None and best.name != verification.best:
            share = f", {best.share_of_loss:.0%} of what was lost against {verification.best}"
        bounds = f" [{_bounds(best.low, best.high, digits)}]" if best.low is not None else ""
        gain = f"{change(best.regained, digits)}{verification.unit}{bounds}{share}"
        summary = f"{_remedy_title(best, titles)} brought most: {gain} ({seeds})."
    worse = [_lower(_remedy_title(one, titles)) for one in verification.remedies if one.verdict == "worse"]
    if worse:
        summary += f" Worse than the unchanged student: {join(worse)}."
    if verification.labels is not None and verification.labels_are_best:
        percent = "%" if verification.unit == " points" else ""
        score = f"{amount(verification.labels.score.mean, digits)}{percent}"
        summary += f" From labels alone the same student reaches {score}: it is better off without this teacher."
    return summary


def _remedy_title(one: VerifiedRemedy, titles: Mapping[str, str]) -> str:
    if one.name == ALL_REMEDIES:
        return "All remedies together"
    return f"Against: {join([_lower(titles.get(check, check)) for check in one.checks])}" if one.checks else one.name


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _score_row(name: str, title: str, note: str, score: RemedyScore, verification: Verification) -> RemedyRow:
    interval = "no finished run"
    if score.mean is not None:
        interval = _bounds(score.low, score.high, verification.digits) or "one seed: no interval"
    return RemedyRow(name, title, note, amount(score.mean, verification.digits), interval, verification.best == name)


def _row(one: RemedyComparison, name: str, title: str, note: str, verification: Verification) -> RemedyRow:
    digits = verification.digits
    word = {"better": "better", "worse": "worse", "undecided": "not decided"}[one.verdict]
    p = f", Holm p {p_value(one.holm_p)}" if one.holm_p is not None else ""
    is_open = one.verdict == "undecided" and one.seeds_to_decide is not None
    settle = f"; about {one.seeds_to_decide:,} seeds would" if is_open else ""
    plain = _score_row(name, title, note, one.score, verification)
    share = one.share_of_loss
    return RemedyRow(
        plain.name,
        plain.title,
        plain.note,
        plain.level,
        plain.interval,
        plain.is_best,
        regained=change(one.regained, digits) if one.regained is not None else DASH,
        bounds=_bounds(one.low, one.high, digits),
        verdict=one.verdict,
        word=f"{word}{p}{settle}",
        share=f"{share:.0%}".replace("-", MINUS) if share is not None else DASH,
        width=round(100 * max(min(share or 0.0, 1.0), 0.0), 1),
    )


def _has_other_length(one: VerifiedRemedy) -> bool:
    return one.relative_steps is not None and abs(one.relative_steps - 1) > 0.005


def _bounds(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{amount(low, digits)} to {amount(high, digits)}"
