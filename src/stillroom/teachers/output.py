"""A model's outputs for a batch. A loss cannot tell whether they were computed live or cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from stillroom.teachers.class_means import ClassMeans
from stillroom.teachers.fisher import FisherOf, head_fisher
from stillroom.teachers.tails import TeacherTail


@dataclass(frozen=True)
class ModelOutput:
    """One model's outputs for one batch."""

    logits: Tensor  # [B, K], in the data's class order
    features: Mapping[str, Tensor] = field(default_factory=dict)  # by tap name, [B, …] each
    # Diagonals of the Fisher matrix in the features, if computed: [B, …] each.
    fishers: Mapping[FisherOf, Tensor] = field(default_factory=dict)
    # The mean of such a diagonal over the training set.
    fisher_means: Mapping[FisherOf, float] = field(default_factory=dict)
    # Its mean answers to the training images of each class, by temperature.
    class_means: Mapping[float, ClassMeans] = field(default_factory=dict)
    tails: Mapping[str, TeacherTail] = field(default_factory=dict)  # the rest of the model from a tap on, by tap name
    # The data's classes that the logits are of, int64 [K'], where the model lacks some; None: all, in their order.
    classes: Tensor | None = None
    has_logits: bool = True  # else the model gives embeddings alone, and the logits are NaN

    def rows(self, rows: Tensor) -> ModelOutput:
        """The outputs for some images of the batch, int64 [n]."""
        return replace(
            self,
            logits=self.logits[rows],
            features={tap: feature[rows] for tap, feature in self.features.items()},
            fishers={of: weight[rows] for of, weight in self.fishers.items()},
        )

    def tail(self, tap: str) -> TeacherTail:
        """The rest of the model from a tap on: frozen, and gradients flow through it.

        Raises:
            RuntimeError: no loss declared it.
        """
        if tap not in self.tails:
            raise RuntimeError(f"nothing declares the tail at {tap!r}: Requires(teacher=True, tails=({tap!r},))")
        return self.tails[tap]

    def fisher(self, of: FisherOf) -> Tensor:
        """The diagonal of its Fisher matrix in its features, [B, …]: as computed, or in closed form.

        Raises:
            RuntimeError: nobody declared that it is read.
        """
        if of in self.fishers:
            return self.fishers[of]
        head = self.tails[of.tap].head if of.tap in self.tails else None
        if head is None:
            raise RuntimeError(f"nothing declares the Fisher weights of {of}: Requires(teacher=True, fishers=…)")
        return head_fisher(head, self.logits, temperature=of.temperature)
