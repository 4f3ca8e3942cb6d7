"""What is known of data that were made: how their classes are related, and how difficult each sample is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.errors import BadInput


@dataclass(frozen=True, eq=False)
class Truth:
    """What a made task knows of itself and of its samples.

    Attributes:
        relations: the cosine of each two classes' own vectors, float64 [K, K]; which classes belong together is said
            by :attr:`ImageSet.superclasses`.
        margin: how far each sample's label leads, float32 [N], in the scores' unit: the label's score less the largest
            of the others, before noise. A small one is a difficult sample; below 0, the noise alone made the label.

    >>> truth = Truth(torch.eye(2, dtype=torch.float64), torch.tensor([0.5, -0.1, 2.0]))
    >>> truth.part(np.array([2, 0])).margin.tolist()
    [2.0, 0.5]
    """

    relations: Tensor
    margin: Tensor

    def check(self, classes: int, samples: int) -> None:
        """Refuse a truth of another set.

        Raises:
            BadInput: it is of another number of classes or of samples, or of another type.
        """
        if self.relations.dtype != torch.float64 or self.relations.shape != (classes, classes):
            got = f"{self.relations.dtype} {list(self.relations.shape)}"
            raise BadInput("data.truth.relations", got, f"float64 {[classes, classes]}, as there are {classes} classes")
        if self.margin.dtype != torch.float32 or self.margin.shape != (samples,):
            got = f"{self.margin.dtype} {list(self.margin.shape)}"
            raise BadInput("data.truth.margin", got, f"float32 {[samples]}, one for each sample")

    def part(self, rows: npt.NDArray[np.int64]) -> Truth:
        """The same of some of the samples.

        Args:
            rows: which, int64 [n].
        """
        return replace(self, margin=self.margin[torch.from_numpy(rows)])
