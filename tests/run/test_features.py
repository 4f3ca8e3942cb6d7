"""Runs whose losses read features: places and connectors found by themselves, and nothing of them left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import stillroom as sr
from run.conftest import Stop, StopAt, bytes_of, read_lines
from stillroom.cli import run
from stillroom.errors import BadInput
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.components import build_components
from stillroom.run.run import execute
from stillroom.train.recorders import StepHook, StepInfo

Make = Callable[..., Recipe]
LABELS = "{name: cross_entropy, weight: 0.5}"
FEATURES = f"losses=[{LABELS}, {{name: feature_mse, weight: 0.5}}]"
ALL = f"losses=[{LABELS}, {{name: feature_mse, weight: 0.5, taps: all}}]"
VIT = "{name: vit_mini, options: {dim: 16, depth: 2}}"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "answers"))
    return tmp_path / "answers"


@pytest.fixture(scope="session")
def vit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(name="vit_mini", options={"dim": 16, "depth": 2})
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_weights(build(config, num_classes=10, in_channels=1, image_size=8), path)
    return path


class Notes(Observer):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def losses(out: Path) -> list[float]:
    return [line["loss/feature_mse"] for line in read_lines(out / "metrics.jsonl") if line["split"] == "train"]


@pytest.mark.parametrize(
    ("teacher", "student"), [("cnn", "cnn"), ("cnn", "vit"), ("vit", "cnn"), ("vit", "vit")], ids="{}".format
)
@pytest.mark.parametrize("taps", ["features", "all"])
def test_any_two_models_through_the_command_line_without_naming_a_layer(
    content: dict[str, Any], vit_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: str,
    student: str, taps: str,
) -> None:  # fmt: skip
    if teacher == "vit":
        content["teacher"] = {**yaml.safe_load(VIT), "weights": str(vit_weights)}
    if student == "vit":
        content["student"] = {"name": "vit_mini", "options": {"dim": 8, "depth": 3}}
    content["losses"] = [{"name": "cross_entropy", "weight": 0.1}, {"name": "feature_mse", "taps": taps}]
    content["cache"] = {"enabled": False}
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(content))
    assert run(["distill", str(recipe), "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert "feature_mse compares (student → teacher) " in captured.err
    assert json.loads(captured.out)["run"] == str(out)
    feature_losses = losses(out)
    assert feature_losses[-1] < feature_losses[0]
    weights = load_file(out / "student.safetensors")
    fresh = build(
        ModelConfig.model_validate(content["student"]), num_classes=10, in_channels=1, image_size=8
    ).state_dict()
    assert weights.keys() == fresh.keys(), "the student alone, without connectors"
    assert run(["export", str(out), "--json"]) == 0
    exported = Path(json.loads(capsys.readouterr().out)["path"])
    assert load_file(exported).keys() == fresh.keys()


def test_what_must_be_equal_between_methods_is_left_as_it_was(recipe: Make, tmp_path: Path) -> None:
    kl = execute(recipe("cache.enabled=false"), tmp_path / "kl").summary
    features = execute(recipe("cache.enabled=false", FEATURES), tmp_path / "features").summary
    assert kl["hashes"] == features["hashes"]
    assert kl["parameters"] == features["parameters"]
    assert features["distilled"] is True


def test_a_stopped_run_ends_as_one_never_stopped(recipe: Make, tmp_path: Path) -> None:
    made = recipe(ALL, "training.save_seconds=0", "cache.enabled=false", "training.checkpoints=[1]")
    execute(made, tmp_path / "whole", hooks=[StopAt(-1)])
    with pytest.raises(Stop):
        execute(made, tmp_path / "stopped", hooks=[StopAt(9)])
    saved = torch.load(tmp_path / "stopped" / "state" / "last.pt", weights_only=True)
    connectors = [name for name in saved["model"] if name.startswith("losses.1.connectors.")]
    assert any(name.endswith("norm.running_mean") for name in connectors), "connectors and what they count are saved"
    execute(made, tmp_path / "stopped", resume=True, hooks=[StopAt(-1)])
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "stopped")
    assert set(load_file(tmp_path / "whole" / "checkpoints" / "epoch-0001.safetensors")) == set(
        build_components(made).student.state_dict()
    )


NAMED = f"losses=[{LABELS}, {{name: feature_mse, weight: 0.5, taps: [features, 'layer2:pre', layer3]}}]"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cache_on_is_cache_off(recipe: Make, tmp_path: Path, dtype: str, precision: str) -> None:
    options = [NAMED, f"cache.dtype={dtype}", f"training.precision={precision}", "data.augmentation.views=2"]
    options += ["training.epochs=3"]
    execute(recipe(*options, "cache.enabled=false"), tmp_path / "off")
    execute(recipe(*options, "cache.enabled=true"), tmp_path / "on")
    close = {("float32", "float32"): 1e-5, ("float32", "float16"): 5e-3}.get((precision, dtype), 0.03)
    off, on = losses(tmp_path / "off"), losses(tmp_path / "on")
    assert on == pytest.approx(off, rel=close)
    assert off[-1] < off[0]


def test_other_taps_are_another_cache(recipe: Make, tmp_path: Path, empty_cache: Path) -> None:
    def kept() -> list[list[str]]:
        written = [json.loads(path.read_text()) for path in empty_cache.glob("*/cache.json")]
        return sorted(each["identity"]["kept"]["taps"] for each in written)

    execute(recipe(FEATURES, "cache.enabled=true"), tmp_path / "features")
    execute(recipe(NAMED, "cache.enabled=true"), tmp_path / "named")
    assert kept() == [[], ["features"], ["features", "layer2:pre", "layer3"]]
    # What reads less than is kept finds it there.
    execute(recipe("losses=[{name: kl}]", "cache.enabled=true"), tmp_path / "logits")
    assert len(kept()) == 3


def test_what_is_read_of_a_folded_teacher_is_what_the_teacher_gives(recipe: Make, tmp_path: Path) -> None:
    """The first step's loss, worked out from the models as they are before the run."""
    from stillroom.losses.feature_base import FeatureLoss
    from stillroom.losses.registry import build_losses
    from stillroom.models.reader import TapReader

    made = recipe(
        "losses=[{name: feature_mse, taps: [features, 'layer2:pre'], connector: identity}]",
        "student={name: resnet14, options: {width: 8}}", "training.epochs=null", "training.steps=1",
        "data.augmentation={}", "cache.enabled=false",
    )  # fmt: skip
    components = build_components(made)
    with torch.no_grad():
        for module in components.teachers["teacher"].modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.uniform_(-0.1, 0.1)
                module.bias.uniform_(-0.5, 0.5)
    seen: list[Tensor] = []

    class Looks(StepHook):
        def after_step(self, info: StepInfo) -> None:
            seen.append(info.loss.detach().clone())

    teacher, student = components.teachers["teacher"], components.student
    images = components.data.train.images
    from stillroom.data.loader import BatchSampler

    rows = BatchSampler(len(images), made.data.batch_size, made.seed).indices(0, 0)
    x = images[torch.from_numpy(rows)].float().div(255).sub(0.5).div(0.5)
    (loss,) = build_losses(made.losses)
    assert isinstance(loss, FeatureLoss)
    read = []
    for net in (teacher.eval(), student.train()):
        state = {name: value.clone() for name, value in net.state_dict().items()}
        with TapReader(net, ["features", "layer2:pre"]) as taps, torch.no_grad():
            net(x)
        read.append(taps.take())
        net.load_state_dict(state)
    expected = sum((read[0][tap] - read[1][tap]).square().mean().item() for tap in read[0]) / 2
    execute(made, tmp_path / "run", components=components, hooks=[Looks()])
    assert seen[0].item() == pytest.approx(expected, rel=1e-4)


def test_the_teacher_is_bit_equal_after_a_run(recipe: Make, tmp_path: Path) -> None:
    made = recipe(ALL)
    components = build_components(made)
    components.teachers["teacher"].train()
    before = {name: value.clone() for name, value in components.teachers["teacher"].state_dict().items()}
    execute(made, tmp_path / "run", components=components)
    assert all(torch.equal(value, before[name]) for name, value in components.teachers["teacher"].state_dict().items())
    assert components.teachers["teacher"].training


def test_nothing_is_traced_for_losses_that_read_no_features(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("taps were looked for")

    monkeypatch.setattr("stillroom.losses.setup_context.find_taps", never)
    notes = Notes()
    execute(recipe("cache.enabled=false"), tmp_path / "run", observer=notes)
    assert not [text for text in notes.said if "compares" in text]


def test_without_a_teacher_model_it_is_reported_before_anything_is_written(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="teacher: got None; expected a model"):
        execute(recipe(FEATURES, "teacher=null"), tmp_path / "run")
    (tmp_path / "folder").mkdir()
    answers = f"teacher={{name: elsewhere, logits: {tmp_path / 'folder'}}}"
    with pytest.raises(BadInput, match=r"teacher.logits: got .*; expected a model"):
        execute(recipe(FEATURES, answers), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses.feature_mse.taps=[layr2]", "losses.feature_mse.taps: got 'layr2'; expected a tap of the"),
        (
            "losses.feature_mse.connector=identity",
            "losses.feature_mse.connector: got 'identity'; expected auto",
        ),
        ("training.compile=true", "training.compile: got True; expected false: a loss reads the student's"),
    ],
)
def test_what_does_not_fit_ends_with_a_line(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    content["losses"] = [{"name": "feature_mse"}]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    assert run(["distill", str(path), override, "--out", str(tmp_path / "run")]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_micro_batches_give_the_step_of_the_whole_batch_without_batchnorm(recipe: Make, tmp_path: Path) -> None:
    options = [FEATURES, f"student={VIT}", "training.clip_norm=1", "cache.enabled=false"]
    whole = execute(recipe(*options), tmp_path / "whole")
    parts = execute(recipe(*options, "training.accumulate=4"), tmp_path / "parts")
    one, other = (load_file(done.path / "student.safetensors") for done in (whole, parts))
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


def test_in_python(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.rand(64, 1, 8, 8, generator=draw), torch.arange(64) % 4)

    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4))

    loss = sr.FeatureMSE(weight=0.5)
    student = net(4)
    for out in ("first", "second"):
        done = sr.distill(
            net(32), student, data, data, [sr.CrossEntropy(), loss], epochs=2, out=tmp_path / out, progress=False
        )
    assert done.student.state_dict().keys() == student.state_dict().keys()
    assert not loss.pairs, "the user's own object is left as it was"
    assert yaml.safe_load((tmp_path / "first" / "recipe.yaml").read_text())["losses"][1]["taps"] == "features"
