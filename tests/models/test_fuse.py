"""Convolutions fused with the sum and the ReLU after them: the same answers, and only where nothing else reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from stillroom.data.images import ImageSet
from stillroom.models.config import ModelConfig
from stillroom.models.fold import fold_batchnorm
from stillroom.models.fuse import _fused, answering_copy, fuse_convolutions
from stillroom.models.prepared import logits_of, prepare_model
from stillroom.models.preprocess import Preprocess
from stillroom.models.registry import build
from stillroom.observer import Observer
from stillroom.teachers.live import LiveTeacher

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this build of PyTorch has no oneDNN")


def unfolded(name: str) -> nn.Module:
    torch.manual_seed(1)
    model = build(ModelConfig(name=name), num_classes=10, in_channels=3, image_size=16).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model


def network(name: str) -> nn.Module:
    return fold_batchnorm(unfolded(name), IMAGES[:2])[0].requires_grad_(False)


def fused_nodes(model: Any) -> int:
    return sum("convolution_pointwise" in str(node.target) for node in model.graph.nodes)


@pytest.mark.parametrize(("name", "count"), [("resnet8", 7), ("resnet8x4", 7), ("wrn_16_1", 12), ("vgg8", 5)])
@torch.no_grad()
def test_a_network_of_the_zoo_answers_alike(name: str, count: int) -> None:
    model = network(name)
    graph = _fused(model)
    assert graph is not None
    assert fused_nodes(graph) == count
    given = IMAGES.clone()
    for images in (given, given.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(graph(images), model(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(given, IMAGES)


class Net(nn.Module):
    """Some convolutions whose forward pass the tests vary."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        self.same = nn.Conv2d(3, 3, 3, padding="same")
        self.circular = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")
        self.relu = nn.ReLU()
        self.idle = nn.Identity()


class Residual(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.first(x))
        return F.relu(self.idle(self.second(h)) + self.idle(h))


class ReadLater(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.first(x))
        return (self.second(h) + h) * h


class ViewReadLater(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.first(x))
        view = h.flatten(1)
        return (self.second(h) + h).flatten(1) * view


class OntoTheInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + x


class ReadTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.relu(h) - h


class Scaled(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.second(x), self.first(x), alpha=2)


class OtherPaddings(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.same(x)) + self.relu(self.circular(x))


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.first(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("make", "count"),
    [(Residual, 2), (ReadLater, 1), (OntoTheInput, 0), (ReadTwice, 0), (Scaled, 0), (OtherPaddings, 0), (Branching, 0)],
)
@torch.no_grad()
def test_only_what_nothing_else_reads_is_written_over(make: type[Net], count: int) -> None:
    model = make().eval()
    given = IMAGES.clone()
    torch.testing.assert_close(fuse_convolutions(model, IMAGES[:2])(given), model(given), rtol=1e-5, atol=1e-5)
    if make is not Branching:
        made = _fused(model)
        assert (0 if made is None else fused_nodes(made)) == count
        torch.testing.assert_close((made or model)(given), model(given), rtol=1e-5, atol=1e-5)
    assert torch.equal(given, IMAGES)


def test_a_view_that_is_read_later_is_found_by_the_example() -> None:
    model = ViewReadLater().eval()
    assert fuse_convolutions(model, IMAGES[:2]) is model


class BatchBakedIn(Net):
    """Its trace holds the batch that it was traced with."""

    def forward(self, x: Tensor) -> Tensor:
        rows = 2 if isinstance(x, fx.Proxy) else len(x)
        return self.relu(self.first(x)) * torch.ones(rows, 1, 1, 1)


class Random(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.first(x)) + torch.rand(1)


@pytest.mark.parametrize("make", [BatchBakedIn, Random])
def test_what_a_trace_would_hold_as_a_constant_is_found_by_the_example(make: type[Net]) -> None:
    model = make().eval()
    assert _fused(model) is not None
    assert fuse_convolutions(model, IMAGES[:2]) is model


def test_a_model_with_hooks_or_in_another_type_is_left_alone() -> None:
    model = Residual().eval()
    assert fuse_convolutions(model, IMAGES[:2].double()) is model
    handle = model.first.register_forward_hook(lambda *_: None)
    assert fuse_convolutions(model, IMAGES[:2]) is model
    assert _fused(model) is None
    handle.remove()
    assert _fused(model) is not None


def test_a_teacher_is_fused_where_its_logits_alone_are_read_in_float32() -> None:
    def live(**options: Any) -> LiveTeacher:
        preprocess = Preprocess(None, is_pixels=False)
        return LiveTeacher(network("resnet8"), preprocess, example=IMAGES[:2], device=torch.device("cpu"), **options)

    alone, tapped = live(), live(taps=["layer2"])
    # Where a processor's last bits differ, it stays as it is.
    folded = network("resnet8").to(memory_format=torch.channels_last)
    assert isinstance(alone.model, fx.GraphModule) == (fuse_convolutions(folded, IMAGES[:2]) is not folded)
    assert not isinstance(tapped.model, fx.GraphModule)
    assert not isinstance(live(precision=torch.bfloat16).model, fx.GraphModule)
    with torch.no_grad():
        torch.testing.assert_close(alone.model(IMAGES), tapped.model(IMAGES), rtol=1e-5, atol=1e-5)


def small_split(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 10, tuple("abcdefghij"), "made")


def logits(model: nn.Module, data: ImageSet, name: str = "resnet8") -> Tensor:
    prepared = prepare_model(model, ModelConfig(name=name), data, "model")
    return logits_of(prepared, data, torch.device("cpu"), Observer(), "evaluating")


@pytest.mark.parametrize("training", [False, True])
def test_a_large_split_is_answered_by_a_folded_copy(training: bool) -> None:
    model, data = unfolded("resnet8"), small_split(2000)
    model.train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    whole = logits(model, data)
    assert model.training is training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    # As it is asked where a copy is not worth its making: so many images that each batch is the same.
    few = torch.cat([logits(model, data.subset(np.arange(start, start + 1000))) for start in (0, 1000)])
    assert not torch.equal(whole, few)
    torch.testing.assert_close(whole, few, rtol=1e-4, atol=1e-4)


def test_a_model_with_hooks_answers_a_large_split_itself() -> None:
    model, data, seen = unfolded("resnet8"), small_split(2000), list[int]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _m, given, _o: seen.append(len(given[0])))
            break
    logits(model, data)
    assert sum(seen) >= 2000


def test_a_model_without_batch_norm_is_not_copied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert answering_copy(model, IMAGES[:2]) is model
