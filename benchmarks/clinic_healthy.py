"""Recipes in which nothing is wrong, each with something that might look so."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from clinic_kinds import Kinds
from clinic_sick import ALL, reordered, with_teacher, wrapped
from clinic_ward import Content, Ward

from stillroom.recipe import load_recipe
from stillroom.run.run import prepare

KINDS = Kinds()
CE = {"name": "cross_entropy"}


def convolutional(ward: Ward) -> Content:
    """A student with taps of its own."""
    return {"name": "resnet8", "options": {"width": 4}} if ward.is_digits else {"name": "resnet8"}


@KINDS.healthy("as recommended", worlds=ALL)
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe())


@KINDS.healthy("temperature 1 with a soft teacher")
def _(ward: Ward) -> Path:
    teacher = ward.teacher(training__epochs=4, training__optimizer={"weight_decay": 5e-3})
    return with_teacher(ward, teacher, "losses.kl.temperature=1")


@KINDS.healthy("temperature 1 with a public teacher", worlds="cifar100-part")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe("losses.kl.temperature=1"))


@KINDS.healthy("weak but honest teacher", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    # On digits a linear model of the pixels has 89%: below that nobody need be listened to.
    few = {"data__train_limit": 400, "training__epochs": 20} if ward.is_digits else {"data__train_limit": 3000}
    return with_teacher(ward, ward.teacher(**few))


@KINDS.healthy("teacher of few images", worlds="digits")
def _(ward: Ward) -> Path:
    return with_teacher(ward, ward.teacher(data__train_limit=150, training__epochs=40))


@KINDS.healthy("a normalisation of one's own")
def _(ward: Ward) -> Path:
    shown = ward.draw.choice([{"mean": [0.3], "std": [0.38]}, {"mean": [0.306], "std": [0.2]}, "unit"])
    model = {"name": ward.teacher()["name"], "options": ward.teacher()["options"], "preprocess": shown}
    return with_teacher(ward, ward.teacher(student=model))


@KINDS.healthy("a neighbouring normalisation", worlds="cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    shown = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
    return with_teacher(ward, {**ward.teacher(), "preprocess": shown})


@KINDS.healthy("many epochs", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe(f"training.epochs={ward.draw.choice([60, 120, 240])}"))


@KINDS.healthy("few epochs, enough", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe(f"training.epochs={ward.draw.choice([6, 8])}"))


@KINDS.healthy("features between families")
def _(ward: Ward) -> Path:
    student = ward.draw.choice(
        [{"name": "mlp", "options": {"hidden": [48]}}, {"name": "vit_mini", "options": {"dim": 32, "depth": 2}}]
    )
    terms = [CE, {"name": "feature_mse", "taps": "features"}]
    return ward.written({**ward.recipe(), "student": student, "losses": terms})


@KINDS.healthy("features at all taps", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    name = ward.draw.choice(["feature_mse", "feature_fisher"]) if ward.is_digits else "feature_mse"
    terms = [CE, {"name": name, "taps": "all"}]
    return ward.written({**ward.recipe(), "student": convolutional(ward), "losses": terms})


@KINDS.healthy("taps by hand that stand opposite", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    taps = ward.draw.choice([["layer2"], ["layer1", "layer3"], [{"teacher": "layer3", "student": "layer3"}]])
    terms = [CE, {"name": "feature_mse", "taps": taps}]
    return ward.written({**ward.recipe(), "student": convolutional(ward), "losses": terms})


@KINDS.healthy("stepping stones", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    terms = [{"name": "block_logit", "taps": ward.draw.choice(["all", "light"])}]
    return ward.written({**ward.recipe(), "student": convolutional(ward), "losses": terms})


@KINDS.healthy("distance between logits", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    term = {"name": "logit_mse", "weight": ward.draw.choice([0.3, 0.9, 1.0])}
    return ward.written({**ward.recipe(), "losses": [{**CE, "weight": 0.1}, term]})


@KINDS.healthy("Fisher's distance between logits", worlds="digits cifar100-part")
def _(ward: Ward) -> Path:
    terms = [{**CE, "weight": 0.1}, {"name": "logit_fisher", "weight": 0.9, "temperature": 4}]
    return ward.written({**ward.recipe(), "losses": terms})


@KINDS.healthy("a few wrong labels", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    def wrong(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(ward.seed)
        hit = random.random(len(labels)) < 0.02
        return images, np.where(hit, random.integers(0, 10, len(labels)), labels)

    folder = ward.grey(f"few-wrong-{ward.seed}", wrong)
    content = ward.recipe()
    content["data"] = {**{k: v for k, v in content["data"].items() if k != "source"}, "path": folder}
    return ward.written(content)


@KINDS.healthy("a strong teacher at a high temperature", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    tau = ward.draw.choice([8, 10])
    teacher = ward.teacher(training__epochs=25) if ward.is_digits else ward.teacher()
    return with_teacher(ward, teacher, f"losses.kl.temperature={tau}")


@KINDS.healthy("no augmentation", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe("data.augmentation={pad_crop: 0}"))


@KINDS.healthy("light cutout", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe(f"data.augmentation.cutout={2 if ward.is_digits else 8}"))


@KINDS.healthy("moving average", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return ward.written(ward.recipe(f"training.ema={ward.draw.choice([0.9, 0.95])}"))


@KINDS.healthy("adamw", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    optimizer = {
        "name": "adamw",
        "lr": ward.draw.choice([5e-4, 1e-3, 3e-3]),
        "weight_decay": ward.draw.choice([0.01, 0.05]),
    }
    return ward.written(ward.recipe(f"training.optimizer={optimizer}"))


@KINDS.healthy("sgd without momentum")
def _(ward: Ward) -> Path:
    optimizer = {"lr": ward.draw.choice([0.5, 1.0]), "momentum": 0, "nesterov": False, "weight_decay": 5e-5}
    return ward.written(ward.recipe(f"training.optimizer={optimizer}"))


@KINDS.healthy("a small rate, a constant one", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    overrides = [f"training.optimizer.lr={ward.draw.choice([0.01, 0.02])}", "training.schedule.name=constant"]
    return ward.written(ward.recipe(*overrides))


@KINDS.healthy("the teacher alone, no labels", worlds="digits cifar10 cifar100-part")
def _(ward: Ward) -> Path:
    return ward.written({**ward.recipe(), "losses": [{"name": "kl", "temperature": 4}]})


@KINDS.healthy("labels and teacher alike at temperature 2", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    terms = [CE, {"name": "kl", "weight": 1.0, "temperature": 2}]
    teacher = ward.teacher(training__epochs=6) if ward.is_digits else ward.teacher()
    return ward.written({**ward.recipe(), "teacher": teacher, "losses": terms})


@KINDS.healthy("a part of the answer", worlds="digits cifar100-part")
def _(ward: Ward) -> Path:
    target = ward.draw.choice([{"name": "top_k", "k": 3}, "true_class", "full"])
    terms = [{**CE, "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4, "target": target}]
    return ward.written({**ward.recipe(), "losses": terms})


@KINDS.healthy("another order of classes, told", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    order = list(range(ward.classes))
    ward.draw.shuffle(order)
    teacher = ward.changed(ward.teacher(), reordered(order), "shuffled")
    shown = {"mean": [0.5], "std": [0.5]}
    if ward.colours == 3:
        shown = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    places = [order.index(c) for c in range(ward.classes)]
    return with_teacher(ward, {**teacher, "preprocess": {**shown, "class_order": places}})


@KINDS.healthy("more logits than classes, told")
def _(ward: Ward) -> Path:
    teacher = ward.changed(ward.teacher(), reordered([-1, *range(10), -1]), "wide")
    shown = {"mean": [0.5], "std": [0.5], "class_order": list(range(1, 11))}
    return with_teacher(ward, {**teacher, "preprocess": shown})


@KINDS.healthy("another size, told")
def _(ward: Ward) -> Path:
    own = ward.teacher()
    model = {"name": own["name"], "options": own["options"]}
    shown = {"mean": [0.5], "std": [0.5], "size": 16}
    teacher = ward.teacher(student={**model, "preprocess": shown}, training__epochs=6)
    return with_teacher(ward, {**teacher, "preprocess": shown})


@KINDS.healthy("blue, green, red, told")
def _(ward: Ward) -> Path:
    data = {"path": ward.coloured(), "batch_size": 64}
    own = ward.teacher()
    shown = {"mean": [0.5] * 3, "std": [0.5] * 3, "channel_order": "bgr"}
    model = {"name": own["name"], "options": own["options"], "preprocess": shown}
    teacher = ward.teacher(student=model, data=data)
    content = {**ward.recipe(), "data": data, "teacher": teacher}
    content["student"]["preprocess"] = "half"
    return ward.written(content)


@KINDS.healthy("grey images in three channels")
def _(ward: Ward) -> Path:
    # Two of the colours say the same, nearly.
    data = {"path": ward.coloured(), "batch_size": 64}
    own = ward.teacher()
    model = {"name": own["name"], "options": own["options"], "preprocess": "imagenet"}
    content = {**ward.recipe(), "data": data, "teacher": ward.teacher(student=model, data=data)}
    return ward.written(content)


@KINDS.healthy("answers kept")
def _(ward: Ward) -> Path:
    path = ward.written(ward.recipe("cache.enabled=true"))
    os.environ["STILLROOM_CACHE"] = str(ward.case / "cache")
    prepare(load_recipe(path))
    return path


@KINDS.healthy("a teacher as small as the student", worlds="digits")
def _(ward: Ward) -> Path:
    model = {"name": "resnet8", "options": {"width": ward.draw.choice([4, 5])}}
    return ward.written({**ward.recipe(), "teacher": ward.teacher(student=model), "student": model})


@KINDS.healthy("a large teacher", worlds="digits")
def _(ward: Ward) -> Path:
    model = {"name": "resnet14", "options": {"width": ward.draw.choice([16, 20])}}
    content = {**ward.recipe(), "teacher": ward.teacher(student=model), "student": convolutional(ward)}
    return ward.written(content)


@KINDS.healthy("weights that follow a schedule", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    terms = [
        {**CE, "weight": {"start": 0.1, "end": 1.0}},
        {"name": "kl", "weight": {"start": 0.9, "end": 0.1}, "temperature": 4},
    ]
    return ward.written({**ward.recipe(), "losses": terms})


@KINDS.healthy("a large loss, clipped", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    terms = [CE, {"name": "kl", "weight": ward.draw.choice([5.0, 10.0]), "temperature": 4}]
    return ward.written({**ward.recipe("training.clip_norm=1"), "losses": terms})


@KINDS.healthy("student's labels smoothed")
def _(ward: Ward) -> Path:
    terms = [{"name": "label_smoothing", "weight": 0.3}, {"name": "kl", "weight": 0.7, "temperature": 4}]
    return ward.written({**ward.recipe(), "losses": terms})


@KINDS.healthy("a transformer teaches")
def _(ward: Ward) -> Path:
    model = {"name": "vit_mini", "options": {"dim": 48, "depth": 3, "patch": 2}}
    how = {"training__epochs": 30, "training__optimizer": {"name": "adamw", "lr": 5e-3, "weight_decay": 0.02}}
    teacher = ward.teacher(student=model, data__augmentation={"pad_crop": 0}, **how)
    return with_teacher(ward, teacher, "data.augmentation={pad_crop: 0}")


@KINDS.healthy("a perceptron teaches", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    model = {"name": "mlp", "options": {"hidden": [128, 128], "dropout": 0.2}}
    how = {"training__epochs": 15, "training__optimizer": {"lr": 0.05}, "data__augmentation": {"pad_crop": 0}}
    return with_teacher(ward, ward.teacher(student=model, **how), "data.augmentation={pad_crop: 0}")


@KINDS.healthy("logarithms of probabilities as logits", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    return with_teacher(ward, wrapped(ward, "log_probabilities"))


@KINDS.healthy("classes of unequal size")
def _(ward: Ward) -> Path:
    def fewer(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = np.random.default_rng(0).random(len(labels)) < 1 / (1 + 0.6 * labels)
        return images[keep], labels[keep]

    data = {"path": ward.grey("unequal", fewer), "batch_size": 32, "augmentation": {"pad_crop": 1}}
    teacher = ward.teacher(data=data, training__epochs=25)
    return ward.written({**ward.recipe(), "data": data, "teacher": teacher})


@KINDS.healthy("two classes")
def _(ward: Ward) -> Path:
    def parity(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images, labels % 2

    data = {"path": ward.grey("two", parity), "batch_size": 64, "augmentation": {"pad_crop": 1}}
    return ward.written({**ward.recipe(), "data": data, "teacher": ward.teacher(data=data)})


@KINDS.healthy("labels alone, no teacher", worlds="digits fashion-mnist")
def _(ward: Ward) -> Path:
    return ward.written({**ward.recipe(), "teacher": None, "losses": [CE]})


@KINDS.healthy("ShuffleNet under a ResNet", worlds="digits cifar10")
def _(ward: Ward) -> Path:
    student = {"name": "clinic_models:shufflenet", "options": {"width": ward.draw.choice([32, 48])}}
    return ward.written({**ward.recipe(), "student": student})
