"""The order of images: a pure function of (seed, epoch), so that a run can start at any step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stillroom.randomness import permutation


def epoch_order(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of one epoch, a permutation of 0 … size−1: int64 [size].

    Args:
        size: number of images.
        seed: the run's seed.
        epoch: its number, from 0.

    >>> sorted(epoch_order(4, seed=0, epoch=1).tolist())
    [0, 1, 2, 3]
    """
    return permutation(size, seed, "order", epoch)


class Batches:
    """Sample indices of every step, without a state to save.

    An epoch's last batch is dropped where it is not whole; a batch larger than the set is the whole set.

    Args:
        size: number of images.
        batch_size: images a step.
        seed: the run's seed.

    Raises:
        ValueError: size or batch_size is below 1.

    >>> batches = Batches(size=10, batch_size=4, seed=0)
    >>> batches.steps_per_epoch, batches.indices(epoch=3, step_in_epoch=1).shape
    (2, (4,))
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"got {size} images in batches of {batch_size}; expected at least 1 of each")
        self.size = size
        self.batch_size = min(batch_size, size)
        self.seed = seed
        self._epoch: int | None = None
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches an epoch."""
        return self.size // self.batch_size

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order of an epoch, int64 [size], with the images that its last partial batch drops."""
        return self._cached(epoch).copy()

    def indices(self, epoch: int, step_in_epoch: int) -> npt.NDArray[np.int64]:
        """The samples of one step, int64 [B].

        Args:
            epoch: from 0.
            step_in_epoch: 0 … steps_per_epoch−1.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= step_in_epoch < self.steps_per_epoch:
            raise IndexError(f"step_in_epoch: got {step_in_epoch}; expected 0 to {self.steps_per_epoch - 1}")
        start = step_in_epoch * self.batch_size
        return self._cached(epoch)[start : start + self.batch_size].copy()

    def _cached(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            self._order = epoch_order(self.size, self.seed, epoch)
            self._epoch = epoch
        return self._order
