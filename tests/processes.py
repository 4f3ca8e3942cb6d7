"""Processes of their own, which may be killed: forked from one that has imported the libraries already.

A fresh interpreter imports torch and the rest for three seconds before a small run begins. All workers of pytest share
the process that is forked.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
# What a run imports when it begins is imported once, too.
_CONTEXT.set_forkserver_preload(
    [
        *("stillroom.cli.app", "stillroom.run.run", "stillroom.continual.run", "scipy.cluster.hierarchy"),
        *("stillroom.study.compare", "stillroom.study.engine.jobs", "stillroom.study.results", "pytest"),
        *("stillroom.report.run.page", "stillroom.report.study.page", "stillroom.diagnose.diagnosis"),
    ]
)
_SERVER: Any = forkserver._forkserver  # type: ignore[attr-defined]
_ADDRESS, _KEY = "STILLROOM_TEST_FORKSERVER", "STILLROOM_TEST_FORKSERVER_KEY"
# What starting a process is given, by name: its order is not documented. Python 3.11 to 3.14 have all of these.
_GIVEN = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_CAN_FORK = {"args", "cwd", "env", "start_new_session", *_PIPES} <= set(_GIVEN.parameters)
# What is forked in place of an interpreter of its own.
_MODULES = {"stillroom", "stillroom.study.engine.worker", "accelerate.commands.launch"}
PATIENCE = 900.0  # seconds


def share() -> None:
    """Start the process to fork from, for this process and those that it starts."""
    if _ADDRESS not in os.environ:
        forkserver.ensure_running()
        os.environ[_ADDRESS] = _SERVER._forkserver_address
        if hasattr(_SERVER, "_forkserver_authkey"):  # from Python 3.14 on it serves who has its key
            os.environ[_KEY] = _SERVER._forkserver_authkey.hex()


def end() -> None:
    """End it, where this process started it."""
    if _SERVER._forkserver_pid is not None:
        _SERVER._stop()


def join() -> None:
    """Use the one of the process that started or forked this one."""
    if _ADDRESS in os.environ:
        _SERVER._forkserver_pid = None
        _SERVER._forkserver_address = os.environ[_ADDRESS]
        if _KEY in os.environ:
            _SERVER._forkserver_authkey = bytes.fromhex(os.environ[_KEY])
        _SERVER._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)  # it lives as long as who started it
        _SERVER.ensure_running = resource_tracker.ensure_running


join()


def _started(work: Callable[..., None], *given: object) -> Any:
    """A process that does something; it does not first import the script that this one runs."""
    process, main = _CONTEXT.Process(target=work, args=given), sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    return process


@dataclass(frozen=True)
class Fate:
    """What befalls a process.

    Attributes:
        kill_after_seconds: ended by a signal so many seconds of its own processor time after it first put a file into
            place.
        kill_after_lines: killed right after it put a file into place, as soon as this file has so many lines.
        file_bytes: the size beyond which no file grows, as on a full disk.
        ignored: signals that it ignores from its start.
    """

    kill_after_seconds: float | None = None
    kill_after_lines: tuple[Path, int] | None = None
    file_bytes: int | None = None
    ignored: tuple[signal.Signals, ...] = ()


class Process:
    """A process that runs the command line, or a script, in the present working folder.

    Args:
        arguments: of the command line; of the script, as ``sys.argv``.
        script: Python source to run in place of the command line.
        environment: variables that are set beside those of the tests.
        fate: what befalls it.
    """

    def __init__(
        self,
        *arguments: str,
        script: str | None = None,
        environment: Mapping[str, str] | None = None,
        fate: Fate = Fate(),
    ) -> None:
        share()
        self._folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        begin = _Begin(arguments, script, os.getcwd(), {**os.environ, **(environment or {})}, self._folder, fate)
        self._process = _started(_work, begin)

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code.

        Raises:
            TimeoutError: it runs still.
        """
        self._process.join(patience)
        if self._process.exitcode is None:
            raise TimeoutError
        return self._process.exitcode

    def communicate(self) -> tuple[str, str]:
        """What it has printed, to the end, on standard output and standard error."""
        code = self.wait()
        assert (self._folder / "err").exists(), f"it ended with {code} before it began"
        return (self._folder / "out").read_text(), (self._folder / "err").read_text()


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def stillroom(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    fate: Fate = Fate(),
) -> Done:
    """Run a command to its end."""
    process = Process(*arguments, environment=environment, fate=fate)
    out, err = process.communicate()
    return Done(process.wait(), out, err)


class ForkedPython(subprocess.Popen[Any]):
    """What ``python -m MODULE`` or ``python SCRIPT`` would do, in a process that is forked."""

    def _execute_child(self, *given: Any) -> None:
        named = _GIVEN.bind(self, *given).arguments
        pipes = [named[each] for each in _PIPES]
        share()
        shared = {name: os.environ[name] for name in (_ADDRESS, _KEY) if name in os.environ}
        ends = [pipes[0], pipes[3], pipes[5]]
        streams = [Connection(os.dup(end if end >= 0 else own)) for own, end in enumerate(ends)]
        begin = _Python(
            arguments=[os.fspath(each) for each in named["args"][1:]],
            place=named["cwd"] or os.getcwd(),
            environment={**(named["env"] or os.environ), **shared},
            new_session=named["start_new_session"],
            file_bytes=resource.getrlimit(resource.RLIMIT_FSIZE),
        )
        self._forked = _started(_be_python, begin, streams)
        self.pid = self._forked.pid
        for each in streams:
            each.close()
        self._close_pipe_fds(*pipes)

    def _internal_poll(self, *_: object) -> int | None:
        with self._waitpid_lock:
            if self.returncode is None:
                self.returncode = self._forked.exitcode
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        deadline = time.monotonic() + (PATIENCE if timeout is None else timeout)
        while self._internal_poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or PATIENCE)
            time.sleep(0.005)
        return self.returncode


def fork_python(patch: pytest.MonkeyPatch) -> None:
    """Have what this process starts as ``python …`` forked, where it is ours: see :data:`_MODULES`; and scripts."""
    real = subprocess.Popen

    def popen(args: Any, *more: Any, **options: Any) -> Any:
        words = [each for each in args if each not in ("-P", "-u")] if isinstance(args, list | tuple) else [""]
        is_script = str(words[-1]).endswith(".py") and len(words) == 2
        forks = _CAN_FORK and words[0] == sys.executable and (is_script or (words[1] == "-m" and words[2] in _MODULES))
        return (ForkedPython if forks else real)(args, *more, **options)

    patch.setattr(subprocess, "Popen", popen)


def until(condition: Callable[[], object], process: Process | None = None) -> None:
    """Wait for a condition, and no longer than a process runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.returncode is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def in_child(work: Callable[[], object]) -> int:
    """Do something in a fork of this process, on one thread: its exit code, or minus the signal that killed it."""
    return exit_code(begun(work))


def begun(work: Callable[[], object]) -> int:
    import torch

    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # OpenMP's threads did not come along: it would wait for them
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class _Begin:
    arguments: Sequence[str]
    script: str | None
    place: str
    environment: Mapping[str, str]
    folder: Path
    fate: Fate = field(default_factory=Fate)


def _settle(begin: _Begin | _Python) -> None:
    """Be where the process was started, with its environment; what it starts itself is forked, too."""
    os.chdir(begin.place)
    os.environ.clear()
    os.environ.update(begin.environment)
    os.fsync = os.fstat  # type: ignore[assignment]  # as in the tests, nothing waits for the disk
    join()
    fork_python(pytest.MonkeyPatch())


def _work(begin: _Begin) -> None:
    _settle(begin)
    for number, name in ((1, "out"), (2, "err")):
        with (begin.folder / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.path.insert(0, begin.place)
    sys.argv = ["stillroom", *begin.arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _befall(begin.fate)
    if begin.script is not None:
        exec(begin.script, {"__name__": "__main__"})
        return
    from stillroom.cli import main

    main()


@dataclass(frozen=True)
class _Python:
    arguments: Sequence[str]
    place: str
    environment: Mapping[str, str]
    new_session: bool
    file_bytes: tuple[int, int]  # the limits on a file's size


def _be_python(begin: _Python, streams: Sequence[Connection]) -> None:
    """Do what an interpreter with these arguments would."""
    if begin.new_session:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    _settle(begin)
    _limit_files(begin.file_bytes)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = [*begin.arguments]
    sys.path[:0] = [path for path in begin.environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    isolated = False
    while arguments[0] in ("-P", "-u"):
        isolated |= arguments.pop(0) == "-P"
    if arguments[0] == "-m":
        if not isolated:
            sys.path.insert(0, begin.place)
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _limit_files(file_bytes: tuple[int, int]) -> None:
    """Let no file grow beyond so many bytes; Python would keep half of a module that it compiled."""
    resource.setrlimit(resource.RLIMIT_FSIZE, file_bytes)
    sys.dont_write_bytecode |= file_bytes[0] != resource.RLIM_INFINITY


def _befall(fate: Fate) -> None:
    for number in fate.ignored:
        signal.signal(number, signal.SIG_IGN)
    if fate.file_bytes is not None:
        _limit_files((fate.file_bytes, fate.file_bytes))
    real = os.replace

    def replace(*given: object) -> None:
        real(*given)  # type: ignore[arg-type]
        if fate.kill_after_seconds is not None:
            os.replace = real
            signal.setitimer(signal.ITIMER_VIRTUAL, fate.kill_after_seconds)
        if fate.kill_after_lines is not None:
            path, lines = fate.kill_after_lines
            if path.exists() and path.read_bytes().count(b"\n") >= lines:
                os.kill(os.getpid(), signal.SIGKILL)

    if fate.kill_after_seconds is not None or fate.kill_after_lines is not None:
        os.replace = replace  # type: ignore[assignment]
