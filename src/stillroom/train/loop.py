"""The training loop, written to be read from top to bottom."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillroom.data.augmentation import view_of
from stillroom.data.loader import Batch, BatchLoader, BatchSampler, Request
from stillroom.errors import BadInput, OutOfMemory, shorten
from stillroom.files import canonical_json, digest
from stillroom.memory import Snapshot, is_out_of_memory, release_memory
from stillroom.models.running_statistics import moving_norms, recompute_statistics
from stillroom.models.weights import save_weights
from stillroom.randomness import derive_seed
from stillroom.runtime import Runtime
from stillroom.teachers.source import Teacher
from stillroom.train.config import TrainingConfig
from stillroom.train.device import autocast, seed_step
from stillroom.train.folder import RunFolder
from stillroom.train.interruption import Interruption
from stillroom.train.optimisation import MovingAverage, OwnOptimisation, apply_schedule
from stillroom.train.recorders import Clock, EvaluationInfo, Meter, StepHook, StepInfo
from stillroom.train.step import DistillStep, check_not_silent, is_compile_error
from stillroom.wording import counted


@dataclass
class Progress:
    """The state of a run's progress, part of every save."""

    step: int = 0  # optimizer steps done
    order: str = ""  # running hash of the order of images used, an epoch at a time
    views: str = ""  # running hash of the views used
    parts: int = 1  # micro-batches of each batch: as in the recipe, or more after memory ran out
    best: float | None = None  # best result on the validation images, with training.patience
    waited: int = 0  # evaluations since then
    stopped: bool = False  # whether it was waited for long enough


@dataclass(frozen=True)
class EndOfStep:
    """What logs and evaluation change, as it is right after a step."""

    lengths: dict[str, int]  # of the logs
    meter: dict[str, Any]  # state of the meter
    hooks: list[tuple[str, dict[str, Any]]]  # kind and state of each hook


@dataclass
class Trainer:
    """Everything that one training needs."""

    step: DistillStep  # student and losses
    teachers: Mapping[str, Teacher]  # functions from a batch to a teacher's output; those that a loss reads, by name
    loader: BatchLoader  # loads the training images
    sampler: BatchSampler  # chooses the images of each step
    # Computes the student's test metrics, for a line of metrics.jsonl.
    evaluate: Callable[[nn.Module], dict[str, float]]
    # The same on the validation images; the test split is then evaluated at the end alone. None without them.
    validate: Callable[[nn.Module], dict[str, float]] | None
    patience_for: str  # the figure that training.patience waits for; higher is better
    config: TrainingConfig  # the training's options, resolved
    runtime: Runtime  # where it runs
    seed: int  # of dropout
    folder: RunFolder  # the run folder
    hooks: Sequence[StepHook] = ()  # called after each step
    # Of the data and the like; a save with other hashes is refused.
    hashes: Mapping[str, str] = field(default_factory=dict)
    some_unused: bool = False  # whether the student has parameters that no loss reaches
    # Called with the view of an epoch before its first step, by every process; it may take long.
    prepare_view: Callable[[int], None] = lambda view: None
    # Computes a line of class_relations.jsonl before the first step and after each epoch.
    relations: Callable[[nn.Module], dict[str, Any]] | None = None
    # The user's optimizer and scheduler, where these are not the recipe's.
    optimisation: OwnOptimisation = field(default_factory=OwnOptimisation)

    def fit(self) -> tuple[nn.Module, Progress, dict[str, float]]:
        """Train to the last step, from the last save if there is one."""
        per_epoch = self.sampler.steps_per_epoch
        total = self.config.total_steps(per_epoch)
        student = self.step.student
        # A batch that cannot go through again in parts needs no way back; a memory bank is not copied at each step.
        may_split = self.runtime.processes.count == 1 and not self.step.whole_batch_terms
        self._buffers = Snapshot(self.step.buffers() if may_split else ())
        optimizer = self.optimisation.make_optimizer([self.step], self.config.optimizer)
        # Peak rates: before a scheduler or a save sets those of a step.
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = self.optimisation.make_scheduler(optimizer)
        average = MovingAverage(student, self.config.ema) if self.config.ema is not None else None
        kept = average.module if average is not None else student
        for hook in self.hooks:
            hook.start(student)
        progress, figures, ended = self._restore(optimizer, average, scheduler)
        wrapped = self.runtime.processes.wrap(self.step, some_unused=self.some_unused)
        meter = Meter(self.step.names, self.runtime.device, self.runtime.processes)
        if progress.step < total:
            self.prepare_view(view_of(progress.step // per_epoch, self.loader.augmentation))
        clock = Clock(progress.step)

        def end_step(interruption: Interruption) -> None:
            """What follows a step: logs, evaluation, a save. Interrupted meanwhile, it is done again on resume."""
            nonlocal figures
            at_end = progress.step == total
            whole_epochs = progress.step // per_epoch if progress.step % per_epoch == 0 else None
            evaluates = at_end or (whole_epochs is not None and whole_epochs % self.config.evaluate_every == 0)
            before = self._end_of_step(meter) if evaluates else None
            if evaluates or progress.step % self.config.log_every == 0:
                self._log(meter, optimizer, progress.step, per_epoch, clock)
            if at_end or whole_epochs is not None:
                self._log_epoch(progress.step, per_epoch)
                self._log_relations(kept, progress.step, per_epoch)
            if whole_epochs is not None and whole_epochs in self.config.checkpoints:
                self._keep_checkpoint(kept, whole_epochs)
            if before is not None:
                try:
                    figures = self._evaluate(kept, progress, per_epoch, total, interruption) or figures
                except KeyboardInterrupt:
                    self._save(progress, figures, optimizer, average, scheduler, before)
                    raise
            # Only if the meter is empty: a save then needs no sums, and its time cannot change a byte.
            if evaluates or (meter.empty and clock.since_save() >= self.config.save_seconds):
                self._save(progress, figures, optimizer, average, scheduler)
                clock.restart()

        if self.config.compile:
            self.step.compile_student()
        if progress.step == 0 and 0 in self.config.checkpoints:
            self._keep_checkpoint(kept, 0)
        if progress.step == 0:
            self._log_relations(kept, 0, per_epoch)

        # Once, as it visits every module; evaluation restores each module's mode.
        wrapped.train()
        self.runtime.observer.run_started("training", total, progress.step)
        stream = self.loader.batches(self._requests(progress.step, total))
        with Interruption() as interruption, closing(stream):
            if ended is not None:
                meter.load_state_dict(ended)
                end_step(interruption)
            # Resumed at the evaluation that stops it, a run draws no batch any more.
            for batch in stream if not progress.stopped else ():
                epoch, position = divmod(progress.step, per_epoch)
                if position == 0:
                    self._sign(progress, epoch)
                if scheduler is None:
                    apply_schedule(optimizer, rates, self.config.schedule, progress.step, total)
                losses = self._learn(wrapped, batch, progress, total)
                if self.config.clip_norm is not None:
                    nn.utils.clip_grad_norm_(self.step.parameters(), self.config.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                self.step.after_step()
                if scheduler is not None:
                    scheduler.step()
                if average is not None:
                    average.update()
                progress.step += 1
                meter.add(losses)
                if self.config.compile and clock.first(progress.step):
                    self._report_warm_up(clock, progress.step)
                for hook in self.hooks:
                    hook.after_step(StepInfo(progress.step, epoch, student, losses[0]))
                self.runtime.observer.stepped(progress.step)
                try:
                    if progress.step % per_epoch == 0 and progress.step < total:
                        with interruption.immediate(), clock.paused():
                            self.prepare_view(view_of(epoch + 1, self.loader.augmentation))
                    if interruption.pending:
                        raise KeyboardInterrupt
                except KeyboardInterrupt:
                    self._save(progress, figures, optimizer, average, scheduler, self._end_of_step(meter))
                    raise
                end_step(interruption)
                if progress.stopped:
                    break
        return kept, progress, figures

    def _requests(self, first: int, total: int) -> Generator[Request]:
        """The images and views of this process in each step from ``first`` on."""
        for step in range(first, total):
            epoch, position = divmod(step, self.sampler.steps_per_epoch)
            rows = self.runtime.processes.shard(self.sampler.indices(epoch, position))
            yield rows, view_of(epoch, self.loader.augmentation)

    def _sign(self, progress: Progress, epoch: int) -> None:
        """Add an epoch to the hashes of image order and views."""
        shown = canonical_json([self.loader.augmentation.model_dump(), view_of(epoch, self.loader.augmentation)])
        progress.order = digest(progress.order.encode(), self.sampler.order(epoch).tobytes())
        progress.views = digest(progress.views.encode(), shown)

    def _learn(self, wrapped: nn.Module, batch: Batch, progress: Progress, total: int) -> Tensor:
        """Forward and backward of one batch, in smaller parts if memory runs out; leaves the gradients in place."""
        self._buffers.save()
        while True:
            for hook in self.hooks:
                hook.before_step()
            try:
                return self._backward(wrapped, batch, progress, total)
            except Exception as error:
                if self.config.compile and is_compile_error(error):
                    lines = [line for line in str(error).splitlines() if line.strip()]
                    # The first line of inductor's says who raised it, the second what.
                    reason = shorten(" ".join(lines[:2]), 200)
                    expected = f"false: torch.compile cannot compile this student here ({reason})"
                    raise BadInput("training.compile", True, expected) from None
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the exception keeps the failed attempt's tensors alive.
            self._split_further(progress, len(batch))
            # The failed attempt has already counted this batch, for example in running statistics.
            self._buffers.restore()

    def _split_further(self, progress: Progress, count: int) -> None:
        """Halve the micro-batches and log it."""
        self.step.zero_grad(set_to_none=True)
        release_memory()
        whole = self.step.whole_batch_terms
        reason = ""
        if whole:
            reason = f"loss {whole[0]!r} compares the samples of a whole batch, so try a smaller data.batch_size"
        elif self.runtime.processes.count > 1:
            reason = f"all processes must split equally, so try training.accumulate={2 * progress.parts}"
        elif progress.parts >= count:
            reason = "a single image does not fit, so try a smaller student, teacher or image"
        if reason:
            raise OutOfMemory(f"out of memory at step {progress.step + 1}: {reason}")
        progress.parts = min(2 * progress.parts, count)
        self.runtime.observer.note(
            f"out of memory at step {progress.step + 1}: from here on each batch of {count} goes through in "
            f"{progress.parts} parts (batch norm, if any, sees one part at a time)"
        )
        line = {"event": "out_of_memory", "step": progress.step + 1, "parts": progress.parts}
        self.folder.append("timing.jsonl", line)

    def _backward(self, wrapped: nn.Module, batch: Batch, progress: Progress, total: int) -> Tensor:
        """The weighted loss and each term's own value, [1 + terms] on the device."""
        whole = len(batch)
        losses = torch.zeros(1 + len(self.step.names), device=self.runtime.device)
        # Dropout uses the global generator: seeding it per step leaves no state to save.
        rank = [self.runtime.processes.rank] if self.runtime.processes.rank else []
        seed_step(derive_seed(self.seed, "dropout", progress.step, *rank), self.runtime.device)
        if not self.step.student.training:
            wrapped.train()
        parts = min(progress.parts, whole)
        for chunk in range(parts):
            part = batch.subset(slice(chunk * whole // parts, (chunk + 1) * whole // parts))
            share = len(part) / whole
            last = chunk == parts - 1
            with self.runtime.clock.phase("teacher"):
                outputs = {name: teacher(part) for name, teacher in self.teachers.items()}
            with nullcontext() if last else self.runtime.processes.no_sync(wrapped):
                with autocast(self.runtime.device, self.runtime.precision):
                    value, values = wrapped(
                        part.images, part.labels, part.index, outputs, progress.step / total, part.mixed
                    )
                if progress.step < 2 and chunk == 0:
                    check_not_silent(self.step, values, progress.step)
                (value * share).backward()
            losses += torch.stack([value, *values]).detach() * share
        return losses

    def _report_warm_up(self, clock: Clock, step: int) -> None:
        seconds = clock.lap(step, self.runtime.device)
        self.folder.append("timing.jsonl", {"event": "compile", "step": step, "seconds": seconds})
        self.runtime.observer.note(f"compiled the student: the first step took {seconds:.1f} s")

    def _log(self, meter: Meter, optimizer: torch.optim.Optimizer, step: int, per_epoch: int, clock: Clock) -> None:
        line: dict[str, Any] = {"step": step, "epoch": _epoch(step, per_epoch), "split": "train"}
        line |= meter.read(step)
        line["lr"] = float(optimizer.param_groups[0]["lr"])
        self.folder.append("metrics.jsonl", line)
        self.runtime.observer.logged(line)
        for hook in self.hooks:
            extra = hook.line()
            if extra is not None:
                self.folder.append("weight_distance.jsonl", {"step": step, "epoch": line["epoch"], **extra})
        self.folder.append("timing.jsonl", clock.progress(step, self.sampler.batch_size, self.runtime.device))

    def _log_epoch(self, step: int, per_epoch: int) -> None:
        for hook in self.hooks:
            extra = hook.epoch_line()
            if extra is not None:
                line = {"step": step, "epoch": _epoch(step, per_epoch), **extra}
                self.folder.append("gradient_rescaling.jsonl", line)

    def _log_relations(self, kept: nn.Module, step: int, per_epoch: int) -> None:
        if self.relations is not None:
            line = {"step": step, "epoch": _epoch(step, per_epoch), **self.relations(kept)}
            self.folder.append("class_relations.jsonl", line)

    def _evaluate(
        self, kept: nn.Module, progress: Progress, per_epoch: int, total: int, interruption: Interruption
    ) -> dict[str, float]:
        """Evaluate on the validation images, or else on the test split, and on this at the end; its figures then."""
        step, best, waited, stops = progress.step, progress.best, 0, False
        self._recompute_statistics(kept, step, per_epoch, interruption)
        if self.validate is not None:
            found = self._evaluate_on("validation", self.validate, kept, step, per_epoch, interruption)
            if self.config.patience is not None:
                level = found[self.patience_for]
                better = best is None or level > best
                best, waited = (level, 0) if better else (best, progress.waited + 1)
                stops = waited >= self.config.patience and step < total
            if step < total and not stops:
                progress.best, progress.waited = best, waited
                return {}
        figures = self._evaluate_on("test", self.evaluate, kept, step, per_epoch, interruption)
        # Interrupted before, all of it is done again.
        progress.best, progress.waited, progress.stopped = best, waited, stops
        if stops:
            self.runtime.observer.note(
                f"stopped after epoch {_epoch(step, per_epoch):g} of {total / per_epoch:g}: {self.patience_for} on the "
                f"validation {self.loader.unit.many} did not rise above {best:.2f} in {counted(waited, 'evaluation')}; "
                "the last weights are kept"
            )
        return figures

    def _recompute_statistics(self, kept: nn.Module, step: int, per_epoch: int, interruption: Interruption) -> None:
        """Those of the model's batch norms, on the last epoch's first batches, where the recipe says so."""
        count = self.config.recompute_batch_norm
        names = list(moving_norms(self.step.student)) if count is not None else []
        if count is None or not names:
            return
        epoch = (step - 1) // per_epoch
        rows = (self.sampler.indices(epoch, position) for position in range(min(count, per_epoch)))
        view = view_of(epoch, self.loader.augmentation)
        stream = self.loader.batches((self.runtime.processes.shard(each), view) for each in rows)
        with (
            interruption.immediate(),
            self.runtime.clock.phase("evaluation"),
            closing(stream),
            autocast(self.runtime.device, self.runtime.precision),
        ):
            recompute_statistics(kept, names, (self.step.preprocess(batch.images) for batch in stream))

    def _evaluate_on(
        self,
        split: Literal["validation", "test"],
        evaluate: Callable[[nn.Module], dict[str, float]],
        kept: nn.Module,
        step: int,
        per_epoch: int,
        interruption: Interruption,
    ) -> dict[str, float]:
        began = time.perf_counter()
        with interruption.immediate(), self.runtime.clock.phase("evaluation"):
            self.runtime.processes.copy_buffers(kept)
            figures = evaluate(kept)
        shown = {key: value for key, value in figures.items() if key not in ("correct", "count")}
        line = {"step": step, "epoch": _epoch(step, per_epoch), "split": split, **shown}
        self.folder.append("metrics.jsonl", line)
        self.folder.append("timing.jsonl", {"event": "evaluation", "step": step, "seconds": _since(began)})
        self.runtime.observer.logged(line)
        # A hook that chooses by what it sees never sees the test split where there is another.
        if split == "validation" or self.validate is None:
            for hook in self.hooks:
                hook.after_evaluation(EvaluationInfo(step, _epoch(step, per_epoch), kept, dict(shown)))
        return figures

    def _keep_checkpoint(self, model: nn.Module, epoch: int) -> None:
        if self.runtime.processes.is_main:
            save_weights(model, self.folder.path / "checkpoints" / f"epoch-{epoch:04d}.safetensors", checksum=True)

    def _end_of_step(self, meter: Meter) -> EndOfStep:
        """The state that logs and evaluation change, as it is before them."""
        hooks = [(type(hook).__qualname__, copy.deepcopy(hook.state_dict())) for hook in self.hooks]
        return EndOfStep(self.folder.log_lengths(), meter.state_dict(), hooks)

    def _save(
        self,
        progress: Progress,
        figures: dict[str, float],
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        scheduler: Any,
        ended: EndOfStep | None = None,
    ) -> None:
        """Save; with ``ended``, as it was before the logs and the evaluation of the last step, which are to be done."""
        if ended is not None and self.runtime.processes.count > 1:
            return  # the sums of the other processes are not here
        hooks = [(type(hook).__qualname__, hook.state_dict()) for hook in self.hooks] if ended is None else ended.hooks
        self.folder.save(
            {
                "hashes": dict(self.hashes),
                "progress": vars(progress).copy(),
                "figures": figures,
                "model": self.step.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict() if average is not None else {},
                **({"scheduler": scheduler.state_dict()} if scheduler is not None else {}),
                "hooks": hooks,
                "ended": None if ended is None else ended.meter,
            },
            None if ended is None else ended.lengths,
        )
        if ended is not None:
            self.runtime.observer.note(f"interrupted: saved at step {progress.step}")

    def _restore(
        self, optimizer: torch.optim.Optimizer, average: MovingAverage | None, scheduler: Any
    ) -> tuple[Progress, dict[str, float], dict[str, Any] | None]:
        state = self.folder.load()
        if state is None:
            return Progress(parts=self.config.accumulate), {}, None
        other = [key for key, value in self.hashes.items() if state["hashes"].get(key) != value]
        if other:
            raise BadInput("--resume", str(self.folder.path), f"the same {' and '.join(other)} as when it was started")
        self.step.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        kinds = [type(hook).__qualname__ for hook in self.hooks]
        if [kind for kind, _ in state["hooks"]] != kinds:
            before = ", ".join(kind for kind, _ in state["hooks"]) or "none"
            raise BadInput("hooks", kinds, f"the hooks that the run was started with: {before}")
        for hook, (_, saved) in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(saved)
        progress = Progress(**state["progress"])
        self.folder.append("timing.jsonl", {"event": "resume", "step": progress.step})
        self.runtime.observer.note(f"resumed at step {progress.step}")
        return progress, state["figures"], state["ended"]


def _epoch(step: int, per_epoch: int) -> float:
    return round(step / per_epoch, 6)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 4)
