"""One run, from a recipe to a finished folder: resolve → build → validate → train, evaluate, write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.quality import describe_data
from stillroom.errors import BadInput, OutOfMemory, RunFailed, format_error
from stillroom.files import write_json, write_text
from stillroom.memory import is_out_of_memory
from stillroom.models.prepared import logits_of
from stillroom.models.weights import load_weights, save_weights
from stillroom.observer import Observer
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe
from stillroom.run.artifacts import compare_with_teachers, latencies, run_summary, write_predictions
from stillroom.run.build import RunParts, build, file_hashes, teachers_hash
from stillroom.run.components import RunComponents, build_components
from stillroom.run.records import check_free, check_same_recipe, environment
from stillroom.run.resolve import resolve, with_threads
from stillroom.run.reuse_head import reuse_head
from stillroom.run.validate import try_smallest_batch, validate
from stillroom.schema.base import read_json, write
from stillroom.schema.run import ENVIRONMENT, SUMMARY, RunSummary
from stillroom.tasks import TASK_INFO
from stillroom.train.device import (
    exact_float32,
    forget_peak_memory,
    is_main_process,
    reuse_memory,
    runtime_of,
    threads,
    with_precision,
)
from stillroom.train.evaluation import score_outputs
from stillroom.train.folder import NullRunFolder, RunFolder
from stillroom.train.loop import Trainer
from stillroom.train.recorders import StepHook


@dataclass(frozen=True)
class Finished:
    """A run that is done."""

    path: Path
    summary: dict[str, Any]
    student: nn.Module
    # Students that learned with it, by their names as its teachers.
    peers: Mapping[str, nn.Module] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What a run would take."""

    steps: int  # its optimizer steps
    steps_per_epoch: int  # of these, in each epoch
    answers: int  # images that the teachers were queried for now; 0 where all was cached already
    seconds: float  # duration of that


def execute(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    components: RunComponents | None = None,
    hooks: Sequence[StepHook] = (),
    labels_alone: bool = False,
    latency: bool = False,
    describe: bool = True,
) -> Finished:
    """Do what a recipe says and leave a finished run folder.

    Args:
        recipe: what to do.
        out: the run folder; new, or one to resume.
        resume: go on where the folder's run was stopped; a finished run is given back as it is.
        observer: follows the progress.
        components: the objects that the recipe names; built from it where left out.
        hooks: called after each step.
        labels_alone: refuse losses that read a teacher.
        latency: measure each model's latency at the end; a report does it where the run did not.
        describe: tell the observer what the data are.

    Raises:
        BadInput: something in the recipe or the folder cannot be used; nothing was lost.
        RunFailed: the training cannot go on.
    """
    if is_main_process():
        check_free(out, resume)
    with _opened(
        recipe, observer or Observer(), components, hooks, labels_alone=labels_alone, describe=describe
    ) as run:
        check_same_recipe(run.parts.recipe, out)
        with RunFolder(out) if run.parts.context.processes.is_main else NullRunFolder(out) as folder:
            try:
                # Looked for under the lock: another process may have finished the run meanwhile.
                return run.finished(folder) if (out / "summary.json").exists() else run.run(folder, latency=latency)
            except (BadInput, RunFailed):
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                expected = "a smaller data.batch_size, student or teacher"
                raise OutOfMemory(f"out of memory ({format_error(error)}); try {expected}") from None
            finally:
                run.parts.context.observer.run_ended()


def prepare(recipe: Recipe, *, observer: Observer | None = None, components: RunComponents | None = None) -> Prepared:
    """Check a recipe as a run would, and fill the cache where it uses one.

    Args:
        recipe: what would be done.
        observer: follows the progress.
        components: the objects that the recipe names; built from it where left out.

    Raises:
        BadInput: something in the recipe cannot be used.
    """
    with _opened(recipe, observer or Observer(), components) as run:
        try:
            return run.prepare()
        finally:
            run.parts.context.observer.run_ended()


@contextmanager
def _opened(
    recipe: Recipe,
    observer: Observer,
    components: RunComponents | None,
    hooks: Sequence[StepHook] = (),
    *,
    labels_alone: bool = False,
    describe: bool = True,
) -> Iterator[Run]:
    """A run that was resolved, built and validated, under its threads and arithmetic."""
    runtime = runtime_of(recipe.training, observer)
    if observer.began is not None:
        runtime.clock.add("start", runtime.clock.total())
    recipe = with_threads(recipe)
    reuse_memory()
    forget_peak_memory(runtime.device)
    with threads(recipe.training.threads), exact_float32(), seed_rng(recipe.seed, "dropout"):
        note = observer.note if is_main_process() and describe else None
        if components is None:
            components = build_components(recipe, note=note, clock=runtime.clock)
        elif note is not None:
            describe_data(components.data, note)
        reading = [loss.name for loss in components.losses if loss.requires.teacher]
        if labels_alone and reading:
            expected = "losses that read labels alone; `stillroom distill` takes a teacher"
            raise BadInput("losses", reading[0], expected)
        recipe = resolve(recipe, components)
        runtime = with_precision(runtime, recipe.training)
        recipe, components = reuse_head(recipe, components)
        parts = build(recipe, components, runtime, hooks)
        validate(parts)
        yield Run(parts, unused_parameters=try_smallest_batch(parts))


class Run:
    """A run whose parts fit each other.

    Args:
        parts: what it is made of.
        unused_parameters: whether the student has parameters that its logits do not depend on.
    """

    def __init__(self, parts: RunParts, *, unused_parameters: bool = False) -> None:
        self.parts = parts
        self._unused_parameters = unused_parameters

    def run(self, folder: RunFolder, *, latency: bool = False) -> Finished:
        """Train, evaluate, write; time the models where asked."""
        parts, recipe, context, out = self.parts, self.parts.recipe, self.parts.context, folder.path
        clock = context.clock
        with clock.phase("teacher"):
            teacher_logits = {name: source.test_logits() for name, source in parts.teachers.items()}
        loader = parts.loader()

        def log(line: dict[str, Any]) -> None:
            folder.append("timing.jsonl", line)

        with clock.phase("teacher"):
            teachers = parts.open_teachers(loader, log)

        def prepare_view(view: int) -> None:
            for source in parts.teachers.values():
                source.prepare_views([view])

        if context.processes.is_main:
            write_text(out / "recipe.yaml", recipe.to_yaml(), checksum=True)
            if parts.train.tokens is not None:
                write_text(out / "tokenizer.json", parts.train.tokens.json, checksum=True)
            if not (out / "environment.json").exists():
                write(out / ENVIRONMENT, environment(context.device))
        last: list[Tensor] = []

        def evaluate(student: nn.Module) -> dict[str, float]:
            last[:] = [self._test_logits(student)]
            teacher_logits.update(self._changing_logits())
            self._log_queries(folder)
            return self._figures(last[0], teacher_logits)

        trainer = Trainer(
            step=parts.step,
            teachers=teachers,
            loader=loader,
            sampler=parts.sampler,
            evaluate=evaluate,
            validate=self._validate if parts.context.data.validation is not None else None,
            patience_for=TASK_INFO[parts.train.task].primary.name,
            prepare_view=prepare_view,
            config=recipe.training,
            runtime=context,
            seed=recipe.seed,
            folder=folder,
            hooks=parts.hooks,
            # Batch norm, for one, learns otherwise from smaller parts of a batch.
            hashes={**parts.hashes, "processes": str(context.processes.count)},
            some_unused=self._some_unused(),
            relations=parts.relations.line if parts.relations is not None else None,
            optimisation=parts.optimisation,
        )
        with clock.phase("training"):
            kept, progress, figures = trainer.fit()
        kept.eval()
        # A run resumed after its last evaluation has the figures, but not the logits behind them.
        with clock.phase("evaluation"):
            logits = last[0] if last else self._test_logits(kept)
            if not last:
                teacher_logits.update(self._changing_logits())
        trained = replace(parts.student, model=kept)
        summary = run_summary(parts, trained, progress, figures, logits, teacher_logits)
        if context.processes.is_main:
            save_weights(kept, out / "student.safetensors", checksum=True)
            for name, peer in parts.step.peers.items():
                save_weights(peer.eval(), out / f"{name}.safetensors", checksum=True)
            reference = RunSummary.model_validate(summary).reference
            write_predictions(out, parts.test, logits, teacher_logits, reference)
            if parts.relations is not None:
                parts.relations.write(out, kept)
            if latency:
                models = {
                    "student": trained,
                    **{name: each.prepared for name, each in parts.teachers.items() if not each.follows_student},
                }
                with clock.phase("latency"):
                    for line in latencies(models, parts.test):
                        log(line)
            folder.append("timing.jsonl", {"event": "phases", "seconds": clock.total(), "phases": clock.split()})
            folder.append("timing.jsonl", {"event": "finish", "step": progress.step})
            # Last: it says that the run is finished.
            write_json(out / SUMMARY, summary, checksum=True)
        folder.finish()
        # None goes on before all is written, and none leaves a partner behind that still needs it.
        context.processes.wait()
        return Finished(out, summary, kept, dict(parts.step.peers.items()))

    def prepare(self) -> Prepared:
        """Fill the cache, where the recipe uses one."""
        parts, began = self.parts, time.perf_counter()
        if parts.recipe.cache.enabled:
            for source in parts.teachers.values():
                source.test_logits()
            parts.open_teachers(parts.loader())
            for source in parts.teachers.values():
                source.prepare_views()
        answers = sum(source.counter.answers for source in parts.teachers.values())
        seconds = round(time.perf_counter() - began, 3)
        return Prepared(parts.total_steps, parts.sampler.steps_per_epoch, answers, seconds)

    def finished(self, folder: RunFolder) -> Finished:
        """Give back a run that was finished before, if it was made of the same things."""
        out = folder.path
        summary = read_json(RunSummary, out / SUMMARY)
        made_of = {
            "init": summary.hashes.init,
            "data": summary.data.fingerprint,
            "teacher": teachers_hash({name: teacher.weights_hash for name, teacher in summary.teachers.items()}),
            **file_hashes({name: teacher.files or {} for name, teacher in summary.teachers.items()}),
        }
        hashes = self.parts.hashes
        other = [what for what in {**hashes, **made_of} if made_of.get(what) != hashes.get(what)]
        if other:
            raise BadInput("--resume", str(out), f"the same {' and '.join(other)} as the finished run there")
        student = self.parts.student.model
        load_weights(student, out / "student.safetensors", field="student")
        peers = dict(self.parts.step.peers.items())
        for name, peer in peers.items():
            load_weights(peer, out / f"{name}.safetensors", field=name)
            peer.eval()
        self.parts.context.observer.note("this run is finished already")
        # A kill between the summary and the end leaves this behind.
        folder.finish()
        return Finished(out, summary.as_dict(), student.eval(), peers)

    def _log_queries(self, folder: RunFolder) -> None:
        """Write down how often the teachers were queried since the last time, so that a kill loses little of it."""
        for source in self.parts.teachers.values():
            counted = source.counter.pop()
            if counted.answers or counted.checks:
                line = {"event": "teacher", "answers": counted.answers, "checks": counted.checks}
                folder.append("timing.jsonl", line)

    def _some_unused(self) -> bool:
        """Whether the loss may leave parameters out, agreed on by all processes."""
        context = self.parts.context
        # A term that reads features may stop there, and a gradient does not depend on the last bias; the trial of the
        # smallest batch saw what the logits reach.
        partial = (term.requires.student_features or term.requires.input_gradient for term in self.parts.losses)
        unused = self._unused_parameters or any(partial)
        # A part of a batch may have no label, and so not reach what a term with connectors learns.
        unused = unused or self.parts.train.labelled < len(self.parts.train)
        return bool(context.processes.total(torch.tensor(float(unused), device=context.device)) > 0)

    def _test_logits(self, model: nn.Module) -> Tensor:
        parts, context = self.parts, self.parts.context
        trained = replace(parts.student, model=model)
        return logits_of(trained, parts.test, context.device, context.observer, "evaluating", context.processes)

    def _validate(self, student: nn.Module) -> dict[str, float]:
        context, images = self.parts.context, self.parts.context.data.validation
        assert images is not None
        trained = replace(self.parts.student, model=student)
        logits = logits_of(trained, images, context.device, context.observer, "evaluating", context.processes)
        return score_outputs(logits, images.labels, images.task, images.class_names)

    def _changing_logits(self) -> dict[str, Tensor | None]:
        """Test logits of the teachers that change, as they are now."""
        context, found = self.parts.context, dict[str, Tensor | None]()
        for name, source in self.parts.teachers.items():
            if source.changes and source.prepared is not None:
                context.processes.copy_buffers(source.prepared.model)
                found[name] = logits_of(
                    source.prepared, self.parts.test, context.device, context.observer, "evaluating", context.processes
                )
        return found

    def _figures(self, logits: Tensor, teacher_logits: dict[str, Tensor | None]) -> dict[str, float]:
        if not bool(torch.isfinite(logits).all()):
            raise RunFailed("the student's logits on the test split are not finite; try a lower training.optimizer.lr")
        test = self.parts.test
        figures = score_outputs(logits, test.labels, test.task, test.class_names)
        return figures | compare_with_teachers(logits, teacher_logits, test.task)
