"""The planned contrasts of a study, by pair and between pairs, and their sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillroom.errors import BadInput
from stillroom.files import parse_yaml
from stillroom.schema.base import read_text
from stillroom.study.config import Contrast, Study, StudyMeasure
from stillroom.study.equality import Inequality
from stillroom.study.plan import StudyFolder
from stillroom.study.statistics import PairedComparison, planned_contrasts
from stillroom.study.tables import NOT_EQUAL
from stillroom.wording import counted

SeedValues = Mapping[str, Mapping[int, float]]  # method → {seed: value}
_LATE = "written down after the first run: exploratory"


@dataclass(frozen=True)
class ContrastFinding:
    """A contrast on a pair, or between two, as one of a family."""

    contrast: Contrast
    pair: str | None  # None of one between two pairs
    comparison: PairedComparison
    planned: bool  # whether it stood in the study file before the first run

    def as_dict(self, measure: StudyMeasure) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            **self.contrast.model_dump(mode="json"),
            "pair": self.pair,
            "planned": self.planned,
            "comparison": comparison_facts(self.comparison, measure),
        }

    def sentence(self, measure: StudyMeasure, *, several_pairs: bool) -> str:
        """What was found."""
        one, found = self.comparison, self.comparison.difference
        where = f" on {self.pair}" if self.pair is not None and several_pairs else ""
        head = f"{self.contrast.name}{where}"
        if not self.planned:
            head += f" ({_LATE})"
        sides = f"{one.method} less {one.against}"
        if found is None:
            return f"{head}: {sides}: no seed has both."
        unit = f" {measure.difference}" if measure.difference else ""
        numbers = f"{found.mean:+.{measure.digits}f}{unit}"
        if found.low is None or found.high is None or one.holm_p is None:
            why = "one seed" if found.count == 1 else "no spread between the seeds"
            return f"{head}: {sides}: {numbers} {measure.title}; {why}: no interval, so no claim."
        numbers += f" [{found.low:+.{measure.digits}f}, {found.high:+.{measure.digits}f}] {measure.title}"
        numbers += f", Holm p = {one.holm_p:.3g} over {one.family}, {counted(found.count, 'seed')}"
        if one.no_claim is not None:
            return f"{head}: {sides}: {numbers}: no claim, {one.no_claim}."
        plan = f"; {one.plan.describe()}" if one.plan is not None and not one.decided else ""
        return f"{head}: {sides}: {numbers}: {one.verdict}{plan}."


def comparison_facts(one: PairedComparison, measure: StudyMeasure) -> dict[str, Any]:
    """A comparison as ``results.json`` holds it."""
    return {
        **one.as_dict(),
        "equal": one.no_claim is None,
        "better": measure.better(one.verdict),
        "text": one.describe(measure.digits),
    }


def find_contrasts(
    study: Study, folder: StudyFolder, values: Mapping[str, SeedValues], unequal: Sequence[Inequality]
) -> list[ContrastFinding]:
    """Work out a study's contrasts.

    Those of a pair are one family of Holm's; those between pairs are another.

    Args:
        folder: its ``study.yaml`` tells which contrasts stood there before the first run.
        values: by pair, method → {seed: value}.
        unequal: what keeps runs from being an equal comparison: nothing is claimed of a contrast of theirs.
    """
    begun = _begun_with(folder)
    found: list[ContrastFinding] = []

    def add(asked: Sequence[Contrast], pair: str | None, comparisons: Sequence[PairedComparison]) -> None:
        for contrast, one in zip(asked, comparisons, strict=True):
            pairs = {pair} if pair is not None else {*(contrast.between or ())}
            methods = {*contrast.of, *contrast.less}
            if any(pairs & {*each.pairs} and methods & {*each.methods} for each in unequal):
                one = one.without_claim(NOT_EQUAL)
            planned = begun is None or contrast.model_dump(mode="json") in begun
            found.append(ContrastFinding(contrast, pair, one, planned))

    on_each = [contrast for contrast in study.contrasts if contrast.between is None]
    for pair, mine in values.items():
        add(
            on_each,
            pair,
            planned_contrasts(mine, [(one.of, one.less) for one in on_each], alpha=study.alpha).comparisons,
        )
    between = [contrast for contrast in study.contrasts if contrast.between is not None]
    rows: dict[str, dict[int, float]] = {}
    sides = []
    for contrast in between:
        names = []
        for pair in contrast.between or ():
            (one,) = planned_contrasts(values[pair], [(contrast.of, contrast.less)]).comparisons
            name = f"({one.method} − {one.against}) on {pair}"
            rows[name] = _at_each_seed(values[pair], contrast)
            names.append(name)
        sides.append(((names[0],), (names[1],)))
    if between:
        add(between, None, planned_contrasts(rows, sides, alpha=study.alpha).comparisons)
    return found


def _at_each_seed(values: SeedValues, contrast: Contrast) -> dict[int, float]:
    """A contrast's difference at each seed that all its methods have."""
    names = [*contrast.of, *contrast.less]
    seeds = set.intersection(*(set(values[name]) for name in names))

    def mean(side: Sequence[str], seed: int) -> float:
        return sum(values[name][seed] for name in side) / len(side)

    return {seed: mean(contrast.of, seed) - mean(contrast.less, seed) for seed in sorted(seeds)}


def _begun_with(folder: StudyFolder) -> list[Any] | None:
    """The contrasts of the study file before the first run; None where there is none to read."""
    try:
        content = parse_yaml(read_text(folder.study))
    except (BadInput, OSError, ValueError):
        return None
    return list(content.get("contrasts") or []) if isinstance(content, Mapping) else None
