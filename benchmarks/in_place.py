"""What a frozen teacher gains by activations in place, by fused convolutions, and by memory that is kept.

    python benchmarks/in_place.py [--rounds 7] [--threads 1]

Batch norms folded, channels-last memory, CPU time of one image: activations as they come, in place, and fused with
their convolutions and the sums between, in turns; medians, and the median of the last two's ratios. Each model with
freed memory as the C library handles it, as it does once a block of 31 MiB was freed (the limits that it then sets
itself), and kept (``reuse_memory``); processes of their own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time

import torch
from torch import Tensor, nn

from stillroom.models.config import ModelConfig
from stillroom.models.fold import activate_in_place, fold_batchnorm
from stillroom.models.fuse import fuse_convolutions
from stillroom.models.modes import to_channels_last
from stillroom.models.registry import build
from stillroom.train.device import reuse_memory

CASES = [(name, batch) for name in ("resnet56", "resnet8", "wrn_16_2") for batch in (64, 250)]
IMAGES = 256


FORMS = ("as it comes", "in place", "fused")


def teacher(name: str, example: Tensor, form: str) -> nn.Module:
    """A folded, frozen network; random weights cost as much as others."""
    torch.manual_seed(0)
    folded, _ = fold_batchnorm(
        build(ModelConfig(name=name), num_classes=10, in_channels=3, image_size=32).eval(), example
    )
    model = to_channels_last(folded.requires_grad_(False), example)
    if form == "fused":
        model = fuse_convolutions(model, example)
    if form != "as it comes":
        activate_in_place(model, example)
    return model


MEMORY = ("as it comes", "32 MiB", "kept")


def measure(name: str, batch: int, memory: str, rounds: int, threads: int) -> tuple[list[float], float]:
    """Milliseconds an image in each form, and the median ratio of the last two."""
    torch.set_num_threads(threads)
    if memory == "kept":
        reuse_memory()
    elif memory == "32 MiB":
        torch.empty(31 << 20, dtype=torch.uint8)
    images = torch.rand(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    models = [teacher(name, images[:2], form) for form in FORMS]
    times: list[list[float]] = [[] for _ in FORMS]
    with torch.no_grad():
        for turn in range(rounds + 1):
            for model, taken in zip(models, times, strict=True):
                began = time.process_time()
                for _ in range(max(1, IMAGES // batch)):
                    model(images)
                if turn:
                    taken.append((time.process_time() - began) / (max(1, IMAGES // batch) * batch) * 1e3)
    ratio = statistics.median(a / b for a, b in zip(*times[1:], strict=True))
    return [statistics.median(each) for each in times], ratio


def main() -> None:
    """Measure each case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"| model | images at once | memory | {', ms | '.join(FORMS)}, ms | in place ÷ fused |")
    print("|---|---:|---|---:|---:|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for name, batch in CASES:
        for memory in MEMORY:
            with context.Pool(1) as pool:
                taken, ratio = pool.apply(measure, (name, batch, memory, options.rounds, options.threads))
            shown = " | ".join(f"{each:.2f}" for each in taken)
            print(f"| {name} | {batch} | {memory} | {shown} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
