"""``stillroom audit``: scripts that end in every way keep their exit code, and the diagnosis is there."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillroom.cli import run

LOOP = """
import os, sys
import torch
import torch.nn.functional as F

torch.manual_seed(0)
teacher, student = torch.nn.Linear(4, 3), torch.nn.Sequential(torch.nn.Linear(4, 3))
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for step in range(6):
    x = torch.randn(8, 4)
    with torch.no_grad():
        t = teacher(x).argmax(1)
    loss = F.cross_entropy(student(x).softmax(1), t)  # the fault
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("end", *sys.argv[1:], __name__, os.path.basename(sys.argv[0]))
"""
LINE = 1 + next(number for number, line in enumerate(LOOP.splitlines()) if "the fault" in line)


@pytest.fixture
def audit(tmp_path: Path, script_state: None) -> Callable[..., int]:
    """Run a script under audit in this process, and put back what a script changes."""

    def start(source: str, *options: str, arguments: tuple[str, ...] = ()) -> int:
        (tmp_path / "train.py").write_text(source)
        return run(["audit", "--out", str(tmp_path / "out"), *options, str(tmp_path / "train.py"), *arguments])

    return start


def written(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    return found


def test_a_script_runs_as_python_runs_it_and_its_fault_is_named(
    audit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(LOOP, arguments=("--epochs", "3")) == 0
    printed = capsys.readouterr().out
    assert "end --epochs 3 __main__ train.py" in printed
    assert f"train.py:{LINE}" in printed
    (problem,) = [one for one in written(tmp_path)["findings"] if one["verdict"] == "problem"]
    assert (problem["check"], problem["location"]) == ("probabilities_for_logits", f"train.py:{LINE}")


def test_a_script_that_audits_itself_is_audited_by_the_command(
    audit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, body = LOOP.split("for step in", 1)
    loop = "\n    ".join(f"for step in{body}".splitlines())
    source = f"from stillroom import audit\n{head}with audit() as own:\n    {loop}\n"
    assert audit(source + "print('own:', [one.check for one in own.diagnosis.problems])\n") == 0
    assert "own: ['probabilities_for_logits']" in capsys.readouterr().out
    assert [one["check"] for one in written(tmp_path)["findings"] if one["verdict"] == "problem"] == [
        "probabilities_for_logits"
    ]


RAMP = """
import torch
import torch.nn.functional as F

torch.manual_seed(0)
teacher = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
student = torch.nn.Linear(4, 3)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
warmup = 60
for step in range(400):
    x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
    with torch.no_grad():
        t = teacher(x)
    s = student(x)
    weight = 0.9 * min(1, step // warmup)
    soft = F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="mean")
    loss = F.cross_entropy(s, y) + weight * soft
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("end")
"""


def test_stop_goes_on_until_a_weight_that_is_cut_has_risen_and_its_term_was_seen(
    audit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(RAMP, "--stop") == 0
    assert "end" not in capsys.readouterr().out.splitlines()
    assert written(tmp_path)["headline"].endswith("(`--stop`): what comes later was not seen.")
    assert "loss_scale" in {one["check"] for one in written(tmp_path)["findings"] if one["verdict"] == "problem"}


PARTS = """
import torch
import torch.nn.functional as F

torch.manual_seed(0)
teacher, student = torch.nn.Linear(4, 3), torch.nn.Sequential(torch.nn.Linear(4, 3))
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
STEPS = 4  # NOTE
for step in range(40):
    x = torch.randn(8, 4)
    with torch.no_grad():
        t = teacher(x)
    z = student(x)
    loss = F.cross_entropy(z, t.argmax(1)) + F.kl_div(F.log_softmax(z, 1), F.softmax(t, 1), reduction="batchmean")
    loss.backward()
    if step % STEPS == STEPS - 1:
        optimizer.step()
        optimizer.zero_grad()
"""


@pytest.mark.parametrize(
    ("note", "verdict"),
    [("accumulation_steps", "problem"), ("accumulated: the sum of four batches", "warning"), ("four", "warning")],
)
def test_parts_that_are_said_to_be_accumulated_are_divided(
    note: str, verdict: str, audit: Callable[..., int], tmp_path: Path
) -> None:
    assert audit(PARTS.replace("NOTE", note)) == 0
    found = {one["check"]: one["verdict"] for one in written(tmp_path)["findings"]}
    assert found["accumulation"] == verdict


def test_json_is_all_there_is_on_standard_output(audit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(LOOP, "--json", "--strict") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["kind"] == "loop"
    assert "end" in err


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(3)", 3), ("raise KeyError('lost')", 1), ("sys.exit('no data')", 1), ("sys.exit()", 0)]
)
def test_the_exit_code_is_the_scripts_own(end: str, code: int, audit: Callable[..., int], tmp_path: Path) -> None:
    assert audit(f"{LOOP}\n{end}\n") == code
    assert any(one["verdict"] == "problem" for one in written(tmp_path)["findings"])


def test_os_exit_finds_the_diagnosis_written(
    audit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr("os._exit", leave)
    assert audit(f"{LOOP}\nos._exit(5)\n") == 5
    assert written(tmp_path)["verdict"] == "problem"


def test_a_script_may_change_the_folder_and_its_hook_is_called(
    audit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    hook = "sys.excepthook = lambda kind, error, trace: print('hook', kind.__name__)"
    assert audit(f"{LOOP}\nos.chdir('/')\n{hook}\n{{}}['lost']\n", "--out", "relative") == 1
    assert "hook KeyError" in capsys.readouterr().out
    assert (tmp_path / "relative" / "diagnosis.json").is_file()


@pytest.mark.usefixtures("script_state")
def test_a_module_runs_as_python_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "pack_under_audit"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "names.py").write_text("WORD = 'beside'\n")
    (package / "train.py").write_text("import sys\nfrom .names import WORD\nprint(WORD, __package__, sys.argv[1:])\n")
    assert run(["audit", "-m", "pack_under_audit.train", "--x"]) == 0
    assert "beside pack_under_audit ['--x']" in capsys.readouterr().out
    assert run(["audit", "-m", "pack_under_audit.trian"]) == 2
    assert "-m" in capsys.readouterr().err


def test_a_signal_finds_the_diagnosis_printed_and_ends_the_script(
    audit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = []

    def kill(process: int, number: int) -> None:
        sent.append((signal.getsignal(number), number))
        raise SystemExit(3)  # a signal would end the tests

    monkeypatch.setattr("os.kill", kill)
    audit(f"{LOOP}\nimport signal\nsignal.raise_signal(signal.SIGTERM)\nprint('after')\n")
    out = capsys.readouterr().out
    assert sent == [(signal.SIG_DFL, signal.SIGTERM)]
    assert f"train.py:{LINE}" in out
    assert "after" not in out


def test_of_processes_launched_together_the_first_prints(
    audit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert audit("print('mine')") == 0
    assert capsys.readouterr().out == "mine\n"
    assert not (tmp_path / "out" / "diagnosis.json").exists()


@pytest.mark.parametrize("name", ["mnist.py", "torchvision_reference.py"])
def test_plain_training_has_no_teacher_and_nothing_wrong(
    name: str, audit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (Path(__file__).parent.parent / "benchmarks" / "plain_scripts" / name).read_text()
    assert audit(source, arguments=("--epochs", "2")) == 0
    assert {one["verdict"] for one in written(tmp_path)["findings"]} == {"skipped"}
    assert capsys.readouterr().out.splitlines()[-2].startswith("There is no teacher")


def test_a_script_that_trains_nothing_says_so(audit: Callable[..., int], tmp_path: Path) -> None:
    assert audit("print(1)") == 0
    assert {one["verdict"] for one in written(tmp_path)["findings"]} == {"skipped"}
    assert "No optimizer" in written(tmp_path)["findings"][0]["summary"]


@pytest.mark.parametrize("source", [None, "def f(:\n", "\0"])
def test_what_is_no_script_is_refused(source: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if source is not None:
        (tmp_path / "train.py").write_text(source)
    assert run(["audit", str(tmp_path / "train.py")]) == 2
    error = capsys.readouterr().err
    assert "SCRIPT.py" in error
    assert "Traceback" not in error


EXCHANGED = '''
import torch
import torch.nn.functional as F

def soft_loss(first, second, tau):
    """{said}"""
    p, log_p, log_q = F.softmax(first / tau, -1), F.log_softmax(first / tau, -1), F.log_softmax(second / tau, -1)
    return (p * (log_p - log_q)).sum(-1).mean() * tau**2

torch.manual_seed(0)
x, y = torch.randn(40, 6), torch.randint(3, (40,))
x[torch.arange(40), y] += 4
teacher, student = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
optimizer = torch.optim.Adam(teacher.parameters(), lr=0.1)
for _ in range(60):
    optimizer.zero_grad()
    F.cross_entropy(teacher(x), y).backward()
    optimizer.step()
optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
for _ in range(20):
    with torch.no_grad():
        t = teacher(x)
    z = student(x)
    loss = F.cross_entropy(z, y) + soft_loss({order}, 3.0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
'''


@pytest.mark.parametrize(
    ("said", "order", "swapped"),
    [
        ("KL(teacher || student) at tau", "z, t", True),
        ("KL(teacher || student) at tau", "t, z", False),
        ("A divergence at tau", "z, t", False),
        ("The reverse of KL(teacher || student)", "z, t", False),
    ],
)
def test_a_divergence_by_hand_is_the_one_that_the_script_says(
    said: str, order: str, swapped: bool, audit: Callable[..., int], tmp_path: Path
) -> None:
    assert audit(EXCHANGED.format(said=said, order=order)) == 0
    found = [one["check"] for one in written(tmp_path)["findings"] if one["verdict"] == "problem"]
    assert found == (["roles_swapped"] if swapped else [])


CROSSWISE = """
import torch
import torch.nn.functional as F

torch.manual_seed(0)
x, y = torch.randn(120, 6), torch.randint(3, (120,))
x[torch.arange(120), y] += 4
def network(width):
    return torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, 3))
trained, drawn = network({trained}), network({drawn})
optimizer = torch.optim.Adam(trained.parameters(), lr=0.05)
for _ in range(40):
    optimizer.zero_grad()
    F.cross_entropy(trained(x), y).backward()
    optimizer.step()
teacher, student = {order}
optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
for _ in range(30):
    with torch.no_grad():
        t = teacher(x)
    z = student(x)
    loss = F.cross_entropy(z, y) + 9 * F.kl_div((z / 3).log_softmax(1), (t / 3).softmax(1), reduction="batchmean")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("trained", "drawn", "order", "found"),
    [
        (32, 4, "drawn, trained", ["roles_swapped"]),
        (4, 32, "drawn, trained", ["weights_not_loaded"]),  # a student that begins trained, and a teacher forgotten
        (32, 4, "trained, drawn", []),
    ],
)
def test_the_network_that_was_trained_learns_from_one_as_it_was_drawn(
    trained: int, drawn: int, order: str, found: list[str], audit: Callable[..., int], tmp_path: Path
) -> None:
    assert audit(CROSSWISE.format(trained=trained, drawn=drawn, order=order)) == 0
    assert [one["check"] for one in written(tmp_path)["findings"] if one["verdict"] == "problem"] == found


TASKS = """
import copy
import torch
import torch.nn.functional as F

torch.manual_seed(0)
x, y = torch.randn(400, 8), torch.randint(6, (400,))
x[torch.arange(400), y] += 4
net, old, known = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 6)), None, 0
for total in (3, 6):
    rows = ((y >= known) & (y < total)).nonzero().flatten()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(5):
        for i in rows[torch.randperm(len(rows))].split(20):
            z = net(x[i])
            loss = F.cross_entropy(z[:, known:total], y[i] - known)
            if old is not None:
                with torch.no_grad():
                    t = old(x[i])
                soft = F.kl_div((z[:, :known] / 2).log_softmax(1), (t[:, :known] / 2).softmax(1), reduction="batchmean")
                loss = loss + 4 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    old, known = {old}, total
"""


@pytest.mark.parametrize(("old", "found"), [("copy.deepcopy(net).eval()", []), ("net", ["teacher_unused"])])
def test_the_old_model_of_an_incremental_training(
    old: str, found: list[str], audit: Callable[..., int], tmp_path: Path
) -> None:
    """The same parameters learn a second task, whose labels count from its own first column."""
    assert audit(TASKS.format(old=old)) == 0
    assert [one["check"] for one in written(tmp_path)["findings"] if one["verdict"] == "problem"] == found


@pytest.mark.parametrize("step", [None, 3])
def test_a_script_that_fails_says_so_in_the_last_line(
    step: int | None, audit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = LOOP.replace(".softmax(1), t)", ", t)")
    fails = "raise ValueError('no such file')\n"
    source = (
        fails + source if step is None else source.replace("    x =", f"    if step == {step}:\n        {fails}    x =")
    )
    assert audit(source) == 1
    last = [line for line in capsys.readouterr().out.splitlines() if "report:" not in line][-1]
    assert "The script ended with ValueError: no such file" in last
    assert ("before a training was seen" in last) is (step is None)


WARMED = """
import torch
import torch.nn.functional as F

torch.manual_seed(0)
x, y = torch.randn(80, 6), torch.randint(3, (80,))
x[torch.arange(80), y] += 4
teacher, student = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
optimizer = torch.optim.Adam(teacher.parameters(), lr=0.1)
for _ in range(60):
    optimizer.zero_grad()
    F.cross_entropy(teacher(x), y).backward()
    optimizer.step()
optimizer = torch.optim.AdamW(student.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: {rate})
for epoch in range(4):
    for i in torch.randperm(80).split(8):
        with torch.no_grad():
            t = teacher(x[i])
        z = student(x[i])
        loss = F.cross_entropy(z, y[i]) + F.kl_div(z.log_softmax(1), t.softmax(1), reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
"""


@pytest.mark.parametrize(("rate", "found"), [("min(step / 2, 1)", []), ("0.01 ** step", ["schedule"])])
def test_a_rate_that_begins_at_0_and_rises_is_a_warm_up(
    rate: str, found: list[str], audit: Callable[..., int], tmp_path: Path
) -> None:
    assert audit(WARMED.format(rate=rate)) == 0
    assert [one["check"] for one in written(tmp_path)["findings"] if one["verdict"] == "problem"] == found
