"""Everything the page of an explanation shows, worked out before any HTML: the template only lays it out."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.report.charts import Chart
from stillroom.report.explain.maps import Maps
from stillroom.report.explain.pictures import Pictures, pictures
from stillroom.report.explain.plots import alike, changes, courses, sides
from stillroom.report.explain.read import Explanation
from stillroom.report.explain.tables import (
    SYMBOLS,
    Choice,
    Group,
    Network,
    Pair,
    choices,
    groups,
    networks,
    pairs,
)
from stillroom.report.explain.words import FOREGROUNDS, Claim, caveats, claims, headline
from stillroom.report.formats import MINUS, counted, decimal, whole

# Beyond so many pairs of networks their maps are folded away.
SHOWN_CKA = 6


@dataclass(frozen=True)
class Tile:
    """A number at the head of the page."""

    value: str
    what: str
    detail: str


@dataclass(frozen=True)
class Content:
    """What the template lays out."""

    title: str
    headline: str
    compared: bool
    claims: tuple[Claim, ...]
    caveats: tuple[str, ...]
    tiles: tuple[Tile, ...]
    groups: tuple[Group, ...]
    pictures: Pictures
    legend: tuple[tuple[str, str, str], ...]
    banded: bool
    courses: tuple[Chart, ...]
    changes: tuple[Chart, ...]
    choices: tuple[Choice, ...]
    networks: tuple[Network, ...]
    has_accuracy: bool
    pairs: tuple[Pair, ...]
    cka: tuple[Chart, ...]
    cka_images: str
    attributions: str
    notes: tuple[str, ...]
    glossary: dict[str, str]

    @property
    def charts(self) -> list[Chart]:
        """Every plot of the page."""
        return [*self.courses, *self.changes, *self.cka]


def content(told: Explanation, maps: Maps) -> Content:
    """Work out what the page shows."""
    first = told.runs[told.distilled[0]]
    legend = [(name, colour, "solid") for name, colour, _ in sides(told)]
    if told.teacher is not None:
        legend.append(("Teacher, trained", "teacher", "dashed"))
    return Content(
        title=f"What “{first.name}” has learned, and where",
        headline=headline(told),
        compared=bool(told.labels),
        claims=claims(told),
        caveats=caveats(told),
        tiles=tuple(_tiles(told)),
        groups=groups(told),
        pictures=pictures(told, maps),
        legend=tuple(legend),
        banded=any(one.quartiles for run in told.runs for one in run.checkpoints),
        courses=tuple(courses(told)),
        changes=tuple(changes(told, maps)),
        choices=choices(told),
        networks=networks(told),
        has_accuracy=any(run.accuracy is not None for run in told.runs),
        pairs=pairs(told),
        cka=tuple(alike(told)),
        cka_images=" or ".join(sorted({whole(one.images) for one in told.cka})),
        attributions=" with ".join(filter(None, told.attributions or ())) if maps.attribution else "",
        notes=tuple(_notes(told)),
        glossary=_glossary(told),
    )


def _tiles(told: Explanation) -> list[Tile]:
    seeds = [told.runs[place].seed for place in told.distilled]
    left_out = f"{told.excluded:,} left out: a network does not respond to them" if told.excluded else "none left out"
    told_by = f"told by {FOREGROUNDS.get(told.foreground, told.foreground)}"
    if told.without_foreground:
        told_by += f"; {counted(told.without_foreground, 'image')} without any"
    kept = ", ".join(f"{epoch:g}" for epoch in told.epochs)
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    return [
        Tile(whole(len(told.rows)), "test images", left_out),
        Tile(whole(len(seeds)), "seed" if len(seeds) == 1 else "seeds", seed),
        Tile(whole(len(told.epochs)), "checkpoints", f"epochs {kept}" if len(told.epochs) <= 16 else "kept"),
        Tile(f"{decimal(100 * told.foreground_share, 0)}%", "of the cells are subject", told_by),
    ]


def _notes(told: Explanation) -> list[str]:
    taps = sorted({run.tap for run in told.runs})
    stop = "to the optimum" if told.stop is None else f"to a mean of {_nats(told.stop)} nats"
    passes = f"at most {told.passes:,} network passes" if told.passes is not None else "the usual number of passes"
    depends = "Counts depend on b, and on the stop"
    if told.sensitivity:
        depends += ": the table of other choices says whether the verdicts do"
    notes = [
        f"Features are read at {', '.join(taps)}. Noise is searched for each of {told.grid} × {told.grid} cells that "
        f"leaves them as they are: λ {told.weight:g}, {stop}, {passes} an image and checkpoint, "
        f"noise seed {told.noise_seed}. All networks see the same noise.",
        f"A cell is a concept where its entropy lies more than b = {told.threshold:g} nats below the mean of the "
        f"background’s cells of all images at that checkpoint. {depends}.",
    ]
    if told.labels:
        several = len(told.distilled) > 1
        drawn = "images and seeds" if several else "images"
        wider = ", the seeds’ part made as wide as Student’s interval" if several else ""
        notes += [
            f"Intervals are 95%, by drawing {drawn} again {told.resamples:,} times{wider}; an image that is drawn "
            "counts in both networks.",
            "A hypothesis is supported where all of its measures are, refuted where one is refuted and none "
            "supported, else undecided.",
        ]
    errors = [error for run in told.runs for error in run.errors if error is not None]
    if errors:
        notes.append(
            f"The entropies tell their own error: {_range(errors)} nats (rms over cells, by "
            "checkpoint), from independent halves of the noise. The intervals do not hold it."
        )
    chosen = f"The {counted(len(told.rows), 'image')} are spread evenly over the test split"
    left = (
        f"; {told.excluded:,} more {'was' if told.excluded == 1 else 'were'} left out, as noise changes nothing there"
        if told.excluded
        else ""
    )
    notes.append(f"{chosen}{left}. The subject is told by {FOREGROUNDS.get(told.foreground, told.foreground)}.")
    layers = sorted({run.layer for run in told.runs if run.layer})
    if layers:
        notes.append(f"How far weights had moved is that of {', '.join(layers)}, summed over steps (D_mean, D_std).")
    without = max(run.without_rho for run in told.runs)
    if without:
        notes.append(f"ρ leaves out images whose subject never had a concept: at most {without:,} of a run.")
    notes.append("After Cheng et al., “Explaining Knowledge Distillation by Quantifying the ModelOutput” (2020).")
    return notes


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def _nats(value: float) -> str:
    return f"{value:g}".replace("-", MINUS, 1)


def _glossary(told: Explanation) -> dict[str, str]:
    entropy = {
        "Entropy of a cell": "How much noise a cell takes before the layer’s features change, in nats. Low: the layer "
        "has kept what is there. High: it has discarded it.",
        "Concept": f"A cell whose entropy lies more than {told.threshold:g} nats below the background’s mean.",
    }
    measures = {
        f"{letter}_{below}" if below else letter: f"{plain[:1].upper()}{plain[1:]}. {meaning}"
        for letter, below, plain, meaning in SYMBOLS.values()
    }
    others = {
        "CKA": "Centred kernel alignment: how alike two layers tell the same images apart. 1: the same up to rotation "
        "and scale; about 0: unrelated.",
        "Agreement": "On which share of the test images two networks give the same answer, right or wrong.",
    }
    return entropy | measures | others
