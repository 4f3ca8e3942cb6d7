"""Taps found by themselves: cut vertices, one a resolution, by names that read what they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.models.config import ZOO
from stillroom.models.reader import TapReader
from stillroom.models.taps import find_taps
from stillroom.models.text import TextLSTM

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Skips(nn.Module):
    """A skip around ``middle``, so that neither it nor what is in it cuts the model."""

    def __init__(self, *, inplace: bool = False, branches: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.act = nn.ReLU(inplace)
        self.down = nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Linear(6, 5)
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.branches and float(x.sum()) > 1e9:
            x = -x
        x = self.act(self.middle(x) + x)
        logits: Tensor = self.head(F.relu(self.down(x), inplace=True).mean((2, 3)))
        return logits


@pytest.mark.parametrize("branches", [False, True], ids=["traced", "tried"])
def test_a_point_that_a_skip_passes_by_is_no_tap(branches: bool) -> None:
    taps = find_taps(Skips(branches=branches), IMAGES)
    assert [(tap.name, tap.shape, tap.kind, tap.stage) for tap in taps] == [
        ("act", (4, 16, 16), "map", 0),
        ("down", (6, 7, 7), "map", 1),
        ("features", (6,), "vector", 2),
        ("logits", (5,), "vector", 2),
    ]
    # Multiply-adds by hand: 108·256, then 144·256, then 36·6·49, then 30.
    total = 27648 + 36864 + 10584 + 30
    assert [tap.depth for tap in taps] == pytest.approx([64512 / total, 75096 / total, 75096 / total, 1])


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "mlp", "vit_mini"])
def test_taps_of_the_zoo(name: str, make: Callable[..., nn.Module]) -> None:
    taps = find_taps(make(name, size=16), IMAGES)
    found = [tap.name for tap in taps]
    inner = {"mlp": ["layers.0"], "vit_mini": [f"blocks.{n}" for n in range(4)]}
    assert found == [*inner.get(name, ["layer1", "layer2", "layer3"]), "features", "logits"]
    assert [tap.depth for tap in taps] == sorted(tap.depth for tap in taps)
    assert {tap.kind for tap in taps} == {{"mlp": "vector", "vit_mini": "token"}.get(name, "map"), "vector"}


def test_every_model_of_the_zoo_has_taps_that_can_be_read(make: Callable[..., nn.Module]) -> None:
    for name in {name for name, model in ZOO.items() if not model.of_text} - {
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet32x4",
        *("wrn_16_1", "wrn_40_1", "wrn_40_2"),
        *("vgg11", "vgg13", "vgg16", "vgg19"),
    }:
        model = make(name, size=16)
        taps = find_taps(model, IMAGES)
        assert model.training
        reader = TapReader(model.eval(), [tap.name for tap in taps])
        with reader, torch.no_grad():
            model(IMAGES)
        assert {key: tuple(read.shape[1:]) for key, read in reader.take().items()} == {t.name: t.shape for t in taps}


def test_the_depth_of_a_tap_counts_recurrent_layers() -> None:
    net = TextLSTM(20, 4, dim=8)
    done = 6 * 4 * 8 * (8 + 8)
    (tap,) = find_taps(net, torch.zeros(2, 6, dtype=torch.int32), names=["lstm"])
    assert tap.depth == pytest.approx(done / (done + 8 * 4))


def test_taps_by_hand_need_not_cut() -> None:
    names = ["middle.0", "act:pre", "logits"]
    assert [(tap.name, tap.shape) for tap in find_taps(Skips(), IMAGES, names)] == [
        ("middle.0", (4, 16, 16)),
        ("act:pre", (4, 16, 16)),
        ("logits", (5,)),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [("midle", "did you mean 'middle'"), ("down:pre", "holds an activation"), ("feature", "'features'")],
)
def test_an_unknown_tap_is_reported_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        find_taps(Skips(), IMAGES, [name])


def test_a_tap_that_gives_nothing_of_each_image_is_reported() -> None:
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1)), nn.LazyLinear(3))
    model(IMAGES[:1])
    with pytest.raises(BadInput, match="features \\[batch"):
        find_taps(model, IMAGES, ["0"])


@pytest.mark.parametrize("inplace", [False, True])
def test_what_was_read_is_not_overwritten_by_an_in_place_activation(inplace: bool) -> None:
    torch.manual_seed(0)
    model = Skips(inplace=inplace).eval()
    taps = TapReader(model, ["act:pre", "down", "features", "logits"])
    for _ in range(3):
        with taps:
            logits = model(IMAGES)
        read = taps.take()
        wanted = model.middle(model.stem(IMAGES)) + model.stem(IMAGES)
        assert torch.equal(read["act:pre"], wanted)
        assert read["act:pre"].min() < 0
        assert torch.equal(read["down"], model.down(wanted.relu()))
        assert torch.equal(model.head(read["features"]), logits)
        assert read["logits"] is logits
        # Gradients go through what was read, copied or not.
        assert torch.autograd.grad(read["act:pre"].sum(), model.stem.weight)[0].abs().sum() > 0
