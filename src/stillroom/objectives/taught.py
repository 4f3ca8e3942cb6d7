"""From a target's options to what is taught of a lesson: logits whose softened answer is the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom import targets
from stillroom.models.finding import FEATURES
from stillroom.objectives.base import Lesson, Reads
from stillroom.objectives.target_config import (
    ClassSimilarityConfig,
    TargetConfig,
    TopKConfig,
    TrueClassConfig,
    TrueClassSimilarityConfig,
    UniformConfig,
)

_READS: dict[type[TargetConfig], Reads] = {
    # Nobody needs to be asked what every class alike is.
    UniformConfig: Reads(labels=True),
    ClassSimilarityConfig: Reads(teacher=True, labels=True, tails=(FEATURES,), heads=(FEATURES,)),
    TopKConfig: Reads(teacher=True),
    TrueClassConfig: Reads(teacher=True, labels=True),
    TrueClassSimilarityConfig: Reads(teacher=True, labels=True, tails=(FEATURES,), heads=(FEATURES,)),
}


def reads_of(target: TargetConfig) -> Reads:
    """What must be said for a target to be made."""
    return _READS[type(target)]


def taught_logits(lesson: Lesson, target: TargetConfig, *, temperature: float) -> Tensor:
    """The logits that teach a target: ``z = τ·log ρ``, so that softmax(z/τ) = ρ.

    Args:
        lesson: the batch.
        target: which part of the teacher's answer.
        temperature: τ > 0.

    Returns:
        [B, K].

    Raises:
        RuntimeError: the lesson lacks what the target reads.

    >>> from stillroom.teacher.knowledge import Knowledge
    >>> said = Knowledge(torch.tensor([[0.0, 2.0, 0.0]]).log1p())
    >>> lesson = Lesson(said, said, torch.tensor([1]), torch.tensor([0]), 0.0)
    >>> torch.softmax(taught_logits(lesson, TopKConfig(k=1), temperature=1.0), 1)
    tensor([[0.2000, 0.6000, 0.2000]])
    """
    return temperature * _LOGS[type(target)](target, lesson, temperature)


def _answer(lesson: Lesson, temperature: float) -> Tensor:
    logits = lesson.teacher_logits.detach()
    # Softened before anything is lost of it: half precision has three digits.
    return F.log_softmax((logits.float() if logits.dtype != torch.float64 else logits) / temperature, dim=1)


def _head(lesson: Lesson) -> Tensor:
    head = lesson.taught.tail(FEATURES).head
    if head is None:
        raise RuntimeError("the teacher ends in no linear layer: Reads(heads=…) has a run refuse it")
    return head


def _uniform(target: UniformConfig, lesson: Lesson, temperature: float) -> Tensor:
    logits = lesson.student.logits
    return targets.uniform(lesson.labels, logits.shape[1]).log().to(torch.promote_types(logits.dtype, torch.float32))


def _class_similarity(target: ClassSimilarityConfig, lesson: Lesson, temperature: float) -> Tensor:
    options = {"power": target.power, "temperature": target.temperature}
    return targets.log_class_similarity(_head(lesson), lesson.labels, **options)


def _top_k(target: TopKConfig, lesson: Lesson, temperature: float) -> Tensor:
    return targets.log_top_k(_answer(lesson, temperature), target.k)


def _true_class(target: TrueClassConfig, lesson: Lesson, temperature: float) -> Tensor:
    return targets.log_true_class(_answer(lesson, temperature), lesson.labels)


def _true_class_similarity(target: TrueClassSimilarityConfig, lesson: Lesson, temperature: float) -> Tensor:
    options = {"power": target.power, "temperature": target.temperature}
    return targets.log_true_class_similarity(_answer(lesson, temperature), _head(lesson), lesson.labels, **options)


_LOGS: dict[type[TargetConfig], Callable[[Any, Lesson, float], Tensor]] = {
    UniformConfig: _uniform,
    ClassSimilarityConfig: _class_similarity,
    TopKConfig: _top_k,
    TrueClassConfig: _true_class,
    TrueClassSimilarityConfig: _true_class_similarity,
}
