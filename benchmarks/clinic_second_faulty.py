"""Recipes with one fault each, by an author who has not seen the checks; details are drawn by kind and seed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from clinic_models import zoo
from clinic_setups import Content, Kinds, SetupMaker, _png, last_layer, norms
from torch import Tensor

from stillroom.data.config import DataConfig
from stillroom.data.sources import load
from stillroom.recipe import load_recipe
from stillroom.run.run import prepare

KINDS = Kinds(cohort=2)
CE: Content = {"name": "cross_entropy"}


def taught_by(maker: SetupMaker, teacher: Content, *overrides: str) -> Path:
    """The world's recipe with another teacher."""
    return maker.written({**maker.recipe(*overrides), "teacher": teacher})


def on(maker: SetupMaker, folder: str, **parts: Any) -> Content:
    """The world's recipe on the data of a folder."""
    data = {key: value for key, value in maker.data.items() if key != "source"}
    return {**maker.recipe(), "data": {**data, "path": folder}, **parts}


def stored(maker: SetupMaker, name: str, change: Callable[[Tensor], Tensor]) -> str:
    """A folder of the world's coloured images, of digits the coloured ones, after a change of [N, 3, H, W]."""
    folder = maker.folder / "data" / f"{maker.world}-{name}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        own = {"path": maker.coloured()} if maker.is_digits else maker.data
        pair = load(DataConfig(**{key: value for key, value in own.items() if key != "augmentation"}))
        for split, images in (("train", pair.train), ("test", pair.test)):
            pixels = change(images.images[0 : len(images)]).permute(0, 2, 3, 1).contiguous().numpy()
            rows = [{"bytes": _png(image), "path": None} for image in pixels]
            table = pa.table({"img": rows, "label": pa.array(images.labels.tolist(), pa.int64())})
            pq.write_table(table, folder / f"{split}.parquet")
        (folder / "done").touch()
    return str(folder)


def within(state: dict[str, Tensor]) -> None:
    """The names that a model's weights have within another."""
    for key in list(state):
        state[f"inner.{key}"] = state.pop(key)


def around(maker: SetupMaker, name: str, **options: Any) -> Content:
    """The teacher within one of the fresh models."""
    own = maker.changed(maker.teacher(), within, f"within-{name}")
    return {
        **own,
        "name": f"clinic_models:{name}",
        "options": {"model": own["name"], **options, **own.get("options", {})},
    }


def head(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[dict[str, Tensor]], None]:
    """A change of the last layer's (weight, bias)."""

    def changed(state: dict[str, Tensor]) -> None:
        name = last_layer(state)
        state[f"{name}.weight"], state[f"{name}.bias"] = change(state[f"{name}.weight"], state[f"{name}.bias"])

    return changed


def taught_by_changed(maker: SetupMaker, change: Callable[[dict[str, Tensor]], None], *overrides: str) -> Path:
    """The world's recipe with the world's teacher, whose weights are changed."""
    return taught_by(maker, maker.changed(maker.teacher(), change, "changed"), *overrides)


def pruned(share: float) -> Callable[[dict[str, Tensor]], None]:
    """Of each layer, so many of the smallest weights are gone."""

    def change(state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            if value.dim() > 1:
                state[key] = torch.where(value.abs() < value.abs().flatten().quantile(share), 0.0, value)

    return change


@KINDS.faulty("head of the teacher never loaded", "teacher_accuracy", "class_order", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    drawn = torch.Generator().manual_seed(maker.draw.randrange(1000))

    def change(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        bound = weight.shape[1] ** -0.5
        return (2 * torch.rand(weight.shape, generator=drawn) - 1) * bound, torch.zeros_like(bias)

    return taught_by_changed(maker, head(change))


@KINDS.faulty(
    "costs for scores", "class_order", "teacher_accuracy", "teacher_logits", worlds="digits cifar10 cifar100-part"
)
def _(maker: SetupMaker) -> Path:
    # The exported model gives what a class costs: the right one least.
    factor = maker.draw.choice([1.0, 0.5])
    return taught_by_changed(maker, head(lambda weight, bias: (-factor * weight, -factor * bias)))


@KINDS.faulty("bright for dark", "teacher_normalisation", "teacher_accuracy", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    return maker.written(on(maker, maker.grey("inverted", lambda split, images, labels: (255 - images, labels))))


@KINDS.faulty("pictures lying on their side", "teacher_accuracy", worlds="digits cifar10 cifar100-part fashion-mnist")
def _(maker: SetupMaker) -> Path:
    # Read by columns, or with what the camera noted of its hold left out.
    way = maker.draw.choice(["read by columns", "turned left", "turned right"])

    def turned(images: np.ndarray) -> np.ndarray:
        if way == "read by columns":
            return np.ascontiguousarray(images.swapaxes(-1, -2))
        return np.rot90(images, 1 if way == "turned left" else 3, (-2, -1)).copy()

    name = way.replace(" ", "-")
    if maker.colours == 3:
        return maker.written(on(maker, stored(maker, name, lambda images: torch.from_numpy(turned(images.numpy())))))
    return maker.written(on(maker, maker.grey(name, lambda split, images, labels: (turned(images), labels))))


@KINDS.faulty("each class by itself", "teacher_logits", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return taught_by(maker, around(maker, "sigmoid"))


@KINDS.faulty("the same answer to every image", "teacher_logits", "teacher_accuracy", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    where = maker.draw.choice(["first", "last"])

    def change(state: dict[str, Tensor]) -> None:
        layers = [key for key, value in state.items() if key.endswith("weight") and value.dim() > 1]
        state[layers[0 if where == "first" else -1]].zero_()

    return taught_by_changed(maker, change)


@KINDS.faulty("a variance below zero", "teacher_logits", "teacher_batch_norm", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        state[f"{maker.draw.choice(norms(state))}.running_var"][0] = -0.1

    return taught_by_changed(maker, change)


@KINDS.faulty("pruned, and never trained again", "teacher_accuracy", "teacher_batch_norm", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return taught_by_changed(maker, pruned(maker.draw.choice([0.93, 0.95])))


@KINDS.faulty("teacher of half the classes", "teacher_accuracy", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    known = [*maker.draw.sample(range(9), maker.draw.choice([3, 4])), 9]

    def half(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = np.isin(labels, known) | (split == "test")
        return images[keep], labels[keep]

    folder = maker.grey(f"half-{'-'.join(map(str, sorted(known)))}", half)
    return taught_by(maker, maker.teacher(data=on(maker, folder)["data"]))


@KINDS.faulty("batch norms that saw random numbers last", "teacher_batch_norm", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    # A trial pass before the export, in training mode.
    own, passes = maker.teacher(), maker.draw.choice([25, 30])
    ones = maker.draw.random() < 0.3

    def change(state: dict[str, Tensor]) -> None:
        model = zoo(own["name"], maker.classes, maker.colours, maker.side, **own.get("options", {}))
        model.load_state_dict(state, strict=False)
        drawn = torch.Generator().manual_seed(maker.seed)
        with torch.no_grad():
            for _ in range(passes):
                x = torch.randn(8, maker.colours, maker.side, maker.side, generator=drawn)
                model.train()(1 + 0.01 * x if ones else x)
        kept = dict(model.named_buffers())
        for key in [key for key in state if key in kept]:
            state[key] = kept[key].clone()

    return taught_by(maker, maker.changed(own, change, "random"))


@KINDS.faulty("variance for deviation", "teacher_normalisation", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    if maker.colours == 3:
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        return taught_by(maker, {**maker.teacher(), "preprocess": {"mean": mean, "std": [s**2 for s in std]}})
    own, (mean_1, std_1) = maker.teacher(), maker.draw.choice([(0.1307, 0.3081), (0.306, 0.25)])
    model = {"name": own["name"], "options": own["options"], "preprocess": {"mean": [mean_1], "std": [std_1]}}
    teacher = maker.teacher(student=model)
    return taught_by(maker, {**teacher, "preprocess": {"mean": [mean_1], "std": [std_1**2]}})


@KINDS.faulty("features that drown the labels", "loss_balance", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    terms = [CE, {"name": "feature_mse", "weight": maker.draw.choice([3e3, 1e4, 3e4])}]
    return maker.written({**maker.recipe(), "losses": terms})


@KINDS.faulty("teacher that comes when all is over", "loss_balance", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    late: Content = {"start": 0.0, "end": 0.9}
    late |= maker.draw.choice([{"shape": "step"}, {"begin": 0.99}, {"begin": 0.995, "shape": "cosine"}])
    terms = [CE, {"name": "kl", "weight": late, "temperature": 4}]
    return maker.written({**maker.recipe(), "losses": terms})


@KINDS.faulty("rate that drops at once", "learning_rate", "budget", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    # Milestones that were meant as other shares than they are.
    stones = maker.draw.choice([[0.01, 0.02], [0.006, 0.012], [0.005, 0.0075, 0.01]])
    schedule = {"name": "multi_step", "milestones": stones, "gamma": maker.draw.choice([0.01, 0.005])}
    return maker.written(maker.recipe(f"training.schedule={schedule}"))


@KINDS.faulty("gradient clipped to nothing", "learning_rate", worlds="digits cifar10 fashion-mnist")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"training.clip_norm={maker.draw.choice([1e-4, 3e-5, 1e-5])}"))


@KINDS.faulty("a limit for debugging left in", "budget", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"data.train_limit={maker.draw.choice([32, 48, 64])}", "data.batch_size=64"))


@KINDS.faulty("all images in one step", "budget", "learning_rate")
def _(maker: SetupMaker) -> Path:
    size = maker.draw.choice([1024, 1437])
    return maker.written(maker.recipe(f"data.batch_size={size}", f"training.epochs={maker.draw.choice([6, 8, 10])}"))


@KINDS.faulty("average of what was never learned", "regularisation", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"training.ema={maker.draw.choice([0.9998, 0.9999])}"))


@KINDS.faulty("nine of ten units dropped", "regularisation", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    options = {"hidden": maker.draw.choice([[64, 64], [48, 48]]), "dropout": maker.draw.choice([0.9, 0.92])}
    return maker.written({**maker.recipe(), "student": {"name": "mlp", "options": options}})


@KINDS.faulty("digits in the mirror", "augmentation")
def _(maker: SetupMaker) -> Path:
    flip = maker.draw.choice(["true", "alternate"])
    return maker.written(maker.recipe(f"data.augmentation.flip={flip}"))


@KINDS.faulty("labels a row too late", "disputed_labels", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    from_here = maker.draw.choice([0.5, 0.6, 0.65])

    def slipped(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = round(from_here * len(labels)) if split == "train" else len(labels)
        return images, np.concatenate([labels[:place], np.roll(labels[place:], 1)])

    terms = [{**CE, "weight": 0.5}, {"name": "kl", "weight": 0.5, "temperature": 4}]
    return maker.written(on(maker, maker.grey(f"slipped-{from_here}", slipped), losses=terms))


@KINDS.faulty("stored blue, green, red", "teacher_channel_order", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    content = on(maker, stored(maker, "bgr", lambda images: images.flip(1)))
    if maker.is_digits:
        own = maker.teacher()
        model = {"name": own["name"], "options": own["options"], "preprocess": "half"}
        content["teacher"] = maker.teacher(student=model, data={"path": maker.coloured(), "batch_size": 64})
        content["student"]["preprocess"] = "half"
    return maker.written(content)


@KINDS.faulty("features too few in a transformer", "penultimate_width", "capacity_gap", worlds="digits")
def _(maker: SetupMaker) -> Path:
    options = {"dim": maker.draw.choice([2, 3, 4]), "heads": 1, "depth": 1, "patch": 2}
    student = {"name": "vit_mini", "options": options}
    optimizer = {"name": "adamw", "lr": 5e-3, "weight_decay": 0.01}
    return maker.written({**maker.recipe(f"training.optimizer={optimizer}"), "student": student})


@KINDS.faulty("early features for late ones", "taps", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    # The student's first stage shall say what the teacher's last does, and its last what the first.
    name, weight = maker.draw.choice([("feature_mse", 1.0), ("feature_mse", 3.0)])
    taps = [{"teacher": "layer3", "student": "conv1"}, {"teacher": "conv1", "student": "layer3"}]
    student = {"name": "resnet8", "options": {"width": 4}} if maker.is_digits else {"name": "resnet8"}
    terms = [CE, {"name": name, "weight": weight, "taps": taps}]
    return maker.written({**maker.recipe(), "student": student, "losses": terms})


@KINDS.faulty("cache with empty pages", "stale_cache")
def _(maker: SetupMaker) -> Path:
    path = maker.written(maker.recipe("cache.enabled=true"))
    cache = maker.case / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["STILLROOM_CACHE"] = str(cache)
    prepare(load_recipe(path))
    share = maker.draw.choice([0.3, 0.5])
    for file in cache.rglob("*.bin"):
        # What a machine that lost its power leaves: the right length, and nothing in it from somewhere on.
        held = file.read_bytes()
        kept = round(len(held) * (1 - share))
        file.write_bytes(held[:kept] + bytes(len(held) - kept))
    return path


@KINDS.faulty("logits by direction alone", "teacher_confidence", "temperature", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    # A head that compares directions, as for faces, and multiplies by so much.
    return taught_by(maker, around(maker, "of_length", length=maker.draw.choice([48, 64])), "losses.kl.temperature=1")


@KINDS.faulty("softened twice", "temperature", "teacher_logits", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    # Exported with a division by a temperature in it, then softened once more.
    factor = maker.draw.choice([30.0, 50.0])
    return taught_by_changed(maker, head(lambda weight, bias: (weight / factor, bias / factor)))
