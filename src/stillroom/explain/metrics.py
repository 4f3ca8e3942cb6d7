"""Metrics of visual concepts during training: how many, where, how early they are learned, how stable they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.schema.base import six_digits, six_digits_or_none
from stillroom.schema.explanation import ConceptCounts, ConceptStability, LearningSpeed

Doubles = npt.NDArray[np.float64]


def concepts(entropy: Tensor, foreground: Tensor, *, threshold: float = 0.2, cells: Tensor | None = None) -> Tensor:
    """Visual concepts: cells that the layer still encodes, with entropy well below the background's.

    Cell i is a concept where H̄_bg − H_i > b, H̄_bg the mean over images of each image's own mean of H over its
    background cells, as in the authors' code; an image without background is left out of it.

    Args:
        entropy: H of one layer at one checkpoint, [B, g, g] in nats; of texts [B, 1, W], a cell a word.
        foreground: which cells are foreground, bool [B, g, g].
        threshold: b, in nats.
        cells: which cells there are, bool [B, g, g], where texts have fewer words than W; None: all.

    Returns:
        bool [B, g, g].

    Raises:
        BadInput: shapes differ, an entropy is not finite, or no image has a background cell.

    Paper: Cheng et al., "Explaining Knowledge Distillation by Quantifying the Knowledge" (arXiv 2003.03622).

    >>> entropy = torch.tensor([[[-3.5, -2.6], [-2.7, -3.0]]])
    >>> concepts(entropy, torch.tensor([[[True, False], [False, True]]])).tolist()
    [[[True, False], [False, True]]]
    """
    inside = _mask(foreground, entropy.shape, "foreground")
    if entropy.ndim != 3:
        raise BadInput("entropy", list(entropy.shape), "[B, g, g]")
    if not bool(entropy.isfinite().all()):
        bad = torch.nonzero(~entropy.isfinite().flatten(1).all(1))[:, 0].tolist()
        raise BadInput("entropy", f"NaN or infinity in images {bad[:8]}", "finite numbers: leave such images out")
    left_out = inside if cells is None else inside | ~cells
    if bool(left_out.all()):
        raise BadInput("foreground", "all cells of all images", "some background to compare with")
    found = _background(entropy, left_out) - entropy.double() > threshold
    return found if cells is None else found & cells


def _background(entropy: Tensor, left_out: Tensor) -> Tensor:
    """H̄_bg: the mean over images of each image's mean over its background cells, the others; a scalar, float64."""
    cells = (~left_out).sum((1, 2))
    sums = entropy.double().masked_fill(left_out, 0).sum((1, 2))
    return (sums / cells)[cells > 0].mean()


def match_position(entropy: Tensor, foreground: Tensor, untrained: Tensor | None = None) -> Tensor | None:
    """Entropies less what is due to a cell's place in the image, so that subject and background are compared alike.

    ``H'_i = H_i − m_i + m̄``: m_i is the mean entropy of the images whose cell i is background, m̄ its mean over cells.
    So a cell of the subject is compared with the background at its own place. Where no cell of the subject is ever
    background, as in one box for all images, the untrained network takes its place, in all images: an edge is seen
    less than the middle before anything is learned. A cell that is background in one image or none
    stays as it is.

    Args:
        entropy: H of one network, [M, I, g, g].
        foreground: bool [I, g, g].
        untrained: H of the same network before its training, [I, g, g]; None: not kept.

    Returns:
        H' [M, I, g, g]; None where there is nothing to match by.

    >>> entropy = torch.tensor([[[[-3.0, -2.0]], [[-2.5, -2.0]], [[-2.5, -2.5]]]])
    >>> inside = torch.tensor([[[True, False]], [[False, False]], [[False, True]]])
    >>> match_position(entropy, inside)[0, :, 0].tolist()
    [[-2.75, -2.25], [-2.25, -2.25], [-2.25, -2.75]]
    """
    outside = (~foreground).double()
    count = outside.sum(0)
    known = count >= 2
    if bool((foreground.any(0) & known).any()):
        mean = (entropy.double() * outside).sum(1) / count.clamp_min(1)
    elif untrained is not None:
        mean, known = untrained.double().mean(0).expand(len(entropy), -1, -1), torch.ones_like(known)
    else:
        return None
    level = mean[:, known].mean(1)[:, None, None]
    shift = torch.where(known, mean - level, 0.0)
    return entropy.double() - shift[:, None]


def concept_counts(concepts: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of concepts on the foreground and on the background of each image, and the foreground's share.

    λ = N_fg/(N_fg + N_bg). It is NaN for an image without concepts: leave it out of the mean, and report how many.

    Args:
        concepts: bool [B, g, g].
        foreground: bool [B, g, g].

    Returns:
        N_fg [B], N_bg [B] and λ [B], float64.

    Raises:
        BadInput: shapes differ.

    Paper: Cheng et al. (arXiv 2003.03622).

    >>> found = torch.tensor([[[True, True], [True, False]]])
    >>> inside = torch.tensor([[[True, True], [False, False]]])
    >>> [float(each) for each in concept_counts(found, inside)]
    [2.0, 1.0, 0.6666666666666666]
    """
    found = _mask(concepts, concepts.shape, "concepts")
    inside = _mask(foreground, concepts.shape, "foreground")
    n_fg = (found & inside).sum((1, 2)).double()
    n_bg = (found & ~inside).sum((1, 2)).double()
    return n_fg, n_bg, n_fg / (n_fg + n_bg)


def learning_speed(n_fg: Tensor, moves: Tensor) -> tuple[float, float]:
    """The weight distance at which an image has most foreground concepts: its mean and deviation over images.

    m̂(I) = argmax_m N_fg(I, m), the first of equal ones; D_mean = E_I d(m̂), D_std = √Var_I d(m̂) of the population
    (the paper's code stores the variance). A small D_mean: concepts are learned fast; a small D_std: all at once.

    Args:
        n_fg: N_fg of each image at each checkpoint, [M, B].
        moves: d, the cumulative ‖w_k − w_{k−1}‖/‖w_0‖ of the probed layer at each checkpoint, [M].

    Returns:
        D_mean and D_std, in moves.

    Raises:
        BadInput: there is no image or no checkpoint, moves are not one for each or decrease, or something is not
            finite.

    Paper: Cheng et al. (arXiv 2003.03622).

    >>> learning_speed(torch.tensor([[0.0, 1.0], [3.0, 4.0], [3.0, 5.0]]), torch.tensor([0.0, 1.0, 2.0]))
    (1.5, 0.5)
    """
    if n_fg.ndim != 2 or 0 in n_fg.shape:
        raise BadInput("n_fg", list(n_fg.shape), "[checkpoints, images], one or more of each")
    if moves.shape != n_fg.shape[:1]:
        raise BadInput("moves", list(moves.shape), f"[{len(n_fg)}], one for each checkpoint")
    if not bool(n_fg.isfinite().all()) or not bool(moves.isfinite().all()):
        raise BadInput("n_fg and moves", "NaN or infinity", "finite numbers")
    if bool((moves[1:] < moves[:-1]).any()):
        raise BadInput("moves", moves.tolist(), "cumulative moves, which do not decrease")
    # max of flipped rows would take the last of equal ones; argmax promises none.
    first = (n_fg == n_fg.max(0).values).int().argmax(0)
    reached = moves.double().to(n_fg.device)[first]
    return float(reached.mean()), float(reached.var(correction=0).sqrt())


def stability(concepts: Tensor, foreground: Tensor) -> tuple[float, int]:
    """Share of the foreground concepts found at any checkpoint that remain at the end.

    ρ = E_I |S_M(I)|/|∪_m S_m(I)|, S_m the foreground concept cells at checkpoint m, M the last. Images whose foreground
    never had a concept are left out.

    Args:
        concepts: bool [M, B, g, g], in order of training.
        foreground: bool [B, g, g].

    Returns:
        ρ, NaN where all images were left out, and how many were.

    Raises:
        BadInput: shapes differ.

    Paper: Cheng et al. (arXiv 2003.03622).

    >>> first, last = torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]])
    >>> stability(torch.stack([first, last]), torch.ones(1, 1, 2, dtype=torch.bool))
    (0.5, 0)
    """
    if concepts.ndim != 4 or not len(concepts):
        raise BadInput("concepts", list(concepts.shape), "[checkpoints, images, g, g], one checkpoint or more")
    found = _mask(concepts, concepts.shape, "concepts") & _mask(foreground, concepts.shape[1:], "foreground")
    ever = found.any(0).sum((1, 2)).double()
    there = ever > 0
    share = found[-1].sum((1, 2)).double()[there] / ever[there]
    return (float(share.mean()) if len(share) else float("nan")), int((~there).sum())


@dataclass(frozen=True)
class ConceptStatistics:
    """Concepts of one run at M checkpoints in I images."""

    found: Tensor  # the concepts, bool [M, I, g, g]
    n_fg: Doubles  # on the foreground, [M, I]
    n_bg: Doubles  # on the background, [M, I]
    ratio: Doubles  # λ, the share on the foreground, [M, I]; NaN where there are none
    # D(m̂), the weight distance at which an image had most foreground concepts, [I]; None if not recorded.
    distance: Doubles | None
    stability: Doubles  # |S_M|/|∪ S_m| of each image, [I]; NaN where its foreground never had a concept
    background: Doubles  # mean entropy of the background, [M]


def concept_statistics(
    entropy: Tensor,
    foreground: Tensor,
    weight_distance: Sequence[float] | None,
    *,
    threshold: float,
    cells: Tensor | None = None,
) -> ConceptStatistics:
    """Concepts of all checkpoints, and what they say of each image.

    Args:
        entropy: H [M, I, g, g].
        foreground: bool [I, g, g].
        cells: which cells there are, bool [I, g, g]; None: all.
    """
    found = torch.stack([concepts(each, foreground, threshold=threshold, cells=cells) for each in entropy])
    counts = [concept_counts(each, foreground) for each in found]
    n_fg, n_bg, ratio = (torch.stack([each[kind] for each in counts]).numpy() for kind in range(3))
    # Of one image, these two are what `learning_speed` and `stability` average over.
    distance = None if weight_distance is None else np.asarray(weight_distance, dtype=np.float64)[n_fg.argmax(0)]
    inside = found & foreground
    ever = inside.any(0).sum((1, 2)).double()
    kept = torch.where(ever > 0, inside[-1].sum((1, 2)) / ever.clamp_min(1), torch.nan).numpy()
    left_out = foreground if cells is None else foreground | ~cells
    background = torch.stack([_background(each, left_out) for each in entropy]).numpy()
    return ConceptStatistics(found, n_fg, n_bg, ratio, distance, kept, background)


def summarise(
    statistics: ConceptStatistics, epochs: Sequence[float | None], weight_distance: tuple[str, Sequence[float]] | None
) -> tuple[tuple[ConceptCounts, ...], LearningSpeed | None, ConceptStability]:
    """The means over images, as ``explain.json`` has them."""
    checkpoints = tuple(
        ConceptCounts(
            epoch=epoch,
            n_fg=six_digits(float(statistics.n_fg[m].mean())),
            n_bg=six_digits(float(statistics.n_bg[m].mean())),
            n_fg_quartiles=_quartiles(statistics.n_fg[m]),
            n_bg_quartiles=_quartiles(statistics.n_bg[m]),
            ratio=six_digits_or_none(mean_of_finite(statistics.ratio[m])),
            without_concepts=int(np.isnan(statistics.ratio[m]).sum()),
            background=six_digits_or_none(float(statistics.background[m])),
        )
        for m, epoch in enumerate(epochs)
    )
    speed = None
    if weight_distance is not None and statistics.distance is not None:
        speed = LearningSpeed(
            layer=weight_distance[0],
            weight_distance=tuple(six_digits(each) for each in weight_distance[1]),
            d_mean=six_digits_or_none(float(statistics.distance.mean())),
            d_std=six_digits_or_none(float(statistics.distance.std())),
        )
    excluded = int(np.isnan(statistics.stability).sum())
    rho = six_digits_or_none(mean_of_finite(statistics.stability))
    return checkpoints, speed, ConceptStability(rho=rho, excluded=excluded)


def _quartiles(values: Doubles) -> tuple[float, float]:
    """The first and the third over images."""
    first, third = np.quantile(values, (0.25, 0.75))
    return six_digits(first), six_digits(third)


def mean_of_finite(values: Doubles) -> float:
    """The mean of the values that are not NaN; NaN without any."""
    there = np.isfinite(values)
    return float(values[there].mean()) if there.any() else float("nan")


def _mask(mask: Tensor, shape: torch.Size, field: str) -> Tensor:
    if mask.shape != shape:
        raise BadInput(field, list(mask.shape), f"{list(shape)}, a cell for each of the others")
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise BadInput(field, f"{mask.dtype} with values other than 0 and 1", "bool, true where it is")
    return mask.bool()
