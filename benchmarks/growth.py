"""How cost grows: whole commands over images, classes, runs of a study and its workers, with the slope between sizes.

    python benchmarks/growth.py --out runs/growth    # about 40 minutes on two cores; goes on where it stopped
    python benchmarks/growth.py --part classes --out runs/growth
    python benchmarks/growth.py --show --out runs/growth           # the tables of the rows so far

Each row is one command in a process of its own: seconds of the wall and of the processor, the largest resident set of
any of its processes, bytes left on disk. Models are tiny, so that what grows is what the product does around them. The
slope is that of log(cost) over log(size) against the row before: 1 is proportional, 0 is constant.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PARTS = {
    "images": "Pictures of 32×32, 2 epochs of 2 views, ResNet-8 of width 2 → width 1; a second run has the cache",
    "classes": "20,000 vectors of 1,100 numbers, 4 epochs of 1 view, a linear teacher, `mlp` with 16 hidden units",
    "runs": "A study of digits, 64 images, 1 epoch a run, 1 worker; then its page alone (`stillroom report`)",
    "workers": "The same study of 30 runs of 10 epochs on 1,000 images",
}
COSTS = ("wall", "processor", "memory", "disk")
IMAGES, CLASSES, RUNS, WORKERS = (1000, 10_000, 100_000), (10, 100, 1000), (10, 100, 1000), (1, 2)


def main() -> None:
    """Run what has no row yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="may be repeated; default: all")
    parser.add_argument("--largest", type=int, help="leave out larger sizes")
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--show", action="store_true", help="run nothing")
    options = parser.parse_args()
    file = options.out / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not options.show:
        options.out.mkdir(parents=True, exist_ok=True)
        bench = Bench(options.out.resolve(), {(row["part"], row["command"], row["size"]) for row in rows})
        for part in options.part or PARTS:
            for row in getattr(bench, part)(options.largest or sys.maxsize):
                rows.append(row)
                with file.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr)
    print("\n".join(tables(rows)))


class Bench:
    """Runs commands in a folder that each part empties, and gives a row for each that has none."""

    def __init__(self, out: Path, done: set[tuple[str, str, int]]) -> None:
        self.out, self.done = out, done

    def images(self, largest: int) -> Iterator[dict[str, Any]]:
        """A first run and a second one with its cache."""
        for size in sizes(IMAGES, largest):
            if self.has("images", size, "first run", "second run"):
                continue
            place = self.fresh()
            data = {"source": "shapes", "shapes": {"train": size, "test": 1000}, "batch_size": 128}
            teacher = self.trained(place, data | {"shapes": {"train": 1000, "test": 1000}}, "resnet8", {"width": 2})
            data["augmentation"] = {"pad_crop": 2, "views": 2}
            recipe = distil(data, teacher, {"name": "resnet8", "options": {"width": 1}}, epochs=2)
            for seed, name in enumerate(("first run", "second run")):
                yield self.row("images", size, name, place, ["distill", write(place, recipe | {"seed": seed})])

    def classes(self, largest: int) -> Iterator[dict[str, Any]]:
        """All logits kept, and the sixteen largest."""
        for size in sizes(CLASSES, largest):
            commands = {"all logits": None} | ({"top 16": 16} if size > 16 else {})
            if self.has("classes", size, *commands):
                continue
            place = self.fresh()
            numbers = {"dimension": 1100, "classes": size, "superclasses": 5, "waves": 0, "train": 20_000, "test": 1000}
            data = {"source": "synthetic", "synthetic": numbers, "batch_size": 128}
            teacher = self.trained(place, data, "mlp", {"hidden": []})
            for name, top in commands.items():
                recipe = distil(data, teacher, {"name": "mlp", "options": {"hidden": [16]}}, epochs=4)
                recipe["cache"] = {"enabled": True, "top_k": top}
                yield self.row("classes", size, name, place / name, ["distill", write(place, recipe)])

    def runs(self, largest: int) -> Iterator[dict[str, Any]]:
        """Two methods, as many seeds as it takes; then the page."""
        for size in sizes(RUNS, largest):
            if self.has("runs", size, "compare", "report"):
                continue
            place = self.fresh()
            study = write(place, digits(size, epochs=1, images=64))
            yield self.row("runs", size, "compare", place, ["compare", study, "--workers", "1"])
            yield self.row("runs", size, "report", place, ["report"], keep=True)

    def workers(self, largest: int) -> Iterator[dict[str, Any]]:
        """The same runs, shared out."""
        for size in sizes(WORKERS, largest):
            if self.has("workers", size, "compare"):
                continue
            place = self.fresh()
            study = write(place, digits(30, epochs=10, images=1000))
            yield self.row("workers", size, "compare", place, ["compare", study, "--workers", str(size)])

    def has(self, part: str, size: int, *commands: str) -> bool:
        """Whether all rows of a size are there."""
        return all((part, command, size) in self.done for command in commands)

    def fresh(self) -> Path:
        """An empty folder."""
        shutil.rmtree(self.out / "place", ignore_errors=True)
        (self.out / "place").mkdir()
        return self.out / "place"

    def trained(self, place: Path, data: dict[str, Any], name: str, options: dict[str, Any]) -> dict[str, Any]:
        """A teacher of one epoch."""
        recipe = {"data": data, "student": {"name": name, "options": options}, "training": {"epochs": 1}}
        self.run(["train", write(place, recipe)], place, place / "teacher")
        return {"name": name, "options": options, "weights": str(place / "teacher/student.safetensors")}

    def row(
        self, part: str, size: int, command: str, place: Path, words: list[str], *, keep: bool = False
    ) -> dict[str, Any]:
        """One command, measured; with ``keep`` it is run on the folder that the one before left."""
        out = place / "out"
        if not keep:
            shutil.rmtree(out, ignore_errors=True)
        wall, processor, memory = self.run(words, place, out, keep=keep)
        disk = sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 2**20
        return {
            "part": part,
            "size": size,
            "command": command,
            "wall": round(wall, 2),
            "processor": round(processor, 2),
            "memory": round(memory, 1),
            "disk": round(disk, 2),
            "load": round(os.getloadavg()[0], 1),
        }

    def run(self, words: list[str], place: Path, out: Path, *, keep: bool = False) -> tuple[float, float, float]:
        """Seconds of the wall and of the processor, MiB of the largest process."""
        command = [sys.executable, "-m", "stillroom", *words, *([str(out)] if keep else ["--out", str(out)])]
        environment = {**os.environ, "STILLROOM_CACHE": str(place / "cache")}
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        printed = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{printed[-2000:]}")
        scale = 2**20 if sys.platform == "darwin" else 2**10
        return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale


def sizes(all_of_them: tuple[int, ...], largest: int) -> Iterator[int]:
    """Those that are asked for."""
    return (size for size in all_of_them if size <= largest)


def write(place: Path, recipe: dict[str, Any]) -> str:
    """A recipe or study as a file."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(place / "recipe.yaml")


def distil(data: dict[str, Any], teacher: dict[str, Any], student: dict[str, Any], *, epochs: int) -> dict[str, Any]:
    """A recipe that evaluates once and keeps no checkpoints."""
    losses = [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4}]
    training = {"epochs": epochs, "evaluate_every": epochs, "checkpoints": [], "log_every": 100}
    return {"data": data, "teacher": teacher, "student": student, "losses": losses, "training": training}


def digits(runs: int, *, epochs: int, images: int) -> dict[str, Any]:
    """A study of two methods without a teacher."""
    recipe = {
        "data": {"source": "digits", "batch_size": 64, "train_limit": images},
        "student": {"name": "resnet8", "options": {"width": 2}},
        "training": {"evaluate_every": epochs, "checkpoints": [], "log_every": 10},
    }
    methods = [
        {"name": "labels", "set": {"losses": [{"name": "cross_entropy"}]}},
        {"name": "smoothed", "set": {"losses": [{"name": "label_smoothing", "smoothing": 0.1}]}},
    ]
    return {
        "name": "growth",
        "question": "How does the cost of a study grow with its runs?",
        "seeds": list(range(runs // 2)),
        "baseline": "labels",
        "budget": {"epochs": epochs},
        "recipe": recipe,
        "methods": methods,
    }


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One table a part, with the slope of each cost against the row of the size before."""
    for part, what in PARTS.items():
        mine = [row for row in rows if row["part"] == part]
        if not mine:
            continue
        yield f"## {part.capitalize()}\n\n{what}.\n"
        yield f"| {part} | command | wall, s | slope | processor, s | slope | memory, MiB | slope | disk, MiB | slope |"
        yield "|---:|---|" + "---:|" * 8
        for command in dict.fromkeys(row["command"] for row in mine):
            before = None
            for row in sorted((row for row in mine if row["command"] == command), key=lambda row: row["size"]):
                cells = [f"{row['size']:,}", command]
                for cost in COSTS:
                    cells += [f"{row[cost]:,.1f}", slope(before, row, cost)]
                yield "| " + " | ".join(cells) + " |"
                before = row
        yield ""


def slope(before: dict[str, Any] | None, row: dict[str, Any], cost: str) -> str:
    """log(cost ratio) / log(size ratio).

    >>> slope({"size": 10, "wall": 1.0}, {"size": 100, "wall": 10.0}, "wall")
    '1.00'
    """
    if before is None or not before[cost] or not row[cost]:
        return "–"
    return f"{math.log(row[cost] / before[cost]) / math.log(row['size'] / before['size']):.2f}"


if __name__ == "__main__":
    main()
