"""Recipes in which nothing is wrong, each with something that might look so."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from clinic_faulty_recipes import ALL, reordered, with_teacher, wrapped
from clinic_setups import Content, Kinds, SetupMaker

from stillroom.recipe import load_recipe
from stillroom.run.run import prepare

KINDS = Kinds()
CE = {"name": "cross_entropy"}


def convolutional(maker: SetupMaker) -> Content:
    """A student with taps of its own."""
    return {"name": "resnet8", "options": {"width": 4}} if maker.is_digits else {"name": "resnet8"}


@KINDS.correct("as recommended", worlds=ALL)
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe())


@KINDS.correct("temperature 1 with a soft teacher")
def _(maker: SetupMaker) -> Path:
    teacher = maker.teacher(training__epochs=4, training__optimizer={"weight_decay": 5e-3})
    return with_teacher(maker, teacher, "losses.kl.temperature=1")


@KINDS.correct("temperature 1 with a public teacher", worlds="cifar100-part")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe("losses.kl.temperature=1"))


@KINDS.correct("weak but honest teacher", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    # On digits a linear model of the pixels has 89%: below that nobody need be listened to.
    few = {"data__train_limit": 400, "training__epochs": 20} if maker.is_digits else {"data__train_limit": 3000}
    return with_teacher(maker, maker.teacher(**few))


@KINDS.correct("teacher of few images", worlds="digits")
def _(maker: SetupMaker) -> Path:
    return with_teacher(maker, maker.teacher(data__train_limit=150, training__epochs=40))


@KINDS.correct("a normalisation of one's own")
def _(maker: SetupMaker) -> Path:
    shown = maker.draw.choice([{"mean": [0.3], "std": [0.38]}, {"mean": [0.306], "std": [0.2]}, "unit"])
    model = {"name": maker.teacher()["name"], "options": maker.teacher()["options"], "preprocess": shown}
    return with_teacher(maker, maker.teacher(student=model))


@KINDS.correct("a neighbouring normalisation", worlds="cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    shown = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
    return with_teacher(maker, {**maker.teacher(), "preprocess": shown})


@KINDS.correct("many epochs", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"training.epochs={maker.draw.choice([60, 120, 240])}"))


@KINDS.correct("few epochs, enough", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"training.epochs={maker.draw.choice([6, 8])}"))


@KINDS.correct("features between families")
def _(maker: SetupMaker) -> Path:
    student = maker.draw.choice(
        [{"name": "mlp", "options": {"hidden": [48]}}, {"name": "vit_mini", "options": {"dim": 32, "depth": 2}}]
    )
    terms = [CE, {"name": "feature_mse", "taps": "features"}]
    return maker.written({**maker.recipe(), "student": student, "losses": terms})


@KINDS.correct("features at all taps", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    name = maker.draw.choice(["feature_mse", "feature_fisher"]) if maker.is_digits else "feature_mse"
    terms = [CE, {"name": name, "taps": "all"}]
    return maker.written({**maker.recipe(), "student": convolutional(maker), "losses": terms})


@KINDS.correct("taps by hand that stand opposite", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    taps = maker.draw.choice([["layer2"], ["layer1", "layer3"], [{"teacher": "layer3", "student": "layer3"}]])
    terms = [CE, {"name": "feature_mse", "taps": taps}]
    return maker.written({**maker.recipe(), "student": convolutional(maker), "losses": terms})


@KINDS.correct("stepping stones", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    terms = [{"name": "block_logit", "taps": maker.draw.choice(["all", "light"])}]
    return maker.written({**maker.recipe(), "student": convolutional(maker), "losses": terms})


@KINDS.correct("distance between logits", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    term = {"name": "logit_mse", "weight": maker.draw.choice([0.3, 0.9, 1.0])}
    return maker.written({**maker.recipe(), "losses": [{**CE, "weight": 0.1}, term]})


@KINDS.correct("Fisher's distance between logits", worlds="digits cifar100-part")
def _(maker: SetupMaker) -> Path:
    terms = [{**CE, "weight": 0.1}, {"name": "logit_fisher", "weight": 0.9, "temperature": 4}]
    return maker.written({**maker.recipe(), "losses": terms})


@KINDS.correct("a few wrong labels", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    def wrong(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(maker.seed)
        hit = random.random(len(labels)) < 0.02
        return images, np.where(hit, random.integers(0, 10, len(labels)), labels)

    folder = maker.grey(f"few-wrong-{maker.seed}", wrong)
    content = maker.recipe()
    content["data"] = {**{k: v for k, v in content["data"].items() if k != "source"}, "path": folder}
    return maker.written(content)


@KINDS.correct("a strong teacher at a high temperature", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    tau = maker.draw.choice([8, 10])
    teacher = maker.teacher(training__epochs=25) if maker.is_digits else maker.teacher()
    return with_teacher(maker, teacher, f"losses.kl.temperature={tau}")


@KINDS.correct("no augmentation", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe("data.augmentation={pad_crop: 0}"))


@KINDS.correct("light cutout", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"data.augmentation.cutout={2 if maker.is_digits else 8}"))


@KINDS.correct("moving average", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return maker.written(maker.recipe(f"training.ema={maker.draw.choice([0.9, 0.95])}"))


@KINDS.correct("adamw", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    optimizer = {
        "name": "adamw",
        "lr": maker.draw.choice([5e-4, 1e-3, 3e-3]),
        "weight_decay": maker.draw.choice([0.01, 0.05]),
    }
    return maker.written(maker.recipe(f"training.optimizer={optimizer}"))


@KINDS.correct("sgd without momentum")
def _(maker: SetupMaker) -> Path:
    optimizer = {"lr": maker.draw.choice([0.5, 1.0]), "momentum": 0, "nesterov": False, "weight_decay": 5e-5}
    return maker.written(maker.recipe(f"training.optimizer={optimizer}"))


@KINDS.correct("a small rate, a constant one", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    overrides = [f"training.optimizer.lr={maker.draw.choice([0.01, 0.02])}", "training.schedule.name=constant"]
    return maker.written(maker.recipe(*overrides))


@KINDS.correct("the teacher alone, no labels", worlds="digits cifar10 cifar100-part")
def _(maker: SetupMaker) -> Path:
    return maker.written({**maker.recipe(), "losses": [{"name": "kl", "temperature": 4}]})


@KINDS.correct("labels and teacher alike at temperature 2", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    terms = [CE, {"name": "kl", "weight": 1.0, "temperature": 2}]
    teacher = maker.teacher(training__epochs=6) if maker.is_digits else maker.teacher()
    return maker.written({**maker.recipe(), "teacher": teacher, "losses": terms})


@KINDS.correct("a part of the answer", worlds="digits cifar100-part")
def _(maker: SetupMaker) -> Path:
    target = maker.draw.choice([{"name": "top_k", "k": 3}, "true_class", "full"])
    terms = [{**CE, "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4, "target": target}]
    return maker.written({**maker.recipe(), "losses": terms})


@KINDS.correct("another order of classes, declared", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    order = list(range(maker.classes))
    maker.draw.shuffle(order)
    teacher = maker.changed(maker.teacher(), reordered(order), "shuffled")
    shown = {"mean": [0.5], "std": [0.5]}
    if maker.colours == 3:
        shown = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    places = [order.index(c) for c in range(maker.classes)]
    return with_teacher(maker, {**teacher, "preprocess": {**shown, "class_order": places}})


@KINDS.correct("more logits than classes, declared")
def _(maker: SetupMaker) -> Path:
    teacher = maker.changed(maker.teacher(), reordered([-1, *range(10), -1]), "wide")
    shown = {"mean": [0.5], "std": [0.5], "class_order": list(range(1, 11))}
    return with_teacher(maker, {**teacher, "preprocess": shown})


@KINDS.correct("another size, declared")
def _(maker: SetupMaker) -> Path:
    own = maker.teacher()
    model = {"name": own["name"], "options": own["options"]}
    shown = {"mean": [0.5], "std": [0.5], "size": 16}
    teacher = maker.teacher(student={**model, "preprocess": shown}, training__epochs=6)
    return with_teacher(maker, {**teacher, "preprocess": shown})


@KINDS.correct("blue, green, red, declared")
def _(maker: SetupMaker) -> Path:
    data = {"path": maker.coloured(), "batch_size": 64}
    own = maker.teacher()
    shown = {"mean": [0.5] * 3, "std": [0.5] * 3, "channel_order": "bgr"}
    model = {"name": own["name"], "options": own["options"], "preprocess": shown}
    teacher = maker.teacher(student=model, data=data)
    content = {**maker.recipe(), "data": data, "teacher": teacher}
    content["student"]["preprocess"] = "half"
    return maker.written(content)


@KINDS.correct("grey images in three channels")
def _(maker: SetupMaker) -> Path:
    # Two of the colours say the same, nearly.
    data = {"path": maker.coloured(), "batch_size": 64}
    own = maker.teacher()
    model = {"name": own["name"], "options": own["options"], "preprocess": "imagenet"}
    content = {**maker.recipe(), "data": data, "teacher": maker.teacher(student=model, data=data)}
    return maker.written(content)


@KINDS.correct("answers kept")
def _(maker: SetupMaker) -> Path:
    path = maker.written(maker.recipe("cache.enabled=true"))
    os.environ["STILLROOM_CACHE"] = str(maker.case / "cache")
    prepare(load_recipe(path))
    return path


@KINDS.correct("a teacher as small as the student", worlds="digits")
def _(maker: SetupMaker) -> Path:
    model = {"name": "resnet8", "options": {"width": maker.draw.choice([4, 5])}}
    return maker.written({**maker.recipe(), "teacher": maker.teacher(student=model), "student": model})


@KINDS.correct("a large teacher", worlds="digits")
def _(maker: SetupMaker) -> Path:
    model = {"name": "resnet14", "options": {"width": maker.draw.choice([16, 20])}}
    content = {**maker.recipe(), "teacher": maker.teacher(student=model), "student": convolutional(maker)}
    return maker.written(content)


@KINDS.correct("weights that follow a schedule", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    terms = [
        {**CE, "weight": {"start": 0.1, "end": 1.0}},
        {"name": "kl", "weight": {"start": 0.9, "end": 0.1}, "temperature": 4},
    ]
    return maker.written({**maker.recipe(), "losses": terms})


@KINDS.correct("a large loss, clipped", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    terms = [CE, {"name": "kl", "weight": maker.draw.choice([5.0, 10.0]), "temperature": 4}]
    return maker.written({**maker.recipe("training.clip_norm=1"), "losses": terms})


@KINDS.correct("student's labels smoothed")
def _(maker: SetupMaker) -> Path:
    terms = [{"name": "label_smoothing", "weight": 0.3}, {"name": "kl", "weight": 0.7, "temperature": 4}]
    return maker.written({**maker.recipe(), "losses": terms})


@KINDS.correct("a transformer teaches")
def _(maker: SetupMaker) -> Path:
    model = {"name": "vit_mini", "options": {"dim": 48, "depth": 3, "patch": 2}}
    how = {"training__epochs": 30, "training__optimizer": {"name": "adamw", "lr": 5e-3, "weight_decay": 0.02}}
    teacher = maker.teacher(student=model, data__augmentation={"pad_crop": 0}, **how)
    return with_teacher(maker, teacher, "data.augmentation={pad_crop: 0}")


@KINDS.correct("a perceptron teaches", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    model = {"name": "mlp", "options": {"hidden": [128, 128], "dropout": 0.2}}
    how = {"training__epochs": 15, "training__optimizer": {"lr": 0.05}, "data__augmentation": {"pad_crop": 0}}
    return with_teacher(maker, maker.teacher(student=model, **how), "data.augmentation={pad_crop: 0}")


@KINDS.correct("logarithms of probabilities as logits", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    return with_teacher(maker, wrapped(maker, "log_probabilities"))


@KINDS.correct("classes of unequal size")
def _(maker: SetupMaker) -> Path:
    def fewer(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = np.random.default_rng(0).random(len(labels)) < 1 / (1 + 0.6 * labels)
        return images[keep], labels[keep]

    data = {"path": maker.grey("unequal", fewer), "batch_size": 32, "augmentation": {"pad_crop": 1}}
    teacher = maker.teacher(data=data, training__epochs=25)
    return maker.written({**maker.recipe(), "data": data, "teacher": teacher})


@KINDS.correct("two classes")
def _(maker: SetupMaker) -> Path:
    def parity(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images, labels % 2

    data = {"path": maker.grey("two", parity), "batch_size": 64, "augmentation": {"pad_crop": 1}}
    return maker.written({**maker.recipe(), "data": data, "teacher": maker.teacher(data=data)})


@KINDS.correct("labels alone, no teacher", worlds="digits fashion-mnist")
def _(maker: SetupMaker) -> Path:
    return maker.written({**maker.recipe(), "teacher": None, "losses": [CE]})


@KINDS.correct("ShuffleNet under a ResNet", worlds="digits cifar10")
def _(maker: SetupMaker) -> Path:
    student = {"name": "clinic_models:shufflenet", "options": {"width": maker.draw.choice([32, 48])}}
    return maker.written({**maker.recipe(), "student": student})
