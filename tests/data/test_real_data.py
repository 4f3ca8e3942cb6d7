"""The published data sets themselves, where STILLROOM_DATA names their folder."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch

from stillroom.data.config import DataConfig
from stillroom.data.sources import load, load_split

ROOT = os.environ.get("STILLROOM_DATA")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not ROOT, reason="STILLROOM_DATA is not set: no real images to read"),
]
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_cifar10_is_whole() -> None:
    pair = load(DataConfig(path="cifar10"))
    assert (len(pair.train), len(pair.test)) == (50_000, 10_000)
    assert pair.train.images.shape[1:] == (3, 32, 32)
    assert pair.train.class_names == CIFAR10
    assert torch.bincount(pair.train.labels).tolist() == [5000] * 10
    assert torch.bincount(pair.test.labels).tolist() == [1000] * 10
    # The means that the literature normalises with, per channel.
    means = pair.train.images.double().mean((0, 2, 3)) / 255
    assert torch.allclose(means, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=5e-5)


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
