"""Concepts among words whose importance is known: one of nine words says the class of each text.

A student of two blocks is trained from labels, for two seeds; `explain` then counts its concepts at four checkpoints,
on the key word (N_fg, at most 1) and on the others (N_bg). The figures are in docs/results/text.md.

    python benchmarks/words.py --out runs/bench-words     # half a minute
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from stillroom.explain.words import explain_words
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute

KEYS = {"animal": ("cat", "dog", "fox"), "place": ("city", "river", "lake"), "number": ("many", "count", "few")}
FILLER = ["what", "is", "the", "of", "a", "in", "name", "did", "how", "who", "big", "small", "old", "new"]


def write_texts(folder: Path) -> None:
    """600 training and 60 test texts, and the key words."""
    draw = random.Random(0)
    for split, count in (("train", 600), ("test", 60)):
        lines = ["text,label"]
        for row in range(count):
            label = list(KEYS)[row % 3]
            words = draw.choices(FILLER, k=draw.randint(4, 12))
            words.insert(draw.randrange(len(words) + 1), draw.choice(KEYS[label]))
            lines.append(f"{' '.join(words)},{label}")
        (folder / f"{split}.csv").write_text("\n".join(lines))
    (folder / "key.txt").write_text("\n".join(sum(KEYS.values(), ())))


def main() -> None:
    """Train and explain both students."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    folder = parser.parse_args().out
    folder.mkdir(parents=True)
    write_texts(folder)
    training = {"epochs": 6, "checkpoints": [0, 1, 2, 6], "threads": 1}
    training |= {"record_weight_distance": ["blocks.1.mlp.2"], "optimizer": {"name": "adamw", "lr": 0.005}}
    content = {"data": {"source": "text", "path": str(folder), "batch_size": 16}, "student": {"name": "bert_micro"}}
    content |= {"losses": [{"name": "cross_entropy"}], "training": training}
    for seed in (0, 1):
        out = folder / f"seed-{seed}"
        top1 = execute(parse_recipe({**content, "seed": seed}), out).summary["top1"]
        (found,) = explain_words([out], texts=30, mask=folder / "key.txt").networks
        print(f"seed {seed}: {top1:.1f}% top-1, rho {found.stability.rho if found.stability else None}")
        for one in found.concepts:
            print(f"  epoch {one.epoch:g}: N_fg {one.n_fg:.2f}, N_bg {one.n_bg:.2f}, lambda {one.ratio:.2f}")


if __name__ == "__main__":
    main()
