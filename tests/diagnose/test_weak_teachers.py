"""Teachers that are young, weak or linear, and images that were inverted: each is called what it is."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import stillroom as sr
from diagnose.setups import Setup
from stillroom.data.images import DataPair
from stillroom.diagnose.checks.recipe.teacher_quality import FLATNESS, flatness
from stillroom.diagnose.recipe import CHECKS, diagnose_recipe
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.schema.diagnosis import Finding

pytestmark = pytest.mark.usefixtures("few_sizes")


def found(setup: Setup, *checks: str) -> dict[str, Finding]:
    chosen = [check for check in CHECKS if check.id in checks]
    findings = diagnose_recipe(setup.recipe, images=512, components=setup.components(), checks=chosen)
    return {finding.check: finding for finding in findings}


def trained(model: nn.Module, data: DataPair, steps: int, lr: float) -> nn.Module:
    """A few steps of sgd at a constant rate."""
    torch.manual_seed(0)
    pipe = Preprocess(resolve_preprocess("half", channels=1, is_pixels=True))
    x, labels = pipe(data.train.images), data.train.labels
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,))
        F.cross_entropy(model(x[rows]), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def layers(*hidden: int) -> nn.Module:
    sizes = [64, *hidden]
    parts = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *parts, nn.Linear(sizes[-1], 10))


@pytest.mark.parametrize(("hidden", "steps"), [((), 30), ((), 90), ((128,), 20), ((128,), 40), ((128,), 60)])
def test_a_young_or_linear_teacher_is_not_called_smoothed(correct: Setup, hidden: tuple[int, ...], steps: int) -> None:
    torch.manual_seed(1)
    setup = replace(correct, teacher=trained(layers(*hidden), correct.data, steps, 0.02))
    finding = found(setup, "teacher_label_smoothing")["teacher_label_smoothing"]
    assert finding.verdict == "ok"
    assert "young or weak" in finding.summary


def test_a_teacher_below_a_half_is_called_young_or_weak(correct: Setup) -> None:
    """Above chance, and above a linear model of as few images as are looked at."""
    data = DataPair(*(replace(split, images=noisy(split.images)) for split in (correct.data.train, correct.data.test)))
    weak = trained(layers(), data, 200, 0.05)
    finding = found(replace(correct, teacher=weak, data=data), "teacher_accuracy")["teacher_accuracy"]
    assert finding.verdict == "warning", finding.summary
    assert "young or weak" in finding.summary


def noisy(images: Tensor) -> Tensor:
    noise = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(len(images)))
    return torch.where(torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) < 0.7, noise, images).to(
        torch.uint8
    )


def test_smoothing_and_youth_differ_in_how_sure_a_teacher_is() -> None:
    """Both are flat among the other classes; a smoothed teacher has reached its targets."""
    labels = torch.arange(400) % 10
    one = F.one_hot(labels, 10).float()
    noise = torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
    # Targets of .91 and .01, and a teacher that is as flat at a third of the log-odds, unsteady.
    smoothed = flatness(one * 4.5 + 0.3 * noise, labels)
    young = flatness(one * 2.2 + 0.9 * noise, labels)
    assert smoothed.smoothing >= FLATNESS.problem
    assert young.smoothing < FLATNESS.warning


@pytest.mark.parametrize("share", [0.6, 0.75])
def test_batch_norms_that_lag_are_no_wrong_normalisation(correct: Setup, share: float) -> None:
    """Running statistics begin at 0 and 1, and are not there yet in a young teacher; a wider input makes up for it."""

    def lagging(teacher: nn.Module) -> nn.Module:
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.mul_(share)
                module.running_var.mul_(share).add_(1 - share)
        return teacher

    checks = ("teacher_normalisation", "teacher_batch_norm", "teacher_accuracy")
    findings = found(correct.with_teacher(lagging), *checks)
    assert {name for name, one in findings.items() if one.verdict == "problem"} == {"teacher_batch_norm"}
    assert "once its batch norm is corrected (see teacher_batch_norm)" in findings["teacher_accuracy"].summary


def test_inverted_images_are_found_and_the_remedy_inverts_them_back(correct: Setup) -> None:
    def inverted(data: DataPair) -> DataPair:
        return DataPair(*(replace(split, images=255 - split.images) for split in (data.train, data.test)))

    dark = replace(correct, teacher=copy.deepcopy(correct.teacher)).with_data(inverted)
    checks = ("teacher_normalisation", "teacher_batch_norm", "teacher_accuracy")
    findings = found(dark, *checks)
    assert {name for name, one in findings.items() if one.verdict == "problem"} == {"teacher_normalisation"}
    finding = findings["teacher_normalisation"]
    assert "normalisation inverted" in finding.summary
    assert "once its normalisation is corrected (see teacher_normalisation)" in findings["teacher_accuracy"].summary
    assert finding.remedy is not None
    mended = found(dark.but(*finding.remedy.arguments()), *checks)
    assert {one.verdict for one in mended.values()} == {"ok"}


def test_distilling_in_python_says_first_what_quick_checks_find_and_changes_no_byte(
    correct: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = (
        TensorDataset(split.images[:320], split.labels[:320]) for split in (correct.data.train, correct.data.test)
    )
    torch.manual_seed(0)
    student = layers(16)
    written = {}
    for progress in (True, False):
        drawn = torch.get_rng_state()
        run = sr.distill(
            copy.deepcopy(correct.teacher),
            student,
            train,
            test,
            steps=60,
            batch_size=128,
            teacher_preprocess="none",
            student_preprocess="half",
            cache={"enabled": False},
            out=tmp_path / str(progress),
            progress=progress,
        )
        assert torch.equal(torch.get_rng_state(), drawn)
        names = ("student.safetensors", "metrics.jsonl", "summary.json", "predictions.safetensors")
        written[progress] = {name: (run.path / name).read_bytes() for name in names}
    assert written[True] == written[False]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("checked before training")]
    assert len(lines) == 1
    assert "teacher_normalisation" in lines[0]
