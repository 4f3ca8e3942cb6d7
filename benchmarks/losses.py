"""What a step of each loss costs over the student alone, and relational losses against their plain formulas.

    python benchmarks/losses.py                     # all: docs/results/losses-cost.md
    python benchmarks/losses.py --quick             # printed only; too few rounds to quote
    python benchmarks/losses.py --losses crd kl     # some of them, printed only

A step is forward, backward and optimizer of the student with cross-entropy and one loss, on a fixed batch whose teacher
outputs are there, as from a cache. Times are processor time, on one thread by default. All losses take turns within a
round, in an order that is drawn afresh; a round's time of a loss is divided by that of cross-entropy alone in the same
round. Memory is what a step keeps for its backward pass (storages of saved tensors, each counted once), over that of
cross-entropy alone. Images and weights are random: cost depends on neither.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from speed import shown_command
from torch import Tensor

from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import Batch
from stillroom.files import write_text
from stillroom.losses import functional
from stillroom.losses.registry import build_loss, losses
from stillroom.observer import Observer
from stillroom.recipe import parse_recipe
from stillroom.run.build import build
from stillroom.run.components import RunComponents, build_model
from stillroom.run.resolve import resolve
from stillroom.run.reuse_head import reuse_head
from stillroom.train.device import reuse_memory, runtime_of

ALONE = "cross_entropy"
IMAGES, CLASSES, BATCH = 2048, 100, 64
TEACHER, STUDENT = {"name": "resnet20"}, {"name": "resnet8"}
# Of losses on attention: these read queries, keys and values.
ATTENTIVE = {"name": "vit_mini"}, {"name": "vit_mini", "options": {"depth": 2, "dim": 32}}
OUT = Path("docs/results/losses-cost.md")


def made(name: str, networks: tuple[dict[str, Any], dict[str, Any]] = (TEACHER, STUDENT)) -> Callable[[], None]:
    """A function that does one training step with a loss."""
    torch.manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    labels, task = torch.arange(IMAGES) % CLASSES, losses()[name].tasks[0]
    if task == "regression":  # as many numbers as classes
        labels = torch.randn(IMAGES, CLASSES)
    data = ImageSet(images, labels, tuple(map(str, range(CLASSES))), "random", task=task)
    terms = [{"name": name}] if name == ALONE or task != "single_label" else [{"name": ALONE}, {"name": name}]
    recipe = parse_recipe(
        {
            "data": {"source": "digits", "batch_size": BATCH, "task": task},
            "teacher": networks[0],
            "student": networks[1],
            "losses": terms,
            "training": {"epochs": 1, "device": "cpu", "precision": "float32"},
            "cache": {"enabled": False},
        }
    )
    assert recipe.teacher is not None
    components = RunComponents(
        DataPair(data, data),
        build_model(recipe.student, data, "student"),
        [build_loss(config) for config in recipe.losses],
        {"teacher": build_model(recipe.teacher, data, "teacher")},
    )
    recipe, components = reuse_head(resolve(recipe, components), components)
    parts = build(recipe, components, runtime_of(recipe.training, Observer()))
    step = parts.step.train()
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    rows = torch.arange(BATCH)
    batch = Batch(images[:BATCH], data.labels[:BATCH], rows, rows.numpy(), 0)
    outputs = {key: source.training_teacher(parts.loader(), 1)(batch) for key, source in parts.teachers_read.items()}

    def one() -> None:
        value, _ = step(batch.images, batch.labels, batch.index, outputs, 0.5)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step.after_step()

    return one


def timed(work: Callable[[], None], times: int) -> float:
    """Milliseconds of processor time of one: what else runs on the machine counts little."""
    began = time.process_time()
    for _ in range(times):
        work()
    return 1000 * (time.process_time() - began) / times


def race(works: dict[str, Callable[[], None]], rounds: int, times: int) -> list[dict[str, float]]:
    """Milliseconds of each in each round, in turns; the first round, which warms up, is left out."""
    found = []
    draw = random.Random(0)
    for number in range(rounds + 1):
        order = draw.sample(sorted(works), len(works))
        found.append({name: timed(works[name], times) for name in order})
        print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found[1:]


def held(work: Callable[[], None]) -> float:
    """What a step keeps for its backward pass, in MB: storages of saved tensors, each counted once."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(sizes.values()) / 1e6


# --- plain formulas, as papers' repositories compute them


def plain_relational(student: Tensor, teacher: Tensor) -> Tensor:
    """Distances and angles from the B·B·d differences."""

    def distances(x: Tensor) -> Tensor:
        d = ((x[:, None] - x).square().sum(2)).clamp_min(1e-12).sqrt() * (1 - torch.eye(len(x)))
        return d / d[d > 0].mean()

    def angles(x: Tensor) -> Tensor:
        apart = F.normalize(x[None] - x[:, None], dim=2)
        return apart @ apart.transpose(1, 2)

    with torch.no_grad():
        d_t, a_t = distances(teacher), angles(teacher)
    return 25 * F.smooth_l1_loss(distances(student), d_t) + 50 * F.smooth_l1_loss(angles(student), a_t)


def plain_selectivity(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The three kernels between all pairs of channels, as matrix products."""
    total = torch.zeros(())
    for s, t in zip(student, teacher, strict=True):
        s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))
        kernel = [(a @ b.transpose(1, 2)).square().mean() for a, b in ((t, t), (s, s), (s, t))]
        total = total + kernel[0].detach() + kernel[1] - 2 * kernel[2]
    return total


def plain_crd(student: Tensor, teacher: Tensor, bank_s: Tensor, bank_t: Tensor, rows: Tensor) -> Tensor:
    """Gathers each image's rows of the bank; exponentials, a sum, logarithms."""
    total = torch.zeros(())
    for e, bank in ((student, bank_t), (teacher, bank_s)):
        gathered = bank.index_select(0, rows.flatten()).view(*rows.shape, -1)
        scores = torch.exp((gathered @ e[:, :, None]).squeeze(2) / 0.07)
        scores = scores / (scores.mean() * len(bank)).detach()
        noise = (rows.shape[1] - 1) / len(bank)
        positive = (scores[:, 0] / (scores[:, 0] + noise + 1e-7)).log().sum()
        negative = (noise / (scores[:, 1:] + noise + 1e-7)).log().sum()
        total = total - (positive + negative) / len(e)
    return total


def with_backward(function: Callable[..., Tensor], *given: object) -> Callable[[], None]:
    """Forward and backward of a function."""

    def work() -> None:
        function(*given).backward()

    return work


def plain_pairs() -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """(ours, plain) of each, on the same inputs."""
    torch.manual_seed(0)
    pooled = [torch.randn(BATCH, 256) for _ in range(2)]
    pooled[0].requires_grad_()
    shapes = ((16, 32, 32), (32, 16, 16), (64, 8, 8))
    maps = [[torch.randn(BATCH, *shape).relu() for shape in shapes] for _ in range(2)]
    wide = [[torch.randn(BATCH, c * 4, h, w).relu() for c, h, w in shapes] for _ in range(2)]
    for each in (*maps[0], *wide[0]):
        each.requires_grad_()
    samples, draws, width = 50000, 16384, 128
    s, t, bank_s, bank_t = (F.normalize(torch.randn(n, width), dim=1) for n in (BATCH, BATCH, samples, samples))
    s.requires_grad_()
    positives, negatives = torch.arange(BATCH), torch.randint(samples, (BATCH, draws))
    rows = torch.cat([positives[:, None], negatives], 1)
    return {
        f"`relational`, {BATCH} × 256": (
            with_backward(functional.relational, *pooled),
            with_backward(plain_relational, *pooled),
        ),
        "`neuron_selectivity`, 16–64 channels, 32²–8² places": (
            with_backward(functional.neuron_selectivity, *maps),
            with_backward(plain_selectivity, *maps),
        ),
        "`neuron_selectivity`, 64–256 channels, 32²–8² places": (
            with_backward(functional.neuron_selectivity, *wide),
            with_backward(plain_selectivity, *wide),
        ),
        f"`crd`, {samples:,} samples, {draws:,} negatives, d = {width}": (
            with_backward(functional.crd, s, t, bank_s, bank_t, positives, negatives),
            with_backward(plain_crd, s, t, bank_s, bank_t, rows),
        ),
    }


def compare_plain(rounds: int, only: str = "") -> list[tuple[str, float, float, float]]:
    """Name, our milliseconds, the plain ones, and the median of the ratios within rounds."""
    found = []
    for name, (ours, plain) in plain_pairs().items():
        if only and only not in name:
            continue
        races = race({"ours": ours, "plain": plain}, rounds, 1)
        ratio = statistics.median(one["ours"] / one["plain"] for one in races)
        found.append((name, *(statistics.median(one[who] for one in races) for who in ("ours", "plain")), ratio))
    return found


def cost_rows(works: dict[str, Callable[[], None]], chosen: argparse.Namespace) -> tuple[list[str], float, float]:
    """The rows of losses that take turns; milliseconds of the student alone, and the MB that it keeps."""
    races = race(works, chosen.rounds, chosen.steps)
    memory = {name: held(work) for name, work in works.items()}
    lines = ["| loss | step ÷ student alone | extra ms | extra memory (MB) |", "|---|---|---|---|"]
    for name in works:
        ratios = [one[name] / one[ALONE] for one in races]
        extra = statistics.median(one[name] - one[ALONE] for one in races)
        lines.append(f"| `{name}` | {quartiles(ratios)} | {extra:.1f} | {memory[name] - memory[ALONE]:.1f} |")
    return lines, statistics.median(one[ALONE] for one in races), memory[ALONE]


def quartiles(values: Sequence[float]) -> str:
    """Median [lower, upper quartile]."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def report(names: Sequence[str], chosen: argparse.Namespace) -> str:
    """The page."""
    attentive = [name for name in names if losses()[name].reads_attention]
    on_images = [ALONE, *(name for name in names if name not in (ALONE, *attentive))]
    rows, base, keeps = cost_rows({name: made(name) for name in on_images}, chosen)
    lines = [
        "# What a step of each loss costs",
        "",
        f"`{shown_command(sys.argv[1:], 'losses.py')}`, on {platform.machine()}, "
        f"{os.cpu_count()} cores, {chosen.threads} thread(s), torch {torch.__version__}, float32, at a "
        f"load of {os.getloadavg()[0]:.0f} at the end.",
        "",
        f"{TEACHER['name']} → {STUDENT['name']}, {CLASSES} classes, 3×32×32, batch {BATCH}; each loss with its default "
        f"options and cross-entropy (`target_mse` alone, on {CLASSES} numbers an image), the teacher's outputs at hand "
        f"as from a cache. Cross-entropy alone takes {base:.1f} ms. "
        f"Times are processor time of this process. Median [quartiles] of {chosen.rounds} rounds of {chosen.steps} "
        "steps, all losses in turns; a ratio is taken within its round. Memory: what a step keeps for its backward "
        f"pass, over that of cross-entropy alone, which keeps {keeps:.0f} MB.",
        "",
        *rows,
    ]
    if attentive:
        works = {ALONE: made(ALONE, ATTENTIVE)} | {name: made(name, ATTENTIVE) for name in attentive}
        rows, base, keeps = cost_rows(works, chosen)
        lines += [
            "",
            "## Losses on attention",
            "",
            "The like of transformers, vit_mini (4 blocks of width 64) → vit_mini (2 of width 32): cross-entropy alone "
            f"takes {base:.1f} ms and keeps {keeps:.0f} MB.",
            "",
            *rows,
        ]
    lines += [
        "",
        "## Against the plain formula",
        "",
        "Forward and backward of the pure function and of the formula as papers' repositories write it, on the same "
        "inputs, in turns. The bar is 1.10.",
        "",
        "| | ours (ms) | plain (ms) | ours ÷ plain |",
        "|---|---|---|---|",
    ]
    for name, ours, plain, ratio in compare_plain(chosen.rounds):
        lines.append(f"| {name} | {ours:.1f} | {plain:.1f} | {ratio:.2f} |")
    lines += [
        "",
        "Where the algebra saves: `relational` takes the B³ cosines from the B² inner products, so that the cost of "
        "angles does not grow with d. `neuron_selectivity` compares the means of aaᵀ over channels where there are "
        "fewer places than channels: one product of places × places instead of three of channels × channels. `crd` "
        "scores the whole bank in one matrix product and picks the negatives' scores, instead of gathering their rows: "
        "B·K·d numbers are neither copied nor kept for the backward pass.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=list(losses()), help="some of them; printed only")
    parser.add_argument("--quick", action="store_true", help="few rounds, no memory; printed only")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (15)")
    parser.add_argument("--steps", type=int, default=3, help="steps of each loss in a round (3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.steps = 3, 1
    torch.set_num_threads(chosen.threads)
    reuse_memory()
    page = report(chosen.losses or list(losses()), chosen)
    if chosen.quick or chosen.losses:
        print(page)
    else:
        write_text(OUT, page)
        print(f"written: {OUT}")


if __name__ == "__main__":
    main()
