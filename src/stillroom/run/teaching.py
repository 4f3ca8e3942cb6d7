"""Who teaches a run: a model that is asked, what it said before, or answers made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.data.loader import BatchLoader
from stillroom.errors import BadInput
from stillroom.files import digest, find_input
from stillroom.losses.base import Loss, Requires
from stillroom.models.fold import left_unfolded
from stillroom.models.prepared import EVALUATION_BATCH, PreparedModel, logits_of, predict
from stillroom.models.weights import state_hash
from stillroom.run.remembering import Counted, Remembered, Whole, kept_answers
from stillroom.run.setting import RunContext
from stillroom.run.tutor import Tally, Tutor
from stillroom.runtime import Precision
from stillroom.teachers.answers import questions_of, read_answers
from stillroom.teachers.cache import Query
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.config import TeacherConfig
from stillroom.teachers.knowledge import ModelOutput
from stillroom.teachers.live import LiveTeacher
from stillroom.teachers.tails import cut_tails
from stillroom.train.device import as_dtype
from stillroom.train.folder import RunFolder
from stillroom.train.loop import Teacher

# Images that tails are tried on, and images asked about at once for a mean over all.
_EXAMPLES, _SURVEYED = 4, 256


class ModelTutor(Tutor):
    """A model that is run: on each batch, or once for each view of each image.

    Args:
        prepared: the model with its preprocess.
        setting: where the run takes place, ``cache.enabled`` settled.
        reads: what the losses read.

    Raises:
        BadInput: they read a tail, and no exact one can be made; or its one layer, and there are more.
    """

    def __init__(self, prepared: PreparedModel, setting: RunContext, reads: Sequence[Requires]) -> None:
        super().__init__()
        self.prepared: PreparedModel = prepared
        self.name = prepared.name
        self.fingerprint = state_hash(prepared.model)
        self._setting = setting
        self._taps = tuple(sorted({tap for each in reads for tap in each.teacher_features}))
        self._means = sorted({of for each in reads for of in each.fisher_means})
        fishers = sorted({of for each in reads for of in each.fishers})
        self._tails = cut_tails(
            prepared.model,
            prepared.preprocess(),
            [*(tap for each in reads for tap in each.tails), *(of.tap for of in fishers)],
            example=setting.data.train.images[:_EXAMPLES],
            device=setting.device,
        )
        for tap in (tap for each in reads for tap in each.heads):
            if self._tails[tap].head is None:
                expected = "a model that ends in a linear layer: a loss reads the rows of its weights"
                raise BadInput("teacher", self.name, expected)
        # Those of a linear head follow from the logits.
        self._fishers = tuple(of for of in fishers if self._tails[of.tap].head is None)

    def resolve_config(self, config: TeacherConfig) -> TeacherConfig:
        """Its config with the preprocess written out."""
        return config.model_copy(update={"preprocess": self.prepared.preprocess_config or "none"})

    def on_test(self) -> Tensor | None:
        """Asked live, or once for all runs; not at all where it does not know all classes.

        Raises:
            BadInput: they are not finite.
        """
        setting = self._setting
        if setting.known is not None:
            return None
        if setting.recipe.cache.enabled:
            logits = self._kept_on_test()
        else:
            what = "evaluating the teacher"
            test = setting.data.test
            logits = logits_of(self.prepared, test, setting.device, setting.observer, what, setting.processes)
            self.tally.answers += len(setting.data.test)
        return _checked(logits, "teacher", self.name)

    def in_training(self, loader: BatchLoader, epochs: int, folder: RunFolder) -> Teacher:
        """Live, or from the cache, which is built where it is not there yet."""
        setting = self._setting
        live, answer = self.asked_live(loader)
        count = len(setting.data.train.parent)
        if not setting.recipe.cache.enabled:
            counted = Counted(live, self.tally, setting.processes.count)
            self.tally.answers += count if self._means else 0
            return self._whole(counted, answer, count)
        views = setting.recipe.data.augmentation.different_views
        # A run shorter than its views does not come to the last ones.
        shown, what = range(min(views, epochs)), "teacher cache"
        kept = kept_answers(self.kept(), shown, answer, setting, setting.precision, what, self.tally, folder)
        return self._whole(Remembered(kept, one_view=views == 1), lambda view, rows: kept.read(rows, view), count)

    def asked_live(self, loader: BatchLoader) -> tuple[LiveTeacher, Query]:
        """The teacher that is run on each batch, and the same asked about training images by view and index."""
        setting = self._setting
        # Where a part is held out, the answers to all of the images are kept, so that all runs share them.
        whole = loader.parent()
        live = LiveTeacher(
            self.prepared.model,
            self.prepared.preprocess(),
            example=setting.data.train.parent.images[:8],
            device=setting.device,
            precision=as_dtype(setting.precision),
            taps=self._taps,
            fishers=self._fishers,
            tails=self._tails,
            one_view=setting.recipe.data.augmentation.different_views == 1,
        )
        return live, lambda view, rows: live(next(iter(whole.batches([(rows, view)]))))

    def kept(self) -> CacheSpec:
        """Which cache holds its answers to the training images."""
        setting = self._setting
        train = setting.data.train.parent
        parts = self._identity(train, setting.recipe.data.augmentation, setting.precision)
        if unfolded := left_unfolded(self.prepared.model, self._taps):
            # Its logits differ in their last bits from those that are asked for without these taps.
            parts["unfolded"] = list(unfolded)
        return CacheSpec.of(
            setting.recipe.cache,
            parts,
            count=len(train),
            classes=setting.taught_classes,
            taps=self._taps,
            fishers=self._fishers,
        )

    def _whole(self, teacher: Teacher, answer: Query, count: int) -> Teacher:
        """A teacher with its tails, and with the means of Fisher weights over the training set's first view."""
        if not self._tails:
            return teacher
        totals = dict.fromkeys(self._means, 0.0)
        for start in range(0, count if totals else 0, _SURVEYED):
            rows = np.arange(start, min(start + _SURVEYED, count), dtype=np.int64)
            said = replace(answer(0, rows), tails=self._tails)
            for of in totals:
                totals[of] += said.fisher(of).flatten(1).mean(1).double().sum().item()
        return Whole(teacher, self._tails, {of: total / count for of, total in totals.items()})

    def _kept_on_test(self) -> Tensor:
        setting = self._setting
        test = setting.data.test
        pipe = self.prepared.preprocess().to(setting.device)

        def answer(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
            images = test.images[torch.from_numpy(rows)]
            return ModelOutput(predict(self.prepared.model, pipe, images, device=setting.device))

        parts = self._identity(test, AugmentationConfig(), "float32")
        # In blocks that evaluation takes, so that what is kept is bit by bit what it would be told.
        spec = CacheSpec(parts, len(test), test.num_classes, block=EVALUATION_BATCH, dtype="float32")
        what = "the teacher's answers to the test images"
        kept = kept_answers(spec, range(1), answer, setting, "float32", what, self.tally)
        return kept.read(np.arange(len(test)), 0).logits.cpu()

    def _identity(self, images: ImageSet, augmentation: AugmentationConfig, precision: Precision) -> dict[str, Any]:
        """All that an answer depends on."""
        config = self._setting.recipe.teacher
        assert config is not None
        preprocess = self.prepared.preprocess_config
        return {
            "teacher": {
                "name": config.name,
                "options": config.options,
                "weights": self.fingerprint,
                # Two modules of one's own may differ in nothing else: the same weights around another activation.
                "structure": digest(repr(self.prepared.model).encode()),
            },
            "preprocess": preprocess.model_dump(mode="json") if preprocess else None,
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

    def __init__(self, setting: RunContext) -> None:
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
        origin = self._setting.data.test.subset_info
        test = self._answers.test if origin is None else self._answers.as_they_are(origin.rows)
        if test is None:
            return None
        logits = torch.from_numpy(np.array(test, dtype=np.float32))
        return _checked(logits, "teacher.answers", "test-logits.npy")

    def in_training(self, loader: BatchLoader, epochs: int, folder: RunFolder) -> Teacher:
        """From the cache, which the folder's answers enter like a model's."""

        def answer(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
            return ModelOutput(torch.from_numpy(np.array(self._answers.train[view, rows], dtype=np.float32)))

        setting, what = self._setting, "teacher cache"
        train = setting.data.train.parent
        parts = {"teacher": {"name": self.name, "answers": self.fingerprint}, "data": train.fingerprint}
        spec = CacheSpec.of(setting.recipe.cache, parts, count=len(train), classes=train.num_classes)
        # Reading a file is no teacher pass.
        views, nobody = range(min(self._views, epochs)), Tally()
        kept = kept_answers(spec, views, answer, setting, setting.precision, what, nobody, folder)
        return Remembered(kept, one_view=self._views == 1)


def find_tutor(setting: RunContext, teacher: PreparedModel | None, losses: Sequence[Loss[Any]]) -> Tutor | None:
    """Who teaches this run, if anybody.

    Args:
        setting: where the run takes place, ``cache.enabled`` settled.
        teacher: the recipe's teacher, where it is one that can be run.
        losses: the terms of the loss, for what they read.

    Raises:
        BadInput: a term reads a teacher that is not there, or more of it than its answers hold.
    """
    config = setting.recipe.teacher
    reading = [loss.name for loss in losses if loss.requires.teacher]
    if config is not None and config.answers is not None:
        for loss in losses:
            for tap in (*loss.requires.teacher_features, *loss.requires.tails):
                expected = f"a model: loss {loss.name!r} reads its features at {tap!r}"
                raise BadInput("teacher.answers", config.answers, expected)
        return AnswersTutor(setting)
    if teacher is None:
        if reading:
            raise BadInput("teacher", None, f"a model: loss {reading[0]!r} reads its answers")
        return None
    return ModelTutor(teacher, setting, [loss.requires for loss in losses])


def _checked(logits: Tensor, field: str, value: str) -> Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise BadInput(field, value, "finite logits for every test image")
    return logits
