"""Which classes come when, and the images that a task learns from and is judged on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.continual.exemplars import Memory, quota
from stillroom.data.images import DataPair, ImageSet, Subset
from stillroom.errors import BadInput
from stillroom.randomness import permutation

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The classes in the order in which they come, cut into tasks.

    Within a run a class goes by its place in this order, so that the classes seen are always the first ones, and a
    logit layer only grows.

    Attributes:
        classes: the data's class numbers, in the order in which they come.
        sizes: how many of them each task has.
    """

    classes: tuple[int, ...]
    sizes: tuple[int, ...]

    def seen(self, task: int) -> int:
        """How many classes there are after a task; 0 after none.

        Args:
            task: counted from 1.
        """
        return sum(self.sizes[:task])

    def of(self, task: int) -> tuple[int, ...]:
        """The data's class numbers of a task, counted from 1."""
        return self.classes[self.seen(task - 1) : self.seen(task)]

    @property
    def equal(self) -> bool:
        """Whether all tasks have as many classes."""
        return len(set(self.sizes)) == 1

    @property
    def places(self) -> Rows:
        """For each of the data's classes, its place in the order: int64 [K]."""
        return np.argsort(np.array(self.classes, dtype=np.int64))

    @property
    def task_of(self) -> Rows:
        """The task of each class by its place in the order, from 0: int64 [K]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def order_of(classes: int, tasks: int, seed: int) -> Order:
    """Shuffle the classes and cut them into tasks of equal size; where that does not go up, the first have one more.

    Args:
        classes: K.
        tasks: N.
        seed: of the shuffling.

    Raises:
        BadInput: there are as many tasks as classes, or more.

    >>> order_of(5, 2, seed=0).sizes, sorted(order_of(5, 2, seed=0).classes)
    ((3, 2), [0, 1, 2, 3, 4])
    """
    if tasks >= classes:
        expected = f"fewer tasks than the {classes} classes: the first needs two, or there is nothing to tell apart"
        raise BadInput("incremental.tasks", tasks, expected)
    sizes = tuple(classes // tasks + (place < classes % tasks) for place in range(tasks))
    return Order(tuple(permutation(classes, seed, "class-order").tolist()), sizes)


@dataclass(frozen=True, eq=False)
class Tasks:
    """The data of all tasks.

    Attributes:
        data: the whole of it, its classes in their own order.
        order: which classes come when.
        memory: exemplars kept in all; 0 for none.
        joint: whether each task learns from all images of all classes seen.

    Raises:
        BadInput: a class has no training or no test image, or the memory is too small for one exemplar of each class.
    """

    data: DataPair
    order: Order
    memory: int = 0
    joint: bool = False

    def __post_init__(self) -> None:
        names = self.data.train.class_names
        for split, images in (("train", self.data.train), ("test", self.data.test)):
            counts = np.bincount(images.labels.numpy(), minlength=len(names))
            for task in range(1, len(self.order.sizes) + 1):
                missing = [names[each] for each in self.order.of(task) if not counts[each]]
                if missing:
                    expected = f"{split} images of every class, but task {task} has none of its class {missing[0]!r}"
                    raise BadInput(f"data.{split}_split", images.name, expected)
        if 0 < self.memory < len(names):
            expected = f"0, or {len(names)} or more: an exemplar of each class seen"
            raise BadInput("incremental.memory", self.memory, expected)

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return len(self.order.sizes)

    def rows(self, number: int) -> Rows:
        """The training images of a class, by its place in the order of classes: places in the training split."""
        return np.flatnonzero(self.data.train.labels.numpy() == self.order.classes[number])

    def each(self, task: int) -> int:
        """Exemplars of each class after a task."""
        return quota(self.memory, self.order.seen(task))

    def new_rows(self, task: int) -> Rows:
        """The training images of a task's own classes, in the order of the training split."""
        return np.flatnonzero(np.isin(self.data.train.labels.numpy(), self.order.of(task)))

    def old_rows(self, task: int, kept: Memory) -> Rows:
        """What a task learns from beside its own images: exemplars, or all of the classes before."""
        if not self.joint:
            return kept.all_rows()
        return np.flatnonzero(np.isin(self.data.train.labels.numpy(), self.order.classes[: self.order.seen(task - 1)]))

    def planned(self, task: int) -> Memory:
        """As many exemplars as there will be before a task, whichever these will be: the first ones of each class."""
        if task == 1 or not self.memory:
            return Memory()
        each = self.each(task - 1)
        return Memory(tuple(tuple(self.rows(number)[:each].tolist()) for number in range(self.order.seen(task - 1))))

    def part(self, task: int, kept: Memory) -> DataPair:
        """What a task learns from, its own images first, and what it is judged on: all test images of classes seen.

        Labels are places in the order of classes.

        Args:
            task: counted from 1.
            kept: the exemplars of the classes before.
        """
        seen = self.order.classes[: self.order.seen(task)]
        learned = np.concatenate([self.new_rows(task), self.old_rows(task, kept)])
        judged = np.flatnonzero(np.isin(self.data.test.labels.numpy(), seen))
        what = f"task {task} of {self.count}"
        return DataPair(
            relabelled(self.data.train, learned, self.order, len(seen), what),
            relabelled(self.data.test, judged, self.order, len(seen), what),
        )


def relabelled(images: ImageSet, rows: Rows, order: Order, seen: int, what: str) -> ImageSet:
    """Some images as a set of their own, their labels places in the order of classes.

    Args:
        images: the whole split.
        rows: which of them, int64 [n].
        order: of all classes.
        seen: how many classes the set has, the first ones.
        what: added to the name.

    >>> pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    >>> whole = ImageSet(pixels, torch.tensor([0, 1, 2, 1]), ("a", "b", "c"), "x")
    >>> part = relabelled(whole, np.array([1, 2, 3]), Order((1, 2, 0), (2, 1)), 2, "task 1 of 2")
    >>> part.labels.tolist(), part.class_names, part.images.flatten().tolist()
    ([0, 1, 0], ('b', 'c'), [1, 2, 3])
    """
    index = torch.from_numpy(rows)
    held = images.images[index] if isinstance(images.images, Tensor | Subset) else images.images.select(rows)
    classes = order.classes[:seen]
    groups = images.superclasses
    return replace(
        images,
        images=held,
        labels=torch.from_numpy(order.places)[images.labels[index]],
        class_names=tuple(images.class_names[each] for each in classes),
        name=f"{images.name}, {what}",
        subset_info=None,
        superclasses=tuple(groups[each] for each in classes) if groups is not None else None,
        # What is known of all classes together says nothing of some of them.
        truth=None,
    )
