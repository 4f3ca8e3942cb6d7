"""Part of the check ``ignored_rows``: features of padded sequences that are compared."""

from __future__ import annotations

from stillroom.diagnose.check import CheckResult
from stillroom.diagnose.checks.loop.context import LoopContext, most_common
from stillroom.schema.diagnosis import Remedy


def padded_features(context: LoopContext) -> CheckResult | None:
    """A term compares features at padded positions, too.

    Some match all positions on purpose; who computes a mask in the same step means to use it.
    """
    found = [each for step in context.steps for each in step.padded]
    counted = [each for each in found if each.share > 1e-3]
    if not counted or 2 * len(counted) < len(found):
        return None
    unused = [each.unused_mask for each in counted if each.unused_mask is not None]
    is_meant = 2 * len(unused) < len(counted)
    where = most_common(unused)
    why = "; some match all positions on purpose." if is_meant else f", and the mask that {where} computes is not read."
    return CheckResult(
        "warning" if is_meant else "problem",
        f"Padded positions get up to {max(each.share for each in counted):.0%} of the gradient of a term that compares "
        f"features{why}",
        {"share": max(each.share for each in counted), "losses": len(found), "unused_mask": where},
        Remedy("Leave padded positions out of this term, too.", code="(distance * mask).sum() / mask.sum()"),
        location=most_common([each.place for each in counted]),
    )
