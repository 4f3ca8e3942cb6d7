"""What the student knows of the classes' relations: maps of cosines side by side, figures over the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np

from stillroom.report.class_relations import Geometry, Map
from stillroom.report.curves import Member
from stillroom.report.figures import Chart, Figure, axis, escaped, layout, line
from stillroom.report.formats import amount
from stillroom.report.palette import LIGHT
from stillroom.report.words import join

# Names beside a map: so many superclasses, or classes where there are none, have room.
_MOST_GROUPS, _MOST_NAMES = 24, 20
# Two beside each other are larger than three.
_MAP, _SMALL_MAP, _CURVE = 380, 262, 260
_DASHES = ("solid", "dash", "dot", "dashdot")
# What goes without saying: there is no teacher, or nobody made the data.
_PLAIN = (
    "there is no teacher whose last layer could be read",
    "the true relations of these data are not known",
)


@dataclass(frozen=True)
class Relations:
    """All that the section shows.

    Attributes:
        sentences: what was found.
        maps: students, teachers, truth.
        columns: how many of them stand side by side.
        most: the end of the colour scale; empty without maps.
        curves: the figures over the training.
        members: the runs that are shown.
        notes: how to read it, and what is left out.
    """

    sentences: tuple[str, ...]
    maps: tuple[Chart, ...]
    columns: int
    most: str
    curves: tuple[Chart, ...]
    members: tuple[Member, ...]
    notes: tuple[str, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Every plot of the section."""
        return (*self.maps, *self.curves)


@dataclass(frozen=True)
class _Shown:
    title: str
    whose: str
    cosines: Map
    score: float | None


def relations(members: Sequence[Member]) -> Relations | None:
    """Lay out the section.

    Args:
        members: the runs, the one that the page is about first; of the others those of the same classes are shown.

    Returns:
        None where the first run recorded nothing.
    """
    subject = members[0].run.geometry
    if subject is None:
        return None
    held = [(m, m.run.geometry) for m in members if m.run.geometry is not None]
    alike = [(m, g) for m, g in held if g.class_names == subject.class_names]
    shown = _shown(alike)
    most = max((_most(each.cosines) for each in shown), default=0.0)
    curves = [chart for key in _CURVES if (chart := _curve(key, alike)) is not None]
    return Relations(
        sentences=tuple(_sentences(subject)),
        maps=tuple(_map(place, each, subject, most, _height(len(shown))) for place, each in enumerate(shown)),
        columns=_columns(len(shown)),
        most=amount(most) if shown else "",
        curves=tuple(curves),
        members=tuple(member for member, _ in alike),
        notes=tuple(_notes(subject, shown, left_out=[m.name for m in members if m not in [a for a, _ in alike]])),
    )


_LEAD = (
    "Each class has a row of weights in the last layer, and the cosine of two rows says how alike a model finds two "
    "classes. What a student takes over of its teacher’s relations is knowledge that no label holds."
)


def _sentences(found: Geometry) -> list[str]:
    told = [_LEAD]
    own = found.score["student"]
    if own is not None:
        others = [
            f"{amount(value)} {whose}"
            for who, whose in (("teacher", "in the teacher’s"), ("truth", "in truth"))
            if (value := found.score[who]) is not None
        ]
        beside = f" ({join(others)})" if others else ""
        if own > 0:
            told.append(
                f"Classes of one superclass are more alike than classes of two by {amount(own)} in the student’s last "
                f"layer{beside}."
            )
        else:
            told.append(
                f"In the student’s last layer classes of one superclass are no more alike than classes of two: "
                f"{amount(own)}{beside}."
            )
    agreed = [
        f"{amount(value)} with {whose}"
        for key, whose in (("truth", "the true relations"), ("teacher", "its teacher’s"))
        if (value := found.agreement[key]) is not None
    ]
    if agreed:
        theirs = found.agreement["teacher_truth"]
        beside = f"; the teacher’s own agrees to {amount(theirs)} with the truth" if theirs is not None else ""
        told.append(f"The student’s map agrees to {join(agreed)}{beside}.")
    reasons: dict[str, list[str]] = {}
    for key, what in _FIGURES.items():
        why = found.why.get(key)
        if why is not None and why not in _PLAIN:
            reasons.setdefault(why, []).append(what)
    told += [f"There is no {' and no '.join(whats)}: {why}." for why, whats in reasons.items()]
    return told


_FIGURES = {
    "score": "score by superclass",
    "truth": "agreement with the truth",
    "teacher": "agreement with the teacher",
}


def _notes(found: Geometry, shown: Sequence[_Shown], *, left_out: Sequence[str]) -> list[str]:
    notes = []
    if shown:
        groups = found.superclasses
        order = "Classes that are alike stand side by side"
        if groups is not None:
            order = f"Classes stand by superclass ({len(set(groups)):,} of them, framed)"
        blank = "the diagonal, each class with itself, is left blank"
        notes.append(f"{order}, in the same order in every map; {blank}.")
    elif not found.order:
        notes.append(f"Of {len(found.class_names):,} classes no maps are kept.")
    notes.append(
        "Score: the mean cosine within superclasses less the mean between them. Agreement: Pearson’s correlation of "
        "two maps over all pairs of classes: 1 is the same relations, 0 none in common."
    )
    if left_out:
        notes.append(f"Not shown beside it: {join(list(left_out))} (other classes, or no such record).")
    return notes


def _shown(alike: Sequence[tuple[Member, Geometry]]) -> list[_Shown]:
    """The students' maps, then their teachers', each once, then the truth."""
    several = len(alike) > 1
    found = [
        _Shown(
            f"Student: {m.name.removeprefix('Student: ')}" if several else "Student", "student", c, g.score["student"]
        )
        for m, g in alike
        if (c := g.maps.get("student")) is not None
    ]
    teachers: list[_Shown] = []
    for member, each in alike:
        cosines = each.maps.get("teacher")
        if cosines is not None and not any(np.array_equal(cosines, known.cosines) for known in teachers):
            name = f"Teacher: {member.run.teacher.model}" if member.run.teacher is not None else "Teacher"
            teachers.append(_Shown(name, "teacher", cosines, each.score["teacher"]))
    truth = alike[0][1].maps.get("truth")
    known = [_Shown("Truth", "truth", truth, alike[0][1].score["truth"])] if truth is not None else []
    return [*found, *teachers, *known]


def _columns(maps: int) -> int:
    return 3 if maps in (3, 5, 6) else 2


def _height(maps: int) -> int:
    return _SMALL_MAP if _columns(maps) == 3 else _MAP


def _most(cosines: Map) -> float:
    """The largest cosine of two classes, by its size."""
    return float(np.abs(cosines - np.diag(np.diag(cosines))).max(initial=0.0))


def _map(place: int, shown: _Shown, subject: Geometry, most: float, height: int) -> Chart:
    order = np.array(subject.order)
    cosines = shown.cosines[np.ix_(order, order)]
    places = list(range(len(order)))
    names = [escaped(subject.class_names[number]) for number in order]
    rows: list[list[float | None]] = [[round(float(value), 2) + 0.0 for value in row] for row in cosines]
    for number, row in enumerate(rows):
        row[number] = None
    groups = _groups(subject)
    is_named = not groups and len(names) <= _MOST_NAMES
    limit = most or 1.0
    along = {
        "tickmode": "array",
        "tickvals": places,
        # Shown where there is room; where there is none, what is hovered is called by them all the same.
        "ticktext": names,
        "showticklabels": is_named,
        "tickfont": {"size": 10},
        "ticks": "",
        "showgrid": False,
        "constrain": "domain",
        "title": {"text": ""},
        "range": [-0.5, len(order) - 0.5],
    }
    figure = {
        "data": [
            {
                "type": "heatmap",
                "z": rows,
                "zmin": -limit,
                "zmax": limit,
                "colorscale": [[0, LIGHT["lost"]], [0.5, LIGHT["surface"]], [1, LIGHT["student"]]],
                "showscale": False,
                "hovertemplate": "%{y}<br>%{x}<br><b>cosine %{z:.2f}</b><extra></extra>",
                "hoverongaps": False,
            }
        ],
        "layout": layout(
            xaxis=axis("") | along | {"tickangle": 90 if max(map(len, names)) > 2 else 0, "constraintoward": "left"},
            yaxis=axis("")
            | along
            | {"range": [len(order) - 0.5, -0.5], "scaleanchor": "x", "constraintoward": "top", "automargin": is_named},
            margin={"l": 92 if groups and len(groups) <= _MOST_GROUPS else 4, "r": 4, "t": 6, "b": 6},
            hovermode="closest",
            shapes=[_frame(low, high) for _, low, high in groups],
            annotations=_labels(groups) if len(groups) <= _MOST_GROUPS else [],
        ),
    }
    score = f"Within superclasses less between: {amount(shown.score)}." if shown.score is not None else ""
    return Chart(f"map-{place}", shown.title, score or "Cosine of each two classes.", height, figure)


def _groups(subject: Geometry) -> list[tuple[str, int, int]]:
    """Each superclass, and its first and last place in the order of the maps."""
    if subject.superclasses is None:
        return []
    names = [(subject.superclasses[number], place) for place, number in enumerate(subject.order)]
    found = []
    for name, held in groupby(names, key=lambda one: one[0]):
        places = [place for _, place in held]
        found.append((name, places[0], places[-1]))
    return found


def _frame(low: int, high: int) -> Figure:
    ends = {"x0": low - 0.5, "x1": high + 0.5, "y0": low - 0.5, "y1": high + 0.5}
    return {"type": "rect", **ends, "line": {"color": LIGHT["ink"], "width": 1}}


def _labels(groups: Sequence[tuple[str, int, int]]) -> list[Figure]:
    return [
        {
            "x": -0.5,
            "xshift": -5,
            "y": (low + high) / 2,
            "xanchor": "right",
            "yanchor": "middle",
            "showarrow": False,
            "text": escaped(name, 15),
            "font": {"color": LIGHT["muted"], "size": 10 if len(groups) <= 12 else 9},
        }
        for name, low, high in groups
    ]


_CURVES = {
    "score": ("Alike within superclasses, less between", "score"),
    "truth": ("Agreement with the true relations", "correlation"),
    "teacher": ("Agreement with the teacher’s relations", "correlation"),
}


def _curve(key: str, alike: Sequence[tuple[Member, Geometry]]) -> Chart | None:
    title, label = _CURVES[key]
    value = attrgetter(key)
    traces: list[Figure] = []
    ends: list[tuple[float, float]] = []
    for place, (member, found) in enumerate(alike):
        points = [(each.epoch, value(each)) for each in found.epochs if value(each) is not None]
        if not points:
            continue
        traces.append(
            line(
                [epoch for epoch, _ in points],
                [one for _, one in points],
                member.name,
                member.colour,
                hovertemplate="%{y:.3f}",
                line={"dash": _DASHES[place % len(_DASHES)], "width": 2.5 if place == 0 else 2},
            )
        )
        if place == 0:
            ends.append((points[0][1], points[-1][1]))
    if not traces:
        return None
    words = f"From {amount(ends[0][0])} before the training to {amount(ends[0][1])}." if ends else ""
    last = max(trace["x"][-1] for trace in traces)
    for name, colour, dash, level in _levels(key, alike[0][1]):
        traces.append(
            line([0.0, last], [level] * 2, name, colour, mode="lines", hovertemplate="%{y:.3f}", line={"dash": dash})
        )
        words += f" {'Dashed' if dash == 'dash' else 'Dotted'}: {name.lower()}, {amount(level)}."
    figure = {
        "data": traces,
        "layout": layout(
            xaxis=axis("epoch", hoverformat=".3~g", unifiedhovertitle={"text": "epoch %{x}"}, rangemode="tozero"),
            yaxis=axis(label, rangemode="tozero"),
            hovermode="x unified",
        ),
    }
    return Chart(f"relation-{key}", title, words.strip(), _CURVE, figure)


def _levels(key: str, found: Geometry) -> list[tuple[str, str, str, float]]:
    """What the student's figure stands beside: name, role of the colour, dash, level."""
    if key == "score":
        levels = [("The teacher’s", "teacher", "dash", found.score["teacher"])]
        levels.append(("The truth’s", "gained", "dot", found.score["truth"]))
    else:
        value = found.agreement["teacher_truth"] if key == "truth" else None
        levels = [("The teacher’s", "teacher", "dash", value)]
    return [(name, colour, dash, value) for name, colour, dash, value in levels if value is not None]
