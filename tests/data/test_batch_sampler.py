"""The order of images and the batches cut from it."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.data.loader import BatchSampler, balanced_order, epoch_order


def test_an_order_holds_every_image_once() -> None:
    assert np.array_equal(np.sort(epoch_order(1000, 3, 5)), np.arange(1000))
    assert epoch_order(1000, 3, 5).dtype == np.int64


def test_an_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    assert np.array_equal(epoch_order(100, 3, 5), epoch_order(100, 3, 5))
    assert not np.array_equal(epoch_order(100, 3, 5), epoch_order(100, 3, 6))
    assert not np.array_equal(epoch_order(100, 3, 5), epoch_order(100, 4, 5))


@pytest.mark.parametrize(("size", "batch", "steps"), [(10, 4, 2), (12, 4, 3), (3, 4, 1), (4, 4, 1), (1, 128, 1)])
def test_batches_cut_the_order_and_drop_the_partial_one(size: int, batch: int, steps: int) -> None:
    batches = BatchSampler(size, batch, seed=7)
    assert batches.steps_per_epoch == steps
    seen = np.concatenate([batches.indices(2, step) for step in range(steps)])
    assert np.array_equal(seen, epoch_order(size, 7, 2)[: steps * min(batch, size)])
    assert len(batches.indices(2, 0)) == min(batch, size)
    assert np.array_equal(batches.order(2), epoch_order(size, 7, 2))


def test_a_run_may_start_anywhere() -> None:
    whole = BatchSampler(50, 8, seed=1)
    steps = [(epoch, step) for epoch in range(3) for step in range(whole.steps_per_epoch)]
    expected = {place: whole.indices(*place) for place in steps}
    for place in reversed(steps):
        assert np.array_equal(BatchSampler(50, 8, seed=1).indices(*place), expected[place])
        assert np.array_equal(whole.indices(*place), expected[place])


def test_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def counted(size: int, seed: int, epoch: int) -> np.ndarray:
        drawn.append(epoch)
        return np.arange(size)

    monkeypatch.setattr("stillroom.data.loader.epoch_order", counted)
    batches = BatchSampler(12, 4, seed=0)
    for epoch in (0, 1):
        for step in range(3):
            batches.indices(epoch, step)
    assert drawn == [0, 1]


def test_changing_a_batch_changes_no_other() -> None:
    batches = BatchSampler(12, 4, seed=0)
    batches.indices(0, 1)[:] = -1
    batches.order(0)[:] = -1
    assert np.array_equal(batches.indices(0, 1), epoch_order(12, 0, 0)[4:8])


@pytest.mark.parametrize("step", [-1, 2])
def test_a_step_beyond_the_epoch_is_refused(step: int) -> None:
    with pytest.raises(IndexError, match="0 to 1"):
        BatchSampler(8, 4, seed=0).indices(0, step)


@pytest.mark.parametrize(("size", "batch"), [(0, 4), (4, 0)])
def test_nothing_cannot_be_cut_into_batches(size: int, batch: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BatchSampler(size, batch, seed=0)


def test_a_balanced_order_shows_each_class_as_often_and_each_image_of_a_class_as_often() -> None:
    labels = np.repeat([0, 2, 5], [70, 7, 24])  # class numbers may have gaps
    for epoch in range(3):
        order = balanced_order(labels, 3, epoch)
        shown = np.bincount(order, minlength=len(labels))
        of_class = [int(shown[labels == number].sum()) for number in (0, 2, 5)]
        assert sum(of_class) == len(labels)
        assert max(of_class) - min(of_class) <= 1
        assert all(np.ptp(shown[labels == number]) <= 1 for number in (0, 2, 5))
        assert np.array_equal(order, balanced_order(labels, 3, epoch))
    # Every image of the large class is shown in some epoch.
    seen = {int(row) for epoch in range(12) for row in balanced_order(labels, 3, epoch)}
    assert seen == set(range(len(labels)))
    assert not np.array_equal(balanced_order(labels, 3, 0), balanced_order(labels, 4, 0))


def test_balanced_batches_cut_the_order_with_and_without_lengths() -> None:
    labels, lengths = np.repeat([0, 1], [90, 10]), np.arange(100) % 17
    plain = BatchSampler(100, 8, seed=1, balanced=labels)
    assert np.array_equal(plain.indices(1, 2), balanced_order(labels, 1, 1)[16:24])
    alike = BatchSampler(100, 8, seed=1, lengths=lengths, balanced=labels)
    assert np.array_equal(np.sort(alike.order(1)[:96]), np.sort(plain.order(1)[:96]))
