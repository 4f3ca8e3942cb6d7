"""What a study shows, in a sentence: which method leads, and whether its seeds decide that."""

from __future__ import annotations

from stillroom.report.formats import amount
from stillroom.schema.study import CellResult, StudyResults
from stillroom.wording import counted, listed


def headline(study: StudyResults) -> str:
    """Who leads on each pair, and whether that is decided by the table's verdicts."""
    if not study.equal:
        return "No method is said to lead: the runs were not equal."
    leads = {pair.name: lead for pair in study.model_pairs if (lead := _leaders(study, pair.name))}
    if not leads:
        return "Nothing can be compared yet: no run has a result."
    if len(study.names) == 1:
        return _alone(study, leads)
    if len(study.model_pairs) == 1:
        return _of_pair(study, *next(iter(leads.items())))
    by_leader: dict[tuple[str, ...], list[str]] = {}
    for pair, cells in leads.items():
        by_leader.setdefault(tuple(cell.method for cell in cells), []).append(pair)
    parts: list[str] = []
    for names, pairs in by_leader.items():
        decided = [pair for pair in pairs if _is_decided(study, leads[pair])]
        where = f"all {len(pairs)} pairs" if len(pairs) == len(study.model_pairs) else _some(pairs, "pair")
        how = "" if len(decided) == len(pairs) else f" on {_some(decided, 'pair')}" if decided else " on none"
        verb = ("" if parts else " leads") if len(names) == 1 else " share the lead"
        parts.append(f"{listed(names)}{verb} on {where} (decided{how})")
    return f"By the mean, {'; '.join(parts)}."


def _of_pair(study: StudyResults, pair: str, cells: tuple[CellResult, ...]) -> str:
    best = cells[0]
    level = f"{amount(best.mean, study.measure.digits)}{_unit(study)} {study.measure.title}"
    if len(cells) > 1:
        return f"{listed(cell.method for cell in cells)} share the lead with {level}: the same mean."
    others = [study.to_baseline.get((pair, name)) for name in study.names if name != study.baseline]
    if best.method == study.baseline:
        worse = [one.method for one in others if one is not None and one.better is False]
        rest = len(study.names) - 1 - len(worse)
        first = f"No method beats {study.baseline}, the baseline, with {level}"
        if not worse:
            return f"{first}; none differs from it significantly."
        rest_words = f", {counted(rest, 'method')} not significantly different from it" if rest else ""
        return f"{first}: {_some(worse, 'method')} {'is' if len(worse) == 1 else 'are'} worse{rest_words}."
    found = study.to_baseline.get((pair, best.method))
    if found is None or found.mean is None:
        return f"{best.method} leads with {level}; it has no seed in common with {study.baseline}."
    sign = "above" if found.mean > 0 else "below"
    gap = f"{amount(abs(found.mean), study.measure.digits)}{study.measure.points} {sign} {study.baseline}"
    seeds = counted(found.count, "seed")
    if found.verdict == "undecided":
        do = "does" if found.count == 1 else "do"
        return f"{best.method} leads with {level}, {gap}, but {seeds} {do} not decide it."
    level_with = _undecided_rivals(study, pair, best.method)
    tail = f"; it does not differ significantly from {listed(level_with)}" if level_with else ""
    return f"{best.method} leads with {level}: {gap}, decided with {seeds}{tail}."


def _alone(study: StudyResults, leads: dict[str, tuple[CellResult, ...]]) -> str:
    found = [
        f"{amount(cells[0].mean, study.measure.digits)}{_unit(study)}" + (f" on {pair}" if len(leads) > 1 else "")
        for pair, cells in leads.items()
    ]
    return (
        f"{study.names[0]} reaches {listed(found)} {study.measure.title}; there is no other method to compare it with."
    )


def _leaders(study: StudyResults, pair: str) -> tuple[CellResult, ...]:
    """The methods of the best mean on a pair: one, or several of the same."""
    cells = [cell for name in study.names if (cell := study.cells.get((pair, name))) and cell.mean is not None]
    means = [cell.mean for cell in cells if cell.mean is not None]
    if not means:
        return ()
    best = max(means) if study.measure.higher_is_better else min(means)
    return tuple(cell for cell in cells if cell.mean == best)


def _is_decided(study: StudyResults, cells: tuple[CellResult, ...]) -> bool:
    """Whether the leader differs from the baseline; a baseline that leads, from every other method."""
    if len(cells) > 1:
        return False
    pair, leader = cells[0].pair, cells[0].method
    if leader != study.baseline:
        found = study.to_baseline.get((pair, leader))
        return found is not None and found.verdict != "undecided"
    others = [study.to_baseline.get((pair, name)) for name in study.names if name != leader]
    return all(one is not None and one.better is False for one in others)


def _undecided_rivals(study: StudyResults, pair: str, leader: str) -> list[str]:
    """The methods other than the baseline that every comparison with the leader leaves undecided."""
    open_pairs = [
        {one.method, one.against}
        for one in study.between.get(pair, ())
        if leader in (one.method, one.against) and one.verdict == "undecided"
    ]
    return [name for name in study.names if name not in (leader, study.baseline) and {name, leader} in open_pairs]


def _some(names: list[str], what: str) -> str:
    return listed(names) if len(names) <= 3 else counted(len(names), what)


def _unit(study: StudyResults) -> str:
    return "%" if study.measure.unit == "%" else f" {study.measure.unit}" if study.measure.unit else ""
