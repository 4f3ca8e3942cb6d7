"""Kill a run at random instants, resume it, and compare every byte with one never killed.

    python benchmarks/kill_and_resume.py recipes/cifar10-resnet56-resnet8.yaml --kills 20 --out runs/kills \
        data.train_limit=2000 data.test_limit=1000 training.epochs=4 training.checkpoints=[0,2] training.save_seconds=2

The kills take turns: while the teacher's cache is built; while something is written; while the student is evaluated; at
any instant. Each waits until the run does that, then for a random moment; the seed of all is printed. Each run builds
its cache anew. With --processes 2 the run is launched by accelerate, and the kill hits all processes or one of them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

CLOCKS = {"timing.jsonl", "environment.json", "checksums.sha256"}
AIMS = ("cache", "write", "evaluation", "any")


def files(run: Path) -> dict[str, str]:
    found = {str(p.relative_to(run)): p for p in sorted(run.rglob("*")) if p.is_file()}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in found.items() if name not in CLOCKS}


def launcher(processes: int) -> list[str]:
    """Python, in so many processes."""
    if processes <= 1:
        return [sys.executable]
    several = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    fixed = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [sys.executable, *several, *fixed]


class Killer:
    """Starts one run again and again, and kills it."""

    def __init__(self, command: list[str], run: Path, processes: int, draw: random.Random) -> None:
        self.command, self.run, self.processes, self.draw = [*command, "--out", str(run)], run, processes, draw
        self.cache = run.with_name(run.name + "-cache")
        self.environment = {**os.environ, "STILLROOM_CACHE": str(self.cache)}

    def to_the_end(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(self.command, env=self.environment, check=True, **quiet)

    def once(self, aim: str, took: float) -> str | None:
        """Kill it at an instant of this kind; what was killed, or None where the run ended before."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(self.command, env=self.environment, start_new_session=True, **quiet)
        until = time.perf_counter() + self.draw.uniform(0.1, 0.6) * took
        for seen in self._watch(aim):
            if process.poll() is not None:
                if process.returncode:
                    sys.exit(f"the run failed with exit code {process.returncode}")
                return None
            if seen or (aim == "any" and time.perf_counter() > until):
                break
            time.sleep(0.0005 if aim == "write" else 0.005)
        if aim in ("cache", "evaluation"):
            time.sleep(self.draw.uniform(0, 0.3))
        return self._kill(process)

    def _watch(self, aim: str) -> Iterator[bool]:
        """Whether the run does what is aimed at, again and again."""
        metrics, before = self.run / "metrics.jsonl", self._evaluations()
        skip = self.draw.randint(0, 5)  # not always the first write after a start
        writing = False
        while True:
            if aim == "cache":
                yield any(self.cache.glob("*/view-*.progress"))
            elif aim == "evaluation":
                # An evaluation follows the last training line of an epoch at once.
                ends = metrics.exists() and _last(metrics).get("split") == "train" and _whole_epoch(metrics)
                yield ends and self._evaluations() >= before
            elif aim == "write":
                now = any(self.run.rglob(".*.part"))
                skip -= now and not writing
                writing = now
                yield now and skip < 0
            else:
                yield False

    def _evaluations(self) -> int:
        metrics = self.run / "metrics.jsonl"
        return metrics.read_text().count('"test"') if metrics.exists() else 0

    def _kill(self, process: subprocess.Popen[bytes]) -> str:
        whom = "all"
        if self.processes > 1 and self.draw.random() < 0.5:
            workers = psutil.Process(process.pid).children()
            if workers:
                victim = self.draw.randrange(len(workers))
                workers[victim].kill()
                whom = f"process {victim}"
                process.wait()
        if whom == "all":
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return whom


def _last(metrics: Path) -> dict[str, object]:

    lines = metrics.read_text().splitlines()
    try:
        return dict(json.loads(lines[-1])) if lines else {}
    except ValueError:
        return {}


def _whole_epoch(metrics: Path) -> bool:
    return float(str(_last(metrics).get("epoch", 0.5))).is_integer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_intermixed_args()
    distil = ["-m", "stillroom", "distill", str(arguments.recipe), *arguments.overrides, "--resume"]
    command = [*launcher(arguments.processes), *distil]
    draw = random.Random(arguments.seed)
    began = time.perf_counter()
    Killer(command, arguments.out / "whole", arguments.processes, draw).to_the_end()
    took = time.perf_counter() - began
    print(f"never killed: {took:.1f} s; instants drawn with seed {arguments.seed}", flush=True)
    expected = files(arguments.out / "whole")
    kills, same = 0, True
    for number in itertools.count(1):
        killer = Killer(command, arguments.out / f"killed-{number}", arguments.processes, draw)
        # A run keeps what it did, so it ends after a few kills; another is then begun, with an empty cache.
        for aim in AIMS:
            whom = killer.once(aim, took) if kills < arguments.kills else None
            if whom is None:
                break
            kills += 1
            metrics, save = killer.run / "metrics.jsonl", killer.run / "state" / "last.pt"
            lines = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            parts = len(list(killer.run.rglob(".*.part")))
            building = len(list(killer.cache.glob("*/view-*.progress")))
            print(
                f"SIGKILL {kills}, run {number}, aimed at {aim}, hit {whom}: {lines} lines of metrics, "
                f"{'a' if save.exists() else 'no'} save, {parts} half-written files, {building} half-built views",
                flush=True,
            )
        killer.to_the_end()
        found = files(killer.run)
        for name in sorted(expected.keys() | found.keys()):
            equal = expected.get(name) == found.get(name)
            same = same and equal
            print(f"run {number}  {'same' if equal else 'DIFFERENT':9}  {name}  {found.get(name, 'missing')[:16]}")
        shutil.rmtree(killer.cache, ignore_errors=True)
        if kills >= arguments.kills:
            break
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
