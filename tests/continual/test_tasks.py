"""Which classes come when, and what a task is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stillroom.continual.exemplars import ExemplarMemory
from stillroom.continual.tasks import ClassOrder, TaskData, shuffle_classes
from stillroom.data.images import DataPair, ImageSet
from stillroom.errors import BadInput


def data(classes: int = 5, each: int = 4) -> DataPair:
    """Images whose pixel tells which they are."""

    def split(count: int) -> ImageSet:
        labels = torch.arange(classes).repeat(count)
        pixels = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)
        names = tuple("abcdefghij"[:classes])
        return ImageSet(pixels, labels, names, "letters", superclasses=tuple(name.upper() for name in names))

    return DataPair(split(each), split(2))


def test_every_class_comes_once_in_an_order_of_its_seed() -> None:
    orders = [shuffle_classes(20, 6, seed) for seed in range(4)]
    assert all(sorted(order.classes) == [*range(20)] for order in orders)
    assert len({order.classes for order in orders}) == 4
    assert orders[0].sizes == (4, 4, 3, 3, 3, 3)
    assert shuffle_classes(20, 6, 2) == orders[2]
    assert (shuffle_classes(20, 5, 0).equal, orders[0].equal) == (True, False)


@pytest.mark.parametrize("tasks", [5, 6, 20])
def test_more_tasks_than_classes_are_refused(tasks: int) -> None:
    with pytest.raises(BadInput, match=rf"incremental.tasks: got {tasks}; expected fewer tasks than the 5 classes"):
        shuffle_classes(5, tasks, 0)


def test_labels_of_a_task_are_places_in_the_order() -> None:
    order = ClassOrder((3, 0, 4, 1, 2), (2, 2, 1))
    tasks = TaskData(data(), order)
    part = tasks.task_data(2, ExemplarMemory(((8, 3), (5,))))
    # Its own images first, in their own order, then the exemplars class by class.
    assert part.train.images[:].flatten().tolist() == [1, 4, 6, 9, 11, 14, 16, 19, 8, 3, 5]
    assert part.train.labels.tolist() == [3, 2, 3, 2, 3, 2, 3, 2, 0, 0, 1]
    assert part.train.class_names == part.test.class_names == ("d", "a", "e", "b")
    assert part.train.superclasses == ("D", "A", "E", "B")
    assert part.test.labels.tolist() == [1, 3, 0, 2, 1, 3, 0, 2]
    whole = tasks.task_data(3, ExemplarMemory()).test
    assert [whole.class_names[label] for label in whole.labels] == [*"abcdeabcde"]


def test_joint_training_has_all_images_of_the_classes_seen() -> None:
    order = ClassOrder((3, 0, 4, 1, 2), (2, 2, 1))
    tasks = TaskData(data(), order, joint=True)
    part = tasks.task_data(2, ExemplarMemory())
    assert sorted(part.train.images[:].flatten().tolist()) == [i for i in range(20) if i % 5 != 2]
    assert np.bincount(part.train.labels.numpy()).tolist() == [4, 4, 4, 4]


def test_how_many_exemplars_there_will_be_is_known_before() -> None:
    tasks = TaskData(data(each=3), ClassOrder((0, 1, 2, 3, 4), (2, 2, 1)), memory=9)
    # ⌊9 / 2⌋ = 4 of each, but a class has 3; then ⌊9 / 4⌋ = 2.
    assert [tasks.expected_memory(task).count for task in (1, 2, 3)] == [0, 6, 8]


def test_a_memory_below_one_image_a_class_is_refused() -> None:
    order = ClassOrder((0, 1, 2, 3, 4), (3, 2))
    TaskData(data(), order, memory=5)
    with pytest.raises(BadInput, match=r"incremental.memory: got 4; expected 0, or 5 or more"):
        TaskData(data(), order, memory=4)


def without(split: str, *classes: int) -> DataPair:
    whole = data()
    images: ImageSet = getattr(whole, split)
    keep = ~torch.isin(images.labels, torch.tensor(classes))
    return replace(whole, **{split: replace(images, images=images.images[keep], labels=images.labels[keep])})


@pytest.mark.parametrize(("split", "classes"), [("train", (3,)), ("test", (3, 4))])
def test_a_class_without_training_images_and_a_task_without_test_images_are_named(
    split: str, classes: tuple[int, ...]
) -> None:
    with pytest.raises(BadInput, match=rf"data.{split}_split: .* task 2 has none of its class 'd'"):
        TaskData(without(split, *classes), ClassOrder((0, 1, 2, 3, 4), (3, 2)))


def test_a_class_without_a_test_image_leaves_its_task_to_the_others() -> None:
    part = TaskData(without("test", 3), ClassOrder((0, 1, 2, 3, 4), (3, 2))).task_data(2, ExemplarMemory())
    assert part.test.labels.tolist() == [0, 1, 2, 4] * 2
