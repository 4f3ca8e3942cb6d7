"""What passes between ``speed.py`` and its workers. Nothing here imports torch: the driver stays small and idle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class Pair:
    """A teacher and a student of the zoo, and how many classes they tell apart where no data says so."""

    teacher: str
    student: str
    classes: int

    @property
    def name(self) -> str:
        """What ``--pairs`` calls it."""
        return f"{self.teacher}-{self.student}"

    def __str__(self) -> str:
        return f"{self.teacher} → {self.student}"


PAIRS = {pair.name: pair for pair in (Pair("resnet56", "resnet8", 10), Pair("resnet32x4", "resnet8x4", 100))}

PLAIN, LIVE, CACHED, COMPILED, ALONE = "plain", "live", "cached", "cached+compile", "student alone"
BARE_CACHED, BARE_ALONE, BARE_LIVE = "bare cached step", "bare student step", "bare live step"
FRAMEWORK, GRAPHED = "framework's loop", "bare cached step, CUDA graph"

VARIANTS = {
    PLAIN: "the loop everybody writes: float32, contiguous, the teacher asked each step, SGD as it comes",
    LIVE: "stillroom, `cache.enabled: false`: the teacher asked each step",
    CACHED: "stillroom, `cache.enabled: true`: the teacher asked once about each view",
    COMPILED: "the same with `training.compile: true`",
    ALONE: "stillroom, cross-entropy alone, no teacher",
    BARE_CACHED: "by hand: exactly what a cached step must do, and nothing around it",
    BARE_ALONE: "by hand: the like for the student alone",
}
# What `gpu.py` adds.
GPU_ONLY = {
    FRAMEWORK: "a loop as mdistiller writes it: images one by one from a DataLoader with two workers; after each step "
    "the loss, top-1 and top-5 are read back",
    GRAPHED: 'the bare cached step, its student by `torch.compile(mode="reduce-overhead")`',
}
# Each takes one piece away from the bare live step: what that piece brings is what is lost without it.
ABLATION = {
    BARE_LIVE: "by hand: augment, teacher, student, backward, step; all pieces of the hot path",
    f"{BARE_LIVE}, float32": "without bfloat16 autocast, for teacher and student",
    f"{BARE_LIVE}, contiguous": "without the channels-last layout",
    f"{BARE_LIVE}, unfolded": "without folding the teacher's batch norms into its convolutions",
    f"{BARE_LIVE}, SGD not fused": "with torch.optim.SGD as it comes",
}


@dataclass(frozen=True)
class Job:
    """What one worker is to do.

    Attributes:
        do: a variant, or ``prepare`` (make the teacher's weights) or ``build`` (time the building of a cache).
        teacher: name in the zoo.
        student: name in the zoo.
        classes: where the data does not say.
        weights: file of the teacher's weights; ``prepare`` writes it, from ``given`` where that is not None.
        given: the user's own file of weights.
        data: what ``--data`` says; None makes random images.
        images: how many training images.
        batch: images a step.
        views: how many views of each image the cache knows.
        threads: CPU threads.
        device: auto, cpu or cuda.
        folder: where its run may write.
        worker: the program that does it, next to this one.
    """

    worker: ClassVar[str] = "speed_worker.py"

    do: str
    teacher: str
    student: str
    classes: int
    weights: str
    given: str | None
    data: str | None
    images: int
    batch: int
    views: int
    threads: int
    device: str
    folder: str

    def to_json(self) -> str:
        """For the worker's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What the driver wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)
