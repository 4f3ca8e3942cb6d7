"""How the teacher rescales each sample: ω by how sure the teacher is, and over the epochs, in plots and words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stillroom.report.blocks import Values
from stillroom.report.charts import LIGHT, Chart, Figure, axis, error_bars, figure_of, line, over_epochs
from stillroom.report.formats import amount, decimal, whole
from stillroom.report.run.data import RunData
from stillroom.schema.run import OmegaGroup, RescalingEpoch

# Shares of saturated samples from which on the page says that some, and that most, of the signal is gone.
SOME, MOST = 0.05, 0.5
# Rank correlations below this order samples hardly, or not at all.
_FAINT = 0.3
# The first epoch, the middle one, the last: role of the colour, dash, width.
_STYLES = (("axis", "dot", 2.0), ("other-1", "dash", 2.0), ("student", "solid", 2.5))
_CSS_DASH = {"dot": "dotted", "dash": "dashed", "solid": "solid"}
_LEAD = (
    "ω is the gradient of a sample with the teacher, relative to that of its label alone: 1 is the same size, 0.3 a "
    "third of it. It shows how the teacher weights hard and easy samples."
)


def rescaling_section(run: RunData) -> Values | None:
    """Lay out the section; None where the run recorded nothing."""
    found = run.rescaling
    if not found:
        return None
    # Of two epochs the first and the last, of one the one.
    places = sorted({0, len(found) // 2 if len(found) > 2 else 0, len(found) - 1})
    styles = _STYLES[-1:] if len(places) == 1 else (_STYLES[0], _STYLES[2]) if len(places) == 2 else _STYLES
    chosen = [(found[place], style) for place, style in zip(places, styles, strict=True)]
    known = any(each.known_deciles for each in found)
    title = "ω by teacher confidence"
    charts = [_by_group(chosen, "p", title, "teacher’s probability of the true class", lambda each: each.deciles)]
    if known:
        title = "ω by true sample difficulty"
        charts.append(
            _by_group(chosen, "known", title, "true lead of the label", lambda each: each.known_deciles or ())
        )
    if len(found) > 1:
        charts += [_ranks(found, known=known), _saturated(found)]
    return Values(
        sentences=_sentences(found, known=known),
        advice=_advice(found[-1]),
        legend=tuple((_epoch(each), colour, _CSS_DASH[dash]) for each, (colour, dash, _) in chosen),
        charts=tuple(charts),
        notes=_notes(found[-1]),
    )


def _sentences(found: Sequence[RescalingEpoch], *, known: bool) -> list[str]:
    last = found[-1]
    sentences = [_LEAD]
    hard, easy = last.deciles[0], last.deciles[-1]
    if len(last.deciles) > 1:
        sentences.append(
            f"In the last epoch the tenth that the teacher finds hardest (it gives the true class "
            f"{_percent(hard.at)}) had a median ω of {amount(hard.omega_median)}, the tenth it is most confident "
            f"on ({_percent(easy.at)}) {amount(easy.omega_median)}."
        )
    if last.spearman is None:
        sentences.append("ω is the same for all samples: the teacher does not distinguish them.")
    else:
        word = "closely" if last.spearman >= 0.7 else "roughly" if last.spearman >= _FAINT else "hardly"
        sentences.append(
            f"ω follows the teacher’s confidence {word}: rank correlation {decimal(last.spearman, 2)} in the last "
            f"epoch{_before(found, found[0].spearman)}."
        )
    if known and last.known_spearman is not None:
        sentences.append(
            f"Each sample’s true difficulty is known; its rank correlation with ω is {decimal(last.known_spearman, 2)}"
            f"{_before(found, found[0].known_spearman)}."
        )
    share = _percent(last.saturated) if last.saturated else "none"
    sentences.append(
        f"Saturated at τ = {last.temperature:g}: {share} of the samples. There the teacher’s uncertainty is below a "
        "twentieth of the student’s, so its target equals the label."
    )
    return sentences


def _before(found: Sequence[RescalingEpoch], first: float | None) -> str:
    return f", {decimal(first, 2)} in the first" if len(found) > 1 and first is not None else ""


def _advice(last: RescalingEpoch) -> str:
    now = f" (losses.{last.loss}.temperature, now {last.temperature:g})"
    if last.saturated >= MOST:
        return (
            f"The teacher is too confident: for {_percent(last.saturated)} of the samples its target says nothing "
            f"about their difficulty. Raise τ{now}, or use a less confident teacher."
        )
    if last.saturated >= SOME:
        return f"Part of the signal is lost ({_percent(last.saturated)} saturated). A higher τ recovers it{now}."
    return ""


def _notes(last: RescalingEpoch) -> list[str]:
    notes = [
        "Points are medians over a tenth of the epoch’s samples, at the tenth’s mean; bars are quartiles. A sample on "
        "which the student is more confident than its teacher has an ω far below 0, which does not move the medians.",
        f"Losses other than cross_entropy and {last.loss} are left out of ω.",
    ]
    if last.target is not None:
        notes.append("The target here is computed from the teacher’s output, and ω is that of the target.")
    return notes


def _by_group(
    chosen: Sequence[tuple[RescalingEpoch, tuple[str, str, float]]],
    key: str,
    title: str,
    x_title: str,
    of: Callable[[RescalingEpoch], tuple[OmegaGroup, ...]],
) -> Chart:
    held = [(each, of(each), style) for each, style in chosen if of(each)]
    traces = [
        _curve(_epoch(each), groups, style, shift=0.09 * (number - (len(held) - 1) / 2))
        for number, (each, groups, style) in enumerate(held)
    ]
    last = held[-1][1]
    places = list(range(1, len(last) + 1))
    texts = [amount(group.at, 2 if key == "p" else 1) for group in last]
    x = axis(x_title, tickvals=places, ticktext=texts, tickangle=0, tickfont={"size": 11}, fixedrange=True)
    x["range"] = [0.5, len(last) + 0.5]
    mark = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "layer": "below"}
    mark["line"] = {"color": LIGHT["axis"], "width": 1.2, "dash": "dot"}
    y = axis("ω", range=_omega_range([groups for _, groups, _ in held]), fixedrange=True)
    figure = figure_of(traces, x, y, shapes=[mark])
    ends = (
        f"from {amount(last[0].omega_median)} for the hardest tenth to {amount(last[-1].omega_median)} for the easiest"
    )
    words = f"In the last epoch the median of ω goes {ends}. The dotted line is the label alone."
    return Chart(f"omega-{key}", title, words, 320, figure)


def _curve(name: str, groups: Sequence[OmegaGroup], style: tuple[str, str, float], *, shift: float) -> Figure:
    colour, dash, width = style
    details = [
        [f"{amount(one.low)} to {amount(one.high)}", amount(one.omega_median), _quartiles(one), whole(one.count)]
        for one in groups
    ]
    drawn = line(
        [place + shift for place in range(1, len(groups) + 1)],
        [one.omega_median for one in groups],
        name,
        colour,
        line={"dash": dash, "width": width},
        customdata=details,
        hovertemplate="<b>ω %{customdata[1]}</b>%{customdata[2]}<br>%{customdata[0]}<br>%{customdata[3]} samples",
    )
    if all(one.quartiles is not None for one in groups):
        drawn["error_y"] = error_bars([(one.omega_median, one.omega_low, one.omega_high) for one in groups], colour)
    return drawn


def _quartiles(group: OmegaGroup) -> str:
    ends = group.quartiles
    return "" if ends is None else f", half of them {amount(ends[0])} to {amount(ends[1])}"


def _omega_range(held: Sequence[Sequence[OmegaGroup]]) -> list[float]:
    """The range of ω: all medians, and of the quartiles what lies near them."""
    medians = [one.omega_median for groups in held for one in groups]
    low, high = min([*medians, 0.0]), max([*medians, 1.0])
    span = high - low
    ends = [end for groups in held for one in groups for end in one.quartiles or ()]
    near = [end for end in ends if low - span / 2 <= end <= high + span / 2]
    low, high = min([low, *near]), max([high, *near])
    return [low - 0.05 * (high - low), high + 0.08 * (high - low)]


def _ranks(found: Sequence[RescalingEpoch], *, known: bool) -> Chart:
    rows = [("with the teacher’s confidence", "student", "solid", [(e.epoch, e.spearman) for e in found])]
    words = "1: the more confident the teacher, the larger ω; 0: no correlation."
    if known:
        truth = [(e.epoch, e.known_spearman) for e in found]
        rows.append(("with the true difficulty", "gained", "dash", truth))
        words += " Solid: with the teacher’s confidence; dashed: with the true difficulty."
    traces, lowest = [], 0.0
    for name, colour, dash, points in rows:
        there = [(epoch, value) for epoch, value in points if value is not None]
        lowest = min([lowest, *(value for _, value in there)])
        epochs, values = [epoch for epoch, _ in there], [value for _, value in there]
        traces.append(line(epochs, values, name, colour, line={"dash": dash}, hovertemplate="%{y:.2f}"))
    figure = over_epochs(traces, "rank correlation", range=[lowest * 1.05, 1.05])
    return Chart("omega-rank", "Rank correlation of ω", words, 250, figure)


def _saturated(found: Sequence[RescalingEpoch]) -> Chart:
    epochs, shares = [each.epoch for each in found], [100 * each.saturated for each in found]
    drawn = line(epochs, shares, "saturated", "lost", hovertemplate="%{y:.1f}%")
    first, last = _percent(found[0].saturated), _percent(found[-1].saturated)
    words = f"Samples whose target equals their label: from {first} to {last}."
    words += " A higher τ lowers it." if found[-1].saturated else ""
    figure = over_epochs([drawn], "% of the samples", range=[-3, 103])
    return Chart("omega-saturated", "Saturated samples", words, 250, figure)


def _epoch(each: RescalingEpoch) -> str:
    return f"epoch {each.epoch:g}"


def _percent(share: float) -> str:
    # A share that is not nothing is not shown as nothing.
    return "less than 0.1%" if 0 < share < 0.001 else f"{decimal(100 * share)}%"
