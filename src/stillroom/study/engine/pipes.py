"""A process that exchanges one JSON object a line with the process that started it.

Not ``concurrent.futures`` or ``multiprocessing``: one worker that dies breaks a whole ``ProcessPoolExecutor``, spawned
processes run the user's ``__main__`` again, and what arrives is unpickled. Here a worker's death is one message, and
closing its input ends it, however its parent died.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

Message = dict[str, Any]
_POLL = 0.01  # seconds


class WorkerProcess:
    """A process of ours, from the side that started it.

    Args:
        module: what it runs, as ``python -m`` does.
        log: its standard error is added to this file.
        on_message: called with the process and each object that it sends, and with None once it is gone, from another
            thread.
        fork: have it begin as a copy of this process, which has imported what it needs.
    """

    def __init__(
        self,
        module: str,
        log: Path,
        environment: Mapping[str, str],
        on_message: Callable[[WorkerProcess, Message | None], None],
        *,
        fork: bool = False,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | _ForkedProcess
        with log.open("ab") as errors:
            if fork:
                self._process = _ForkedProcess(module, errors, environment)
            else:
                # -P: a file of the working folder must not stand in for a module of the same name.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                )
        assert self._process.stdin is not None
        self._input = self._process.stdin
        self._on_message = on_message
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"stillroom-{module}")

    def listen(self) -> WorkerProcess:
        """Begin to report what it sends, from a thread: to be called when no other is to be forked from here."""
        self._reader.start()
        return self

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def send(self, content: Message) -> None:
        """Send an object; to a process that is gone it is lost, which ``on_message`` reports."""
        with suppress(OSError):
            self._input.write(json.dumps(content).encode() + b"\n")
            self._input.flush()

    def close_input(self) -> None:
        """Close the pipe to the process, which ends it."""
        with suppress(OSError):
            self._input.close()

    def terminate(self) -> None:
        """Ask the system to end the process."""
        self._process.terminate()

    def stop(self, patience: float) -> None:
        """Wait for the process to end, and kill it after so many seconds."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.close_input()
        if self._reader.ident is not None:
            self._reader.join(1.0)

    def describe_end(self) -> str:
        """How a process that is gone came to its end, in words."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            # It closed its pipe and goes on: of no use to anybody.
            self._process.kill()
            code = self._process.wait()
        return f"{describe_exit(code)}; state/logs holds what it printed"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                # Killed while it wrote, a process leaves half a line.
                if line.endswith(b"\n"):
                    self._on_message(self, json.loads(line))
        self._on_message(self, None)


class _ForkedProcess:
    """A copy of this process that runs a module's ``main``, with what is used here of ``subprocess.Popen``."""

    def __init__(self, module: str, errors: IO[bytes], environment: Mapping[str, str]) -> None:
        main: Callable[[], None] = importlib.import_module(module).main
        jobs, answers = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        # What is collected in the copy would close files whose numbers are others' by then.
        gc.collect()
        self.pid = os.fork()
        if self.pid == 0:
            _be_worker(main, (jobs[0], answers[1], errors.fileno()), environment)
        os.close(jobs[0])
        os.close(answers[1])
        self.stdin, self.stdout = os.fdopen(jobs[1], "wb"), os.fdopen(answers[0], "rb")
        self._code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, as Popen has it; None while it runs."""
        with self._lock:  # of two threads only one gets the status
            if self._code is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self._code = os.waitstatus_to_exitcode(status) if ended else None
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; TimeoutExpired where it runs still after so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_POLL)
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _be_worker(main: Callable[[], None], streams: tuple[int, int, int], environment: Mapping[str, str]) -> None:
    """In the copy: have a worker's streams and variables, and no file of the process that it was; then end."""
    import fcntl

    code = 1
    try:
        # Above 2 first: where this process began without standard streams, a pipe may have one of their numbers.
        for number, stream in enumerate([fcntl.fcntl(stream, fcntl.F_DUPFD, 3) for stream in streams]):
            os.dup2(stream, number)
        # Other workers' pipes among them, which would not end with their driver, and the study's lock.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(environment)
        if not sys.flags.safe_path:
            del sys.path[0]
        main()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def describe_exit(code: int) -> str:
    """How a process ended, from its exit code; minus a signal's number where one killed it.

    >>> describe_exit(-9)
    'its process was killed by SIGKILL, as when memory ran out'
    >>> describe_exit(3)
    'its process ended with exit code 3'
    """
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was killed by {name}{', as when memory ran out' if name == 'SIGKILL' else ''}"


class JsonWriter:
    """Sends objects to the process that started this one, over the private end of a pipe."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def send(self, content: Message) -> None:
        """Send an object; OSError where nobody is there any more."""
        self._stream.write(json.dumps(content, allow_nan=False).encode() + b"\n")
        self._stream.flush()


def claim_standard_streams() -> tuple[IO[bytes], JsonWriter]:
    """In a worker: keep standard input and output for messages alone.

    Libraries then print to the log, and processes that they start find an empty input.

    Returns:
        Lines that come in, and the writer for the answers.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return open(incoming, "rb"), JsonWriter(open(outgoing, "wb"))
