"""The command line; nothing else knows about the terminal.

Heavy imports wait inside the commands, so that ``--help``, ``schema`` and a bad recipe answer at once; the commands
themselves are imported on the first call, so that :mod:`stillroom.api` can show a progress bar without them.
"""

from __future__ import annotations

import functools
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

from stillroom.errors import BadInput, RunFailed, cut

DONE, NO, BAD, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line in a process of its own and exit: 0 done, 1 the answer is no, 2 bad input, 130 interrupted.

    Ctrl-C and SIGTERM interrupt. Under ``nohup``, or in the background of a shell without job control, a process starts
    with Ctrl-C (SIGINT) ignored, and that is left so: it is meant for the command in the foreground. SIGTERM
    (``kill PID``) always interrupts.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        from stillroom.cli import app as application

        application.OWN_PROCESS = True
        code = run(arguments)
    except KeyboardInterrupt:  # while the commands are imported
        code = _fail(f"interrupted; to go on: stillroom {shlex.join(arguments)}", INTERRUPTED)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line on these arguments and return the exit code."""
    import typer

    from stillroom.cli.app import Interrupted

    # The base of usage errors, of whichever click this typer brings.
    usage_error: type[Exception] = typer.BadParameter.__mro__[2]
    # Libraries warn about themselves; what a user must know is an error or a note of ours.
    warnings.simplefilter("ignore")
    try:
        group = _command()
        _check_option_values(group, arguments)
        code = group.main(args=list(arguments), prog_name="stillroom", standalone_mode=False)
        if code == INTERRUPTED:  # newer typers turn Ctrl-C into this code themselves
            raise KeyboardInterrupt
        return code if isinstance(code, int) else DONE
    except BadInput as error:
        return _fail(str(error), BAD)
    except RunFailed as error:
        return _fail(str(error), NO)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", BAD)
    except Interrupted as error:
        return _fail(f"interrupted; to go on: stillroom {shlex.join([*arguments, *error.added])}", INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except usage_error as error:
        message = getattr(error, "format_message", error.__str__)().replace("Value error, ", "")
        option = str(getattr(error, "option_name", ""))
        if "." in option or any(each.startswith(f"{option}=") for each in arguments if "." in option):
            message += f" A change of a recipe has no dashes: {option.lstrip('-')}=VALUE"
        context = getattr(error, "ctx", None)
        return _fail(f"{message} (see {context.command_path if context else 'stillroom'} --help)", BAD)


def add_commands() -> None:
    """Add the commands to the application, in the order in which --help lists them."""
    # isort: off
    from stillroom.cli import start, taps, runs, incremental, studies, diagnose, audit, report, explain, teachers  # noqa: F401


@functools.cache
def _command() -> Any:
    """The application as a command of click's, with all subcommands, made once a process."""
    import typer

    from stillroom.cli.app import app

    add_commands()
    return typer.main.get_command(app)


def _check_option_values(group: Any, arguments: Sequence[str]) -> None:
    """Refuse an option without its value: the next option would be taken for it, and that one's value for an argument.

    Raises:
        BadInput: naming both.
    """
    command = group.commands.get(arguments[0]) if arguments else None
    if command is None:
        return
    mixed = command.context_settings.get("allow_interspersed_args", True)
    takes = {name for each in command.params if not getattr(each, "is_flag", True) for name in each.opts}
    place = 1
    while place < len(arguments) and arguments[place] != "--":
        name, following = arguments[place], arguments[place + 1 : place + 2]
        if name in takes:
            if following and following[0].startswith("--") and len(following[0]) > 2:
                raise BadInput(name, None, f"a value, but {following[0]!r} follows; {name}=VALUE takes any")
            place += 1
        elif not (name.startswith("-") or mixed):
            return  # what follows is another program's
        place += 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    print(f"error: {cut(' '.join(message.split()))}", file=sys.stderr)
    return code
