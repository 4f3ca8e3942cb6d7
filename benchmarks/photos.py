"""One command from a folder of photographs to a page, and the same again from its recipe.

    python benchmarks/photos.py --data imagenette-part --work FOLDER --out docs/results/photos.md

A row each for a teacher of torchvision with a student of timm, at the models' own size; the student again from its
recipe, which must have the same bytes; with ``--more`` also a teacher of timm with a student of torchvision, and a copy
of the folder with mixed sizes and formats, a split called ``Train`` and no test split. Rows that FOLDER has are kept:
stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pages import write_page
from PIL import Image

from stillroom.files import find_input

FORMATS = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".jpeg", ".gif")
MIXED = "mixed"


def mixed_copy(source: Path, target: Path) -> int:
    """Copy the training photographs as files of several formats and sizes; returns how many."""
    count = 0
    for path in sorted(source.glob("train/*/*.jpg")):
        kind = FORMATS[count % len(FORMATS)]
        folder = target / "Train" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            width, height = 120 + count * 37 % 300, 120 + count * 53 % 260
            image.resize((width, height)).save(folder / f"{path.stem}{kind if count % 5 else kind.upper()}")
        count += 1
    return count


def timed(arguments: list[str]) -> dict[str, Any]:
    """A command's wall-clock and processor seconds, and what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "stillroom", *arguments, "--json"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - began, "cpu": cpu, "printed": json.loads(printed)}


def digest(run: Path) -> str:
    return hashlib.sha256((run / "student.safetensors").read_bytes()).hexdigest()


def measure(name: str, data: str, models: list[str], work: Path, rows: Path) -> None:
    """The command on a folder, then its recipe again; each appends a row to a file of them, unless it is there."""
    there = [json.loads(line)["row"] for line in rows.read_text().splitlines()] if rows.exists() else []
    out, again = work / name, work / f"{name}-again"
    if name not in there:
        found = timed(["distill", "--data", data, *models, "--out", str(out)])
        runs = found.pop("printed")["runs"]
        summaries = {each: json.loads((Path(run) / "summary.json").read_text()) for each, run in runs.items()}
        found["plan"] = json.loads((out / "plan.json").read_text())
        found["top1"] = {
            "teacher": summaries["distilled"]["teachers"]["teacher"]["top1"],
            **{each: summaries[each]["top1"] for each in ("labels", "distilled")},
        }
        append(rows, {"row": name, "models": models[1:4:2], **found})
    if f"{name}-again" not in there:
        found = timed(["distill", str(out / "distilled" / "recipe.yaml"), "--out", str(again)])
        found.pop("printed")
        append(rows, {"row": f"{name}-again", "same": digest(out / "distilled") == digest(again), **found})


def append(rows: Path, row: dict[str, Any]) -> None:
    with rows.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the page."""
    time_cells = [f"{row['wall']:.0f}", f"{row['cpu']:.0f}"]
    if "same" in row:
        return ["… from its recipe", "", *time_cells, "", "", "same bytes" if row["same"] else "OTHER BYTES"]
    plan = row["plan"]
    name = "1,000 mixed, Train, no test" if row["row"] == MIXED else "as it is"
    epochs = f"{plan['teacher_epochs']} / {plan['student_epochs']} epochs, {plan['seconds']:.0f} s"
    levels = " / ".join(f"{row['top1'][each]:.1f}" for each in ("teacher", "labels", "distilled"))
    return [name, " → ".join(row["models"]), *time_cells, epochs, levels, "page"]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagenette-part")
    parser.add_argument("--teacher", default="torchvision:resnet18")
    parser.add_argument("--student", default="timm:mobilenetv3_small_050")
    parser.add_argument("--size", help="default: the models' own")
    parser.add_argument("--minutes", default="6.5", help="for each command")
    parser.add_argument("--more", action="store_true", help="the second pair and the mixed copy, too")
    parser.add_argument("--threads", default=str(os.cpu_count()), help="fewer where other work shares the cores")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs and of the rows measured so far")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work, rows = options.work, options.work / "rows.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    os.environ["STILLROOM_CACHE"] = str(work / "cache")
    common = [*(["--image-size", options.size] if options.size else []), "--minutes", options.minutes]
    common.append(f"training.threads={options.threads}")
    models = ["--teacher", options.teacher, "--student", options.student, *common]
    measure("first", options.data, models, work, rows)
    if options.more:
        models = ["--teacher", "timm:resnet18", "--student", "torchvision:mobilenet_v3_small", *common]
        measure("second", options.data, models, work, rows)
        if not (work / "photos").is_dir():
            mixed_copy(find_input(options.data), work / "photos")
        models = ["--teacher", options.teacher, "--student", options.student, *common]
        measure(MIXED, str(work / "photos"), models, work, rows)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    size = f" --size {options.size}" if options.size else ""
    write_page(
        options.out,
        "One command on a folder of photographs",
        f"`python benchmarks/photos.py --data {options.data} --work FOLDER{size} --minutes {options.minutes}"
        f"{' --more' if options.more else ''} --threads {options.threads}`, {os.cpu_count()} cores (load "
        f"{os.getloadavg()[1]:.0f}). Random weights, as no published ones can be had here: the accuracies say that it "
        "runs, not what a pretrained teacher gives. The plan is what the command says before it begins: epochs of the "
        "teacher and of each student, and the time.",
        ["folder", "models", "seconds", "processor seconds", "plan", "top-1, % teacher / labels / distilled", "result"],
        [cells(row) for row in found],
    )


if __name__ == "__main__":
    main()
