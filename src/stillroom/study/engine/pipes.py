"""A process that exchanges one JSON object a line with the process that started it.

Not ``concurrent.futures`` or ``multiprocessing``: one worker that dies breaks a whole ``ProcessPoolExecutor``, spawned
processes run the user's ``__main__`` again, and what arrives is unpickled. Here a worker's death is one message, and
closing its input ends it, however its parent died.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

Message = dict[str, Any]


class WorkerProcess:
    """A process of ours, from the side that started it.

    Args:
        module: what it runs, as ``python -m`` does.
        log: its standard error is added to this file.
        on_message: called with the process and each object that it sends, and with None once it is gone, from another
            thread.
    """

    def __init__(
        self,
        module: str,
        log: Path,
        environment: Mapping[str, str],
        on_message: Callable[[WorkerProcess, Message | None], None],
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
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
        self._reader.start()

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
