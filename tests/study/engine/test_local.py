"""Jobs in processes of this machine: the same bytes as alone, and a process that dies harms no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from processes import Process, fork_python
from stillroom.cli import run
from stillroom.study.engine.base import Job
from stillroom.study.engine.local import LocalEngine
from stillroom.study.engine.pipes import describe_exit
from stillroom.study.engine.worker import take_gpu, visible_gpus
from study.engine.jobs import do, dying, endless, is_free, job, left_by, not_this_one, one, recipe, saved, until

NOISY = """
import os, subprocess, sys
from torch import nn
class Told(nn.Flatten):
    def forward(self, images):
        flat = super().forward(images)
        print("compiler", "torch._dynamo" in sys.modules, "scikit-learn", "sklearn" in sys.modules)
        return flat
def noisy(num_classes):
    print("print")
    os.write(1, b'{"id": "descriptor"}\\n')
    assert subprocess.run([sys.executable, "-c", "print(input('child'))"]).returncode == 1, "its input is empty"
    return nn.Sequential(nn.Linear(8, 8), Told(), nn.Linear(64, num_classes))
"""


# A few steps: threads that wait for each other are slow where the cores are busy.
TWO = recipe(threads=2, epochs=None, steps=3)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked: importing takes most of their time."""
    fork_python(monkeypatch)


def pid_of(engine: LocalEngine, what: Job) -> int:
    return next(w.process.pid for w in engine._workers.values() if w.job is not None and w.job.id == what.id)


@pytest.mark.usefixtures("forked")
def test_a_run_is_the_same_first_third_and_alone(place: Path) -> None:
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
    one_job, two = job(place / "first"), job(place / "two-first", TWO)
    with LocalEngine(1, place / "logs") as engine:
        between = [two, job(place / "between", recipe(seed=3, data={"train_limit": 150}))]
        again = [job(place / "third"), job(place / "two-again", TWO)]
        ended = do(engine, [one_job, *between, *again])
    assert run(["distill", "recipe.yaml", "--out", "alone"]) == 0
    assert [outcome.ending for outcome in ended.values()] == ["done"] * 5
    summary = json.loads((place / "first" / "summary.json").read_text())
    assert ended["run/first"].result == summary
    assert left_by(one_job) == left_by(place / "third") == left_by(place / "alone")
    assert left_by(two) == left_by(place / "two-again")
    with LocalEngine(1, place / "logs") as engine:
        one(engine, job(place / "two-fresh", TWO))
    assert left_by(two) == left_by(place / "two-fresh")


@pytest.mark.usefixtures("forked")
def test_a_worker_that_dies_harms_no_other_and_its_job_goes_on(place: Path) -> None:
    content = dying(place)
    dies, other, whole = job(place / "dies", content), job(place / "other"), job(place / "whole", content)
    with LocalEngine(2, place / "logs") as engine:
        ended = do(engine, [dies, other])
        assert (ended[dies.id].ending, ended[other.id].ending) == ("crashed", "done")
        assert ended[dies.id].reason.startswith("its process was killed by SIGKILL, as when memory ran out; ")
        assert {outcome.ending for outcome in do(engine, [dies, whole]).values()} == {"done"}
    events = [json.loads(line)["event"] for line in (place / "dies" / "timing.jsonl").read_text().splitlines()]
    assert "resume" in events
    assert left_by(dies) == left_by(whole)


def test_prints_and_processes_of_a_library_do_not_reach_the_protocol(place: Path) -> None:
    (place / "noisy_models.py").write_text(NOISY)
    not_this_one(place)
    with LocalEngine(1, place / "logs") as engine:
        outcome = one(engine, job(place / "run", {**recipe(), "student": {"name": "noisy_models:noisy"}}))
        assert (outcome.ending, outcome.reason) == ("done", "")
    log = (place / "logs" / "worker-0.log").read_text()
    assert "print\n" in log
    assert "descriptor" in log
    # Either would take seconds to import, in each process.
    assert "compiler False scikit-learn False" in log
    assert "True" not in log


@pytest.mark.usefixtures("forked")
def test_a_worker_that_died_while_nobody_waited_for_it_is_replaced(place: Path) -> None:
    with LocalEngine(1, place / "logs") as engine:
        engine.warm(1)
        os.kill(engine._workers[0].process.pid, signal.SIGKILL)
        until(lambda: not engine._workers[0].process.alive)
        assert one(engine, job(place / "next")).ending == "done"


@pytest.mark.usefixtures("forked")
def test_closing_ends_workers_whatever_they_do(place: Path) -> None:
    busy = endless(place / "busy")
    with LocalEngine(2, place / "logs") as engine:
        engine.submit(busy)
        pid = pid_of(engine, busy)
        # Ctrl-C reaches the workers, too; whether they go on is the driver's to say.
        until(lambda: saved(busy))
        os.kill(pid, signal.SIGINT)
        assert engine.wait(0.3) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert is_free(busy)
    assert engine.wait(5) == [], "nothing is under way"


@pytest.mark.usefixtures("forked")
def test_a_busy_worker_ends_with_whoever_started_it(place: Path) -> None:
    busy = endless(place / "busy")
    command = [sys.executable, "-m", "stillroom.study.engine.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(busy.as_dict()).encode() + b"\n")
        worker.stdin.flush()
        until(lambda: saved(busy))
        worker.stdin.close()
        assert worker.wait(600) == 0
    assert is_free(busy)


COPIES = """
import json, os, signal
from pathlib import Path
from stillroom.study.engine.base import Job
from stillroom.study.engine.local import LocalEngine

def line_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()

with LocalEngine(2, Path("logs"), fork=True) as engine:
    engine.warm(2)
    first, second = (engine._workers[slot].process for slot in (0, 1))
    assert line_of(first.pid) == line_of(second.pid) == line_of("self"), "neither is a new interpreter"
    while not os.readlink(f"/proc/{second.pid}/fd/1").endswith(".log"):
        pass  # it has its streams to claim first
    files = [os.readlink(entry) for entry in Path(f"/proc/{second.pid}/fd").iterdir() if entry.exists()]
    pipes = [file for file in files if file.startswith("pipe:")]
    assert len(set(pipes)) == 2, "a worker that holds another's pipe would keep it alive"
    os.kill(first.pid, signal.SIGKILL)
    while first.alive:
        pass
    assert first.describe_end().startswith("its process was killed by SIGKILL")
    for content in json.loads(Path("jobs.json").read_text()):
        engine.submit(Job(**content))
    ended = {outcome.id: outcome.ending for _ in range(2) for outcome in engine.wait(300)}
    assert set(ended.values()) == {"done"} and len(ended) == 2, ended
assert not Path(f"/proc/{second.pid}").exists()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are copies on Linux alone")
def test_workers_of_a_command_are_copies_of_it_and_do_the_same(place: Path) -> None:
    new, copy = job(place / "new", recipe(epochs=None, steps=3)), job(place / "copy", recipe(epochs=None, steps=3))
    (place / "jobs.json").write_text(json.dumps([new.as_dict(), copy.as_dict()]))
    process = Process(script=COPIES, environment={"PATH": ""})  # where nvidia-smi could be found
    assert process.wait() == 0, process.communicate()
    assert left_by(new) == left_by(copy)


@pytest.mark.parametrize(
    ("named", "slot", "expected"),
    [
        ("0,1,2", "1", "1"),
        ("GPU-a, GPU-b", "3", "GPU-b"),
        ("5", "1", "5"),
        ("", "1", ""),
        ("-1", "0", "-1"),
        ("0,1", None, "0,1"),
    ],
)
def test_each_worker_takes_a_gpu_of_those_that_are_visible(named: str, slot: str | None, expected: str) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": named} | ({"STILLROOM_SLOT": slot} if slot is not None else {})
    take_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == expected


def test_a_machine_without_gpus_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    environment = {"STILLROOM_SLOT": "1"}
    take_gpu(environment)
    assert environment == {"STILLROOM_SLOT": "1"}
    assert visible_gpus(None, None) == []


def test_deaths_in_words() -> None:
    assert describe_exit(-signal.SIGSEGV) == "its process was killed by SIGSEGV"
    assert describe_exit(-200) == "its process was killed by signal 200"
