"""From sample indices and a view to a batch on the device: the one door through which images are learned from."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.augmentation import augment, augment_batch
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.data.lazy import LazyImages, fill
from stillroom.data.threads import spans

Request = tuple[npt.NDArray[np.int64], int]

_AHEAD = 2  # batches that are read while one is learned from
_JOB = 16  # files that a thread reads in one go


@dataclass(frozen=True)
class Batch:
    """Augmented images with what is known of them.

    Attributes:
        images: [B, C, H, W] as the data gives them, on the device.
        labels: int64 [B], on the device.
        index: the samples' indices in the training set, in the whole of it where a part is held out, int64 [B], on the
            device.
        rows: the same on the CPU, where stored answers are looked up.
        view: which augmentation of them this is.

    >>> rows = np.array([4, 0, 2])
    >>> batch = Batch(torch.zeros(3, 1, 8, 8), torch.tensor([1, 0, 1]), torch.from_numpy(rows), rows, view=0)
    >>> len(batch), batch.index.tolist()
    (3, [4, 0, 2])
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    rows: npt.NDArray[np.int64]
    view: int

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, rows: slice) -> Batch:
        """Some of the batch, in the same order; nothing is copied.

        Args:
            rows: which, counted within the batch.

        >>> rows = np.array([4, 0, 2])
        >>> batch = Batch(torch.zeros(3, 1, 8, 8), torch.tensor([1, 0, 1]), torch.from_numpy(rows), rows, view=0)
        >>> batch.part(slice(1, 3)).index.tolist()
        [0, 2]
        """
        return Batch(self.images[rows], self.labels[rows], self.index[rows], self.rows[rows], self.view)


class BatchLoader:
    """Hands out batches: images that are held in memory lie on the device once, files are read ahead by workers.

    The pixels of a sample are a function of the augmentation's seed, the view and the sample's index alone: they depend
    neither on the number of workers, nor on what else is in the batch, nor on the order. A sample of a part of a set
    (:meth:`ImageSet.part`) has the index that it has in the whole set, and so the same pixels.

    Args:
        data: the images.
        augmentation: what is done to them; ``AugmentationConfig()`` does nothing, for evaluating.
        device: where batches are wanted.
        workers: threads that read files; None as the data say (``data.workers``, which is one for each core where it is
            left out). Images that are held in memory need none.

    >>> images = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    >>> data = ImageSet(images, torch.tensor([0, 1, 0, 1]), ("a", "b"), "mine")
    >>> loader = BatchLoader(data, AugmentationConfig(), torch.device("cpu"))
    >>> [batch.images.flatten().tolist() for batch in loader.batches([(np.array([3, 0]), 0), (np.array([1]), 1)])]
    [[3, 0], [1]]
    """

    def __init__(
        self, data: ImageSet, augmentation: AugmentationConfig, device: torch.device, workers: int | None = None
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers: got {workers}; expected at least 1")
        self.augmentation = augmentation
        self.device = device
        whole = data.whole
        self.images = whole.images.to(device) if isinstance(whole.images, Tensor) else whole.images
        self.labels = whole.labels.to(device)
        self._workers = workers
        self._places = None if data.origin is None else data.origin.rows

    def whole(self) -> BatchLoader:
        """The loader of the set that these images are a part of, by its own indices; nothing is copied."""
        loader = copy.copy(self)
        loader._places = None
        return loader

    def batches(self, requests: Iterable[Request]) -> Generator[Batch, None, None]:
        """The batch of each request (samples, view), in their order.

        Files are read ahead: up to 2 requests beyond the one that is asked for are taken from ``requests``. Closed
        early (``with contextlib.closing(loader.batches(…)) as batches``, or when nothing refers to it any more), it drops
        what has not begun and leaves no thread behind.

        Args:
            requests: of each batch the samples, int64 [B] from 0 to N−1 in the data given, and the number of their
                view.

        Raises:
            BadInput: a file cannot be read or decoded; the batches before it have come.
            IndexError: there is no such sample.
        """
        if self._places is not None:
            requests = ((_indices(self._places, positions), view) for positions, view in requests)
        if not isinstance(self.images, Tensor):
            yield from self._read(self.images, requests)
            return
        for rows, view in requests:
            yield self._batch(augment(self.images, rows, self.augmentation, view), rows, view)

    def _batch(self, images: Tensor, rows: npt.NDArray[np.int64], view: int) -> Batch:
        index = torch.from_numpy(rows).to(self.device, non_blocking=True)
        return Batch(images, self.labels[index], index, rows, view)

    def _read(self, images: LazyImages, requests: Iterable[Request]) -> Generator[Batch, None, None]:
        workers = self._workers or images.workers
        pool = ThreadPoolExecutor(workers, thread_name_prefix="stillroom-feed")
        begun: deque[_Begun] = deque()
        try:
            for rows, view in requests:
                begun.append(_Begun(pool, workers, images, rows, view, pinned=self.device.type == "cuda"))
                if len(begun) > _AHEAD:
                    yield self._finish(begun.popleft())
            while begun:
                yield self._finish(begun.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, begun: _Begun) -> Batch:
        # Augmented on the device, as images held in memory are; pinned, the copy does not wait.
        batch = begun.finished().to(self.device, non_blocking=True)
        return self._batch(augment_batch(batch, begun.rows, self.augmentation, begun.view), begun.rows, begun.view)


def _indices(places: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    _check_samples(positions, len(places))
    return places[positions]


def _check_samples(samples: npt.NDArray[np.int64], count: int) -> None:
    if samples.size and not 0 <= samples.min() <= samples.max() < count:
        raise IndexError(f"samples: got {samples.min()} to {samples.max()}; expected 0 to {count - 1}")


class _Begun:
    """A batch whose files are being read."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        workers: int,
        images: LazyImages,
        rows: npt.NDArray[np.int64],
        view: int,
        *,
        pinned: bool,
    ) -> None:
        _check_samples(rows, len(images))
        self.rows, self.view = rows, view
        self._batch = torch.empty(len(rows), *images.shape[1:], dtype=torch.uint8, pin_memory=pinned)
        share = partial(fill, self._batch.numpy(), images, rows)
        self._jobs: list[Future[None]] = [pool.submit(share, places) for places in spans(len(rows), _JOB, workers)]

    def finished(self) -> Tensor:
        """The images, once all are there.

        Raises:
            Exception: whatever reading the first that failed raised.
        """
        for job in self._jobs:
            job.result()
        return self._batch
