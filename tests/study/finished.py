"""Studies whose runs are really done, in less than a tenth of a second each; and ways to tamper with them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.run.run import execute
from stillroom.study.collect import collect
from stillroom.study.config import Study, parse_study
from stillroom.study.equality import inequalities
from stillroom.study.plan import StudyFolder, StudyPlan, plan_of
from workers import shared_folder

KL = [{"name": "cross_entropy", "weight": 0.5}, {"name": "kl", "weight": 0.5}]
MSE = [{"name": "cross_entropy", "weight": 0.5}, {"name": "logit_mse", "weight": 0.5}]
SAME_TABLES = ("results.json", "runs.csv", "table.csv", "comparisons.csv", "table.tex")
Row = dict[str, Any]


def content(weights: Path, **changes: Any) -> Row:
    """A study of three methods and two seeds, 2 epochs of 3 steps each."""
    study: Row = {
        "name": "tiny_study",
        "question": "Does it matter?",
        "seeds": [0, 1],
        "budget": {"epochs": 2},
        "recipe": {
            "data": {"train_limit": 100, "test_limit": 60, "batch_size": 32, "augmentation": {"pad_crop": 1}},
            "teacher": {"name": "mlp", "options": {"hidden": [8]}, "weights": str(weights)},
            "student": {"name": "mlp", "options": {"hidden": [4]}},
            "training": {"log_every": 4, "precision": "float32", "device": "cpu"},
        },
        "methods": [
            {"name": "labels"},
            {"name": "kl", "set": {"losses": KL}},
            {"name": "mse", "set": {"losses": MSE}},
        ],
    }
    return {**study, **copy.deepcopy(changes)}


class Made:
    """Finished studies, each made of copies of runs that were done before where their recipes are the same.

    Args:
        home: where runs are kept.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(exist_ok=True)

    def weights(self, seed: int = 0) -> Path:
        """A teacher of random weights."""
        path = self.home / f"teacher-{seed}.safetensors"
        if not path.exists():
            torch.manual_seed(seed)
            config = ModelConfig(name="mlp", options={"hidden": [8]})
            save_weights(build(config, num_classes=10, in_channels=1, image_size=8), path)
        return path

    def content(self, **changes: Any) -> Row:
        """The study as plain objects."""
        return content(self.weights(), **changes)

    def study(self, path: Path, *, run: bool = True, **changes: Any) -> tuple[StudyFolder, StudyPlan]:
        """A study with its runs in a new folder."""
        folder = StudyFolder(path)
        plan = plan_of(parse_study(self.content(**changes)), folder)
        if run:
            self.run(folder, plan)
        return folder, plan

    def run(self, folder: StudyFolder, plan: StudyPlan) -> None:
        """Do the runs of a plan."""
        for cell in plan.runs:
            kept = self.home / "runs" / cell.recipe.hash()
            with FileLock(f"{self.home / cell.recipe.hash()}.lock"):
                if not kept.exists():
                    execute(cell.recipe, kept.with_name(f"{kept.name}.new"), resume=True)
                    kept.with_name(f"{kept.name}.new").rename(kept)
            # Without checksums: tests change these files as an author of false results would, not as damage does.
            run = folder.run(cell.pair, cell.method, cell.seed)
            shutil.copytree(kept, run, ignore=shutil.ignore_patterns("checksums.sha256"))

    def planted(
        self, path: Path, changes: Row, *, who: tuple[str, ...] = ("kl",), **more: Any
    ) -> tuple[StudyFolder, StudyPlan]:
        """A study in which these methods' recipes are changed."""
        study = self.content(**more)
        for method in study["methods"]:
            if method["name"] in who:
                method["set"] = {**method.get("set", {}), **changes}
        return self.study(path, **study)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder is that of all workers of pytest: several files of tests make the same studies."""
    return Made(shared_folder(tmp_path_factory) / "made")


def edit(path: Path, change: Callable[[Row], object]) -> None:
    """Change a JSON file in place."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def lines_of(path: Path) -> Iterator[Row]:
    return (json.loads(line) for line in path.read_text().splitlines())


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_tensors(path: Path, change: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(path)), path)


def texts(folder: StudyFolder, plan: StudyPlan, **known: Any) -> list[str]:
    """What keeps a study's runs from being equal."""
    return [one.text for one in inequalities(plan, collect(folder, plan).runs, **known)]


def study_of(**changes: Any) -> Study:
    """A study that is never run."""
    return parse_study(content(Path("teacher.safetensors"), **changes))
