"""CPU time of distilling texts: the student alone, distilled from the cache and live, and a plain transformers loop.

TREC, a BERT of transformers with random weights (4 blocks of width 128) into one of 2 blocks of width 32, batch 64. The
four are processes of one thread, and all but one of them wait: each makes ten steps, then the next one, so that a
machine whose speed varies from second to second is the same for all. What counts is the processor time of the steps
after the first ten, so that neither start-up, the tokenizer nor the building of the cache counts. Ratios are of
neighbours in time, their median that of a round; rounds are new processes, as speed differs from process to process.
The plain loop is what one writes with transformers: shuffled batches padded to their longest text, a teacher in eval
mode under ``no_grad``. A stopped command goes on where it was: rows, the teacher and the cache are in ``--out``.

    export STILLROOM_DATA=…                                      # the folder of trec/
    python benchmarks/text.py --out runs/bench-text              # five rounds, as in docs/results/text.md
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from stillroom.train.recorders import StepHook, StepInfo

METHODS = ("student alone", "cached", "live", "plain loop")
EPOCHS = 3  # of 85 steps
SKIPPED = 10  # steps that do not count
TURN = 10  # steps until the next one
TURNS = 24
BATCH = 64
KINDS = ("cpu", "wall")
TEACHER = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
STUDENT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


Row = dict[str, Any]


class Clock(StepHook):
    """Waits for its turn, and says how long each took: the processor time since the last one, and that on the wall.

    What a process does while it waits, such as collecting the next batch, counts in its processor time.
    """

    def __init__(self) -> None:
        self.steps = self.turns = 0
        self.cpu = self.wall = 0.0

    def after_step(self, info: StepInfo | None = None) -> None:
        """Count a step; after the last one of a turn, hand over and wait."""
        self.steps += 1
        if self.turns > TURNS or self.steps < SKIPPED or (self.steps - SKIPPED) % TURN:
            return
        cpu, wall = time.process_time(), time.perf_counter()
        took = {"cpu": 1000 * (cpu - self.cpu) / TURN, "wall": 1000 * (wall - self.wall) / TURN}
        self.cpu = cpu
        self.turns += 1
        print("turn", json.dumps(took), flush=True)
        sys.stdin.readline()
        self.wall = time.perf_counter()


def distil(method: str, seed: int, folder: Path) -> None:
    """One of our runs."""
    from stillroom.recipe import parse_recipe
    from stillroom.run.run import execute

    teacher = {"name": "transformers:bert", "options": TEACHER, "weights": str(random_teacher(folder))}
    losses: list[dict[str, Any]] = [{"name": "cross_entropy"}]
    content: dict[str, Any] = {
        "data": {"source": "text", "path": "trec", "batch_size": BATCH},
        "student": {"name": "transformers:bert", "options": STUDENT},
        "training": {"epochs": EPOCHS, "evaluate_every": 1000, "threads": 1, "precision": "float32", "device": "cpu"},
        "seed": seed,
    }
    if method != "student alone":
        content |= {"teacher": teacher, "cache": {"enabled": method == "cached"}}
        losses.append({"name": "kl", "temperature": 4})
    out = folder / f"{method}-{seed}".replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)  # of a turn that was stopped: its time is not known
    execute(parse_recipe(content | {"losses": losses}), out, hooks=[Clock()])


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


def plain(seed: int) -> None:
    """The plain loop."""
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
    for _ in range(EPOCHS):
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


def job(method: str, seed: int, folder: Path) -> None:
    """Do one of the four, turn by turn."""
    torch.set_num_threads(1)
    if method == "plain loop":
        plain(seed)
    else:
        distil(method, seed, folder)


def take_turns(seed: int, folder: Path) -> list[Row]:
    """A round: start all four, and let each make a turn in turn; the rows of its turns."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "STILLROOM_CACHE": str(folder / "cache")}
    command = [sys.executable, __file__, "--seed", str(seed), "--out", str(folder), "--job"]
    logs = {method: folder / f"{method}.log".replace(" ", "-") for method in METHODS}
    running: dict[str, subprocess.Popen[str]] = {}
    rows: list[Row] = []
    with ExitStack() as files:
        try:
            for method, log in logs.items():
                pipes = {
                    "stdin": subprocess.PIPE,
                    "stdout": subprocess.PIPE,
                    "stderr": files.enter_context(log.open("w")),
                }
                running[method] = subprocess.Popen([*command, method], env=environment, text=True, **pipes)
                next_turn(running[method], log)  # all that comes before the first turn, one process after the other
            for turn in range(TURNS):
                # Who comes first changes: what the one before left in the processor's caches is not always the same's.
                for place in range(len(METHODS)):
                    method = METHODS[(turn + place) % len(METHODS)]
                    running[method].stdin.write("\n")
                    running[method].stdin.flush()
                    took = next_turn(running[method], logs[method])
                    rows.append({"round": seed, "turn": turn, "method": method, **took})
        finally:
            for process in running.values():
                process.kill()
    return rows


def next_turn(process: subprocess.Popen[str], log: Path) -> dict[str, float]:
    """What a process says at the end of its turn."""
    for line in process.stdout or ():
        if line.startswith("turn "):
            took: dict[str, float] = json.loads(line.removeprefix("turn "))
            return took
    raise SystemExit(f"{log}: {log.read_text()[-2000:]}")


def main() -> None:
    """Take the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of new processes")
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
    for seed in range(options.rounds):
        if not any(row["round"] == seed for row in rows):
            rows += take_turns(seed, folder)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            print(f"round {seed + 1}", flush=True)
            table([row for row in rows if row["round"] == seed])
    print("all rounds")
    table(rows)


def table(rows: list[Row]) -> None:
    """Print the medians of a step's time, and of the two ratios asked for: within a turn, then within a round."""
    of = {(row["round"], row["turn"], row["method"]): row for row in rows}
    rounds = sorted({row["round"] for row in rows})
    for method in METHODS:
        cpu, wall = (statistics.median(row[kind] for row in rows if row["method"] == method) for kind in KINDS)
        print(f"| {method} | {cpu:.1f} | {wall:.1f} |")
    for name, over, under, target in (
        ("speed of cached distilling, of the student alone", "student alone", "cached", 0.95),
        ("speed of live distilling, of the plain loop", "plain loop", "live", 1.5),
    ):
        for kind in KINDS:
            found = [
                statistics.median(of[seed, turn, over][kind] / of[seed, turn, under][kind] for turn in range(TURNS))
                for seed in rounds
            ]
            span = f"{min(found):.2f} to {max(found):.2f} in {len(found)} rounds"
            print(f"{name}, by {kind} time: {statistics.median(found):.2f} ({span}); asked for: {target}")


if __name__ == "__main__":
    main()
