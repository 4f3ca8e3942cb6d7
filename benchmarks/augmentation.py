"""How long a batch of augmented images takes: whole-batch operations against the loop over samples everybody writes.

    python benchmarks/augmentation.py --threads 1

Both make the same pixels, which is checked first; then they take turns, so that what else the machine does falls on
both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.data.augmentation import augment
from stillroom.data.config import AugmentationConfig
from stillroom.randomness import counter_uniform


def sample_by_sample(images: Tensor, index: np.ndarray, config: AugmentationConfig, view: int) -> Tensor:
    """The same with a loop over samples and slicing; only the draws are made for the whole batch, as in ``augment``."""
    pad, cut = config.pad_crop, config.cutout
    height, width = images.shape[2:]
    y, x, mirror, cut_y, cut_x = (counter_uniform(config.seed, view, index, what) for what in range(5))
    made = torch.empty(len(index), *images.shape[1:], dtype=torch.uint8)
    for row, sample in enumerate(index):
        image = images[sample]
        if pad:
            top, left = int(y[row] * (2 * pad + 1)), int(x[row] * (2 * pad + 1))
            image = F.pad(image, (pad, pad, pad, pad))[:, top : top + height, left : left + width]
        if config.flip and mirror[row] < 0.5:
            image = image.flip(-1)
        made[row] = image
        if cut:
            top, left = int(cut_y[row] * height) - cut // 2, int(cut_x[row] * width) - cut // 2
            made[row, :, max(top, 0) : max(top + cut, 0), max(left, 0) : max(left + cut, 0)] = 0
    return made


def timed(run: Callable[[], Tensor]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print medians in microseconds a batch, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.randint(0, 256, (options.images, 3, options.side, options.side), dtype=torch.uint8)
    random = np.random.default_rng(0)
    print(f"batch {options.batch}, 3×{options.side}×{options.side}, {options.threads} thread(s); medians, µs a batch")
    for name, config in {
        "nothing": AugmentationConfig(),
        "crop": AugmentationConfig(pad_crop=4),
        "flip": AugmentationConfig(flip=True),
        "cutout": AugmentationConfig(cutout=8),
        "crop and flip": AugmentationConfig(pad_crop=4, flip=True),
        "all three": AugmentationConfig(pad_crop=4, flip=True, cutout=8),
    }.items():
        whole, loop = [], []
        for view in range(options.rounds):
            index = random.integers(0, options.images, options.batch)
            if view == 0 and not torch.equal(
                augment(images, index, config, view), sample_by_sample(images, index, config, view)
            ):
                raise SystemExit(f"{name}: the two do not make the same pixels")
            whole.append(timed(lambda: augment(images, index, config, view)))  # noqa: B023 - called at once
            loop.append(timed(lambda: sample_by_sample(images, index, config, view)))  # noqa: B023
        ours, theirs = statistics.median(whole) * 1e6, statistics.median(loop) * 1e6
        print(f"{name:14s} whole batch {ours:7.0f}   loop {theirs:7.0f}   ratio {theirs / ours:5.1f}")


if __name__ == "__main__":
    main()
