"""A part of the training images that is not learned from: the same for all, and the rest stays what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.data.augmentation import augment
from stillroom.data.config import AugmentationConfig, DataConfig
from stillroom.data.images import DataPair, ImageSet, Subset, holdout_mask
from stillroom.data.loader import BatchLoader
from stillroom.data.sources import load, take_validation
from stillroom.errors import BadInput
from stillroom.recipe import parse_recipe

SHOWN = AugmentationConfig(pad_crop=1, flip=True, cutout=2, views=4)
CPU = torch.device("cpu")


def check_split(config: DataConfig) -> DataPair:
    """What holds of every source: two parts of the very images that a run without a holdout learns from."""
    whole = load(config).train
    pair = load(config.model_copy(update={"holdout": 0.25}))
    origins = [part.subset_info for part in (pair.train, pair.test)]
    assert all(origin is not None for origin in origins)
    places = [origin.rows for origin in origins if origin is not None]
    assert sorted(np.concatenate(places).tolist()) == list(range(len(whole)))
    assert len(pair.test) == round(0.25 * len(whole))
    for part, rows in zip((pair.train, pair.test), places, strict=True):
        assert part.parent.fingerprint == whole.fingerprint
        assert (part.class_names, part.name) == (whole.class_names, whole.name)
        assert torch.equal(part.images[:], whole.images[torch.from_numpy(rows)])
        assert torch.equal(part.labels, whole.labels[torch.from_numpy(rows)])
    assert len({whole.fingerprint, pair.train.fingerprint, pair.test.fingerprint}) == 3
    again = load(config.model_copy(update={"holdout": 0.25}))
    assert (again.train.fingerprint, again.test.fingerprint) == (pair.train.fingerprint, pair.test.fingerprint)
    return pair


def test_digits() -> None:
    pair = check_split(DataConfig(train_limit=203))
    assert isinstance(pair.train.images, Subset)
    assert len(check_split(DataConfig()).train) == 973


@pytest.fixture
def labels() -> list[int]:
    return [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("names", [None, ["cat", "dog", "owl"]])
def test_parquet(
    tmp_path: Path, write_parquet: Any, png: Any, colours: np.ndarray, labels: list[int], names: Any
) -> None:
    pictures = [png(colour) for colour in colours]
    write_parquet(tmp_path / "train.parquet", pictures, labels, names=names or [])
    write_parquet(tmp_path / "test.parquet", pictures[:4], labels[:4], names=names or [])
    check_split(DataConfig(path=str(tmp_path)))
    check_split(DataConfig(path=str(tmp_path), train_limit=8))


def test_idx(tmp_path: Path, write_idx: Any, greys: np.ndarray, labels: list[int]) -> None:
    write_idx(tmp_path, "train", greys, np.array(labels))
    write_idx(tmp_path, "t10k", greys[:3], np.array(labels[:3]))
    check_split(DataConfig(path=str(tmp_path)))
    check_split(DataConfig(source="idx", path=str(tmp_path), train_limit=8))


@pytest.mark.parametrize("in_memory", [True, False])
def test_folders(pet_folder: Path, in_memory: bool) -> None:
    pair = check_split(DataConfig(path=str(pet_folder), in_memory=in_memory))
    assert isinstance(pair.train.images, Subset) == in_memory
    check_split(DataConfig(path=str(pet_folder), in_memory=in_memory, train_limit=6))


def test_one_split_for_both(pet_folder: Path) -> None:
    check_split(DataConfig(path=str(pet_folder), test_split="train"))


def test_a_python_dataset_is_refused() -> None:
    with pytest.raises(BadInput, match=r"data: got .*no holdout with source: python"):
        parse_recipe({"data": {"source": "python", "holdout": 0.2}, "student": {"name": "mlp"}})


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_it_is_a_share(share: float) -> None:
    with pytest.raises(BadInput, match=r"data\.holdout: got"):
        parse_recipe({"data": {"holdout": share}, "student": {"name": "mlp"}})


def test_the_test_images_are_not_looked_at(
    tmp_path: Path, write_parquet: Any, write_idx: Any, png: Any, greys: np.ndarray, labels: list[int]
) -> None:
    pictures = [png(grey) for grey in greys]
    write_parquet(tmp_path / "p" / "train.parquet", pictures, labels)
    # Pictures that are none, and a class that the training split lacks by chance.
    write_parquet(tmp_path / "p" / "test.parquet", [b"no picture"] * 3, [0, 1, 4])
    write_idx(tmp_path / "i", "train", greys, np.array(labels))
    write_idx(tmp_path / "i", "test", greys[:3], np.array([0, 1, 4]))
    (tmp_path / "i" / "test-images-idx3-ubyte.gz").write_bytes(b"no picture")
    for name in ("p", "i"):
        config = DataConfig(path=str(tmp_path / name), holdout=0.25)
        assert load(config).train.class_names == ("0", "1", "2", "3", "4")
        with pytest.raises(BadInput):
            load(config.model_copy(update={"holdout": None}))


def test_pictures_of_the_test_split_are_not_decoded(pet_folder: Path) -> None:
    for path in (pet_folder / "test").rglob("*.png"):
        path.write_bytes(b"no picture")
    assert len(load(DataConfig(path=str(pet_folder), holdout=0.25)).test) == 2


@pytest.mark.parametrize("layout", ["p", "i", "folders"])
def test_there_need_be_no_test_split(
    tmp_path: Path, write_parquet: Any, write_idx: Any, png: Any, greys: np.ndarray, labels: list[int],
    pet_folder: Path, layout: str,
) -> None:  # fmt: skip
    write_parquet(tmp_path / "p" / "train.parquet", [png(grey) for grey in greys], labels)
    write_idx(tmp_path / "i", "train", greys, np.array(labels))
    shutil.rmtree(pet_folder / "test")
    path = pet_folder if layout == "folders" else tmp_path / layout
    pair = load(DataConfig(path=str(path), holdout=0.5))
    assert len(pair.train) == len(pair.test)


def test_every_class_is_held_out_in_its_share() -> None:
    labels = np.repeat(np.arange(4), [100, 50, 10, 1])
    held = holdout_mask(np.random.default_rng(0).permutation(labels), 0.2)
    assert int(held.sum()) == 32
    counted = np.bincount(np.random.default_rng(0).permutation(labels)[held], minlength=4)
    assert np.abs(counted - [20, 10, 2, 0]).max() <= 1
    assert counted[3] == 0, "the only image of a class is learned from"


@pytest.mark.parametrize(("count", "share", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (30, 0.1, 3), (7, 0.5, 4)])
def test_something_is_left_on_either_side(count: int, share: float, expected: int) -> None:
    assert int(holdout_mask(np.zeros(count, np.int64), share).sum()) == expected


def test_one_image_cannot_be_shared_out() -> None:
    with pytest.raises(BadInput, match="at least 2 training images"):
        holdout_mask(np.zeros(1, np.int64), 0.5)


def test_it_is_no_part_of_the_choice_that_a_limit_makes() -> None:
    pair = load(DataConfig(train_limit=100, holdout=0.5))
    limited = load(DataConfig(train_limit=50)).train
    held = {bytes(image.numpy()) for image in pair.test.images[:]}
    assert 10 < sum(bytes(image.numpy()) in held for image in limited.images[:]) < 40


@pytest.fixture(params=[True, False], ids=["held", "streamed"])
def pets(request: pytest.FixtureRequest, pet_folder: Path) -> Callable[..., DataPair]:
    def make(**options: Any) -> DataPair:
        return load(DataConfig(path=str(pet_folder), in_memory=request.param, **options))

    return make


def test_a_sample_has_the_pixels_that_it_has_in_the_whole_set(pets: Callable[..., DataPair]) -> None:
    whole, part = pets().train, pets(holdout=0.25).train
    assert part.subset_info is not None
    loader = BatchLoader(part, SHOWN, CPU)
    rows = part.subset_info.rows
    requests = [(np.array([5, 0, 2]), 3), (np.array([1, 1]), 0)]
    for (positions, view), batch in zip(requests, loader.batches(requests), strict=True):
        assert batch.rows.tolist() == batch.index.tolist() == rows[positions].tolist()
        assert torch.equal(batch.images, augment(whole.images[:], rows[positions], SHOWN, view))
        assert torch.equal(batch.labels, part.labels[torch.from_numpy(positions)])
    (batch,) = loader.parent().batches([(np.arange(8), 1)])
    assert torch.equal(batch.images, augment(whole.images[:], np.arange(8), SHOWN, 1))
    assert loader.parent().images is loader.images
    for wrong in ([6], [-1], [0, 99]):
        with pytest.raises(IndexError):
            list(loader.batches([(np.array(wrong), 0)]))


def test_a_part_of_a_part_is_a_part_of_the_whole(pets: Callable[..., DataPair]) -> None:
    part = pets(holdout=0.25).train
    for smaller in (part.subset(np.array([4, 1])), part.balanced_subset(2)):
        assert smaller.subset_info is not None
        assert smaller.parent is part.parent
        assert torch.equal(smaller.images[:], part.parent.images[torch.from_numpy(smaller.subset_info.rows)])
        assert smaller.fingerprint != part.fingerprint


def test_nothing_that_is_held_in_memory_is_held_twice() -> None:
    pair = load(DataConfig(holdout=0.25))
    loader = BatchLoader(pair.train, SHOWN, CPU)
    assert isinstance(loader.images, torch.Tensor)
    assert loader.images.data_ptr() == pair.train.parent.images[:].data_ptr() == pair.test.parent.images[:].data_ptr()


def test_chosen_images_read_like_a_tensor() -> None:
    images = torch.randint(0, 256, (9, 3, 2, 2), dtype=torch.uint8)
    rows = np.array([7, 0, 3, 3])
    chosen, plain = Subset(images, rows), images[torch.from_numpy(rows)]
    assert (len(chosen), chosen.shape, chosen.dtype, chosen.ndim) == (4, plain.shape, plain.dtype, plain.ndim)
    for some in (
        slice(1, 3),
        slice(None),
        torch.tensor([3, 0]),
        np.array([2]),
        torch.tensor([True, False, True, False]),
    ):
        index = torch.from_numpy(some) if isinstance(some, np.ndarray) else some
        assert torch.equal(chosen[some], plain[index])
    assert np.array_equal(chosen.read(2), plain[2].numpy())
    held = [ImageSet(each, torch.tensor([0, 1, 0, 1]), ("a", "b"), "x") for each in (chosen, plain)]
    assert held[0].fingerprint == held[1].fingerprint


def test_validation_images_are_taken_of_what_is_learned_from() -> None:
    config = DataConfig(train_limit=200, test_limit=20, holdout=0.25, validation=0.1)
    three = load(config)
    two = load(config.model_copy(update={"validation": None}))
    later = take_validation(two, 0.1)
    for pair in (three, later):
        assert pair.validation is not None
        assert (len(pair.train), len(pair.validation), len(pair.test)) == (135, 15, 50)
    for name in ("train", "validation", "test"):
        assert getattr(three, name).fingerprint == getattr(later, name).fingerprint
    parts = [each.subset_info for each in (three.train, three.validation, three.test) if each is not None]
    assert sorted(np.concatenate([each.rows for each in parts if each is not None])) == list(range(200))


def test_a_share_that_leaves_a_class_nothing_to_learn_from_is_refused() -> None:
    labels = np.repeat([0, 1, 2], [40, 40, 1])
    with pytest.raises(BadInput, match=r"data\.validation: got 0\.6; .*'owl' loses its only image"):
        holdout_mask(labels, 0.6, "data.validation", ("cat", "dog", "owl"))
