"""Commands that kill themselves in the middle, whatever else the machine does meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_AFTER_SECONDS = """
import os, signal, sys
from stillroom.cli import run
real = os.replace
def replace(*given):
    real(*given)
    os.replace = real
    signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[1]))
os.replace = replace
sys.exit(run(sys.argv[2:]))
"""
_AFTER_LINES = """
import os, signal, sys
from pathlib import Path
from stillroom.cli import run
path, lines, real = Path(sys.argv[1]), int(sys.argv[2]), os.replace
def replace(*given):
    real(*given)
    if path.exists() and path.read_bytes().count(b"\\n") >= lines:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
sys.exit(run(sys.argv[3:]))
"""


def killed_after_seconds(seconds: float, *arguments: str) -> int:
    """The exit status of a command that is ended by a signal, at once, so many seconds of its own processor time after
    it first put a file into place.
    """
    return _ended(_AFTER_SECONDS, str(seconds), *arguments)


def killed_after_lines(path: Path, lines: int, *arguments: str) -> int:
    """The exit status of a command that kills itself right after it put a file into place, as soon as ``path`` is there
    and has so many lines.
    """
    return _ended(_AFTER_LINES, str(path), str(lines), *arguments)


def _ended(script: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=False).returncode
