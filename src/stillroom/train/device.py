"""Placement, precision, threads and processes of one run: the only file that imports accelerate."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.observer import Observer
from stillroom.runtime import PhaseClock, Precision, Processes, Runtime
from stillroom.train.config import TrainingConfig
from stillroom.wording import whole_number

try:
    import resource
except ImportError:  # Windows measures memory differently; a run there reports none.
    resource = None  # type: ignore[assignment]

# Sets of instructions that oneDNN may be kept to and that hold none for bfloat16.
_WITHOUT_BFLOAT16 = frozenset(("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"))
# Linux reports the peak memory of a process, and resets it when 5 is written.
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resolve_device(name: str) -> torch.device:
    """The device that a run requested: ``auto`` takes a GPU if there is one, each launched process its own.

    Raises:
        BadInput: a GPU is requested and there is none, or not one for each process.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("training.device", name, "cpu or auto: no CUDA GPU is visible here")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if launched() == 1:
        return torch.device("cuda")
    local, gpus = _whole("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= gpus:
        raise BadInput(
            "LOCAL_RANK", local, f"a GPU for each process: {gpus} are visible; training.device=cpu needs none"
        )
    return torch.device("cuda", local)


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 natively rather than emulating it.

    On a CPU where ``ONEDNN_MAX_CPU_ISA`` keeps oneDNN from the instructions for it, it does not.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    if limit.upper() in _WITHOUT_BFLOAT16:
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def native_precision(device: torch.device) -> Precision:
    """bfloat16 if the device supports it natively, else float32."""
    return "bfloat16" if has_native_bfloat16(device) else "float32"


def resolve_precision(config: TrainingConfig, device: torch.device, student: nn.Module) -> TrainingConfig:
    """The options with the precision of the training steps, and of frozen teachers in them, written out.

    ``auto`` is bfloat16 if the device supports it natively, else float32. A student with depthwise convolutions trains
    in float32 on a CPU: oneDNN has no fast gradient of theirs in bfloat16, and a step of a MobileNetV3 takes twice as
    long (``benchmarks/precision.py``). Its teacher only answers, and does so faster in bfloat16.
    """
    native = native_precision(device)
    slow = device.type == "cpu" and _has_depthwise_convolutions(student)
    own: Precision = ("float32" if slow else native) if config.precision == "auto" else config.precision
    of_teacher = config.teacher_precision
    if of_teacher == "auto":
        of_teacher = native if config.precision == "auto" else own
    return config.model_copy(update={"precision": own, "teacher_precision": of_teacher})


def written_out(name: Literal["auto", "float32", "bfloat16"]) -> Precision:
    """A precision that :func:`resolve_precision` wrote out."""
    return "bfloat16" if name == "bfloat16" else "float32"


def with_precision(runtime: Runtime, resolved: TrainingConfig) -> Runtime:
    """The runtime in the precisions that are written out."""
    own, of_teachers = written_out(resolved.precision), written_out(resolved.teacher_precision)
    return replace(runtime, precision=own, of_frozen_teachers=of_teachers)


def _has_depthwise_convolutions(model: nn.Module) -> bool:
    return any(
        1 < each.groups == each.in_channels
        for each in model.modules()
        if isinstance(each, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    )


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Autocast to a precision; no autocast for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Run a block in true float32: GPUs would otherwise use TF32 products."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def seed_step(seed: int, device: torch.device) -> None:
    """Seed the generators that a step uses; ``torch.manual_seed`` probes all devices, which takes .1 ms and more."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def reuse_memory() -> None:
    """Have the C library keep the memory of activations from one step to the next.

    glibc requests each block above a threshold from the system, and gives back what is free at the end of its heap:
    thousands of page faults a step. Both limits are raised; other C libraries stay as they are.
    """
    if sys.platform != "linux":
        return
    set_trim_threshold, set_mmap_threshold = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Older versions of glibc take at most 32 MiB for the second.
    if mallopt is not None and (mallopt(set_mmap_threshold, 256 << 20) or mallopt(set_mmap_threshold, 32 << 20)):
        mallopt(set_trim_threshold, 512 << 20)


def resolve_threads(count: int | Literal["auto"]) -> int:
    """``auto`` is all cores that this process may use, shared between launched processes.

    >>> resolve_threads(3)
    3
    """
    return max(torch.get_num_threads() // launched(), 1) if count == "auto" else count


@contextmanager
def threads(count: int | Literal["auto"]) -> Iterator[None]:
    """Run a block with this many CPU threads, then restore the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(resolve_threads(count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forget_peak_memory(device: torch.device) -> None:
    """Reset the peak memory: a process may run several runs in turn."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # Outside Linux, or if the system forbids it, a later run reports the peak of all runs so far.
    with suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Peak memory since the last reset, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, ValueError, StopIteration):
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    if resource is None:
        return 0
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def is_main_process() -> bool:
    """Whether this process writes files and prints."""
    return launched() == 1 or _whole("RANK", 0) == 0


def launched() -> int:
    """The number of launched processes; 1 without a launcher such as ``accelerate launch``."""
    return _whole("WORLD_SIZE", 1)


def _whole(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable) or str(otherwise)
    number = whole_number(text)
    if number is None:
        raise BadInput(variable, text, "a whole number, as a launcher sets it")
    return number


class Launched(Processes):
    """The processes of one ``accelerate launch``: gloo between CPUs, NCCL between GPUs.

    Args:
        device: where this process runs.
    """

    def __init__(self, device: torch.device) -> None:
        _end_with_launcher()
        # Imported only here: it sets global state that a run of one process does not need.
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        self._parallel = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        # The others wait while one builds the teacher's cache, which may take hours.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
        self._accelerator = Accelerator(
            cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[self._parallel, patience]
        )
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes

    def wrap(self, module: nn.Module, *, some_unused: bool) -> nn.Module:
        """The module in DistributedDataParallel."""
        self._parallel.find_unused_parameters = some_unused
        wrapped: nn.Module = self._accelerator.prepare_model(module)
        return wrapped

    def no_sync(self, module: nn.Module) -> AbstractContextManager[object]:
        """DistributedDataParallel's ``no_sync``."""
        context: AbstractContextManager[object] = self._accelerator.no_sync(module)
        return context

    def mean(self, tensor: Tensor) -> Tensor:
        """All-reduce, divided by the number of processes."""
        return self.total(tensor) / self.count

    def total(self, tensor: Tensor) -> Tensor:
        """All-reduce on a copy."""
        total: Tensor = self._accelerator.reduce(tensor.clone(), reduction="sum")
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """All-gather through which gradients flow: each part's gradient is summed over the processes."""
        # Not every build of torch has it, but those that launch processes do.
        from torch.distributed.nn.functional import all_gather

        return torch.cat(list(all_gather(tensor.contiguous())))

    def copy_buffers(self, module: nn.Module) -> None:
        """Broadcast each buffer from process 0."""
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)

    def copy_weights(self, module: nn.Module) -> None:
        """Broadcast each parameter and buffer from process 0."""
        for tensor in [*module.parameters(), *module.buffers()]:
            torch.distributed.broadcast(tensor.data, src=0)

    def wait(self) -> None:
        """A barrier."""
        self._accelerator.wait_for_everyone()


def _end_with_launcher() -> None:
    """Have the system end this process when its launcher is killed."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


@lru_cache(maxsize=1)
def _launched_processes(device: torch.device) -> Launched:
    return Launched(device)


def processes_of(device: torch.device) -> Processes:
    """The processes that share this run: those launched together, or this one alone.

    Raises:
        BadInput: the launcher's variables are incomplete.
    """
    count = launched()
    if count == 1:
        return Processes()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        expected = f"1, or a launcher that also sets {', '.join(missing)}, such as `accelerate launch`"
        raise BadInput("WORLD_SIZE", count, expected)
    return _launched_processes(device)


def runtime_of(config: TrainingConfig, observer: Observer) -> Runtime:
    """The runtime of a run with these training options; only the main process prints.

    Its precision depends on the student, and is known when the recipe is resolved: see :func:`with_precision`.

    Raises:
        BadInput: the device does not exist, or the launcher's variables are incomplete.
    """
    device = resolve_device(config.device)
    processes = processes_of(device)
    observer = observer if processes.is_main else Observer()
    return Runtime(device, "float32", processes, observer, PhaseClock(observer.began))
