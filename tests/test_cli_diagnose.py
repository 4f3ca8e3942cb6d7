"""`stillroom diagnose`: what it prints, its exit codes, and which door a path leads to."""

from __future__ import annotations

import io
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from stillroom.cli import diagnose as commands
from stillroom.cli import run
from stillroom.cli.terminal import table
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.schema.diagnosis import Finding, Remedy, Verification

RECIPE: dict[str, Any] = {
    "data": {"train_limit": 200, "test_limit": 100, "batch_size": 32},
    "teacher": {"name": "resnet8", "options": {"width": 4}, "weights": "teacher.safetensors"},
    "student": {"name": "resnet8", "options": {"width": 2}},
    "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9}],
    "training": {"epochs": 20, "precision": "float32", "device": "cpu"},
    "cache": {"enabled": False},
}
DIAGNOSE = ["diagnose", "recipe.yaml", "--images", "64"]
FOUND = [Finding("diverged", "problem", "It did.", remedy=Remedy("Slower.", {"training.optimizer.lr": 0.01}))]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    torch.manual_seed(0)
    teacher = build(ModelConfig(name="resnet8", options={"width": 4}), num_classes=10, in_channels=1, image_size=8)
    save_weights(teacher, tmp_path / "teacher.safetensors")
    return tmp_path


def test_json_is_one_object_and_a_problem_is_no_failure(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*DIAGNOSE, "--json"]) == 0
    out = capsys.readouterr().out
    content = json.loads(out)
    assert out.count("\n") == 1
    verdicts = [finding["verdict"] for finding in content["findings"]]
    assert verdicts == sorted(verdicts, key=["problem", "warning", "ok", "skipped"].index)
    problems = {finding["check"] for finding in content["findings"] if finding["verdict"] == "problem"}
    assert problems == {"teacher_accuracy"}  # its weights are random
    assert all(
        {"check", "verdict", "evidence", "remedy", "threshold"} <= set(finding) for finding in content["findings"]
    )
    assert not any(path.suffix == ".json" for path in workplace.rglob("*"))
    assert run([*DIAGNOSE, "--strict", "--json"]) == 1


def test_a_person_sees_the_worst_first_and_a_remedy_to_paste(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*DIAGNOSE, "training.optimizer.lr=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("problem  teacher_accuracy")
    rate = next(n for n, line in enumerate(lines) if line.startswith("problem  learning_rate"))
    assert "50 times what is usual for sgd" in lines[rate]
    assert lines[rate + 2].split() == ["training.optimizer.lr=0.1"]
    # What is in order is said in words: the name of a check is that of a fault.
    passed = [line.split(maxsplit=2) for line in lines if line.startswith("ok ")]
    assert len(passed) > 3
    assert next(words for _, check, words in passed if check == "teacher_logits") == "Both models give logits."
    skipped = next(line for line in lines if line.startswith("skipped") and "taps" in line)
    assert skipped.split(maxsplit=1)[1] == "taps: No loss term compares features."
    assert "teacher.preprocess" not in "".join(lines)


def test_what_is_written_holds_the_findings_and_commands_that_can_be_run(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*DIAGNOSE, "training.optimizer.lr=5", "--out", "out", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    written = json.loads((workplace / "out" / "diagnosis.json").read_text())
    assert written["findings"] == content["findings"]
    assert (workplace / content["report"]).exists()
    commands = [finding["command"] for finding in written["findings"] if finding["check"] == "learning_rate"]
    assert commands == ["stillroom distill out/recipe.yaml training.optimizer.lr=0.1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["diagnose", "none.yaml"], "recipe: got 'none.yaml'; expected a readable recipe file"),
        (["diagnose", "nowhere"], "expected a folder that exists"),
        ([*DIAGNOSE, "training.epohs=1"], "did you mean 'epochs'?"),
        ([*DIAGNOSE, "teacher.weights=none.pt"], "teacher.weights: got 'none.pt'"),
        ([*DIAGNOSE, "data.path=nowhere"], "data.path: got 'nowhere'"),
        (["diagnose", "recipe.yaml", "--images", "3"], "--images"),
        (["diagnose", ".", "training.epochs=1"], "none for the folder of a run"),
        (["diagnose", "study", "--verify"], "a recipe or a run"),
    ],
)
def test_bad_input_names_the_field(
    workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    (workplace / "study").mkdir()
    (workplace / "study" / "study.yaml").write_text("name: x\n")
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.out == ""


def test_a_run_and_a_study_have_their_own_checks(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []
    for kind in ("run", "study"):

        def look(path: Path, kind: str = kind) -> list[Finding]:
            asked.append((kind, path))
            return FOUND

        monkeypatch.setattr(f"stillroom.diagnose.{kind}.diagnose_{kind}", look)
    (workplace / "study").mkdir()
    (workplace / "study" / "study.yaml").write_text("name: x\n")
    (workplace / "run").mkdir()
    assert run(["diagnose", "run", "--strict"]) == 1
    assert "training.optimizer.lr=0.01" in capsys.readouterr().out
    assert run(["diagnose", "study", "--json"]) == 0
    assert asked == [("run", Path("run")), ("study", Path("study"))]


def test_remedies_are_verified_on_request(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def verify_remedies(recipe: Any, findings: Any, out: Path, **options: Any) -> Verification:
        seen.update(recipe=recipe, checks=[finding.check for finding in findings], out=out)
        content = {"seeds": [0], "conflicts": ["a line"], "not_verified": [{"check": "x", "why": "because"}]}
        return Verification.model_validate(content)

    monkeypatch.setattr("stillroom.diagnose.verify.verify_remedies", verify_remedies)
    assert run([*DIAGNOSE, "training.optimizer.lr=5", "--verify", "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "a line" in out
    assert "x: not verified, because" in out
    assert seen["recipe"].training.optimizer.lr == 5
    assert seen["out"] == Path("out")
    assert json.loads((workplace / "out" / "diagnosis.json").read_text())["verification"]["conflicts"] == ["a line"]


def test_findings_fit_a_narrow_terminal_and_a_line_to_paste_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "y = 4**2 * " + "x * " * 40 + "x"
    remedy = Remedy("Multiply by τ², and average over " + "all rows, " * 20, code=code)
    found = [Finding("loss_scale", "problem", "Too weak. " * 30, remedy=remedy), Finding("longer_name", "ok", "Fine.")]
    diagnosis = Diagnosis.of("train.py", found, kind="loop")
    for width in (40, 80, 140):
        text = io.StringIO()
        monkeypatch.setattr(commands, "Console", partial(Console, file=text, force_terminal=True, width=width))
        commands.print_diagnosis(diagnosis, None, as_json=False)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).splitlines()
        assert [line.strip() for line in lines if len(line) > width] == [code]
        # A second line is indented below its finding, wherever the column of names ends.
        assert lines[0].startswith("problem  loss_scale ")
        assert len(lines[1]) - len(lines[1].lstrip()) == {40: 4, 80: 13, 140: 22}[width]
    text = io.StringIO()
    monkeypatch.setattr(commands, "Console", partial(Console, file=text))
    commands.print_diagnosis(diagnosis, None, as_json=False)
    assert len(text.getvalue().splitlines()) == 5  # piped: a finding a line


def test_a_table_that_does_not_fit_is_written_row_by_row() -> None:
    rows = [["all-remedies", "90.00", "+9.00 … +11.00"], ["unchanged", "80.00", ""]]
    shown = table("remedies, trained", ["remedy", "mean", "95% interval"], rows)
    for width in (24, 80):
        text = io.StringIO()
        Console(file=text, width=width).print(shown)
        assert all(word in text.getvalue() for word in ("all-remedies", "+11.00", "unchanged")), "no word is cut"
        assert ("│" in text.getvalue()) == (width == 80)
        assert max(map(len, text.getvalue().splitlines())) <= width
