"""Labelled images, held in memory or read when asked for, and the pair of splits a run works with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.lazy import Chosen, Images
from stillroom.data.truth import Truth
from stillroom.errors import BadInput, shorten
from stillroom.files import canonical, digest
from stillroom.randomness import permutation

MAX_CLASSES = 1 << 20  # a label beyond this is an identifier, not a class number


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """One split: every image and its class.

    Attributes:
        images: uint8 [N, C, H, W], 0 … 255; or float32 [N, …] for a Python dataset that gives floats; or, where memory
            shall not hold them, :class:`~stillroom.data.lazy.LazyImages`, which gives uint8 [n, C, H, W] for a slice or
            an index. Ask for as many as are needed at a time: ``images[a:b].to(device)``, not ``images.to(device)``.
        labels: int64 [N], class numbers from 0.
        class_names: the K names, in the order of the class numbers.
        name: what reports call the data.
        origin: the set that this one is a part of, where it shall remember it; see :meth:`part`.
        superclasses: the superclass of each class, K names in the order of the class numbers, where it is known.
        truth: what is known of the classes and of each sample, where the data were made.
        masks: which pixels of each image are its subject, bool [N, H, W], where it is known.

    Raises:
        BadInput: no images, lengths that differ, a type or shape other than these, a label outside 0 … K−1.

    >>> ImageSet(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"), "pets")
    ImageSet('pets': 2 images of 3×32×32, uint8, 2 classes)
    """

    images: Images
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    origin: Origin | None = None
    superclasses: tuple[str, ...] | None = None
    truth: Truth | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        shape = list(images.shape)
        if images.dtype == torch.uint8:
            if images.ndim != 4 or 0 in shape[1:]:
                raise BadInput("data.images", shape, "uint8 images [N, C, H, W]")
        elif images.dtype != torch.float32 or images.ndim < 2 or 0 in shape[1:]:
            raise BadInput("data.images", f"{images.dtype} {shape}", "uint8 [N, C, H, W] or float32 [N, ...]")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise BadInput("data.labels", f"{labels.dtype} {list(labels.shape)}", "int64 [N]")
        if len(images) != len(labels):
            raise BadInput("data.labels", f"{len(labels)} labels", f"one for each of the {len(images)} images")
        if not len(images):
            raise BadInput("data.images", "no images", "at least 1")
        self._check_labels()
        if isinstance(images, Tensor) and not self.is_pixels and not bool(images.isfinite().all()):
            raise BadInput("data.images", "NaN or infinity", "finite numbers")
        if self.superclasses is not None and len(self.superclasses) != self.num_classes:
            raise BadInput("data.superclasses", len(self.superclasses), f"one for each of {self.num_classes} classes")
        if self.truth is not None:
            self.truth.check(self.num_classes, len(images))
        if self.masks is not None and (
            self.masks.dtype != torch.bool or list(self.masks.shape) != [shape[0], *shape[2:]] or len(shape) != 4
        ):
            got = f"{self.masks.dtype} {list(self.masks.shape)}"
            raise BadInput("data.masks", got, f"bool {[shape[0], *shape[2:]]}, a pixel for each of the images'")

    def _check_labels(self) -> None:
        outside = (self.labels < 0) | (self.labels >= len(self.class_names))
        if bool(outside.any()):
            first = int(outside.nonzero()[0, 0])
            classes = f"0 to {len(self.class_names) - 1}" if self.class_names else "none, as there are no class names"
            raise BadInput("data.labels", int(self.labels[first]), f"a class number, {classes} (image {first})")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        kind = str(self.images.dtype).removeprefix("torch.")
        return f"ImageSet({self.name!r}: {len(self)} images of {size}, {kind}, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        """K, the number of class names."""
        return len(self.class_names)

    @property
    def is_pixels(self) -> bool:
        """Whether the images are uint8 pixels, which augmentation and each model's own preprocess work on."""
        return self.images.dtype == torch.uint8

    @property
    def channels(self) -> int:
        """First dimension of a sample: the channels of an image (1 is grey, 3 is RGB), the length of a vector."""
        return self.images.shape[1]

    @property
    def image_size(self) -> int | None:
        """The side in pixels; None where height and width differ, or the samples are not [C, H, W]."""
        if self.images.ndim != 4 or self.images.shape[2] != self.images.shape[3]:
            return None
        return self.images.shape[3]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, type, images, labels and class names, 64 hex digits: equal only for equal data.

        Superclasses, truth and masks, which nothing learns from, are no part of it.

        Images that are not held are told by the content of their files, so that the same ones decoded and held have
        another fingerprint. A part of another set is told by that set's and its places in it: the same images
        augmented as others are no longer the same.
        """
        if self.origin is not None:
            return digest(b"part", self.origin.whole.fingerprint.encode(), self.origin.rows.tobytes())
        header = [list(self.images.shape), str(self.images.dtype), list(self.class_names)]
        content = _hash(self.images) if isinstance(self.images, Tensor) else self.images.content_hash()
        return digest(canonical(header), content, _hash(self.labels))

    def subset(self, limit: int | None) -> ImageSet:
        """The same fixed random ``limit`` images for every run, as many of each class as possible.

        Smaller subsets lie within larger ones, and the images keep their order.

        Args:
            limit: number of images; the whole set where None or beyond its size.

        Raises:
            BadInput: the limit is below 1.

        >>> pixels, labels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 1, 1])
        >>> ImageSet(pixels, labels, ("a", "b"), "x").subset(4).labels
        tensor([0, 0, 1, 1])
        """
        if limit is None or limit >= len(self):
            return self
        rows = balanced(self.labels.cpu().numpy(), limit)
        index = torch.from_numpy(rows)
        images = self.images[index] if isinstance(self.images, Tensor) else self.images.select(rows)
        origin = Origin(self.origin.whole, self.origin.rows[rows]) if self.origin is not None else None
        truth = self.truth.part(rows) if self.truth is not None else None
        masks = self.masks[index] if self.masks is not None else None
        return replace(self, images=images, labels=self.labels[index], origin=origin, truth=truth, masks=masks)

    @property
    def whole(self) -> ImageSet:
        """The set that this one is a part of; itself where it is none."""
        return self if self.origin is None else self.origin.whole

    def part(self, rows: npt.NDArray[np.int64]) -> ImageSet:
        """Some of the images, which stay samples of this set: augmented as in it, known to a teacher's cache by it.

        Args:
            rows: which, int64 [n], each at most once.

        >>> pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
        >>> part = ImageSet(pixels, torch.tensor([0, 1, 0, 1]), ("a", "b"), "x").part(np.array([1, 2]))
        >>> part.images[:].flatten().tolist(), part.labels.tolist(), len(part.origin.whole)
        ([1, 2], [1, 0], 4)
        """
        images = Chosen(self.images, rows) if isinstance(self.images, Tensor) else self.images.select(rows)
        places = rows if self.origin is None else self.origin.rows[rows]
        return replace(
            self,
            images=images,
            labels=self.labels[torch.from_numpy(rows)],
            origin=Origin(self.whole, places),
            truth=self.truth.part(rows) if self.truth is not None else None,
            masks=self.masks[torch.from_numpy(rows)] if self.masks is not None else None,
        )


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the images of a part come from.

    Attributes:
        whole: the set that it was taken from, which is no part itself.
        rows: the place of each image in it, int64 [n].
    """

    whole: ImageSet
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DataPair:
    """The split to learn from and the split to evaluate on.

    Raises:
        BadInput: the two differ in the shape or type of an image, or in the classes.
    """

    train: ImageSet
    test: ImageSet

    def __post_init__(self) -> None:
        train, test = self.train, self.test
        if train.images.shape[1:] != test.images.shape[1:]:
            got, expected = ("×".join(map(str, split.images.shape[1:])) for split in (test, train))
            raise BadInput(
                "data.test_split", f"images of {got}", f"{expected} (channels × height × width) as in training"
            )
        if train.is_pixels != test.is_pixels:
            kinds = ["uint8 pixels" if split.is_pixels else "floats" for split in (test, train)]
            raise BadInput("data.test_split", kinds[0], f"{kinds[1]}, as in training")
        if train.class_names != test.class_names:
            raise BadInput(
                "data.test_split",
                list(test.class_names),
                f"the classes of training{_difference(test.class_names, train.class_names)}",
            )


def paired(train: ImageSet, test: ImageSet) -> DataPair:
    """Put two splits together; where classes are only numbered, both get the larger number of them.

    Args:
        train: the split to learn from.
        test: the split to evaluate on, which may by chance lack the highest class.

    Raises:
        BadInput: the splits do not agree, see :class:`DataPair`.

    >>> pixels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    >>> train = ImageSet(pixels, torch.tensor([0, 2]), ("0", "1", "2"), "x")
    >>> paired(train, ImageSet(pixels, torch.tensor([0, 1]), ("0", "1"), "x")).test.class_names
    ('0', '1', '2')
    """
    return DataPair(with_numbers(train, test.class_names), with_numbers(test, train.class_names))


def with_numbers(images: ImageSet, others: tuple[str, ...]) -> ImageSet:
    """A split with the classes of another, where both only number them and the other has more.

    >>> pixels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    >>> with_numbers(ImageSet(pixels, torch.tensor([0, 1]), ("0", "1"), "x"), ("0", "1", "2")).num_classes
    3
    """
    numbered = all(names == _numbers(len(names)) for names in (images.class_names, others))
    return replace(images, class_names=others) if numbered and len(others) > images.num_classes else images


def numbered(labels: Tensor) -> tuple[str, ...]:
    """Names for classes that have none: "0", "1", … up to the largest label.

    Raises:
        BadInput: the labels cannot be class numbers.

    >>> numbered(torch.tensor([0, 2]))
    ('0', '1', '2')
    """
    largest = int(labels.max()) if len(labels) else -1
    if largest >= MAX_CLASSES:
        raise BadInput("data.labels", largest, f"class numbers counted from 0, below {MAX_CLASSES}")
    return _numbers(largest + 1)


def balanced(labels: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """The fixed random ``limit`` samples of :meth:`ImageSet.subset`, told from the labels alone: sorted, int64 [limit].

    Args:
        labels: of the whole set, int64 [N].
        limit: number of samples, at most N.

    Raises:
        BadInput: the limit is below 1.

    >>> np.bincount(np.array([0, 0, 0, 0, 1, 1])[balanced(np.array([0, 0, 0, 0, 1, 1]), 4)]).tolist()
    [2, 2]
    """
    if limit < 1:
        raise BadInput("limit", limit, "at least 1 image")
    order = permutation(len(labels), 0, "subset")
    # First of every class, then second of every class, …: any prefix is as balanced as the data allow.
    return np.sort(order[np.argsort(rank_in_class(labels[order]), kind="stable")[:limit]])


def held_out(labels: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Which samples ``data.holdout`` keeps from learning, a fixed random choice of every class in its share: bool [N].

    Args:
        labels: of the whole set, int64 [N].
        share: of all samples, between 0 and 1; at least one is held out, and one is not.

    Raises:
        BadInput: there is but one sample.

    >>> labels = np.repeat([0, 1], [30, 10])
    >>> np.bincount(labels[held_out(labels, 0.2)]).tolist()
    [6, 2]
    """
    if len(labels) < 2:
        raise BadInput("data.holdout", share, f"at least 2 training images, but there is {len(labels)}")
    count = min(max(round(share * len(labels)), 1), len(labels) - 1)
    order = permutation(len(labels), 0, "holdout")
    shuffled = labels[order]
    # Each sample's place within its class, as a fraction of the class: any prefix holds every class in its share.
    place = (rank_in_class(shuffled) + 0.5) / np.bincount(shuffled)[shuffled]
    held = np.zeros(len(labels), dtype=bool)
    held[order[np.argsort(place, kind="stable")[:count]]] = True
    return held


def rank_in_class(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many samples of the same class come before each one: int64 [N].

    >>> rank_in_class(np.array([1, 0, 1, 1, 0])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_class = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(first, counts)
    return rank


def _difference(names: tuple[str, ...], expected: tuple[str, ...]) -> str:
    """What names lack and have too much, a few of each."""
    has, wanted = set(names), set(expected)
    missing, unknown = [name for name in expected if name not in has], [name for name in names if name not in wanted]
    parts = [
        f"{what} {', '.join(map(repr, found[:3]))}" + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        for what, found in (("it lacks", missing), ("training lacks", unknown))
        if found
    ]
    return f": {'; '.join(parts)}" if parts else f" in their order, {shorten(list(expected))}"


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _hash(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().data.cast("B")).digest()
