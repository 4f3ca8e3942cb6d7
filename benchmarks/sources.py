"""What each member of the KL family costs: its step, its memory, its cache, and its Fisher weights.

    python benchmarks/sources.py                       # both pairs: docs/results/sources-cost.{md,json}
    python benchmarks/sources.py --pairs resnet56-resnet8 --rounds 30 --out try
    python benchmarks/sources.py --quick               # printed only; too few rounds to quote

Two bars: a step with stepping stones (`block_logit`) takes at most 1.1 times the student's step and the teacher's
partial tails, each measured alone; a cached `feature_fisher` at most 1.15 times `feature_mse`. Methods are
processes that take turns, as in speed.py. The images and the teacher's weights are random: cost depends on neither. On
a machine with a GPU everything is on the GPU. On 2 cores it takes about 10 minutes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sources_job import MEMBERS, PAIRS, STONES, WEIGHTS, SourceJob, tail_name
from sources_report import Findings, page, slowest_wait
from speed import WORTH_QUOTING, cores, shown_command, stop_on_signals, when_and_what
from speed_job import Pair
from speed_race import Failed, Race, ask_once, run_race

from stillroom.errors import nearest
from stillroom.files import write_json, write_text

METHOD = (
    "Every method is a process of its own; they take turns by a baton over a pipe, and all but one sleep in a "
    "read. The order is drawn afresh each round.",
    "A round is {steps} steps of each; {rounds} rounds are counted, {warmup} before them are not. Figures are medians "
    "with [lower, upper quartile]; ratios and differences are taken within each round first.",
    "Each member runs through a recipe and `execute`, cached, with all that a step of a run has: order, crop and flip, "
    "the answers looked up, schedule, meter, a log line every 20 steps. `labels`, the logits' members and the stones "
    "are the whole loss; members that read features go with 0.1 × cross-entropy, as they alone train no "
    "classifier.",
    "A tail alone is the one that the first step of the run with all stones used, on the very features that this step "
    "gave it: the same shape, layout and precision. Timed are its forward pass, in the run's precision, and the "
    "backward pass from a gradient of its logits to the features. One that takes less than a student's step is passed "
    "through many times, and timed as a whole: a process that has just woken up is slow for some milliseconds.",
    "Fisher weights at `layer2` are of 4 drawn classes and come from the cache; at `features` they follow from the "
    "cached logits in closed form, within the step that is timed.",
    "The stones have a race of their own, with a `kl` of their own; memory is weighed in processes of their own, too.",
    "Fisher weights are worked out by the live teacher, for one batch a round; {asked} rounds are counted.",
)
QUICK = {"rounds": 3, "warmup": 1, "steps": 4, "images": 256, "views": 1, "asked": 1}


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What the user asks for, checked before anything runs."""
    parser = argparse.ArgumentParser(
        prog="sources.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    of = f"of {', '.join(PAIRS)}; the first is measured with all members, the others with the stones"
    parser.add_argument("--pairs", nargs="+", metavar="PAIR", help=of)
    parser.add_argument("--quick", action="store_true", help="few rounds of the first pair: does it run?")
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--rounds", type=int, default=WORTH_QUOTING, help=f"rounds that count ({WORTH_QUOTING})")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them, which do not (2)")
    parser.add_argument("--steps", type=int, default=10, help="steps of each method in a round (10)")
    parser.add_argument("--asked", type=int, default=5, help="rounds of Fisher weights (5)")
    parser.add_argument("--threads", type=int, default=cores(), help=f"CPU threads of each (all cores: {cores()})")
    parser.add_argument("--images", type=int, default=1024, help="training images (1024)")
    parser.add_argument("--views", type=int, default=2, help="views of each image in the cache (2)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU if any")
    parser.add_argument("--out", type=Path, help="folder of sources-cost.{md,json} (docs/results; with --quick none)")
    chosen = parser.parse_args(words)
    if chosen.quick:
        given = {word.partition("=")[0].removeprefix("--") for word in words}
        vars(chosen).update({name: value for name, value in QUICK.items() if name not in given})
    elif chosen.out is None:
        chosen.out = Path("docs/results")
    chosen.pairs = list(dict.fromkeys(chosen.pairs or list(PAIRS)[: 1 if chosen.quick else None]))
    for name in chosen.pairs:
        if name not in PAIRS:
            parser.error(f"--pairs: got {name!r}; expected a pair ({nearest(name, PAIRS)})")
    for name in ("rounds", "warmup", "steps", "asked", "threads", "views"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name}: got {getattr(chosen, name)}; expected at least 1")
    if not 2 <= chosen.batch <= chosen.images:
        parser.error(f"--batch: got {chosen.batch}; expected 2 to --images ({chosen.images})")
    if chosen.out is not None and chosen.out.exists() and not chosen.out.is_dir():
        parser.error(f"--out: got {str(chosen.out)!r}; expected a folder, not a file")
    return chosen


class Bench:
    """All pairs, one after another, in a folder that is gone afterwards."""

    def __init__(self, chosen: argparse.Namespace, folder: Path, tick: Callable[[str], None]) -> None:
        self.chosen, self.folder, self.tick = chosen, folder, tick
        self.numbers = itertools.count()

    def findings(self) -> Iterator[Findings]:
        """Measure each pair."""
        for place, name in enumerate(self.chosen.pairs):
            yield self.measure(PAIRS[name], members=place == 0)

    def measure(self, pair: Pair, *, members: bool) -> Findings:
        """The stones of one pair, and its other members where asked for."""
        chosen, cache = self.chosen, self.folder / pair.name / "cache"
        cache.mkdir(parents=True)
        self.tick(f"{pair}: the teacher")
        ask_once(self.job(pair, "prepare", task="prepare"), cache)
        self.tick(f"{pair}: keeping its answers")
        found = ask_once(self.job(pair, "keep", task="keep", members=members), cache)
        begins: dict[str, list[str]] = found["stones"]
        taps = list(dict.fromkeys(tap for taps in begins.values() for tap in taps))
        longest = max(STONES, key=lambda name: len(begins[name]))
        tails = [self.job(pair, tail_name(t), task="tail", tap=t, losses=STONES[longest]) for t in taps]
        with_stones = [self.job(pair, name, losses=terms) for name, terms in STONES.items()]
        kl = self.job(pair, "kl", losses=MEMBERS["kl"])
        stones = self.race(pair, [kl, *with_stones, *tails], cache)
        others = [self.job(pair, name, losses=terms) for name, terms in MEMBERS.items()] if members else []
        return Findings(
            pair,
            chosen.batch,
            chosen.steps,
            chosen.images,
            stones,
            begins,
            self.race(pair, others, cache) if members else Race(),
            self.answers(pair, cache),
            found["kept"],
            {
                name: self.weigh(pair, name, terms, cache)
                for name, terms in {**MEMBERS, **STONES}.items()
                if members or name == "kl" or name in STONES
            },
        )

    def race(self, pair: Pair, jobs: Sequence[SourceJob], cache: Path) -> Race:
        """Some methods in turns."""
        chosen = self.chosen
        return run_race(
            jobs,
            cache,
            warmup=chosen.warmup,
            rounds=chosen.rounds,
            steps=chosen.steps,
            tick=lambda what: self.tick(f"{pair}: {what}"),
        )

    def answers(self, pair: Pair, cache: Path) -> Race:
        """The live teacher, with Fisher weights and without."""
        jobs = [
            self.job(pair, name, task="answer", tap=tap, samples=samples) for name, (tap, samples) in WEIGHTS.items()
        ]
        asked = self.chosen.asked
        tick = self.tick
        return run_race(jobs, cache, warmup=1, rounds=asked, steps=1, tick=lambda what: tick(f"{pair}: {what}"))

    def weigh(self, pair: Pair, name: str, terms: list[dict[str, Any]], cache: Path) -> dict[str, float]:
        """The memory of one member."""
        self.tick(f"{pair}: weighing {name}")
        return ask_once(self.job(pair, name, task="weigh", losses=terms), cache)

    def job(self, pair: Pair, name: str, **more: Any) -> SourceJob:
        """What a worker needs to know."""
        chosen, place = self.chosen, self.folder / pair.name
        return SourceJob(
            do=name,
            teacher=pair.teacher,
            student=pair.student,
            classes=pair.classes,
            weights=str(place / "teacher.safetensors"),
            given=None,
            data=None,
            images=chosen.images,
            batch=chosen.batch,
            views=chosen.views,
            threads=chosen.threads,
            device=chosen.device,
            folder=str(place / f"{next(self.numbers)}-{name.replace(', ', '-').replace(' ', '-')}"),
            **more,
        )


def steps_to_tell(chosen: argparse.Namespace) -> int:
    """How often the bench says what comes next, about."""
    turns = chosen.warmup + chosen.rounds + 1
    stones = 2 + (1 + len(STONES) + 3) * turns + len(WEIGHTS) * (2 + chosen.asked) + 1 + len(STONES)
    members = len(MEMBERS) * turns + len(MEMBERS) - 1
    return len(chosen.pairs) * int(stones) + int(members)


def main(words: Sequence[str]) -> int:
    """Measure, write, print; exit codes as stillroom's own."""
    chosen = arguments(words)
    console = Console(stderr=True, highlight=False)
    lines = when_and_what(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
    if chosen.rounds < WORTH_QUOTING:
        lines.append(f"only {chosen.rounds} rounds: for a look, not for quoting")
        console.print(lines[-1], style="yellow")
    lines.append(f"{chosen.images:,} random images, 3×32×32; views: {chosen.views}; teacher's weights: random")
    method = [text.format(**vars(chosen)) for text in METHOD]
    command = shown_command(words, "sources.py")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn())
    clocks = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    findings: list[Findings] = []
    text = ""
    try:
        with (
            stop_on_signals(),
            tempfile.TemporaryDirectory(prefix="stillroom-sources-") as folder,
            Progress(*columns, *clocks, console=console, disable=not console.is_terminal) as bar,
        ):
            task = bar.add_task("", total=steps_to_tell(chosen))
            bench = Bench(chosen, Path(folder), lambda what: bar.update(task, description=what, advance=1))
            for found in bench.findings():
                findings.append(found)
                reported = [*lines, slowest_wait(findings)]
                text = page(findings, command, reported, method)
                if chosen.out is not None:
                    write_text(chosen.out / "sources-cost.md", text)
                    raw = {"command": command, "provenance": reported, "pairs": [found.as_dict() for found in findings]}
                    write_json(chosen.out / "sources-cost.json", raw)
    except Failed as failure:
        console.print(f"error: {failure}", markup=False, soft_wrap=True)
        return 2 if failure.bad_input else 1
    except KeyboardInterrupt:
        console.print(f"interrupted; {len(findings)} pairs were measured to the end")
        return 130
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
