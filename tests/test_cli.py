"""The command line: what it prints, what it refuses, and that a refusal loses nothing."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from processes import Fate, Process, stillroom, until
from run.conftest import bytes_of
from stillroom import __version__
from stillroom.cli import run
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.run import records
from stillroom.run.records import environment, output_folder

RECIPE: dict[str, Any] = {
    "data": {"train_limit": 96, "test_limit": 40, "batch_size": 32},
    "teacher": {"name": "resnet8", "options": {"width": 4}, "weights": "teacher.safetensors"},
    "student": {"name": "resnet8", "options": {"width": 2}},
    "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9}],
    "training": {"epochs": 1, "log_every": 1, "precision": "float32"},
}


class Code:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user has it: a recipe, a teacher, and files that are not what they seem."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STILLROOM_DATA", raising=False)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "broken.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    torch.manual_seed(0)
    teacher = build(ModelConfig(name="resnet8", options={"width": 4}), num_classes=10, in_channels=1, image_size=8)
    save_weights(teacher, tmp_path / "teacher.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in teacher.state_dict().items()}}, tmp_path / "teacher.th")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Code()))
    torch.save({"state_dict": Code()}, tmp_path / "evil-zip.pt")
    (tmp_path / "short.safetensors").write_bytes((tmp_path / "teacher.safetensors").read_bytes()[:500])
    (tmp_path / "page.pt").write_text("<html>404</html>")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "emptydir").mkdir()
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "train.parquet").write_bytes(b"not parquet")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nimport stillroom as sr\n"
        "def number(): return 3\n"
        "def broken(**k): raise ValueError('no')\n"
        "def wide(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes + 1))\n"
        "def narrow(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(63, num_classes))\n"
        "def good(num_classes, hidden=8):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))\n"
        "def normed(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), nn.BatchNorm1d(num_classes))\n"
        "class Half(sr.Loss[sr.LossConfig]):\n"
        "    requires = sr.Requires(teacher=True)\n"
        "    def forward(self, inputs): return (inputs.student.logits - inputs.teacher_logits).abs().mean() / 2\n"
    )
    return tmp_path


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }


DISTILL = ["distill", "recipe.yaml", "--out", "run"]
EVALUATE = ["evaluate", "--model", "resnet8", "--data", "digits", "--weights"]
GOOD = ["evaluate", "--model", "resnet8", "--option", "width=4", "--weights", "teacher.safetensors"]

BAD: list[tuple[list[str], str]] = [
    # the command line
    (["distil", "recipe.yaml"], "No such command 'distil'"),
    (["distill"], "RECIPE.yaml: got None; expected a recipe file, or --data"),
    ([*DISTILL, "--sead", "1"], "No such option"),
    ([*DISTILL, "training.epochs"], "override: got 'training.epochs'; expected key.path=value"),
    (["distill", "recipe.yaml", "--resume"], "--resume: got None; expected the run's folder by --out"),
    (["compare", "recipe.yaml", "--out", "study"], "this file is a recipe: `stillroom distill recipe.yaml` runs it"),
    (["list", "modls"], "list: unknown value 'modls'; did you mean 'models'?"),
    (["list", "models", "--family", "logits"], "--family: got 'models'; expected `stillroom list losses` with it"),
    (["distill", "recipe.yaml", "--epochs", "3"], "in a recipe it is training.epochs=…"),
    ([*DISTILL, "--training.epochs=3"], "A change of a recipe has no dashes: training.epochs=VALUE"),
    (["audit", "recipe.yaml"], "SCRIPT.py: got 'recipe.yaml'; expected a Python script; of a recipe"),
    (["audit", "--step", "5", "mine.py"], "audit has no such option"),
    (["diagnose", "mine.py"], "`stillroom audit mine.py` watches a script"),
    (["check", "torch.nn.functional:mse_loss", "--role", "outputs=student"], "roles: unknown value 'outputs'"),
    (["cache", "--remove", "zz"], "cache: got 'zz'; expected the key of a cache"),
    (["export", "run", "--format", "tflite"], "tflite"),
    # the recipe
    (["distill", "none.yaml"], "recipe: got 'none.yaml'; expected a readable recipe file"),
    (["distill", "emptydir"], "a folder of images is given by --data emptydir"),
    (["distill", "broken.yaml"], "expected valid YAML"),
    (["distill", "list.yaml"], "expected a mapping with at least `student`"),
    ([*DISTILL, "training.epohs=1"], "training.epohs: unknown field 'epohs'; did you mean 'epochs'?"),
    ([*DISTILL, "training.optimizer.lr=fast"], "training.optimizer.lr: got 'fast'; expected a number"),
    ([*DISTILL, "losses.kl.temperature=0"], "losses.1.temperature: got 0; expected greater than 0"),
    ([*DISTILL, "losses.mse.weight=1"], "expected an item of the list by name or position"),
    ([*DISTILL, "teacher=null"], "teacher: got None; expected a teacher model"),
    ([*DISTILL, "training.checkpoints=[9]"], "training.checkpoints: got 9; expected epochs of the run, 0 … 1"),
    (
        [*DISTILL, "training.record_weight_distance=[liner]"],
        "training.record_weight_distance: got 'liner'; expected a layer",
    ),
    (["train", "recipe.yaml"], "losses: got 'kl'; expected losses that read labels alone"),
    # models
    ([*DISTILL, "student.name=resnet9"], "student.name: got 'resnet9'"),
    ([*DISTILL, "student.options.widht=3"], "student.options.widht"),
    ([*DISTILL, "student.options.width=0"], "student.options.width: got 0"),
    ([*DISTILL, "student.name=nowhere:net"], "student.name: got 'nowhere:net'; expected a module that can be imported"),
    ([*DISTILL, "student={name: mine:nothing}"], "student.name: got 'mine:nothing'"),
    ([*DISTILL, "student={name: mine:number}"], "student.name: got 'mine:number'"),
    ([*DISTILL, "student={name: mine:broken}"], "it raised ValueError: no"),
    ([*DISTILL, "student={name: mine:wide}"], "student: got 'mine:wide'; expected 10 logits, one a class"),
    ([*DISTILL, "student={name: mine:narrow}"], "student: got 'mine:narrow'; expected a model that takes"),
    ([*DISTILL, "student.preprocess=imagenet"], "preprocess"),
    ([*DISTILL, "teacher.preprocess={mean: [0.5], std: [0.5], class_order: [0, 1]}"],
     "teacher.preprocess.class_order: got (0, 1); expected one column for each of the 10 classes, not 2"),
    ([*DISTILL, "losses=[{name: mine:good}]"], "expected a subclass of stillroom.Loss"),
    ([*DISTILL, "losses=[{name: mine:Half, options: {x: 1}}]"], "losses.0.options.x: unknown field 'x'"),
    # weights
    ([*DISTILL, "teacher.weights=null"], "a teacher with random weights teaches nothing"),
    ([*DISTILL, "teacher.weights=none.pt"], "teacher.weights: got 'none.pt'"),
    ([*DISTILL, "teacher.options.width=8"], "teacher.weights: got 'teacher.safetensors'"),
    ([*DISTILL, "teacher.weights=evil.pt"], "teacher.weights: got 'evil.pt'"),
    ([*DISTILL, "teacher.weights=evil-zip.pt"], "teacher.weights: got 'evil-zip.pt'"),
    ([*EVALUATE, "short.safetensors"], "model.weights: got 'short.safetensors'"),
    ([*EVALUATE, "page.pt"], "model.weights: got 'page.pt'"),
    ([*EVALUATE, "empty.pt"], "model.weights: got 'empty.pt'"),
    ([*EVALUATE, "emptydir"], "model.weights: got 'emptydir'"),
    (EVALUATE[:-1], "--weights: got None; expected a weights file"),
    (["evaluate", "--model", "", "--data", "digits"], "--model: got ''; expected a model's name"),
    ([*DISTILL, "student.options.x=2020-99-99"], "student.options.x: got '2020-99-99'; expected a value in YAML"),
    ([*DISTILL, "data.batch_size=1", "student.name=mine:normed", "student.options={}"], "can train on 1 images"),
    # data
    ([*DISTILL, "data.path=nowhere"], "data.path: got 'nowhere'"),
    ([*DISTILL, "data.path=emptydir"], "data.path: got 'emptydir'"),
    ([*DISTILL, "data.path=text.txt"], "data.path: got 'text.txt'"),
    ([*DISTILL, "data.path=parquet"], "data.path"),
    ([*DISTILL, "data.path=idx"], "data.path"),
    ([*DISTILL, "data.source=python"], "data.source: got 'python'"),
    ([*DISTILL, "data.test_split=val"], "data.test_split: got 'val'"),
    ([*DISTILL, "data.augmentation.cutout=99"], "data.augmentation.cutout: got 99"),
    ([*GOOD, "--data", "nowhere"], "--data: got 'nowhere'"),
    ([*GOOD, "--data", "digits", "--split", "dev"], "split: got 'dev'; expected a split of the data"),
    ([*GOOD, "--data", "digits", "--preprocess", "imagenett"], "--preprocess: got 'imagenett'"),
    ([*GOOD, "--data", "digits", "--device", "tpu"], "--device: unknown value 'tpu'"),
    # run folders
    (["distill", "recipe.yaml", "--out", "other"], "--out: got 'other'; expected a new or empty folder"),
    (["distill", "recipe.yaml", "--out", "text.txt"], "--out: got 'text.txt'; expected a folder, not a file"),
    (["distill", "recipe.yaml", "--out", "text.txt/run"], "text.txt/run"),
    (["demo", "--out", "other"], "--out: got 'other'; expected a new or empty folder, or a demo's"),
    (["report", "nowhere"], "nowhere"),
    (["report", "other"], "other"),
    (["export", "nowhere"], "run: got 'nowhere'; expected a folder that exists"),
    (["export", "other"], "run: got 'other'; expected a run folder, with summary.json"),
    (["export", "other", "--pixels"], "--pixels: got 'safetensors'; expected --format onnx"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments)[:70] for arguments, _ in BAD])
def test_bad_input_is_reported_in_one_line_with_exit_code_2_and_loses_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = listing(workplace)
    assert run(arguments) == 2
    printed = capsys.readouterr()
    # What was read may have been said before.
    errors = [line for line in printed.err.splitlines() if line.strip() and not line.startswith("data digits: ")]
    assert len(errors) == 1, printed.err
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert printed.out == ""
    assert listing(workplace) == before, "something was written, changed or lost"
    assert not (workplace / "ran").exists(), "a pickle ran its code"


@pytest.mark.parametrize("option", ["--teacher", "--student"])
def test_a_misspelt_model_is_found_before_its_teacher_is_trained(
    workplace: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    models = {"--teacher": "resnet8", "--student": "resnet8", option: "resnt8"}
    named = [word for pair in models.items() for word in pair]
    assert run(["distill", "--data", "digits", *named, "--out", "run"]) == 2
    assert f"error: {option}: got 'resnt8'; expected a model of the zoo" in capsys.readouterr().err
    assert not (workplace / "run").exists()


@pytest.mark.parametrize("arguments", [DISTILL[:1], [*DISTILL, "seed=-1"], [*EVALUATE, "evil.pt"]])
def test_bad_input_through_a_process_has_no_traceback(workplace: Path, arguments: list[str]) -> None:
    if arguments == DISTILL[:1]:  # the one that imports little
        command = [sys.executable, "-m", "stillroom", *arguments]
        done: Any = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        done = stillroom(*arguments)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if not line.startswith("data digits: ")]) == 1
    assert "Traceback" not in done.stderr
    assert not (workplace / "ran").exists()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command with --json in this process, and read the one object it printed."""
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_distill_evaluate_export_and_report_follow_each_other(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = said(capsys, *DISTILL)
    assert summary["run"] == "run"
    assert summary["teachers"]["teacher"]["model"] == "resnet8"
    baseline = said(capsys, "train", "recipe.yaml", "losses=[{name: cross_entropy}]", "--out", "labels")
    assert baseline["hashes"] == summary["hashes"], "the same start, order, views, budget and threads"

    student = ["--model", "resnet8", "--option", "width=2", "--weights", "run/student.safetensors", "--data", "digits"]
    whole = said(capsys, "evaluate", *student)
    assert whole["count"] == 500
    assert set(whole) == {"top1", "correct", "count", "top5", "nll", "ece"}
    assert said(capsys, "evaluate", *student, "--preprocess", ".5/.5") == whole
    assert said(capsys, "evaluate", *student, "--preprocess", "unit") != whole

    exported = said(capsys, "export", "run", "--out", "student.safetensors")
    assert Path("student.safetensors").read_bytes() == Path("run/student.safetensors").read_bytes()
    assert exported["bytes"] == Path("student.safetensors").stat().st_size
    page = said(capsys, "report", "run", "labels", "--out", "page.html")["report"]
    assert "<html" in Path(page).read_text()


class Hub:
    """Stands in for the hub's client: keeps what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, **options: Any) -> None:
        self.calls.append(("create", options))
        if options["repo_id"] == "me/refused":
            raise ConnectionError("401 for hf_verysecret")

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made, client = Hub(), ModuleType("huggingface_hub")
    client.HfApi = lambda: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return made


@pytest.mark.parametrize("is_pushed", [False, True])
def test_onnx_export_answers_as_the_student_does(
    workplace: Path, capsys: pytest.CaptureFixture[str], hub: Hub, is_pushed: bool
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    said(capsys, *DISTILL)
    if is_pushed:
        pushed = said(capsys, "export", "run", "--format", "onnx", "--pixels", "--push", "me/small")
        path = Path(pushed["folder"]) / "model.onnx"
        assert {"model.onnx", "model.safetensors"} < {each.name for each in path.parent.iterdir()}
        assert "model.onnx" in (path.parent / "README.md").read_text()
    else:
        exported = said(capsys, "export", "run", "--format", "onnx")
        assert exported["max_abs_error"] <= 1e-3
        path = Path(exported["path"])
    session = onnxruntime.InferenceSession(path)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    given = images if is_pushed else (images.float() / 255 - 0.5) / 0.5
    (answer,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    assert answer.shape == (5, 10)


def test_int8_export_is_measured_against_the_whole_graph(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    said(capsys, *DISTILL)
    exported = said(capsys, "export", "run", "--format", "onnx-int8")
    assert exported["path"] == "run/export/student.int8.onnx"
    assert exported["bytes"] == Path(exported["path"]).stat().st_size == exported["int8"]["bytes"]
    assert exported["int8"]["bytes"] < exported["float32"]["bytes"]
    whole = json.loads(Path("run/summary.json").read_text())
    assert exported["float32"]["top1"] == pytest.approx(whole["top1"], abs=0.2)
    assert exported["int8"]["count"] == whole["count"]
    assert run(["export", "run", "--format", "onnx-int8"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("float32", "int8", "MB", "ms", "top-1")), printed


def test_a_student_is_pushed_to_the_hub_with_a_card_and_no_token_is_written(
    workplace: Path, capsys: pytest.CaptureFixture[str], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(capsys, *DISTILL)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    assert said(capsys, "export", "run", "--push", "me/small")["url"] == "https://huggingface.co/me/small"
    assert hub.calls[0] == ("create", {"repo_id": "me/small", "private": True, "exist_ok": True})
    folder = Path(hub.calls[1][1]["folder_path"])
    assert {path.name for path in folder.iterdir()} == {"README.md", "model.safetensors", "recipe.yaml"}
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("knowledge-distillation", "| student |", "| teacher |", "resnet8", "seed 0"))
    recipe = (folder / "recipe.yaml").read_text()
    assert str(workplace) not in recipe + card
    for path in Path("run").rglob("*"):
        assert not path.is_file() or b"hf_verysecret" not in path.read_bytes()
    assert run(["export", "run", "--push", "me/refused"]) == 2
    error = capsys.readouterr().err
    assert "hf auth login" in error
    assert "verysecret" not in error
    assert run(["export", "run", "--push", "../me"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err
    for option, value in (("--out", "elsewhere"), ("--pixels", None)):
        assert run(["export", "run", "--push", "me/small", option, *([value] if value else [])]) == 2
        assert option in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run(["export", "run", "--push", "me/small"]) == 2
    assert "stillroom[hub]" in capsys.readouterr().err


def test_a_loss_and_a_model_of_ones_own_in_one_file(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = said(
        capsys, *DISTILL, "student={name: mine:good, options: {hidden: 4}}", "losses=[{name: mine:Half, weight: 2}]"
    )
    assert summary["parameters"] == 64 * 4 + 4 + 4 * 10 + 10
    first = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(2 * first["loss/Half"], rel=1e-5)
    assert said(capsys, "export", "run")["bytes"] > 0


def test_list_and_schema_print_what_a_recipe_can_hold(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = said(capsys, "list")
    assert set(lists) == {"models", "losses", "data", "optimizers", "schedules"}
    assert {"resnet8", "resnet110", "mlp", "vit_tiny"} <= {entry["name"] for entry in lists["models"]}
    by_name = {entry["name"]: entry for entry in lists["losses"]}
    assert {"cross_entropy", "kl", "dkd", "feature_mse", "relational", "block_logit"} <= set(by_name)
    assert (by_name["dkd"]["requires"], by_name["relational"]["per sample"]) == ("teacher, labels", "no")
    chosen = said(capsys, "list", "losses", "--requires", "labels", "--family", "logits")["losses"]
    assert {"dkd", "nkd"} <= {entry["name"] for entry in chosen}
    assert all(entry["family"] == "logits" and "labels" in entry["requires"] for entry in chosen)
    assert run(["schema", "study"]) == 0
    assert "methods" in json.loads(capsys.readouterr().out)["properties"]
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "stillroom recipe"
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("stillroom ")


@pytest.mark.parametrize(
    "command",
    ["distill", "train", "evaluate", "export", "report", "list", "schema", "demo", "compare", "watch", "taps"],
)
def test_every_command_has_help_that_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run([command, "--help"]) == 0
    assert len(capsys.readouterr().out.split()) > 20


def test_json_is_alone_on_standard_output(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*DISTILL, "--json"]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["run"] == "run"
    assert "epoch 1" in printed.err


def test_a_full_disk_is_reported_and_loses_nothing(workplace: Path) -> None:
    full = stillroom(*DISTILL, "training.save_seconds=0", fate=Fate(file_bytes=16 * 1024))
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].startswith("error: File too large")
    assert "Traceback" not in full.stderr
    assert not list((workplace / "run").rglob("*.part"))
    assert run([*DISTILL, "training.save_seconds=0"]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_with_130_and_can_be_resumed(
    workplace: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start()
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == f"error: interrupted; to go on: stillroom {' '.join(ENDLESS)}"
    assert run([*ENDLESS, "seed=1"]) == 2
    assert "seed is 1, was 0" in capsys.readouterr().err


def test_the_same_command_goes_on_with_an_unfinished_run_and_says_so(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(DISTILL) == 0
    student = (workplace / "run" / "student.safetensors").read_bytes()
    # A run is finished by its summary, which is written last.
    (workplace / "run" / "summary.json").unlink()
    capsys.readouterr()
    assert run(DISTILL) == 0
    assert "going on with the unfinished run in run" in capsys.readouterr().err
    assert (workplace / "run" / "student.safetensors").read_bytes() == student
    assert run(DISTILL) == 2
    assert "this one holds a finished run" in capsys.readouterr().err


def test_what_a_command_that_named_no_folder_must_be_given_to_go_on(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(recipe: object, out: Path, **_: object) -> None:
        (out / "recipe.yaml").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr("stillroom.run.run.execute", interrupted)
    assert run(["distill", "recipe.yaml", "seed=1"]) == 130
    assert capsys.readouterr().err.endswith(
        "to go on: stillroom distill recipe.yaml seed=1 --out runs/resnet8-from-resnet8\n"
    )


def test_commands_at_once_that_name_no_folder_take_different_ones(workplace: Path) -> None:
    with output_folder(None, "digits") as first, output_folder(None, "digits") as second:
        assert [first, second] == [Path("runs/digits"), Path("runs/digits-2")]
        (second / "recipe.yaml").touch()
    # What was refused before it wrote anything leaves no folder.
    assert [folder.name for folder in Path("runs").iterdir()] == ["digits-2"]


def test_images_of_several_sizes_are_evaluated_at_the_size_that_is_given(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, side in (("cat", 9), ("dog", 12)):
        (workplace / "photos" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (side, side)).save(workplace / "photos" / "test" / name / "1.png")
    (workplace / "two.py").write_text(
        "from torch import nn\ndef net(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))\n"
    )
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    save_weights(net, workplace / "two.safetensors")
    command = ["evaluate", "--model", "two:net", "--weights", "two.safetensors", "--data", "photos", "--json"]
    assert run(command) == 2
    assert "`--image-size`" in capsys.readouterr().err
    assert run([*command, "--image-size", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 2
    assert run([*GOOD, "--data", "digits", "--image-size", "8"]) == 2
    assert "--image-size: got 8; expected none: digits has images of one size" in capsys.readouterr().err


def test_sources_that_are_not_installed_have_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    monkeypatch.setattr(records, "_version", records._version.__wrapped__)  # without what it remembers
    found = environment(torch.device("cpu"))
    assert found.stillroom == __version__
    assert found.torch is None


def test_an_ignored_ctrl_c_stays_ignored(workplace: Path) -> None:
    """As under nohup, or in the background of a shell without job control."""
    process = start(signal.SIGINT)
    saved = Path("run", "state", "last.pt").stat().st_mtime_ns
    process.send_signal(signal.SIGINT)
    # It goes on, and saves again.
    until(lambda: Path("run", "state", "last.pt").stat().st_mtime_ns > saved, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130


ENDLESS = [*DISTILL, "training.epochs=100000", "training.save_seconds=0"]


def start(*ignored: signal.Signals) -> Process:
    """Start a run without an end, and wait until it can be resumed."""
    process = Process(*ENDLESS, fate=Fate(ignored=ignored))
    until(Path("run", "state", "last.pt").exists, process)
    return process


def test_killed_at_three_random_instants_a_run_ends_byte_identical(
    workplace: Path, record_property: Callable[[str, object], None]
) -> None:
    command = ["distill", "recipe.yaml", "training.epochs=20", "training.save_seconds=0",
               "training.checkpoints=[0, 10, 20]", "training.ema=0.9",
               "data.augmentation={pad_crop: 1, cutout: 2}"]  # fmt: skip
    began = time.process_time()
    assert run([*command, "--out", "whole"]) == 0
    took = time.process_time() - began
    seed = int.from_bytes(os.urandom(4), "little")
    record_property("seed", seed)
    print("seed of the instants:", seed)
    draw = torch.Generator().manual_seed(seed)
    # Each run has less left to do than the one before.
    instants = [took * share * float(torch.rand((), generator=draw)) for share in (0.5, 0.4, 0.3)]
    again = [*command, "--out", "killed", "--resume"]
    ends = [stillroom(*again, fate=Fate(kill_after_seconds=seconds)).returncode for seconds in instants]
    assert ends[0] == -signal.SIGVTALRM
    assert set(ends) <= {-signal.SIGVTALRM, 0}
    assert run(again) == 0
    assert bytes_of(workplace / "killed") == bytes_of(workplace / "whole")
    assert not list((workplace / "killed").rglob("*.part"))


def test_a_machine_without_a_compiler_is_reported_what_to_set(workplace: Path) -> None:
    environment = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(workplace / "compiled")}
    small = "student={name: mine:good, options: {}}"
    done = stillroom(*DISTILL, small, "training.compile=true", environment=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: training.compile: got True; expected false: torch.compile")
    assert "Traceback" not in done.stderr
    assert not list((workplace / "run").iterdir())


@pytest.mark.usefixtures("script_state")
def test_an_option_without_its_value_does_not_take_the_next_option(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(workplace.iterdir())
    for arguments in (
        ["incremental", "recipe.yaml", "--joint", "--out", "x"],
        ["distill", "recipe.yaml", "--out", "--resume"],
        ["diagnose", "recipe.yaml", "--out", "--jsn"],
        ["audit", "--steps", "--json", "train.py"],
    ):
        assert run(arguments) == 2
        option, following = next(pair for pair in pairwise(arguments) if pair[0][:2] == "--")
        assert f"{option}: got None; expected a value, but {following!r} follows" in capsys.readouterr().err
    assert sorted(workplace.iterdir()) == before
    # What follows a script is the script's, and a value that begins with hyphens can be given.
    assert run(["audit", "mine.py", "--out", "--json"]) == 0
    assert run(["report", "nowhere", "--out=--x"]) == 2
    assert "run: got 'nowhere'" in capsys.readouterr().err
