"""The CIFAR ResNets: the published sizes, the published arithmetic, and nothing that works in place behind a hook."""

from __future__ import annotations

import io
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from stillroom.errors import BadInput
from stillroom.models.cost import parameters
from stillroom.models.fold import fold_batchnorm
from stillroom.models.reader import TapReader
from stillroom.models.tail import tail_of
from stillroom.models.taps import find_taps
from stillroom.models.tracing import trace
from stillroom.models.weights import load_weights, read_state
from stillroom.models.zoo import VGG, PadShortcut, ResNet, WideResNet

# Idelbayev's table of the same networks, to the last parameter.
PUBLISHED = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("depth", "count"), PUBLISHED.items())
def test_sizes_are_the_published_ones(depth: int, count: int) -> None:
    assert parameters(ResNet(depth)) == count


# The CRD benchmark's, with 100 classes.
WIDE = {8: 1_233_540, 32: 7_433_860}


def wide(depth: int, classes: int = 100) -> ResNet:
    return ResNet(depth, num_classes=classes, width=64, stem=32, projection=True)


@pytest.mark.parametrize(("depth", "count"), WIDE.items())
def test_the_wide_ones_have_the_sizes_of_the_crd_benchmark(depth: int, count: int) -> None:
    net = wide(depth)
    assert parameters(net) == count
    widths = [conv.out_channels for conv in (net.conv1, net.layer1[0].conv2, net.layer2[0].conv2, net.layer3[0].conv2)]
    assert widths == [32, 64, 128, 256]


def test_learned_shortcuts_are_where_the_shape_changes_and_nowhere_else() -> None:
    net = wide(14)
    learned = {name for name, module in net.named_modules() if name.endswith("shortcut") and parameters(module)}
    assert learned == {"layer1.0.shortcut", "layer2.0.shortcut", "layer3.0.shortcut"}
    names = {name for name in net.state_dict() if "layer1.0.shortcut" in name}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert names == {"layer1.0.shortcut.0.weight", *(f"layer1.0.shortcut.1.{part}" for part in norm)}
    # Where the stem is as wide as the first stage, that stage's shape does not change.
    assert parameters(ResNet(8, width=4, projection=True).layer1[0].shortcut) == 0


def test_a_learned_shortcut_is_a_convolution_and_its_norm(settle) -> None:
    block = settle(wide(8)).layer2[0]
    x = torch.randn(2, 64, 9, 9)
    conv, norm = block.shortcut
    projected = F.conv2d(x, conv.weight, stride=2)
    projected = F.batch_norm(projected, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    with torch.no_grad():
        wanted = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + projected)
        torch.testing.assert_close(block(x), wanted)


def test_a_stem_of_another_width_does_without_a_learned_shortcut() -> None:
    net = ResNet(8, width=8, stem=3)
    assert parameters(net.layer1[0].shortcut) == 0
    assert net.layer1[0].shortcut(torch.ones(1, 3, 4, 4)).shape == (1, 8, 4, 4)
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_the_wide_ones_fold_whole_and_keep_their_answer(settle) -> None:
    net = settle(wide(14))
    for module in net.modules():  # deep nets of random norms would overflow
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.mul_(0.3)
    x = torch.randn(2, 3, 16, 16)
    folded, was_folded = fold_batchnorm(net, x)
    assert was_folded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert folded.layer1[0].shortcut[0].bias is not None
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4"])
def test_a_penultimate_width_changes_what_comes_after_the_pooling_and_nothing_else(make, name) -> None:
    plain, *others = (make(name, width=4, **options) for options in ({}, {"penultimate": 3}, {"penultimate": 30}))
    assert not any(part.startswith("penultimate") for part, _ in plain.named_modules())
    for width, net in zip((3, 30), others, strict=True):
        assert parameters(net) - parameters(plain) == 16 * width + width + 10 * (width - 16)
        state = net.state_dict()
        changed = {part for part, tensor in plain.state_dict().items() if not torch.equal(tensor, state[part])}
        assert changed <= {"linear.weight", "linear.bias"}
        assert set(state) - set(plain.state_dict()) == {"penultimate.linear.weight", "penultimate.linear.bias"}
        net(torch.randn(8, 3, 16, 16)).square().sum().backward()
        assert [part for part, tensor in net.named_parameters() if tensor.grad is None or not tensor.grad.any()] == []


# Of all weights, before there was such an option.
UNCHANGED = 275.080612039048


def test_without_one_the_weights_of_a_seed_are_what_they_were() -> None:
    torch.manual_seed(0)
    found = sum(tensor.double().abs().sum().item() for tensor in ResNet(8, width=2).parameters())
    assert found == pytest.approx(UNCHANGED, rel=1e-6)


def test_the_features_are_as_wide_as_asked_for_and_rectified_and_lead_to_the_logits(settle) -> None:
    net = settle(ResNet(8, width=4, penultimate=5))
    x = torch.randn(6, 3, 16, 16)
    taps = {tap.name: tap.shape for tap in find_taps(net, x)}
    assert list(taps) == ["layer1", "layer2", "layer3", "features", "logits"]
    assert (taps["layer3"], taps["features"]) == ((16, 4, 4), (5,))
    traced = trace(net, x)
    reader = TapReader(net, ["features", "layer3"])
    with reader, torch.no_grad():
        logits = net(x)
    read = reader.take()
    assert read["features"].min() == 0
    assert read["features"].max() > 0
    for name, features in read.items():
        tail = tail_of(net, name, x, traced=traced)
        assert not tail.replayed
        assert torch.equal(tail(features), logits)


@pytest.mark.parametrize("depth", [2, 9, 18, 52])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth: got {depth}; expected 6n\+2"):
        ResNet(depth)


@pytest.mark.parametrize(
    ("channels", "size", "width"), [(1, 8, 16), (3, 9, 4), (3, 32, 16), (4, 17, 8), (3, 33, 1), (2, 28, 5)]
)
def test_any_channels_size_and_width(channels: int, size: int, width: int) -> None:
    net = ResNet(8, num_classes=7, in_channels=channels, width=width)
    logits = net(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_every_weight_of_a_wide_one_learns() -> None:
    net = wide(8, classes=7)
    logits = net(torch.randn(2, 3, 17, 17))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_shortcut_takes_every_second_pixel_and_pads_both_sides() -> None:
    x = torch.arange(32.0).view(1, 2, 4, 4)
    out = PadShortcut(2, 4)(x)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, [0, 2]][:, :, :, [0, 2]])
    assert out[:, 0].abs().sum() == 0
    assert out[:, 3].abs().sum() == 0
    assert PadShortcut(3, 6)(torch.ones(1, 3, 2, 2)).sum(dim=(0, 2, 3)).tolist() == [0, 1, 1, 1, 0, 0]


def test_initial_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    net = ResNet(8, width=64)
    weight = net.layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert net.linear.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)


def reference(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """The network as the paper and the public code have it, from bare tensors."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts)

    x = F.relu(norm(conv(x, "conv1"), "bn1"))
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = norm(conv(F.relu(norm(conv(x, f"{at}.conv1", stride), f"{at}.bn1")), f"{at}.conv2"), f"{at}.bn2")
            if stride == 2:
                pad = out.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
            x = F.relu(out + x)
    x = F.avg_pool2d(x, x.shape[3]).flatten(1)
    return F.linear(x, state["linear.weight"], state["linear.bias"])


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "depth", "classes"),
    [("resnet20-cifar10.th", 20, 10), ("resnet56-cifar10.th", 56, 10), ("resnet32-cifar100.safetensors", 32, 100)],
)
def test_public_weights_load_and_compute_the_standard_network(weights_folder, file, depth, classes) -> None:
    net = ResNet(depth, num_classes=classes)
    load_weights(net, weights_folder / file)
    net.eval()
    state = {name.removeprefix("module."): tensor for name, tensor in read_state(weights_folder / file).items()}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actual, wanted = net(x), reference(state, x, (depth - 2) // 6)
    assert actual.std() > 1
    torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-5)


def test_what_a_hook_read_is_not_overwritten_later() -> None:
    net = ResNet(8).eval()
    read: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str):
        def hook(module: object, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
            what, tensor = (f"{name}:pre", inputs[0]) if output is None else (name, output)
            read[what] = (tensor, tensor.clone())

        return hook

    for name, module in net.named_modules():
        module.register_forward_pre_hook(keep(name))
        module.register_forward_hook(keep(name))
    with torch.no_grad():
        net(torch.randn(1, 3, 16, 16))
    assert {"bn1", "layer1.0.bn2", "layer2.0", "layer3", "layer2.0.shortcut", "layer3.0.relu2:pre"} <= read.keys()
    for name, (later, at_once) in read.items():
        assert torch.equal(later, at_once), name


@pytest.mark.parametrize(("projection", "penultimate"), [(False, None), (True, None), (False, 5)])
def test_it_can_be_traced_exported_and_run_in_channels_last(settle, projection, penultimate) -> None:
    net = settle(ResNet(14, stem=12, projection=projection, penultimate=penultimate))
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        wanted = net(x)
        assert torch.equal(fx.symbolic_trace(net)(x), wanted)
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()
        torch.testing.assert_close(loaded(x), wanted)
        torch.testing.assert_close(loaded(x[:1]), wanted[:1])
        features = net.layer3(net.layer2(net.layer1(net.conv1(x.to(memory_format=torch.channels_last)))))
        assert features.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), wanted)


class Bare:
    """Convolutions and norms from the tensors of a file, by their names there."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x, *(self.state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        )


def wide_reference(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """Zagoruyko & Komodakis's network, from tensors with the names of RepDistiller."""
    bare = Bare(state)
    x = bare.conv(x, "conv1")
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            before = F.relu(bare.norm(x, f"{at}.bn1"))
            out = bare.conv(F.relu(bare.norm(bare.conv(before, f"{at}.conv1", stride), f"{at}.bn2")), f"{at}.conv2")
            learned = f"{at}.convShortcut"
            x = out + (bare.conv(before, learned, stride) if f"{learned}.weight" in state else x)
    x = F.relu(bare.norm(x, "bn1")).mean((2, 3))
    return F.linear(x, state["fc.weight"], state["fc.bias"])


def vgg_reference(state: dict[str, Tensor], x: Tensor, pools: int) -> Tensor:
    bare = Bare(state)
    for block in range(5):
        for layer in (0, 3, 6, 9):
            if f"block{block}.{layer}.weight" in state:
                x = F.relu(bare.norm(bare.conv(x, f"block{block}.{layer}"), f"block{block}.{layer + 1}"))
        x = F.max_pool2d(x, 2) if block < pools else x
    return F.linear(x.mean((2, 3)), state["classifier.weight"], state["classifier.bias"])


def renamed(net: nn.Module, *pairs: tuple[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in net.state_dict().items():
        for ours, theirs in pairs:
            name = re.sub(ours, theirs, name)
        found[name] = tensor
    return found


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_wide_resnet_is_the_published_one_and_loads_from_the_crd_benchmarks_files(settle, tmp_path, wrapped) -> None:
    source = settle(WideResNet(16, 2, 7, width=4))
    state = renamed(source, (r"^layer(\d)", r"block\1.layer"), ("shortcut", "convShortcut"), ("^linear", "fc"))
    assert {"block1.layer.0.convShortcut.weight", "block3.layer.1.bn2.bias", "fc.bias"} <= state.keys()
    torch.save(
        {"model": {f"module.{n}": t for n, t in state.items()}, "epoch": 240} if wrapped else state, tmp_path / "t.pth"
    )
    net = WideResNet(16, 2, 7, width=4).eval()
    load_weights(net, tmp_path / "t.pth")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(x), wide_reference(state, x, blocks=2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("depth", "large"), [(8, False), (13, True)])
def test_a_vgg_is_the_published_one(settle, depth, large) -> None:
    net = settle(VGG(depth, 7, width=4, large=large))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x), vgg_reference(net.state_dict(), x, 4 if large else 3), rtol=1e-4, atol=1e-4)


def test_a_resnet_loads_from_the_crd_benchmarks_files_and_not_without_its_shortcuts(settle, tmp_path) -> None:
    source = settle(ResNet(8, 7, width=4, projection=True))
    torch.save({"model": renamed(source, ("shortcut", "downsample"), ("^linear", "fc"))}, tmp_path / "t.pth")
    net = ResNet(8, 7, width=4, projection=True).eval()
    load_weights(net, tmp_path / "t.pth")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(x), source(x))
    with pytest.raises(BadInput, match=r"downsample.*options: \{projection: true\}"):
        load_weights(ResNet(8, 7, width=4), tmp_path / "t.pth")


@pytest.mark.parametrize("depth", [4, 12, 20])
def test_a_depth_of_a_wide_one_that_is_not_6n_plus_4_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth: got {depth}; expected 6n\+4"):
        WideResNet(depth, 2)


@pytest.mark.parametrize("net", [WideResNet(10, 2, width=4), VGG(8, width=4)], ids=["wide", "vgg"])
def test_the_others_fold_are_traced_and_exported(settle, net) -> None:
    net = settle(net)
    x = torch.randn(2, 3, 16, 16)
    folded, _ = fold_batchnorm(net, x)
    with torch.no_grad():
        wanted = net(x)
        torch.testing.assert_close(folded(x), wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(fx.symbolic_trace(net)(x), wanted)
        program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.testing.assert_close(program.module()(x), wanted)
