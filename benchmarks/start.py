"""How long until something happens: `import stillroom`, `stillroom --help`, the first training steps of a command.

    python benchmarks/start.py                 # medians of 5, about a minute on two quiet cores
    python benchmarks/start.py --turns 1 --imports 20    # and the 20 modules that take longest on the way to a step

Each is a process of its own, from its start. First steps are seen from outside: a command's first line of training in
``metrics.jsonl``, which is asked for after one step; the command is then stopped. `stillroom demo` logs after as many
steps as its study says, so its figure is an upper bound.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = str(ROOT / "recipes" / "digits.yaml")
STILLROOM = [sys.executable, "-m", "stillroom"]
STEP = [*STILLROOM, "train", RECIPE, "training.log_every=1", "--out"]
# What is asked of each, in seconds of the wall.
BARS = {"import stillroom": 0.1, "stillroom --help": 0.5, "first step of digits": 6.0, "first steps of demo": 6.0}


def whole(command: list[str]) -> Callable[[], tuple[float, float]]:
    """A command from its start to its end: seconds of the wall and of the processor."""

    def run() -> tuple[float, float]:
        began, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - began, os.times()
        return wall, after.children_user + after.children_system - before.children_user - before.children_system

    return run


def first_line(command: list[str]) -> Callable[[], tuple[float, float]]:
    """A command, up to its first line of training: the folder follows it."""

    def run() -> tuple[float, float]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            environment = {**os.environ, "STILLROOM_CACHE": f"{place}/cache"}
            began = time.perf_counter()
            process = subprocess.Popen(
                [*command, f"{place}/out"],
                env=environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while not any(b'"train"' in log.read_bytes() for log in Path(place).rglob("metrics.jsonl")):
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended with {process.returncode} before its first step")
                time.sleep(0.01)
            wall = time.perf_counter() - began
            os.killpg(process.pid, signal.SIGKILL)
            _, _, usage = os.wait4(process.pid, 0)
            return wall, usage.ru_utime + usage.ru_stime

    return run


WORKS = {
    "python alone": whole([sys.executable, "-c", "pass"]),
    "import stillroom": whole([sys.executable, "-c", "import stillroom"]),
    "stillroom --help": whole([*STILLROOM, "--help"]),
    "import torch": whole([sys.executable, "-c", "import torch"]),
    "first step of digits": first_line(STEP),
    "first steps of demo": first_line([*STILLROOM, "demo", "--out"]),
}


def slow_imports(count: int) -> list[str]:
    """The modules that take longest on the way to a step, without what they import, in milliseconds."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-X", "importtime", *STEP[1:], f"{place}/out", "training.steps=1"]
        command += ["training.epochs=null"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"^import time: +(\d+) \| +(\d+) \| (\s*)(\S+)$", printed, re.MULTILINE)
    total: dict[str, int] = {}
    for own, _, _, name in found:
        package = ".".join(name.split(".")[:2])
        total[package] = total.get(package, 0) + int(own)
    return [f"{total[name] / 1000:7.1f} ms  {name}" for name in sorted(total, key=lambda each: -total[each])[:count]]


def main() -> None:
    """Print the table; exit with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--imports", type=int, default=0, help="also list so many slow imports")
    chosen = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WORKS}
    for _ in range(chosen.turns):
        for name, work in WORKS.items():
            found[name].append(work())
    print("| what | wall, s | processor, s | asked |\n|---|---:|---:|---:|")
    walls = {name: statistics.median(wall for wall, _ in each) for name, each in found.items()}
    # An import is what it adds to Python itself.
    walls["import stillroom"] -= walls["python alone"]
    for name, wall in walls.items():
        asked = f"{BARS[name]:g}" if name in BARS else ""
        print(f"| {name} | {wall:.3f} | {statistics.median(cpu for _, cpu in found[name]):.3f} | {asked} |")
    print("\n".join(slow_imports(chosen.imports)) if chosen.imports else "")
    if any(walls[name] > bar for name, bar in BARS.items()):
        sys.exit(1)


if __name__ == "__main__":
    main()
