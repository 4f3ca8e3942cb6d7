"""Terminal output: the progress bar of a run, and tables. Everything but results goes to standard error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from stillroom.observer import Observer
from stillroom.schema.run import TIMING, read_timing
from stillroom.tasks import TASK_INFO, Measure

stderr = Console(stderr=True, highlight=False)

# The figures shown next to the bar, and their format.
_GLANCE = {
    "loss": "loss {:.3f}",
    "top1": "top-1 {:.2f}%",
    "map": "mAP {:.2f}%",
    "r2": "R² {:.4f}",
    "agreement": "agrees {:.1f}%",
}


class ProgressBar(Observer):
    """Shows one run: steps, time left, last loss and accuracy; without a terminal, a line for each evaluation."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or stderr
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase: TaskID | None = None
        self._glance: dict[str, str] = {}

    def run_started(self, title: str, total_steps: int, done: int) -> None:
        self._glance = {}  # the figures of a run before this one are not its own
        self._task = self._live().add_task(title, total=total_steps, completed=done, glance="")

    def stepped(self, step: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def logged(self, line: dict[str, Any]) -> None:
        for key, form in _GLANCE.items():
            if key in line:
                self._glance[key] = form.format(line[key])
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, glance="  ".join(self._glance.values()))
        if (split := line.get("split")) in ("validation", "test") and not self._console.is_terminal:
            where = f", {split}" if split == "validation" else ""
            self._console.print(f"epoch {line['epoch']:g}{where}: " + "  ".join(self._glance.values()), soft_wrap=True)

    def phase(self, what: str, done: int, total: int) -> None:
        """Show an evaluation while it lasts."""
        bar = self._live()
        if self._phase is None:
            self._phase = bar.add_task(what, total=total, glance="")
        bar.update(self._phase, description=what, completed=done, total=total)
        if done >= total:
            bar.remove_task(self._phase)
            self._phase = None

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(escape(text), soft_wrap=True)

    def run_ended(self) -> None:
        """Stop the bar, leaving its last state."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = self._phase = None

    def _live(self) -> Progress:
        if self._bar is None:
            clocks = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            # In a narrow terminal all columns would be cut.
            is_narrow = self._console.width < 80
            self._bar = Progress(
                TextColumn("{task.description}"),
                *(() if is_narrow else (BarColumn(bar_width=28),)),
                MofNCompleteColumn(),
                *(() if is_narrow else clocks),
                TextColumn("{task.fields[glance]}"),
                console=self._console,
                disable=not self._console.is_terminal,
            )
            self._bar.start()
        return self._bar


def describe_phases(run: Path) -> str:
    """What the wall time of a run's last process went to, the longest phase first; empty where it does not say."""
    events = [event for event in read_timing(run / TIMING) if event.event == "phases" and event.seconds]
    if not events:
        return ""
    total, phases = events[-1].seconds or 0.0, events[-1].phases or {}
    shares = (f"{name} {seconds:.1f}" for name, seconds in sorted(phases.items(), key=lambda item: -item[1]))
    return f"time: {total:.1f} s ({', '.join(shares)})"


class FittingTable(Table):
    """A table that, where its columns would be cut within words, is written a row below the other."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if Measurement.get(console, options.update(width=10_000), self).minimum <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        yield Text.from_markup(f"[bold]{self.title}[/]")
        for number in range(self.row_count):
            for place, column in enumerate(self.columns):
                head, cell = str(column.header), str(list(column.cells)[number])
                name = f"{head}: " if head and place else ""
                if cell.strip():
                    yield Padding(Text.from_markup(f"{name}{cell}"), (0, 0, 0, 2 if place else 0))


def table(title: str, columns: list[str], rows: list[list[str]], right_from: int = 1) -> Table:
    """A table of plain text; columns from ``right_from`` on are aligned to the right."""
    shown = FittingTable(title=escape(title), title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        shown.add_column(escape(column), justify="right" if position >= right_from else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    return shown


_SIZES = (("parameters", "parameters"), ("multiply-adds", "multiply_adds"), ("bytes on disk", "bytes"))


def heading(measure: Measure) -> str:
    """A measure's title, with nats where these are its unit."""
    return f"{measure.title} (nats)" if measure.unit == "nats" else measure.title


def summary_table(summary: dict[str, Any]) -> Table:
    """A run's results next to its teachers'; with several, agreement and KL are in each one's column."""
    teachers = summary["teachers"]
    words = ["peer" if one.get("peer") else "teacher" for one in teachers.values()]
    names = words if len(teachers) == 1 else [f"{word} {name}" for word, name in zip(words, teachers, strict=True)]
    columns = ["", f"student {summary['model']}"]
    columns += [f"{name} {one['model']}" for name, one in zip(names, teachers.values(), strict=True)]
    sides = [{**side, **(side.get("measures") or {})} for side in (summary, *teachers.values())]
    info = TASK_INFO[sides[0].get("task", "single_label")]
    measures = (*info.measures, *info.compared)
    rows = [[heading(each), *(each.written(side.get(each.name)) for side in sides)] for each in measures]
    for title, key in _SIZES:
        rows.append([title, *(f"{side[key]:,}" if side.get(key) is not None else "–" for side in sides)])
    return table(str(summary["name"]), columns, [row for row in rows if any(cell != "–" for cell in row[1:])])
