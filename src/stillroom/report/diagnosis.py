"""The page of a diagnosis: what is wrong, the number that decided, what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.report.blocks import Values
from stillroom.report.charts import (
    LIGHT,
    Chart,
    Figure,
    axis,
    escaped,
    figure_of,
    line,
    lying_bars,
    names_axis,
    rounded,
    thin,
)
from stillroom.report.formats import DASH, MINUS, amount, change, digits_of, p_value, times
from stillroom.report.html import rendered, write_page
from stillroom.schema.diagnosis import (
    ALL_REMEDIES,
    LABELS,
    UNCHANGED,
    VERDICTS,
    DiagnosisFile,
    Finding,
    Plot,
    RemedyComparison,
    RemedyScore,
    Verification,
    VerifiedRemedy,
    read_diagnosis,
)
from stillroom.wording import counted, listed

PAGE = "diagnosis.html"
WORDS = {"problem": "Problem", "warning": "Warning", "ok": "OK", "skipped": "Not judged"}
_DEEP = 3
# Beyond so many bars a page would have to be scrolled to see one plot.
MOST = 30
# Where the largest value is so many times the smallest, a straight axis would show nothing but the largest.
LOG = 200.0
_HEIGHT, _BAR, _THIN_BAR, _MANY, _LABEL = 260, 30, 22, 8, 20


def write_diagnosis_page(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a folder's ``diagnosis.json``.

    Args:
        folder: where it lies.
        out: the file to write; left out: ``diagnosis.html`` in the same folder.

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


def notebook_html(diagnosis: DiagnosisFile) -> str:
    """The findings as they stand in a notebook's cell: one table without scripts, everything in it escaped."""
    return rendered("diagnosis/notebook.html.j2", figures={}, page=page_of(diagnosis), diagnosis=diagnosis)


def page_of(diagnosis: DiagnosisFile) -> Values:
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
    attention = [*by_verdict["problem"], *by_verdict["warning"]]
    return Values(
        diagnosis=diagnosis,
        counts=tuple(
            (verdict, WORDS[verdict], len(by_verdict[verdict])) for verdict in VERDICTS[2:] if by_verdict[verdict]
        ),
        attention=attention,
        passed=tuple(by_verdict["ok"]),
        skipped=tuple((reason, tuple(of)) for reason, of in reasons.items()),
        verification=_verification(verification, titles) if verification is not None else None,
        charts=[one.chart for card in (*attention, *by_verdict["ok"]) for one in card.charts],
    )


def _card(number: int, finding: Finding, *, is_repeated: bool) -> Values:
    # What was not judged has nothing to draw.
    plots = finding.plots if finding.verdict != "skipped" else ()
    return Values(
        number=number,
        finding=finding,
        title=finding.heading,
        word=WORDS[finding.verdict],
        charts=tuple(
            Values(chart=_chart(plot, f"f{number}-{place}"), dashed=_threshold(plot))
            for place, plot in enumerate(plots)
        ),
        evidence=list(_rows(finding.evidence)),
        is_repeated=is_repeated,
    )


def _rows(evidence: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in evidence.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict) and value and depth < _DEEP:
            yield from _rows(value, f"{name}: ", depth + 1)
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value) and depth < _DEEP:
            for number, each in enumerate(value, 1):
                yield from _rows(each, f"{name} {number}: ", depth + 1)
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


def _verification(verification: Verification, titles: Mapping[str, str]) -> Values:
    rows = []
    if verification.unchanged is not None:
        rows.append(_score_row(UNCHANGED, "The unchanged student", "", verification.unchanged, verification))
    for one in verification.remedies:
        note = f"{times(one.relative_steps)} the steps" if _has_other_length(one) and one.relative_steps else ""
        rows.append(_row(one, one.name, _remedy_title(one, titles), note, verification))
    if verification.labels is not None:
        rows.append(_row(verification.labels, LABELS, "The same student trained on labels alone", "", verification))
    warnings = [f"Not equal: {text}." for text in verification.inequalities]
    warnings += [f"Missing: {text}." for text in verification.missing]
    notes = [f"Conflict in {ALL_REMEDIES}: {text}." for text in verification.conflicts]
    notes += [f"{titles.get(one.check, one.check)}: not verified, {one.why}." for one in verification.not_verified]
    if any(map(_has_other_length, verification.remedies)):
        notes.append(
            "A remedy that changes the length of the run has another budget: part of its gain is the longer training."
        )
    if verification.lost is not None and verification.lost > 0:
        notes.append("The loss is relative to the best of these means, which is biased upwards.")
    measure = verification.measure
    title = f"{measure.title}{f', {measure.unit}' if measure.unit else ''}" if measure is not None else ""
    return Values(
        summary=_summary(verification, titles),
        measure=title,
        rows=tuple(rows),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _summary(verification: Verification, titles: Mapping[str, str]) -> str:
    if not verification.remedies:
        return "No remedy could be trained: none of them can be written in a recipe."
    digits = verification.digits
    seeds = f"{counted(len(verification.seeds), 'seed')}, the same weights and images for all of a seed"
    best = verification.best_remedy
    if best is None:
        summary = f"No remedy helps significantly ({seeds})."
    else:
        share = ""
        if best.share_of_loss is not None and best.name != verification.best:
            share = f", {best.share_of_loss:.0%} of what was lost against {verification.best}"
        bounds = f" [{_bounds(best.low, best.high, digits)}]" if best.low is not None else ""
        gain = f"{change(best.regained, digits)}{verification.unit}{bounds}{share}"
        summary = f"{_remedy_title(best, titles)} recovered most: {gain} ({seeds})."
    worse = [_lower(_remedy_title(one, titles)) for one in verification.remedies if one.verdict == "worse"]
    if worse:
        summary += f" Worse than the unchanged student: {listed(worse)}."
    if verification.labels is not None and verification.labels_are_best:
        percent = "%" if verification.unit == " points" else ""
        score = f"{amount(verification.labels.score.mean, digits)}{percent}"
        summary += f" Trained on labels alone the same student reaches {score}: it is better without this teacher."
    return summary


def _remedy_title(one: VerifiedRemedy, titles: Mapping[str, str]) -> str:
    if one.name == ALL_REMEDIES:
        return "All remedies together"
    return f"Remedy for: {listed(_lower(titles.get(check, check)) for check in one.checks)}" if one.checks else one.name


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _score_row(name: str, title: str, note: str, score: RemedyScore, verification: Verification) -> Values:
    """One line of the table of remedies, with nothing regained yet."""
    interval = "no finished run"
    if score.mean is not None:
        interval = _bounds(score.low, score.high, verification.digits) or "one seed: no interval"
    level, is_best = amount(score.mean, verification.digits), verification.best == name
    empty = dict.fromkeys(("regained", "bounds", "verdict", "word", "share"), "")
    return Values(name=name, title=title, note=note, level=level, interval=interval, is_best=is_best, **empty)


def _row(one: RemedyComparison, name: str, title: str, note: str, verification: Verification) -> Values:
    digits, share, row = verification.digits, one.share_of_loss, _score_row(name, title, note, one.score, verification)
    word = {"better": "better", "worse": "worse", "undecided": "not decided"}[one.verdict]
    p = f", Holm p {p_value(one.holm_p)}" if one.holm_p is not None else ""
    is_open = one.verdict == "undecided" and one.seeds_to_decide is not None
    settle = f"; about {one.seeds_to_decide:,} seeds would settle it" if is_open else ""
    row.regained = change(one.regained, digits) if one.regained is not None else DASH
    row.bounds = _bounds(one.low, one.high, digits)
    row.verdict, row.word = one.verdict, f"{word}{p}{settle}"
    row.share = f"{share:.0%}".replace("-", MINUS) if share is not None else DASH
    # The share of the loss as per cent of a bar.
    row.width = round(100 * max(min(share or 0.0, 1.0), 0.0), 1)
    return row


def _has_other_length(one: VerifiedRemedy) -> bool:
    return one.relative_steps is not None and abs(one.relative_steps - 1) > 0.005


def _bounds(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{amount(low, digits)} to {amount(high, digits)}"


def _chart(plot: Plot, key: str) -> Chart:
    """A plot of a finding, by its key on the page."""
    make = {"bars": _bars, "line": _line, "histogram": _histogram}[plot.kind]
    figure, height = make(plot)
    return Chart(key, plot.title, _words(plot), height, figure)


def _bars(plot: Plot) -> tuple[Figure, int]:
    """Lying bars, the first on top: their names may be long, and a phone is narrow."""
    names, values = [str(name) for name in plot.x[:MOST]], plot.y[:MOST]
    signed = min(values, default=0.0) < 0 < max(values, default=0.0)
    texts = [amount(value, digits_of(values)) for value in values]
    bars = lying_bars(
        values,
        texts,
        ["lost" if signed and value < 0 else "student" for value in values],
        customdata=[[escaped(name, 60), text] for name, text in zip(names, texts, strict=True)],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
    )
    ends = [*values, *([plot.mark] if plot.mark is not None else []), 0.0]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    ends = [low - (0.2 * span if low < 0 else 0), high + 0.2 * span]
    x = axis(escaped(plot.y_label, 60), range=ends, fixedrange=True, zeroline=True)
    shapes = _mark(plot.mark, upright=True)
    figure = figure_of([bars], x, names_axis(names, bars["y"]), hovermode="closest", bargap=0.3, shapes=shapes)
    return figure, 80 + (_BAR if len(values) <= _MANY else _THIN_BAR) * len(values)


def _line(plot: Plot) -> tuple[Figure, int]:
    places, values = thin(np.asarray(plot.x, dtype=np.float64), np.asarray(plot.y, dtype=np.float64))
    ends = [*values.tolist(), *([plot.mark] if plot.mark is not None else [])]
    is_log = min(ends) > 0 and max(ends) / min(ends) > LOG
    label = _broken(escaped(plot.y_label, 60))
    drawn = line(
        places.tolist(),
        values.tolist(),
        plot.title,
        "student",
        hovertemplate="%{x:.4~g}: %{y:.4~g}<extra></extra>",
    )
    options: Figure = {}
    if is_log:
        # Whole powers of ten, six of them at most.
        options = {"type": "log", "exponentformat": "power", "dtick": math.ceil(math.log10(max(ends) / min(ends)) / 6)}
    x, y = axis(escaped(plot.x_label, 60)), axis(f"{label}{' (log scale)' if is_log else ''}", **options)
    return figure_of([drawn], x, y, hovermode="closest", shapes=_mark(plot.mark, upright=False)), _HEIGHT


def _histogram(plot: Plot) -> tuple[Figure, int]:
    edges = [float(edge) for edge in plot.x]
    bars = {
        "type": "bar",
        "x": rounded([(low + high) / 2 for low, high in pairwise(edges)]),
        "width": rounded([high - low for low, high in pairwise(edges)]),
        "y": rounded(plot.y),
        "marker": {"color": LIGHT["student"], "line": {"color": LIGHT["surface"], "width": 1}},
        "hovertemplate": "%{x:.3~g}: %{y:,.4~g}<extra></extra>",
    }
    x, y = axis(escaped(plot.x_label, 60)), axis(_broken(escaped(plot.y_label, 60)))
    # Of a histogram the values lie along the lower edge.
    return figure_of([bars], x, y, hovermode="closest", bargap=0, shapes=_mark(plot.mark, upright=True)), _HEIGHT


def _broken(label: str) -> str:
    """A long name of an upright axis in two lines: the plot is low."""
    words = label.split()
    if len(label) <= _LABEL or len(words) < 2:
        return label
    half = min(range(1, len(words)), key=lambda place: abs(len(" ".join(words[:place])) - len(label) / 2))
    return f"{' '.join(words[:half])}<br>{' '.join(words[half:])}"


def _mark(value: float | None, *, upright: bool) -> list[Figure]:
    if value is None:
        return []
    along, across = ("x", "y") if upright else ("y", "x")
    return [
        {
            "type": "line",
            f"{along}ref": along,
            f"{across}ref": "paper",
            f"{along}0": value,
            f"{along}1": value,
            f"{across}0": 0,
            f"{across}1": 1,
            "layer": "above",
            "line": {"color": LIGHT["alarm"], "width": 1.6, "dash": "dash"},
        }
    ]


def _threshold(plot: Plot) -> str:
    """What the dashed line is; empty where there is none."""
    if plot.mark is None:
        return ""
    text = amount(plot.mark, digits_of([plot.mark]))
    return f"Dashed: the threshold, {text}."


def _words(plot: Plot) -> str:
    """What the plot shows, for whoever cannot see it; where the dashed line lies."""
    if not plot.y:
        return "No values."
    digits = digits_of(plot.y)
    if plot.kind == "line":
        text = (
            f"From {amount(plot.y[0], digits)} to {amount(plot.y[-1], digits)}, lowest {amount(min(plot.y), digits)}."
        )
    elif plot.kind == "bars":
        low, high = (pick(range(len(plot.y)), key=lambda place: plot.y[place]) for pick in (min, max))
        text = f"Highest: {plot.x[high]}, {amount(plot.y[high], digits)}."
        if low != high:
            text += f" Lowest: {plot.x[low]}, {amount(plot.y[low], digits)}."
        if len(plot.y) > MOST:
            text += f" The first {MOST} of {len(plot.y)}."
    else:
        text = f"{amount(sum(plot.y), 0)} values from {amount(float(plot.x[0]))} to {amount(float(plot.x[-1]))}."
    return text if plot.mark is None else f"{text} {_threshold(plot)}"
