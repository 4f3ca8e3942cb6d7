"""Whether a study's table can be believed: equal runs, all of them there, enough seeds, a baseline that was tuned."""

from __future__ import annotations

from stillroom.diagnose.finding import Finding, Remedy
from stillroom.schema.study import StudyResults
from stillroom.study.statistics import PLANNING_CAUTION
from stillroom.study.wording import counted, listed

# Student's t with one degree of freedom is 12.7: an interval nine times the spread.
ENOUGH = 3
# Options by which one method may have been tuned by hand.
_HAND_TUNED = ("training.optimizer.", "training.schedule.", "data.batch_size", "training.clip_norm")
_SHOWN = 3


def unequal(study: StudyResults) -> Finding:
    """What keeps the runs from being an equal comparison, as the study itself found."""
    check = "unequal"
    what = list(dict.fromkeys(one.what for one in study.inequalities))
    evidence = {"inequalities": [one.text for one in study.inequalities], "checked": list(study.checked)}
    threshold = (
        "Sick: anything but what the study asks about differs between methods; hashes that the runs left prove it."
    )
    source = "A difference has one cause only where one thing differs."
    if study.equal:
        told = f"The runs were equal: {len(study.checked)} things were checked."
        return Finding(check, "ok", told, evidence, threshold, None, source)
    told = study.inequalities[0].text if study.inequalities else "the results do not say in what"
    more = f", and {len(study.inequalities) - 1} more" if len(study.inequalities) > 1 else ""
    if "reported epoch" in what:
        words = "Report the last epoch of every run: a best one chosen on the test images is partly luck."
    else:
        words = (
            f"Give all methods the same {listed(what or ['terms'])}; where that is what the study asks about, "
            "name it in the study's `allowed_differences`."
        )
    return Finding(
        check, "problem", f"Not an equal comparison: {told}{more}.", evidence, threshold, Remedy(words), source
    )


def failed_runs(study: StudyResults) -> Finding:
    check = "failed_runs"
    planned = len(study.runs) + len(study.missing)
    failed = [one for one in study.missing if one.status == "failed"]
    evidence = {
        "planned": planned,
        "missing": [f"{one.method} on {one.pair}, seed {one.seed}: {one.reason}" for one in study.missing],
    }
    threshold = (
        "Sick: a run failed; suspect: one was not done yet. A seed that fails for one method alone is no accident."
    )
    source = "Runs that fail are the worst of their method; without them its mean is too good."
    if not study.missing:
        return Finding(check, "ok", f"All {planned:,} runs are there.", evidence, threshold, None, source)
    first = (failed or study.missing)[0]
    where = f"{first.method}{f' on {first.pair}' if len(study.model_pairs) > 1 else ''}, seed {first.seed}"
    told = (
        f"{len(study.missing):,} of {planned:,} runs {'is' if len(study.missing) == 1 else 'are'} missing: {where}: "
        f"{first.reason}."
    )
    remedy = Remedy("The same `stillroom compare` tries them again; mend first what their reason names.")
    return Finding(check, "problem" if failed else "warning", told, evidence, threshold, remedy, source)


def too_few_seeds(study: StudyResults) -> Finding:
    check = "too_few_seeds"
    seeds = len(study.seeds)
    open_ones = [
        one for one in study.to_baseline.values() if one.verdict == "undecided" and one.seeds_needed is not None
    ]
    needed = {one.method: one.seeds_needed for one in open_ones}
    evidence = {"seeds": seeds, "undecided": len(open_ones), "seeds_that_would_settle": needed}
    threshold = (
        f"Sick: one seed, which shows no spread; suspect: fewer than {ENOUGH}, where Student's t is 12.7, or a "
        "difference that more seeds would settle with power .8."
    )
    source = PLANNING_CAUTION
    words = "Declare the new number of seeds before looking again, and test the new ones by themselves."
    if len(study.names) < 2:
        return Finding(check, "skipped", "There is one method: nothing is compared.", evidence)
    if seeds == 1:
        told = "One seed: no interval, so nothing can be claimed."
        return Finding(
            check, "problem", told, evidence, threshold, Remedy(f"{words} Three is the least, five is better."), source
        )
    if open_ones:
        least, most = (pick(one.seeds_needed or 0 for one in open_ones) for pick in (min, max))
        about = f"about {least:,}" if least == most else f"about {least:,} to {most:,}"
        names = listed(dict.fromkeys(one.method for one in open_ones))
        told = f"{seeds} seeds leave {names} undecided; {about} in all would settle it."
        return Finding(check, "warning", told, evidence, threshold, Remedy(words), source)
    if seeds < ENOUGH:
        told = f"{seeds} seeds: the interval is nine times their spread."
        return Finding(check, "warning", told, evidence, threshold, Remedy(words), source)
    return Finding(
        check,
        "ok",
        f"{seeds} seeds, and no difference that a known number more would settle.",
        evidence,
        threshold,
        None,
        source,
    )


def baseline_not_tuned(study: StudyResults) -> Finding:
    check, baseline = "baseline_not_tuned", study.baseline
    trials = {
        pair: {name: held.trials for name, held in mine.items()}
        for pair, mine in (study.tuned or {}).items()
        if isinstance(mine, dict)
    }
    by_hand = {
        one.name: [each.key for each in one.differs if each.key.startswith(_HAND_TUNED)]
        for one in study.methods
        if one.name != baseline
    }
    by_hand = {name: keys for name, keys in by_hand.items() if keys}
    evidence = {"trials": trials, "set_by_hand": by_hand}
    threshold = (
        "Sick: others had trials and the baseline fewer; suspect: others have options of their own, and nobody had "
        "trials."
    )
    source = "A method that was tuned beats one that was not, whatever the method."
    if len(study.names) < 2:
        return Finding(check, "skipped", "There is one method: nothing is compared.", evidence)
    for pair, counts in trials.items():
        most = max(counts.values(), default=0)
        mine = counts.get(baseline, 0)
        if mine < most:
            who = next(name for name, count in counts.items() if count == most)
            told = (
                f"{baseline} had {counted(mine, 'trial')}, {who} "
                f"{most:,}{f' (pair {pair})' if len(study.model_pairs) > 1 else ''}."
            )
            words = f"Give {baseline} as many trials: put what is searched in `tuning.space`, which all methods search."
            return Finding(check, "problem", told, evidence, threshold, Remedy(words), source)
    if not trials and by_hand:
        name, keys = next(iter(by_hand.items()))
        told = f"{name} has its own {listed(keys[:_SHOWN])}, {baseline} the recipe's, and nobody had trials."
        words = f"Search the same options for all in `tuning.space`, {baseline} included."
        return Finding(check, "warning", told, evidence, threshold, Remedy(words), source)
    each = next(iter(trials.values()), {}).get(baseline, 0)
    told = (
        f"All had the same {counted(each, 'trial')}."
        if each
        else "Nobody was tuned: all run the recipe as it is written."
    )
    return Finding(check, "ok", told, evidence, threshold, None, source)
