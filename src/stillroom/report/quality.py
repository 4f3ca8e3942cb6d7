"""Plots of the answers themselves: calibration, and what each class gained or lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.report.figures import Chart, Figure, axis, escaped, layout, rounded
from stillroom.report.formats import decimal, signed
from stillroom.report.measures import BINS, Calibration
from stillroom.report.palette import LIGHT

ALL_CLASSES = 30
MOST = 15
FEW = 20


@dataclass(frozen=True)
class ClassRow:
    """One class: its number of test images and the accuracy of each model on them, in per cent."""

    name: str
    count: int
    student: float
    teacher: float | None

    @property
    def change(self) -> float:
        """Student less teacher, in points; without a teacher, the student's accuracy."""
        return self.student - self.teacher if self.teacher is not None else self.student


def reliability(found: Sequence[tuple[str, str, Calibration]]) -> Chart:
    """Accuracy against confidence, over a histogram of confidence.

    Args:
        found: for each model its name, the role of its colour and its calibration; the student first.
    """
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "name": "perfectly calibrated",
            "line": {"color": LIGHT["axis"], "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
        }
    ]
    for name, colour, bins in reversed(found):
        firm = [place for place, count in enumerate(bins.counts) if count >= FEW]
        faint = [place for place, count in enumerate(bins.counts) if 0 < count < FEW]
        traces += [_points(name, colour, bins, held, held is firm) for held in (faint, firm) if held]
    for name, colour, bins in found:
        share = bins.counts / max(int(bins.counts.sum()), 1)
        traces.append(
            {
                "type": "bar",
                "x": rounded(((bins.edges[1:] + bins.edges[:-1]) / 2).tolist()),
                "y": rounded(share.tolist()),
                "customdata": [int(count) for count in bins.counts],
                "name": escaped(name),
                "showlegend": False,
                "marker": {"color": LIGHT[colour], "opacity": 0.85},
                "yaxis": "y2",
                "hovertemplate": "%{customdata:,} images, %{y:.1%}",
            }
        )
    figure = {
        "data": traces,
        "layout": layout(
            xaxis=axis("confidence in the top guess", range=[0, 1.005], tickformat=".0%", dtick=0.25, anchor="y2"),
            yaxis=axis("share that is right", range=[-0.03, 1.03], tickformat=".0%", domain=[0.34, 1]),
            yaxis2=axis("images", domain=[0, 0.24], tickformat=".0%", nticks=3, zeroline=True),
            hovermode="closest",
            bargap=0.15,
        ),
    }
    told = " ".join(_calibration_words(name, bins) for name, _, bins in found)
    few = any(0 < count < FEW for _, _, bins in found for count in bins.counts)
    hollow = f" Hollow points hold fewer than {FEW} images and may be chance." if few else ""
    caption = f"{told} {BINS} bins of equal width; below, the share of images in each.{hollow}"
    return Chart("reliability", "Reliability diagram", caption, 480, figure)


def _points(name: str, colour: str, bins: Calibration, held: list[int], firm: bool) -> Figure:
    """Bins as points: joined where they hold enough images, hollow and apart where chance alone could move them far."""
    symbol = "diamond" if colour == "teacher" else "circle"
    return {
        "type": "scatter",
        "mode": "lines+markers" if firm else "markers",
        "x": rounded(bins.confidence[held].tolist()),
        "y": rounded(bins.accuracy[held].tolist()),
        "customdata": [
            [f"{bins.edges[b]:.2f}–{bins.edges[b + 1]:.2f}", int(bins.counts[b]), _lean(bins, b)] for b in held
        ],
        "name": escaped(name),
        "legendgroup": colour,
        "showlegend": firm,
        "line": {"color": LIGHT[colour], "width": 2.2, "dash": "dash" if colour == "teacher" else "solid"},
        "marker": {"color": LIGHT[colour], "size": 7, "symbol": symbol if firm else f"{symbol}-open"},
        "hovertemplate": "confidence %{x:.1%}, right %{y:.1%}<br>%{customdata[2]}"
        "<br>%{customdata[1]:,} images in %{customdata[0]}",
    }


def _lean(bins: Calibration, place: int) -> str:
    off = 100 * (bins.confidence[place] - bins.accuracy[place])
    return f"too sure by {decimal(off)} points" if off > 0 else f"too modest by {decimal(-off)} points"


def _calibration_words(name: str, bins: Calibration) -> str:
    total = max(int(bins.counts.sum()), 1)
    lean = float((bins.counts * (bins.confidence - bins.accuracy)).sum()) / total
    manner = f"too {'sure' if lean > 0 else 'modest'} by {decimal(100 * abs(lean))} points on average"
    if abs(lean) < 0.005:
        manner = "on average neither too sure nor too modest"
    return f"{name}: ECE {bins.ece:.4f}, {manner}."


def class_changes(rows: Sequence[ClassRow]) -> Chart:
    """What each class gained or lost, as bars; of many classes, only those that changed most.

    Args:
        rows: the classes that have test images, in any order.
    """
    ordered = sorted(rows, key=lambda row: row.change)
    some = len(ordered) > ALL_CLASSES
    shown = [*ordered[:MOST], *ordered[-MOST:]] if some else ordered
    # Places, not names: two classes may share a name, and names such as "7" would be taken for numbers. Plotly draws
    # upwards, and the class that lost most belongs on top; where classes are left out, a place stays empty.
    places = [-place - (some and place >= MOST) for place in range(len(shown))]
    compared = all(row.teacher is not None for row in rows)
    colours = [_bar_colour(row, compared) for row in shown]
    bars = {
        "type": "bar",
        "orientation": "h",
        "showlegend": False,
        "x": rounded([row.change for row in shown]),
        "y": places,
        "customdata": [
            [escaped(row.name, 60), decimal(row.student), decimal(row.teacher), signed(row.change), row.count]
            for row in shown
        ],
        "marker": {"color": colours},
        "hovertemplate": "<b>%{customdata[0]}</b><br>student %{customdata[1]}%"
        + ("<br>teacher %{customdata[2]}%<br>change %{customdata[3]} points" if compared else "")
        + "<br>%{customdata[4]:,} test images<extra></extra>",
        "text": [signed(row.change) if compared else decimal(row.change) for row in shown],
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": LIGHT["ink"], "size": 12},
    }
    ticks = {
        "tickmode": "array",
        "tickvals": [*places, *([-MOST] if some else [])],
        "ticktext": [*(escaped(row.name, 18) for row in shown), *(["…"] if some else [])],
        "showgrid": False,
        "range": [places[-1] - 0.6, 0.6],
        "ticks": "",
        "title": {"text": ""},
        "ticksuffix": "  ",
        "fixedrange": True,
    }
    title = "student − teacher, points" if compared else "accuracy of the class, %"
    figure = {
        "data": [bars],
        "layout": layout(
            xaxis=axis(title, range=_room(shown), fixedrange=True, zeroline=True),
            yaxis=axis("") | ticks,
            hovermode="closest",
            bargap=0.28,
        ),
    }
    heading = "Change by class" if compared else "Accuracy by class"
    return Chart(
        "classes",
        heading,
        _class_words(ordered, some, compared),
        70 + (26 if len(shown) > 12 else 36) * len(shown),
        figure,
    )


def _bar_colour(row: ClassRow, compared: bool) -> str:
    if not compared:
        return LIGHT["student"]
    return LIGHT["lost"] if row.change < 0 else LIGHT["gained"]


def _room(rows: Sequence[ClassRow]) -> list[float]:
    """The range of the bars, with room for their numbers outside them."""
    low, high = min(0.0, *(row.change for row in rows)), max(0.0, *(row.change for row in rows))
    span = (high - low) or 1.0
    return [low - 0.3 * span if low < 0 else 0.0, high + 0.3 * span if high > 0 else 0.08 * span]


def _class_words(ordered: Sequence[ClassRow], some: bool, compared: bool) -> str:
    worst, best = ordered[0], ordered[-1]
    note = f"Of {len(ordered)} classes, the {MOST} lowest and the {MOST} highest. " if some else ""
    if not compared:
        lowest = f"{worst.name} at {decimal(worst.student)}%"
        return f"{note}Lowest: {lowest}; highest: {best.name} at {decimal(best.student)}%."
    lost = sum(row.change < 0 for row in ordered)
    gained = sum(row.change > 0 for row in ordered)
    if some:
        others = "gained most" if gained >= MOST else "gained most or lost least"
        note = f"Of {len(ordered)} classes, the {MOST} that lost most and the {MOST} that {others}; all are below. "
    told = f"{note}{lost} classes lost accuracy, {gained} gained, {len(ordered) - lost - gained} kept it."
    if lost == len(ordered):
        told = f"{note}Every class lost accuracy."
    if worst.change < 0:
        told += f" Most lost: {worst.name}, {decimal(worst.teacher)}% to {decimal(worst.student)}%."
    if best.change > 0:
        told += f" Most gained: {best.name}, {decimal(best.teacher)}% to {decimal(best.student)}%."
    fewest = min(row.count for row in ordered)
    if fewest < 200:
        told += f" One test image more or less is {decimal(100 / fewest)} points of the smallest class."
    return told
