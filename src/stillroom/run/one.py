"""One run's parts: checked against each other before anything is written, then trained, evaluated, told."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.augmentation import check_augmentable
from stillroom.data.loader import BatchLoader, BatchSampler
from stillroom.errors import BadInput, RunFailed, format_error
from stillroom.files import canonical_json, digest, write_json, write_text
from stillroom.memory import is_out_of_memory
from stillroom.models.prepared import PreparedModel, logits_of, prepare_model, size_of
from stillroom.models.weights import load_weights, save_weights, state_hash
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents
from stillroom.run.introducing import introduce, prepare_teacher
from stillroom.run.outcome import time_models, write_predictions
from stillroom.run.records import environment, read_json
from stillroom.run.relations import relations_of
from stillroom.run.setting import RunContext, uses_cache
from stillroom.run.teaching import find_tutor
from stillroom.train.evaluation import compare, score
from stillroom.train.folder import NullRunFolder, RunFolder
from stillroom.train.gradient_rescaling import RecordGradientRescaling
from stillroom.train.hooks import RecordWeightDistance, StepHook
from stillroom.train.loop import Progress, Trainer
from stillroom.train.step import DistillStep

SCHEMA = 1


@dataclass(frozen=True)
class Finished:
    """A run that is done."""

    path: Path
    summary: dict[str, Any]
    student: nn.Module


@dataclass(frozen=True)
class Prepared:
    """What a run would take.

    Attributes:
        steps: its optimizer steps.
        steps_per_epoch: of these, in each epoch.
        answers: images that the teacher was asked about now; 0 where all was kept already.
        seconds: duration of that.
    """

    steps: int
    steps_per_epoch: int
    answers: int
    seconds: float


class OneRun:
    """One run's parts, checked against each other before anything is written."""

    def __init__(self, setting: RunContext, components: RunComponents, hooks: Sequence[StepHook]) -> None:
        recipe, device = setting.recipe, setting.device
        self.observer, self.processes = setting.observer, setting.processes
        self.device, self.precision = device, setting.precision
        self.train, self.test = components.data.train, components.data.test
        self.losses = components.losses
        names = [loss.name for loss in self.losses]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadInput("losses", twice, "a name of its own for each loss: losses are logged by it")
        check_augmentable(self.train, recipe.data.augmentation)
        self.processes.copy_weights(components.student.to(device))
        self.student = prepare_model(components.student, recipe.student, self.train, "student")
        if not any(p.requires_grad for p in self.student.model.parameters()):
            raise BadInput("student", recipe.student.name, "a model with at least one trainable parameter")
        self.batches = self._batches(recipe)
        self.total = recipe.training.total_steps(self.batches.steps_per_epoch)
        self.epochs = math.ceil(self.total / self.batches.steps_per_epoch)
        self._check_checkpoints(recipe)
        self.hooks = [*hooks]
        if recipe.training.record_weight_distance:
            moves = RecordWeightDistance(recipe.training.record_weight_distance)
            moves.check(self.student.model)
            self.hooks.append(moves)
        teacher = prepare_teacher(setting, components.teacher)
        introduce(self.losses, setting, self.student, teacher)
        self.relations = relations_of(self.student, teacher if setting.known is None else None, self.train)
        watch = None
        if recipe.training.record_gradient_rescaling:
            # By the index that batches have: of a part, that in the whole.
            known = self.train.parent.truth
            margin = known.margin if known is not None else None
            rescaling = RecordGradientRescaling(self.losses, self.processes, margin)
            watch = rescaling.see
            self.hooks.append(rescaling)
        pipe = self.student.preprocess()
        step = DistillStep(self.student.model, self.losses, pipe, self.processes, watch, setting.known)
        self.step = step.to(device)
        self.step.check_accumulation(recipe.training.accumulate)
        self.unused = self._try_smallest_batch(recipe)

        self.reads_teacher = self.step.reads_teacher
        enabled = uses_cache(recipe, reads_teacher=self.reads_teacher, epochs=self.epochs)
        self.recipe = recipe.model_copy(
            update={
                "student": self.student.resolve_config(recipe.student),
                "cache": recipe.cache.model_copy(update={"enabled": enabled}),
            }
        )
        setting = replace(setting, recipe=self.recipe)
        self.tutor = find_tutor(setting, teacher, self.losses)
        if self.tutor is not None and recipe.teacher is not None:
            self.recipe = self.recipe.model_copy(update={"teacher": self.tutor.resolve_config(recipe.teacher)})
        if recipe.training.compile:
            self.step.check_compilable()
        # Taken before training moves a weight: `init` is what every method of a seed must share.
        self.identity = {
            "init": state_hash(self.student.model),
            "data": digest(self.train.fingerprint.encode(), self.test.fingerprint.encode()),
            "teacher": self.tutor.fingerprint if self.tutor is not None else "",
        }

    def go(self, folder: RunFolder, *, latency: bool) -> Finished:
        """Train, evaluate, write; time the models where asked."""
        out, recipe = folder.path, self.recipe
        teacher_logits = self.tutor.on_test() if self.tutor is not None else None
        loader = BatchLoader(self.train, recipe.data.augmentation, self.device, recipe.data.workers)
        teacher = None
        if self.tutor is not None and self.reads_teacher:
            teacher = self.tutor.in_training(loader, self.epochs, folder)
        if self.processes.is_main:
            write_text(out / "recipe.yaml", recipe.to_yaml())
            if not (out / "environment.json").exists():
                write_json(out / "environment.json", environment(self.device))
        last: list[Tensor] = []

        def evaluate(student: nn.Module) -> dict[str, float]:
            last[:] = [self._student_logits(student)]
            self._tell_asked(folder)
            return self._figures(last[0], teacher_logits)

        trainer = Trainer(
            step=self.step,
            teacher=teacher,
            loader=loader,
            batches=self.batches,
            evaluate=evaluate,
            config=recipe.training,
            device=self.device,
            precision=self.precision,
            seed=recipe.seed,
            folder=folder,
            hooks=self.hooks,
            observer=self.observer,
            # Batch norm, for one, learns otherwise from smaller parts of a batch.
            identity={**self.identity, "processes": str(self.processes.count)},
            processes=self.processes,
            some_unused=self._some_unused(),
            survey=self.relations.line if self.relations is not None else None,
        )
        kept, progress, figures = trainer.fit()
        kept.eval()
        # A run resumed after its last evaluation has the figures, but not the answers behind them.
        answers = last[0] if last else self._student_logits(kept)
        summary = self._summary(replace(self.student, model=kept), progress, figures, teacher_logits)
        if self.processes.is_main:
            self._write(folder, kept, answers, teacher_logits)
            if latency:
                teacher_model = self.tutor.prepared if self.tutor is not None else None
                trained = replace(self.student, model=kept)
                time_models(folder, {"student": trained, "teacher": teacher_model}, self.test)
            folder.append("timing.jsonl", {"event": "finish", "step": progress.step})
            write_json(out / "summary.json", summary)
        folder.finish()
        # None goes on before all is written, and none leaves a partner behind that still needs it.
        self.processes.wait()
        return Finished(out, summary, kept)

    def _write(self, folder: RunFolder, kept: nn.Module, answers: Tensor, teacher_logits: Tensor | None) -> None:
        """All that a finished run leaves, but its summary, which comes last."""
        save_weights(kept, folder.path / "student.safetensors")
        write_predictions(folder.path, self.test, answers, teacher_logits)
        if self.relations is not None:
            self.relations.write(folder.path, kept)

    def _tell_asked(self, folder: RunFolder) -> None:
        """Write down how often the teacher was asked since this was last told, so that a kill loses little of it."""
        if self.tutor is not None:
            asked = self.tutor.tally.taken()
            if asked.answers or asked.checks:
                folder.append("timing.jsonl", {"event": "teacher", "answers": asked.answers, "checks": asked.checks})

    def prepare(self) -> Prepared:
        """Have the teacher's answers kept, where the recipe keeps them."""
        began = time.perf_counter()
        nowhere = NullRunFolder(Path())
        answers = 0
        if self.tutor is not None and self.recipe.cache.enabled:
            self.tutor.on_test()
            if self.reads_teacher:
                loader = BatchLoader(self.train, self.recipe.data.augmentation, self.device, self.recipe.data.workers)
                self.tutor.in_training(loader, self.epochs, nowhere)
            answers = self.tutor.tally.answers
        seconds = round(time.perf_counter() - began, 3)
        return Prepared(self.total, self.batches.steps_per_epoch, answers, seconds)

    def finished(self, folder: RunFolder) -> Finished:
        """Give back a run that was finished before, if it was made of the same things."""
        out = folder.path
        summary = read_json(out / "summary.json")
        made_of = {
            "init": (summary.get("hashes") or {}).get("init"),
            "data": (summary.get("data") or {}).get("fingerprint"),
            "teacher": (summary.get("teacher") or {}).get("weights_hash", ""),
        }
        other = [what for what, known in made_of.items() if known != self.identity[what]]
        if other:
            raise BadInput("--resume", str(out), f"the same {' and '.join(other)} as the finished run there")
        load_weights(self.student.model, out / "student.safetensors", field="student")
        self.observer.note("this run is finished already")
        # A kill between the summary and the end leaves this behind.
        folder.finish()
        return Finished(out, summary, self.student.model.eval())

    def _batches(self, recipe: Recipe) -> BatchSampler:
        batches = BatchSampler(len(self.train), recipe.data.batch_size, recipe.seed)
        count = self.processes.count
        if batches.batch_size % count:
            raise BadInput("data.batch_size", batches.batch_size, f"a multiple of the {count} processes of the run")
        return batches

    def _some_unused(self) -> bool:
        """Whether the loss may leave parameters out, agreed on by all processes."""
        # A term that reads features may stop there; the trial asked what the logits reach.
        unused = self.unused or any(term.requires.student_features for term in self.losses)
        return bool(self.processes.total(torch.tensor(float(unused), device=self.device)) > 0)

    def _check_checkpoints(self, recipe: Recipe) -> None:
        last_epoch = self.total // self.batches.steps_per_epoch
        late = [epoch for epoch in recipe.training.checkpoints if epoch > last_epoch]
        if late:
            raise BadInput("training.checkpoints", late[0], f"epochs of the run, 0 … {last_epoch}")

    def _try_smallest_batch(self, recipe: Recipe) -> bool:
        """Train on the smallest micro-batch once, on a copy: batch norm, for one, refuses a batch of one.

        Returns:
            Whether the student has parameters that its logits do not depend on.
        """
        count = max(self.batches.batch_size // self.processes.count // recipe.training.accumulate, 1)
        images = self.student.preprocess().to(self.device)(self.train.images[:count].to(self.device))
        trial = copy.deepcopy(self.student.model).train()
        try:
            trial(images).sum().backward()
        except Exception as error:
            if is_out_of_memory(error):
                return True
            raise BadInput(
                "student",
                self.student.name,
                f"a model that can train on {count} images at once; it raised {format_error(error)}",
            ) from None
        return any(p.requires_grad and p.grad is None for p in trial.parameters())

    def _title(self) -> str:
        """What reports call the run."""
        if self.recipe.name:
            return self.recipe.name
        if self.tutor is not None and self.reads_teacher:
            return f"{self.student.name} ← {self.tutor.name}"
        return f"{self.student.name} from labels"

    def _student_logits(self, model: nn.Module) -> Tensor:
        prepared = replace(self.student, model=model)
        return logits_of(prepared, self.test, self.device, self.observer, "evaluating", self.processes)

    def _figures(self, student_logits: Tensor, teacher_logits: Tensor | None) -> dict[str, float]:
        if not bool(torch.isfinite(student_logits).all()):
            raise RunFailed("the student's logits on the test split are not finite; try a lower training.optimizer.lr")
        figures = score(student_logits, self.test.labels).as_dict()
        return figures | (compare(student_logits, teacher_logits) if teacher_logits is not None else {})

    def _summary(
        self, trained: PreparedModel, progress: Progress, figures: dict[str, float], teacher_logits: Tensor | None
    ) -> dict[str, Any]:
        recipe = self.recipe
        budget = {
            "steps": self.total,
            "batch_size": recipe.data.batch_size,
            "accumulate": progress.parts,
            "processes": self.processes.count,
            "data": self.identity["data"],
            "reported": "last",
        }
        return {
            "schema": SCHEMA,
            "name": self._title(),
            "recipe_hash": recipe.hash(),
            "seed": recipe.seed,
            "steps": progress.step,
            "epochs": round(progress.step / self.batches.steps_per_epoch, 6),
            **figures,
            "model": self.student.name,
            **size_of(trained, self.test),
            "teacher": self.tutor.facts(teacher_logits, self.test) if self.tutor is not None else None,
            "taught": self.reads_teacher,
            "data": {
                "name": self.train.name,
                "classes": self.train.num_classes,
                "train": len(self.train),
                "test": len(self.test),
                "shape": list(self.train.images.shape[1:]),
                "pixels": self.train.is_pixels,
                "fingerprint": self.identity["data"],
            },
            "relations": self.relations.told(trained.model) if self.relations is not None else None,
            "device": recipe.training.device,
            "precision": recipe.training.precision,
            "threads": torch.get_num_threads(),
            "processes": self.processes.count,
            "accumulate": progress.parts,
            "hashes": {
                "init": self.identity["init"],
                "order": progress.order,
                "views": progress.views,
                "budget": digest(canonical_json(budget)),
                "threads": digest(canonical_json(torch.get_num_threads())),
            },
        }
