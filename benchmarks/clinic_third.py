"""The third cohort: few labels, students with something to gain, losses of one's own; correct kinds above all.

In this regime verdicts after a run once accused half of the correct runs: 200 labels are learned by heart, and a
student is far from its teacher. The losses are named in recipes as ``clinic_third:NAME``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from clinic_setups import HERE, LABELS, Content, Kinds, SetupMaker
from torch import Tensor

from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires

KINDS = Kinds(cohort=3)
IMAGES = 200


class Divergence(Loss[LossConfig]):
    """The textbook's KL at a temperature of 4."""

    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        log_q, p = (each / 4 for each in (inputs.student.logits, inputs.teacher_logits))
        return 16 * F.kl_div(F.log_softmax(log_q, 1), F.softmax(p, 1), reduction="batchmean")


class Squares(Divergence):
    """Squared differences of logits."""

    def forward(self, inputs: LossInputs) -> Tensor:
        return F.mse_loss(inputs.student.logits, inputs.teacher_logits)


class SoftLabels(Divergence):
    """Cross-entropy to the teacher's probabilities."""

    def forward(self, inputs: LossInputs) -> Tensor:
        return F.cross_entropy(inputs.student.logits, inputs.teacher_logits.softmax(1))


class Deaf(Divergence):
    """It says that it reads the teacher, and reads the labels alone."""

    def forward(self, inputs: LossInputs) -> Tensor:
        return F.cross_entropy(inputs.student.logits, inputs.labels)


class Rows(Divergence):
    """One number a row."""

    def forward(self, inputs: LossInputs) -> Tensor:
        return (inputs.student.logits - inputs.teacher_logits).square().mean(1)


class LogOfZero(Divergence):
    """A logarithm of a clipped probability, which may be 0."""

    def forward(self, inputs: LossInputs) -> Tensor:
        return -(inputs.teacher_logits.softmax(1) * (inputs.student.logits.softmax(1) - 0.5).clamp_min(0).log()).mean()


def own(name: str, labels: float = 0.3) -> list[Content]:
    """A loss of this file, with the labels'."""
    return [{"name": "cross_entropy", "weight": labels}, {"name": f"clinic_third:{name}", "weight": 1 - labels}]


def few(maker: SetupMaker, *overrides: str, **parts: Any) -> Content:
    """A recipe of 200 labels, with a teacher of all."""
    return {**maker.recipe(f"data.train_limit={IMAGES}", "training.epochs=40", *overrides), **parts}


def few_run(maker: SetupMaker, *overrides: str, alone: bool = True, **parts: Any) -> Path:
    """The folder of its run, with that of the same student from labels alone next to it."""
    content = few(maker, *overrides, **parts)
    if alone:
        maker.trained({**content, "losses": LABELS, "teacher": None})
    return maker.trained(content)


@KINDS.correct("few labels and a divergence", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker)


@KINDS.correct("few labels and an own divergence", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, losses=own("Divergence"))


@KINDS.correct("few labels and own squared differences", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, losses=own("Squares", 0.5))


@KINDS.correct("few labels and own soft labels", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, losses=own("SoftLabels"))


@KINDS.correct("few labels, the teacher alone", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, losses=[{"name": "kl", "temperature": maker.draw.choice([2, 4])}])


@KINDS.correct("few labels alone", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, losses=LABELS, teacher=None, alone=False)


@KINDS.correct("few labels for long", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, f"training.epochs={maker.draw.choice([80, 120])}", losses=own("Divergence"))


@KINDS.correct("few labels with nothing next to it", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, losses=own("Divergence"), alone=False)


@KINDS.correct("few labels, adamw", about="run")
def _(maker: SetupMaker) -> Path:
    optimizer = {"name": "adamw", "lr": 0.003, "weight_decay": 0.05}
    return few_run(maker, losses=own("Divergence"), training={"epochs": 40, **HERE, "optimizer": optimizer})


@KINDS.correct("few labels and an own divergence, before it is trained")
def _(maker: SetupMaker) -> Path:
    return maker.written(few(maker, losses=own("Divergence")))


@KINDS.correct("few labels and own soft labels, before it is trained")
def _(maker: SetupMaker) -> Path:
    return maker.written(few(maker, losses=own("SoftLabels")))


@KINDS.faulty("few labels, an own loss that does not read the teacher", "teacher_unused")
def _(maker: SetupMaker) -> Path:
    return maker.written(few(maker, losses=own("Deaf")))


@KINDS.faulty("few labels, an own loss of rows", "loss_finite")
def _(maker: SetupMaker) -> Path:
    return maker.written(few(maker, losses=own("Rows")))


@KINDS.faulty("few labels, an own logarithm of zero", "loss_finite")
def _(maker: SetupMaker) -> Path:
    return maker.written(few(maker, losses=own("LogOfZero")))


@KINDS.faulty("few labels for an epoch", "under_training", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, f"training.epochs={maker.draw.choice([1, 2])}", losses=own("Divergence"))


@KINDS.faulty("few labels at a rate that blows up", "diverged", about="run")
def _(maker: SetupMaker) -> Path:
    return few_run(maker, f"training.optimizer.lr={maker.draw.choice([20, 50])}", losses=own("Squares", 0.5))
