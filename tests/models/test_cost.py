"""Costs worked by hand, and models that are left as they were."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from stillroom.models.cost import latency, multiply_adds, parameters
from stillroom.models.modes import eval_mode
from stillroom.models.text import TextLSTM
from stillroom.models.weights import state_hash


def test_parameters_count_a_shared_one_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert parameters(net) == 40
    net[1].weight = net[0].weight
    assert parameters(net) == 24


def test_convolutions_and_products_by_hand() -> None:
    assert multiply_adds(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 10, 10)) == 8 * 3 * 9 * 100
    assert multiply_adds(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), torch.zeros(1, 4, 10, 10)) == 8 * 2 * 9 * 25


def test_a_resnet_by_hand(make) -> None:
    stages = 16 * 16 * 9 * 32**2 * 2
    second = 16 * 32 * 9 * 16**2 + 32 * 32 * 9 * 16**2
    third = 32 * 64 * 9 * 8**2 + 64 * 64 * 9 * 8**2
    by_hand = 3 * 16 * 9 * 32**2 + stages + second + third + 64 * 10
    assert multiply_adds(make("resnet8"), torch.zeros(7, 3, 32, 32)) == by_hand


def test_attention_is_counted(make) -> None:
    net = make("vit_mini", dim=16, depth=1, heads=2, patch=8)
    tokens, dim = 16, 16
    block = tokens * dim * (3 * dim + dim + 4 * dim + 4 * dim) + 2 * tokens * tokens * dim
    assert multiply_adds(net, torch.zeros(2, 3, 32, 32)) == tokens * 192 * dim + block + dim * 10


def test_attention_of_torchs_own_layers_is_counted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x)[0]

    assert multiply_adds(Net(), torch.zeros(1, 5, 8)) == 5 * 8 * 32 + 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("net", "by_hand"),
    [
        (nn.LSTM(3, 5, batch_first=True), 7 * 4 * 5 * (3 + 5)),
        # The second layer gets both directions of the first.
        (nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True), 7 * 2 * 4 * 5 * (3 + 5 + 10 + 5)),
        (nn.LSTM(3, 5, proj_size=2, batch_first=True), 7 * (4 * 5 * (3 + 2) + 2 * 5)),
        (nn.GRU(3, 5, batch_first=True), 7 * 3 * 5 * (3 + 5)),
        (nn.RNN(3, 5, batch_first=True), 7 * 5 * (3 + 5)),
    ],
    ids=["lstm", "deep", "projected", "gru", "rnn"],
)
def test_recurrent_layers_by_hand(net: nn.Module, by_hand: int) -> None:
    assert multiply_adds(net, torch.zeros(2, 7, 3)) == by_hand


def test_a_text_lstm_by_hand() -> None:
    net = TextLSTM(20, 3, dim=8, depth=2)
    assert multiply_adds(net, torch.zeros(2, 6, dtype=torch.int32)) == 2 * 6 * 4 * 8 * (8 + 8) + 8 * 3


@pytest.mark.parametrize(
    "measure", [multiply_adds, lambda net, x: latency(net, x, 2, repeats=1)], ids=["multiply_adds", "latency"]
)
def test_measuring_changes_nothing(make, measure) -> None:
    net = make("resnet8", width=4).train()
    net.layer2.eval()
    modes, before = [m.training for m in net.modules()], state_hash(net)
    measure(net, torch.randn(2, 3, 32, 32))
    assert state_hash(net) == before
    assert [m.training for m in net.modules()] == modes


def test_modes_come_back_after_an_error() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
    with pytest.raises(RuntimeError):
        multiply_adds(net, torch.zeros(1, 3))
    assert [m.training for m in net.modules()] == [True, True, False]


def stopwatch(net: Slow) -> types.SimpleNamespace:
    """Stands in for the module ``time``: the net's own clock, whichever is read."""
    return types.SimpleNamespace(perf_counter=lambda: net.now, thread_time=lambda: net.now)


class Slow(nn.Module):
    """A net whose passes take what a list says, by a clock of the test's own."""

    def __init__(self, takes: list[float]) -> None:
        super().__init__()
        self.now, self.takes, self.seen = 0.0, iter(takes), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.now += next(self.takes)
        self.seen.append((tuple(x.shape), self.training, torch.is_grad_enabled()))
        return x


def test_latency_is_the_least_of_the_passes_after_the_warm_up(monkeypatch) -> None:
    # A pass to warm up, which is long, then passes of 5, 2 and 3 seconds, and no other: half a second has passed.
    net = Slow([100.0, 5.0, 2.0, 3.0])
    monkeypatch.setattr("stillroom.models.cost.time", stopwatch(net))
    assert latency(net, torch.zeros(5, 3, 4, 4), 64) == 2000.0
    assert net.seen == [((64, 3, 4, 4), False, False)] * 4


def test_latency_of_a_short_pass_is_that_of_blocks_of_them_whatever_else_the_machine_does(monkeypatch) -> None:
    # Two to warm up; blocks of five passes of a millisecond, the first and the third of them interrupted for 220 ms.
    net = Slow([0.3, 0.001, *[0.001] * 4, 0.221, *[0.001] * 5, 0.221, *[0.001] * 4])
    monkeypatch.setattr("stillroom.models.cost.time", stopwatch(net))
    assert latency(net, torch.zeros(1, 3, 4, 4), 1, repeats=3) == pytest.approx(1.0)
    assert len(net.seen) == 17


def test_evaluating_is_for_the_block_alone() -> None:
    net = nn.Dropout()
    with eval_mode(net) as _:
        assert not net.training
    assert net.training
