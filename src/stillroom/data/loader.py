"""Batches on the device: the order of an epoch, then the images of a view, read ahead where they are files."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.augmentation import Pairs, augment, augment_batch, draw_pairs
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet, LazyImages
from stillroom.data.reading import split_range
from stillroom.data.tokens import padded_length
from stillroom.randomness import permutation

Request = tuple[npt.NDArray[np.int64], int]

_AHEAD = 2  # batches that are read while one is trained on
_POOL = 32  # batches whose samples are sorted by length
_JOB = 16  # files that a thread reads in one go


def epoch_order(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of one epoch, a permutation of 0 … size−1: int64 [size].

    >>> sorted(epoch_order(4, seed=0, epoch=1).tolist())
    [0, 1, 2, 3]
    """
    return permutation(size, seed, "order", epoch)


def balanced_order(labels: npt.NDArray[np.int64], seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """An epoch of as many images as there are, each class as often as any other: int64 [size].

    Images of small classes come several times, each as often as the others of its class, give or take one; of large
    classes another random part comes in each epoch. Where the classes do not divide the images, some come once more.

    >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    >>> np.bincount(labels[balanced_order(labels, seed=0, epoch=1)]).tolist()
    [4, 4]
    """
    size, classes = len(labels), np.unique(labels)
    counts = np.full(len(classes), size // len(classes))
    counts[permutation(len(classes), seed, "order", epoch, 2)[: size % len(classes)]] += 1
    drawn = []
    for place, (number, count) in enumerate(zip(classes, counts.tolist(), strict=True)):
        rows = np.flatnonzero(labels == number)
        rounds = [
            permutation(len(rows), seed, "order", epoch, 3, place, each) for each in range(-(-count // len(rows)))
        ]
        drawn.append(rows[np.concatenate(rounds)[:count]])
    return np.concatenate(drawn)[epoch_order(size, seed, epoch)]


class BatchSampler:
    """Sample indices of every step: a pure function of (seed, epoch, step), so that a run can start at any step.

    An epoch's last batch is dropped where it is not full; a batch larger than the set is the whole set. Where samples
    have lengths, those of a batch are alike: in every so many batches of the order samples are sorted by length, and
    the batches are then put in a random order.

    Args:
        lengths: of samples that have any, int64 [N].
        balanced: the class numbers, int64 [N], where each class is to come as often as any other.

    >>> sampler = BatchSampler(size=10, batch_size=4, seed=0)
    >>> sampler.steps_per_epoch, sampler.indices(epoch=3, step_in_epoch=1).shape
    (2, (4,))
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        lengths: npt.NDArray[np.int64] | None = None,
        balanced: npt.NDArray[np.int64] | None = None,
    ) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"got {size} images in batches of {batch_size}; expected at least 1 of each")
        self.size = size
        self.batch_size = min(batch_size, size)
        self.seed = seed
        self._lengths = lengths
        self._balanced = balanced
        self._epoch: int | None = None
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches an epoch."""
        return self.size // self.batch_size

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order of an epoch, int64 [size], with the images that its last partial batch drops."""
        return self._order_of(epoch).copy()

    def indices(self, epoch: int, step_in_epoch: int) -> npt.NDArray[np.int64]:
        """The samples of one step, int64 [B]."""
        if not 0 <= step_in_epoch < self.steps_per_epoch:
            raise IndexError(f"step_in_epoch: got {step_in_epoch}; expected 0 to {self.steps_per_epoch - 1}")
        start = step_in_epoch * self.batch_size
        return self._order_of(epoch)[start : start + self.batch_size].copy()

    def _order_of(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            if self._balanced is None:
                self._order = epoch_order(self.size, self.seed, epoch)
            else:
                self._order = balanced_order(self._balanced, self.seed, epoch)
            if self._lengths is not None:
                self._order = self._by_length(self._order, self._lengths, epoch)
            self._epoch = epoch
        return self._order

    def _by_length(
        self, order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], epoch: int
    ) -> npt.NDArray[np.int64]:
        pool = _POOL * self.batch_size
        places = [
            start + np.argsort(lengths[order[start : start + pool]], kind="stable")
            for start in range(0, self.size, pool)
        ]
        alike, whole = np.concatenate(places), self.steps_per_epoch * self.batch_size
        # The samples that the last partial batch drops are the last of the plain order, whatever their length.
        batches = order[alike[alike < whole]].reshape(self.steps_per_epoch, self.batch_size)
        shuffled = batches[permutation(len(batches), self.seed, "order", epoch, 1)]
        return np.concatenate([shuffled.reshape(-1), order[whole:]])


class MixedLabels(NamedTuple):
    """The labels of images that are mixed of two: ``labels`` to a share, and their partners' to the rest."""

    partners: Tensor  # labels of the partners, int64 [B]
    share: Tensor  # of the image itself, float32 [B]


@dataclass(frozen=True)
class Batch:
    """Augmented images, their labels and indices.

    >>> rows = np.array([4, 0, 2])
    >>> batch = Batch(torch.zeros(3, 1, 8, 8), torch.tensor([1, 0, 1]), torch.from_numpy(rows), rows, view=0)
    >>> len(batch), batch.subset(slice(1, 3)).index.tolist()
    (3, [0, 2])
    """

    images: Tensor  # [B, C, H, W] as the data give them, on the device
    labels: Tensor  # int64 [B], on the device
    index: Tensor  # indices in the training set (of a subset: in its parent), int64 [B], on the device
    rows: npt.NDArray[np.int64]  # the same on the CPU, for cached teacher outputs
    view: int
    mixed: MixedLabels | None = None  # where each image is mixed with another

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, rows: slice) -> Batch:
        """Some of the batch, counted within it, in the same order and without a copy."""
        mixed = None if self.mixed is None else MixedLabels(self.mixed.partners[rows], self.mixed.share[rows])
        return Batch(self.images[rows], self.labels[rows], self.index[rows], self.rows[rows], self.view, mixed)


class BatchLoader:
    """Batches of a set: images in memory are moved to the device once, files are read ahead by threads.

    The pixels of a sample depend on the augmentation's seed, the view and the sample's index alone: not on the number
    of workers, the rest of the batch, or the order. A sample of a subset (:meth:`ImageSet.subset`) keeps the index, and
    so the pixels, that it has in the parent set.

    Args:
        augmentation: what is done to them; ``AugmentationConfig()`` does nothing, for evaluation.
        workers: threads that read files; None: as the images say (``data.workers``).
        full_length: pad every batch of texts to the length of the data, as features of tokens need that are stored.

    >>> images = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    >>> data = ImageSet(images, torch.tensor([0, 1, 0, 1]), ("a", "b"), "mine")
    >>> loader = BatchLoader(data, AugmentationConfig(), torch.device("cpu"))
    >>> [batch.images.flatten().tolist() for batch in loader.batches([(np.array([3, 0]), 0), (np.array([1]), 1)])]
    [[3, 0], [1]]
    """

    def __init__(
        self,
        data: ImageSet,
        augmentation: AugmentationConfig,
        device: torch.device,
        workers: int | None = None,
        *,
        full_length: bool = False,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers: got {workers}; expected at least 1")
        self.unit = data.unit
        self.augmentation = augmentation
        self.device = device
        images = data.parent.images
        self.images = images.to(device) if isinstance(images, Tensor) else images
        self.labels = data.parent.labels.to(device)
        self._tokens, self._lengths = data.tokens, data.parent.lengths
        self._full_length = full_length
        self._workers = workers
        self._rows = None if data.subset_info is None else data.subset_info.rows
        # An image is mixed with images that are learned from alone, in the parent set, too.
        self._pool = np.arange(len(data)) if self._rows is None else self._rows

    def parent(self) -> BatchLoader:
        """The loader of the parent set, by its own indices; nothing is copied."""
        loader = copy.copy(self)
        loader._rows = None
        return loader

    def batches(self, requests: Iterable[Request]) -> Generator[Batch, None, None]:
        """The batch of each request (samples, view), in their order.

        Files are read ahead: up to 2 more requests are taken than batches were given. Closed early (``with
        contextlib.closing(loader.batches(…)) as batches``, or when it is collected), it drops what has not begun and
        leaves no thread behind.

        Args:
            requests: for each batch the samples, int64 [B] from 0 to N−1 in the data given, and the number of the view.

        Raises:
            BadInput: a file cannot be read or decoded; the batches before it have come.
        """
        if self._rows is not None:
            requests = ((_take(self._rows, positions), view) for positions, view in requests)
        if self._tokens is not None and isinstance(self.images, Tensor):
            for rows, view in requests:
                ids = self.images[torch.from_numpy(rows).to(self.device), : self._padded(rows)]
                yield self._batch(augment_batch(ids, rows, self.augmentation, view, self._tokens), rows, view)
        elif isinstance(self.images, Tensor):
            for rows, view in requests:
                pairs = self._pairs(rows, view)
                images = augment(self.images, _with_partners(rows, pairs), self.augmentation, view)
                yield self._batch(images, rows, view, pairs)
        else:
            yield from self._read(self.images, requests)

    def _padded(self, rows: npt.NDArray[np.int64]) -> int:
        """The tokens that a batch of texts is padded to."""
        _check_samples(rows, len(self.images))
        if self._full_length:
            return self.images.shape[1]
        assert self._lengths is not None
        return padded_length(int(self._lengths[rows].max(initial=1)), self.images.shape[1])

    def _batch(self, images: Tensor, rows: npt.NDArray[np.int64], view: int, pairs: Pairs | None = None) -> Batch:
        index = torch.from_numpy(rows).to(self.device, non_blocking=True)
        if pairs is None:
            return Batch(images, self.labels[index], index, rows, view)
        share = torch.from_numpy(pairs.share).to(self.device, torch.float32, non_blocking=True)
        partners = torch.from_numpy(pairs.partners).to(self.device, non_blocking=True)
        mixed = MixedLabels(self.labels[partners], share)
        return Batch(pairs.mix(*images.chunk(2)), self.labels[index], index, rows, view, mixed)

    def _pairs(self, rows: npt.NDArray[np.int64], view: int) -> Pairs | None:
        """What the samples of a batch are mixed with; None where they are not."""
        if not self.augmentation.mixes:
            return None
        _check_samples(rows, len(self.images))
        return draw_pairs(rows, self._pool, tuple(self.images.shape[1:]), self.augmentation, view)

    def _read(self, images: LazyImages, requests: Iterable[Request]) -> Generator[Batch, None, None]:
        if not images.workers:
            for rows, view in requests:
                pairs = self._pairs(rows, view)
                wanted = _with_partners(rows, pairs)
                _check_samples(wanted, len(images))
                read = torch.empty((len(wanted), *images.shape[1:]), dtype=images.dtype)
                images.fill(read.numpy(), wanted, range(len(wanted)), seed=self.augmentation.seed, view=view)
                yield self._finish(read, [], (rows, view), pairs)
            return
        workers = self._workers or images.workers
        pool = ThreadPoolExecutor(workers, thread_name_prefix="stillroom-feed")
        pending: deque[tuple[Tensor, list[Future[None]], Request, Pairs | None]] = deque()
        try:
            for rows, view in requests:
                _check_samples(rows, len(images))
                pairs = self._pairs(rows, view)
                wanted = _with_partners(rows, pairs)
                shape = (len(wanted), *images.shape[1:])
                read = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
                fill = partial(images.fill, read.numpy(), wanted)
                jobs = [pool.submit(fill, part) for part in split_range(len(wanted), _JOB, workers)]
                pending.append((read, jobs, (rows, view), pairs))
                if len(pending) > _AHEAD:
                    yield self._finish(*pending.popleft())
            while pending:
                yield self._finish(*pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, read: Tensor, jobs: list[Future[None]], request: Request, pairs: Pairs | None) -> Batch:
        """The batch, once all its files are read; raises what the first failed job raised."""
        for job in jobs:
            job.result()
        rows, view = request
        # Augmented on the device, as images in memory are; the copy of pinned memory does not wait.
        wanted = _with_partners(rows, pairs)
        images = augment_batch(read.to(self.device, non_blocking=True), wanted, self.augmentation, view)
        return self._batch(images, rows, view, pairs)


def _with_partners(rows: npt.NDArray[np.int64], pairs: Pairs | None) -> npt.NDArray[np.int64]:
    """The samples of a batch, followed by those that they are mixed with, if they are."""
    return rows if pairs is None else np.concatenate([rows, pairs.partners])


def _take(rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    _check_samples(positions, len(rows))
    return rows[positions]


def _check_samples(samples: npt.NDArray[np.int64], count: int) -> None:
    if samples.size and not 0 <= samples.min() <= samples.max() < count:
        raise IndexError(f"samples: got {samples.min()} to {samples.max()}; expected 0 to {count - 1}")
