"""The same student from labels alone next to a distilled run: without it, some verdicts on the run cannot be given."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from stillroom.diagnose.check import CheckResult
from stillroom.diagnose.checks.run.record import RunRecord, read_run
from stillroom.errors import BadInput
from stillroom.losses.registry import labels_alone
from stillroom.schema.base import read_optional
from stillroom.schema.diagnosis import Verdict
from stillroom.schema.run import SUMMARY, RunSummary

# Evidence of a check that could not judge for want of a run from labels alone; a headline says so.
NEEDS_LABELS = {"needs": "labels alone"}
# Folders next to a run that are looked at, and runs from labels that are read.
_LOOKED_AT, _READ = 200, 8


def with_baselines(run: RunRecord, candidates: Iterable[RunRecord] | None = None) -> RunRecord:
    """A distilled run with the runs of the same student from labels alone: same images, same number of steps.

    Args:
        run: the run; one that is not distilled stays as it is.
        candidates: where to look; left out: the folders next to it, and in a study those of other methods.
    """
    if not run.is_distilled or run.identity is None:
        return run
    found = candidates if candidates is not None else _neighbours(run)
    same = (one for one in found if not one.is_distilled and one.identity == run.identity and one.path != run.path)
    return replace(run, baselines=tuple(islice(same, _READ)))


def _neighbours(run: RunRecord) -> Iterator[RunRecord]:
    parent = run.path.resolve().parent
    folders = [*parent.iterdir()]
    if run.path.resolve().name.startswith("seed-"):
        folders += parent.parent.glob("*/seed-*")
    for folder in sorted(set(folders))[:_LOOKED_AT]:
        if folder == run.path.resolve() or not (folder / SUMMARY).is_file():
            continue
        try:
            summary = read_optional(RunSummary, folder / SUMMARY)
            if summary is not None and not summary.distilled and summary.incremental is None:
                yield read_run(folder)
        except BadInput:  # a neighbour that is damaged says nothing of this run
            continue


def against_labels(run: RunRecord, result: CheckResult, otherwise: Verdict = "ok") -> CheckResult:
    """Hold a verdict that a run alone cannot prove against the same student from labels alone.

    A student of few images under a far better teacher is overfitted, lost classes and still learns, and gains from that
    teacher all the same.

    Args:
        run: the run.
        result: what the run alone shows.
        otherwise: the verdict where the student is not below the one from labels.

    Returns:
        The result where the student is below that one; ``otherwise`` where it is not; ``skipped`` where there is none.
    """
    if not run.is_distilled or result.verdict not in ("problem", "warning"):
        return result
    gap = run.labels_gap
    if gap is None:
        evidence = {**result.evidence, **NEEDS_LABELS}
        return replace(result, verdict="skipped", summary=cannot_tell(run), evidence=evidence, remedy=None)
    count = len(run.baselines)
    of = "the same student from labels alone" + (f", mean of {count} runs" if count > 1 else "")
    evidence = {
        **result.evidence,
        "below_labels_alone": gap.points,
        "below_labels_margin": gap.margin,
        "baselines": count,
    }
    if gap.is_significant:
        return replace(result, summary=f"{result.summary[:-1]}; it is {gap} below {of}.", evidence=evidence)
    side = "below" if gap.points > 0 else "above"
    summary = f"{result.summary[:-1]}; yet it is {gap} {side} {of}, so that this costs nothing that shows."
    return replace(result, verdict=otherwise, summary=summary, evidence=evidence)


def cannot_tell(run: RunRecord) -> str:
    """Why a check is skipped, and the command that would let it judge."""
    if run.recipe.data.labelled == 0:
        return "Cannot tell: no training $image has a label that the same student could learn from alone."
    if run.recipe.data.source == "python":
        command = f"sr.distill(None, student, train, test, …, out={str(run.path) + '-labels'!r})"
    else:
        losses = ", ".join(f"{{name: {term['name']}}}" for term in labels_alone())
        path, out = (run.path / "recipe.yaml").as_posix(), f"{run.path.as_posix().rstrip('/')}-labels"
        command = shlex.join(["stillroom", "train", path, f"losses=[{losses}]", "--out", out])
    return f"Cannot tell without the same student from labels alone; run this, and diagnose again: {command}"
