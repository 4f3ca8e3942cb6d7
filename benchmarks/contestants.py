"""Variants of one recipe over the same seeds: rows as they come, then paired differences to the first variant.

    python benchmarks/contestants.py recipes/cifar10-resnet56-resnet8.yaml --seeds 0 1 2 \
        --contestant plain "training.precision=float32 cache.enabled=false" --contestant fast "cache.enabled=true" \
        --out runs/paths --results docs/results/fast-path.md data.train_limit=10000

Each run is `stillroom distill` with --resume, so that what was stopped goes on. Runs go side by side, one thread each;
variants of one seed are started together, seed by seed.
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

Row = dict[str, Any]


def one_run(name: str, changes: str, seed: int, arguments: argparse.Namespace) -> Row:
    folder = arguments.out / f"{name}-{seed}"
    line = [sys.executable, "-m", "stillroom", "distill", str(arguments.recipe), *arguments.overrides]
    line += [*shlex.split(changes), f"seed={seed}", "--out", str(folder), "--resume", "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True)
    return {"contestant": name, "run_seed": seed, **clocks(folder), **json.loads(done.stdout)}


def clocks(folder: Path) -> dict[str, float]:
    """Seconds of training over all the times it was stopped and resumed; seconds and images of cache building."""
    events = [json.loads(text) for text in (folder / "timing.jsonl").read_text().splitlines()]
    total = last = build = asked = 0.0
    for event in events:
        if event["event"] == "progress":
            last = event["seconds"]
        elif event["event"] == "resume":
            total, last = total + last, 0.0
        elif event["event"] == "cache":
            build, asked = build + event["seconds"], asked + event["images"]
    return {"training_seconds": total + last, "build_seconds": build, "build_images": asked}


def table(rows: list[Row], arguments: argparse.Namespace) -> str:
    names = [name for name, _ in arguments.contestant]
    found = {(row["contestant"], row["run_seed"]): row for row in rows}
    seeds = [seed for seed in arguments.seeds if all((name, seed) in found for name in names)]
    first = rows[0]
    lines = [
        f"# {arguments.title}",
        "",
        f"Command: `{shlex.join(['python', *sys.argv])}`",
        "",
        f"{first['model']} from {first['teacher']['model']} ({first['teacher']['top1']:.2f}%) on "
        f"{first['data']['name']}: {first['data']['train']:,} training images, "
        f"{first['epochs']:g} epochs, last epoch, {first['count']:,} test images; runs side by side, "
        f"one thread each. Seeds fixed beforehand: {', '.join(map(str, arguments.seeds))}; "
        f"done: {', '.join(map(str, seeds)) or 'none yet'}.",
        "",
        f"| variant | top-1 of each seed | mean | − {names[0]}, points [95%] | training s (median) | "
        "cache built: images, s |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        mine = [found[name, seed] for seed in seeds]
        if not mine:
            continue
        tops = [row["top1"] for row in mine]
        differs = "baseline"
        if name != names[0]:
            differs = sr.paired_difference([found[names[0], seed]["top1"] for seed in seeds], tops).told(2)
        seconds = sorted(row["training_seconds"] for row in mine)[len(mine) // 2]
        built = f"{sum(r['build_images'] for r in mine):,.0f}, {sum(r['build_seconds'] for r in mine):.0f}"
        shown = " ".join(f"{top:.2f}" for top in tops)
        lines.append(f"| {name} | {shown} | {sum(tops) / len(tops):.2f} | {differs} | {seconds:.0f} | {built} |")
    lines += ["", "Variants, as changes to the recipe:", ""]
    lines += [f"- {name}: `{changes or 'none'}`" for name, changes in arguments.contestant]
    lines += ["", same_start(found, names, seeds), ""]
    return "\n".join(lines)


def same_start(found: dict[tuple[str, int], Row], names: list[str], seeds: list[int]) -> str:
    """Which hashes the variants of each seed share; different views are what some variants are about."""
    kinds = list(next(iter(found.values()))["hashes"])
    shared = [k for k in kinds if all(len({found[n, s]["hashes"][k] for n in names}) == 1 for s in seeds)]
    others = [kind for kind in kinds if kind not in shared]
    return f"Equal hashes within each seed: {', '.join(shared)}. Not equal: {', '.join(others) or 'none'}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="changes to the recipe for all, key.path=value")
    parser.add_argument("--contestant", nargs=2, action="append", required=True, metavar=("NAME", "CHANGES"))
    parser.add_argument("--title", default="Variants of one recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="Markdown file of the table")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side")
    arguments = parser.parse_intermixed_args()
    jobs = [(name, changes, seed) for seed in arguments.seeds for name, changes in arguments.contestant]
    rows: list[Row] = []
    with ThreadPoolExecutor(arguments.workers) as workers:
        for row in workers.map(lambda job: one_run(*job, arguments), jobs):
            rows.append(row)
            write_text(arguments.results, table(rows, arguments))
    print(arguments.results.read_text())


if __name__ == "__main__":
    main()
