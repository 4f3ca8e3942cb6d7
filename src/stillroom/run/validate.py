"""Whether a run can be done as its recipe says, found out before anything is written or trained."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from stillroom.data.augmentation import check_augmentable
from stillroom.errors import BadInput, format_error
from stillroom.memory import Snapshot, is_out_of_memory
from stillroom.models.modes import copy_model
from stillroom.models.prepared import PreparedModel
from stillroom.run.build import RunParts
from stillroom.train.recorders import RecordWeightDistance


def validate(parts: RunParts) -> None:
    """Check the parts of a run against each other and against the recipe.

    Raises:
        BadInput: naming the option that does not fit.
    """
    training, processes, sampler = parts.recipe.training, parts.context.processes, parts.sampler
    names = [loss.name for loss in parts.losses]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput("losses", twice, "a name of its own for each loss: losses are logged by it")
    check_augmentable(parts.train, parts.recipe.data.augmentation)
    if parts.train.task == "regression" and parts.recipe.data.augmentation.changes:
        text = "augmentation changes the images and leaves their targets: right where these do not depend on it"
        parts.context.observer.note(text)
    check_mixing(parts)
    if not any(p.requires_grad for p in parts.student.model.parameters()):
        raise BadInput("student", parts.student.name, "a model with at least one trainable parameter")
    if sampler.batch_size % processes.count:
        expected = f"a multiple of the {processes.count} processes of the run"
        raise BadInput("data.batch_size", sampler.batch_size, expected)
    last_epoch = parts.total_steps // sampler.steps_per_epoch
    late = [epoch for epoch in training.checkpoints if epoch > last_epoch]
    if late:
        raise BadInput("training.checkpoints", late[0], f"epochs of the run, 0 … {last_epoch}")
    for hook in parts.hooks:
        if isinstance(hook, RecordWeightDistance):
            hook.check(parts.student.model)
    for model, field in _models(parts):
        check_single_image(model, parts.train.images[:1], field)
    parts.step.check_accumulation(training.accumulate)
    if training.compile:
        parts.step.check_compilable()


def check_mixing(parts: RunParts) -> None:
    """Refuse mixup and cutmix with what reads one label of an image.

    Raises:
        BadInput: naming the option, and the loss that does.
    """
    augmentation, train = parts.recipe.data.augmentation, parts.train
    if not augmentation.mixes:
        return
    name = "mixup" if augmentation.mixup else "cutmix"
    field, value = f"data.augmentation.{name}", getattr(augmentation, name)
    for loss in parts.losses:
        if loss.requires.labels and not loss.mixes_labels:
            expected = (
                f"0 with loss {loss.name}, which reads one label of each image where mixed ones have two; "
                "cross_entropy, label_smoothing and binary_cross_entropy weigh both"
            )
            raise BadInput(field, value, expected)
        if loss.requires.labels and train.labelled < len(train):
            raise BadInput(field, value, f"0: {len(train) - train.labelled} training images have no label to mix")
    if parts.recipe.training.record_gradient_rescaling:
        raise BadInput(field, value, "0 with training.record_gradient_rescaling: ω is of one label")
    if parts.recipe.incremental is not None:
        raise BadInput(field, value, "0 in class-incremental learning, whose tasks and exemplars go by one label")


def _models(parts: RunParts) -> Iterator[tuple[PreparedModel, str]]:
    yield parts.student, "student"
    for name, source in parts.teachers.items():
        if source.prepared is not None:
            yield source.prepared, parts.recipe.teacher_field(name)


def check_single_image(model: PreparedModel, image: Tensor, field: str) -> None:
    """Refuse a model that takes no batch of one, as its cost and latency are measured with one at the end.

    Args:
        model: the teacher or the student; its buffers are left as they are.
        image: a batch of one, as the data gives it.
        field: what messages call the model.

    Raises:
        BadInput: it fails.
    """
    buffers = Snapshot(model.model.buffers())
    try:
        model.try_on(image)
    except Exception as error:
        if is_out_of_memory(error):
            return
        expected = (
            f"a model that takes a single image in evaluation mode; it raised {format_error(error)}. Is a batch norm "
            "held in training mode, by train() in its forward?"
        )
        raise BadInput(field, model.name, expected) from None
    finally:
        buffers.restore()


def try_smallest_batch(parts: RunParts) -> bool:
    """Train a copy of the student on the smallest micro-batch once: batch norm, for one, refuses a batch of one.

    Returns:
        Whether the student has parameters that its logits do not depend on.

    Raises:
        BadInput: the student cannot train on so few images.
    """
    context, student = parts.context, parts.student
    count = max(parts.sampler.batch_size // context.processes.count // parts.recipe.training.accumulate, 1)
    images = student.preprocess().to(context.device)(parts.train.images[:count].to(context.device))
    trial = copy_model(student.model).train()
    try:
        trial(images).sum().backward()
    except Exception as error:
        if is_out_of_memory(error):
            return True
        expected = f"a model that can train on {count} images at once; it raised {format_error(error)}"
        raise BadInput("student", student.name, expected) from None
    return any(p.requires_grad and p.grad is None for p in trial.parameters())
