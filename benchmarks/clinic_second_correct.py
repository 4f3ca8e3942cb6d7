"""Recipes in which nothing is wrong, by an author who has not seen the checks; each looks odd in some way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from clinic_second_faulty import around, head, on, pruned, taught_by, taught_by_changed
from clinic_setups import Content, Kinds, SetupMaker, last_layer
from safetensors.torch import save_file
from torch import Tensor

from stillroom.files import atomic_write
from stillroom.models.weights import read_state

KINDS = Kinds(cohort=2)
ALL = "digits cifar10 cifar100-part fashion-mnist"


@KINDS.correct("batches in four parts, clipped", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"training.accumulate={maker.draw.choice([2, 4])}", "training.clip_norm=5"))


@KINDS.correct("drops at a half and three quarters", worlds="digits cifar10 fashion-mnist")
def _(maker: SetupMaker) -> Path:
    schedule = maker.draw.choice(
        [{"name": "multi_step", "milestones": [0.5, 0.75]}, {"name": "cosine", "warmup": 0.1}, {"name": "cosine"}]
    )
    return maker.written(maker.recipe(f"training.schedule={schedule}", "training.optimizer.lr=0.05"))


@KINDS.correct("logits that are all far from zero", worlds=ALL)
def _(maker: SetupMaker) -> Path:
    # What is added to all of them changes no answer.
    offset = maker.draw.choice([-25.0, 25.0, 40.0])
    return taught_by_changed(maker, head(lambda weight, bias: (weight, bias + offset)))


@KINDS.correct("weights large before each norm", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if ".conv" in f".{key}" and key.endswith(".weight")]:
            norm = key.removesuffix(".weight").replace("conv", "bn")
            factor = maker.draw.choice([4.0, 10.0, 20.0])
            state[key] *= factor
            state[f"{norm}.running_mean"] *= factor
            state[f"{norm}.running_var"] *= factor**2

    return taught_by_changed(maker, change)


@KINDS.correct("weights kept in half precision", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            if value.is_floating_point():
                state[key] = value.half().float()

    return taught_by_changed(maker, change)


@KINDS.correct("pruned with care", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return taught_by_changed(maker, pruned(maker.draw.choice([0.1, 0.15])))


@KINDS.correct("student with dropout", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    options = {"hidden": [maker.draw.choice([96, 128])], "dropout": maker.draw.choice([0.1, 0.2])}
    return maker.written({**maker.recipe("training.epochs=20"), "student": {"name": "mlp", "options": options}})


@KINDS.correct("small batches at a small rate", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"data.batch_size={maker.draw.choice([16, 24])}", "training.optimizer.lr=0.03"))


@KINDS.correct("dark on bright, or dim, for the teacher too")
def _(maker: SetupMaker) -> Path:
    how = maker.draw.choice(["inverted", "dim"])

    def change(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (255 - images if how == "inverted" else images // 3), labels

    content = on(maker, maker.grey(how, change))
    return maker.written({**content, "teacher": maker.teacher(data=content["data"])})


@KINDS.correct("images sorted by class", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    def ordered(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(labels, kind="stable")
        return images[order], labels[order]

    return maker.written(on(maker, maker.grey("sorted", ordered)))


@KINDS.correct("few images, many epochs, a teacher of all")
def _(maker: SetupMaker) -> Path:
    limit = maker.draw.choice([400, 500])
    return maker.written(maker.recipe(f"data.train_limit={limit}", "data.batch_size=32", "training.epochs=40"))


@KINDS.correct("steps for epochs", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    steps = maker.draw.choice([350, 500] if maker.is_digits else [1500, 2000])
    return maker.written(maker.recipe("training.epochs=null", f"training.steps={steps}"))


@KINDS.correct("student taken up again")
def _(maker: SetupMaker) -> Path:
    student = maker.teacher(student=maker.student(), seed=3000 + maker.seed)
    content = maker.recipe("training.optimizer.lr=0.02", f"training.epochs={maker.draw.choice([8, 10])}")
    return maker.written({**content, "student": student})


@KINDS.correct("two teachers in one", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    if maker.is_digits:
        one, two = maker.teacher(), maker.teacher(seed=2000 + maker.seed)
    else:
        one, two = ({"name": name, "weights": f"weights/{name}-cifar10.th"} for name in ("resnet20", "resnet56"))
    state = {}
    for place, model in (("one", one), ("two", two)):
        own = read_state(model["weights"]).items()
        state |= {f"{place}.{key.removeprefix('module.')}": value.clone() for key, value in own}
    path = maker.case / "two.safetensors"
    with atomic_write(path) as temporary:
        save_file(state, temporary)
    options = {"model": one["name"], "other": two["name"], **one.get("options", {})}
    teacher = {"name": "clinic_models:two", "weights": str(path), "options": options}
    return taught_by(maker, teacher)


@KINDS.correct("teacher that looks three times", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    return taught_by(maker, around(maker, "shifts"))


@KINDS.correct("student that sees the images larger", worlds="digits")
def _(maker: SetupMaker) -> Path:
    student = {"name": "resnet8", "options": {"width": 4}}
    shown = {"mean": [0.5], "std": [0.5], "size": maker.draw.choice([12, 16])}
    return maker.written({**maker.recipe(), "student": {**student, "preprocess": shown}})


@KINDS.correct("each model its own normalisation", worlds="digits cifar10 cifar100-part fashion-mnist")
def _(maker: SetupMaker) -> Path:
    c = maker.colours
    shown = maker.draw.choice(["unit", {"mean": [0.4] * c, "std": [0.25] * c}])
    content = maker.recipe()
    return maker.written({**content, "student": {**content["student"], "preprocess": shown}})


@KINDS.correct("features just wide enough")
def _(maker: SetupMaker) -> Path:
    options: Content = {"width": 5, "penultimate": maker.draw.choice([14, 16])}
    return maker.written({**maker.recipe("training.epochs=20"), "student": {"name": "resnet8", "options": options}})


@KINDS.correct("fresh views, nothing kept", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe("data.augmentation.views=0", "training.epochs=20"))


@KINDS.correct("a teacher whose units stand in another order", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    # The features before the last layer, and its columns with them: the same function.
    def change(state: dict[str, Tensor]) -> None:
        name = last_layer(state)
        drawn = torch.Generator().manual_seed(maker.seed)
        blocks = sorted({key.rsplit(".", 2)[0] for key in state if key.startswith("layer")})
        # Within a block: what its first convolution gives, its second takes.
        for block in blocks:
            order = torch.randperm(len(state[f"{block}.bn1.weight"]), generator=drawn)
            state[f"{block}.conv1.weight"] = state[f"{block}.conv1.weight"][order].contiguous()
            for key in ("weight", "bias", "running_mean", "running_var"):
                state[f"{block}.bn1.{key}"] = state[f"{block}.bn1.{key}"][order].contiguous()
            state[f"{block}.conv2.weight"] = state[f"{block}.conv2.weight"][:, order].contiguous()
        state[f"{name}.bias"] = state[f"{name}.bias"] - state[f"{name}.bias"].mean()

    return taught_by_changed(maker, change)
