"""How the teacher rescales each sample: ω by how sure the teacher is, and over the epochs, in plots and plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stillroom.report.figures import Chart, Figure, axis, layout, line, rounded
from stillroom.report.formats import amount, decimal, whole
from stillroom.report.gradient_rescaling import Group, Rescaling
from stillroom.report.palette import LIGHT
from stillroom.report.read import Row, RunFolder

# Shares of saturated samples from which on the page says that some, and that most, of the signal is gone.
SOME, MOST = 0.05, 0.5
# Rank correlations below this order samples hardly, or not at all.
_FAINT = 0.3
# The first epoch, the middle one, the last: role of the colour, dash, width.
_LOOKS = (("axis", "dot", 2.0), ("other-1", "dash", 2.0), ("student", "solid", 2.5))


@dataclass(frozen=True)
class Shown:
    """An epoch that is drawn: what the legend calls it, its colour and dash (as CSS has them)."""

    name: str
    colour: str
    dash: str


@dataclass(frozen=True)
class Omega:
    """All that the section shows; ``advice`` is what to do, where something is amiss."""

    sentences: tuple[str, ...]
    advice: str
    shown: tuple[Shown, ...]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...]


def omega(run: RunFolder) -> Omega | None:
    """Lay out the section; None where the run recorded nothing."""
    found = run.rescaling
    if not found:
        return None
    # Of two epochs the first and the last, of one the one.
    places = sorted({0, len(found) // 2 if len(found) > 2 else 0, len(found) - 1})
    looks = _LOOKS[-1:] if len(places) == 1 else (_LOOKS[0], _LOOKS[2]) if len(places) == 2 else _LOOKS
    chosen = [(found[place], look) for place, look in zip(places, looks, strict=True)]
    temperature = _temperature(run.recipe)
    known = any(each.known_groups for each in found)
    charts = [_by_group(chosen, "p", lambda each: each.groups)]
    if known:
        charts.append(_by_group(chosen, "known", lambda each: each.known_groups))
    if len(found) > 1:
        charts += [_ranks(found, known=known), _saturated(found)]
    dashes = {"dot": "dotted", "dash": "dashed"}
    return Omega(
        sentences=tuple(_sentences(found, temperature, known=known)),
        advice=_advice(found[-1], temperature),
        shown=tuple(Shown(_epoch(each), colour, dashes.get(dash, dash)) for each, (colour, dash, _) in chosen),
        charts=tuple(charts),
        notes=tuple(_notes(run)),
    )


_LEAD = (
    "ω is how strongly a sample pulls at the student, beside what its label alone would do: 1 is the same pull, 0.3 a "
    "third of it. It is how a teacher tells a hard sample from an easy one."
)


def _sentences(found: Sequence[Rescaling], temperature: float | None, *, known: bool) -> list[str]:
    last = found[-1]
    told = [_LEAD]
    hard, easy = last.groups[0], last.groups[-1]
    if len(last.groups) > 1:
        told.append(
            f"In the last epoch the tenth that the teacher finds hardest (it gives the true class "
            f"{_percent(hard.at)}) was pulled with a median ω of {amount(hard.median)}, the tenth it is surest of "
            f"({_percent(easy.at)}) with {amount(easy.median)}."
        )
    if last.spearman is None:
        told.append("All samples were pulled alike: the teacher told none from another.")
    else:
        word = "closely" if last.spearman >= 0.7 else "roughly" if last.spearman >= _FAINT else "hardly"
        told.append(
            f"The pull follows the teacher’s sureness {word}: rank correlation {decimal(last.spearman, 2)} in the last "
            f"epoch{_before(found, lambda each: each.spearman)}."
        )
    if known and last.known_spearman is not None:
        told.append(
            f"How difficult each sample truly is, is known here: ω ranks them with {decimal(last.known_spearman, 2)}"
            f"{_before(found, lambda each: each.known_spearman)}."
        )
    at = f" at τ = {temperature:g}" if temperature is not None else ""
    share = _percent(last.saturated) if last.saturated else "none"
    told.append(
        f"Saturated{at}: {share} of the samples. Of these the teacher’s doubt is less than a twentieth of the "
        "student’s, so that it says no more than the bare label does."
    )
    return told


def _before(found: Sequence[Rescaling], of: Callable[[Rescaling], float | None]) -> str:
    first = of(found[0])
    return f", {decimal(first, 2)} in the first" if len(found) > 1 and first is not None else ""


def _advice(last: Rescaling, temperature: float | None) -> str:
    now = f" (losses.kl.temperature, now {temperature:g})" if temperature is not None else ""
    if last.saturated >= MOST:
        return (
            f"The teacher is too sure: for {_percent(last.saturated)} of the samples nothing is left of what it knows "
            f"of their difficulty. Raise τ{now}; a teacher that is less sure of everything would do as well."
        )
    if last.saturated >= SOME:
        return f"Part of the signal is lost ({_percent(last.saturated)} saturated). A higher τ brings it back{now}."
    return ""


def _notes(run: RunFolder) -> list[str]:
    notes = [
        "Points are medians over a tenth of the epoch’s samples, at the tenth’s mean; bars are quartiles. A sample of "
        "which the student is surer than its teacher has a pull far below 0, which medians do not follow.",
        "Terms other than cross_entropy and kl are left out of ω.",
    ]
    if isinstance(_kl(run.recipe).get("target"), dict):
        notes.append("What is taught here is a target made of the teacher’s answer, and ω is that of the target.")
    return notes


def _kl(recipe: Row) -> Row:
    terms = recipe.get("losses")
    held = terms if isinstance(terms, list) else []
    return next((term for term in held if isinstance(term, dict) and term.get("name") == "kl"), {})


def _temperature(recipe: Row) -> float | None:
    value = _kl(recipe).get("temperature")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


_TITLES = {
    "p": ("ω by how sure the teacher is", "teacher’s probability of the true class"),
    "known": ("ω by how difficult samples truly are", "true lead of the label"),
}


def _by_group(
    chosen: Sequence[tuple[Rescaling, tuple[str, str, float]]], key: str, of: Callable[[Rescaling], tuple[Group, ...]]
) -> Chart:
    title, x_title = _TITLES[key]
    traces: list[Figure] = []
    held = [(each, of(each), look) for each, look in chosen if of(each)]
    for number, (each, groups, look) in enumerate(held):
        traces.append(_curve(_epoch(each), groups, look, shift=0.09 * (number - (len(held) - 1) / 2)))
    last = held[-1][1]
    places = list(range(1, len(last) + 1))
    digits = 2 if key == "p" else 1
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1}
    figure = {
        "data": traces,
        "layout": layout(
            xaxis=axis(
                x_title,
                tickmode="array",
                tickvals=places,
                ticktext=[amount(group.at, digits) for group in last],
                range=[0.5, len(last) + 0.5],
                tickangle=0,
                tickfont={"size": 11},
                fixedrange=True,
            ),
            yaxis=axis("ω", range=_room([groups for _, groups, _ in held]), fixedrange=True),
            hovermode="closest",
            shapes=[{**level, "line": {"color": LIGHT["axis"], "width": 1.2, "dash": "dot"}, "layer": "below"}],
        ),
    }
    ends = f"from {amount(last[0].median)} for the hardest tenth to {amount(last[-1].median)} for the easiest"
    words = f"In the last epoch the median of ω goes {ends}. The dotted line is the pull of the label alone."
    return Chart(f"omega-{key}", title, words, 320, figure)


def _curve(name: str, groups: Sequence[Group], look: tuple[str, str, float], *, shift: float) -> Figure:
    colour, dash, width = look
    drawn = line(
        [place + shift for place in range(1, len(groups) + 1)],
        [group.median for group in groups],
        name,
        colour,
        line={"dash": dash, "width": width},
        customdata=[
            [
                f"{amount(group.low)} to {amount(group.high)}",
                amount(group.median),
                _quartiles(group),
                whole(group.count),
            ]
            for group in groups
        ],
        hovertemplate="<b>ω %{customdata[1]}</b>%{customdata[2]}<br>%{customdata[0]}<br>%{customdata[3]} samples",
    )
    if all(group.quartiles is not None for group in groups):
        ends = [group.quartiles or (group.median, group.median) for group in groups]
        drawn["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": rounded(max(high - group.median, 0.0) for (_, high), group in zip(ends, groups, strict=True)),
            "arrayminus": rounded(max(group.median - low, 0.0) for (low, _), group in zip(ends, groups, strict=True)),
            "color": LIGHT[colour],
            "thickness": 1,
            "width": 3,
        }
    return drawn


def _quartiles(group: Group) -> str:
    return (
        ""
        if group.quartiles is None
        else f", half of them {amount(group.quartiles[0])} to {amount(group.quartiles[1])}"
    )


def _room(held: Sequence[Sequence[Group]]) -> list[float]:
    """The range of ω: all medians, and of the quartiles what lies near them."""
    medians = [group.median for groups in held for group in groups]
    low, high = min([*medians, 0.0]), max([*medians, 1.0])
    span = high - low
    ends = [end for groups in held for group in groups for end in group.quartiles or ()]
    near = [end for end in ends if low - span / 2 <= end <= high + span / 2]
    low, high = min([low, *near]), max([high, *near])
    return [low - 0.05 * (high - low), high + 0.08 * (high - low)]


def _ranks(found: Sequence[Rescaling], *, known: bool) -> Chart:
    rows = [("with the teacher’s sureness", "student", "solid", [(e.epoch, e.spearman) for e in found])]
    if known:
        truth = [(e.epoch, e.known_spearman) for e in found]
        rows.append(("with what is known of the samples", "gained", "dash", truth))
    traces = []
    for name, colour, dash, points in rows:
        there = [(epoch, value) for epoch, value in points if value is not None]
        drawn = line(
            [epoch for epoch, _ in there],
            [value for _, value in there],
            name,
            colour,
            line={"dash": dash},
            hovertemplate="%{y:.2f}",
        )
        traces.append(drawn)
    words = "1: the surer the teacher, the stronger the pull; 0: no order at all."
    if known:
        words += " Solid: with the teacher’s sureness; dashed: with how difficult samples truly are."
    lowest = min([0.0, *(value for *_, points in rows for _, value in points if value is not None)])
    return _over_epochs("omega-rank", "Rank correlation of ω", words, "rank correlation", traces, [lowest * 1.05, 1.05])


def _saturated(found: Sequence[Rescaling]) -> Chart:
    drawn = line(
        [each.epoch for each in found],
        [100 * each.saturated for each in found],
        "saturated",
        "lost",
        hovertemplate="%{y:.1f}%",
    )
    first, last = _percent(found[0].saturated), _percent(found[-1].saturated)
    words = f"Samples of which the teacher says no more than their label: from {first} to {last}."
    words += " A higher τ lowers it." if found[-1].saturated else ""
    return _over_epochs("omega-saturated", "Saturated samples", words, "% of the samples", [drawn], [-3, 103])


def _over_epochs(key: str, title: str, words: str, label: str, traces: list[Figure], room: list[float]) -> Chart:
    figure = {
        "data": traces,
        "layout": layout(
            xaxis=axis("epoch", hoverformat=".3~g", unifiedhovertitle={"text": "epoch %{x}"}, rangemode="tozero"),
            yaxis=axis(label, range=room),
            hovermode="x unified",
        ),
    }
    return Chart(key, title, words, 250, figure)


def _epoch(each: Rescaling) -> str:
    return f"epoch {each.epoch:g}"


def _percent(share: float) -> str:
    # A share that is not nothing is not told as nothing.
    return "less than 0.1%" if 0 < share < 0.001 else f"{decimal(100 * share)}%"
