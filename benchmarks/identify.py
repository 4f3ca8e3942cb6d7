"""How well `check_loss` identifies loss functions: 200 drawn from the known family, 50 outside it.

    python benchmarks/identify.py --out docs/results/identify.md

Drawn: the terms (labels or smoothed labels or none; one or two of the teacher's), the temperature in [1.2, 12], the
weights, the divisor (batch, batch × classes, classes, none) and the power of τ. In half of them the temperature is a
keyword; in the others it is a number within the code, which cannot be varied from outside. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.diagnose.loss import check_loss
from stillroom.files import write_text

SOFTENED = ("kl", "reverse_kl", "jsd", "soft_cross_entropy")
PLAIN = ("logit_mse", "centred_logit_mse", "cosine")
DIVISORS = ("batch", "batch and classes", "classes", "none")
Value = Callable[..., Tensor]


def per_row(name: str, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """The textbook's term of each row, without τ²."""
    if name in SOFTENED:
        log_q, log_p = F.log_softmax(student / tau, -1), F.log_softmax(teacher / tau, -1)
        q, p = log_q.exp(), log_p.exp()
        if name == "kl":
            return (p * (log_p - log_q)).sum(-1)
        if name == "reverse_kl":
            return (q * (log_q - log_p)).sum(-1)
        if name == "soft_cross_entropy":
            return -(p * log_q).sum(-1)
        log_m = ((p + q) / 2).log()
        return 0.5 * (p * (log_p - log_m) + q * (log_q - log_m)).sum(-1)
    if name == "cosine":
        return 1 - F.cosine_similarity(student, teacher, dim=-1)
    gap = student - teacher
    gap = gap - gap.mean(-1, keepdim=True) if name == "centred_logit_mse" else gap
    return gap.square().sum(-1)


def reduced(rows: Tensor, divisor: str, classes: int) -> Tensor:
    """Rows summed and divided."""
    parts = {"batch": len(rows), "batch and classes": len(rows) * classes, "classes": classes, "none": 1}
    return rows.sum() / parts[divisor]


@dataclass(frozen=True)
class Drawn:
    """A drawn loss and what is true of it."""

    loss: Value
    classes: int
    terms: tuple[dict[str, Any], ...]
    is_free: bool  # the temperature can be varied, or the weights sum to 1


def draw_loss(seed: int, batch: int = 6) -> Drawn:
    """One loss of the family."""
    draw = np.random.default_rng([18, seed])
    classes = int(draw.choice([5, 10, 20, 100]))
    label = str(draw.choice(["none", "cross_entropy", "cross_entropy", "label_smoothing"]))
    count = 2 if draw.random() < 0.2 else 1
    names = [str(name) for name in draw.choice([*SOFTENED, *PLAIN], size=count, replace=False)]
    tau, smoothing = float(np.exp(draw.uniform(np.log(1.2), np.log(12)))), float(draw.uniform(0.05, 0.4))
    sums_to_one = bool(draw.random() < 0.5)
    weights = draw.dirichlet(np.full(count + (label != "none"), 2.0)) if sums_to_one else draw.uniform(0.05, 3, 3)
    powers = [int(draw.choice([0, 1, 2])) if name in SOFTENED else 0 for name in names]
    divisors = [str(draw.choice(DIVISORS, p=[0.4, 0.3, 0.15, 0.15])) for _ in names]
    is_keyword = bool(draw.random() < 0.5)

    def value(student: Tensor, teacher: Tensor, labels: Tensor | None, tau: float) -> Tensor:
        total = student.new_zeros(())
        if labels is not None:
            hard = F.cross_entropy(student, labels, label_smoothing=smoothing if label == "label_smoothing" else 0.0)
            total = total + float(weights[-1]) * hard
        for name, weight, power, divisor in zip(names, weights, powers, divisors, strict=False):
            rows = tau**power * per_row(name, student, teacher, tau)
            total = total + float(weight) * reduced(rows, divisor, student.shape[-1])
        return total

    losses: dict[tuple[bool, bool], Value] = {
        (True, True): lambda student, teacher, labels, tau=tau: value(student, teacher, labels, tau),
        (True, False): lambda student, teacher, labels: value(student, teacher, labels, 1 * hidden),
        (False, True): lambda student, teacher, tau=tau: value(student, teacher, None, tau),
        (False, False): lambda student, teacher: value(student, teacher, None, 1 * hidden),
    }
    hidden = tau
    terms = []
    if label != "none":
        terms.append({"name": label, "temperature": None, "coefficient": float(weights[-1]), "factor": 1.0})
    for name, weight, power, divisor in zip(names, weights, powers, divisors, strict=False):
        scale = {"batch": 1.0, "batch and classes": 1 / classes, "classes": batch / classes, "none": float(batch)}
        size = scale[divisor]
        usual_power = 2 if name in SOFTENED else 0
        # A squared difference is usually averaged over the classes; the textbook's term is the sum.
        factor = tau ** (power - usual_power) * (
            size * (classes if "classes" in divisor else 1) if "mse" in name else size
        )
        coefficient = float(weight) * tau ** (power - 2 if name == "kl" else power) * size
        is_soft = name in SOFTENED
        terms.append(
            {"name": name, "temperature": tau if is_soft else None, "coefficient": coefficient, "factor": factor}
        )
    others = sum(each["coefficient"] / each["factor"] for each in terms)
    can_tell = is_keyword or (len(terms) > 1 and abs(others - 1) < 1e-9 and len(names) == 1 and label != "none")
    return Drawn(losses[label != "none", is_keyword], classes, tuple(terms), can_tell)


def outside(seed: int) -> tuple[str, Value]:
    """A loss that is in no known family."""
    draw = np.random.default_rng([81, seed])
    a, tau, k = float(draw.uniform(0.15, 0.85)), float(draw.uniform(1.5, 6)), int(draw.integers(2, 5))

    def both(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return F.softmax(student / tau, -1), F.softmax(teacher / tau, -1)

    def scores(z: Tensor) -> Tensor:
        return (z - z.mean(-1, keepdim=True)) / z.std(-1, keepdim=True)

    def kl(log_q: Tensor, p: Tensor) -> Tensor:
        return F.kl_div(log_q, p, reduction="batchmean")

    def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
        q, p = both(student, teacher)
        return (q - p).abs().sum(-1).mean() / 2

    def hellinger(student: Tensor, teacher: Tensor) -> Tensor:
        q, p = both(student, teacher)
        return (1 - (q * p).sqrt().sum(-1)).mean()

    def alpha_divergence(student: Tensor, teacher: Tensor) -> Tensor:
        q, p = both(student, teacher)
        return (1 - (p**a * q ** (1 - a)).sum(-1)).mean() / (a * (1 - a))

    def renyi(student: Tensor, teacher: Tensor) -> Tensor:
        q, p = both(student, teacher)
        return (p**a * q ** (1 - a)).sum(-1).log().mean() / (a - 1)

    def brier(student: Tensor, teacher: Tensor) -> Tensor:
        q, p = both(student, teacher)
        return (q - p).square().sum(-1).mean()

    def huber(student: Tensor, teacher: Tensor) -> Tensor:
        return F.smooth_l1_loss(student, teacher, beta=a)

    def absolute(student: Tensor, teacher: Tensor) -> Tensor:
        return F.l1_loss(student, teacher)

    def skewed(student: Tensor, teacher: Tensor) -> Tensor:
        q, p = both(student, teacher)
        return (p * (p / (a * p + (1 - a) * q)).log()).sum(-1).mean()

    def standardised(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        soft = kl(F.log_softmax(scores(student) / tau, -1), F.softmax(scores(teacher) / tau, -1))
        return F.cross_entropy(student, labels) + tau**2 * soft

    def top_classes(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        values, index = teacher.topk(k, -1)
        return F.cross_entropy(student, labels) + kl(F.log_softmax(student.gather(-1, index), -1), values.softmax(-1))

    def by_confidence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        q, p = both(student, teacher)
        weight = p.max(-1).values
        return F.cross_entropy(student, labels) + (weight * (p * (p / q).log()).sum(-1)).mean()

    def focal(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        q, p = both(student, teacher)
        log_y = F.log_softmax(student, -1).gather(-1, labels[:, None])[:, 0]
        return (-((1 - log_y.exp()) ** (1 + a)) * log_y).mean() + (p * (p / q).log()).sum(-1).mean()

    def where_right(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        q, p = both(student, teacher)
        is_right = (teacher.argmax(-1) == labels).to(p.dtype)
        return F.cross_entropy(student, labels) + (is_right * (p * (p / q).log()).sum(-1)).mean()

    def decoupled(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        is_class = F.one_hot(labels, student.shape[-1]).bool()
        q, p = both(student, teacher)
        q_y, p_y = q[is_class], p[is_class]
        binary = p_y * (p_y / q_y).log() + (1 - p_y) * ((1 - p_y) / (1 - q_y)).log()
        others = F.log_softmax(student / tau - 1000.0 * is_class, -1), F.softmax(teacher / tau - 1000.0 * is_class, -1)
        return binary.mean() + (1 + a) * kl(*others)

    def margins(student: Tensor, teacher: Tensor) -> Tensor:
        order = (teacher[:, :, None] - teacher[:, None, :]).sign()
        return F.relu(a - order * (student[:, :, None] - student[:, None, :])).mean()

    def correlation(student: Tensor, teacher: Tensor) -> Tensor:
        q, p = both(student, teacher)
        return (1 - F.cosine_similarity(q - q.mean(-1, keepdim=True), p - p.mean(-1, keepdim=True), dim=-1)).mean()

    made = [
        total_variation, hellinger, alpha_divergence, renyi, brier, huber, absolute, skewed, standardised, top_classes,
        by_confidence, focal, where_right, decoupled, margins, correlation,
    ]  # fmt: skip
    function = made[seed % len(made)]
    return function.__name__, function


def near(value: float | None, true: float | None, tolerance: float) -> bool:
    """Whether two numbers agree; None agrees with None alone."""
    if value is None or true is None:
        return value is None and true is None
    return abs(value / true - 1) <= tolerance


def judge(drawn: Drawn) -> dict[str, bool]:
    """What of a drawn loss was found."""
    found = check_loss(drawn.loss, num_classes=drawn.classes)
    evidence = next(each for each in found.findings if each.check == "loss_identity").evidence
    terms = {each["name"]: each for each in evidence["terms"]}
    pairs = [(terms.get(each["name"]), each) for each in drawn.terms]
    is_named = set(terms) == {each["name"] for each in drawn.terms}
    return {
        "names": is_named,
        "temperature": is_named and all(near(a["temperature"], b["temperature"], 0.02) for a, b in pairs),
        "coefficient": is_named and all(near(a["coefficient"], b["coefficient"], 0.01) for a, b in pairs),
        "factor": is_named and all(near(a["factor"] or 1.0, b["factor"], 0.01) for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawn", type=int, default=200)
    parser.add_argument("--outside", type=int, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, list[dict[str, bool]]] = defaultdict(list)
    begin = time.process_time()
    for seed in range(options.drawn):
        drawn = draw_loss(seed)
        judged = judge(drawn)
        for group in ("all", "power can be known" if drawn.is_free else "power hidden"):
            counts[group].append(judged)
        if not judged["coefficient"] or (drawn.is_free and not judged["factor"]):
            print(seed, judged, drawn.terms)
    seconds = (time.process_time() - begin) / max(options.drawn, 1)
    false_names, accused = [], []
    for seed in range(options.outside):
        name, loss = outside(seed)
        found = check_loss(loss, num_classes=10)
        identity = next(each for each in found.findings if each.check == "loss_identity")
        if identity.evidence["terms"]:
            false_names.append(f"{name}: {identity.summary}")
        accused += [f"{name}: {each.check}: {each.summary}" for each in found.problems]
    lines = [
        "# Identification of loss functions",
        "",
        f"`python benchmarks/identify.py --drawn {options.drawn} --outside {options.outside}`; seeds fixed.",
        "",
        "| losses | drawn | all terms named | τ within 2% | coefficients within 1% | factors within 1% |",
        "|---|---|---|---|---|---|",
    ]
    for group, judged_ones in counts.items():
        sums = [sum(each[key] for each in judged_ones) for key in ("names", "temperature", "coefficient", "factor")]
        lines.append(f"| {group} | {len(judged_ones)} | {' | '.join(map(str, sums))} |")
    lines += [
        "",
        "*Power can be known*: the temperature is a keyword, or one term of the teacher and one of the labels have "
        "weights that sum to 1. *Power hidden*: temperature and weights are numbers within the code, so that nothing "
        "distinguishes a missing τ² from a weight; a factor counts as found there only where all of it was.",
        "",
        f"Outside the family: {options.outside} losses of 16 kinds (total variation, Hellinger, α-divergence, Rényi, "
        "Brier, Huber, L1, skewed KL, standardised logits, top classes, KL by confidence, focal, KL where the teacher "
        f"is right, decoupled, margins, correlation). False names: {len(false_names)}. Problems: {len(accused)}.",
        "",
        f"Seconds of processor time a loss: {seconds:.2f}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text, *false_names, *accused, sep="\n")
    if options.out is not None:
        write_text(options.out, text)


if __name__ == "__main__":
    main()
