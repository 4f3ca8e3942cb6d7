"""Who teaches a run: a model that is asked, what it said before, or answers made elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.feeding import Batch, Feed
from stillroom.data.images import DataPair, ImageSet
from stillroom.errors import BadInput
from stillroom.files import digest, find_input
from stillroom.models.weights import state_hash
from stillroom.objectives.base import Objective
from stillroom.recipe import Recipe
from stillroom.runs.materials import Dressed, ask, size
from stillroom.teacher.answers import questions_of, read_answers
from stillroom.teacher.cache.teacher_cache import CacheSpec, StoredAnswers, TeacherCache
from stillroom.teacher.config import TeacherConfig
from stillroom.teacher.knowledge import Knowledge
from stillroom.teacher.live import LiveTeacher
from stillroom.training.device import Precision, Processes, as_dtype
from stillroom.training.evaluation import EVALUATION_BATCH, predict, score
from stillroom.training.folder import RunFolder
from stillroom.training.loop import Teacher
from stillroom.training.observer import Observer

# How far a teacher's answers may be from what it said before, relative to its largest logit: rounding alone.
STALE = {"float32": 1e-3, "bfloat16": 0.05}


@dataclass(frozen=True)
class Setting:
    """Where a run takes place.

    Attributes:
        recipe: what is done.
        data: both splits.
        device: where models run.
        precision: of the training steps, and so of the teacher's answers in them.
        processes: who shares the work.
        observer: told how it goes.
    """

    recipe: Recipe
    data: DataPair
    device: torch.device
    precision: Precision
    processes: Processes
    observer: Observer


def uses_cache(recipe: Recipe, *, reads_teacher: bool, epochs: int) -> bool:
    """Whether a run keeps the teacher's answers: what the recipe says, and for ``auto`` whether it saves passes.

    Args:
        recipe: with ``cache.enabled`` as the user left it.
        reads_teacher: whether a term of the loss reads the teacher's answers to training images.
        epochs: length of the run, one that is not whole counted.

    Raises:
        BadInput: answers are to be kept, but each epoch asks about new images.
    """
    if recipe.teacher is None:
        return False
    views = recipe.data.augmentation.different_views
    enabled = recipe.cache.enabled
    if recipe.teacher.answers is not None:
        if enabled is False:
            raise BadInput(
                "cache.enabled", enabled, "true or auto beside teacher.answers: there is nothing to ask live"
            )
        return True
    if enabled is True and reads_teacher and not views:
        raise BadInput("cache.enabled", True, "data.augmentation.views of 1 or more: with 0 no view comes twice")
    if enabled != "auto":
        return enabled
    return not reads_teacher or 0 < views < epochs


@dataclass
class Tally:
    """How often a teacher was asked.

    Attributes:
        answers: images whose answers the run uses, each view counted: in training, for the cache, of the test split.
        checks: images asked about again, to see that what is kept is still what the teacher says.
    """

    answers: int = 0
    checks: int = 0

    def taken(self) -> Tally:
        """What was counted since this was last called."""
        since = Tally(self.answers, self.checks)
        self.answers = self.checks = 0
        return since


class Tutor(ABC):
    """Whoever teaches, as a run sees it.

    Attributes:
        name: what reports call it.
        fingerprint: SHA-256 of its weights or answers; a save of a run taught by another is refused.
        dressed: the model, where it can be run here.
        tally: how often it was asked so far.
    """

    name: str
    fingerprint: str
    dressed: Dressed | None = None

    def __init__(self) -> None:
        self.tally = Tally()

    @abstractmethod
    def on_test(self) -> Tensor | None:
        """Its logits for the test split, float32 [M, K]; None where nobody knows them."""

    @abstractmethod
    def in_training(self, feed: Feed, epochs: int, folder: RunFolder) -> Teacher:
        """What answers the batches of the training, which ``feed`` gives for so many epochs."""

    def settled(self, config: TeacherConfig) -> TeacherConfig:
        """Its config as it is written beside the run."""
        return config

    def facts(self, logits: Tensor | None, test: ImageSet) -> dict[str, Any]:
        """What the summary tells of it."""
        scored = score(logits, test.labels).as_dict() if logits is not None else {}
        sizes = size(self.dressed, test) if self.dressed is not None else {}
        return {"model": self.name, **scored, **sizes, "weights_hash": self.fingerprint}


class ModelTutor(Tutor):
    """A model that is run: on each batch, or once for each view of each image.

    Args:
        dressed: the model with its preprocess.
        setting: where the run takes place, ``cache.enabled`` settled.
        taps: modules whose outputs the objectives read.
    """

    def __init__(self, dressed: Dressed, setting: Setting, taps: Sequence[str]) -> None:
        super().__init__()
        self.dressed: Dressed = dressed
        self.name = dressed.name
        self.fingerprint = state_hash(dressed.model)
        self._setting = setting
        self._taps = tuple(taps)

    def settled(self, config: TeacherConfig) -> TeacherConfig:
        """Its config with the preprocess written out."""
        return config.model_copy(update={"preprocess": self.dressed.preprocess or "none"})

    def on_test(self) -> Tensor:
        """Asked live, or once for all runs.

        Raises:
            BadInput: they are not finite.
        """
        setting = self._setting
        if setting.recipe.cache.enabled:
            logits = self._kept_on_test()
        else:
            what = "evaluating the teacher"
            logits = ask(self.dressed, setting.data.test, setting.device, setting.observer, what, setting.processes)
            self.tally.answers += len(setting.data.test)
        return _checked(logits, "teacher", self.name)

    def in_training(self, feed: Feed, epochs: int, folder: RunFolder) -> Teacher:
        """Live, or from the cache, which is built where it is not there yet."""
        setting = self._setting
        # Where a part is held out, the answers to all of the images are kept, so that all runs share them.
        train, whole_feed = setting.data.train.whole, feed.whole()
        live = LiveTeacher(
            self.dressed.model,
            self.dressed.pipe(),
            example=train.images[:8],
            device=setting.device,
            precision=as_dtype(setting.precision),
            taps=self._taps,
        )
        if not setting.recipe.cache.enabled:
            return _Counted(live, self.tally, setting.processes.count)
        augmentation = setting.recipe.data.augmentation
        views = augmentation.different_views

        def answer(view: int, rows: npt.NDArray[np.int64]) -> Knowledge:
            return live(next(iter(whole_feed.batches([(rows, view)]))))

        spec = CacheSpec.of(
            setting.recipe.cache,
            self._identity(train, augmentation, setting.precision),
            count=len(train),
            classes=train.num_classes,
            taps=self._taps,
        )
        # A run shorter than its views does not come to the last ones.
        what = "teacher cache"
        kept = _kept(spec, range(min(views, epochs)), answer, setting, setting.precision, what, self.tally, folder)
        return Remembered(kept, one_view=views == 1)

    def _kept_on_test(self) -> Tensor:
        setting = self._setting
        test = setting.data.test
        pipe = self.dressed.pipe().to(setting.device)

        def answer(view: int, rows: npt.NDArray[np.int64]) -> Knowledge:
            images = test.images[torch.from_numpy(rows)]
            return Knowledge(predict(self.dressed.model, pipe, images, device=setting.device))

        parts = self._identity(test, AugmentationConfig(), "float32")
        # In blocks that evaluation takes, so that what is kept is bit by bit what it would be told.
        spec = CacheSpec(parts, len(test), test.num_classes, block=EVALUATION_BATCH, dtype="float32")
        what = "the teacher's answers to the test images"
        kept = _kept(spec, range(1), answer, setting, "float32", what, self.tally)
        return kept.read(np.arange(len(test)), 0).logits.cpu()

    def _identity(self, images: ImageSet, augmentation: AugmentationConfig, precision: Precision) -> dict[str, Any]:
        """All that an answer depends on."""
        config = self._setting.recipe.teacher
        assert config is not None
        return {
            "teacher": {
                "name": config.name,
                "options": config.options,
                "weights": self.fingerprint,
                # Two modules of one's own may differ in nothing else: the same weights around another activation.
                "structure": digest(repr(self.dressed.model).encode()),
            },
            "preprocess": self.dressed.preprocess.model_dump(mode="json") if self.dressed.preprocess else None,
            "data": images.fingerprint,
            "augmentation": augmentation.model_dump(exclude={"views"}) if augmentation.changes else None,
            "precision": precision,
            # Other kernels give other last bits; the same recipe gives the same bytes, whoever built the cache.
            "device": self._setting.device.type,
            "torch": torch.__version__,
        }


class AnswersTutor(Tutor):
    """Answers made elsewhere.

    Args:
        setting: where the run takes place.
    """

    def __init__(self, setting: Setting) -> None:
        config = setting.recipe.teacher
        assert config is not None
        assert config.answers is not None
        augmentation = setting.recipe.data.augmentation
        questions = questions_of(setting.data, augmentation, same_for_views=config.same_for_views)
        super().__init__()
        self.name = config.name
        self._answers = read_answers(find_input(config.answers), questions)
        self.fingerprint = self._answers.fingerprint
        self._views: int = questions["views"]
        self._setting = setting

    def on_test(self) -> Tensor | None:
        """What the folder holds of them, if anything.

        Raises:
            BadInput: they are not finite.
        """
        origin = self._setting.data.test.origin
        test = self._answers.test if origin is None else self._answers.as_they_are(origin.rows)
        if test is None:
            return None
        logits = torch.from_numpy(np.array(test, dtype=np.float32))
        return _checked(logits, "teacher.answers", "test-logits.npy")

    def in_training(self, feed: Feed, epochs: int, folder: RunFolder) -> Teacher:
        """From the cache, which the folder's answers enter like a model's."""

        def answer(view: int, rows: npt.NDArray[np.int64]) -> Knowledge:
            return Knowledge(torch.from_numpy(np.array(self._answers.train[view, rows], dtype=np.float32)))

        setting, what = self._setting, "teacher cache"
        train = setting.data.train.whole
        parts = {"teacher": {"name": self.name, "answers": self.fingerprint}, "data": train.fingerprint}
        spec = CacheSpec.of(setting.recipe.cache, parts, count=len(train), classes=train.num_classes)
        # Reading a file is no teacher pass.
        views, nobody = range(min(self._views, epochs)), Tally()
        kept = _kept(spec, views, answer, setting, setting.precision, what, nobody, folder)
        return Remembered(kept, one_view=self._views == 1)


def find_tutor(setting: Setting, teacher: Dressed | None, objectives: Sequence[Objective[Any]]) -> Tutor | None:
    """Who teaches this run, if anybody.

    Args:
        setting: where the run takes place, ``cache.enabled`` settled.
        teacher: the recipe's teacher, where it is one that can be run.
        objectives: the terms of the loss, for what they read.

    Raises:
        BadInput: a term reads a teacher that is not there, or more of it than its answers hold.
    """
    config = setting.recipe.teacher
    reading = [objective.name for objective in objectives if objective.reads.teacher]
    tapping = {tap: objective.name for objective in objectives for tap in objective.reads.teacher_features}
    if config is not None and config.answers is not None:
        for tap, name in tapping.items():
            raise BadInput(
                "teacher.answers", config.answers, f"a model: objective {name!r} reads its features at {tap!r}"
            )
        return AnswersTutor(setting)
    if teacher is None:
        if reading:
            raise BadInput("teacher", None, f"a model: objective {reading[0]!r} reads its answers")
        return None
    return ModelTutor(teacher, setting, sorted(tapping))


def _checked(logits: Tensor, field: str, value: str) -> Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise BadInput(field, value, "finite logits for every test image")
    return logits


def _kept(
    spec: CacheSpec,
    views: Sequence[int],
    answer: Callable[[int, npt.NDArray[np.int64]], Knowledge],
    setting: Setting,
    precision: Precision,
    what: str,
    tally: Tally,
    folder: RunFolder | None = None,
) -> StoredAnswers:
    """The answers of a cache: built by the main process where they are not there yet, read by all."""
    observer, main = setting.observer, setting.processes.is_main
    cache = TeacherCache(spec, max_gb=setting.recipe.cache.max_gb, what=what)
    if main:
        built = cache.ensure(views, answer, note=observer.note, phase=observer.phase)
        tally.answers += built.images_asked
        if folder is not None:
            line = {"event": "cache", "key": spec.key, "views": len(views), "images": built.images_asked}
            folder.append("timing.jsonl", {**line, "seconds": round(built.seconds, 4), "bytes": built.bytes})
    setting.processes.wait()
    kept = cache.open(views, setting.device)
    if main and built.images_asked < len(views) * spec.count:
        # What another run left, in whole views or in blocks of one, may be of a teacher whose code has changed since.

        def again(view: int, rows: npt.NDArray[np.int64]) -> Knowledge:
            tally.checks += len(rows)
            return answer(view, rows)

        kept.check(again, tolerance=STALE[precision])
    return kept


class _Counted:
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

    def __call__(self, batch: Batch) -> Knowledge:
        """The Knowledge of a batch."""
        self._tally.answers += len(batch) * self._processes
        return self._live(batch)


class Remembered:
    """What the teacher said before, looked up.

    Args:
        answers: the cache.
        one_view: whether the same is taught in every view.
    """

    def __init__(self, answers: StoredAnswers, *, one_view: bool) -> None:
        self._answers = answers
        self._one_view = one_view

    def __call__(self, batch: Batch) -> Knowledge:
        """The Knowledge of a batch."""
        return self._answers.read(batch.rows, 0 if self._one_view else batch.view)
