"""The display of a running study in the terminal: a table that fills, running jobs, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stillroom.cli.terminal import stderr
from stillroom.study.progress import JobState, StudyObserver, StudyProgress

_REFRESH = 0.5  # seconds between two updates


class LiveStudy(StudyObserver):
    """Shows a study: a table on a terminal, a line for each job elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or stderr
        self._live: Live | None = None
        self._refreshed = 0.0

    def started(self, progress: StudyProgress) -> None:
        if self._console.is_terminal:
            self._live = Live(render_progress(progress), console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(escape(text), soft_wrap=True)

    def alarm(self, text: str) -> None:
        """Print a line in red above the table."""
        self._console.print(f"[bold red]{escape(text)}[/bold red]", soft_wrap=True)

    def ended(self, state: JobState, progress: StudyProgress) -> None:
        """A line for each job where there is no table; failures always."""
        if state.status == "failed":
            self.alarm(f"{state.id}: {state.reason}")
        elif self._live is None:
            alike = progress.of_kind(state.kind)
            done = sum(other.status == "done" for other in alike)
            value = f": {progress.measure} {state.value:.4g}" if state.value is not None else ""
            self._console.print(escape(f"[{done}/{len(alike)}] {state.id}{value} ({state.seconds:.0f} s)"))

    def refresh(self, progress: StudyProgress) -> None:
        if self._live is not None and time.monotonic() - self._refreshed > _REFRESH:
            self._live.update(render_progress(progress), refresh=True)
            self._refreshed = time.monotonic()

    def stopped(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextmanager
def live_display(console: Console, progress: StudyProgress) -> Iterator[Live]:
    """A live display for another process than the study's own."""
    with Live(render_progress(progress), console=console, auto_refresh=False) as live:
        yield live


def render_progress(progress: StudyProgress) -> RenderableType:
    """The state of a study: finished runs of each method, running jobs, time left."""
    runs = progress.of_kind("run")
    phase = "finished" if _is_over(progress) else progress.phase or "starting"
    parts: list[RenderableType] = [Text(f"{progress.name}: {phase}", style="bold")]
    if runs:
        parts.append(_method_table(progress, runs))
    running = [state for state in progress.jobs.values() if state.status == "running"]
    if running:
        parts.append(_job_table(running))
    parts.append(_footer(progress))
    return Group(*parts)


def _method_table(progress: StudyProgress, runs: list[JobState]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("pair")
    table.add_column("method")
    table.add_column("runs done", justify="right")
    # The range of the finished runs; a mean without an interval would suggest a winner.
    table.add_column(f"{progress.measure} so far", justify="right")
    rows: dict[tuple[str, str], list[JobState]] = {}
    for state in runs:
        _, pair, method, _ = state.id.split("/")
        rows.setdefault((pair, method), []).append(state)
    for (pair, method), states in rows.items():
        values = [state.value for state in states if state.value is not None]
        failed = sum(state.status == "failed" for state in states)
        done = f"{sum(state.status == 'done' for state in states)}/{len(states)}" + (
            f", {failed} failed" if failed else ""
        )
        ends = sorted({min(values), max(values)}) if values else []
        table.add_row(escape(pair), escape(method), done, " … ".join(f"{end:.2f}" for end in ends))
    return table


def _job_table(states: list[JobState]) -> Table:
    table = Table(show_header=False, show_edge=False, box=None, pad_edge=False)
    for state in states:
        attempt = f"attempt {state.attempts}" if state.attempts > 1 else ""
        bar = ProgressBar(total=1.0, completed=state.share(), width=28)
        table.add_row(escape(state.id), bar, _clock(time.time() - state.began), attempt)
    return table


def _is_over(progress: StudyProgress) -> bool:
    runs = progress.of_kind("run")
    return bool(runs) and all(state.status in ("done", "failed") for state in progress.jobs.values())


def _footer(progress: StudyProgress) -> Text:
    done = sum(state.status == "done" for state in progress.jobs.values())
    left = progress.seconds_left()
    words = [
        f"{done} of {len(progress.jobs)} jobs done",
        f"{progress.workers} at a time",
        f"{_clock((progress.updated if _is_over(progress) else time.time()) - progress.began)} so far",
    ]
    if any(state.status in ("waiting", "running") for state in progress.jobs.values()):
        words.append(f"about {_clock(left)} left" if left is not None else "time left not known yet")
    return Text(", ".join(words), style="dim")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0.0))))
