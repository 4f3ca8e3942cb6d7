"""What losses on attention share: the queries, keys and values of blocks of both models, found by their layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, Tag
from torch import Tensor, nn

from stillroom.errors import BadInput, nearest
from stillroom.losses.base import Family, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.feature_base import WORD_OR_LIST, only_words
from stillroom.losses.numerics import widen
from stillroom.losses.setup_context import ModelInfo, SetupContext, TapPair
from stillroom.models.modes import eval_mode
from stillroom.models.reader import TapReader
from stillroom.models.taps import Tap
from stillroom.tasks import TASKS

State = Literal["query", "key", "value"]
STATES: tuple[State, ...] = ("query", "key", "value")
# How the encoders of transformers, and our own, call the layers of these and the number of heads.
_LAYERS = (
    STATES,
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
)
_HEADS = ("heads", "num_attention_heads", "n_heads", "num_heads")


class AttentionConfig(LossConfig):
    """The options of every loss on attention."""

    taps: Annotated[
        Annotated[Literal["last", "all"], Tag("tag:word")]
        | Annotated[tuple[TapPair, ...], Field(min_length=1), Tag("tag:list")],
        WORD_OR_LIST,
        only_words("last", "all"),
    ] = Field(
        "last",
        description="Which blocks' attention is compared: last (that of both), all (each block of the student with the "
        "teacher's at the same share of the depth), or a list of {teacher: BLOCK, student: BLOCK}.",
    )

    @property
    def cached_features(self) -> int:
        """Three a pair; ``all`` counts as many."""
        return 3 * len(self.taps) if isinstance(self.taps, tuple) else 100 if self.taps == "all" else 3


AttentionConfigT = TypeVar("AttentionConfigT", bound=AttentionConfig)


@dataclass(frozen=True)
class BlockAttention:
    """The attention of one block: the taps of its queries, keys and values, and into how many heads they are cut."""

    tap: Tap  # of the queries, by the name of the module that holds the three
    states: dict[State, str]  # tap of each, which gives [B, L, d]
    width: int
    heads: int


class AttentionLoss(Loss[AttentionConfigT]):
    """A loss on the attention of blocks; padding of texts counts nothing.

    The outputs of the layers that make queries, keys and values are read, not the attention weights: so any encoder
    with such layers will do, with fused kernels, too.
    """

    requires = Requires(teacher=True)
    family: ClassVar[Family] = "features"
    reads_attention = True
    tasks = TASKS
    reads: ClassVar[tuple[State, ...]] = STATES
    attentions: tuple[tuple[BlockAttention, BlockAttention], ...] = ()  # (the teacher's, the student's)

    def states_read(self) -> Sequence[State]:
        """Which of queries, keys and values it reads."""
        return self.reads

    def setup(self, setup_context: SetupContext) -> None:
        """Find the blocks' attention in both models.

        Raises:
            BadInput: no such block, or one whose queries, keys and values no layers of their own make.
        """
        field, taps = f"losses.{self.name}.taps", self.config.taps
        both = setup_context.teacher, setup_context.student
        if isinstance(taps, str):
            found = [_all_attention(each, field, taps) for each in both]
            teachers, students = found
            if taps == "last":
                chosen = [(teachers[-1], students[-1])]
            else:  # the student's m-th of M with the teacher's round(m · N / M)-th of N
                share = len(teachers) / len(students)
                chosen = [(teachers[max(round(m * share), 1) - 1], each) for m, each in enumerate(students, 1)]
        else:
            chosen = [
                (_attention(both[0], each.teacher, field), _attention(both[1], each.student, field)) for each in taps
            ]
        self.attentions = tuple(chosen)
        self.check_heads(field.removesuffix(".taps"))
        self.pairs = tuple((teacher.tap, student.tap) for teacher, student in chosen)
        names = [
            tuple(each.states[state] for each in side for state in self.states_read())
            for side in zip(*chosen, strict=True)
        ]
        self.requires = Requires(teacher=True, teacher_features=names[0], student_features=names[1])

    def check_heads(self, field: str) -> None:
        """Refuse pairs whose heads cannot be compared."""

    def describe_taps(self) -> str:
        """Which blocks it compares, in a line."""
        pairs = (
            f"{s.tap.name} ({s.heads} heads of {s.width // s.heads}) → {t.tap.name} ({t.heads} of {t.width // t.heads})"
            for t, s in self.attentions
        )
        return f"{self.name} compares {', '.join(self.states_read())} (student → teacher) " + ", ".join(pairs)

    def blocks(self, inputs: LossInputs) -> Iterator[tuple[BlockAttention, dict[State, Tensor], dict[State, Tensor]]]:
        """Of each pair: the teacher's attention, and the student's and the teacher's states, [B, L, d] each.

        Raises:
            RuntimeError: :meth:`setup` was not called.
        """
        if not self.attentions:
            raise RuntimeError(f"loss {self.name!r} has not seen teacher and student: call setup() first")
        for teacher, student in self.attentions:
            states = self.states_read()
            yield (
                teacher,
                {state: inputs.student.features[student.states[state]] for state in states},
                {state: inputs.teacher_features[teacher.states[state]] for state in states},
            )


def scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Scaled dot products of each head, ``q kᵀ/√(d/h)``: [B, L, d] twice → [B, h, L, L].

    >>> scores(torch.ones(1, 2, 4), torch.ones(1, 2, 4), heads=1).tolist()
    [[[[2.0, 2.0], [2.0, 2.0]]]]
    """
    if query.dim() != 3 or query.shape != key.shape or query.shape[2] % heads:
        raise ValueError(
            f"states: got {tuple(query.shape)} and {tuple(key.shape)}; expected the same [batch, tokens, d] for both, "
            f"d a multiple of {heads}"
        )
    q, k = (widen(x).view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2) for x in (query, key))
    return q.matmul(k.transpose(2, 3)) / math.sqrt(q.shape[3])


def check_tokens(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Where there is a token, bool [B, L]; refuses states of other texts."""
    if student.shape[:2] != teacher.shape[:2] or (mask is not None and mask.shape != student.shape[:2]):
        got = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise ValueError(
            f"states: got {got}; expected [batch, tokens, d] of the same texts, and a mask [batch, tokens]"
        )
    return student.new_ones(student.shape[:2], dtype=torch.bool) if mask is None else mask


def _all_attention(model: ModelInfo, field: str, value: str) -> list[BlockAttention]:
    names = [name for name, module in model.model.named_modules() if name and _layers(module)]
    if not names:
        expected = "models with attention whose queries, keys and values are made by layers of their own"
        raise BadInput(field, value, f"{expected}: the {model.field}, a {type(model.model).__name__}, has none")
    return [_attention(model, name, field) for name in names]


def _attention(model: ModelInfo, name: str, field: str) -> BlockAttention:
    modules = dict(model.model.named_modules())
    held = [path for path, each in modules.items() if (path == name or path.startswith(f"{name}.")) and _layers(each)]
    if len(held) != 1:
        blocks = [path for path, each in modules.items() if path and _layers(each)]
        why = "it is no module of it" if name not in modules else f"it holds {len(held)}"
        known = nearest(name, blocks) if blocks else "it has none"
        raise BadInput(field, name, f"a block of the {model.field} with one attention ({known}); {why}")
    attention = modules[held[0]]
    states = dict(zip(STATES, (f"{held[0]}.{layer}" for layer in _layers(attention)), strict=True))
    tap = model.tap(states["query"])
    example, reader = model.example(), TapReader(model.model, [states["query"]])
    with torch.no_grad(), eval_mode(model.model), reader:
        model.model(example)
    if len(reader.take()[states["query"]]) != len(example):
        expected = "attention whose query layer reads tokens alone; this one's reads relative positions, too, as with "
        raise BadInput(field, name, f"{expected}DeBERTa's share_att_key: attention losses cannot read it")
    heads = next(
        (int(getattr(attention, each)) for each in _HEADS if isinstance(getattr(attention, each, None), int)), 1
    )
    if tap.kind != "token":
        raise BadInput(field, name, f"attention to tokens, [L, d]; its queries are a {tap.kind}")
    return BlockAttention(replace(tap, name=held[0]), states, tap.shape[1], heads)


def _layers(module: nn.Module) -> tuple[str, ...]:
    """The names of its own layers that make queries, keys and values; empty where it has none."""
    children = dict(module.named_children())
    return next((names for names in _LAYERS if all(name in children for name in names)), ())
