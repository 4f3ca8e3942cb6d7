"""Everything the page of a diagnosis shows, worked out before any HTML: the template only lays it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stillroom.report.charts import Chart
from stillroom.report.diagnosis.plots import chart, threshold
from stillroom.report.diagnosis.read import VERDICTS, Diagnosis, Finding, Fix, Level, Tried
from stillroom.report.formats import DASH, MINUS, amount, change, counted, join, p_value, times

# What a check is called where it ails, and otherwise; a name of another is told as it is.
TITLES = {
    "unfinished": ("The run did not end", "End of the run"),
    "diverged": ("The loss blew up", "Divergence"),
    "over_regularising": ("Held back by regularisation", "Regularisation"),
    "under_training": ("Too short a training", "Length of the training"),
    "over_fitting": ("Learned by heart", "Overfitting"),
    "kd_ignored": ("The teacher is not heard", "Hearing the teacher"),
    "labels_drowned": ("The labels are not heard", "Hearing the labels"),
    "student_at_teacher": ("No gap left to the teacher", "Gap to the teacher"),
    "teacher_errors_copied": ("The teacher’s errors, copied", "Copied errors"),
    "worse_classes": ("Classes that were lost", "Classes"),
    "rescaling_gone": ("The teacher tells no sample from another", "Gradient rescaling"),
    "miscalibrated": ("Probabilities that do not hold", "Calibration"),
    "unequal": ("Not an equal comparison", "Equality of the runs"),
    "failed_runs": ("Runs that are missing", "Missing runs"),
    "too_few_seeds": ("Too few seeds", "Number of seeds"),
    "baseline_not_tuned": ("A baseline that was not tuned", "Tuning"),
    "better_without": ("Better off without distillation", "With or without a teacher"),
}
# What is not decided is not named as if it were.
_OPEN = ("better_without",)
WORDS = {"problem": "Sick", "warning": "Suspect", "ok": "Healthy", "skipped": "Not judged"}
_DEEP = 3


@dataclass(frozen=True)
class Picture:
    """A plot, and what its dashed line is."""

    chart: Chart
    dashed: str


@dataclass(frozen=True)
class Card:
    """One finding as it is laid out: its number on the page, its title, its plots, its evidence as rows of text.

    ``told_before`` says that its command stands further up already.
    """

    number: int
    finding: Finding
    title: str
    word: str
    charts: tuple[Picture, ...]
    evidence: tuple[tuple[str, str], ...]
    told_before: bool


@dataclass(frozen=True)
class TriedRow:
    """One line of what was tried; ``width`` is the share of the loss as per cent of a bar."""

    name: str
    title: str
    note: str
    level: str
    interval: str
    regained: str
    bounds: str
    verdict: str
    word: str
    share: str
    width: float
    is_best: bool


@dataclass(frozen=True)
class TriedPart:
    """What the remedies brought."""

    told: str
    measure: str
    rows: tuple[TriedRow, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """What the template lays out."""

    diagnosis: Diagnosis
    counts: tuple[tuple[str, str, int], ...]
    ailing: tuple[Card, ...]
    healthy: tuple[Card, ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...]
    tried: TriedPart | None

    @property
    def charts(self) -> list[Chart]:
        """Every plot of the page."""
        return [one.chart for card in (*self.ailing, *self.healthy) for one in card.charts]


def content(diagnosis: Diagnosis) -> Content:
    """Work out what the page shows."""
    commands = [diagnosis.command, *(finding.command for finding in diagnosis.findings)]
    cards = [
        _card(number, finding, told_before=bool(finding.command) and finding.command in commands[: number + 1])
        for number, finding in enumerate(diagnosis.findings)
    ]
    by_verdict = {verdict: [card for card in cards if card.finding.verdict == verdict] for verdict in VERDICTS}
    ailing = [*by_verdict["problem"], *by_verdict["warning"]]
    return Content(
        diagnosis=diagnosis,
        counts=tuple(
            (verdict, WORDS[verdict], len(by_verdict[verdict])) for verdict in VERDICTS[2:] if by_verdict[verdict]
        ),
        ailing=tuple(ailing),
        healthy=tuple(by_verdict["ok"]),
        skipped=tuple(_by_reason(by_verdict["skipped"])),
        tried=_tried(diagnosis.tried) if diagnosis.tried is not None else None,
    )


def title_of(check: str, verdict: str = "problem") -> str:
    """What the page calls a check.

    >>> title_of("over_fitting"), title_of("over_fitting", "ok"), title_of("head_mismatch")
    ('Learned by heart', 'Overfitting', 'Head mismatch')
    """
    words = check.replace("_", " ").strip()
    ailing, other = TITLES.get(check, (words[:1].upper() + words[1:],) * 2)
    return ailing if verdict == "problem" or (verdict == "warning" and check not in _OPEN) else other


def _card(number: int, finding: Finding, *, told_before: bool) -> Card:
    # Of a study's methods each is named; those that ail alike have but the first in evidence, and all in words.
    who = finding.evidence.get("where", finding.evidence.get("method"))
    named = isinstance(who, str) and finding.verdict in ("problem", "warning") and "alike" not in finding.evidence
    title = title_of(finding.check, finding.verdict) + (f": {who}" if named else "")
    # What nobody could tell has nothing to draw.
    plots = finding.plots if finding.verdict != "skipped" else ()
    return Card(
        number=number,
        finding=finding,
        title=title,
        word=WORDS[finding.verdict],
        charts=tuple(Picture(chart(plot, f"f{number}-{place}"), threshold(plot)) for place, plot in enumerate(plots)),
        evidence=tuple(_rows(finding.evidence)),
        told_before=told_before,
    )


def _by_reason(cards: Sequence[Card]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Why checks were not made, each reason once with what it is of."""
    reasons: dict[str, list[str]] = {}
    for card in cards:
        reasons.setdefault(card.finding.summary, []).append(card.title)
    for reason, titles in reasons.items():
        yield reason, tuple(titles)


def _rows(evidence: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
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


def _tried(tried: Tried) -> TriedPart:
    unit = " points" if tried.unit == "%" else f" {tried.unit}" if tried.unit else ""
    rows = [_plain_row("as-it-is", "The student as it is", tried.as_it_is, tried)] if tried.as_it_is else []
    rows += [_row(fix, _fix_title(fix), tried) for fix in tried.fixes]
    if tried.labels is not None:
        rows.append(_row(tried.labels, "The same student from labels alone", tried))
    warnings = [f"Not equal: {told}." for told in tried.inequalities] + [f"Missing: {told}." for told in tried.missing]
    notes = [f"Conflict in all-fixes: {told}." for told in tried.conflicts]
    notes += [f"{title_of(check)} was not tried: {why}." for check, why in tried.not_tried]
    if any(_is_other_length(fix) for fix in tried.fixes):
        notes.append(
            "A remedy that changes the length of the run is not at an equal budget: what it brings has its price."
        )
    if tried.lost is not None and tried.lost > 0:
        notes.append("The loss is taken against the best of these means, which is partly the luckiest.")
    return TriedPart(
        _told(tried, unit),
        f"{tried.measure}{f', {tried.unit}' if tried.unit else ''}",
        tuple(rows),
        tuple(notes),
        tuple(warnings),
    )


def _told(tried: Tried, unit: str) -> str:
    if not tried.fixes:
        return "No remedy could be tried: none of them is something that a recipe can say."
    seeds = f"{counted(len(tried.seeds), 'seed')}, the same weights and images for all of a seed"
    better = [fix for fix in tried.fixes if fix.verdict == "better" and fix.regained is not None]
    best = max(better, key=lambda fix: fix.regained or 0.0, default=None)
    if best is None:
        told = f"No remedy is shown to help ({seeds})."
    else:
        share = ""
        if best.share is not None and best.name != tried.best:
            share = f", {best.share:.0%} of what was lost against {tried.best}"
        bounds = f" [{_bounds(best.low, best.high, tried.digits)}]" if best.low is not None else ""
        told = f"{_fix_title(best)} brought most: {change(best.regained, tried.digits)}{unit}{bounds}{share} ({seeds})."
    worse = [_lower(_fix_title(fix)) for fix in tried.fixes if fix.verdict == "worse"]
    if worse:
        told += f" Worse than as it was: {join(worse)}."
    labels = tried.labels
    if labels is not None and labels.verdict == "better" and tried.best == "labels":
        level = f"{amount(labels.level.mean, tried.digits)}{'%' if tried.unit == '%' else ''}"
        told += f" From labels alone the same student reaches {level}: it is better off without this teacher."
    return told


def _fix_title(fix: Fix) -> str:
    if fix.name == "all-fixes":
        return "All remedies together"
    return f"Against: {join([_lower(title_of(check)) for check in fix.checks])}" if fix.checks else fix.name


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _plain_row(name: str, title: str, level: Level, tried: Tried) -> TriedRow:
    return TriedRow(
        name,
        title,
        "",
        amount(level.mean, tried.digits),
        _interval(level, tried),
        "",
        "",
        "",
        "",
        "",
        0.0,
        tried.best == name,
    )


def _row(fix: Fix, title: str, tried: Tried) -> TriedRow:
    digits = tried.digits
    share = max(min(fix.share or 0.0, 1.0), 0.0)
    word = {"better": "better", "worse": "worse", "undecided": "not decided"}[fix.verdict]
    p = f", Holm p {p_value(fix.holm_p)}" if fix.holm_p is not None else ""
    settle = f"; about {fix.seeds:,} seeds would" if fix.verdict == "undecided" and fix.seeds is not None else ""
    return TriedRow(
        name=fix.name,
        title=title,
        note=f"{times(fix.times_the_steps)} the steps" if _is_other_length(fix) and fix.times_the_steps else "",
        level=amount(fix.level.mean, digits),
        interval=_interval(fix.level, tried),
        regained=change(fix.regained, digits) if fix.regained is not None else DASH,
        bounds=_bounds(fix.low, fix.high, digits),
        verdict=fix.verdict,
        word=f"{word}{p}{settle}",
        share=f"{fix.share:.0%}".replace("-", MINUS) if fix.share is not None else DASH,
        width=round(100 * share, 1),
        is_best=tried.best == fix.name,
    )


def _is_other_length(fix: Fix) -> bool:
    return fix.times_the_steps is not None and abs(fix.times_the_steps - 1) > 0.005


def _interval(level: Level, tried: Tried) -> str:
    if level.mean is None:
        return "no finished run"
    return _bounds(level.low, level.high, tried.digits) or "one seed: no interval"


def _bounds(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{amount(low, digits)} to {amount(high, digits)}"
