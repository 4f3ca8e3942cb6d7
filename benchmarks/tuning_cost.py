"""What pruned trials cost: twelve of which three go on, against three whole ones, by CPU time.

    python benchmarks/tuning_cost.py --out /tmp/tuning-cost [--images 4000]

A method's search on cifar100-part (ResNet-32, its answers cached, ResNet-8), in this process, on one thread; needs
cifar100-part and weights/resnet32-cifar100.safetensors under $STILLROOM_DATA. Both searches train 18 epochs in all.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from stillroom.study.compare import compare
from stillroom.study.config import parse_study
from stillroom.study.engine.base import Outcome
from stillroom.study.engine.in_process import InProcessEngine

SPACE = {"training.optimizer.lr": {"low": 0.03, "high": 0.3, "log": True}, "losses.kl.temperature": [2.0, 4.0, 8.0]}
SEARCHES = {
    "3 whole trials": {"trials": 3, "length": 0.5},
    "12 trials, 3 go on": {"trials": 12, "length": 0.25, "pruning": {"keep": 3, "length": 0.34}},
}


class Timed(InProcessEngine):
    """Adds up the CPU seconds of trials."""

    seconds = 0.0

    def wait(self, timeout: float) -> list[Outcome]:
        """Do one job."""
        began = time.process_time()
        ended = super().wait(timeout)
        self.seconds += (time.process_time() - began) * ended[0].id.startswith("trial")
        return ended


def study(images: int, tuning: dict[str, Any]) -> dict[str, Any]:
    """A study of one method."""
    weights = "weights/resnet32-cifar100.safetensors"
    return {
        "name": "tuning-cost",
        "seeds": [0],
        "budget": {"epochs": 12},
        "recipe": {
            "data": {
                "path": "cifar100-part",
                "batch_size": 64,
                "train_limit": images,
                "test_limit": 500,
                "augmentation": {"pad_crop": 4, "flip": True, "views": 2},
            },
            "teacher": {"name": "resnet32", "weights": weights, "preprocess": "imagenet"},
            "student": {"name": "resnet8", "preprocess": "imagenet"},
            "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4}],
            "training": {"evaluate_every": 12, "log_every": 50},
        },
        "methods": [{"name": "kl"}],
        "tuning": {"space": SPACE, **tuning},
    }


def main() -> None:
    """Run both and print what they cost and chose."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| search | jobs | CPU seconds | chosen | held-out top-1 | test top-1 of the run |\n|---|---|---|---|---|---|"
    )
    for place, (name, tuning) in enumerate(SEARCHES.items()):
        engine, out = Timed(), asked.out / str(place)
        found = compare(parse_study(study(asked.images, tuning)), out, lambda folder, threads, one=engine: one)
        tuned = json.loads((out / "tuned.json").read_text())["pairs"]["all"]["kl"]
        chosen = ", ".join(f"{key.rpartition('.')[2]} {value:g}" for key, value in tuned["values"].items())
        top1 = found.results["runs"][0]["top1"]
        jobs = sum(job.startswith("trial") for job in engine.done)
        reached = f"{tuned['value']:.2f} | {top1:.2f}"
        print(f"| {name} | {jobs} | {engine.seconds:.1f} | {chosen or 'as written'} | {reached} |", flush=True)


if __name__ == "__main__":
    main()
