"""Pixel-wise entropy: exact where the network is linear, near the published search where it is not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explain.linear import CONSTANT, Floats, Linear, correlation, optimum, walked
from stillroom.errors import BadInput
from stillroom.explain import (
    PixelEntropies,
    entropy_of_energies,
    pixel_entropy,
    pixel_entropy_with_error,
)
from stillroom.explain.grid import make_grid
from stillroom.explain.queries import CountingModel
from stillroom.explain.search import descend, search_fast, search_published

SPREADS = (0.5, 1.0, 2.0)


def sigma_of(entropy: Tensor) -> Floats:
    return np.asarray((entropy.double() - CONSTANT).exp())


class Bent(nn.Module):
    """A small network with kinks, whose features depend on where in the image one looks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU()
        ).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layers(images)
        return found


def pictures(count: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    images = 0.02 * torch.randn(count, 1, side, side, generator=generator)
    images[:, :, side // 4 : side // 2, side // 4 : 3 * side // 4] += 0.5
    return images


# Linear networks


@pytest.mark.parametrize("spread", SPREADS)
def test_the_optimum_is_the_closed_form(spread: float) -> None:
    net = Linear(spread)
    wanted = optimum(net.energies, weight=7)
    assert 0.001 < wanted.min() < wanted.max() < 1, "the clamps are not what is tested"
    usual = sigma_of(pixel_entropy(net, net.images, stop=None))
    assert (np.abs(usual - wanted) / wanted).mean() < 0.01
    few = sigma_of(pixel_entropy(net, net.images, stop=None, passes=300))
    assert (np.abs(few - wanted) / wanted).mean() < 0.1
    more = sigma_of(pixel_entropy(net, net.images[:1], stop=None, passes=6000))
    assert (np.abs(more - wanted) / wanted).mean() < 0.002


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("weight", [6.0, 7.0])
def test_the_map_is_the_published_stop_on_the_way(spread: float, weight: float) -> None:
    net = Linear(spread)
    wanted = walked(net.energies, weight, stop=-2.8)
    for entropy in pixel_entropy(net, net.images, weight=weight):
        assert np.abs(np.asarray(entropy) - wanted).mean() < 0.02
        assert correlation(entropy, wanted) > 0.99


@pytest.mark.parametrize("spread", SPREADS)
def test_jumping_to_the_optimum_is_another_map(spread: float) -> None:
    """What the test above would miss if it did not look: the optimum, even moved to the stop's level."""
    net = Linear(spread)
    wanted = walked(net.energies, 7, stop=-2.8)
    jumped = np.log(optimum(net.energies, 7)) + CONSTANT
    assert correlation(jumped, wanted) < 0.97
    assert np.abs(jumped - jumped.mean() + wanted.mean() - wanted).mean() > 0.04


def test_other_stops_are_other_places_on_the_way() -> None:
    net = Linear(1.0)
    for stop in (-3.0, -2.6):
        entropy = pixel_entropy(net, net.images[:1], stop=stop)[0]
        assert np.abs(np.asarray(entropy) - walked(net.energies, 7, stop)).mean() < 0.02
    # A stop that no step comes to: the weight is raised after 60 steps, and the nearest of all 80 is kept.
    entropy = pixel_entropy(net, net.images[:1], stop=-1.0)[0]
    assert np.abs(np.asarray(entropy) - walked(net.energies, 7, -1.0)).mean() < 0.02


def test_the_search_published_walks_the_same_way() -> None:
    net = Linear(1.0, channels=1, side=16, wide=64)
    for stop, error in ((-2.8, 0.015), (-1.0, 0.03)):
        entropy = pixel_entropy(net, net.images[:1], method="published", stop=stop)[0]
        assert np.abs(np.asarray(entropy) - walked(net.energies, 7, stop)).mean() < error
        assert correlation(entropy, walked(net.energies, 7, stop)) > 0.99


def test_the_search_published_without_a_stop_makes_all_steps_with_one_weight() -> None:
    power = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])

    def gradient(sigma: Tensor, which: Tensor) -> Tensor:
        return power[which] * sigma

    found = descend(gradient, torch.full((1, 2, 2), 0.01), weight=0.1, stop=None)
    sigma = np.full((2, 2), 0.01)
    for _ in range(80):
        sigma = sigma - 1e-4 * (power[0].numpy() * sigma - 0.1 / 4 / sigma)
    assert found.steps.tolist() == [80]
    assert np.allclose(found.sigma[0], sigma, rtol=1e-4)


def test_energies_tell_other_stops_and_coarser_grids() -> None:
    net = Linear(1.0)
    found = pixel_entropy_with_error(net, net.images[:1])
    assert found.energies is not None
    assert torch.equal(entropy_of_energies(found.energies, found.sigma_f), found.entropy)
    for stop, grid in ((-3.0, 16), (-2.6, 8), (-2.8, 4)):
        reported = entropy_of_energies(found.energies, found.sigma_f, stop=stop, grid=grid)[0]
        sums = net.energies.reshape(grid, 16 // grid, grid, 16 // grid).sum((1, 3))
        assert np.abs(np.asarray(reported) - walked(sums, 7, stop)).mean() < 0.02
    with pytest.raises(BadInput, match="grid: got 5; expected a divisor of the 16 cells"):
        entropy_of_energies(found.energies, found.sigma_f, grid=5)


def test_cells_that_nothing_reads_are_as_noisy_as_it_gets() -> None:
    net = Linear(1.0)
    net.jacobian = net.jacobian.reshape(-1, 3, 32, 32).clone()
    net.jacobian[..., 20:] = 0
    net.jacobian = net.jacobian.flatten(1)
    entropy = pixel_entropy(net, net.images[:1])[0]
    assert (entropy[:, 10:] == entropy.max()).all()
    assert (pixel_entropy(net, net.images[:1], stop=None)[0, :, 10:] == CONSTANT).all()


# Networks with kinks


@pytest.fixture(scope="module")
def published() -> Tensor:
    return pixel_entropy(Bent(), pictures(2), method="published")


def test_few_passes_find_what_the_search_published_finds(published: Tensor) -> None:
    found = pixel_entropy_with_error(Bent(), pictures(2))
    assert found.passes <= 232 <= 15457 / 50
    assert min(map(correlation, found.entropy, published)) > 0.97
    assert float((found.entropy - published).abs().mean()) < 0.03
    assert float((found.level + 2.8).abs().max()) < 0.01
    # Which is not what the map of the optimum has in common with it.
    at_optimum = pixel_entropy(Bent(), pictures(2), stop=None)
    assert max(map(correlation, at_optimum, published)) < 0.965


def test_it_tells_its_own_error(published: Tensor) -> None:
    reported, made = [], []
    for seed in range(3):
        found = pixel_entropy_with_error(Bent(), pictures(2), seed=seed)
        assert found.error is not None
        reported.append(float(found.error.square().mean().sqrt()))
        made.append(float((found.entropy - published).square().mean().sqrt()))
    assert 0.5 < np.mean(reported) / np.mean(made) < 1.5
    more = pixel_entropy_with_error(Bent(), pictures(2), passes=1000)
    assert more.error is not None
    assert float(more.error.square().mean().sqrt()) < 0.6 * np.mean(reported)


# Noise, batches, sizes


def test_noise_depends_on_the_seed_and_the_index_alone() -> None:
    net, images = Bent(), pictures(4)
    together = pixel_entropy(net, images, seed=3)
    assert torch.equal(pixel_entropy(net, images[:2], seed=3), together[:2])
    assert torch.equal(pixel_entropy(net, images[[3, 1]], seed=3, index=[3, 1]), together[[3, 1]])
    again = pixel_entropy(net, images[[1, 1]], seed=3)
    assert not torch.equal(again[0], again[1]), "the same image has other noise at another index"
    assert not torch.equal(pixel_entropy(net, images, seed=4), together)
    assert torch.equal(pixel_entropy(net, images, seed=3), together)


def test_published_images_are_searched_each_by_itself() -> None:
    net, images = Linear(1.0, channels=1, side=16, wide=8), torch.zeros(3, 1, 16, 16)
    together = pixel_entropy(net, images, method="published", stop=-3.1)
    alone = pixel_entropy(net, images[:1], method="published", stop=-3.1, index=[2])
    assert torch.allclose(alone[0], together[2], atol=1e-5)


def test_images_that_go_through_together_are_found_as_alone() -> None:
    """As on a GPU; one of them does not respond."""
    net, images = Bent(), pictures(3)
    silent = images[1].clone()

    def blind_to_one(given: Tensor) -> Tensor:
        return net(given) * ((given - silent).abs().flatten(1).amax(1) > 0.2)[:, None, None, None]

    options: dict[str, Any] = {"weight": 7.0, "stop": -2.8, "seed": 0}
    for search, more in ((search_fast, {"pairs": 8}), (search_published, {"draws": 2})):
        whole = CountingModel(blind_to_one, make_grid(16, 16, 16))
        together = search(whole, images, [4, 5, 6], **options, **more)
        for place in (0, 2):
            alone = search(
                CountingModel(blind_to_one, make_grid(16, 16, 16)),
                images[place : place + 1],
                [4 + place],
                **options,
                **more,
            )
            first, other = (each[0].sigma if isinstance(each, tuple) else each.sigma for each in (together, alone))
            assert torch.allclose(first[place], other[0], rtol=1e-3)
        assert float((first[1] - 0.01).abs().max()) < 1e-8


def test_what_does_not_go_through_at_once_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = Bent(), pictures(1)
    whole = pixel_entropy_with_error(net, images, passes=232)
    monkeypatch.setattr("stillroom.explain.queries._PASS_SIZE", {"cpu": 10 * 256})
    parts = pixel_entropy_with_error(net, images, passes=1 + 4 * 6 + 24 * 10)
    assert parts.passes == 1 + 4 * 6 + 24 * 10 == whole.passes + 24 * 2
    assert torch.allclose(parts.entropy, whole.entropy, atol=1e-3)
    assert pixel_entropy_with_error(net, images, passes=232).passes <= 232


@pytest.mark.parametrize(("height", "width", "grid"), [(28, 28, 16), (12, 20, 5), (8, 8, 8)])
def test_any_size_of_image_and_grid(height: int, width: int, grid: int) -> None:
    def right_half(images: Tensor) -> Tensor:
        return images[..., width // 2 :].flatten(1) + 0.2 * images.flatten(1).sum(1, keepdim=True) / height

    entropy = pixel_entropy(right_half, torch.zeros(1, 3, height, width), grid=grid)[0]
    assert entropy.shape == (grid, grid)
    assert float(entropy[:, grid // 2 + 1 :].max()) < float(entropy[:, : grid // 2].min())


def test_the_images_and_gradients_of_the_caller_are_left_alone() -> None:
    net, images = Bent(), pictures(1).requires_grad_()
    before = images.detach().clone()
    with torch.no_grad():
        entropy = pixel_entropy(net, images)
    with torch.inference_mode():
        assert torch.equal(pixel_entropy(net, images.detach() + 0), entropy)
    assert torch.equal(images, before)
    assert images.grad is None
    assert not entropy.requires_grad


def test_passes_are_counted_one_for_each_image_that_goes_forward_or_back() -> None:
    counted = 0

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, images: Tensor) -> Tensor:
            nonlocal counted
            counted += len(images)
            return images.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            nonlocal counted
            counted += len(gradient)
            return gradient

    net = Linear(1.0, channels=1, side=16, wide=8)

    def counting(images: Tensor) -> Tensor:
        counted_images: Tensor = Counting.apply(images)
        return net(counted_images)

    for options in ({}, {"passes": 100}, {"method": "published", "stop": -3.1}):
        counted = 0
        found: PixelEntropies = pixel_entropy_with_error(counting, torch.zeros(1, 1, 16, 16), **options)
        assert found.passes == counted
    assert counted == 1 + 96 + 2 * 96 * 60


# Bad input


def test_a_tap_that_ignores_its_input_is_an_error_or_a_counted_exclusion() -> None:
    def blind_to_dark(images: Tensor) -> Tensor:
        return images.relu().flatten(1)

    images = torch.stack([torch.ones(1, 8, 8), -torch.ones(1, 8, 8), 2 * torch.ones(1, 8, 8)])
    for method in ("fast", "published"):
        options: dict[str, Any] = {"grid": 4, "method": method, "stop": -3.0}
        with pytest.raises(BadInput, match=r"1 of 3 images.*images \[1\] \(σ_f = 0\)"):
            pixel_entropy(blind_to_dark, images, **options)
        found = pixel_entropy_with_error(blind_to_dark, images, **options)
        assert found.responds.tolist() == [True, False, True]
        assert found.entropy[1].isnan().all()
        assert not found.entropy[[0, 2]].isnan().any()
        assert found.level.isnan().tolist() == [False, True, False]
        alone = pixel_entropy(blind_to_dark, images[[0, 2]], index=[0, 2], **options)
        assert torch.allclose(found.entropy[[0, 2]], alone, atol=1e-5)


@pytest.mark.parametrize("method", ["fast", "published"])
def test_features_that_cannot_be_used_are_refused(method: Any) -> None:
    image = torch.zeros(1, 1, 8, 8)

    def refused(feature_fn: Any, match: str) -> None:
        with pytest.raises(BadInput, match=match):
            pixel_entropy(feature_fn, image, grid=4, method=method, stop=-3.0)

    refused(lambda x: x / 0, "NaN or infinity.*finite")
    refused(lambda x: (x + 1).log() * (1 / (x.abs().sum() == 0)), "NaN or infinity.*finite, of noisy images too")
    refused(lambda x: x.detach() * 2, "without a gradient")
    refused(lambda x: x.sum(), r"a tensor \[1, …\]")
    refused(lambda x: [x], "list")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"grid": 9}, r"grid: got 9; expected 1 to 8 cells along a side, as images have 8×8"),
        ({"grid": 0}, "grid"),
        ({"method": "quick"}, "method: got 'quick'"),
        ({"weight": 0.0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"stop": -3.5}, "stop: got -3.5; expected above -3.186"),
        ({"stop": float("nan")}, "stop"),
        ({"passes": 10}, "passes: got 10; expected 57 or more"),
        ({"passes": 500, "method": "published"}, "passes"),
        ({"index": [0, 1]}, "index: got '2 numbers'"),
        ({"images": torch.zeros(1, 8, 8)}, "images"),
        ({"images": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}, "images"),
        ({"images": torch.zeros(0, 1, 8, 8)}, "images"),
        ({"images": torch.full((1, 1, 8, 8), torch.nan)}, "images: got 'NaN or infinity'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], match: str) -> None:
    images = options.pop("images", torch.zeros(1, 1, 8, 8))
    with pytest.raises(BadInput, match=match):
        pixel_entropy(lambda x: x, images, **{"grid": 4, **options})
    assert re.match("[a-z]", match)
