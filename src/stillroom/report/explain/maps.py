"""The maps of an explanation: images, foreground, entropies and concepts, read, checked and made small for the page."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from stillroom.errors import BadInput
from stillroom.files import verify
from stillroom.report.blocks import Values
from stillroom.report.formats import DASH, MINUS, amount, decimal
from stillroom.report.numbers import PlotNumbers
from stillroom.report.run.charts import png_uri
from stillroom.schema.base import clean
from stillroom.schema.explanation import EXPLANATION_MAPS, Explanation, NetworkRef

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ExplanationMaps:
    """What the pictures are made of, for M checkpoints, I images and g × g cells."""

    images: Array  # as stored, [I, C, H, W]
    labels: NDArray[np.int64]  # [I]
    foreground: Bools  # [I, g, g]
    entropy: tuple[Floats, ...]  # of each run, [M, I, g, g] in nats
    concepts: tuple[Bools, ...]  # of each run, [M, I, g, g]
    teacher: tuple[Floats, Bools] | None  # its entropies and concepts, [I, g, g]; None where there is none
    attribution: dict[str, Floats]  # by the place of the run or ``teacher``, [I, g, g]; only those that are there
    class_names: tuple[str, ...] = ()  # of the data, where the run's predictions name them


def read_maps(folder: Path, explanation: Explanation) -> ExplanationMaps:
    """Read the maps of a run."""
    path = folder / EXPLANATION_MAPS
    if not path.is_file():
        raise BadInput("maps", str(folder), f"a run with {EXPLANATION_MAPS}; `stillroom explain` writes it")
    try:
        verify(path)
        with np.load(path) as file:
            held = {name: np.asarray(file[name]) for name in file.files}
    except BadInput:
        raise
    # What numpy raises for a damaged archive depends on where it is damaged.
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput("maps", str(path), f"a whole file of maps ({reason})") from None
    return _check_maps(path, held, explanation)


def _check_maps(path: Path, held: dict[str, Array], explanation: Explanation) -> ExplanationMaps:
    images, grid, checkpoints = len(explanation.images.rows), explanation.search.grid, len(explanation.epochs)
    cells = (images, grid, grid)

    def expect(holds: bool, expected: str) -> None:
        if not holds:
            raise BadInput("maps", str(path), expected)

    def numbers(name: str, shape: tuple[int, ...]) -> Floats:
        array = held.get(name)
        if array is None or array.shape != shape or not np.issubdtype(array.dtype, np.floating):
            raise BadInput("maps", str(path), f"{name} as numbers {list(shape)}; `stillroom explain` writes it again")
        expect(bool(np.isfinite(array).all()), f"{name} that is finite")
        return array.astype(np.float32)

    def yes_or_no(name: str, shape: tuple[int, ...]) -> Bools:
        array = held.get(name)
        if array is None or array.shape != shape or array.dtype != np.bool_:
            raise BadInput(
                "maps", str(path), f"{name} as true or false {list(shape)}; `stillroom explain` writes it again"
            )
        return array

    pixels, labels = held.get("images"), held.get("labels")
    if pixels is None or labels is None or pixels.ndim != 4 or labels.shape != (images,):
        raise BadInput("maps", str(path), f"{images} images [C, H, W] with their labels")
    expect(len(pixels) == images and min(pixels.shape) > 0, f"{images} images of one pixel or more")
    expect(np.issubdtype(labels.dtype, np.integer), "labels as whole numbers")
    expect(bool(np.isfinite(pixels).all()), "images that are finite")
    whole = (checkpoints, *cells)
    names = [*map(str, range(len(explanation.runs))), "teacher"]
    return ExplanationMaps(
        images=pixels,
        labels=labels.astype(np.int64),
        foreground=yes_or_no("foreground", cells),
        entropy=tuple(numbers(f"entropy-{place}", whole) for place in range(len(explanation.runs))),
        concepts=tuple(yes_or_no(f"concepts-{place}", whole) for place in range(len(explanation.runs))),
        teacher=(
            (numbers("entropy-teacher", cells), yes_or_no("concepts-teacher", cells))
            if "entropy-teacher" in held and explanation.teacher is not None
            else None
        ),
        attribution={name: numbers(f"attribution-{name}", cells) for name in names if f"attribution-{name}" in held},
        class_names=_class_names(path.with_name("predictions.safetensors")),
    )


MOST, FEWEST = 24, 4
# Of all maps of a page, as they stand in it.
BYTES = 3_000_000
# Further out lie single cells that would leave no shade for the others.
_TAILS = (0.2, 99.8)
# Viridis, from its dark end: of equal steps for the eye, with or without colour vision.
RAMP = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")


def gallery(explanation: Explanation, maps: ExplanationMaps) -> Values:
    """Choose the images that changed most, and make their maps small."""
    change = _changes(explanation, maps)
    total = change.sum(0)
    chosen = np.argsort(-total, kind="stable")[: shown(explanation, len(total))]
    entropy = [each[:, chosen] for each in maps.entropy]
    of_teacher = (maps.teacher[0][chosen], maps.teacher[1][chosen]) if maps.teacher is not None else None
    every = [*(each.ravel() for each in entropy), *([of_teacher[0].ravel()] if of_teacher is not None else [])]
    low, high = _span(np.concatenate(every))
    shares = {name: each[chosen] for name, each in maps.attribution.items()}
    share = max((float(np.quantile(each, 0.995)) for each in shares.values()), default=0.0) or 1.0

    def attribution(name: str) -> str | None:
        return _quantise(shares[name], 0.0, share) if name in shares else None

    def network(place: int) -> dict[str, Any]:
        return {
            "entropy": _quantise(entropy[place], low, high),
            "concepts": _bits(maps.concepts[place][:, chosen]),
            "attribution": attribution(str(place)),
        }

    held: dict[str, Any] = {
        "grid": explanation.search.grid,
        "images": len(chosen),
        "epochs": list(explanation.epochs),
        "low": low,
        "high": high,
        "share": share,
        "ramp": list(RAMP),
        "foreground": _bits(maps.foreground[chosen]),
        "distilled": [network(place) for place in explanation.explained],
        "labels": [network(place) for place in explanation.baselines],
        "teacher": None,
    }
    if of_teacher is not None:
        held["teacher"] = {
            "entropy": _quantise(of_teacher[0], low, high),
            "concepts": _bits(of_teacher[1]),
            "attribution": attribution("teacher"),
        }
    pixels = _pixels(maps.images[chosen])
    return Values(
        cards=tuple(
            _card(explanation, maps, int(image), place, change[:, image], pixels[place])
            for place, image in enumerate(chosen)
        ),
        of=len(total),
        sides=_sides(explanation, of_teacher is not None),
        seeds=tuple(explanation.runs[place].seed for place in explanation.explained),
        low=_nats(low),
        high=_nats(high),
        share=f"{100 * share:.2g}%" if shares else "",
        width=pixels.shape[3],
        height=pixels.shape[2],
        ramp=", ".join(RAMP),
        held=held,
        numbers=_numbers(explanation, maps, chosen),
    )


def _numbers(explanation: Explanation, maps: ExplanationMaps, chosen: NDArray[np.int64]) -> PlotNumbers:
    """What the maps show, as counts and means of each image and network, means over seeds."""
    first, last = (f"epoch {explanation.epochs[end]:g}" for end in (0, -1))
    heads = ["image, network"]
    heads += [f"concepts on the {where}, {when}" for where in ("subject", "background") for when in (first, last)]
    heads += [f"mean entropy of the {where}, {last}, nats" for where in ("subject", "background")]
    digits = 1 if len(explanation.explained) > 1 else 0
    rows = []
    for image in chosen:
        label = class_name(maps.class_names, int(maps.labels[image]))
        masks = maps.foreground[image], ~maps.foreground[image]
        held = [(name, [(maps.entropy[p][:, image], maps.concepts[p][:, image]) for p in places])
                for name, _, places in sides(explanation)]  # fmt: skip
        if maps.teacher is not None:
            held.insert(0, ("Teacher", [(maps.teacher[0][image][None], maps.teacher[1][image][None])]))
        for name, networks in held:
            counts = [
                amount(float(np.mean([concepts[end][mask].sum() for _, concepts in networks])), digits)
                for mask in masks
                for end in (0, -1)
            ]
            if name == "Teacher":  # it has no checkpoints
                counts[0] = counts[2] = DASH
            means = [
                decimal(float(np.mean([entropy[-1][mask].mean() for entropy, _ in networks])), 2)
                if mask.any()
                else DASH
                for mask in masks
            ]
            rows.append([f"{label}, {explanation.images.rows[image]}: {name}", *counts, *means])
    note = "" if len(explanation.explained) < 2 else f"Means of {len(explanation.explained)} seeds."
    return PlotNumbers(heads, rows, note)


def shown(explanation: Explanation, images: int) -> int:
    """How many images a page of reasonable size shows."""
    each = explanation.search.grid**2 * (len(explanation.epochs) * len(explanation.runs) + 2) * (1 + 1 / 8) * 4 / 3
    return min(images, MOST, max(int(BYTES / each), FEWEST))


def _changes(explanation: Explanation, maps: ExplanationMaps) -> NDArray[np.float64]:
    """Cells gained and lost on the subject, then on the background, by image, [4, I], means over seeds.

    Of the distilled student against the other at the end; without another, of the end against the first checkpoint.
    """
    found = []
    for seed, place in enumerate(explanation.explained):
        ours = maps.concepts[place][-1]
        theirs = maps.concepts[explanation.baselines[seed]][-1] if explanation.baselines else maps.concepts[place][0]
        found.append(
            [
                _count(one & ~other & where)
                for where in (maps.foreground, ~maps.foreground)
                for one, other in ((ours, theirs), (theirs, ours))
            ]
        )
    return np.asarray(np.mean(np.array(found, dtype=np.float64), axis=0))


def _count(cells: Bools) -> NDArray[np.int64]:
    return np.asarray(cells.sum((1, 2)))


def _card(
    explanation: Explanation,
    maps: ExplanationMaps,
    image: int,
    place: int,
    change: NDArray[np.float64],
    pixels: NDArray[np.uint8],
) -> Values:
    digits = 1 if len(explanation.explained) > 1 else 0
    gained_fg, lost_fg, gained_bg, lost_bg = (float(each) for each in change)
    return Values(
        place=place,
        row=explanation.images.rows[image],
        label=class_name(maps.class_names, int(maps.labels[image])),
        uri=png_uri(pixels),
        change=f"Subject: {amount(gained_fg, digits)} gained, {amount(lost_fg, digits)} lost. "
        f"Background: {amount(gained_bg, digits)} gained, {amount(lost_bg, digits)} lost.",
    )


def _sides(explanation: Explanation, with_teacher: bool) -> list[tuple[str, str, str]]:
    """The networks whose maps are shown: key, name, colour."""
    found = [("teacher", "Teacher", "teacher")] if with_teacher else []
    found.append(("distilled", side(explanation, explanation.explained[0]), "student"))
    return [*found, ("labels", "From labels", "other-1")] if explanation.baselines else found


def _span(values: Floats) -> tuple[float, float]:
    """The ends of the scale of colours, in nats, to a tenth; single cells may lie beyond."""
    low, high = (float(each) for each in np.percentile(values, _TAILS))
    low, high = np.floor(10 * low) / 10, np.ceil(10 * high) / 10
    return round(float(low), 1), round(float(high if high > low else low + 0.1), 1)


def _nats(value: float) -> str:
    return f"{value:.1f}".replace("-", MINUS, 1)


def _quantise(values: Floats, low: float, high: float) -> str:
    """A byte a cell: 256 shades are finer than the entropies' own error."""
    shades = np.clip(np.rint(255 * (values - low) / (high - low)), 0, 255).astype(np.uint8)
    return base64.b64encode(shades.tobytes()).decode("ascii")


def _bits(cells: Bools) -> str:
    return base64.b64encode(np.packbits(cells).tobytes()).decode("ascii")


def _pixels(images: Array) -> NDArray[np.uint8]:
    """Images as bytes; those of other numbers are each spread over what a screen shows."""
    if images.dtype == np.uint8:
        return images
    values = images.astype(np.float64)
    low = values.min((1, 2, 3), keepdims=True)
    span = values.max((1, 2, 3), keepdims=True) - low
    shades: NDArray[np.uint8] = np.rint(255 * (values - low) / np.where(span > 0, span, 1)).astype(np.uint8)
    return shades


def _class_names(path: Path) -> tuple[str, ...]:
    """As the run's predictions have them; none where they cannot be read, for a number does as well."""
    try:
        verify(path)
        with safe_open(path, framework="numpy") as file:
            names: Any = json.loads((file.metadata() or {}).get("class_names", "[]"))
    except BadInput:
        raise
    # safetensors raises errors of several kinds for a damaged file, by what is damaged.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
        return ()
    return tuple(str(clean(str(name))) for name in names) if isinstance(names, list) else ()


def class_name(names: Sequence[str], label: int) -> str:
    """What a class is called.

    >>> class_name(("cat",), 0), class_name((), 3)
    ('cat', 'class 3')
    """
    return names[label] if 0 <= label < len(names) and names[label] else f"class {label}"


def side(explanation: Explanation, place: int) -> str:
    """What the page calls a run by the way it learned."""
    if not explanation.baselines:
        return "Student"
    return "Distilled" if explanation.runs[place].role == "explained" else "From labels"


def name_of(explanation: Explanation, which: NetworkRef) -> str:
    """A network's name; with its seed where there are several."""
    if which == "teacher":
        return "Teacher"
    run = explanation.runs[which]
    return (
        f"{side(explanation, which)}, seed {run.seed}" if len(explanation.explained) > 1 else side(explanation, which)
    )


def sides(explanation: Explanation) -> list[tuple[str, str, tuple[int, ...]]]:
    """Each way of learning: its name, its colour, the places of its runs."""
    groups = (explanation.explained, explanation.baselines)
    both = [(side(explanation, places[0]), places) for places in groups if places]
    return [(name, colour, places) for (name, places), colour in zip(both, ("student", "other-1"), strict=False)]
