"""Labels alone against `kl` from one recipe file, over seeds: rows as they come, then the paired difference.

    python benchmarks/labels_against_kl.py recipes/cifar10-resnet56-resnet8.yaml --seeds 0 1 2 \
        --out runs/short --results docs/results/cifar10-short.md data.train_limit=10000

Each run is `stillroom train` or `stillroom distill` with --resume, so that a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import stillroom as sr
from stillroom.files import write_text

LABELS = "objectives=[{name: cross_entropy}]"


def one_run(contestant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.out / f"{contestant}-{seed}"
    command = "train" if contestant == "labels" else "distill"
    changes = [*arguments.overrides, f"seed={seed}", *([LABELS] if contestant == "labels" else [])]
    line = [sys.executable, "-m", "stillroom", command, str(arguments.recipe), *changes]
    line += ["--out", str(folder), "--resume", "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True)
    summary = json.loads(done.stdout)
    return {"contestant": contestant, "seed": seed, "training_seconds": training_seconds(folder), **summary}


def training_seconds(folder: Path) -> float:
    """Wall time of the training, over all the times it was stopped and resumed."""
    events = [json.loads(text) for text in (folder / "timing.jsonl").read_text().splitlines()]
    total = last = 0.0
    for event in events:
        if event["event"] == "progress":
            last = event["seconds"]
        elif event["event"] == "resume":
            total, last = total + last, 0.0
    return round(total + last, 1)


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    seeds = sorted({row["seed"] for row in rows})
    found = {(row["contestant"], row["seed"]): row for row in rows}
    command = shlex.join(["python", *sys.argv])
    teacher, data = rows[0]["teacher"], rows[0]["data"]
    lines = [
        f"# Labels alone against `kl`: {rows[0]['model']} from {teacher['model']} on {data['name']}",
        "",
        f"Command: `{command}`",
        "",
        f"{data['train']:,} training images, {rows[0]['epochs']:g} epochs, last epoch, all {rows[0]['count']:,} test "
        f"images; teacher {teacher['top1']:.2f}%. Seeds fixed beforehand: {', '.join(map(str, seeds))}.",
        "",
        "| seed | labels top-1 | kl top-1 | difference | labels agreement | kl agreement | labels s | kl s | equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    paired = [seed for seed in seeds if ("labels", seed) in found and ("kl", seed) in found]
    for seed in paired:
        a, b = found["labels", seed], found["kl", seed]
        equal = "yes" if a["hashes"] == b["hashes"] else "NO"
        lines.append(
            f"| {seed} | {a['top1']:.2f} | {b['top1']:.2f} | {b['top1'] - a['top1']:+.2f} | {a['agreement']:.2f} | "
            f"{b['agreement']:.2f} | {a['training_seconds']:.0f} | {b['training_seconds']:.0f} | {equal} |"
        )
    lines += ["", "`equal`: initial weights, order of images, views, budget and threads have the same hashes.", ""]
    measures = (("top1", "points of top-1", 2), ("nll", "nats of NLL", 3), ("ece", "of calibration error", 3))
    for key, unit, digits in measures:
        labels, kl = ([found[name, seed][key] for seed in paired] for name in ("labels", "kl"))
        lines.append(
            f"- kl − labels, {unit}, paired, 95% interval (Student): {sr.paired_difference(labels, kl).told(digits)}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="changes to the recipe, key.path=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="Markdown file of the table")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side")
    arguments = parser.parse_intermixed_args()
    # Longest first: the two workers then end together.
    jobs = [(name, seed) for name in ("kl", "labels") for seed in arguments.seeds]
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.workers) as workers:
        for row in workers.map(lambda job: one_run(*job, arguments), jobs):
            rows.append(row)
            if {("kl", row["seed"]), ("labels", row["seed"])} <= {(r["contestant"], r["seed"]) for r in rows}:
                write_text(arguments.results, table(rows, arguments))
    print(arguments.results.read_text())


if __name__ == "__main__":
    main()
