"""A process that is spoken with in lines of JSON: one object a line, nothing is unpickled."""

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

Said = dict[str, Any]


class Child:
    """A process of ours, from the side that started it.

    Args:
        module: what it runs, as ``python -m`` does.
        log: its standard error is added to this file.
        environment: its environment variables.
        heard: called with the child and each object that it says, and with None once it is gone, from another thread.
    """

    def __init__(
        self, module: str, log: Path, environment: Mapping[str, str], heard: Callable[[Child, Said | None], None]
    ) -> None:
        self.log = log
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
        self._heard = heard
        self._reader = threading.Thread(target=self._listen, daemon=True, name=f"stillroom-{module}")
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def say(self, content: Said) -> None:
        """Send an object; to a process that is gone it is lost, which ``heard`` is told of."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()

    def hang_up(self) -> None:
        """Close the pipe to the process, by which it knows that nobody waits for it any more."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def terminate(self) -> None:
        """Ask the system to end the process."""
        self._process.terminate()

    def end(self, patience: float) -> None:
        """Wait for the process to end, and kill it after so many seconds."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.hang_up()
        self._reader.join(1.0)

    def how_it_ended(self) -> str:
        """How a process that is gone came to its end, in words."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            # It closed its pipe and goes on: of no use to anybody.
            self._process.kill()
            code = self._process.wait()
        return f"{in_words(code)}; state/logs holds what it printed"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                # Killed while it spoke, a process leaves half a line.
                if line.endswith(b"\n"):
                    self._heard(self, json.loads(line))
        self._heard(self, None)


def in_words(code: int) -> str:
    """How a process ended, from its exit code; minus a signal's number where one killed it.

    >>> in_words(-9)
    'its process was killed by SIGKILL, as when memory ran out'
    >>> in_words(3)
    'its process ended with exit code 3'
    """
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was killed by {name}{', as when memory ran out' if name == 'SIGKILL' else ''}"


class Mouth:
    """What a child says to the process that started it.

    Args:
        stream: the private end of the pipe.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def say(self, content: Said) -> None:
        """Send an object.

        Raises:
            OSError: nobody is there any more.
        """
        self._stream.write(json.dumps(content, allow_nan=False).encode() + b"\n")
        self._stream.flush()


def take_pipes() -> tuple[IO[bytes], Mouth]:
    """In a child: take standard input and output for what is said here alone.

    Libraries then print to the log, and processes that they start find an empty input.

    Returns:
        Lines that come in, and what speaks back.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return open(incoming, "rb"), Mouth(open(outgoing, "wb"))
