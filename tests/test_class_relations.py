"""Relations of classes in a last layer: worked by hand on small matrices, and no claim where there is no basis."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from stillroom.class_relations import (
    class_cosines,
    class_order,
    is_constant,
    relation_agreement,
    relation_score,
    shows_superclasses,
)
from stillroom.data.config import SyntheticConfig
from stillroom.data.synthetic import make_task, superclass_numbers

# Two classes in direction x, one in y, one between; their cosines follow from the angles alone.
WEIGHT = torch.tensor([[3.0, 0.0], [0.5, 0.0], [0.0, 2.0], [1.0, 1.0]])
HALF = math.sqrt(0.5)
COSINES = [[1, 1, 0, HALF], [1, 1, 0, HALF], [0, 0, 1, HALF], [HALF, HALF, HALF, 1]]


def truth_of(**changes: float) -> tuple[torch.Tensor, list[int]]:
    config = SyntheticConfig(**{"dimension": 40, "classes": 30, "superclasses": 6, **changes})
    return torch.from_numpy(make_task(config).relations), superclass_numbers(config).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cosines_by_hand(dtype: torch.dtype) -> None:
    found = class_cosines(WEIGHT.to(dtype).requires_grad_())
    assert (found.dtype, found.requires_grad) == (torch.float64, False)
    assert torch.allclose(found, torch.tensor(COSINES, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(found, found.T)


def test_a_row_of_zeros_is_like_itself_alone() -> None:
    assert class_cosines(torch.zeros(3, 2)).tolist() == torch.eye(3).tolist()


@pytest.mark.parametrize("weight", [torch.zeros(3), torch.tensor([[math.nan]]), torch.tensor([[math.inf]])])
def test_what_has_no_cosines_is_refused(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="head_weight: got"):
        class_cosines(weight)


def test_the_score_by_hand() -> None:
    cosines = class_cosines(WEIGHT)
    # Within: (0, 1) and (2, 3); between: the other four pairs.
    assert relation_score(cosines, "aabb") == pytest.approx((1 + HALF) / 2 - (0 + HALF + 0 + HALF) / 4, abs=1e-12)
    # A class alone in its superclass has pairs between alone.
    assert relation_score(cosines, "aabc") == pytest.approx(1 - (2 * 0 + 3 * HALF) / 5, abs=1e-12)
    assert relation_score(cosines, "abcd") is None
    assert relation_score(cosines, "aaaa") is None
    with pytest.raises(ValueError, match="groups: got 3; expected one for each of the 4 classes"):
        relation_score(cosines, "aab")


def test_agreement_is_pearsons_over_pairs_of_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    mine, theirs = (class_cosines(torch.randn(7, 5, generator=draw)) for _ in range(2))
    rows, columns = np.triu_indices(7, 1)
    wanted = stats.pearsonr(mine.numpy()[rows, columns], theirs.numpy()[rows, columns]).statistic
    assert relation_agreement(mine, theirs) == pytest.approx(wanted, abs=1e-12)
    # Whatever the scale and the level: neither says which classes belong together.
    assert relation_agreement(mine, 0.1 * mine - 0.5) == pytest.approx(1.0)
    assert relation_agreement(mine, -mine) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="expected the same shape"):
        relation_agreement(mine, theirs[:3, :3])


def test_what_relates_all_classes_alike_has_no_agreement() -> None:
    some = class_cosines(WEIGHT)
    alike = torch.full((4, 4), 0.3).fill_diagonal_(1.0)
    assert is_constant(alike)
    assert relation_agreement(some, alike) is None
    assert relation_agreement(alike, some) is None
    assert relation_agreement(some[:2, :2], some[:2, :2]) is None, "of one pair there is nothing to agree on"


def test_a_rank_correlation_would_understate_known_relations() -> None:
    truth, groups = truth_of(dimension=60)
    draw = torch.Generator().manual_seed(0)
    noise = 1e-3 * torch.randn(30, 30, generator=draw).double()
    found = truth + noise + noise.T
    assert relation_agreement(found, truth) == pytest.approx(1.0, abs=1e-3)
    rows, columns = np.triu_indices(30, 1)
    share = np.mean([groups[i] == groups[j] for i, j in zip(rows, columns, strict=True)])
    bound = math.sqrt(3 * share * (1 - share))
    ranks = stats.spearmanr(found.numpy()[rows, columns], truth.numpy()[rows, columns]).statistic
    assert ranks == pytest.approx(bound, abs=0.01)
    assert ranks < 0.7


@pytest.mark.parametrize("dimension", [60, 36, 12])
def test_superclasses_are_borne_out_by_a_truth_that_knows_them(dimension: int) -> None:
    truth, groups = truth_of(dimension=dimension, similarity=0.7)
    assert shows_superclasses(truth, groups)
    assert not shows_superclasses(truth, list(range(30)))
    assert not shows_superclasses(truth, [number % 5 for number in range(30)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dimension", [60, 20, 12])
def test_without_similarity_superclasses_are_names_alone(dimension: int, seed: int) -> None:
    # In few dimensions class vectors are a little alike by chance, which is no relation.
    truth, groups = truth_of(dimension=dimension, similarity=0.0, seed=seed)
    assert is_constant(truth) == (dimension == 60)
    assert not shows_superclasses(truth, groups)


def test_the_order_keeps_together_what_belongs_together() -> None:
    assert class_order(["b", "a", "b", "c", "a"]) == [0, 2, 1, 4, 3]
    truth, groups = truth_of()
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    seen = [groups[shuffled[place]] for place in class_order(None, None, truth[shuffled][:, shuffled])]
    assert sum(before != after for before, after in pairwise(seen)) == 5
    # What says nothing is passed over; where nothing says anything, classes stay as they are.
    assert class_order(None, torch.eye(4), class_cosines(WEIGHT)) == class_order(None, class_cosines(WEIGHT))
    assert class_order(None, torch.eye(4)) == [0, 1, 2, 3]
