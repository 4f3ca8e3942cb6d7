"""What a teacher said before, and a count of what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stillroom.data.loader import Batch
from stillroom.run.setting import RunContext
from stillroom.run.tutor import Tally
from stillroom.runtime import Precision
from stillroom.teachers.cache import Query, StoredOutputs, TeacherCache
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.knowledge import ModelOutput
from stillroom.teachers.tails import TeacherTail
from stillroom.train.folder import RunFolder
from stillroom.train.loop import Teacher

# How far a teacher's answers may be from what it said before, relative to its largest logit: rounding alone.
STALE = {"float32": 1e-3, "bfloat16": 0.05}


def kept_answers(
    spec: CacheSpec,
    views: Sequence[int],
    answer: Query,
    setting: RunContext,
    precision: Precision,
    what: str,
    tally: Tally,
    folder: RunFolder | None = None,
) -> StoredOutputs:
    """The answers of a cache: built by the main process where they are not there yet, read by all."""
    observer, main = setting.observer, setting.processes.is_main
    wanted = TeacherCache(spec, max_gb=setting.recipe.cache.max_gb, what=what)
    if main:
        cache = wanted.covering(views)
        built = cache.ensure(views, answer, note=observer.note, phase=observer.phase)
        tally.answers += built.images_queried
        if folder is not None:
            line = {"event": "cache", "key": cache.spec.key, "views": len(views), "images": built.images_queried}
            folder.append("timing.jsonl", {**line, "seconds": round(built.seconds, 4), "bytes": built.bytes})
    setting.processes.wait()
    kept = wanted.covering(views).open(views, setting.device, only=spec)
    if main and built.images_queried < len(views) * spec.count:
        # What another run left, in whole views or in blocks of one, may be of a teacher whose code has changed since.

        def again(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
            tally.checks += len(rows)
            return answer(view, rows)

        kept.check(again, tolerance=STALE[precision])
    return kept


class Counted:
    """A teacher whose answers are counted.

    Args:
        live: the teacher.
        tally: where they are counted.
        processes: how many ask as often, each about its part of a batch.
    """

    def __init__(self, live: Teacher, tally: Tally, processes: int) -> None:
        self._live = live
        self._tally = tally
        self._processes = processes

    def __call__(self, batch: Batch) -> ModelOutput:
        """The ModelOutput of a batch."""
        self._tally.answers += len(batch) * self._processes
        return self._live(batch)


class Remembered:
    """What the teacher said before, looked up.

    Args:
        answers: the cache.
        one_view: whether the same is taught in every view.
    """

    def __init__(self, answers: StoredOutputs, *, one_view: bool) -> None:
        self._answers = answers
        self._one_view = one_view

    def __call__(self, batch: Batch) -> ModelOutput:
        """The ModelOutput of a batch."""
        return self._answers.read(batch.rows, 0 if self._one_view else batch.view)


class Whole:
    """A teacher whose ModelOutput also holds what does not depend on the batch.

    Args:
        teacher: answers batches.
        tails: the rest of the model from some taps on.
        fisher_means: means of Fisher weights over the training set.
    """

    def __init__(
        self, teacher: Teacher, tails: Mapping[str, TeacherTail], fisher_means: Mapping[FisherOf, float]
    ) -> None:
        self._teacher = teacher
        self._tails = tails
        self._means = fisher_means

    def __call__(self, batch: Batch) -> ModelOutput:
        """The ModelOutput of a batch."""
        return replace(self._teacher(batch), tails=self._tails, fisher_means=self._means)
