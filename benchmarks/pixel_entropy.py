"""Pixel-wise entropy: how near few passes come to the published maps, and what they take.

    python benchmarks/pixel_entropy.py                       # all networks: docs/results/pixel-entropy.{md,json}
    python benchmarks/pixel_entropy.py --networks resnet20 --images 8 --out try
    python benchmarks/pixel_entropy.py --quick               # printed only; too few images to quote

Two bars, on each network: at 50 times fewer passes than the published search takes there, a correlation of .97 with
its maps, concept decisions with Cohen's κ of .80 and 30 times less time; at 20 times fewer, a correlation of .985.
Needs cifar10 and weights/resnet{20,56}-cifar10.th under $STILLROOM_DATA. Each image is kept as it is done, in --state:
what is there is not done again. One core, about 25 minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pixel_entropy_report import page, summarised
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from speed import shown_command, stop_on_signals, when_and_what
from torch import Tensor, nn

from stillroom.data.sources import load_split, parse_data_argument
from stillroom.errors import BadInput, nearest
from stillroom.explain import TapFeatures
from stillroom.explain.entropy import pixel_entropy_with_error
from stillroom.explain.grid import make_grid
from stillroom.explain.queries import CountingModel
from stillroom.explain.search import DRAWS, entropy_of_sigma, search_published
from stillroom.files import write_bytes, write_json, write_text
from stillroom.models.config import ModelConfig
from stillroom.models.fold import fold_batchnorm
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import load_weights, state_hash
from stillroom.recipe import parse_recipe
from stillroom.run.export import load_student
from stillroom.run.run import execute

# Passes an image of the fast method, and draws a step of the published one.
BUDGETS = (57, 89, 121, 153, 185, 217, 281, 345, 409, 569, 697)
FEWER_DRAWS = (1, 2, 3, 6)
STOP, SEED = -2.8, 0
ENOUGH = {"resnet20": 32, "resnet56": 12, "vit_mini": 12}
AGAIN = 4


@dataclass(frozen=True)
class Network:
    """A network, its last stage, and the published weight of the entropy for its kind."""

    name: str
    tap: str
    weight: float
    pretrained: str | None


NETWORKS = {
    each.name: each
    for each in (
        Network("resnet20", "layer3", 6.0, "weights/resnet20-cifar10.th"),
        Network("resnet56", "layer3", 6.0, "weights/resnet56-cifar10.th"),
        Network("vit_mini", "norm", 7.0, None),
    )
}
VIT = {
    "data": {"path": "cifar10", "train_limit": 10_000, "batch_size": 64, "augmentation": {"flip": True}},
    "student": {"name": "vit_mini", "preprocess": "imagenet"},
    "losses": [{"name": "cross_entropy"}],
    "training": {
        "epochs": 8,
        "evaluate_every": 8,
        "precision": "float32",
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05},
    },
}


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What the user asks for, checked before anything runs."""
    parser = argparse.ArgumentParser(
        prog="pixel_entropy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", metavar="NETWORK", help=f"of {', '.join(NETWORKS)} (all)")
    parser.add_argument("--images", type=int, help=f"images of each ({', '.join(map(str, ENOUGH.values()))})")
    parser.add_argument("--quick", action="store_true", help="2 images of the first network: does it run?")
    parser.add_argument("--state", type=Path, default=Path("runs/bench/pixel-entropy"), help="where images are kept")
    parser.add_argument("--out", type=Path, help="folder of pixel-entropy.{md,json} (docs/results; with --quick none)")
    chosen = parser.parse_args(words)
    chosen.networks = list(dict.fromkeys(chosen.networks or list(NETWORKS)[: 1 if chosen.quick else None]))
    for name in chosen.networks:
        if name not in NETWORKS:
            parser.error(f"--networks: got {name!r}; expected a network ({nearest(name, NETWORKS)})")
    if chosen.quick and chosen.images is None:
        chosen.images = 2
    if chosen.images is not None and not 2 <= chosen.images <= 1000:
        parser.error(f"--images: got {chosen.images}; expected 2 to 1000")
    if not chosen.quick and chosen.out is None:
        chosen.out = Path("docs/results")
    return chosen


def prepared(network: Network, state: Path) -> tuple[TapFeatures, str]:
    """The features of a network's last stage, batch norms folded, and the hash of its weights."""
    if network.pretrained is not None:
        model: nn.Module = build(ModelConfig(name=network.name), num_classes=10, in_channels=3, image_size=32)
        load_weights(model, network.pretrained)
    else:
        folder = state / f"{network.name}-run"
        execute(parse_recipe(VIT), folder, resume=(folder / "recipe.yaml").exists())
        model, _, _ = load_student(folder)
    known = state_hash(model)
    model, _ = fold_batchnorm(model.eval().requires_grad_(False), torch.zeros(2, 3, 32, 32))
    return TapFeatures(model, network.tap), known


def timed(ask: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What is asked, and the seconds it took by the clock and of this process."""
    wall, processor = time.perf_counter(), time.process_time()
    found = ask()
    return found, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processor}


def fewer(features: TapFeatures, image: Tensor, index: int, weight: float, draws: int) -> tuple[Tensor, int]:
    """H by the published search with other draws a step, and its passes."""
    model = CountingModel(features, make_grid(16, 32, 32))
    found, _ = search_published(model, image, [index], weight=weight, stop=STOP, seed=SEED, draws=draws)
    return entropy_of_sigma(found.sigma)[0], model.passes


def looked_at(network: Network, features: TapFeatures, image: Tensor, index: int, again: bool) -> dict[str, Any]:
    """All that is measured of one image: the published map, and right after it all others."""
    maps: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []

    def row(method: str, draws: int, passes: float, seconds: dict[str, float]) -> None:
        rows.append({"method": method, "draws": draws, "passes": passes, **seconds})

    options: dict[str, Any] = {"weight": network.weight, "stop": STOP, "index": [index]}
    found, seconds = timed(lambda: pixel_entropy_with_error(features, image, method="published", seed=SEED, **options))
    maps["published"] = found.entropy[0]
    row("published", DRAWS, found.passes, seconds)
    for budget in BUDGETS:
        found, seconds = timed(
            lambda b=budget: pixel_entropy_with_error(features, image, seed=SEED, passes=b, **options)
        )
        maps[f"fast-{budget}"], maps[f"error-{budget}"] = found.entropy[0], found.error[0]
        row("fast", budget, found.passes, seconds)
    for draws in FEWER_DRAWS:
        (maps[f"descent-{draws}"], passes), seconds = timed(
            lambda d=draws: fewer(features, image, index, network.weight, d)
        )
        row("descent", draws, passes, seconds)
    if again:
        other = pixel_entropy_with_error(features, image, method="published", seed=SEED + 1, **options)
        maps["again"] = other.entropy[0]
    return {"maps": {name: each.numpy().astype(np.float32) for name, each in maps.items()}, "rows": rows}


def kept(path: Path, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured of an image, from its file where that is of the same key, else made and kept."""
    if path.exists():
        with np.load(path) as held:
            content = json.loads(bytes(held["about"]).decode())
            if content["key"] == key:
                maps = {name: held[name] for name in held.files if name != "about"}
                return {"maps": maps, "rows": content["rows"]}
    found = make()
    about = np.frombuffer(json.dumps({"key": key, "rows": found["rows"]}).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=about, **found["maps"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return found


def measured(
    network: Network, count: int, state: Path, report: Callable[[str, int], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The images of one network, evenly spread over the test split."""
    report(f"{network.name}: making ready", 0)
    features, known = prepared(network, state)
    test = load_split(parse_data_argument("cifar10"), "test")
    pipe = Preprocess(resolve_preprocess("imagenet", channels=3, is_pixels=True))
    rows = torch.arange(count) * len(test) // count
    images = pipe(test.images[rows])
    # The first call of all takes longer.
    pixel_entropy_with_error(features, images[:1], passes=BUDGETS[0])
    for place, index in enumerate(rows.tolist()):
        again = place < AGAIN
        key = {
            "network": network.name,
            "weights": known,
            "weight": network.weight,
            "image": index,
            "budgets": list(BUDGETS),
            "draws": list(FEWER_DRAWS),
            "again": again,
            "torch": torch.__version__,
        }
        image = images[place : place + 1]
        yield (
            index,
            kept(
                state / network.name / f"image-{index:05d}.npz",
                key,
                lambda image=image, index=index, again=again: looked_at(network, features, image, index, again),
            ),
        )
        report(f"{network.name}: image {place + 1} of {count}", 1)


def main(words: Sequence[str]) -> int:
    """Measure, write, print; exit codes as stillroom's own."""
    chosen = arguments(words)
    console = Console(stderr=True, highlight=False)
    torch.set_num_threads(1)
    lines = when_and_what(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
    counts = {name: chosen.images or ENOUGH[name] for name in chosen.networks}
    if any(count < ENOUGH[name] for name, count in counts.items()):
        lines.append("fewer images than are worth quoting")
        console.print(lines[-1], style="yellow")
    command = shown_command(words, "pixel_entropy.py")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn())
    clocks = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    found: dict[str, Any] = {}
    text = ""
    try:
        with stop_on_signals(), Progress(*columns, *clocks, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=sum(counts.values()))
            for name, count in counts.items():
                report = lambda what, done: bar.update(task, description=what, advance=done)  # noqa: E731
                images = dict(measured(NETWORKS[name], count, chosen.state, report))
                found[name] = summarised(images, NETWORKS[name].weight)
                text = page(found, command, lines)
                if chosen.out is not None:
                    chosen.out.mkdir(parents=True, exist_ok=True)
                    write_text(chosen.out / "pixel-entropy.md", text)
                    raw = {"command": command, "provenance": lines, "networks": found}
                    write_json(chosen.out / "pixel-entropy.json", raw)
    except BadInput as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(f"interrupted; what was measured is kept in {chosen.state}")
        return 130
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
