"""What to do when memory runs out: know the error, whatever raised it, and go on with less at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

# How the CPU's allocator and oneDNN tell it; a GPU's allocator has a type of its own.
_TOLD = ("can't allocate memory", "cannot allocate memory", "out of memory", "could not create a memory")

Given = TypeVar("Given")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or on a GPU.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(told in str(error).lower() for told in _TOLD)


def release() -> None:
    """Give what torch holds back to the device, so that a smaller attempt finds it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_parts(ask: Callable[[slice], list[Given]], count: int) -> list[Given]:
    """Ask about ``count`` items at once, and by halves where memory runs out.

    Args:
        ask: answers for a slice of them.
        count: how many there are.

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
        release()
        middle = (start + stop) // 2
        return attempt(start, middle) + attempt(middle, stop)

    return attempt(0, count)


class Snapshot:
    """Copies of some tensors, kept before something that may fail half-way.

    Args:
        tensors: what is kept; the copies are made once and written over after that.

    >>> running = torch.tensor([1.0])
    >>> snapshot = Snapshot([running])
    >>> snapshot.keep(); _ = running.add_(5); snapshot.put_back(); running
    tensor([1.])
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        self._pairs = [(group, [tensor.clone() for tensor in group]) for group in groups.values()]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy what they hold now; one operation a kind, as a step's hot path goes through it."""
        for tensors, copies in self._pairs:
            torch._foreach_copy_(copies, tensors)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give them what they held."""
        for tensors, copies in self._pairs:
            torch._foreach_copy_(tensors, copies)
