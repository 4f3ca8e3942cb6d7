"""Tests that run in forked workers are reported as those of one process, whatever becomes of a worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CONFTEST = f"""
import os, sys
import pytest
sys.path.insert(0, {str(TESTS)!r})
import workers

def pytest_runtestloop(session):
    return workers.run(session, 2)

@pytest.fixture(scope="session")
def number(tmp_path_factory):
    with (workers.shared_folder(tmp_path_factory) / "log").open("a") as log:
        print("begins", file=log, flush=True)
        yield os.environ["STILLROOM_TEST_WORKER"]
        print("ends", file=log, flush=True)
"""
FILE = """
import os, warnings
import pytest

def test_passes(number, tmp_path):
    assert tmp_path.parent.name == f"worker-{number}"

def test_fails(number):
    print("what it printed")
    assert number == "none"

def test_skips():
    pytest.skip("a reason")

def test_warns():
    warnings.warn("a warning", stacklevel=1)

def test_dies():
    os._exit(7)

def test_comes_after(number):
    pass
"""

WAITS = """
import time

def test_waits(number):
    time.sleep(600)
"""
FAILS = """
import pathlib, time

def test_fails(log=pathlib.Path("{log}")):
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    assert False
"""


def pytest_of(folder: Path, *options: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", folder / "temporary", *options]
    return subprocess.run([*command, folder], capture_output=True, text=True, cwd=folder).stdout


def test_each_outcome_is_reported_and_a_death_costs_one_test(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"test_{name}.py").write_text(FILE)
    shown = pytest_of(tmp_path, "-rA")
    assert "6 failed, 9 passed, 3 skipped, 3 warnings" in shown
    assert shown.count("::test_dies - the process that ran it ended with 7") == 3
    assert shown.count("what it printed") >= 3
    assert "UserWarning: a warning" in shown
    # Each of two workers and of three in the place of the dead sets up what is for the session once, and tears it down.
    log = (tmp_path / "temporary" / "log").read_text().split()
    assert 3 <= log.count("begins") <= 5
    assert log.count("ends") == log.count("begins") - 3


def test_a_failure_that_ends_the_session_lets_the_other_worker_tear_down(tmp_path: Path) -> None:
    log = tmp_path / "temporary" / "log"
    (tmp_path / "test_a.py").write_text(WAITS)
    (tmp_path / "test_b.py").write_text(FAILS.format(log=log))
    assert "1 failed" in pytest_of(tmp_path, "-x")
    assert log.read_text().split() == ["begins", "ends"]


@pytest.mark.parametrize(("options", "ran"), [(["-x"], "1 failed"), (["--collect-only"], "2 tests collected")])
def test_the_options_of_pytest_hold(tmp_path: Path, options: list[str], ran: str) -> None:
    (tmp_path / "test_a.py").write_text("def test_a():\n    assert False\ndef test_b():\n    assert False\n")
    assert ran in pytest_of(tmp_path, *options)
