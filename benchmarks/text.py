"""CPU time of distilling texts: the student alone, distilled from the cache and live, and a plain transformers loop.

TREC, a BERT of transformers with random weights (4 blocks of width 128) into one of 2 blocks of width 32, batch 64. The
four take turns, each a process of its own on one thread; what counts is the processor time of the steps after the
first ten, so that neither start-up, the tokenizer nor the building of the cache counts. The plain loop is what one
writes with transformers: shuffled batches padded to their longest text, a teacher in eval mode under ``no_grad``.

    export STILLROOM_DATA=…                                      # the folder of trec/
    python benchmarks/text.py --rounds 1 --epochs 1              # to look at while working
    python benchmarks/text.py --rounds 7                         # the table of docs/results/text.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stillroom.train.recorders import StepHook, StepInfo

METHODS = ("student alone", "cached", "live", "plain loop")
SKIPPED = 10  # steps that do not count
BATCH = 64
TEACHER = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
STUDENT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


class Clock(StepHook):
    """The processor time of all steps but the first ones."""

    def __init__(self) -> None:
        self.steps, self.began, self.spent = 0, 0.0, 0.0

    def after_step(self, info: StepInfo | None = None) -> None:
        """Count a step."""
        self.steps += 1
        now = time.process_time()
        if self.steps == SKIPPED:
            self.began = now
        self.spent = now - self.began

    @property
    def milliseconds(self) -> float:
        """Of a step."""
        return 1000 * self.spent / (self.steps - SKIPPED)


def distil(method: str, seed: int, epochs: int, folder: Path) -> float:
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
    execute(parse_recipe(content | {"losses": losses}), folder / f"{method}-{seed}".replace(" ", "-"), hooks=[clock])
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


def plain(seed: int, epochs: int) -> float:
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


def job(method: str, seed: int, epochs: int, folder: Path) -> None:
    """Do one of the four and print its milliseconds."""
    torch.set_num_threads(1)
    made = plain(seed, epochs) if method == "plain loop" else distil(method, seed, epochs, folder)
    print(json.dumps({"milliseconds": made}))


def main() -> None:
    """Take the turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each of the four")
    parser.add_argument("--epochs", type=int, default=2, help="of 85 steps each")
    parser.add_argument("--out", type=Path, help="a file for the rows")
    parser.add_argument("--job", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(options.job, options.seed, options.epochs, options.folder)
        return
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            took = {}
            for method in METHODS:
                command = [sys.executable, __file__, "--job", method, "--seed", str(turn), "--folder", folder]
                command += ["--epochs", str(options.epochs)]
                environment = os.environ | {"OMP_NUM_THREADS": "1", "STILLROOM_CACHE": str(Path(folder) / "cache")}
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                took[method] = json.loads(done.stdout.splitlines()[-1])["milliseconds"]
            rows.append(took)
            print(
                f"round {turn + 1}: " + ", ".join(f"{name} {value:.1f} ms" for name, value in took.items()), flush=True
            )
            if options.out:
                options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table(rows)


def table(rows: list[dict[str, float]]) -> None:
    """Print the medians of the CPU time of a step, and of the two ratios asked for, each taken within a round."""
    ratio: Callable[[str, str], list[float]] = lambda over, under: [row[over] / row[under] for row in rows]  # noqa: E731
    for method in METHODS:
        print(f"| {method} | {statistics.median(row[method] for row in rows):.1f} |")
    for name, over, under, target in (
        ("speed of cached distilling, of the student alone", "student alone", "cached", 0.95),
        ("speed of live distilling, of the plain loop", "plain loop", "live", 1.5),
    ):
        found = ratio(over, under)
        print(f"{name}: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}); asked for: {target}")


if __name__ == "__main__":
    main()
