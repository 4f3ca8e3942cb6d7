"""Does ``dissect`` say what a teacher's answers are made of? Three teachers whose answers are made by hand.

The task is ``source: synthetic`` without waves and with much noise on the labels: the probability of each label is
known. A teacher's answer to an image with label y has either the mean confidence or the known probability of y in this
image, and shares out the rest evenly or within the superclass of y. So its answers are class relations alone, the
confidence in each image alone, or both; what the full answer brings is then exactly what these cells bring.

    python benchmarks/dissect_truth.py --out /tmp/dissect-truth [--seeds 0,1,2,3,4]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.data.config import SyntheticConfig
from stillroom.data.sources import load
from stillroom.data.synthetic import make_task
from stillroom.files import write_json
from stillroom.recipe import parse_recipe
from stillroom.study.compare import compare
from stillroom.study.config import Study, parse_study
from stillroom.study.dissect import PARTS, dissecting, write_dissection
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.plan import StudyFolder
from stillroom.teachers.precomputed import INPUTS, inputs_of

TASK = {
    "dimension": 60,
    "classes": 20,
    "superclasses": 4,
    "similarity": 0.9,
    "waves": 0,
    "noise": 0.3,
    "train": 600,
    "test": 2000,
}
# Which of the two a teacher's answers have of their own: the other part is the mean of all, or even.
TEACHERS = {"relations": (False, True), "confidence": (True, False), "both": (True, True)}


def answers(probability: np.ndarray, labels: np.ndarray, *, confident: bool, related: bool) -> np.ndarray:
    """A teacher's answers [N, K]: see the module.

    Args:
        probability: of each label, [N].
        labels: [N].
        confident: it knows the probability in each image, not the mean alone.
        related: it shares out the rest within the superclass alone, not evenly.
    """
    classes, superclasses = TASK["classes"], TASK["superclasses"]
    group = np.arange(int(classes)) * int(superclasses) // int(classes)
    own = np.eye(int(classes))[labels]
    rest = (group[labels][:, None] == group) - own if related else 1 - own
    share = probability if confident else np.full_like(probability, probability.mean())
    # A little everywhere, as logits are finite.
    rest = 0.98 * rest / rest.sum(1, keepdims=True) + 0.02 * (1 - own) / (1 - own).sum(1, keepdims=True)
    return np.asarray(share[:, None] * own + (1 - share[:, None]) * rest)


def write_teachers(folder: Path, data: dict[str, Any]) -> None:
    """The folder of logits of each teacher."""
    recipe = parse_recipe({"data": data, "student": {"name": "mlp"}})
    pair = load(recipe.data)
    config = SyntheticConfig(**data["synthetic"])
    labels = pair.train.labels.numpy()
    scores = make_task(config).scores(pair.train.images[:].flatten(1).double().numpy())
    # P(label = y | x) under Gaussian noise on each score, by draws.
    noise = np.random.default_rng(0).normal(scale=config.noise, size=(400, *scores.shape))
    drawn = (scores + noise).argmax(2)
    probability = np.clip((drawn == labels).mean(0), 0.01, 0.99)
    for name, (confident, related) in TEACHERS.items():
        out = folder / name
        out.mkdir(parents=True, exist_ok=True)
        logits = np.log(answers(probability, labels, confident=confident, related=related))
        np.save(out / "train-logits.npy", logits.astype(np.float32))
        write_json(out / INPUTS, inputs_of(pair, recipe.data.augmentation, same_for_views=False))


def study_of(
    folder: Path, seeds: tuple[int, ...], teachers: tuple[str, ...] = tuple(TEACHERS), *, epochs: int = 40
) -> Study:
    """The study that takes the teachers apart; their logits lie in the folder."""
    data = {"source": "synthetic", "synthetic": TASK, "batch_size": 50}
    write_teachers(folder, data)
    recipe = parse_recipe(
        {
            "data": data,
            "teacher": {"name": teachers[0], "logits": str(folder / teachers[0])},
            "student": {"name": "mlp", "options": {"hidden": [64]}},
            "losses": [{"name": "cross_entropy", "weight": 0.5}, {"name": "kl", "weight": 0.5, "temperature": 1}],
            "cache": {"dtype": "float32"},
            "training": {
                "epochs": epochs,
                "log_every": 100,
                "evaluate_every": epochs,
                "threads": 1,
                "precision": "float32",
                "optimizer": {"lr": 0.05},
            },
        }
    )
    content = dissecting(recipe, seeds=seeds).as_dict()
    content["model_pairs"] = [{"name": each, "set": {"teacher.logits": str(folder / each)}} for each in teachers]
    return parse_study(content)


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    study = study_of(asked.out / "teachers", tuple(int(each) for each in asked.seeds.split(",")))
    found = compare(study, asked.out / "study", lambda folder, threads: InProcessEngine())
    print("| the teacher's answers are made of | " + " | ".join(part.name for part in PARTS) + " | all |")
    print("|---" * (len(PARTS) + 2) + "|")
    for pair in write_dissection(StudyFolder(asked.out / "study"), found.results)["pairs"]:
        cells = [pair["pair"]]
        for part in (*pair["parts"], pair["total"]):
            share = "" if part.get("share") is None else f", {part['share']:.2f}"
            low, high = ("–" if part[side] is None else f"{part[side]:+.2f}" for side in ("low", "high"))
            cells.append(f"{part['mean']:+.2f} [{low}, {high}]{share}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
