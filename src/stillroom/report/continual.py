"""Class-incremental learning on pages: the section of a run's page and of a study's, their plots and heat maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stillroom.report.blocks import Values
from stillroom.report.charts import (
    DASHES,
    LIGHT,
    Chart,
    Figure,
    SeriesStyle,
    axis,
    band,
    escaped,
    figure_of,
    line,
    rounded,
)
from stillroom.report.formats import DASH, decimal, scaled, whole
from stillroom.report.run.charts import Member
from stillroom.schema.continual import FinishedRecord, JointComparison, MethodTasks, PairTasks
from stillroom.schema.study import StudyResults
from stillroom.wording import counted, listed

_DEEPEST_SHADE = 52  # a deeper one leaves the number on it too little contrast
_BALANCE_WORDS = (
    "A student biased to the newest classes predicts them (dashed) more often than there are $images of them "
    "(dotted), at the cost of old classes."
)
_COLUMNS = (
    "Learned, new", "Learned, old", "Test", "Mean, %", "Own task, %", "Old, %", "Old among old, %", "New, %",
    "Answers on new, %", "Exemplars", "Memory",
)  # fmt: skip
_STUDY_COLUMNS = (
    "Own task, %", "Old, %", "Old among old, %", "New, %", "Answers on new, %", "Ω", "Exemplars", "Memory",
)  # fmt: skip


@dataclass(frozen=True)
class AccuracyLine:
    """Accuracy after each task: its mean, the ends of its band where it has one, and its style."""

    name: str
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    colour: str
    dash: str = "solid"
    symbol: str = "circle"
    group: str = ""
    margin: str = "± %{customdata}"


def accuracy_figure(lines: Sequence[AccuracyLine]) -> Figure:
    """Accuracy after each task, with a band around each line that has one."""
    traces: list[Figure] = []
    for place, each in enumerate(lines):
        if each.low is not None and each.high is not None:
            tasks = [float(task) for task in range(1, len(each.low) + 1)]
            traces.append(band(tasks, each.low, each.high, each.colour, each.group))
        traces.append(_line_trace(each, len(lines) - place))
    return figure_of(
        traces,
        _tasks_axis(max((len(each.mean) for each in lines), default=1)),
        axis("mean accuracy on the tasks so far, %", rangemode="tozero"),
        hovermode="x unified" if len(lines) <= 6 else "closest",
    )


def balance_figure(
    old: Sequence[float | None], new: Sequence[float], answered: Sequence[float], are: Sequence[float]
) -> Figure:
    """Accuracy on old classes and on the newest, and the share of answers on the newest, from the second task on."""
    tasks = [float(task) for task in range(2, len(new) + 1)]
    shown = [
        ("old classes", [value or 0.0 for value in old[1:]], "student", "solid"),
        ("newest classes", list(new[1:]), "lost", "solid"),
        ("predictions of the newest", list(answered[1:]), "other-1", "dash"),
        ("$images of the newest", list(are[1:]), "axis", "dot"),
    ]
    traces = [
        line(tasks, values, name, colour, mode="lines+markers", hovertemplate="%{y:.1f}%", line={"dash": dash})
        for name, values, colour, dash in shown
    ]
    y = axis("% of test $images", range=[0, 103])
    return figure_of(traces, _tasks_axis(len(new)), y, hovermode="x unified")


def heat_map(title: str, matrix: Sequence[Sequence[float]]) -> Values:
    """An accuracy matrix, each number shaded by its size."""
    return Values(
        title=title,
        rows=tuple(
            tuple(
                Values(
                    text=decimal(row[task]),
                    shade=round(_DEEPEST_SHADE * row[task] / 100),
                    title=f"classes of task {task + 1} after task {after}: {decimal(row[task], 2)}%",
                )
                if task < len(row)
                else None
                for task in range(len(matrix))
            )
            for after, row in enumerate(matrix, start=1)
        ),
    )


def _line_trace(each: AccuracyLine, order: int) -> Figure:
    margins = None
    if each.low is not None and each.high is not None:
        margins = rounded([(high - low) / 2 for low, high in zip(each.low, each.high, strict=True)], 3)
    return line(
        [float(task) for task in range(1, len(each.mean) + 1)],
        each.mean,
        each.name,
        each.colour,
        legendgroup=each.group,
        hovertemplate="%{y:.2f}%" + (f" {each.margin}" if margins else "") + f"<extra>{escaped(each.name)}</extra>",
        customdata=margins,
        zorder=order + 1,
        line={"dash": each.dash, "width": 2},
        marker={"size": 6, "color": LIGHT[each.colour], "symbol": each.symbol},
    )


def _tasks_axis(tasks: int) -> Figure:
    return axis("after task", dtick=1 if tasks <= 12 else 2, unifiedhovertitle={"text": "after task %{x}"})


# The section of a run's page.


def tasks_section(members: Sequence[Member]) -> Values | None:
    """The section of a run's page; None where its classes came all at once."""
    record, joint = members[0].run.incremental, members[0].run.joint
    if record is None:
        return None
    lines = _accuracy_lines([member for member in members if member.run.incremental is not None])
    balances = [task.balance for task in record.tasks]
    balance = balance_figure(
        [each.old for each in balances],
        [each.new for each in balances],
        [each.answered_new for each in balances],
        [each.are_new for each in balances],
    )
    figure = accuracy_figure(lines)
    accuracy = Chart("tasks", "Accuracy after each task", _accuracy_words(lines), 340, figure)
    balanced = Chart("balance", "Old classes against new", _BALANCE_WORDS, 340, balance)
    return Values(
        sentences=_sentences(record, joint),
        accuracy=accuracy,
        legend=tuple(lines),
        heats=(
            heat_map("Accuracy on each task after each", record.matrix),
            heat_map("The same among the classes of the $image’s own task", record.task_local),
        ),
        balance=balanced,
        charts=[accuracy, balanced],
        columns=_COLUMNS,
        rows=_task_rows(record),
        notes=_notes(record),
    )


def _accuracy_lines(members: Sequence[Member]) -> list[AccuracyLine]:
    """A line for each recipe: runs that differ in the seed alone are one, its band from the lowest to the highest."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        recipe = {key: value for key, value in member.run.recipe.items() if key not in ("seed", "name")}
        groups.setdefault(json.dumps(recipe, sort_keys=True, default=str), []).append(member)
    lines = []
    for place, group in enumerate(groups.values()):
        held = [one.run.incremental.accuracies for one in group if one.run.incremental]
        columns = list(zip(*held, strict=False))
        several = len(held) > 1
        lines.append(
            AccuracyLine(
                name=f"{group[0].run.name}, {counted(len(held), 'seed')}" if several else group[0].name,
                mean=tuple(sum(column) / len(column) for column in columns),
                low=tuple(min(column) for column in columns) if several else None,
                high=tuple(max(column) for column in columns) if several else None,
                colour=group[0].colour,
                dash=DASHES[place % len(DASHES)],
                group=f"tasks-{place}",
            )
        )
    return lines


def _accuracy_words(lines: Sequence[AccuracyLine]) -> str:
    words = "The mean over all tasks so far; every class seen is a possible prediction."
    if any(each.low is not None for each in lines):
        words += " Runs that differ in the seed alone are one line, their mean, with a band from lowest to highest."
    return words


def _sentences(record: FinishedRecord, joint: JointComparison | None) -> list[str]:
    classes, last, metrics = len(record.class_order), record.tasks[-1], record.metrics
    first = (
        f"{whole(classes)} classes came in {len(record.tasks)} tasks. After the last the student's accuracy is "
        f"{decimal(metrics.final)}% (the mean over tasks); averaged over all tasks it was {decimal(metrics.average)}%, "
        f"without the first {decimal(metrics.average_from_second)}%. "
    )
    if metrics.forgetting > 0:
        first += f"From its best accuracy on each old task it lost {decimal(metrics.forgetting)} points on average."
    else:
        first += f"It forgot nothing: old tasks gained {decimal(-metrics.forgetting)} points on average."
    second = (
        f"In the end {decimal(last.balance.answered_new)}% of its predictions are the newest classes, which are "
        f"{decimal(last.balance.are_new)}% of the $images: its accuracy is {decimal(last.balance.new)}% on these, and "
        f"{decimal(last.balance.old)}% on the old ones."
    )
    chance = sum(100 / len(task.classes) for task in record.tasks) / len(record.tasks)
    third = (
        f"Where only the classes of $an_image’s own task are possible answers, {decimal(metrics.task_local)}% are "
        f"right (chance {decimal(chance)}%); where only old classes are, {decimal(metrics.old_only)}% of the old "
        "$images. This is what it still knows of old tasks, apart from its preference for newer classes."
    )
    sentences = [first, second, third]
    if joint is not None and joint.omega is not None:
        sentences.append(f"Ω = {decimal(joint.omega, 3)}: its accuracy as a share of joint training's.")
    return sentences


def _task_rows(record: FinishedRecord) -> list[Values]:
    rows, first = [], 0
    for task, local in zip(record.tasks, record.task_local, strict=True):
        names = record.class_names[first : first + len(task.classes)]
        first += len(task.classes)
        balance, memory = task.balance, task.memory
        cells = (
            whole(task.new), whole(task.old), whole(task.test), decimal(task.accuracy, 2),
            decimal(sum(local) / len(local), 2), decimal(balance.old, 2), decimal(balance.old_only, 2),
            decimal(balance.new, 2), f"{decimal(balance.answered_new)} of {decimal(balance.are_new)}",
            whole(memory.exemplars), scaled(memory.bytes, "B") if memory.bytes else DASH,
        )  # fmt: skip
        rows.append(Values(task=str(task.task), classes=", ".join(names), cells=cells))
    return rows


def _notes(record: FinishedRecord) -> list[str]:
    notes = []
    if record.memory.joint:
        notes.append("Joint training: every task learns from all $images of all classes seen, so this is a ceiling.")
    elif record.memory.exemplars:
        most = max(task.memory.exemplars for task in record.tasks)
        notes.append(
            f"Up to {whole(record.memory.exemplars)} training $images were stored, the same number per class, chosen "
            f"{'by herding' if record.memory.selection == 'herding' else 'at random'}; {whole(most)} at the most. "
            "Memory: their $pixels."
        )
    else:
        notes.append("No $image of an old class was stored.")
    if record.predict_by == "nearest_mean":
        notes.append("The nearest mean of exemplars predicts, in penultimate features of length 1, not the logits.")
    if not record.equal_tasks:
        sizes = listed(str(len(task.classes)) for task in record.tasks)
        notes.append(f"Tasks have {sizes} classes; in every mean over tasks each counts alike.")
    if any(abs(task.accuracy - task.pooled) > 0.005 for task in record.tasks):
        last = record.tasks[-1]
        notes.append(
            "Tasks do not have the same number of test $images, so the mean over tasks is not that over $images: in "
            f"the end {decimal(last.accuracy, 2)}% and {decimal(last.pooled, 2)}%."
        )
    notes.append(
        "Forgetting: the best accuracy on a task before the last, less that after the last, the mean over all tasks "
        "but the last."
    )
    return notes


# The section of a study's page.


def study_tasks_sections(study: StudyResults, styles: Mapping[str, SeriesStyle]) -> tuple[Values, ...]:
    """The sections of a study's page, one a pair; none where no classes came in tasks."""
    return tuple(_pair_section(study, styles, place, pair) for place, pair in enumerate(study.incremental))


def _pair_section(study: StudyResults, styles: Mapping[str, SeriesStyle], place: int, pair: PairTasks) -> Values:
    by_name = {each.method: each for each in pair.methods}
    methods = {name: by_name[name] for name in study.names if name in by_name}
    lines = [_method_line(study, styles[name], each) for name, each in methods.items()]
    words = (
        "The mean over the tasks so far; every class seen is a possible prediction. Lines are means over seeds, bands "
        f"their {study.percent} intervals."
    )
    note = (
        "After the last task. Old and new: accuracy on the test $images of earlier tasks and of the last. Own task: "
        "only the classes of $an_image’s own task are possible answers. Old among old: only those of earlier tasks "
        "are. "
    )
    if pair.joint is None:
        note += "No method is joint training, so there is no Ω."
    else:
        note += f"Ω: the accuracy after each task as a share of {pair.joint}’s (joint training); the mean over tasks."
    return Values(
        pair=pair.pair,
        chart=Chart(f"tasks-{place}", "Accuracy after each task", words, 420, accuracy_figure(lines)),
        heats=tuple(heat_map(name, each.matrix) for name, each in methods.items()),
        columns=_STUDY_COLUMNS,
        rows=tuple(Values(name=name, cells=_method_cells(each)) for name, each in methods.items()),
        note=note,
    )


def _method_line(study: StudyResults, style: SeriesStyle, method: MethodTasks) -> AccuracyLine:
    means = [task.accuracy for task in method.tasks]
    # Seeds may all be alike after one task and not after another: no interval is no width.
    low = tuple(each.mean if each.low is None else max(each.low, 0.0) for each in means)
    high = tuple(each.mean if each.high is None else min(each.high, 100.0) for each in means)
    banded = any(each.low is not None for each in means)
    return AccuracyLine(
        name=method.method,
        mean=tuple(each.mean for each in means),
        low=low if banded else None,
        high=high if banded else None,
        colour=style.colour,
        dash=style.dash,
        symbol=style.symbol,
        group=f"run-{study.names.index(method.method)}",
    )


def _method_cells(method: MethodTasks) -> tuple[str, ...]:
    last, omega = method.tasks[-1], method.omega
    exemplars = max(task.exemplars for task in method.tasks)
    size = max(task.bytes for task in method.tasks)
    share = DASH
    if omega is not None:
        share = decimal(omega.mean, 3)
        if omega.low is not None:
            share += f" [{decimal(omega.low, 3)}, {decimal(omega.high, 3)}]"
    return (
        decimal(last.task_local),
        decimal(last.old),
        decimal(last.old_only),
        decimal(last.new),
        f"{decimal(last.answered_new)} of {decimal(last.are_new)}",
        share,
        whole(exemplars) if exemplars else DASH,
        scaled(size, "B") if size else DASH,
    )
