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

# Pairs of the look ahead at σ = .01, and passes that a later pair takes at least.
_AHEAD, _COST = 4, 8
# Where on the way from the start to the stop the energies are measured: they hardly move along it.
_WHERE = 0.7


@dataclass(frozen=True)
class Found:
    """What the fast method found of some images.

    Attributes:
        sigma: [B, g, g].
        halves: the same from either half of the draws, [2, B, g, g].
        sigma_f: [B].
        energies: a, [B, g, g]; 0 where σ_f is.
    """

    sigma: Tensor
    halves: Tensor
    sigma_f: Tensor
    energies: Tensor


def pairs_within(passes: int, at_once: int) -> int:
    """How many pairs of draws so many passes an image are enough for.

    Args:
        passes: most network passes an image.
        at_once: images that go through the network together.

    Raises:
        BadInput: there are too few.

    >>> pairs_within(232, at_once=64), pairs_within(232, at_once=8)
    (24, 20)
    """
    left = passes - 1 - _AHEAD * _cost(_AHEAD, at_once, capture=False)
    fitting = [pairs for pairs in orders(left // _COST) if pairs * _cost(pairs, at_once, capture=True) <= left]
    if not fitting:
        fewest = 1 + _AHEAD * _cost(_AHEAD, at_once, capture=False) + 4 * _cost(4, at_once, capture=True)
        raise BadInput("passes", passes, f"{fewest} or more network passes an image")
    return fitting[-1]


def _cost(pairs: int, at_once: int, *, capture: bool) -> int:
    """Passes a pair: each of its images goes forward, and back once for the kinks and once or twice for the slopes.

    What does not go through together goes forward twice: the directions depend on all pairs.
    """
    return 6 + 2 * capture + 2 * (2 * pairs > at_once)


def search(
    asked: Asked,
    images: Tensor,
    index: Sequence[int],
    *,
    weight: float,
    stop: float | None,
    seed: int,
    pairs: int,
) -> Found:
    """σ of some images as the published search would find it.

    1. At σ = .01, a few pairs of draws: the error, and energies that are good enough to look ahead.
    2. At the σ that the search will have on its way (with ``stop=None``: at its optimum), the others: the energies.
    3. The 80 steps with these, or the optimum in closed form.

    σ_f is what was measured at the second σ says of .01; the few pairs there serve the look ahead alone.

    Args:
        asked: the network.
        images: [B, C, H, W].
        index: each image's, which its noise is drawn by.
        weight: λ.
        stop: the mean entropy to stop at.
        seed: of the noise.
        pairs: of draws, as :func:`pairs_within` says.

    Returns:
        What was found. Where σ_f is 0, σ is .01.
    """
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
        return Found(sigma, halves, sigma_f, torch.zeros_like(sigma))
    where = torch.tensor(rows, device=images.device)
    guess = ahead.energies()[where].clamp_min(0)
    # Single cells of so few draws say little: each is taken half way to those around it.
    around = torch.nn.functional.avg_pool2d(guess[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    on_the_way = None if stop is None else _level(start[0]) + _WHERE * (stop - _level(start[0]))
    point = follow((guess + around) / 2, sigma_f[where], weight=weight, stop=on_the_way)
    there = asked_at(point.float(), 2, pairs, rows)
    energies = there.energies()
    settled = there.error_at(START)
    sigma_f[where] = settled
    sigma[where] = follow(energies, settled, weight=weight, stop=stop)
    for half in (0, 1):
        of_half = there.energies(slice(half, None, 2))
        halves[half, where] = follow(of_half, settled, weight=weight, stop=stop)
    of_all = torch.zeros_like(sigma)
    of_all[where] = energies
    return Found(sigma, halves, sigma_f, of_all)


def _level(sigma: Tensor) -> float:
    return float(entropy_of(sigma).mean())
