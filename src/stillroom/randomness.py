"""Named random streams: every draw is addressed by (seed, purpose, counters), so no generator state exists.

A stream is a pure function of its address. Two things follow: nothing about randomness needs to be saved beyond
the seed and the step, and one purpose can never disturb another (drawing one more augmentation does not move
the student's initial weights).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

Purpose = Literal[
    "student-init",
    "connector-init",
    "order",
    "augmentation",
    "dropout",
    "negatives",
    "subset",
    "holdout",
    "fisher",
    "bootstrap",
    "synthetic",
    "shapes",
    "explain",
    "class-order",
    "exemplars",
]
PURPOSES: tuple[str, ...] = get_args(Purpose)

_U64 = np.uint64
_GOLDEN = _U64(0x9E3779B97F4A7C15)


def derive_seed(seed: int, purpose: Purpose, *counters: int) -> int:
    """The 63-bit seed of one stream at one point, BLAKE2b of (seed, purpose, counters).

    Args:
        seed: the run's seed (or the augmentation's).
        purpose: one of ``PURPOSES``.
        counters: where in the stream: an epoch, a step.

    Raises:
        ValueError: the purpose is not a known stream.

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
    True
    >>> derive_seed(0, "order", 1) == derive_seed(0, "dropout", 1)
    False
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose: got {purpose!r}; expected one of {', '.join(PURPOSES)}")
    address = "/".join([str(seed), purpose, *map(str, counters)]).encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: Purpose, *counters: int) -> torch.Generator:
    """A fresh CPU generator at one point of a stream."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))


@contextmanager
def seed_rng(seed: int, purpose: Purpose, *counters: int) -> Iterator[None]:
    """Run a block with torch's global generators seeded at one point of a stream; their state is restored after it."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    start = derive_seed(seed, purpose, *counters)
    with torch.random.fork_rng(devices=devices):
        # Not ``torch.manual_seed``, which takes milliseconds to seed devices of every kind.
        torch.default_generator.manual_seed(start)
        if devices:
            torch.cuda.manual_seed_all(start)
        yield


@contextmanager
def seed_every_rng(seed: int, purpose: Purpose, *counters: int) -> Iterator[None]:
    """Run a block with the global generators of ``random``, NumPy and torch (CPU) seeded at one point of a stream.

    Their states are restored after it.

    >>> import random
    >>> def draw() -> float:
    ...     with seed_every_rng(0, "augmentation", 3, 7):
    ...         return random.random() + np.random.rand() + torch.rand(()).item()
    >>> draw() == draw()
    True
    """
    start = derive_seed(seed, purpose, *counters)
    kept = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(start)
    np.random.seed(start & 0xFFFFFFFF)
    torch.default_generator.manual_seed(start)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.random.set_rng_state(kept[2])


def permutation(size: int, seed: int, purpose: Purpose, *counters: int) -> npt.NDArray[np.int64]:
    """A permutation of 0 … size−1, a pure function of its address: int64 [size]."""
    drawn = torch.randperm(size, generator=generator(seed, purpose, *counters))
    return np.asarray(drawn.numpy(), dtype=np.int64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection of 64-bit words whose output bits all depend on all input bits."""
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


def counter_hash(
    seed: int, view: int, index: npt.NDArray[np.int64], what: int, *, purpose: Purpose = "augmentation"
) -> npt.NDArray[np.uint64]:
    """Hash of (seed, view, sample index, what is drawn), one 64-bit word a sample.

    Args:
        seed: the augmentation's seed.
        view: the view number.
        index: sample indices, [B].
        what: a small number naming the quantity drawn (0 = shift, 1 = flip, …).
        purpose: whose stream it is.

    Returns:
        uint64 [B].

    >>> a = counter_hash(0, 1, np.arange(4), 0)
    >>> bool((a == counter_hash(0, 1, np.arange(4)[::-1], 0)[::-1]).all())   # order does not matter
    True
    """
    base = _U64(derive_seed(seed, purpose, view, what))
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        return _mix(_mix(index.astype(np.uint64) * _GOLDEN + base) + _GOLDEN)


def counter_uniform(
    seed: int, view: int, index: npt.NDArray[np.int64], what: int, *, purpose: Purpose = "augmentation"
) -> npt.NDArray[np.float64]:
    """Uniform draws in [0, 1) from :func:`counter_hash`, float64 [B]."""
    return (counter_hash(seed, view, index, what, purpose=purpose) >> _U64(11)).astype(np.float64) * 2.0**-53
