"""Pictures of shapes: exact masks, backgrounds that give the class away as often as asked, the same bytes anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stillroom.data.config import DataConfig, ShapesConfig
from stillroom.data.images import ImageSet
from stillroom.data.sources import load, parse_data_argument
from stillroom.data.synthetic import SHAPE_NAMES, read_shapes
from stillroom.errors import BadInput
from stillroom.recipe import parse_recipe


def small(**changes: Any) -> ShapesConfig:
    return ShapesConfig(**{"train": 400, "test": 300, **changes})


def masks_of(images: ImageSet) -> Tensor:
    assert images.masks is not None
    return images.masks


def test_a_split_is_pictures_with_masks() -> None:
    pair = load(DataConfig(source="shapes", shapes=small(classes=6, image_size=24)))
    for images, count in ((pair.train, 400), (pair.test, 300)):
        assert images.images.shape == (count, 3, 24, 24)
        assert images.is_pixels
        assert images.class_names == SHAPE_NAMES
        assert masks_of(images).shape == (count, 24, 24)
        share = masks_of(images).float().mean((1, 2))
        assert 0.03 < float(share.min()) < float(share.max()) < 0.4
    assert parse_data_argument("shapes").source == "shapes"


def test_within_the_mask_the_picture_has_one_colour_that_the_background_has_not() -> None:
    images = read_shapes(small(noise=0), "test")
    for picture, mask in zip(images.images[:].int(), masks_of(images), strict=True):
        inside, outside = picture[:, mask], picture[:, ~mask]
        assert (inside == inside[:, :1]).all()
        assert not (outside == inside[:, :1]).all(0).any()


def test_shapes_are_as_their_names_say() -> None:
    images = read_shapes(small(classes=6, train=600), "train")
    area = masks_of(images).float().mean((1, 2))
    # In units of their circle's radius squared, whose mean is .0796 of the picture.
    areas = {"disc": 0.72 * np.pi, "triangle": 1.299, "cross": 1.92, "ring": 0.7 * np.pi, "square": 1.96, "bar": 1.216}
    for kind, name in enumerate(SHAPE_NAMES):
        assert float(area[images.labels == kind].mean()) == pytest.approx(0.0796 * areas[name], rel=0.08)
    middle = [masks_of(images)[images.labels == kind] for kind in range(6)]
    centres = [
        float(np.mean([bool(m[tuple(m.nonzero().float().mean(0).round().long())]) for m in masks])) for masks in middle
    ]
    assert centres[SHAPE_NAMES.index("ring")] == 0.0
    assert min(centre for kind, centre in enumerate(centres) if SHAPE_NAMES[kind] != "ring") > 0.95


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_the_background_gives_the_class_away_as_often_as_asked(correlation: float) -> None:
    images = read_shapes(small(train=2000, correlation=correlation, noise=0), "train")
    # Backgrounds are recognised by their mean colour alone, learned from pictures that have their class's own.
    own = read_shapes(small(train=500, correlation=1, noise=0, seed=1), "train")
    telling = torch.stack([_behind(own)[own.labels == kind].mean(0) for kind in range(4)])
    recognised = torch.cdist(_behind(images), telling).argmin(1)
    agree = float((recognised == images.labels).float().mean())
    assert agree == pytest.approx(correlation + (1 - correlation) / 4, abs=0.03)


def _behind(images: ImageSet) -> Tensor:
    outside = ~masks_of(images)[:, None]
    return (images.images[:] * outside).sum((2, 3)) / outside.sum((2, 3))


def test_a_patch_holds_the_background_to_the_corner_away_from_the_shape() -> None:
    whole, patch = (read_shapes(small(noise=0, patch=side), "test") for side in (0, 10))
    assert torch.equal(masks_of(whole), masks_of(patch))
    same = (whole.images[:] == patch.images[:]).all(1)
    grey = (patch.images[:] == 130).all(1)
    assert torch.equal(same | masks_of(patch), ~grey)
    corners = torch.stack([same[:, :10, :10], same[:, :10, 22:], same[:, 22:, :10], same[:, 22:, 22:]], 1).all((2, 3))
    # Unless the shape lies over it, all of one corner is as it is without a patch; other corners are not.
    assert float(corners.sum(1).float().mean()) > 0.7
    assert int(corners.sum(1).max()) == 1
    with pytest.raises(BadInput, match="at most half of the picture's side, 16, not 17"):
        parse_recipe({"data": {"source": "shapes", "shapes": {"patch": 17}}, "student": {"name": "resnet8"}})


def test_the_test_split_may_lean_otherwise() -> None:
    shifted = load(DataConfig(source="shapes", shapes=small(correlation=1, test_correlation=0)))
    same, clean = (load(DataConfig(source="shapes", shapes=small(correlation=c))) for c in (1, 0))
    assert shifted.train.fingerprint == same.train.fingerprint
    assert shifted.test.fingerprint == clean.test.fingerprint
    # Only backgrounds move.
    assert torch.equal(masks_of(shifted.test), masks_of(same.test))
    assert torch.equal(shifted.test.labels, same.test.labels)


def test_the_same_options_give_the_same_bytes_anywhere() -> None:
    few, many = (read_shapes(small(train=count), "train") for count in (20, 300))
    assert torch.equal(many.images[:20], few.images[:])
    assert torch.equal(masks_of(many)[:20], masks_of(few))
    assert few.fingerprint == "980e2115655de76e77cefacb107eaefdd53305dde37741c116935caa3aad395f"
    for changes in ({"seed": 1}, {"classes": 5}, {"image_size": 33}, {"noise": 3.0}, {"patch": 8}, {"correlation": 1}):
        assert read_shapes(small(train=20, **changes), "train").fingerprint != few.fingerprint


def test_parts_keep_their_masks() -> None:
    config = DataConfig(source="shapes", shapes=small(), train_limit=100, holdout=0.25)
    whole = load(DataConfig(source="shapes", shapes=small(), train_limit=100)).train
    for part in (
        *((pair := load(config)).train, pair.test),
        whole.subset(np.array([5, 2])),
        pair.train.balanced_subset(10),
    ):
        rows = [int((whole.images[:] == image).flatten(1).all(1).nonzero()) for image in part.images[:]]
        assert torch.equal(masks_of(part), masks_of(whole)[rows])


def test_masks_of_another_size_are_refused() -> None:
    pixels, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0])
    for masks in (torch.zeros(2, 4, 5, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4)):
        with pytest.raises(BadInput, match=r"data\.masks: got .*expected bool \[2, 4, 4\]"):
            ImageSet(pixels, labels, ("a",), "x", masks=masks)


def test_a_recipe_writes_its_pictures_out_and_refuses_them_beside_other_data() -> None:
    recipe = parse_recipe({"data": {"source": "shapes"}, "student": {"name": "resnet8"}})
    assert recipe.data.model_dump()["shapes"]["classes"] == 4
    assert "shapes" not in parse_recipe({"student": {"name": "resnet8"}}).data.model_dump()
    with pytest.raises(BadInput, match="no shapes with source: digits; set source: shapes"):
        parse_recipe({"data": {"source": "digits", "shapes": {}}, "student": {"name": "resnet8"}})
    with pytest.raises(BadInput, match=r"correlation: got 2.*expected"):
        parse_recipe({"data": {"source": "shapes", "shapes": {"correlation": 2}}, "student": {"name": "resnet8"}})
    with pytest.raises(BadInput, match="split"):
        read_shapes(small(), "val")
