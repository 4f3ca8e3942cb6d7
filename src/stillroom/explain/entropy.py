"""How much of each place of an image a layer has discarded: pixel-wise entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stillroom.errors import BadInput, nearest
from stillroom.explain import fast, published
from stillroom.explain.asking import Asked, FeatureFunction
from stillroom.explain.descent import START, entropy_of, follow
from stillroom.explain.grid import make_grid

Method = Literal["fast", "published"]
METHODS = ("fast", "published")
# A fiftieth of what the published search takes where it breaks off after 60 steps.
PASSES = 232
# The optimum has no budget: what its error is below is said with it.
PASSES_TO_OPTIMUM = 2100


@dataclass(frozen=True)
class PixelEntropies:
    """Entropies of some images, and what is known of them.

    Attributes:
        entropy: H [B, g, g] in nats; NaN throughout for images that ``responds`` tells.
        error: the standard error of H by the spread between halves of the draws, [B, g, g]; None for ``published``,
            whose draws are not repeated.
        level: the mean of H, [B], which is at ``stop`` within a step; NaN as above.
        sigma_f: the mean square that noise of .01 changes a feature by, float64 [B].
        energies: a_i = (∂MSE/∂σ_i)/(2σ_i) as measured, float64 [B, g, g]; None for ``published``. With σ_f they tell
            the entropies of other stops and of coarser grids: see :func:`entropy_of_energies`.
        responds: whether the features move with the image at all (σ_f > 0), bool [B].
        passes: network passes an image, forward and backward one each, on average.
    """

    entropy: Tensor
    error: Tensor | None
    level: Tensor
    sigma_f: Tensor
    energies: Tensor | None
    responds: Tensor
    passes: float


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
    """How much noise each place of an image stands before a layer's features notice: the pixel-wise entropy.

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
        passes: most network passes an image that ``fast`` makes, forward and backward one each; left out: 232, and
            2,100 for the optimum.
        index: each image's index; left out: 0 … B−1.

    Returns:
        H [B, g, g] in nats, float32, on the images' device.

    Raises:
        BadInput: an argument cannot be used; features that are not finite, have no gradient, or do not move with an
            image at all (σ_f = 0).

    Paper: Cheng et al., "Explaining Knowledge Distillation by Quantifying the ModelOutput" (arXiv 2003.03622).

    >>> looks_at_the_left = torch.cat([torch.full((1, 1, 8, 4), 0.9), torch.full((1, 1, 8, 4), 0.3)], 3)
    >>> entropy = pixel_entropy(lambda x: looks_at_the_left * x, torch.zeros(1, 1, 8, 8), grid=2)
    >>> bool((entropy[0, :, 0] < entropy[0, :, 1]).all())
    True
    """
    found = pixel_entropy_with_error(
        feature_fn,
        images,
        grid=grid,
        method=method,
        weight=weight,
        stop=stop,
        seed=seed,
        passes=passes,
        index=index,
    )
    if not bool(found.responds.all()):
        which = torch.nonzero(~found.responds)[:, 0].tolist()
        expected = f"features that move with the image; noise changes nothing in images {which[:8]} (σ_f = 0)"
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
    """:func:`pixel_entropy` with its error, its cost, and images that do not respond told rather than refused.

    Args:
        feature_fn: see :func:`pixel_entropy`, also for the other arguments.
        images: float [B, C, H, W].
        grid: g.
        method: ``fast`` or ``published``.
        weight: λ.
        stop: the mean entropy to stop at.
        seed: of the noise.
        passes: most network passes an image.
        index: each image's index.

    Returns:
        The entropies, and what is known of them.

    Raises:
        BadInput: an argument cannot be used; features that are not finite, or have no gradient.

    >>> found = pixel_entropy_with_error(lambda x: 0 * x, torch.zeros(1, 1, 8, 8), grid=2)
    >>> found.responds.tolist(), found.entropy.isnan().all().item()
    ([False], True)
    """
    _check(images, method, weight, stop)
    if passes is not None and (method != "fast" or passes < 1):
        raise BadInput("passes", passes, "none beside method=published" if method != "fast" else "1 or more")
    places = list(range(len(images))) if index is None else [int(one) for one in index]
    if len(places) != len(images):
        raise BadInput("index", f"{len(places)} numbers", f"one for each of the {len(images)} images")
    height, width = images.shape[-2:]
    asked = Asked(feature_fn, make_grid(grid, height, width, images.device))
    # Callers may have turned gradients off; what was made in inference mode could not have any.
    with torch.inference_mode(False), torch.enable_grad():
        found = _searched(
            asked, images.detach().clone().float(), places, method, weight=weight, stop=stop, seed=seed, passes=passes
        )
    entropy = entropy_of(found.sigma).float()
    responds = found.sigma_f > 0
    entropy[~responds] = torch.nan
    error = None
    if found.halves is not None:
        first, second = entropy_of(found.halves)
        error = ((first - second).abs() / 2).float()
        error[~responds] = torch.nan
    level = entropy.mean((1, 2))
    passes_each = asked.passes / len(images)
    return PixelEntropies(entropy, error, level, found.sigma_f.double(), found.energies, responds, passes_each)


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
        found[responds] = entropy_of(follow(summed[responds], sigma_f[responds], weight=weight, stop=stop))
    return found.float()


@dataclass(frozen=True)
class _Searched:
    sigma: Tensor
    halves: Tensor | None
    sigma_f: Tensor
    energies: Tensor | None


def _searched(
    asked: Asked,
    images: Tensor,
    index: Sequence[int],
    method: Method,
    *,
    weight: float,
    stop: float | None,
    seed: int,
    passes: int | None,
) -> _Searched:
    at_once = asked.at_once(images[0])
    pairs, draws = 0, published.DRAWS
    if method == "fast":
        pairs = fast.pairs_within(passes or (PASSES_TO_OPTIMUM if stop is None else PASSES), at_once)
        draws = 2 * pairs
    # Single images on a CPU, as more at once gain nothing; a GPU takes many.
    together = 1 if images.device.type == "cpu" else max(1, at_once // draws)
    sigmas, halves, powers, energies = [], [], [], []
    for start in range(0, len(images), together):
        given, numbers = images[start : start + together], index[start : start + together]
        if method == "published":
            descent, power = published.search(asked, given, numbers, weight=weight, stop=stop, seed=seed)
            sigmas.append(descent.sigma)
            powers.append(power)
        else:
            found = fast.search(asked, given, numbers, weight=weight, stop=stop, seed=seed, pairs=pairs)
            sigmas.append(found.sigma)
            powers.append(found.sigma_f)
            halves.append(found.halves)
            energies.append(found.energies)
    if method == "published":
        return _Searched(torch.cat(sigmas), None, torch.cat(powers), None)
    return _Searched(torch.cat(sigmas), torch.cat(halves, 1), torch.cat(powers), torch.cat(energies))


def _check(images: Tensor, method: str, weight: float, stop: float | None) -> None:
    if images.ndim != 4 or not images.is_floating_point() or 0 in images.shape:
        raise BadInput("images", f"{images.dtype} {list(images.shape)}", "floats [B, C, H, W], one image or more")
    if not bool(images.isfinite().all()):
        raise BadInput("images", "NaN or infinity", "finite numbers")
    if method not in METHODS:
        raise BadInput("method", method, f"fast or published ({nearest(method, METHODS)})")
    if not 0 < weight < float("inf"):
        raise BadInput("weight", weight, "a number above 0")
    lowest = float(entropy_of(torch.tensor(START)))
    if stop is not None and not lowest < stop < float("inf"):
        raise BadInput("stop", stop, f"above {lowest:.3f}, the entropy at σ = {START} where the search begins, or None")
