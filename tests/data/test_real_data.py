"""The published data sets themselves, where STILLROOM_DATA names their folder."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from stillroom.data.config import AugmentationConfig, DataConfig
from stillroom.data.loader import BatchLoader
from stillroom.data.sources import load, load_split

ROOT = os.environ.get("STILLROOM_DATA")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not ROOT, reason="STILLROOM_DATA is not set: no real images to read"),
]
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    ("source", "split", "classes", "each"),
    [
        ("cifar10", "train", 10, 5000),
        ("cifar10", "test", 10, 1000),
        ("cifar100-part", "train", 100, 150),
        ("cifar100-part", "test", 100, 50),
    ],
)
def test_every_class_of_a_whole_split_is_there_as_often_as_published(
    source: str, split: str, classes: int, each: int
) -> None:
    """By the column of labels, which takes no image to be decoded."""
    table = pyarrow.parquet.read_table(Path(str(ROOT), source, f"{split}.parquet"), columns=["label"])
    assert np.bincount(table["label"].to_numpy()).tolist() == [each] * classes


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("trec/train.parquet", 5452),
        ("trec/test.parquet", 500),
        ("sst2/train.parquet", 67_349),
        ("sst2/validation.parquet", 872),
        ("sst2/test.parquet", 1821),
    ],
)
def test_texts_are_there_in_the_published_number(file: str, rows: int) -> None:
    path = Path(str(ROOT), file)
    if not path.exists():
        pytest.skip(f"{path.parent.name} is not among these data")
    assert pyarrow.parquet.read_metadata(path).num_rows == rows


def test_cifar10_has_its_classes_and_means() -> None:
    """A tenth of it is decoded here, all of the test images in the test of the public teachers."""
    pair = load(DataConfig(path="cifar10", train_limit=5000, test_limit=1000))
    assert pair.train.class_names == CIFAR10
    assert torch.bincount(pair.train.labels).tolist() == [500] * 10
    assert torch.bincount(pair.test.labels).tolist() == [100] * 10
    assert pair.train.images.shape[1:] == (3, 32, 32)
    # The means that the literature normalises with, per channel; a tenth of the images has them to ±0.002.
    means = pair.train.images.double().mean((0, 2, 3)) / 255
    assert torch.allclose(means, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=5e-3)


def test_the_part_of_cifar100_is_whole() -> None:
    test = load_split(DataConfig(path="cifar100-part"), "test")
    assert torch.bincount(test.labels).tolist() == [50] * 100
    assert (test.class_names[0], test.class_names[-1]) == ("apple", "worm")


@pytest.mark.parametrize(("split", "prefix", "count"), [("train", "train", 60_000), ("test", "t10k", 10_000)])
def test_fashion_mnist_is_what_the_files_hold(split: str, prefix: str, count: int) -> None:
    images = load_split(DataConfig(path="fashion-mnist"), split)
    assert len(images) == count
    assert images.class_names == tuple("0123456789")
    folder = Path(str(ROOT)) / "fashion-mnist"
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        assert file.read()[16:] == images.images.numpy().tobytes()
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        assert list(file.read()[8:]) == images.labels.tolist()


def test_cifar10_as_files_is_cifar10(tmp_path: Path) -> None:
    """Exported picture by picture and read again, from memory and from disk: pixels, classes and batches."""
    parquet = load(DataConfig(path="cifar10", train_limit=300, test_limit=100))
    for split, images in (("train", parquet.train), ("test", parquet.test)):
        for row, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            folder = tmp_path / "cifar10" / split / images.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{row:05}.png")
    by_class = torch.argsort(parquet.train.labels, stable=True)
    config = AugmentationConfig(pad_crop=4, flip=True, cutout=8)
    requests = [(np.arange(start, 300, 3), start) for start in range(3)]
    seen = []
    for in_memory in (True, False):
        pair = load(DataConfig(path=str(tmp_path / "cifar10"), in_memory=in_memory))
        assert pair.train.class_names == CIFAR10
        assert torch.equal(pair.train.labels, parquet.train.labels[by_class])
        assert torch.equal(pair.train.images[:], parquet.train.images[by_class])
        batches = BatchLoader(pair.train, config, torch.device("cpu")).batches(requests)
        seen.append(torch.cat([batch.images for batch in batches]))
    assert torch.equal(*seen)
