"""The energies that few draws measure, and the signs they are drawn with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from explain.linear import Linear, correlation
from stillroom.errors import BadInput
from stillroom.explain.energies import NoiseResponse, hadamard, lattice, measure_response, orders, signs
from stillroom.explain.grid import make_grid
from stillroom.explain.queries import CountingModel, FeatureFunction, noise_generator
from stillroom.explain.search import pairs_within


def measured(
    feature_fn: FeatureFunction, image: Tensor, *, sigma: float = 0.01, grid: int = 16, pairs: int
) -> NoiseResponse:
    asked = CountingModel(feature_fn, make_grid(grid, *image.shape[-2:]))
    clean = asked.features(image).detach()
    where = torch.full((len(image), grid, grid), sigma)
    generators = [noise_generator(0, index, 2) for index in range(len(image))]
    return measure_response(asked, image, clean, where, pairs=pairs, generators=generators, capture=True)


def test_of_a_linear_network_they_are_the_squares_of_its_columns() -> None:
    net = Linear(1.0, channels=1, side=16, wide=300)
    found = measured(net, net.images, pairs=256)
    assert np.allclose(found.energies()[0], net.energies, rtol=1e-4)
    assert float(found.error_at(0.01)[0]) == pytest.approx(1e-4 * net.energies.sum(), rel=1e-4)
    few = measured(net, net.images, pairs=32).energies()[0]
    assert correlation(few.log(), np.log(net.energies)) > 0.98
    assert float(few.sum()) == pytest.approx(net.energies.sum(), rel=0.1)


@pytest.mark.parametrize("wide", [3, 500])
def test_whatever_the_rank(wide: int) -> None:
    """Fewer features than pairs, where directions are measured several times; more, where most are not captured."""
    net = Linear(1.0, channels=1, side=16, wide=wide)
    found = measured(net, net.images[:1], pairs=24).energies()[0]
    assert correlation(found.log(), np.log(net.energies)) > (0.9999 if wide == 3 else 0.95)


def test_features_that_each_read_a_cell_of_their_own() -> None:
    scale = torch.linspace(1, 3, 256).reshape(1, 1, 16, 16)
    found = measured(lambda images: scale * images, torch.zeros(1, 1, 16, 16), pairs=24).energies()[0]
    assert np.allclose(found, scale[0, 0].square() / 256, rtol=0.05)


def test_a_parabola_is_all_kinks() -> None:
    """f = x² at 0: the slope is 0, r = σ²ε², MSE = σ⁴ for ε = ±1, and a = ∂MSE/∂σ/(2σ) = 2σ²."""
    found = measured(lambda images: images.square(), torch.zeros(1, 1, 4, 4), sigma=0.1, grid=4, pairs=8)
    # The slopes 2σε at ±ε are opposite; e·D is even, and exact in each draw.
    assert torch.allclose(found.energies()[0], torch.full((4, 4), 2 * 0.1**2 / 16, dtype=torch.float64), rtol=1e-4)
    assert float(found.error_at(0.05)) == pytest.approx(0.05**4, rel=1e-3)


def test_a_kink_off_the_image_counts_where_noise_crosses_it() -> None:
    """f = relu(x) at 0: r = σ·max(ε, 0), MSE = σ²/2, a = 1/2; half of it odd, half of it even."""
    found = measured(lambda images: images.relu(), torch.zeros(1, 1, 4, 4), grid=4, pairs=8)
    assert torch.allclose(found.power, torch.full((2, 1, 8), 0.25e-4, dtype=torch.float64), rtol=1e-4)
    assert torch.allclose(found.kinks.mean(1), torch.full((1, 4, 4), 0.25 / 16, dtype=torch.float64), rtol=1e-4)
    assert torch.allclose(found.slopes(), torch.full((1, 4, 4), 0.25 / 16, dtype=torch.float64), rtol=1e-2)


def test_halves_of_the_draws_differ_by_their_noise() -> None:
    net = Linear(1.0, wide=2000)
    found = measured(net, net.images[:1], pairs=48)
    first, second = (found.energies(slice(half, None, 2))[0] for half in (0, 1))
    reported = float(((first - second) / 2).square().mean().sqrt())
    made = float((found.energies()[0] - torch.from_numpy(net.energies)).square().mean().sqrt())
    assert 0.5 < reported / made < 2


# Signs


@pytest.mark.parametrize("order", [*orders(48), 64, 84, 128])
def test_hadamard_matrices_are_orthogonal(order: int) -> None:
    matrix = hadamard(order)
    assert set(np.unique(matrix)) == {-1, 1}
    assert (matrix.T @ matrix == order * np.eye(order, dtype=int)).all()


def test_near_pixels_do_not_disturb_each_other() -> None:
    for draws, channels, squared in ((24, 3, 8), (24, 1, 20), (8, 3, 2)):
        noise = signs(draws, channels, 9, 9, torch.Generator().manual_seed(0))
        flat = noise.reshape(draws, -1)
        product = (flat.T @ flat).reshape(channels, 9, 9, channels, 9, 9)[:, 4, 4]
        assert torch.equal(product.diagonal(dim1=0, dim2=1)[4, 4], torch.full((channels,), float(draws)))
        near = [(y, x) for y in range(9) for x in range(9) if 0 < (y - 4) ** 2 + (x - 4) ** 2 < squared]
        assert all(not product[:, :, y, x].any() for y, x in near if (y, x) != (4, 4))
        # Of one pixel, channels do not disturb each other either.
        own = product[:, :, 4, 4]
        assert torch.equal(own, draws * torch.eye(channels))


def test_few_draws_of_many_channels_still_are_signs() -> None:
    noise = signs(4, 64, 3, 3, torch.Generator().manual_seed(0))
    assert noise.abs().eq(1).all()
    assert float(noise.mean().abs()) < 0.1


def test_where_there_are_enough_all_pixels_are_orthogonal() -> None:
    flat = signs(64, 1, 8, 8, torch.Generator().manual_seed(0)).flatten(1)
    assert torch.equal(flat.T @ flat, 64 * torch.eye(64))


def test_the_lattice_keeps_equal_codes_apart() -> None:
    for codes, squared in ((2, 2), (5, 5), (8, 8), (13, 13), (32, 32)):
        b = lattice(codes)
        gaps = [
            x * x + y * y for x in range(-9, 10) for y in range(-9, 10) if (x, y) != (0, 0) and (x + b * y) % codes == 0
        ]
        assert min(gaps) == squared


def test_pairs_fit_the_passes() -> None:
    assert pairs_within(232, 64) == 24
    assert pairs_within(57, 64) == 4
    # More than go through at once go through twice.
    assert pairs_within(1 + 24 + 10 * 24, 40) == 24
    with pytest.raises(BadInput, match="passes: got 56; expected 57 or more network passes an image"):
        pairs_within(56, 64)
