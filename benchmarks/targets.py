"""Multi-label and regression distillation on real images: a study of each, with labels alone as the baseline.

    STILLROOM_DATA=… python benchmarks/targets.py             # docs/results/targets.md; resumes in --out
    STILLROOM_DATA=… python benchmarks/targets.py --tasks regression

Both data sets are parquet files made of public images, with a column for each output. `multi_label`: mosaics of four
CIFAR-100 images of 16×16 pixels, and which of the 20 superclasses are in them. `regression`: Fashion-MNIST images,
turned by an angle between −60° and 60°, and that angle in units of 60°. The teacher is trained first, from the labels.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from speed import shown_command

from stillroom.data.config import DataConfig
from stillroom.data.sources import load
from stillroom.files import write_text
from stillroom.losses.registry import default_losses
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute
from stillroom.study.compare import compare
from stillroom.study.config import parse_study
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.tasks import TASK_INFO, Task

OUT = Path("docs/results/targets.md")
SEEDS, EPOCHS, TEACHER_EPOCHS = [0, 1, 2], 10, 16
COUNTS = {"train": 5000, "test": 2000}
SPREAD = 60.0  # degrees


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write(folder: Path, split: str, pictures: list[bytes], columns: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pictures, **columns}), folder / f"{split}.parquet")


def mosaics(folder: Path) -> tuple[str, ...]:
    """Write both splits; the superclasses, in order."""
    pair = load(DataConfig(source="parquet", path="cifar100-part"))
    assert pair.train.superclasses is not None
    groups = sorted(set(pair.train.superclasses))
    for split, images in (("train", pair.train), ("test", pair.test)):
        draw = np.random.default_rng(0 if split == "train" else 1)
        rows = draw.integers(0, len(images), (COUNTS[split], 4))
        pictures, yes = [], np.zeros((COUNTS[split], len(groups)), np.int8)
        for place, four in enumerate(rows):
            canvas = Image.new("RGB", (32, 32))
            for position, row in enumerate(four.tolist()):
                part = Image.fromarray(images.images[row].permute(1, 2, 0).numpy()).resize((16, 16))
                canvas.paste(part, (16 * (position % 2), 16 * (position // 2)))
                yes[place, groups.index(images.superclasses[int(images.labels[row])])] = 1  # type: ignore[index]
            pictures.append(encoded(canvas))
        write(folder, split, pictures, {name: yes[:, k] for k, name in enumerate(groups)})
    return tuple(groups)


def turned(folder: Path) -> tuple[str, ...]:
    """Write both splits; the name of the angle."""
    pair, turning = load(DataConfig(source="idx", path="fashion-mnist")), Image.Resampling.BILINEAR
    for split, images in (("train", pair.train), ("test", pair.test)):
        draw = np.random.default_rng(0 if split == "train" else 1)
        rows, angles = draw.permutation(len(images))[: COUNTS[split]], draw.uniform(-1, 1, COUNTS[split])
        pictures = [
            encoded(Image.fromarray(images.images[int(row)][0].numpy()).rotate(SPREAD * angle, turning))
            for row, angle in zip(rows, angles, strict=True)
        ]
        write(folder, split, pictures, {"angle": angles.astype(np.float32)})
    return ("angle",)


def study_of(task: Task, folder: Path, columns: tuple[str, ...]) -> dict[str, Any]:
    """The teacher is trained where it is not yet; the study's content."""
    data = {"source": "parquet", "path": str(folder / "data"), "task": task, "label_columns": list(columns)}
    data |= {"batch_size": 64}
    if task == "multi_label":
        data["augmentation"] = {"flip": True, "views": 4}
    rate = {"optimizer": {"lr": 0.1 if task == "multi_label" else 0.02}}
    training = {"device": "cpu", "precision": "float32", "threads": 1, **rate}
    wide = {"name": "resnet20", "preprocess": "unit"}
    teacher = parse_recipe({"data": data, "student": wide, "training": {**training, "epochs": TEACHER_EPOCHS}})
    execute(teacher, folder / "teacher", resume=(folder / "teacher").exists())
    labels, logits = default_losses(task, teacher=True)
    own = default_losses(task, teacher=False)
    features = [{"name": name, "weight": weight} for name, weight in (("feature_mse", 1.0), ("relational", 1.0))]
    methods = [
        {"name": "labels", "set": {"losses": own}},
        {"name": logits["name"], "set": {"losses": [labels, logits]}},
        *({"name": each["name"], "set": {"losses": [*own, each]}} for each in features),
    ]
    weights = str(folder / "teacher" / "student.safetensors")
    return {
        "name": f"targets-{task}",
        "recipe": {
            "data": data,
            "teacher": {**wide, "weights": weights},
            "student": {"name": "resnet8", "options": {"width": 8}, "preprocess": "unit"},
            "training": training,
        },
        "methods": methods,
        "baseline": "labels",
        "seeds": SEEDS,
        "budget": {"epochs": EPOCHS},
    }


def section(task: Task, folder: Path) -> list[str]:
    """The table of a study."""
    columns = (mosaics if task == "multi_label" else turned)(folder / "data")
    study = parse_study(study_of(task, folder, columns))
    compare(study, folder / "study", lambda where, threads: InProcessEngine())
    results = json.loads((folder / "study" / "results.json").read_text())
    info = TASK_INFO[task]
    level = json.loads((folder / "teacher" / "summary.json").read_text())["measures"]
    means = {cell["method"]: cell for cell in results["cells"]}
    gaps = {one["method"]: one for one in results["families"][0]["baseline"]["comparisons"]}
    rows = []
    for method in study.methods:
        cell, gap = means[method.name], gaps.get(method.name)
        others = [
            info.measures[1].written(
                float(np.mean([run[info.measures[1].name] for run in results["runs"] if run["method"] == method.name]))
            )
        ]
        text = "baseline" if gap is None else gap["text"]
        rows.append(f"| `{method.name}` | {cell['text']} | {' | '.join(others)} | {text} |")
    return [
        "",
        f"## {task}",
        "",
        f"Teacher ResNet-20: {info.primary.title} {info.primary.written(level[info.primary.name])}, from "
        f"{COUNTS['train']:,} training images; measured on {COUNTS['test']:,} test images. Student "
        f"ResNet-8 of width 8, {EPOCHS} epochs, seeds {', '.join(map(str, SEEDS))}.",
        "",
        f"| losses | {info.primary.title}, mean and 95% interval | {info.measures[1].title} | less labels alone |",
        "|---|---|---|---|",
        *rows,
        "",
        *[f"- {line}" for line in results["conclusions"]],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=["multi_label", "regression"], help="one of them; printed only")
    parser.add_argument("--out", type=Path, default=Path("studies/targets"), help="the studies' folder")
    chosen = parser.parse_args()
    os.environ.setdefault("STILLROOM_CACHE", str(chosen.out / "cache"))
    lines = ["# Multi-label and regression", "", f"`{shown_command(sys.argv[1:], 'targets.py')}`"]
    lines += [
        "",
        "Mosaics of four CIFAR-100 images with the superclasses in them (20 outputs), and Fashion-MNIST images turned "
        "by an angle (1 output, in units of 60°). Weights as by default: .1 labels and .9 teacher of the losses on "
        "outputs, 1 and 1 with features; nothing was tuned. Results are those of the last epoch.",
    ]
    for task in ("multi_label", "regression"):
        if not chosen.tasks or task in chosen.tasks:
            lines += section(task, chosen.out / task)
    page = "\n".join(lines) + "\n"
    if chosen.tasks:
        print(page)
    else:
        write_text(OUT, page)


if __name__ == "__main__":
    main()
