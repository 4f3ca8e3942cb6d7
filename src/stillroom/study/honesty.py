"""Whether a run is what its own recipe implies, and tells what its last epoch gave."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stillroom.continual.metrics import accuracy_after_each_task, compute_metrics
from stillroom.study.collect import FIGURES, Evaluation, Run
from stillroom.study.config import Study
from stillroom.study.expected import budget_of, order_of, threads_of, total_steps, views_of
from stillroom.study.traits import fields_of
from stillroom.study.wording import counted, listed, word

# What a run settles for itself, where the plan left it open.
_SETTLED = {"training.device": "auto", "training.precision": "auto", "cache.enabled": "auto"}
_SHOWN = 3


def dishonest(run: Run, study: Study) -> Iterator[tuple[str, str]]:
    """What is wrong with a run by itself.

    Args:
        run: the run.
        study: the study.

    Yields:
        What it is about, by its name among the checked, and the words, ``{names}`` standing for the method.
    """
    yield from _recipe(run, study)
    summary, hashes = run.summary, run.summary.hashes
    if hashes.order != order_of(run):
        yield "order of images", "order of images: {names} did not see the order that the recipe gives"
    if hashes.views != views_of(run):
        yield "augmentation", "augmentation: {names} did not see the views that the recipe gives"
    if hashes.threads != threads_of(run):
        yield "threads", "threads: {names} did not run on the threads that the recipe gives"
    if hashes.budget != budget_of(run):
        yield "budget", "budget: {names} did not have the steps, the batch size and the data that the recipe gives"
    if summary.steps != total_steps(run):
        told = f"{counted(summary.steps, 'step')} in place of the recipe's {total_steps(run):,}"
        yield "budget", f"budget: {{names}} did {told}"
    if summary.precision != run.recipe.training.precision:
        told = f"{word(summary.precision)} in place of the recipe's {run.recipe.training.precision}"
        yield "precision", f"precision: {{names}} ran in {told}"
    yield from _epoch(run)
    yield from _figures(run)
    yield from _tasks(run)


def _recipe(run: Run, study: Study) -> Iterator[tuple[str, str]]:
    if run.written != run.summary.recipe_hash:
        yield "recipe", "recipe: the recipe beside {names} is not the one that the results were made by"
    planned, made = fields_of(run.cell.recipe, study), fields_of(run.recipe, study)
    changed = [key for key in {**planned, **made} if _changed(key, planned, made)]
    if changed:
        values = [f"{key} {word(made.get(key))} in place of {word(planned.get(key))}" for key in changed[:_SHOWN]]
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        yield "recipe", f"recipe: {{names}} ran with {listed(values)}{more}, which is not what the study asks for"
    if run.summary.seed != run.recipe.seed:
        told = f"seed {run.summary.seed} in place of the recipe's {run.recipe.seed}"
        yield "recipe", f"recipe: {{names}} ran with {told}"


def _changed(key: str, planned: dict[str, object], made: dict[str, object]) -> bool:
    for model in ("student", "teacher"):
        place = f"{model}.preprocess"
        # Left open or named, it is written out in numbers.
        if (key == place or key.startswith(f"{place}.")) and isinstance(planned.get(place, 0), str | None):
            return False
    if key in _SETTLED and planned.get(key) == _SETTLED[key]:
        return False
    if key == "cache.enabled" and "teacher" in made and made["teacher"] is None:
        return False
    return (key in planned) != (key in made) or planned.get(key) != made.get(key)


def _epoch(run: Run) -> Iterator[tuple[str, str]]:
    """Whether the summary tells of the last step of all."""
    name = "reported epoch"
    if not run.evaluations:
        yield name, "reported epoch: {names} left no evaluation on the test split"
        return
    last, end = run.evaluations[-1], total_steps(run)
    told = {figure: run.summary.value(figure) for figure in FIGURES}
    other = [figure for figure in FIGURES if told[figure] != last.figures.get(figure)]
    if other:
        earlier = next((one for one in run.evaluations[:-1] if _agree(one, told, other)), None)
        if earlier is not None:
            words = f"told the figures after step {earlier.step:,}, not those after the last, {last.step:,}"
            yield name, f"best-on-test reporting: {{names}} {words}"
        else:
            first = other[0]
            values = f"{first} {word(told[first])}, the last evaluation says {word(last.figures.get(first))}"
            yield name, f"reported epoch: {{names}} told {values}"
    if last.step != end:
        words = f"told the figures after step {last.step:,}, not those after the last, {end:,}"
        yield name, f"best-on-test reporting: {{names}} {words}"


def _agree(one: Evaluation, told: dict[str, float | None], figures: list[str]) -> bool:
    return all(one.figures.get(figure) == told[figure] for figure in figures)


def _figures(run: Run) -> Iterator[tuple[str, str]]:
    """Whether the answers to the test images give what the summary tells."""
    name, summary, answers = "reported figures", run.summary, run.answers
    if summary.top1 != 100.0 * summary.correct / summary.count:
        share = f"{word(summary.top1)}, which is not {summary.correct:,} of {summary.count:,}"
        yield name, f"reported figures: {{names}} told a top-1 of {share}"
    if summary.data.test != answers.count:
        images = f"{counted(summary.data.test, 'test image')}, the predictions are of {answers.count:,}"
        yield name, f"reported figures: {{names}} told of {images}"
    told, given = [], []
    if (summary.correct, summary.count) != (answers.correct, answers.count):
        told.append(f"{summary.correct:,} of {summary.count:,} right")
        given.append(f"{answers.correct:,} of {answers.count:,}")
    for figure, value in answers.figures.items():
        said = summary.value(figure)
        # All but what is counted was summed in single precision.
        close = {} if figure == "agreement" else {"rel_tol": 1e-3, "abs_tol": 1e-4}
        if said is None or not math.isclose(said, value, **close):
            told.append(f"{figure} {word(said)}")
            given.append(f"{value:.6g}")
    for figure in ("agreement", "teacher_kl"):
        if figure not in answers.figures and summary.value(figure) is not None:
            told.append(f"{figure} {word(summary.value(figure))}")
            given.append("none")
    if told:
        yield name, f"reported figures: {{names}} told {listed(told)}, the predictions give {listed(given)}"


def _tasks(run: Run) -> Iterator[tuple[str, str]]:
    """Whether the accuracies on each task after each give what is told of all of them."""
    name, facts, record = "reported figures", run.summary.incremental, run.record
    if facts is None or record is None:
        return
    try:
        means, given = accuracy_after_each_task(record.matrix), compute_metrics(record.matrix).as_dict()
    except ValueError as error:
        yield name, f"reported figures: {{names}} left no accuracies that can be read ({error})"
        return
    other = [what for what, value in given.items() if getattr(facts, what) != value]
    if other or means != [task.accuracy for task in record.tasks]:
        told = f"{other[0]} {word(getattr(facts, other[0]))}" if other else "accuracies after each task"
        yield name, f"reported figures: {{names}} told {told}, which its accuracies on each task do not give"
