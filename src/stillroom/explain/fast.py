"""The published search from few passes: its energies measured on its way, its steps then followed without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.explain.asking import Asked, stream
from stillroom.explain.descent import START, entropy_of, follow
from stillroom.explain.energies import Measured, measure
from stillroom.explain.patterns import orders

# Of one image: a look ahead at σ = .01 in so many pairs of 6 passes, then pairs of 8, and 1 pass of the clean image.
_AHEAD, _AHEAD_COST, _COST = 4, 6, 8
FEWEST = 1 + _AHEAD * _AHEAD_COST + 4 * _COST
# Where on the way from the start to the stop the energies are measured: they hardly move along it.
_WHERE = 0.7


@dataclass(frozen=True)
class Found:
    """What the fast method found of some images.

    Attributes:
        sigma: [B, g, g].
        halves: the same from either half of the draws, [2, B, g, g].
        sigma_f: [B].
    """

    sigma: Tensor
    halves: Tensor
    sigma_f: Tensor


def pairs_within(passes: int) -> int:
    """How many pairs of draws so many passes an image are enough for.

    Raises:
        BadInput: there are too few.

    >>> pairs_within(232)
    24
    """
    if passes < FEWEST:
        raise BadInput("passes", passes, f"{FEWEST} or more network passes an image")
    return orders((passes - 1 - _AHEAD * _AHEAD_COST) // _COST)[-1]


def search(
    asked: Asked,
    images: Tensor,
    index: Sequence[int],
    *,
    weight: float,
    stop: float | None,
    seed: int,
    passes: int,
) -> Found:
    """σ of some images as the published search would find it.

    1. At σ = .01, a few pairs of draws: the error, and energies that are good enough to look ahead.
    2. At the σ that the search will have on its way (with ``stop=None``: at its optimum), the others: the energies.
    3. The 80 steps with these, or the optimum in closed form.

    σ_f is the error measured at .01, and that at the second σ brought there by the energies, weighed by their pairs.

    Args:
        asked: the network.
        images: [B, C, H, W].
        index: each image's, which its noise is drawn by.
        weight: λ.
        stop: the mean entropy to stop at.
        seed: of the noise.
        passes: most network passes an image.

    Returns:
        What was found. Where σ_f is 0, σ is .01.
    """
    pairs = pairs_within(passes)
    cells = asked.grid.cells
    with torch.no_grad():
        clean = torch.cat([asked.features(image[None]) for image in images])

    def asked_at(sigma: Tensor, stage: int, count: int, rows: list[int]) -> Measured:
        generators = [stream(seed, index[row], stage) for row in rows]
        where = torch.tensor(rows, device=images.device)
        return measure(asked, images[where], clean[where], sigma, pairs=count, generators=generators, capture=stage > 1)

    start = torch.full((len(images), cells, cells), START, device=images.device)
    everything = list(range(len(images)))
    ahead = asked_at(start, 1, _AHEAD, everything)
    sigma_f = ahead.error
    sigma = start.double()
    halves = sigma.repeat(2, 1, 1, 1)
    rows = [row for row in everything if sigma_f[row] > 0]
    if not rows:
        return Found(sigma, halves, sigma_f)
    where = torch.tensor(rows, device=images.device)
    guess = ahead.energies()[where].clamp_min(0)
    # Single cells of so few draws say little: each is taken half way to those around it.
    around = torch.nn.functional.avg_pool2d(guess[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    on_the_way = None if stop is None else _level(start[0]) + _WHERE * (stop - _level(start[0]))
    point = follow((guess + around) / 2, sigma_f[where], weight=weight, stop=on_the_way)
    there = asked_at(point.float(), 2, pairs, rows)
    energies = there.energies()
    brought = there.error * energies.sum((1, 2)) * START**2 / (energies * point.square()).sum((1, 2))
    usable = (brought > 0) & brought.isfinite()
    mixed = (_AHEAD * sigma_f[where] + pairs * brought) / (_AHEAD + pairs)
    sigma_f[where] = torch.where(usable, mixed, sigma_f[where])
    settled = sigma_f[where]
    sigma[where] = follow(energies, settled, weight=weight, stop=stop)
    for half in (0, 1):
        of_half = there.energies(slice(half, None, 2))
        halves[half, where] = follow(of_half, settled, weight=weight, stop=stop)
    return Found(sigma, halves, sigma_f)


def _level(sigma: Tensor) -> float:
    return float(entropy_of(sigma).mean())
