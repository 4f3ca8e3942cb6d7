"""A teacher's mean answer to the training images of each class: what its answers say of classes, not of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stillroom.data.images import has_label
from stillroom.data.loader import Batch, BatchLoader
from stillroom.errors import BadInput

_BATCH = 256
_NEVER = -1000.0  # the logarithm of a probability that is none


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """The mean of softmax(z_t/τ) over the training images of each class.

    >>> means = ClassMeans(torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.8, 0.0], [0.0, 0.0, 0.0]]).double(),
    ...                    torch.tensor([1.0, 3.0, 0.0]).double())
    >>> round(float(means.log_confidence.exp()), 3), round(float(means.log_doubt.exp()), 3)
    (0.75, 0.25)
    >>> [round(each, 3) for each in means.log_relations.exp()[0].tolist()]
    [0.0, 0.75, 0.25]
    """

    table: Tensor  # float64 [K, K]: the row of a class is the mean answer to its images; 0 of a class without images
    counts: Tensor  # images of each class, float64 [K]

    @cached_property
    def log_confidence(self) -> Tensor:
        """Log of the mean probability of the true class, over all images; a scalar."""
        return ((self.table.diagonal() * self.counts).sum() / self.counts.sum()).log()

    @cached_property
    def log_doubt(self) -> Tensor:
        """Log of the mean probability of all other classes, as their sum; a scalar."""
        others = self.table - torch.diag(self.table.diagonal())
        return ((others.sum(1) * self.counts).sum() / self.counts.sum()).log()

    @cached_property
    def log_relations(self) -> Tensor:
        """Log of how the mean answer shares out what is not the true class's, [K, K]; evenly where nothing is left."""
        others = self.table - torch.diag(self.table.diagonal())
        empty = others.sum(1, keepdim=True) <= 0
        even = (1 - torch.eye(len(others), dtype=others.dtype, device=others.device)).expand_as(others)
        shares = torch.where(empty, even, others)
        # No infinity, of which a loss would make 0·∞.
        return (shares / shares.sum(1, keepdim=True)).log().clamp_min(_NEVER)


def find_class_means(
    teacher: Callable[[Batch], object], loader: BatchLoader, count: int, classes: int, temperatures: Iterable[float]
) -> dict[float, ClassMeans]:
    """A teacher's mean answers at some temperatures, over view 0 of the images that are trained on.

    Args:
        teacher: from a batch to its output, of which the logits are read.
        loader: of the training images.
        count: how many these are.
        classes: K.
        temperatures: τ of each mean.

    Raises:
        BadInput: an image's label is missing everywhere, or a class has none at all: there is no mean.
    """
    wanted: Sequence[float] = sorted(set(temperatures))
    device = loader.labels.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    sums = {each: torch.zeros(classes, classes, dtype=wide, device=device) for each in wanted}
    counts = torch.zeros(classes, dtype=wide, device=device)
    rows = np.arange(count, dtype=np.int64)
    for batch in loader.batches((rows[start : start + _BATCH], 0) for start in range(0, count, _BATCH)):
        there = has_label(batch.labels)
        labels = batch.labels[there]
        logits = teacher(batch).logits.detach()[there].to(wide)  # type: ignore[attr-defined]
        counts.index_add_(0, labels, torch.ones(len(labels), dtype=wide, device=device))
        for each in wanted:
            sums[each].index_add_(0, labels, (logits / each).softmax(1))
    if not bool(counts.any()):
        raise BadInput("data", "no training image with a label", "labels: a target reads the mean answer to a class")
    return {each: ClassMeans(sums[each] / counts[:, None].clamp_min(1), counts) for each in wanted}
