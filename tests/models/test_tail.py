"""The rest of a model from a tap on: tail(features) = model(x), gradients through it, nothing of it in any state."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.test_taps import IMAGES, Skips
from stillroom.errors import BadInput
from stillroom.models.config import ZOO
from stillroom.models.reader import TapReader
from stillroom.models.tail import Tail, tail_of
from stillroom.models.taps import find_taps
from stillroom.models.tracing import trace

Settle = Callable[[nn.Module], nn.Module]


def read(model: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    taps = TapReader(model, [name])
    with taps, torch.no_grad():
        logits = model(images)
    return taps.take()[name], logits


# Deeper or wider than others of the same kind.
LARGE = ("resnet32", "resnet44", "resnet56", "resnet110", "resnet32x4", "vit_tiny", "wrn_16_1", "wrn_40_1", "wrn_40_2")
LARGE += ("vgg11", "vgg13", "vgg16", "vgg19")


@pytest.mark.parametrize("name", [name for name in ZOO if name not in LARGE and not ZOO[name].of_text])
def test_a_tail_says_what_its_model_says(name: str, make: Callable[..., nn.Module], settle: Settle) -> None:
    model = settle(make(name, size=16))
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    traced = trace(model, IMAGES)
    for tap in find_taps(model, IMAGES, traced=traced)[::2]:
        tail = tail_of(model, tap.name, IMAGES, traced=traced)
        features, logits = read(model, tap.name, images)
        assert not tail.replayed
        # The same operations in the same order: the same bits for the same batch, rounding for another.
        assert torch.equal(tail(features), logits)
        torch.testing.assert_close(tail(features[:1]), logits[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("branches", [False, True], ids=["cut", "replayed"])
@pytest.mark.parametrize("tap", ["act", "act:pre", "down", "features", "logits"])
def test_gradients_flow_through_to_the_features_alone(tap: str, branches: bool, settle: Settle) -> None:
    model = settle(Skips(inplace=True, branches=branches))
    tail = tail_of(model, tap, IMAGES)
    assert tail.replayed == branches
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    features, logits = read(model, tap, images)
    before = features.clone()
    features.requires_grad_()
    said = tail(features)
    torch.testing.assert_close(said, logits)
    said.square().sum().backward()
    assert torch.equal(features, before), "the tail changed what it was given"
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_gradient_is_that_of_the_model(settle: Settle) -> None:
    model = settle(Skips()).double()
    images = IMAGES.double()
    features, _ = read(model, "act", images)
    tail = tail_of(model, "act", images)
    assert torch.autograd.gradcheck(lambda x: tail(x[:, :, :3, :3]), features[:1, :, :3, :3].clone().requires_grad_())


def test_only_the_part_after_the_cut_is_kept_shared_and_outside_any_state(settle: Settle) -> None:
    model = settle(Skips())
    tail = tail_of(model, "act", IMAGES)
    own = {tensor.data_ptr() for tensor in (*model.down.parameters(), *model.head.parameters())}
    assert {buffer.data_ptr() for buffer in tail.buffers()} == own
    assert not any(buffer.requires_grad for buffer in tail.buffers())
    holder = nn.Module()
    holder.tail = tail
    assert not holder.state_dict()
    assert not list(holder.parameters())


def test_a_tail_moves_copies_and_ignores_training(settle: Settle) -> None:
    model = settle(Skips())
    features, _ = read(model, "stem", IMAGES)
    tail = tail_of(model, "stem", IMAGES)
    plain = tail(features)
    assert torch.equal(tail.train()(features), plain), "batch norm took the batch's statistics"
    moved = copy.deepcopy(tail).to(torch.float64)
    assert moved(features.double()).dtype == torch.float64
    torch.testing.assert_close(moved(features.double()).float(), plain)
    assert torch.equal(tail(features), plain), "moving a copy moved the tail"
    last = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(tail(last), plain)


def test_a_tap_that_a_path_leads_past_is_refused() -> None:
    with pytest.raises(BadInput, match=r"teacher tap: got 'middle'; expected a tap that every path.*leads past"):
        tail_of(Skips(), "middle", IMAGES)


def test_where_nothing_is_exact_the_error_says_what_failed(settle: Settle) -> None:
    with pytest.raises(BadInput, match=r"cannot be traced .*Name another module"):
        tail_of(settle(Skips(branches=True)), "middle", IMAGES)


def test_constants_that_a_model_fills_in_place_are_filled_again() -> None:
    class Fills(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            mask = x.new_zeros(4)
            mask[1:3] = 2.0
            logits: Tensor = self.b(x.view(x.shape[0] * 2, 2).reshape(x.shape[0], 4) * mask)
            return logits

    torch.manual_seed(0)
    model = Fills().eval()
    x = torch.rand(3, 4)
    tail = tail_of(model, "a", x)
    assert isinstance(tail, Tail)
    assert not tail.replayed
    assert torch.equal(tail(model.a(x)), model(x))
    assert torch.equal(tail(model.a(x[:1])), model(x[:1]))


def test_a_tensor_written_part_by_part_is_traced_too() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            x[:, 1:].mul_(2.0)
            logits: Tensor = self.b(x)
            return logits

    torch.manual_seed(0)
    model = Parts().eval()
    x = torch.rand(3, 4)
    features, logits = read(model, "a", x)
    assert torch.equal(tail_of(model, "a", x)(features), logits)


class Ends(nn.Module):
    """Features, and one of several ways from them to the logits."""

    def __init__(self, way: Callable[[nn.Module, Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3, bias=bias)
        self.other = nn.Linear(6, 6)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, self.body(x))


@pytest.mark.parametrize(
    ("way", "linear"),
    [
        (lambda net, h: net.head(h), True),
        (lambda net, h: net.drop(net.head(net.drop(h).contiguous())), True),
        (lambda net, h: net.head(h) * 2.0, False),
        (lambda net, h: net.head(h).relu(), False),
        (lambda net, h: net.head(net.other(h)), False),
        (lambda net, h: net.head(h) + h[:, :3], False),
        (lambda net, h: torch.nn.functional.linear(h, net.head.weight.softmax(1)), False),
    ],
    ids=["alone", "dropout", "scaled", "bent", "two layers", "passed by", "made weights"],
)
def test_a_tail_knows_whether_it_is_one_linear_layer(way: Callable[[nn.Module, Tensor], Tensor], linear: bool) -> None:
    x = torch.rand(3, 4)
    for bias in (True, False):
        model = Ends(way, bias=bias).eval()
        tail = tail_of(model, "body", x)
        if not linear:
            assert tail.head is None
            continue
        assert tail.head is not None
        assert torch.equal(tail.head, model.head.weight)
        h, gap = torch.rand(3, 6), torch.rand(3, 6)
        torch.testing.assert_close(tail(h + gap) - tail(h), gap @ tail.head.T)


def test_a_model_that_cannot_be_traced_is_reported_by_the_error_alone(
    settle: Settle, capfd: pytest.CaptureFixture[str], log_records: list[logging.LogRecord]
) -> None:
    model = settle(Skips(branches=True))
    assert tail_of(model, "act", IMAGES).head is None
    with pytest.raises(BadInput) as reported:
        tail_of(model, "middle", IMAGES)
    assert len(str(reported.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    assert not [record for record in log_records if record.levelno >= logging.WARNING]
