"""Every loss trains: 2 epochs on digits from one recipe; its value falls, a stopped run ends as one never stopped, and
two processes do what one does.

    python benchmarks/losses_train.py                    # all: docs/results/losses-train.md
    python benchmarks/losses_train.py --folder F         # the same, in a folder that a second call goes on with
    python benchmarks/losses_train.py --losses crd ctkd  # some of them, printed only

The recipe differs in `losses` alone: the loss on labels and this one, or this one where it stands alone; each loss on
each task that it has: the digit, four attributes of it (multi_label), three numbers (regression). "Falls" compares the
loss's own value, mean over the first and over the last quarter of the steps. The stopped run crashes in the middle of
the second epoch, after a save at the end of the first. Two processes train an MLP with all losses at once that need no
maps; batch norm is each process's own, so networks that have it, which losses on maps need, are compared with one
process in two micro-batches. Losses on attention learn between small transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from kill_and_resume import files, launcher
from speed import shown_command

import stillroom
from stillroom.files import write_text
from stillroom.losses.registry import default_losses, losses
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.run import execute
from stillroom.tasks import TASK_INFO, TASKS, Task
from stillroom.train.recorders import StepHook, StepInfo

OUT = Path("docs/results/losses-train.md")
BATCH, EPOCHS = 64, 2
# Their gradients are small against those of the labels: at weight 1 they steer nothing.
WEIGHTS = {"similarity_preserving": 3000.0, "factor_transfer": 500.0}
# By how much, relatively, one process and two may differ: sums in another order, over 16 steps.
TOLERANCE = 1e-3


class Stop(Exception):  # noqa: N818
    """A crash."""


class StopAt(StepHook):
    """Crashes a run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            raise Stop


# Teacher and student of most losses, and of those on attention.
RESNETS = tuple({"name": "resnet8", "options": {"width": width}} for width in (8, 4))
TRANSFORMERS = tuple(
    {"name": "vit_mini", "options": {"patch": 2, "depth": 2, "heads": 2, "dim": dim}} for dim in (32, 16)
)
# Transformers hardly move by plain SGD in so few steps.
ADAM = {"name": "adamw", "lr": 0.003}


def recipe(name: str, teacher: Path, task: Task, *, student: dict[str, Any]) -> dict[str, Any]:
    """The one recipe, with a loss."""
    terms: list[dict[str, Any]] = [{"name": name, "weight": WEIGHTS.get(name, 1.0)}]
    kind = losses()[name]
    if kind.family != "labels" and not kind.reuses_head:
        terms = [*default_losses(task, teacher=False), *terms]
    return {
        "data": {"source": "digits", "task": task, "batch_size": BATCH, "train_limit": 512},
        "teacher": {**(TRANSFORMERS if kind.reads_attention else RESNETS)[0], "weights": str(teacher)},
        "student": student,
        "losses": terms,
        "training": {
            "epochs": EPOCHS,
            "log_every": 1,
            "device": "cpu",
            "precision": "float32",
            "threads": 1,
            "optimizer": ADAM if kind.reads_attention else {"lr": 0.02},
        },
    }


def fall(run: Path, name: str) -> tuple[float, float]:
    """A loss's value over the first and the last quarter of the steps."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [line[f"loss/{name}"] for line in lines if line["split"] == "train"]
    quarter = max(len(values) // 4, 1)
    return statistics.mean(values[:quarter]), statistics.mean(values[-quarter:])


def resumes(made: Recipe, whole: Path, stopped: Path) -> bool:
    """Whether a run that crashed in its second epoch ends with the bytes of the whole one."""
    steps = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    try:
        execute(made, stopped, hooks=[StopAt(3 * steps // 4)], latency=False)
    except Stop:
        pass
    else:
        return False
    # Hooks are part of a save; this one stops nothing.
    execute(made, stopped, resume=True, hooks=[StopAt(-1)], latency=False)
    return files(stopped) == files(whole)


def two_processes(
    folder: Path, names: Sequence[str], teacher: Path, task: Task, student: dict[str, Any], parts: int = 1
) -> dict[str, float]:
    """Largest relative difference between the values of each loss that one process and two log, all losses at once.

    Batch norm is each process's own: where the student has it, one process learns in two ``parts`` of a batch.
    """
    made = recipe(names[0], teacher, task, student=student)
    made["losses"] = [{"name": name, "weight": 0.01} for name in names]
    logs = []
    for processes in (1, 2):
        place = folder / f"with-{processes}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        made["training"]["accumulate"] = parts if processes == 1 else 1
        (place / "recipe.json").write_text(json.dumps(made))
        command = [*launcher(processes), "-m", "stillroom", "distill", "recipe.json", "--out", "run"]
        tree = str(Path(stillroom.__file__).parent.parent)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": tree}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
        logs.append([line for line in lines if line["split"] == "train"])
    pairs = list(zip(*logs, strict=True))
    return {
        name: max(abs(a[f"loss/{name}"] - b[f"loss/{name}"]) / max(abs(a[f"loss/{name}"]), 1e-6) for a, b in pairs)
        for name in names
    }


def needs_network(name: str) -> bool:
    """Whether a loss needs maps, or another student: what a perceptron that others share cannot give."""
    kind = losses()[name]
    field = kind.Config.model_fields.get("taps")
    return kind.reuses_head or (field is not None and field.default == "maps")


def train(name: str, made: Recipe, home: Path) -> tuple[Any, ...]:
    """The row of a loss: a whole run, and one that crashed and was resumed."""
    measure, whole, stopped = TASK_INFO[made.data.task].primary, home / f"{name}-whole", home / f"{name}-stopped"
    for place in (whole, stopped):
        shutil.rmtree(place, ignore_errors=True)
    execute(made, whole, hooks=[StopAt(-1)], latency=False)
    before, after = fall(whole, name)
    same = resumes(made, whole, stopped)
    level = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])[measure.name]
    level = f"{measure.title} {measure.written(level)}"
    return f"`{name}` | {made.data.task}", before, after, after < before, same, level


def report(names: Sequence[str], folder: Path) -> str:
    """The page."""
    rows: list[tuple[Any, ...]] = []
    apart: dict[tuple[str, Task], float] = {}
    groups = [(task, attentive) for task in TASKS for attentive in (False, True)]
    for task, attentive in groups:
        mine = [name for name in names if task in losses()[name].tasks and losses()[name].reads_attention == attentive]
        if not mine:
            continue
        networks, home = (TRANSFORMERS, folder / task / "attention") if attentive else (RESNETS, folder / task)
        plain: dict[str, Any] = {"data": {"batch_size": BATCH, "source": "digits", "task": task}}
        plain |= {"student": networks[0], "losses": default_losses(task, teacher=False)}
        training: dict[str, Any] = {"epochs": 4, "device": "cpu", "precision": "float32"}
        if attentive:
            training["optimizer"] = ADAM
        execute(parse_recipe({**plain, "training": training}), home / "teacher", resume=(home / "teacher").exists())
        teacher = home / "teacher" / "student.safetensors"
        kept = home / "apart.json"
        found = json.loads(kept.read_text()) if kept.exists() else {}
        shared = [name for name in mine if not needs_network(name)]
        on_maps = [name for name in mine if needs_network(name) and not losses()[name].reuses_head]
        alone = [[name] for name in mine if losses()[name].reuses_head]  # its student is of its own
        without_norm = networks[1] if attentive else {"name": "mlp"}
        runs = [(shared, home, without_norm, 1), *((each, home / "maps", networks[1], 2) for each in (on_maps, *alone))]
        for group, place, student, parts in runs:
            if group and group[0] not in found:
                found |= two_processes(place, group, teacher, task, student, parts)
                kept.write_text(json.dumps(found))
        apart |= {(name, task): value for name, value in found.items()}
        for name in mine:
            row = home / f"{name}.json"
            if not row.exists():
                made = parse_recipe(recipe(name, teacher, task, student=networks[1]))
                row.write_text(json.dumps(train(name, made, home)))
            *figures, level = json.loads(row.read_text())
            rows.append((*figures[:5], f"{found[name]:.1e}" + ("†" if needs_network(name) else ""), level))
            print(*rows[-1], file=sys.stderr)
    fell = sum(row[3] for row in rows)
    lines = [
        "# Every loss trains",
        "",
        f"`{shown_command(sys.argv[1:], 'losses_train.py')}`, torch {torch.__version__}.",
        "",
        "ResNet-8 of width 8 → width 4 (losses on attention: transformers of 2 blocks, width 32 → 16, by AdamW) on "
        f"512 digits, {EPOCHS} epochs of batches of {BATCH}, default options with "
        "the task's loss on labels (losses on labels and `simkd` stand alone; `similarity_preserving` at weight 3,000 "
        "and `factor_transfer` at 500), once for each task that the loss has. "
        "Its value: mean over the first and the last quarter "
        "of the steps. Resume: a run that crashed in its second epoch ends with the same bytes. Two processes: largest "
        "relative difference of the loss's logged values from those of one process, an MLP trained with all losses at "
        f"once; the bar is {TOLERANCE:g}. † are losses that need maps or a student of their own, whose batch norms are "
        f"each process's own: compared with one process that takes a batch in two parts. {fell} of "
        f"{len(rows)} fall, {sum(row[4] for row in rows)} resume exactly, "
        f"{sum(value <= TOLERANCE for value in apart.values())} of {len(apart)} are within the bar.",
        "",
        "| loss | task | value, first quarter | last quarter | falls | resume exact | two processes | test |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, before, after, falls, same, difference, level in rows:
        words = ("yes" if falls else "**no**", "yes" if same else "**no**", difference, level)
        lines.append(f"| {name} | {before:.4g} | {after:.4g} | {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=list(losses()), help="some of them; printed only")
    parser.add_argument("--folder", type=Path, help="where runs are kept: the same one goes on with them")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        os.environ["STILLROOM_CACHE"] = str(folder.resolve() / "cache")
        page = report(chosen.losses or list(losses()), folder)
    if chosen.losses:
        print(page)
    else:
        write_text(OUT, page)


if __name__ == "__main__":
    main()
