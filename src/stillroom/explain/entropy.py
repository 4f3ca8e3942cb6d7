"""Pixel-wise entropy: how much of each cell of an image a layer has discarded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stillroom.errors import BadInput, nearest
from stillroom.explain.grid import make_grid
from stillroom.explain.queries import CountingModel, FeatureFunction
from stillroom.explain.search import (
    DRAWS,
    START,
    descend_quadratic,
    entropy_of_sigma,
    pairs_within,
    search_fast,
    search_published,
)

Method = Literal["fast", "published"]
METHODS = ("fast", "published")
# A fiftieth of what the published search takes where it breaks off after 60 steps.
PASSES = 232
# Enough for the optimum.
PASSES_TO_OPTIMUM = 2100


@dataclass(frozen=True)
class PixelEntropies:
    """Entropies of some images, with their errors and measured energies."""

    entropy: Tensor  # H [B, g, g] in nats; NaN for images that do not respond
    # The standard error of H by the spread between halves of the draws, [B, g, g]; None for ``published``, whose draws
    # are not repeated.
    error: Tensor | None
    level: Tensor  # the mean of H, [B], which is at ``stop`` within a step; NaN as above
    sigma_f: Tensor  # the mean square that noise of .01 changes a feature by, float64 [B]
    # A_i = (∂MSE/∂σ_i)/(2σ_i) as measured, float64 [B, g, g]; None for ``published``. Other stops and coarser grids can
    # be computed from these: see :func:`entropy_of_energies`.
    energies: Tensor | None
    responds: Tensor  # whether the features move with the image at all (σ_f > 0), bool [B]
    passes: float  # network passes an image, forward and backward one each, on average


def pixel_entropy(
    feature_fn: FeatureFunction,
    images: Tensor,
    *,
    grid: int = 16,
    method: Method = "fast",
    weight: float = 7.0,
    stop: float | None = -2.8,
    seed: int = 0,
    passes: int | None = None,
    index: Sequence[int] | None = None,
) -> Tensor:
    """Pixel-wise entropy: how much noise each cell of an image tolerates before a layer's features change.

    x' = x + σ⊙ε; σ minimises MSE(f(x'), f(x))/σ_f − λ·mean_i H_i with H_i = log σ_i + ½·log(2πe), from σ = .01 by plain
    descent, and the σ on its way whose mean H is nearest ``stop`` is kept: so the total discarded is the same for all
    networks, and where it is low, the layer has kept what is there. Never compare entropies of different stops.

    ``published`` draws the descent's gradients as the paper's code does, 96 draws in each of 80 steps: up to 15,457
    passes an image. ``fast`` measures the energies that these gradients come from, on the way of the descent, and makes
    its steps without the network: see :mod:`stillroom.explain.energies`.

    Args:
        feature_fn: the probed layer with its activation, [B, C, H, W] → [B, …], of each image by itself: in evaluation
            mode, in float32.
        images: as the network takes them (normalised), float [B, C, H, W].
        grid: g; σ has g×g cells, spread over the image and shared by channels. Steps depend on it.
        method: ``fast`` or ``published``.
        weight: λ; published: 7 for VGG and AlexNet, 6 for ResNets.
        stop: the mean entropy to stop at, in nats. None gives the optimum (``fast``), or σ after 80 steps.
        seed: of the noise, which depends on it and on an image's index alone.
        passes: maximum network passes an image of ``fast``, forward and backward one each; default 232, and 2,100 for
            the optimum.
        index: each image's index; left out: 0 … B−1.

    Returns:
        H [B, g, g] in nats, float32, on the images' device.

    Raises:
        BadInput: an argument cannot be used; features that are not finite, have no gradient, or do not move with an
            image at all (σ_f = 0).

    Paper: Cheng et al., "Explaining Knowledge Distillation by Quantifying the Knowledge" (arXiv 2003.03622).

    >>> looks_at_the_left = torch.cat([torch.full((1, 1, 8, 4), 0.9), torch.full((1, 1, 8, 4), 0.3)], 3)
    >>> entropy = pixel_entropy(lambda x: looks_at_the_left * x, torch.zeros(1, 1, 8, 8), grid=2)
    >>> bool((entropy[0, :, 0] < entropy[0, :, 1]).all())
    True
    """
    found = pixel_entropy_with_error(
        feature_fn, images, grid=grid, method=method, weight=weight, stop=stop, seed=seed, passes=passes, index=index
    )
    if not bool(found.responds.all()):
        which = torch.nonzero(~found.responds)[:, 0].tolist()
        expected = f"features that depend on the image; noise changes nothing in images {which[:8]} (σ_f = 0)"
        raise BadInput("feature_fn", f"{len(which)} of {len(images)} images without a response", expected)
    return found.entropy


def pixel_entropy_with_error(
    feature_fn: FeatureFunction,
    images: Tensor,
    *,
    grid: int = 16,
    method: Method = "fast",
    weight: float = 7.0,
    stop: float | None = -2.8,
    seed: int = 0,
    passes: int | None = None,
    index: Sequence[int] | None = None,
) -> PixelEntropies:
    """:func:`pixel_entropy` with its error and cost; images that do not respond are marked, not refused.

    Raises:
        BadInput: an argument cannot be used; features that are not finite, or have no gradient.

    >>> found = pixel_entropy_with_error(lambda x: 0 * x, torch.zeros(1, 1, 8, 8), grid=2)
    >>> found.responds.tolist(), found.entropy.isnan().all().item()
    ([False], True)
    """
    _check(images, method, weight, stop)
    fast = method == "fast"
    if passes is not None and (not fast or passes < 1):
        raise BadInput("passes", passes, "1 or more" if fast else "no passes with method=published")
    places = list(range(len(images))) if index is None else [int(one) for one in index]
    if len(places) != len(images):
        raise BadInput("index", f"{len(places)} numbers", f"one for each of the {len(images)} images")
    model = CountingModel(feature_fn, make_grid(grid, images.shape[-2], images.shape[-1], images.device))
    # Callers may have turned gradients off; what was made in inference mode could not have any.
    with torch.inference_mode(False), torch.enable_grad():
        given = images.detach().clone().float()
        per_pass = model.images_per_pass(given[0])
        pairs = pairs_within(passes or (PASSES_TO_OPTIMUM if stop is None else PASSES), per_pass) if fast else 0
        # Single images on a CPU, as more at once gain nothing; a GPU takes many.
        together = 1 if given.device.type == "cpu" else max(1, per_pass // (2 * pairs if fast else DRAWS))
        found: list[tuple[Tensor, ...]] = []
        for start in range(0, len(given), together):
            part = slice(start, start + together)
            if fast:
                one = search_fast(model, given[part], places[part], weight=weight, stop=stop, seed=seed, pairs=pairs)
                found.append((one.sigma, one.sigma_f, one.halves, one.energies))
            else:
                descent, power = search_published(model, given[part], places[part], weight=weight, stop=stop, seed=seed)
                found.append((descent.sigma, power))
    sigma, sigma_f = (torch.cat([one[kind] for one in found]) for kind in (0, 1))
    responds = sigma_f > 0
    entropy = entropy_of_sigma(sigma).float()
    entropy[~responds] = torch.nan
    error = energies = None
    if fast:
        energies = torch.cat([one[3] for one in found])
        first, second = entropy_of_sigma(torch.cat([one[2] for one in found], 1))
        error = ((first - second).abs() / 2).float()
        error[~responds] = torch.nan
    return PixelEntropies(
        entropy=entropy,
        error=error,
        level=entropy.mean((1, 2)),
        sigma_f=sigma_f.double(),
        energies=energies,
        responds=responds,
        passes=model.passes / len(images),
    )


def entropy_of_energies(
    energies: Tensor, sigma_f: Tensor, *, weight: float = 7.0, stop: float | None = -2.8, grid: int | None = None
) -> Tensor:
    """The entropies that measured energies give at another stop, or on a coarser grid: no pass of the network.

    A coarser cell's energy is the sum of its cells', as its noise is one σ over all of them.

    Args:
        energies: a, float64 [B, g, g], as :class:`PixelEntropies` has them.
        sigma_f: [B].
        weight: λ.
        stop: the mean entropy to stop at, in nats.
        grid: cells along a side, a divisor of g; left out: g.

    Returns:
        H [B, grid, grid] in nats, float32; NaN for images that do not respond.

    Raises:
        BadInput: the grid does not divide g.

    >>> found = pixel_entropy_with_error(lambda x: x, torch.zeros(1, 1, 8, 8), grid=4)
    >>> again = entropy_of_energies(found.energies, found.sigma_f)
    >>> torch.equal(again, found.entropy), entropy_of_energies(found.energies, found.sigma_f, grid=2).shape
    (True, torch.Size([1, 2, 2]))
    """
    cells = energies.shape[-1]
    coarse = grid or cells
    if coarse < 1 or cells % coarse:
        raise BadInput("grid", grid, f"a divisor of the {cells} cells along a side that were measured")
    side = cells // coarse
    summed = energies.reshape(len(energies), coarse, side, coarse, side).sum((2, 4))
    responds = sigma_f > 0
    found = torch.full_like(summed, torch.nan)
    if bool(responds.any()):
        found[responds] = entropy_of_sigma(
            descend_quadratic(summed[responds], sigma_f[responds], weight=weight, stop=stop)
        )
    return found.float()


def _check(images: Tensor, method: str, weight: float, stop: float | None) -> None:
    if images.ndim != 4 or not images.is_floating_point() or 0 in images.shape:
        raise BadInput("images", f"{images.dtype} {list(images.shape)}", "floats [B, C, H, W], one image or more")
    if not bool(images.isfinite().all()):
        raise BadInput("images", "NaN or infinity", "finite numbers")
    if method not in METHODS:
        raise BadInput("method", method, f"fast or published ({nearest(method, METHODS)})")
    if not 0 < weight < float("inf"):
        raise BadInput("weight", weight, "a number above 0")
    lowest = float(entropy_of_sigma(torch.tensor(START)))
    if stop is not None and not lowest < stop < float("inf"):
        raise BadInput("stop", stop, f"above {lowest:.3f}, the entropy at σ = {START} where the search begins, or None")
