"""The scripts of `examples/` run, and the notebooks made of them hold the same code and what it prints."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from stillroom.cli.terminal import ProgressBar

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_a_plain_loop_and_stillroom_end_at_the_same_student(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plain_pytorch", "with_stillroom"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    plain = load(EXAMPLES / "plain_pytorch.py")
    plain.EPOCHS = 4
    pair = load(EXAMPLES / "with_stillroom.py")
    by_hand, ours, gap = pair.main()
    assert by_hand == pytest.approx(ours, abs=0.4)
    assert gap < 1e-3
    # The comparison can fail: a term with another weight ends elsewhere.
    monkeypatch.setattr(pair, "TAU", 3.0)
    assert pair.main()[2] > 1e-2


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("own_loss", ["['loss_scale']", "[]", "top-1: "]),
        ("own_model", ["top-1: ", "the same student: True"]),
        ("api_teacher", ["to be answered: (1, 300, 1, 8, 8) (500, 1, 8, 8)", "teacher "]),
    ],
)
def test_an_example_runs(
    name: str, printed: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(each) for line in lines) for each in printed)


def test_the_notebooks_are_the_scripts() -> None:
    build = load(EXAMPLES / "notebooks" / "build.py")
    for name in build.NAMES:
        made = json.loads((EXAMPLES / "notebooks" / f"{name}.ipynb").read_text())
        written = [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]
        assert written == build.cells((EXAMPLES / f"{name}.py").read_text())
        assert any(cell.get("outputs") for cell in made["cells"])
        assert str(Path.home()) not in json.dumps(made)


@pytest.mark.parametrize("arguments", [["--help"], ["list", "losses"]])
def test_narrow_piped_output_has_no_control_codes_and_fits(arguments: list[str]) -> None:
    environment = {**os.environ, "COLUMNS": "40", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "stillroom", *arguments]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 40
    if arguments == ["list", "losses"]:
        assert "\nbinary_cross_entropy" in shown
        assert "│" not in shown


def test_a_line_of_an_epoch_stays_one_line_in_a_narrow_pipe() -> None:
    pipe = io.StringIO()
    bar = ProgressBar(Console(file=pipe, width=40))
    bar.logged({"split": "test", "epoch": 1, "loss": 1.0, "top1": 91.6, "agreement": 100.0})
    assert pipe.getvalue().splitlines() == ["epoch 1: loss 1.000  top-1 91.60%  agrees 100.0%"]
