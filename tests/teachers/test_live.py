"""The teacher that is run on every batch, and what it works out beside its logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stillroom.data.loader import Batch
from stillroom.teachers import live as room
from stillroom.teachers.fisher import FisherOf, head_fisher, tail_fisher, uniform_draws
from stillroom.teachers.live import LiveTeacher
from teachers.nets import CPU, images, net, pipe, tails

ALL, DRAWN = FisherOf("stem", 4.0), FisherOf("stem", 1.0, samples=2)


def live(**options: Any) -> LiveTeacher:
    given: dict[str, Any] = {"taps": ["stem", "features"], "fishers": [ALL, DRAWN], "tails": tails()}
    return LiveTeacher(net(), pipe(), example=images(4), device=CPU, **{**given, **options})


def batch(rows: list[int], view: int = 0) -> Batch:
    index = torch.tensor(rows)
    return Batch(images(10)[index], torch.zeros(len(rows)), index, np.array(rows), view)


def test_it_works_out_the_weights_that_are_asked_for() -> None:
    said = live()(batch([3, 0, 8], view=1))
    assert set(said.fishers) == {ALL, DRAWN}
    h = said.features["stem"]
    torch.testing.assert_close(said.fisher(ALL), tail_fisher(tails()["stem"], h, temperature=4.0))
    draws = uniform_draws(2, np.array([3, 0, 8]), view=1)
    torch.testing.assert_close(said.fisher(DRAWN), tail_fisher(tails()["stem"], h, temperature=1.0, draws=draws))
    assert not any(weight.requires_grad for weight in said.fishers.values())


def test_before_the_last_layer_they_follow_from_the_logits() -> None:
    said = replace(live(fishers=[])(batch([3, 0, 8])), tails=tails())
    head = tails()["features"].head
    assert head is not None
    for of in (FisherOf("features", 4.0), FisherOf("features", 4.0, samples=2)):
        assert torch.equal(said.fisher(of), head_fisher(head, said.logits, temperature=4.0)), "exact, drawn or not"


def test_in_low_precision_the_weights_are_those_of_what_it_said() -> None:
    exact, said = live()(batch([3, 0, 8])), live(precision=torch.bfloat16)(batch([3, 0, 8]))
    h = said.features["stem"]
    assert h.dtype == said.logits.dtype == said.fishers[ALL].dtype == torch.float32
    assert torch.equal(h, h.bfloat16().float()), "it ran in bfloat16"
    assert torch.equal(said.fishers[ALL], tail_fisher(tails()["stem"], h, temperature=4.0)), "worked out in float32"
    off = (said.fishers[ALL] - exact.fishers[ALL]).norm() / exact.fishers[ALL].norm()
    assert 0 < off < 0.05


@pytest.mark.parametrize("where", ["model", "weights"])
def test_where_memory_runs_out_the_batch_goes_through_in_parts_and_says_the_same(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, sizes = [3, 0, 8, 5, 1, 9, 2], list[int]()
    whole = live()(batch(rows, view=2))
    teacher = live()

    def hungry(work: Any) -> Any:
        def attempt(given: Any, features: Tensor, *rest: Any, **options: Any) -> Any:
            sizes.append(len(features))
            if len(features) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return work(given, features, *rest, **options)

        return attempt

    if where == "weights":
        monkeypatch.setattr(room, "tail_fisher", hungry(tail_fisher))
    else:
        forward = type(teacher.model).forward
        monkeypatch.setattr(type(teacher.model), "forward", hungry(forward))
    said = teacher(batch(rows, view=2))
    assert max(sizes) == 7
    assert sum(size for size in sizes if size <= 2) >= 7
    torch.testing.assert_close(said.logits, whole.logits)
    torch.testing.assert_close(said.features, whole.features)
    assert set(said.fishers) == {ALL, DRAWN}
    for of in (ALL, DRAWN):
        torch.testing.assert_close(said.fishers[of], whole.fishers[of], rtol=1e-4, atol=1e-6)


def test_classes_are_drawn_anew_in_each_view_unless_all_views_are_one() -> None:
    rows = list(range(10))
    said = [live()(batch(rows, view)).fishers[DRAWN] for view in (0, 0, 1)]
    assert torch.equal(said[0], said[1])
    differs = (said[0] - said[2]).flatten(1).norm(dim=1) / said[0].flatten(1).norm(dim=1)
    assert (differs > 0.01).sum() > 5
    # Without augmentation, a cache holds one view: what is drawn live must be what it holds.
    same = [live(one_view=True)(batch(rows, view)).fishers[DRAWN] for view in (0, 1, 7)]
    assert all(torch.equal(weights, said[0]) for weights in same)


def test_an_images_draws_are_its_own_whatever_batch_it_comes_in() -> None:
    together, alone = live()(batch([3, 0, 8])), live()(batch([8]))
    torch.testing.assert_close(together.fishers[DRAWN][2:], alone.fishers[DRAWN], rtol=1e-4, atol=1e-6)
