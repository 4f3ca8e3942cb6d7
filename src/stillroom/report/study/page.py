"""One self-contained HTML page from a study's folder, and the pages of its runs, which share one plotly."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput
from stillroom.files import write_text
from stillroom.report.blocks import PageContext, Tile, Values
from stillroom.report.continual import study_tasks_sections
from stillroom.report.formats import DASH, amount, whole
from stillroom.report.html import plotly_text, rendered, write_page
from stillroom.report.run.data import read_run
from stillroom.report.run.page import render, write_report
from stillroom.report.study.charts import (
    dissection_sections,
    series_styles,
    study_curves,
    sweep_section,
)
from stillroom.report.study.costs import (
    COLUMNS,
    KINDS,
    cost_notes,
    cost_rows,
    first_choice,
    study_costs,
    trade_offs,
)
from stillroom.report.study.table import (
    NAMED,
    PAGE,
    Links,
    contrast_table,
    links,
    matrices,
    pair_tables,
    rank_diagram,
)
from stillroom.report.study.words import headline
from stillroom.schema.base import clean, read_text
from stillroom.schema.run import SUMMARY
from stillroom.schema.study import STUDY, MissingRun, StudyResults, TunedSearch, is_study, read_study
from stillroom.wording import IMAGES, TEXTS, counted

# Three hundred pages that each held it would be 1.4 GB.
PLOTLY = "plotly.js"
# As study.yaml is written; it may be damaged, and the page is written all the same.
_SOURCE = re.compile(r"^ +source: text$", re.MULTILINE)
# With more, those of undecided comparisons are folded.
_MOST_SENTENCES = 12
_HASHES = {
    "init": "Initial weights",
    "order": "Order of $images",
    "views": "Views",
    "budget": "Budget",
    "threads": "Threads",
}


def write_study_report(folder: Path, out: Path | None = None) -> Path:
    """Write one HTML page about a study.

    Rows link to the pages of their runs: call :func:`write_run_pages` before, or the links lead to the run folders.

    Args:
        folder: the study's folder.
        out: the file to write; left out: ``report.html`` in the study's folder.

    Returns:
        The file that was written.

    Raises:
        BadInput: the folder is missing, has no results yet or is damaged, or the page cannot be written.
    """
    target = out if out is not None else folder / PAGE
    return write_page(target, render_study(folder, target))


def render_study(folder: Path, page: Path) -> str:
    """The page as text; the same folder gives the same text."""
    content = study_page(read_study(folder), folder, links(folder, page))
    figures = {chart.key: chart.figure for chart in content.charts}
    return rendered("study.html.j2", figures=figures, unit=content.unit, page=content, study=content.study)


def write_run_pages(folder: Path) -> int:
    """Write the page of every finished run that has none yet.

    They read ``plotly.js`` of the study's folder, and link back to the study's page. A run whose files are damaged or
    gone gets no page and keeps no other from getting theirs; the study's page then links to its folder or says that
    it is gone.
    """
    study = read_study(folder)
    written = 0
    for path in dict.fromkeys(run.run for run in study.runs):
        run = folder / path
        if (run / PAGE).exists() or not (run / SUMMARY).is_file():
            continue
        up = Path(os.path.relpath(folder, run)).as_posix()
        try:
            page = render([read_run(run)], PageContext(study.name, f"{up}/{PAGE}", f"{up}/{PLOTLY}"))
        except BadInput:
            continue
        if not written:
            _write_plotly(folder / PLOTLY)
        write_page(run / PAGE, page)
        written += 1
    return written


def rewrite_run_page(run: Path) -> Path:
    """Write a run's page again, after something was added to its folder."""
    page = run / PAGE
    study = next((folder for folder in run.resolve().parents if is_study(folder)), None)
    if study is None:
        return write_report([run])
    page.unlink(missing_ok=True)
    write_run_pages(study)
    # A run that lies in a study's folder without being one of its runs.
    return page if page.is_file() else write_report([run])


def _write_plotly(path: Path) -> None:
    text = plotly_text()
    try:
        if not path.is_file() or path.stat().st_size != len(text.encode("utf-8")):
            write_text(path, text)
    except OSError as error:
        raise BadInput(PLOTLY, str(path), f"a place that can be written ({error.strerror})") from None


def study_page(study: StudyResults, folder: Path, addresses: Links) -> Values:
    """Work out what the page shows."""
    costs, styles = study_costs(study, folder), series_styles(study)
    weighed = trade_offs(study, costs, styles)
    planned = len(study.runs) + len(study.missing)
    curves, sweep = study_curves(study, folder, styles), sweep_section(study, styles)
    dissections, in_tasks = dissection_sections(folder), study_tasks_sections(study, styles)
    held = [sweep, *dissections, *in_tasks, *(choice for each in weighed for choice in each.choices)]
    to_baseline = study.to_baseline.values()
    text = clean(read_text(folder / STUDY)) if (folder / STUDY).is_file() else None
    return Values(
        study=study,
        headline=headline(study),
        conclusions=_conclusions(study.conclusions),
        text=text,
        unit=IMAGES if text is None or _SOURCE.search(text) is None else TEXTS,
        tiles=_tiles(study, planned),
        absences=_absences(study.missing, several_pairs=len(study.model_pairs) > 1),
        planned=planned,
        removed=tuple(run.run for run in study.runs if not (folder / run.run).is_dir()),
        sweep=sweep,
        dissections=dissections,
        in_tasks=in_tasks,
        contrasts=contrast_table(study),
        tables=pair_tables(study, addresses),
        styles=styles,
        trade_offs=weighed,
        first_cost=first_choice(weighed),
        curves=curves,
        diagram=rank_diagram(study.ranks),
        matrices=matrices(study),
        is_named=len(study.names) <= NAMED,
        tuned=_tuned(study),
        calibrated=_calibrated(study),
        proofs=_proofs(study),
        hashes=tuple(_HASHES.values()),
        costs=costs,
        cost_kinds=tuple((kind.key, kind.title) for kind in KINDS),
        cost_columns=tuple(title for title, _, _ in COLUMNS),
        cost_rows=cost_rows(study, costs),
        cost_notes=cost_notes(study, costs),
        files=addresses.files(),
        several=len(study.model_pairs) > 1,
        # There was something to be equal, and it was.
        is_proved=study.equal and bool(study.runs) and len(study.methods) > 1,
        has_undecided=any(each.verdict == "undecided" for each in to_baseline),
        # Some number of seeds is shown, which needs a caution.
        has_plans=any(each.plan is not None and each.plan.seeds is not None for each in to_baseline),
        charts=[*curves.charts, *(each.chart for each in held if each is not None and each.chart is not None)],
    )


def _conclusions(sentences: tuple[str, ...]) -> Values:
    """The sentences that are shown at once, and those that are folded: of many comparisons the undecided ones."""
    folded = tuple(each for each in sentences if "o difference is shown between" in each)
    if len(sentences) <= _MOST_SENTENCES or len(folded) < 2:
        return Values(shown=sentences, folded=())
    return Values(shown=tuple(each for each in sentences if each not in folded), folded=folded)


def _tiles(study: StudyResults, planned: int) -> tuple[Tile, ...]:
    seeds = ", ".join(map(str, study.seeds))
    pairs = [pair.name for pair in study.model_pairs]
    done = "all finished" if not study.missing else f"of {whole(planned)} finished"
    rows = (
        ("method", len(study.names), f"against {study.baseline}" if len(study.names) > 1 else study.baseline),
        ("pair", len(pairs), ", ".join(pairs)),
        ("seed", len(study.seeds), f"{seeds}: fixed beforehand"),
        ("run", len(study.runs), f"{done}; {_budget(study)}"),
    )
    return tuple(Tile(whole(count), what if count == 1 else f"{what}s", detail) for what, count, detail in rows)


def _budget(study: StudyResults) -> str:
    """The length of each run, in words."""
    held = study.budget
    if held is None:
        return "the recipe’s own length"
    lengths = {"epoch": held.epochs, "step": held.steps, "second": held.seconds}
    for what, value in lengths.items():
        if value is not None:
            return f"{counted(int(value), what) if value == int(value) else f'{value:g} {what}s'} a run"
    return "the recipe’s own length"


def _absences(missing: tuple[MissingRun, ...], *, several_pairs: bool) -> tuple[Values, ...]:
    """The missing runs by reason: what failed first, then what waits for its turn."""
    by_reason: dict[tuple[bool, str], dict[str, list[int]]] = {}
    for each in missing:
        where = f"{each.method} on {each.pair}" if several_pairs else each.method
        by_reason.setdefault((each.status == "waiting", each.reason), {}).setdefault(where, []).append(each.seed)
    ordered = sorted(by_reason.items(), key=lambda item: item[0][0])
    return tuple(
        Values(
            reason=reason,
            runs=tuple(f"{name}, seed{'s' * (len(s) > 1)} {', '.join(map(str, s))}" for name, s in held.items()),
        )
        for (_, reason), held in ordered
    )


def _tuned(study: StudyResults) -> tuple[Values, ...]:
    """What trials chose, in the order of pairs and methods."""
    return tuple(
        _tuned_row(pair.name, label, search, held.measure, study.measure.digits)
        for pair in study.model_pairs
        for name in study.names
        if (held := (study.tuned or {}).get(pair.name, {}).get(name)) is not None
        for label, search in (
            [(f"{name}, seed {seed}", each) for seed, each in held.seeds.items()] if held.seeds else [(name, held)]
        )
    )


def _tuned_row(pair: str, name: str, held: TunedSearch, measure: str, digits: int) -> Values:
    keys = tuple(dict.fromkeys([*held.values, *(key for trial in held.all for key in trial.values)]))
    # Of a trial that was continued, the whole of it.
    best = max((place for place, trial in enumerate(held.all) if trial.values == held.values), default=None)
    return Values(
        pair=pair,
        name=name,
        measure=measure,
        keys=keys,
        chosen=tuple((key, _text(value)) for key, value in held.values.items()),
        value=amount(held.value, digits),
        trials=tuple(
            Values(
                number=trial.number if trial.continues is None else f"{trial.number}, from {trial.continues}",
                values=tuple(_text(trial.values[key]) if key in trial.values else DASH for key in keys),
                value=amount(trial.value, digits),
                sort="" if trial.value is None else repr(trial.value),
                is_chosen=place == best,
            )
            for place, trial in enumerate(held.all)
        ),
    )


def _text(value: Any) -> str:
    """A recipe's value as short text.

    >>> _text(0.0012345), _text("cosine"), _text([1, 2]), _text(None)
    ('0.0012345', 'cosine', '[1, 2]', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _calibrated(study: StudyResults) -> tuple[tuple[str, str, str], ...]:
    """Pair, method and the steps that a budget in seconds came to."""
    held = study.calibration.pairs if study.calibration is not None else {}
    return tuple(
        (pair.name, name, whole(found.steps))
        for pair in study.model_pairs
        for name in study.names
        if (found := held.get(pair.name, {}).get(name)) is not None
    )


def _proofs(study: StudyResults) -> tuple[Values, ...]:
    """A line for each seed of each pair that has a finished run."""
    found = []
    for pair in study.model_pairs:
        for seed in sorted({run.seed for run in study.runs if run.pair == pair.name}):
            runs = [run for run in study.runs if (run.pair, run.seed) == (pair.name, seed)]
            cells = []
            for key in _HASHES:
                held: dict[str, list[str]] = {}
                for run in runs:
                    held.setdefault(getattr(run.hashes, key), []).append(run.method)
                cells.append(tuple((value, tuple(names)) for value, names in held.items()))
            found.append(Values(pair=pair.name, seed=seed, runs=len(runs), cells=tuple(cells)))
    return tuple(found)
