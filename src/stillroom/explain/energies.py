"""What each cell's noise does to the features: effective energies a_i = (∂MSE/∂σ_i)/(2σ_i) from few draws.

A draw of noise ε moves the features by r = f(x + σ⊙ε) − f(x), and a_i = E[ε_i·r·J_i]/σ_i, summed over the cell's
pixels, J the Jacobian at the noisy image. Of opposite draws ε and −ε, r = o + e and J = S + D split into odd and even
parts: o = (f₊ − f₋)/2, e = (f₊ + f₋)/2 − f, S = (J₊ + J₋)/2, D = (J₊ − J₋)/2. What is odd in ε vanishes, and

    a_i = E[ε_i·o·S_i]/σ_i + E[ε_i·e·D_i]/σ_i.

The first term is all that there is where f is linear, and then ‖J_i‖². Drawn as it stands it is hardly anything but the
other cells' noise; E‖S_i‖² has nearly its shape, needs no noise, and is what is measured of it. The second term is what
kinks add. It is small, and in pairs it is nearly without noise, so it is measured as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.explain.queries import CountingModel

_SMALL, _TINY = 1e-12, 1e-300
# Over how many cells the share of what the captured directions miss is taken to be alike.
_REACH = 1.5


@dataclass(frozen=True)
class NoiseResponse:
    """What was measured of some images at one σ, in mean squares of a feature; P pairs, cells [g, g]."""

    sigma: Tensor  # where, [B, g, g]
    captured: Tensor  # E‖S_i‖² and E‖D_i‖² in the directions that the features move in most, [2, B, g, g]
    rest: Tensor  # the same in all others, of each pair, [2, B, P, g, g]
    # A second estimate of the same, from ε_i·o·S_i/σ_i, [B, P, g, g]; None where nothing is captured.
    aside: Tensor | None
    kinks: Tensor  # ε_i·e·D_i/σ_i of each pair, [B, P, g, g]
    power: Tensor  # the mean square of o and of e, [2, B, P]

    @property
    def error(self) -> Tensor:
        """The MSE at this σ, [B]."""
        return self.power.sum(0).mean(1)

    def error_at(self, sigma: float) -> Tensor:
        """The MSE where all cells have one σ, [B].

        The odd response's is Σσ_i²·E‖S_i‖², which has no noise of the draws; the even one's grows with s^p, s the scale
        of σ by the energies, and p = 2·Σσ_i²·kinks_i/E[e²] as it is here: 4 where f is smooth, less at kinks.
        """
        there, even = self.sigma.double().square(), self.power[1].mean(1)
        energies, kinks = self.energies(), self.kinks.mean(1)
        power = (2 * (there * kinks).sum((1, 2)) / even.clamp_min(_TINY)).clamp(2, 6)
        scale = sigma**2 * energies.sum((1, 2)) / (there * energies).sum((1, 2))
        # Energies that cancel out say nothing of a scale.
        scale = torch.where((scale > 0) & scale.isfinite(), scale, sigma**2 / there.mean((1, 2)))
        return sigma**2 * self.slopes().sum((1, 2)) + even * scale ** (power / 2)

    def slopes(self, rows: slice = slice(None)) -> Tensor:
        """E‖S_i‖², [B, g, g]."""
        return self.captured[0] + _shrink(self._others()[:, rows], self.captured[0])

    def energies(self, rows: slice = slice(None)) -> Tensor:
        """a, [B, g, g] in float64.

        E[ε_i·o·S_i]/σ_i is taken to be κ·E‖S_i‖² with κ = 1 − ½·Σσ²‖D‖²/Σσ²‖S‖², exactly 1 where nothing bends: half
        way between E‖S‖² and E[J₊·J₋].
        """
        slopes, changes = self.slopes(rows), self.captured[1] + self.rest[1][:, rows].mean(1)
        weights = self.sigma.double().square()
        straight = (weights * slopes).sum((1, 2)).clamp_min(_TINY)
        kappa = 1 - 0.5 * (weights * changes).sum((1, 2)) / straight
        return kappa.clamp_min(0)[:, None, None] * slopes + self.kinks[:, rows].mean(1)

    def _others(self) -> Tensor:
        """‖S_i‖² in the directions not captured, of each pair: both ways to it, weighed by how little each varies.

        The one varies as its own square, the other as the cell's whole energy: a factor each, of all cells together.
        """
        one, other = self.rest[0], self.aside
        if other is None or one.shape[1] < 2:
            return one
        mean = one.mean(1)
        own, whole = mean.square(), self.captured[0] + mean
        one_varies = own * (one.var(1).sum((1, 2)) / own.sum((1, 2)).clamp_min(_TINY))[:, None, None]
        other_varies = whole * (other.var(1).sum((1, 2)) / whole.sum((1, 2)).clamp_min(_TINY))[:, None, None]
        share = one_varies / (one_varies + other_varies).clamp_min(_TINY)
        return one + (other - one) * share[:, None]


def measure_response(
    model: CountingModel,
    images: Tensor,
    clean: Tensor,
    sigma: Tensor,
    *,
    pairs: int,
    generators: Sequence[torch.Generator],
    capture: bool,
) -> NoiseResponse:
    """Measure the energies of images at σ with P pairs of opposite draws.

    ‖S_i‖² = Σ_k (S_iᵀq_k)² over an orthonormal basis of the features. The P odd responses span the directions in which
    the features move most: there each is measured, one a pair; in all others a random sign vector a pair has it on
    average (Hutch++, Meyer et al. 2021). Without a pass more, ε_i·o·S_i/σ_i is had of the same products; it is the
    better one where cells act on features of their own. Passes: 8 an image and pair, 6 without ``capture``, and 2 more
    where not all pairs go through the network at once.

    Args:
        images: [B, C, H, W].
        clean: their features, [B, m].
        sigma: [B, g, g].
    """
    count, channels, height, width = images.shape
    noise = torch.stack([signs(pairs, channels, height, width, each) for each in generators]).to(images.device)
    wide = clean.shape[1]
    random = torch.stack(
        [2 * torch.randint(0, 2, (pairs, wide), generator=each, dtype=torch.float32) - 1 for each in generators]
    ).to(images.device)
    grid, spread = model.grid, model.grid.spread(sigma)[:, None, None]
    step = max(1, model.images_per_pass(images[0]) // (2 * count))
    parts = [slice(start, min(start + step, pairs)) for start in range(0, pairs, step)]

    def noisy(part: slice) -> Tensor:
        moved = spread * noise[:, part]
        both = torch.stack([images[:, None] + moved, images[:, None] - moved])
        return both.flatten(0, 2)

    def responses(features: Tensor) -> tuple[Tensor, Tensor]:
        plus, minus = features.detach().reshape(2, count, -1, wide)
        return (plus - minus) / 2, (plus + minus) / 2 - clean[:, None]

    held: tuple[Tensor, Tensor] | None = None
    if len(parts) == 1:
        inputs = noisy(parts[0]).requires_grad_()
        held = inputs, model.features(inputs)
        odd, even = responses(held[1])
    else:
        with torch.no_grad():
            found = [responses(model.features(noisy(part))) for part in parts]
        odd, even = (torch.cat([one[kind] for one in found], 1) for kind in (0, 1))
    power = torch.stack([odd.square().mean(2), even.square().mean(2)]).double()
    factors = torch.linalg.qr(odd.transpose(1, 2) if capture else odd[:, :0].transpose(1, 2))
    basis = factors.Q.transpose(1, 2)
    # Fewer features than pairs: a direction has several.
    turn = torch.arange(pairs, device=images.device) % max(basis.shape[1], 1)
    others = random - (random @ basis.transpose(1, 2)) @ basis

    along_main, along_others, kinks = [], [], []
    for part in parts:
        inputs = held[0] if held else noisy(part).requires_grad_()
        features = held[1] if held else model.features(inputs)

        def halves(along: Tensor, *, last: bool = False, of: tuple[Tensor, Tensor] = (features, inputs)) -> Tensor:
            """S and D times a direction for each pair, [2, B, p, C, H, W]."""
            pulled = model.vjp(*of, along.repeat(2, 1, 1).flatten(0, 1), last=last)
            plus, minus = pulled.reshape(2, count, -1, channels, height, width)
            return torch.stack([plus + minus, plus - minus]) / 2

        bent = halves(even[:, part])[1] * noise[:, part]
        kinks.append(grid.gather(bent.sum(2)).double() / sigma[:, None].double() / wide)
        if capture:
            along_main.append(halves(basis[:, turn[part]]))
        along_others.append(grid.gather(halves(others[:, part], last=True).square().sum(3)).double() / wide)
    rest = torch.cat(along_others, 2)
    if not capture:
        none = torch.zeros(2, *sigma.shape, dtype=torch.float64, device=images.device)
        return NoiseResponse(sigma, none, rest, None, torch.cat(kinks, 1), power)
    main = torch.cat(along_main, 2)
    share = torch.bincount(turn).double()[turn]
    captured = (grid.gather(main.square().sum(3)).double() / share[:, None, None]).sum(2) / wide
    aside = None
    if basis.shape[1] == pairs:
        # o_p = Σ_k R_kp·q_k.
        pulled = torch.einsum("bkp,bkchw->bpchw", factors.R, main[0])
        aside = grid.gather((pulled / (spread * noise)).sum(2)).double() / wide - captured[0][:, None]
    return NoiseResponse(sigma, captured, rest, aside, torch.cat(kinks, 1), power)


def _shrink(rest: Tensor, captured: Tensor) -> Tensor:
    """The mean over pairs [B, P, g, g] of what the main directions miss, steadied by what they capture [B, g, g].

    Both differ from cell to cell alike, so log(rest/captured) varies less than either. A cell's is shrunk towards that
    of the cells around it, by as much as its noise is larger than the ratios' own differences (empirical Bayes).
    """
    mean = rest.mean(1)
    scale = mean.mean((1, 2), keepdim=True)
    if rest.shape[1] < 2 or not bool((captured.mean((1, 2), keepdim=True) > _SMALL * scale.abs()).all()):
        return mean
    floor = 1e-9 * (scale + captured.mean((1, 2), keepdim=True)).clamp_min(_TINY)
    mean, captured = mean.clamp_min(0) + floor, captured + floor
    noise = rest.var(1) / rest.shape[1] / mean.square()
    around = captured * _blur(mean) / _blur(captured)
    apart = (mean / around).log()
    own = (apart.square() - noise).mean((1, 2), keepdim=True).clamp_min(0)
    shrunk = noise / (noise + own + _SMALL)
    return around * (apart * (1 - shrunk)).exp() - floor


def _blur(cells: Tensor) -> Tensor:
    """Each cell's mean with those around it, [B, g, g]."""
    place = torch.arange(cells.shape[-1], dtype=cells.dtype, device=cells.device)
    near = torch.exp(-0.5 * ((place[:, None] - place) / _REACH).square())
    near = near / near.sum(1, keepdim=True)
    return near @ cells @ near.T


def signs(draws: int, channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Noise of ±1 [n, C, H, W] in which pixels near each other are orthogonal: Σ_d ε_d,p·ε_d,q = 0.

    Each pixel and channel has one of n codes, a column of a Hadamard matrix, times a sign drawn at random. A channel
    has ⌊n/C⌋ codes of its own, laid out in the lattice that keeps equal ones furthest apart; with more channels than
    draws, channels share them.

    What a pixel's noise does is measured among that of all others, which do more the nearer they are: they see the
    same channels of the same layers. In independent draws each disturbs each.

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
def hadamard(order: int) -> npt.NDArray[np.int64]:
    """A matrix of ±1 whose columns are orthogonal, [n, n]: Paley's where n − 1 is a prime, else twice a smaller one.

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
