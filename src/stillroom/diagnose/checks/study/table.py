"""Checks of a study's table: equal runs, all of them finished, enough seeds, a tuned baseline."""

from __future__ import annotations

from stillroom.diagnose.check import CheckResult, check
from stillroom.schema.diagnosis import Remedy
from stillroom.schema.study import StudyResults
from stillroom.study.statistics import PLANNING_CAUTION
from stillroom.wording import counted, listed

# Student's t with one degree of freedom is 12.7: with two seeds an interval is nine times the spread.
ENOUGH = 3
# Options by which one method may have been tuned by hand.
_HAND_TUNED = ("training.optimizer.", "training.schedule.", "data.batch_size", "training.clip_norm")
_SHOWN = 3


@check(
    threshold=(
        "Problem: methods differ in something that the study does not compare, by the hashes that the runs wrote."
    ),
    source="A difference can be attributed only if methods differ in one thing.",
    problem="Not an equal comparison",
    title="Equality of the runs",
)
def unequal(study: StudyResults) -> CheckResult:
    """Whether the runs are an equal comparison, as the study itself found."""
    what = list(dict.fromkeys(one.what for one in study.inequalities))
    evidence = {"inequalities": [one.text for one in study.inequalities], "checked": list(study.checked)}
    if study.equal:
        return CheckResult("ok", f"The runs were equal: {len(study.checked)} things were checked.", evidence)
    first = study.inequalities[0].text if study.inequalities else "the results do not say in what"
    more = f", and {len(study.inequalities) - 1} more" if len(study.inequalities) > 1 else ""
    words = (
        f"Give all methods the same {listed(what or ['terms'])}; if the study compares exactly that, name it in the "
        "study's `allowed_differences`."
    )
    if "reported epoch" in what:
        words = "Report the last epoch of every run: the best epoch on the test $images is biased upwards."
    return CheckResult("problem", f"Not an equal comparison: {first}{more}.", evidence, Remedy(words))


@check(
    threshold=(
        "Problem: a run failed; warning: a run is not finished. A seed that fails for one method alone is not chance."
    ),
    source="Failed runs are the worst of their method; without them its mean is too good.",
    problem="Missing runs",
    title="Missing runs",
)
def failed_runs(study: StudyResults) -> CheckResult:
    """Whether all planned runs have finished."""
    planned = len(study.runs) + len(study.missing)
    failed = [one for one in study.missing if one.status == "failed"]
    evidence = {
        "planned": planned,
        "missing": [f"{one.method} on {one.pair}, seed {one.seed}: {one.reason}" for one in study.missing],
    }
    if not study.missing:
        return CheckResult("ok", f"All {planned:,} runs are finished.", evidence)
    first = (failed or study.missing)[0]
    where = f"{first.method}{f' on {first.pair}' if len(study.model_pairs) > 1 else ''}, seed {first.seed}"
    are = "is" if len(study.missing) == 1 else "are"
    summary = f"{len(study.missing):,} of {planned:,} runs {are} missing: {where}: {first.reason}."
    remedy = Remedy("The same `stillroom compare` retries them; first fix the named reason.")
    return CheckResult("problem" if failed else "warning", summary, evidence, remedy)


@check(
    threshold=(
        f"Problem: one seed, which shows no spread; warning: fewer than {ENOUGH}, where Student's t is 12.7, or a "
        "difference that more seeds would decide with power .8."
    ),
    source=PLANNING_CAUTION,
    problem="Too few seeds",
    title="Number of seeds",
)
def too_few_seeds(study: StudyResults) -> CheckResult:
    """Whether there are enough seeds to decide what is compared."""
    seeds = len(study.seeds)
    undecided = [
        one for one in study.to_baseline.values() if one.verdict == "undecided" and one.seeds_needed is not None
    ]
    evidence = {
        "seeds": seeds,
        "undecided": len(undecided),
        "seeds_that_would_settle": {one.method: one.seeds_needed for one in undecided},
    }
    words = "Declare the new number of seeds before testing again, and test the new ones separately."
    if len(study.names) < 2:
        return CheckResult("skipped", "There is one method: nothing is compared.", evidence)
    if seeds == 1:
        remedy = Remedy(f"{words} Three is the least, five is better.")
        return CheckResult("problem", "One seed: no interval, so nothing can be claimed.", evidence, remedy)
    if undecided:
        least, most = (pick(one.seeds_needed or 0 for one in undecided) for pick in (min, max))
        about = f"about {least:,}" if least == most else f"about {least:,} to {most:,}"
        names = listed(dict.fromkeys(one.method for one in undecided))
        summary = f"{seeds} seeds leave {names} undecided; {about} in all would settle it."
        return CheckResult("warning", summary, evidence, Remedy(words))
    if seeds < ENOUGH:
        return CheckResult(
            "warning", f"{seeds} seeds: the interval is nine times their spread.", evidence, Remedy(words)
        )
    summary = f"{seeds} seeds, and no difference that a known number more would settle."
    return CheckResult("ok", summary, evidence)


@check(
    threshold=(
        "Problem: others had trials and the baseline fewer; warning: others have options of their own, and no method "
        "had trials."
    ),
    source="Tuning alone can make any method beat an untuned one.",
    problem="Untuned baseline",
    title="Tuning",
)
def baseline_not_tuned(study: StudyResults) -> CheckResult:
    """Whether the baseline was tuned as much as the others."""
    baseline = study.baseline
    trials = {
        pair: {name: held.trials for name, held in mine.items()}
        for pair, mine in (study.tuned or {}).items()
        if isinstance(mine, dict)
    }
    by_hand = {
        one.name: keys
        for one in study.methods
        if one.name != baseline and (keys := [each.key for each in one.differs if each.key.startswith(_HAND_TUNED)])
    }
    evidence = {"trials": trials, "set_by_hand": by_hand}
    # Where one method's trials choose for all, its are the baseline's, too.
    by = study.tuning.by if study.tuning is not None else None
    if len(study.names) < 2:
        return CheckResult("skipped", "There is one method: nothing is compared.", evidence)
    for pair, counts in trials.items():
        most = max(counts.values(), default=0)
        mine = counts.get(by if by in counts else baseline, 0)
        if mine < most:
            other = next(name for name, count in counts.items() if count == most)
            where = f" (pair {pair})" if len(study.model_pairs) > 1 else ""
            words = f"Give {baseline} as many trials: put what is searched in `tuning.space`, which all methods search."
            summary = f"{baseline} had {counted(mine, 'trial')}, {other} {most:,}{where}."
            return CheckResult("problem", summary, evidence, Remedy(words))
    if not trials and by_hand:
        name, keys = next(iter(by_hand.items()))
        summary = f"{name} has its own {listed(keys[:_SHOWN])}, {baseline} the recipe's, and no method had trials."
        words = f"Search the same options for all in `tuning.space`, {baseline} included."
        return CheckResult("warning", summary, evidence, Remedy(words))
    each = next(iter(trials.values()), {}).get(by or baseline, 0)
    summary = "No method was tuned: all run the recipe unchanged."
    if each:
        summary = f"All had the same {counted(each, 'trial')}."
    return CheckResult("ok", summary, evidence)
