"""The callbacks for frameworks, on the examples: right as they are, and with two faults planted."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stillroom.diagnose.audit.watch import current
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.diagnose.loss import check_loss
from stillroom.errors import BadInput
from stillroom.integrations.accelerate import AcceleratorAudit
from stillroom.models.external import declare_missing_ops

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
FRAMEWORKS = {
    **{"transformers_trainer": "transformers", "transformers_text": "transformers"},
    **{"lightning_module": "lightning", "accelerate_loop": "accelerate"},
}
FAULTS = (('reduction="batchmean") * TAU**2', 'reduction="mean")'), ("teacher.eval()", "teacher.train()"))


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., ModuleType]]:
    """Import an example, with some of its lines replaced, from a file of the same name."""

    def load(name: str, *changes: tuple[str, str]) -> ModuleType:
        declare_missing_ops()
        pytest.importorskip(FRAMEWORKS[name])
        text = (EXAMPLES / f"{name}.py").read_text()
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    state = sys.modules.get("accelerate.state")
    if state is not None:  # accelerate keeps one state for the whole process
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def line_of(tmp_path: Path, name: str, words: str) -> str:
    lines = (tmp_path / f"{name}.py").read_text().splitlines()
    return f"{name}.py:{next(number for number, line in enumerate(lines, 1) if words in line)}"


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_faults_of_an_example_are_named_by_check_and_line(
    name: str, load: Callable[..., ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diagnosis: Diagnosis = load(name, *FAULTS).main().diagnosis
    assert [(one.check, one.location) for one in diagnosis.problems] == [
        ("teacher_mode", line_of(tmp_path, name, "teacher_logits = ")),
        ("loss_scale", line_of(tmp_path, name, 'reduction="mean"')),
    ]
    printed = capsys.readouterr().out
    assert "tape.py" not in printed
    assert printed.count("problem  loss_scale") == 1  # early, and not again at the end, where nothing changed


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_example_is_accused_of_nothing(
    name: str, load: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    diagnosis: Diagnosis = load(name).main().diagnosis
    assert [finding.check for finding in diagnosis.findings if finding.needs_attention] == []
    assert "Nothing is wrong" in capsys.readouterr().out
    assert current() is None


class Stub:
    is_main_process = True


def train(after: Callable[[], Any]) -> None:
    teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(3):
        (student(torch.ones(8, 4)) - teacher(torch.ones(8, 4)).detach()).square().mean().backward()
        optimizer.step()
    after()


def test_an_exception_ends_the_watch_and_a_folder_is_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), AcceleratorAudit(Stub(), out=tmp_path / "out") as audit:
        train(after=lambda: 1 / 0)
    assert current() is None
    assert audit.diagnosis.kind == "loop"
    assert (tmp_path / "out" / "diagnosis.html").is_file()


def test_a_training_that_was_left_by_an_exception_does_not_hinder_the_next() -> None:
    audit = AcceleratorAudit(Stub())
    audit.begin()
    audit.begin()
    audit.end()
    assert current() is None


@pytest.mark.parametrize(("given", "field"), [(3, "accelerator"), (Stub(), "steps")])
def test_wrong_arguments_are_named(given: Any, field: str) -> None:
    with pytest.raises(BadInput, match=field), AcceleratorAudit(given, steps=0):
        pass


def test_the_loss_of_a_trainer_on_texts_is_checked_by_itself(load: Callable[..., ModuleType]) -> None:
    right, wrong = (load("transformers_text", *faults).distillation_loss for faults in ((), FAULTS[:1]))
    assert check_loss(right, num_classes=3).problems == ()
    assert [one.check for one in check_loss(wrong, num_classes=3).problems] == ["loss_scale"]
