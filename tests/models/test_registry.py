"""From a name and options to a model; and every way of getting them wrong reported in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from stillroom.errors import BadInput
from stillroom.models.config import ZOO, ModelConfig, names
from stillroom.models.cost import parameters
from stillroom.models.registry import build

OF_IMAGES = [name for name, model in ZOO.items() if not model.of_text]
# One of a kind is enough where others differ in depth alone.
LARGE = ("resnet44", "resnet56", "resnet110", "resnet32x4", "vit_tiny", "wrn_16_1", "wrn_40_1", "wrn_40_2", "vgg11")
LARGE += ("vgg13", "vgg16", "vgg19")
SMALL = [name for name in OF_IMAGES if name not in LARGE]


def test_the_zoo_holds_what_the_lists_promise() -> None:
    listed = [name for name, _ in names()]
    assert listed[:7] == [f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)]
    wide = {f"wrn_{size}" for size in ("16_1", "16_2", "40_1", "40_2")} | {
        f"vgg{depth}" for depth in (8, 11, 13, 16, 19)
    }
    others = {"resnet8x4", "resnet32x4", "mlp", "vit_mini", "vit_tiny"}
    assert set(listed[7:]) == others | wide | (set(ZOO) - set(OF_IMAGES))
    assert all(0 < len(line) < 90 and "\n" not in line for _, line in names())


def test_the_catalogue_does_not_import_torch() -> None:
    code = "import sys, stillroom.models.config; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_model_of_the_zoo_can_be_built_and_answers(make, name) -> None:
    net = make(name, classes=5).eval()
    with torch.no_grad():
        logits = net(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 16), (4, 32)])
@pytest.mark.parametrize("name", SMALL)
def test_every_small_model_learns_at_other_sizes_and_channels(make, name, channels, size) -> None:
    net = make(name, channels=channels, size=size)
    logits = net(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 10)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


# The published sizes of RepDistiller's networks, of 100 classes.
CRD = {
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
}


@pytest.mark.parametrize(("name", "size"), CRD.items())
def test_the_models_of_the_crd_benchmark_have_its_sizes(make, name, size) -> None:
    assert parameters(make(name, classes=100)) == size


def test_the_resnets_of_the_crd_benchmark_have_learned_shortcuts(make) -> None:
    assert parameters(make("resnet20", classes=100, projection=True)) == 278_324
    assert parameters(make("resnet56", classes=100, projection=True)) == 861_620


def test_options_change_the_model(make) -> None:
    assert parameters(make("resnet8", width=4)) < parameters(make("resnet8")) / 10
    assert parameters(make("resnet8x4", width=8, stem=4)) < parameters(make("resnet8x4")) / 50
    assert parameters(make("mlp", hidden=[])) == 3072 * 10 + 10
    # 2 layers of 5 and 7 units, by hand.
    assert parameters(make("mlp", hidden=[5, 7])) == 3072 * 5 + 5 + 5 * 7 + 7 + 7 * 10 + 10
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in make("mlp", dropout=0.5).modules())
    wide = make("vit_mini", dim=32, depth=2, heads=2, patch=8, mlp_ratio=2)
    # patches, positions; per block 2 norms, qkv, proj, mlp; norm; head.
    block = 2 * 64 + 32 * 96 + 96 + 32 * 32 + 32 + 32 * 64 + 64 + 64 * 32 + 32
    assert parameters(wide) == 3 * 64 * 32 + 32 + 16 * 32 + 2 * block + 64 + 32 * 10 + 10


def test_vit_tiny_is_the_published_size_apart_from_the_patches(make) -> None:
    net = make("vit_tiny")
    block = 2 * 384 + 192 * 576 + 576 + 192 * 192 + 192 + 2 * 192 * 768 + 768 + 192
    assert parameters(net.blocks) == 12 * block


def test_vit_does_not_care_for_the_order_of_images_and_does_for_that_of_patches(make) -> None:
    net = make("vit_mini").eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x.flip(0)), net(x).flip(0))
        assert not torch.allclose(net(x.roll(4, dims=3)), net(x), atol=1e-4)


def test_attention_is_softmax_of_scaled_products(make) -> None:
    attention = make("vit_mini", dim=8, heads=2).blocks[0].attention
    x = torch.randn(2, 5, 8)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / 2, dim=-1)
    wanted = attention.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted)


def test_the_same_seed_gives_the_same_weights(make) -> None:
    first, second = make("resnet8").state_dict(), make("resnet8").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["mlp", "vit_mini"])
def test_these_can_be_traced(make, name) -> None:
    net, x = make(name).eval(), torch.randn(2, 3, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(net)(x), net(x))


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        ("resnt56", {}, 32, r"student.name: got 'resnt56'; expected .*did you mean 'resnet56'"),
        ("zzz", {}, 32, r"student.name: got 'zzz'; expected .*one of: bert_micro, bert_mini, mlp, resnet110"),
        ("resnet21", {}, 32, r"student.name: got 'resnet21'"),
        ("resnet8", {"widht": 4}, 32, r"student.options.widht: unknown field 'widht'; did you mean 'width'\?"),
        ("resnet8", {"width": 0}, 32, r"student.options.width: got 0; expected .*1"),
        ("resnet8", {"width": "wide"}, 32, r"student.options.width: got 'wide'"),
        ("resnet8", {"width": True}, 32, r"student.options.width: got True; expected a number"),
        ("resnet8", {"penultimate": 0}, 32, r"student.options.penultimate: got 0; expected .*1"),
        ("resnet8x4", {"penultimat": 9}, 32, r"unknown field 'penultimat'; did you mean 'penultimate'\?"),
        ("resnet8", {"hidden": [3]}, 32, r"student.options.hidden: unknown field"),
        ("mlp", {"hidden": 256}, 32, r"student.options.hidden: got 256; expected a list"),
        ("mlp", {"hidden": [16, -1]}, 32, r"student.options.hidden.1: got -1"),
        ("mlp", {"hidden": [True]}, 32, r"student.options.hidden.0: got True"),
        ("mlp", {"dropout": 1.5}, 32, r"student.options.dropout: got 1.5"),
        ("mlp", {}, None, r"student.name: got 'mlp'; expected a model for images of any size"),
        ("vit_mini", {}, None, r"student.name: got 'vit_mini'; expected a model for images of any size"),
        ("vit_mini", {"patch": 5}, 32, r"student.options.patch: got 5; expected a divisor of .*32"),
        ("vit_mini", {"heads": 5}, 32, r"student.options: .*expected heads that divide dim \(64\), not 5"),
        ("vit_tiny", {"dim": float("nan")}, 32, r"student.options.dim: got nan"),
    ],
)
def test_bad_names_and_options_are_reported_in_a_line(name, options, size, message) -> None:
    config = ModelConfig(name=name, options=options)
    with pytest.raises(BadInput, match=message) as caught:
        build(config, num_classes=10, in_channels=3, image_size=size, field="student")
    assert "\n" not in str(caught.value)
