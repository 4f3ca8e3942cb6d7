"""How fast a distillation step is: stillroom, live and cached, against the loop everybody writes.

    python benchmarks/speed.py                                      # both pairs, batch 64: docs/results/speed.{md,json}
    python benchmarks/speed.py --pairs resnet56-resnet8 --batch 64 128
    python benchmarks/speed.py --rounds 3 --steps 20 --out try # a quick look; too few rounds to quote
    python benchmarks/speed.py --ablation                           # and what each piece of the hot path brings

Each method is a process of its own, and they take turns: one makes its steps while all the others sleep, in an
order drawn afresh each round, so that what else the machine does falls on all alike. Rates are medians over the rounds
with their quartiles; ratios are taken within each round first. The images are random and in memory, unless --data names
real ones; the teacher's weights are random, unless --teacher-weights names a file: speed depends on neither.
On a machine with a GPU everything is on the GPU. On 2 cores, both pairs take about 20 minutes.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from speed_job import ABLATION, BARE_CACHED, CACHED, COMPILED, GPU_ONLY, PAIRS, VARIANTS, Job, Pair
from speed_race import Failed, Race, ask_once, run_race
from speed_report import Workload, page

from stillroom.errors import nearest
from stillroom.files import find_input, write_json, write_text

WORTH_QUOTING = 15  # rounds
METHOD = (
    "Every method is a process of its own; they take turns by a baton over a pipe, and all but one sleep in a "
    "read. The order is drawn afresh each round.",
    "A round is {steps} steps of each; {rounds} rounds are counted, {warmup} before them are not. Figures are medians "
    "with [lower, upper quartile]; ratios are taken within each round, then their median.",
    "All augment alike, with stillroom's own whole-batch crop and flip on images in memory: the plain loop is *not* "
    "slowed down by a data loader. Nor does it read its loss back each step, as such loops do. On a GPU it has torch's "
    "defaults, TF32 convolutions included.",
    "Ours run through a recipe and `execute`, with all that a run has: order, schedule, meter, a log line every 20 "
    "steps.",
    "Each process first frees a block of 31 MiB, as the first evaluation of a training does: from then on glibc keeps "
    "what a step frees. Who happened to evaluate something before its first step would else be faster by a tenth.",
    "Peak memory is each process's largest resident set, its start included: a cached run, too, is given the teacher "
    "as a model.",
)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What the user asks for, checked before anything runs."""
    parser = argparse.ArgumentParser(
        prog="speed.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="PAIR", help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--batch", nargs="+", type=int, default=[64], help="images a step; several are run in turn")
    parser.add_argument(
        "--rounds", type=int, default=WORTH_QUOTING, help="rounds that count (15); fewer are not worth quoting"
    )
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them, which do not (2)")
    parser.add_argument(
        "--duel", type=int, default=50, help="rounds of cached against its bare step alone (50); 0 takes the race's"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of each method in a round (20)")
    parser.add_argument("--threads", type=int, default=cores(), help=f"CPU threads of each (all cores: {cores()})")
    parser.add_argument("--images", type=int, default=10_000, help="training images (10000)")
    parser.add_argument("--views", type=int, default=4, help="views of each image in the cache (4)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU if any")
    parser.add_argument("--data", help="folder of real RGB images, as `stillroom evaluate --data` takes it")
    parser.add_argument(
        "--teacher-weights", nargs="+", default=[], metavar="TEACHER=FILE", help="such as resnet56=weights/r56.th"
    )
    parser.add_argument("--ablation", action="store_true", help="also take the live step apart, piece by piece")
    parser.add_argument("--gpu-methods", action="store_true", help="also what gpu.py adds to the race")
    parser.add_argument("--minutes", type=float, help="begin no round after so many, shared out among the workloads")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page and its numbers")
    parser.add_argument("--name", default="speed", help="of both files (speed: speed.md and speed.json)")
    chosen = parser.parse_args(words)
    check(parser, chosen)
    return chosen


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Tell what is wrong in a line, with exit code 2."""
    for name in chosen.pairs:
        if name not in PAIRS:
            parser.error(f"--pairs: got {name!r}; expected a pair ({nearest(name, PAIRS)})")
    least = {"rounds": 1, "duel": 0, "warmup": 1, "steps": 1, "threads": 1, "images": 2, "views": 1}
    for name, smallest in least.items():
        if getattr(chosen, name) < smallest:
            parser.error(f"--{name}: got {getattr(chosen, name)}; expected at least {smallest}")
    for batch in chosen.batch:
        if not 2 <= batch <= chosen.images:
            parser.error(f"--batch: got {batch}; expected 2 to --images ({chosen.images})")
    chosen.pairs, chosen.batch = list(dict.fromkeys(chosen.pairs)), list(dict.fromkeys(chosen.batch))
    if chosen.data is not None and not find_input(chosen.data).is_dir():
        parser.error(f"--data: got {chosen.data!r}; expected a folder, here or under $STILLROOM_DATA")
    teachers = [PAIRS[name].teacher for name in chosen.pairs]
    given: dict[str, str] = {}
    for text in chosen.teacher_weights:
        teacher, equals, file = text.partition("=")
        if not equals or teacher not in teachers:
            parser.error(
                f"--teacher-weights: got {text!r}; expected TEACHER=FILE with TEACHER of {', '.join(teachers)}"
            )
        if not find_input(file).is_file():
            parser.error(f"--teacher-weights: got {file!r}; expected a file, here or under $STILLROOM_DATA")
        given[teacher] = str(find_input(file).resolve())
    chosen.teacher_weights = given
    if chosen.out.exists() and not chosen.out.is_dir():
        parser.error(f"--out: got {str(chosen.out)!r}; expected a folder, not a file")


class Bench:
    """All workloads, one after another, in a folder that is gone afterwards."""

    def __init__(self, chosen: argparse.Namespace, folder: Path, bar: Progress) -> None:
        self.chosen, self.folder, self.bar = chosen, folder, bar
        self.names = [
            *VARIANTS,
            *(ABLATION if chosen.ablation else ()),
            *(GPU_ONLY if chosen.gpu_methods else ()),
        ]
        race = len(self.names) * (1 + chosen.warmup + chosen.rounds)
        race += 2 * (1 + chosen.warmup + chosen.duel) if chosen.duel else 0
        total = len(chosen.pairs) * (2 + len(chosen.batch) * race)
        self.task = bar.add_task("", total=total)
        self.done = -1
        self.numbers = itertools.count()
        self.began = time.monotonic()
        self.shares = len(chosen.pairs) * len(chosen.batch)

    def tick(self, what: str) -> None:
        """Say what comes next; one more thing is done before it."""
        self.done += 1
        self.bar.update(self.task, description=what, completed=self.done)

    def workloads(self) -> Iterator[Workload]:
        """Measure each pair at each batch size."""
        ended = 0
        for name in self.chosen.pairs:
            pair = PAIRS[name]
            cache = self.folder / name / "cache"
            cache.mkdir(parents=True)
            self.tick(f"{pair}: the teacher")
            found = ask_once(self.job("prepare", pair, self.chosen.batch[0]), cache)
            self.tick(f"{pair}: building a cache")
            build = ask_once(self.job("build", pair, self.chosen.batch[0]), cache)
            for batch in self.chosen.batch:
                ended += 1
                until = self.began + 60 * self.chosen.minutes * ended / self.shares if self.chosen.minutes else None
                race = self.race(pair, batch, cache, until, has_cache="seconds" in build)
                # A few per cent show only over many rounds of the two alone.
                rounds = self.chosen.duel
                duel = self.run([CACHED, BARE_CACHED], pair, batch, cache, rounds, until) if rounds else race
                steps, views = self.chosen.steps, self.chosen.views
                yield Workload(pair, batch, steps, found["images"], found["classes"], views, race, build, duel)

    def run(self, names: list[str], pair: Pair, batch: int, cache: Path, rounds: int, until: float | None) -> Race:
        """Some methods of one workload, in turns."""
        return run_race(
            [self.job(name, pair, batch) for name in names],
            cache,
            warmup=self.chosen.warmup,
            rounds=rounds,
            steps=self.chosen.steps,
            tick=lambda what: self.tick(f"{pair}, batch {batch}: {what}"),
            until=until,
        )

    def race(self, pair: Pair, batch: int, cache: Path, until: float | None, *, has_cache: bool) -> Race:
        """All methods of one workload."""
        names = [name for name in self.names if has_cache or name not in (CACHED, COMPILED)]
        race = self.run(names, pair, batch, cache, self.chosen.rounds, until)
        if not has_cache:
            reason = "this version of stillroom keeps no cache, whatever `cache.enabled` says"
            race.skipped |= dict.fromkeys((CACHED, COMPILED), reason)
        return race

    def job(self, do: str, pair: Pair, batch: int) -> Job:
        """What a worker needs to know."""
        chosen = self.chosen
        place = self.folder / pair.name
        return Job(
            do=do,
            teacher=pair.teacher,
            student=pair.student,
            classes=pair.classes,
            weights=str(place / "teacher.safetensors"),
            given=chosen.teacher_weights.get(pair.teacher),
            data=chosen.data,
            images=chosen.images,
            batch=batch,
            views=chosen.views,
            threads=chosen.threads,
            device=chosen.device,
            # A method may run twice: in the race, and in the duel.
            folder=str(place / f"{next(self.numbers)}-{batch}-{do.replace(' ', '-')}"),
        )


def provenance(chosen: argparse.Namespace, load: float | None) -> list[str]:
    """When, of what, and how quiet it was."""
    lines = when_and_what(load)
    images = "random images, 3×32×32" if chosen.data is None else f"images of {Path(chosen.data).name}"
    weights = ", ".join(sorted(Path(file).name for file in chosen.teacher_weights.values())) or "random"
    if chosen.rounds < WORTH_QUOTING:
        lines.append(f"only {chosen.rounds} rounds: for a look, not for quoting")
    return [*lines, f"{images}, {chosen.images:,} of them; teacher's weights: {weights}"]


def when_and_what(load: float | None) -> list[str]:
    """The time, how busy the machine was before, and which commit was measured."""
    root = Path(__file__).parent
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"measured {when}" + ("" if load is None else f"; load average of the minute before: {load:.1f}")]
    try:
        ask = {"cwd": root, "capture_output": True, "text": True, "check": True}
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **ask).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "../src", "."], **ask).stdout.strip()  # type: ignore[call-overload]
        lines.append(f"commit {commit}" + (", with changes that are not committed" if changed else ""))
    except (OSError, subprocess.CalledProcessError):
        pass
    return lines


def shown_command(words: Sequence[str], program: str = "speed.py") -> str:
    """The command, without what only this machine's owner should read: whole paths become their last part."""

    def shorten(word: str) -> str:
        key, equals, value = word.rpartition("=")
        return key + equals + (Path(value).name if Path(value).is_absolute() else value)

    return shlex.join(["python", f"benchmarks/{program}", *map(shorten, words)])


def write(
    workloads: list[Workload], chosen: argparse.Namespace, words: Sequence[str], lines: list[str], program: str
) -> None:
    """Both files, whole after each workload."""
    method = [text.format(steps=chosen.steps, rounds=chosen.rounds, warmup=chosen.warmup) for text in METHOD]
    command = shown_command(words, program)
    title = "Speed of a distillation step" + (" on a GPU" if chosen.gpu_methods else "")
    write_text(chosen.out / f"{chosen.name}.md", page(title, workloads, command, lines, method))
    raw = {"command": command, "provenance": lines, "workloads": [workload.as_dict() for workload in workloads]}
    write_json(chosen.out / f"{chosen.name}.json", raw)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """A terminal that closes and a polite kill end the workers, too."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(words: Sequence[str], given: Sequence[str] | None = None, program: str = "speed.py") -> int:
    """Measure, write, print; exit codes as stillroom's own. ``given`` is what the user wrote, where that differs."""
    chosen = arguments(words)
    console = Console(stderr=True, highlight=False)
    if chosen.rounds < WORTH_QUOTING:
        console.print(f"{chosen.rounds} rounds: for a look, not for quoting", style="yellow")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    lines = provenance(chosen, load)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn())
    clocks = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    workloads: list[Workload] = []
    try:
        with (
            stop_on_signals(),
            tempfile.TemporaryDirectory(prefix="stillroom-speed-") as folder,
            Progress(*columns, *clocks, console=console, disable=not console.is_terminal) as bar,
        ):
            for workload in Bench(chosen, Path(folder), bar).workloads():
                workloads.append(workload)
                write(workloads, chosen, words if given is None else given, lines, program)
    except Failed as failure:
        console.print(f"error: {failure}", markup=False, soft_wrap=True)
        return 2 if failure.bad_input else 1
    except KeyboardInterrupt:
        console.print(f"interrupted; {len(workloads)} workloads were measured to the end and are written")
        return 130
    print((chosen.out / f"{chosen.name}.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
