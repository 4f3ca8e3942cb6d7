"""The commands. Heavy imports wait inside them, so that --help, schema and a bad recipe answer at once."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stillroom import __version__
from stillroom.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from stillroom.recipe import Recipe

DONE, NO, BAD, INTERRUPTED = 0, 1, 2, 130

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
        help="Changes to the recipe, such as `training.epochs=3 objectives.kl.temperature=2`.",
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


class ExportFormat(StrEnum):
    """What a student is exported to."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"stillroom {__version__}")
        raise typer.Exit


@app.command()
def distill(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Distil a teacher into a student as a recipe says.

    Leaves a run folder: the student's weights, every metric, the resolved recipe. Stopped at any instant (even killed),
    the same command with `--resume` ends with the same bytes as if it had never been stopped.

    Example: `stillroom distill recipes/cifar10-resnet56-resnet8.yaml training.epochs=3 --out runs/first`
    """
    settled = _recipe(recipe, overrides)
    if settled.teacher is None:
        raise BadInput("teacher", None, "a model that teaches; `stillroom train` learns from labels alone")
    _run(settled, out, resume, as_json, f"{settled.student.name}-from-{settled.teacher.name}")


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a model from labels alone: a teacher to be, or the baseline a distilled student must beat.

    The recipe's `student` is what learns. Its `teacher`, if any, is only compared with.

    Example: `stillroom train recipes/digits.yaml --out runs/digits`
    """
    settled = _recipe(recipe, overrides)
    _run(settled, out, resume, as_json, settled.student.name, labels_alone=True)


def _recipe(path: Path, overrides: list[str] | None) -> Recipe:
    from stillroom.recipe import load_recipe

    return load_recipe(path, overrides or [])


def _run(
    recipe: Recipe, out: Path | None, resume: bool, as_json: bool, stem: str, *, labels_alone: bool = False
) -> None:
    from stillroom.console import ProgressBar, summary_table
    from stillroom.runs.execute import execute
    from stillroom.runs.records import fresh_folder

    if resume and out is None:
        raise BadInput("--resume", None, "the run's folder by --out")
    folder = out if out is not None else fresh_folder(Path("runs"), stem)
    finished = execute(recipe, folder, resume=resume, observer=ProgressBar(), labels_alone=labels_alone)
    if as_json:
        _print_json({"run": str(folder), **finished.summary})
        return
    stdout = Console(highlight=False)
    stdout.print(summary_table(finished.summary))
    shown = escape(str(folder))
    stdout.print(f"run: {shown}   look at it: stillroom report {shown}", soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option("--model", help="A model of `stillroom list models`, or module:function.")],
    data: Annotated[
        str, typer.Option("--data", help="A folder whose layout is recognised (parquet, idx), or `digits`.")
    ],
    weights: Annotated[
        str | None, typer.Option("--weights", help="File of weights: .safetensors, .pt, .pth, .th.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split to evaluate on.")] = "test",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="A model option, such as width=32; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option("--preprocess", help="imagenet, half, unit, none, or MEAN/STD such as .49,.48,.45/.25,.24,.26."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a model's weights on a split, in float32: top-1, top-5, negative log-likelihood, calibration.

    Example: `stillroom evaluate --model resnet56 --weights W.th --data cifar10 --split test`
    """
    from stillroom.console import ProgressBar, table
    from stillroom.data.sources import from_argument, load_split
    from stillroom.models.config import ModelConfig
    from stillroom.models.preprocess import parse_preprocess
    from stillroom.runs.materials import evaluate_model

    if device not in ("auto", "cpu", "cuda"):
        raise BadInput("--device", device, "auto, cpu or cuda")
    if not model:
        raise BadInput("--model", model, "a model's name")
    settled = ModelConfig(
        name=model,
        weights=weights,
        options=_options(option or []),
        preprocess=parse_preprocess(preprocess) if preprocess is not None else None,
    )
    if weights is None and ":" not in model:
        raise BadInput("--weights", None, "a file of weights: random ones have nothing to score")
    images = load_split(from_argument(data), split)
    observer = ProgressBar()
    try:
        result = evaluate_model(settled, images, device=device, observer=observer)
    finally:
        observer.run_ended()
    if as_json:
        _print_json(result)
        return
    rows = [
        ["top-1", f"{result['top1']:.2f}%", f"{result['correct']:,} of {result['count']:,}"],
        *([["top-5", f"{result['top5']:.2f}%", ""]] if "top5" in result else []),
        ["NLL", f"{result['nll']:.4f}", "nats"],
        ["calibration error", f"{result['ece']:.4f}", "15 bins, 0 is best"],
    ]
    Console(highlight=False).print(table(f"{model} on {images.name} {split}", ["", "value", ""], rows))


def _options(pairs: list[str]) -> dict[str, Any]:
    from stillroom.recipe import apply_override

    options: dict[str, Any] = {}
    for pair in pairs:
        apply_override(options, pair)
    return options


@app.command()
def export(
    run: RunArgument,
    form: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.SAFETENSORS,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; left out: RUN/export/….", metavar="FILE")
    ] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="ONNX that takes uint8 images and does the preprocess itself.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's student for use elsewhere; ONNX is read back in onnxruntime and compared number by number.

    Example: `stillroom export runs/first --format onnx --pixels`
    """
    from stillroom.runs.exporting import export_run

    told = export_run(run, form.value, out, pixels=pixels)
    if as_json:
        _print_json(told)
        return
    print(told["path"])
    if "max_abs_error" in told:
        relative = f"{told['max_rel_error']:.1e} of the largest logit, allowed {told['tolerance']:.0e}"
        print(f"read back in onnxruntime: largest difference to PyTorch {told['max_abs_error']:.1e} ({relative})")


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run, and others to show beside it (a baseline, other seeds).", metavar="RUN…"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write; left out: report.html in the first run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page: curves, teacher and student side by side, what changed, how to repeat it.

    Example: `stillroom report runs/distilled runs/labels`
    """
    from stillroom.report.page import write_report

    page = write_report(runs, out)
    if as_json:
        _print_json({"report": str(page)})
    else:
        print(page)


@app.command(name="list")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="models, objectives, data, optimizers or schedules; left out: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, objectives, data sources, optimizers and schedules that a recipe can name."""
    from stillroom.listing import listing

    lists = listing()
    if what is not None:
        if what not in lists:
            from stillroom.errors import nearest

            raise BadInput("list", what, f"something there is a list of ({nearest(what, lists)})")
        lists = {what: lists[what]}
    if as_json:
        _print_json(lists)
        return
    from stillroom.console import table

    stdout = Console(highlight=False)
    for kind, entries in lists.items():
        columns = list(entries[0])
        stdout.print(table(kind, columns, [[str(entry[c]) for c in columns] for entry in entries], right_from=9))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors.

    Save it, and begin a recipe with `# yaml-language-server: $schema=recipe.schema.json` to get completion and checks.
    """
    from stillroom.recipe import recipe_schema

    print(recipe_schema())


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the demo's runs; left out: a fresh one under runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Distil a real model on embedded data (handwritten digits), and write the report: no file, no download.

    Trains a teacher from labels, the student from labels alone, and the same student with the teacher's help.
    """
    from stillroom.console import ProgressBar, stderr
    from stillroom.demo import run_demo
    from stillroom.runs.records import fresh_folder

    folder = out if out is not None else fresh_folder(Path("runs"), "demo")
    told = run_demo(folder, ProgressBar(), lambda text: stderr.print(f"[bold]{escape(text)}[/bold]"))
    if as_json:
        _print_json(told)
        return
    stdout = Console(highlight=False)
    for line in told["conclusion"]:
        stdout.print(escape(line), soft_wrap=True)
    stdout.print(f"report: {escape(told['report'])}", soft_wrap=True)


def _print_json(content: Any) -> None:
    print(json.dumps(content, allow_nan=False, ensure_ascii=False))


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
        return _fail("interrupted; what was saved goes on with --resume", INTERRUPTED)
    except usage_error as error:
        return _fail(f"{getattr(error, 'format_message', error.__str__)()} (stillroom --help shows how)", BAD)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    return code
