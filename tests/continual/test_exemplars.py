"""Which images are kept: herding against a plain computation, smaller memories within larger ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stillroom.continual.exemplars import (
    ExemplarMemory,
    Rows,
    draw_exemplars,
    herd,
    nearest_mean_scores,
    update_memory,
)


def plain_herding(features: Tensor, count: int) -> list[int]:
    """As the paper writes it: every candidate's mean is made, and its distance taken."""
    phi = features.double() / features.double().norm(dim=1, keepdim=True)
    mu = phi.mean(0)
    picked: list[int] = []
    for k in range(1, count + 1):
        distances = []
        for i in range(len(phi)):
            mean = (phi[i] + sum((phi[j] for j in picked), torch.zeros_like(mu))) / k
            distances.append(float("inf") if i in picked else float((mu - mean).norm()))
        picked.append(int(np.argmin(distances)))
    return picked


@pytest.mark.parametrize(("count", "width"), [(12, 3), (30, 16), (7, 1)])
def test_herding_is_the_papers(count: int, width: int) -> None:
    for seed in range(5):
        features = torch.rand(count, width, generator=torch.Generator().manual_seed(seed)) + 0.01
        if width == 1:
            features = features * torch.tensor([1.0, -1.0]).repeat(count)[:count, None]
        assert herd(features, count).tolist() == plain_herding(features, count)


def test_herding_of_fewer_is_the_beginning_of_herding_more_and_does_not_see_lengths() -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert herd(features, 5).tolist() == herd(features, 20).tolist()[:5]
    longer = features * torch.linspace(1, 9, 20)[:, None]
    assert herd(longer, 20).tolist() == herd(features, 20).tolist()
    assert sorted(herd(torch.zeros(3, 2), 3).tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="expected"):
        herd(features, 21)


def test_a_random_choice_is_its_address_alone() -> None:
    few, many = draw_exemplars(50, 5, seed=1, position=3), draw_exemplars(50, 20, seed=1, position=3)
    assert few.tolist() == many[:5].tolist()
    assert len(set(many.tolist())) == 20
    assert (
        draw_exemplars(50, 5, seed=2, position=3).tolist()
        != few.tolist()
        != draw_exemplars(50, 5, seed=1, position=4).tolist()
    )


def test_old_classes_keep_their_first_and_small_classes_all() -> None:
    asked = []

    def choose(number: int, rows: Rows, count: int) -> Rows:
        asked.append((number, count))
        return rows[::-1][:count]

    first = update_memory(ExemplarMemory(), [np.arange(9), np.arange(20, 22)], 5, choose)
    assert first == ExemplarMemory(((8, 7, 6, 5, 4), (21, 20)))
    second = update_memory(first, [np.arange(30, 39)], 3, choose)
    assert second == ExemplarMemory(((8, 7, 6), (21, 20), (38, 37, 36)))
    assert asked == [(0, 5), (1, 2), (2, 3)]
    assert (second.count, second.all_rows().tolist()) == (8, [8, 7, 6, 21, 20, 38, 37, 36])
    assert ExemplarMemory().all_rows().dtype == np.int64


def test_the_nearest_mean_answers() -> None:
    features = torch.tensor([[3.0, 0.1], [0.0, 0.5], [1.0, 1.4]])
    exemplars = [torch.tensor([[5.0, 0.0], [1.0, 0.2]]), torch.tensor([[0.0, 2.0]])]
    scores = nearest_mean_scores(features, exemplars)
    assert scores.argmax(1).tolist() == [0, 1, 1]
    unit = features[2].double() / features[2].double().norm()
    assert scores[2, 1].item() == pytest.approx(-float(((unit - torch.tensor([0.0, 1.0]).double()) ** 2).sum()))
