"""A run made in Python is exported, evaluated, diagnosed, explained and measured in Python, whatever its modules."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import stillroom as sr
from stillroom.cli import run as command
from stillroom.diagnose.verify import plan_remedies
from stillroom.recipe import parse_recipe
from stillroom.schema.diagnosis import Finding, Remedy

CLASSES = 4


def images(count: int, seed: int) -> TensorDataset:
    """Images of 0 … 1 whose class is the rows that are bright."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    x = 0.4 * torch.rand(count, 3, 8, 8, generator=draw)
    for row, label in enumerate(labels.tolist()):
        x[row, :, 2 * label : 2 * label + 2] += 0.5
    return TensorDataset(x, labels)


TRAIN, TEST = images(160, 0), images(48, 1)


class Net(nn.Module):
    """A net with a map of features, made by no name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x).relu()).relu()
        return self.head(x.mean(3).flatten(1))  # type: ignore[no-any-return]


def build(width: int, seed: int) -> nn.Module:
    # A class of this call alone: no recipe finds it again, as none finds one of a notebook.
    class Own(Net):
        pass

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Own(width)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[sr.DistillResult, nn.Module]:
    """A teacher that knows the images as they are, and a student of it."""
    folder = tmp_path_factory.mktemp("python")
    training = {"optimizer": {"name": "adamw", "lr": 0.01}, "device": "cpu", "precision": "float32"}
    known = sr.distill(
        None, build(8, 0), TRAIN, TEST, epochs=6, batch_size=16, training=training, out=folder / "t", progress=False
    )
    recorded = {**training, "checkpoints": [0, 1, 2], "record_weight_distance": ["body"]}
    run = sr.distill(
        known.student, build(4, 1), TRAIN, TEST, epochs=3, batch_size=16, training=recorded, out=folder / "run",
        progress=False,
    )  # fmt: skip
    assert run.summary["teachers"]["teacher"]["top1"] > 90
    return run, known.student


def test_the_student_is_exported_as_weights_from_python_and_from_the_command_line(
    taught: tuple[sr.DistillResult, nn.Module], tmp_path: Path
) -> None:
    run, _ = taught
    found = run.export(out=tmp_path / "one.safetensors")
    assert Path(found["path"]).read_bytes() == (run.path / "student.safetensors").read_bytes()
    assert command(["export", str(run.path), "--out", str(tmp_path / "two.safetensors")]) == 0
    net = build(4, 9)
    net.load_state_dict(load_file(tmp_path / "two.safetensors"))
    assert torch.allclose(net(TEST.tensors[0]), run.predict(TEST.tensors[0]), atol=1e-5)


def test_the_student_is_exported_as_a_program(
    taught: tuple[sr.DistillResult, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = taught
    found = sr.export(run, "pt2", tmp_path / "student.pt2")
    assert found["max_rel_error"] <= found["tolerance"]
    program = torch.export.load(tmp_path / "student.pt2").module()
    assert torch.allclose(program(TEST.tensors[0][:5]), run.predict(TEST.tensors[0][:5]), atol=1e-5)
    # Without the module there is no graph, and the line says how to give it.
    assert command(["export", str(run.path), "--format", "pt2"]) == 2
    error = capsys.readouterr().err
    assert "student:" in error
    assert "stillroom.load_run(folder, student=…)" in error


def test_remedies_of_a_run_that_no_recipe_repeats_are_trained_only_where_its_modules_are(
    taught: tuple[sr.DistillResult, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, teacher = taught
    assert command(["diagnose", str(run.path), "--verify"]) == 2
    assert "run.diagnose(verify=True)" in capsys.readouterr().err
    # Neither a folder alone nor other weights are what the run began with.
    with pytest.raises(sr.BadInput, match="images that the run had"):
        sr.diagnose(run.path, verify=True, out=tmp_path / "out")
    other = sr.load_run(run.path, student=build(4, 9), teacher=teacher, train=TRAIN, test=TEST)
    with pytest.raises(sr.BadInput, match="student: got 'Own'; expected the weights that the run's student began with"):
        sr.diagnose(other, verify=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_remedies_of_a_run_made_in_python_are_trained_from_its_modules(tmp_path: Path) -> None:
    def matched(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()

    teacher, student = build(8, 0), build(2, 1)
    training = {"optimizer": {"lr": 0.05}, "device": "cpu", "precision": "float32"}
    losses = [sr.CrossEntropy(), sr.FunctionLoss(matched, weight=0.1)]
    run = sr.distill(
        teacher, student, TRAIN, TEST, losses, epochs=1, batch_size=16, training=training, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    found = run.diagnose(verify=True, out=tmp_path / "out")
    assert (tmp_path / "out" / "diagnosis.html").exists()
    weak = next(each for each in found.findings if each.check == "teacher_accuracy")
    assert weak.verdict == "problem"
    assert weak.remedy is not None
    assert "sr.distill(" in weak.remedy.code
    verification = found.verification
    assert verification is not None
    assert (verification.equal, verification.missing) == (True, ())
    assert verification.unchanged is not None
    assert verification.unchanged.seeds == 3
    remedy = next(each for each in verification.remedies if "teacher_accuracy" in each.checks)
    assert remedy.regained is not None
    # The function of the loss is that which was given: a folder could not have made it again.
    content = yaml.safe_load((tmp_path / "out/remedies/runs/all/unchanged/seed-0/recipe.yaml").read_text())
    assert content["losses"][1]["name"].endswith("matched")
    # Seed 0 of the run is seed 0 of the study: the same weights to begin with, the same order, the same end.
    again = load_file(tmp_path / "out/remedies/runs/all/unchanged/seed-0/student.safetensors")
    first = load_file(run.path / "student.safetensors")
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_what_a_function_of_the_users_makes_is_no_remedy_to_train(tmp_path: Path) -> None:
    run = sr.distill(
        None, build(2, 1), TRAIN, TEST, steps=4, batch_size=16, out=tmp_path / "run", progress=False,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        training={"device": "cpu", "precision": "float32"},
    )  # fmt: skip
    recipe = parse_recipe(yaml.safe_load((run.path / "recipe.yaml").read_text()))
    remedy = Remedy("Another rate.", {"training.optimizer.lr": 0.01})
    plan = plan_remedies(recipe, [Finding("diverged", "problem", "It did.", remedy=remedy)], run.objects)
    assert plan.each == []
    assert "a function of yours makes it" in plan.not_verified["diverged"]


def test_a_run_is_evaluated_on_its_own_and_on_other_images(taught: tuple[sr.DistillResult, nn.Module]) -> None:
    run, teacher = taught
    own = run.evaluate()
    assert {key: run.summary[key] for key in own} == pytest.approx(own)
    other = images(40, 5)
    assert run.evaluate(other) == sr.evaluate(run, other) == sr.evaluate(run.student, other)
    wanted = int((teacher(other.tensors[0]).argmax(1) == other.tensors[1]).sum())
    assert sr.evaluate(teacher, other)["correct"] == wanted


def test_bytes_are_evaluated_only_with_a_stated_preprocess() -> None:
    pixels = TensorDataset((255 * TEST.tensors[0]).round().to(torch.uint8), TEST.tensors[1])
    net = build(4, 0)
    with pytest.raises(sr.BadInput, match=r"preprocess: got None; expected what the model takes.*'unit'"):
        sr.evaluate(net, pixels)
    wanted = int((net(pixels.tensors[0] / 255).argmax(1) == pixels.tensors[1]).sum())
    assert sr.evaluate(net, pixels, preprocess="unit")["correct"] == wanted


def test_a_run_is_loaded_with_its_modules_and_images(taught: tuple[sr.DistillResult, nn.Module]) -> None:
    run, teacher = taught
    loaded = sr.load_run(run.path, student=build(4, 7), teacher=teacher, train=TRAIN, test=TEST)
    assert loaded.summary == run.summary
    assert torch.equal(loaded.predict(TEST.tensors[0]), run.predict(TEST.tensors[0]))
    assert loaded.evaluate()["correct"] == run.summary["correct"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"student: .*the module.*load_run\(folder, student=…\)"),
        ({"student": build(5, 0)}, "weights that fit the model"),
        ({"student": build(4, 0), "teacher": build(8, 3)}, "teacher: .*the weights that the run's teacher had"),
        ({"student": build(4, 0), "train": TRAIN}, "test: got None; expected both splits"),
        ({"student": build(4, 0), "train": TEST, "test": TEST}, "data: .*the images that the run had"),
    ],
    ids=["no module", "another width", "another teacher", "one split", "other images"],
)
def test_what_is_not_the_runs_is_refused(
    taught: tuple[sr.DistillResult, nn.Module], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(sr.BadInput, match=message):
        sr.load_run(taught[0].path, **given)


class Brightness(nn.Module):
    """Classifies by the mean of images of 0 … 1, nearest of .2, .4, .6, .8; a shift or a scale misleads it."""

    def __init__(self) -> None:
        super().__init__()
        levels = torch.tensor([0.2, 0.4, 0.6, 0.8])
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.fc = nn.Linear(1, CLASSES)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.fc.weight.copy_(600 * levels[:, None])
            self.fc.bias.copy_(-300 * levels.square())

    def forward(self, x: Tensor) -> Tensor:
        # `view` refuses channels-last memory, which images of one channel are in as well.
        return self.fc(self.conv(x).view(len(x), -1).mean(1)[:, None])  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", ["normalised twice", "not normalised"])
def test_a_diagnosis_looks_at_what_the_teacher_gets(tmp_path: Path, given: str) -> None:
    labels = torch.arange(400) % CLASSES
    x = (0.2 + 0.2 * labels.view(-1, 1, 1, 1)) + 0.1 * (torch.rand(400, 1, 8, 8) - 0.5)
    teacher: nn.Module = Brightness()
    if given == "normalised twice":
        x = (x - 0.5) / 0.5
    else:
        teacher.fc.weight.data.mul_(0.5)  # type: ignore[operator, union-attr]
        teacher.fc.bias.data.add_(teacher.fc.weight.data[:, 0])  # type: ignore[operator, union-attr, index]
    data = TensorDataset(x, labels)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    run = sr.distill(teacher, student, data, data, steps=8, batch_size=16, out=tmp_path / "run", progress=False)
    assert run.summary["teachers"]["teacher"]["top1"] < 60
    found = run.diagnose()
    assert isinstance(found, sr.Diagnosis)
    assert found.problems[0].check == "teacher_normalisation"
    remedy = found.problems[0].remedy
    assert remedy is not None
    assert remedy.code is not None
    assert not [one for one in found.findings if "could not be made" in one.summary]
    assert remedy.code.startswith("sr.distill(…, teacher_preprocess=")
    if given == "not normalised":
        assert remedy.code == "sr.distill(…, teacher_preprocess='half')"
    # What it says to do does it.
    preprocess = ast.literal_eval(remedy.code.removeprefix("sr.distill(…, teacher_preprocess=").removesuffix(")"))
    assert sr.evaluate(teacher, data, preprocess=preprocess)["top1"] == 100
    # From the folder alone it is said that nobody looked, and how to.
    alone = next(one for one in sr.diagnose(run.path).findings if one.check == "teacher_input")
    assert alone.verdict == "skipped"
    assert "run.diagnose()" in alone.summary


def test_a_run_is_explained_and_its_fidelity_measured(taught: tuple[sr.DistillResult, nn.Module]) -> None:
    run, _ = taught
    found = sr.explain(run, images=4, grid=8, passes=60)
    assert len(found.runs[0].checkpoints) == 4
    assert (run.path / "explain.html").exists()
    measured = run.fidelity(images=16)
    assert measured.taps
    with pytest.raises(sr.BadInput, match=r"student: .*load_run\(folder, student=…\)"):
        sr.explain(run.path, images=4)


def test_packages_can_be_called_and_imported_from() -> None:
    # In a process of its own: what was imported before decides what the name means.
    code = (
        "import sys, stillroom as sr; sr.diagnose; assert 'torch' not in sys.modules; f = sr.explain; "
        "from stillroom.explain import concepts; assert sr.explain is f and callable(f)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    from stillroom.explain import concepts

    assert callable(concepts)
    assert callable(sr.explain)
    assert next(iter(inspect.signature(sr.explain).parameters)) == "runs"
    assert next(iter(inspect.signature(sr.diagnose).parameters)) == "target"


def test_a_recipe_a_study_and_what_is_neither(tmp_path: Path) -> None:
    with pytest.raises(sr.BadInput, match="a folder that exists"):
        sr.diagnose(tmp_path / "nothing")
    with pytest.raises(sr.BadInput, match="teacher"):
        sr.dissect({"student": {"name": "mlp"}}, tmp_path / "study")
