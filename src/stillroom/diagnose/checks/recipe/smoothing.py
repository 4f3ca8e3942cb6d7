"""Whether the teacher's answers still relate classes, or were flattened by label smoothing when it was trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.check import Check, percent
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.checks.recipe.softness import softened
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict

# Entropy of the answer to all classes but the true one, as a share of log(K − 1), in the middle image. Chosen on 64
# teachers of digits (ResNets and MLPs, 6 and 15 epochs, smoothing 0, .05, .1 and .2; two seeds): without smoothing at
# most .59, with .1 or more at least .65. Of what it was not chosen on (two more seeds of these, MLPs of Fashion-MNIST
# and of a synthetic task of 50 classes, ResNets of CIFAR-10) all that had .1 or more are sick, most that had .05, and
# none that had none is even suspect; nor are the public ResNets of CIFAR (.19 to .31). Some forty steps of training
# look like smoothing, too: of the other classes the network has then learned nothing yet.
FLAT, FLATTER, FLATTEST = 0.63, 0.65, 0.8
# How far mean confidence stays below accuracy on images that it was trained on.
UNSURE = 0.05
# Log-odds that the surest image in a hundred must stay below: an answer with a share of ε elsewhere has no more than
# log(1/ε) at its best, and overshoots by about two.
BOUND = 6.0
# Of images that it does not know it says much the same of all classes, smoothed or not: how far above chance it must
# be, as a share of the way to all; and fewer images that it has right say little.
_KNOWS = 0.3
_LEAST = 64


@dataclass(frozen=True)
class Flatness:
    """What tells a smoothed teacher from another.

    Attributes:
        flat: entropy of the answer to all classes but the true one, as a share of log(K − 1), in the middle image of
            those that it has right.
        unsure: accuracy less mean confidence.
        surest: log-odds of the true class in the surest image in a hundred.
        counts: how many images in each twentieth of ``flat``.
    """

    flat: float
    unsure: float
    surest: float
    counts: tuple[int, ...]


def flatness(logits: Tensor, labels: Tensor) -> Flatness:
    """Measure a teacher's answers to images that it was trained on.

    Args:
        logits: [n, K], K above 2.
        labels: int64 [n].

    >>> smoothed = torch.full((64, 5), -1.0).scatter(1, torch.zeros(64, 1, dtype=torch.int64), 3.0)
    >>> round(flatness(smoothed, torch.zeros(64, dtype=torch.int64)).flat, 3)
    1.0
    """
    z = logits.double()
    right = z.argmax(1) == labels
    unsure = float(right.double().mean() - z.softmax(1).amax(1).mean())
    z, true = z[right], labels[right][:, None]
    logs = z.scatter(1, true, -math.inf).log_softmax(1)
    shares = -torch.where(logs.isinf(), 0.0, logs.exp() * logs).sum(1) / math.log(z.shape[1] - 1)
    odds = z.gather(1, true).squeeze(1) - z.scatter(1, true, -math.inf).logsumexp(1)
    counts = torch.histc(shares, bins=20, min=0.0, max=1.0)
    return Flatness(
        float(shares.median()), unsure, float(torch.quantile(odds, 0.99)), tuple(int(c) for c in counts.tolist())
    )


class TeacherLabelSmoothing(Check):
    """Whether the teacher answers as one trained with label smoothing."""

    name = "teacher_label_smoothing"
    threshold = (
        f"Sick: its answer to the classes that are not true has {percent(FLATTER)} of the largest entropy or more "
        f"and its mean confidence is {percent(UNSURE)} or more below its accuracy, or {percent(FLATTEST)} whatever "
        f"its confidence; suspect from {percent(FLAT)}; and in each case the surest image in a hundred has log-odds "
        f"below {BOUND:g}. Teachers trained without smoothing have .2 to .6, with a smoothing of .1 .65 to .9."
    )
    source = (
        "Müller et al., arXiv 1906.02629; Tang et al., arXiv 2002.03532: smoothing loses how classes are related, "
        "and teaches worse."
    )

    def examine(self, case: Case) -> Finding:
        """Measure how flat its answer to the other classes is."""
        logits, labels = case.teacher_logits, case.sample.labels
        softened(case)  # without one, nobody learns from how classes are related
        if logits.shape[1] < 4:
            raise Skip(f"{logits.shape[1]} classes have too few others to be related.")
        right = int((logits.argmax(1) == labels).sum())
        chance = 1 / logits.shape[1]
        if right < _LEAST or case.accuracy < chance + _KNOWS * (1 - chance):
            raise Skip(
                f"The teacher has {percent(case.accuracy)} of the images right; a guess tells nothing of smoothing."
            )
        found = flatness(logits, labels)
        evidence = {
            "entropy_of_others": found.flat,
            "accuracy_less_confidence": found.unsure,
            "log_odds_of_surest": found.surest,
            "images": right,
        }
        bounded = found.surest < BOUND
        verdict: Verdict = "ok"
        if bounded and (found.flat >= FLATTEST or (found.flat >= FLATTER and found.unsure >= UNSURE)):
            verdict = "problem"
        elif bounded and found.flat >= FLAT and found.unsure >= UNSURE:
            verdict = "warning"
        told = (
            f"The teacher's answer to the other classes has {percent(found.flat)} of the largest entropy: it relates "
            "them."
        )
        if verdict != "ok":
            told = (
                "The teacher answers as one trained with label smoothing: to the classes that are not true it says "
                f"nearly the same, {percent(found.flat)} of the largest entropy."
            )
        elif found.flat >= FLAT:
            told = (
                f"The teacher relates classes weakly ({percent(found.flat)} of the largest entropy), but is as sure "
                "as it is right."
            )
        words = (
            "Take a teacher trained without label smoothing (nor mixup): what it knows of the classes is not in "
            "these weights."
        )
        edges = tuple(round(edge / 20, 2) for edge in range(21))
        plot = Plot(
            "histogram",
            "How flat the teacher's answer to the other classes is",
            edges,
            found.counts,
            "entropy, share of log(K − 1)",
            "images",
            FLATTER,
        )
        return self.found(verdict, told, evidence, Remedy(words), [plot])
