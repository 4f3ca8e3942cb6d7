"""A loss of the user's: what is wrong with it is one line before the training, and it is seen after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diagnose.run_folders import KL, FakeRun, falling, guesses, level, write_run
from diagnose.setups import Setup
from stillroom.cli import run
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.diagnose.recipe import CHECKS, diagnose_recipe
from stillroom.diagnose.run import diagnose_run
from stillroom.errors import RunFailed
from stillroom.losses.registry import build_losses
from stillroom.models.preprocess import Preprocess
from stillroom.recipe import parse_recipe
from stillroom.schema.diagnosis import Finding
from stillroom.teachers.output import ModelOutput
from stillroom.train.step import DistillStep, check_not_silent

LOSSES = """
import torch
import torch.nn.functional as F
import stillroom as sr

class Wild(sr.Loss[sr.LossConfig]):
    requires = sr.Requires(teacher=True)
    def forward(self, inputs): return F.mse_loss(inputs.student.logits, inputs.teacher_logits)

class Rows(Wild):
    def forward(self, inputs): return (inputs.student.logits - inputs.teacher_logits).square().mean(1)

class OneElement(Wild):
    def forward(self, inputs): return super().forward(inputs)[None]

class Nothing(Wild):
    def forward(self, inputs): super().forward(inputs)

class Number(Wild):
    def forward(self, inputs): return super().forward(inputs).item()

class Undeclared(Wild):
    requires = sr.Requires()

class UndeclaredDirectly(Wild):
    requires = sr.Requires()
    def forward(self, inputs): return inputs.teacher.logits.mean()

class UndeclaredTap(Wild):
    def forward(self, inputs): return inputs.student.features["layer2"].mean()

class Shapes(Wild):
    def forward(self, inputs): return (inputs.student.logits @ inputs.teacher_logits).mean()

class NotFinite(Wild):
    def forward(self, inputs): return super().forward(inputs) / 0 * 0

class BrokenGradient(Wild):
    def forward(self, inputs): return (inputs.student.logits * 0).square().sum(1).sqrt().mean() + 1

class Deaf(Wild):
    def forward(self, inputs): return F.cross_entropy(inputs.student.logits, inputs.labels)
"""
BROKEN = {
    "Rows": "returned a tensor of shape [",
    "OneElement": "returned a tensor of shape [1]",
    "Nothing": "returned NoneType",
    "Number": "returned float",
    "Undeclared": "Requires(teacher=True)",
    "UndeclaredDirectly": "Requires(teacher=True)",
    "UndeclaredTap": "student_features",
    "Shapes": "own_losses.py:33",
}
WILD = ({"name": "own_losses:Wild", "weight": 1.0},)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_losses.py").write_text(LOSSES)
    return tmp_path


def findings(setup: Setup, name: str, *others: str) -> dict[str, Finding]:
    losses = [{"name": "cross_entropy"}, {"name": f"own_losses:{name}"}]
    changed = Setup({**setup.content, "losses": losses}, setup.teacher, setup.data)
    wanted = {"loss_finite", "teacher_unused", "loss_balance", *others}
    checks = [check for check in CHECKS if check.id in wanted]
    found = diagnose_recipe(changed.recipe, images=64, components=changed.components(), checks=checks)
    return {finding.check: finding for finding in found}


@pytest.mark.parametrize("name", BROKEN)
def test_a_loss_that_cannot_be_computed_is_a_problem_that_names_it(place: Path, correct: Setup, name: str) -> None:
    found = findings(correct, name)
    assert found["loss_finite"].verdict == "problem"
    assert f"losses.own_losses:{name}" in found["loss_finite"].summary or name in found["loss_finite"].summary
    assert BROKEN[name] in found["loss_finite"].summary
    assert found["loss_balance"].verdict == "skipped"
    assert "see loss_finite" in found["loss_balance"].summary or "reads a teacher" in found["loss_balance"].summary


@pytest.mark.parametrize(("name", "what"), [("NotFinite", "value"), ("BrokenGradient", "gradient")])
def test_a_loss_that_is_not_finite_before_training_is_a_problem(
    place: Path, correct: Setup, name: str, what: str
) -> None:
    found = findings(correct, name)["loss_finite"]
    assert found.verdict == "problem"
    assert found.summary.startswith(f"The {what} of ")


def test_a_teacher_that_no_term_reads_is_a_problem(place: Path, correct: Setup) -> None:
    assert findings(correct, "Wild")["teacher_unused"].verdict == "ok"
    assert findings(correct, "Deaf")["teacher_unused"].verdict == "problem"
    alone = correct.but("losses=[{name: cross_entropy}]")
    checks = [check for check in CHECKS if check.id == "teacher_unused"]
    (found,) = diagnose_recipe(alone.recipe, images=64, components=alone.components(), checks=checks)
    assert found.verdict == "problem"
    assert found.remedy is not None
    parse_recipe({**alone.content, "losses": found.remedy.overrides["losses"]})


@pytest.mark.parametrize("name", ["Number", "Undeclared"])
def test_a_run_with_a_broken_loss_is_one_line_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    recipe: dict[str, Any] = {
        "data": {"train_limit": 80, "test_limit": 40, "batch_size": 16},
        "teacher": {"name": "mlp"},
        "student": {"name": "mlp"},
        "losses": [{"name": f"own_losses:{name}"}],
        "training": {"steps": 3, "precision": "float32", "device": "cpu"},
        "cache": {"enabled": False},
    }
    recipe["teacher"]["weights"] = str(_mlp_weights(place))
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["distill", "recipe.yaml", "--out", "out"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"losses.own_losses:{name}" in error or name.lower() in error.lower()
    assert BROKEN[name] in error
    assert not (place / "out" / "metrics.jsonl").exists()


def _mlp_weights(place: Path) -> Path:
    from stillroom.models.config import ModelConfig
    from stillroom.models.registry import build
    from stillroom.models.weights import save_weights

    save_weights(
        build(ModelConfig(name="mlp"), num_classes=10, in_channels=1, image_size=8), place / "teacher.safetensors"
    )
    return place / "teacher.safetensors"


@pytest.mark.parametrize(
    ("name", "text"), [("NotFinite", "is not finite at step 1"), ("BrokenGradient", "the gradient of")]
)
def test_what_is_not_finite_at_the_first_step_names_the_term_and_not_the_rate(
    place: Path, name: str, text: str
) -> None:
    losses = build_losses(
        parse_recipe(
            {
                "student": {"name": "mlp"},
                "teacher": {"name": "mlp"},
                "losses": [{"name": "cross_entropy"}, {"name": f"own_losses:{name}"}],
            }
        ).losses
    )
    step = DistillStep(torch.nn.Linear(4, 3), losses, Preprocess(None, is_pixels=False))
    rows = torch.arange(6)
    _, values = step(torch.randn(6, 4), rows % 3, rows, {"teacher": ModelOutput(torch.randn(6, 3))}, 0.0)
    with pytest.raises(RunFailed) as error:
        check_not_silent(step, values, 0)
    assert text in str(error.value)
    assert name in str(error.value)
    assert "step 1" in str(error.value)
    assert "the learning rate is not the cause" in str(error.value)


def test_an_own_loss_is_seen_after_the_run(tmp_path: Path) -> None:
    """It is logged as its class calls itself, and stands in the recipe as module:Class."""
    fake = FakeRun(
        losses=WILD, loss_curves={"wild": level(30.0)}, student=guesses(0.1, seed=3), confidence=0.9, distilled=True
    )
    found = {one.check: one for one in diagnose_run(write_run(tmp_path / "run", fake))}
    assert found["diverged"].verdict == "problem"
    assert "no better than chance" in found["diverged"].summary
    fine = FakeRun(losses=(KL[0], *WILD), loss_curves={"cross_entropy": falling(2.4, 0.25), "wild": falling(12.0, 0.6)})
    found = {one.check: one for one in diagnose_run(write_run(tmp_path / "fine", fine))}
    assert found["kd_ignored"].verdict == "ok"
    assert set(found["kd_ignored"].evidence["shares"]) == {"cross_entropy", "own_losses:Wild"}


def test_a_headline_says_how_many_checks_could_not_judge() -> None:
    skipped = [Finding(f"s{n}", "skipped", "The run did not end.") for n in range(3)]
    found = Diagnosis.of("runs/x", [Finding("unfinished", "ok", "It did."), *skipped], kind="run")
    assert "Nothing is wrong" not in found.headline
    assert "3 could not judge: The run did not end (3)" in found.headline
    found = Diagnosis.of("runs/x", [Finding(f"o{n}", "ok", "…") for n in range(4)] + skipped, kind="run")
    assert found.headline.startswith("Nothing is wrong with this run, as far as 4 checks can tell")
