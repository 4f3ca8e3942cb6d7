"""Runs that hear the teacher through logits, features, gradients and its own tail: the whole KL family."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from processes import Fate, stillroom
from run.conftest import Stop, StopAt, bytes_of, read_lines
from stillroom.cli import run
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.recipe import Recipe
from stillroom.run.components import build_components
from stillroom.run.run import execute

Make = Callable[..., Recipe]
VIT = {"name": "vit_mini", "options": {"dim": 16, "depth": 2}}
SOURCES = ["kl", "feature_fisher", "feature_full_fisher", "block_logit"]
EVERY = (
    "losses=[{name: feature_fisher, taps: [layer2, features], samples: 1}, "
    "{name: feature_full_fisher, taps: all}, {name: block_logit}]"
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "answers"))
    return tmp_path / "answers"


@pytest.fixture(scope="session")
def vit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_weights(build(ModelConfig.model_validate(VIT), num_classes=10, in_channels=1, image_size=8), path)
    return path


def losses(out: Path, name: str) -> list[float]:
    return [line[f"loss/{name}"] for line in read_lines(out / "metrics.jsonl") if line["split"] == "train"]


def written(place: Path, content: dict[str, Any]) -> str:
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(("teacher", "student"), [("cnn", "vit"), ("vit", "cnn")])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_between_any_two_models_without_naming_a_layer(
    content: dict[str, Any], vit_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: str,
    student: str, source: str,
) -> None:  # fmt: skip
    if teacher == "vit":
        content["teacher"] = {**VIT, "weights": str(vit_weights)}
    if student == "vit":
        content["student"] = {"name": "vit_mini", "options": {"dim": 8, "depth": 2}}
    content["losses"] = [{"name": "cross_entropy", "weight": 0.1}, {"name": source}]
    content["cache"] = {"enabled": False}
    content["data"] |= {"augmentation": {}, "train_limit": 128}
    content["training"]["schedule"] = {"name": "constant"}
    out = tmp_path / "run"
    assert run(["distill", written(tmp_path, content), "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["distilled"] is True
    assert (f"{source} " in captured.err) == (source != "kl"), "what it does with which taps is said"
    assert (out / "summary.json").exists()
    values = losses(out, source)
    assert all(math.isfinite(value) for value in values)
    assert values[-1] < values[0]
    fresh = build(
        ModelConfig.model_validate(content["student"]), num_classes=10, in_channels=1, image_size=8
    ).state_dict()
    assert run(["export", str(out), "--json"]) == 0
    exported = Path(json.loads(capsys.readouterr().out)["path"])
    for path in (out / "student.safetensors", exported):
        assert load_file(path).keys() == fresh.keys(), "the student alone, without connectors, stones or tails"


def test_nothing_of_the_teacher_is_in_any_save_and_it_is_bit_equal_after(recipe: Make, tmp_path: Path) -> None:
    options = ["training.save_seconds=0", "training.checkpoints=[1]", "training.precision=bfloat16"]
    made = recipe(EVERY, *options, "cache.enabled=false")
    components = build_components(made)
    components.teachers["teacher"].train()
    before = {name: value.clone() for name, value in components.teachers["teacher"].state_dict().items()}
    with pytest.raises(Stop):
        execute(made, tmp_path / "run", components=components, hooks=[StopAt(9)])
    assert all(torch.equal(value, before[name]) for name, value in components.teachers["teacher"].state_dict().items())
    assert components.teachers["teacher"].training
    assert all(p.grad is None and p.requires_grad for p in components.teachers["teacher"].parameters())
    saved = torch.load(tmp_path / "run" / "state" / "last.pt", weights_only=True)
    kinds = {".".join(name.split(".")[: 1 if name.startswith("student") else 3]) for name in saved["model"]}
    connectors = {f"losses.{place}.connectors" for place in range(3)}
    assert kinds == {"student", *connectors} | {name for name in kinds if name.startswith("preprocess")}
    student = set(components.student.state_dict())
    with safe_open(tmp_path / "run" / "checkpoints" / "epoch-0001.safetensors", "pt") as checkpoint:
        assert set(checkpoint.keys()) == student
    # As many numbers are trained as the student and its connectors have.
    trained = sum(len(group["params"]) for group in saved["optimizer"]["param_groups"])
    frozen = ("running_mean", "running_var", "num_batches_tracked")
    assert trained == sum(not name.endswith(frozen) for name in saved["model"])


@pytest.mark.parametrize(("scale", "augmented"), [("kl", True), ("mse", False)], ids=["two views", "one view"])
def test_weights_of_drawn_classes_are_the_same_from_a_cache(
    recipe: Make, tmp_path: Path, empty_cache: Path, augmented: bool, scale: str
) -> None:
    term = f"{{name: feature_fisher, taps: [layer2], samples: 2, scale: {scale}}}"
    options = [f"losses=[{term}]", "training.epochs=3", "data.augmentation.views=2"]
    # Without augmentation one view is kept, and three epochs draw alike.
    options += [] if augmented else ["data.augmentation={}"]
    execute(recipe(*options, "cache.enabled=false"), tmp_path / "off")
    execute(recipe(*options, "cache.enabled=true"), tmp_path / "on")
    off, on = losses(tmp_path / "off", "feature_fisher"), losses(tmp_path / "on", "feature_fisher")
    assert on == pytest.approx(off, rel=5e-3)
    assert off[-1] < off[0]
    kept = [json.loads(path.read_text())["identity"]["kept"] for path in empty_cache.glob("*/cache.json")]
    assert [{"tap": "layer2", "temperature": 4.0, "samples": 2}] in [each.get("fishers") for each in kept]
    # The mean over the training set takes no pass of its own where the answers are kept.
    asked = [line["answers"] for line in read_lines(tmp_path / "on" / "timing.jsonl") if line["event"] == "teacher"]
    assert sum(asked) == 200 * (2 if augmented else 1) + 60


def test_the_mean_of_the_weights_is_one_constant_over_the_training_set(recipe: Make, tmp_path: Path) -> None:
    """Worked out from the model as it is: the loss of both scales differs by it, and by half the number of features."""
    from stillroom.models.reader import TapReader
    from stillroom.teachers.fisher import head_fisher

    options = ["data.augmentation={}", "training.epochs=null", "training.steps=1", "cache.enabled=false"]
    made = recipe("losses=[{name: feature_fisher}]", *options)
    execute(made, tmp_path / "kl")
    execute(recipe("losses=[{name: feature_fisher, scale: mse}]", *options), tmp_path / "mse")
    components = build_components(made)
    teacher: Any = components.teachers["teacher"]
    taps = TapReader(teacher.eval(), ["features"])
    with taps, torch.no_grad():
        logits = teacher(components.data.train.images[:].float().div(255).sub(0.5).div(0.5))
    width = taps.take()["features"].shape[1]
    head = next(p for p in reversed(list(teacher.parameters())) if p.dim() == 2)
    mean = head_fisher(head, logits, temperature=4.0).mean().item()
    ratio = losses(tmp_path / "kl", "feature_fisher")[0] / losses(tmp_path / "mse", "feature_fisher")[0]
    assert ratio == pytest.approx(0.5 * width * mean, rel=1e-3)


def test_stones_need_of_a_cache_the_logits_alone(recipe: Make, tmp_path: Path, empty_cache: Path) -> None:
    options = ["losses=[{name: block_logit}]", "data.augmentation.views=2"]
    execute(recipe(*options, "cache.enabled=false"), tmp_path / "off")
    execute(recipe(*options, "cache.enabled=true"), tmp_path / "on")
    off, on = losses(tmp_path / "off", "block_logit"), losses(tmp_path / "on", "block_logit")
    assert on == pytest.approx(off, rel=2e-3)
    kept = [json.loads(path.read_text())["identity"]["kept"] for path in empty_cache.glob("*/cache.json")]
    assert [each["taps"] for each in kept] == [[], []], "of the training images, and of the test images"


def test_killed_and_resumed_a_run_over_features_and_stones_ends_with_the_same_bytes(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Connectors of two terms, batch norms that count in them, and tails that no save holds.
    content["losses"] = [{"name": "feature_mse", "taps": "all"}, {"name": "block_logit"}]
    content["training"] |= {"save_seconds": 0, "log_every": 1}
    recipe = written(Path(), content)
    fate = Fate(kill_after_lines=(Path("killed/metrics.jsonl"), 8))
    assert stillroom("distill", recipe, "--out", "killed", fate=fate).returncode == -signal.SIGKILL
    for out in ("killed", "whole"):
        assert run(["distill", recipe, "--out", out, "--resume"]) == 0
    assert "resume" in [line["event"] for line in read_lines(Path("killed/timing.jsonl"))]
    assert bytes_of(Path("killed")) == bytes_of(Path("whole"))


MINE = """
import torch
from torch import nn


class Skips(nn.Module):
    def __init__(self, columns=10, branches=False, past=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, columns)
        self.side = nn.Linear(64, columns) if past else None
        self.branches = branches

    def forward(self, images):
        x = self.stem(images)
        if self.branches and float(x.detach().sum()) > 1e9:
            x = -x
        logits = self.head(self.act(self.middle(x) + x).mean((2, 3)))
        return logits if self.side is None else logits + self.side(images.flatten(1))
"""


@pytest.fixture
def place(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, models of one's own, and answers made elsewhere."""
    monkeypatch.chdir(tmp_path)
    content["training"] |= {"epochs": None, "steps": 2}
    content["cache"] = {"enabled": False}
    written(tmp_path, content)
    (tmp_path / "sources_of_mine.py").write_text(MINE)
    (tmp_path / "folder").mkdir()
    return tmp_path


def own(**options: Any) -> str:
    return f"teacher={json.dumps({'name': 'sources_of_mine:Skips', 'options': options})}"


def term(name: str, **options: Any) -> str:
    return f"losses={json.dumps([{'name': name, **options}])}"


MIDDLE = [{"teacher": "middle", "student": "layer1"}]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [term("block_logit", taps=["layr2"])],
            "losses.block_logit.taps: got 'layr2'; expected a tap of the teacher with one of the student opposite it "
            "(did you mean 'layer2'?)",
        ),
        (
            [term("feature_fisher", taps=[{"teacher": "leyer2", "student": "layer2"}])],
            "losses.feature_fisher.taps: got 'leyer2'; expected a module of the teacher: did you mean 'layer2'?",
        ),
        (
            [term("block_logit", taps=[{"teacher": "layer2", "student": "features"}])],
            "losses.block_logit.connector: got 'auto'; expected taps that a 1×1 convolution can connect: the "
            "student's 'features' has the shape 8 (vector), the teacher's 'layer2' 16×4×4 (map), and the student's is",
        ),
        (
            [term("feature_full_fisher", connector="identity")],
            "losses.feature_full_fisher.connector: got 'identity'; expected auto: the student's 'features' has the "
            "shape 8 (vector), the teacher's 'features' 32 (vector)",
        ),
        ([term("feature_fisher", taps=["layer2", "layer2"])], "expected each of taps once, but layer2 is there twice"),
        (
            [term("block_logit", taps=["layer2", {"teacher": "layer2", "student": "layer2"}])],
            "expected each pair of taps once, but this is there twice, by two names",
        ),
        (
            [own(), term("feature_full_fisher", taps=MIDDLE)],
            "teacher tap: got 'middle'; expected a tap that every path to the logits crosses, as one leads past this "
            "(one of: act, ",
        ),
        (
            [own(branches=True), term("block_logit", taps=MIDDLE)],
            "teacher tap: got 'middle'; expected a tap whose features decide the logits; the model cannot be traced "
            "(what it does depends on the values of a tensor), and run again with the features put in it gave other",
        ),
        (
            [own(past=True), term("feature_fisher")],
            "losses.feature_fisher.taps: got 'features'; expected [{teacher: NAME, student: NAME}]: no such taps are "
            "opposite each other: the teacher has none; the student has layer1, ",
        ),
        (
            [own(columns=12), term("block_logit")],
            "teacher: got 'sources_of_mine:Skips'; expected 10 logits, one a class of digits, not 12; "
            "preprocess.class_order picks columns",
        ),
        (
            ["teacher={name: elsewhere, logits: folder}", "cache.enabled=auto", term("block_logit")],
            "teacher.logits: got 'folder'; expected a model: loss ",
        ),
        (["teacher=null", term("block_logit")], "teacher: got None; expected a teacher model"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(
    place: Path, capfd: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    assert run(["distill", "recipe.yaml", *overrides, "--out", "run"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    # A note of what was chosen may stand before it.
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err
    assert not (place / "run").exists()


@pytest.mark.parametrize("source", SOURCES[1:])
def test_a_teacher_that_cannot_be_traced_teaches_from_where_its_features_decide(place: Path, source: str) -> None:
    """The whole of it is run again, with features put in: dear, but exact."""
    taps = [{"teacher": "act", "student": "layer1"}, {"teacher": "features", "student": "features"}]
    assert run(["distill", "recipe.yaml", own(branches=True), term(source, taps=taps), "--out", "branches"]) == 0
    assert run(["distill", "recipe.yaml", own(), term(source, taps=taps), "--out", "plain"]) == 0
    branches, plain = losses(place / "branches", source), losses(place / "plain", source)
    assert branches == pytest.approx(plain, rel=1e-4)
