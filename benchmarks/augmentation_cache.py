"""Cache on against cache off for each augmentation of photographs, through the command line.

    python benchmarks/augmentation_cache.py --data imagenette-part --out docs/results/augmentation-cache.md

A teacher is trained once; then each augmentation distils twice with one recipe, ``cache.enabled=true`` and ``false``,
at 32 pixels, 2 views and 3 epochs of 200 images, in float32 on one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pages import write_page
from safetensors.numpy import load_file

from stillroom.cli import run

PARTS: dict[str, dict[str, Any]] = {
    "none": {},
    "pad and crop, flip": {"pad_crop": 4, "flip": True},
    "cutout": {"cutout": 8},
    "random resized crop": {"random_resized_crop": {}},
    "rotation": {"rotation": 30},
    "TrivialAugment": {"trivial_augment": True},
    "RandAugment": {"randaugment": {}},
    "colour jitter": {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    "grey": {"grayscale": 0.5},
    "blur": {"blur": {}},
    "random erasing": {"random_erasing": {}},
    "mixup": {"mixup": 0.4},
    "CutMix": {"cutmix": 1.0},
    "mixup and CutMix": {"mixup": 0.4, "cutmix": 1.0},
    "all": {
        "random_resized_crop": {},
        "flip": True,
        "rotation": 15,
        "trivial_augment": True,
        "color_jitter": {"brightness": 0.2},
        "grayscale": 0.1,
        "blur": {},
        "random_erasing": {},
        "mixup": 0.2,
        "cutmix": 1.0,
    },
}


def command(*arguments: str) -> None:
    """A command of the terminal, in this process."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run([*arguments, "--json"])
    if code:
        raise SystemExit(f"{' '.join(arguments)}: {errors.getvalue()}")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def compare(on: Path, off: Path) -> list[str]:
    """What is equal, and the largest difference of a training loss and of a weight of the two runs."""
    hashes = [json.loads((each / "summary.json").read_text())["hashes"] for each in (on, off)]
    losses = [[row["loss"] for row in rows_of(each / "metrics.jsonl") if "loss" in row] for each in (on, off)]
    apart = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
    weights = [load_file(each / "student.safetensors") for each in (on, off)]
    far = max(float(np.abs(value.astype(float) - weights[1][name]).max()) for name, value in weights[0].items())
    asked = sum(row["images"] for row in rows_of(on / "timing.jsonl") if row["event"] == "cache")
    live = sum(row["answers"] for row in rows_of(off / "timing.jsonl") if row["event"] == "teacher")
    same = (on / "student.safetensors").read_bytes() == (off / "student.safetensors").read_bytes()
    return [
        "yes" if hashes[0] == hashes[1] else "NO",
        f"{asked:,}",
        f"{live:,}",
        f"{apart:.1e}",
        "same bytes" if same else f"{far:.1e}",
    ]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagenette-part")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["STILLROOM_CACHE"] = str(work / "cache")
        content = {
            "data": {"path": options.data, "image_size": 32, "train_limit": 200, "test_limit": 100, "batch_size": 50},
            "student": {"name": "resnet8"},
            "training": {"epochs": 3, "threads": 1, "precision": "float32", "log_every": 1, "evaluate_every": 3},
        }
        (work / "teacher.yaml").write_text(json.dumps(content))
        command("train", str(work / "teacher.yaml"), "--out", str(work / "teacher"))
        content["teacher"] = {"name": "resnet8", "weights": str(work / "teacher" / "student.safetensors")}
        content["student"] = {"name": "resnet8", "options": {"width": 8}}
        content["losses"] = [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4}]
        content["cache"] = {"dtype": "float32"}
        (work / "recipe.yaml").write_text(json.dumps(content))
        for place, (name, parts) in enumerate(PARTS.items()):
            shown = "data.augmentation=" + json.dumps({**parts, "views": 2})
            runs = []
            for enabled in ("true", "false"):
                runs.append(work / f"{place}-{enabled}")
                command("distill", str(work / "recipe.yaml"), shown, f"cache.enabled={enabled}", "--out", str(runs[-1]))
            rows.append([name, *compare(*runs)])
            print(rows[-1], flush=True)
    write_page(
        options.out,
        "Cache on and cache off for each augmentation",
        f"`python benchmarks/augmentation_cache.py --data {options.data}`: one recipe twice through the command line, "
        "`cache.enabled=true` and `false`; 200 photographs at 32 pixels, 2 views, 3 epochs, float32, one thread. The "
        "hashes are of initial weights, order, views and budget. A teacher's last bits depend on how many images it is "
        "asked about at once: blocks for the cache, steps without.",
        ["augmentation", "equal hashes", "asked with cache", "asked without", "training loss, largest Δ", "weights"],
        rows,
    )


if __name__ == "__main__":
    main()
