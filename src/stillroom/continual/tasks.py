"""Class order and tasks: which classes come when, and the images that a task learns from and is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stillroom.continual.exemplars import ExemplarMemory, Rows
from stillroom.data.images import DataPair, ImageSet, Subset
from stillroom.errors import BadInput
from stillroom.randomness import permutation


@dataclass(frozen=True)
class ClassOrder:
    """The classes in the order in which they come, divided into tasks.

    Within a run a class goes by its position in this order, so that the classes seen are always the first ones, and a
    logit layer only grows. Tasks are counted from 1.
    """

    classes: tuple[int, ...]  # the data's class numbers, in the order in which they come
    sizes: tuple[int, ...]

    def seen(self, task: int) -> int:
        """Number of classes seen after a task; 0 after none."""
        return sum(self.sizes[:task])

    def classes_of(self, task: int) -> tuple[int, ...]:
        """The data's class numbers of a task."""
        return self.classes[self.seen(task - 1) : self.seen(task)]

    @property
    def equal(self) -> bool:
        """Whether all tasks have as many classes."""
        return len(set(self.sizes)) == 1

    @property
    def positions(self) -> Rows:
        """For each of the data's classes, its position in the order: int64 [K]."""
        return np.argsort(np.array(self.classes, dtype=np.int64))

    @property
    def task_of(self) -> Rows:
        """The task of each class by its position in the order, here from 0: int64 [K]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def shuffle_classes(classes: int, tasks: int, seed: int) -> ClassOrder:
    """Shuffle the classes and divide them into tasks of equal size; the first tasks take one more of a remainder.

    >>> shuffle_classes(5, 2, seed=0).sizes, sorted(shuffle_classes(5, 2, seed=0).classes)
    ((3, 2), [0, 1, 2, 3, 4])
    """
    if tasks >= classes:
        expected = f"fewer tasks than the {classes} classes: the first needs two, or there is nothing to tell apart"
        raise BadInput("incremental.tasks", tasks, expected)
    sizes = tuple(classes // tasks + (place < classes % tasks) for place in range(tasks))
    return ClassOrder(tuple(permutation(classes, seed, "class-order").tolist()), sizes)


@dataclass(frozen=True, eq=False)
class TaskData:
    """The data of all tasks.

    Raises:
        BadInput: a class has no training image, a task no test image, or the memory is too small for one exemplar of
            each class.
    """

    data: DataPair
    order: ClassOrder
    memory: int = 0  # exemplars kept in all; 0 for none
    joint: bool = False  # whether each task learns from all images of all classes seen

    def __post_init__(self) -> None:
        names = self.data.train.class_names
        for split, images in (("train", self.data.train), ("test", self.data.test)):
            counts = np.bincount(images.labels.numpy(), minlength=len(names))
            for task in range(1, self.count + 1):
                own = self.order.classes_of(task)
                missing = [names[each] for each in own if not counts[each]]
                # A class without a test image counts nothing in the accuracy of its task; a task has one of its others.
                if missing and (split == "train" or len(missing) == len(own)):
                    expected = f"{split} {images.unit.many} of every {'class' if split == 'train' else 'task'}"
                    expected += f", but task {task} has none of its class {missing[0]!r}"
                    raise BadInput(f"data.{split}_split", images.name, expected)
        if 0 < self.memory < len(names):
            expected = f"0, or {len(names)} or more: an exemplar of each class seen"
            raise BadInput("incremental.memory", self.memory, expected)

    @property
    def count(self) -> int:
        """Number of tasks."""
        return len(self.order.sizes)

    def class_rows(self, position: int) -> Rows:
        """The training images of a class, by its position in the order of classes: indices into the split."""
        return np.flatnonzero(self.data.train.labels.numpy() == self.order.classes[position])

    def exemplars_per_class(self, task: int) -> int:
        """Exemplars of each class after a task: ⌊memory / classes seen⌋."""
        return self.memory // self.order.seen(task)

    def new_rows(self, task: int) -> Rows:
        """The training images of a task's own classes, in the order of the split."""
        return self._train_rows(self.order.classes_of(task))

    def old_rows(self, task: int, memory: ExemplarMemory) -> Rows:
        """What a task learns from besides its own images: exemplars, or under ``joint`` all of the classes before."""
        return self._train_rows(self.order.classes[: self.order.seen(task - 1)]) if self.joint else memory.all_rows()

    def expected_memory(self, task: int) -> ExemplarMemory:
        """As many exemplars as there will be before a task: the first ones of each class stand for those chosen."""
        if task == 1 or not self.memory:
            return ExemplarMemory()
        count = self.exemplars_per_class(task - 1)
        seen = range(self.order.seen(task - 1))
        return ExemplarMemory(tuple(tuple(self.class_rows(position)[:count].tolist()) for position in seen))

    def task_data(self, task: int, memory: ExemplarMemory) -> DataPair:
        """The images a task learns from, its own first, and all test images of the classes seen.

        Labels are positions in the order of classes.
        """
        seen = self.order.seen(task)
        train = np.concatenate([self.new_rows(task), self.old_rows(task, memory)])
        test = np.flatnonzero(np.isin(self.data.test.labels.numpy(), self.order.classes[:seen]))
        name = f"task {task} of {self.count}"
        return DataPair(
            relabel(self.data.train, train, self.order, seen, name),
            relabel(self.data.test, test, self.order, seen, name),
        )

    def _train_rows(self, classes: tuple[int, ...]) -> Rows:
        return np.flatnonzero(np.isin(self.data.train.labels.numpy(), classes))


def relabel(images: ImageSet, rows: Rows, order: ClassOrder, seen: int, name: str) -> ImageSet:
    """Some images as a set of their own, their labels positions in the order of classes.

    Args:
        seen: how many classes the set has, the first ones.

    >>> pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    >>> whole = ImageSet(pixels, torch.tensor([0, 1, 2, 1]), ("a", "b", "c"), "x")
    >>> part = relabel(whole, np.array([1, 2, 3]), ClassOrder((1, 2, 0), (2, 1)), 2, "task 1 of 2")
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
        labels=torch.from_numpy(order.positions)[images.labels[index]],
        class_names=tuple(images.class_names[each] for each in classes),
        name=f"{images.name}, {name}",
        subset_info=None,
        superclasses=tuple(groups[each] for each in classes) if groups is not None else None,
        # Facts about all classes together do not hold for some of them.
        truth=None,
    )
