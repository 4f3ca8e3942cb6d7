"""Runs a Python script as ``python SCRIPT.py ARGS…`` does, in this process, so that it can be watched."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import FrameType, ModuleType

from stillroom.diagnose.audit.watch import StopScript
from stillroom.errors import BadInput, format_error


def read_script(path: Path) -> bytes:
    """The source of a script; BadInput where it is not there, or it is no Python."""
    if path.suffix in (".yaml", ".yml"):
        raise BadInput("SCRIPT.py", str(path), f"a Python script; of a recipe `stillroom diagnose {path}`")
    if str(path).startswith("-"):
        raise BadInput("SCRIPT.py", str(path), "a Python script; audit has no such option (stillroom audit --help)")
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


def find_module(name: str) -> tuple[Path, ModuleSpec]:
    """The file that ``python -m NAME`` runs, and its spec: of a package, its ``__main__``.

    Raises:
        BadInput: there is no such module, or its package cannot be imported.
    """
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except Exception as error:  # a package's own __init__ runs here
        raise BadInput("-m", name, f"a module that can be imported; {format_error(error)}") from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise BadInput("-m", name, "a Python module that this folder or the installed packages hold")
    return Path(spec.origin), spec


def run_script(
    path: Path,
    arguments: Sequence[str],
    source: bytes,
    at_exit: Callable[[bool], None],
    *,
    spec: ModuleSpec | None = None,
    failed: Callable[[BaseException], None] = lambda error: None,
) -> int:
    """Run a script to its end.

    ``sys.argv``, ``sys.path[0]`` and ``__main__`` are what Python gives a script; they stay so, as threads and exit
    handlers of the script may still need them.

    Args:
        path: the script.
        arguments: its arguments.
        source: its source, of :func:`read_script`.
        at_exit: is called once, when the script has ended, calls ``os._exit`` or gets SIGTERM; with whether it came to
            its end.
        spec: of a module that is run as ``python -m`` does.
        failed: is given an exception that ends the script.

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
        _flush()
        leave(status)

    def end_by_signal(number: int, frame: FrameType | None) -> None:
        # What was seen is said, then the signal does what it does to a script.
        try:
            finish(False)
            _flush()
        finally:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    file = os.path.abspath(path)
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=__builtins__, __file__=file, __cached__=None)
    main.__loader__ = spec.loader if spec is not None else SourceFileLoader("__main__", file)
    main.__spec__ = spec
    main.__package__ = spec.parent if spec is not None else None
    sys.modules["__main__"] = main
    sys.argv = [file if spec is not None else str(path), *arguments]
    sys.path[0] = os.getcwd() if spec is not None else str(path.resolve().parent)
    os._exit = exit_now  # type: ignore[assignment]
    before = signal.signal(signal.SIGTERM, end_by_signal)
    status, ended = 0, True
    try:
        exec(compile(source, file, "exec", dont_inherit=True), main.__dict__)
    except StopScript:
        ended = False
    except SystemExit as stop:
        status = _status(stop.code)
    except KeyboardInterrupt:
        finish(False)
        raise
    except BaseException as error:
        ended, status = False, 1
        failed(error)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != file:
            trace = trace.tb_next
        _flush()
        # The script's own hook, where it has one.
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    finally:
        os._exit = leave
    if os.getpid() != process:
        # A child that the script forked and that ran to the end of the script: it is none of ours.
        _flush()
        leave(status)
    finish(ended)
    if signal.getsignal(signal.SIGTERM) is end_by_signal:
        signal.signal(signal.SIGTERM, before)
    return status


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a stream of the script's own, or a closed one
            stream.flush()


def _status(code: object) -> int:
    """The exit code of ``sys.exit(code)``, as Python gives it."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1
