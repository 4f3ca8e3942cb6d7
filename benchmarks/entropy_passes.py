"""How many passes does the fast entropy need, on a small network early in its training?

    python benchmarks/entropy_passes.py --run runs/resnet8 [--images 5] [--out docs/results]

At each checkpoint of a run, on some test images: the published search, and the fast one at several budgets with several
seeds of the noise. Printed for each budget: concepts found less those of the published search, Cohen's κ of the cells,
the rms of the reported error, and the spread that the entropies really have over the seeds. Each network and budget is
kept in --state, so that the same command goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.errors import BadInput
from stillroom.explain.entropy import pixel_entropy_with_error
from stillroom.explain.grid import centre_box
from stillroom.explain.metrics import concepts
from stillroom.explain.queries import TapFeatures
from stillroom.explain.runs import load_images, load_runs
from stillroom.files import write_json
from stillroom.models.weights import load_weights
from stillroom.train.device import exact_float32

BUDGETS = (232, 408, 600, 1000)
SEEDS = (0, 1, 2, 3)
GRID, WEIGHT, STOP, THRESHOLD = 16, 6.0, -2.8, 0.2


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's κ of two decisions."""
    agree, p, q = (one == other).mean(), one.mean(), other.mean()
    chance = p * q + (1 - p) * (1 - q)
    return float((agree - chance) / (1 - chance)) if chance < 1 else 1.0


def entropies(features: Any, images: torch.Tensor, rows: tuple[int, ...], state: Path, **options: Any) -> np.ndarray:
    """H and its reported error, [2, I, g, g], from the file where they are."""
    name = "-".join(str(options[key]) for key in ("method", "passes", "seed") if key in options)
    path = state / f"{name}.npy"
    if not path.exists():
        found = pixel_entropy_with_error(features, images, grid=GRID, weight=WEIGHT, stop=STOP, index=rows, **options)
        error = found.error if found.error is not None else torch.zeros_like(found.entropy)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, torch.stack([found.entropy, error]).numpy())
    return np.asarray(np.load(path))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--state", type=Path, default=Path("runs/entropy-passes"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with exact_float32():
        (run,) = load_runs([asked.run], None)
        if asked.images < 2:
            raise BadInput("--images", asked.images, "2 or more")
        sample, _ = load_images(run, count=asked.images, grid=GRID, mask="centre")
        inside, rows = centre_box(asked.images, GRID), sample.rows
        lines: list[dict[str, Any]] = []
        for checkpoint in run.checkpoints:
            load_weights(run.student.model, checkpoint.path, field="student")
            features = TapFeatures(run.student.model.eval(), run.tap)
            images, state = run.student.preprocess()(sample.images), asked.state / f"epoch-{checkpoint.epoch:g}"
            # Gaussian draws: two seeds of it show what it differs from itself by.
            published = [entropies(features, images, rows, state, method="published", seed=seed)[0] for seed in (0, 1)]
            cells = [concepts(torch.from_numpy(each), inside, threshold=THRESHOLD).numpy() for each in published]
            print(
                f"epoch {checkpoint.epoch:g}: {cells[0].sum((1, 2)).mean():.1f} concepts, κ with itself "
                f"{kappa(cells[0], cells[1]):.2f}",
                flush=True,
            )
            lines.append(
                {
                    "epoch": checkpoint.epoch,
                    "passes": "published",
                    "concepts": float(cells[0].sum((1, 2)).mean()),
                    "again": float(cells[1].sum((1, 2)).mean()),
                    "kappa": kappa(cells[0], cells[1]),
                }
            )
            for budget in BUDGETS:
                found = np.stack(
                    [entropies(features, images, rows, state, method="fast", passes=budget, seed=s) for s in SEEDS]
                )
                reported = float(np.sqrt((found[:, 1] ** 2).mean()))
                true = float(np.sqrt(found[:, 0].var(0, ddof=1).mean()))
                decided = [concepts(torch.from_numpy(one), inside, threshold=THRESHOLD).numpy() for one in found[:, 0]]
                count = float(np.mean([each.sum((1, 2)).mean() for each in decided]))
                base = float(np.mean([each.sum((1, 2)).mean() for each in cells]))
                agreement = float(np.mean([kappa(each, other) for each in decided for other in cells]))
                bias = float((found[:, 0].mean(0) - np.mean(published, 0)).std())
                line = {
                    "epoch": checkpoint.epoch,
                    "passes": budget,
                    "concepts": count,
                    "inflation": count / base - 1,
                    "kappa": agreement,
                    "reported": reported,
                    "spread": true,
                    "ratio": reported / true,
                    "gap": bias,
                }
                lines.append(line)
                print({key: round(value, 4) for key, value in line.items()}, flush=True)
    if asked.out is not None:
        write_json(asked.out / "entropy-passes.json", {"schema": 1, "images": asked.images, "lines": lines})


if __name__ == "__main__":
    main()
