"""The command that says what is wrong: with a recipe before it is run, with a run, with a study."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import AsJson, app, print_json
from stillroom.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillroom.diagnose.finding import Finding
    from stillroom.recipe import Recipe

NO = 1
_COLOURS = {"problem": "bold red", "warning": "yellow", "ok": "green", "skipped": "dim"}


@app.command()
def diagnose(
    what: Annotated[
        Path,
        typer.Argument(help="A recipe (YAML), or the folder of a run or a study.", metavar="RECIPE.yaml|RUN|STUDY"),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to a recipe, such as `losses.kl.temperature=2`.", metavar="KEY.PATH=VALUE"),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=32, help="Training images that a recipe's teacher is asked about.")
    ] = 1024,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 where something is sick.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for diagnosis.json and diagnosis.html; made where needed.", metavar="DIR"),
    ] = None,
    try_them: Annotated[
        bool,
        typer.Option(
            "--verify", help="Train with each remedy and without, three seeds each, and tell what each brings back."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a recipe, a run or a study: evidence, a verdict, and a remedy to paste.

    A recipe is diagnosed before it is run, and nothing is trained: its teacher is asked about some images, in the ways
    that it may have been meant to be asked, too. With `--verify` the remedies are trained for as long as the recipe is.

    Example: `stillroom diagnose recipes/cifar10-resnet56-resnet8.yaml losses.kl.temperature=1`
    """
    from stillroom.diagnose.writing import diagnosis_of, kind_of, write_diagnosis

    kind = kind_of(str(what))
    if overrides and kind != "recipe":
        raise BadInput("override", overrides[0], f"none beside the folder of a {kind}; only a recipe can be changed")
    if try_them and kind == "study":
        raise BadInput("--verify", str(what), "a recipe or a run; of a study, one of its runs/…/seed-N")
    recipe, findings = _found(what, kind, overrides or [], images)
    named, tried = str(what), None
    if out is None and try_them:
        out = _fresh(what)
    if out is not None and overrides and recipe is not None:
        # What the commands of the page shall begin from.
        named = str(_kept(recipe, out))
    if try_them:
        assert out is not None
        tried = _tried(recipe or _recipe_of(what), findings, out)
    page = write_diagnosis(out, named, findings, tried) if out is not None else None
    if as_json:
        content = diagnosis_of(named, findings, tried)
        print_json({**content, "report": str(page)} if page is not None else content)
    else:
        _tell(content=diagnosis_of(named, findings, tried), findings=findings, page=page)
    if strict and any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(NO)


def _found(what: Path, kind: str, overrides: Sequence[str], images: int) -> tuple[Recipe | None, list[Finding]]:
    if kind == "study":
        from stillroom.diagnose.study import diagnose_study

        return None, diagnose_study(what)
    if kind == "run":
        from stillroom.diagnose.run import diagnose_run

        return None, diagnose_run(what)
    from stillroom.recipe import load_recipe

    recipe = load_recipe(what, overrides)
    # Only now: a recipe that cannot be read is told at once.
    from stillroom.cli.terminal import ProgressBar
    from stillroom.diagnose.recipe import diagnose_recipe

    return recipe, diagnose_recipe(recipe, images=images, observer=ProgressBar())


def _recipe_of(run: Path) -> Recipe:
    from stillroom.run.records import load_run_recipe

    return load_run_recipe(run)


def _fresh(what: Path) -> Path:
    from stillroom.run.records import fresh_folder

    return fresh_folder(Path("runs"), f"diagnosis-{what.stem}")


def _kept(recipe: Recipe, out: Path) -> Path:
    from stillroom.files import write_text

    path = out / "recipe.yaml"
    write_text(path, recipe.to_yaml())
    return path


def _tried(recipe: Recipe, findings: Sequence[Finding], out: Path) -> dict[str, Any]:
    from stillroom.cli.live import LiveStudy
    from stillroom.cli.terminal import stderr
    from stillroom.diagnose.trying import try_remedies

    return try_remedies(recipe, findings, out, observer=LiveStudy(stderr))


def _tell(content: Mapping[str, Any], findings: Sequence[Finding], page: Path | None) -> None:
    """The findings from sick to skipped: a line each with its remedy, healthy ones in one line together."""
    from stillroom.diagnose.finding import VERDICTS

    stdout = Console(highlight=False)
    width = max((len(finding.check) for finding in findings), default=0)
    for verdict in VERDICTS[:2]:
        for finding in (each for each in findings if each.verdict == verdict):
            stdout.print(
                f"[{_COLOURS[verdict]}]{verdict:8}[/] {escape(finding.check):{width}}  {escape(finding.summary)}",
                soft_wrap=True,
            )
            if finding.remedy is not None:
                words = f"{'':8} {'':{width}}  → {finding.remedy.words}"
                stdout.print(escape(words), soft_wrap=True)
                for argument in finding.remedy.arguments():
                    stdout.print(escape(f"{'':8} {'':{width}}    {shlex.quote(argument)}"), soft_wrap=True)
    healthy = ", ".join(finding.check for finding in findings if finding.verdict == "ok")
    if healthy:
        stdout.print(f"[{_COLOURS['ok']}]{'ok':8}[/] {escape(healthy)}", soft_wrap=True)
    skipped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict == "skipped":
            skipped.setdefault(finding.summary, []).append(finding.check)
    for why, checks in skipped.items():
        stdout.print(
            f"[{_COLOURS['skipped']}]{'skipped':8}[/] {escape(', '.join(checks))}: {escape(why)}", soft_wrap=True
        )
    if content["tried"] is not None:
        _tell_tried(stdout, content["tried"])
    stdout.print(escape(content["headline"]), soft_wrap=True)
    if page is not None:
        stdout.print(f"report: {escape(str(page))}", soft_wrap=True)


def _tell_tried(stdout: Console, tried: Mapping[str, Any]) -> None:
    from stillroom.cli.terminal import table

    def number(value: float | None, form: str = "{:.2f}") -> str:
        return form.format(value) if value is not None else "–"

    rows = []
    if tried.get("as_it_is"):
        rows.append(["as it is", number(tried["as_it_is"]["mean"]), "", "", ""])
    if tried.get("labels"):
        rows.append(_row("labels alone", tried["labels"], number))
    rows += [_row(fix["name"], fix, number) for fix in tried["fixes"]]
    if rows:
        columns = ["remedy", "mean", "regained", "95% interval", "verdict"]
        stdout.print(table("remedies, tried", columns, rows))
    for line in (*tried["conflicts"], *(f"{each['check']}: not tried, {each['why']}" for each in tried["not_tried"])):
        stdout.print(escape(line), soft_wrap=True)


def _row(name: str, told: Mapping[str, Any], number: Any) -> list[str]:
    interval = (
        f"{number(told['low'], '{:+.2f}')} … {number(told['high'], '{:+.2f}')}" if told["low"] is not None else "–"
    )
    return [name, number(told["level"]["mean"]), number(told["regained"], "{:+.2f}"), interval, str(told["verdict"])]
