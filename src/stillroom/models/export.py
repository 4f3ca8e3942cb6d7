"""A model as a graph of ONNX or of torch.export, compared with the model before it is written."""

from __future__ import annotations

import copy
import importlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.tokens import NO_TOKEN, is_tokens
from stillroom.errors import BadInput, RunFailed, format_error
from stillroom.files import write_bytes
from stillroom.models.modes import copy_model, suppress_output
from stillroom.models.preprocess import Preprocess

CHECKED_BATCHES = (1, 3, 16)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExportCheck:
    """How far an exported graph is from its model: max|Δ| over all logits, and that over max|logit|."""

    max_abs_error: float
    max_rel_error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the relative error is within the tolerance; NaN is not."""
        return self.max_rel_error <= self.tolerance


def export_onnx(
    model: nn.Module, path: str | Path, *, example: Tensor, opset: int | None = None, pixels: Preprocess | None = None
) -> ExportCheck:
    """Write a model as one ONNX file with a free batch size, after its logits were compared with the model's.

    The graph is run by onnxruntime on random inputs in batches of 1, 3 and 16.

    Args:
        example: an input [B, …]: what the model gets, or uint8 images where ``pixels`` is given.
        opset: version of the ONNX operators; None takes torch's default.
        pixels: the model's preprocess: the graph then takes uint8 images and gives logits in the data's class order.

    Raises:
        BadInput: the packages of the extra ``onnx`` are not installed.
        RunFailed: the model cannot be exported, or the graph gives other logits.
    """
    onnxruntime = _runtime()
    whole, inputs = _Whole(model, pixels).eval(), _inputs(example)
    try:
        with suppress_output(), torch.no_grad():
            program: Any = torch.onnx.export(
                whole,
                # A batch of 1 would be taken for a constant.
                (inputs[-1],),
                dynamo=True,
                opset_version=opset,
                input_names=["ids" if is_tokens(example) else "images"],
                output_names=["logits"],
                dynamic_shapes=(_free_sizes(example),),
                verbose=False,
            )
            content = program.model_proto.SerializeToString()
            session = onnxruntime.InferenceSession(content, _session_options(onnxruntime))
    except Exception as error:
        raise RunFailed(f"the model could not be exported to ONNX: {_why(error)}") from error
    name = session.get_inputs()[0].name
    check = _compare(
        whole, lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0]), inputs, "ONNX"
    )
    write_bytes(Path(path), content)
    return check


def export_program(
    model: nn.Module, path: str | Path, *, example: Tensor, pixels: Preprocess | None = None
) -> ExportCheck:
    """Write a model as a program of ``torch.export`` with a free batch size, compared as :func:`export_onnx` does.

    ``torch.export.load(path).module()(images)`` gives the logits, without the model's code.

    Args:
        example: an input [B, …]: what the model gets, or uint8 images where ``pixels`` is given.
        pixels: the model's preprocess: the program then takes uint8 images, gives logits in the data's class order.

    Raises:
        RunFailed: the model cannot be exported, or the program gives other logits.
    """
    whole, inputs = _Whole(model, pixels).eval(), _inputs(example)
    shapes = (_free_sizes(example),)
    stream = io.BytesIO()
    try:
        with suppress_output(), torch.no_grad():
            torch.export.save(torch.export.export(whole, (inputs[-1],), dynamic_shapes=shapes), stream)
            content = stream.getvalue()
            program = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:
        raise RunFailed(f"the model could not be exported by torch.export: {_why(error)}") from error
    check = _compare(whole, program, inputs, "torch.export")
    write_bytes(Path(path), content)
    return check


def quantize_onnx(path: Path, target: Path) -> None:
    """Write an ONNX file with weights of 8 bits; activations are quantised as they come (dynamic quantisation).

    Raises:
        RunFailed: onnxruntime cannot quantise it, or not run what it made.
    """
    onnxruntime = _runtime()
    try:
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        with suppress_output(), tempfile.TemporaryDirectory() as folder:
            made, graph = Path(folder) / "int8.onnx", importlib.import_module("onnx").load(path)
            # Weights are replaced: shapes that were inferred before do not hold for what takes their place.
            graph.graph.ClearField("value_info")
            quantization.quantize_dynamic(graph, made, weight_type=quantization.QuantType.QUInt8)
            content = made.read_bytes()
        onnxruntime.InferenceSession(content, _session_options(onnxruntime))
    except Exception as error:
        raise RunFailed(f"the ONNX file could not be quantised: {_why(error)}") from error
    write_bytes(target, content)


def onnx_function(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """The function of an ONNX file, from inputs to logits, by onnxruntime."""
    onnxruntime = _runtime()
    options = _session_options(onnxruntime)
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options)
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


GRAPHS: dict[str, Callable[..., ExportCheck]] = {"onnx": export_onnx, "pt2": export_program}


class _Whole(nn.Module):
    """A copy of a model on the CPU in float32, between the preprocess and the order of classes where there are some."""

    def __init__(self, model: nn.Module, pixels: Preprocess | None) -> None:
        super().__init__()
        self.model = copy_model(model).cpu().float()
        self.pixels = copy.deepcopy(pixels).cpu() if pixels is not None else None

    def forward(self, images: Tensor) -> Tensor:
        if self.pixels is None:
            logits: Tensor = self.model(images)
            return logits
        return self.pixels.reorder(self.model(self.pixels(images)))


def _inputs(example: Tensor) -> list[Tensor]:
    inputs = [_random(example, batch) for batch in CHECKED_BATCHES]
    # Texts shorter than the data's, too.
    return [
        ids[:, : max(ids.shape[1] // (4 - place), 2)] if is_tokens(ids) else ids for place, ids in enumerate(inputs, 1)
    ]


def _free_sizes(example: Tensor) -> dict[int, Any]:
    """The dimensions of an input that may differ: the batch, and of texts the number of tokens."""
    batch = {0: torch.export.Dim("batch", min=1)}
    return {**batch, 1: torch.export.Dim("length", min=2, max=example.shape[1])} if is_tokens(example) else batch


def _compare(whole: nn.Module, graph: Callable[[Tensor], Tensor], inputs: list[Tensor], what: str) -> ExportCheck:
    """How far a graph's logits are from the model's.

    Raises:
        RunFailed: too far.
    """
    check = _errors(whole, graph, inputs)
    if not check.ok:
        raise RunFailed(
            f"the {what} graph gives other logits than the model: they differ by {check.max_rel_error:.2g} of the "
            f"largest logit, more than {check.tolerance:g}; nothing was written"
        )
    return check


def _errors(whole: nn.Module, graph: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> ExportCheck:
    largest = worst = 0.0
    for images in inputs:
        with torch.no_grad():
            wanted, actual = whole(images).double(), graph(images).double()
        if actual.shape != wanted.shape:
            return ExportCheck(float("inf"), float("inf"), TOLERANCE)
        # Not max(): NaN must stay.
        worst = float(torch.maximum(torch.tensor(worst).double(), (actual - wanted).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
    return ExportCheck(worst, worst / largest if largest else worst, TOLERANCE)


def _random(example: Tensor, batch: int) -> Tensor:
    """A batch of random images like the example, of its shape, and pixels if it is of pixels; or of random texts."""
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, *example.shape[1:])
    if is_tokens(example):
        ids = torch.randint(0, int(example.max()) + 1, shape, generator=generator, dtype=torch.int32)
        count = torch.randint(1, shape[1] + 1, (batch, 1), generator=generator)
        return ids.masked_fill(torch.arange(shape[1]) >= count, NO_TOKEN)
    if example.dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator)


def _runtime() -> Any:
    try:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            package = importlib.import_module(name)
    except ImportError:
        raise BadInput("--format", "onnx", "the extra: pip install 'stillroom[onnx]'") from None
    return package


def _session_options(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def _why(error: BaseException) -> str:
    """Why a model cannot be exported, and what to write where its code fixes the number of images."""
    first = _cause(error)
    if "Constraints violated" in str(first):
        return "its code fixes the number of images of a batch; write x.shape[0] in place of len(x), or x.flatten(1)"
    return format_error(first)


def _cause(error: BaseException) -> BaseException:
    """The first of a chain of errors: the exporter's own is a page about how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
