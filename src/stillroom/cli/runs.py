"""``stillroom distill``, ``train``, ``evaluate`` and ``export``: one run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import (
    BEGAN,
    TRAIN,
    AsJson,
    Out,
    Overrides,
    RecipeFile,
    Resume,
    RunArgument,
    Track,
    app,
    keep_modules,
    print_json,
    resumable,
)
from stillroom.errors import BadInput
from stillroom.tasks import TASK_INFO, TASKS

if TYPE_CHECKING:
    from stillroom.pipeline import Request
    from stillroom.recipe import Recipe


class ExportFormat(StrEnum):
    """File formats of an exported student."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    INT8 = "onnx-int8"
    PT2 = "pt2"


@app.command(rich_help_panel=TRAIN)
def distill(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe file (YAML); none with --data.", metavar="RECIPE.yaml")
    ] = None,
    overrides: Overrides = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Instead of a recipe: a folder of images (train/CLASS/…, or CLASS/…), a CSV file of images and "
            "labels, hf:NAME, or `digits`. Trains a teacher where it must, the student from labels and the student "
            "distilled, and writes one page.",
            metavar="DIR",
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="With --data: the large model, such as timm:resnet50.")
    ] = None,
    student: Annotated[
        str | None, typer.Option("--student", help="With --data: the small model, such as timm:mobilenetv3_small_100.")
    ] = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option("--teacher-weights", help="With --data: its weights; fine-tuned where its classes are others."),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="With --data: fetch the teacher's published weights (network).")
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, help="With --data: side of the images; default: the models' own."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, help="With --data: epochs of each run; default: up to 10, as many as fit."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0.1, help="With --data: time for all of it, as estimated first; default: 10."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="With --data: seed of each run; default: 0.")
    ] = None,
    out: Out = None,
    resume: Resume = False,
    track: Track = None,
    as_json: AsJson = False,
) -> None:
    """Distil a teacher into a student, as a recipe says; or, with `--data`, from a folder of images without a recipe.

    Leaves a run folder: the student's weights, all metrics, the resolved recipe. If the run is stopped, or killed, the
    same command goes on with it, and ends with the same bytes as a run that was never stopped.

    Example: `stillroom distill recipes/cifar10-resnet56-resnet8.yaml data.train_limit=10000 --out runs/first`

    Or: `stillroom distill --data photos --teacher timm:resnet50 --student timm:mobilenetv3_small_100 --image-size 128`
    """
    if data is not None:
        # Without a recipe the first argument is an override.
        changes = [*([str(recipe)] if recipe is not None else []), *(overrides or [])]
        if not teacher or not student:
            raise BadInput(
                "--student" if teacher else "--teacher", None, "a model's name with --data; `stillroom list models`"
            )
        if recipe is not None and "=" not in str(recipe):
            raise BadInput("--data", data, f"either it or a recipe, {str(recipe)!r}")
        if track:
            raise BadInput("--track", track[0], "a recipe; --data makes three runs, each with a recipe.yaml to track")
        from stillroom.pipeline import Request

        if epochs is not None and minutes is not None:
            raise BadInput("--minutes", minutes, "either it or --epochs")
        named = {"epochs": epochs, "minutes": minutes, "seed": seed}
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        request = Request(
            data, teacher, student, teacher_weights, pretrained, image_size, overrides=tuple(changes), **given
        )
        _distil_images(request, out, as_json)
        return
    for name, field, value in (
        ("--teacher", "teacher.name", teacher),
        ("--student", "student.name", student),
        ("--teacher-weights", "teacher.weights", teacher_weights),
        ("--pretrained", "teacher.weights", pretrained or None),
        ("--image-size", "data.image_size", image_size),
        ("--epochs", "training.epochs", epochs),
        ("--minutes", "training.epochs", minutes),
        ("--seed", "seed", seed),
    ):
        if value is not None:
            raise BadInput(name, value, f"--data with it; in a recipe it is {field}=…")
    if recipe is None:
        raise BadInput("RECIPE.yaml", None, "a recipe file, or --data, --teacher and --student")
    if recipe.is_dir():
        raise BadInput("RECIPE.yaml", str(recipe), f"a recipe file; a folder of images is given by --data {recipe}")
    resolved = _load_recipe(recipe, overrides)
    teachers = [config.name for config in resolved.all_teachers.values()]
    if not teachers:
        raise BadInput("teacher", None, "a teacher model; `stillroom train` trains from labels alone")
    _run(resolved, out, resume, as_json, f"{resolved.student.name}-from-{'-and-'.join(teachers)}", track)


def _distil_images(request: Request, out: Path | None, as_json: bool) -> None:
    from stillroom.cli.terminal import ProgressBar, stderr
    from stillroom.pipeline import run_request
    from stillroom.run.records import output_folder

    stem = f"{request.student}-from-{request.teacher}".replace(":", "-")
    with output_folder(out, stem) as folder, resumable(out, folder):
        results = run_request(request, folder, ProgressBar(), lambda text: stderr.print(escape(text), soft_wrap=True))
    if as_json:
        print_json(results)
        return
    stdout = Console(highlight=False)
    for line in [*results["conclusion"], f"page: {results['report']}", *results["next"]]:
        stdout.print(escape(line), soft_wrap=True)


@app.command(rich_help_panel=TRAIN)
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    track: Track = None,
    as_json: AsJson = False,
) -> None:
    """Train a model from labels alone: a future teacher, or the baseline of a distilled student.

    Trains the recipe's `student`. Its `teacher`, if any, is only compared with.

    Example: `stillroom train recipes/digits.yaml --out runs/digits`
    """
    resolved = _load_recipe(recipe, overrides)
    _run(resolved, out, resume, as_json, resolved.student.name, track, labels_alone=True)


def _load_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    from stillroom.recipe import load_recipe

    return load_recipe(path, overrides or [])


def _run(
    recipe: Recipe,
    out: Path | None,
    resume: bool,
    as_json: bool,
    stem: str,
    track: list[str] | None,
    *,
    labels_alone: bool = False,
) -> None:
    from stillroom.cli.terminal import ProgressBar, describe_phases, summary_table
    from stillroom.run.records import output_folder
    from stillroom.run.run import execute
    from stillroom.run.trackers import TrackedRun
    from stillroom.train.device import is_main_process

    if resume and out is None:
        raise BadInput("--resume", None, "the run's folder by --out")
    keep_modules()
    bar = ProgressBar()
    bar.began = BEGAN
    with output_folder(out, stem) as folder, resumable(out, folder):
        observer = TrackedRun(bar, track, folder, field="--track") if track else bar
        resume = resume or continues(folder)
        finished = execute(recipe, folder, resume=resume, observer=observer, labels_alone=labels_alone)
    if not is_main_process():
        return
    if as_json:
        print_json({"run": str(folder), **finished.summary})
        return
    stdout = Console(highlight=False)
    stdout.print(summary_table(finished.summary))
    if line := describe_phases(folder):
        stdout.print(line, soft_wrap=True)
    shown = escape(str(folder))
    stdout.print(f"run: {shown}   look at it: stillroom report {shown}", soft_wrap=True)


def continues(folder: Path) -> bool:
    """Whether a folder holds an unfinished run, which the same command then goes on with; says so in a line."""
    from stillroom.cli.terminal import stderr
    from stillroom.run.records import is_unfinished
    from stillroom.train.device import is_main_process

    # Only the first of several processes looks: the others come while it may be writing.
    if not is_main_process() or not is_unfinished(folder):
        return False
    stderr.print(f"going on with the unfinished run in {escape(str(folder))}", soft_wrap=True)
    return True


@app.command(rich_help_panel=TRAIN)
def evaluate(
    model: Annotated[str, typer.Option("--model", help="A model of `stillroom list models`, or module:function.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="A folder (parquet, idx, or one folder a class), a CSV file, or `digits`, `synthetic`, `shapes`.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="Weights: .safetensors, .pt, .pth, .th, or a folder of shards with their index."
        ),
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option("--weights-key", help="Entry of the weights file to load, such as state_dict_ema.")
    ] = None,
    weights_prefix: Annotated[
        str | None, typer.Option("--weights-prefix", help="Load only tensors whose names begin so, such as student.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split to evaluate on.")] = "test",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Model option, such as width=32; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option("--preprocess", help="imagenet, half, unit, none, or MEAN/STD such as .49,.48,.45/.25,.24,.26."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, help="Side in pixels that image files are brought to, where they differ."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="What labels are: single_label, multi_label or regression.")
    ] = None,
    label_columns: Annotated[
        str | None,
        typer.Option("--label-columns", help="Columns of the labels, with --task.", metavar="A,B"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on a split, in float32: top-1, top-5, negative log-likelihood, calibration error.

    Of multi-label data: mAP, F1 and binary cross-entropy; of a regression: R², MAE and MSE.

    Example: `stillroom evaluate --model resnet56 --weights W.th --data cifar10 --split test`
    """
    from stillroom.cli.terminal import ProgressBar, table
    from stillroom.data.quality import describe_data
    from stillroom.data.sources import load_split, parse_data_argument
    from stillroom.models.config import ModelConfig
    from stillroom.models.preprocess import parse_preprocess
    from stillroom.models.registry import brings_weights
    from stillroom.run.export import evaluate_model

    if device not in ("auto", "cpu", "cuda"):
        raise BadInput.unknown("--device", device, ("auto", "cpu", "cuda"))
    if task not in (None, *TASKS):
        raise BadInput.unknown("--task", task, TASKS)
    if not model:
        raise BadInput("--model", model, "a model's name")
    for name, about in (("--weights-key", weights_key), ("--weights-prefix", weights_prefix)):
        if about is not None and weights is None:
            raise BadInput(name, about, "--weights with it")
    config = ModelConfig(
        name=model,
        weights=weights,
        weights_key=weights_key,
        weights_prefix=weights_prefix,
        options=_options(option or []),
        preprocess=parse_preprocess(preprocess) if preprocess is not None else None,
    )
    if weights is None and not brings_weights(model):
        raise BadInput("--weights", None, "a weights file; there is nothing to measure in random weights")
    columns = [each.strip() for each in (label_columns or "").split(",") if each.strip()]
    images = load_split(parse_data_argument(data, image_size).with_task(task, columns), split)
    observer = ProgressBar()
    describe_data(images, observer.note, split)
    try:
        result = evaluate_model(config, images, device=device, observer=observer)
    finally:
        observer.run_ended()
    if as_json:
        print_json(result)
        return
    info = TASK_INFO[images.task]
    found = [measure for measure in info.measures if measure.name in result]
    notes = {"top1": f"{result.get('correct', 0):,} of {result['count']:,}", "ece": "15 bins, 0 is best"}
    rows = [[each.title, each.written(result[each.name]), notes.get(each.name, each.unit.strip("%"))] for each in found]
    each_output = {"multi_label": "class_ap", "regression": "target_r2"}.get(images.task, "")
    rows += [[f"  {name}", info.primary.written(value), ""] for name, value in result.get(each_output, {}).items()]
    Console(highlight=False).print(table(f"{model} on {images.name} {split}", ["", "value", ""], rows))


def _options(pairs: list[str]) -> dict[str, Any]:
    from stillroom.recipe import apply_override

    options: dict[str, Any] = {}
    for pair in pairs:
        apply_override(options, pair)
    return options


@app.command(rich_help_panel=TRAIN)
def export(
    run: RunArgument,
    form: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.SAFETENSORS,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: in RUN/export/.", metavar="FILE")
    ] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="With graphs: the model takes uint8 images and preprocesses them.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            help="Upload weights, recipe and a model card to the Hugging Face hub; with --format what it names, too.",
            metavar="OWNER/NAME",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: a new repository is public.")] = False,
    as_json: AsJson = False,
) -> None:
    """Export a run's student as safetensors, ONNX or a program of torch.export; graphs are checked against PyTorch.

    `onnx-int8` has weights of 8 bits; what that changes in size, time and accuracy is measured.

    Example: `stillroom export runs/first --format onnx --pixels`
    """
    if public and push is None:
        raise BadInput("--public", True, "--push OWNER/NAME with it")
    if push is not None:
        if out is not None:
            raise BadInput("--out", str(out), "none with --push: what is uploaded stays in RUN/export/hub")
        from stillroom.run.hub import push_run

        pushed = push_run(run, push, private=not public, form=form.value, pixels=pixels)
        if as_json:
            print_json(pushed)
        else:
            print(pushed["url"])
        return
    from stillroom.run.export import export_run

    exported = export_run(run, form.value, out, pixels=pixels)
    if as_json:
        print_json(exported)
        return
    print(exported["path"])
    if "not_measured" in exported:
        print(f"not measured: {exported['not_measured']}")
    if "int8" in exported:
        from stillroom.cli.terminal import table

        primary = next(each for info in TASK_INFO.values() for each in info.measures if each.name in exported["int8"])
        rows = [
            [
                name,
                f"{exported[name]['bytes'] / 1e6:.2f} MB",
                f"{exported[name]['milliseconds']:.2f} ms",
                primary.written(exported[name][primary.name]),
            ]
            for name in ("float32", "int8")
        ]
        title = f"{exported['int8']['count']:,} test images"
        Console(highlight=False).print(table(title, ["", "size", "one image, one thread", primary.title], rows))
        if exported["int8"]["milliseconds"] > exported["float32"]["milliseconds"]:
            print("int8 is slower here: onnxruntime has no fast kernel for some of its layers; --format onnx is faster")
    if "max_abs_error" in exported:
        relative = f"{exported['max_rel_error']:.1e} of the largest logit, allowed {exported['tolerance']:.0e}"
        graph = "onnxruntime" if form is ExportFormat.ONNX else "the program"
        print(f"{graph} against PyTorch: largest difference {exported['max_abs_error']:.1e} ({relative})")
