"""A teacher that is a model: frozen, in eval mode, batch norms folded; run on each batch, or once to fill the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import Batch, BatchLoader
from stillroom.errors import BadInput
from stillroom.files import digest
from stillroom.memory import in_parts
from stillroom.models.fold import fold_batchnorm, left_unfolded
from stillroom.models.fuse import ready_to_answer
from stillroom.models.modes import device_of
from stillroom.models.prepared import EVALUATION_BATCH, PreparedModel, predict
from stillroom.models.preprocess import Preprocess, known_classes
from stillroom.models.reader import TapReader
from stillroom.models.weights import state_hash
from stillroom.runtime import Precision, Runtime
from stillroom.teachers.cache import Query
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.config import CacheConfig, TeacherConfig
from stillroom.teachers.embeddings import EmbeddingTeacher
from stillroom.teachers.fisher import FisherOf, tail_fisher, uniform_draws
from stillroom.teachers.input_gradients import input_gradients, is_input_gradient
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.source import (
    STALE_TOLERANCE,
    CachedOutputs,
    Log,
    Teacher,
    TeacherRequest,
    TeacherSource,
    change_between_queries,
    check_finite,
)
from stillroom.teachers.tails import TeacherTail, cut_tails

# Images that folding and tails are tried on; images queried at once for a mean over all.
_EXAMPLES, _MEAN_BATCH = 4, 256


class LiveTeacher:
    """Runs the model on each batch, without gradient.

    It is not an ``nn.Module`` and works on a copy: it is in no state_dict, and the original model keeps its parameters
    and buffers bit for bit.

    Args:
        model: the teacher; copied.
        preprocess: of the teacher's input; it also puts the logits in the data's class order.
        example: a few raw images, [B, C, H, W], to check that folding is exact to tolerance.
        device: where it runs.
        precision: ``torch.bfloat16`` runs it under autocast; ``torch.float32`` exactly.
        taps: modules whose outputs are read with the logits, and gradients in the images.
        fishers: Fisher weights that are computed from each output; their taps are among ``taps``.
        tails: the teacher from these taps on.
        one_view: whether an image is the same in every view, so that the same classes are sampled for it too.

    Attributes:
        folded: whether the batch norms were folded into the convolutions.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        example: Tensor,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        taps: Sequence[str] = (),
        fishers: Sequence[FisherOf] = (),
        tails: Mapping[str, TeacherTail] | None = None,
        one_view: bool = False,
    ) -> None:
        self.precision = precision
        self.device = device
        self._gradients = tuple(tap for tap in taps if is_input_gradient(tap))
        taps = [tap for tap in taps if not is_input_gradient(tap)]
        # Folded where the model is, then moved: the check compares both on one device.
        copy, self.folded = fold_batchnorm(model, preprocess(example).to(device_of(model)), keep=taps)
        self.preprocess = preprocess.to(device)
        alone = precision == torch.float32 and not taps and not self._gradients
        inputs = self.preprocess(example.to(device))
        self.model = ready_to_answer(copy.to(device), inputs, keep=taps, logits_alone=alone)
        self._taps = TapReader(self.model, taps, field="teacher")
        self._fishers = tuple(fishers)
        self._tails = dict(tails or {})
        self._one_view = one_view

    def __call__(self, batch: Batch) -> ModelOutput:
        """The teacher's output for a batch, in parts if memory runs out."""
        parts = in_parts(lambda rows: [self._output(batch.subset(rows))], len(batch))
        if len(parts) == 1:
            return parts[0]
        features = {tap: torch.cat([part.features[tap] for part in parts]) for tap in parts[0].features}
        fishers = {of: torch.cat([part.fishers[of] for part in parts]) for of in self._fishers}
        return ModelOutput(torch.cat([part.logits for part in parts]), features, fishers)

    @torch.no_grad()
    def _output(self, batch: Batch) -> ModelOutput:
        images = batch.images
        if self._gradients:
            images = images.detach()
            images = images.to(images.dtype if images.is_floating_point() else torch.float32).requires_grad_()
        with (
            torch.set_grad_enabled(bool(self._gradients)),
            self._taps,
            torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32),
        ):
            logits = self.model(self.preprocess(images))
        features = {tap: feature.detach().float() for tap, feature in self._taps.take().items()}
        if self._gradients:
            white = 255.0 if self.preprocess.is_pixels else 1.0
            with torch.enable_grad():
                ordered = self.preprocess.reorder(logits)
                features |= input_gradients(self._gradients, ordered, batch.labels, images, white)
            logits = logits.detach()
        view = 0 if self._one_view else batch.view
        fishers = {of: self._fisher(of, features[of.tap], batch, view) for of in self._fishers}
        return ModelOutput(self.preprocess.reorder(logits.float()), features, fishers)

    def _fisher(self, of: FisherOf, features: Tensor, batch: Batch, view: int) -> Tensor:
        draws = uniform_draws(of.samples, batch.rows, view).to(features.device) if of.samples else None
        tail = self._tails[of.tap].of(batch.images)
        return tail_fisher(tail, features, temperature=of.temperature, draws=draws)


class LiveTeacherSource(TeacherSource):
    """A model as the teacher of a run: run on each batch, or with a cache once for each view of each image.

    Args:
        prepared: the model with its preprocess.
        config: its entry in the recipe.
        request: what the losses require.
        runtime: where it runs.
        data: both splits.
        augmentation: of the training images.
        cache: the recipe's cache options, ``enabled`` resolved.
        num_teacher_classes: how many classes it knows, the first ones; None for all of the data's, or those that its
            class order has columns for.

    Raises:
        BadInput: a loss requires an exact tail or a linear last layer that the model does not have.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        config: TeacherConfig,
        request: TeacherRequest,
        *,
        runtime: Runtime,
        data: DataPair,
        augmentation: AugmentationConfig,
        cache: CacheConfig,
        num_teacher_classes: int | None = None,
    ) -> None:
        self._embeds = isinstance(prepared.model, EmbeddingTeacher)
        inner = prepared.model.model if isinstance(prepared.model, EmbeddingTeacher) else prepared.model
        super().__init__(prepared.name, state_hash(inner))
        self.prepared: PreparedModel = prepared
        self._config, self._runtime, self._data = config, runtime, data
        self._augmentation, self._cache = augmentation, cache
        self._known = known_classes(prepared.preprocess_config)
        self._num_teacher_classes = num_teacher_classes if self._known is None else len(self._known)
        self._outputs: CachedOutputs | None = None
        self._in_test: LiveTeacher | None = None
        self._taps = tuple(sorted(set(request.taps)))
        self._means = sorted(set(request.fisher_means))
        fishers = sorted(set(request.fishers))
        self._tails = cut_tails(
            prepared.model,
            prepared.preprocess(),
            [*request.tails, *(of.tap for of in fishers)],
            example=data.train.images[:_EXAMPLES],
            device=runtime.device,
        )
        for tap in request.heads:
            if self._tails[tap].head is None:
                expected = "a model that ends in a linear layer: a loss reads the rows of its weights"
                raise BadInput("teacher", self.name, expected)
        # Those of a linear head follow from the logits.
        self._fishers = tuple(of for of in fishers if self._tails[of.tap].head is None)

    def compute_test_logits(self) -> Tensor | None:
        """Computed now, or once for all runs; None if the teacher does not know all classes."""
        test, runtime = self._data.test, self._runtime
        if self._num_teacher_classes is not None or self._embeds:
            return None
        if self._cache.enabled:
            logits = self._cached_test_logits()
        else:
            live = self._in_float32()
            logits = predict(
                live.model,
                live.preprocess,
                test.images,
                device=runtime.device,
                processes=runtime.processes,
                on_batch=lambda done: runtime.observer.phase("evaluating the teacher", done, len(test)),
            )
            self.counter.answers += len(test)
        return check_finite(logits, "teacher", self.name)

    def _in_float32(self) -> LiveTeacher:
        """The teacher as the test images are answered: folded like in training, and never in less than float32."""
        if self._in_test is None:
            example, device = self._data.test.images[:_EXAMPLES], self._runtime.device
            self._in_test = LiveTeacher(self.prepared.model, self.prepared.preprocess(), example=example, device=device)
        return self._in_test

    def training_teacher(self, loader: BatchLoader, epochs: int, log: Log | None = None) -> Teacher:
        """Live, or from the cache, which is built if missing."""
        live, query = self.live_teacher(loader)
        count = len(self._data.train.parent)
        if not self._cache.enabled:
            processes = self._runtime.processes.count
            self.counter.answers += count if self._means else 0
            if change_between_queries(query, 0, count) > STALE_TOLERANCE[self._runtime.teacher_precision]:
                self._runtime.observer.note(f"teacher {self.name} is random: it gives other outputs each time")

            def counting(batch: Batch) -> ModelOutput:
                self.counter.answers += len(batch) * processes
                return live(batch)

            return self._complete(counting, query, count)
        views = self._augmentation.different_views
        # A run with fewer epochs than views does not use the last ones.
        shown = range(min(views, epochs))
        outputs = self._outputs = CachedOutputs(
            self.cache_spec(),
            shown,
            query,
            runtime=self._runtime,
            config=self._cache,
            counter=self.counter,
            log=log,
            teacher=self.name,
        )
        return self._complete(outputs, lambda view, rows: outputs.read(rows, view), count)

    def prepare_views(self, views: Sequence[int] | None = None) -> None:
        """Build what is missing in the cache, and open it."""
        if self._outputs is not None:
            with self._runtime.clock.phase("teacher"):
                self._outputs.prepare(views)

    def live_teacher(self, loader: BatchLoader) -> tuple[LiveTeacher, Query]:
        """The teacher on each batch, and as a query of training images by view and index."""
        # With a held-out part, the outputs for all images are stored, so that all runs share them.
        parent = loader.parent()
        if self._runtime.teacher_precision == "float32" and not (self._taps or self._fishers or self._tails):
            live = self._in_float32()
        else:
            live = LiveTeacher(
                self.prepared.model,
                self.prepared.preprocess(),
                example=self._data.train.parent.images[:_EXAMPLES],
                device=self._runtime.device,
                precision=torch.bfloat16 if self._runtime.teacher_precision == "bfloat16" else torch.float32,
                taps=self._taps,
                fishers=self._fishers,
                tails=self._tails,
                one_view=self._augmentation.different_views == 1,
            )
        return live, lambda view, rows: live(next(iter(parent.batches([(rows, view)]))))

    def cache_spec(self) -> CacheSpec:
        """The cache of its outputs for the training images."""
        train = self._data.train.parent
        parts = self._identity(train, self._augmentation, self._runtime.teacher_precision)
        if self._augmentation.mixes and (info := self._data.train.subset_info) is not None:
            # Images are mixed with those that are learned from, so another held-out part gives other images.
            parts["partners"] = digest(info.rows.tobytes())
        if unfolded := left_unfolded(self.prepared.model, [tap for tap in self._taps if not is_input_gradient(tap)]):
            # The logits differ in their last bits from those computed without these taps.
            parts["unfolded"] = list(unfolded)
        classes = self._num_teacher_classes or train.num_classes
        return CacheSpec.of(
            self._cache, parts, count=len(train), classes=classes, taps=self._taps, fishers=self._fishers
        )

    def _complete(self, teacher: Teacher, query: Query, count: int) -> Teacher:
        """A teacher with its tails, the means of its Fisher weights, and which classes its logits are of."""
        teacher = self._with_tails(teacher, query, count)
        if self._embeds:

            def embeddings(batch: Batch) -> ModelOutput:
                output = teacher(batch)
                return replace(output, logits=torch.full_like(output.logits, float("nan")), has_logits=False)

            return embeddings
        if self._known is None:
            return teacher
        classes = self._known.to(self._runtime.device)
        return lambda batch: replace(teacher(batch), classes=classes)

    def _with_tails(self, teacher: Teacher, query: Query, count: int) -> Teacher:
        """A teacher with its tails, and the means of Fisher weights over view 0 of the training set."""
        if not self._tails:
            return teacher
        totals = dict.fromkeys(self._means, 0.0)
        for start in range(0, count if totals else 0, _MEAN_BATCH):
            rows = np.arange(start, min(start + _MEAN_BATCH, count), dtype=np.int64)
            output = replace(query(0, rows), tails=self._tails)
            for of in totals:
                totals[of] += output.fisher(of).flatten(1).mean(1).double().sum().item()
        means = {of: total / count for of, total in totals.items()}

        def with_tails(batch: Batch) -> ModelOutput:
            tails = {tap: tail.of(batch.images) for tap, tail in self._tails.items()}
            return replace(teacher(batch), tails=tails, fisher_means=means)

        return with_tails

    def test_cache(self) -> tuple[CacheSpec, Query]:
        """The cache of its logits for the test split, and the teacher as a query of test images."""
        test, device = self._data.test, self._runtime.device

        def query(view: int, rows: npt.NDArray[np.int64]) -> ModelOutput:
            live, images = self._in_float32(), test.images[torch.from_numpy(rows)]
            return ModelOutput(predict(live.model, live.preprocess, images, device=device))

        parts = self._identity(test, AugmentationConfig(), "float32")
        # In blocks of the size that evaluation uses, so that cached logits are bit by bit those without a cache.
        return CacheSpec(parts, len(test), test.num_classes, block=EVALUATION_BATCH, dtype="float32"), query

    def _cached_test_logits(self) -> Tensor:
        spec, query = self.test_cache()
        outputs = CachedOutputs(
            spec,
            range(1),
            query,
            runtime=self._runtime,
            config=self._cache,
            counter=self.counter,
            what="teacher logits of the test images",
            precision="float32",
            teacher=self.name,
        )
        return outputs.read(np.arange(spec.count), 0).logits.cpu()

    def _identity(self, images: ImageSet, augmentation: AugmentationConfig, precision: Precision) -> dict[str, Any]:
        """Everything that an output depends on."""
        preprocess = self.prepared.preprocess_config
        return {
            "teacher": {
                "name": self._config.name,
                "options": self._config.options,
                "weights": self.fingerprint,
                # A user's module may differ only in code: the same weights with another activation.
                "structure": digest(repr(self.prepared.model).encode()),
            },
            "preprocess": preprocess.model_dump(mode="json") if preprocess else None,
            "data": images.fingerprint,
            "augmentation": augmentation.model_dump(exclude={"views"}) if augmentation.changes else None,
            "precision": precision,
            # Other kernels give other last bits; the same recipe must give the same bytes, whichever run built the
            # cache.
            "device": self._runtime.device.type,
            "torch": torch.__version__,
        }
