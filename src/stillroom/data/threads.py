"""Work for several threads whose results come in order, and that leaves no thread behind."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Number of processor cores that this process may use.

    >>> cores() >= 1
    True
    """
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """The function's result for each item, in the items' order, made by ``workers`` threads.

    Only a few items are taken ahead of what was asked for. Closed early, or after an error, it drops what has not begun
    and ends its threads.

    Args:
        function: what is done to an item.
        items: may be endless.
        workers: number of threads.

    Raises:
        Exception: whatever the function raised, at the first item for which it did.

    >>> list(in_order(abs, [-3, 2, -1], workers=2))
    [3, 2, 1]
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="stillroom-files")
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > 2 * workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def spans(size: int, most: int, workers: int) -> Iterator[range]:
    """0 … size−1 in pieces that keep every worker busy: handing over small work singly costs more than doing it.

    Args:
        size: how many there are.
        most: the largest piece.
        workers: number of threads that share them.

    >>> list(spans(5, most=64, workers=1))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    step = max(1, min(most, size // (2 * workers)))
    return (range(start, min(start + step, size)) for start in range(0, size, step))
