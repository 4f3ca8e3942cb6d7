"""The search for σ: the published descent with fresh noise in each step, and the same search from few passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.explain.energies import NoiseResponse, measure_response, orders
from stillroom.explain.queries import CountingModel, noise_generator

START, LOWEST, HIGHEST = 0.01, 0.001, 1.0
RATE = 1e-4
STEPS = 80
# Draws of noise in each step.
DRAWS = 96
# Where the entropy has not passed the stop by then, its weight is raised for the steps that are left.
PATIENCE, RAISE = 60, 1.5


@dataclass(frozen=True)
class DescentResult:
    """Where the search came to."""

    sigma: Tensor  # the σ that is kept, [B, g, g]
    steps: Tensor  # how many steps were made, of each image, int64 [B]


def entropy_of_sigma(sigma: Tensor) -> Tensor:
    """H = log σ + ½·log(2πe), the entropy of Gaussian noise in nats.

    >>> round(float(entropy_of_sigma(torch.tensor(0.01))), 4)
    -3.1862
    """
    return sigma.log() + 0.5 * math.log(2 * math.pi * math.e)


def descend(
    gradient: Callable[[Tensor, Tensor], Tensor], sigma: Tensor, *, weight: float, stop: float | None
) -> DescentResult:
    """Minimise MSE(f(x + σ⊙ε), f(x))/σ_f − λ·mean_i H_i as published, each image by itself.

    σ ← clamp(σ, .001, 1), then σ_i ← σ_i − 10⁻⁴·(∂(MSE/σ_f)/∂σ_i − λ/(g²·σ_i)), at most 80 times. Of the σ before each
    step, the first whose mean entropy is nearest ``stop`` is kept. After 60 steps an image whose mean entropy has been
    above ``stop`` is done; for others λ becomes 1.5·λ.

    Args:
        gradient: ∂(MSE/σ_f)/∂σ [b, g, g] at σ [b, g, g] of the images of an index [b].
        sigma: where to start, [B, g, g].

    >>> start = torch.full((1, 16, 16), 0.01)
    >>> still = descend(lambda sigma, which: torch.zeros_like(sigma), start, weight=7, stop=-2.8)
    >>> still.steps.tolist(), round(float(still.sigma.mean()), 4)
    ([60], 0.0147)
    """
    sigma = sigma.clone()
    kept, distance = sigma.clone(), torch.full((len(sigma),), math.inf, dtype=sigma.dtype, device=sigma.device)
    highest = torch.full_like(distance, -math.inf)
    steps = torch.zeros(len(sigma), dtype=torch.int64, device=sigma.device)
    which = torch.arange(len(sigma), device=sigma.device)
    factor = weight / sigma[0].numel()
    for step in range(STEPS):
        now = sigma[which].clamp_(LOWEST, HIGHEST)
        if stop is not None:
            level = entropy_of_sigma(now).mean((1, 2))
            nearer = (level - stop).abs() < distance[which]
            kept[which[nearer]] = now[nearer]
            distance[which] = torch.minimum(distance[which], (level - stop).abs())
            highest[which] = torch.maximum(highest[which], level)
        sigma[which] = now - RATE * (gradient(now, which) - factor / now)
        steps[which] += 1
        if stop is not None and step == PATIENCE - 1:
            which = which[highest[which] <= stop]
            factor *= RAISE
            if not len(which):
                break
    return DescentResult(sigma.clamp(LOWEST, HIGHEST) if stop is None else kept, steps)


def descend_quadratic(energies: Tensor, sigma_f: Tensor, *, weight: float, stop: float | None) -> Tensor:
    """The σ that the search comes to where the error is quadratic: MSE = Σ_i a_i·σ_i².

    With ``stop=None``, the optimum σ_i = √(λ·σ_f/(2·g²·a_i)) within [.001, 1], which is .01·√(λ·ā/(2·a_i)) where
    σ_f = 10⁻⁴·Σ_i a_i; a cell with a_i ≤ 0, whose noise costs nothing, has 1.

    Args:
        energies: a, [B, g, g].
        sigma_f: the error at σ = .01, [B].

    Returns:
        σ [B, g, g].

    >>> energies = torch.tensor([[[1.0, 4.0]]], dtype=torch.float64)
    >>> descend_quadratic(energies, 1e-4 * energies.sum((1, 2)), weight=8, stop=None)
    tensor([[[0.0316, 0.0158]]], dtype=torch.float64)
    """
    ratio = energies / sigma_f[:, None, None]
    if stop is None:
        optimum = (weight / (2 * energies[0].numel() * ratio)).sqrt()
        return torch.where(ratio > 0, optimum, HIGHEST).clamp(LOWEST, HIGHEST)
    start = torch.full_like(ratio, START)
    return descend(lambda sigma, which: 2 * ratio[which] * sigma, start, weight=weight, stop=stop).sigma


def search_published(
    model: CountingModel,
    images: Tensor,
    index: Sequence[int],
    *,
    weight: float,
    stop: float | None,
    seed: int,
    draws: int = DRAWS,
) -> tuple[DescentResult, Tensor]:
    """σ of some images as Cheng et al. published it: 80 steps, Gaussian draws in each.

    Args:
        images: [B, C, H, W].

    Returns:
        The descent, and σ_f [B]: the error at σ = .01 over as many draws. Where σ_f is 0, σ stays .01.
    """
    generators = [noise_generator(seed, one, 0) for one in index]
    with torch.no_grad():
        clean = torch.cat([model.features(image[None]) for image in images])
    cells = model.grid.cells
    start = torch.full((len(images), cells, cells), START, device=images.device)

    def error(sigma: Tensor, which: Tensor, *, gradient: bool) -> Tensor:
        """MSE [b], or its gradient in σ [b, g, g], over the next draws."""
        rows = which.tolist()
        noise = [torch.randn(draws, *images.shape[1:], generator=generators[row]) for row in rows]
        epsilon = torch.cat(noise).to(images.device)
        owner = which.repeat_interleave(draws)
        spread = model.grid.spread(sigma)[:, None].repeat_interleave(draws, 0)
        found = []
        for part in torch.split(torch.arange(len(owner), device=owner.device), model.images_per_pass(images[0])):
            noisy = (images[owner[part]] + spread[part] * epsilon[part]).requires_grad_(gradient)
            with torch.set_grad_enabled(gradient):
                features = model.features(noisy)
            gap = features.detach() - clean[owner[part]]
            if gradient:
                pulled = model.vjp(features, noisy, 2 / gap.shape[1] * gap, last=True)
                found.append(model.grid.gather((pulled * epsilon[part]).sum(1)))
            else:
                found.append(gap.square().mean(1))
        return torch.stack(torch.split(torch.cat(found), draws)).mean(1)

    sigma_f = error(start, torch.arange(len(images), device=images.device), gradient=False)
    moving = sigma_f > 0
    if not bool(moving.all()):
        # Nothing to search for, and nothing to divide by.
        moved = torch.nonzero(moving)[:, 0]
        kept = DescentResult(start.clone(), torch.zeros(len(images), dtype=torch.int64, device=images.device))
        if len(moved):
            where = [index[row] for row in moved]
            found, _ = search_published(model, images[moved], where, weight=weight, stop=stop, seed=seed, draws=draws)
            kept.sigma[moved], kept.steps[moved] = found.sigma, found.steps
        return kept, sigma_f
    scale = sigma_f[:, None, None]
    found_at = descend(
        lambda sigma, which: error(sigma, which, gradient=True) / scale[which], start, weight=weight, stop=stop
    )
    return found_at, sigma_f


# Pairs of the look ahead at σ = .01, and passes that a later pair takes at least.
_AHEAD, _COST = 4, 8
# Where on the way from the start to the stop the energies are measured: they hardly move along it.
_WHERE = 0.7


@dataclass(frozen=True)
class FastSearchResult:
    """What the fast method found of some images."""

    sigma: Tensor  # [B, g, g]
    halves: Tensor  # the same from either half of the draws, [2, B, g, g]
    sigma_f: Tensor  # [B]
    energies: Tensor  # a, [B, g, g]; 0 where σ_f is


def pairs_within(passes: int, at_once: int) -> int:
    """How many pairs of draws so many passes an image are enough for.

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


def search_fast(
    model: CountingModel,
    images: Tensor,
    index: Sequence[int],
    *,
    weight: float,
    stop: float | None,
    seed: int,
    pairs: int,
) -> FastSearchResult:
    """σ of some images as the published search would find it.

    1. At σ = .01, a few pairs of draws: the error, and energies that are good enough to look ahead.
    2. At the σ that the search will have on its way (with ``stop=None``: at its optimum), the others: the energies.
    3. The 80 steps with these, or the optimum in closed form.

    σ_f is extrapolated from the second σ; the few pairs at .01 serve the look ahead alone.

    Args:
        images: [B, C, H, W].
    """
    cells = model.grid.cells
    with torch.no_grad():
        clean = torch.cat([model.features(image[None]) for image in images])

    def response_at(sigma: Tensor, stage: int, count: int, rows: list[int]) -> NoiseResponse:
        generators = [noise_generator(seed, index[row], stage) for row in rows]
        where = torch.tensor(rows, device=images.device)
        return measure_response(
            model, images[where], clean[where], sigma, pairs=count, generators=generators, capture=stage > 1
        )

    start = torch.full((len(images), cells, cells), START, device=images.device)
    everything = list(range(len(images)))
    ahead = response_at(start, 1, _AHEAD, everything)
    sigma_f = ahead.error
    sigma = start.double()
    halves = sigma.repeat(2, 1, 1, 1)
    rows = [row for row in everything if sigma_f[row] > 0]
    if not rows:
        return FastSearchResult(sigma, halves, sigma_f, torch.zeros_like(sigma))
    where = torch.tensor(rows, device=images.device)
    guess = ahead.energies()[where].clamp_min(0)
    # Single cells of so few draws say little: each is taken half way to those around it.
    around = torch.nn.functional.avg_pool2d(guess[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    on_the_way = None if stop is None else _level(start[0]) + _WHERE * (stop - _level(start[0]))
    point = descend_quadratic((guess + around) / 2, sigma_f[where], weight=weight, stop=on_the_way)
    there = response_at(point.float(), 2, pairs, rows)
    energies = there.energies()
    settled = there.error_at(START)
    sigma_f[where] = settled
    sigma[where] = descend_quadratic(energies, settled, weight=weight, stop=stop)
    for half in (0, 1):
        of_half = there.energies(slice(half, None, 2))
        halves[half, where] = descend_quadratic(of_half, settled, weight=weight, stop=stop)
    of_all = torch.zeros_like(sigma)
    of_all[where] = energies
    return FastSearchResult(sigma, halves, sigma_f, of_all)


def _level(sigma: Tensor) -> float:
    return float(entropy_of_sigma(sigma).mean())
