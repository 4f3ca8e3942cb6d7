"""What a model costs: parameters, multiply-adds, milliseconds."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from stillroom.models.modes import eval_mode, plain_attention


def parameters(model: nn.Module) -> int:
    """The number of a model's parameters, a shared one counted once.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of one image's way through the model, in its convolutions and matrix products.

    Those of recurrent layers are among them. One multiplication with one addition counts 1 (what others write as 2
    FLOPs); norms, gates and activations count 0. The model is left as it was.

    >>> multiply_adds(nn.Linear(3, 2), torch.zeros(5, 3))
    6
    """
    with count_multiply_adds(model) as counted:
        model(example[:1])
    return counted()


@contextmanager
def count_multiply_adds(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Within it, what the model has done so far; in eval mode and without gradients."""
    counter = FlopCounterMode(display=False, custom_mapping=_RECURRENT)
    # Attention in its plain form: no version or device counts the products of all its fused ones.
    with eval_mode(model), torch.no_grad(), plain_attention(), sdpa_kernel(SDPBackend.MATH), _Dispatch(counter):
        yield lambda: int(counter.get_total_flops()) // 2


def _layer_flops(inputs: Any, *weights: Any, out_val: Any = None, **_: Any) -> int:
    """A layer of an LSTM in one direction, by oneDNN: each of its matrices meets each step of each sequence."""
    return int(2 * math.prod(inputs.shape[:-1]) * sum(each.numel() for each in weights[:2]))


def _network_flops(inputs: Any, weights: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    """All layers and directions, by cuDNN; inputs of [T, B, D], or of packed sequences [ΣT, D]."""
    return int(2 * math.prod(inputs.shape[:-1]) * sum(each.numel() for each in weights if each.dim() > 1))


# Whole recurrent layers that are one operation, which torch's counter takes for none.
for _function in (_layer_flops, _network_flops):
    _function._get_raw = True  # type: ignore[attr-defined]  # it gets the tensors, not their shapes
_RECURRENT = {torch.ops.aten.mkldnn_rnn_layer: _layer_flops, torch.ops.aten._cudnn_rnn: _network_flops}


class _Dispatch(_FlopCounterMode):  # type: ignore[no-untyped-call]
    """The mode behind torch's counter, less a wrapper that imports ``torch._dynamo``, which takes seconds."""

    # None where a placeholder stands for torch, see :mod:`stillroom.cli.without_torch`.
    __torch_dispatch__ = inspect.unwrap(getattr(_FlopCounterMode, "__torch_dispatch__", None))  # type: ignore[arg-type]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


_BLOCK, _LONG = 0.005, 0.5  # seconds
_LEAST_BLOCKS, _BLOCKS = 3, 20


def latency(model: Callable[[Tensor], Any], example: Tensor, batch: int, *, repeats: int = _BLOCKS) -> float:
    """Time of one forward pass over a batch, in milliseconds, on as many threads as torch has now.

    After a warm-up, passes are timed in blocks of at least 5 ms; the block with the least time a pass counts, as what
    other processes add to a block says nothing about the model. On one thread of a CPU the thread's processor time is
    taken, which stands still while others run. It still differs a little from run to run.

    Args:
        model: a module, which is left as it was, or another function of a batch.
        example: at least one input of the model, on its device.
        batch: how many copies of the first one make the batch.
        repeats: blocks, at the most; fewer once they took half a second.

    >>> latency(nn.Linear(3, 2), torch.zeros(1, 3), 64, repeats=3) > 0
    True
    """
    images = example[:1].repeat(batch, *[1] * (example.dim() - 1))
    if images.dim() == 4 and example.is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous(memory_format=torch.channels_last)

    alone = images.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter

    def seconds(passes: int) -> float:
        _wait(images.device)
        start = clock()
        for _ in range(passes):
            model(images)
        _wait(images.device)
        return clock() - start

    # Not inference_mode: what a model keeps for later would be spoilt for its training.
    with eval_mode(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        once = seconds(1)  # the first pass may compile kernels
        once = min(once, seconds(1)) if once < _LONG else once
        passes = max(math.ceil(_BLOCK / max(once, 1e-6)), 1)
        blocks: list[float] = []
        while len(blocks) < repeats and (len(blocks) < _LEAST_BLOCKS or sum(blocks) < _LONG):
            blocks.append(seconds(passes))
    return 1000 * min(blocks) / passes


def latency_seconds(seconds: float, batch: int) -> float:
    """How long :func:`latency` itself takes, where an image takes so many seconds.

    >>> latency_seconds(0.1, 64), round(latency_seconds(0.001, 1), 3)
    (25.6, 0.102)
    """
    once = batch * seconds
    block = max(once, _BLOCK)
    blocks = min(max(math.ceil(_LONG / block), _LEAST_BLOCKS), _BLOCKS)
    return once * (1 if once >= _LONG else 2) + blocks * block


def _wait(device: torch.device) -> None:
    # A GPU answers before it is done.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
