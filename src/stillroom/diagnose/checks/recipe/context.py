"""What the checks of a recipe look at: its data, models and loss, computed once and only when a check needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.data.augmentation import augment_batch, check_augmentable
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import BatchSampler
from stillroom.data.quality import Note
from stillroom.data.sources import load
from stillroom.diagnose.check import Skip, lazy
from stillroom.diagnose.checks.recipe.gradients import (
    GradientNorms,
    all_of_teacher,
    logits_of_teacher,
    measure_gradients,
    reads_features,
)
from stillroom.diagnose.checks.recipe.input_repair import (
    InputRepair,
    OutputForm,
    SplitSample,
    TeacherQueries,
    TeacherSetup,
    TeacherVariant,
    draw_sample,
    repair_input,
    without_class_order,
)
from stillroom.diagnose.remedies import option_path
from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.losses.setup_context import SetupContext
from stillroom.models.config import ModelConfig, PreprocessConfig, PreprocessName
from stillroom.models.cost import multiply_adds, parameters
from stillroom.models.prepared import PreparedModel, predict, prepare_model, with_layout
from stillroom.models.preprocess import class_index, explicit_preprocess, known_classes, resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import load_weights, read_state
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.build import prepare_teachers, setup_context_of, setup_losses
from stillroom.run.components import RunComponents, build_components, weights_file
from stillroom.run.context import RunContext
from stillroom.run.resolve import uses_cache
from stillroom.run.reuse_head import reuse_head
from stillroom.runtime import Processes
from stillroom.tasks import Task
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.precomputed import PrecomputedLogits
from stillroom.train.changing_teachers import as_teacher
from stillroom.train.device import resolve_device, resolve_precision, written_out
from stillroom.wording import Unit

# Share of empty rows from which on stored logits show nothing else.
_EMPTY = 0.5


class CheckContext:
    """A recipe with its models, before anything is trained.

    Args:
        run_context: where it would run; its recipe is the one in question.
        student: the student before training.
        losses: the terms of the loss, set up with both models.
        teacher: the teacher as the recipe sets it up, where it is a model.
        num_logits: number of its logits, which may differ from the data's number of classes.
        images: how many training images are looked at, at the most.
        stored: the teacher's logits, where they were computed elsewhere.
        on_phase: is given what goes on, images done and images in all.

    Attributes:
        sample: training images, spread over the classes.
        test_sample: test images, half as many.
    """

    def __init__(
        self,
        run_context: RunContext,
        student: PreparedModel,
        losses: Sequence[Loss[Any]],
        teacher: PreparedModel | None,
        num_logits: int | None,
        *,
        images: int,
        stored: PrecomputedLogits | None = None,
        on_phase: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self.run_context = run_context
        self.recipe: Recipe = run_context.recipe
        self.student = student
        self.losses = list(losses)
        self._teacher = teacher
        self.stored = stored
        # Where no training image has a label, the test images say how right the teacher is.
        data = run_context.data
        self.sample: SplitSample = draw_sample(data.train if data.train.labelled else data.test, images)
        self.test_sample: SplitSample = draw_sample(run_context.data.test, max(images // 2, 1))
        self.num_classes = run_context.data.train.num_classes
        self.num_logits = num_logits or self.num_classes
        self.queries = TeacherQueries(run_context, self.sample, self.num_classes, lambda: self.output_form, on_phase)

    @property
    def task(self) -> Task:
        """What the labels are."""
        return self.run_context.data.train.task

    @property
    def unit(self) -> Unit:
        """What a sample of the data is called."""
        return self.run_context.data.train.unit

    @property
    def teacher_losses(self) -> list[Loss[Any]]:
        """The terms of the loss that read the teacher."""
        return [term for term in self.losses if term.requires.teacher]

    @property
    def label_losses(self) -> list[Loss[Any]]:
        """The terms of the loss that read labels alone."""
        return [term for term in self.losses if term.requires.labels and not term.requires.teacher]

    def require_distillation(self) -> None:
        """Go on only where a term of the loss reads the teacher; Skip where none does."""
        if self.recipe.teacher is None:
            raise Skip("The recipe has no teacher.")
        if not self.teacher_losses:
            raise Skip("No loss term reads a teacher.")

    def option_path(self, term: Loss[Any], option: str) -> str:
        """The dotted recipe path of an option of a term of the loss."""
        position = self.losses.index(term)
        # The recipe names a user's own loss by its module; losses that were passed as objects may not be in it.
        configs = self.recipe.losses
        if position >= len(configs):
            configs = tuple(each.config for each in self.losses)
        return option_path(configs, position, option)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.recipe.training.total_steps(self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training images."""
        batches = BatchSampler(len(self.run_context.data.train), self.recipe.data.batch_size, self.recipe.seed)
        return batches.steps_per_epoch

    @lazy
    def teacher(self) -> PreparedModel:
        """The teacher as the recipe sets it up."""
        if self._teacher is not None:
            return self._teacher
        config = self.recipe.teacher
        if config is None:
            raise Skip("The recipe has no teacher.")
        if config.embeddings:
            raise Skip("The teacher gives embeddings, no logits.")
        if config.changes:
            raise Skip("The teacher changes with the student: before training there is nothing to judge.")
        raise Skip(f"The teacher's logits are read from a file ({config.logits}); there is no model to run.")

    @property
    def stored_rows(self) -> npt.NDArray[np.int64]:
        """The rows of the stored logits that belong to the sample."""
        train = self.run_context.data.train
        return self.sample.rows if train.subset_info is None else train.subset_info.rows[self.sample.rows]

    @lazy
    def stored_outputs(self) -> Tensor:
        """What is stored for the sample in its first view, in whatever form."""
        assert self.stored is not None
        return self.stored.logits(0, self.stored_rows)

    @lazy
    def stored_logits(self) -> Tensor:
        """The stored logits of the sample in the data's class order, float32 [n, K]."""
        return self.in_order(self.stored_outputs)

    @lazy
    def stored_test_logits(self) -> Tensor:
        """The stored logits of the test images that are looked at, in the data's class order, float32 [m, K]."""
        found = self.stored.test_logits() if self.stored is not None else None
        if found is None:
            raise Skip("There are no stored logits of test $images: the folder has no test-logits.npy.")
        return self.in_order(found[torch.from_numpy(self.test_sample.rows)])

    def in_order(self, outputs: Tensor) -> Tensor:
        """Stored outputs as logits, in the data's class order."""
        return self.repaired_setup.reorder(self.queries.as_logits(outputs))

    @lazy
    def original_setup(self) -> TeacherSetup:
        """The teacher's input and class order as the recipe has them."""
        if self.stored is not None:
            logits = self.queries.as_logits(self.stored_outputs)
            return TeacherSetup(TeacherVariant(self.queries, nn.Identity(), None, logits), None, nn.Identity())
        teacher = self.teacher
        config = teacher.preprocess_config
        order = None
        if config is not None and config.class_order is not None:
            if (known := known_classes(config)) is not None:
                raise Skip(f"The teacher knows {len(known)} of the {self.num_classes} classes: it is not scored.")
            order = class_index(config.class_order)
        elif self.num_logits != self.num_classes:
            order = torch.empty(0, dtype=torch.int64)
        self.queries.channels_last = teacher.channels_last
        model = self.queries.prepare(teacher.model, config)
        return TeacherSetup(TeacherVariant(self.queries, model, without_class_order(config)), order, teacher.model)

    @lazy
    def output_form(self) -> OutputForm:
        """Whether the teacher gives logits, or what becomes of them."""
        if self.stored is not None:
            return form_of(self.stored_outputs[:64])
        variant = self.original_setup.variant
        return form_of(self.queries.outputs(variant.model, variant.preprocess, self.sample.images[:64], ""))

    @lazy
    def repair(self) -> InputRepair:
        """What is wrong with the teacher's input and class order, each cause once."""
        return repair_input(self.queries, self.original_setup)

    @lazy
    def repaired_setup(self) -> TeacherSetup:
        """The teacher after the remedies of what was found; the checks that follow judge this one."""
        return self.repair.repaired

    @lazy
    def teacher_logits(self) -> Tensor:
        """Logits of the repaired teacher for the sample, float32 [n, K]."""
        setup = self.repaired_setup
        logits = self._finite(setup.reorder(setup.variant.logits(len(self.sample))))
        if self.stored is not None and bool(is_constant(logits).double().mean() > _EMPTY):
            raise Skip("Most stored logits are empty; see stale_answers.")
        return logits

    @lazy
    def test_logits(self) -> Tensor:
        """Logits of the repaired teacher for the test images, float32 [m, K]."""
        if self.stored is not None:
            return self._finite(self.stored_test_logits)
        return self.logits_for(self.test_sample.images, f"test {self.unit.many}")

    @lazy
    def test_outputs(self) -> Tensor:
        """The teacher's outputs for the test images that are looked at, as the recipe has it, float32 [m, K]."""
        if self.stored is None:
            images, prepared = self.test_sample.images, self.teacher
            preprocess = prepared.preprocess().to(self.run_context.device)
            return predict(prepared.model, preprocess, images, device=self.run_context.device)
        found = self.stored.test_logits()
        if found is None:
            raise Skip("There are no stored outputs of test $images: the folder has no test-logits.npy.")
        return found[torch.from_numpy(self.test_sample.rows)]

    @lazy
    def accuracy(self) -> float:
        """Accuracy of the repaired teacher on the sample."""
        return float((self.teacher_logits.argmax(1) == self.sample.labels).double().mean())

    def logits_for(self, images: Tensor, what: str, *, check_finite: bool = True) -> Tensor:
        """Logits of the repaired teacher for any images, float32 [n, K]."""
        self.require_model()
        setup = self.repaired_setup
        images = setup.variant.rewrite(images)
        logits = self.queries.logits(setup.variant.model, setup.variant.preprocess, images, what)
        logits = setup.reorder(logits)
        return self._finite(logits) if check_finite else logits

    def logits_for_views(self, augmentation: AugmentationConfig, count: int) -> Tensor:
        """Logits for the sample's first images, each in another view, float32 [count, K]."""
        train = self.run_context.data.train
        rows = self.sample.rows[:count]
        index = rows if train.subset_info is None else train.subset_info.rows[rows]
        views = augmentation.different_views or 4
        augmented = torch.empty_like(self.sample.images[:count])
        for view in range(views):
            places = np.arange(view, count, views)
            chosen = torch.from_numpy(places)
            if len(places):
                images = self.sample.images[chosen]
                augmented[chosen] = augment_batch(images, index[places], augmentation, view, train.tokens)
        return self.logits_for(augmented, f"augmented {self.unit.many}")

    def require_model(self) -> None:
        """Go on only where the teacher is a model; Skip where its logits are all that there is."""
        _ = self.teacher

    def require_class_order(self) -> None:
        """Go on only where it is known which logit means which class; Skip where it is not."""
        order = self.repaired_setup.class_order
        if order is not None and not len(order):
            raise Skip(
                f"The teacher gives {self.num_logits:,} logits for {self.num_classes:,} classes; see class_order."
            )

    def _finite(self, logits: Tensor) -> Tensor:
        self.require_class_order()
        if not bool(logits.isfinite().all()):
            raise Skip("The teacher's logits are not finite.")
        return logits

    @lazy
    def setup_context(self) -> SetupContext:
        """Teacher and student as losses are set up with them."""
        return setup_context_of(self.run_context, self.student, self.teacher)

    @lazy
    def costs(self) -> dict[str, tuple[int, int]]:
        """Parameters, and multiply-adds of one image, of teacher and student."""
        found = {}
        for name, model in (("teacher", self.teacher), ("student", self.student)):
            example = model.preprocess()(self.sample.images[:1]).to(self.run_context.device)
            found[name] = (parameters(model.model), multiply_adds(model.model, example))
        return found

    @lazy
    def loss_trial(self) -> GradientNorms:
        """The loss terms before training: their gradients, or which of them cannot be computed."""
        return measure_gradients(self.run_context, self.sample, self.student, self.losses, self._teacher_output)

    @property
    def gradients(self) -> GradientNorms:
        """Gradient norms of the loss terms before training; Skip where a term cannot be computed."""
        if self.loss_trial.problem is not None:
            raise Skip(f"The loss cannot be computed: {self.loss_trial.faulty}; see loss_finite.")
        return self.loss_trial

    def _teacher_output(self, count: int) -> ModelOutput | None:
        if not self.teacher_losses:
            return None
        if self.task != "single_label" and self.stored is not None:
            return ModelOutput(self.stored_outputs[:count].to(self.run_context.device))
        if self.task != "single_label" or (
            self.stored is None and known_classes(self.teacher.preprocess_config) is not None
        ):
            return all_of_teacher(self.run_context, self.sample, self.losses, self.teacher, count)
        if not reads_features(self.losses):
            logits = self.teacher_logits[:count].to(self.run_context.device)
            return logits_of_teacher(self.run_context, self.sample, self.losses, logits)
        setup = self.repaired_setup
        # With batch norms as they are, to read features.
        is_unchanged = setup.variant.preprocess is None and setup.class_order is None
        preprocess = None if is_unchanged else self.repaired_preprocess
        teacher = replace(self.teacher, model=setup.model, preprocess_config=preprocess)
        return all_of_teacher(self.run_context, self.sample, self.losses, teacher, count)

    @property
    def repaired_preprocess(self) -> PreprocessConfig:
        """The preprocess of the repaired teacher as numbers, its class order in it."""
        data, setup = self.run_context.data.train, self.repaired_setup
        config = explicit_preprocess(setup.variant.preprocess, data.channels, is_pixels=data.is_pixels)
        has_order = setup.class_order is not None and len(setup.class_order)
        order = setup.class_order.tolist() if setup.class_order is not None and has_order else None
        if order is not None and isinstance(order[0], list):
            order = [[column for column in columns if column >= 0] for columns in order]
        # As a recipe's: one column where there is one.
        return PreprocessConfig.model_validate({**config.model_dump(), "class_order": order})

    def preprocess_override(self) -> dict[str, Any]:
        """The repaired teacher's preprocess as an override: by name where it has one, else as numbers."""
        data, wanted = self.run_context.data.train, self.repaired_preprocess
        channels, is_pixels = data.channels, data.is_pixels
        name: PreprocessName
        for name in ("imagenet", "half", "unit", "none"):
            if (name == "imagenet" and channels != 3) or (name == "unit" and not is_pixels):
                continue
            named = resolve_preprocess(name, channels=channels, is_pixels=is_pixels)
            if explicit_preprocess(named, channels, is_pixels=is_pixels) == wanted:
                return {"teacher.preprocess": name}
        return {"teacher.preprocess": wanted.model_dump(mode="json", exclude_defaults=True)}


def is_constant(logits: Tensor) -> Tensor:
    """Which rows give every class the same, as rows of zeros do: bool [n]."""
    return logits.amax(1) - logits.amin(1) < 1e-6


def form_of(outputs: Tensor) -> OutputForm:
    """What outputs look like: nothing below 0 and sums of 1 are probabilities, else nothing outside 0 … 1 is sigmoids.

    >>> [form_of(torch.tensor([row])) for row in ([0.2, 0.8], [0.2, 0.9], [-0.2, 0.9])]
    ['probabilities', 'sigmoids', 'logits']
    """
    rows = outputs.double()
    if not bool((rows >= 0).all()):
        return "logits"
    # Half precision has three digits.
    if bool(((rows.sum(1) - 1).abs() < 1e-2).all()):
        return "probabilities"
    # A model that gives 0 for everything is another matter.
    return "sigmoids" if bool((rows <= 1).all()) and bool((rows > 0).any()) else "logits"


def open_context(
    recipe: Recipe, *, images: int, observer: Observer | None = None, components: RunComponents | None = None
) -> CheckContext:
    """Build what a recipe names and try it on the data, as a run does before it begins.

    What a run would refuse is refused, except for what a check can explain.

    Args:
        recipe: what would be run.
        images: how many training images are looked at, at the most.
        observer: is given the progress.
        components: the objects that the recipe names; built from it where left out.

    Raises:
        BadInput: a run would refuse the recipe, and no check can say more than that.
    """
    observer = observer or Observer()
    device = resolve_device(recipe.training.device)
    if components is None:
        observer.phase("reading the data", 0, 1)
        try:
            data = load(recipe.data)
        finally:
            observer.phase("reading the data", 1, 1)
        components = gather_components(recipe, data, observer.note)
    recipe, components = reuse_head(recipe, components)
    train = components.data.train
    check_augmentable(train, recipe.data.augmentation)
    student = prepare_model(components.student.to(device), recipe.student, train, "student")
    training = resolve_precision(recipe.training, device, components.student)
    run_context = RunContext(
        recipe=recipe,
        data=components.data,
        device=device,
        precision=written_out(training.precision),
        of_frozen_teachers=written_out(training.teacher_precision),
        processes=Processes(),
        observer=Observer(),
    )
    teacher, num_logits = None, None
    if recipe.teacher is not None and "teacher" in components.teachers and recipe.model_teachers:
        teacher, num_logits = _prepare_teacher(components.teachers["teacher"].to(device), recipe.teacher, train)
    seen = {"teacher": teacher} if teacher is not None else {}
    if recipe.teacher is not None and recipe.teacher.changes:
        seen = {"teacher": as_teacher(student)}
    elif recipe.teacher is not None and recipe.teacher.embeddings:
        seen = prepare_teachers(run_context, components)
    setup_losses(components.losses, run_context, student, seen)
    reads_teacher = any(term.requires.teacher for term in components.losses)
    if reads_teacher and recipe.teacher is None:
        raise BadInput("teacher", None, "a model: a loss reads its outputs")
    uses_cache(recipe, components.losses, train)
    stored = None
    if recipe.teacher is not None and recipe.teacher.logits is not None:
        stored = PrecomputedLogits(
            recipe.teacher,
            runtime=run_context,
            data=components.data,
            augmentation=recipe.data.augmentation,
            cache=recipe.cache,
        )
    return CheckContext(
        run_context,
        student,
        components.losses,
        teacher,
        num_logits,
        images=images,
        stored=stored,
        on_phase=observer.phase,
    )


def gather_components(recipe: Recipe, data: DataPair, note: Note) -> RunComponents:
    """All that the recipe names; a teacher whose weights are for other classes keeps all of its logits."""
    try:
        return build_components(recipe, data, note)
    except BadInput as error:
        other = _of_other_classes(recipe, data.train) if error.field == "teacher.weights" else None
        if other is None:
            raise
        return replace(build_components(recipe.model_copy(update={"teacher": None}), data), teachers={"teacher": other})


def _of_other_classes(recipe: Recipe, data: ImageSet) -> nn.Module | None:
    """The teacher with as many logits as its weights are for; None where that is not what is wrong with them."""
    config = recipe.teacher
    if config is None or config.weights is None:
        return None
    size = getattr(config.preprocess, "size", None) or data.image_size

    def made(classes: int) -> nn.Module:
        return build(config, num_classes=classes, in_channels=data.channels, image_size=size)

    try:
        path = weights_file(config, "teacher")
        state = read_state(path, field="teacher.weights")
        for num_logits in _other_heads(made(data.num_classes), state, data.num_classes):
            model = made(num_logits)
            key, prefix = config.weights_key, config.weights_prefix
            load_weights(model, path, field="teacher", key=key, prefix=prefix)
            return model
    except BadInput:
        return None
    return None


def _other_heads(model: nn.Module, state: dict[str, Tensor], classes: int) -> list[int]:
    """The number of logits that a file's tensors are for, where they differ from the model's in that alone."""
    found: list[int] = []
    for name, tensor in model.state_dict().items():
        others = (t for key, t in state.items() if key == name or key.endswith(f".{name}"))
        other = next(others, None)
        if other is None or not tensor.dim() or other.dim() != tensor.dim() or len(tensor) != classes:
            continue
        if other.shape[1:] == tensor.shape[1:] and len(other) != classes:
            found.append(len(other))
    return list(dict.fromkeys(found)) if len(set(found)) == 1 else []


def _prepare_teacher(model: nn.Module, config: ModelConfig, data: ImageSet) -> tuple[PreparedModel, int]:
    """The teacher tried on two images, and the number of its logits, which may be of other classes.

    Raises:
        BadInput: it fails on the images.
    """
    prepared = with_layout(model, config, data, "teacher")
    preprocess = prepared.preprocess_config
    try:
        return prepare_model(model, config, data, "teacher"), _num_logits(prepared, data)
    except BadInput:
        try:
            num_logits = _num_logits(prepared, data)
        except Exception:  # the first error says it
            num_logits = data.num_classes
        if num_logits == data.num_classes or (preprocess is not None and preprocess.class_order is not None):
            raise
        return prepared, num_logits


def _num_logits(prepared: PreparedModel, data: ImageSet) -> int:
    logits = prepared.try_on(data.images[:2])
    return int(logits.shape[1]) if logits.dim() == 2 else data.num_classes
