"""timm's and torchvision's models: made without a download, tapped, and run from a tap on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillroom.cli import run
from stillroom.errors import BadInput
from stillroom.models import external
from stillroom.models.config import ModelConfig
from stillroom.models.reader import TapReader
from stillroom.models.registry import build
from stillroom.models.tail import tail_of
from stillroom.models.taps import find_taps
from stillroom.models.tracing import trace

MISSING = [library for library in ("timm", "torchvision") if importlib.util.find_spec(library) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# A small one of each family, made smaller where the library allows it, and the taps that are found.
STAGES = [f"stages.{n}" for n in range(4)]
FAMILIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "torchvision:resnet18": ({}, ["relu", "layer1", "layer2", "layer3", "layer4"]),
    "timm:resnet10t": ({}, ["act1", "layer1", "layer2", "layer3", "layer4"]),
    "timm:convnext_atto": ({"depths": (1, 1, 1, 1)}, STAGES),
    "timm:efficientnet_b0": ({}, ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]),
    "torchvision:mobilenet_v3_small": ({}, [f"features.{n}" for n in (0, 1, 3, 8, 12)]),
    "timm:regnetx_002": ({}, ["stem", "s1", "s2", "s3", "s4"]),
    "torchvision.models:DenseNet": (
        {"block_config": (2, 2, 2, 2), "growth_rate": 8, "num_init_features": 16},
        ["features.relu0", *(f"features.denseblock{n}" for n in (1, 2, 3)), "features.norm5"],
    ),
    "timm:vgg11": ({"mlp_ratio": 1 / 64}, [f"features.{n}" for n in (1, 4, 9, 14, 19, 20)]),
    "timm:vit_tiny_patch16_224": ({"depth": 2}, ["blocks.0", "blocks.1"]),
    "timm:swin_tiny_patch4_window7_224": (
        {"depths": (1, 1, 2, 1), "embed_dim": 24, "window_size": 2, "num_heads": (1, 2, 4, 8)},
        ["layers.0", "layers.1", "layers.2", "norm"],
    ),
    "timm:mixer_s32_224": ({}, [f"blocks.{n}" for n in range(8)]),
}


def made(name: str, size: int = 64, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, options=options), num_classes=7, in_channels=3, image_size=size)
    for parameter in model.parameters():
        # Some heads begin at zero, and then every tail would say the same.
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_tapped_and_run_from_a_tap_on(name: str) -> None:
    options, wanted = FAMILIES[name]
    model = made(name, **options)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    traced = trace(model.eval(), images[:2])  # most of the time of this test
    taps = find_taps(model, images[:2], traced=traced)
    assert [tap.name for tap in taps] == [*wanted, "features", "logits"]
    names = [taps[len(taps) // 2 - 1].name, "features"]
    reader = TapReader(model, names)
    with reader, torch.no_grad():
        logits = model(images)
    read = reader.take()
    for tap in names:
        tail = tail_of(model, tap, images, traced=traced)
        assert not tail.replayed
        features = read[tap].requires_grad_()
        said = tail(features)
        torch.testing.assert_close(said, logits, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tail(features[:1]), logits[:1], rtol=1e-3, atol=1e-5)
        assert torch.autograd.grad(said.square().sum(), features)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options", "channels", "message"),
    [
        ("timm:resnet10tt", {}, 3, "did you mean 'resnet10t'"),
        ("timm:hf-hub:timm/resnet10t.c3_in1k", {}, 3, "a model that timm has"),
        ("torchvision:fcn_resnet50", {}, 3, "a model that torchvision has"),
        ("torchvision:resnet18", {}, 1, "torchvision's take 3, timm's any number"),
        ("timm:resnet10t", {"pretrained": True}, 3, "nothing is downloaded"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, 3, "nothing is downloaded"),
        ("timm:resnet10t", {"depth": "x"}, 3, "it raised"),
    ],
)
def test_what_cannot_be_made_is_reported_in_a_line(
    name: str, options: dict[str, Any], channels: int, message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        build(ModelConfig(name=name, options=options), num_classes=7, in_channels=channels, image_size=32)
    assert "\n" not in str(caught.value)


def test_the_size_of_the_images_reaches_those_that_ask_and_the_seed_sets_the_weights() -> None:
    grey = build(ModelConfig(name="timm:resnet10t"), num_classes=7, in_channels=1, image_size=32)
    assert grey.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    vit, again = (made("timm:vit_tiny_patch16_224", 32, depth=1) for _ in range(2))
    assert vit.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert all(torch.equal(a, b) for a, b in zip(vit.parameters(), again.parameters(), strict=True))
    own = build(ModelConfig(name="torchvision.models:resnet18"), num_classes=7, in_channels=3, image_size=32)
    assert own.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_the_command_pairs_a_library_s_model_with_one_of_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["taps", "timm:resnet10t", "resnet8", "--image-size", "32", "--json"]) == 0
    assert '"pairs": [{"teacher":' in capsys.readouterr().out


@pytest.mark.parametrize("name", ["_C.so", "_C_stable.so"])
def test_the_extension_of_torchvision_is_found_under_either_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert not external._extension_loads(tmp_path)
    (tmp_path / name).touch()
    (tmp_path / "_C_notes.txt").touch()
    assert external._extension_loads(tmp_path)
    assert loaded == [str(tmp_path / name)]
