"""What holds a student back on purpose: the regularisers of a recipe that are far beyond what is usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stillroom.diagnose.checks.run.reading import Case
from stillroom.losses.registry import loss_class

# Usual is 5e-5 (a rate of .1, a decay of 5e-4): a weight is then forgotten in 20,000 steps. Here it is in 1,000, and
# under batch norm a step turns the weights by √(2·.001), 2.6 degrees, which is as coarse as a rate that is too high.
DECAY = 1e-3
# So many times that, a weight is forgotten in a hundred steps: what a run of any length comes to is the decay's.
FAR = 10
USUAL_DECAY = 5e-5
# Peak rates from which on it is the rate: those at which a recipe's own diagnosis turns.
TOO_HIGH = {"sgd": 1.5, "adamw": 0.05}
# Usual is .1; at .3 and ten classes no answer may be surer than .73.
SMOOTHING = 0.3
# Usual is an eighth of the side for crops, up to half of it for cutout.
CROP = 1 / 4
CUTOUT = 1 / 2
# A moving average remembers 1 / (1 − decay) steps: at a fifth of the run it still holds the untrained student.
AVERAGE = 1 / 5


@dataclass(frozen=True)
class Heavy:
    """A regulariser that is heavy: what it is, in words; its field; a usual value; whether nothing can be beside it."""

    told: str
    key: str
    usual: Any
    far: bool = False


def heavy(case: Case) -> list[Heavy]:
    """The regularisers of a run's recipe that are far beyond what is usual, the heaviest kind first."""
    training, augmentation = case.recipe.training, case.recipe.data.augmentation
    optimizer = training.optimizer
    found = []
    scale = 0.1 / (1 - optimizer.momentum) if optimizer.name == "sgd" else 1.0
    # A rate that is far too high makes any decay heavy, and is what must be mended.
    forgets = optimizer.lr * optimizer.weight_decay
    if forgets >= DECAY and optimizer.lr * scale < TOO_HIGH[optimizer.name]:
        told = f"weight decay {optimizer.weight_decay:g} at a rate of {optimizer.lr:g}"
        usual = float(f"{USUAL_DECAY / optimizer.lr:.1g}")
        found.append(Heavy(told, "training.optimizer.weight_decay", usual, forgets >= FAR * DECAY))
    for term in case.recipe.losses:
        option = loss_class(term).smoothing_option
        if option is not None and (smoothing := getattr(term, option)) >= SMOOTHING:
            told = f"labels smoothed by {smoothing:g}"
            found.append(Heavy(told, f"losses.{term.name}.{option}", 0.1, smoothing >= 2 * SMOOTHING))
    if training.ema is not None and case.planned and 1 / (1 - training.ema) > AVERAGE * case.planned:
        told = f"a moving average over {1 / (1 - training.ema):,.0f} steps in a run of {case.planned:,}"
        share = 1 / (1 - training.ema) / case.planned
        found.append(Heavy(told, "training.ema", None, share > 1 / 2))
    if case.side:
        if augmentation.pad_crop > CROP * case.side:
            told = f"crops moved by up to {augmentation.pad_crop} of {case.side} pixels"
            found.append(Heavy(told, "data.augmentation.pad_crop", max(case.side // 8, 1)))
        if augmentation.cutout > CUTOUT * case.side:
            told = f"cutout of {augmentation.cutout} of {case.side} pixels"
            found.append(Heavy(told, "data.augmentation.cutout", max(case.side // 4, 1)))
    return found
