"""``minilm``: relations between the tokens of a text, by their queries, keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.losses.attention_base import STATES, AttentionConfig, AttentionLoss, State, check_tokens, scores
from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.numerics import batch_mean

Relation = Literal["attention", "query", "key", "value"]


class MiniLMConfig(AttentionConfig):
    """Relations between tokens, by their queries, keys and values."""

    name: Literal["minilm"] = "minilm"
    relations: Annotated[tuple[Relation, ...], Field(min_length=1)] = Field(
        STATES,
        description="What tokens are compared by: query, key, value (each with its like; all three are MiniLMv2), "
        "attention (queries with keys; with value it is MiniLM).",
    )
    relation_heads: int | None = Field(
        None,
        ge=1,
        description="Number of heads that the widths are cut into anew, a divisor of both; left out: the student's "
        "heads, or the largest divisor of both widths below.",
    )


def minilm(
    student_states: Sequence[tuple[Tensor, Tensor]],
    teacher_states: Sequence[tuple[Tensor, Tensor]],
    *,
    relation_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Self-attention relation distillation: which tokens of a text resemble each other, of both models.

    Formula: ``Σ_r mean_b 1/(A·l) Σ_{a,i} KL(R_t[a, i] ‖ R_s[a, i])``, R = softmax_j(x yᵀ/√(d/A)) of the pair (x, y)
    of a relation r, cut into A heads, i and j over the l tokens of one text.

    Args:
        student_states: of each relation the pair (x, y), [B, L, d] each: (values, values), or (queries, keys).
        teacher_states: the like, of any width; detached.
        relation_heads: A, a divisor of both widths.
        mask: where there is a token, bool [B, L]; None: everywhere.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the texts or the numbers of relations differ, or A does not divide a width.

    Paper: Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers, arXiv 2012.15828; relations of values: Wang et al., MiniLM, arXiv 2002.10957.

    >>> x = torch.rand(2, 3, 4)
    >>> minilm([(x, x)], [(x, x)], relation_heads=2).item()
    0.0
    """
    if len(student_states) != len(teacher_states) or not student_states:
        got = f"{len(student_states)} and {len(teacher_states)} relations"
        raise ValueError(f"states: got {got}; expected as many of both, at least 1")
    values = []
    for (x_s, y_s), (x_t, y_t) in zip(student_states, teacher_states, strict=True):
        tokens = check_tokens(x_s, x_t, mask)
        with torch.no_grad():
            teacher = _log_relation(x_t, y_t, relation_heads, tokens)
        gap = teacher - _log_relation(x_s, y_s, relation_heads, tokens)
        of_each_token = (teacher.exp() * gap).sum(3).mean(1)
        values.append(batch_mean((of_each_token * tokens).sum(1) / tokens.sum(1).clamp_min(1)))
    return torch.stack(values).sum()


def _log_relation(x: Tensor, y: Tensor, heads: int, tokens: Tensor) -> Tensor:
    # Not minus infinity, whose differences are no numbers: exp of it is 0, too.
    return scores(x, y, heads).masked_fill(~tokens[:, None, None], -1e30).log_softmax(3)


class MiniLM(AttentionLoss[MiniLMConfig]):
    """Relations between the tokens of a text, the mean over the pairs of blocks; see :func:`minilm`."""

    citation = Citation(
        "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
        "2012.15828",
        "wang2021minilmv2",
    )

    def states_read(self) -> Sequence[State]:
        """Those of its relations."""
        read = {state for relation in self.config.relations for state in _pair_of(relation)}
        return [state for state in STATES if state in read]

    def check_heads(self, field: str) -> None:
        """Refuse numbers of heads that do not divide the widths."""
        heads = self.config.relation_heads
        for teacher, student in self.attentions:
            if heads is not None and (teacher.width % heads or student.width % heads):
                expected = (
                    f"a divisor of both widths, {teacher.width} of the teacher and {student.width} of the student"
                )
                raise BadInput(f"{field}.relation_heads", heads, expected)

    def forward(self, inputs: LossInputs) -> Tensor:
        values = []
        for (teacher, student), (_, own, its) in zip(self.attentions, self.blocks(inputs), strict=True):
            common = math.gcd(teacher.width, student.width)
            heads = self.config.relation_heads or max(n for n in range(1, student.heads + 1) if common % n == 0)
            pairs = [_pair_of(relation) for relation in self.config.relations]
            states = [[(each[x], each[y]) for x, y in pairs] for each in (own, its)]
            values.append(minilm(*states, relation_heads=heads, mask=inputs.mask))
        return torch.stack(values).mean()


def _pair_of(relation: Relation) -> tuple[State, State]:
    return ("query", "key") if relation == "attention" else (relation, relation)
