"""Tables of a study: results as CSV, LaTeX and rows for a terminal; costs as CSV, apart, as no two machines agree."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from stillroom.schema.base import read_optional
from stillroom.schema.run import TimingEvent, read_timing
from stillroom.schema.study import COST_COLUMNS, CachesFile
from stillroom.study.config import MEASURES, StudyMeasure
from stillroom.study.plan import StudyFolder, StudyPlan
from stillroom.wording import counted, listed

Results = Mapping[str, Any]

NOT_EQUAL = "not equal"
_FIGURES = ("top1", "correct", "count", "top5", "nll", "ece", "agreement", "teacher_kl")
_SIZES = ("steps", "epochs", "parameters", "multiply_adds", "bytes")
_HASHES = ("init", "order", "views", "budget", "threads")
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t")
_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": r"{[}",
    "]": r"{]}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
}


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV as RFC 4180 quotes it, but for lines that end in a line feed; nothing is an empty field.

    Numbers read back as they are; text that a spreadsheet would compute gets a ``'`` before it.

    >>> csv_text(["a", "b"], [[0.1, "=1+1"], [None, 'say "x", y']])
    'a,b\\n0.1,\\'=1+1\\n,"say ""x"", y"\\n'
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_field(value) for value in row] for row in rows)
    return out.getvalue()


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value).replace("\r", " ")
    return f"'{text}" if text.startswith(_FORMULA) else text


def runs_csv(results: Results) -> str:
    """``runs.csv``: a line for each run of the plan, those that are missing with the reason."""
    # Where no run has any, there are no columns of them.
    own = [name for name in MEASURES if name not in _FIGURES and any(name in run for run in results["runs"])]
    figures = [*_FIGURES, *own, *_SIZES]
    header = ["pair", "method", "seed", *figures, *(f"{name}_hash" for name in _HASHES), "run", "missing"]
    rows = {}
    for run in results["runs"]:
        hashes = [run["hashes"][name] for name in _HASHES]
        rows[_place(run)] = [*_place(run), *(run.get(name) for name in figures), *hashes, run["run"], None]
    for gap in results["missing"]:
        empty = [None] * (len(figures) + len(_HASHES) + 1)
        rows[_place(gap)] = [*_place(gap), *empty, gap["reason"]]
    return csv_text(header, [rows[place] for place in _planned(results) if place in rows])


def table_csv(results: Results) -> str:
    """``table.csv``: a line for each pair and method, with its difference to the baseline and if they are equal."""
    header = ["pair", "method", "measure", "count", "mean", "low", "high", "sd", "equal"]
    header += ["difference", "difference_low", "difference_high", "p", "holm_p", "verdict", "note"]
    rows = []
    for cell in results["cells"]:
        one = comparison_of(results, cell["pair"], cell["method"])
        found = (one or {}).get("difference") or {}
        rows.append(
            [
                *(cell[name] for name in ("pair", "method")),
                results["measure"]["name"],
                *(cell[name] for name in ("count", "mean", "low", "high", "sd")),
                on_equal_terms(results, cell["pair"], cell["method"]),
                *(found.get(name) for name in ("mean", "low", "high", "p")),
                *(one["holm_p"] if one else None, _claim(one) if one else None),
                cell["why"],
            ]
        )
    return csv_text(header, rows)


def comparisons_csv(results: Results) -> str:
    """``comparisons.csv``: every paired difference: to the baseline, between all, and the planned contrasts."""
    header = ["pair", "family", "method", "against", "count", "difference", "low", "high", "sd", "d_z", "p"]
    header += ["comparisons", "holm_p", "family_low", "family_high", "equal", "verdict", "better", "seeds_to_settle"]
    header += ["text"]
    every = [
        (family["pair"], kind, one)
        for family in results["families"]
        for kind in ("baseline", "all")
        for one in family[kind]["comparisons"]
    ]
    every += [
        (one["pair"] or " − ".join(one["between"]), f"contrast {one['name']}", one["comparison"])
        for one in results.get("contrasts", ())
    ]
    rows = []
    for pair, kind, one in every:
        found, plan = one["difference"] or {}, one["plan"] or {}
        rows.append(
            [
                *(pair, kind, one["method"], one["against"]),
                *(found.get(name) for name in ("count", "mean", "low", "high", "sd", "effect", "p")),
                *(one[name] for name in ("family", "holm_p", "family_low", "family_high", "equal")),
                *(_claim(one), one["better"], plan.get("seeds")),
                one["text"],
            ]
        )
    return csv_text(header, rows)


def _claim(one: Mapping[str, Any]) -> str:
    return str(one["verdict"]) if one["equal"] else f"no claim: {NOT_EQUAL}"


def comparison_of(results: Results, pair: str, method: str) -> dict[str, Any] | None:
    """A method's comparison with the baseline on a pair; None of the baseline itself."""
    for family in results["families"]:
        if family["pair"] == pair:
            for one in family["baseline"]["comparisons"]:
                if one["method"] == method:
                    return dict(one)
    return None


def terminal_table(results: Results) -> list[list[str]]:
    """The table for a terminal: a header, then a row for each pair and method, pair and method first."""
    measure = MEASURES[results["measure"]["name"]]
    rows = [["pair", "method", measure.header, f"less {results['baseline']}", "Holm p", "verdict"]]
    for cell in results["cells"]:
        one = comparison_of(results, cell["pair"], cell["method"])
        difference, p = _difference(one, measure)
        rows.append([cell["pair"], cell["method"], _mean(cell, measure), difference, p, _verdict(results, cell, one)])
    return rows


def _mean(cell: Mapping[str, Any], measure: StudyMeasure) -> str:
    if cell["mean"] is None:
        return "–"
    mean = f"{cell['mean']:.{measure.digits}f}"
    if cell["low"] is None:
        return mean
    return f"{mean} [{cell['low']:.{measure.digits}f}, {cell['high']:.{measure.digits}f}]"


def _difference(one: Mapping[str, Any] | None, measure: StudyMeasure) -> tuple[str, str]:
    found = (one or {}).get("difference")
    if one is None or found is None:
        return "–", "–"
    mean = f"{found['mean']:+.{measure.digits}f}"
    if found["low"] is None:
        return mean, "–"
    shown = f"{mean} [{found['low']:+.{measure.digits}f}, {found['high']:+.{measure.digits}f}]"
    return shown, "–" if one["holm_p"] is None else f"{one['holm_p']:.3g}"


def _verdict(results: Results, cell: Mapping[str, Any], one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "baseline" if cell["equal"] else "baseline, not equal"
    if not on_equal_terms(results, cell["pair"], cell["method"]):
        return f"no claim: {NOT_EQUAL}"
    found = one["difference"]
    if found is None:
        return "nothing to compare"
    if found["count"] == 1:
        return "no claim: one seed"
    if one["better"] is None:
        return str(one["verdict"])
    return f"{one['verdict']}: {'better' if one['better'] else 'worse'}"


def on_equal_terms(results: Results, pair: str, method: str) -> bool:
    """Whether a method and the baseline were equal on a pair, so that their difference may be claimed."""
    both = (method, results["baseline"])
    return all(cell["equal"] for cell in results["cells"] if cell["pair"] == pair and cell["method"] in both)


def tex(text: str) -> str:
    """Text as LaTeX prints it.

    >>> tex("a_b & 50%")
    'a\\\\_b \\\\& 50\\\\%'
    """
    return "".join(_TEX.get(character, character) for character in text)


def table_tex(results: Results) -> str:
    """``table.tex``: a booktabs table, methods as rows and pairs as groups of columns; no winner is set in bold."""
    measure = MEASURES[results["measure"]["name"]]
    pairs = [pair["name"] for pair in results["model_pairs"]]
    cells = {(cell["pair"], cell["method"]): cell for cell in results["cells"]}
    groups = " & ".join(rf"\multicolumn{{2}}{{c}}{{{tex(pair)}}}" for pair in pairs)
    rules = " ".join(rf"\cmidrule(lr){{{2 * k + 2}-{2 * k + 3}}}" for k in range(len(pairs)))
    columns = " & ".join([rf"{tex(measure.header)} & $\Delta$"] * len(pairs))
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_caption(results, measure)}}}",
        f"  \\label{{tab:{results['name']}}}",
        f"  \\begin{{tabular}}{{l{'rr' * len(pairs)}}}",
        r"    \toprule",
        rf"    & {groups} \\",
        f"    {rules}",
        rf"    Method & {columns} \\",
        r"    \midrule",
    ]
    for method in results["methods"]:
        name = method["name"]
        row = [tex(name)]
        for pair in pairs:
            row += [_tex_mean(cells[pair, name], measure), _tex_difference(results, pair, name, measure)]
        lines.append(rf"    {' & '.join(row)} \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _caption(results: Results, measure: StudyMeasure) -> str:
    seeds, level = len(results["seeds"]), f"{100 * results['level']:g}%"
    name, count = results["baseline"], len(results["methods"]) - 1
    parts = [f"{results['question']} " if results["question"] else ""]
    better = "higher" if measure.higher_is_better else "lower"
    parts.append(f"{measure.header[0].upper()}{measure.header[1:]}, {better} is better: mean over ")
    parts.append(counted(seeds, "seed"))
    said = tex("".join(parts))
    if seeds > 1:
        said += rf" $\pm$ half of its {tex(level)} interval"
    said += rf", after the last epoch; $\Delta$: paired difference to {tex(name)}."
    if seeds > 1 and count > 0:
        test = f"Holm's correction over {counted(count, 'comparison')} on each pair at {results['alpha']:g}"
        said += rf" $^{{\ast}}$: decided by a paired t test with {tex(test)}."
    if not results["equal"]:
        what = listed(dict.fromkeys(one["what"] for one in results["inequalities"]))
        said += rf" $^{{\dagger}}$: not equal to the others in {tex(what)}; no claim is made of it."
    if results["missing"]:
        said += f" Not complete: {counted(len(results['missing']), 'run')} missing."
    return said


def _tex_mean(cell: Mapping[str, Any], measure: StudyMeasure) -> str:
    mark = "" if cell["equal"] else r"^{\dagger}"
    if cell["mean"] is None:
        return f"--${mark}$" if mark else "--"
    half = "" if cell["low"] is None else rf" \pm {(cell['high'] - cell['low']) / 2:.{measure.digits}f}"
    return f"${cell['mean']:.{measure.digits}f}{half}{mark}$"


def _tex_difference(results: Results, pair: str, method: str, measure: StudyMeasure) -> str:
    one = comparison_of(results, pair, method)
    if one is None or one["difference"] is None:
        return "--"
    mark = r"^{\ast}" if one["better"] is not None and on_equal_terms(results, pair, method) else ""
    return f"${one['difference']['mean']:+.{measure.digits}f}{mark}$"


def _place(entry: Mapping[str, Any]) -> tuple[str, str, int]:
    return entry["pair"], entry["method"], entry["seed"]


def _planned(results: Results) -> list[tuple[str, str, int]]:
    return [
        (pair["name"], method["name"], seed)
        for pair in results["model_pairs"]
        for method in results["methods"]
        for seed in results["seeds"]
    ]


# -- costs


def cost_table(folder: StudyFolder, plan: StudyPlan) -> str:
    """``cost.csv``: a line for each run that was begun, each trial, each pair's cache and each teacher trained.

    Raises:
        BadInput: ``caches.json`` is damaged.
    """
    return csv_text(COST_COLUMNS, [[row.get(column) for column in COST_COLUMNS] for row in _cost_rows(folder, plan)])


def cost_of(path: Path) -> dict[str, Any]:
    """What a run cost, from its ``timing.jsonl``; empty where the file has nothing.

    Returns:
        ``training_seconds`` (summed over resumes, without evaluations and without what a kill lost),
        ``evaluation_seconds``, ``teacher_answers`` (images that the teacher was asked about), ``peak_memory_mb``,
        ``images_per_second`` (the median), ``cache_seconds``.
    """
    events = read_timing(path / "timing.jsonl")
    if not events:
        return {}
    kinds = {
        kind: [one for one in events if one.event == kind] for kind in ("progress", "teacher", "cache", "evaluation")
    }
    # A run that asked nothing says 0; one that does not say is known by its caches alone.
    if kinds["teacher"]:
        asked = sum(one.answers or 0 for one in kinds["teacher"])
    else:
        asked = sum(one.images or 0 for one in kinds["cache"])
    rates = [one.images_per_second for one in kinds["progress"] if one.images_per_second is not None]
    memory = [one.peak_memory_mb for one in kinds["progress"] if one.peak_memory_mb is not None]
    return {
        "training_seconds": _training_seconds(events),
        "evaluation_seconds": round(sum(one.seconds or 0.0 for one in kinds["evaluation"]), 4),
        "teacher_answers": asked,
        "peak_memory_mb": max(memory, default=None),
        "images_per_second": round(median(rates), 1) if rates else None,
        "cache_seconds": round(sum(one.seconds or 0.0 for one in kinds["cache"]), 4),
    }


def _cost_rows(folder: StudyFolder, plan: StudyPlan) -> Iterator[dict[str, Any]]:
    for run in plan.runs:
        cost = cost_of(folder.run(run.pair, run.method, run.seed))
        if cost:
            yield {"kind": "run", "pair": run.pair, "method": run.method, "seed": run.seed, **cost}
    for pair in plan.study.all_pairs:
        for method in plan.study.methods:
            for seed in (None, *plan.study.seeds):
                trials = folder.trial(pair.name, method.name, 0, seed).parent.glob("trial-*")
                numbers = (path.name.removeprefix("trial-") for path in trials)
                whose = {"pair": pair.name, "method": method.name} | ({} if seed is None else {"seed": seed})
                for number in sorted(int(number) for number in numbers if number.isdecimal()):
                    cost = cost_of(folder.trial(pair.name, method.name, number, seed))
                    yield {"kind": "trial", **whose, "trial": number, **cost}
    caches = read_optional(CachesFile, folder.caches)
    for name, built in sorted(caches.pairs.items()) if caches is not None else ():
        yield {"kind": "cache", "pair": name, "teacher_answers": built.answers, "cache_seconds": built.seconds}
    for teacher in plan.study.teachers:
        cost = cost_of(folder.teacher(teacher.name))
        if cost:
            yield {"kind": "teacher", "method": teacher.name, **cost}


def _training_seconds(events: Sequence[TimingEvent]) -> float:
    """The last clock of each start, the evaluations before it taken off.

    The clock of a resumed run, and of the next task, begins anew, and says so or runs backwards.
    """
    total = last = before = evaluated = 0.0
    for one in events:
        seconds = one.seconds or 0.0
        if one.event == "evaluation":
            evaluated += seconds
        elif one.event in ("resume", "task") or (one.event == "progress" and seconds < last):
            total, last, before, evaluated = total + last - before, 0.0, 0.0, 0.0
        if one.event == "progress":
            last, before = seconds, evaluated
    return round(max(total + last - before, 0.0), 4)
