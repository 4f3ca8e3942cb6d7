"""The exact member of the KL family in features: the student's first blocks, judged through the teacher's last."""

from __future__ import annotations

from torch import Tensor

from stillroom.losses import functional
from stillroom.losses.base import Citation, LossInputs, Requires
from stillroom.losses.config import BlockLogitConfig
from stillroom.losses.features import TapLoss
from stillroom.losses.setup_context import SetupContext
from stillroom.models.reader import FEATURES
from stillroom.models.taps import Tap


class BlockLogit(TapLoss[BlockLogitConfig]):
    """KL through the teacher's own tail, at each stepping stone; see :func:`functional.block_logit`.

    A stone is the student up to a tap, a connector, and the teacher from the opposite tap on, frozen. Its second order
    is ``feature_full_fisher``, and the diagonal of that ``feature_fisher``. Stones are gone when the training is over.
    """

    citation = Citation(
        "Decoupling Dark Knowledge via Block-wise Logit Distillation for Feature-level Alignment",
        "2411.01547",
        "yu2024decoupling",
    )
    verb = "steps over"

    def choose(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that the options mean."""
        taps = self.config.taps
        if taps not in ("all", "light"):
            # Shallow to deep, in whatever order they are named: the deepest counts most.
            return tuple(
                sorted(super().choose(setup_context, field), key=lambda p: (p[0].name == FEATURES, p[0].depth))
            )
        pairs = setup_context.choose("all", field=field)
        # Before the student's first layer, nothing of it would learn.
        pairs = tuple(pair for pair in pairs if pair[1].depth) or pairs
        last = pairs[-1][0]
        if last.name == FEATURES:
            # Between the last map and the features lies no layer: one stone for both, with the linear connector.
            pairs = (*(pair for pair in pairs[:-1] if pair[0].depth < last.depth), pairs[-1])
        return pairs[len(pairs) // 2 :] if taps == "light" else pairs

    def read(self, setup_context: SetupContext) -> Requires:
        """The student's features, and the teacher from there on; of the teacher's own, none but the logits."""
        return Requires(
            teacher=True,
            labels=self.config.alpha > 0,
            student_features=tuple(student.name for _, student in self.pairs),
            tails=tuple(teacher.name for teacher, _ in self.pairs),
        )

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        options = self.config
        stones = [inputs.taught.tail(teacher.name)(features) for teacher, features in self.mapped(inputs)]
        return functional.block_logit(
            inputs.student.logits,
            inputs.teacher_logits,
            stones,
            inputs.labels,
            temperature=options.temperature,
            alpha=options.alpha,
            beta=options.beta,
            gamma=options.gamma,
        )
