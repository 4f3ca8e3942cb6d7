"""The commands that say what is wrong: with a recipe, a run or a study, with a loss function of the user's."""

from __future__ import annotations

import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import UNDERSTAND, AsJson, DiagnosisFolder, Strict, app, print_json, resumable
from stillroom.errors import BadInput
from stillroom.files import write_text
from stillroom.wording import whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.diagnose.diagnosis import Diagnosis
    from stillroom.recipe import Recipe
    from stillroom.schema.diagnosis import Finding, RemedyComparison, Verdict, Verification

NO = 1
_COLOURS = {"problem": "bold red", "warning": "yellow", "ok": "green", "skipped": "dim"}


@app.command(rich_help_panel=UNDERSTAND)
def diagnose(
    target: Annotated[
        Path,
        typer.Argument(help="A recipe (YAML), or the folder of a run or a study.", metavar="RECIPE.yaml|RUN|STUDY"),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to a recipe, such as `losses.kl.temperature=2`.", metavar="KEY.PATH=VALUE"),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=32, help="Training images that a recipe's teacher classifies.")
    ] = 1024,
    strict: Strict = False,
    out: DiagnosisFolder = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Train with each remedy and without, three seeds each, and report what each regains."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a recipe, a run or a study: evidence, a verdict, and a remedy to paste.

    A recipe is checked before it is run, and nothing is trained: its teacher classifies some images, also with other
    normalisations, channel orders and sizes. With `--verify` the remedies are trained for as long as the recipe is.

    Example: `stillroom diagnose recipe.yaml losses.kl.temperature=1`, or after a training: `stillroom diagnose runs/kl`
    """
    from stillroom.diagnose.diagnosis import Diagnosis
    from stillroom.run.records import output_folder
    from stillroom.schema.diagnosis import kind_of

    if target.suffix == ".py":
        expected = (
            f"a recipe, a run or a study; `stillroom audit {target}` watches a script, `stillroom check {target}:NAME`"
        )
        raise BadInput("diagnose", str(target), f"{expected} checks a loss")
    kind = kind_of(str(target))
    if overrides and kind != "recipe":
        raise BadInput("override", overrides[0], f"none for the folder of a {kind}; only a recipe can be changed")
    if verify and kind == "study":
        raise BadInput("--verify", str(target), "a recipe or a run; of a study, one of its runs/…/seed-N")
    if verify and kind == "run":
        from stillroom.run.records import load_run_recipe

        if load_run_recipe(target).data.source == "python":
            expected = (
                "a run that its recipe can repeat; this one was made in Python, where `run.diagnose(verify=True)` "
                "trains its remedies: `stillroom.load_run(folder, student=…, teacher=…, train=…, test=…)` gives the run"
            )
            raise BadInput("--verify", str(target), expected)
    recipe, findings = _findings(target, kind, overrides or [], images)
    name, verification = str(target), None
    # A recipe's verification always leaves its study; else there is a folder only where one is named.
    with output_folder(out, f"diagnosis-{target.stem}") if verify else nullcontext(out) as folder:
        if folder is not None and overrides and recipe is not None:
            # The recipe that the commands of the page begin from.
            write_text(folder / "recipe.yaml", recipe.to_yaml())
            name = str(folder / "recipe.yaml")
        if verify:
            from stillroom.cli.live import LiveStudy
            from stillroom.cli.terminal import stderr
            from stillroom.diagnose.verify import verify_remedies
            from stillroom.run.records import load_run_recipe

            assert folder is not None
            verified = recipe or load_run_recipe(target)
            with resumable(out, folder):
                verification = verify_remedies(verified, findings, folder, observer=LiveStudy(stderr))
        diagnosis = Diagnosis.of(name, findings, verification)
        page = write_diagnosis(diagnosis, folder) if folder is not None else None
    _show(diagnosis, page, as_json=as_json, strict=strict)


@app.command(rich_help_panel=UNDERSTAND)
def check(
    target: Annotated[
        str,
        typer.Argument(
            help="A loss of yours: a function, a class or a module.", metavar="FILE.py:FUNCTION|pkg.module:FUNCTION"
        ),
    ],
    classes: Annotated[int, typer.Option("--classes", min=2, help="Classes K of the logits it is meant for.")] = 10,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            help="What an argument is, where its name does not tell: student, teacher, labels, student_features, "
            "teacher_features or mask. Give it once for each argument.",
            metavar="ARGUMENT=ROLE",
        ),
    ] = None,
    sequences: Annotated[
        bool | None, typer.Option("--sequences/--rows", help="Whether its logits are [B, L, K]; default: as it looks.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", help="Shape of one sample's features, such as 64x8x8.", metavar="CxHxW"),
    ] = None,
    strict: Strict = False,
    out: DiagnosisFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say what a loss function of yours is and what is wrong with it; nothing is trained, no data is needed.

    The loss is called on random logits. Its terms are identified with their temperatures and weights, and the
    properties that a distillation loss must have are checked: gradients, scale, minimum, padding, half precision.

    Example: `stillroom check losses.py:kd_loss --classes 100`
    """
    pairs = [each.partition("=") for each in roles or []]
    for argument, equals, role in pairs:
        if not (argument and equals and role):
            raise BadInput("--role", f"{argument}{equals}{role}", "ARGUMENT=ROLE, such as outputs=student")
    shape = None
    if features is not None:
        parts = features.lower().split("x")
        shape = [number for number in map(whole_number, parts) if number]
        if len(shape) < len(parts):
            raise BadInput("--features", features, "whole numbers with x between them, such as 64x8x8")
    from stillroom.diagnose.loss import check_loss, load_loss

    found = load_loss(target)
    named = {argument: role for argument, _, role in pairs}
    diagnosis = check_loss(found, num_classes=classes, roles=named, features=shape, sequences=sequences, name=target)
    page = write_diagnosis(diagnosis, out) if out is not None else None
    _show(diagnosis, page, as_json=as_json, strict=strict)


def _show(diagnosis: Diagnosis, page: Path | None, *, as_json: bool, strict: bool) -> None:
    """Print the diagnosis; exit code 1 for a problem under ``--strict``."""
    print_diagnosis(diagnosis, page, as_json=as_json)
    if strict and diagnosis.problems:
        raise typer.Exit(NO)


def _findings(target: Path, kind: str, overrides: Sequence[str], images: int) -> tuple[Recipe | None, list[Finding]]:
    if kind == "study":
        from stillroom.diagnose.study import diagnose_study

        return None, diagnose_study(target)
    if kind == "run":
        from stillroom.diagnose.run import diagnose_run

        return None, diagnose_run(target)
    from stillroom.recipe import load_recipe

    recipe = load_recipe(target, overrides)
    # Only now: a recipe that cannot be read fails at once.
    from stillroom.cli.terminal import ProgressBar
    from stillroom.diagnose.recipe import diagnose_recipe

    return recipe, diagnose_recipe(recipe, images=images, observer=ProgressBar())


def write_diagnosis(diagnosis: Diagnosis, out: Path) -> Path:
    """Write both files of a diagnosis; gives the page."""
    try:
        return diagnosis.save(out)
    except OSError as error:
        raise BadInput("--out", str(out), f"a folder that can be written ({error.strerror})") from None


def print_diagnosis(diagnosis: Diagnosis, page: Path | None, *, as_json: bool) -> None:
    """The findings, a line each: problems first, with their remedies, then what is in order; or as one JSON object."""
    if as_json:
        print_json({**diagnosis.as_dict(), **({"report": str(page)} if page is not None else {})})
        return
    stdout = Console(highlight=False)
    width = max((len(finding.check) for finding in diagnosis.findings), default=0)
    for verdict, text in diagnosis.lines():
        first, *rest = _fit(verdict, text, stdout, width)
        first = escape(first) if verdict is None else f"[{_COLOURS[verdict]}]{verdict:8}[/]{escape(first[8:])}"
        for line in (first, *map(escape, rest)):
            stdout.print(line, soft_wrap=True)
    if diagnosis.verification is not None:
        _print_verification(stdout, diagnosis.verification)
    stdout.print(escape(diagnosis.headline), soft_wrap=not stdout.is_terminal)
    if page is not None:
        stdout.print(f"report: {escape(str(page))}", soft_wrap=True)


def _fit(verdict: Verdict | None, text: str, stdout: Console, width: int) -> list[str]:
    """A line as a terminal shows it: broken between words and indented; whole where it is piped, or to be pasted.

    Args:
        verdict: what the line begins with; None: it belongs to the finding before it.
        text: the rest, of :meth:`Diagnosis.lines`.
        stdout: where it goes.
        width: of the column of names that findings begin with.

    Returns:
        Lines; the first has nine blanks where the verdict goes.
    """
    if not stdout.is_terminal:
        return [f"{'':9}{text}"]
    is_wide = stdout.width >= 120
    # A narrow terminal has no room for a column of names, a very narrow one none for that of verdicts.
    column = 9 + width + 2 if is_wide else 13 if stdout.width >= 60 else 4
    begin = f"{'':9}"
    if verdict is None:
        text, begin = text[width + 2 :], f"{'':{column}}"
        if not text.startswith("→"):
            return [begin + text]
        column += 2
    elif verdict != "skipped" and not is_wide:
        text = f"{text[:width].rstrip()}  {text[width + 2 :]}"
    return textwrap.wrap(
        text, stdout.width, initial_indent=begin, subsequent_indent=f"{'':{column}}",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _print_verification(stdout: Console, verification: Verification) -> None:
    from stillroom.cli.terminal import table

    rows = []
    if verification.unchanged is not None:
        rows.append(["unchanged", _number(verification.unchanged.mean), "", "", ""])
    if verification.labels is not None:
        rows.append(_row("labels alone", verification.labels))
    rows += [_row(one.name, one) for one in verification.remedies]
    if rows:
        stdout.print(table("remedies, trained", ["remedy", "mean", "regained", "95% interval", "verdict"], rows))
    not_verified = (f"{each.check}: not verified, {each.why}" for each in verification.not_verified)
    for line in (*verification.conflicts, *not_verified):
        stdout.print(escape(line), soft_wrap=True)


def _row(name: str, one: RemedyComparison) -> list[str]:
    interval = f"{_number(one.low, '+.2f')} … {_number(one.high, '+.2f')}" if one.low is not None else "–"
    return [name, _number(one.score.mean), _number(one.regained, "+.2f"), interval, one.verdict]


def _number(value: float | None, form: str = ".2f") -> str:
    return f"{value:{form}}" if value is not None else "–"
