"""Sets of images: what they refuse, their fingerprint, their subsets, and pairs of them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.data.images import DataPair, ImageSet, make_pair, number_classes, rank_in_class
from stillroom.errors import BadInput


def some(count: int = 6, classes: int = 3, **changes: Any) -> ImageSet:
    images = torch.arange(count * 12, dtype=torch.uint8).reshape(count, 3, 2, 2)
    names = tuple("abcdefgh"[:classes])
    return replace(ImageSet(images, torch.arange(count) % classes, names, "some"), **changes)


def test_properties() -> None:
    images = some()
    assert (len(images), images.num_classes, images.channels, images.image_size) == (6, 3, 3, 2)
    assert images.is_pixels
    assert repr(images) == "ImageSet('some': 6 images of 3×2×2, uint8, 3 classes)"


def test_images_that_are_not_square_have_no_one_size() -> None:
    assert some(images=torch.zeros(6, 3, 2, 4, dtype=torch.uint8)).image_size is None


def test_floats_may_have_any_shape_but_then_no_channels() -> None:
    floats = some(images=torch.zeros(6, 5))
    assert not floats.is_pixels
    assert floats.image_size is None
    assert floats.channels == floats.images.shape[1]


def test_a_set_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        some().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(6, 2, 2, dtype=torch.uint8)}, r"data\.images: .*uint8 images \[N, C, H, W\]"),
        ({"images": torch.zeros(6, 3, 0, 2, dtype=torch.uint8)}, r"data\.images"),
        ({"images": torch.zeros(6, 3, 2, 2, dtype=torch.int64)}, r"data\.images: .*int64"),
        ({"images": torch.zeros(6)}, r"data\.images"),
        ({"images": torch.full((6, 3), torch.nan)}, r"data\.images: .*finite"),
        ({"labels": torch.zeros(6)}, r"data\.labels: .*float32.*int64 \[N\]"),
        ({"labels": torch.zeros(6, 1, dtype=torch.int64)}, r"data\.labels: .*int64 \[N\]"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, r"data\.labels: .*5 labels.*6 images"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0, 4])}, r"data\.labels: got 3; expected .*0 to 2 \(image 3\)"),
        ({"labels": torch.tensor([0, 1, 2, 1, 0, -1])}, r"data\.labels: got -1; expected .*\(image 5\)"),
        ({"class_names": ()}, r"data\.labels: .*no class names"),
        (
            {"images": torch.zeros(0, 3, 2, 2, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
            r"data\.images: .*at least 1",
        ),
    ],
)
def test_a_bad_set_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        some(**changes)


def test_the_fingerprint_is_of_the_content() -> None:
    first = some().fingerprint
    assert len(first) == 64
    assert some().fingerprint == first
    assert some(name="another name").fingerprint == first
    apart = some().images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert some(images=apart).fingerprint == first


def test_any_change_changes_the_fingerprint() -> None:
    pixel = some().images.clone()
    pixel[5, 2, 1, 1] ^= 1
    changes: list[dict[str, Any]] = [
        {"images": pixel},
        {"images": some().images.reshape(6, 3, 4, 1)},
        {"images": some().images.float()},
        {"labels": torch.tensor([0, 1, 2, 0, 1, 1])},
        {"class_names": ("a", "b", "d")},
        {"class_names": ("a", "b", "c", "d")},
    ]
    prints = {some(**change).fingerprint for change in [{}, *changes]}
    assert len(prints) == 7


def test_the_fingerprint_is_read_once() -> None:
    images = some()
    first = images.fingerprint
    images.images.zero_()
    assert images.fingerprint == first


def uneven() -> ImageSet:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 5)
    images = torch.arange(95, dtype=torch.uint8).reshape(95, 1, 1, 1)
    return ImageSet(images, labels, ("a", "b", "c"), "uneven")


@pytest.mark.parametrize(("limit", "counts"), [(3, [1, 1, 1]), (15, [5, 5, 5]), (25, [10, 10, 5]), (80, [45, 30, 5])])
def test_a_subset_is_as_balanced_as_the_data_allow(limit: int, counts: list[int]) -> None:
    part = uneven().balanced_subset(limit)
    assert torch.bincount(part.labels, minlength=3).tolist() == counts
    assert part.class_names == ("a", "b", "c")


def test_a_subset_keeps_each_image_with_its_label_and_the_order() -> None:
    whole, part = uneven(), uneven().balanced_subset(40)
    rows = part.images.flatten().long()
    assert len(rows.unique()) == 40
    assert torch.equal(rows, rows.sort().values)
    assert torch.equal(part.labels, whole.labels[rows])


def test_subsets_are_fixed_nested_and_random() -> None:
    sizes = [set(uneven().balanced_subset(limit).images.flatten().tolist()) for limit in (10, 20, 40)]
    assert sizes[0] == set(uneven().balanced_subset(10).images.flatten().tolist())
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[0] != {0, 1, 2, 3, 60, 61, 62, 90, 91, 92}  # not merely the first of each class


def test_a_limit_beyond_the_set_is_the_set() -> None:
    images = some()
    assert images.balanced_subset(None) is images
    assert images.balanced_subset(6) is images
    assert images.balanced_subset(7) is images
    with pytest.raises(BadInput, match="limit: got 0"):
        images.balanced_subset(0)


def test_rank_in_class_counts_those_before() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 200)
    expected = [int((labels[:position] == label).sum()) for position, label in enumerate(labels)]
    assert rank_in_class(labels).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(6, 1, 2, 2, dtype=torch.uint8)}, "got 'images of 1×2×2'; expected 3×2×2"),
        ({"images": torch.zeros(6, 3, 2, 3, dtype=torch.uint8)}, "got 'images of 3×2×3'; expected 3×2×2"),
        ({"images": torch.zeros(6, 3, 2, 2)}, "got 'floats'; expected uint8 pixels"),
        ({"class_names": ("a", "b", "z")}, r"'z'.*expected the classes of training"),
        ({"class_names": ("a", "b", "c", "d")}, r"'d'.*expected the classes of training: training lacks 'd'"),
        ({"class_names": ("c", "a", "b")}, r"got \['c', 'a', 'b'\]; .* of training in their order, \['a', 'b', 'c'\]"),
    ],
)
def test_splits_that_do_not_agree_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as raised:
        DataPair(some(), some(**changes))
    assert raised.value.field == "data.test_split"


def test_numbered_classes_are_as_many_as_either_split_has() -> None:
    train = some(class_names=("0", "1", "2"))
    test = some(class_names=("0", "1", "2", "3"))
    for pair in (make_pair(train, test), make_pair(test, train)):
        assert pair.train.class_names == pair.test.class_names == ("0", "1", "2", "3")
    assert make_pair(train, train).train is train


def test_named_classes_are_not_stretched() -> None:
    with pytest.raises(BadInput, match="the classes of training"):
        make_pair(some(), some(class_names=("a", "b", "c", "d")))


def test_an_identifier_is_no_class_number() -> None:
    assert number_classes(torch.tensor([3])) == ("0", "1", "2", "3")
    with pytest.raises(BadInput, match=r"data\.labels: got 1099511627776"):
        number_classes(torch.tensor([0, 1 << 40]))
