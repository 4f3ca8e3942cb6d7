"""Views of photographs: torchvision's pixels for the same parameters, pure functions of (seed, view, index), pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from stillroom.data import image_ops as ops
from stillroom.data.augmentation import augment, auto_augment, check_augmentable, draw_pairs
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet, LazyImages
from stillroom.data.loader import BatchLoader, MixedLabels
from stillroom.errors import BadInput
from stillroom.losses.base import LossInputs
from stillroom.losses.binary_cross_entropy import BinaryCrossEntropy
from stillroom.losses.cross_entropy import CrossEntropy
from stillroom.losses.label_smoothing import LabelSmoothing
from stillroom.models.external import declare_missing_ops
from stillroom.teachers.output import ModelOutput

PARTS: dict[str, dict[str, Any]] = {
    "random_resized_crop": {"random_resized_crop": {}, "flip": True},
    "rotation": {"rotation": 30},
    "trivial_augment": {"trivial_augment": True},
    "randaugment": {"randaugment": {"num_ops": 3}},
    "color_jitter": {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    "grayscale": {"grayscale": 0.5},
    "blur": {"blur": {"kernel_size": 5}},
    "random_erasing": {"random_erasing": {"value": 7}},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "all": {
        "random_resized_crop": {"scale": (0.5, 1)},
        "flip": True,
        "trivial_augment": True,
        "color_jitter": {"brightness": 0.2},
        "random_erasing": {},
        "mixup": 0.2,
        "cutmix": 1.0,
    },
}
COUNT, SIDE = 24, 20


def photographs(count: int = COUNT) -> Tensor:
    """Smooth coloured images, as photographs are."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).byte()


def same_to_rounding(made: Tensor, expected: Tensor, apart: float = 0.0) -> None:
    far = (made.int() - expected.int()).abs() > 1
    assert float(far.float().mean()) <= apart


@pytest.mark.parametrize(
    "name", ["brightness", "contrast", "saturation", "hue", "sharpness", "grayscale", "blur", "rotation", "crop"]
)
def test_each_operation_gives_torchvisions_pixels(name: str) -> None:
    declare_missing_ops()
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    images, random = photographs(), np.random.default_rng(0)
    factor, small = random.uniform(0.2, 1.8, COUNT), random.uniform(-0.5, 0.5, COUNT)
    height, width = random.integers(4, SIDE + 1, (2, COUNT))
    top, left = ((random.random(COUNT) * (SIDE + 1 - side)).astype(int) for side in (height, width))
    parts = np.stack([top, left, height, width])
    made, one = {
        **{
            each: (getattr(ops, f"adjust_{each}"), getattr(tv, f"adjust_{each}"))
            for each in ("brightness", "contrast", "saturation", "hue", "sharpness")
        },
        "grayscale": (lambda x, _: ops.to_grayscale(x), lambda x, _: tv.rgb_to_grayscale(x, 3)),
        "blur": (lambda x, s: ops.gaussian_blur(x, s, 7), lambda x, s: tv.gaussian_blur(x, [7, 7], [s, s])),
        "rotation": (
            lambda x, a: ops.affine(x, ops.rotation_matrix(60 * a), "bilinear"),
            lambda x, a: tv.rotate(x, 60 * a, interpolation=InterpolationMode.BILINEAR),
        ),
        "crop": (
            lambda x, _: ops.resized_crop(x, *parts),
            lambda x, k: tv.resized_crop(x, *map(int, parts[:, k]), [SIDE, SIDE], antialias=True),
        ),
    }[name]
    given = {"hue": small, "rotation": small, "crop": np.arange(COUNT)}.get(name, factor)
    values: list[Any] = [int(v) if name == "crop" else float(v) for v in given]
    same_to_rounding(made(images, given), torch.stack([one(x, v) for x, v in zip(images, values, strict=True)]))


@pytest.mark.parametrize("wide", [False, True])
def test_each_of_the_fourteen_operations_gives_torchvisions_pixels(wide: bool) -> None:
    declare_missing_ops()
    from torchvision.transforms import v2

    theirs = v2.TrivialAugmentWide() if wide else v2.RandAugment()
    images, random = photographs(), np.random.default_rng(1)
    for number, (name, (magnitudes, signed)) in enumerate(theirs._AUGMENTATION_SPACE.items()):
        strength, negative = random.integers(0, 31, COUNT), random.random(COUNT) < 0.5
        table = magnitudes(31, SIDE, SIDE)
        values = [0.0] * COUNT if table is None else [float(table[k]) for k in strength]
        values = [-value if signed and minus else value for value, minus in zip(values, negative, strict=True)]
        expected = torch.stack(
            [
                theirs._apply_image_or_video_transform(x, name, value, v2.InterpolationMode.NEAREST, theirs._fill)
                for x, value in zip(images, values, strict=True)
            ]
        )
        made = auto_augment(images, np.full(COUNT, number), strength, negative, wide=wide)
        same_to_rounding(made, expected, apart=2e-3)  # nearest neighbours that are equally far


def test_mixing_gives_torchvisions_pixels_and_shares() -> None:
    declare_missing_ops()
    from torchvision.transforms import v2

    images, pool = photographs(), np.arange(COUNT)
    for config, theirs in (
        (AugmentationConfig(mixup=0.4), v2.MixUp(num_classes=2)),
        (AugmentationConfig(cutmix=1.0), v2.CutMix(num_classes=2)),
    ):
        pairs = draw_pairs(pool, pool, (3, SIDE, SIDE), config, view=1)
        partners = images[torch.from_numpy(pairs.partners)]
        made = pairs.mix(images, partners)
        for k in range(COUNT):
            two = torch.stack([images[k], partners[k]])
            top, left, height, width = (int(each[k]) for each in pairs.box) if pairs.box else (0, 0, 0, 0)
            box = (left, top, left + width, top + height)
            parameters = {"lam": float(pairs.share[k]), "labels": None, "box": box, "batch_size": 2}
            given = two.float() if config.mixup else two
            expected = theirs.transform(given, {**parameters, "lam_adjusted": parameters["lam"]})[0]
            same_to_rounding(made[k], expected.round())
        if config.cutmix:
            assert pairs.share == pytest.approx(1 - pairs.box[2] * pairs.box[3] / SIDE**2)


def image_set(images: Any) -> ImageSet:
    return ImageSet(images, torch.arange(COUNT) % 3, ("a", "b", "c"), "photographs")


@pytest.mark.parametrize("part", PARTS)
def test_a_view_is_the_same_pixels_in_any_batch_from_files_or_memory(part: str, in_files: type[LazyImages]) -> None:
    """So that the teacher's cache, which is built in blocks, holds the answers to the images of training."""
    config = AugmentationConfig.model_validate(PARTS[part])
    data, lazy = image_set(photographs()), image_set(in_files(photographs()))
    order = np.random.default_rng(2).permutation(COUNT)
    requests = [(order[:7], 3), (order[7:8], 3), (order[8:], 3)]
    (whole,) = BatchLoader(data, config, torch.device("cpu")).batches([(np.arange(COUNT), 3)])
    assert bool((whole.images != data.images).any())
    for loader in (BatchLoader(data, config, torch.device("cpu")), BatchLoader(lazy, config, torch.device("cpu"))):
        parts = list(loader.batches(requests))
        assert torch.equal(torch.cat([each.images for each in parts]), whole.images[order])
        if config.mixes:
            shares = torch.cat([each.mixed.share for each in parts if each.mixed is not None])
            assert whole.mixed is not None
            assert torch.equal(shares, whole.mixed.share[order])
    (other,) = BatchLoader(data, config, torch.device("cpu")).batches([(np.arange(COUNT), 4)])
    assert bool((other.images != whole.images).any())


@pytest.fixture
def in_files() -> type[LazyImages]:
    from stillroom.data.images import Subset

    return lambda images: Subset(images, np.arange(len(images)))  # type: ignore[return-value]


def test_partners_of_a_part_lie_in_it() -> None:
    """Images that are held out are not learned from, mixed into others."""
    images = torch.full((COUNT, 1, 4, 4), 0, dtype=torch.uint8)
    images[::2] = 200
    part = image_set(images).subset(np.arange(1, COUNT, 2))
    loader = BatchLoader(part, AugmentationConfig(mixup=1.0), torch.device("cpu"))
    for each in (loader, loader.parent()):
        (batch,) = each.batches([(np.arange(4), 0)])
        assert batch.mixed is not None
        expected = torch.from_numpy(batch.rows) % 2 == 0
        assert torch.equal(batch.images.amax((1, 2, 3)) > 0, expected)


@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(smoothing=0.2), BinaryCrossEntropy()])
def test_losses_on_labels_weigh_both_of_a_mixed_image(loss: Any) -> None:
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    partners, share = labels.flip(0), torch.tensor([1.0, 0.25, 0.5, 0.0, 0.8])

    def value(rows: slice, labels: Tensor, mixed: MixedLabels | None = None) -> Tensor:
        output = ModelOutput(logits[rows])
        return loss(LossInputs(output, None, labels[rows], labels[rows], 0.0, mixed=mixed))

    each = [slice(row, row + 1) for row in range(5)]
    by_hand = [share[k] * value(each[k], labels) + (1 - share[k]) * value(each[k], partners) for k in range(5)]
    made = value(slice(None), labels, MixedLabels(partners, share))
    assert made.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"random_resized_crop": {}, "pad_crop": 4}, "either random_resized_crop or pad_crop"),
        ({"randaugment": {}, "trivial_augment": True}, "either trivial_augment or randaugment"),
        ({"random_resized_crop": {"scale": [1, 0.5]}}, "smallest and the largest"),
        ({"random_resized_crop": {"scale": [0.5, 2]}}, "at most 1"),
        ({"blur": {"kernel_size": 4}}, "odd"),
        ({"mixup": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_cannot_be_name_themselves(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AugmentationConfig.model_validate(options)


def test_changes_of_colour_are_refused_for_floats_and_odd_channels() -> None:
    config = AugmentationConfig.model_validate(PARTS["color_jitter"])
    with pytest.raises(BadInput, match=r"color_jitter.*floats"):
        check_augmentable(image_set(torch.rand(COUNT, 3, 4, 4)), config)
    several = AugmentationConfig.model_validate({**PARTS["blur"], **PARTS["grayscale"], **PARTS["trivial_augment"]})
    with pytest.raises(BadInput, match=r"trivial_augment.*floats"):  # the first, whatever the order of a set
        check_augmentable(image_set(torch.rand(COUNT, 3, 4, 4)), several)
    with pytest.raises(BadInput, match=r"color_jitter.*4 channels"):
        check_augmentable(image_set(torch.zeros(COUNT, 4, 4, 4, dtype=torch.uint8)), config)
    floats = torch.rand(COUNT, 3, SIDE, SIDE)
    made = augment(floats, np.arange(COUNT), AugmentationConfig.model_validate(PARTS["random_resized_crop"]), 0)
    assert made.dtype == floats.dtype
    assert bool((made <= floats.flatten(1).amax(1)[:, None, None, None] + 1e-6).all())


def test_a_recipe_without_them_has_not_their_keys() -> None:
    assert set(AugmentationConfig(flip=True).model_dump()) == {"seed", "pad_crop", "flip", "cutout", "views"}
    assert AugmentationConfig(mixup=0.2).model_dump()["mixup"] == 0.2
