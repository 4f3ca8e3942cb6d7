"""``block_logit``: KL through the teacher's own tail, the exact member of the KL family in features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, Tag, model_validator
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs, Requires, Temperature
from stillroom.losses.cross_entropy import cross_entropy
from stillroom.losses.feature_base import WORD_OR_LIST, TapConfig, TapList, TapLoss, only_words
from stillroom.losses.kl import kl
from stillroom.losses.numerics import check_pair, check_temperature, widen
from stillroom.losses.setup_context import SetupContext
from stillroom.models.reader import FEATURES
from stillroom.models.taps import Tap


class BlockLogitConfig(TapConfig):
    """Stepping stones: the student's first blocks and the teacher's last, judged by their logits."""

    name: Literal["block_logit"] = "block_logit"
    taps: Annotated[
        Annotated[Literal["all", "light", "features"], Tag("tag:word")] | TapList,
        WORD_OR_LIST,
        only_words("all", "light", "features"),
    ] = Field(
        "all",
        description="Where a stone passes from the student to the teacher: all (every pair that `stillroom taps` "
        "shows but the logits, and none twice that only pooling parts), light (the deeper half of these, whose stones "
        "cost least), features (the last), or a list as for feature_mse.",
    )
    temperature: Temperature = 4.0
    alpha: float = Field(1.0, ge=0, description="α: factor of the labels, for the student and for each stone.")
    beta: float = Field(1.0, ge=0, description="β: factor of the teacher's answer.")
    gamma: float = Field(1.0, ge=0, description="γ: factor of the mean answer of the stones.")

    @model_validator(mode="after")
    def _teaches(self) -> BlockLogitConfig:
        if not self.alpha + self.beta + self.gamma:
            raise ValueError("alpha, beta or gamma above 0")
        return self

    @property
    def kl_shares(self) -> tuple[float, float]:
        """α and β."""
        return self.alpha, self.beta


def block_logit(
    student_logits: Tensor,
    teacher_logits: Tensor,
    stone_logits: Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Block-wise logit distillation: KL through the teacher's own tail, the exact member of the family.

    Formula: ``α·T(L_task) + β·T(d(·, Y_T)) + γ·T(d(·, Y_ens))``, where T(L) = L(Y_S) + Σ_i 2^{i−n}·L(Y_{N_i}) over
    the n stones, shallow to deep, L_task is cross-entropy, d = τ²·KL from the second to the first, Y_ens the mean of
    the stones' logits, detached. Without a stone, the last part is left out.

    Args:
        student_logits: Y_S, [B, K].
        teacher_logits: Y_T, [B, K]; detached.
        stone_logits: Y_{N_i}, [B, K] each, shallow to deep: the teacher's last blocks after the student's first i.
        labels: int64 [B].
        temperature: τ > 0 of d.
        alpha: α, of the labels.
        beta: β, of the teacher's answer.
        gamma: γ, of the stones' mean answer.

    Returns:
        Scalar, in nats, mean over the batch.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Yu et al., Decoupling Dark Knowledge via Block-wise Logit Distillation for Feature-level Alignment,
    arXiv 2411.01547.

    >>> z = torch.zeros(1, 2)
    >>> block_logit(z, z, [z, z], torch.tensor([0]), beta=0, gamma=0).item() / torch.log(torch.tensor(2.0)).item()
    2.5
    """
    check_temperature(temperature)
    check_pair(student_logits, teacher_logits)
    weighed = [(1.0, student_logits)]
    weighed += [(0.5 ** (len(stone_logits) - 1 - place), stone) for place, stone in enumerate(stone_logits)]
    total = student_logits.new_zeros((), dtype=torch.promote_types(student_logits.dtype, torch.float32))
    ensemble = torch.stack([widen(stone.detach()) for stone in stone_logits]).mean(0) if len(stone_logits) else None
    for weight, logits in weighed:
        if alpha:
            total = total + alpha * weight * cross_entropy(logits, labels)
        if beta:
            total = total + beta * weight * kl(logits, teacher_logits, temperature=temperature)
        if gamma and ensemble is not None:
            total = total + gamma * weight * kl(logits, ensemble, temperature=temperature)
    return total


class BlockLogit(TapLoss[BlockLogitConfig]):
    """KL through the teacher's own tail, at each stepping stone; see :func:`block_logit`.

    A stone is the student up to a tap, a connector, and the teacher from the opposite tap on, frozen. Its second order
    is ``feature_full_fisher``. Stones are dropped when the training is over.
    """

    other_names = ("block_kd",)
    citation = Citation(
        "Decoupling Dark Knowledge via Block-wise Logit Distillation for Feature-level Alignment",
        "2411.01547",
        "yu2024decoupling",
    )
    family = "features"
    tasks = ("single_label",)
    kl_like = True
    weighings = ("exact",)
    label_free_option = ("alpha", 0)
    leaves_padding_out = True  # the teacher's tail does
    verb = "steps over"

    def choose_pairs(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that the options mean."""
        taps = self.config.taps
        if taps not in ("all", "light"):
            # Shallow to deep, in whatever order they are named: the deepest counts most.
            return tuple(
                sorted(super().choose_pairs(setup_context, field), key=lambda p: (p[0].name == FEATURES, p[0].depth))
            )
        pairs = setup_context.choose_pairs("all", field=field)
        # Before the student's first layer, nothing of it would learn.
        pairs = tuple(pair for pair in pairs if pair[1].depth) or pairs
        last = pairs[-1][0]
        if last.name == FEATURES:
            # Between the last map and the features lies no layer: one stone for both, with the linear connector.
            pairs = (*(pair for pair in pairs[:-1] if pair[0].depth < last.depth), pairs[-1])
        return pairs[len(pairs) // 2 :] if taps == "light" else pairs

    def requirements(self, setup_context: SetupContext) -> Requires:
        """The student's features, and the teacher from there on; of the teacher's own, none but the logits."""
        return Requires(
            teacher=True,
            labels=self.config.alpha > 0,
            student_features=tuple(student.name for _, student in self.pairs),
            tails=tuple(teacher.name for teacher, _ in self.pairs),
        )

    def forward(self, inputs: LossInputs) -> Tensor:
        options = self.config
        stones = [inputs.teacher_output.tail(teacher.name)(features) for teacher, features in self.connected(inputs)]
        return block_logit(
            inputs.student.logits,
            inputs.teacher_logits,
            stones,
            inputs.labels,
            temperature=options.temperature,
            alpha=options.alpha,
            beta=options.beta,
            gamma=options.gamma,
        )
