"""What a network's maps say over its training, image by image: concepts, when most were there, which stayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.explain.metrics import concept_counts, concepts

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Of one run, M checkpoints and I images.

    Attributes:
        found: the concepts, bool [M, I, g, g].
        n_fg: on the foreground, [M, I].
        n_bg: on the background, [M, I].
        ratio: the former's share, [M, I]; NaN where there are none.
        reached: d(m̂), how far weights had moved when an image had most foreground concepts, [I]; None without moves.
        kept: |S_M|/|∪ S_m| of each image, [I]; NaN where its foreground never had a concept.
        background: H̄_bg, [M].
    """

    found: Tensor
    n_fg: Doubles
    n_bg: Doubles
    ratio: Doubles
    reached: Doubles | None
    kept: Doubles
    background: Doubles


def figures_of(entropy: Tensor, foreground: Tensor, moves: Sequence[float] | None, *, threshold: float) -> Figures:
    """Concepts of all checkpoints, and what they say of each image.

    Args:
        entropy: H [M, I, g, g].
        foreground: bool [I, g, g].
        moves: cumulative, of each checkpoint.
        threshold: b, in nats.
    """
    found = torch.stack([concepts(each, foreground, threshold=threshold) for each in entropy])
    counts = [concept_counts(each, foreground) for each in found]
    n_fg, n_bg, ratio = (torch.stack([each[kind] for each in counts]).numpy() for kind in range(3))
    # Of one image, these are what `learning_speed` and `stability` average over.
    reached = None if moves is None else np.asarray(moves, dtype=np.float64)[n_fg.argmax(0)]
    inside = found & foreground
    ever = inside.any(0).sum((1, 2)).double()
    kept = torch.where(ever > 0, inside[-1].sum((1, 2)) / ever.clamp_min(1), torch.nan).numpy()
    background = entropy.double()[:, ~foreground].mean(1).numpy()
    return Figures(found, n_fg, n_bg, ratio, reached, kept, background)


def told(figures: Figures, epochs: Sequence[float], moves: tuple[str, tuple[float, ...]] | None) -> dict[str, Any]:
    """The means over images, as ``explain.json`` has them."""
    checkpoints = [
        {
            "epoch": epoch,
            "n_fg": rounded(figures.n_fg[place].mean()),
            "n_bg": rounded(figures.n_bg[place].mean()),
            "n_fg_quartiles": _quartiles(figures.n_fg[place]),
            "n_bg_quartiles": _quartiles(figures.n_bg[place]),
            "ratio": rounded(mean_of_known(figures.ratio[place])),
            "without_concepts": int(np.isnan(figures.ratio[place]).sum()),
            "background": rounded(figures.background[place]),
        }
        for place, epoch in enumerate(epochs)
    ]
    speed = None
    if moves is not None and figures.reached is not None:
        speed = {
            "layer": moves[0],
            "moves": [rounded(each) for each in moves[1]],
            "d_mean": rounded(figures.reached.mean()),
            "d_std": rounded(figures.reached.std()),
        }
    return {
        "checkpoints": checkpoints,
        "speed": speed,
        "stability": {
            "rho": rounded(mean_of_known(figures.kept)),
            "excluded": int(np.isnan(figures.kept).sum()),
        },
    }


def _quartiles(values: Doubles) -> list[float | None]:
    """The first and the third over images."""
    return [rounded(float(each)) for each in np.quantile(values, (0.25, 0.75))]


def mean_of_known(values: Doubles) -> float:
    """The mean of those that are no NaN; NaN where there are none."""
    there = np.isfinite(values)
    return float(values[there].mean()) if there.any() else float("nan")


def rounded(value: float) -> float | None:
    """To six significant digits, as what lies beyond them is the machine's rounding; None for NaN."""
    return None if not np.isfinite(value) else float(f"{value:.6g}")
