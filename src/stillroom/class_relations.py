"""How a model's last layer relates the classes: cosines of the rows of its weights, compared with reference relations.

Paper: Tang et al., Understanding and Improving Knowledge Distillation, arXiv 2002.03532.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["class_cosines", "class_order", "is_constant", "relation_agreement", "relation_score", "shows_superclasses"]

# Cosines nearer to each other than this count as equal: the difference is rounding.
_SAME = 1e-9
# Standard errors by which a truth's cosines within superclasses must lie above those between them.
_CLEAR = 3.0


def class_cosines(head_weight: Tensor) -> Tensor:
    """How similar each two classes are in a linear logit layer.

    Formula: ``c_ij = w_i·w_j / (‖w_i‖·‖w_j‖)``, w_i the rows of W. A row of zeros has
    cosine 1 with itself and 0 with every other row.

    Args:
        head_weight: W, [K, d]; detached.

    Returns:
        c, float64 [K, K] on the CPU, symmetric, 1 on the diagonal.

    Raises:
        ValueError: W is not [K, d], or holds what is not finite.

    >>> class_cosines(torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, 0.0]])).round(decimals=4).tolist()
    [[1.0, 0.7071, 0.0], [0.7071, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if head_weight.dim() != 2:
        raise ValueError(f"head_weight: got shape {tuple(head_weight.shape)}; expected [classes, features]")
    rows = head_weight.detach().cpu().double()
    if not bool(rows.isfinite().all()):
        raise ValueError("head_weight: got NaN or infinity; expected finite weights")
    length = rows.norm(dim=1, keepdim=True)
    rows = torch.where(length > 0, rows / length, 0.0)
    cosines = rows @ rows.T
    return ((cosines + cosines.T) / 2).clamp(-1, 1).fill_diagonal_(1.0)


def relation_score(cosines: Tensor, groups: Sequence[Hashable]) -> float | None:
    """How much more similar classes of one superclass are than classes of two.

    Formula: mean of c_ij within superclasses − mean of c_ij between them, over i < j.

    Args:
        cosines: c, [K, K], symmetric.
        groups: the superclass of each class, K of them.

    Returns:
        A number in [−2, 2]; None where no two classes share a superclass, or all do.

    Raises:
        ValueError: there is not one superclass a class.

    >>> relation_score(torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]]), ["a", "a", "b"])
    0.375
    """
    within, between = _split(cosines, groups)
    if not len(within) or not len(between):
        return None
    return float(within.mean() - between.mean())


def relation_agreement(cosines: Tensor, reference: Tensor) -> float | None:
    """How well two maps of relations agree, up to scale and level.

    Formula: Pearson's correlation of c_ij and r_ij over i < j.

    Not a rank correlation: reference relations take few values, and ties bound Spearman's. Fully recovered relations
    would reach only √(3s(1 − s)), s the share of pairs within superclasses: .48 for 50 classes in 10.

    Args:
        cosines: c, [K, K], symmetric.
        reference: r, [K, K], symmetric: a teacher's cosines, or the truth.

    Returns:
        A number in [−1, 1]; None if all c_ij or all r_ij are equal.

    Raises:
        ValueError: the two are not of the same shape [K, K].

    >>> one = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]])
    >>> round(relation_agreement(one, one / 2 - 1), 6), relation_agreement(one, torch.eye(3))
    (1.0, None)
    """
    if cosines.shape != reference.shape:
        raise ValueError(f"maps: got {tuple(cosines.shape)} and {tuple(reference.shape)}; expected the same shape")
    if is_constant(cosines) or is_constant(reference):
        return None
    x, y = (pairs - pairs.mean() for pairs in (_pairs(cosines), _pairs(reference)))
    return float(torch.clamp(x @ y / (x.norm() * y.norm()), -1, 1))


def is_constant(cosines: Tensor) -> bool:
    """Whether all entries off the diagonal are equal.

    >>> is_constant(torch.eye(4)), is_constant(torch.tensor([[1.0, 0.2, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    (True, False)
    """
    pairs = _pairs(cosines)
    return len(pairs) < 2 or bool(pairs.max() - pairs.min() <= _SAME)


def shows_superclasses(relations: Tensor, groups: Sequence[Hashable]) -> bool:
    """Whether reference relations show the superclasses.

    Formula: the mean within superclasses lies above the mean between them, by more than 3·√(s_w²/n_w + s_b²/n_b), the
    standard error of that difference: in few dimensions random vectors have cosines off 0.

    Args:
        relations: the true cosines, [K, K], symmetric.
        groups: the superclass of each class, K of them.

    Raises:
        ValueError: there is not one superclass a class.

    >>> related = torch.eye(4) + 0.5 * torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    >>> shows_superclasses(related, "aabb"), shows_superclasses(related, "abab")
    (True, False)
    """
    score = relation_score(relations, groups)
    if score is None:
        return False
    error = math.sqrt(sum(float(part.var(correction=0)) / len(part) for part in _split(relations, groups)))
    return score > max(_CLEAR * error, _SAME)


def class_order(groups: Sequence[Hashable] | None, *maps: Tensor | None) -> list[int]:
    """An order of the classes that puts related ones side by side.

    Args:
        groups: the superclass of each class, where there are any: they stay together, each where its first class is.
        maps: otherwise, the first of these cosine maps [K, K] that is not constant orders them: neighbours of a
            hierarchical clustering (average linkage of 1 − c) stand side by side.

    Returns:
        The class numbers; as they are where nothing orders them.

    >>> class_order(["b", "a", "b"])
    [0, 2, 1]
    >>> class_order(None, torch.tensor([[1.0, 0.9, 0.9], [0.9, 1.0, 0.0], [0.9, 0.0, 1.0]]))[1]   # it is like both
    0
    """
    if groups is not None:
        first = {group: place for place, group in reversed(list(enumerate(groups)))}
        return sorted(range(len(groups)), key=lambda place: first[groups[place]])
    given = [each for each in maps if each is not None]
    chosen = next((each for each in given if not is_constant(each)), None)
    if chosen is None:
        return list(range(len(given[0]) if given else 0))
    from scipy.cluster.hierarchy import leaves_list, linkage  # which most runs need not wait for

    distances = (1 - _pairs(chosen)).clamp(min=0)
    return [int(place) for place in leaves_list(linkage(distances.numpy(), "average", optimal_ordering=True))]


def _pairs(cosines: Tensor) -> Tensor:
    """c_ij for i < j, row by row, float64 [K(K − 1)/2]."""
    if cosines.dim() != 2 or cosines.shape[0] != cosines.shape[1]:
        raise ValueError(f"cosines: got shape {tuple(cosines.shape)}; expected [classes, classes]")
    rows, columns = torch.triu_indices(len(cosines), len(cosines), 1)
    return cosines[rows, columns].double()


def _split(cosines: Tensor, groups: Sequence[Hashable]) -> tuple[Tensor, Tensor]:
    """c_ij for i < j within superclasses, and between them."""
    if len(groups) != len(cosines):
        raise ValueError(f"groups: got {len(groups)}; expected one for each of the {len(cosines)} classes")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    of = torch.tensor([numbers[group] for group in groups], dtype=torch.int64)
    rows, columns = torch.triu_indices(len(of), len(of), 1)
    same = of[rows] == of[columns]
    pairs = _pairs(cosines)
    return pairs[same], pairs[~same]
