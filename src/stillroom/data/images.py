"""Labelled images, held in memory or read on demand; subsets of them; the pair of splits of a run."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from stillroom.data.tokens import DTYPE, NO_TOKEN, Tokenization, lengths
from stillroom.errors import BadInput, shorten
from stillroom.files import canonical_json, digest
from stillroom.randomness import permutation
from stillroom.schema.measures import why_not_measurable
from stillroom.tasks import TASK_INFO, Task
from stillroom.wording import IMAGES, TEXTS, Unit


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of generated classes and samples.

    >>> truth = Truth(torch.eye(2, dtype=torch.float64), torch.tensor([0.5, -0.1, 2.0]))
    >>> truth.subset(np.array([2, 0])).margin.tolist()
    [2.0, 0.5]
    """

    # Cosine of the vectors of each two classes, float64 [K, K]; which classes belong together is in
    # :attr:`ImageSet.superclasses`.
    relations: Tensor
    # Score of each sample's label minus the largest other score, before noise, float32 [N], in the unit of the scores.
    # Small: a difficult sample; below 0: noise made the label.
    margin: Tensor

    def check(self, classes: int, samples: int) -> None:
        """Raise BadInput where types, the number of classes or the number of samples are others."""
        for name, value, dtype, shape in (
            ("relations", self.relations, torch.float64, (classes, classes)),
            ("margin", self.margin, torch.float32, (samples,)),
        ):
            if value.dtype != dtype or value.shape != shape:
                kind = str(dtype).removeprefix("torch.")
                raise BadInput(f"data.truth.{name}", f"{value.dtype} {list(value.shape)}", f"{kind} {list(shape)}")

    def subset(self, rows: npt.NDArray[np.int64]) -> Truth:
        """The truth of some samples, ``rows`` int64 [n]."""
        return replace(self, margin=self.margin[torch.from_numpy(rows)])


# The label of a training image without one, as torch's losses have it; where labels are vectors, it is a row of NaN.
UNLABELLED = -100


def has_label(labels: Tensor) -> Tensor:
    """Which images have a label: bool [N].

    >>> has_label(torch.tensor([3, -100])).tolist(), has_label(torch.tensor([[0.0, 1.0], [torch.nan] * 2])).tolist()
    ([True, False], [True, False])
    """
    return labels != UNLABELLED if labels.ndim == 1 else ~labels.isnan().any(1)


def without_label(labels: Tensor, rows: Tensor) -> Tensor:
    """The labels with those of some rows, bool [N], taken away."""
    return labels.masked_fill(
        rows if labels.ndim == 1 else rows[:, None], UNLABELLED if labels.ndim == 1 else torch.nan
    )


MAX_CLASSES = 1 << 20  # a label beyond this is an identifier, not a class number
Rows = slice | Tensor | npt.NDArray[np.int64]

_HASH_CHUNK = 4096  # images at a time


class LazyImages(ABC):
    """Takes the place of a uint8 tensor [N, C, H, W] without holding its pixels in memory.

    The same row gives the same pixels each time, on any thread.

    Attributes:
        shape: N, C, H, W.
        workers: default number of threads that read; 0: they are read between two steps, by no thread.
        has_views: each (seed, view) is another image, made by the data themselves.
        repeats: the same (seed, view, row) gives the same pixels.
    """

    shape: torch.Size
    dtype = torch.uint8
    ndim = 4
    workers = 1
    has_views = False
    repeats = True

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: Rows | int) -> Tensor:
        """Some of the images, uint8 [n, C, H, W] on the CPU, or [C, H, W] for one whole number."""

    @abstractmethod
    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """One image, uint8 [C, H, W]; called by several threads at once."""

    @abstractmethod
    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        """The images of these rows alone; nothing is read."""

    @abstractmethod
    def content_hash(self) -> bytes:
        """SHA-256 of everything that the pixels come from: equal only for equal images."""

    @abstractmethod
    def coded_hashes(self) -> npt.NDArray[np.uint8]:
        """A hash of what the pixels of each image are decoded from, uint8 [N, 16]: the same only for the same pixels.

        An image that is stored in another way has another one.
        """

    @abstractmethod
    def pixel_hashes(self) -> npt.NDArray[np.uint8]:
        """A hash of each image's pixels, uint8 [N, 16]; all of them are read."""

    @property
    @abstractmethod
    def encoded_bytes(self) -> int:
        """How much :meth:`pixel_hashes` decodes."""

    def read_view(self, row: int, seed: int, view: int) -> npt.NDArray[Any]:
        """One image in a view, where the images have views of their own; else :meth:`read`."""
        return self.read(row)

    def fill(
        self, batch: npt.NDArray[Any], rows: npt.NDArray[np.int64], positions: range, *, seed: int = 0, view: int = 0
    ) -> None:
        """Read image ``rows[p]`` into ``batch[p]`` for each position p: the work of one thread."""
        for position in positions:
            batch[position] = self.read_view(int(rows[position]), seed, view)


Images = Tensor | LazyImages


class Subset(LazyImages):
    """Some rows of images in memory, without a copy of them.

    >>> subset = Subset(torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1), np.array([3, 0, 2]))
    >>> len(subset), subset[1:].flatten().tolist(), subset.select(np.array([2]))[:].flatten().tolist()
    (3, [0, 2], [2])
    """

    def __init__(self, images: Tensor, rows: npt.NDArray[np.int64]) -> None:
        self._images = images
        self._rows = torch.from_numpy(rows)
        self.shape = torch.Size((len(rows), *images.shape[1:]))
        self.dtype = images.dtype
        self.ndim = images.ndim

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {len(self._images)} images of {'×'.join(map(str, self.shape[1:]))})"

    def __getitem__(self, rows: Rows | int) -> Tensor:
        wanted = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        return self._images[self._rows[wanted.cpu() if isinstance(wanted, Tensor) else wanted]]

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        return np.asarray(self[row].cpu().numpy())

    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        return type(self)(self._images, self._rows.numpy()[rows])

    def content_hash(self) -> bytes:
        total = hashlib.sha256()
        for start in range(0, len(self), _HASH_CHUNK):
            total.update(_bytes(self[start : start + _HASH_CHUNK]))
        return total.digest()

    def pixel_hashes(self) -> npt.NDArray[np.uint8]:
        each = [hashlib.blake2b(_bytes(self[row]), digest_size=16).digest() for row in range(len(self))]
        return np.frombuffer(b"".join(each), np.uint8).reshape(-1, 16)

    coded_hashes = pixel_hashes

    @property
    def encoded_bytes(self) -> int:
        return 0


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """One split: every image and its class, its several classes, or its numbers.

    Raises:
        BadInput: no images, lengths that differ, a type or shape other than these, a label outside 0 … K−1.

    >>> ImageSet(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"), "pets")
    ImageSet('pets': 2 images of 3×32×32, uint8, 2 classes)
    """

    # Uint8 [N, C, H, W], 0 … 255; or floats [N, …] of any type, from a Python dataset; or token ids of texts, int32
    # [N, L] (:mod:`stillroom.data.tokens`); or :class:`LazyImages`, read on
    # demand, which give uint8 [n, C, H, W] for a slice or an index: write ``images[a:b].to(device)``, not
    # ``images.to(device)``.
    images: Images
    # Class numbers from 0, int64 [N]; or of each of the K classes 0 or 1, or K numbers, float32 [N, K].
    labels: Tensor
    class_names: tuple[str, ...]  # K names, of the classes in the order of their numbers, or of the targets
    name: str  # the data's name in reports
    # The parent set and the rows taken from it; see :meth:`subset`. None: no subset.
    subset_info: SubsetInfo | None = None
    superclasses: tuple[str, ...] | None = None  # the superclass of each class, K names, where known
    truth: Truth | None = None  # class relations and sample difficulty of generated data
    masks: Tensor | None = None  # which pixels of each image are its subject, bool [N, H, W], where known
    skipped: tuple[str, ...] = ()  # names of files that are no images of the set, as they cannot be decoded
    files: LazyImages | None = None  # the image files that images in memory were read from
    tokens: Tokenization | None = None  # what the ids of texts mean
    notes: tuple[str, ...] = ()  # what the user should know of how they were read, a line each
    task: Task = "single_label"  # what the labels are

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        shape = list(images.shape)
        if images.dtype == torch.uint8:
            if images.ndim != 4 or 0 in shape[1:]:
                raise BadInput("data.images", shape, "uint8 images [N, C, H, W]")
        elif images.dtype == DTYPE and self.tokens is not None:
            if images.ndim != 2:
                raise BadInput("data.images", shape, "token ids [N, L]")
        elif not images.dtype.is_floating_point or images.ndim < 2 or 0 in shape[1:]:
            raise BadInput("data.images", f"{images.dtype} {shape}", "uint8 [N, C, H, W] or floats [N, ...]")
        wanted = (torch.int64, 1, "int64 [N]") if self.task == "single_label" else (torch.float32, 2, "float32 [N, K]")
        if (labels.dtype, labels.ndim) != wanted[:2]:
            raise BadInput("data.labels", f"{labels.dtype} {list(labels.shape)}", wanted[2])
        if len(images) != len(labels):
            raise BadInput("data.labels", f"{len(labels)} labels", f"one for each of the {len(images)} images")
        if not len(images):
            raise BadInput("data.images", "no images", "at least 1")
        self._check_labels()
        if isinstance(images, Tensor) and images.is_floating_point() and not bool(images.isfinite().all()):
            raise BadInput("data.images", "NaN or infinity", "finite numbers")
        if self.superclasses is not None and len(self.superclasses) != self.num_classes:
            raise BadInput("data.superclasses", len(self.superclasses), f"one for each of {self.num_classes} classes")
        if self.truth is not None:
            self.truth.check(self.num_classes, len(images))
        if self.masks is not None and (
            self.masks.dtype != torch.bool or list(self.masks.shape) != [shape[0], *shape[2:]] or len(shape) != 4
        ):
            got = f"{self.masks.dtype} {list(self.masks.shape)}"
            raise BadInput("data.masks", got, f"bool {[shape[0], *shape[2:]]}, as the images")

    def _check_labels(self) -> None:
        if self.task != "single_label":
            self._check_vectors()
            return
        outside = ((self.labels < 0) & (self.labels != UNLABELLED)) | (self.labels >= len(self.class_names))
        if bool(outside.any()):
            first = int(outside.nonzero()[0, 0])
            classes = f"0 to {len(self.class_names) - 1}" if self.class_names else "none, as there are no class names"
            raise BadInput("data.labels", int(self.labels[first]), f"a class number, {classes} (image {first})")

    def _check_vectors(self) -> None:
        outputs = TASK_INFO[self.task].outputs
        if self.labels.shape[1] != len(self.class_names):
            raise BadInput("data.labels", list(self.labels.shape), f"a column for each of {self.num_classes} {outputs}")
        if len(set(self.class_names)) < self.num_classes or self.superclasses is not None:
            expected = f"{outputs} of different names, without superclasses"
            raise BadInput("data.class_names", list(self.class_names), expected)
        labelled = self.labels[has_label(self.labels)]
        if len(labelled) < len(self) and bool((self.labels.isnan().sum(1) % self.num_classes).any()):
            raise BadInput("data.labels", "NaN", f"all {outputs} of an image, or NaN for all of them")
        wrong = ~labelled.isfinite() if self.task == "regression" else (labelled != 0) & (labelled != 1)
        if bool(wrong.any()):
            expected = "finite numbers" if self.task == "regression" else "0 or 1 for each class"
            raise BadInput("data.labels", labelled[wrong][0].item(), expected)

    def check_measurable(self, field: str) -> None:
        """Raise BadInput where no model can be measured on the set: a regression target that is constant."""
        if self.task == "single_label":
            return
        expected = why_not_measurable(self.task, self.labels.numpy(), self.class_names)
        if expected:
            raise BadInput(field, self.name, self.unit.fill(expected))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        kind = str(self.images.dtype).removeprefix("torch.")
        outputs = f"{self.num_classes} {TASK_INFO[self.task].outputs}"
        task = "" if self.task == "single_label" else f", {self.task}"
        return f"ImageSet({self.name!r}: {len(self)} {self.unit.many} of {size}, {kind}, {outputs}{task})"

    @property
    def num_classes(self) -> int:
        """K, the number of class names, or of targets: of a model's outputs."""
        return len(self.class_names)

    @property
    def labelled(self) -> int:
        """How many of the images have a label; of training images some, or all, may have none (−100)."""
        return int(has_label(self.labels).sum())

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """What random subsets have in its share: the class numbers; 0 for all where labels are vectors, int64 [N]."""
        labels = self.labels.cpu().numpy()
        return labels if self.task == "single_label" else np.zeros(len(labels), np.int64)

    @property
    def is_pixels(self) -> bool:
        """Whether the images are uint8 pixels, which each model's own preprocess works on; else they are floats."""
        return self.images.dtype == torch.uint8

    @property
    def unit(self) -> Unit:
        """What a reader calls a sample."""
        return IMAGES if self.tokens is None else TEXTS

    @property
    def vocabulary(self) -> int | None:
        """Of texts, the number that token ids are below; None of images."""
        return None if self.tokens is None else self.tokens.vocabulary

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """Of texts, the number of tokens of each, int64 [N]; None of images."""
        return None if self.tokens is None else lengths(self.images[:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: [C, H, W] of an image, [L] of a text."""
        return tuple(self.images.shape[1:])

    @property
    def channels(self) -> int:
        """First dimension of a sample: the channels of an image (1 is grey, 3 is RGB), the length of a vector; 1 of
        texts.
        """
        return self.images.shape[1] if self.tokens is None else 1

    @property
    def image_size(self) -> int | None:
        """The side in pixels; None where height and width differ, or the samples are not [C, H, W]."""
        if self.images.ndim != 4 or self.images.shape[2] != self.images.shape[3]:
            return None
        return self.images.shape[3]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, type, images, labels and class names, 64 hex digits: equal only for equal data.

        Superclasses, truth and masks do not count, as nothing is trained on them; the names of skipped files do. Lazy
        images are hashed by the content of their files, so the same pixels held in memory have another fingerprint. A
        subset is hashed as (parent, rows): the same images augmented as other samples are not the same data.
        """
        if self.subset_info is not None:
            rows = self.subset_info.rows.tobytes()
            return digest(b"part", self.subset_info.parent.fingerprint.encode(), rows)
        header = [list(self.images.shape), str(self.images.dtype), list(self.class_names)]
        header += [list(self.skipped)] if self.skipped else []
        header += [self.tokens.json] if self.tokens is not None else []
        header += [self.task] if self.task != "single_label" else []
        content = _hash(self.images) if isinstance(self.images, Tensor) else self.images.content_hash()
        return digest(canonical_json(header), content, _hash(self.labels))

    @property
    def parent(self) -> ImageSet:
        """The set that this one is a subset of; itself where it is none."""
        return self if self.subset_info is None else self.subset_info.parent

    def balanced_subset(self, limit: int | None) -> ImageSet:
        """A set of its own of ``limit`` images, the same random ones in every run, as many of each class as possible.

        Smaller ones lie within larger ones, and the images keep their order.

        >>> pixels, labels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 1, 1])
        >>> ImageSet(pixels, labels, ("a", "b"), "x").balanced_subset(4).labels
        tensor([0, 0, 1, 1])
        """
        if limit is None or limit >= len(self):
            return self
        rows = balanced_rows(self.strata, limit)
        images = self.images[torch.from_numpy(rows)] if isinstance(self.images, Tensor) else self.images.select(rows)
        info = SubsetInfo(self.parent, self.subset_info.rows[rows]) if self.subset_info is not None else None
        return self._take(rows, images, info)

    def subset(self, rows: npt.NDArray[np.int64]) -> ImageSet:
        """Some of the images, which stay samples of this set: augmented as in it, and cached by their place in it.

        Args:
            rows: which, int64 [n], each at most once.

        >>> pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
        >>> subset = ImageSet(pixels, torch.tensor([0, 1, 0, 1]), ("a", "b"), "x").subset(np.array([1, 2]))
        >>> subset.images[:].flatten().tolist(), subset.labels.tolist(), len(subset.parent)
        ([1, 2], [1, 0], 4)
        """
        images = Subset(self.images, rows) if isinstance(self.images, Tensor) else self.images.select(rows)
        in_parent = rows if self.subset_info is None else self.subset_info.rows[rows]
        return self._take(rows, images, SubsetInfo(self.parent, in_parent))

    def _take(self, rows: npt.NDArray[np.int64], images: Images, info: SubsetInfo | None) -> ImageSet:
        index = torch.from_numpy(rows)
        return replace(
            self,
            images=images,
            labels=self.labels[index],
            subset_info=info,
            truth=self.truth.subset(rows) if self.truth is not None else None,
            masks=self.masks[index] if self.masks is not None else None,
            files=self.files.select(rows) if self.files is not None else None,
        )


@dataclass(frozen=True, eq=False)
class SubsetInfo:
    """The set that a subset was taken from, no subset itself, and the place of each image in it, int64 [n]."""

    parent: ImageSet
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DataPair:
    """The split to learn from and the split to evaluate on.

    Raises:
        BadInput: the two differ in the shape or type of an image, or in the classes.
    """

    train: ImageSet
    test: ImageSet
    validation: ImageSet | None = None  # what measures along the way, where it is not the test split

    def __post_init__(self) -> None:
        self._check(self.test, "data.test_split")
        if self.validation is not None:
            self._check(self.validation, "data.validation")

    def _check(self, test: ImageSet, field: str) -> None:
        train = self.train
        if train.images.shape[1:] != test.images.shape[1:]:
            got, expected = ("×".join(map(str, split.images.shape[1:])) for split in (test, train))
            raise BadInput(field, f"images of {got}", f"{expected} (channels × height × width) as in training")
        if (train.tokens is None) != (test.tokens is None):
            raise BadInput(field, test.unit.many, f"{train.unit.many}, as in training")
        if train.is_pixels != test.is_pixels:
            kinds = ["uint8 pixels" if split.is_pixels else "floats" for split in (test, train)]
            raise BadInput(field, kinds[0], f"{kinds[1]}, as in training")
        if train.task != test.task:
            raise BadInput(field, test.task, f"{train.task} labels, as in training")
        if test.labelled < len(test):
            raise BadInput(field, f"{test.labelled} labels", f"one for each of its {len(test)} images")
        if train.class_names != test.class_names:
            raise BadInput(
                field,
                list(test.class_names),
                f"the {TASK_INFO[train.task].outputs} of training{_difference(test.class_names, train.class_names)}",
            )
        test.check_measurable(field)


def hide_labels(images: ImageSet, share: float) -> ImageSet:
    """The set with the labels of a fixed random share of its images alone, every class in its share.

    >>> pixels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    >>> hide_labels(ImageSet(pixels, torch.tensor([0, 0, 0, 0, 1, 1]), ("a", "b"), "x"), 0.5).labels.tolist()
    [-100, 0, 0, -100, -100, 1]
    """
    kept = stratified_mask(images.strata, round(share * len(images)), "subset")
    return replace(images, labels=without_label(images.labels, ~torch.from_numpy(kept)))


def add_unlabelled(images: ImageSet, more: Tensor) -> ImageSet:
    """The set followed by images without labels, of the same shape and type, in memory.

    Raises:
        BadInput: shape or type differ, or the set is read from files on demand.
    """
    if not isinstance(images.images, Tensor):
        raise BadInput("data.in_memory", False, "true, or auto, with unlabelled images next to labelled ones")
    if more.shape[1:] != images.images.shape[1:] or more.dtype != images.images.dtype:
        got, expected = (f"{each.dtype} of {'×'.join(map(str, each.shape[1:]))}" for each in (more, images.images))
        raise BadInput("data.unlabelled", got, f"{expected}, as the labelled images")
    own = images.labels
    none = without_label(own.new_zeros(len(more), *own.shape[1:]), torch.ones(len(more), dtype=torch.bool))
    labels = torch.cat([own, none])
    return replace(
        images,
        images=torch.cat([images.images, more]),
        labels=labels,
        truth=None,
        masks=None,
        files=None,
        notes=(*images.notes, f"{len(more):,} more images without labels"),
    )


def make_pair(train: ImageSet, test: ImageSet) -> DataPair:
    """Pair two splits; where classes are only numbered, both get the larger number of them.

    >>> pixels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    >>> train = ImageSet(pixels, torch.tensor([0, 2]), ("0", "1", "2"), "x")
    >>> make_pair(train, ImageSet(pixels, torch.tensor([0, 1]), ("0", "1"), "x")).test.class_names
    ('0', '1', '2')
    """
    if test.task != "single_label" and not train.class_names:  # no training image has a label
        none = torch.full((len(train), test.num_classes), torch.nan)
        train = replace(train, labels=none, class_names=test.class_names, task=test.task)
    if train.tokens is not None and test.tokens is not None and not train.tokens.json:
        # Read without a tokenizer: what its numbers go up to, and how long its texts are, both splits say.
        tokens = max(train.tokens, test.tokens, key=lambda each: each.vocabulary)
        most = max(train.images.shape[1], test.images.shape[1])
        train, test = (
            replace(each, tokens=tokens, images=pad(each.images[:], (0, most - each.images.shape[1]), value=NO_TOKEN))
            for each in (train, test)
        )
    return DataPair(extend_classes(train, test.class_names), extend_classes(test, train.class_names))


def extend_classes(images: ImageSet, others: tuple[str, ...]) -> ImageSet:
    """The set with the class names of another, where both only number their classes and the other has more."""
    if not images.class_names:  # no image has a label
        return replace(images, class_names=others)
    numbered = images.task == "single_label" and all(
        names == _numbers(len(names)) for names in (images.class_names, others)
    )
    return replace(images, class_names=others) if numbered and len(others) > images.num_classes else images


def number_classes(labels: Tensor) -> tuple[str, ...]:
    """Names for classes that have none: "0", "1", … up to the largest label.

    >>> number_classes(torch.tensor([0, 2]))
    ('0', '1', '2')
    """
    largest = max(int(labels.max()), -1) if len(labels) else -1
    if largest >= MAX_CLASSES:
        raise BadInput("data.labels", largest, f"class numbers counted from 0, below {MAX_CLASSES}")
    return _numbers(largest + 1)


def balanced_rows(labels: npt.NDArray[np.int64], limit: int | None) -> npt.NDArray[np.int64]:
    """The rows of :meth:`ImageSet.balanced_subset`, from the labels alone: sorted, int64 [limit], or all of them.

    >>> np.bincount(np.array([0, 0, 0, 0, 1, 1])[balanced_rows(np.array([0, 0, 0, 0, 1, 1]), 4)]).tolist()
    [2, 2]
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    if limit < 1:
        raise BadInput("limit", limit, "at least 1 image")
    order = permutation(len(labels), 0, "subset")
    # First of every class, then second of every class, …: any prefix is as balanced as the data allow.
    return np.sort(order[np.argsort(rank_in_class(labels[order]), kind="stable")[:limit]])


def stratified_mask(
    labels: npt.NDArray[np.int64], count: int, purpose: Literal["subset", "holdout"]
) -> npt.NDArray[np.bool_]:
    """A fixed random choice of ``count`` samples with every class in its share: bool [N]."""
    order = permutation(len(labels), 0, purpose)
    shuffled = labels[order]
    # Each sample's place within its class, as a fraction of the class: any prefix holds every class in its share.
    place = (rank_in_class(shuffled) + 0.5) / np.bincount(shuffled)[shuffled]
    mask = np.zeros(len(labels), dtype=bool)
    mask[order[np.argsort(place, kind="stable")[:count]]] = True
    return mask


def holdout_mask(
    labels: npt.NDArray[np.int64], fraction: float, field: str = "data.holdout", names: Sequence[str] = ()
) -> npt.NDArray[np.bool_]:
    """Which training samples ``data.holdout`` takes for evaluation, every class in its share: bool [N].

    Args:
        fraction: of all samples, between 0 and 1; at least one is held out, and one is not.
        field: what errors call it.
        names: of the classes, for errors.

    Raises:
        BadInput: there are fewer than two samples, or a class would have none left to learn from.

    >>> labels = np.repeat([0, 1], [30, 10])
    >>> np.bincount(labels[holdout_mask(labels, 0.2)]).tolist()
    [6, 2]
    """
    if len(labels) < 2:
        raise BadInput(field, fraction, f"at least 2 training images, but there is {len(labels)}")
    held = stratified_mask(labels, min(max(round(fraction * len(labels)), 1), len(labels) - 1), "holdout")
    whole, left = np.bincount(labels), np.bincount(labels[~held], minlength=int(labels.max()) + 1)
    if len(empty := np.flatnonzero((whole > 0) & (left == 0))):
        label = int(empty[0])
        name = repr(names[label]) if label < len(names) else label
        count = "its only image" if whole[label] == 1 else f"all its {whole[label]} images"
        raise BadInput(field, fraction, f"a share that leaves each class an image to learn from: {name} loses {count}")
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
    return hashlib.sha256(_bytes(tensor)).digest()


def _bytes(tensor: Tensor) -> memoryview:
    # As bytes: numpy has no bfloat16.
    return tensor.cpu().contiguous().view(torch.uint8).numpy().data.cast("B")
