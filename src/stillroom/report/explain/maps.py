"""The maps of an explanation, read and checked: images, their subject, entropies and concepts over the training."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stillroom.errors import BadInput
from stillroom.report.explain.read import TEACHER, Explanation

MAPS = "explain-maps.npz"
Array = NDArray[Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Maps:
    """What the pictures are made of, for M checkpoints, I images and g × g cells.

    Attributes:
        images: as stored, [I, C, H, W].
        labels: [I].
        foreground: [I, g, g].
        entropy: of each run, [M, I, g, g] in nats.
        concepts: of each run, [M, I, g, g].
        teacher: its entropies and concepts, [I, g, g]; None where there is none.
        attribution: by the place of the run or ``teacher``, [I, g, g]; only those that are there.
    """

    images: Array
    labels: NDArray[np.int64]
    foreground: Bools
    entropy: tuple[Floats, ...]
    concepts: tuple[Bools, ...]
    teacher: tuple[Floats, Bools] | None
    attribution: dict[str, Floats]


def read_maps(folder: Path, told: Explanation) -> Maps:
    """Read the maps of a run.

    Args:
        folder: of the run.
        told: its explanation, which says how many there are.

    Raises:
        BadInput: there are none, they are damaged, or do not fit the explanation.
    """
    path = folder / MAPS
    if not path.is_file():
        raise BadInput("maps", str(folder), f"a run with {MAPS}; `stillroom explain` writes it")
    try:
        with np.load(path) as file:
            held = {name: np.asarray(file[name]) for name in file.files}
    # What numpy raises for a damaged archive depends on where it is damaged.
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput("maps", str(path), f"a whole file of maps ({reason})") from None
    return _checked(path, held, told)


def _checked(path: Path, held: dict[str, Array], told: Explanation) -> Maps:
    images, grid, checkpoints = len(told.rows), told.grid, len(told.epochs)
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
    names = [*map(str, range(len(told.runs))), TEACHER]
    return Maps(
        images=pixels,
        labels=labels.astype(np.int64),
        foreground=yes_or_no("foreground", cells),
        entropy=tuple(numbers(f"entropy-{place}", whole) for place in range(len(told.runs))),
        concepts=tuple(yes_or_no(f"concepts-{place}", whole) for place in range(len(told.runs))),
        teacher=(
            (numbers("entropy-teacher", cells), yes_or_no("concepts-teacher", cells))
            if "entropy-teacher" in held and told.teacher is not None
            else None
        ),
        attribution={name: numbers(f"attribution-{name}", cells) for name in names if f"attribution-{name}" in held},
    )
