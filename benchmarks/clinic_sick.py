"""Recipes that are sick, one thing each; what exactly, is drawn by kind and seed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clinic_kinds import Kinds
from clinic_ward import Content, Ward, last_layer, norms
from torch import Tensor

from stillroom.recipe import load_recipe
from stillroom.run.run import prepare

KINDS = Kinds()
ALL = "digits cifar10 cifar100-part fashion-mnist"


def with_teacher(ward: Ward, teacher: Content, *overrides: str) -> Path:
    """The healthy recipe with another teacher."""
    return ward.written({**ward.recipe(*overrides), "teacher": teacher})


def sharper(factor: float) -> Any:
    """The same answers, surer."""

    def change(state: dict[str, Tensor]) -> None:
        name = last_layer(state)
        state[f"{name}.weight"] *= factor
        state[f"{name}.bias"] *= factor

    return change


def reordered(order: list[int]) -> Any:
    """The last layer in another order; −1 is a class of no image."""

    def change(state: dict[str, Tensor]) -> None:
        name = last_layer(state)
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        rows = torch.tensor(order).clamp_min(0)
        none = torch.tensor([place < 0 for place in order])
        state[f"{name}.weight"] = torch.where(none[:, None], 0.0, weight[rows])
        state[f"{name}.bias"] = torch.where(none, -20.0, bias[rows])

    return change


def within(state: dict[str, Tensor]) -> None:
    """The names that a model's weights have within another."""
    for key in list(state):
        state[f"inner.{key}"] = state.pop(key)


def wrapped(ward: Ward, name: str, **options: Any) -> Content:
    """The teacher within one of the clinic's own models."""
    own = ward.changed(ward.teacher(), within, "wrapped")
    return {
        **own,
        "name": f"clinic_models:{name}",
        "options": {"model": own["name"], **options, **own.get("options", {})},
    }


@KINDS.sick("wrong normalisation", "teacher_normalisation", worlds=ALL)
def _(ward: Ward) -> Path:
    if ward.colours == 3:
        wrong: Any = ward.draw.choice(["none", "unit", {"mean": [0.5] * 3, "std": [1.0] * 3}])
    else:
        wrong = ward.draw.choice(["none", {"mean": [-1.0], "std": [0.1]}, {"mean": [0.9], "std": [0.1]}])
    return with_teacher(ward, {**ward.teacher(), "preprocess": wrong})


@KINDS.sick("pixels twice normalised", "teacher_normalisation", worlds=ALL)
def _(ward: Ward) -> Path:
    # (x/255 − m)/s taken for x/255, and once more by 255.
    c = ward.colours
    factor = ward.draw.choice([0.02, 0.05]) * 255
    wrong = {"mean": [0.45 * factor / 255] * c, "std": [0.24 * factor] * c}
    return with_teacher(ward, {**ward.teacher(), "preprocess": wrong})


@KINDS.sick("channels the wrong way round", "teacher_channel_order", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    if ward.is_digits:
        # A teacher of the red, given blue for red.
        data = {"path": ward.coloured(), "batch_size": 64}
        name, options = ward.teacher()["name"], ward.teacher()["options"]
        own = {"name": "clinic_models:one_colour", "options": {"model": name, "channel": 0, **options}}
        teacher = ward.teacher(student={**own, "preprocess": "half"}, data=data)
        wrong = {"mean": [0.5] * 3, "std": [0.5] * 3, "channel_order": "bgr"}
        content = {**ward.recipe(), "data": data, "teacher": {**teacher, "preprocess": wrong}}
        content["student"]["preprocess"] = "half"
        return ward.written(content)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    if ward.draw.random() < 0.5:
        mean, std = mean[::-1], std[::-1]
    return with_teacher(ward, {**ward.teacher(), "preprocess": {"mean": mean, "std": std, "channel_order": "bgr"}})


@KINDS.sick("wrong size", "teacher_resize", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    teacher = ward.teacher()
    size = ward.draw.choice([16, 24] if ward.is_digits else [16, 48, 64])
    shown = {"mean": [0.5], "std": [0.5]}
    if not ward.is_digits:
        shown = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return with_teacher(ward, {**teacher, "preprocess": {**shown, "size": size}})


@KINDS.sick("size left out", "teacher_resize")
def _(ward: Ward) -> Path:
    size = ward.draw.choice([16, 32])
    own = ward.teacher()
    shown = {"mean": [0.5], "std": [0.5], "size": size}
    model = {"name": own["name"], "options": own["options"], "preprocess": shown}
    teacher = ward.teacher(student=model, training__epochs=6)
    return with_teacher(ward, {**teacher, "preprocess": "half"})


@KINDS.sick("drifted batch norm", "teacher_batch_norm", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    shift, scale = ward.draw.uniform(0.8, 1.6), ward.draw.choice([0.3, 3.0, 5.0])

    def change(state: dict[str, Tensor]) -> None:
        for name in norms(state):
            state[f"{name}.running_mean"] += shift * state[f"{name}.running_var"].sqrt()
            state[f"{name}.running_var"] *= scale

    return with_teacher(ward, ward.changed(ward.teacher(), change, "drifted"))


@KINDS.sick("batch norm statistics never kept", "teacher_batch_norm", "teacher_accuracy", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        for name in norms(state):
            state[f"{name}.running_mean"].zero_()
            state[f"{name}.running_var"].fill_(1.0)

    return with_teacher(ward, ward.changed(ward.teacher(), change, "reset"))


@KINDS.sick("teacher in training mode", "teacher_batch_norm", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return with_teacher(ward, wrapped(ward, "training_mode"))


@KINDS.sick("classes in another order", "class_order", worlds="digits cifar10 cifar100-part fashion-mnist")
def _(ward: Ward) -> Path:
    order = list(range(ward.classes))
    ward.draw.shuffle(order)
    return with_teacher(ward, ward.changed(ward.teacher(), reordered(order), "shuffled"))


@KINDS.sick("two classes exchanged", "class_order", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    order = list(range(ward.classes))
    one, other = ward.draw.sample(order, 2)
    order[one], order[other] = other, one
    return with_teacher(ward, ward.changed(ward.teacher(), reordered(order), "exchanged"))


@KINDS.sick("more logits than classes", "class_order", worlds="digits")
def _(ward: Ward) -> Path:
    order = [*range(ward.classes), *[-1] * ward.draw.choice([1, 2, 5])]
    if ward.draw.random() < 0.5:
        ward.draw.shuffle(order)
    return with_teacher(ward, ward.changed(ward.teacher(), reordered(order), "wide"))


@KINDS.sick("teacher trained with label smoothing", "teacher_label_smoothing", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    smoothing = ward.draw.choice([0.1, 0.15, 0.2, 0.3])
    return with_teacher(ward, ward.teacher(losses=[{"name": "label_smoothing", "smoothing": smoothing}]))


@KINDS.sick("over-confident teacher", "teacher_confidence", "temperature", worlds=ALL)
def _(ward: Ward) -> Path:
    factor = {"digits": 4, "cifar10": 4, "cifar100-part": 8, "fashion-mnist": 8}[ward.world] * ward.draw.uniform(1, 1.5)
    teacher = ward.changed(ward.teacher(), sharper(factor), "sharp")
    return with_teacher(ward, teacher, "losses.kl.temperature=1")


@KINDS.sick(
    "99% teacher, temperature 1, weight .9", "teacher_confidence", "temperature", complaint="a", worlds="digits cifar10"
)
def _(ward: Ward) -> Path:
    teacher = ward.teacher()
    if ward.is_digits:
        none = {"pad_crop": 0}
        teacher = ward.teacher(data__augmentation=none, training__epochs=40, training__optimizer={"weight_decay": 0.0})
    return with_teacher(ward, teacher, "losses.kl.temperature=1")


@KINDS.sick("temperature too low", "temperature", "teacher_confidence", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    tau = ward.draw.choice([0.1, 0.2, 0.25])
    return ward.written(ward.recipe(f"losses.kl.temperature={tau}"))


@KINDS.sick("temperature too high", "temperature", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    tau = ward.draw.choice([100, 200, 1000])
    return ward.written(ward.recipe(f"losses.kl.temperature={tau}"))


@KINDS.sick("labels drowned by a weight of hundreds", "loss_balance", complaint="b", worlds=ALL)
def _(ward: Ward) -> Path:
    weight = ward.draw.choice([300, 300, 500])
    return ward.written(ward.recipe("losses.cross_entropy.weight=1", f"losses.kl.weight={weight}"))


@KINDS.sick("teacher starved", "loss_balance", worlds=ALL)
def _(ward: Ward) -> Path:
    weight = ward.draw.choice([0.0003, 0.001, 0.002])
    return ward.written(ward.recipe("losses.cross_entropy.weight=1", f"losses.kl.weight={weight}"))


@KINDS.sick("features starved", "loss_balance", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    terms = [{"name": "cross_entropy"}, {"name": "feature_mse", "weight": ward.draw.choice([1e-4, 1e-5])}]
    return ward.written({**ward.recipe(), "losses": terms})


@KINDS.sick("capacity gap", "capacity_gap", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    tiny = [{"name": "mlp", "options": {"hidden": [1]}}, {"name": "resnet8", "options": {"width": 1}}]
    if not ward.is_digits:
        tiny = [{"name": "resnet8", "options": {"width": 1}}, {"name": "resnet8", "options": {"width": 2}}]
    teacher = ward.teacher(student={"name": "resnet20", "options": {"width": 16}}) if ward.is_digits else ward.teacher()
    return ward.written({**ward.recipe(), "teacher": teacher, "student": ward.draw.choice(tiny)})


@KINDS.sick("features too narrow to compare", "penultimate_width", worlds="digits cifar100-part")
def _(ward: Ward) -> Path:
    width = ward.draw.choice([2, 3] if ward.is_digits else [4, 8, 16])
    student = {"name": "resnet8", "options": {"penultimate": width, **({"width": 4} if ward.is_digits else {})}}
    terms = [{"name": "cross_entropy"}, {"name": "feature_mse", "taps": "features"}]
    return ward.written({**ward.recipe(), "student": student, "losses": terms})


@KINDS.sick("features too narrow for the logits", "penultimate_width", worlds="digits cifar100-part")
def _(ward: Ward) -> Path:
    width = ward.draw.choice([2, 3] if ward.is_digits else [4, 8, 16])
    student: Content = {
        "name": "resnet8",
        "options": {"penultimate": width, **({"width": 4} if ward.is_digits else {})},
    }
    if ward.is_digits and ward.seed % 2:
        student = {"name": "mlp", "options": {"hidden": [32, width]}}
    return ward.written({**ward.recipe(), "student": student})


@KINDS.sick("taps mispaired", "taps", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    pairs = ward.draw.choice(
        [
            [{"teacher": "layer3", "student": "layer1"}],
            [{"teacher": "layer1", "student": "layer3"}],
            [{"teacher": "layer1", "student": "layer2"}, {"teacher": "layer2", "student": "layer1"}],
        ]
    )
    terms = [{"name": "cross_entropy"}, {"name": "feature_mse", "taps": pairs}]
    student = {"name": "resnet8", "options": {"width": 4}} if ward.is_digits else {"name": "resnet8"}
    return ward.written({**ward.recipe(), "student": student, "losses": terms})


@KINDS.sick("cache damaged", "stale_cache")
def _(ward: Ward) -> Path:
    path = ward.written(ward.recipe("cache.enabled=true"))
    kept = _kept(ward, path)
    for file in kept.rglob("*.bin"):
        held = bytearray(file.read_bytes())
        for place in range(ward.draw.randrange(64), len(held), 4096):
            held[place] ^= 255
        file.write_bytes(held)
    return path


@KINDS.sick("cache of a model whose code has changed", "stale_cache")
def _(ward: Ward) -> Path:
    mark = ward.case / "changed"
    mark.unlink(missing_ok=True)
    teacher = {**wrapped(ward, "marked", mark=str(mark)), "preprocess": {"mean": [0.5], "std": [0.5]}}
    path = with_teacher(ward, teacher, "cache.enabled=true")
    _kept(ward, path)
    mark.touch()
    return path


def _kept(ward: Ward, path: Path) -> Path:
    """Have the answers kept, in a cache of the case's own."""
    cache = ward.case / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["STILLROOM_CACHE"] = str(cache)
    prepare(load_recipe(path))
    return cache


@KINDS.sick("labels disputed", "disputed_labels", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    share, step = ward.draw.choice([0.25, 0.3, 0.4]), ward.draw.randrange(1, 9)

    def wrong(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if split == "test":
            return images, labels
        hit = np.random.default_rng(ward.seed).random(len(labels)) < share
        return images, np.where(hit, (labels + step) % 10, labels)

    folder = ward.grey(f"disputed-{ward.seed}", wrong)
    content = ward.recipe()
    content["data"] = {**{k: v for k, v in content["data"].items() if k != "source"}, "path": folder}
    return ward.written(content)


@KINDS.sick("untrained teacher", "teacher_accuracy", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(ward.seed)
        for key, value in state.items():
            if key.endswith("weight") and value.dim() > 1:
                state[key] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5

    return with_teacher(ward, ward.changed(ward.teacher(), change, "random"))


@KINDS.sick("softmax inside the teacher", "teacher_logits", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return with_teacher(ward, wrapped(ward, "probabilities"))


@KINDS.sick("rate that blows up", "learning_rate", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    optimizer = ward.draw.choice(
        [{"lr": 3.0}, {"lr": 10.0}, {"name": "adamw", "lr": 0.3}, {"lr": 0.5, "momentum": 0.99}]
    )
    return ward.written(ward.recipe(f"training.optimizer={optimizer}"))


@KINDS.sick("rate that moves nothing", "learning_rate", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    optimizer = ward.draw.choice([{"lr": 1e-5}, {"lr": 3e-5}, {"name": "adamw", "lr": 3e-7}])
    return ward.written(ward.recipe(f"training.optimizer={optimizer}"))


@KINDS.sick("decay that forgets", "learning_rate", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    decay = ward.draw.choice([0.02, 0.05, 0.1])
    return ward.written(ward.recipe(f"training.optimizer.weight_decay={decay}"))


@KINDS.sick("too few steps", "budget", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    steps = ward.draw.choice([5, 10, 15])
    return ward.written(ward.recipe("training.epochs=null", f"training.steps={steps}"))


@KINDS.sick("augmentation that the teacher never saw", "augmentation", worlds="digits cifar10 fashion-mnist")
def _(ward: Ward) -> Path:
    if ward.is_digits:
        change = ward.draw.choice(["{cutout: 6}", "{pad_crop: 4}", "{cutout: 5, pad_crop: 2}"])
    elif ward.world == "cifar10":
        change = ward.draw.choice(["{cutout: 24}", "{pad_crop: 20}"])
    else:
        change = ward.draw.choice(["{cutout: 20}", "{pad_crop: 14}"])
    return ward.written(ward.recipe(f"data.augmentation={change}"))


@KINDS.sick(
    "ShuffleNet under a ResNet far too large and sure",
    "capacity_gap",
    "teacher_confidence",
    "temperature",
    complaint="c",
    worlds="digits cifar10",
)
def _(ward: Ward) -> Path:
    teacher = ward.teacher()
    if ward.is_digits:
        large = {"name": "resnet20", "options": {"width": 24}}
        teacher = ward.teacher(student=large, data__augmentation={"pad_crop": 0}, training__epochs=25)
    student = {"name": "clinic_models:shufflenet", "options": {"width": ward.draw.choice([8, 4])}}
    return ward.written({**ward.recipe("losses.kl.temperature=1"), "teacher": teacher, "student": student})
