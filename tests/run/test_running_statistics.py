"""Running statistics of batch norms in runs too short for them: computed anew, and found where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import stillroom as sr
from run.conftest import bytes_of, stop_and_resume
from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.diagnose.run import diagnose_run
from stillroom.models.running_statistics import moving_norms, recompute_statistics
from stillroom.recipe import Recipe
from stillroom.run.run import Finished, execute

Make = Callable[..., Recipe]
STUDENT = "student={name: resnet8, options: {width: 4}}"
ANEW = "training.recompute_batch_norm=2"


class Net(nn.Sequential):
    """A batch norm on the pixels themselves, whose statistics are those of the images."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(1, momentum=0.01), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 2))


def trained(out: Path, images: Tensor, **training: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    data = TensorDataset(images, torch.arange(len(images)) % 2)
    sr.distill(None, Net(), data, data, epochs=2, batch_size=16, training=training, out=out, progress=False)
    return load_file(out / "student.safetensors")


def test_statistics_are_those_of_the_training_batches(tmp_path: Path) -> None:
    images = torch.randn(16, 1, 8, 8) * 3 + 5
    short = trained(tmp_path / "short", images)
    anew = trained(tmp_path / "anew", images, recompute_batch_norm=1)
    torch.testing.assert_close(anew["0.running_mean"], images.mean().reshape(1))
    torch.testing.assert_close(anew["0.running_var"], images.var().reshape(1), rtol=1e-4, atol=1e-4)
    assert float(short["0.running_mean"]) < 0.2
    # Nothing else is touched by it.
    assert torch.equal(short["3.weight"], anew["3.weight"])


def test_modes_and_momenta_are_as_before() -> None:
    net = Net()
    net[0].eval()
    recompute_statistics(net, ["0"], [torch.randn(4, 1, 8, 8)])
    assert (net[0].training, net[2].training, net[0].momentum) == (False, True, 0.01)
    assert not moving_norms(net)


def test_a_run_of_them_resumes_to_the_same_bytes(recipe: Make, tmp_path: Path) -> None:
    whole = recipe(STUDENT, ANEW)
    execute(whole, tmp_path / "whole")
    stop_and_resume(whole, tmp_path / "again", 3)
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "again")


def test_a_short_run_is_found_before_and_after(recipe: Make, once: Callable[[Recipe], Finished]) -> None:
    # Twelve steps: .9 ** 12 is .28.
    run = once(recipe(STUDENT)).path
    assert json.loads((run / "summary.json").read_text())["batch_norm"] == {"momentum": 0.1, "batches": 12}
    for findings in (diagnose_recipe(recipe(STUDENT), images=16), diagnose_run(run)):
        (finding,) = (each for each in findings if each.check == "student_statistics")
        assert finding.verdict == "problem", finding
        assert finding.evidence["starting_share"] == pytest.approx(0.9**12, rel=1e-3)
        assert finding.remedy is not None
        assert finding.remedy.overrides == {"training.recompute_batch_norm": 50}


def test_with_statistics_computed_anew_nothing_is_found(recipe: Make, once: Callable[[Recipe], Finished]) -> None:
    run = once(recipe(STUDENT, ANEW)).path
    assert "batch_norm" not in json.loads((run / "summary.json").read_text())
    for findings in (diagnose_recipe(recipe(STUDENT, ANEW), images=16), diagnose_run(run)):
        (finding,) = (each for each in findings if each.check == "student_statistics")
        assert finding.verdict == "ok", finding
