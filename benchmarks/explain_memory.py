"""What `stillroom explain` takes of memory: the most of the whole command, by images and by checkpoints.

    python benchmarks/explain_memory.py           # up to 200 images × 15 checkpoints: docs/results/explain-memory.md
    python benchmarks/explain_memory.py --quick   # 16 images × 3 checkpoints, printed only: does it run?

A ResNet-8 with 15 checkpoints is trained for moments; the command then runs in a process of its own for each count of
images and of checkpoints, with few passes an image, which memory does not depend on. About 10 minutes on a core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from speed import shown_command, when_and_what
from speed_report import table

from stillroom.files import write_text
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute

COUNTS = ((25, 15), (50, 15), (100, 15), (200, 15), (200, 3), (200, 8))
QUICK = ((8, 3), (16, 3))
PASSES = 57
RECIPE: dict[str, Any] = {
    "data": {"source": "shapes", "shapes": {"train": 256, "test": 200}, "batch_size": 64},
    "student": {"name": "resnet8"},
    "losses": [{"name": "cross_entropy"}],
    "training": {"evaluate_every": 100, "record_weight_distance": ["layer3.0.conv2"]},
}


def measured(folder: Path, images: int) -> tuple[float, float]:
    """The most memory of the command in MB, and its seconds."""
    command = [sys.executable, "-m", "stillroom", "explain", str(folder), "--images", str(images)]
    began = time.perf_counter()
    child = subprocess.Popen([*command, "--passes", str(PASSES), "--json"], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"stillroom explain: exit code {child.returncode}")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return used.ru_maxrss / unit, time.perf_counter() - began


def main() -> None:
    """Measure, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and checkpoints, printed only")
    parser.add_argument("--out", type=Path, help="folder of explain-memory.md (docs/results; with --quick none)")
    chosen = parser.parse_args()
    counts = QUICK if chosen.quick else COUNTS
    lines = when_and_what(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
    rows = []
    with tempfile.TemporaryDirectory(prefix="stillroom-memory-") as name:
        for images, checkpoints in counts:
            folder = Path(name) / f"run-{checkpoints}"
            if not folder.exists():
                training = {**RECIPE["training"], "epochs": checkpoints - 1, "checkpoints": [*range(checkpoints - 1)]}
                execute(parse_recipe({**RECIPE, "training": training}), folder, latency=False)
            shutil.rmtree(folder / "explain", ignore_errors=True)
            rows.append((images, checkpoints, *measured(folder, images)))
            print(f"{images} images × {checkpoints} checkpoints: {rows[-1][2]:.0f} MB, {rows[-1][3]:.0f} s", flush=True)
    most = max(checkpoints for _, checkpoints, *_ in rows)
    of_most = [row for row in rows if row[1] == most]
    slope, start = np.polyfit([row[0] for row in of_most], [row[2] for row in of_most], 1)
    cells = [[str(images), str(kept), f"{peak:.0f}", f"{took:.0f}"] for images, kept, peak, took in rows]
    text = [
        "# What `stillroom explain` takes of memory",
        "",
        f"Command: `{shown_command(sys.argv[1:], 'explain_memory.py')}`",
        "",
        *(f"- {line}" for line in lines),
        "",
        "A ResNet-8 on 3×32×32 images, 16×16 cells, one process, its most resident memory (PyTorch itself included).",
        "",
        table(["images", "checkpoints", "most, MB", "seconds"], cells),
        "",
        f"With {most} checkpoints: {start:.0f} MB and {1000 * slope:.0f} KB an image; three maps of 256 cells in "
        f"float64 for each checkpoint are {most * 6.144:.0f} KB.",
    ]
    print("\n".join(text[7:]))
    if chosen.out is not None or not chosen.quick:
        write_text((chosen.out or Path("docs/results")) / "explain-memory.md", "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
