"""Folding keeps the function, the names and the original; what cannot be folded is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from stillroom.models.fold import activate_in_place, fold_batchnorm
from stillroom.models.weights import state_hash


def norms(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def check(net: nn.Module, x: Tensor, left: list[str], *, folds: bool, **settings: object) -> nn.Module:
    """Fold; the original is untouched, the function is the same, and these norms are left."""
    before, modes = state_hash(net), [m.training for m in net.modules()]
    folded, was_folded = fold_batchnorm(net, x, **settings)
    assert was_folded is folds
    assert norms(folded) == left
    assert state_hash(net) == before
    assert [m.training for m in net.modules()] == modes
    assert not any(m.training for m in folded.modules())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in folded.parameters()}
    assert not shared
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = copy.deepcopy(net).eval()(other)
        torch.testing.assert_close(folded(other), wanted, rtol=1e-5, atol=1e-5)
        if not folds:
            assert torch.equal(folded(other), wanted)
    return folded


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_one_number_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    for tensor, value in (
        (conv.weight, 3.0), (conv.bias, 1.0), (norm.running_mean, 5.0), (norm.running_var, 4.0),
        (norm.weight, 6.0), (norm.bias, 0.5),
    ):  # fmt: skip
        tensor.data.fill_(value)
    folded, _ = fold_batchnorm(nn.Sequential(conv, norm), torch.ones(1, 1, 2, 2))
    # (3x + 1 − 5)/2 · 6 + 0.5
    assert (folded[0].weight.item(), folded[0].bias.item()) == (9.0, -11.5)


@pytest.mark.parametrize("name", ["resnet8", "resnet56"])
def test_a_resnet_folds_whole_and_keeps_its_names(make, settle, name) -> None:
    net = settle(make(name))
    for module in net.modules():  # deep nets of random norms would overflow
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.mul_(0.3)
    folded = check(net, torch.randn(4, 3, 32, 32), [], folds=True)
    assert dict(folded.named_modules()).keys() == dict(net.named_modules()).keys()
    read: dict[str, Tensor] = {}
    for model, key in ((net, "own"), (folded, "folded")):
        model.layer2[0].bn1.register_forward_hook(lambda m, i, out, key=key: read.__setitem__(key, out))
        model(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(read["folded"], read["own"])


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 6, 3, groups=3, bias=False),
        nn.Conv2d(3, 6, 3, stride=2, dilation=2),
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_convolutions_of_all_kinds(settle, conv, affine) -> None:
    check(settle(nn.Sequential(conv, nn.BatchNorm2d(6, affine=affine), nn.ReLU())), X, [], folds=True)


def test_one_and_three_dimensions(settle) -> None:
    check(settle(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4))), torch.randn(2, 3, 9), [], folds=True)
    check(settle(nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4))), torch.randn(2, 3, 5, 5, 5), [], folds=True)


def test_a_model_in_training_mode_is_folded_as_it_evaluates(settle) -> None:
    net = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))).train()
    check(net, X, [], folds=True)


class Parts(nn.Module):
    """Two convolutions and two norms, put together by each case."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.bn, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)


class OutputReadTwice(Parts):
    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.bn(out) + out + self.bn2(self.other(x))


class OneConvolutionTwoNorms(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) * self.bn2(self.conv(x + 1)) + self.other(x)


class OneOutputTwoNorms(Parts):
    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.bn(out) * self.bn2(out) + self.other(x)


class OneNormTwoConvolutions(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) * self.bn(self.other(x)) + self.bn2(x)


class WeightReadByHand(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) + self.conv.weight.sum() + self.bn2(self.other(x))


class NormBeforeConvolution(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x)) + self.bn2(torch.relu(self.other(x)))


class AsksTheNorm(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) * self.bn.running_var.view(1, -1, 1, 1) + self.other(x)


class Branches(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) if x.sum() > 1e9 else self.bn2(self.other(x))


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        (OutputReadTwice, ["bn"]),
        (OneConvolutionTwoNorms, ["bn", "bn2"]),
        (OneOutputTwoNorms, ["bn", "bn2"]),
        (OneNormTwoConvolutions, ["bn", "bn2"]),
        (WeightReadByHand, ["bn"]),
        (NormBeforeConvolution, ["bn", "bn2"]),
        (AsksTheNorm, ["bn", "bn2"]),
        (Branches, ["bn", "bn2"]),
    ],
)
def test_what_may_not_be_folded_is_left_alone(settle, kind, left) -> None:
    check(settle(kind()), X, left, folds=len(left) < 2)


def test_norms_without_running_statistics_are_left_alone(settle) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3))
    check(settle(net), X, ["1"], folds=False)

    class AlwaysTraining(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> AlwaysTraining:
            return super().train(True)

    net = settle(nn.Sequential(nn.Conv2d(3, 4, 3), AlwaysTraining(4)))
    folded, was_folded = fold_batchnorm(net, X)
    assert not was_folded
    assert norms(folded) == ["1"]


def test_tied_weights_are_not_changed_under_the_other_convolution(settle) -> None:
    class Tied(Parts):
        def __init__(self) -> None:
            super().__init__()
            self.other.weight = self.conv.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.bn2(torch.relu(self.bn(self.conv(x)) + self.other(x)))

    check(settle(Tied()), X, ["bn2"], folds=True)


def test_a_module_with_two_names_is_folded_under_both(settle) -> None:
    class Aliased(Parts):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.bn

        def forward(self, x: Tensor) -> Tensor:
            return self.alias(self.conv(x)) + self.bn2(self.other(x))

    folded = check(settle(Aliased()), X, [], folds=True)
    assert folded.alias is folded.bn


def test_outputs_that_someone_reads_are_kept(settle) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3))
            self.bn = nn.BatchNorm2d(4)
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.bn(self.stem(x)))

    net = settle(Nested())
    check(net, X, [], folds=True)
    check(net, X, ["bn"], folds=True, keep=("stem", "body"))
    check(net, X, ["bn"], folds=True, keep=("stem.0", "logits"))
    check(net, X, ["bn", "body.1"], folds=False, keep=("stem", "body.0"))
    net.stem.register_forward_hook(lambda module, inputs, output: None)
    check(net, X, ["bn"], folds=True)


def test_a_fold_that_would_change_the_answer_is_not_used(settle) -> None:
    class ReadsTheNorm(Parts):
        """What tracing cannot see: code that asks which module is there."""

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x)) * (2.0 if isinstance(self.bn, nn.BatchNorm2d) else 1.0)

    check(settle(ReadsTheNorm()), X, ["bn", "bn2"], folds=False)


def test_numbers_too_large_to_fold_fall_back(settle) -> None:
    net = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    net[1].running_var.fill_(float("nan"))
    folded, was_folded = fold_batchnorm(net, X)
    assert not was_folded
    assert norms(folded) == ["1"]


def test_a_model_that_takes_pixels_is_folded_too(settle) -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float() / 255)

    net, images = settle(Pixels()), torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    folded, was_folded = fold_batchnorm(net, images)
    assert was_folded
    torch.testing.assert_close(folded(images), net(images))


def test_tracing_leaves_nothing_in_the_copy(settle) -> None:
    class Remembers(Parts):
        last: object = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            return self.bn(self.conv(x))

    folded, was_folded = fold_batchnorm(settle(Remembers()), X)
    assert was_folded
    assert folded.last is None


def test_a_model_that_insists_on_its_precision_is_compared_in_it(settle) -> None:
    class Insists(Parts):
        def forward(self, x: Tensor) -> Tensor:
            assert isinstance(x, torch.fx.Proxy) or x.dtype == torch.float32
            return self.bn2(self.other(torch.relu(self.bn(self.conv(x)))))

    check(settle(Insists()), X, [], folds=True)


def in_place(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if getattr(m, "inplace", False)]


class Residual(nn.Module):
    """An activation of a sum, one whose input is read again, one that is used twice, and one of what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.of_input, self.read_again, self.twice, self.of_sum, self.alone = (nn.ReLU() for _ in range(5))
        self.view = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.of_input(x))
        y = self.read_again(y) + y
        z = self.twice(self.conv(y)) + self.twice(y)
        z = self.of_sum(z + y)
        z = self.view(self.last(z).flatten(2)).view_as(z)
        return self.alone(self.last(z))


def test_an_activation_writes_over_what_nothing_else_reads() -> None:
    net = Residual().eval()
    wanted = net(X)
    assert activate_in_place(net, X) == 2
    assert in_place(net) == ["of_sum", "alone"]
    given = X.clone()
    assert torch.equal(net(given), wanted)
    assert torch.equal(given, X)


@pytest.mark.parametrize(
    ("keep", "left"),
    [("0.0", "0.2"), ("0.1", "0.2"), ("1", "2"), ("0.2", ""), ("0", ""), ("2", "")],
)
@pytest.mark.parametrize("hooked", [False, True])
def test_what_will_be_read_is_not_written_over(keep: str, left: str, hooked: bool) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.ReLU())
    net = nn.Sequential(inner, nn.Sequential(nn.Conv2d(4, 4, 1)), nn.ReLU()).eval()
    read: list[Tensor] = []
    wanted = net(X)
    net.get_submodule(keep).register_forward_hook(lambda module, given, out: read.append(out))
    net(X)
    if hooked:
        activate_in_place(net, X)
    else:
        other = copy.deepcopy(net)
        other.get_submodule(keep)._forward_hooks.clear()
        activate_in_place(other, X, keep=[keep])
        other.get_submodule(keep)._forward_hooks.update(net.get_submodule(keep)._forward_hooks)
        net = other
    assert torch.equal(net(X), wanted)
    assert torch.equal(read[-1], read[0])
    assert in_place(net) == [name for name in ("0.2", "2") if name != left]


def test_a_model_that_cannot_be_traced_is_left_alone() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.relu(self.conv(x))
            return y if y.sum() > 0 else -y

    net = Branches().eval()
    assert activate_in_place(net, X) == 0
    assert in_place(net) == []
