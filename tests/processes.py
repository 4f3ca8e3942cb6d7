"""Commands in processes of their own, which may be killed: forked from one that has imported the libraries already.

A fresh interpreter imports torch and the rest for three seconds before a small run begins.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
# What a run imports when it begins is imported once, too.
_CONTEXT.set_forkserver_preload(
    ["stillroom.cli.app", "stillroom.run.run", "stillroom.continual.run", "scipy.cluster.hierarchy"]
)
PATIENCE = 900.0  # seconds


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
        self._folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        begin = _Begin(arguments, script, os.getcwd(), {**os.environ, **(environment or {})}, self._folder, fate)
        self._process = _CONTEXT.Process(target=_work, args=(begin,))
        self._process.start()

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
        self.wait()
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


def _work(begin: _Begin) -> None:
    os.chdir(begin.place)
    os.environ.clear()
    os.environ.update(begin.environment)
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


def _befall(fate: Fate) -> None:
    for number in fate.ignored:
        signal.signal(number, signal.SIG_IGN)
    if fate.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fate.file_bytes, fate.file_bytes))
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
