"""What a run tells of its last layer is what a second computation finds in the weights that it left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.errors import RunFailed
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.run import execute
from stillroom.train.recorders import StepHook, StepInfo

pytestmark = pytest.mark.usefixtures("perceptrons")
Make = Callable[..., Recipe]
Numbers = npt.NDArray[np.float64]
TASK = {"dimension": 24, "classes": 8, "superclasses": 4, "similarity": 0.8, "waves": 0, "train": 256, "test": 32}


def made(**changes: Any) -> Recipe:
    """A run from labels on a task whose relations are known: 2 epochs of 4 steps."""
    return parse_recipe(
        {
            "data": {"source": "synthetic", "batch_size": 64, "synthetic": {**TASK, **changes.pop("task", {})}},
            "student": {"name": "mlp", "options": {"hidden": [16]}},
            "losses": [{"name": "cross_entropy"}],
            "training": {"epochs": 2, "precision": "float32", "device": "cpu", **changes.pop("training", {})},
            **changes,
        }
    )


def cosines(weight: npt.NDArray[Any]) -> Numbers:
    rows = weight.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows @ rows.T)


def score(cosines: Numbers, groups: list[int]) -> float:
    pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
    within, between = ([cosines[i, j] for i, j in pairs if (groups[i] == groups[j]) is same] for same in (True, False))
    return float(np.mean(within) - np.mean(between))


def agreement(mine: Numbers, theirs: Numbers) -> float:
    upper = np.triu_indices(len(mine), 1)
    return float(np.corrcoef(mine[upper], theirs[upper])[0, 1])


def test_each_epoch_tells_of_the_weights_as_they_were_then(tmp_path: Path) -> None:
    execute(made(training={"checkpoints": [0, 1, 2], "ema": 0.5}), tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "class_relations.jsonl")
    assert [(line["step"], line["epoch"]) for line in lines] == [(0, 0.0), (4, 1.0), (8, 2.0)]
    groups = [0, 0, 1, 1, 2, 2, 3, 3]
    truth = np.array([[1.0 if i == j else 0.64 * (groups[i] == groups[j]) for i in range(8)] for j in range(8)])
    for line, epoch in zip(lines, (0, 1, 2), strict=True):
        weights = load_file(tmp_path / "run" / "checkpoints" / f"epoch-{epoch:04d}.safetensors")
        own = cosines(next(w for w in reversed(list(weights.values())) if w.ndim == 2 and len(w) == 8))
        assert line["score"] == pytest.approx(score(own, groups), abs=1e-6)
        assert line["truth"] == pytest.approx(agreement(own, truth), abs=1e-6)
        assert line["teacher"] is None
    relations = json.loads((tmp_path / "run" / "summary.json").read_text())["relations"]
    assert {key: relations[key] for key in ("score", "truth", "teacher")} == {
        key: lines[-1][key] for key in ("score", "truth", "teacher")
    }
    assert relations["why"] == {"teacher": "there is no teacher whose last layer could be read"}
    content = json.loads((tmp_path / "run" / "class_relations.json").read_text())
    assert np.abs(np.array(content["maps"]["student"]) - own).max() < 1e-4
    assert np.abs(np.array(content["maps"]["truth"]) - truth).max() < 1e-4
    assert content["maps"]["teacher"] is None
    assert content["score"] == {"student": lines[-1]["score"], "teacher": None, "truth": pytest.approx(0.64)}
    assert (content["ordered_by"], content["order"]) == ("superclasses", list(range(8)))
    assert content["superclasses"] == ["s0", "s0", "s1", "s1", "s2", "s2", "s3", "s3"]


def test_an_epoch_cut_short_has_a_line_too(tmp_path: Path) -> None:
    execute(made(training={"epochs": None, "steps": 6}), tmp_path / "run")
    assert [line["epoch"] for line in read_lines(tmp_path / "run" / "class_relations.jsonl")] == [0.0, 1.0, 1.5]


@pytest.mark.parametrize("dimension", [24, 9])
def test_without_similarity_nothing_is_claimed(tmp_path: Path, dimension: int) -> None:
    execute(made(task={"similarity": 0.0, "dimension": dimension}), tmp_path / "run")
    assert all(
        line["score"] is line["truth"] is None for line in read_lines(tmp_path / "run" / "class_relations.jsonl")
    )
    relations = json.loads((tmp_path / "run" / "summary.json").read_text())["relations"]
    assert relations["score"] is relations["truth"] is None
    assert "in truth" in relations["why"]["score"]
    assert "in truth" in relations["why"]["truth"]
    content = json.loads((tmp_path / "run" / "class_relations.json").read_text())
    assert set(content["score"].values()) == {None}
    assert content["maps"]["truth"] is not None


def test_a_student_that_learns_the_task_comes_to_know_its_relations(tmp_path: Path) -> None:
    execute(made(task={"train": 2048}, training={"epochs": 4}), tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "class_relations.jsonl")
    assert abs(lines[0]["truth"]) < 0.5
    assert lines[-1]["truth"] > 0.8
    assert lines[-1]["score"] > 0.3


def test_the_teacher_is_read_in_the_datas_class_order(recipe: Make, tmp_path: Path) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    execute(recipe("training.epochs=1", "teacher.preprocess=half"), tmp_path / "straight")
    preprocess = {"mean": [0.5], "std": [0.5], "class_order": order}
    execute(recipe(f"teacher.preprocess={json.dumps(preprocess)}"), tmp_path / "turned")
    straight, turned = (
        json.loads((tmp_path / name / "class_relations.json").read_text()) for name in ("straight", "turned")
    )
    teacher = np.array(straight["maps"]["teacher"])
    assert np.array(turned["maps"]["teacher"]).tolist() == teacher[np.ix_(order, order)].tolist()
    relations = agreement(np.array(turned["maps"]["student"]), teacher[np.ix_(order, order)])
    assert turned["agreement"]["teacher"] == pytest.approx(relations, abs=1e-3)


def test_a_stopped_run_tells_the_same(tmp_path: Path) -> None:
    recipe = made(training={"save_seconds": 0, "log_every": 1, "ema": 0.9})
    execute(recipe, tmp_path / "whole")
    stop_and_resume(recipe, tmp_path / "stopped", 6)
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")


def test_real_classes_without_superclasses_have_the_teachers_relations_alone(recipe: Make, tmp_path: Path) -> None:
    finished = execute(recipe("training.epochs=1"), tmp_path / "run")
    relations = finished.summary["relations"]
    assert relations["score"] is relations["truth"] is None
    assert -1 <= relations["teacher"] <= 1
    assert relations["why"] == {
        "score": "the data name no superclasses",
        "truth": "the true relations of these data are not known",
    }
    content = json.loads((tmp_path / "run" / "class_relations.json").read_text())
    assert (content["superclasses"], content["ordered_by"]) == (None, "teacher")
    assert sorted(content["order"]) == list(range(10))


def test_a_student_without_a_linear_last_layer_tells_nothing(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cosine_head.py").write_text(
        "from torch import nn\n"
        "class Scaled(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    def forward(self, x): return 3 * self.body(x)\n"
        "def scaled(num_classes): return Scaled()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    finished = execute(recipe("student={name: 'cosine_head:scaled'}", "training.epochs=1"), tmp_path / "run")
    assert finished.summary["relations"] is None
    assert not list((tmp_path / "run").glob("geometry*"))


class Breaks(StepHook):
    """Makes the last layer infinite where no logit shows it."""

    def after_step(self, info: StepInfo) -> None:
        for weight in info.student.parameters():
            if info.step == 4 and len(weight) == 8:
                weight.data.fill_(float("inf"))


def test_weights_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="not all finite"):
        execute(made(training={"log_every": 100, "evaluate_every": 2}), tmp_path / "run", hooks=[Breaks()])


def test_more_classes_than_have_room_tell_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stillroom.run.relations.MOST_MAPPED", 7)
    execute(made(training={"epochs": 1}), tmp_path / "few")
    content = json.loads((tmp_path / "few" / "class_relations.json").read_text())
    assert content["maps"] is content["order"] is None
    assert content["score"]["student"] is not None
    monkeypatch.setattr("stillroom.run.relations.MOST_CLASSES", 7)
    assert execute(made(training={"epochs": 1}), tmp_path / "none").summary["relations"] is None


def test_the_known_difficulty_is_that_of_the_very_sample(tmp_path: Path) -> None:
    from stillroom.data.sources import load

    execute(made(), tmp_path / "teacher")
    teacher = {"name": "mlp", "options": {"hidden": [16]}, "weights": str(tmp_path / "teacher" / "student.safetensors")}
    kd = [{"name": "cross_entropy", "weight": 0.5}, {"name": "kl", "weight": 0.5}]
    recipe = made(teacher=teacher, losses=kd, training={"record_gradient_rescaling": True, "epochs": 1})
    # A part of the samples keeps the whole's indices.
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"holdout": 0.25, "batch_size": 48})})
    execute(recipe, tmp_path / "run")
    (line,) = read_lines(tmp_path / "run" / "gradient_rescaling.jsonl")
    truth = load(recipe.data).train.truth
    assert truth is not None
    margin = np.sort(truth.margin.numpy().astype(np.float64))
    groups = line["known_deciles"]
    assert sum(group["count"] for group in groups) == len(margin) == line["count"] == 192
    ends = [(group["margin_low"], group["margin_high"]) for group in groups]
    assert ends == [(float(part[0]), float(part[-1])) for part in np.array_split(margin, 10)]
    assert [group["margin_mean"] for group in groups] == pytest.approx(
        [part.mean() for part in np.array_split(margin, 10)]
    )
    assert -1 <= line["known_spearman"] <= 1
