"""What a training step and an answer cost in bfloat16 and in float32, on a CPU that multiplies in bfloat16 natively.

    python benchmarks/precision.py

The reason for ``training.precision: auto``: students with depthwise convolutions train in float32, all others in
bfloat16; frozen teachers answer in bfloat16. Steps of both precisions take turns; seconds of the processor, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.models.config import ModelConfig
from stillroom.models.external import declare_missing_ops
from stillroom.models.registry import build
from stillroom.train.config import TrainingConfig
from stillroom.train.device import has_native_bfloat16, resolve_precision

CPU = torch.device("cpu")
# Name, side of the images, images of a step.
MODELS = (
    ("resnet8", 32, 64),
    ("resnet56", 32, 64),
    ("wrn_16_2", 32, 64),
    ("torchvision:resnet18", 96, 16),
    ("torchvision:mobilenet_v2", 96, 16),
    ("torchvision:mobilenet_v3_small", 224, 16),
    ("torchvision:efficientnet_b0", 96, 8),
    ("timm:mobilenetv3_small_050", 224, 16),
    ("timm:convnext_atto", 96, 8),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    declare_missing_ops()
    print(f"native bfloat16: {has_native_bfloat16(CPU)}, {options.threads} thread(s)\n")
    print("| model | step, float32, ms | step, bfloat16, ms | float32 ÷ bfloat16 | answer, float32 ÷ bfloat16 | auto |")
    print("|---|---:|---:|---:|---:|---|")
    for name, side, batch in MODELS:
        torch.manual_seed(0)
        model = build(ModelConfig(name=name), num_classes=10, in_channels=3, image_size=side)
        model = model.to(memory_format=torch.channels_last)
        images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
        learn, answer = in_turns(model, images, torch.randint(10, (batch,)), options.turns)
        chosen = resolve_precision(TrainingConfig(), CPU, model).precision
        print(
            f"| {name}, {batch} of {side}×{side} | {learn[False]:.1f} | {learn[True]:.1f} | "
            f"{learn[False] / learn[True]:.2f} | {answer[False] / answer[True]:.2f} | {chosen} |",
            flush=True,
        )


def in_turns(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, turns: int
) -> tuple[dict[bool, float], dict[bool, float]]:
    """Milliseconds of a step and of an answer, by whether it is in bfloat16."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def learn() -> None:
        loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.inference_mode()
    def answer() -> None:
        model(images)

    found: list[dict[bool, float]] = []
    for work, training in ((learn, True), (answer, False)):
        model.train(training)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(turns + 1):
            for low in (False, True):
                took = _seconds(work, low)
                if turn:  # the first compiles kernels
                    seconds[low].append(took)
        found.append({low: 1000 * statistics.median(each) for low, each in seconds.items()})
    return found[0], found[1]


def _seconds(work: Callable[[], None], low: bool) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        began = time.process_time()
        work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
