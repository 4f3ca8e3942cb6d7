"""``stillroom taps``: where a model's features can be read, and how a teacher's and a student's correspond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stillroom.cli.app import START, AsJson, app, print_json
from stillroom.errors import BadInput

if TYPE_CHECKING:
    from stillroom.models.taps import Tap


@app.command(rich_help_panel=START)
def taps(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A model, or a teacher and a student: of `stillroom list models`, timm:NAME, torchvision:NAME or "
            "module:function.",
            metavar="MODEL [MODEL]",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Data set, which sets the other options: a folder, `digits`, `synthetic` or `shapes`."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Side of the images in pixels; default 32.")
    ] = None,
    classes: Annotated[int | None, typer.Option("--classes", min=1, help="Number of classes; default 10.")] = None,
    channels: Annotated[int | None, typer.Option("--channels", min=1, help="Image channels; default 3.")] = None,
    as_json: AsJson = False,
) -> None:
    """List a model's taps: the places whose features a loss can read; for two models, which taps correspond.

    A tap has the name of the module whose output it is (`layer2`); `features` is the input of the logit layer,
    `layer2:pre` the input of the last activation in `layer2`. Depth: the share of multiply-adds done by then.

    Example: `stillroom taps resnet56 resnet8`
    """
    from stillroom.cli.terminal import table
    from stillroom.models.taps import pair_taps

    if len(models) > 2:
        raise BadInput("taps", models, "one model, or a teacher and a student")
    sizes = _sizes(data, size, classes, channels)
    found = [_find(name, **sizes) for name in models]
    pairs = pair_taps(found[0], found[1]) if len(found) == 2 else []
    if as_json:
        content: dict[str, Any] = {
            "models": [
                {"name": name, "taps": [_row(tap) for tap in each]} for name, each in zip(models, found, strict=True)
            ]
        }
        if len(found) == 2:
            content["pairs"] = [{"teacher": teacher.name, "student": student.name} for teacher, student in pairs]
        print_json(content)
        return
    stdout = Console(highlight=False)
    columns = ["tap", "kind", "shape", "stage", "depth"]
    for name, each in zip(models, found, strict=True):
        rows = [[tap.name, tap.kind, _shape(tap), str(tap.stage), f"{100 * tap.depth:.1f}%"] for tap in each]
        stdout.print(table(f"taps of {name}", columns, rows, right_from=2))
    if len(found) == 2:
        rows = [[t.name, _shape(t), s.name, _shape(s)] for t, s in pairs]
        stdout.print(table("pairs", [f"teacher {models[0]}", "shape", f"student {models[1]}", "shape"], rows, 9))


def _sizes(data: str | None, size: int | None, classes: int | None, channels: int | None) -> dict[str, int]:
    if data is None:
        return {"size": size or 32, "classes": classes or 10, "channels": channels or 3}
    from stillroom.cli.terminal import ProgressBar
    from stillroom.data.config import IMAGE_FILES
    from stillroom.data.quality import describe_data
    from stillroom.data.sources import load_split, parse_data_argument

    config = parse_data_argument(data)
    if config.source in IMAGE_FILES:
        config = config.model_copy(update={"image_size": size})
    images = load_split(config, "test")
    describe_data(images, ProgressBar().note, "test")
    side = size or images.image_size
    if side is None:
        raise BadInput("--image-size", None, f"a side in pixels, as the images of {data} have no one size")
    return {"size": side, "classes": classes or images.num_classes, "channels": channels or images.channels}


def _find(name: str, *, size: int, classes: int, channels: int) -> tuple[Tap, ...]:
    import torch

    from stillroom.errors import format_error
    from stillroom.models.config import ModelConfig
    from stillroom.models.registry import build
    from stillroom.models.taps import find_taps

    if not name:
        raise BadInput("taps", name, "a model's name")
    model = build(ModelConfig(name=name), num_classes=classes, in_channels=channels, image_size=size)
    example = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    try:
        return find_taps(model, example)
    except BadInput:
        raise
    except Exception as error:  # a model's own code can fail in any way on images of this shape
        shape = f"{channels}×{size}×{size}"
        raise BadInput(
            "model", name, f"a model that takes images of {shape}; it raised {format_error(error)}"
        ) from None


def _row(tap: Tap) -> dict[str, Any]:
    return {
        "name": tap.name,
        "kind": tap.kind,
        "shape": list(tap.shape),
        "stage": tap.stage,
        "depth": tap.depth,
        "channels_last": tap.channels_last,
        "resolution": list(tap.resolution) if tap.resolution else None,
    }


def _shape(tap: Tap) -> str:
    return "×".join(map(str, tap.shape)) + (" (H×W×C)" if tap.channels_last else "")
