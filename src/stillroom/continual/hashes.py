"""Hashes that prove runs equal: of a budget, and of several tasks together. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence

from stillroom.files import canonical_json, digest


def chain_hashes(hashes: Sequence[str]) -> str:
    """One hash for those of several tasks in their order; of one alone, its own.

    >>> chain_hashes(["a"]), chain_hashes(["a", "b"]) == chain_hashes(["b", "a"])
    ('a', False)
    """
    return hashes[0] if len(hashes) == 1 else digest(*(one.encode() for one in hashes))


def budget_hash(
    *, steps: int, batch_size: int, accumulate: int, processes: int, data: str, tasks: int | None = None
) -> str:
    """The hash of a run's budget.

    Args:
        steps: optimizer steps, of all tasks.
        batch_size: images a step.
        accumulate: micro-batches of each batch at the end.
        processes: how many shared the work.
        data: the data's fingerprint: of the whole of it, whichever images a memory kept.
        tasks: how many; None of an ordinary run.
    """
    content = {
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "processes": processes,
        "data": data,
        "reported": "last",
    }
    return digest(canonical_json(content if tasks is None else {**content, "tasks": tasks}))
