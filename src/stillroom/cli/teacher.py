"""Commands about what teachers say: the questions for one elsewhere, the answers kept here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stillroom.cli.app import AsJson, Overrides, RecipeFile, app, print_json


@app.command()
def questions(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", help="A new folder for the questions.", metavar="FOLDER")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the images that a teacher elsewhere must answer, for `teacher: {name: …, answers: FOLDER}` in a recipe.

    Writes every training image in every view as `train-images.npy` [V, N, C, H, W], and `test-images.npy`. Put the
    teacher's logits beside them as `train-logits.npy` [V, N, K] and, to compare with it, `test-logits.npy` [M, K].

    Example: `stillroom export-inputs recipes/digits.yaml --out answers/digits`
    """
    from stillroom.cli.terminal import ProgressBar
    from stillroom.recipe import load_recipe
    from stillroom.run.questions import write_questions

    observer = ProgressBar()
    try:
        told = write_questions(load_recipe(recipe, overrides or []), out, observer)
    finally:
        observer.run_ended()
    if as_json:
        print_json(told)
        return
    shape = f"[{told['views']}, {told['train']}, {told['classes']}]"
    print(f"{out}: {told['bytes'] / 1e6:,.1f} MB of images")
    print(
        f"put beside them train-logits.npy {shape}, and test-logits.npy [{told['test']}, {told['classes']}] if you can"
    )


@app.command()
def cache(
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", help="Key of a cache to remove, or `all`; may be repeated.", metavar="KEY"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the teachers' answers that are kept in $STILLROOM_CACHE (left out: ~/.cache/stillroom), or remove some.

    Example: `stillroom cache --remove all`
    """
    from stillroom.cli.terminal import table
    from stillroom.teachers.cache_store import cache_root, list_caches, remove_cache

    if remove:
        keys = [kept["key"] for kept in list_caches()] if "all" in remove else remove
        removed = [remove_cache(key) for key in keys]
        if as_json:
            print_json({"removed": removed})
        else:
            print(f"removed {len(removed)}: {sum(kept['bytes'] for kept in removed) / 1e6:,.1f} MB")
        return
    caches = list_caches()
    if as_json:
        print_json({"root": str(cache_root()), "caches": caches})
        return
    rows = [
        [
            kept["key"][:12],
            kept["problem"] or str(kept["teacher"]),
            f"{kept['images'] or 0:,}",
            str(kept["views"]),
            f"{kept['bytes'] / 1e6:,.1f}",
        ]
        for kept in caches
    ]
    columns = ["key", "teacher", "images", "views", "MB"]
    Console(highlight=False).print(table(f"teachers' answers in {cache_root()}", columns, rows, right_from=2))
