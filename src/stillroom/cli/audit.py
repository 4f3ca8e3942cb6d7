"""The command that watches a training script that is not ours."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.cli.app import UNDERSTAND, AsJson, DiagnosisFolder, Strict, app
from stillroom.errors import BadInput

if TYPE_CHECKING:
    from stillroom.diagnose.diagnosis import Diagnosis

PROBLEM = 1


@app.command(
    rich_help_panel=UNDERSTAND, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
def audit(
    script: Annotated[str, typer.Argument(help="A training script; with -m, a module.", metavar="SCRIPT.py")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What the script is given.", metavar="ARGS")] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Steps that are watched: the first and some later ones.")
    ] = 30,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT.py is a module's name, as after `python -m`.")] = False,
    stop: Annotated[
        bool,
        typer.Option("--stop", help="Stop the script when they have been watched; later stages are not seen then."),
    ] = False,
    strict: Strict = False,
    out: DiagnosisFolder = None,
    as_json: AsJson = False,
) -> None:
    """Run your own training script, unchanged, and say what is wrong with its distillation.

    It finds the student, the teacher and the losses by itself. The script runs as `python SCRIPT.py` runs it and keeps
    its exit code; after the watched steps it goes on unwatched. Options of `audit` stand before the script, those of
    the script after it.

    Example: `stillroom audit --out diagnosis train.py --epochs 3`
    """
    from stillroom.cli.diagnose import print_diagnosis, write_diagnosis
    from stillroom.diagnose.audit.session import audit_script

    stdout = sys.stdout
    found: list[Diagnosis] = []
    # Of processes that were launched together, the first one prints and writes.
    first = os.environ.get("RANK", "0") == "0"
    if out is not None:
        out = out.absolute()  # the script may change the folder
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput("--out", str(out), f"a folder that can be written ({error.strerror})") from None

    def known(diagnosis: Diagnosis, last: bool) -> None:
        found[:] = [diagnosis]
        page = None
        with nullcontext() if last else suppress(BadInput):
            page = write_diagnosis(diagnosis, out) if out is not None and first else None
        if not last or not first:
            return
        sys.stdout = stdout if not stdout.closed else sys.stderr
        print_diagnosis(diagnosis, page, as_json=as_json)
        sys.stdout.flush()

    _as_python_starts()
    if as_json:
        # What the script prints goes where messages go: standard output holds one JSON object.
        sys.stdout = sys.stderr
    try:
        status = audit_script(script, arguments or [], module=module, steps=steps, stop=stop, known=known)
    finally:
        sys.stdout = stdout
    if status == 0 and strict and found and found[0].problems:
        status = PROBLEM
    raise typer.Exit(status)


def _as_python_starts() -> None:
    """Signals and warnings as Python gives them to a script, not as our command line sets them."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.resetwarnings()
    for kind in (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning):
        warnings.simplefilter("ignore", kind)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
