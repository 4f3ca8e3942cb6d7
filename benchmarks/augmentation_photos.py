"""Each augmentation of photographs against torchvision's: pixels on 1,000 images, and CPU time in turns.

    python benchmarks/augmentation_photos.py --data imagenette-part --out docs/results/augmentation.md

Pixels: each operation with the same parameters, drawn at random, on every image. Time: a whole batch by
``stillroom.data.augmentation`` against torchvision's transforms on one sample after another, as its data loaders work,
both on uint8 tensors in memory on one thread, in turns; process time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillroom.data import image_ops as ops
from stillroom.data.augmentation import augment, auto_augment, draw_pairs
from stillroom.data.config import AugmentationConfig, DataConfig
from stillroom.data.sources import load_split
from stillroom.models.external import declare_missing_ops

declare_missing_ops()

from torchvision.transforms import v2  # noqa: E402
from torchvision.transforms.v2 import functional as tv  # noqa: E402

BILINEAR, NEAREST = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.NEAREST


def pixel_rows(images: Tensor) -> list[tuple[str, float, float, int]]:
    """Of each operation: share of the pixels that differ, share that differ by more than 1, largest difference."""
    random = np.random.default_rng(0)
    count, side = len(images), images.shape[-1]
    factor, half = random.uniform(0.2, 1.8, count), random.uniform(-0.5, 0.5, count)
    sigma, angle = random.uniform(0.1, 2, count), random.uniform(-30, 30, count)
    height, width = random.integers(side // 4, side + 1, (2, count))
    top, left = ((random.random(count) * (side + 1 - each)).astype(int) for each in (height, width))
    box = np.stack([top, left, height, width])
    partner = random.permutation(count)
    every: dict[str, tuple[Callable[[slice], Tensor], Callable[[int], Tensor]]] = {
        "random resized crop": (
            lambda s: ops.resized_crop(images[s], *box[:, s]),
            lambda k: tv.resized_crop(images[k].float(), *map(int, box[:, k]), [side, side], antialias=True).round(),
        ),
        "rotation": (
            lambda s: ops.affine(images[s], ops.rotation_matrix(angle[s]), "bilinear"),
            lambda k: tv.rotate(images[k], float(angle[k]), interpolation=BILINEAR),
        ),
        **{
            name: (
                lambda s, name=name: getattr(ops, f"adjust_{name}")(images[s], (half if name == "hue" else factor)[s]),
                lambda k, name=name: getattr(tv, f"adjust_{name}")(
                    images[k], float((half if name == "hue" else factor)[k])
                ),
            )
            for name in ("brightness", "contrast", "saturation", "hue")
        },
        "grey": (lambda s: ops.to_grayscale(images[s]), lambda k: tv.rgb_to_grayscale(images[k], 3)),
        "blur": (
            lambda s: ops.gaussian_blur(images[s], sigma[s], 23),
            lambda k: tv.gaussian_blur(images[k], [23, 23], [float(sigma[k])] * 2),
        ),
        "random erasing": (
            lambda s: images[s].masked_fill(ops.inside(images[s], *box[:, s]), 7),
            lambda k: tv.erase(images[k], *map(int, box[:, k]), torch.full((3, 1, 1), 7, dtype=torch.uint8)),
        ),
        "mixup": (
            lambda s: ops.mix(images[s], images[partner[s]], factor[s] / 2),
            lambda k: (images[k] * (factor[k] / 2) + images[partner[k]] * (1 - factor[k] / 2)).round(),
        ),
    }
    for wide, theirs in ((False, v2.RandAugment()), (True, v2.TrivialAugmentWide())):
        for number, (name, (magnitudes, signed)) in enumerate(theirs._AUGMENTATION_SPACE.items()):
            strength, negative = random.integers(0, 31, count), random.random(count) < 0.5
            table = magnitudes(31, side, side)

            def one(k: int, name=name, theirs=theirs, table=table, signed=signed, s=strength, n=negative) -> Tensor:
                value = 0.0 if table is None else float(table[s[k]])
                value = -value if signed and n[k] else value
                return theirs._apply_image_or_video_transform(images[k], name, value, NEAREST, theirs._fill)

            def whole(part: slice, number=number, s=strength, n=negative, wide=wide) -> Tensor:
                made = images[part]
                return auto_augment(made, np.full(len(made), number), s[part], n[part], wide=wide)

            every[f"{'TrivialAugment' if wide else 'RandAugment'}: {name}"] = (whole, one)
    rows = []
    for name, (whole, one) in every.items():
        differ = far = largest = 0
        for start in range(0, count, 50):
            part = slice(start, min(start + 50, count))
            expected = torch.stack([one(k) for k in range(part.start, part.stop)]).int()
            apart = (whole(part).int() - expected).abs()
            differ, far = differ + int((apart > 0).sum()), far + int((apart > 1).sum())
            largest = max(largest, int(apart.max()))
        rows.append((name, differ / images.numel(), far / images.numel(), largest))
        print(rows[-1], flush=True)
    return rows


def timed_rows(images: Tensor, batch: int, rounds: int) -> list[tuple[str, float, float]]:
    """Of each augmentation: milliseconds of processor an image, ours and torchvision's."""
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    cases: dict[str, tuple[dict[str, Any], Any]] = {
        "random resized crop, flip": (
            {"random_resized_crop": {}, "flip": True},
            v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()]),
        ),
        "… and mild jitter (default on photographs)": (
            {"random_resized_crop": {}, "flip": True, "color_jitter": dict.fromkeys(jitter, 0.2)},
            v2.Compose(
                [
                    v2.RandomResizedCrop(224, antialias=True),
                    v2.RandomHorizontalFlip(),
                    v2.ColorJitter(0.2, 0.2, 0.2),
                ]
            ),
        ),
        "rotation": ({"rotation": 30}, v2.RandomRotation(30, interpolation=BILINEAR)),
        "colour jitter": ({"color_jitter": jitter}, v2.ColorJitter(0.4, 0.4, 0.4)),
        "colour jitter with hue": ({"color_jitter": jitter | {"hue": 0.1}}, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
        "grey": ({"grayscale": 0.2}, v2.RandomGrayscale(0.2)),
        "blur": ({"blur": {"kernel_size": 23}}, v2.RandomApply([v2.GaussianBlur(23)], 0.5)),
        "RandAugment": ({"randaugment": {}}, v2.RandAugment()),
        "TrivialAugment": ({"trivial_augment": True}, v2.TrivialAugmentWide()),
        "random erasing": ({"random_erasing": {}}, v2.RandomErasing(0.5)),
        "mixup": ({"mixup": 0.2}, v2.MixUp(alpha=0.2, num_classes=10)),
        "CutMix": ({"cutmix": 1.0}, v2.CutMix(num_classes=10)),
    }
    labels, random = torch.zeros(batch, dtype=torch.int64), np.random.default_rng(0)
    rows = []
    for name, (options, theirs) in cases.items():
        config = AugmentationConfig.model_validate(options)
        mine, other = [], []
        for view in range(rounds):
            index = random.integers(0, len(images), batch)

            def ours(index=index, view=view, config=config) -> Tensor:
                if not config.mixes:
                    return augment(images, index, config, view)
                pairs = draw_pairs(index, np.arange(len(images)), tuple(images.shape[1:]), config, view)
                return pairs.mix(*augment(images, np.concatenate([index, pairs.partners]), config, view).chunk(2))

            def torchvisions(index=index, theirs=theirs, mixes=config.mixes) -> Any:
                samples = [images[k] for k in index]
                # Its mixing works on a batch of floats or bytes, as its references call it in the collate function.
                return theirs(torch.stack(samples).float(), labels) if mixes else torch.stack([*map(theirs, samples)])

            for run, times in ((ours, mine), (torchvisions, other)):
                began = time.process_time()
                run()
                times.append((time.process_time() - began) / batch * 1e3)
        rows.append((name, statistics.median(mine), statistics.median(other)))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagenette-part")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load_split(DataConfig(source="folders", path=options.data), "train").images[: options.images]
    assert isinstance(images, Tensor)
    pixels, times = pixel_rows(images), timed_rows(images, options.batch, options.rounds)
    lines = [
        "# Augmentation of photographs against torchvision's",
        "",
        f"`python benchmarks/augmentation_photos.py --data {options.data} --images {options.images} --batch "
        f"{options.batch} --rounds {options.rounds}`, torch {torch.__version__}, one thread, a "
        "machine with other work.",
        "",
        f"## Pixels: the same parameters on {len(images):,} images of 3×224×224",
        "",
        "| operation | pixels that differ | by more than 1 of 255 | largest |",
        "|---|---|---|---|",
        *(f"| {name} | {differ:.2e} | {far:.2e} | {most} |" for name, differ, far, most in pixels),
        "",
        "The crop is compared with torchvision's on floats; on bytes torchvision resizes in fixed point, which differs "
        "by 1. What differs by more are nearest neighbours that are equally far.",
        "",
        f"## Time: batches of {options.batch}, in turns, medians of {options.rounds}, processor milliseconds an image",
        "",
        "| augmentation | ours | torchvision, sample by sample | torchvision / ours |",
        "|---|---|---|---|",
        *(f"| {name} | {mine:.2f} | {other:.2f} | {other / mine:.2f} |" for name, mine, other in times),
        "",
        "mixup and CutMix: ours draws a partner of its own for each image, so twice as many images are read; "
        "torchvision mixes each batch with itself, one λ for all.",
    ]
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
