"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from stillroom.data.augmentation import augment, view_of
from stillroom.data.batches import Batches
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.errors import BadInput
from stillroom.files import canonical, digest
from stillroom.models.weights import save_weights
from stillroom.randomness import derive_seed
from stillroom.teacher.knowledge import Knowledge
from stillroom.training.config import TrainingConfig
from stillroom.training.device import Precision, autocast
from stillroom.training.folder import RunFolder
from stillroom.training.hooks import StepHook, StepInfo
from stillroom.training.meters import Clock, Meter
from stillroom.training.observer import Observer
from stillroom.training.optimisation import build_optimizer, lr_factor, moving_average, set_lr
from stillroom.training.step import DistillStep, check_not_silent


class Teacher(Protocol):
    """Whatever answers a batch of images with Knowledge."""

    def __call__(self, images: Tensor) -> Knowledge: ...


class Evaluator(Protocol):
    """Evaluates the student; gives the figures of one line of metrics.jsonl."""

    def __call__(self, student: nn.Module) -> dict[str, float]: ...


@dataclass
class Progress:
    """Where a run is; all of it is in every save.

    Attributes:
        step: optimizer steps done.
        order: running hash of the order of images used, an epoch at a time.
        views: running hash of the views used.
    """

    step: int = 0
    order: str = ""
    views: str = ""


@dataclass
class Trainer:
    """All that one run needs, put together elsewhere.

    Attributes:
        step: student and objectives.
        teacher: answers batches; None where no term reads it.
        train: the images to learn from.
        batch_size: images a step.
        augmentation: what is done to them.
        evaluate: gives the figures of the student on the test split.
        config: the training's options; device and precision already chosen.
        device: where it runs.
        precision: of the steps.
        seed: of order and dropout.
        folder: where it is written.
        hooks: called after each step.
        observer: told how it goes.
        identity: hashes of what a save belongs to, such as the data; a save of anything else is refused.
    """

    step: DistillStep
    teacher: Teacher | None
    train: ImageSet
    batch_size: int
    augmentation: AugmentationConfig
    evaluate: Evaluator
    config: TrainingConfig
    device: torch.device
    precision: Precision
    seed: int
    folder: RunFolder
    hooks: Sequence[StepHook] = ()
    observer: Observer = field(default_factory=Observer)
    identity: dict[str, str] = field(default_factory=dict)

    def fit(self) -> tuple[nn.Module, Progress, dict[str, float]]:
        """Train to the last step, from the last save where there is one.

        Returns:
            The model to keep (the moving average where there is one), where the run ended, and the last evaluation.

        Raises:
            RunFailed: a term is silent at the first step, or the loss is not finite.
        """
        batches = Batches(len(self.train), self.batch_size, self.seed)
        per_epoch = batches.steps_per_epoch
        total = self.config.total_steps(per_epoch)
        student = self.step.student
        optimizer = build_optimizer([self.step], self.config.optimizer)
        average = self._average(student)
        kept = average.module if average is not None else student
        for hook in self.hooks:
            hook.start(student)
        progress, figures = self._restore(optimizer, average)
        images, labels = self.train.images.to(self.device), self.train.labels.to(self.device)
        meter = Meter(self.step.names, self.device)
        clock = Clock(progress.step)
        if progress.step == 0 and 0 in self.config.checkpoints:
            self._keep_checkpoint(kept, 0)

        self.observer.run_started("training", total, progress.step)
        while progress.step < total:
            epoch, position = divmod(progress.step, per_epoch)
            view = view_of(epoch, self.augmentation)
            if position == 0:
                progress.order = digest(progress.order.encode(), batches.order(epoch).tobytes())
                progress.views = digest(progress.views.encode(), canonical([self.augmentation.model_dump(), view]))

            index = batches.indices(epoch, position)
            batch = augment(images, index, self.augmentation, view)
            index_here = torch.from_numpy(index).to(self.device, non_blocking=True)
            set_lr(optimizer, self.config.optimizer.lr * lr_factor(self.config.schedule, progress.step, total))
            # Dropout draws from the global generator: addressing it by step leaves no state to save.
            torch.manual_seed(derive_seed(self.seed, "dropout", progress.step))
            loss, terms = self._backward(batch, labels[index_here], index_here, progress.step, total)
            if self.config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.step.parameters(), self.config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update_parameters(student)
            progress.step += 1
            meter.add(loss, terms)
            for hook in self.hooks:
                hook.after_step(StepInfo(progress.step, epoch, student, loss))
            self.observer.stepped(progress.step)

            at_end = progress.step == total
            whole_epochs = progress.step // per_epoch if progress.step % per_epoch == 0 else None
            evaluates = at_end or (whole_epochs is not None and whole_epochs % self.config.evaluate_every == 0)
            if evaluates or progress.step % self.config.log_every == 0:
                self._log(meter, optimizer, progress.step, per_epoch, clock)
            if whole_epochs is not None and whole_epochs in self.config.checkpoints:
                self._keep_checkpoint(kept, whole_epochs)
            if evaluates:
                figures = self._evaluate(kept, progress.step, per_epoch)
            # Only where the meter is empty: a save then needs no sums, and when it comes cannot change a byte.
            if evaluates or (meter.empty and clock.since_save() >= self.config.save_seconds):
                self._save(progress, figures, optimizer, average)
                clock.saved()
        return kept, progress, figures

    def _backward(
        self, images: Tensor, labels: Tensor, index: Tensor, step: int, total: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Forward and backward of one batch, in micro-batches where asked; the gradients are left in place."""
        whole = len(index)
        loss = torch.zeros((), device=self.device)
        terms = [torch.zeros((), device=self.device) for _ in self.step.names]
        self.step.train()
        parts = min(self.config.accumulate, whole)
        for chunk in range(parts):
            rows = slice(chunk * whole // parts, (chunk + 1) * whole // parts)
            share = (rows.stop - rows.start) / whole
            knowledge = self.teacher(images[rows]) if self.teacher is not None else None
            with autocast(self.device, self.precision):
                part, values = self.step(images[rows], labels[rows], index[rows], knowledge, step / total)
            if step == 0 and chunk == 0:
                check_not_silent(self.step, values)
            (part * share).backward()
            loss += part.detach() * share
            for term, value in zip(terms, values, strict=True):
                term += value.detach() * share
        return loss, terms

    def _log(self, meter: Meter, optimizer: torch.optim.Optimizer, step: int, per_epoch: int, clock: Clock) -> None:
        line: dict[str, Any] = {"step": step, "epoch": _epoch(step, per_epoch), "split": "train"}
        line |= meter.read(step)
        line["lr"] = optimizer.param_groups[0]["lr"]
        self.folder.append("metrics.jsonl", line)
        self.observer.logged(line)
        for hook in self.hooks:
            extra = hook.line()
            if extra is not None:
                self.folder.append("moves.jsonl", {"step": step, "epoch": line["epoch"], **extra})
        images = min(self.batch_size, len(self.train))
        self.folder.append("timing.jsonl", clock.progress(step, images, self.device))

    def _evaluate(self, kept: nn.Module, step: int, per_epoch: int) -> dict[str, float]:
        began = time.perf_counter()
        figures = self.evaluate(kept)
        shown = {key: value for key, value in figures.items() if key not in ("correct", "count")}
        line = {"step": step, "epoch": _epoch(step, per_epoch), "split": "test", **shown}
        self.folder.append("metrics.jsonl", line)
        self.folder.append("timing.jsonl", {"event": "evaluation", "step": step, "seconds": _since(began)})
        self.observer.logged(line)
        return figures

    def _average(self, student: nn.Module) -> AveragedModel | None:
        if self.config.ema is None:
            return None
        return AveragedModel(student, multi_avg_fn=moving_average(self.config.ema), use_buffers=True)

    def _keep_checkpoint(self, model: nn.Module, epoch: int) -> None:
        save_weights(model, self.folder.path / "checkpoints" / f"epoch-{epoch:04d}.safetensors")

    def _save(
        self,
        progress: Progress,
        figures: dict[str, float],
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
    ) -> None:
        self.folder.save(
            {
                "identity": self.identity,
                "progress": vars(progress).copy(),
                "figures": figures,
                "model": self.step.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict() if average is not None else {},
                "hooks": [(type(hook).__qualname__, hook.state_dict()) for hook in self.hooks],
            }
        )

    def _restore(
        self, optimizer: torch.optim.Optimizer, average: AveragedModel | None
    ) -> tuple[Progress, dict[str, float]]:
        state = self.folder.load()
        if state is None:
            return Progress(), {}
        other = [key for key, value in self.identity.items() if state["identity"].get(key) != value]
        if other:
            raise BadInput("--resume", str(self.folder.path), f"the same {' and '.join(other)} as when it was started")
        self.step.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        kinds = [type(hook).__qualname__ for hook in self.hooks]
        if [kind for kind, _ in state["hooks"]] != kinds:
            before = ", ".join(kind for kind, _ in state["hooks"]) or "none"
            raise BadInput("hooks", kinds, f"the hooks that the run was started with: {before}")
        for hook, (_, saved) in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(saved)
        progress = Progress(**state["progress"])
        self.folder.append("timing.jsonl", {"event": "resume", "step": progress.step})
        self.observer.note(f"resumed at step {progress.step}")
        return progress, state["figures"]


def _epoch(step: int, per_epoch: int) -> float:
    return round(step / per_epoch, 6)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 4)
