"""What a model costs: parameters, multiply-adds, milliseconds."""

from __future__ import annotations

import inspect
import math
import time

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

    One multiplication with one addition counts 1 (what others write as 2 FLOPs); norms and activations count 0.
    The model is left as it was.

    >>> multiply_adds(nn.Linear(3, 2), torch.zeros(5, 3))
    6
    """
    counter = FlopCounterMode(display=False)
    # Attention in its plain form: no version or device counts the products of all its fused ones.
    with eval_mode(model), torch.no_grad(), plain_attention(), sdpa_kernel(SDPBackend.MATH), _Dispatch(counter):
        model(example[:1])
    return int(counter.get_total_flops()) // 2


class _Dispatch(_FlopCounterMode):  # type: ignore[no-untyped-call]
    """The mode behind torch's counter, less a wrapper that imports ``torch._dynamo``, which takes seconds."""

    __torch_dispatch__ = inspect.unwrap(_FlopCounterMode.__torch_dispatch__)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def latency(model: nn.Module, example: Tensor, batch: int, *, repeats: int = 20) -> float:
    """Time of one forward pass over a batch, in milliseconds, on as many threads as torch has now.

    After a warm-up, passes are timed in blocks of at least 5 ms; the block with the least time a pass counts, as what
    other processes add to a block says nothing about the model. On one thread of a CPU the thread's processor time is
    taken, which stands still while others run. It still differs a little from run to run.

    Args:
        model: left as it was.
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
    with eval_mode(model), torch.no_grad():
        once = seconds(1)  # the first pass may compile kernels
        once = min(once, seconds(1)) if once < _LONG else once
        passes = max(math.ceil(_BLOCK / max(once, 1e-6)), 1)
        blocks: list[float] = []
        while len(blocks) < repeats and (len(blocks) < _LEAST_BLOCKS or sum(blocks) < _LONG):
            blocks.append(seconds(passes))
    return 1000 * min(blocks) / passes


_BLOCK, _LONG = 0.005, 0.5  # seconds
_LEAST_BLOCKS = 3


def _wait(device: torch.device) -> None:
    # A GPU answers before it is done.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
