"""How the student's last layer relates the classes: maps of cosines side by side, figures over the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from stillroom.report.blocks import Values
from stillroom.report.charts import LIGHT, Chart, Doubles, Figure, axis, escaped, figure_of, level, line, over_epochs
from stillroom.report.formats import amount
from stillroom.report.run.charts import Member, member_line
from stillroom.schema.run import RelationsRecord
from stillroom.wording import listed

# The most superclasses, or classes where there are none, whose names fit at a map's side.
_MOST_GROUPS, _MOST_NAMES = 24, 20
# Two in a row are larger than three.
_MAP, _SMALL_MAP, _CURVE = 380, 262, 260
_LEAD = (
    "Each class has a row of weights in the last layer; the cosine of two rows is the similarity of the two "
    "classes. Labels do not contain these relations; the student learns them from its teacher."
)
_FIGURES = {
    "score": "score by superclass",
    "truth": "agreement with the truth",
    "teacher": "agreement with the teacher",
}
_CURVES = {
    "score": ("Similarity within less between superclasses", "score"),
    "truth": ("Agreement with the true relations", "correlation"),
    "teacher": ("Agreement with the teacher’s relations", "correlation"),
}


@dataclass(frozen=True)
class _CosineMap:
    title: str
    cosines: Doubles
    score: float | None


def relations_section(members: Sequence[Member]) -> Values | None:
    """Lay out the section.

    Args:
        members: the runs, the one that the page is about first; of the others those of the same classes are shown.

    Returns:
        None where the first run recorded nothing.
    """
    subject = members[0].run.relations
    if subject is None:
        return None
    held = [(member, member.run.relations) for member in members if member.run.relations is not None]
    alike = [(member, found) for member, found in held if found.class_names == subject.class_names]
    maps = _maps(alike)
    most = max((_most(each.cosines) for each in maps), default=0.0)
    columns = 3 if len(maps) in (3, 5, 6) else 2
    height = _SMALL_MAP if columns == 3 else _MAP
    curves = [chart for key in _CURVES if (chart := _curve(key, alike)) is not None]
    shown = [member for member, _ in alike]
    charts = [_map(place, each, subject, most, height) for place, each in enumerate(maps)]
    return Values(
        sentences=_sentences(subject),
        maps=charts,
        columns=columns,
        most=amount(most) if maps else "",
        curves=curves,
        charts=[*charts, *curves],
        members=tuple(shown),
        notes=_notes(subject, maps, left_out=[member.name for member in members if member not in shown]),
    )


def _sentences(found: RelationsRecord) -> list[str]:
    sentences = [_LEAD]
    own = found.score.student
    if own is not None:
        held = ((found.score.teacher, "in the teacher’s"), (found.score.truth, "in truth"))
        others = [f"{amount(value)} {whose}" for value, whose in held if value is not None]
        compared = f" ({listed(others)})" if others else ""
        if own > 0:
            sentences.append(
                f"Classes of one superclass are more similar than of two by {amount(own)} in the student’s last "
                f"layer{compared}."
            )
        else:
            sentences.append(
                f"In the student’s last layer classes of one superclass are no more similar than classes of two: "
                f"{amount(own)}{compared}."
            )
    agreement = found.agreement
    held = ((agreement.truth, "the true relations"), (agreement.teacher, "its teacher’s"))
    agreed = [f"{amount(value)} with {whose}" for value, whose in held if value is not None]
    if agreed:
        theirs = agreement.teacher_truth
        also = f"; the teacher’s own agrees to {amount(theirs)} with the truth" if theirs is not None else ""
        sentences.append(f"The student’s map agrees to {listed(agreed)}{also}.")
    # That there is no teacher, or that nobody made the data, goes without saying.
    expected = {"teacher": not found.has_teacher, "truth": not found.has_truth}
    reasons: dict[str, list[str]] = {}
    for key, what in _FIGURES.items():
        if key in found.why and not expected.get(key):
            reasons.setdefault(found.why[key], []).append(what)
    return sentences + [f"There is no {' and no '.join(whats)}: {why}." for why, whats in reasons.items()]


def _notes(found: RelationsRecord, maps: Sequence[_CosineMap], *, left_out: Sequence[str]) -> list[str]:
    notes = []
    if maps:
        groups = found.superclasses
        order = "Similar classes are adjacent"
        if groups is not None:
            order = f"Classes are sorted by superclass ({len(set(groups)):,} of them, framed)"
        blank = "the diagonal is left blank"
        notes.append(f"{order}, in the same order in every map; {blank}.")
    elif found.maps is None:
        notes.append(f"With {found.classes:,} classes no maps are stored.")
    notes.append(
        "Score: the mean cosine within superclasses less the mean between them. Agreement: Pearson’s correlation of "
        "two maps over all pairs of classes: 1 is the same relations, 0 no correlation."
    )
    if left_out:
        notes.append(f"Not shown: {listed(left_out)} (other classes, or no such record).")
    return notes


def _maps(alike: Sequence[tuple[Member, RelationsRecord]]) -> list[_CosineMap]:
    """The students' maps, then their teachers', each once, then the truth."""
    several = len(alike) > 1
    students: list[_CosineMap] = []
    teachers: list[_CosineMap] = []
    truth: list[_CosineMap] = []
    for member, each in alike:
        own, theirs, true = (each.cosines.get(who) for who in ("student", "teacher", "truth"))
        if own is not None:
            title = f"Student: {member.name.removeprefix('Student: ')}" if several else "Student"
            students.append(_CosineMap(title, own, each.score.student))
        if theirs is not None and not any(np.array_equal(theirs, known.cosines) for known in teachers):
            name = f"Teacher: {member.run.teacher.model}" if member.run.teacher is not None else "Teacher"
            teachers.append(_CosineMap(name, theirs, each.score.teacher))
        if true is not None:
            truth.append(_CosineMap("Truth", true, each.score.truth))
    return [*students, *teachers, *truth[:1]]


def _most(cosines: Doubles) -> float:
    """The largest cosine of two classes, by its size."""
    return float(np.abs(cosines - np.diag(np.diag(cosines))).max(initial=0.0))


def _map(place: int, shown: _CosineMap, subject: RelationsRecord, most: float, height: int) -> Chart:
    order = np.array(subject.order)
    names = [escaped(subject.class_names[number]) for number in order]
    rows: list[list[float | None]] = [
        [round(float(value), 2) + 0.0 for value in row] for row in shown.cosines[np.ix_(order, order)]
    ]
    for number, row in enumerate(rows):
        row[number] = None
    groups = _groups(subject)
    labels = _labels(groups) if len(groups) <= _MOST_GROUPS else []
    is_named = not groups and len(names) <= _MOST_NAMES
    limit = most or 1.0
    along = axis(
        "",
        tickvals=list(range(len(order))),
        # Shown where there is space; where there is none, what is hovered is called by them all the same.
        ticktext=names,
        showticklabels=is_named,
        tickfont={"size": 10},
        ticks="",
        showgrid=False,
        constrain="domain",
    )
    ends = {"range": [-0.5, len(order) - 0.5]}
    x = along | ends | {"tickangle": 90 if max(map(len, names)) > 2 else 0, "constraintoward": "left"}
    y = along | {"range": ends["range"][::-1], "scaleanchor": "x", "constraintoward": "top", "automargin": is_named}
    heatmap = {
        "type": "heatmap",
        "z": rows,
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [[0, LIGHT["lost"]], [0.5, LIGHT["surface"]], [1, LIGHT["student"]]],
        "showscale": False,
        "hovertemplate": "%{y}<br>%{x}<br><b>cosine %{z:.2f}</b><extra></extra>",
        "hoverongaps": False,
    }
    frames = [_frame(low, high) for _, low, high in groups]
    margin = {"l": 92 if labels else 4, "r": 4, "t": 6, "b": 6}
    figure = figure_of([heatmap], x, y, margin=margin, shapes=frames, annotations=labels)
    score = f"Within superclasses less between: {amount(shown.score)}." if shown.score is not None else ""
    return Chart(f"map-{place}", shown.title, score or "Cosine of each two classes.", height, figure)


def _groups(subject: RelationsRecord) -> list[tuple[str, int, int]]:
    """Each superclass, and its first and last place in the order of the maps."""
    if subject.superclasses is None:
        return []
    names = [(subject.superclasses[number], place) for place, number in enumerate(subject.order or ())]
    found = []
    for name, held in groupby(names, key=lambda one: one[0]):
        places = [place for _, place in held]
        found.append((name, places[0], places[-1]))
    return found


def _frame(low: int, high: int) -> Figure:
    ends = {"x0": low - 0.5, "x1": high + 0.5, "y0": low - 0.5, "y1": high + 0.5}
    return {"type": "rect", **ends, "line": {"color": LIGHT["ink"], "width": 1}}


def _labels(groups: Sequence[tuple[str, int, int]]) -> list[Figure]:
    place = {"x": -0.5, "xshift": -5, "xanchor": "right", "yanchor": "middle", "showarrow": False}
    font = {"color": LIGHT["muted"], "size": 10 if len(groups) <= 12 else 9}
    return [{**place, "y": (low + high) / 2, "text": escaped(name, 15), "font": font} for name, low, high in groups]


def _curve(key: str, alike: Sequence[tuple[Member, RelationsRecord]]) -> Chart | None:
    title, label = _CURVES[key]
    traces: list[Figure] = []
    words = ""
    for place, (member, _) in enumerate(alike):
        points = [(each.epoch, getattr(each, key)) for each in member.run.relation_epochs]
        points = [(epoch, value) for epoch, value in points if value is not None]
        if points:
            epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
            style = {"hovertemplate": "%{y:.3f}", "line": member_line(place)}
            traces.append(line(epochs, values, member.name, member.colour, **style))
            if place == 0:
                words = f"From {amount(values[0])} before the training to {amount(values[-1])}."
    if not traces:
        return None
    last = max(trace["x"][-1] for trace in traces)
    for name, colour, dash, value in _levels(key, alike[0][1]):
        traces.append(level([0.0, last], value, name, colour, dash, hovertemplate="%{y:.3f}"))
        words += f" {'Dashed' if dash == 'dash' else 'Dotted'}: {name.lower()}, {amount(value)}."
    figure = over_epochs(traces, label, rangemode="tozero")
    return Chart(f"relation-{key}", title, words.strip(), _CURVE, figure)


def _levels(key: str, found: RelationsRecord) -> list[tuple[str, str, str, float]]:
    """What the student's figure is compared with: name, role of the colour, dash, level."""
    levels = [("The teacher’s", "teacher", "dash", found.score.teacher)]
    if key == "score":
        levels.append(("The truth’s", "gained", "dot", found.score.truth))
    else:
        levels = [("The teacher’s", "teacher", "dash", found.agreement.teacher_truth if key == "truth" else None)]
    return [(name, colour, dash, value) for name, colour, dash, value in levels if value is not None]
