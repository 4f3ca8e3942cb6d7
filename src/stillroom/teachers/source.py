"""The teacher of a run: its test logits, its outputs for training batches, its identity.

Two classes implement it: a model (``live.py``), run live or cached, and logits computed elsewhere
(``precomputed.py``). A loss cannot tell which it reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.loader import Batch, BatchLoader
from stillroom.errors import BadInput
from stillroom.models.prepared import PreparedModel
from stillroom.runtime import Precision, Runtime
from stillroom.teachers.cache import Query, StoredOutputs, TeacherCache
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.config import CacheConfig
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput

# The function from a training batch to the teacher's output.
Teacher = Callable[[Batch], ModelOutput]
# Appends a line to the run's timing.jsonl.
Log = Callable[[dict[str, Any]], None]

# Allowed difference between a teacher's outputs and those stored, relative to its largest logit: rounding alone.
STALE_TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.05}


# What a teacher must be for its outputs to be stored.
REPEATS = (
    "a model that gives the same outputs for the same images each time: this one is random, such as by dropout that is "
    "on in eval mode, and a cache would hold one draw"
)
_REPEATED = 16


def change_between_queries(query: Query, view: int, count: int) -> float:
    """Largest difference between two queries of the same images, relative to each image's largest logit.

    >>> def rounding(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
    ...     return ModelOutput(torch.ones(len(rows), 3))
    >>> change_between_queries(rounding, 0, 100)
    0.0
    """
    rows = np.unique(np.linspace(0, count - 1, _REPEATED).astype(np.int64))
    # Random numbers that a model draws must not move those drawn later.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        first, second = (query(view, rows).logits.detach().double().cpu() for _ in range(2))
    change = (first - second).abs().amax(1) / first.abs().amax(1).clamp_min(1e-30)
    return float(change.nan_to_num(0.0).max())


@dataclass(frozen=True)
class TeacherRequest:
    """What the losses of a run require of one teacher, besides its logits."""

    taps: tuple[str, ...] = ()  # modules whose outputs are read
    tails: tuple[str, ...] = ()  # taps from which the rest of the teacher is run
    heads: tuple[str, ...] = ()  # those of ``tails`` that must be one linear layer
    fishers: tuple[FisherOf, ...] = ()  # diagonals of its Fisher matrix in features at ``taps``
    fisher_means: tuple[FisherOf, ...] = ()  # those of ``fishers`` whose mean over the training set is read


@dataclass
class QueryCounter:
    """Counts a teacher's queries."""

    # Images whose outputs the run uses, each view counted: in training, for the cache, of the test split.
    answers: int = 0
    checks: int = 0  # images queried again to check that stored outputs are still valid

    def pop(self) -> QueryCounter:
        """The counts since the last call."""
        counted = QueryCounter(self.answers, self.checks)
        self.answers = self.checks = 0
        return counted


class TeacherSource(ABC):
    """A teacher, as a run uses it.

    Attributes:
        name: its name in reports.
        fingerprint: SHA-256 of its weights or logits; a run cannot be resumed with another teacher.
        files: SHA-256 of each of the user's files that its logits come from, by its name; in the run's summary.
        prepared: the model, if it can be run here.
        changes: whether it changes as the student learns, so that its test logits are computed at each evaluation.
        counter: its queries so far.
    """

    name: str
    fingerprint: str
    files: Mapping[str, str]
    prepared: PreparedModel | None = None
    changes: bool = False

    def __init__(self, name: str, fingerprint: str, files: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.files = files or {}
        self.counter = QueryCounter()
        self._shared: Teacher | None = None
        self._test_logits: list[Tensor | None] = []

    def test_logits(self) -> Tensor | None:
        """Its logits for the test split, float32 [M, K], computed once; None if it has none.

        Raises:
            BadInput: they are not finite.
        """
        if not self._test_logits:
            self._test_logits.append(self.compute_test_logits())
        return self._test_logits[0]

    def shared_teacher(self, loader: BatchLoader, epochs: int, log: Log | None = None) -> Teacher:
        """:meth:`training_teacher`, made once and asked once a batch, for several that read it."""
        if self._shared is None:
            self._shared = _once_a_batch(self.training_teacher(loader, epochs, log))
        return self._shared

    @abstractmethod
    def compute_test_logits(self) -> Tensor | None:
        """The logits that :meth:`test_logits` gives."""

    @abstractmethod
    def training_teacher(self, loader: BatchLoader, epochs: int, log: Log | None = None) -> Teacher:
        """The function from a training batch to the teacher's output.

        Args:
            loader: gives the batches.
            epochs: for how many epochs.
            log: called with the cost of building a cache.
        """


def _once_a_batch(teacher: Teacher) -> Teacher:
    last: list[tuple[Batch, ModelOutput]] = []

    def answer(batch: Batch) -> ModelOutput:
        if not last or last[0][0] is not batch:
            last[:] = [(batch, teacher(batch))]
        return last[0][1]

    return answer


class CachedTeacher:
    """Reads the teacher's outputs for training batches from the cache.

    Args:
        outputs: the cache, open for reading.
        one_view: whether the outputs of view 0 serve every view.
    """

    def __init__(self, outputs: StoredOutputs, *, one_view: bool) -> None:
        self._outputs = outputs
        self._one_view = one_view

    def __call__(self, batch: Batch) -> ModelOutput:
        """The stored output for a batch."""
        return self._outputs.read(batch.rows, 0 if self._one_view else batch.view)


def open_cache(
    spec: CacheSpec,
    views: Sequence[int],
    query: Query,
    *,
    runtime: Runtime,
    config: CacheConfig,
    counter: QueryCounter,
    what: str = "teacher cache",
    precision: Precision | None = None,
    log: Log | None = None,
    teacher: str | None = None,
) -> StoredOutputs:
    """Open a cache for reading: the main process builds what is missing, all processes read.

    Args:
        spec: which outputs.
        views: the views' numbers.
        query: the teacher.
        runtime: where the outputs are read.
        config: the recipe's cache options.
        counter: counts the images queried.
        what: what notes call it.
        precision: of the teacher's arithmetic; default the runtime's.
        log: called with the cost of building.
        teacher: name of the model behind the query, which must give the same outputs each time.

    Raises:
        BadInput: the teacher is random, or what is stored is not what it gives.
    """
    tolerance = STALE_TOLERANCE[precision or runtime.precision]

    def again(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
        counter.checks += len(rows)
        return query(view, rows)

    def check_repeats() -> None:
        change = change_between_queries(again, views[0], spec.count) if teacher is not None else 0.0
        if change > tolerance:
            raise BadInput(
                "teacher", teacher, f"{REPEATS}; cache.enabled: false queries it for each batch ({change:.2g})"
            )

    observer, main = runtime.observer, runtime.processes.is_main
    wanted = TeacherCache(spec, max_gb=config.max_gb, what=what)
    if main:
        cache = wanted.covering(views)
        if cache.missing(views):
            check_repeats()
        built = cache.ensure(views, query, note=observer.note, phase=observer.phase)
        counter.answers += built.images_queried
        if log is not None:
            line = {"event": "cache", "key": cache.spec.key, "views": len(views), "images": built.images_queried}
            log({**line, "seconds": round(built.seconds, 4), "bytes": built.bytes})
    runtime.processes.wait()
    outputs = wanted.covering(views).open(views, runtime.device, only=spec)
    if main and built.images_queried < len(views) * spec.count:
        # Stored by another run, in whole or in part: the code of the teacher may have changed since.
        try:
            outputs.check(again, tolerance=tolerance)
        except BadInput:
            check_repeats()
            raise
    return outputs


def check_finite(logits: Tensor, field: str, value: str) -> Tensor:
    """Return test logits if they are finite; BadInput where they are not."""
    if not bool(torch.isfinite(logits).all()):
        raise BadInput(field, value, "finite logits for every test image")
    return logits
