"""Out of memory: recognise the error, whatever raised it, and continue with smaller parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

# Messages of the CPU's allocator and of oneDNN; a GPU's allocator has an error type of its own.
_MESSAGES = ("can't allocate memory", "cannot allocate memory", "out of memory", "could not create a memory")

Given = TypeVar("Given")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or on a GPU.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)


def release_memory() -> None:
    """Return cached GPU memory to the device, so that a smaller attempt finds it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_parts(ask: Callable[[slice], list[Given]], count: int) -> list[Given]:
    """Process ``count`` items at once, or by halves where memory runs out.

    Args:
        ask: processes a slice of them.
        count: number of items.

    Raises:
        Exception: what ``ask`` raised, if it is something else, or a single item is too much.

    >>> def ask(part: slice) -> list[int]:
    ...     if part.stop - part.start > 2:
    ...         raise MemoryError
    ...     return [part.stop - part.start]
    >>> in_parts(ask, 5)
    [2, 1, 2]
    """

    def attempt(start: int, stop: int) -> list[Given]:
        try:
            return ask(slice(start, stop))
        except Exception as error:
            if stop - start < 2 or not is_out_of_memory(error):
                raise
        # Outside the handler: the error held on to what the failed attempt had made.
        release_memory()
        middle = (start + stop) // 2
        return attempt(start, middle) + attempt(middle, stop)

    return attempt(0, count)


class Snapshot:
    """Copies of some tensors, to restore them after something that failed half-way.

    Args:
        tensors: what is copied; the copies are allocated once and reused.

    >>> running = torch.tensor([1.0])
    >>> snapshot = Snapshot([running])
    >>> snapshot.save(); _ = running.add_(5); snapshot.restore(); running
    tensor([1.])
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        self._pairs = [(group, [tensor.clone() for tensor in group]) for group in groups.values()]

    @torch.no_grad()
    def save(self) -> None:
        """Copy the tensors; one operation for each dtype and device, as every training step does this."""
        for tensors, copies in self._pairs:
            torch._foreach_copy_(copies, tensors)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back."""
        for tensors, copies in self._pairs:
            torch._foreach_copy_(tensors, copies)
