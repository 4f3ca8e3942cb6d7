"""The reference: σ by the descent that was published, with fresh noise in every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillroom.explain.asking import Asked, stream
from stillroom.explain.descent import START, Descent, descend

DRAWS = 96


def search(
    asked: Asked,
    images: Tensor,
    index: Sequence[int],
    *,
    weight: float,
    stop: float | None,
    seed: int,
    draws: int = DRAWS,
) -> tuple[Descent, Tensor]:
    """σ of some images as Cheng et al. published it: 80 steps, Gaussian draws in each.

    Args:
        asked: the network.
        images: [B, C, H, W].
        index: each image's, which its noise is drawn by.
        weight: λ.
        stop: the mean entropy to stop at.
        seed: of the noise.
        draws: of noise in each step; published: 96.

    Returns:
        The descent, and σ_f [B]: the error at σ = .01 over as many draws. Where σ_f is 0, σ stays .01.
    """
    generators = [stream(seed, one, 0) for one in index]
    with torch.no_grad():
        clean = torch.cat([asked.features(image[None]) for image in images])
    cells = asked.grid.cells
    start = torch.full((len(images), cells, cells), START, device=images.device)

    def error(sigma: Tensor, which: Tensor, *, gradient: bool) -> Tensor:
        """MSE [b], or its gradient in σ [b, g, g], over the next draws."""
        rows = which.tolist()
        noise = [torch.randn(draws, *images.shape[1:], generator=generators[row]) for row in rows]
        epsilon = torch.cat(noise).to(images.device)
        owner = which.repeat_interleave(draws)
        spread = asked.grid.spread(sigma)[:, None].repeat_interleave(draws, 0)
        found = []
        for part in torch.split(torch.arange(len(owner), device=owner.device), asked.at_once(images[0])):
            noisy = (images[owner[part]] + spread[part] * epsilon[part]).requires_grad_(gradient)
            with torch.set_grad_enabled(gradient):
                features = asked.features(noisy)
            gap = features.detach() - clean[owner[part]]
            if gradient:
                pulled = asked.moved_by(features, noisy, 2 / gap.shape[1] * gap, last=True)
                found.append(asked.grid.gather((pulled * epsilon[part]).sum(1)))
            else:
                found.append(gap.square().mean(1))
        return torch.stack(torch.split(torch.cat(found), draws)).mean(1)

    sigma_f = error(start, torch.arange(len(images), device=images.device), gradient=False)
    moving = sigma_f > 0
    if not bool(moving.all()):
        # Nothing to search for, and nothing to divide by.
        moved = torch.nonzero(moving)[:, 0]
        kept = Descent(start.clone(), torch.zeros(len(images), dtype=torch.int64, device=images.device))
        if len(moved):
            where = [index[row] for row in moved]
            found, _ = search(asked, images[moved], where, weight=weight, stop=stop, seed=seed, draws=draws)
            kept.sigma[moved], kept.steps[moved] = found.sigma, found.steps
        return kept, sigma_f
    scale = sigma_f[:, None, None]
    found_at = descend(
        lambda sigma, which: error(sigma, which, gradient=True) / scale[which], start, weight=weight, stop=stop
    )
    return found_at, sigma_f
