"""Generated data with a known answer: vectors with known class relations, pictures with known subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stillroom.data.config import ShapesConfig, SyntheticConfig
from stillroom.data.images import ImageSet, Truth
from stillroom.data.reading import require_memory, split_error
from stillroom.randomness import counter_uniform

SPLITS = ("train", "test")

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Region = Callable[[Floats, Floats], Booleans]

# A stream for each quantity, so that one never depends on another.
_SUPERCLASS, _CLASS, _SAMPLE, _NOISE = range(4)
# Samples are rounded to 1/1024: machines differ in the last bits of a logarithm, which then tell in one number in 10¹¹.
_STEPS = 1024
_NUMBERS = 1 << 21  # made at a time: hashes and scores take several times a sample's own memory


@dataclass(frozen=True, eq=False)
class SyntheticTask:
    """The rule that labels a sample.

    l_k = w_k·x + Σ_{m≤M} sin(α_m w_k·x + β_m) for each class k; the label is argmax_k (l_k + noise), the first of equal
    ones.

    Paper: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts" (KDD
    2018), for the sines; Tang et al. (arXiv 2002.03532), for classes in superclasses.

    >>> task = SyntheticTask(np.eye(3), np.empty(0), np.empty(0))
    >>> labels, margin = label_samples(task.scores(np.array([[0.5, 2.0, 1.0]])))
    >>> labels.tolist(), margin.tolist()
    ([1], [1.0])
    """

    class_vectors: Floats  # w, float64 [K, d], of length 1
    frequencies: Floats  # α, float64 [M]
    phases: Floats  # β in radians, float64 [M]

    def scores(self, samples: Floats) -> Floats:
        """The score of each class before noise, in 6 decimals: float64 [n, K].

        Libraries add up in different orders; in 6 decimals, classes with the same vector have the same score.
        """
        projections = samples @ self.class_vectors.T
        scores = projections.copy()
        for frequency, phase in zip(self.frequencies, self.phases, strict=True):
            scores += np.sin(frequency * projections + phase)
        return np.round(scores, 6)

    @property
    def relations(self) -> Floats:
        """The cosine of each two class vectors, float64 [K, K].

        In 12 decimals: what is orthogonal has 0, not what rounding left.
        """
        return np.round(self.class_vectors @ self.class_vectors.T, 12) + 0.0


def make_task(config: SyntheticConfig) -> SyntheticTask:
    """The task that the options describe, a pure function of them.

    w_k = s·u_{c(k)} + √(1−s²)·v_k; α_m = m/2, β_m = −m.

    The u are orthonormal, the v of length 1 and orthogonal to all u. The first d − C of the v are orthogonal to each
    other, and so are the next; so where d is below C + K, the relations are s² and 0 only nearly, and
    :attr:`SyntheticTask.relations` has them as they are. Tasks that differ in ``similarity`` alone have the same u, v
    and samples.

    The waves are the same for every seed, so that a seed does not decide how hard the task is. They rise together where
    w·x is 2, which is about where the largest of 50 standard normal numbers lies: with one or two of them, the largest
    l is that of the largest w·x; with 4, 8 and 16, in about 87, 56 and 40 samples of 100.

    >>> task = make_task(SyntheticConfig(dimension=8, classes=4, superclasses=2, similarity=0.5))
    >>> task.relations[0].tolist()
    [1.0, 0.25, 0.0, 0.0]
    """
    count, left = config.superclasses, config.dimension - config.superclasses
    shared = _orthonormal(_normals(config.seed, 0, _SUPERCLASS, 0, count, config.dimension))
    drawn = _normals(config.seed, 0, _CLASS, 0, config.classes, config.dimension)
    own = np.concatenate(
        [
            _orthonormal(np.concatenate([shared, drawn[start : start + left]]))[count:]
            for start in range(0, config.classes, left)
        ]
    )
    s = config.similarity
    vectors = s * shared[superclass_numbers(config)] + np.sqrt(1 - s * s) * own
    waves = np.arange(1.0, config.waves + 1)
    return SyntheticTask(vectors, waves / 2, -waves)


def superclass_numbers(config: SyntheticConfig) -> npt.NDArray[np.int64]:
    """The superclass of each class, int64 [K]: neighbours belong together, and no superclass has two classes more.

    >>> superclass_numbers(SyntheticConfig(classes=5, superclasses=2)).tolist()
    [0, 0, 0, 1, 1]
    """
    return np.arange(config.classes) * config.superclasses // config.classes


def label_samples(scores: Floats, noise: Floats | float = 0.0) -> tuple[npt.NDArray[np.int64], Floats]:
    """The label of each sample, and its margin.

    Args:
        noise: added to them before the largest is chosen, float64 [n, K].

    Returns:
        The labels, int64 [n], and the margins, float64 [n]: the label's score minus the largest of the others, both
        before noise; below 0 where the noise changed the label.

    >>> label_samples(np.array([[3.0, 1.0, 2.0]]), noise=np.array([[0.0, 0.0, 1.5]]))
    (array([2]), array([-1.]))
    """
    labels = (scores + noise).argmax(1)
    rows = np.arange(len(scores))
    others = scores.copy()
    others[rows, labels] = -np.inf
    return labels, scores[rows, labels] - others.max(1)


def read_synthetic(config: SyntheticConfig, split: str, field: str = "split") -> ImageSet:
    """A split of the task: vectors as float32 [N, d, 1, 1], with superclasses and truth.

    A vector is an image of one pixel with d channels, so that every model of the zoo can take it. Sample i is addressed
    by (seed, split, i): it is the same whatever the number of samples, and smaller splits begin larger ones.

    >>> read_synthetic(SyntheticConfig(dimension=20, classes=6, superclasses=3, test=100), "test")
    ImageSet('synthetic': 100 images of 20×1×1, float32, 6 classes)
    """
    if split not in SPLITS:
        raise split_error(field, split, SPLITS)
    count, dimension = (config.test if split == "test" else config.train), config.dimension
    needed = 4 * count * dimension + 32 * (config.classes + config.superclasses) * dimension + 16 * config.classes**2
    require_memory(needed, f"data.synthetic.{split}", f"{count} samples of {dimension} numbers")
    task, stream = make_task(config), SPLITS.index(split)
    samples = np.empty((count, dimension), np.float32)
    labels, margin = np.empty(count, np.int64), np.empty(count, np.float32)
    step = max(1, _NUMBERS // max(dimension, config.classes))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        size = rows.stop - start
        x = np.round(_normals(config.seed, stream, _SAMPLE, start, size, dimension) * _STEPS) / _STEPS
        noise: Floats | float = 0.0
        if config.noise:
            noise = config.noise * _normals(config.seed, stream, _NOISE, start, size, config.classes)
        samples[rows] = x
        labels[rows], margin[rows] = label_samples(task.scores(x), noise)
    superclasses = superclass_numbers(config)
    within = np.arange(config.classes) - np.searchsorted(superclasses, superclasses)
    return ImageSet(
        torch.from_numpy(samples)[:, :, None, None],
        torch.from_numpy(labels),
        tuple(f"s{superclass}.{member}" for superclass, member in zip(superclasses, within, strict=True)),
        "synthetic",
        superclasses=tuple(f"s{superclass}" for superclass in superclasses),
        truth=Truth(torch.from_numpy(task.relations), torch.from_numpy(margin)),
    )


def _normals(seed: int, split: int, what: int, first: int, rows: int, columns: int) -> Floats:
    """Rows ``first`` … of a table of standard normal numbers without end, float64 [rows, columns]."""
    from scipy.special import ndtri  # which other data need not wait for

    index = np.arange(first * columns, (first + rows) * columns)
    uniform = counter_uniform(seed, split, index, what, purpose="synthetic")
    # 0 is as likely as any other of 2⁵³ numbers, and would be −∞.
    return np.asarray(ndtri(np.maximum(uniform, 2.0**-53)), dtype=np.float64).reshape(rows, columns)


def _orthonormal(rows: Floats) -> Floats:
    """Gram and Schmidt's orthonormal rows of the given ones, [n, d] with n ≤ d."""
    basis, triangle = np.linalg.qr(rows.T)
    # The signs are the library's own; with a positive diagonal, the factors are unique.
    return np.asarray((basis * np.sign(np.diag(triangle))).T)


# The same of a picture.
_LABEL, _LEAN, _GROUND, _X, _Y, _SIZE, _TURN, _COLOUR, _JITTER, _PHASE, _PIXEL = range(11)
_PICTURES = 256  # made at a time

# Each shape in coordinates (u, v) in which it lies within a circle of radius 1.
_SHAPES: dict[str, Region] = {
    "disc": lambda u, v: u * u + v * v <= 0.72,
    "triangle": lambda u, v: (v >= -0.5) & (3**0.5 * np.abs(u) + v <= 1),
    "cross": lambda u, v: (
        np.minimum(np.abs(u), np.abs(v)) <= np.where(np.maximum(np.abs(u), np.abs(v)) <= 0.95, 0.3, -1)
    ),
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.3),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.7,
    "bar": lambda u, v: (np.abs(u) <= 0.32) & (np.abs(v) <= 0.95),
}
SHAPE_NAMES = tuple(_SHAPES)

# Each background: its colour, and where its texture is light, in pixels (x, y) from a place of its own.
_GROUNDS: tuple[tuple[tuple[int, int, int], Region], ...] = (
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

    The shape of its class, at a random place and angle and in a random colour, on a background of one of K kinds: with
    probability ``correlation`` the kind of its class, else any of the K. At 0 the background says nothing of the class,
    at 1 everything; with ``patch``, only one corner has it. Picture i is a function of (seed, split, i): smaller splits
    are the beginning of larger ones, and no option moves what is drawn for another.

    >>> pictures = read_shapes(ShapesConfig(test=20), "test")
    >>> pictures, tuple(pictures.masks.shape)
    (ImageSet('shapes': 20 images of 3×32×32, uint8, 4 classes), (20, 32, 32))
    """
    if split not in SPLITS:
        raise split_error(field, split, SPLITS)
    stream = SPLITS.index(split)
    count, side = (config.test if stream else config.train), config.image_size
    correlation = config.test_correlation if stream and config.test_correlation is not None else config.correlation
    require_memory(4 * count * side * side, f"data.shapes.{split}", f"{count} pictures of {side}×{side}")
    images = np.empty((count, 3, side, side), np.uint8)
    masks = np.empty((count, side, side), np.bool_)
    labels = np.empty(count, np.int64)
    for start in range(0, count, _PICTURES):
        rows = slice(start, min(start + _PICTURES, count))
        images[rows], masks[rows], labels[rows] = _make_pictures(
            config, stream, correlation, np.arange(rows.start, rows.stop)
        )
    return ImageSet(
        torch.from_numpy(images),
        torch.from_numpy(labels),
        SHAPE_NAMES[: config.classes],
        "shapes",
        masks=torch.from_numpy(masks),
    )


def _make_pictures(
    config: ShapesConfig, stream: int, correlation: float, index: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], Booleans, npt.NDArray[np.int64]]:
    """Pictures, masks and labels. Sums, products and roots only: the same bytes on any machine."""
    side, kinds = config.image_size, config.classes

    def draw(what: int, *more: int) -> Floats:
        """Uniform numbers in [0, 1), [n, …]."""
        size = int(np.prod(more, dtype=np.int64))
        places = (index[:, None] * size + np.arange(size)).reshape(-1)
        return counter_uniform(config.seed, stream, places, what, purpose="shapes").reshape(len(index), *more)

    labels = np.floor(kinds * draw(_LABEL)).astype(np.int64)
    anywhere = np.floor(kinds * draw(_GROUND)).astype(np.int64)
    ground = np.where(draw(_LEAN) < correlation, labels, anywhere)

    radius = side * (0.22 + 0.12 * draw(_SIZE))
    centre_x, centre_y = (radius + (side - 2 * radius) * draw(what) for what in (_X, _Y))
    # A turn from the tangent of half its angle: libraries differ in the last bits of a cosine.
    tangent = 2 * draw(_TURN) - 1
    cosine, sine = (1 - tangent**2) / (1 + tangent**2), 2 * tangent / (1 + tangent**2)
    place = np.arange(side) + 0.5
    x = (place[None, None, :] - centre_x[:, None, None]) / radius[:, None, None]
    y = (centre_y[:, None, None] - place[None, :, None]) / radius[:, None, None]
    u = cosine[:, None, None] * x + sine[:, None, None] * y
    v = cosine[:, None, None] * y - sine[:, None, None] * x
    inside = np.empty((len(index), side, side), np.bool_)
    for kind, name in enumerate(SHAPE_NAMES[:kinds]):
        inside[labels == kind] = _SHAPES[name](u[labels == kind], v[labels == kind])

    phase = np.floor(24 * draw(_PHASE, 2))
    column, row = (
        np.arange(side)[None, None, :] + phase[:, 0, None, None],
        np.arange(side)[None, :, None] + phase[:, 1, None, None],
    )
    base = np.array([colour for colour, _ in _GROUNDS], dtype=np.float64)[ground]
    light = np.empty_like(inside)
    for kind, (_, texture) in enumerate(_GROUNDS[:kinds]):
        light[ground == kind] = texture(column[ground == kind], row[ground == kind])
    behind = (base + 20 * draw(_JITTER, 3) - 10)[:, :, None, None] + np.where(light, 18.0, -18.0)[:, None]
    if config.patch:
        far = (side - config.patch) * (np.stack([centre_x, centre_y]) < side / 2)
        in_patch = [
            (np.arange(side) >= start[:, None]) & (np.arange(side) < start[:, None] + config.patch) for start in far
        ]
        behind = np.where(in_patch[0][:, None, None, :] & in_patch[1][:, None, :, None], behind, _GREY)
    # Dark or bright in each channel, which no background is: the shape stands out, and its colour says nothing of it.
    colour = draw(_COLOUR, 3)
    subject = np.where(colour < 0.5, 80 * colour, 175 + 80 * colour)
    picture = np.where(inside[:, None], subject[:, :, None, None], behind)
    picture = picture + config.noise * (2 * draw(_PIXEL, 3, side, side) - 1)
    return np.clip(np.floor(picture + 0.5), 0, 255).astype(np.uint8), inside, labels
