"""Whether remedies bring back what a fault cost: digits, few images; the correct, faulty and repaired set-up."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinic_faulty_recipes import reordered, sharper, wrapped
from clinic_setups import KL, LABELS, Content, SetupMaker, norms
from torch import Tensor

from stillroom.diagnose.checks.teacher_changes import recalibrate
from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.diagnose.run import diagnose_run
from stillroom.models.weights import save_weights
from stillroom.recipe import parse_recipe, set_value
from stillroom.schema.diagnosis import Finding

SEEDS = (0, 1, 2)
# Few images, so that a teacher has something to bring; steps enough to learn them.
FEW = ("data.train_limit=300", "data.batch_size=32", "training.epochs=24", "training.evaluate_every=8")
STUDENT = {"name": "resnet8", "options": {"width": 4}}
IMAGES = 512


@dataclass(frozen=True)
class Trial:
    """A fault with its remedy.

    Attributes:
        name: what is wrong.
        checks: whose remedy is taken: of the first of these that is a problem or a warning.
        faulty: puts the fault into the recipe, in place.
        after: whether its run is diagnosed rather than the recipe.
        by_hand: what is done where no recipe can: in words, and the change.
        correct: changes the correct recipe first, where the usual one will not do.
    """

    name: str
    checks: tuple[str, ...]
    faulty: Callable[[SetupMaker, Content], None]
    after: bool = False
    by_hand: tuple[str, Callable[[SetupMaker, Content], None]] | None = None
    correct: Callable[[SetupMaker, Content], None] | None = None


def changing(**values: Any) -> Callable[[SetupMaker, Content], None]:
    """Sets dotted keys, ``__`` for a dot."""

    def change(maker: SetupMaker, content: Content) -> None:
        for key, value in values.items():
            place = key.replace("__", ".")
            set_value(content, place, copy.deepcopy(value))
            other = {"training.steps": "training.epochs", "training.epochs": "training.steps"}.get(place)
            if other is not None:
                set_value(content, other, None)

    return change


def taught_by(make: Callable[[SetupMaker], Content]) -> Callable[[SetupMaker, Content], None]:
    """Gives another teacher."""

    def change(maker: SetupMaker, content: Content) -> None:
        content["teacher"] = make(maker)

    return change


def _weights(change: Callable[[dict[str, Tensor]], None], what: str) -> Callable[[SetupMaker, Content], None]:
    return taught_by(lambda maker: maker.changed(maker.teacher(), change, what))


def _drift(state: dict[str, Tensor]) -> None:
    for name in norms(state):
        state[f"{name}.running_mean"] += 1.5 * state[f"{name}.running_var"].sqrt()
        state[f"{name}.running_var"] *= 4.0


def _recalibrated(maker: SetupMaker, content: Content) -> None:
    """The drifted teacher with statistics taken anew, as the words of the remedy say."""
    from stillroom.models.config import ModelConfig
    from stillroom.models.preprocess import Preprocess, resolve_preprocess
    from stillroom.run.components import build_model

    train = maker.split("train")
    path = maker.case / "anew.safetensors"
    model = build_model(ModelConfig(**content["teacher"]), train, "teacher")
    recalibrate(model, Preprocess(resolve_preprocess("half", channels=1, is_pixels=True))(train.images[:512]))
    save_weights(model, path)
    content["teacher"]["weights"] = str(path)


def _poor(maker: SetupMaker) -> Content:
    return maker.teacher(data__train_limit=60, training__epochs=12)


def _coloured(maker: SetupMaker, content: Content) -> None:
    data = {"path": maker.coloured(), "batch_size": 32, "train_limit": 300}
    own = maker.teacher()
    model = {"name": "clinic_models:one_colour", "options": {"model": own["name"], "channel": 0, **own["options"]}}
    content["data"] = data
    content["teacher"] = maker.teacher(student={**model, "preprocess": "half"}, data={**data, "train_limit": None})
    content["student"] = {**content["student"], "preprocess": "half"}


def _mse(taps: Any, weight: float = 1.0) -> list[Content]:
    return [{"name": "cross_entropy"}, {"name": "feature_mse", "taps": taps, "weight": weight}]


def _kl(labels: float, weight: float, temperature: float = 4) -> list[Content]:
    return [{"name": "cross_entropy", "weight": labels}, {"name": "kl", "weight": weight, "temperature": temperature}]


_FEATURES = changing(losses=_mse("features"))
_BACKWARDS = {"mean": [0.5] * 3, "std": [0.5] * 3, "channel_order": "bgr"}
_AS_TRAINED = ("the teacher itself, restored", lambda maker, content: content.update(teacher=maker.teacher()))
TRIALS = (
    Trial("wrong normalisation", ("teacher_normalisation",), changing(teacher__preprocess="none")),
    Trial(
        "channels the wrong way round",
        ("teacher_channel_order",),
        changing(teacher__preprocess=_BACKWARDS),
        correct=_coloured,
    ),
    Trial("wrong size", ("teacher_resize",), changing(teacher__preprocess={"mean": [0.5], "std": [0.5], "size": 24})),
    Trial(
        "drifted batch norm",
        ("teacher_batch_norm",),
        _weights(_drift, "drifted"),
        by_hand=("its running statistics taken anew", _recalibrated),
    ),
    Trial(
        "classes in another order", ("class_order",), _weights(reordered([3, 0, 1, 2, 9, 5, 4, 7, 8, 6]), "shuffled")
    ),
    Trial("two classes exchanged", ("class_order",), _weights(reordered([0, 3, 2, 1, 4, 5, 6, 7, 8, 9]), "exchanged")),
    Trial(
        "softmax inside the teacher",
        ("teacher_logits",),
        taught_by(lambda w: wrapped(w, "probabilities")),
        by_hand=_AS_TRAINED,
    ),
    Trial(
        "teacher in training mode",
        ("teacher_batch_norm",),
        taught_by(lambda w: wrapped(w, "training_mode")),
        by_hand=_AS_TRAINED,
    ),
    Trial(
        "untrained teacher",
        ("teacher_accuracy",),
        taught_by(lambda w: w.teacher(data__train_limit=10, training__epochs=1)),
    ),
    Trial(
        "teacher trained with label smoothing",
        ("teacher_label_smoothing",),
        taught_by(lambda w: w.teacher(losses=[{"name": "label_smoothing", "smoothing": 0.3}])),
        by_hand=("another teacher, trained without", _AS_TRAINED[1]),
    ),
    Trial(
        "over-confident teacher",
        ("teacher_confidence", "temperature"),
        lambda w, c: (_weights(sharper(6), "sharp")(w, c), changing(losses=_kl(0.1, 0.9, 1))(w, c))[0],
    ),
    Trial("temperature too low", ("teacher_confidence", "temperature"), changing(losses__kl__temperature=0.2)),
    Trial("temperature too high", ("temperature",), changing(losses__kl__temperature=1000)),
    Trial("labels drowned by a weight of 300", ("loss_balance",), changing(losses=_kl(1.0, 300.0))),
    Trial("teacher starved", ("loss_balance",), changing(losses=_kl(1.0, 0.001))),
    Trial(
        "features too narrow to compare",
        ("penultimate_width",),
        changing(student__options__penultimate=3),
        correct=_FEATURES,
    ),
    Trial("features too narrow for the logits", ("penultimate_width",), changing(student__options__penultimate=3)),
    Trial(
        "taps mispaired",
        ("taps",),
        changing(losses=_mse([{"teacher": "layer1", "student": "layer3"}], 10.0)),
        correct=changing(losses=_mse(["layer1"], 10.0)),
    ),
    Trial("rate that blows up", ("learning_rate",), changing(training__optimizer__lr=20.0)),
    Trial("rate that moves nothing", ("learning_rate",), changing(training__optimizer__lr=3e-5)),
    Trial("decay that forgets", ("learning_rate",), changing(training__optimizer__weight_decay=0.1)),
    Trial("too few steps", ("budget",), changing(training__steps=15)),
    Trial("augmentation that the teacher never saw", ("augmentation",), changing(data__augmentation__cutout=7)),
    Trial(
        "ShuffleNet under a ResNet far too large and sure",
        ("capacity_gap",),
        lambda w, c: (
            taught_by(lambda w: w.teacher(student={"name": "resnet20", "options": {"width": 24}}, training__epochs=25))(
                w, c
            ),
            changing(losses=_kl(0.1, 0.9, 1))(w, c),
        )[0],
        by_hand=("a teacher in between", _AS_TRAINED[1]),
        correct=changing(student={"name": "clinic_models:shufflenet", "options": {"width": 8}}),
    ),
    Trial(
        "run that blew up",
        ("diverged",),
        changing(training__optimizer__lr=4.0),
        after=True,
        correct=changing(student={"name": "mlp", "options": {"hidden": [64]}}),
    ),
    Trial("run far too short", ("under_training",), changing(training__epochs=2), after=True),
    Trial("run with a rate far too low", ("under_training",), changing(training__optimizer__lr=0.001), after=True),
    Trial(
        "run held back by smoothing",
        ("over_regularising",),
        changing(losses=[{"name": "label_smoothing", "smoothing": 0.95}]),
        after=True,
        correct=changing(losses=LABELS),
    ),
    Trial("run averaged over more than itself", ("over_regularising",), changing(training__ema=0.9995), after=True),
    Trial("run that did not hear its teacher", ("kd_ignored",), changing(losses=_kl(1.0, 0.001)), after=True),
    Trial(
        "run that copied a poor teacher",
        ("labels_drowned", "teacher_errors_copied", "student_at_teacher"),
        changing(losses=_kl(0.001, 1.0)),
        after=True,
        correct=lambda w, c: (taught_by(_poor)(w, c), changing(losses=_kl(0.5, 0.5))(w, c))[0],
    ),
)


def tried(folder: Path, trial: Trial) -> dict[str, Any]:
    """Train the three set-ups of a trial with each seed, and tell what each came to.

    Returns:
        Top-1 by seed of the ``correct``, the ``faulty`` and the ``repaired`` one; the ``verdict`` and remedy of the
        check, asked with the first seed; ``longer``: how many times as many steps the repaired one makes.
    """
    row: dict[str, Any] = {
        "name": trial.name,
        "checks": list(trial.checks),
        "correct": [],
        "faulty": [],
        "repaired": [],
    }
    remedy: Callable[[SetupMaker, Content], None] | None = None
    for seed in SEEDS:
        # One teacher for all seeds, as in a study; the students and their order of images differ.
        maker = SetupMaker(folder, "digits", 0, f"remedy {trial.name}")
        well = {**maker.recipe(*FEW), "student": copy.deepcopy(STUDENT), "losses": copy.deepcopy(KL), "seed": seed}
        if trial.correct is not None:
            trial.correct(maker, well)
        faulty = copy.deepcopy(well)
        trial.faulty(maker, faulty)
        if remedy is None:
            found = _found(maker, trial, faulty)
            overrides = dict(found.remedy.overrides) if found.remedy is not None else {}
            row |= {"verdict": found.verdict, "words": found.remedy.words if found.remedy is not None else ""}
            row |= {"overrides": overrides, "by_hand": trial.by_hand[0] if trial.by_hand is not None else None}
            remedy = trial.by_hand[1] if trial.by_hand is not None else changing(**overrides)
        repaired = copy.deepcopy(faulty)
        remedy(maker, repaired)
        for name, content in (("correct", well), ("faulty", faulty), ("repaired", repaired)):
            row[name].append(_top1(maker, content))
        # One whose loss was not finite had as many before it.
        row["longer"] = _steps(maker, repaired) / (_steps(maker, faulty) or _steps(maker, repaired))
    return row


def _found(maker: SetupMaker, trial: Trial, faulty: Content) -> Finding:
    findings = (
        diagnose_run(maker.trained(faulty)) if trial.after else diagnose_recipe(parse_recipe(faulty), images=IMAGES)
    )
    by_name = {finding.check: finding for finding in findings}
    open_ones = [by_name[name] for name in trial.checks if by_name[name].verdict in ("problem", "warning")]
    # Of several the surest.
    return min(open_ones, key=lambda one: one.verdict != "problem") if open_ones else by_name[trial.checks[0]]


def _top1(maker: SetupMaker, content: Content) -> float:
    """Top-1 after the last epoch; chance where the loss was not finite and the run ended."""
    path = maker.trained(content) / "summary.json"
    return float(json.loads(path.read_text())["top1"]) if path.exists() else 100 / maker.classes


def _steps(maker: SetupMaker, content: Content) -> int:
    path = maker.trained(content) / "summary.json"
    return int(json.loads(path.read_text())["steps"]) if path.exists() else 0
