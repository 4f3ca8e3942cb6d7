"""What is exported gives the model's own logits in another runtime, or is not written."""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, RunFailed
from stillroom.models import export
from stillroom.models.config import PreprocessConfig
from stillroom.models.export import ExportCheck, export_onnx
from stillroom.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from stillroom.models.weights import load_weights, save_weights, state_hash

X = torch.zeros(1, 3, 32, 32)


def run(path: Path, images: Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path.read_bytes())
    return session.run(["logits"], {"images": images.numpy()})[0]


def test_safetensors_come_back(make, tmp_path) -> None:
    net = make("mlp", hidden=(4,))
    save_weights(net, tmp_path / "net.safetensors")
    other = make("mlp", hidden=(4,))
    nn.init.zeros_(other.linear.weight)
    load_weights(other, tmp_path / "net.safetensors")
    assert state_hash(other) == state_hash(net)


@pytest.mark.parametrize("name", ["resnet8", "vit_mini"])
def test_a_graph_gives_the_models_logits_for_any_batch(make, settle, tmp_path, name, capfd, log_records) -> None:
    net = settle(make(name, classes=7)).train()
    before = state_hash(net)
    check = export_onnx(net, tmp_path / "net.onnx", example=X)
    assert capfd.readouterr() == ("", "")
    assert log_records == []
    assert check.ok
    assert check.max_rel_error < 1e-5
    assert state_hash(net) == before
    assert net.training
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        wanted = net.eval()(images)
    np.testing.assert_allclose(run(tmp_path / "net.onnx", images), wanted, rtol=1e-4, atol=1e-5)


def test_a_graph_with_preprocess_takes_pixels_and_gives_the_datas_classes(make, settle, tmp_path) -> None:
    config = PreprocessConfig(mean=IMAGENET_MEAN, std=IMAGENET_STD, size=32, channel_order="bgr", class_order=(4, 0, 2))
    net, pixels = settle(make("resnet8", width=4)), Preprocess(config)
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    export_onnx(net, tmp_path / "net.onnx", example=images, pixels=pixels)
    with torch.no_grad():
        wanted = net(pixels(images))[:, [4, 0, 2]]
    np.testing.assert_allclose(run(tmp_path / "net.onnx", images), wanted, rtol=1e-4, atol=1e-4)


def test_what_the_exporter_says_does_not_reach_the_terminal(make, tmp_path, monkeypatch, capfd, recwarn) -> None:
    real = torch.onnx.export

    def talks(*args: object, **settings: object) -> object:
        print("step 1 of 3")
        print("step 2 of 3", file=sys.stderr)
        warnings.warn("deprecated", stacklevel=1)
        logging.getLogger("exporter").error("something")
        return real(*args, **settings)

    monkeypatch.setattr(torch.onnx, "export", talks)
    export_onnx(make("mlp", hidden=()), tmp_path / "net.onnx", example=X)
    assert capfd.readouterr() == ("", "")
    # What an earlier test left open is closed at any time.
    said = [str(each.message) for each in recwarn if not issubclass(each.category, ResourceWarning)]
    assert said == []
    assert logging.root.isEnabledFor(logging.ERROR)


def test_the_opset_can_be_chosen(make, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    export_onnx(make("mlp", hidden=()), tmp_path / "net.onnx", example=X, opset=19)
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 19


def test_a_graph_that_gives_other_logits_is_not_written(make, tmp_path, monkeypatch) -> None:
    real = torch.onnx.export

    def wrong(model: nn.Module, *args: object, **settings: object) -> object:
        broken = copy.deepcopy(model)
        broken.model.linear.bias.data[3] += 0.1
        return real(broken, *args, **settings)

    monkeypatch.setattr(torch.onnx, "export", wrong)
    (tmp_path / "net.onnx").write_bytes(b"the one before")
    with pytest.raises(RunFailed, match=r"gives other logits than the model: they differ by 0\.\d+ of the largest"):
        export_onnx(make("mlp", hidden=()), tmp_path / "net.onnx", example=X)
    assert (tmp_path / "net.onnx").read_bytes() == b"the one before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_that_cannot_be_exported_is_reported_in_a_line(tmp_path, capfd) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(RunFailed, match="the model could not be exported to ONNX: ") as caught:
        export_onnx(Branches(), tmp_path / "net.onnx", example=X)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_are_named(make, tmp_path, monkeypatch, package) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=r"--format: got 'onnx'; expected the extra: pip install 'stillroom\[onnx\]'"):
        export_onnx(make("mlp"), tmp_path / "net.onnx", example=X)


def test_errors_that_are_not_numbers_are_not_ok() -> None:
    assert ExportCheck(1.0, 1e-4, 1e-4).ok
    assert not ExportCheck(1.0, 2e-4, 1e-4).ok
    assert not ExportCheck(float("nan"), float("nan"), 1e-4).ok


@pytest.mark.parametrize(("answer", "worst"), [(1.5, 0.5), (float("nan"), float("nan"))])
def test_the_comparison_sees_the_worst_of_all_batches(answer, worst) -> None:
    def graph(images: torch.Tensor) -> torch.Tensor:
        out = images.clone()
        if len(out) == 3:
            out[1, 0] = answer
        return out

    batches = [torch.ones(n, 2) for n in (1, 3, 16)]
    check = export._errors(nn.Identity(), graph, batches)
    assert check.max_abs_error == pytest.approx(worst, nan_ok=True)
    assert not check.ok
    with pytest.raises(RunFailed, match="ONNX graph gives other logits"):
        export._compare(nn.Identity(), graph, batches, "ONNX")
