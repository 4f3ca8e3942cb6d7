"""``attention_maps``: to which tokens each token attends, TinyBERT's attention distillation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.losses.attention_base import AttentionConfig, AttentionLoss, State, check_tokens, scores
from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.numerics import batch_mean


class AttentionMapsConfig(AttentionConfig):
    """Attention maps of encoder blocks, head by head."""

    name: Literal["attention_maps"] = "attention_maps"
    normalized: bool = Field(
        False, description="Compare the weights after the softmax; false compares the scores before it, as published."
    )


def attention_maps(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    *,
    heads: int,
    normalized: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention distillation: mean squared error of the attention maps, head by head.

    Formula: ``mean_b 1/(h·l²) Σ_{a,i,j} (A_s − A_t)²_{aij}``, A = q kᵀ/√(d/h) of each of h heads, i and j over the l
    tokens of one text; with ``normalized``, A is the softmax of this over j.

    Args:
        student_query: [B, L, d], the queries of all heads side by side.
        student_key: the like.
        teacher_query: [B, L, d'], of any width; detached.
        teacher_key: the like.
        heads: h, of both.
        normalized: whether A is after the softmax.
        mask: where there is a token, bool [B, L]; None: everywhere.

    Returns:
        Scalar.

    Raises:
        ValueError: the texts differ, or h does not divide a width.

    Paper: Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, arXiv 1909.10351.

    >>> q, k = torch.ones(1, 2, 4), torch.ones(1, 2, 4)
    >>> attention_maps(q, k, 2 * q, k, heads=1).item()
    4.0
    """
    tokens = check_tokens(student_query, teacher_query, mask)
    with torch.no_grad():
        teacher = scores(teacher_query, teacher_key, heads)
    student = scores(student_query, student_key, heads)
    if normalized:
        student, teacher = (x.masked_fill(~tokens[:, None, None], -1e30).softmax(3) for x in (student, teacher))
    counted = (tokens[:, :, None] & tokens[:, None, :])[:, None]
    gap = torch.where(counted, student - teacher, 0.0).square().sum((2, 3)).mean(1)
    return batch_mean(gap / tokens.sum(1).clamp_min(1).square())


class AttentionMaps(AttentionLoss[AttentionMapsConfig]):
    """Attention maps of blocks, the mean over the pairs; see :func:`attention_maps`."""

    other_names = ("tinybert",)
    citation = Citation(
        "TinyBERT: Distilling BERT for Natural Language Understanding", "1909.10351", "jiao2020tinybert"
    )
    reads: ClassVar[tuple[State, ...]] = ("query", "key")

    def check_heads(self, field: str) -> None:
        """Refuse pairs of different numbers of heads."""
        for teacher, student in self.attentions:
            if teacher.heads != student.heads:
                expected = f"as many heads in both models: {teacher.tap.name} of the teacher has {teacher.heads}, "
                expected += f"{student.tap.name} of the student {student.heads}; minilm compares any numbers of heads"
                raise BadInput(field, self.name, expected)

    def forward(self, inputs: LossInputs) -> Tensor:
        values = [
            attention_maps(
                student["query"],
                student["key"],
                teacher["query"],
                teacher["key"],
                heads=attention.heads,
                normalized=self.config.normalized,
                mask=inputs.mask,
            )
            for attention, student, teacher in self.blocks(inputs)
        ]
        return torch.stack(values).mean()
