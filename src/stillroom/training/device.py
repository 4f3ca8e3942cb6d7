"""Placement, precision and threads of one run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from stillroom.errors import BadInput

try:
    import resource
except ImportError:  # Windows counts memory otherwise; a run there reports none.
    resource = None  # type: ignore[assignment]

Precision = Literal["float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """The device a run asked for: ``auto`` takes a GPU where there is one.

    Raises:
        BadInput: a GPU is asked for and there is none, or the run was launched as several processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("training.device", name, "cpu or auto: no CUDA GPU is visible here")
    device = torch.device("cpu") if name == "cpu" or not torch.cuda.is_available() else torch.device("cuda")
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    if processes > 1:
        raise BadInput("processes", processes, "1: a run of several processes is not supported yet")
    return device


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """``auto`` as bfloat16 where the device has it natively, else float32."""
    if name == "auto":
        return "bfloat16" if has_native_bfloat16(device) else "float32"
    return "bfloat16" if name == "bfloat16" else "float32"


def as_dtype(precision: Precision) -> torch.dtype:
    """The torch dtype of a precision."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Autocast in a precision; float32 runs as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Run a block whose float32 is float32: GPUs would else shorten its products to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with this many CPU threads, then put the number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
