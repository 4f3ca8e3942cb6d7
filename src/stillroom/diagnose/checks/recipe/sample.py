"""Some images of a split, spread over its classes, so that the first few are spread as well as all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.images import ImageSet, balanced_rows, rank_in_class


@dataclass(frozen=True)
class Sample:
    """Some images of a split.

    Attributes:
        images: [n, C, H, W] as the data gives them: one of each class, then the second of each, and so on.
        labels: int64 [n].
        rows: their places in the split, int64 [n].
    """

    images: Tensor
    labels: Tensor
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def halves(self) -> Tensor:
        """Which of two halves each image is in, both spread over the classes: bool [n]."""
        return torch.from_numpy(rank_in_class(self.labels.numpy()) % 2 == 1)


def sample_of(data: ImageSet, count: int) -> Sample:
    """A fixed random sample of a split.

    Args:
        data: the split.
        count: how many images, or all where there are fewer.

    >>> data = ImageSet(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1]), ("a", "b"), "x")
    >>> sample_of(data, 4).labels.tolist()
    [0, 1, 0, 1]
    """
    labels = data.labels.cpu().numpy()
    rows = balanced_rows(labels, min(count, len(data)))
    rows = rows[np.lexsort((labels[rows], rank_in_class(labels[rows])))]
    index = torch.from_numpy(rows)
    return Sample(data.images[index].cpu(), data.labels.cpu()[index], rows)
