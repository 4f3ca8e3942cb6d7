"""What passes between ``sources.py`` and its workers: the members of the KL family, and what is asked of each.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from speed_job import Job, Pair

PAIRS = {pair.name: pair for pair in (Pair("resnet32", "resnet8", 100), Pair("resnet56", "resnet8", 10))}

# What reads features alone trains no classifier, so it is added to the labels' loss, as in a recipe.
LABELS = {"name": "cross_entropy", "weight": 0.1}
DEEPER = "layer2"
DRAWN = 4


def _features(name: str, taps: str | list[str], **options: Any) -> list[dict[str, Any]]:
    return [LABELS, {"name": name, "taps": taps, **options}]


Terms = list[dict[str, Any]]
KL = "kl"
STONES: dict[str, Terms] = {
    f"block_logit, {taps}": [{"name": "block_logit", "taps": taps}] for taps in ("light", "all")
}
MEMBERS: dict[str, Terms] = {
    "labels": [{"name": "cross_entropy"}],
    KL: [{"name": "kl"}],
    "logit_mse": [{"name": "logit_mse"}],
    "logit_fisher": [{"name": "logit_fisher"}],
    "feature_mse": _features("feature_mse", "features"),
    "feature_fisher": _features("feature_fisher", "features"),
    "feature_full_fisher": _features("feature_full_fisher", "features"),
    f"feature_mse, {DEEPER}": _features("feature_mse", [DEEPER]),
    f"feature_fisher, {DEEPER}": _features("feature_fisher", [DEEPER], samples=DRAWN),
    f"feature_full_fisher, {DEEPER}": _features("feature_full_fisher", [DEEPER]),
    "feature_mse, all": _features("feature_mse", "all"),
    "feature_fisher, all": _features("feature_fisher", "all", samples=DRAWN),
}

ANSWER, CLOSED, SOME, EVERY = "the answer alone", "closed form", f"{DRAWN} drawn classes", "all classes"
# Of each way, where the weights are, and how many classes are drawn for them: 0 is all, None is no weights.
WEIGHTS: dict[str, tuple[str, int | None]] = {
    ANSWER: (DEEPER, None),
    CLOSED: ("features", 0),
    SOME: (DEEPER, DRAWN),
    EVERY: (DEEPER, 0),
}


@dataclass(frozen=True)
class SourceJob(Job):
    """What one worker is to do; see :class:`Job`.

    Attributes:
        task: ``prepare`` the teacher's weights; ``keep`` the answers that all members read; make ``steps`` of a run;
            ``weigh`` one step's memory; run the ``tail`` at a tap alone, as the run's first step does; or ``answer``
            as the live teacher does, with Fisher weights.
        losses: the terms of the run's loss.
        tap: where the tail begins, or the weights are.
        samples: classes drawn of each answer; 0 takes all, None leaves the weights out.
        members: whether the answers for all members are kept, or for the stones and ``kl`` alone.
    """

    worker: ClassVar[str] = "sources_worker.py"

    task: Literal["prepare", "keep", "steps", "weigh", "tail", "answer"] = "steps"
    losses: Terms = field(default_factory=list)
    tap: str = ""
    samples: int | None = None
    members: bool = True


def tail_name(tap: str) -> str:
    """What the method is called that runs a tail alone."""
    return f"tail from {tap}"
