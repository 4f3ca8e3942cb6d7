"""Augmented pixels: against work by hand, against a loop over samples, and the laws of a pure function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from stillroom.data.augmentation import augment, augment_batch, check_augmentable, view_of
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.errors import BadInput
from stillroom.randomness import counter_uniform

EVERYTHING = AugmentationConfig(pad_crop=2, flip=True, cutout=3)


def random_images(*shape: int, seed: int = 0) -> Tensor:
    # From 1 on, so that a zero can only come from padding or cutout.
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def draw(config: AugmentationConfig, view: int, sample: int, what: int) -> float:
    return float(counter_uniform(config.seed, view, np.array([sample]), what)[0])


def one_by_one(images: Tensor, index: list[int], config: AugmentationConfig, view: int) -> Tensor:
    """The reference: the definition, written out for one sample at a time."""
    made = []
    for sample in index:
        image = images[sample]
        height, width = image.shape[1:]
        pad = config.pad_crop
        if pad:
            y, x = (int(draw(config, view, sample, what) * (2 * pad + 1)) for what in (0, 1))
            mode = config.pad_mode or "constant"
            image = torch.from_numpy(np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode=mode))
            image = image[:, y : y + height, x : x + width]
        if config.flip == "alternate":
            flipped = (int(draw(config, 0, sample, 5) < 0.5) + view) % 2 == 1
        else:
            flipped = bool(config.flip) and draw(config, view, sample, 2) < 0.5
        if flipped:
            image = image.flip(-1)
        if config.cutout:
            y, x = int(draw(config, view, sample, 3) * height), int(draw(config, view, sample, 4) * width)
            image = image.clone()
            for row in range(y - config.cutout // 2, y - config.cutout // 2 + config.cutout):
                for column in range(x - config.cutout // 2, x - config.cutout // 2 + config.cutout):
                    if 0 <= row < height and 0 <= column < width:
                        image[:, row, column] = 0
        made.append(image)
    return torch.stack(made)


def fixed_draws(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Make the draws of an augmentation known: y, x, flip, cut_y, cut_x."""
    names = ["y", "x", "flip", "cut_y", "cut_x"]

    def uniform(seed: int, view: int, index: np.ndarray, what: int) -> np.ndarray:
        return np.full(len(index), values[names[what]])

    monkeypatch.setattr("stillroom.data.augmentation.counter_uniform", uniform)


NINE = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 1, 3, 3)


def by_hand(config: AugmentationConfig) -> list[list[int]]:
    return augment(NINE, np.array([0]), config, 0)[0, 0].tolist()


def test_crop_at_the_first_corner_moves_the_image_down_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_draws(monkeypatch, y=0.0, x=0.0)
    assert by_hand(AugmentationConfig(pad_crop=1)) == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]


def test_crop_at_the_last_corner_moves_the_image_up_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_draws(monkeypatch, y=1 - 2**-53, x=1 - 2**-53)
    assert by_hand(AugmentationConfig(pad_crop=1)) == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]


def test_crop_in_the_middle_leaves_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_draws(monkeypatch, y=0.5, x=0.5)
    assert by_hand(AugmentationConfig(pad_crop=1)) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_crop_far_to_the_right_never_shows_the_next_row(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_draws(monkeypatch, y=0.5, x=1 - 2**-53)
    assert by_hand(AugmentationConfig(pad_crop=2)) == [[3, 0, 0], [6, 0, 0], [9, 0, 0]]


def test_flip_mirrors_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_draws(monkeypatch, flip=0.4999)
    assert by_hand(AugmentationConfig(flip=True)) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    fixed_draws(monkeypatch, flip=0.5)
    assert by_hand(AugmentationConfig(flip=True)) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_flip_comes_after_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_draws(monkeypatch, y=0.5, x=0.0, flip=0.0)
    assert by_hand(AugmentationConfig(pad_crop=1, flip=True)) == [[2, 1, 0], [5, 4, 0], [8, 7, 0]]


@pytest.mark.parametrize(
    ("side", "cut_y", "cut_x", "expected"),
    [
        (1, 0.5, 0.5, [[1, 2, 3], [4, 0, 6], [7, 8, 9]]),
        (3, 0.0, 0.0, [[0, 0, 3], [0, 0, 6], [7, 8, 9]]),
        (2, 0.5, 0.5, [[0, 0, 3], [0, 0, 6], [7, 8, 9]]),
        (2, 0.0, 0.99, [[1, 0, 0], [4, 5, 6], [7, 8, 9]]),
        (9, 0.5, 0.5, [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    ],
)
def test_cutout_is_clipped_at_the_border(
    monkeypatch: pytest.MonkeyPatch, side: int, cut_y: float, cut_x: float, expected: list[list[int]]
) -> None:
    fixed_draws(monkeypatch, cut_y=cut_y, cut_x=cut_x)
    assert by_hand(AugmentationConfig(cutout=side)) == expected


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
    pad=st.integers(0, 5),
    mode=st.sampled_from([None, "reflect"]),
    flip=st.sampled_from([False, True, "alternate"]),
    cutout=st.integers(0, 5),
    seed=st.integers(0, 2**40),
    view=st.integers(0, 10**6),
    data=st.data(),
)
def test_equals_the_loop_over_samples(
    shape: tuple[int, ...],
    pad: int,
    mode: Any,
    flip: bool | str,
    cutout: int,
    seed: int,
    view: int,
    data: st.DataObject,
) -> None:
    images = random_images(*shape, seed=seed % 1000)
    index = data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=9))
    config = AugmentationConfig(seed=seed, pad_crop=pad, pad_mode=mode if pad else None, flip=flip, cutout=cutout)
    made = augment(images, np.array(index), config, view)
    assert torch.equal(made, one_by_one(images, index, config, view))
    assert made.is_contiguous()
    assert torch.equal(augment_batch(images[index], np.array(index), config, view), made)


def test_the_set_itself_is_left_alone() -> None:
    images = random_images(8, 3, 6, 6)
    before = images.clone()
    augment(images, np.arange(8), EVERYTHING, 0).zero_()
    augment(images, np.arange(8), AugmentationConfig(), 0).zero_()
    assert torch.equal(images, before)


def test_each_sample_alone_gives_the_same_pixels_as_in_a_batch() -> None:
    images = random_images(5, 3, 8, 8)
    together = augment(images, np.array([3, 1, 2]), EVERYTHING, 7)
    alone = [augment(images, np.array([sample]), EVERYTHING, 7) for sample in (3, 1, 2)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_any_split_into_batches_gives_the_same_pixels(batch: int) -> None:
    images = random_images(64, 3, 8, 8)
    order = np.random.default_rng(0).permutation(64)
    whole = augment(images, np.arange(64), EVERYTHING, 2)
    parts = [augment(images, order[start : start + batch], EVERYTHING, 2) for start in range(0, 64, batch)]
    assert torch.equal(torch.cat(parts), whole[torch.from_numpy(order)])


def test_views_and_seeds_differ() -> None:
    images = random_images(64, 3, 8, 8)
    made = [augment(images, np.arange(64), EVERYTHING, view) for view in range(4)]
    made.append(augment(images, np.arange(64), EVERYTHING.model_copy(update={"seed": 1}), 0))
    for first in range(len(made)):
        for second in range(first):
            different = (made[first] != made[second]).flatten(1).any(1).float().mean()
            assert different > 0.9


def test_index_may_be_a_tensor_and_of_any_memory() -> None:
    images = random_images(6, 3, 8, 8)
    index = np.array([5, 0, 3])
    expected = augment(images, index, EVERYTHING, 0)
    assert torch.equal(augment(images, torch.from_numpy(index), EVERYTHING, 0), expected)
    frozen = index.copy()
    frozen.flags.writeable = False
    assert torch.equal(augment(images, frozen, EVERYTHING, 0), expected)
    apart = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(augment(apart, index, EVERYTHING, 0), expected)


def test_nothing_asked_for_is_a_plain_selection_of_any_type() -> None:
    floats = torch.randn(5, 7)
    assert torch.equal(augment(floats, np.array([4, 4, 0]), AugmentationConfig(), 3), floats[[4, 4, 0]])


def test_works_on_the_device_of_the_images() -> None:
    made = augment(random_images(6, 3, 8, 8).to("meta"), np.array([5, 0, 3]), EVERYTHING, 0)
    assert made.device.type == "meta"
    assert made.shape == (3, 3, 8, 8)


def test_an_index_beyond_the_set_is_refused() -> None:
    with pytest.raises(IndexError):
        augment(random_images(4, 1, 4, 4), np.array([4]), EVERYTHING, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("flip", [True, "alternate"])
def test_floats_get_the_draws_of_bytes_and_keep_type_and_values(dtype: torch.dtype, flip: Any) -> None:
    images, index = random_images(6, 4, 9, 7), np.array([5, 0, 3, 2])
    config = AugmentationConfig(pad_crop=2, flip=flip, cutout=3)
    # Not multiples of 1/255: a way over bytes would show.
    values = torch.linspace(-3, 5, 256).to(dtype)
    values[0] = 0
    floats = values[images.long()]
    for view in range(4):
        made = augment(floats, index, config, view)
        assert made.dtype == dtype
        assert torch.equal(made, values[augment(images, index, config, view).long()])
    assert torch.equal(floats, values[images.long()])


def test_whole_numbers_that_are_no_pixels_are_refused() -> None:
    with pytest.raises(BadInput, match=r"data\.augmentation.*int64.*expected uint8"):
        augment(torch.ones(4, 1, 4, 4, dtype=torch.int64), np.array([0]), EVERYTHING, 0)


# Statistics: the draws are fixed by the seed, so that these either always pass or always fail.


def offsets(config: AugmentationConfig, count: int, view: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Where the crops of ``count`` samples began, read from the pixels alone."""
    side, pad = 9, config.pad_crop
    marked = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    marked[:, 0, side // 2, side // 2] = 1
    made = augment(marked, np.arange(count), config, view)
    assert int(made.sum()) == count  # the mark lies so that no crop loses it
    position = made.flatten(1).argmax(1).numpy()
    return side // 2 + pad - position // side, side // 2 + pad - position % side


def test_crops_are_uniform_and_their_coordinates_independent() -> None:
    y, x = offsets(AugmentationConfig(pad_crop=2), 10_000)
    counts = np.zeros((5, 5))
    np.add.at(counts, (y, x), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert stats.chi2_contingency(counts).pvalue > 1e-3


def mirrored(config: AugmentationConfig, count: int, view: int = 0) -> np.ndarray:
    images = torch.tensor([1, 2], dtype=torch.uint8).expand(count, 1, 1, 2)
    made = augment(images, np.arange(count), config, view)
    return (made[:, 0, 0, 0] == 2).numpy()


def test_half_are_mirrored_and_each_view_chooses_anew() -> None:
    config = AugmentationConfig(flip=True)
    views = np.stack([mirrored(config, 10_000, view) for view in range(2)])
    assert stats.binomtest(int(views[0].sum()), 10_000).pvalue > 1e-3
    table = np.zeros((2, 2))
    np.add.at(table, (views[0].astype(int), views[1].astype(int)), 1)
    assert table.min() > 2000
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("seed", [0, 7])
def test_alternating_flips_change_with_every_view(seed: int) -> None:
    config = AugmentationConfig(seed=seed, flip="alternate")
    views = np.stack([mirrored(config, 10_000, view) for view in range(4)])
    assert stats.binomtest(int(views[0].sum()), 10_000).pvalue > 1e-3
    assert np.array_equal(views[1], ~views[0])
    assert np.array_equal(views[2], views[0])
    assert np.array_equal(views[3], views[1])
    other = mirrored(AugmentationConfig(seed=seed + 1, flip="alternate"), 10_000)
    table = np.zeros((2, 2))
    np.add.at(table, (views[0].astype(int), other.astype(int)), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_alternating_flips_leave_the_crop_alone() -> None:
    images = random_images(64, 3, 8, 8)
    turned, plain = (
        augment(images, np.arange(64), AugmentationConfig(pad_crop=2, flip=flip), 5) for flip in ("alternate", False)
    )
    flipped = torch.from_numpy(mirrored(AugmentationConfig(flip="alternate"), 64, 5))
    assert torch.equal(turned[flipped], plain[flipped].flip(-1))
    assert torch.equal(turned[~flipped], plain[~flipped])


def test_flips_drawn_anew_are_what_they_always_were() -> None:
    """Pinned: recipes of before must give the same pixels."""
    found = np.packbits(np.stack([mirrored(AugmentationConfig(seed=seed, flip=True), 32, 3) for seed in (0, 1)]), 1)
    assert found.tolist() == [[109, 42, 86, 83], [2, 120, 172, 237]]


@pytest.mark.parametrize("views", [1, 3])
def test_an_odd_number_of_views_cannot_alternate(views: int) -> None:
    with pytest.raises(ValueError, match="an even number of views, or 0, with flip: alternate"):
        AugmentationConfig(flip="alternate", views=views)
    AugmentationConfig(flip="alternate", views=0)


def test_a_gathered_batch_is_augmented_as_its_samples() -> None:
    images, index = random_images(9, 3, 8, 8), np.array([5, 0, 5, 8])
    batch = images[index]
    before = batch.clone()
    assert torch.equal(augment_batch(batch, index, EVERYTHING, 4), augment(images, index, EVERYTHING, 4))
    assert torch.equal(batch, before)
    assert augment_batch(batch, index, AugmentationConfig(), 4) is batch
    with pytest.raises(ValueError, match="got 4 images of 3 samples"):
        augment_batch(batch, index[:3], EVERYTHING, 4)


def test_cutout_centres_are_uniform() -> None:
    made = augment(torch.ones(8_000, 1, 4, 5, dtype=torch.uint8), np.arange(8_000), AugmentationConfig(cutout=1), 0)
    holes = (made == 0).sum(0).flatten().numpy()
    assert int(holes.sum()) == 8_000
    assert stats.chisquare(holes).pvalue > 1e-3


def test_quantities_are_drawn_apart() -> None:
    """Flip tells nothing of the crop or of the hole, and asking for one does not move another."""
    count = 10_000
    flips = mirrored(AugmentationConfig(flip=True), count)
    y, x = offsets(AugmentationConfig(pad_crop=2), count)
    made = augment(torch.ones(count, 1, 5, 5, dtype=torch.uint8), np.arange(count), AugmentationConfig(cutout=1), 0)
    hole = (made == 0).flatten(1).int().argmax(1).numpy()
    drawn = {"flip": flips.astype(int), "y": y, "x": x, "hole row": hole // 5, "hole column": hole % 5}
    for first in drawn:
        for second in drawn:
            if first < second:
                table = np.zeros((drawn[first].max() + 1, drawn[second].max() + 1))
                np.add.at(table, (drawn[first], drawn[second]), 1)
                assert stats.chi2_contingency(table).pvalue > 1e-3, (first, second)


# Views, and what may be augmented at all.


def test_views_come_round_or_never() -> None:
    assert [view_of(epoch, AugmentationConfig(views=3)) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [view_of(epoch, AugmentationConfig(views=0)) for epoch in range(7)] == list(range(7))


@pytest.mark.parametrize("asked", [{"flip": True}, {"flip": "alternate"}, {"pad_crop": 1}, {"cutout": 2}])
@pytest.mark.parametrize("shape", [(7,), (8, 8), (3, 1, 1)])
def test_samples_that_are_no_images_cannot_be_augmented(asked: dict[str, int], shape: tuple[int, ...]) -> None:
    rows = ImageSet(torch.randn(2, *shape), torch.tensor([0, 1]), ("a", "b"), "mine")
    with pytest.raises(BadInput, match=f"{next(iter(asked))}.*'mine' is .*not an image") as raised:
        check_augmentable(rows, AugmentationConfig(**asked))
    assert raised.value.field == "data.augmentation"
    check_augmentable(rows, AugmentationConfig())
    check_augmentable(replace(rows, images=torch.randn(2, 3, 8, 8)), AugmentationConfig(**asked))


def test_what_padding_shows_is_part_of_a_recipe_only_where_it_is_set() -> None:
    assert "pad_mode" not in AugmentationConfig(pad_crop=1).model_dump()
    assert AugmentationConfig(pad_crop=1, pad_mode="reflect").model_dump()["pad_mode"] == "reflect"
    assert AugmentationConfig(pad_crop=1, pad_mode="reflect").parts == ("pad_crop",)
    with pytest.raises(ValueError, match="pad_crop of 1 or more with pad_mode"):
        AugmentationConfig(pad_mode="reflect")


@pytest.mark.parametrize("name", ["pad_crop", "cutout"])
def test_padding_and_square_must_be_smaller_than_the_image(name: str) -> None:
    images = ImageSet(random_images(2, 1, 8, 6), torch.tensor([0, 1]), ("a", "b"), "mine")
    check_augmentable(images, AugmentationConfig(**{name: 5}))
    with pytest.raises(BadInput, match=rf"data\.augmentation\.{name}: got 6; expected less than .* 6 pixels"):
        check_augmentable(images, AugmentationConfig(**{name: 6}))
