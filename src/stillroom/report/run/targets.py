"""What the page of a run on multi-label or regression data shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stillroom.report.blocks import Tile, Values
from stillroom.report.charts import LIGHT, Chart, Figure, axis, escaped, figure_of, line, rounded
from stillroom.report.formats import DASH, decimal, scaled, signed, whole
from stillroom.report.run import words
from stillroom.report.run.charts import Member, css_dash, curve_charts
from stillroom.report.run.data import RunData
from stillroom.schema.measures import MultiLabelMeasures, RegressionMeasures
from stillroom.schema.predictions import Predictions, loss_gap
from stillroom.schema.run import RunSummary, TeacherSummary
from stillroom.tasks import TASK_INFO, Measure

# Targets that are drawn, and images of each, evenly spread.
_DRAWN, _DOTS = 6, 400
_SIZES = (("Parameters", "parameters", ""), ("Multiply-adds", "multiply_adds", ""), ("Size on disk", "bytes", "B"))


def targets_values(members: Sequence[Member], labels: RunData | None) -> Values:
    """What the page shows, without notices, hashes and command; ``labels`` is the same student from labels alone."""
    run = members[0].run
    info = TASK_INFO[run.summary.task]
    curves, dots = curve_charts(members), _scatter(run.predictions) if run.summary.task == "regression" else []
    return Values(
        run=run,
        task=info.title,
        headline=_headline(run, labels),
        caveat="Each number comes from one run with one seed: the spread between seeds is unknown.",
        facts=words.facts(run),
        tiles=_tiles(run, labels),
        bars=_bars(run, members),
        members=members,
        comparison=_comparison(members),
        curves=curves,
        outputs=_outputs(members),
        outputs_title=f"Each {'class' if info.outputs == 'classes' else 'target'}",
        dots=dots,
        glossary={each.title: each.meaning for each in (*info.measures, *info.compared)},
        charts=[*curves, *dots],
    )


def _primary(run: RunData) -> Measure:
    return TASK_INFO[run.summary.task].primary


def _level(side: RunSummary | TeacherSummary) -> float | None:
    if side.measures is None:
        return None
    return float(getattr(side.measures, TASK_INFO[side.measures.task].primary.name))


def _headline(run: RunData, labels: RunData | None) -> str:
    """What the run shows, with an interval where both answered the same images."""
    measure, mine = _primary(run), _level(run.summary)
    teacher = run.compared_teacher
    level = f"The student’s {measure.title} is {measure.written(mine)} on {whole(run.summary.count)} test $images"
    parts = []
    if teacher is not None and teacher.measures is not None:
        parts.append(f"its {run.teacher_word}’s {measure.written(_level(teacher))}")
    if labels is not None:
        parts.append(f"that of the same student from labels alone {measure.written(_level(labels.summary))}")
    text = f"{level}{', ' if parts else ''}{' and '.join(parts)}."
    gap = _gap(run, labels) if labels is not None else None
    if gap is None:
        return text
    change, margin = gap
    what = "squared error" if run.summary.task == "regression" else "cross-entropy"
    said = "is not significantly different from" if abs(change) <= margin else "is below" if change < 0 else "is above"
    return (
        f"{text} Its mean {what} of $an_image {said} that of labels alone ({signed(change, 4)} ± {decimal(margin, 4)})."
    )


def _gap(run: RunData, other: RunData) -> tuple[float, float] | None:
    """The mean loss of a test image less another run's, and half the 95% interval over the draw of test images."""
    mine, theirs = run.predictions, other.predictions
    if mine is None or theirs is None or not np.array_equal(mine.labels, theirs.labels):
        return None
    return loss_gap(mine.task, mine.student_logits, theirs.student_logits, mine.labels)


def _tiles(run: RunData, labels: RunData | None) -> list[Tile]:
    found = []
    for measure in TASK_INFO[run.summary.task].measures[:2]:
        value = float(getattr(run.summary.measures, measure.name))
        detail = measure.meaning.partition(";")[0]
        if labels is not None and labels.summary.measures is not None:
            before = float(getattr(labels.summary.measures, measure.name))
            detail = f"{signed(value - before, measure.digits)} against labels alone"
        found.append(Tile(measure.written(value), measure.title, detail))
    return [
        *found,
        Tile(scaled(run.summary.parameters), "parameters", run.summary.model),
        Tile(scaled(run.summary.multiply_adds), "multiply-adds", "$an_image"),
    ]


def _bars(run: RunData, members: Sequence[Member]) -> list[Values]:
    measure = _primary(run)
    held = [(run.teacher_title(name), "teacher", _level(one)) for name, one in run.summary.teachers.items()]
    held += [(member.name, member.colour, _level(member.run.summary)) for member in members]
    full = measure.best
    return [
        Values(name=name, colour=colour, percent=measure.written(value), width=round(max(100 * value / full, 0), 2))
        for name, colour, value in held
        if value is not None
    ]


def _sides(members: Sequence[Member]) -> list[tuple[str, str, str, str, RunSummary | TeacherSummary]]:
    """The models that are compared: title, model, colour, dash, and what a summary says of each."""
    run = members[0].run
    found: list[tuple[str, str, str, str, RunSummary | TeacherSummary]] = [
        (run.teacher_title(name), one.model, "teacher", "dashed", one) for name, one in run.summary.teachers.items()
    ]
    for place, member in enumerate(members):
        title = member.name if place else "Student"
        found.append((title, member.run.summary.model, member.colour, css_dash(place), member.run.summary))
    return found


def _comparison(members: Sequence[Member]) -> Values:
    run = members[0].run
    sides, info, several = _sides(members), TASK_INFO[run.summary.task], len(run.summary.teachers) > 1
    rows = []
    for measure in (*info.measures, *info.compared):
        own = measure in info.measures
        values = [getattr(side.measures if own else side, measure.name, None) for *_, side in sides]
        if not own and not several:
            values[: len(run.summary.teachers)] = [None] * len(run.summary.teachers)
        if any(value is not None for value in values):
            rows.append(_row(measure.title, measure.meaning, [measure.written(value) for value in values]))
    for number, (title, key, unit) in enumerate(_SIZES):
        cells = [scaled(getattr(side, key), unit=unit) for *_, side in sides]
        rows.append(_row(title, "", cells, starts_group=not number))
    columns = [Values(title=title, model=model, colour=colour, dash=dash) for title, model, colour, dash, _ in sides]
    return Values(columns=columns, rows=rows)


def _row(metric: str, meaning: str, cells: Sequence[str], *, starts_group: bool = False) -> Values:
    return Values(metric=metric, meaning=meaning, cells=cells, starts_group=starts_group)


def _outputs(members: Sequence[Member]) -> Values:
    """The measure of each class or target, of each model."""
    run, sides = members[0].run, _sides(members)
    measure = _primary(run)
    by_model = [_by_output(side.measures) for *_, side in sides]
    names = list(_by_output(run.summary.measures))
    held = run.predictions
    counts = held.labels.sum(0) if held is not None and run.summary.task == "multi_label" else None
    rows = [
        Values(
            name=name,
            count=whole(int(counts[place])) if counts is not None else DASH,
            cells=[(measure.written(each.get(name)), each.get(name)) for each in by_model],
        )
        for place, name in enumerate(names)
    ]
    what = "Average precision" if run.summary.task == "multi_label" else "R²"
    return Values(
        heads=[title for title, *_ in sides], rows=rows, what=what, with_counts=run.summary.task == "multi_label"
    )


def _by_output(measures: MultiLabelMeasures | RegressionMeasures | None) -> dict[str, float | None]:
    if measures is None:
        return {}
    return dict(measures.class_ap if isinstance(measures, MultiLabelMeasures) else measures.target_r2)


def _scatter(held: Predictions | None) -> list[Chart]:
    """The student's output against the truth, of the first targets, for evenly spread test images."""
    if held is None:
        return []
    rows = np.unique(np.linspace(0, len(held.labels) - 1, min(len(held.labels), _DOTS)).astype(int))
    charts = []
    for place, name in enumerate(held.class_names[:_DRAWN]):
        truth, said = held.labels[rows, place], held.student_logits[rows, place]
        low, high = float(truth.min()), float(truth.max())
        diagonal = line([low, high], [low, high], "exact", "axis", mode="lines", line={"dash": "dot", "width": 1.5})
        dots: Figure = {
            "type": "scatter",
            "mode": "markers",
            "x": rounded(truth.tolist()),
            "y": rounded(said.tolist()),
            "name": "Student",
            "showlegend": False,
            "marker": {"color": LIGHT["student"], "size": 5, "opacity": 0.6},
            "hovertemplate": "true %{x}, student %{y}",
        }
        figure = figure_of([diagonal, dots], axis("true value"), axis("student"), hovermode="closest")
        text = f"{whole(len(rows))} test $images; on the dotted line the student is exact."
        charts.append(Chart(f"target-{place}", escaped(name), text, 300, figure))
    return charts
