"""A student that is known to lean on the background: do N_bg and λ say so, and hold their peace where it does not?

    python benchmarks/leaning.py                  # 5 seeds: docs/results/leaning.{md,json}; about 8 minutes on a core
    python benchmarks/leaning.py --quick          # one seed, a short training, printed only: does it run?

The same ResNet-8 learns four shapes twice from each seed: on pictures one corner of which is their class's own, so that
it need not look at the shape, and on such whose corner says nothing. Both are then asked about the same test pictures,
whose corners say nothing, with the masks of the shapes. Runs are kept in --work: the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from speed import shown_command, stop_on_signals, when_and_what
from speed_report import table

from stillroom.data.config import ShapesConfig
from stillroom.data.synthetic import read_shapes
from stillroom.errors import BadInput
from stillroom.explain.explanation import explain
from stillroom.files import write_json, write_text
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute
from stillroom.study.statistics import SeedMean, interval

SEEDS = (0, 1, 2, 3, 4)
IMAGES = 40
# Side of the corner that the background's kind is confined to: a background that is all alike, however much a network
# leans on it, has no cell that stands out from the others, and concepts are what does.
PATCH = 16
# Pixels around a shape that count as its own, one cell: what lies at an edge is seen from both sides of it.
MARGIN = 2
# Share of training pictures whose background is surely their class's own.
KINDS = {"clean": 0.0, "leaning": 1.0}
SHOWN = {"top1": "top-1, %", "n_fg": "N_fg", "n_bg": "N_bg", "ratio": "λ"}
RECIPE: dict[str, Any] = {
    "data": {"source": "shapes", "batch_size": 64},
    "student": {"name": "resnet8"},
    "losses": [{"name": "cross_entropy"}],
    "training": {"epochs": 10, "evaluate_every": 10, "log_every": 50, "checkpoints": [0]},
}


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(
        prog="leaning.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, a short training, printed only")
    parser.add_argument("--work", type=Path, help="folder of the runs (runs/leaning; with --quick runs/leaning-quick)")
    parser.add_argument("--out", type=Path, help="folder of leaning.{md,json} (docs/results; with --quick none)")
    chosen = parser.parse_args(words)
    if chosen.work is None:
        chosen.work = Path("runs/leaning-quick" if chosen.quick else "runs/leaning")
    if chosen.out is None and not chosen.quick:
        chosen.out = Path("docs/results")
    return chosen


def looked_at(kind: str, seed: int, work: Path, quick: bool) -> dict[str, float]:
    """Train one student, and count its concepts."""
    shapes: dict[str, Any] = {"correlation": KINDS[kind], "test_correlation": 0.0, "patch": PATCH}
    shapes |= {"train": 512 if quick else 4000, "test": 1000}
    content = {**RECIPE, "seed": seed, "data": {**RECIPE["data"], "shapes": shapes}}
    if quick:
        content["training"] = {**RECIPE["training"], "epochs": 1}
    folder = work / f"{kind}-{seed}"
    execute(parse_recipe(content), folder, resume=(folder / "recipe.yaml").exists(), latency=False)
    masks = read_shapes(ShapesConfig(**shapes), "test").masks
    assert masks is not None
    grown = torch.nn.functional.max_pool2d(masks[:, None].float(), 2 * MARGIN + 1, stride=1, padding=MARGIN)
    np.save(work / "masks.npy", grown[:, 0].bool().numpy())
    found = explain([folder], images=8 if quick else IMAGES, mask=str(work / "masks.npy")).as_dict()
    last = found["runs"][0]["checkpoints"][-1]
    reported = {key: last[key] for key in ("n_fg", "n_bg", "ratio")}
    return {"top1": 100 * found["runs"][0]["accuracy"], **reported, "share": found["images"]["foreground_cells"]}


def format_mean(value: SeedMean, digits: int) -> str:
    """The mean with its interval."""
    if value.low is None or value.high is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def page(rows: dict[str, list[dict[str, float]]], command: str, lines: Sequence[str]) -> str:
    """The whole of ``leaning.md``."""
    cells = []
    for key, name in SHOWN.items():
        digits = 3 if key == "ratio" else 1
        of = {kind: [row[key] for row in held] for kind, held in rows.items()}
        apart = [a - b for a, b in zip(of["leaning"], of["clean"], strict=True)]
        cells.append(
            [name, *(format_mean(interval(of[kind]), digits) for kind in KINDS), format_mean(interval(apart), digits)]
        )
    share = rows["clean"][0]["share"]
    chance = {kind: interval([row["ratio"] - share for row in held]) for kind, held in rows.items()}
    text = [
        "# A student that is known to lean on the background",
        "",
        f"Command: `{command}`",
        "",
        *(f"- {line}" for line in lines),
        "",
        f"A ResNet-8, four shapes on grey with a patterned corner of {PATCH} × {PATCH} pixels, 4,000 pictures, 10 "
        "epochs, from labels, five seeds. *Leaning*: the corner's pattern is the class's own in each training picture; "
        "*clean*: it says nothing. Both are asked about the same test pictures, whose corners say nothing: "
        f"{IMAGES} of them, concepts of the last stage, b = .2. Subject: the shape's mask and {MARGIN} pixels around "
        "it, which is a cell. Corner and margin were settled on another seed. Means with 95% intervals over seeds, "
        "differences paired by seed.",
        "",
        table(["", "clean", "leaning", "leaning − clean"], cells),
        "",
        f"{100 * share:.1f} % of the cells are subject: concepts strewn at random would have λ = {share:.3f}. λ less "
        f"that: clean {format_mean(chance['clean'], 3)}, leaning {format_mean(chance['leaning'], 3)}.",
    ]
    return "\n".join(text) + "\n"


def main(words: Sequence[str]) -> int:
    """Train, count, write, print; exit codes as stillroom's own."""
    chosen = arguments(words)
    console = Console(stderr=True, highlight=False)
    lines = when_and_what(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    try:
        with stop_on_signals():
            for seed in SEEDS[: 1 if chosen.quick else None]:
                for kind, held in rows.items():
                    held.append(looked_at(kind, seed, chosen.work, chosen.quick))
                    console.print(f"{kind}, seed {seed}: {held[-1]}", markup=False, soft_wrap=True)
    except BadInput as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(f"interrupted; what was made is kept in {chosen.work}")
        return 130
    command = shown_command(words, "leaning.py")
    text = page(rows, command, lines)
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        write_text(chosen.out / "leaning.md", text)
        write_json(chosen.out / "leaning.json", {"command": command, "provenance": lines, "rows": rows})
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
