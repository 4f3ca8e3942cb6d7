"""Signs for noise whose neighbours do not disturb each other: over all draws, near pixels are exactly orthogonal."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]


def signs(draws: int, channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Noise of ±1 [n, C, H, W] in which pixels near each other are orthogonal: Σ_d ε_d,p·ε_d,q = 0.

    Each pixel and channel has one of n codes, a column of a Hadamard matrix, times a sign drawn at random. A channel
    has ⌊n/C⌋ codes of its own, laid out in the lattice that keeps equal ones furthest apart; with more channels than
    draws, channels share them.

    What a pixel's noise does is measured among that of all others, which do more the nearer they are: they see the
    same channels of the same layers. In independent draws each disturbs each.

    Args:
        draws: n, an order of :func:`orders`.
        channels: C.
        height: H.
        width: W.
        generator: draws the signs and the order of the draws.

    >>> noise = signs(8, 1, 4, 4, torch.Generator().manual_seed(0)).flatten(1)
    >>> (noise.T @ noise)[5, [4, 5, 6, 9]].tolist()
    [0.0, 8.0, 0.0, 0.0]
    """
    own = max(1, draws // channels)
    y, x = np.mgrid[:height, :width]
    place = x + width * y if own >= height * width else (x + lattice(own) * y) % own
    code = (place + own * np.arange(channels)[:, None, None]) % draws
    order = torch.randperm(draws, generator=generator)
    flips = 2 * torch.randint(0, 2, (channels, height, width), generator=generator) - 1
    matrix = torch.from_numpy(hadamard(draws)).float()[order]
    return matrix[:, torch.from_numpy(code)] * flips


def orders(most: int) -> list[int]:
    """The numbers of draws from 4 to ``most`` that there are signs for.

    >>> orders(32)
    [4, 8, 12, 16, 20, 24, 32]
    """
    return [order for order in range(4, most + 1, 4) if _exists(order)]


@lru_cache(maxsize=8)
def hadamard(order: int) -> Integers:
    """A matrix of ±1 whose columns are orthogonal, [n, n]: Paley's where n − 1 is a prime, else twice a smaller one.

    Args:
        order: n, of :func:`orders`.

    >>> bool((hadamard(12).T @ hadamard(12) == 12 * np.eye(12)).all())
    True
    """
    if order in (1, 2):
        return np.array([[1]]) if order == 1 else np.array([[1, 1], [1, -1]])
    prime = order - 1
    if not _is_prime(prime):
        return np.kron(hadamard(2), hadamard(order // 2))
    residue = np.full(prime, -1)
    residue[np.arange(1, prime) ** 2 % prime] = 1
    residue[0] = 0
    skew = np.zeros((order, order), dtype=np.int64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = residue[np.subtract.outer(np.arange(prime), np.arange(prime)).T % prime]
    return skew + np.eye(order, dtype=np.int64)


@lru_cache(maxsize=64)
def lattice(codes: int) -> int:
    """The b for which (x + b·y) mod n keeps equal codes furthest apart.

    >>> lattice(5), lattice(10)
    (2, 3)
    """
    reach = int(np.sqrt(1.2 * codes)) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    far = np.where((x == 0) & (y == 0), np.iinfo(np.int64).max, x * x + y * y)
    nearest = [int(far[(x + b * y) % codes == 0].min()) for b in range(codes)]
    return int(np.argmax(nearest))


def _exists(order: int) -> bool:
    return order in (1, 2) or (order % 4 == 0 and (_is_prime(order - 1) or _exists(order // 2)))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
