"""The application that the commands are put on, and the arguments that several of them share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stillroom import __version__

app = typer.Typer(
    name="stillroom",
    help="Distil a PyTorch model into a smaller one, and know why it worked or why it did not.\n\n"
    "Start with `stillroom demo`; then write a recipe (`stillroom schema` helps an editor) and `stillroom distill` it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe, such as `training.epochs=3 losses.kl.temperature=2`.",
        metavar="KEY.PATH=VALUE",
    ),
]
RecipeFile = Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE.yaml")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run; left out: a fresh one under runs/.", metavar="RUN")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where the run in --out was stopped; starts it where there is none.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"stillroom {__version__}")
        raise typer.Exit


def print_json(content: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(content, allow_nan=False, ensure_ascii=False))
