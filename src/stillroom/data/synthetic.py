"""A task that is made, so that the truth about it is known: how its classes are related, how difficult a sample is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stillroom.data.config import SyntheticConfig
from stillroom.data.folders import missing_split
from stillroom.data.images import ImageSet
from stillroom.data.stacking import require_memory
from stillroom.data.truth import Truth
from stillroom.randomness import counter_uniform

SPLITS = ("train", "test")

Floats = npt.NDArray[np.float64]

# What is drawn, a stream each: the draws of one quantity never depend on another's being asked for.
_SUPERCLASS, _CLASS, _SAMPLE, _NOISE = range(4)
# Samples are rounded to 1/1024: machines differ in the last bits of a logarithm, which then tell in one number in 10¹¹.
_STEPS = 1024
_CHUNK = 1 << 21  # numbers that are made at a time: hashes and scores take several times a sample's own memory


@dataclass(frozen=True, eq=False)
class Task:
    """The rule that gives a sample its label.

    l_k = w_k·x + Σ_{m≤M} sin(α_m w_k·x + β_m) for each class k; the label is argmax_k (l_k + noise), the first of equal
    ones.

    Attributes:
        class_vectors: w, float64 [K, d], of length 1.
        frequencies: α, float64 [M].
        phases: β in radians, float64 [M].

    Paper: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts" (KDD
    2018), for the sines; Tang et al. (arXiv 2002.03532), for classes in superclasses.

    >>> task = Task(np.eye(3), np.empty(0), np.empty(0))
    >>> labels, margin = answers(task.scores(np.array([[0.5, 2.0, 1.0]])))
    >>> labels.tolist(), margin.tolist()
    ([1], [1.0])
    """

    class_vectors: Floats
    frequencies: Floats
    phases: Floats

    def scores(self, samples: Floats) -> Floats:
        """The score of each class before noise, in 6 decimals: float64 [n, K].

        Libraries add up in different orders; in 6 decimals, classes with the same vector have the same score.

        Args:
            samples: x, float64 [n, d].
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


def make_task(config: SyntheticConfig) -> Task:
    """The task that the options describe, a pure function of them.

    w_k = s·u_{c(k)} + √(1−s²)·v_k; α_m = m/2, β_m = −m.

    The u are orthonormal, the v of length 1 and orthogonal to all u. The first d − C of the v are orthogonal to each
    other, and so are the next; so where d is below C + K, the relations are s² and 0 only nearly, and
    :attr:`Task.relations` has them as they are. Options that say nothing of a vector do not move it: tasks that differ
    in ``similarity`` alone have the same u, v and samples.

    The waves are the same for every seed, so that a seed does not decide how hard the task is. They rise together where
    w·x is 2, which is about where the largest of 50 standard normal numbers lies: with one or two of them, the largest
    l is that of the largest w·x; with 4, 8 and 16, in about 87, 56 and 40 samples of 100.

    Args:
        config: the task's options.

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
    return Task(vectors, waves / 2, -waves)


def superclass_numbers(config: SyntheticConfig) -> npt.NDArray[np.int64]:
    """The superclass of each class, int64 [K]: neighbours belong together, and no superclass has two classes more.

    >>> superclass_numbers(SyntheticConfig(classes=5, superclasses=2)).tolist()
    [0, 0, 0, 1, 1]
    """
    return np.arange(config.classes) * config.superclasses // config.classes


def answers(scores: Floats, noise: Floats | float = 0.0) -> tuple[npt.NDArray[np.int64], Floats]:
    """Labels, and by how much each leads.

    Args:
        scores: of each class before noise, float64 [n, K].
        noise: what is added to them before the largest is chosen, float64 [n, K].

    Returns:
        The labels, int64 [n], and the margins, float64 [n]: the label's score less the largest of the others, both
        without the noise. Without noise, this is the largest score less the second; where noise chose another
        class than the scores do, it is below 0.

    >>> answers(np.array([[3.0, 1.0, 2.0]]), noise=np.array([[0.0, 0.0, 1.5]]))
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

    Args:
        config: the task's options.
        split: ``train`` or ``test``.
        field: the field that an error names.

    Raises:
        BadInput: there is no such split, or it does not fit into memory.

    >>> read_synthetic(SyntheticConfig(dimension=20, classes=6, superclasses=3, test=100), "test")
    ImageSet('synthetic': 100 images of 20×1×1, float32, 6 classes)
    """
    if split not in SPLITS:
        raise missing_split(field, split, SPLITS)
    count, dimension = (config.test if split == "test" else config.train), config.dimension
    needed = 4 * count * dimension + 32 * (config.classes + config.superclasses) * dimension + 16 * config.classes**2
    require_memory(needed, f"data.synthetic.{split}", f"{count} samples of {dimension} numbers")
    task, stream = make_task(config), SPLITS.index(split)
    samples = np.empty((count, dimension), np.float32)
    labels, margin = np.empty(count, np.int64), np.empty(count, np.float32)
    step = max(1, _CHUNK // max(dimension, config.classes))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        size = rows.stop - start
        x = np.round(_normals(config.seed, stream, _SAMPLE, start, size, dimension) * _STEPS) / _STEPS
        noise: Floats | float = 0.0
        if config.noise:
            noise = config.noise * _normals(config.seed, stream, _NOISE, start, size, config.classes)
        samples[rows] = x
        labels[rows], margin[rows] = answers(task.scores(x), noise)
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
