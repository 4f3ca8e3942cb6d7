"""Jobs of a second: a small teacher and a small student on a few digits."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.study.engine.base import Engine, Job, JobKind, Outcome

APART = {"timing.jsonl", "environment.json", "checksums.sha256"}  # what depends on clocks and on the machine


def save_teacher(folder: Path) -> None:
    """Leave a teacher's weights where the recipe looks for them: in the working folder."""
    torch.manual_seed(0)
    model = build(ModelConfig(name="resnet8", options={"width": 4}), num_classes=10, in_channels=1, image_size=8)
    save_weights(model, folder / "teacher.safetensors")


def not_this_one(folder: Path) -> None:
    """Leave files of the user's that are called as modules of Python's are."""
    for name in ("queue", "timeit", "fractions", "colorsys", "statistics"):
        (folder / f"{name}.py").write_text("raise RuntimeError('not this one')")


def recipe(*, seed: int = 0, threads: int = 1, data: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    return {
        "data": {
            "train_limit": 200,
            "test_limit": 60,
            "batch_size": 32,
            "augmentation": {"pad_crop": 1, "views": 2},
            **(data or {}),
        },
        "teacher": {"name": "resnet8", "options": {"width": 4}, "weights": "teacher.safetensors"},
        "student": {"name": "resnet8", "options": {"width": 4}},
        "losses": [{"name": "cross_entropy", "weight": 0.5}, {"name": "kl", "weight": 0.5}],
        "training": {
            "epochs": 1,
            "log_every": 2,
            "precision": "float32",
            "device": "cpu",
            "threads": threads,
            **training,
        },
        "seed": seed,
    }


def job(out: Path, content: dict[str, Any] | None = None, *, kind: JobKind = "run", **options: Any) -> Job:
    content = recipe() if content is None else content
    return Job(f"{kind}/{out.name}", kind, content, str(out), threads=content["training"]["threads"], options=options)


DYING = """
import os, signal
from pathlib import Path
from torch import nn
class Dying(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
        self.steps = 0
    def forward(self, images):
        self.steps += self.training
        if self.steps == 9 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.NUMBER)
        return super().forward(images)
"""


def dying(place: Path, number: str = "SIGKILL", *, save_seconds: float = 0) -> dict[str, Any]:
    """A recipe whose student sends its process a signal in the second epoch, once: no clock decides when."""
    (place / f"dying_of_{number}.py").write_text(DYING.replace("NUMBER", number).replace("died", f"died_of_{number}"))
    return {**recipe(epochs=3, save_seconds=save_seconds), "student": {"name": f"dying_of_{number}:Dying"}}


def endless(out: Path, seed: int = 0, save_seconds: float = 0.1) -> Job:
    return job(out, recipe(seed=seed, epochs=1_000_000, save_seconds=save_seconds))


def do(engine: Engine, jobs: Iterable[Job], patience: float = 600.0) -> dict[str, Outcome]:
    """Have jobs done, as many side by side as the engine takes."""
    waiting, found, under_way = list(jobs), {}, 0
    deadline = time.monotonic() + patience
    while waiting or under_way:
        while waiting and under_way < engine.slots:
            engine.submit(waiting.pop(0))
            under_way += 1
        for outcome in engine.wait(1.0):
            found[outcome.id] = outcome
            under_way -= 1
        assert time.monotonic() < deadline, "the jobs take too long"
    return found


def one(engine: Engine, what: Job) -> Outcome:
    return do(engine, [what])[what.id]


def until(true: Callable[[], bool], patience: float = 600.0) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def saved(what: Job) -> bool:
    """Whether a run is so far that it could be resumed."""
    return Path(what.out, "state", "last.pt").exists()


def is_free(what: Job) -> bool:
    """Whether no process writes a run's folder."""
    with Path(what.out, "state", "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def left_by(what: Job | Path) -> dict[str, bytes]:
    """All that a finished run leaves, clocks aside."""
    folder = Path(what.out) if isinstance(what, Job) else what
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert {"student.safetensors", "metrics.jsonl", "summary.json", "recipe.yaml"} <= set(files)
    return {name: path.read_bytes() for name, path in files.items() if name not in APART}
