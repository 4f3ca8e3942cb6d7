"""Recipes in which nothing is wrong, by an author who has not seen the checks; each looks odd in some way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from clinic_fresh_sick import around, head, on, pruned, taught_by, taught_by_changed
from clinic_kinds import Kinds
from clinic_ward import Content, Ward, last_layer
from safetensors.torch import save_file
from torch import Tensor

from stillroom.files import atomic_write
from stillroom.models.weights import read_state

KINDS = Kinds(fresh=True)
ALL = "digits cifar10 cifar100-part fashion-mnist"


@KINDS.healthy("batches in four parts, clipped", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe(f"training.accumulate={ward.draw.choice([2, 4])}", "training.clip_norm=5"))


@KINDS.healthy("drops at a half and three quarters", worlds="digits cifar10 fashion-mnist")
def _(ward: Ward) -> Path:
    schedule = ward.draw.choice(
        [{"name": "multi_step", "milestones": [0.5, 0.75]}, {"name": "cosine", "warmup": 0.1}, {"name": "cosine"}]
    )
    return ward.written(ward.recipe(f"training.schedule={schedule}", "training.optimizer.lr=0.05"))


@KINDS.healthy("logits that are all far from zero", worlds=ALL)
def _(ward: Ward) -> Path:
    # What is added to all of them changes no answer.
    offset = ward.draw.choice([-25.0, 25.0, 40.0])
    return taught_by_changed(ward, head(lambda weight, bias: (weight, bias + offset)))


@KINDS.healthy("weights large before each norm", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if ".conv" in f".{key}" and key.endswith(".weight")]:
            norm = key.removesuffix(".weight").replace("conv", "bn")
            factor = ward.draw.choice([4.0, 10.0, 20.0])
            state[key] *= factor
            state[f"{norm}.running_mean"] *= factor
            state[f"{norm}.running_var"] *= factor**2

    return taught_by_changed(ward, change)


@KINDS.healthy("weights kept in half precision", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    def change(state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            if value.is_floating_point():
                state[key] = value.half().float()

    return taught_by_changed(ward, change)


@KINDS.healthy("pruned with care", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return taught_by_changed(ward, pruned(ward.draw.choice([0.1, 0.15])))


@KINDS.healthy("student with dropout", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    options = {"hidden": [ward.draw.choice([96, 128])], "dropout": ward.draw.choice([0.1, 0.2])}
    return ward.written({**ward.recipe("training.epochs=20"), "student": {"name": "mlp", "options": options}})


@KINDS.healthy("small batches at a small rate", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe(f"data.batch_size={ward.draw.choice([16, 24])}", "training.optimizer.lr=0.03"))


@KINDS.healthy("dark on bright, or dim, for the teacher too")
def _(ward: Ward) -> Path:
    how = ward.draw.choice(["inverted", "dim"])

    def change(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (255 - images if how == "inverted" else images // 3), labels

    content = on(ward, ward.grey(how, change))
    return ward.written({**content, "teacher": ward.teacher(data=content["data"])})


@KINDS.healthy("images sorted by class", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    def ordered(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(labels, kind="stable")
        return images[order], labels[order]

    return ward.written(on(ward, ward.grey("sorted", ordered)))


@KINDS.healthy("few images, many epochs, a teacher of all")
def _(ward: Ward) -> Path:
    limit = ward.draw.choice([400, 500])
    return ward.written(ward.recipe(f"data.train_limit={limit}", "data.batch_size=32", "training.epochs=40"))


@KINDS.healthy("steps for epochs", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    steps = ward.draw.choice([350, 500] if ward.is_digits else [1500, 2000])
    return ward.written(ward.recipe("training.epochs=null", f"training.steps={steps}"))


@KINDS.healthy("student taken up again")
def _(ward: Ward) -> Path:
    student = ward.teacher(student=ward.student(), seed=3000 + ward.seed)
    content = ward.recipe("training.optimizer.lr=0.02", f"training.epochs={ward.draw.choice([8, 10])}")
    return ward.written({**content, "student": student})


@KINDS.healthy("two teachers in one", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    if ward.is_digits:
        one, two = ward.teacher(), ward.teacher(seed=2000 + ward.seed)
    else:
        one, two = ({"name": name, "weights": f"weights/{name}-cifar10.th"} for name in ("resnet20", "resnet56"))
    state = {}
    for place, model in (("one", one), ("two", two)):
        own = read_state(model["weights"]).items()
        state |= {f"{place}.{key.removeprefix('module.')}": value.clone() for key, value in own}
    path = ward.case / "two.safetensors"
    with atomic_write(path) as temporary:
        save_file(state, temporary)
    options = {"model": one["name"], "other": two["name"], **one.get("options", {})}
    teacher = {"name": "clinic_fresh_models:two", "weights": str(path), "options": options}
    return taught_by(ward, teacher)


@KINDS.healthy("teacher that looks three times", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    return taught_by(ward, around(ward, "shifts"))


@KINDS.healthy("student that sees the images larger", worlds="digits")
def _(ward: Ward) -> Path:
    student = {"name": "resnet8", "options": {"width": 4}}
    shown = {"mean": [0.5], "std": [0.5], "size": ward.draw.choice([12, 16])}
    return ward.written({**ward.recipe(), "student": {**student, "preprocess": shown}})


@KINDS.healthy("each model its own normalisation", worlds="digits cifar10 cifar100-part fashion-mnist")
def _(ward: Ward) -> Path:
    c = ward.colours
    shown = ward.draw.choice(["unit", {"mean": [0.4] * c, "std": [0.25] * c}])
    content = ward.recipe()
    return ward.written({**content, "student": {**content["student"], "preprocess": shown}})


@KINDS.healthy("features just wide enough")
def _(ward: Ward) -> Path:
    options: Content = {"width": 5, "penultimate": ward.draw.choice([14, 16])}
    return ward.written({**ward.recipe("training.epochs=20"), "student": {"name": "resnet8", "options": options}})


@KINDS.healthy("fresh views, nothing kept", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe("data.augmentation.views=0", "training.epochs=20"))


@KINDS.healthy("a teacher whose units stand in another order", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    # The features before the last layer, and its columns with them: the same function.
    def change(state: dict[str, Tensor]) -> None:
        name = last_layer(state)
        drawn = torch.Generator().manual_seed(ward.seed)
        blocks = sorted({key.rsplit(".", 2)[0] for key in state if key.startswith("layer")})
        # Within a block: what its first convolution gives, its second takes.
        for block in blocks:
            order = torch.randperm(len(state[f"{block}.bn1.weight"]), generator=drawn)
            state[f"{block}.conv1.weight"] = state[f"{block}.conv1.weight"][order].contiguous()
            for key in ("weight", "bias", "running_mean", "running_var"):
                state[f"{block}.bn1.{key}"] = state[f"{block}.bn1.{key}"][order].contiguous()
            state[f"{block}.conv2.weight"] = state[f"{block}.conv2.weight"][:, order].contiguous()
        state[f"{name}.bias"] = state[f"{name}.bias"] - state[f"{name}.bias"].mean()

    return taught_by_changed(ward, change)
