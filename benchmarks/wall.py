"""The wall time of whole commands: ``stillroom distill`` against the plain PyTorch script that one would write.

CIFAR-10, ResNet-56 → ResNet-8, batch 64, all cores. Three commands take turns, each a process of its own: the plain
script (``wall_plain.py``), a first ``stillroom distill`` with an empty cache, and a second one of another seed with the
cache that the first left. Each run is appended to the rows at once; a command that was stopped goes on where it was.

    python benchmarks/wall.py --size 2000x2                      # a minute or two, to look at while working
    python benchmarks/wall.py --table --turns 1                  # 2,000 × 12, 10,000 × 4, 10,000 × 12
    python benchmarks/wall.py --show                             # the tables of the rows so far
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillroom.schema.run import TIMING, read_timing

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "recipes" / "cifar10-resnet56-resnet8.yaml"
TABLE = ("2000x12", "10000x4", "10000x12")
PLAIN, FIRST, SECOND = "plain script", "first run", "second run"
METHODS = (PLAIN, FIRST, SECOND)
# The factor over the plain script that is asked of each.
TARGETS = {("2000x12", FIRST): 1.5, ("10000x4", FIRST): 1.35, ("10000x12", FIRST): 2.2} | {
    ("2000x12", SECOND): 2.8,
    ("10000x4", SECOND): 3.0,
    ("10000x12", SECOND): 3.5,
}
EXEMPT = ("training", "teacher", "evaluation")


def main() -> None:
    """Run what is asked for and not measured yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", default=[], metavar="IMAGESxEPOCHS", help="may be repeated")
    parser.add_argument("--table", action="store_true", help=f"the sizes {', '.join(TABLE)}")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    parser.add_argument("--test-images", type=int, help="of the 10,000; fewer to look at while working")
    parser.add_argument("--rows", type=Path, default=Path("runs/wall.jsonl"))
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("overrides", nargs="*", help="changes to our recipe, such as training.threads=1")
    options = parser.parse_args()
    sizes = [*options.size, *(TABLE if options.table else ())]
    rows = read_rows(options.rows)
    if not options.show:
        until = time.monotonic() + 60 * options.minutes if options.minutes else None
        for row in measure(sizes, options.turns, rows, until, options.test_images, options.overrides):
            rows.append(row)
            options.rows.parent.mkdir(parents=True, exist_ok=True)
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['size']} turn {row['turn']} {row['method']}: {row['wall']:.1f} s", file=sys.stderr)
    print("\n".join(tables(rows)))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(
    sizes: list[str],
    turns: int,
    rows: list[dict[str, Any]],
    until: float | None,
    test_images: int | None,
    overrides: list[str],
) -> Iterator[dict[str, Any]]:
    """Each command of each turn that has no row yet; first and second run of a turn are one after the other."""
    done = {(row["size"], row["turn"], row["method"]) for row in rows}
    for turn in range(turns):
        for size in sizes:
            images, epochs = map(int, size.split("x"))
            with tempfile.TemporaryDirectory() as place:
                # In turns: whatever else the machine does then meets each of them.
                for method in METHODS[turn % 2 :] + METHODS[: turn % 2]:
                    if (size, turn, method) in done and not (method == FIRST and (size, turn, SECOND) not in done):
                        continue
                    if until is not None and time.monotonic() > until:
                        return
                    row = {"size": size, "turn": turn, "method": method}
                    result = run(method, (images, epochs, turn, test_images), Path(place), overrides)
                    if (size, turn, method) not in done:
                        yield row | result | machine()


def run(method: str, work: tuple[int, int, int, int | None], place: Path, overrides: list[str]) -> dict[str, Any]:
    """One command from its start to its end: seconds of the wall and of the processor, accuracy, phases."""
    images, epochs, turn, test_images = work
    data = os.environ["STILLROOM_DATA"]
    seed, out = turn + (1 if method == SECOND else 0), place / method.replace(" ", "-")
    if method == PLAIN:
        command = [sys.executable, str(HERE / "wall_plain.py"), data, str(images), str(epochs), str(seed)]
        command += [str(test_images)] if test_images else []
    else:
        command = [sys.executable, "-m", "stillroom", "distill", str(RECIPE), f"data.train_limit={images}"]
        command += [f"training.epochs={epochs}", f"training.evaluate_every={epochs}", "training.checkpoints=[]"]
        command += [f"data.test_limit={test_images}"] if test_images else []
        # As torch's OneCycleLR in the plain script.
        command += ["training.schedule.momentum=[0.85,0.95]", f"seed={seed}", *overrides, "--out", str(out), "--json"]
    environment = {**os.environ, "STILLROOM_CACHE": str(place / "cache")}
    began, before = time.perf_counter(), os.times()
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    wall, after = time.perf_counter() - began, os.times()
    answer = json.loads(printed.splitlines()[-1])
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    phases = answer["phases"] if method == PLAIN else phases_of(out)
    shutil.rmtree(out, ignore_errors=True)
    phases["other"] = wall - sum(seconds for name, seconds in phases.items() if name != "other")
    return {"wall": wall, "processor": processor, "top1": answer["top1"], "phases": phases}


def phases_of(out: Path) -> dict[str, float]:
    """What a run wrote of its own time."""
    return dict([event for event in read_timing(out / TIMING) if event.event == "phases"][-1].phases or {})


def machine() -> dict[str, Any]:
    """What the row was measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor_name": name, "cores": os.cpu_count(), "load": load}


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Medians of each size and method against the plain script, and the phases of each."""
    yield "| work | command | turns | wall, s | plain ÷ this | asked | processor, s | plain ÷ this | top-1 |"
    yield "|---|---|---|---|---|---|---|---|---|"
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["size"], row["method"]), []).append(row)
    ordered = sorted(grouped.items(), key=lambda item: (item[0][0], METHODS.index(item[0][1])))
    for (size, method), mine in ordered:
        plain = grouped.get((size, PLAIN), [])
        cells = [words(size), method, str(len(mine))]
        for what in ("wall", "processor"):
            middle = statistics.median(row[what] for row in mine)
            factor = f"{statistics.median(row[what] for row in plain) / middle:.2f}" if plain else "–"
            cells += [f"{middle:.1f}", factor]
            if what == "wall":
                cells.append(f"{TARGETS[size, method]:.2f}" if (size, method) in TARGETS else "–")
        yield "| " + " | ".join([*cells, f"{statistics.mean(row['top1'] for row in mine):.2f}"]) + " |"
    names = list(dict.fromkeys(name for row in rows for name in row["phases"]))
    yield ""
    yield f"| work | command | {' | '.join(names)} |"
    yield "|---|---|" + "---|" * len(names)
    for (size, method), mine in ordered:
        cells = []
        for name in names:
            part = statistics.median(row["phases"].get(name, 0.0) / row["wall"] for row in mine)
            over = "**" if part > 0.05 and name not in EXEMPT else ""
            cells.append(f"{over}{100 * part:.1f}%{over}")
        yield f"| {words(size)} | {method} | {' | '.join(cells)} |"


def words(size: str) -> str:
    """A size as the tables write it.

    >>> words("2000x12")
    '2,000 × 12'
    """
    images, epochs = size.split("x")
    return f"{int(images):,} × {epochs}"


if __name__ == "__main__":
    main()
