"""Teachers that change while the student learns: its own moving average or snapshot, and a peer that learns with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.loader import Batch, BatchLoader
from stillroom.files import canonical_json, digest
from stillroom.models.modes import copy_model, freeze
from stillroom.models.prepared import PreparedModel
from stillroom.models.reader import TapReader
from stillroom.models.weights import state_hash
from stillroom.runtime import Runtime
from stillroom.teachers.config import TeacherConfig
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.source import Log, Teacher, TeacherSource
from stillroom.train.optimisation import MovingAverage
from stillroom.train.recorders import StepHook, StepInfo


class FollowingTeacher(TeacherSource, StepHook):
    """The student's own moving average, or its last snapshot, as its teacher; never cached, saved with the run.

    It runs in eval mode, on the same images as the student, and begins as the student does. As a :class:`StepHook` it
    follows each step, so that a resumed run is exact.

    Args:
        student: the model that learns, with its preprocess.
        config: ``ema`` or ``snapshot``.
        taps: modules whose outputs the losses read.
        runtime: where it runs.
        steps_per_epoch: of the run, for snapshots.

    Papers: Tarvainen & Valpola, Mean teachers are better role models, arXiv 1703.01780; Yang et al., Snapshot
    Distillation, arXiv 1812.00123.
    """

    changes = follows_student = True

    def __init__(
        self,
        student: PreparedModel,
        config: TeacherConfig,
        *,
        taps: Sequence[str],
        runtime: Runtime,
        steps_per_epoch: int,
    ) -> None:
        what = "moving average" if config.ema is not None else "snapshot"
        parts = [config.ema, config.snapshot, state_hash(student.model)]
        super().__init__(f"{what} of the student", digest(canonical_json(parts)))
        # A snapshot is an average that forgets all, taken now and then.
        self._every = 1 if config.snapshot is None else config.snapshot * steps_per_epoch
        self._average = MovingAverage(student.model, config.ema or 0.0, copies_first=False)
        freeze(self._average.module).eval()
        self.prepared = replace(student, model=self._average.module)
        self._runtime = runtime
        self._preprocess = self.prepared.preprocess().to(runtime.device)
        self._taps = TapReader(self._average.module, tuple(sorted(set(taps))), field="teacher")

    def after_step(self, info: StepInfo) -> None:
        """Follow the student."""
        if info.step % self._every == 0:
            self._average.update()
            # Each process has its own running statistics: all are taught by those of the first.
            self._runtime.processes.copy_buffers(self._average.module)

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights and buffers."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved ``state_dict``."""
        self._average.load_state_dict(state)

    def compute_test_logits(self) -> Tensor | None:
        """None: they are computed at each evaluation."""
        return None

    def training_teacher(self, loader: BatchLoader, epochs: int, log: Log | None = None) -> Teacher:
        """The teacher of the moment, run on each batch."""
        return self._output

    @torch.no_grad()
    def _output(self, batch: Batch) -> ModelOutput:
        device, precision = self._runtime.device, self._runtime.precision
        self.counter.answers += len(batch) * self._runtime.processes.count
        with self._taps, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = self._average.module(self._preprocess(batch.images))
        features = {tap: feature.float() for tap, feature in self._taps.take().items()}
        return ModelOutput(self._preprocess.reorder(logits.float()), features)


class PeerTeacher(TeacherSource):
    """A second student, which learns from the first while it teaches it; it is run inside the step.

    Args:
        peer: the model with its preprocess.

    Paper: Zhang et al., Deep Mutual Learning, arXiv 1706.00384.
    """

    changes = True

    def __init__(self, peer: PreparedModel) -> None:
        super().__init__(peer.name, state_hash(peer.model))
        self.prepared = peer

    @property
    def model(self) -> nn.Module:
        """The model that learns."""
        assert self.prepared is not None
        return self.prepared.model

    def compute_test_logits(self) -> Tensor | None:
        """None: they are computed at each evaluation."""
        return None

    def training_teacher(self, loader: BatchLoader, epochs: int, log: Log | None = None) -> Teacher:
        """Never asked: the step runs it."""
        raise AssertionError("a peer is run by the step")


def as_teacher(student: PreparedModel) -> PreparedModel:
    """The student as losses see it at set-up where it is its own teacher: a frozen copy."""
    return replace(student, model=freeze(copy_model(student.model)).eval())
