"""The commands. Heavy imports wait inside them, so that --help, schema and a bad recipe answer at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import typer

# Each of these puts its commands on the application, in the order in which --help lists them: alphabetical.
from stillroom.cli import diagnose, dissect, explain, incremental, runs, show, studies, taps, teacher  # noqa: F401
from stillroom.cli.app import app
from stillroom.errors import BadInput, RunFailed

DONE, NO, BAD, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the answer is no, 2 bad input, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line on these arguments and return the exit code."""
    # The base of usage errors, of whichever click this typer brings.
    usage_error: type[Exception] = typer.BadParameter.__mro__[2]
    # Libraries warn about themselves; what a user must know is told by us, in a line.
    warnings.simplefilter("ignore")
    try:
        code = typer.main.get_command(app).main(args=list(arguments), prog_name="stillroom", standalone_mode=False)
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
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; the same command goes on, a single run's with --resume", INTERRUPTED)
    except usage_error as error:
        return _fail(f"{getattr(error, 'format_message', error.__str__)()} (stillroom --help shows how)", BAD)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    return code
