"""The page of an explanation: what distillation changed inside the student, and where, in plain words and tables.

It claims no more than was measured: nothing of distillation without a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stillroom.errors import BadInput
from stillroom.report.blocks import Values
from stillroom.report.explain.maps import ExplanationMaps, gallery, name_of, read_maps, side, sides
from stillroom.report.explain.plots import alike, changes, courses
from stillroom.report.formats import DASH, MINUS, amount, change, decimal, digits_of, whole
from stillroom.report.html import embedded, rendered, write_page
from stillroom.schema.base import read_json
from stillroom.schema.explanation import (
    EXPLANATION,
    FEWEST_IMAGES,
    FEWEST_PAIRS,
    ConceptCounts,
    Explanation,
    HypothesisMeasure,
    HypothesisTest,
    SensitivityRow,
)
from stillroom.wording import counted, listed

OUTCOMES = {"supported": "Supported", "refuted": "Refuted", "undecided": "Undecided", None: "Not measured"}
# Of each hypothesis: its name, and what it claims that distillation makes the student do.
CLAIMS = {
    1: (
        "More concepts on the subject, fewer on the background",
        "learn more concepts on the subject and fewer on the background",
    ),
    2: ("Sooner, and all at once", "learn its concepts sooner and all at once"),
    3: ("Steadier: what was learned stays", "keep more of what it once learned"),
}
# Of each measure: where it is higher, where it is lower, what it is about.
_SHOWN = {
    "n_fg": ("more concepts on the subject", "fewer concepts on the subject", "concepts on the subject"),
    "n_bg": ("more concepts on the background", "fewer concepts on the background", "concepts on the background"),
    "ratio": ("a larger share on the subject", "a smaller share on the subject", "the subject’s share"),
    "d_mean": (
        "most concepts only after more movement of the weights",
        "most concepts after less movement of the weights",
        "how soon",
    ),
    "d_std": ("images differ more in that", "images differ less in that", "how much at once"),
    "rho": ("more of what was learned stayed", "less of what was learned stayed", "how much stayed"),
}
MASKS = {
    "masks": "the data’s masks",
    "centre": "a box in the centre",
    "positive": "pixels above zero",
    "boxes": "the data’s boxes",
}


def headline(explanation: Explanation) -> str:
    """What was found, in a few sentences."""
    if not explanation.baselines:
        return _without_baseline(explanation)
    kept = explanation.images.published
    if kept is not None and kept < FEWEST_IMAGES:
        return (
            f"Not decided, whatever the intervals: in {whole(kept)} of {counted(len(explanation.images.rows), 'image')}"
            " do all networks discard more of the background than of the subject, as the paper's selection asks. "
            "Concepts are counted against the background, so that on these images they do not mean what they should."
        )
    seeds = len(explanation.explained)
    if seeds < FEWEST_PAIRS and any(one.verdict for one in explanation.hypotheses):
        start, over = ("One seed decides", " over images alone") if seeds == 1 else ("Two seeds decide", "")
        return (
            f"{start} nothing: two students of one method differ, too. What is shown is how these differ, with "
            f"intervals{over}. Explain two methods of a study, of {FEWEST_PAIRS} seeds or more, to decide."
        )
    by_verdict: dict[str | None, list[str]] = {}
    for one in explanation.hypotheses:
        by_verdict.setdefault(one.verdict, []).append(CLAIMS[one.hypothesis][1])
    sentences = []
    if "supported" in by_verdict:
        sentences.append(f"Distillation made this student {_list(by_verdict['supported'], 'and')}.")
    if "refuted" in by_verdict:
        start = "It did not make it" if sentences else "Distillation did not make this student"
        sentences.append(f"{start} {_list(by_verdict['refuted'], 'or')}: the measures show the opposite.")
    if "undecided" in by_verdict:
        torn = [one for one in explanation.hypotheses if one.verdict == "undecided" and _is_torn(one)]
        both = len(torn) == len(by_verdict["undecided"])
        start = "Whether it made it" if sentences else "Whether distillation made this student"
        sentences.append(
            f"{start} {_list(by_verdict['undecided'], 'or')} is undecided{': the measures disagree' if both else ''}."
        )
    if None in by_verdict:
        start = "Whether it made it" if sentences else "Whether distillation made this student"
        sentences.append(f"{start} {_list(by_verdict[None], 'or')} was not measured.")
    return " ".join(sentences)


def _is_torn(hypothesis: HypothesisTest) -> bool:
    """Whether one of its measures is shown and another refuted."""
    return {"supported", "refuted"} <= {one.verdict for one in hypothesis.measures}


def _list(parts: Sequence[str], word: str) -> str:
    """Parts that hold an "and" of their own, as a list in a sentence."""
    return f"{', '.join(parts[:-1])}, {word} {parts[-1]}" if len(parts) > 1 else parts[0]


def _without_baseline(explanation: Explanation) -> str:
    first, last = (
        _mean([explanation.runs[place].checkpoints[end] for place in explanation.explained]) for end in (0, -1)
    )
    cells = f"{explanation.search.grid**2:,}"
    found = (
        f"At the end, {amount(last[0] + last[1], 1)} of an image’s {cells} cells are concepts: "
        f"{amount(last[0], 1)} on the subject and {amount(last[1], 1)} on the background."
    )
    if len(explanation.epochs) < 2:
        return found
    return (
        f"{found} At the first checkpoint (epoch {explanation.epochs[0]:g}) they were {amount(first[0], 1)} and "
        f"{amount(first[1], 1)}."
    )


def _mean(checkpoints: Sequence[ConceptCounts]) -> tuple[float, float]:
    count = len(checkpoints)
    return sum(one.n_fg for one in checkpoints) / count, sum(one.n_bg for one in checkpoints) / count


def claims(explanation: Explanation) -> tuple[Values, ...]:
    """The hypotheses, each with what was shown, what points the other way, and what is open."""
    return tuple(
        Values(
            number=one.hypothesis,
            title=CLAIMS[one.hypothesis][0],
            verdict=one.verdict or "unmeasured",
            word=OUTCOMES[one.verdict],
            details=list(_details(one)),
            held=_agreement_of_choices(explanation, one),
            rows=tuple(_row(measure) for measure in one.measures),
        )
        for one in explanation.hypotheses
    )


def _agreement_of_choices(explanation: Explanation, hypothesis: HypothesisTest) -> str:
    """Under how many other choices the verdict is the same; empty where none was tried."""
    verdicts = [
        one.verdict
        for each in explanation.sensitivity
        for one in each.hypotheses
        if one.hypothesis == hypothesis.hypothesis
    ]
    if not verdicts or hypothesis.verdict is None:
        return ""
    return f"The same under {verdicts.count(hypothesis.verdict)} of {counted(len(verdicts), 'other choice')}"


def _details(hypothesis: HypothesisTest) -> Iterator[tuple[str, str]]:
    for verdict, start in (
        ("supported", "Shown"),
        ("refuted", "The opposite is shown"),
        ("undecided", "Not decided"),
        (None, "Not measured"),
    ):
        of_this = [one for one in hypothesis.measures if one.verdict == verdict]
        if of_this:
            yield start, listed(_describe(one) for one in of_this)


def _describe(measure: HypothesisMeasure) -> str:
    higher, lower, about = _SHOWN[measure.measure]
    if measure.verdict not in ("supported", "refuted") or measure.difference is None:
        return about
    words = higher if measure.difference > 0 else lower
    return f"{words} ({change(measure.difference, digits_of([measure.difference]))})"


def caveats(explanation: Explanation) -> tuple[str, ...]:
    """How far the verdicts carry."""
    if not explanation.baselines:
        return (
            "Without a baseline, this page shows what the student has learned, not what distillation "
            "changed: “stillroom explain RUN --baseline RUN”, with the same student from labels, does.",
        )
    seeds = len(explanation.explained)
    found = []
    if seeds == 1:
        found.append("One seed: the intervals are over images alone and do not include the spread between seeds.")
    else:
        over = f"Intervals are over {counted(len(explanation.images.rows), 'image')} and {counted(seeds, 'seed')}"
        found.append(
            f"{over}: with two they are very wide; more seeds would narrow them." if seeds == 2 else f"{over}."
        )
    return tuple(found)


def choice(other: SensitivityRow) -> str:
    """What was chosen otherwise, in words.

    >>> choice(SensitivityRow(what="stop", value=-2.6, images=50, hypotheses=()))
    'a stop at −2.6 nats'
    """
    value = other.value if isinstance(other.value, str) else _nats(other.value)
    return {
        "threshold": f"a threshold b of {value} nats",
        "stop": f"a stop at {value} nats",
        "grid": f"a grid of {value} × {value}",
        "position": "cells compared with the background at their own place, or with the untrained network there",
        "selection": f"the {value} selection of images",
    }.get(other.what, f"{other.what} {value}")


WIDTH = 220.0
_EDGE = 12.0
# Letter, what stands below it, plain words, and what it is exactly.
SYMBOLS = {
    "n_fg": (
        "N",
        "fg",
        "concepts on the subject",
        "Cells of the subject that the layer still encodes: their entropy lies more than b below the mean of "
        "the background’s cells. Mean over images, at the end of the training.",
    ),
    "n_bg": (
        "N",
        "bg",
        "concepts on the background",
        "The same for cells of the background. Mean over images, at the end of the training.",
    ),
    "ratio": (
        "λ",
        "",
        "the subject’s share of all concepts",
        "N_fg/(N_fg + N_bg) of each image, mean over the images that have concepts, at the end of the training.",
    ),
    "d_mean": (
        "D",
        "mean",
        "how far weights had moved when $an_image had most concepts",
        "The cumulative movement of the probed layer’s weights, relative to their first size, at the checkpoint at "
        "which an image has most concepts on its subject; mean over images. Small: learned fast.",
    ),
    "d_std": (
        "D",
        "std",
        "how much $images differ in that",
        "The standard deviation of the same movement over images. Small: all concepts are learned at once.",
    ),
    "rho": (
        "ρ",
        "",
        "share of what was ever learned that stayed",
        "Of the subject’s cells that were a concept at any checkpoint, the share that is one at the end; mean over "
        "the images that ever had one. Large: few detours.",
    ),
}
_SIGNS = {"supported": "✓", "refuted": "✗", "undecided": "·", None: DASH}


def _row(measure: HypothesisMeasure) -> Values:
    letter, below, plain, meaning = SYMBOLS[measure.measure]
    places = digits_of([measure.distilled, measure.labels])
    finer = digits_of([measure.difference, measure.low, measure.high])
    bounds = ""
    if measure.low is not None and measure.high is not None:
        bounds = f"{change(measure.low, finer)} to {change(measure.high, finer)}"
    difference = DASH if measure.difference is None else change(measure.difference, finer)
    return Values(
        letter=letter,
        below=below,
        plain=plain,
        meaning=meaning,
        expected=f"expected to be {measure.expected}",
        distilled=amount(measure.distilled, places),
        labels=amount(measure.labels, places),
        difference=difference,
        bounds=bounds,
        interval=interval(measure),
        verdict=measure.verdict or "unmeasured",
        word=OUTCOMES[measure.verdict],
        label=f"Difference {difference}, 95% interval {bounds or 'none'}; {measure.expected} was expected.",
    )


def interval(measure: HypothesisMeasure) -> Values | None:
    """Where a difference is drawn, on a scale of its own with 0 in the middle; None where it was not measured.

    >>> interval(HypothesisMeasure(measure="n_fg", expected="higher", difference=2.0, low=1.0, high=4.0))
    Values(x=159.0, low=134.5, high=208.0, side='higher')
    """
    if measure.difference is None:
        return None
    ends = [abs(value) for value in (measure.difference, measure.low, measure.high) if value is not None]
    limit = max(ends) or 1.0

    def at(value: float | None) -> float | None:
        return None if value is None else round(WIDTH / 2 + (WIDTH / 2 - _EDGE) * value / limit, 1)

    return Values(x=at(measure.difference) or 0.0, low=at(measure.low), high=at(measure.high), side=measure.expected)


def choices(explanation: Explanation) -> tuple[Values, ...]:
    """The verdicts as they are, then under each other choice; nothing without a comparison."""
    if not explanation.sensitivity:
        return ()
    usual: dict[int, str | None] = {one.hypothesis: one.verdict for one in explanation.hypotheses}
    search = explanation.search
    stop = "none" if search.stop is None else _nats(search.stop)
    first = Values(
        what=f"As above: b {explanation.threshold:g}, stop {stop}, grid {search.grid} × {search.grid}",
        images=whole(len(explanation.images.rows)),
        cells=tuple(_cell(one, usual) for one in explanation.hypotheses),
    )
    others = (
        Values(
            what=_sentence(choice(other)),
            images=whole(other.images),
            cells=tuple(_cell(one, usual) for one in other.hypotheses),
        )
        for other in explanation.sensitivity
    )
    return (first, *others)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(hypothesis: HypothesisTest, usual: dict[int, str | None]) -> Values:
    signs = tuple(
        (SYMBOLS[one.measure][0], SYMBOLS[one.measure][1], _SIGNS[one.verdict]) for one in hypothesis.measures
    )
    return Values(
        verdict=hypothesis.verdict or "unmeasured",
        word=OUTCOMES[hypothesis.verdict],
        signs=signs,
        differs=hypothesis.verdict != usual.get(hypothesis.hypothesis),
    )


def networks(explanation: Explanation) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Each network at the end of its training."""
    found: list[tuple[str, str, tuple[str, ...]]] = []
    numbers: tuple[str, ...]
    for place, run in enumerate(explanation.runs):
        last = run.checkpoints[-1]
        error = run.entropy_error[-1] if run.entropy_error else None
        numbers = (
            DASH if run.accuracy is None else f"{decimal(100 * run.accuracy)}%",
            amount(last.n_fg, 1),
            amount(last.n_bg, 1),
            amount(last.ratio, 3),
            amount(run.speed.d_mean if run.speed else None, 3),
            amount(run.speed.d_std if run.speed else None, 3),
            amount(run.stability.rho, 3),
            amount(error, 3),
        )
        detail = run.run if run.name in (None, run.run) else f"{run.name} · {run.run}"
        found.append((f"{side(explanation, place)}, seed {run.seed}", detail, numbers))
    if explanation.teacher is not None:
        teacher = explanation.teacher
        numbers = (DASH, amount(teacher.n_fg, 1), amount(teacher.n_bg, 1), amount(teacher.ratio, 3), *[DASH] * 4)
        found.append(("Teacher", teacher.name, numbers))
    return tuple(found)


def pairs(explanation: Explanation) -> tuple[tuple[str, ...], ...]:
    """How often two networks say the same."""
    return tuple(
        (
            name_of(explanation, one.one),
            name_of(explanation, one.other),
            f"{decimal(100 * one.agree)}%",
            DASH if one.both_right is None else f"{decimal(100 * one.both_right)}%",
            whole(one.count),
        )
        for one in explanation.agreement
    )


def content(explanation: Explanation, maps: ExplanationMaps) -> Values:
    """Work out what the page shows."""
    first = explanation.runs[explanation.explained[0]]
    legend = [(name, colour, "solid") for name, colour, _ in sides(explanation)]
    if explanation.teacher is not None:
        legend.append(("Teacher, trained", "teacher", "dashed"))
    over_epochs, changed, similar = courses(explanation), changes(explanation, maps), alike(explanation)
    return Values(
        title=f"What “{first.name or first.run}” has learned, and where",
        headline=headline(explanation),
        compared=bool(explanation.baselines),
        claims=claims(explanation),
        caveats=caveats(explanation),
        tiles=_tiles(explanation),
        gallery=gallery(explanation, maps),
        legend=tuple(legend),
        banded=any(one.n_fg_quartiles for run in explanation.runs for one in run.checkpoints),
        courses=over_epochs,
        changes=changed,
        choices=choices(explanation),
        networks=networks(explanation),
        has_accuracy=any(run.accuracy is not None for run in explanation.runs),
        pairs=pairs(explanation),
        cka=similar,
        cka_images=" or ".join(sorted({whole(one.images) for one in explanation.cka})),
        attributions=_attributions(explanation) if maps.attribution else "",
        notes=_notes(explanation),
        glossary=_glossary(explanation),
        charts=[*over_epochs, *changed, *similar],
    )


def _attributions(explanation: Explanation) -> str:
    by = explanation.attributions
    return "" if by is None else " with ".join(filter(None, (by.method, by.library)))


def _tiles(explanation: Explanation) -> list[tuple[str, str, str]]:
    images, epochs = explanation.images, explanation.epochs
    seeds = [explanation.runs[place].seed for place in explanation.explained]
    excluded = len(images.excluded)
    left_out = f"{excluded:,} left out: a network does not respond to them" if excluded else "none left out"
    masked_by = f"by {MASKS.get(images.mask, images.mask)}"
    if images.without_foreground:
        masked_by += f"; {counted(images.without_foreground, 'image')} without any"
    kept = f"epochs {', '.join(f'{epoch:g}' for epoch in epochs)}" if len(epochs) <= 16 else "kept"
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    return [
        (whole(len(images.rows)), "test images", left_out),
        (whole(len(seeds)), "seed" if len(seeds) == 1 else "seeds", seed),
        (whole(len(epochs)), "checkpoints", kept),
        (f"{decimal(100 * images.foreground_cells, 0)}%", "of the cells are foreground", masked_by),
    ]


def _chance(explanation: Explanation) -> list[str]:
    """What λ is without any knowledge: of cells at random, and of the untrained networks where they were kept."""
    share = explanation.images.foreground_cells
    note = f"λ of cells drawn at random is {decimal(share, 3)}, the share of cells on the subject"
    untrained = [run.checkpoints[0] for run in explanation.runs if run.checkpoints[0].epoch == 0]
    ratios = [one.ratio for one in untrained if one.ratio is not None]
    if ratios:
        n_fg, n_bg = _mean(untrained)
        note += (
            f"; of the untrained networks it is {decimal(sum(ratios) / len(ratios), 3)} (N_fg {decimal(n_fg)}, N_bg "
            f"{decimal(n_bg)}): so much of λ is the position of the subject, not knowledge"
        )
    return [f"{note}. Read differences between networks, not λ alone."]


def _notes(explanation: Explanation) -> list[str]:
    search, images = explanation.search, explanation.images
    taps = sorted({run.tap for run in explanation.runs})
    stop = "to the optimum" if search.stop is None else f"to a mean of {_nats(search.stop)} nats"
    passes = f"at most {search.passes:,} network passes" if search.passes is not None else "the usual number of passes"
    depends = "Counts depend on b, and on the stop"
    if explanation.sensitivity:
        depends += ": the table of other choices says whether the verdicts do"
    notes = [
        f"Features are read at {', '.join(taps)}. For each of {search.grid} × {search.grid} cells, the largest "
        f"noise is searched that leaves the features as they are: λ {search.weight:g}, {stop}, {passes} an image and "
        f"checkpoint, noise seed {search.seed}. All networks see the same noise.",
        f"A cell is a concept where its entropy lies more than b = {explanation.threshold:g} nats below the mean of "
        f"the background’s cells, the mean over images of each image's own, at that checkpoint. {depends}.",
        *_chance(explanation),
    ]
    if explanation.baselines:
        several = len(explanation.explained) > 1
        wider = " and over seeds, by Student’s interval of level .96, as counts are rounded" if several else ""
        notes += [
            f"Intervals are 95%, over images, by drawing them again {explanation.resamples:,} times{wider}; an image "
            "that is drawn counts in both networks.",
            "A hypothesis is supported where all of its measures are, refuted where all show the opposite, else "
            "undecided.",
        ]
    errors = [error for run in explanation.runs for error in run.entropy_error if error is not None]
    if errors:
        notes.append(
            f"The standard error of the entropies is {_range(errors)} nats (rms over cells, by checkpoint), from "
            "independent halves of the noise. The intervals do not include this error."
        )
    excluded = len(images.excluded)
    left_out = (
        f"; {excluded:,} more {'was' if excluded == 1 else 'were'} left out, as noise does not change their features"
        if excluded
        else ""
    )
    notes.append(
        f"The {counted(len(images.rows), 'image')} are spread evenly over the test split{left_out}. The foreground is "
        f"given by {MASKS.get(images.mask, images.mask)}."
    )
    layers = sorted({run.speed.layer for run in explanation.runs if run.speed is not None})
    if layers:
        notes.append(f"The weight distance is that of {', '.join(layers)}, summed over steps (D_mean, D_std).")
    without = max(run.stability.excluded for run in explanation.runs)
    if without:
        notes.append(f"ρ leaves out images whose foreground never had a concept: at most {without:,} of a run.")
    notes.append("After Cheng et al., “Explaining Knowledge Distillation by Quantifying the Knowledge” (2020).")
    return notes


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def _nats(value: float) -> str:
    return f"{value:g}".replace("-", MINUS, 1)


def _glossary(explanation: Explanation) -> dict[str, str]:
    entropy = {
        "Entropy of a cell": "How much noise a cell tolerates before the layer’s features change, in nats. Low: the "
        "layer encodes the cell. High: it has discarded it.",
        "Concept": f"A cell whose entropy lies more than {explanation.threshold:g} nats below the background’s mean.",
    }
    measures = {
        f"{letter}_{below}" if below else letter: f"{plain[:1].upper()}{plain[1:]}. {meaning}"
        for letter, below, plain, meaning in SYMBOLS.values()
    }
    others = {
        "CKA": "Centred kernel alignment: how similarly two layers distinguish images. 1: the same up to rotation "
        "and scale; about 0: unrelated.",
        "Agreement": "Share of the test images on which two networks predict the same class, right or wrong.",
    }
    return entropy | measures | others


PAGE = "explain.html"


def write_explanation(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run's ``explain.json`` and ``explain-maps.npz``.

    Args:
        folder: of the run.
        out: the file to write; left out: ``explain.html`` in the same folder.

    Returns:
        The file that was written.

    Raises:
        BadInput: there is no explanation, it is damaged, or the page cannot be written.

    >>> write_explanation(Path("nowhere"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: explanation: got 'nowhere'; expected a run with explain.json; ...
    """
    explanation = read_explanation(folder)
    page = content(explanation, read_maps(folder, explanation))
    figures = {chart.key: chart.figure for chart in page.charts}
    text = rendered("explain/explain.html.j2", figures=figures, page=page, maps=embedded(page.gallery.held))
    return write_page(out if out is not None else folder / PAGE, text)


def read_explanation(folder: Path) -> Explanation:
    """Read ``explain.json`` of a run."""
    if not (folder / EXPLANATION).is_file():
        raise BadInput("explanation", str(folder), f"a run with {EXPLANATION}; `stillroom explain` writes it")
    return read_json(Explanation, folder / EXPLANATION)
