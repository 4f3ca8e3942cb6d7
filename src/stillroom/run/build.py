"""The parts of a run, made of a resolved recipe and its components: models, losses, teachers, the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.data.images import Images, ImageSet
from stillroom.data.loader import BatchLoader, BatchSampler
from stillroom.errors import BadInput, format_error, nearest
from stillroom.files import canonical_json, digest
from stillroom.losses.base import Loss
from stillroom.losses.registry import names_for_task
from stillroom.losses.setup_context import ModelInfo, SetupContext, TrainingSamples
from stillroom.models.modes import TrainedPart, device_of, train_only
from stillroom.models.prepared import PreparedModel, prepare_model, with_layout
from stillroom.models.preprocess import known_classes
from stillroom.models.reader import FEATURES
from stillroom.models.running_statistics import fresh_momentum
from stillroom.models.weights import state_hash
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents
from stillroom.run.context import RunContext
from stillroom.run.relations import ClassRelations, relations_of
from stillroom.runtime import Runtime
from stillroom.tasks import TASK_INFO, Task
from stillroom.teachers.class_means import find_class_means
from stillroom.teachers.config import TeacherConfig
from stillroom.teachers.embeddings import EmbeddingTeacher
from stillroom.teachers.ensemble import EnsembleSource
from stillroom.teachers.input_gradients import is_input_gradient
from stillroom.teachers.live import LiveTeacherSource
from stillroom.teachers.precomputed import PrecomputedLogits
from stillroom.teachers.source import Log, Teacher, TeacherRequest, TeacherSource
from stillroom.train.changing_teachers import FollowingTeacher, PeerTeacher, as_teacher
from stillroom.train.gradient_rescaling import RecordGradientRescaling
from stillroom.train.optimisation import OwnOptimisation
from stillroom.train.recorders import RecordWeightDistance, StepHook
from stillroom.train.step import DistillStep

# Images that taps are found on: more than one, as they are not to be all alike.
_EXAMPLES = 4


@dataclass(frozen=True)
class RunParts:
    """All parts of a run."""

    context: RunContext  # the resolved recipe and the data, on a runtime
    student: PreparedModel  # the model that learns
    losses: Sequence[Loss[Any]]  # the terms of the loss, set up
    teachers: Mapping[str, TeacherSource]  # of each teacher by its name, where its outputs come from
    sampler: BatchSampler  # which training images make each batch
    step: DistillStep  # student and losses as one module
    hooks: Sequence[StepHook]  # called after each step
    relations: ClassRelations | None  # of the student's classes, where it ends in a linear layer
    hashes: Mapping[str, str]  # ``init``, ``data`` and ``teacher``: what a save of the run belongs to
    # The user's optimizer and scheduler, where these are not the recipe's.
    optimisation: OwnOptimisation = field(default_factory=OwnOptimisation)
    custom: Mapping[str, str] = field(default_factory=dict)  # the classes of what the user's functions make
    trained: TrainedPart | None = None  # the part of the student that is trained, where it is not all of it
    norm_momentum: float | None = None  # the smallest of the student's batch norms that have seen no batch

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.context.recipe

    @property
    def train(self) -> ImageSet:
        """The training images."""
        return self.context.data.train

    @property
    def test(self) -> ImageSet:
        """The test images."""
        return self.context.data.test

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.recipe.training.total_steps(self.sampler.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Epochs of the run, one that is not whole counted."""
        return math.ceil(self.total_steps / self.sampler.steps_per_epoch)

    @property
    def teachers_read(self) -> dict[str, TeacherSource]:
        """Those of the teachers that a loss reads."""
        read = {name for loss, name in zip(self.losses, self.step.teacher_names, strict=True) if loss.requires.teacher}
        return {name: source for name, source in self.teachers.items() if name in read}

    def open_teachers(self, loader: BatchLoader, log: Log | None = None) -> dict[str, Teacher]:
        """The functions from a batch to the output of each teacher that a loss reads; builds missing caches."""
        read = self.teachers_read
        shared = {member for name in read for member in self.recipe.all_teachers[name].members or ()}
        found = {
            name: (source.shared_teacher if name in shared else source.training_teacher)(loader, self.epochs, log)
            for name, source in read.items()
            if not isinstance(source, PeerTeacher)
        }
        for name, teacher in found.items():
            mine = [loss for loss, of in zip(self.losses, self.step.teacher_names, strict=True) if of == name]
            found[name] = with_class_means(teacher, loader, self.train, mine)
        return found

    def loader(self) -> BatchLoader:
        """Gives the training batches."""
        data = self.recipe.data
        # What is read within the models has as many tokens in each batch: so it can be stored, and run on from.
        inner = {tap for loss in self.losses for tap in (*loss.requires.student_features, *loss.requires.tails)}
        # And so have the parts of a batch that processes put together.
        gathered = self.context.processes.count > 1 and bool(self.step.whole_batch_terms)
        full_length = gathered or bool(inner - {FEATURES})
        return BatchLoader(self.train, data.augmentation, self.context.device, data.workers, full_length=full_length)


def with_class_means(teacher: Teacher, loader: BatchLoader, train: ImageSet, losses: Sequence[Loss[Any]]) -> Teacher:
    """A teacher with its mean answers to each class, where some of its losses read them."""
    wanted = {each for loss in losses for each in loss.requires.class_means}
    if not wanted:
        return teacher
    means = find_class_means(teacher, loader, len(train), train.num_classes, wanted)
    return lambda batch: replace(teacher(batch), class_means=means)


def build(recipe: Recipe, components: RunComponents, runtime: Runtime, hooks: Sequence[StepHook] = ()) -> RunParts:
    """Make the parts of a run.

    Args:
        recipe: resolved.
        components: the objects that it names; the models move to the runtime's device.
        runtime: where the run takes place.
        hooks: the user's, before those of the recipe.

    Raises:
        BadInput: models, losses and data do not fit each other.
    """
    context = RunContext(
        **vars(runtime), recipe=recipe, data=components.data, num_teacher_classes=components.num_teacher_classes
    )
    train, test = components.data.train, components.data.test
    for name, part, own in (
        ("optimizer", recipe.training.optimizer, components.optimisation.optimizer),
        ("schedule", recipe.training.schedule, components.optimisation.scheduler),
    ):
        if part.name == "custom" and own is None:
            raise BadInput(f"training.{name}.name", "custom", "another: custom is what a run in Python was given")
    if recipe.training.patience is not None and components.data.validation is None:
        expected = "data.validation with it, such as 0.1: images to wait on that are neither learned from nor the test"
        raise BadInput("training.patience", recipe.training.patience, expected)
    runtime.processes.copy_weights(components.student.to(runtime.device))
    student = prepare_model(components.student, recipe.student, train, "student")
    models = prepare_teachers(context, components)
    for name, config in recipe.all_teachers.items():
        if config.follows_student:
            models[name] = as_teacher(student)
    check_task(components.losses, train.task)
    trained = None
    if recipe.training.train_only is not None:
        trained = train_only(student.model, recipe.training.train_only)
        context.observer.note(trained.text)
    names = teacher_names(components.losses, recipe)
    setup_losses(components.losses, context, student, models)
    hooks = [*hooks]
    if recipe.training.record_weight_distance:
        hooks.append(RecordWeightDistance(recipe.training.record_weight_distance))
    only = next(iter(models.values())) if len(models) == 1 and context.num_teacher_classes is None else None
    if only is not None and (_is_mapped(only) or not recipe.model_teachers):
        only = None
    relations = relations_of(student, only, train) if train.task == "single_label" else None
    check_labels(components.losses, recipe, train)
    watch: dict[str, Callable[..., None]] = {}
    if recipe.training.record_gradient_rescaling:
        # By the index that batches have: of a subset, that in the whole.
        truth = train.parent.truth
        rescaling = RecordGradientRescaling(components.losses, runtime.processes, truth.margin if truth else None)
        watch[rescaling.loss_name] = rescaling.see
        hooks.append(rescaling)
    step = DistillStep(
        student.model,
        components.losses,
        student.preprocess(),
        processes=runtime.processes,
        watch=watch,
        num_teacher_classes=context.num_teacher_classes,
        teacher_names=names,
        labelled_share=train.labelled / len(train),
        peers={name: models[name] for name, config in recipe.all_teachers.items() if config.learns},
        same_at_start=[name for name, config in recipe.all_teachers.items() if config.follows_student],
        frozen=trained.frozen if trained is not None else (),
    ).to(runtime.device)
    teachers = build_teachers(context, components.losses, models, student)
    hooks += [source for source in teachers.values() if isinstance(source, FollowingTeacher)]
    fingerprints = {name: source.fingerprint for name, source in teachers.items()}
    return RunParts(
        context=context,
        student=student,
        losses=components.losses,
        teachers=teachers,
        sampler=BatchSampler(
            len(train), recipe.data.batch_size, recipe.seed, train.lengths, balanced_labels(recipe, train)
        ),
        step=step,
        hooks=hooks,
        relations=relations,
        # Taken before training moves a weight: `init` is what every method of a seed must share.
        hashes={
            "init": components.init_hash or state_hash(student.model),
            "data": digest(train.fingerprint.encode(), test.fingerprint.encode()),
            "teacher": teachers_hash(fingerprints),
            **file_hashes({name: source.files for name, source in teachers.items()}),
        },
        optimisation=components.optimisation,
        custom=components.custom,
        trained=trained,
        norm_momentum=fresh_momentum(student.model, trained.frozen if trained is not None else ()),
    )


def balanced_labels(recipe: Recipe, train: ImageSet) -> npt.NDArray[np.int64] | None:
    """The class numbers that sampling balances, int64 [N]; None where it does not.

    Raises:
        BadInput: the images have no one class each.
    """
    if recipe.data.sampling == "shuffled":
        return None
    if train.task != "single_label" or train.labelled < len(train):
        got = train.task if train.task != "single_label" else f"{len(train) - train.labelled} images without a label"
        raise BadInput("data.sampling", "balanced", f"shuffled with {got}: it needs one class for each image")
    return train.labels.numpy()


def file_hashes(files: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The hash of each file of each teacher, by its name.

    >>> file_hashes({"a": {"train-logits.npy": "0a"}, "b": {}}), file_hashes({"a": {"x": "1"}, "b": {"x": "2"}})
    ({'train-logits.npy': '0a'}, {'a/x': '1', 'b/x': '2'})
    """
    several = sum(map(bool, files.values())) > 1
    return {f"{who}/{name}" if several else name: each for who, mine in files.items() for name, each in mine.items()}


def teachers_hash(fingerprints: Mapping[str, str]) -> str:
    """One hash of a run's teachers: that of the only one, or of all of them by their names."""
    if len(fingerprints) < 2:
        return next(iter(fingerprints.values()), "")
    return digest(canonical_json(dict(fingerprints)))


def prepare_teachers(context: RunContext, components: RunComponents) -> dict[str, PreparedModel]:
    """The teachers that are models, on the run's device, the same in every process.

    Raises:
        BadInput: one does not fit the data.
    """
    prepared = {}
    for name, config in context.recipe.all_teachers.items():
        model = components.teachers.get(name)
        if model is not None and config.is_network:
            context.processes.copy_weights(model.to(context.device))
            field = context.recipe.teacher_field(name)
            if config.embeddings:
                prepared[name] = _prepare_embeddings(model, config, context, field)
                continue
            prepared[name] = prepare_model(model, config, context.data.train, field, context.num_target_classes)
            columns = prepared[name].try_on(context.data.train.images[:2]).shape[1] if config.class_names else 0
            if config.class_names and len(config.class_names) != columns:
                expected = f"a name for each of the {columns} logits"
                raise BadInput(f"{field}.class_names", f"{len(config.class_names)} names", expected)
            known = known_classes(prepared[name].preprocess_config)
            if known is not None:
                names = context.data.train.class_names
                there = set(known.tolist())
                missing = [label for position, label in enumerate(names) if position not in there]
                listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
                context.observer.note(f"{field} knows {len(known)} of {len(names)} classes, not {listed}")
    return prepared


def _prepare_embeddings(model: nn.Module, config: TeacherConfig, context: RunContext, field: str) -> PreparedModel:
    """A teacher of embeddings, with a layer that stands for its logits.

    Raises:
        BadInput: it fails, or its output is not [B, d].
    """
    data = context.data.train
    prepared = with_layout(model, config, data, field)
    try:
        found = prepared.try_on(data.images[:2])
    except Exception as error:
        expected = f"a model that takes the data's images; it raised {format_error(error)}"
        raise BadInput(field, config.name, expected) from None
    if not isinstance(found, Tensor) or found.dim() != 2:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise BadInput(field, config.name, f"a model that gives embeddings [batch, d], not {got}")
    wrapped = EmbeddingTeacher(model, found.shape[1], data.num_classes).to(device_of(model))
    return replace(prepared, model=wrapped)


def check_reads_embeddings(loss: Loss[Any], field: str) -> None:
    """Refuse a loss that needs more of a teacher of embeddings than its features.

    Raises:
        BadInput: it reads logits, or runs the rest of the teacher.
    """
    requires = loss.requires
    reads_logits = not requires.teacher_features or loss.family in ("logits", "gradients")
    if reads_logits or requires.tails or requires.fishers or requires.input_gradient:
        expected = "a loss on features or relations alone: this teacher gives embeddings, no logits"
        raise BadInput(f"losses.{loss.name}", loss.name, f"{expected} ({field}.embeddings)")


def _lacks_classes(teacher: PreparedModel) -> bool:
    return known_classes(teacher.preprocess_config) is not None


def _is_mapped(teacher: PreparedModel) -> bool:
    """Whether a teacher lacks some of the data's classes, or has several columns for one."""
    config = teacher.preprocess_config
    return config is not None and any(not isinstance(each, int) for each in config.class_order or ())


def teacher_names(losses: Sequence[Loss[Any]], recipe: Recipe) -> list[str | None]:
    """Of each loss, the name of the teacher that it reads: the one that its config names, else the only one.

    Raises:
        BadInput: a loss requires a teacher and there is none, or it must say which; or it names one and reads none.
    """
    teachers, only = recipe.all_teachers, recipe.default_teacher
    names: list[str | None] = []
    for loss in losses:
        named, field = loss.config.teacher, f"losses.{loss.config.name}.teacher"
        if not loss.requires.teacher:
            if named is not None:
                raise BadInput(field, named, "none: this loss reads no teacher")
        elif not teachers:
            raise BadInput("teacher", None, f"a model: loss {loss.name!r} reads its answers")
        elif named is None and only is None:
            raise BadInput(field, None, f"the name of the teacher that it reads: one of {', '.join(teachers)}")
        if named is not None and named not in teachers:
            raise BadInput(field, named, nearest(named, teachers))
        names.append(named or only)
    return names


def setup_losses(
    losses: Sequence[Loss[Any]], context: RunContext, student: PreparedModel, teachers: Mapping[str, PreparedModel]
) -> None:
    """Let each loss see the student and its own teacher, and note which taps it has chosen.

    Raises:
        BadInput: one of them cannot be computed from these models.
    """
    contexts: dict[str | None, SetupContext] = {}
    for loss, name in zip(losses, teacher_names(losses, context.recipe), strict=True):
        if name not in contexts:
            contexts[name] = setup_context_of(context, student, teachers.get(name or ""), name)
        contexts[name].loss = f"loss {loss.name!r}"
        loss.setup(contexts[name])
        teacher = teachers.get(name or "")
        if teacher is not None and isinstance(teacher.model, EmbeddingTeacher) and loss.requires.teacher:
            check_reads_embeddings(loss, context.recipe.teacher_field(name or ""))
        lacks = teacher is not None and _lacks_classes(teacher)
        if context.num_teacher_classes is not None or lacks:
            check_partial_teacher(loss, indexed=lacks)
        if (line := loss.describe_taps()) is not None:
            context.observer.note(line)


def setup_context_of(
    context: RunContext, student: PreparedModel, teacher: PreparedModel | None, name: str | None = "teacher"
) -> SetupContext:
    """Student and teacher as losses see them at set-up: their taps, and which stand opposite each other."""
    config = context.recipe.all_teachers.get(name or "")
    known = known_classes(teacher.preprocess_config) if teacher is not None else None
    return SetupContext(
        model_info(student, context.data.train.images, "student"),
        model_info(teacher, context.data.train.images, "teacher") if teacher is not None else None,
        num_classes=context.num_target_classes if known is None else len(known),
        seed=context.recipe.seed,
        logits=config.logits if config is not None else None,
        members=tuple(config.members or ()) if config is not None else (),
        samples=_training_samples(context.data.train),
        task=context.data.train.task,
    )


def check_partial_teacher(loss: Loss[Any], *, indexed: bool = False) -> None:
    """Refuse a loss that cannot be computed with a teacher of only some of the classes.

    Args:
        loss: set up.
        indexed: a sample's index means the same image throughout.

    Raises:
        BadInput: it reads the teacher together with labels, some of which the teacher does not know, or with sample
            indices, which mean another image in each task.
    """
    requires, field = loss.requires, f"losses.{loss.name}"
    if requires.teacher and requires.labels:
        expected = "a term that does not set labels against the teacher's answer: it lacks some classes"
        option = loss.label_free_option
        hint = f" ({option[0]}: {option[1]} leaves the labels to another loss)" if option is not None else ""
        raise BadInput(field, loss.name, expected + hint)
    if requires.teacher and requires.index and not indexed:
        expected = "a term that does not go by a sample's index: in each task it means another image"
        raise BadInput(field, loss.name, expected)


def request_of(losses: Sequence[Loss[Any]]) -> TeacherRequest:
    """What some losses, once set up, require of one teacher."""
    requires = [loss.requires for loss in losses]
    return TeacherRequest(
        taps=tuple(tap for each in requires for tap in each.teacher_features),
        tails=tuple(tap for each in requires for tap in each.tails),
        heads=tuple(tap for each in requires for tap in each.heads),
        fishers=tuple(of for each in requires for of in each.fishers),
        fisher_means=tuple(of for each in requires for of in each.fisher_means),
    )


def build_teachers(
    context: RunContext, losses: Sequence[Loss[Any]], models: Mapping[str, PreparedModel], student: PreparedModel
) -> dict[str, TeacherSource]:
    """Of each teacher of the recipe, where its outputs come from.

    Args:
        context: with a resolved recipe.
        losses: set up.
        models: the teachers that are models.
        student: the model that learns.

    Raises:
        BadInput: a loss requires more of a teacher than its logits, and these are all that there is.
    """
    recipe = context.recipe
    names = teacher_names(losses, recipe)
    found: dict[str, TeacherSource] = {}
    for name, config in recipe.all_teachers.items():
        mine = [loss for loss, teacher in zip(losses, names, strict=True) if teacher == name]
        if config.members is not None:
            continue
        if config.changes:
            found[name] = _changing_teacher(context, config, name, mine, models[name], student)
            continue
        if config.is_model:
            if name not in models:
                raise BadInput(recipe.teacher_field(name), config.name, "its model among the components")
            found[name] = build_teacher(context, models[name], request_of(mine), name)
            continue
        for loss in mine:
            for tap in (*loss.requires.teacher_features, *loss.requires.tails):
                what = "input gradients" if is_input_gradient(tap) else f"features at {tap!r}"
                expected = f"a model: loss {loss.name!r} reads its {what}"
                raise BadInput(f"{recipe.teacher_field(name)}.logits", config.logits, expected)
        found[name] = PrecomputedLogits(
            config,
            runtime=context,
            data=context.data,
            augmentation=recipe.data.augmentation,
            cache=recipe.cache,
        )
    for name, config in recipe.all_teachers.items():
        if config.members is not None:
            members = {member: found[member] for member in config.members}
            for member in (each for each in members if found[each].changes or recipe.all_teachers[each].embeddings):
                expected = "teachers with logits that stay as they are"
                raise BadInput(f"{recipe.teacher_field(name)}.members", member, expected)
            for member in (each for each in members if each in models and _lacks_classes(models[each])):
                expected = "teachers that know all classes of the data: probabilities of some cannot be averaged"
                raise BadInput(f"{recipe.teacher_field(name)}.members", member, expected)
            for loss in (loss for loss, teacher in zip(losses, names, strict=True) if teacher == name):
                check_logits_alone(loss, f"{recipe.teacher_field(name)}.members", list(members))
            found[name] = EnsembleSource(
                members, config.members, config.mean_temperature or 1.0, context.data.train.task
            )
    return {name: found[name] for name in recipe.all_teachers}


def _changing_teacher(
    context: RunContext,
    config: TeacherConfig,
    name: str,
    losses: Sequence[Loss[Any]],
    model: PreparedModel,
    student: PreparedModel,
) -> TeacherSource:
    """A teacher that follows the student, or that learns with it.

    Raises:
        BadInput: a loss requires what changes with it, or of two students what is one's alone.
    """
    field, recipe = context.recipe.teacher_field(name), context.recipe
    for loss in losses:
        requires = loss.requires
        fixed = (*requires.tails, *requires.fishers, *requires.class_means)
        if fixed or (config.learns and (requires.teacher_features or next(loss.parameters(), None) is not None)):
            expected = "a loss on logits without parameters" if config.learns else "a loss on logits or features"
            why = "each of two students learns from the other" if config.learns else "the rest of the model changes"
            raise BadInput(f"losses.{loss.name}", loss.name, f"{expected}: {field} changes, and {why}")
    if config.learns:
        return PeerTeacher(model)
    steps = BatchSampler(len(context.data.train), recipe.data.batch_size, recipe.seed).steps_per_epoch
    taps = request_of(losses).taps
    return FollowingTeacher(student, config, taps=taps, runtime=context, steps_per_epoch=steps)


def check_task(losses: Sequence[Loss[Any]], task: Task) -> None:
    """Refuse losses that make no sense for what the labels are.

    Raises:
        BadInput: naming the loss, and those that do.
    """
    for loss in losses:
        if task not in loss.tasks:
            kind, info = type(loss).__module__, TASK_INFO[task]
            others = names_for_task(task)
            hint = "" if kind.startswith("stillroom.") else f"; a class of your own says so by tasks = ({task!r},)"
            expected = f"a loss of {info.title}, such as {', '.join(others[:3])}: {info.reason}{hint}"
            raise BadInput(f"losses.{loss.name}", loss.name, expected)
        if task == "regression" and getattr(loss.config, "centred", False):
            expected = "false: of numbers the mean over the targets is not a free offset, as of logits"
            raise BadInput(f"losses.{loss.name}.centred", True, expected)


def check_labels(losses: Sequence[Loss[Any]], recipe: Recipe, train: ImageSet) -> None:
    """Refuse what reads labels where no training image has one, or where ω would need them all.

    Raises:
        BadInput: naming the loss.
    """
    if train.labelled == len(train):
        return
    for loss in losses:
        if loss.requires.labels and loss.requires.input_gradient:
            expected = "none with unlabelled images: it takes the gradient of a batch's labels in all of its images"
            raise BadInput(f"losses.{loss.name}", loss.name, expected)
        if loss.requires.labels and not train.labelled:
            expected = f"a loss that reads the teacher alone: none of the {len(train)} training images has a label"
            raise BadInput(f"losses.{loss.name}", loss.name, expected)
    if recipe.training.record_gradient_rescaling:
        expected = f"false: ω needs the label of every image, and {len(train) - train.labelled} have none"
        raise BadInput("training.record_gradient_rescaling", True, expected)


def check_logits_alone(loss: Loss[Any], field: str, members: Sequence[str]) -> None:
    """Refuse a loss that requires more of a mean of teachers than its logits.

    Raises:
        BadInput: it reads features, or runs the rest of a model.
    """
    requires = loss.requires
    if more := (*requires.teacher_features, *requires.tails):
        expected = f"logits alone to be read, but loss {loss.name!r} reads features at {more[0]!r}: name a member"
        raise BadInput(field, members, expected)


def build_teacher(
    context: RunContext, prepared: PreparedModel, request: TeacherRequest, name: str = "teacher"
) -> LiveTeacherSource:
    """The teacher that a model is, with the recipe's options of its name."""
    recipe = context.recipe
    return LiveTeacherSource(
        prepared,
        recipe.all_teachers[name],
        request,
        runtime=context,
        data=context.data,
        augmentation=recipe.data.augmentation,
        cache=recipe.cache,
        num_teacher_classes=context.num_teacher_classes,
    )


def model_info(prepared: PreparedModel, images: Images, field: Literal["teacher", "student"]) -> ModelInfo:
    """One of the two models as losses see it, tried on some of the training images."""

    def sample(count: int) -> Tensor:
        return prepared.inputs(images[:: max(len(images) // count, 1)])[:count]

    return ModelInfo(prepared.model, lambda: prepared.inputs(images[:_EXAMPLES]), field, sample)


def _training_samples(train: ImageSet) -> TrainingSamples:
    whole = torch.arange(len(train))
    index = whole if train.subset_info is None else torch.from_numpy(train.subset_info.rows)
    return TrainingSamples(len(train.parent), index, train.labels)
