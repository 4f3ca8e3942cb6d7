"""The plots of a run's page: its curves, its calibration, what each class gained or lost; and its example images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillroom.report.charts import (
    DASHES,
    LIGHT,
    Chart,
    Figure,
    axis,
    escaped,
    figure_of,
    level,
    line,
    lying_bars,
    names_axis,
    over_epochs,
    rounded,
    thin,
)
from stillroom.report.formats import decimal, short, signed, three_digits, whole
from stillroom.report.run.data import Row, RunData
from stillroom.schema.predictions import BINS, Calibration, ImageScores, Predictions
from stillroom.tasks import TASK_INFO

# Of more classes than ALL_CLASSES, the SHOWN_CLASSES at either end are drawn; bins of fewer than FEW images are hollow.
ALL_CLASSES, SHOWN_CLASSES, FEW = 30, 15, 20
MOST_IMAGES, _LARGEST = 60, 112


@dataclass(frozen=True)
class Member:
    """A run as the plots know it: its name and the role of its colour."""

    name: str
    colour: str
    run: RunData


def curve_charts(members: Sequence[Member]) -> list[Chart]:
    """The plots of the curves; the first member is the run the report is about."""
    terms = sorted({key for member in members for row in member.run.train for key in row if key.startswith("loss/")})
    own = [primary_curve(members)] if members[0].run.summary.measures is not None else []
    found = [*own, _top1(members), _curve("loss", "Training loss", "loss", members, _loss_words(members))]
    if terms and not _one_plain_term(members, terms):
        for number, term in enumerate(terms):
            title = f"Loss term: {term.removeprefix('loss/')}"
            found.append(_curve(f"term-{number}", title, term, members, "Before its weight is applied."))
    found.append(_curve("lr", "Learning rate", "lr", members, ""))
    return [chart for chart in found if chart is not None]


def _one_plain_term(members: Sequence[Member], terms: list[str]) -> bool:
    """Whether every run's loss is one term of weight 1, whose curve would be drawn twice."""
    return all(
        sum(term in row for term in terms) == 1 and all(row[t] == row.get("loss") for t in terms if t in row)
        for member in members
        for row in member.run.train
    )


def _points(rows: Sequence[Row], key: str) -> tuple[Any, Any]:
    held = [(row["epoch"], row[key]) for row in rows if key in row]
    x, y = (np.array(column, dtype=np.float64) for column in (zip(*held, strict=True) if held else ((), ())))
    return thin(x, y) if len(x) else (x, y)


def _traces(members: Sequence[Member], split: str, key: str, digits: str) -> list[Figure]:
    traces = []
    for place, member in enumerate(members):
        x, y = _points(member.run.curve[1] if split == "curve" else getattr(member.run, split), key)
        if len(x):
            traces.append(
                line(
                    x.tolist(),
                    y.tolist(),
                    member.name,
                    member.colour,
                    legendgroup=f"run-{place}",
                    hovertemplate=f"%{{y:{digits}}}",
                    # The run the report is about lies on top, yet is the first in the list of what is hovered.
                    zorder=len(members) - place,
                    line=member_line(place),
                )
            )
    return traces


def member_line(place: int) -> Figure:
    """The line of the run at a place; the one that the page is about is thicker."""
    return {"dash": dash_of(place), "width": 2.5 if place == 0 else 2}


def dash_of(place: int) -> str:
    """The dash of the run at a place, as plotly names it."""
    return DASHES[place % len(DASHES)]


def css_dash(place: int) -> str:
    """The same as CSS names it, which has no dash-dot.

    >>> css_dash(0), css_dash(1)
    ('solid', 'dashed')
    """
    return {"solid": "solid", "dot": "dotted"}.get(dash_of(place), "dashed")


def _top1(members: Sequence[Member]) -> Chart | None:
    traces = _traces(members, "curve", "top1", ".2f")
    if not traces:
        return None
    subject = members[0].run
    options: Figure = {}
    split = subject.curve[0]
    # The teacher was measured on the test split, and on no other.
    if subject.teacher is not None and split == "test":
        top1 = subject.teacher.top1
        epochs = [0.0, *sorted({x for trace in traces for x in trace["x"]})]
        hover = {"legendgroup": "teacher", "hovertemplate": "%{y:.2f}"}
        title = subject.teacher_word.capitalize()
        traces.append(level(epochs, top1, title, "teacher", "dash", **hover))
        note = {"x": 0, "y": top1, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
        font = {"color": LIGHT["teacher"]}
        options["annotations"] = [{**note, "text": f"{subject.teacher_word} {decimal(top1)}%", "font": font}]
    figure = over_epochs(traces, f"top-1 on the {split} {'split' if split == 'test' else '$images'}, %", **options)
    return Chart("top1", f"{split.capitalize()} top-1", _top1_words(subject), 380, figure)


def primary_curve(members: Sequence[Member]) -> Chart | None:
    """The measure of multi-label or regression data over the training, the teacher as a level."""
    run = members[0].run
    measure = TASK_INFO[run.summary.task].primary
    split, rows = run.curve
    traces = _traces(members, "curve", measure.name, f".{measure.digits}f")
    if not traces:
        return None
    compared = run.compared_teacher
    teacher = compared.measures if compared is not None and split == "test" else None
    if teacher is not None:
        epochs = [0.0, *sorted({x for trace in traces for x in trace["x"]})]
        hover = {"legendgroup": "teacher", "hovertemplate": f"%{{y:.{measure.digits}f}}"}
        height = float(getattr(teacher, measure.name))
        traces.append(level(epochs, height, run.teacher_word.capitalize(), "teacher", "dash", **hover))
    unit = ", %" if measure.unit == "%" else ""
    figure = over_epochs(traces, f"{measure.title} on the {split} {'split' if split == 'test' else '$images'}{unit}")
    _, levels = _points(rows, measure.name)
    first, last = (measure.written(float(value)) for value in (levels[0], levels[-1]))
    return Chart(measure.name, f"{split.capitalize()} {measure.title}", f"From {first} to {last}.", 380, figure)


def _top1_words(run: RunData) -> str:
    split, rows = run.curve
    held = [(row["epoch"], row["top1"]) for row in rows if "top1" in row]
    if not held:
        return "This run made no evaluation during training."
    (first, start), (last, end) = held[0], held[-1]
    if len(held) == 1:
        text = f"One evaluation, at epoch {last:.4g}: {decimal(end)}%."
    else:
        text = f"This student goes from {decimal(start)}% at epoch {first:.4g} to {decimal(end)}% at epoch {last:.4g}."
        best_epoch, best = max(held, key=lambda point: point[1])
        if best > end:
            text += f" Its highest point was {decimal(best)}% at epoch {best_epoch:.4g}; the last one is reported."
    if split == "validation":
        text += (
            f" Of {whole(run.summary.data.validation)} $images that were not learned from; the test $images were "
            f"looked at once, at the end: {decimal(run.student.top1)}%."
        )
    elif run.teacher is not None:
        text += f" The dashed line is the {run.teacher_word}’s {decimal(run.teacher.top1)}%."
    return text


def _loss_words(members: Sequence[Member]) -> str:
    terms = [{key for row in member.run.train for key in row if key.startswith("loss/")} for member in members]
    if len(members) > 1 and any(other != terms[0] for other in terms[1:]):
        return "The weighted sum that was minimised. These runs minimise different sums: compare shapes, not heights."
    return "The weighted sum that was minimised, averaged between log lines."


def _curve(key: str, title: str, column: str, members: Sequence[Member], words: str) -> Chart | None:
    traces = _traces(members, "train", column, ".4~g")
    if not traces:
        return None
    values = [row[column] for row in members[0].run.train if column in row]
    # What has no curve of this run is another run's alone.
    text = "This run does not have it."
    if values:
        start, peak, end = (_number(value) for value in (values[0], max(values), values[-1]))
        text = f"From {start} to {end}."
        if key == "lr":
            text = f"From {start}, at most {peak}, to {end} at the last log line."
    # A rate is read as .0008, not as 800µ.
    options: dict[str, Any] = {"exponentformat": "none"} if key == "lr" else {}
    figure = over_epochs(traces, "learning rate" if key == "lr" else "loss", rangemode="tozero", **options)
    return Chart(key, title, f"{words} {text}".strip(), 270, figure)


def _number(value: float) -> str:
    return three_digits(value) if value > 0 else f"{value:.3g}"


@dataclass(frozen=True)
class ModelCalibration:
    """A model's calibration, and how it is drawn: its name, the role of its colour, its dash."""

    name: str
    colour: str
    dash: str
    bins: Calibration


def reliability(found: Sequence[ModelCalibration]) -> Chart:
    """Accuracy against confidence, over a histogram of confidence."""
    dotted = {"dash": "dot", "width": 1.5}
    traces = [line([0, 1], [0, 1], "perfectly calibrated", "axis", mode="lines", line=dotted, hoverinfo="skip")]
    for one in reversed(found):
        firm = [place for place, count in enumerate(one.bins.counts) if count >= FEW]
        faint = [place for place, count in enumerate(one.bins.counts) if 0 < count < FEW]
        traces += [_bins(one, held, held is firm) for held in (faint, firm) if held]
    for one in found:
        bins = one.bins
        share = bins.counts / max(int(bins.counts.sum()), 1)
        traces.append(
            {
                "type": "bar",
                "x": rounded(((bins.edges[1:] + bins.edges[:-1]) / 2).tolist()),
                "y": rounded(share.tolist()),
                "customdata": [int(count) for count in bins.counts],
                "name": escaped(one.name),
                "showlegend": False,
                "marker": {"color": LIGHT[one.colour], "opacity": 0.85},
                "yaxis": "y2",
                "hovertemplate": "%{customdata:,} $images, %{y:.1%}",
            }
        )
    figure = figure_of(
        traces,
        axis("confidence of the prediction", range=[0, 1.005], tickformat=".0%", dtick=0.25, anchor="y2"),
        axis("share that is right", range=[-0.03, 1.03], tickformat=".0%", domain=[0.34, 1]),
        yaxis2=axis("$images", domain=[0, 0.24], tickformat=".0%", nticks=3, zeroline=True),
        bargap=0.15,
    )
    words = " ".join(_calibration_words(one.name, one.bins) for one in found)
    few = any(0 < count < FEW for one in found for count in one.bins.counts)
    hollow = f" Hollow points hold fewer than {FEW} $images and may be chance." if few else ""
    caption = f"{words} {BINS} bins of equal width; below, the share of $images in each.{hollow}"
    return Chart("reliability", "Reliability diagram", caption, 480, figure)


def _bins(one: ModelCalibration, held: list[int], firm: bool) -> Figure:
    """Bins as points: joined where they hold enough images, hollow and apart where chance alone could move them far."""
    bins, symbol = one.bins, "diamond" if one.colour == "teacher" else "circle"
    details = [[f"{bins.edges[b]:.2f}–{bins.edges[b + 1]:.2f}", int(bins.counts[b]), _lean(bins, b)] for b in held]
    return line(
        bins.confidence[held].tolist(),
        bins.accuracy[held].tolist(),
        one.name,
        one.colour,
        mode="lines+markers" if firm else "markers",
        customdata=details,
        legendgroup=one.name,
        showlegend=firm,
        line={"width": 2.2, "dash": one.dash},
        marker={"color": LIGHT[one.colour], "size": 7, "symbol": symbol if firm else f"{symbol}-open"},
        hovertemplate="confidence %{x:.1%}, right %{y:.1%}<br>%{customdata[2]}"
        "<br>%{customdata[1]:,} $images in %{customdata[0]}",
    )


def _lean(bins: Calibration, place: int) -> str:
    off = 100 * (bins.confidence[place] - bins.accuracy[place])
    return f"overconfident by {decimal(off)} points" if off > 0 else f"underconfident by {decimal(-off)} points"


def _calibration_words(name: str, bins: Calibration) -> str:
    total = max(int(bins.counts.sum()), 1)
    lean = float((bins.counts * (bins.confidence - bins.accuracy)).sum()) / total
    manner = f"{'over' if lean > 0 else 'under'}confident by {decimal(100 * abs(lean))} points on average"
    if abs(lean) < 0.005:
        manner = "calibrated on average"
    return f"{name}: ECE {bins.ece:.4f}, {manner}."


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


def class_changes(rows: Sequence[ClassRow], teacher: str) -> Chart:
    """What each class gained or lost, as bars; of many classes, only those that changed most."""
    ordered = sorted(rows, key=lambda row: row.change)
    some = len(ordered) > ALL_CLASSES
    shown = [*ordered[:SHOWN_CLASSES], *ordered[-SHOWN_CLASSES:]] if some else ordered
    # Plotly draws upwards, and the class that lost most belongs on top; where classes are left out, a place is empty.
    places = [-place - (some and place >= SHOWN_CLASSES) for place in range(len(shown))]
    compared = all(row.teacher is not None for row in rows)
    bars = lying_bars(
        [row.change for row in shown],
        [signed(row.change) if compared else decimal(row.change) for row in shown],
        ["student" if not compared else "lost" if row.change < 0 else "gained" for row in shown],
        y=places,
        customdata=[
            [escaped(row.name, 60), decimal(row.student), decimal(row.teacher), signed(row.change), row.count]
            for row in shown
        ],
        hovertemplate="<b>%{customdata[0]}</b><br>student %{customdata[1]}%"
        + (f"<br>{teacher} " + "%{customdata[2]}%<br>change %{customdata[3]} points" if compared else "")
        + "<br>%{customdata[4]:,} test $images<extra></extra>",
    )
    low, high = min(0.0, *(row.change for row in shown)), max(0.0, *(row.change for row in shown))
    span = (high - low) or 1.0
    # Numbers stand outside the bars.
    ends = [low - 0.3 * span if low < 0 else 0.0, high + 0.3 * span if high > 0 else 0.08 * span]
    names = names_axis(
        [*(short(row.name, 18) for row in shown), *(["…"] if some else [])],
        [*places, *([-SHOWN_CLASSES] if some else [])],
    )
    title = f"student − {teacher}, points" if compared else "accuracy of the class, %"
    x = axis(title, range=ends, fixedrange=True, zeroline=True)
    figure = figure_of([bars], x, names, bargap=0.28)
    heading = "Change by class" if compared else "Accuracy by class"
    height = 70 + (26 if len(shown) > 12 else 36) * len(shown)
    return Chart("classes", heading, _class_words(ordered, some, compared), height, figure)


def _class_words(ordered: Sequence[ClassRow], some: bool, compared: bool) -> str:
    worst, best, most = ordered[0], ordered[-1], SHOWN_CLASSES
    note = f"Of {len(ordered)} classes, the {most} lowest and the {most} highest. " if some else ""
    if not compared:
        lowest = f"{worst.name} at {decimal(worst.student)}%"
        return f"{note}Lowest: {lowest}; highest: {best.name} at {decimal(best.student)}%."
    lost = sum(row.change < 0 for row in ordered)
    gained = sum(row.change > 0 for row in ordered)
    if some:
        others = "gained most" if gained >= most else "gained most or lost least"
        note = f"Of {len(ordered)} classes, the {most} that lost most and the {most} that {others}; all are below. "
    text = f"{note}{lost} classes lost accuracy, {gained} gained, {len(ordered) - lost - gained} kept it."
    if lost == len(ordered):
        text = f"{note}Every class lost accuracy."
    if worst.change < 0:
        text += f" Most lost: {worst.name}, {decimal(worst.teacher)}% to {decimal(worst.student)}%."
    if best.change > 0:
        text += f" Most gained: {best.name}, {decimal(best.teacher)}% to {decimal(best.student)}%."
    fewest = min(row.count for row in ordered)
    if fewest < 200:
        text += f" One test $image more or less is {decimal(100 / fewest)} points of the smallest class."
    return text


@dataclass(frozen=True)
class ExampleImage:
    """One test image or text with the guesses of both models, and the probability of its true class."""

    uri: str  # of an image
    text: str  # of a text, as its tokens say it
    index: int
    label: str
    teacher_guess: str
    teacher_percent: str
    teacher_right: bool
    student_guess: str
    student_percent: str
    student_right: bool
    true_teacher: str
    true_student: str

    @property
    def group(self) -> str:
        """What the page filters by: lost, gained or same."""
        if self.teacher_right == self.student_right:
            return "same"
        return "gained" if self.student_right else "lost"

    @property
    def outcome(self) -> str:
        """Who was right, in words."""
        return "both wrong" if self.group == "same" else f"student {self.group}"


def example_images(predictions: Predictions, student: ImageScores, teacher: ImageScores) -> list[ExampleImage]:
    """The images of a run whose answer changed, at most 60, those whose true class changed most first."""
    indices, pixels, texts = predictions.example_indices, predictions.example_images, predictions.example_texts
    if indices is None:
        return []
    change = np.abs(student.true_probability[indices] - teacher.true_probability[indices])
    names = predictions.class_names
    found = []
    for place in np.argsort(-change, kind="stable"):
        index = int(indices[place])
        if teacher.guess[index] == student.guess[index]:
            continue
        found.append(
            ExampleImage(
                uri="" if pixels is None else png_uri(pixels[place]),
                text="" if texts is None else texts[place],
                index=index,
                label=names[int(predictions.labels[index])],
                teacher_guess=names[int(teacher.guess[index])],
                teacher_percent=_percent(teacher.confidence[index]),
                teacher_right=bool(teacher.right[index]),
                student_guess=names[int(student.guess[index])],
                student_percent=_percent(student.confidence[index]),
                student_right=bool(student.right[index]),
                true_teacher=_percent(teacher.true_probability[index]),
                true_student=_percent(student.true_probability[index]),
            )
        )
    return found[:MOST_IMAGES]


def _percent(probability: float) -> str:
    return f"{decimal(100 * probability, 0)}%"


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """An image [C,H,W] as a PNG data URI; large ones are made smaller, other than 3 channels become grey.

    >>> png_uri(np.zeros((1, 2, 2), dtype=np.uint8))[:22]
    'data:image/png;base64,'
    """
    picture: NDArray[Any]
    if pixels.shape[0] == 3:
        picture = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    else:
        picture = pixels.mean(axis=0).round().astype(np.uint8)
    image = Image.fromarray(picture)
    image.thumbnail((_LARGEST, _LARGEST))
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
