"""Recipes with one fault each; its details are drawn by kind and seed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clinic_setups import Content, Kinds, SetupMaker, last_layer, norms
from torch import Tensor

from stillroom.recipe import load_recipe
from stillroom.run.run import prepare

KINDS = Kinds()
ALL = "digits cifar10 cifar100-part fashion-mnist"


def with_teacher(maker: SetupMaker, teacher: Content, *overrides: str) -> Path:
    """The correct recipe with another teacher."""
    return maker.written({**maker.recipe(*overrides), "teacher": teacher})


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


def wrapped(maker: SetupMaker, name: str, **options: Any) -> Content:
    """The teacher within one of the clinic's own models."""
    own = maker.changed(maker.teacher(), within, "wrapped")
    return {
        **own,
        "name": f"clinic_models:{name}",
        "options": {"model": own["name"], **options, **own.get("options", {})},
    }


@KINDS.faulty("wrong normalisation", "teacher_normalisation", worlds=ALL)
def _(maker: SetupMaker) -> Path:
    if maker.colours == 3:
        wrong: Any = maker.draw.choice(["none", "unit", {"mean": [0.5] * 3, "std": [1.0] * 3}])
    else:
        wrong = maker.draw.choice(["none", {"mean": [-1.0], "std": [0.1]}, {"mean": [0.9], "std": [0.1]}])
    return with_teacher(maker, {**maker.teacher(), "preprocess": wrong})


@KINDS.faulty("pixels twice normalised", "teacher_normalisation", worlds=ALL)
def _(maker: SetupMaker) -> Path:
    # (x/255 − m)/s taken for x/255, and once more by 255.
    c = maker.colours
    factor = maker.draw.choice([0.02, 0.05]) * 255
    wrong = {"mean": [0.45 * factor / 255] * c, "std": [0.24 * factor] * c}
    return with_teacher(maker, {**maker.teacher(), "preprocess": wrong})


@KINDS.faulty("channels the wrong way round", "teacher_channel_order", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    if maker.is_digits:
        # A teacher of the red, given blue for red.
        data = {"path": maker.coloured(), "batch_size": 64}
        name, options = maker.teacher()["name"], maker.teacher()["options"]
        own = {"name": "clinic_models:one_colour", "options": {"model": name, "channel": 0, **options}}
        teacher = maker.teacher(student={**own, "preprocess": "half"}, data=data)
        wrong = {"mean": [0.5] * 3, "std": [0.5] * 3, "channel_order": "bgr"}
        content = {**maker.recipe(), "data": data, "teacher": {**teacher, "preprocess": wrong}}
        content["student"]["preprocess"] = "half"
        return maker.written(content)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    if maker.draw.random() < 0.5:
        mean, std = mean[::-1], std[::-1]
    return with_teacher(maker, {**maker.teacher(), "preprocess": {"mean": mean, "std": std, "channel_order": "bgr"}})


@KINDS.faulty("wrong size", "teacher_resize", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    teacher = maker.teacher()
    size = maker.draw.choice([16, 24] if maker.is_digits else [16, 48, 64])
    shown = {"mean": [0.5], "std": [0.5]}
    if not maker.is_digits:
        shown = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return with_teacher(maker, {**teacher, "preprocess": {**shown, "size": size}})


@KINDS.faulty("size left out", "teacher_resize")
def _(maker: SetupMaker) -> Path:
    size = maker.draw.choice([16, 32])
    own = maker.teacher()
    shown = {"mean": [0.5], "std": [0.5], "size": size}
    model = {"name": own["name"], "options": own["options"], "preprocess": shown}
    teacher = maker.teacher(student=model, training__epochs=6)
    return with_teacher(maker, {**teacher, "preprocess": "half"})


@KINDS.faulty("drifted batch norm", "teacher_batch_norm", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    shift, scale = maker.draw.uniform(0.8, 1.6), maker.draw.choice([0.3, 3.0, 5.0])

    def change(state: dict[str, Tensor]) -> None:
        for name in norms(state):
            state[f"{name}.running_mean"] += shift * state[f"{name}.running_var"].sqrt()
            state[f"{name}.running_var"] *= scale

    return with_teacher(maker, maker.changed(maker.teacher(), change, "drifted"))


@KINDS.faulty("batch norm statistics never kept", "teacher_batch_norm", "teacher_accuracy", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        for name in norms(state):
            state[f"{name}.running_mean"].zero_()
            state[f"{name}.running_var"].fill_(1.0)

    return with_teacher(maker, maker.changed(maker.teacher(), change, "reset"))


@KINDS.faulty("teacher in training mode", "teacher_batch_norm", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return with_teacher(maker, wrapped(maker, "training_mode"))


@KINDS.faulty("classes in another order", "class_order", worlds="digits cifar10 cifar100-part fashion-mnist")
def _(maker: SetupMaker) -> Path:
    order = list(range(maker.classes))
    maker.draw.shuffle(order)
    return with_teacher(maker, maker.changed(maker.teacher(), reordered(order), "shuffled"))


@KINDS.faulty("two classes exchanged", "class_order", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    order = list(range(maker.classes))
    one, other = maker.draw.sample(order, 2)
    order[one], order[other] = other, one
    return with_teacher(maker, maker.changed(maker.teacher(), reordered(order), "exchanged"))


@KINDS.faulty("more logits than classes", "class_order", worlds="digits")
def _(maker: SetupMaker) -> Path:
    order = [*range(maker.classes), *[-1] * maker.draw.choice([1, 2, 5])]
    if maker.draw.random() < 0.5:
        maker.draw.shuffle(order)
    return with_teacher(maker, maker.changed(maker.teacher(), reordered(order), "wide"))


@KINDS.faulty("teacher trained with label smoothing", "teacher_label_smoothing", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    smoothing = maker.draw.choice([0.1, 0.15, 0.2, 0.3])
    return with_teacher(maker, maker.teacher(losses=[{"name": "label_smoothing", "smoothing": smoothing}]))


@KINDS.faulty("over-confident teacher", "teacher_confidence", "temperature", worlds=ALL)
def _(maker: SetupMaker) -> Path:
    factor = {"digits": 4, "cifar10": 4, "cifar100-part": 8, "fashion-mnist": 8}[maker.world] * maker.draw.uniform(
        1, 1.5
    )
    teacher = maker.changed(maker.teacher(), sharper(factor), "sharp")
    return with_teacher(maker, teacher, "losses.kl.temperature=1")


@KINDS.faulty(
    "99% teacher, temperature 1, weight .9", "teacher_confidence", "temperature", complaint="a", worlds="digits cifar10"
)
def _(maker: SetupMaker) -> Path:
    teacher = maker.teacher()
    if maker.is_digits:
        none = {"pad_crop": 0}
        teacher = maker.teacher(data__augmentation=none, training__epochs=40, training__optimizer={"weight_decay": 0.0})
    return with_teacher(maker, teacher, "losses.kl.temperature=1")


@KINDS.faulty("temperature too low", "temperature", "teacher_confidence", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    tau = maker.draw.choice([0.1, 0.2, 0.25])
    return maker.written(maker.recipe(f"losses.kl.temperature={tau}"))


@KINDS.faulty("temperature too high", "temperature", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    tau = maker.draw.choice([100, 200, 1000])
    return maker.written(maker.recipe(f"losses.kl.temperature={tau}"))


@KINDS.faulty("labels drowned by a weight of hundreds", "loss_balance", complaint="b", worlds=ALL)
def _(maker: SetupMaker) -> Path:
    weight = maker.draw.choice([300, 300, 500])
    return maker.written(maker.recipe("losses.cross_entropy.weight=1", f"losses.kl.weight={weight}"))


@KINDS.faulty("teacher starved", "loss_balance", worlds=ALL)
def _(maker: SetupMaker) -> Path:
    weight = maker.draw.choice([0.0003, 0.001, 0.002])
    return maker.written(maker.recipe("losses.cross_entropy.weight=1", f"losses.kl.weight={weight}"))


@KINDS.faulty("features starved", "loss_balance", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    terms = [{"name": "cross_entropy"}, {"name": "feature_mse", "weight": maker.draw.choice([1e-4, 1e-5])}]
    return maker.written({**maker.recipe(), "losses": terms})


@KINDS.faulty("capacity gap", "capacity_gap", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    tiny = [{"name": "mlp", "options": {"hidden": [1]}}, {"name": "resnet8", "options": {"width": 1}}]
    if not maker.is_digits:
        tiny = [{"name": "resnet8", "options": {"width": 1}}, {"name": "resnet8", "options": {"width": 2}}]
    teacher = (
        maker.teacher(student={"name": "resnet20", "options": {"width": 16}}) if maker.is_digits else maker.teacher()
    )
    return maker.written({**maker.recipe(), "teacher": teacher, "student": maker.draw.choice(tiny)})


@KINDS.faulty("features too narrow to compare", "penultimate_width", worlds="digits cifar100-part")
def _(maker: SetupMaker) -> Path:
    width = maker.draw.choice([2, 3] if maker.is_digits else [4, 8, 16])
    student = {"name": "resnet8", "options": {"penultimate": width, **({"width": 4} if maker.is_digits else {})}}
    terms = [{"name": "cross_entropy"}, {"name": "feature_mse", "taps": "features"}]
    return maker.written({**maker.recipe(), "student": student, "losses": terms})


@KINDS.faulty("features too narrow for the logits", "penultimate_width", worlds="digits cifar100-part")
def _(maker: SetupMaker) -> Path:
    width = maker.draw.choice([2, 3] if maker.is_digits else [4, 8, 16])
    student: Content = {
        "name": "resnet8",
        "options": {"penultimate": width, **({"width": 4} if maker.is_digits else {})},
    }
    if maker.is_digits and maker.seed % 2:
        student = {"name": "mlp", "options": {"hidden": [32, width]}}
    return maker.written({**maker.recipe(), "student": student})


@KINDS.faulty("taps mispaired", "taps", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    pairs = maker.draw.choice(
        [
            [{"teacher": "layer3", "student": "layer1"}],
            [{"teacher": "layer1", "student": "layer3"}],
            [{"teacher": "layer1", "student": "layer2"}, {"teacher": "layer2", "student": "layer1"}],
        ]
    )
    terms = [{"name": "cross_entropy"}, {"name": "feature_mse", "taps": pairs}]
    student = {"name": "resnet8", "options": {"width": 4}} if maker.is_digits else {"name": "resnet8"}
    return maker.written({**maker.recipe(), "student": student, "losses": terms})


@KINDS.faulty("cache damaged", "stale_cache")
def _(maker: SetupMaker) -> Path:
    path = maker.written(maker.recipe("cache.enabled=true"))
    kept = _kept(maker, path)
    for file in kept.rglob("*.bin"):
        held = bytearray(file.read_bytes())
        for place in range(maker.draw.randrange(64), len(held), 4096):
            held[place] ^= 255
        file.write_bytes(held)
    return path


@KINDS.faulty("cache of a model whose code has changed", "stale_cache")
def _(maker: SetupMaker) -> Path:
    mark = maker.case / "changed"
    mark.unlink(missing_ok=True)
    teacher = {**wrapped(maker, "marked", mark=str(mark)), "preprocess": {"mean": [0.5], "std": [0.5]}}
    path = with_teacher(maker, teacher, "cache.enabled=true")
    _kept(maker, path)
    mark.touch()
    return path


def _kept(maker: SetupMaker, path: Path) -> Path:
    """Have the answers kept, in a cache of the case's own."""
    cache = maker.case / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["STILLROOM_CACHE"] = str(cache)
    prepare(load_recipe(path))
    return cache


@KINDS.faulty("labels disputed", "disputed_labels", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    share, step = maker.draw.choice([0.25, 0.3, 0.4]), maker.draw.randrange(1, 9)

    def wrong(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if split == "test":
            return images, labels
        hit = np.random.default_rng(maker.seed).random(len(labels)) < share
        return images, np.where(hit, (labels + step) % 10, labels)

    folder = maker.grey(f"disputed-{maker.seed}", wrong)
    content = maker.recipe()
    content["data"] = {**{k: v for k, v in content["data"].items() if k != "source"}, "path": folder}
    return maker.written(content)


@KINDS.faulty("untrained teacher", "teacher_accuracy", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(maker.seed)
        for key, value in state.items():
            if key.endswith("weight") and value.dim() > 1:
                state[key] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5

    return with_teacher(maker, maker.changed(maker.teacher(), change, "random"))


@KINDS.faulty("softmax inside the teacher", "teacher_logits", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return with_teacher(maker, wrapped(maker, "probabilities"))


@KINDS.faulty("rate that blows up", "learning_rate", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    optimizer = maker.draw.choice(
        [{"lr": 3.0}, {"lr": 10.0}, {"name": "adamw", "lr": 0.3}, {"lr": 0.5, "momentum": 0.99}]
    )
    return maker.written(maker.recipe(f"training.optimizer={optimizer}"))


@KINDS.faulty("rate that moves nothing", "learning_rate", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    optimizer = maker.draw.choice([{"lr": 1e-5}, {"lr": 3e-5}, {"name": "adamw", "lr": 3e-7}])
    return maker.written(maker.recipe(f"training.optimizer={optimizer}"))


@KINDS.faulty("decay that forgets", "learning_rate", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    decay = maker.draw.choice([0.02, 0.05, 0.1])
    return maker.written(maker.recipe(f"training.optimizer.weight_decay={decay}"))


@KINDS.faulty("too few steps", "budget", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    steps = maker.draw.choice([5, 10, 15])
    return maker.written(maker.recipe("training.epochs=null", f"training.steps={steps}"))


@KINDS.faulty("augmentation that the teacher never saw", "augmentation", worlds="digits cifar10 fashion-mnist")
def _(maker: SetupMaker) -> Path:
    if maker.is_digits:
        change = maker.draw.choice(["{cutout: 6}", "{pad_crop: 4}", "{cutout: 5, pad_crop: 2}"])
    elif maker.world == "cifar10":
        change = maker.draw.choice(["{cutout: 24}", "{pad_crop: 20}"])
    else:
        change = maker.draw.choice(["{cutout: 20}", "{pad_crop: 14}"])
    return maker.written(maker.recipe(f"data.augmentation={change}"))


@KINDS.faulty(
    "ShuffleNet under a ResNet far too large and sure",
    "capacity_gap",
    "teacher_confidence",
    "temperature",
    complaint="c",
    worlds="digits cifar10",
)
def _(maker: SetupMaker) -> Path:
    teacher = maker.teacher()
    if maker.is_digits:
        large = {"name": "resnet20", "options": {"width": 24}}
        teacher = maker.teacher(student=large, data__augmentation={"pad_crop": 0}, training__epochs=25)
    student = {"name": "clinic_models:shufflenet", "options": {"width": maker.draw.choice([8, 4])}}
    return maker.written({**maker.recipe("losses.kl.temperature=1"), "teacher": teacher, "student": student})
