"""What the checks look at: a recipe's parts, some images, and what its models say of them. Nothing is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stillroom.data.augmentation import augment_batch
from stillroom.data.config import AugmentationConfig
from stillroom.data.loader import BatchSampler
from stillroom.diagnose.checks.recipe.alternatives import explicit
from stillroom.diagnose.checks.recipe.gradients import Gradients, measure
from stillroom.diagnose.checks.recipe.mending import Mending, State, mend
from stillroom.diagnose.checks.recipe.parts import Skip, part
from stillroom.diagnose.checks.recipe.reading import Reading, ready
from stillroom.diagnose.checks.recipe.sample import Sample, sample_of
from stillroom.losses.base import Loss, LossConfig
from stillroom.losses.setup_context import SetupContext
from stillroom.models.config import PreprocessConfig
from stillroom.models.cost import multiply_adds, parameters
from stillroom.models.prepared import PreparedModel, predict
from stillroom.models.preprocess import Preprocess
from stillroom.recipe import Recipe
from stillroom.run.build import setup_context_of
from stillroom.run.context import RunContext
from stillroom.train.device import autocast

Form = Literal["logits", "probabilities", "sigmoids"]
# Images at a time: few enough for the caches of a small machine, many enough for batch statistics.
BATCH = 256


class Case:
    """A recipe before it is run. Its parts are worked out when a check first asks for them.

    Args:
        setting: where it would run; its recipe is the one in question.
        student: the student as it begins.
        losses: the terms of the loss, which have met both models.
        teacher: the teacher as the recipe asks it, where it is a model.
        columns: the number of its logits, which need not be the data's number of classes.
        images: how many training images are looked at, at the most.
        phase: told what goes on: what, images done, images in all.

    Attributes:
        sample: training images, spread over the classes.
        test: test images, half as many.
    """

    def __init__(
        self,
        setting: RunContext,
        student: PreparedModel,
        losses: Sequence[Loss[Any]],
        teacher: PreparedModel | None,
        columns: int | None,
        *,
        images: int,
        phase: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self.setting = setting
        self.recipe: Recipe = setting.recipe
        self.student = student
        self.losses = list(losses)
        self._teacher = teacher
        self._columns = columns
        self._phase = phase
        self.sample: Sample = sample_of(setting.data.train, images)
        self.test: Sample = sample_of(setting.data.test, max(images // 2, 1))

    @property
    def classes(self) -> int:
        """K, the data's number of classes."""
        return self.setting.data.train.num_classes

    @property
    def teaching(self) -> list[Loss[Any]]:
        """The terms of the loss that read the teacher."""
        return [term for term in self.losses if term.requires.teacher]

    @property
    def labelling(self) -> list[Loss[Any]]:
        """The terms of the loss that read labels alone."""
        return [term for term in self.losses if term.requires.labels and not term.requires.teacher]

    @part
    def batches(self) -> BatchSampler:
        """How the training images come in batches."""
        return BatchSampler(len(self.setting.data.train), self.recipe.data.batch_size, self.recipe.seed)

    @part
    def teacher(self) -> PreparedModel:
        """The teacher as the recipe asks it."""
        if self._teacher is not None:
            return self._teacher
        config = self.recipe.teacher
        if config is None:
            raise Skip("The recipe has no teacher.")
        raise Skip(f"The teacher's answers were made elsewhere ({config.logits}); there is no model to ask.")

    @property
    def columns(self) -> int:
        """The number of the teacher's logits."""
        return self._columns or self.classes

    @part
    def given(self) -> State:
        """The teacher as the recipe has it."""
        teacher = self.teacher
        config = teacher.preprocess_config
        order = None
        if config is not None and config.class_order is not None:
            order = torch.tensor(config.class_order)
        elif self.columns != self.classes:
            order = torch.empty(0, dtype=torch.int64)
        pipe = self.pipe(config)
        model = ready(teacher.model, pipe, self.sample.images[:8], self.setting.device)
        plain = config.model_copy(update={"class_order": None}) if config is not None else None
        return State(Reading(model, plain, self.ask, self.sample.images), order, teacher.model)

    @part
    def form(self) -> Form:
        """What the teacher gives: logits, or what becomes of them."""
        return form_of(self._raw(self.given.reading.model, self.given.reading.preprocess, self.sample.images[:64], ""))

    @part
    def mending(self) -> Mending:
        """What is wrong with how the teacher is asked, each cause told once."""
        return mend(self)

    @part
    def mended(self) -> State:
        """The teacher as it would be asked after the remedies of what was found: what follows is judged by this one."""
        return self.mending.settled

    @part
    def teacher_logits(self) -> Tensor:
        """What the mended teacher says of the sample, float32 [n, K]."""
        return self._finite(self.mended.named(self.mended.reading.first(len(self.sample))))

    @part
    def test_logits(self) -> Tensor:
        """The like of the test images, float32 [m, K]."""
        reading = self.mended.reading
        said = self.ask(reading.model, reading.preprocess, self.test.images, "test images")
        return self._finite(self.mended.named(said))

    def on_views(self, augmentation: AugmentationConfig, count: int) -> Tensor:
        """What it says of the sample's first images, each in another view, float32 [count, K]."""
        train = self.setting.data.train
        rows = self.sample.rows[:count]
        index = rows if train.subset_info is None else train.subset_info.rows[rows]
        views = augmentation.different_views or 4
        parts = torch.empty_like(self.sample.images[:count])
        for view in range(views):
            places = np.arange(view, count, views)
            chosen = torch.from_numpy(places)
            if len(places):
                parts[chosen] = augment_batch(self.sample.images[chosen], index[places], augmentation, view)
        reading = self.mended.reading
        return self._finite(self.mended.named(self.ask(reading.model, reading.preprocess, parts, "augmented images")))

    @part
    def accuracy(self) -> float:
        """The share of the sample that the mended teacher has right."""
        right = self.teacher_logits.argmax(1) == self.sample.labels
        return float(right.double().mean())

    def ask(self, model: torch.nn.Module, config: PreprocessConfig | None, images: Tensor, what: str) -> Tensor:
        """The logits of a model for images, as a run asks for them: float32 [n, columns], in the model's own order."""
        said = self._raw(model, config, images, what)
        # Logarithms of probabilities are logits, and so is what a sigmoid was taken of.
        if self.form == "sigmoids":
            return said.double().logit(1e-7).float()
        return said.clamp_min(1e-30).log() if self.form == "probabilities" else said

    def _raw(self, model: torch.nn.Module, config: PreprocessConfig | None, images: Tensor, what: str) -> Tensor:
        setting = self.setting
        label, total = f"asking the teacher about {what}", len(images)
        if what:
            self._phase(label, 0, total)
        try:
            with autocast(setting.device, setting.precision):
                return predict(
                    model,
                    self.pipe(config).to(setting.device),
                    images,
                    device=setting.device,
                    batch_size=BATCH,
                    on_batch=(lambda done: self._phase(label, done, total)) if what else None,
                )
        finally:
            if what:
                self._phase(label, total, total)

    def pipe(self, config: PreprocessConfig | None) -> Preprocess:
        """What the teacher's input goes through, leaving its logits in its own order."""
        plain = config.model_copy(update={"class_order": None}) if config is not None else None
        return Preprocess(plain, is_pixels=self.setting.data.train.is_pixels)

    def require_named(self) -> None:
        """Go on only where it is known which logit means which class.

        Raises:
            Skip: it is not.
        """
        order = self.mended.order
        if order is not None and not len(order):
            raise Skip(f"The teacher gives {self.columns:,} logits for {self.classes:,} classes; see class_order.")

    def _finite(self, logits: Tensor) -> Tensor:
        self.require_named()
        if not bool(logits.isfinite().all()):
            raise Skip("The teacher's logits are not finite.")
        return logits

    @part
    def setup_context(self) -> SetupContext:
        """Teacher and student as losses meet them."""
        return setup_context_of(self.setting, self.student, self.teacher)

    @part
    def costs(self) -> dict[str, tuple[int, int]]:
        """Parameters and multiply-adds of one image, of teacher and student."""
        told = {}
        for name, who in (("teacher", self.teacher), ("student", self.student)):
            example = who.preprocess()(self.sample.images[:1]).to(self.setting.device)
            told[name] = (parameters(who.model), multiply_adds(who.model, example))
        return told

    @part
    def gradients(self) -> Gradients:
        """How hard each term of the loss pulls at the student as it begins."""
        return measure(self)

    def mended_teacher(self) -> PreparedModel:
        """The mended teacher as a run would have it; with batch norms as they are, to read its features."""
        state = self.mended
        as_they_are = state.reading.preprocess is None and state.order is None
        return PreparedModel(
            state.whole, None if as_they_are else self.settled, self.teacher.is_pixels, self.teacher.name
        )

    @property
    def settled(self) -> PreprocessConfig:
        """The preprocess of the mended teacher by numbers, its class order with it."""
        data, state = self.setting.data.train, self.mended
        config = explicit(state.reading.preprocess, data.channels, is_pixels=data.is_pixels)
        order = tuple(state.order.tolist()) if state.order is not None and len(state.order) else None
        return config.model_copy(update={"class_order": order})

    def student_copy(self) -> torch.nn.Module:
        """A copy of the student as it begins, in training mode."""
        return copy.deepcopy(self.student.model).train()


def form_of(said: Tensor) -> Form:
    """What rows look like: nothing below 0 and sums of 1 are probabilities, else nothing outside 0 … 1 is sigmoids.

    >>> [form_of(torch.tensor([row])) for row in ([0.2, 0.8], [0.2, 0.9], [-0.2, 0.9])]
    ['probabilities', 'sigmoids', 'logits']
    """
    rows = said.double()
    if not bool((rows >= 0).all()):
        return "logits"
    # Half precision has three digits.
    if bool(((rows.sum(1) - 1).abs() < 1e-2).all()):
        return "probabilities"
    # One that answers 0 to everything is another matter.
    return "sigmoids" if bool((rows <= 1).all()) and bool((rows > 0).any()) else "logits"


def mean_weight(config: LossConfig) -> float:
    """A term's weight, of one that moves the mean over the training.

    >>> from stillroom.losses.base import WeightSchedule
    >>> from stillroom.losses.kl import KLConfig
    >>> mean_weight(KLConfig(weight=WeightSchedule(start=0, end=1)))
    0.5
    """
    if not config.has_schedule:
        return float(config.weight_at(0.0))
    steps = 20
    ends = (config.weight_at(0.0) + config.weight_at(1.0)) / 2
    return round((ends + sum(config.weight_at(step / steps) for step in range(1, steps))) / steps, 6)
