"""Runs a Python script as ``python SCRIPT.py ARGS…`` does, in this process, so that it can be watched."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from stillroom.diagnose.audit.watch import StopScript
from stillroom.errors import BadInput


def read_script(path: Path) -> bytes:
    """The source of a script; BadInput where it is not there, or it is no Python."""
    if not path.is_file():
        raise BadInput("SCRIPT.py", str(path), "a Python script; there is no such file")
    try:
        source = path.read_bytes()
        compile(source, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise BadInput("SCRIPT.py", str(path), f"a file that can be read ({error.strerror})") from None
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise BadInput("SCRIPT.py", str(path), f"Python code ({getattr(error, 'msg', error)}{line})") from None
    return source


def run_script(path: Path, arguments: Sequence[str], source: bytes, at_exit: Callable[[bool], None]) -> int:
    """Run a script to its end.

    ``sys.argv``, ``sys.path[0]`` and ``__main__`` are what Python gives a script; they stay so, as threads and exit
    handlers of the script may still need them.

    Args:
        path: the script.
        arguments: its arguments.
        source: its source, of :func:`read_script`.
        at_exit: is called once, when the script has ended or calls ``os._exit``; with whether it came to its end.

    Returns:
        The script's own exit code.
    """
    process = os.getpid()
    done: list[bool] = []

    def finish(ended: bool) -> None:
        if os.getpid() == process and not done:
            done.append(True)
            at_exit(ended)

    leave = os._exit

    def exit_now(status: int) -> None:
        finish(True)
        sys.stdout.flush()
        leave(status)

    main = ModuleType("__main__")
    main.__file__ = str(path)
    main.__dict__.update(__builtins__=__builtins__, __loader__=SourceFileLoader("__main__", str(path)), __cached__=None)
    main.__spec__ = None
    sys.modules["__main__"] = main
    sys.argv = [str(path), *arguments]
    sys.path[0] = str(path.resolve().parent)
    os._exit = exit_now  # type: ignore[assignment]
    status, ended = 0, True
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), main.__dict__)
    except StopScript:
        ended = False
    except SystemExit as stop:
        status = _status(stop.code)
    except KeyboardInterrupt:
        finish(False)
        raise
    except BaseException as error:
        ended, status = False, 1
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(path):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
    finally:
        os._exit = leave
    if os.getpid() != process:
        # A child that the script forked and that ran to the end of the script: it is none of ours.
        sys.stdout.flush()
        leave(status)
    finish(ended)
    return status


def _status(code: object) -> int:
    """The exit code of ``sys.exit(code)``, as Python gives it."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1
