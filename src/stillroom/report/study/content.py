"""Everything the study's page shows, worked out before any HTML: the templates only lay it out."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.report.content import Tile
from stillroom.report.continual import PairTasksSection, study_tasks_sections
from stillroom.report.figures import Chart
from stillroom.report.formats import whole
from stillroom.report.study import proof
from stillroom.report.study.costs import COLUMNS, CostRow, Costs, cost_notes, cost_rows, read_costs
from stillroom.report.study.curves import Curves, curves
from stillroom.report.study.diagram import Diagram, diagram
from stillroom.report.study.dissection import Dissected, dissections
from stillroom.report.study.links import Links
from stillroom.report.study.looks import Look, looks
from stillroom.report.study.matrix import NAMED, Matrix, matrices
from stillroom.report.study.model import Study
from stillroom.report.study.sweep import Sweep, sweep
from stillroom.report.study.table import Table, tables
from stillroom.report.study.tradeoff import TradeOff, first_choice, trade_offs

_COUNTED = ("method", "pair", "seed", "run")


@dataclass(frozen=True)
class Content:
    """What the templates lay out."""

    study: Study
    tiles: tuple[Tile, ...]
    absences: tuple[proof.Absent, ...]
    planned: int
    removed: tuple[str, ...]
    sweep: Sweep | None
    dissections: tuple[Dissected, ...]
    in_tasks: tuple[PairTasksSection, ...]
    tables: tuple[Table, ...]
    looks: dict[str, Look]
    trade_offs: tuple[TradeOff, ...]
    first_cost: str
    curves: Curves
    diagram: Diagram | None
    matrices: tuple[Matrix, ...]
    is_named: bool
    tuned: tuple[proof.Tuned, ...]
    calibrated: tuple[tuple[str, str, str], ...]
    proofs: tuple[proof.Proof, ...]
    hashes: tuple[str, ...]
    costs: Costs
    cost_columns: tuple[str, ...]
    cost_rows: tuple[CostRow, ...]
    cost_notes: tuple[str, ...]
    files: tuple[tuple[str, str, str], ...]

    @property
    def several(self) -> bool:
        """Whether there are several pairs."""
        return len(self.study.pairs) > 1

    @property
    def is_proved(self) -> bool:
        """Whether there was something to be equal, and it was."""
        return self.study.equal and bool(self.study.runs) and len(self.study.methods) > 1

    @property
    def has_undecided(self) -> bool:
        """Whether a comparison with the baseline is undecided."""
        return any(each.verdict == "undecided" for each in self.study.to_baseline.values())

    @property
    def has_plans(self) -> bool:
        """Whether some number of seeds is told, beside which a caution belongs."""
        return any(each.seeds is not None for each in self.study.to_baseline.values())

    @property
    def charts(self) -> list[Chart]:
        """Every plot of the page."""
        plots = [choice.chart for each in self.trade_offs for choice in each.choices]
        first = [self.sweep.chart] if self.sweep is not None else []
        first += [each.chart for each in self.dissections if each.chart is not None]
        first += [each.chart for each in self.in_tasks]
        return [*first, *self.curves.charts, *(chart for chart in plots if chart is not None)]


def content(study: Study, links: Links) -> Content:
    """Work out what the page shows.

    Args:
        study: the study.
        links: the addresses of its files from the page.

    Raises:
        BadInput: ``cost.csv``, what trials chose or the calibration is damaged.
    """
    costs, look = read_costs(study), looks(study)
    weighed = trade_offs(study, costs, look)
    planned = len(study.runs) + len(study.missing)
    return Content(
        study=study,
        tiles=_tiles(study, planned),
        absences=proof.absences(study.missing, several_pairs=len(study.pairs) > 1),
        planned=planned,
        removed=tuple(run.path for run in study.runs if not (study.path / run.path).is_dir()),
        sweep=sweep(study, look),
        dissections=dissections(study.path),
        in_tasks=study_tasks_sections(study, look),
        tables=tables(study, links),
        looks=look,
        trade_offs=weighed,
        first_cost=first_choice(weighed),
        curves=curves(study, look),
        diagram=diagram(study.ranks) if study.ranks is not None else None,
        matrices=matrices(study),
        is_named=len(study.names) <= NAMED,
        tuned=proof.tuned(study),
        calibrated=proof.calibrated(study),
        proofs=proof.proofs(study),
        hashes=proof.hash_names(),
        costs=costs,
        cost_columns=COLUMNS,
        cost_rows=cost_rows(study, costs),
        cost_notes=cost_notes(study, costs),
        files=tuple(links.files()),
    )


def _tiles(study: Study, planned: int) -> tuple[Tile, ...]:
    seeds = ", ".join(map(str, study.seeds))
    pairs = [pair.name for pair in study.pairs]
    done = "all finished" if not study.missing else f"of {whole(planned)} finished"
    counts = (len(study.names), len(pairs), len(study.seeds), len(study.runs))
    words = [what if count == 1 else f"{what}s" for count, what in zip(counts, _COUNTED, strict=True)]
    details = (
        f"against {study.baseline}" if len(study.names) > 1 else study.baseline,
        ", ".join(pairs),
        f"{seeds}: fixed beforehand",
        f"{done}; {proof.budget(study)}",
    )
    return tuple(Tile(whole(count), *told) for count, *told in zip(counts, words, details, strict=True))
