"""From a target's options to what is taught of a batch: logits whose softened answer is the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses import targets
from stillroom.losses.base import LossInputs, Requires
from stillroom.losses.target_config import (
    ClassSimilarityConfig,
    TargetConfig,
    TopKConfig,
    TrueClassConfig,
    TrueClassSimilarityConfig,
    UniformConfig,
)
from stillroom.models.reader import FEATURES

_READS: dict[type[TargetConfig], Requires] = {
    # Nobody needs to be asked what every class alike is.
    UniformConfig: Requires(labels=True),
    ClassSimilarityConfig: Requires(teacher=True, labels=True, tails=(FEATURES,), heads=(FEATURES,)),
    TopKConfig: Requires(teacher=True),
    TrueClassConfig: Requires(teacher=True, labels=True),
    TrueClassSimilarityConfig: Requires(teacher=True, labels=True, tails=(FEATURES,), heads=(FEATURES,)),
}


def reads_of(target: TargetConfig) -> Requires:
    """What must be said for a target to be made."""
    return _READS[type(target)]


def taught_logits(inputs: LossInputs, target: TargetConfig, *, temperature: float) -> Tensor:
    """The logits that teach a target: ``z = τ·log ρ``, so that softmax(z/τ) = ρ.

    Args:
        inputs: the batch.
        target: which part of the teacher's answer.
        temperature: τ > 0.

    Returns:
        [B, K].

    Raises:
        RuntimeError: the inputs lacks what the target reads.

    >>> from stillroom.teachers.knowledge import ModelOutput
    >>> said = ModelOutput(torch.tensor([[0.0, 2.0, 0.0]]).log1p())
    >>> inputs = LossInputs(said, said, torch.tensor([1]), torch.tensor([0]), 0.0)
    >>> torch.softmax(taught_logits(inputs, TopKConfig(k=1), temperature=1.0), 1)
    tensor([[0.2000, 0.6000, 0.2000]])
    """
    return temperature * _LOGS[type(target)](target, inputs, temperature)


def _answer(inputs: LossInputs, temperature: float) -> Tensor:
    logits = inputs.teacher_logits.detach()
    # Softened before anything is lost of it: half precision has three digits.
    return F.log_softmax((logits.float() if logits.dtype != torch.float64 else logits) / temperature, dim=1)


def _head(inputs: LossInputs) -> Tensor:
    head = inputs.taught.tail(FEATURES).head
    if head is None:
        raise RuntimeError("the teacher ends in no linear layer: Requires(heads=…) has a run refuse it")
    return head


def _uniform(target: UniformConfig, inputs: LossInputs, temperature: float) -> Tensor:
    logits = inputs.student.logits
    return targets.uniform(inputs.labels, logits.shape[1]).log().to(torch.promote_types(logits.dtype, torch.float32))


def _class_similarity(target: ClassSimilarityConfig, inputs: LossInputs, temperature: float) -> Tensor:
    options = {"power": target.power, "temperature": target.temperature}
    return targets.log_class_similarity(_head(inputs), inputs.labels, **options)


def _top_k(target: TopKConfig, inputs: LossInputs, temperature: float) -> Tensor:
    return targets.log_top_k(_answer(inputs, temperature), target.k)


def _true_class(target: TrueClassConfig, inputs: LossInputs, temperature: float) -> Tensor:
    return targets.log_true_class(_answer(inputs, temperature), inputs.labels)


def _true_class_similarity(target: TrueClassSimilarityConfig, inputs: LossInputs, temperature: float) -> Tensor:
    options = {"power": target.power, "temperature": target.temperature}
    return targets.log_true_class_similarity(_answer(inputs, temperature), _head(inputs), inputs.labels, **options)


_LOGS: dict[type[TargetConfig], Callable[[Any, LossInputs, float], Tensor]] = {
    UniformConfig: _uniform,
    ClassSimilarityConfig: _class_similarity,
    TopKConfig: _top_k,
    TrueClassConfig: _true_class,
    TrueClassSimilarityConfig: _true_class_similarity,
}
