"""The application that commands are added to, and the arguments that several of them share."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from stillroom import __version__

app = typer.Typer(
    name="stillroom",
    help="Distil a PyTorch model into a smaller one, and find out why it worked or did not.\n\n"
    "Start with `stillroom demo`. A training script of yours: `stillroom audit train.py` says what is wrong with its "
    "distillation. A folder of images: `stillroom distill --data DIR --teacher MODEL --student MODEL`. For more, write "
    "a recipe (`stillroom schema` gives an editor completion), check it with `stillroom diagnose RECIPE.yaml` and run "
    "it with `stillroom distill RECIPE.yaml`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

# When the command began, by the clock of a run's phases.
BEGAN = time.perf_counter()

# Whether this process runs one command and nothing else, see :func:`stillroom.cli.main`: then PyTorch has done nothing
# in it before, and workers may be copies of it.
OWN_PROCESS = False


def keep_modules() -> None:
    """Let the garbage collector leave alone what is imported by now, where this process runs one command.

    Half a million objects of torch's are then not looked at as the process ends, which takes half a second.
    """
    if OWN_PROCESS:
        gc.freeze()


# The groups of commands in --help.
START, TRAIN, COMPARE, UNDERSTAND, TEACHER = (
    "Get started",
    "One model",
    "Many runs",
    "Find out why",
    "Teacher outputs",
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe, such as `training.epochs=3 losses.kl.temperature=2`.", metavar="KEY.PATH=VALUE"
    ),
]
RecipeFile = Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE.yaml")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run; default: a new one under runs/.", metavar="RUN")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in --out also where it is finished: print its result. An unfinished run of the same "
        "recipe goes on in any case.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 1 where there is a problem.")]
DiagnosisFolder = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for diagnosis.json and diagnosis.html; made where needed.", metavar="DIR"),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help="Also give the figures to an experiment tracker that is installed: tensorboard, wandb, mlflow or trackio; "
        "may be repeated.",
        metavar="NAME",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")
]


class Interrupted(Exception):  # noqa: N818 - it names what happened
    """Ctrl-C or SIGTERM stopped a command that can go on; ``added``: what it must be given besides its arguments."""

    def __init__(self, *added: str) -> None:
        self.added = added


@contextmanager
def resumable(out: Path | None = None, folder: Path | None = None) -> Iterator[None]:
    """Turn an interruption into :class:`Interrupted`: the same command goes on, with its folder where it named none."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(*(("--out", str(folder)) if out is None and folder is not None else ())) from None


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"stillroom {__version__}")
        raise typer.Exit


def print_json(content: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(content, allow_nan=False, ensure_ascii=False))
