"""``stillroom export-inputs`` and ``cache``: outputs of teachers, made elsewhere or kept here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from stillroom.cli.app import TEACHER, AsJson, Overrides, RecipeFile, app, print_json


@app.command(rich_help_panel=TEACHER)
def export_inputs(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", help="A new folder for the inputs.", metavar="FOLDER")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the input images for a teacher that runs elsewhere, such as behind an API.

    Writes every training image in every view as `train-images.npy` [V, N, C, H, W], and `test-images.npy`. Put the
    teacher's logits next to them as `train-logits.npy` [V, N, K] and, to compare with it, `test-logits.npy` [M, K].
    Then a recipe distils from them with `teacher: {name: …, logits: FOLDER}`.

    Example: `stillroom export-inputs recipes/digits.yaml --out logits/digits`
    """
    from stillroom.cli.terminal import ProgressBar
    from stillroom.recipe import load_recipe
    from stillroom.run.export import export_inputs

    observer = ProgressBar()
    try:
        written = export_inputs(load_recipe(recipe, overrides or []), out, observer)
    finally:
        observer.run_ended()
    if as_json:
        print_json(written)
        return
    views, train, test, classes = (written[key] for key in ("views", "train", "test", "classes"))
    print(f"{out}: {written['bytes'] / 1e6:,.1f} MB of images")
    print(f"next: put train-logits.npy [{views}, {train}, {classes}] there")
    print(f"and, to compare with the teacher, test-logits.npy [{test}, {classes}]")


@app.command(rich_help_panel=TEACHER)
def cache(
    remove: Annotated[
        list[str] | None,
        typer.Option(
            "--remove", help="Key of a cache to remove, the beginning of one, or `all`; may be repeated.", metavar="KEY"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List cached teacher outputs and decoded images, or remove some; in $STILLROOM_CACHE (default ~/.cache/stillroom).

    Example: `stillroom cache`, or to remove all of it: `stillroom cache --remove all`
    """
    from stillroom.cli.terminal import table
    from stillroom.data.decoded import list_decoded, remove_decoded
    from stillroom.files import cache_root
    from stillroom.teachers.cache_store import find_keys, list_caches, remove_cache

    if remove:
        everything: list[Any] = [*list_caches(), *list_decoded()]
        keys = [entry["key"] for entry in everything]
        if "all" not in remove:
            keys = find_keys(remove, keys, cache_root())
        removed: list[Any] = [remove_decoded(key) or remove_cache(key) for key in keys]
        if as_json:
            print_json({"removed": removed})
        else:
            print(f"removed {len(removed)}: {sum(entry['bytes'] for entry in removed) / 1e6:,.1f} MB")
        return
    caches, decoded = list_caches(), list_decoded()
    if as_json:
        print_json({"root": str(cache_root()), "caches": caches, "decoded": decoded})
        return

    def megabytes(entry: Any) -> str:
        return f"{entry['bytes'] / 1e6:,.1f}"

    rows = [
        [
            entry["key"][:12],
            entry["problem"] or str(entry["teacher"]),
            f"{entry['images'] or 0:,}",
            str(entry["views"]),
            megabytes(entry),
        ]
        for entry in caches
    ]
    rows += [
        [
            entry["key"][:12],
            f"decoded {entry['name'] or '(damaged)'}",
            f"{entry['images'] or 0:,}",
            "–",
            megabytes(entry),
        ]
        for entry in decoded
    ]
    columns = ["key", "outputs of", "images", "views", "MB"]
    Console(highlight=False).print(table(f"kept in {cache_root()}", columns, rows, right_from=2))
