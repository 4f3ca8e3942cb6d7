"""Runs and studies, trained here, that went well or did not: what `stillroom diagnose` makes of what they left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from clinic_setups import Content, Kinds, SetupMaker

KINDS = Kinds()
CE = {"name": "cross_entropy"}
BOTH = "digits fashion-mnist"


def run(maker: SetupMaker, *overrides: str, **parts: object) -> Path:
    """The folder of the world's run, changed; of digits twenty epochs, which suffice."""
    length = ["training.epochs=20"] if maker.is_digits else ["training.epochs=8", "data.train_limit=4000"]
    return maker.trained({**maker.recipe(*length, "data.augmentation.flip=false", *overrides), **parts})


def well(maker: SetupMaker, *overrides: str, **parts: object) -> Path:
    """The folder of a run whose student has what it takes, and time enough."""
    student = {"name": "resnet8", "options": {"width": 4 + maker.seed % 2}}
    return run(maker, "training.epochs=30", *overrides, **{"student": student, **parts})


def poor_teacher(maker: SetupMaker) -> Content:
    """One that has learned from a few images for a short time."""
    return maker.teacher(data__train_limit=60 if maker.is_digits else 100, training__epochs=12)


@KINDS.faulty("run that blew up", "diverged", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return run(maker, f"training.optimizer.lr={maker.draw.choice([5, 20, 50])}")


@KINDS.faulty("99% teacher, student under 10%", "diverged", about="run", complaint="a", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    # Without batch norm, units die of such a rate and nothing learns any more.
    student = {"name": "mlp", "options": {"hidden": [64, maker.draw.choice([32, 64])]}}
    rate = maker.draw.choice([2.0, 3.0, 5.0])
    return run(maker, "losses.kl.temperature=1", f"training.optimizer.lr={rate}", student=student)


@KINDS.faulty("run far too short", "under_training", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return run(maker, f"training.epochs={maker.draw.choice([1, 2])}")


@KINDS.faulty("run with a rate far too low", "under_training", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return run(maker, f"training.optimizer.lr={maker.draw.choice([0.0003, 0.001])}")


@KINDS.faulty("run held back by weight decay", "over_regularising", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return run(maker, f"training.optimizer.weight_decay={maker.draw.choice([0.1, 0.2, 0.3])}")


@KINDS.faulty("run held back by smoothing", "over_regularising", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    terms = [{"name": "label_smoothing", "smoothing": maker.draw.choice([0.9, 0.95])}, {"name": "kl", "weight": 0.02}]
    return run(maker, losses=terms)


@KINDS.faulty("run averaged over more than itself", "over_regularising", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return run(maker, f"training.ema={maker.draw.choice([0.999, 0.9995])}")


@KINDS.faulty("run whose images were cut away", "over_regularising", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return run(maker, f"data.augmentation.cutout={round(maker.side * maker.draw.choice([0.75, 0.85]))}")


@KINDS.faulty("run that learned by heart", "over_fitting", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    limit = 100 if maker.is_digits else 300
    changes = [f"data.train_limit={limit}", "data.batch_size=20", "data.augmentation={pad_crop: 0}"]
    return run(maker, *changes, "training.epochs=60", losses=[CE])


@KINDS.faulty("run that did not hear its teacher", "kd_ignored", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    terms = [CE, {"name": "kl", "weight": maker.draw.choice([3e-4, 1e-3]), "temperature": 4}]
    return run(maker, losses=terms)


@KINDS.faulty("run that copied a poor teacher", "labels_drowned", "teacher_errors_copied", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    terms = [{**CE, "weight": 0.001}, {"name": "kl", "weight": 1.0, "temperature": 4}]
    return run(maker, "training.epochs=30", teacher=poor_teacher(maker), losses=terms)


@KINDS.faulty("run whose student outgrew its teacher", "student_at_teacher", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    terms = [{**CE, "weight": 0.7}, {"name": "kl", "weight": 0.3, "temperature": 2}]
    return run(maker, teacher=poor_teacher(maker), losses=terms)


@KINDS.faulty("run under a teacher without doubt", "rescaling_gone", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    from clinic_faulty_recipes import sharper

    teacher = maker.changed(
        maker.teacher(), sharper(maker.draw.choice([5, 8] if maker.is_digits else [15, 25])), "sharp"
    )
    return run(maker, "losses.kl.temperature=1", "training.record_gradient_rescaling=true", teacher=teacher)


@KINDS.faulty("run that lost a class", "worse_classes", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    lost = maker.draw.randrange(10)

    def without(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.flatnonzero(labels == lost)
        keep = np.ones(len(labels), bool)
        if split == "train":
            keep[places[3:]] = False
        return images[keep], labels[keep]

    folder = maker.grey(f"without-{lost}", without)
    content = maker.recipe("training.epochs=15" if maker.is_digits else "training.epochs=6")
    content["data"] = {**{k: v for k, v in content["data"].items() if k != "source"}, "path": folder}
    return maker.trained({**content, "losses": [CE]})


@KINDS.correct("run as recommended", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return well(maker)


@KINDS.correct("long run", about="run")
def _(maker: SetupMaker) -> Path:
    return well(maker, "training.epochs=60")


@KINDS.correct("run from labels alone", about="run")
def _(maker: SetupMaker) -> Path:
    return well(maker, teacher=None, losses=[CE])


@KINDS.correct("run with adamw", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    optimizer = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01}
    # Of Fashion-MNIST it gains 2 points more from 30 to 60 epochs.
    return well(maker, f"training.optimizer={optimizer}", f"training.epochs={30 if maker.is_digits else 60}")


@KINDS.correct("run with a moving average", about="run")
def _(maker: SetupMaker) -> Path:
    return well(maker, "training.ema=0.95")


@KINDS.correct("run of the teacher's answers alone", about="run", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return well(maker, losses=[{"name": "kl"}])


@KINDS.correct("run with features between families", about="run")
def _(maker: SetupMaker) -> Path:
    terms = [CE, {"name": "feature_mse", "taps": "features"}]
    return well(maker, student={"name": "mlp", "options": {"hidden": [64]}}, losses=terms)


@KINDS.correct("run with stepping stones", about="run")
def _(maker: SetupMaker) -> Path:
    terms = [{"name": "block_logit", "taps": "light"}]
    return well(maker, student={"name": "resnet8", "options": {"width": 4}}, losses=terms)


@KINDS.correct("run with larger batches", about="run")
def _(maker: SetupMaker) -> Path:
    return well(maker, "training.epochs=40", "data.batch_size=128")


@KINDS.correct("run that records how it is rescaled", about="run")
def _(maker: SetupMaker) -> Path:
    return well(maker, "training.record_gradient_rescaling=true")


@KINDS.correct("run at a high temperature", about="run")
def _(maker: SetupMaker) -> Path:
    return well(maker, "losses.kl.temperature=8")


@KINDS.correct("run with light cutout", about="run")
def _(maker: SetupMaker) -> Path:
    return well(maker, "training.epochs=40", "data.augmentation.cutout=2")


@KINDS.correct("run of a teacher's twin", about="run")
def _(maker: SetupMaker) -> Path:
    own = maker.teacher()
    return well(maker, student={"name": own["name"], "options": own["options"]})


@KINDS.correct("run with a few wrong labels", about="run")
def _(maker: SetupMaker) -> Path:
    def wrong(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(maker.seed)
        hit = random.random(len(labels)) < (0.02 if split == "train" else 0.0)
        return images, np.where(hit, random.integers(0, 10, len(labels)), labels)

    folder = maker.grey(f"few-wrong-train-{maker.seed}", wrong)
    return well(maker, data={"path": folder, "batch_size": 64, "augmentation": {"pad_crop": 1}})


def study(maker: SetupMaker, methods: list[Content], *overrides: str, **more: object) -> Path:
    """A study of the world's student on few images, where a teacher has something to bring."""
    few = [f"data.train_limit={200 if maker.is_digits else 500}", "data.batch_size=32", "training.epochs=15"]
    recipe = {**maker.recipe(*few, "data.augmentation.flip=false", *overrides), **_recipe_of(more)}
    recipe["student"] = more.get("student", {"name": "resnet8", "options": {"width": 4}})
    del recipe["seed"]
    held = {"recipe": recipe, "methods": methods, "seeds": [0, 1, 2], "baseline": methods[0]["name"]}
    return maker.studied(
        {**held, **{key: value for key, value in more.items() if key in ("seeds", "allowed_differences")}}
    )


def _recipe_of(more: dict[str, object]) -> Content:
    return {key: value for key, value in more.items() if key in ("teacher", "losses")}


PLAIN: Content = {"name": "labels", "set": {"losses": [CE]}}
TAUGHT: Content = {"name": "kl"}


@KINDS.faulty("baseline augmented, distilled not", "unequal", about="study", complaint="d", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    without = {"name": "kl", "set": {"data.augmentation": {"pad_crop": 0}}}
    shown = f"data.augmentation.pad_crop={1 if maker.is_digits else 3}"
    return study(maker, [PLAIN, without], shown, seeds=[0, 1])


@KINDS.faulty("distilled for twice as long", "unequal", about="study", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return study(maker, [PLAIN, {"name": "kl", "set": {"training.epochs": 30}}], seeds=[0, 1])


@KINDS.faulty("student better off without", "better_without", about="study", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    terms = [{**CE, "weight": 0.02}, {"name": "kl", "weight": 0.98, "temperature": 4}]
    teacher = maker.teacher(data__train_limit=40, training__epochs=10)
    return study(maker, [PLAIN, TAUGHT], teacher=teacher, losses=terms)


@KINDS.faulty(
    "ce + 300 × distill is worse than ce", "better_without", "diverged", about="study", complaint="b", worlds=BOTH
)
def _(maker: SetupMaker) -> Path:
    terms = [CE, {"name": "kl", "weight": 300, "temperature": 4}]
    return study(maker, [PLAIN, TAUGHT], losses=terms)


@KINDS.faulty("ResNet that hurts a ShuffleNet", "better_without", about="study", complaint="c", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    # Very sure, also where it errs: it learned few images by heart.
    teacher = maker.teacher(data__train_limit=50, data__augmentation={"pad_crop": 0}, training__epochs=60)
    terms = [{**CE, "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 1}]
    student = {"name": "clinic_models:shufflenet", "options": {"width": 16}}
    return study(maker, [PLAIN, TAUGHT], teacher=teacher, losses=terms, student=student)


@KINDS.faulty("one seed", "too_few_seeds", about="study", worlds=BOTH)
def _(maker: SetupMaker) -> Path:
    return study(maker, [PLAIN, TAUGHT], seeds=[0])


def sound(maker: SetupMaker, methods: list[Content], **more: object) -> Path:
    """A study on all digits, of a student that has what it takes, and time enough."""
    enough = ["data.train_limit=null", "data.batch_size=64", "training.epochs=20", "training.evaluate_every=4"]
    return study(maker, methods, *enough, student={"name": "resnet8", "options": {"width": 5}}, **more)


@KINDS.correct("labels and teacher on equal terms", about="study")
def _(maker: SetupMaker) -> Path:
    return sound(maker, [PLAIN, TAUGHT])


@KINDS.correct("augmentation compared, as the study says", about="study")
def _(maker: SetupMaker) -> Path:
    without = {"name": "kl-plain", "set": {"data.augmentation": {"pad_crop": 0}}}
    return sound(maker, [TAUGHT, without], allowed_differences=["augmentation"])


@KINDS.correct("two temperatures", about="study")
def _(maker: SetupMaker) -> Path:
    return sound(maker, [TAUGHT, {"name": "kl-8", "set": {"losses.kl.temperature": 8}}])


@KINDS.correct("three ways to listen", about="study")
def _(maker: SetupMaker) -> Path:
    mse = {"name": "mse", "set": {"losses": [{**CE, "weight": 0.1}, {"name": "logit_mse", "weight": 0.9}]}}
    return sound(maker, [PLAIN, TAUGHT, mse])
