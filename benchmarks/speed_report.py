"""From seconds to Markdown: medians, quartiles, ratios round by round, and what they say of the bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speed_job import (
    ABLATION,
    ALONE,
    BARE_ALONE,
    BARE_CACHED,
    BARE_LIVE,
    CACHED,
    COMPILED,
    FRAMEWORK,
    GPU_ONLY,
    LIVE,
    PLAIN,
    VARIANTS,
    Pair,
)
from speed_race import Race

EPOCHS = (12, 60)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles.

    >>> Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]).format(1)
    '3.0 [2.0, 4.0]'
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of one number or more."""
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)

    def format(self, digits: int) -> str:
        """As the tables print it."""
        return f"{self.median:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


@dataclass(frozen=True)
class Bar:
    """What a ratio between two methods is held to: ``ours`` / ``theirs`` at least ``least``."""

    ours: str
    theirs: str
    least: float
    words: str


BARS = (
    Bar(LIVE, PLAIN, 1.8, "live ≥ 1.8 × plain"),
    Bar(CACHED, PLAIN, 4.0, "cached ≥ 4 × plain"),
    Bar(CACHED, ALONE, 0.95, "cached ≥ 0.95 × student alone"),
    Bar(CACHED, BARE_CACHED, 0.97, "loop overhead, 1 − cached / bare cached step, ≤ 3% (in a duel, 95% interval)"),
)


@dataclass(frozen=True)
class Workload:
    """One pair at one batch size: what was asked, and what was measured.

    Attributes:
        pair: teacher and student.
        batch: images a step.
        steps: steps of a round.
        images: training images.
        classes: number of logits.
        views: views of each image that the cache holds.
        race: what was measured.
        build: of the cache, how many images were asked about, in how many seconds, and its bytes.
        duel: the cached run against its bare step alone, over many rounds; the race itself where there was none.
    """

    pair: Pair
    batch: int
    steps: int
    images: int
    classes: int
    views: int
    race: Race
    build: dict[str, float]
    duel: Race

    def knows(self, name: str) -> bool:
        """Whether a method took part or was left out for a reason."""
        return name in self.race.seconds or name in self.race.skipped

    def rate(self, name: str) -> Spread | None:
        """Images a second of a method, where it took part."""
        seconds = self.race.seconds.get(name)
        return Spread.of([self.steps * self.batch / second for second in seconds]) if seconds else None

    def ratio(self, ours: str, theirs: str) -> Spread | None:
        """How many times as fast, round by round."""
        pairs = zip(self.race.seconds.get(theirs, ()), self.race.seconds.get(ours, ()), strict=False)
        ratios = [their / our for their, our in pairs]
        return Spread.of(ratios) if ratios else None

    def overhead(self) -> Spread:
        """The cached run as a multiple of its bare step, with the median's own 95% interval in place of quartiles."""
        ratio = [
            bare / ours for bare, ours in zip(self.duel.seconds[BARE_CACHED], self.duel.seconds[CACHED], strict=True)
        ]
        ordered, count = sorted(ratio), len(ratio)
        # Order statistics of a binomial: no shape is assumed.
        reach = 1.96 * count**0.5 / 2
        low, high = ordered[max(int(count / 2 - reach), 0)], ordered[min(int(count / 2 + reach), count - 1)]
        return Spread(statistics.median(ratio), low, high)

    @property
    def has_bars(self) -> bool:
        """Whether the bars are meant for this machine."""
        return self.race.machine["device"] == "cpu" and bool(self.race.machine["native_bf16"])

    def as_dict(self) -> dict[str, Any]:
        """The raw numbers."""
        rounded = {name: [round(second, 4) for second in seconds] for name, seconds in self.race.seconds.items()}
        last = {name: {key: round(value, 3) for key, value in said.items()} for name, said in self.race.last.items()}
        return {
            "pair": self.pair.name,
            "batch": self.batch,
            "steps": self.steps,
            "images": self.images,
            "classes": self.classes,
            "views": self.views,
            "seconds": rounded,
            "first": {name: round(second, 4) for name, second in self.race.first.items()},
            "last": last,
            "skipped": self.race.skipped,
            "duel": {name: [round(second, 4) for second in seconds] for name, seconds in self.duel.seconds.items()},
            "build": {key: round(value, 3) for key, value in self.build.items()},
            "machine": self.race.machine,
        }


def section(workload: Workload) -> str:
    """All that is said of one pair at one batch size."""
    parts = [
        f"## {workload.pair}, batch {workload.batch}",
        _rates(workload),
        _notes(workload),
        _verdicts(workload),
        _totals(workload),
        _ablation(workload),
    ]
    return "\n\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its first column of words and the others of numbers."""
    ruled = "|---" + "|---:" * (len(head) - 1) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", ruled, *("| " + " | ".join(row) + " |" for row in rows)])


def _rates(workload: Workload) -> str:
    on_gpu = workload.race.machine["device"] != "cpu"
    head = ["", "images/s", "× plain", "× student alone", "peak memory, MiB", "held at the end, MiB"]
    rows = []
    for name in {**VARIANTS, **GPU_ONLY}:
        rate = workload.rate(name)
        if rate is None:
            continue
        last = workload.race.last[name]
        row = [name, rate.format(0)]
        row += [_ratio(workload, name, base) for base in (PLAIN, ALONE)]
        row += [f"{last['peak_mb']:,.0f}", f"{last['held_mb']:,.0f}" if "held_mb" in last else "–"]
        rows.append([*row, f"{last['gpu_mb']:,.0f}"] if on_gpu else row)
    return table([*head, "peak on the GPU, MiB"] if on_gpu else head, rows)


def _ratio(workload: Workload, ours: str, theirs: str) -> str:
    ratio = workload.ratio(ours, theirs)
    return "–" if ratio is None or ours == theirs else ratio.format(2)


def _notes(workload: Workload) -> str:
    race = workload.race
    lines = [f"- {name} was left out: {reason}." for name, reason in race.skipped.items()]
    if COMPILED in race.first:
        usual = statistics.median(race.seconds[COMPILED])
        lines.append(
            f"- {COMPILED}: its first {workload.steps} steps took {race.first[COMPILED]:.1f} s, later ones "
            f"{usual:.1f} s; the difference is compilation, once a run, and in none of the rates."
        )
    overhead = workload.ratio(ALONE, BARE_ALONE)
    if overhead is not None:
        lines.append(f"- Overhead of the loop for the student alone: {_overhead(overhead)}.")
    busiest = max(race.last, key=lambda name: float(race.last[name]["idle"]))
    lines.append(
        f"- While it waited, no process used more than {100 * race.last[busiest]['idle']:.1f}% of a core ({busiest})."
    )
    faults = max(race.last, key=lambda name: float(race.last[name]["faults"]))
    lines.append(f"- No process took more than {race.last[faults]['faults']:,.0f} page faults a step ({faults}).")
    return "\n".join(lines)


def _verdicts(workload: Workload) -> str:
    if not workload.has_bars:
        head = "The bars are meant for a CPU with native bfloat16; here the ratios stand without them:"
    else:
        head = "Against the bars, by the median of the rounds:"
    return "\n".join([head, "", *(_verdict(workload, bar) for bar in BARS)])


def _verdict(workload: Workload, bar: Bar) -> str:
    ratio = workload.overhead() if "overhead" in bar.words else workload.ratio(bar.ours, bar.theirs)
    if ratio is None:
        return f"- {bar.words}: not measured"
    reported = _overhead(ratio) if "overhead" in bar.words else ratio.format(2)
    if not workload.has_bars:
        return f"- {bar.ours} / {bar.theirs}: {reported}"
    return f"- {bar.words}: **{'met' if ratio.median >= bar.least else 'not met'}**, {reported}"


def _overhead(ratio: Spread) -> str:
    return f"{100 * (1 - ratio.median):.1f}% [{100 * (1 - ratio.high):.1f}%, {100 * (1 - ratio.low):.1f}%]"


def _totals(workload: Workload) -> str:
    rows = []
    for name in (FRAMEWORK, PLAIN, LIVE, CACHED, COMPILED, ALONE):
        rate = workload.rate(name)
        if rate is None:
            continue
        build = workload.build["seconds"] if name in (CACHED, COMPILED) else 0.0
        once = workload.race.first[name] - statistics.median(workload.race.seconds[name]) if name == COMPILED else 0.0
        times = [epochs * workload.images / rate.median + build + once for epochs in EPOCHS]
        rows.append([name, f"{build:.1f}" if build else "–", *(f"{seconds:,.0f}" for seconds in times)])
    built = ""
    if CACHED in workload.race.seconds:
        seconds, answers = workload.build["seconds"], workload.build["images"]
        built = (
            f"Building the cache, {workload.views} views of {workload.images:,} images, took {seconds:.1f} s "
            f"({1e6 * seconds / answers:,.0f} µs an answer, {answers / seconds:,.0f} answers/s) and "
            f"{workload.build['bytes'] / 2**20:.1f} MiB on disk; measured once, with nothing else running. "
        )
    reported = (
        "What follows is arithmetic on the median rates, epochs × images / rate, with the build"
        f"{' and the compilation' if COMPILED in workload.race.seconds else ''} where there is one; no evaluations."
    )
    return built + reported + "\n\n" + table(["", "build, s", *(f"{epochs} epochs, s" for epochs in EPOCHS)], rows)


def _ablation(workload: Workload) -> str:
    rows = []
    for name in ABLATION:
        rate = workload.rate(name)
        if rate is not None:
            rows.append([name, rate.format(0), _ratio(workload, BARE_LIVE, name)])
    if not rows:
        return ""
    head = "What each piece of the live step brings: the step by hand with all of them, then without one at a time."
    return head + "\n\n" + table(["", "images/s", "all pieces / without this one"], rows)


def described(machine: Mapping[str, Any]) -> list[str]:
    """What the figures hold for, in two lines of Markdown."""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    bf16 = "native bfloat16" if machine["native_bf16"] else "no native bfloat16"
    return [
        f"- {machine['processor']}, {threads}, {bf16}; device: {machine['device']}; "
        f"precision `auto` is {machine['precision']}",
        f"- {machine['platform']}, Python {machine['python']}, torch {machine['torch']}, numpy {machine['numpy']}, "
        f"stillroom {machine['stillroom']}",
    ]


def page(
    title: str, workloads: Sequence[Workload], command: str, provenance: Sequence[str], method: Sequence[str]
) -> str:
    """The whole of ``speed.md`` or ``gpu.md``."""
    methods = {name: words for name, words in {**VARIANTS, **GPU_ONLY}.items() if workloads[0].knows(name)}
    lines = [
        f"# {title}",
        "",
        f"Command: `{command}`",
        "",
        *described(workloads[0].race.machine),
        *(f"- {line}" for line in provenance),
        "",
        "How it was measured:",
        "",
        *(f"- {line}" for line in method),
        "",
        "The methods:",
        "",
        *(f"- **{name}**: {words}" for name, words in methods.items()),
    ]
    return "\n".join(lines) + "\n\n" + "\n\n".join(section(workload) for workload in workloads) + "\n"
