"""One command from a folder of photographs to a page, and the same again from its recipe.

    python benchmarks/photos.py --data imagenette-part --out docs/results/photos.md

Three folders: as it is; the same recipe again, whose student must have the same bytes; and a copy with mixed sizes and
formats, a split called ``Train`` and no test split. Each row: wall-clock and processor seconds of the whole command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pages import write_page
from PIL import Image

from stillroom.files import find_input

FORMATS = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".jpeg", ".gif")


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


def timed(arguments: list[str]) -> tuple[float, float, dict[str, Any]]:
    """Wall-clock and processor seconds of a command, and what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "stillroom", *arguments, "--json"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        time.perf_counter() - began,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        json.loads(printed),
    )


def digest(run: Path) -> str:
    return hashlib.sha256((run / "student.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagenette-part")
    parser.add_argument("--teacher", default="torchvision:resnet18")
    parser.add_argument("--student", default="timm:mobilenetv3_small_050")
    parser.add_argument("--size", default="64")
    parser.add_argument("--epochs", default="3")
    parser.add_argument("--threads", default="2", help="fewer than there are cores where other work shares them")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="photos-"))
    os.environ["STILLROOM_CACHE"] = str(work / "cache")
    models = ["--teacher", options.teacher, "--student", options.student, "--image-size", options.size]
    models += ["--epochs", options.epochs, f"training.threads={options.threads}"]
    rows = []
    try:
        count = mixed_copy(find_input(options.data), work / "mixed")
        for name, data in (("as it is", options.data), (f"{count} mixed, Train, no test", str(work / "mixed"))):
            out = work / name.replace(" ", "-").replace(",", "")
            wall, cpu, printed = timed(["distill", "--data", data, *models, "--out", str(out)])
            scores = [json.loads((Path(run) / "summary.json").read_text())["top1"] for run in printed["runs"].values()]
            rows.append((name, wall, cpu, " / ".join(f"{score:.1f}" for score in scores), "page"))
            print(rows[-1], flush=True)
            recipe = out / "distilled" / "recipe.yaml"
            wall, cpu, _ = timed(["distill", str(recipe), "--out", str(out.with_name(out.name + "-again"))])
            same = digest(out / "distilled") == digest(out.with_name(out.name + "-again"))
            rows.append(("… from its recipe", wall, cpu, "", "same bytes" if same else "OTHER BYTES"))
            print(rows[-1], flush=True)
    finally:
        shutil.rmtree(work)
    write_page(
        options.out,
        "One command on a folder of photographs",
        f"`python benchmarks/photos.py --data {options.data} --teacher {options.teacher} --student {options.student} "
        f"--size {options.size} --epochs {options.epochs} --threads {options.threads}`, {os.cpu_count()} cores that "
        f"other work shared (load {os.getloadavg()[1]:.0f}): the wall clock is of that hour. Random weights, as no "
        "published ones can be had here: the accuracies say that it runs, not what a pretrained teacher gives.",
        ["folder", "seconds", "processor seconds", "top-1, % of teacher / from labels / distilled", "result"],
        [[name, f"{wall:.0f}", f"{cpu:.0f}", scores, result] for name, wall, cpu, scores, result in rows],
    )


if __name__ == "__main__":
    main()
