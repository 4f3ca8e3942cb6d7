"""Every check of a diagnosis: what `stillroom list checks` prints, and the page that leads from symptoms to checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stillroom.diagnose import loop, loss, recipe, run, setup, study
from stillroom.diagnose.check import Check
from stillroom.diagnose.checks.recipe import targets, text_input
from stillroom.wording import IMAGES


@dataclass(frozen=True)
class Door:
    """A way to a diagnosis."""

    name: str  # what is diagnosed
    command: str  # how
    when: str  # for whom
    checks: tuple[Check[Any], ...]  # in their order


DOORS = (
    Door("loss", "stillroom check losses.py:kd_loss --classes 100", "A loss function of your own; no model, no data.",
         loss.CHECKS),
    Door("set-up", "sr.check_setup(teacher, student, loader, loss=…, optimizer=…)", "Models and data of your own, "
         "before a loop of your own; a few batches, nothing is trained.", setup.CHECKS),
    Door("loop", "stillroom audit train.py", "A training script of your own, unchanged.", loop.CHECKS),
    Door("recipe", "stillroom diagnose recipe.yaml", "Before `stillroom distill`.",
         (*targets.CHECKS, *text_input.CHECKS, *recipe.CHECKS)),
    Door("run", "stillroom diagnose runs/kl", "After it.", run.checks_of("multi_label")),
    Door("study", "stillroom diagnose studies/x", "After `stillroom compare`: whether the table can be believed; then "
         "the checks of a run, for each method.", study.CHECKS),
)  # fmt: skip


@dataclass(frozen=True)
class Symptom:
    """What somebody sees, what it may be, and what to do first."""

    seen: str
    doors: tuple[str, ...]  # the first commands to run
    checks: tuple[str, ...]  # those that tell
    advice: str


SYMPTOMS = (
    Symptom("The student is no better than from labels alone, or worse", ("loop", "run"),
            ("loss_scale", "weights_swapped", "kd_ignored", "labels_drowned", "teacher_weak", "student_at_teacher"),
            "Train the same student from labels, in a folder next to it: without it nobody can tell. Most often the "
            "teacher's term is too weak by a constant, or the teacher is not better than the student."),
    Symptom("The distillation loss is next to 0 from the start", ("loss", "loop"),
            ("loss_scale", "teacher_unused", "target_constant", "student_no_gradient", "temperature"),
            "`reduction='batchmean'` in `kl_div`, and τ² before a softened term."),
    Symptom("The loss is negative, or does not fall", ("loss",),
            ("probabilities_for_logits", "roles_swapped", "temperature_one_sided", "loss_minimum", "batch_split"),
            "`kl_div` takes log-probabilities of the student first, probabilities of the teacher second, both over the "
            "classes and at one temperature."),
    Symptom("The loss is NaN, or blows up", ("loop", "recipe"),
            ("loss_finite", "half_precision", "learning_rate", "diverged", "skipped_steps"),
            "Look at the named term and step first. Lower the rate only where every term is finite at step 1."),
    Symptom("The student stays at chance", ("loop", "run"),
            ("parameters_left_out", "student_no_gradient", "stale_answers", "class_order", "schedule", "diverged"),
            "The optimizer must hold what has a gradient; stored answers must belong to the images of the batch."),
    Symptom("The teacher is worse here than where it was trained", ("recipe", "set-up"),
            ("teacher_normalisation", "teacher_channel_order", "teacher_resize", "teacher_batch_norm", "class_order",
             "weights_not_loaded", "teacher_mode", "teacher_at_chance", "teacher_tokenizer", "teacher_case",
             "text_length", "untrained_layers"),
            "Its own normalisation, size and order of channels and classes; of texts its own tokenizer, case and "
            "length; `eval()`; its weights loaded."),
    Symptom("The teacher gets worse during training", ("loop",),
            ("teacher_trained", "teacher_gradient", "teacher_mode"),
            "`teacher.eval()`, `torch.no_grad()` around it, and no parameter of it in an optimizer."),
    Symptom("With stored answers the student learns something else", ("loop", "recipe"),
            ("stale_answers", "stale_cache", "target_constant"),
            "Address answers by the image's index and its augmentation, not by the number of the batch."),
    Symptom("Good on training images, bad on test images", ("run",),
            ("over_fitting", "leak", "duplicates", "disputed_labels", "augmentation"),
            "More views of each image; a test split without copies, or the figure means nothing."),
    Symptom("Some classes are lost", ("run",), ("worse_classes", "imbalance", "teacher_errors_copied"),
            "See whether the teacher is bad at the same classes: then labels must count for more."),
    Symptom("The probabilities cannot be trusted", ("run", "recipe"),
            ("miscalibrated", "teacher_label_smoothing", "teacher_confidence"),
            "A teacher trained with smoothed labels teaches less; a lower temperature, or more weight on labels."),
    Symptom("Another result with mixed precision or accumulation", ("loop", "loss"),
            ("accumulation", "clipping", "skipped_steps", "half_precision"),
            "Divide the loss of each part, clip once before the step, after `unscale_`, and keep the loss in float32."),
    Symptom("Padding or ignored rows change the loss", ("loss",), ("ignored_rows", "batch_split"),
            "Mask the teacher's term as the labels' term."),
    Symptom("A feature loss helps nothing, or drowns the labels", ("recipe", "loop"),
            ("loss_balance", "taps", "penultimate_width", "parameters_left_out"),
            "Match layers at like depths, give the projector to the optimizer, weigh the term by its gradient."),
    Symptom("The student is at chance though its training loss fell", ("recipe", "run"),
            ("student_statistics", "diverged"),
            "Recompute the statistics of its batch norms (`training.recompute_batch_norm=50`), or train for longer."),
    Symptom("It might only need longer, or less regularisation", ("recipe", "run"),
            ("budget", "under_training", "regularisation", "over_regularising"),
            "Double the epochs before anything else is changed."),
    Symptom("Is method A better than B?", ("study",),
            ("unequal", "failed_runs", "too_few_seeds", "baseline_not_tuned"),
            "Paired seeds, equal trials, an interval; `stillroom compare` does all three."),
)  # fmt: skip


def check_entries() -> list[dict[str, str]]:
    """Each check once for each door that makes it.

    >>> next(entry["finds"] for entry in check_entries() if entry["name"] == "taps")
    'Whether taps named by hand are at matching depths.'
    """
    return [
        {"name": check.id, "of": door.name, "finds": _finds(check), "threshold": IMAGES.fill(check.threshold)}
        for door in DOORS
        for check in door.checks
    ]


def _finds(check: Check[Any]) -> str:
    """What a check looks for: the first line of its measurement, or the title of its findings."""
    return (check.measure.__doc__ or f"{check.problem or check.title}.").splitlines()[0]


def symptom_page() -> str:
    """Symptom → what to run → what to do, then all checks, as Markdown for ``docs/symptoms.md``."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    doors = {door.name: door for door in DOORS}
    known = {check.id for door in DOORS for check in door.checks}
    yield "# From a symptom to its cause"
    yield ""
    yield (
        "Find what you see, run the command, read its first problem: causes come before what follows from them. Each "
        "finding has the number that decided, the threshold with its reason, and a remedy to paste. `stillroom list "
        "checks` prints the second half of this page."
    )
    yield ""
    yield "| what you see | what to run | checks that report it | what to do first |"
    yield "|---|---|---|---|"
    for symptom in SYMPTOMS:
        unknown = set(symptom.checks) - known
        if unknown:
            raise KeyError(f"{symptom.seen}: no check is called {sorted(unknown)}")
        run_ = "<br>".join(f"`{doors[name].command}`" for name in symptom.doors)
        checks = ", ".join(f"`{check}`" for check in symptom.checks)
        yield f"| {symptom.seen} | {run_} | {checks} | {symptom.advice} |"
    for door in DOORS:
        yield from ("", f"## Checks of a {door.name}", "", f"`{door.command}`. {door.when}", "")
        yield "| check | what it looks for | threshold |"
        yield "|---|---|---|"
        for check in door.checks:
            yield f"| `{check.id}` | {cell(_finds(check))} | {cell(IMAGES.fill(check.threshold))} |"


def cell(text: str) -> str:
    """Text as a cell of a Markdown table.

    >>> cell("a | b")
    'a \\\\| b'
    """
    return " ".join(text.split()).replace("|", "\\|")
