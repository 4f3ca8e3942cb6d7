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
        follows_student: whether its weights are made of the student's.
        counter: its queries so far.
    """

    name: str
    fingerprint: str
    files: Mapping[str, str]
    prepared: PreparedModel | None = None
    changes: bool = False
    follows_student: bool = False

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

    def prepare_views(self, views: Sequence[int] | None = None) -> None:  # noqa: B027 - most have nothing to prepare
        """Complete the cached outputs of these views, by default of all that the run shows; without a cache, nothing.

        Every process of a run calls it, before the epoch that shows them.
        """


def _once_a_batch(teacher: Teacher) -> Teacher:
    last: list[tuple[Batch, ModelOutput]] = []

    def answer(batch: Batch) -> ModelOutput:
        if not last or last[0][0] is not batch:
            last[:] = [(batch, teacher(batch))]
        return last[0][1]

    return answer


class CachedOutputs:
    """The outputs of a teacher for some views, read from its cache.

    A view that is missing is built when it is first wanted: by the main process, while the others wait. So a run begins
    to train after its first view, and builds none that no epoch shows.

    Args:
        spec: which outputs.
        views: all views that may be wanted; their size is announced, and must be allowed, before the first is built.
        query: the teacher.
        runtime: where the outputs are read.
        config: the recipe's cache options.
        counter: counts the images queried.
        what: what notes call it.
        precision: of the teacher's arithmetic; default the runtime's.
        log: called with the cost of building.
        teacher: name of the model behind the query, which must give the same outputs each time.
    """

    def __init__(
        self,
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
    ) -> None:
        self._spec, self._views, self._query, self._runtime = spec, tuple(views), query, runtime
        self._counter, self._log, self._teacher = counter, log, teacher
        self._tolerance = STALE_TOLERANCE[precision or runtime.teacher_precision]
        self._cache = TeacherCache(spec, max_gb=config.max_gb, what=what)
        self._open: dict[int, StoredOutputs] = {}
        self._prepared: set[int] = set()

    def prepare(self, views: Sequence[int] | None = None) -> None:
        """Complete and open these views, by default all: every process calls it, with the same views.

        Raises:
            BadInput: the teacher is random, or what is stored is not what it gives.
        """
        for view in self._views if views is None else map(self._stored_view, views):
            if view not in self._prepared:
                self._prepared.add(view)
                self._prepare(view)

    def read(self, rows: npt.NDArray[np.int64], view: int) -> ModelOutput:
        """The stored outputs for some images; see :meth:`StoredOutputs.read`. With one view, it serves every view."""
        view = self._stored_view(view)
        self.prepare([view])
        return self._open[view].read(rows, view)

    def __call__(self, batch: Batch) -> ModelOutput:
        """The stored outputs for a batch."""
        return self.read(batch.rows, batch.view)

    def _stored_view(self, view: int) -> int:
        return view if len(self._views) > 1 else self._views[0]

    def _prepare(self, view: int) -> None:
        processes, some, built = self._runtime.processes, [view], None
        if processes.is_main and view not in self._open:
            # Where all is there, it is checked as a whole.
            some = [*self._views] if not self._cache.covering(self._views).missing(self._views) else [view]
            cache = self._cache.covering(some)
            first = not self._open
            if first and cache.missing(some):
                self._check_repeats()
            observer = self._runtime.observer
            built = cache.ensure(
                some,
                self._query,
                planned=self._views if first and cache is self._cache else (),
                note=observer.note if first else lambda text: None,
                phase=observer.phase,
            )
            self._counter.answers += built.images_queried
            if self._log is not None:
                line = {"event": "cache", "key": cache.spec.key, "views": len(some), "images": built.images_queried}
                self._log({**line, "seconds": round(built.seconds, 4), "bytes": built.bytes})
        processes.wait()
        if view in self._open:
            return
        outputs = self._cache.covering(some).open(some, self._runtime.device, only=self._spec)
        self._open |= dict.fromkeys(some, outputs)
        if built is not None and built.images_queried < len(some) * self._spec.count:
            # Stored by another run, in whole or in part: the code of the teacher may have changed since.
            try:
                outputs.check(self._again, tolerance=self._tolerance)
            except BadInput:
                self._check_repeats()
                raise

    def _again(self, view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
        self._counter.checks += len(rows)
        return self._query(view, rows)

    def _check_repeats(self) -> None:
        if self._teacher is None:
            return
        change = change_between_queries(self._again, self._views[0], self._spec.count)
        if change > self._tolerance:
            differ = f"they differ by {change:.2g} of the largest logit"
            raise BadInput(
                "teacher", self._teacher, f"{REPEATS} ({differ}); cache.enabled: false queries it for each batch"
            )


def check_finite(logits: Tensor, field: str, value: str) -> Tensor:
    """Return test logits if they are finite; BadInput where they are not."""
    if not bool(torch.isfinite(logits).all()):
        raise BadInput(field, value, "finite logits for every test image")
    return logits
