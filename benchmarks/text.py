"""CPU time of distilling texts: the student alone, distilled from the cache and live, and a plain transformers loop.

TREC, a BERT of transformers with random weights (4 blocks of width 128) into one of 2 blocks of width 32, batch 64. The
four take turns, each a process of its own on one thread; what counts is the processor time of the steps after the
first ten, so that neither start-up, the tokenizer nor the building of the cache counts. The plain loop is what one
writes with transformers: shuffled batches padded to their longest text, a teacher in eval mode under ``no_grad``.
A stopped command goes on where it was: rows, the teacher and the cache are in the folder ``--out``.

    export STILLROOM_DATA=…                                      # the folder of trec/
    python benchmarks/text.py --out runs/bench-text              # three turns, the table of docs/results/text.md
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from stillroom.train.recorders import StepHook, StepInfo

METHODS = ("student alone", "cached", "live", "plain loop")
EPOCHS = {"student alone": 4, "cached": 4, "live": 1, "plain loop": 1}  # of 85 steps; short ones need more for a figure
SKIPPED = 10  # steps that do not count
BATCH = 64
TEACHER = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
STUDENT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


class Clock(StepHook):
    """The processor time, and that of a clock on the wall, of all steps but the first ones."""

    def __init__(self) -> None:
        self.steps = 0
        self.began = self.now = (0.0, 0.0)

    def after_step(self, info: StepInfo | None = None) -> None:
        """Count a step."""
        self.steps += 1
        self.now = time.process_time(), time.perf_counter()
        if self.steps == SKIPPED:
            self.began = self.now

    @property
    def milliseconds(self) -> dict[str, float]:
        """Of a step."""
        cpu, wall = (
            1000 * (end - start) / (self.steps - SKIPPED) for start, end in zip(self.began, self.now, strict=True)
        )
        return {"cpu": cpu, "wall": wall}


def distil(method: str, seed: int, epochs: int, folder: Path) -> dict[str, float]:
    """Milliseconds a step of one of our runs."""
    from stillroom.recipe import parse_recipe
    from stillroom.run.run import execute

    teacher = {"name": "transformers:bert", "options": TEACHER, "weights": str(random_teacher(folder))}
    losses: list[dict[str, Any]] = [{"name": "cross_entropy"}]
    content: dict[str, Any] = {
        "data": {"source": "text", "path": "trec", "batch_size": BATCH},
        "student": {"name": "transformers:bert", "options": STUDENT},
        "training": {"epochs": epochs, "evaluate_every": 1000, "threads": 1, "precision": "float32", "device": "cpu"},
        "seed": seed,
    }
    if method != "student alone":
        content |= {"teacher": teacher, "cache": {"enabled": method == "cached"}}
        losses.append({"name": "kl", "temperature": 4})
    clock = Clock()
    out = folder / f"{method}-{seed}".replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)  # of a turn that was stopped: its time is not known
    execute(parse_recipe(content | {"losses": losses}), out, hooks=[clock])
    return clock.milliseconds


def random_teacher(folder: Path) -> Path:
    """A file of random weights: what a teacher says does not change how long it takes."""
    from stillroom.data.sources import load
    from stillroom.models.config import ModelConfig
    from stillroom.models.registry import build
    from stillroom.models.weights import save_weights
    from stillroom.recipe import parse_recipe

    path = folder / "teacher.safetensors"
    if not path.exists():
        data = load(
            parse_recipe({"data": {"source": "text", "path": "trec"}, "student": {"name": "bert_micro"}}).data
        ).train
        config = ModelConfig(name="transformers:bert", options=TEACHER)
        text = (data.vocabulary or 0, data.images.shape[1])
        save_weights(build(config, num_classes=data.num_classes, in_channels=1, image_size=None, text=text), path)
    return path


def plain(seed: int, epochs: int) -> dict[str, float]:
    """Milliseconds a step of the plain loop."""
    from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
    from torch.utils.data import DataLoader

    from stillroom.models.external import declare_missing_ops
    from stillroom.recipe import parse_recipe

    declare_missing_ops()
    from transformers import BertConfig, BertForSequenceClassification

    from stillroom.data.sources import load

    torch.manual_seed(seed)
    data = load(
        parse_recipe({"data": {"source": "text", "path": "trec"}, "student": {"name": "bert_micro"}}).data
    ).train
    items = [(ids[ids >= 0].long(), label) for ids, label in zip(data.images[:], data.labels.tolist(), strict=True)]
    fixed = {"vocab_size": data.vocabulary, "num_labels": data.num_classes}
    teacher, student = (BertForSequenceClassification(BertConfig(**sizes, **fixed)) for sizes in (TEACHER, STUDENT))
    teacher.eval()
    student.train()

    def collate(batch: list[Any]) -> dict[str, torch.Tensor]:
        ids = torch.nn.utils.rnn.pad_sequence([each for each, _ in batch], batch_first=True)
        count = torch.tensor([len(each) for each, _ in batch])
        mask = (torch.arange(ids.shape[1]) < count[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([label for _, label in batch])}

    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    clock = Clock()
    for _ in range(epochs):
        for batch in DataLoader(items, BATCH, shuffle=True, drop_last=True, collate_fn=collate):
            labels = batch.pop("labels")
            with torch.no_grad():
                target = softmax(teacher(**batch).logits / 4, dim=1)
            logits = student(**batch).logits
            kd = kl_div(log_softmax(logits / 4, dim=1), target, reduction="batchmean") * 16
            optimizer.zero_grad()
            (cross_entropy(logits, labels) + kd).backward()
            optimizer.step()
            clock.after_step()
    return clock.milliseconds


def job(method: str, seed: int, folder: Path) -> None:
    """Do one of the four and print its milliseconds."""
    torch.set_num_threads(1)
    epochs = EPOCHS[method]
    made = plain(seed, epochs) if method == "plain loop" else distil(method, seed, epochs, folder)
    print(json.dumps(made))


def main() -> None:
    """Take the turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each of the four")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-text"), help="a folder for rows and cache")
    parser.add_argument("--job", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(options.job, options.seed, options.out)
        return
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for turn in range(options.rounds):
        for method in METHODS:
            if any((row["round"], row["method"]) == (turn, method) for row in rows):
                continue
            command = [sys.executable, __file__, "--job", method, "--seed", str(turn), "--out", str(folder)]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "STILLROOM_CACHE": str(folder / "cache")}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            rows.append({"round": turn, "method": method, **json.loads(done.stdout.splitlines()[-1])})
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            cpu, wall = rows[-1]["cpu"], rows[-1]["wall"]
            print(f"turn {turn + 1}, {method}: {cpu:.1f} ms of CPU a step, {wall:.1f} ms", flush=True)
    table(rows)


def table(rows: list[dict[str, Any]]) -> None:
    """Print the medians of a step's time, and of the two ratios asked for, each taken within a turn."""
    of = {(row["round"], row["method"]): row for row in rows}
    turns = sorted({row["round"] for row in rows if (row["round"], METHODS[-1]) in of})
    for method in METHODS:
        cpu, wall = (statistics.median(of[turn, method][kind] for turn in turns) for kind in ("cpu", "wall"))
        print(f"| {method} | {cpu:.1f} | {wall:.1f} |")
    for name, over, under, target in (
        ("speed of cached distilling, of the student alone", "student alone", "cached", 0.95),
        ("speed of live distilling, of the plain loop", "plain loop", "live", 1.5),
    ):
        for kind in ("cpu", "wall"):
            found = [of[turn, over][kind] / of[turn, under][kind] for turn in turns]
            span = f"{min(found):.2f} to {max(found):.2f}"
            print(f"{name}, by {kind} time: {statistics.median(found):.2f} ({span}); asked for: {target}")


if __name__ == "__main__":
    main()
