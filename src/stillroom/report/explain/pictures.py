"""The pictures: which images are shown, and their maps so small that all checkpoints fit into one page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.report.explain.maps import Array, Bools, Floats, Maps
from stillroom.report.explain.read import TEACHER, Explanation, class_name
from stillroom.report.explain.tables import side
from stillroom.report.formats import MINUS, amount
from stillroom.report.run.charts import png_uri

MOST, FEWEST = 24, 4
# Of all maps of a page, as they stand in it.
BYTES = 3_000_000
# Further out lie single cells that would leave no shade for the others.
_TAILS = (0.2, 99.8)
# Viridis, from its dark end: of equal steps for the eye, with or without colour vision.
RAMP = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")


@dataclass(frozen=True)
class Card:
    """One image and how many of its concept cells differ at the end; ``place`` counts the images of this page."""

    place: int
    row: int
    label: str
    uri: str
    change: str


@dataclass(frozen=True)
class Side:
    """A network whose maps are shown."""

    key: str
    name: str
    colour: str


@dataclass(frozen=True)
class Pictures:
    """What the template lays out, and what its script draws from (``held``)."""

    cards: tuple[Card, ...]
    of: int
    sides: tuple[Side, ...]
    seeds: tuple[int, ...]
    low: str
    high: str
    share: str
    width: int
    height: int
    ramp: str
    held: dict[str, Any]


def pictures(told: Explanation, maps: Maps) -> Pictures:
    """Choose the images that changed most, and make their maps small."""
    change = _changes(told, maps)
    total = change.sum(0)
    chosen = np.argsort(-total, kind="stable")[: shown(told, len(total))]
    entropy = [each[:, chosen] for each in maps.entropy]
    of_teacher = (maps.teacher[0][chosen], maps.teacher[1][chosen]) if maps.teacher is not None else None
    every = [*(each.ravel() for each in entropy), *([of_teacher[0].ravel()] if of_teacher is not None else [])]
    low, high = _span(np.concatenate(every))
    shares = {name: each[chosen] for name, each in maps.attribution.items()}
    share = max((float(np.quantile(each, 0.995)) for each in shares.values()), default=0.0) or 1.0

    def attribution(name: str) -> str | None:
        return _quantised(shares[name], 0.0, share) if name in shares else None

    def network(place: int) -> dict[str, Any]:
        return {
            "entropy": _quantised(entropy[place], low, high),
            "concepts": _bits(maps.concepts[place][:, chosen]),
            "attribution": attribution(str(place)),
        }

    held: dict[str, Any] = {
        "grid": told.grid,
        "images": len(chosen),
        "epochs": list(told.epochs),
        "low": low,
        "high": high,
        "share": share,
        "ramp": list(RAMP),
        "foreground": _bits(maps.foreground[chosen]),
        "distilled": [network(place) for place in told.distilled],
        "labels": [network(place) for place in told.labels],
        "teacher": None,
    }
    if of_teacher is not None:
        held["teacher"] = {
            "entropy": _quantised(of_teacher[0], low, high),
            "concepts": _bits(of_teacher[1]),
            "attribution": attribution(TEACHER),
        }
    pixels = _pixels(maps.images[chosen])
    return Pictures(
        cards=tuple(
            _card(told, maps, int(image), place, change[:, image], pixels[place]) for place, image in enumerate(chosen)
        ),
        of=len(total),
        sides=tuple(_sides(told, of_teacher is not None)),
        seeds=tuple(told.runs[place].seed for place in told.distilled),
        low=_nats(low),
        high=_nats(high),
        share=f"{100 * share:.2g}%" if shares else "",
        width=pixels.shape[3],
        height=pixels.shape[2],
        ramp=", ".join(RAMP),
        held=held,
    )


def shown(told: Explanation, images: int) -> int:
    """How many images a page of reasonable size shows."""
    each = told.grid**2 * (len(told.epochs) * len(told.runs) + 2) * (1 + 1 / 8) * 4 / 3
    return min(images, MOST, max(int(BYTES / each), FEWEST))


def _changes(told: Explanation, maps: Maps) -> NDArray[np.float64]:
    """Cells gained and lost on the subject, then on the background, by image, [4, I], means over seeds.

    Of the distilled student against the other at the end; without another, of the end against the first checkpoint.
    """
    found = []
    for seed, place in enumerate(told.distilled):
        ours = maps.concepts[place][-1]
        theirs = maps.concepts[told.labels[seed]][-1] if told.labels else maps.concepts[place][0]
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
    told: Explanation, maps: Maps, image: int, place: int, change: NDArray[np.float64], pixels: NDArray[np.uint8]
) -> Card:
    digits = 1 if len(told.distilled) > 1 else 0
    gained_fg, lost_fg, gained_bg, lost_bg = (float(each) for each in change)
    return Card(
        place=place,
        row=told.rows[image],
        label=class_name(told.class_names, int(maps.labels[image])),
        uri=png_uri(pixels),
        change=f"Subject: {amount(gained_fg, digits)} gained, {amount(lost_fg, digits)} lost. "
        f"Background: {amount(gained_bg, digits)} gained, {amount(lost_bg, digits)} lost.",
    )


def _sides(told: Explanation, with_teacher: bool) -> list[Side]:
    found = [Side("teacher", "Teacher", "teacher")] if with_teacher else []
    found.append(Side("distilled", side(told, told.distilled[0]), "student"))
    return [*found, Side("labels", "From labels", "other-1")] if told.labels else found


def _span(values: Floats) -> tuple[float, float]:
    """The ends of the scale of colours, in nats, to a tenth; single cells may lie beyond."""
    low, high = (float(each) for each in np.percentile(values, _TAILS))
    low, high = np.floor(10 * low) / 10, np.ceil(10 * high) / 10
    return round(float(low), 1), round(float(high if high > low else low + 0.1), 1)


def _nats(value: float) -> str:
    return f"{value:.1f}".replace("-", MINUS, 1)


def _quantised(values: Floats, low: float, high: float) -> str:
    """A byte a cell: a shade of 256 is finer than what an entropy's own error tells apart."""
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
