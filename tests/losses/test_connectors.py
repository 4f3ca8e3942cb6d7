"""Connectors: every kind of pair comes to the teacher's shape, and the maps are those written down."""

from __future__ import annotations

import pytest
import torch

from stillroom.errors import BadInput
from stillroom.losses.connectors import MapConnector, TokenConnector, VectorConnector, connector, resize
from stillroom.models.taps import Kind, Tap


def tap(kind: Kind, *shape: int) -> Tap:
    return Tap(f"a_{kind}", shape, 0, 0.5, kind)


PAIRS = [
    (tap("vector", 5), tap("vector", 7)),
    (tap("vector", 5), tap("vector", 5)),
    (tap("vector", 5, 1, 1), tap("vector", 7)),
    (tap("vector", 5), tap("vector", 7, 1, 1)),
    (tap("map", 3, 4, 4), tap("vector", 7)),
    (tap("map", 4, 4, 3), tap("vector", 7)),
    (tap("token", 5, 3), tap("vector", 7)),
    (tap("map", 3, 4, 4), tap("map", 6, 4, 4)),
    (tap("map", 3, 8, 8), tap("map", 6, 4, 4)),
    (tap("map", 3, 7, 7), tap("map", 6, 4, 4)),
    (tap("map", 3, 4, 4), tap("map", 6, 8, 8)),
    (tap("map", 3, 8, 2), tap("map", 6, 4, 5)),
    (tap("map", 3, 4, 4), tap("map", 6, 1, 2)),
    (tap("map", 4, 4, 3), tap("map", 6, 8, 8)),
    (tap("map", 3, 4, 4), tap("map", 8, 8, 6)),
    (tap("map", 4, 4, 3), tap("map", 1, 1, 6)),
    (tap("token", 16, 3), tap("token", 16, 6)),
    (tap("token", 7, 3), tap("token", 7, 6)),
    (tap("token", 17, 3), tap("token", 17, 6)),
    (tap("token", 17, 3), tap("token", 64, 6)),
    (tap("token", 16, 3), tap("token", 66, 6)),
    (tap("token", 66, 3), tap("token", 17, 6)),
    (tap("token", 17, 3), tap("map", 6, 8, 8)),
    (tap("token", 64, 3), tap("map", 4, 4, 6)),
    (tap("map", 3, 8, 8), tap("token", 17, 6)),
    (tap("map", 4, 4, 3), tap("token", 64, 6)),
]


def label(pair: tuple[Tap, Tap]) -> str:
    return " to ".join(f"{side.kind} {'x'.join(map(str, side.shape))}" for side in pair)


@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_every_pair_comes_to_the_teachers_shape_and_learns(pair: tuple[Tap, Tap]) -> None:
    student, teacher = pair
    torch.manual_seed(0)
    module = connector(student, teacher)
    for batch in (1, 3):
        features = torch.randn(batch, *student.shape, requires_grad=True)
        mapped = module(features)
        assert mapped.shape == (batch, *teacher.shape)
        (mapped * torch.randn(mapped.shape)).sum().backward()
        assert features.grad is not None
        assert features.grad.abs().max() > 0
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_under_bfloat16_it_stays_close(pair: tuple[Tap, Tap]) -> None:
    student, teacher = pair
    torch.manual_seed(0)
    module = connector(student, teacher)
    features = torch.randn(4, *student.shape)
    exact = module(features)
    with torch.autocast("cpu", torch.bfloat16):
        low = module(features.bfloat16())
    assert torch.allclose(low.float(), exact, atol=0.1)


def test_a_vector_goes_through_a_linear_layer() -> None:
    module = connector(tap("vector", 5), tap("vector", 7))
    assert isinstance(module, VectorConnector)
    x = torch.randn(2, 5)
    assert torch.allclose(module(x), x @ module.linear.weight.T + module.linear.bias)


def test_a_map_goes_through_a_convolution_and_batch_norm_by_hand() -> None:
    module = connector(tap("map", 3, 4, 4), tap("map", 2, 2, 2))
    assert isinstance(module, MapConnector)
    x = torch.randn(5, 3, 4, 4)
    pooled = x.reshape(5, 3, 2, 2, 2, 2).mean((3, 5))
    mixed = torch.einsum("bchw,oc->bohw", pooled, module.conv.weight[:, :, 0, 0])
    normed = (mixed - mixed.mean((0, 2, 3), keepdim=True)) / (
        mixed.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    assert torch.allclose(module(x), normed, atol=1e-5)


def test_the_cheaper_order_gives_the_same_map() -> None:
    module = connector(tap("map", 3, 4, 4), tap("map", 2, 8, 8)).double()
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    first = module(x)
    module._conv_first = False
    assert torch.allclose(module(x), first)


def test_maps_laid_out_channels_last_are_the_same_maps() -> None:
    torch.manual_seed(0)
    plain = connector(tap("map", 3, 4, 4), tap("map", 6, 8, 8))
    torch.manual_seed(0)
    last = connector(tap("map", 4, 4, 3), tap("map", 8, 8, 6))
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), plain(x))


def test_tokens_lie_on_their_grid_row_by_row() -> None:
    module = connector(tap("token", 5, 3), tap("map", 2, 2, 2))
    assert isinstance(module, MapConnector)
    tokens = torch.randn(4, 5, 3)
    mixed = module.norm(module.conv(torch.stack([tokens[:, 1:3], tokens[:, 3:]], 1).permute(0, 3, 1, 2)))
    assert torch.equal(module(tokens), mixed)


def test_class_tokens_are_kept_and_such_as_lack_are_the_mean_of_the_places() -> None:
    module = connector(tap("token", 5, 3), tap("token", 18, 3))
    assert isinstance(module, TokenConnector)
    tokens = torch.randn(2, 5, 3)
    with torch.no_grad():
        module.linear.weight.copy_(torch.eye(3))
        module.linear.bias.zero_()
    mapped = module(tokens)
    assert torch.allclose(mapped[:, 0], tokens[:, 0])
    assert torch.allclose(mapped[:, 1], tokens[:, 1:].mean(1), atol=1e-6)
    # The corners of a grid interpolated from 2×2 to 4×4 are those of the 2×2.
    corners = mapped[:, 2:].reshape(2, 4, 4, 3)[:, ::3, ::3].reshape(2, 4, 3)
    assert torch.allclose(corners, tokens[:, 1:], atol=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "match"),
    [
        (tap("vector", 5), tap("map", 6, 4, 4), r"1×1 convolution .*'a_vector' has the shape 5 .*6×4×4.*is a vector"),
        (tap("vector", 5), tap("token", 16, 4), r"linear layer on each token .*shape 5 .*16×4 .*is a vector"),
        (tap("token", 15, 5), tap("map", 6, 4, 4), r"15×5 .*6×4×4.*no square grid"),
        (tap("map", 6, 4, 4), tap("token", 15, 5), r"6×4×4 .*15×5.*teacher's has tokens that make no square grid"),
    ],
)
def test_what_cannot_be_connected_is_refused(student: Tap, teacher: Tap, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        connector(student, teacher)


def test_identity_needs_equal_shapes_and_changes_nothing() -> None:
    same = connector(tap("map", 3, 4, 4), tap("map", 3, 4, 4), kind="identity")
    x = torch.randn(2, 3, 4, 4)
    assert same(x) is x
    assert not list(same.parameters())
    with pytest.raises(BadInput, match=r"got 'identity'; expected auto: .*3×4×4 .*3×8×8"):
        connector(tap("map", 3, 4, 4), tap("map", 3, 8, 8), kind="identity")


def test_resize_averages_down_and_interpolates_up() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert torch.equal(resize(x, (6, 6)), x)
    assert torch.allclose(resize(x, (3, 2)), x.reshape(1, 1, 3, 2, 2, 3).mean((3, 5)))
    assert torch.equal(resize(x, (4, 5)), torch.nn.functional.adaptive_avg_pool2d(x, (4, 5)))
    assert resize(x, (12, 2)).shape == (1, 1, 12, 2)
    assert torch.allclose(resize(torch.full((1, 1, 2, 2), 3.0), (5, 7)), torch.tensor(3.0))
