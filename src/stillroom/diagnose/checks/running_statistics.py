"""Running statistics of the student's batch norms after a short run: one rule, before the run and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from stillroom.diagnose.check import Check, CheckResult, Limits, Skip, check
from stillroom.models.running_statistics import starting_share
from stillroom.schema.diagnosis import Remedy
from stillroom.tasks import TASKS

ContextT = TypeVar("ContextT")

STARTING = Limits(0.05, 0.2, "share of the starting mean 0 and variance 1 in the running statistics of a batch norm")


def statistics_check(measure: Callable[[ContextT], CheckResult]) -> Check[ContextT]:
    """Make a check of what finds the momentum and the batches."""
    return check(
        threshold=(
            "Share of the starting mean 0 and variance 1 that a run leaves in the running statistics of a batch norm, "
            f"(1 − momentum)^batches: warning from {STARTING.warning:.0%}, problem from {STARTING.problem:.0%}. At the "
            "usual momentum of .1 that is fewer than 16 batches, at the .01 of MobileNetV3 fewer than 161."
        ),
        source='Wu & Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576.',
        limits=[STARTING],
        problem="Batch norms that have not settled",
        title="Batch-norm statistics",
        tasks=TASKS,
    )(measure)


def judge_statistics(momentum: float | None, batches: int, *, recomputed: bool) -> CheckResult:
    """Whether enough batches went, or will go, into running statistics.

    Args:
        momentum: the smallest of the batch norms that begin with no batch.
        batches: that they see.
        recomputed: whether ``training.recompute_batch_norm`` replaces them.
    """
    if momentum is None:
        raise Skip("The student has no batch norm that begins without running statistics.")
    share = starting_share(momentum, batches)
    evidence = {"batches": batches, "momentum": momentum, "starting_share": share}
    if recomputed:
        return CheckResult("ok", "The running statistics are computed anew before each evaluation.", evidence)
    if share < STARTING.warning:
        summary = f"{batches:,} batches at a momentum of {momentum:g}: the running statistics are those of the data."
        return CheckResult("ok", summary, evidence)
    summary = (
        f"{batches:,} batches at a momentum of {momentum:g} leave the running statistics of the student's batch norms "
        f"at {share:.0%} of their starting values: what is evaluated is not the network that was trained."
    )
    remedy = Remedy("Compute them anew before each evaluation.", {"training.recompute_batch_norm": 50})
    return CheckResult(STARTING.at_least(share), summary, evidence, remedy)
