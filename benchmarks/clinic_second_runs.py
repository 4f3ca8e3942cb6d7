"""Kinds by an author who has not seen the checks: runs and studies here, recipes in the two modules next to it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import clinic_second_correct
import clinic_second_faulty
import numpy as np
from clinic_second_faulty import around, head, on
from clinic_setups import HERE, Content, Kinds, SetupMaker, last_layer
from torch import Tensor

from stillroom.files import canonical_json, digest
from stillroom.observer import Observer
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute

KINDS = Kinds(cohort=2)
KINDS.all += clinic_second_faulty.KINDS.all + clinic_second_correct.KINDS.all
CE: Content = {"name": "cross_entropy"}


def run(maker: SetupMaker, *overrides: str, **parts: Any) -> Path:
    """The folder of a run on the digits, of a student that has what it takes, and time enough; changed."""
    student = {"name": "resnet8", "options": {"width": 4}}
    return maker.trained({**maker.recipe("training.epochs=25", *overrides), "student": student, **parts})


class _Stop(Observer):
    """Ends a run as a key on the keyboard does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def stepped(self, step: int) -> None:
        if step == self._step:
            raise KeyboardInterrupt


def stopped(maker: SetupMaker, epochs: int, step: int) -> tuple[Content, Path]:
    """A run that was stopped after so many steps: its recipe and its folder."""
    content = {**maker.recipe(f"training.epochs={epochs}"), "student": {"name": "resnet8", "options": {"width": 5}}}
    folder = maker.case / f"stopped-{digest(canonical_json([content, step]))[:12]}"
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(KeyboardInterrupt):
        execute(parse_recipe(content), folder, observer=_Stop(step), latency=False)
    return content, folder


@KINDS.faulty("run stopped half-way", "unfinished", about="run")
def _(maker: SetupMaker) -> Path:
    return stopped(maker, 25, maker.draw.randrange(200, 400))[1]


@KINDS.faulty("run that dropped its rate at once", "under_training", about="run")
def _(maker: SetupMaker) -> Path:
    stones = maker.draw.choice([[0.004, 0.008], [0.003, 0.006]])
    schedule = {"name": "multi_step", "milestones": stones, "gamma": 0.005}
    return run(maker, f"training.schedule={schedule}", "training.epochs=20")


@KINDS.faulty("run that learned wrong labels by heart", "over_fitting", about="run")
def _(maker: SetupMaker) -> Path:
    share = maker.draw.choice([0.35, 0.4])

    def wrong(split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(7)
        hit = random.random(len(labels)) < (share if split == "train" else 0.0)
        return images, np.where(hit, random.integers(0, 10, len(labels)), labels)

    content = on(maker, maker.grey(f"noisy-{share}", wrong), losses=[CE], teacher=None)
    content["data"]["augmentation"] = {"pad_crop": 0}
    content["student"] = {"name": "mlp", "options": {"hidden": [512, 256]}}
    optimizer = {"lr": 0.03, "weight_decay": 0.0}
    return maker.trained({**content, "training": {"epochs": 60, **HERE, "optimizer": optimizer}})


@KINDS.faulty("run with most units dropped", "over_regularising", "under_training", about="run")
def _(maker: SetupMaker) -> Path:
    options = {"hidden": [64, 64], "dropout": maker.draw.choice([0.88, 0.9])}
    return run(maker, "training.optimizer.lr=0.05", student={"name": "mlp", "options": options})


@KINDS.faulty(
    "run that believed a teacher of other classes",
    "labels_drowned",
    "teacher_errors_copied",
    "worse_classes",
    about="run",
)
def _(maker: SetupMaker) -> Path:
    first, second, third = maker.draw.sample(range(10), 3)
    order = list(range(10))
    order[first], order[second], order[third] = second, third, first
    teacher = maker.changed(maker.teacher(), head(lambda weight, bias: (weight[order], bias[order])), "turned")
    terms = [{**CE, "weight": 0.02}, {"name": "kl", "weight": 0.98, "temperature": 4}]
    return run(maker, teacher=teacher, losses=terms)


@KINDS.faulty("run that doubts whatever it says", "miscalibrated", "over_regularising", about="run")
def _(maker: SetupMaker) -> Path:
    factor = maker.draw.choice([30.0, 50.0])
    teacher = maker.changed(maker.teacher(), head(lambda weight, bias: (weight / factor, bias / factor)), "soft")
    return run(maker, teacher=teacher, losses=[{"name": "kl", "temperature": maker.draw.choice([1, 2])}])


@KINDS.faulty("run whose teacher came too late", "kd_ignored", about="run")
def _(maker: SetupMaker) -> Path:
    late = {"start": 0.0, "end": 0.9, **maker.draw.choice([{"shape": "step"}, {"begin": 0.997}])}
    return run(maker, losses=[CE, {"name": "kl", "weight": late, "temperature": 4}])


@KINDS.faulty("run under logits by direction alone", "rescaling_gone", about="run")
def _(maker: SetupMaker) -> Path:
    teacher = around(maker, "of_length", length=maker.draw.choice([48, 64]))
    terms = [{**CE, "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 1}]
    return run(maker, "training.record_gradient_rescaling=true", teacher=teacher, losses=terms)


@KINDS.correct("run stopped, and gone on with", about="run")
def _(maker: SetupMaker) -> Path:
    content, folder = stopped(maker, 25, maker.draw.randrange(150, 400))
    execute(parse_recipe(content), folder, resume=True, latency=False)
    return folder


@KINDS.correct("run that drops at a half and three quarters", about="run")
def _(maker: SetupMaker) -> Path:
    return run(maker, "training.schedule={name: multi_step}", f"training.optimizer.lr={maker.draw.choice([0.05, 0.1])}")


@KINDS.correct("run looked at now and then", about="run")
def _(maker: SetupMaker) -> Path:
    steps = maker.draw.choice([600, 700])
    changes = [f"training.steps={steps}", "training.evaluate_every=7", "training.log_every=50"]
    return run(maker, "training.epochs=null", *changes)


@KINDS.correct("run of small batches", about="run")
def _(maker: SetupMaker) -> Path:
    return run(maker, "data.batch_size=24", "training.optimizer.lr=0.03")


@KINDS.correct("run of a student taken up again", about="run")
def _(maker: SetupMaker) -> Path:
    student = maker.teacher(student={"name": "resnet8", "options": {"width": 5}}, seed=3000 + maker.seed)
    return run(maker, f"training.optimizer.lr={maker.draw.choice([0.02, 0.03])}", student=student)


@KINDS.correct("run under logits far from zero", about="run")
def _(maker: SetupMaker) -> Path:
    offset = maker.draw.choice([-25.0, 25.0])

    def change(state: dict[str, Tensor]) -> None:
        state[f"{last_layer(state)}.bias"] += offset

    return run(maker, teacher=maker.changed(maker.teacher(), change, "offset"))


def study(maker: SetupMaker, methods: list[Content], *overrides: str, **more: Any) -> Path:
    """A study of a small student on the digits."""
    recipe = maker.recipe("training.epochs=15", "training.evaluate_every=5", *overrides)
    del recipe["seed"]
    recipe |= {"student": {"name": "resnet8", "options": {"width": 4}}, "teacher": more.pop("teacher", maker.teacher())}
    held = {"recipe": recipe, "methods": methods, "baseline": methods[0]["name"], "seeds": [0, 1, 2]}
    return maker.studied({**held, **more})


LABELS: Content = {"name": "labels", "set": {"losses": [CE]}}
FEW = "data.train_limit=200"


@KINDS.faulty("distilled from more images", "unequal", about="study")
def _(maker: SetupMaker) -> Path:
    more = {"name": "kl", "set": {"data.train_limit": maker.draw.choice([600, 800])}}
    return study(maker, [LABELS, more], FEW, "data.batch_size=32")


@KINDS.faulty("distilled into a wider student", "unequal", about="study")
def _(maker: SetupMaker) -> Path:
    wider = {"name": "kl", "set": {"student.options.width": maker.draw.choice([8, 10])}}
    return study(maker, [LABELS, wider], FEW, "data.batch_size=32")


@KINDS.faulty("student worse off with a teacher of other classes", "better_without", about="study")
def _(maker: SetupMaker) -> Path:
    order = list(range(10))
    maker.draw.shuffle(order)
    teacher = maker.changed(maker.teacher(), head(lambda weight, bias: (weight[order], bias[order])), "shuffled")
    return study(maker, [LABELS, {"name": "kl"}], FEW, "data.batch_size=32", teacher=teacher)


@KINDS.faulty("tuned on one side alone", "baseline_not_tuned", "unequal", about="study")
def _(maker: SetupMaker) -> Path:
    # One rate by hand for the labels, so low that it does not get far; the other's is searched for.
    low = maker.draw.choice([0.002, 0.003])
    plain = {"name": "labels", "set": {"losses": [CE], "training.optimizer.lr": low}}
    rates = {"training.optimizer.lr": {"low": 0.01, "high": 0.3, "log": True}}
    tuned = {"name": "kl", "tune": {**rates, "losses.kl.temperature": [2, 4, 8]}}
    return study(maker, [plain, tuned], FEW, "data.batch_size=32", tuning={"trials": 3, "length": 0.5})


@KINDS.correct("two rates", about="study")
def _(maker: SetupMaker) -> Path:
    slower = {"name": "kl-slower", "set": {"training.optimizer.lr": maker.draw.choice([0.05, 0.06])}}
    return study(maker, [{"name": "kl"}, slower], "training.epochs=25", "training.optimizer.lr=0.1")


@KINDS.correct("widths compared, as the study says", about="study")
def _(maker: SetupMaker) -> Path:
    wide = {"name": "wide", "set": {"student.options.width": maker.draw.choice([6, 7])}}
    return study(maker, [{"name": "narrow"}, wide], "training.epochs=20", allowed_differences=["student"])


@KINDS.correct("twice as long, as the study says", about="study")
def _(maker: SetupMaker) -> Path:
    longer = {"name": "longer", "set": {"training.epochs": maker.draw.choice([36, 40])}}
    return study(maker, [{"name": "kl"}, longer], "training.epochs=20", allowed_differences=["budget"])
