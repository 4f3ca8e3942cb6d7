"""Doing what a recipe says, and leaving a finished run folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.augmentation import check_augmentable
from stillroom.data.batches import Batches
from stillroom.errors import BadInput, RunFailed
from stillroom.files import canonical, digest, write_json, write_text
from stillroom.models.own import told
from stillroom.models.weights import load_weights, save_weights, state_hash
from stillroom.randomness import seeded
from stillroom.recipe import Recipe
from stillroom.runs.materials import Dressed, Materials, ask, dress, gather, size
from stillroom.runs.outcome import time_models, write_predictions
from stillroom.runs.records import check_free, check_same_recipe, environment, read_json
from stillroom.teacher.live import LiveTeacher
from stillroom.training.device import Precision, as_dtype, exact_float32, resolve_device, resolve_precision, threads
from stillroom.training.evaluation import compare, score
from stillroom.training.folder import RunFolder
from stillroom.training.hooks import RecordMoves, StepHook
from stillroom.training.loop import Progress, Trainer
from stillroom.training.observer import Observer
from stillroom.training.step import DistillStep

SCHEMA = 1


@dataclass(frozen=True)
class Finished:
    """A run that is done."""

    path: Path
    summary: dict[str, Any]
    student: nn.Module


def execute(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    materials: Materials | None = None,
    hooks: Sequence[StepHook] = (),
    labels_alone: bool = False,
) -> Finished:
    """Do what a recipe says and leave a finished run folder.

    Args:
        recipe: what to do.
        out: the run folder; new, or one to resume.
        resume: go on where the folder's run was stopped; a finished run is given back as it is.
        observer: told how it goes.
        materials: the objects that the recipe names; gathered from it where left out.
        hooks: called after each step.
        labels_alone: refuse objectives that read a teacher.

    Raises:
        BadInput: something in the recipe or the folder cannot be used; nothing was lost.
        RunFailed: the training cannot go on.
    """
    observer = observer or Observer()
    device = resolve_device(recipe.training.device)
    precision = resolve_precision(recipe.training.precision, device)
    settled = recipe.training.model_copy(update={"device": device.type, "precision": precision})
    recipe = recipe.model_copy(update={"training": settled})
    check_free(out, resume)
    with threads(recipe.training.threads), exact_float32(), seeded(recipe.seed, "dropout"):
        materials = materials or gather(recipe)
        reading = [objective.name for objective in materials.objectives if objective.reads.teacher]
        if labels_alone and reading:
            expected = "objectives that read labels alone; `stillroom distill` takes a teacher"
            raise BadInput("objectives", reading[0], expected)
        run = _Run(recipe, materials, device, precision, observer, hooks)
        check_same_recipe(run.recipe, out)
        with RunFolder(out) as folder:
            try:
                # Asked under the lock: another process may have finished the run meanwhile.
                return run.finished(folder) if (out / "summary.json").exists() else run.go(folder)
            finally:
                observer.run_ended()


class _Run:
    """One run's parts, checked against each other before anything is written."""

    def __init__(
        self,
        recipe: Recipe,
        materials: Materials,
        device: torch.device,
        precision: Precision,
        observer: Observer,
        hooks: Sequence[StepHook],
    ) -> None:
        self.recipe, self.device, self.precision, self.observer = recipe, device, precision, observer
        self.train, self.test = materials.data.train, materials.data.test
        self.objectives = materials.objectives
        names = [objective.name for objective in self.objectives]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadInput("objectives", twice, "a name of its own for each objective: losses are logged by it")
        self.student = dress(materials.student.to(device), recipe.student, self.train, "student")
        self.teacher: Dressed | None = None
        if materials.teacher is not None and recipe.teacher is not None:
            self.teacher = dress(materials.teacher.to(device), recipe.teacher, self.train, "teacher")
        self.recipe = recipe.model_copy(
            update={
                "student": self.student.settled(recipe.student),
                "teacher": self.teacher.settled(recipe.teacher) if self.teacher and recipe.teacher else recipe.teacher,
            }
        )
        reading = [objective.name for objective in self.objectives if objective.reads.teacher]
        if reading and self.teacher is None:
            raise BadInput("teacher", None, f"a model: objective {reading[0]!r} reads its answers")
        if not any(p.requires_grad for p in self.student.model.parameters()):
            raise BadInput("student", recipe.student.name, "a model with at least one trainable parameter")
        check_augmentable(self.train, recipe.data.augmentation)
        self.hooks = [*hooks]
        if recipe.training.record_moves:
            moves = RecordMoves(recipe.training.record_moves)
            moves.check(self.student.model)
            self.hooks.append(moves)
        self.step = DistillStep(self.student.model, self.objectives, self.student.pipe()).to(device)
        self.step.check_accumulation(recipe.training.accumulate)
        self._try_smallest_batch()
        self.per_epoch = Batches(len(self.train), recipe.data.batch_size, recipe.seed).steps_per_epoch
        self.total = recipe.training.total_steps(self.per_epoch)
        last_epoch = self.total // self.per_epoch
        late = [epoch for epoch in recipe.training.checkpoints if epoch > last_epoch]
        if late:
            raise BadInput("training.checkpoints", late[0], f"epochs of the run, 0 … {last_epoch}")
        self.reads_teacher = bool(reading)
        # Taken before training moves a weight: `init` is what every contestant of a seed must share.
        self.identity = {
            "init": state_hash(self.student.model),
            "data": digest(self.train.fingerprint.encode(), self.test.fingerprint.encode()),
            "teacher": state_hash(self.teacher.model) if self.teacher is not None else "",
        }

    def go(self, folder: RunFolder) -> Finished:
        """Train, evaluate, write."""
        out = folder.path
        teacher_logits = None
        if self.teacher is not None:
            teacher_logits = ask(self.teacher, self.test, self.device, self.observer, "evaluating the teacher")
            if not bool(torch.isfinite(teacher_logits).all()):
                raise BadInput("teacher", self.teacher.name, "finite logits for every test image")
        write_text(out / "recipe.yaml", self.recipe.to_yaml())
        if not (out / "environment.json").exists():
            write_json(out / "environment.json", environment(self.device))
        last: list[Tensor] = []

        def evaluate(student: nn.Module) -> dict[str, float]:
            last[:] = [self._student_logits(student)]
            return self._figures(last[0], teacher_logits)

        trainer = Trainer(
            step=self.step,
            teacher=self._live_teacher() if self.reads_teacher else None,
            train=self.train,
            batch_size=self.recipe.data.batch_size,
            augmentation=self.recipe.data.augmentation,
            evaluate=evaluate,
            config=self.recipe.training,
            device=self.device,
            precision=self.precision,
            seed=self.recipe.seed,
            folder=folder,
            hooks=self.hooks,
            observer=self.observer,
            identity=self.identity,
        )
        kept, progress, figures = trainer.fit()
        kept.eval()
        save_weights(kept, out / "student.safetensors")
        # A run resumed after its last evaluation has the figures, but not the answers behind them.
        answers = last[0] if last else self._student_logits(kept)
        write_predictions(out, self.test, answers, teacher_logits)
        trained = replace(self.student, model=kept)
        time_models(folder, {"student": trained, "teacher": self.teacher}, self.test)
        folder.append("timing.jsonl", {"event": "finish", "step": progress.step})
        summary = self._summary(trained, progress, figures, teacher_logits)
        write_json(out / "summary.json", summary)
        folder.finish()
        return Finished(out, summary, kept)

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

    def _try_smallest_batch(self) -> None:
        """Train on the smallest micro-batch once, on a copy: batch norm, for one, refuses a batch of one."""
        batch = min(self.recipe.data.batch_size, len(self.train))
        count = max(batch // self.recipe.training.accumulate, 1)
        images = self.student.pipe().to(self.device)(self.train.images[:count].to(self.device))
        try:
            copy.deepcopy(self.student.model).train()(images)
        except Exception as error:
            raise BadInput(
                "student",
                self.student.name,
                f"a model that can train on {count} images at once; it raised {told(error)}",
            ) from None

    def _title(self) -> str:
        """What reports call the run."""
        if self.recipe.name:
            return self.recipe.name
        if self.teacher is not None and self.reads_teacher:
            return f"{self.student.name} ← {self.teacher.name}"
        return f"{self.student.name} from labels"

    def _live_teacher(self) -> LiveTeacher:
        assert self.teacher is not None
        return LiveTeacher(
            self.teacher.model,
            self.teacher.pipe(),
            example=self.train.images[:8],
            device=self.device,
            precision=as_dtype(self.precision),
        )

    def _student_logits(self, model: nn.Module) -> Tensor:
        return ask(replace(self.student, model=model), self.test, self.device, self.observer, "evaluating")

    def _figures(self, student_logits: Tensor, teacher_logits: Tensor | None) -> dict[str, float]:
        if not bool(torch.isfinite(student_logits).all()):
            raise RunFailed("the student's logits on the test split are not finite; try a lower training.optimizer.lr")
        figures = score(student_logits, self.test.labels).as_dict()
        return figures | (compare(student_logits, teacher_logits) if teacher_logits is not None else {})

    def _summary(
        self, trained: Dressed, progress: Progress, figures: dict[str, float], teacher_logits: Tensor | None
    ) -> dict[str, Any]:
        recipe = self.recipe
        teacher = None
        if self.teacher is not None and teacher_logits is not None:
            said = score(teacher_logits, self.test.labels)
            teacher = {
                "model": self.teacher.name,
                **said.as_dict(),
                **size(self.teacher, self.test),
                "weights_hash": self.identity["teacher"],
            }
        budget = {
            "steps": self.total,
            "batch_size": recipe.data.batch_size,
            "accumulate": recipe.training.accumulate,
            "data": self.identity["data"],
            "reported": "last",
        }
        return {
            "schema": SCHEMA,
            "name": self._title(),
            "recipe_hash": recipe.hash(),
            "seed": recipe.seed,
            "steps": progress.step,
            "epochs": round(progress.step / self.per_epoch, 6),
            **figures,
            "model": self.student.name,
            **size(trained, self.test),
            "teacher": teacher,
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
            "precision": recipe.training.precision,
            "hashes": {
                "init": self.identity["init"],
                "order": progress.order,
                "views": progress.views,
                "budget": digest(canonical(budget)),
                "threads": digest(canonical(recipe.training.threads)),
            },
        }
