"""Batches: the same pixels from memory and from files, for any workers and order, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from stillroom.data.augmentation import augment
from stillroom.data.config import AugmentationConfig, DataConfig
from stillroom.data.image_folder import read_image_folder
from stillroom.data.images import ImageSet
from stillroom.data.loader import Batch, BatchLoader, Request
from stillroom.errors import BadInput

CPU = torch.device("cpu")
CONFIGS = [
    AugmentationConfig(),
    AugmentationConfig(seed=3, pad_crop=2, flip=True, cutout=2),
    AugmentationConfig(flip="alternate"),
]
REQUESTS: list[Request] = [
    (np.array([3, 1, 7]), 0),
    (np.array([0]), 5),
    (np.array([], dtype=np.int64), 1),
    (np.array([3, 3, 2, 6, 5, 4, 1, 0]), 2),
    (np.array([7, 3]), 0),
    (np.array([2]), 1),
]


@pytest.fixture
def held(pet_folder: Path) -> ImageSet:
    return read_image_folder(pet_folder, "train", DataConfig(in_memory=True))


@pytest.fixture
def lazy(pet_folder: Path) -> ImageSet:
    return read_image_folder(pet_folder, "train", DataConfig(in_memory=False))


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 5, None])
def test_files_give_the_same_batches_as_memory(
    held: ImageSet, lazy: ImageSet, config: AugmentationConfig, workers: int | None
) -> None:
    expected = list(BatchLoader(held, config, CPU).batches(REQUESTS))
    made = list(BatchLoader(lazy, config, CPU, workers=workers).batches(REQUESTS))
    assert len(made) == len(REQUESTS)
    for mine, other, (rows, view) in zip(made, expected, REQUESTS, strict=True):
        assert torch.equal(mine.images, other.images)
        assert torch.equal(mine.images, augment(held.images, rows, config, view))
        assert torch.equal(mine.labels, held.labels[rows])
        assert mine.labels.equal(other.labels)
        assert mine.index.equal(other.index)
        assert mine.index.tolist() == mine.rows.tolist() == rows.tolist()
        assert (mine.view, len(mine)) == (view, len(rows))


@pytest.mark.parametrize("workers", [1, 5])
def test_pixels_depend_neither_on_the_batch_nor_on_the_order(lazy: ImageSet, workers: int) -> None:
    loader = BatchLoader(lazy, CONFIGS[1], CPU, workers=workers)
    (whole,) = loader.batches([(np.arange(8), 3)])
    order = np.random.default_rng(0).permutation(8)
    singly = [batch.images[0] for batch in loader.batches([(np.array([row]), 3) for row in order])]
    assert torch.equal(torch.stack(singly), whole.images[torch.from_numpy(order)])


def test_whichever_file_is_read_first_changes_nothing(
    held: ImageSet, lazy: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = type(lazy.images).read

    def late(self: object, row: int) -> np.ndarray:
        time.sleep(0.002 * (7 - row))
        return original(self, row)

    monkeypatch.setattr(type(lazy.images), "read", late)
    made = [batch.images for batch in BatchLoader(lazy, CONFIGS[1], CPU, workers=5).batches(REQUESTS)]
    assert all(
        torch.equal(mine, batch.images)
        for mine, batch in zip(made, BatchLoader(held, CONFIGS[1], CPU).batches(REQUESTS), strict=True)
    )


def test_part_of_a_batch() -> None:
    rows = np.array([4, 0, 2])
    batch = Batch(torch.arange(3).reshape(3, 1, 1, 1), torch.tensor([1, 0, 1]), torch.from_numpy(rows), rows, view=6)
    part = batch.subset(slice(1, 3))
    assert (part.images.flatten().tolist(), part.labels.tolist()) == ([1, 2], [0, 1])
    assert (part.index.tolist(), part.rows.tolist(), part.view) == ([0, 2], [0, 2], 6)


def test_requests_are_taken_only_a_little_ahead(held: ImageSet, lazy: ImageSet) -> None:
    for data, ahead in ((held, 0), (lazy, 2)):
        taken = 0

        def endless() -> Iterator[Request]:
            nonlocal taken
            while True:
                taken += 1
                yield np.array([taken % 8]), 0

        with closing(BatchLoader(data, AugmentationConfig(), CPU, workers=2).batches(endless())) as batches:
            for number in range(1, 20):
                assert next(batches).rows.tolist() == [number % 8]
                assert taken <= number + ahead


def test_no_more_than_a_few_batches_are_ever_read(lazy: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = type(lazy.images).read
    monkeypatch.setattr(type(lazy.images), "read", lambda self, row: read.append(row) or original(self, row))
    batches = BatchLoader(lazy, AugmentationConfig(), CPU, workers=2).batches(
        [(np.array([row]), 0) for row in range(8)]
    )
    assert not read  # nothing begins before the first is asked for
    next(batches)
    while len(read) < 3:  # they are read while the first one is used
        time.sleep(0.001)
    assert sorted(read) == [0, 1, 2]
    batches.close()
    assert len(read) == 3


def test_a_damaged_file_is_reported_after_the_batches_before_it(pet_folder: Path, lazy: ImageSet) -> None:
    (pet_folder / "train" / "cat" / "06.png").write_bytes(b"damaged")
    for workers in (1, 5):
        batches = BatchLoader(lazy, CONFIGS[1], CPU, workers).batches([(np.array([row]), 0) for row in range(8)])
        assert [next(batches).rows.tolist() for _ in range(3)] == [[0], [1], [2]]
        with pytest.raises(BadInput, match=r"06.png.*of no known format") as raised:
            next(batches)
        assert raised.value.field == "data.path"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, GeneratorExit])
def test_stopping_early_leaves_nothing_running(lazy: ImageSet, error: type[BaseException]) -> None:
    before = threading.active_count()
    batches = BatchLoader(lazy, CONFIGS[1], CPU, workers=3).batches((np.arange(8), view) for view in range(1000))
    next(batches)
    assert before < threading.active_count() <= before + 3
    with pytest.raises(error):
        batches.throw(error)
    assert threading.active_count() == before


def test_leaving_a_loop_leaves_nothing_running(lazy: ImageSet) -> None:
    before = threading.active_count()
    for batch in BatchLoader(lazy, CONFIGS[1], CPU, workers=3).batches((np.arange(8), view) for view in range(1000)):
        if batch.view == 3:
            break
    assert threading.active_count() == before


def test_an_error_of_the_requests_ends_the_threads(lazy: ImageSet) -> None:
    def requests() -> Iterator[Request]:
        yield np.arange(8), 0
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(BatchLoader(lazy, CONFIGS[0], CPU, workers=2).batches(requests()))


def test_closing_does_not_read_what_has_not_begun(lazy: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    ended = threading.Event()
    original, shutdown = type(lazy.images).read, ThreadPoolExecutor.shutdown

    def slow(self: object, row: int) -> np.ndarray:
        nonlocal read
        read += 1
        assert read <= 64 or ended.wait(600)
        return original(self, row)

    def close(self: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(self, wait=False, cancel_futures=cancel_futures)
        ended.set()
        shutdown(self, wait=wait)

    monkeypatch.setattr(type(lazy.images), "read", slow)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", close)
    batches = BatchLoader(lazy, AugmentationConfig(), CPU, workers=1).batches([(np.zeros(64, np.int64), 0)] * 3)
    first = next(batches)
    batches.close()
    assert len(first) == 64
    assert read <= 64 + 32  # the piece at work, not the two batches that were waiting


@pytest.mark.parametrize("rows", [[8], [-1], [0, 99]])
def test_a_sample_that_is_not_there(held: ImageSet, lazy: ImageSet, rows: list[int]) -> None:
    for data in (held, lazy):
        with pytest.raises(IndexError):
            next(BatchLoader(data, CONFIGS[1], CPU).batches([(np.array(rows), 0)]))


def test_at_least_one_worker(lazy: ImageSet) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        BatchLoader(lazy, CONFIGS[0], CPU, workers=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_batches_on_a_gpu_hold_the_same_pixels(held: ImageSet, lazy: ImageSet, config: AugmentationConfig) -> None:
    gpu = torch.device("cuda")
    requests = REQUESTS * 50
    for data in (held, lazy):
        made = [batch.images for batch in BatchLoader(data, config, gpu, workers=3).batches(requests)]
        assert all(images.device.type == "cuda" for images in made)
        for images, batch in zip(made, BatchLoader(held, config, CPU).batches(requests), strict=True):
            assert torch.equal(images.cpu(), batch.images)
