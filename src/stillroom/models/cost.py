"""What a model costs: parameters, multiply-adds, milliseconds."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the CPU for one that holds no tensor.

    >>> device_of(nn.Flatten())
    device(type='cpu')
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


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

    Args:
        model: what is counted.
        example: an input [B, …] as the model gets it; its first image is taken.

    >>> multiply_adds(nn.Linear(3, 2), torch.zeros(5, 3))
    6
    """
    counter = FlopCounterMode(display=False)
    fused = torch.backends.mha.get_fastpath_enabled()
    # Attention in its plain form: no version or device counts the products of all its fused ones.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(example[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()) // 2


def latency(model: nn.Module, example: Tensor, batch: int, *, repeats: int = 20) -> float:
    """Median time of one forward pass over a batch, in milliseconds; it is a clock, and differs from run to run.

    Args:
        model: what is timed, in evaluation mode and without gradients.
        example: an input [B, …] on the model's device; its first image fills the batch.
        batch: images in one pass.
        repeats: passes that are timed, after three that are not; fewer, but three, once they took half a second.

    >>> latency(nn.Linear(3, 2), torch.zeros(1, 3), 64, repeats=3) > 0
    True
    """
    images = example[:1].repeat(batch, *[1] * (example.dim() - 1))
    if images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    seconds = []
    # Not inference_mode: what a model keeps for later would be spoilt for its training.
    with evaluating(model), torch.no_grad():
        for repeat in range(3 + repeats):
            _wait(images.device)
            start = time.perf_counter()
            model(images)
            _wait(images.device)
            if repeat >= 3:
                seconds.append(time.perf_counter() - start)
            if len(seconds) >= 3 and sum(seconds) > 0.5:
                break
    return 1000 * statistics.median(seconds)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block, then each of its modules back into its own mode.

    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(net):
    ...     net[0].training
    False
    >>> net[0].training, net[1].training
    (True, False)
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _wait(device: torch.device) -> None:
    # A GPU answers before it is done.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
