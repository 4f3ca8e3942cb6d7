"""Pictures that are made, so that it is known where their subject is, and how much the background gives away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from stillroom.data.config import ShapesConfig
from stillroom.data.folders import missing_split
from stillroom.data.images import ImageSet
from stillroom.data.stacking import require_memory
from stillroom.randomness import counter_uniform

SPLITS = ("train", "test")

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Places = Callable[[Floats, Floats], Booleans]

# What is drawn, a stream each.
_LABEL, _LEAN, _GROUND, _X, _Y, _SIZE, _TURN, _COLOUR, _JITTER, _PHASE, _PIXEL = range(11)
_CHUNK = 256  # pictures that are made at a time

# Each shape in coordinates (u, v) in which it lies within a circle of radius 1.
_SHAPES: dict[str, Places] = {
    "disc": lambda u, v: u * u + v * v <= 0.72,
    "triangle": lambda u, v: (v >= -0.5) & (3**0.5 * np.abs(u) + v <= 1),
    "cross": lambda u, v: (
        np.minimum(np.abs(u), np.abs(v)) <= np.where(np.maximum(np.abs(u), np.abs(v)) <= 0.95, 0.3, -1)
    ),
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.3),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.7,
    "bar": lambda u, v: (np.abs(u) <= 0.32) & (np.abs(v) <= 0.95),
}
NAMES = tuple(_SHAPES)

# Each background: its colour, and where its texture is light, in pixels (x, y) from a place of its own.
_GROUNDS: tuple[tuple[tuple[int, int, int], Places], ...] = (
    ((150, 110, 110), lambda x, y: y % 6 < 3),
    ((110, 150, 110), lambda x, y: x % 6 < 3),
    ((110, 110, 150), lambda x, y: (x // 4 + y // 4) % 2 < 1),
    ((150, 150, 110), lambda x, y: (x + y) % 8 < 4),
    ((110, 150, 150), lambda x, y: (x % 6 < 3) & (y % 6 < 3)),
    ((150, 110, 150), lambda x, y: (x - y) % 8 < 4),
)
_GREY = 130.0


def read_shapes(config: ShapesConfig, split: str, field: str = "split") -> ImageSet:
    """A split of the pictures: uint8 [N, 3, H, H], with a mask of each one's subject.

    A shape of its class's kind lies anywhere, turned, in a random colour, upon a background of one of K kinds. With the
    probability ``correlation``, that is its class's own kind; else any, all alike. With 0 the background says nothing
    of the class, with 1 it says all, and a model may as well lean on it; with ``patch``, one corner does. Picture i is
    addressed by (seed, split, i): smaller splits begin larger ones, and what is drawn for one option does not move
    another.

    Args:
        config: the pictures' options.
        split: ``train`` or ``test``.
        field: the field that an error names.

    Raises:
        BadInput: there is no such split, or it does not fit into memory.

    >>> pictures = read_shapes(ShapesConfig(test=20), "test")
    >>> pictures, tuple(pictures.masks.shape)
    (ImageSet('shapes': 20 images of 3×32×32, uint8, 4 classes), (20, 32, 32))
    """
    if split not in SPLITS:
        raise missing_split(field, split, SPLITS)
    stream = SPLITS.index(split)
    count, side = (config.test if stream else config.train), config.image_size
    correlation = config.test_correlation if stream and config.test_correlation is not None else config.correlation
    require_memory(4 * count * side * side, f"data.shapes.{split}", f"{count} pictures of {side}×{side}")
    images = np.empty((count, 3, side, side), np.uint8)
    masks = np.empty((count, side, side), np.bool_)
    labels = np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        rows = slice(start, min(start + _CHUNK, count))
        images[rows], masks[rows], labels[rows] = _made(config, stream, correlation, np.arange(rows.start, rows.stop))
    return ImageSet(
        torch.from_numpy(images),
        torch.from_numpy(labels),
        NAMES[: config.classes],
        "shapes",
        masks=torch.from_numpy(masks),
    )


def _made(
    config: ShapesConfig, stream: int, correlation: float, index: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], Booleans, npt.NDArray[np.int64]]:
    """Some pictures, their masks, their labels. Sums, products and roots only: the same bytes on any machine."""
    side, kinds = config.image_size, config.classes

    def drawn(what: int, *more: int) -> Floats:
        """Uniform numbers in [0, 1), [n, …]."""
        size = int(np.prod(more, dtype=np.int64))
        places = (index[:, None] * size + np.arange(size)).reshape(-1)
        return counter_uniform(config.seed, stream, places, what, purpose="shapes").reshape(len(index), *more)

    labels = np.floor(kinds * drawn(_LABEL)).astype(np.int64)
    anywhere = np.floor(kinds * drawn(_GROUND)).astype(np.int64)
    ground = np.where(drawn(_LEAN) < correlation, labels, anywhere)

    radius = side * (0.22 + 0.12 * drawn(_SIZE))
    centre_x, centre_y = (radius + (side - 2 * radius) * drawn(what) for what in (_X, _Y))
    # A turn from the tangent of half its angle: libraries differ in the last bits of a cosine.
    tangent = 2 * drawn(_TURN) - 1
    cosine, sine = (1 - tangent**2) / (1 + tangent**2), 2 * tangent / (1 + tangent**2)
    place = np.arange(side) + 0.5
    x = (place[None, None, :] - centre_x[:, None, None]) / radius[:, None, None]
    y = (centre_y[:, None, None] - place[None, :, None]) / radius[:, None, None]
    u = cosine[:, None, None] * x + sine[:, None, None] * y
    v = cosine[:, None, None] * y - sine[:, None, None] * x
    inside = np.empty((len(index), side, side), np.bool_)
    for kind, name in enumerate(NAMES[:kinds]):
        inside[labels == kind] = _SHAPES[name](u[labels == kind], v[labels == kind])

    phase = np.floor(24 * drawn(_PHASE, 2))
    column, row = (
        np.arange(side)[None, None, :] + phase[:, 0, None, None],
        np.arange(side)[None, :, None] + phase[:, 1, None, None],
    )
    base = np.array([colour for colour, _ in _GROUNDS], dtype=np.float64)[ground]
    light = np.empty_like(inside)
    for kind, (_, texture) in enumerate(_GROUNDS[:kinds]):
        light[ground == kind] = texture(column[ground == kind], row[ground == kind])
    behind = (base + 20 * drawn(_JITTER, 3) - 10)[:, :, None, None] + np.where(light, 18.0, -18.0)[:, None]
    if config.patch:
        far = (side - config.patch) * (np.stack([centre_x, centre_y]) < side / 2)
        in_patch = [
            (np.arange(side) >= start[:, None]) & (np.arange(side) < start[:, None] + config.patch) for start in far
        ]
        behind = np.where(in_patch[0][:, None, None, :] & in_patch[1][:, None, :, None], behind, _GREY)
    # Dark or bright in each channel, which no background is: the shape stands out, and its colour says nothing of it.
    colour = drawn(_COLOUR, 3)
    subject = np.where(colour < 0.5, 80 * colour, 175 + 80 * colour)
    picture = np.where(inside[:, None], subject[:, :, None, None], behind)
    picture = picture + config.noise * (2 * drawn(_PIXEL, 3, side, side) - 1)
    return np.clip(np.floor(picture + 0.5), 0, 255).astype(np.uint8), inside, labels
