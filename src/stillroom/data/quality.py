"""What a user should know of the data before anything is trained: their size, copies of images, balance of classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.images import UNLABELLED, DataPair, Images, ImageSet, LazyImages, Subset, has_label
from stillroom.schema.run import DataQuality
from stillroom.tasks import TASK_INFO

Note = Callable[[str], None]

_SAMPLED = 64  # elements of an image that are compared first
_CHUNK = 4096
_USUAL = (0.1, 10.0)  # standard deviations of regression targets
MOST_DECODED = 256 * 10**6  # bytes of files: about 12 s of one core
# Of data that are read once and used by many runs.
_measured: WeakKeyDictionary[DataPair, DataQuality] = WeakKeyDictionary()


def measure_quality(data: DataPair) -> DataQuality:
    """Compare all images of two splits with each other, and count those of each class.

    A few pixels of each image are compared first, so only likely copies are compared in whole. Images that are read
    from files on demand are decoded once for it, up to 256 MB of files; of more, the files are compared without their
    metadata.

    >>> pixels = torch.arange(8, dtype=torch.uint8).reshape(4, 1, 1, 2)
    >>> train = ImageSet(pixels, torch.tensor([0, 1, 0, 1]), ("a", "b"), "x")
    >>> test = ImageSet(pixels[2:3], torch.tensor([1]), ("a", "b"), "x")
    >>> found = measure_quality(DataPair(train, test))
    >>> found.shared, found.shared_relabelled, found.copies, found.imbalance
    (1, 1, 0, 1.0)
    """
    if data not in _measured:
        _measured[data] = _measure(data.train, data.test)
    return _measured[data]


def _measure(train: ImageSet, test: ImageSet) -> DataQuality:
    labels = _label_numbers(train, test)
    keys = _image_numbers(train, test)
    count = len(train)
    # The first image of each kind stands for the others.
    _, first, kind = np.unique(keys[:count], return_index=True, return_inverse=True)
    copies = first[kind] != np.arange(count)
    given = labels[:count] != UNLABELLED
    labels_of = set(zip(keys[:count].tolist(), labels[:count].tolist(), strict=True))
    nameless = set(keys[:count][~given].tolist())
    shared = np.isin(keys[count:], keys[:count])
    pairs = zip(keys[count:].tolist(), labels[count:].tolist(), strict=True)
    known = np.array([pair in labels_of or pair[0] in nameless for pair in pairs])
    sizes = _class_sizes(train)
    there = np.flatnonzero(sizes) if given.any() else np.array([0])
    largest, smallest = int(sizes.argmax()), int(there[sizes[there].argmin()])
    both = given & given[first[kind]]
    return DataQuality(
        train=count,
        test=len(test),
        shared=int(shared.sum()),
        shared_relabelled=int((shared & ~known).sum()),
        copies=int(copies.sum()),
        copies_relabelled=int(((labels[:count][first[kind]] != labels[:count]) & both).sum()),
        largest=int(sizes[largest]),
        smallest=int(sizes[smallest]),
        largest_class=train.class_names[largest],
        smallest_class=train.class_names[smallest],
        empty_classes=int((sizes == 0).sum()),
        unlabelled=int((~given).sum()),
        by_pixels=by_pixels(train, test),
    )


def _label_numbers(train: ImageSet, test: ImageSet) -> npt.NDArray[np.int64]:
    """A number for each image of both splits, equal only for equal labels: the class where there is one."""
    labels = torch.cat([train.labels.cpu(), test.labels.cpu()])
    if train.task == "single_label":
        return labels.numpy()
    numbers = np.unique(labels.nan_to_num().numpy(), axis=0, return_inverse=True)[1].reshape(-1)
    return np.where(has_label(labels).numpy(), numbers, UNLABELLED)


def _class_sizes(train: ImageSet) -> npt.NDArray[np.int64]:
    """Training images of each class, int64 [K]; of each target all that have a label."""
    labelled = train.labels[has_label(train.labels)].cpu()
    if train.task == "single_label":
        return np.bincount(labelled.numpy(), minlength=train.num_classes)
    return ((labelled if train.task == "multi_label" else torch.ones_like(labelled)) > 0).sum(0).numpy()


def describe_data(data: DataPair | ImageSet, note: Note, split: str = "") -> None:
    """Say what was read: the number of images and classes, what was left out, and what is wrong with them.

    Args:
        data: both splits, or one.
        note: called with each line.
        split: name of the one split.
    """
    splits = [data] if isinstance(data, ImageSet) else [data.train, data.test]
    if isinstance(data, ImageSet):
        size = f"{len(data):,} {data.unit.many}{f' of the {split} split' if split else ''}"
    else:
        without = len(data.train) - data.train.labelled
        own = f" ({without:,} without a label)" if without else ""
        size = f"{len(data.train):,} training{own} and {len(data.test):,} test {data.train.unit.many}"
    task = splits[0].task
    kind = "" if task == "single_label" else f" ({task}: {', '.join(splits[0].class_names[:6])}{_more(splits[0])})"
    note(f"data {splits[0].name}: {size}, {splits[0].num_classes:,} {TASK_INFO[task].outputs}{kind}")
    # A part of another set has its notes, too.
    for line in dict.fromkeys(f"data {images.name}: {each}" for images in splits for each in images.notes):
        note(line)
    if isinstance(data, DataPair) and task == "regression":
        _describe_scale(data.train, note)
    for line in measure_quality(data).warnings() if isinstance(data, DataPair) else ():
        note(f"data {splits[0].name}: {splits[0].unit.fill(line)}")


def _describe_scale(train: ImageSet, note: Note) -> None:
    """Say which targets vary by much more or less than 1, which the usual learning rates are for."""
    spread = train.labels[has_label(train.labels)].std(0, correction=0)
    odd = [place for place, value in enumerate(spread.tolist()) if not _USUAL[0] <= value <= _USUAL[1]]
    if odd:
        shown = ", ".join(f"{train.class_names[place]} by {spread[place]:.3g}" for place in odd[:3])
        text = "divide targets by their standard deviation, or choose the learning rate for them"
        note(f"data {train.name}: targets vary by much more or less than 1 ({shown}): {text}")


def _more(images: ImageSet) -> str:
    return " …" if images.num_classes > 6 else ""


def _image_numbers(train: ImageSet, test: ImageSet) -> npt.NDArray[np.int64]:
    """A number for each image of both splits, equal only for equal images: int64 [N + M]."""
    splits = (train.images, test.images)
    if all(isinstance(images, Tensor | Subset) for images in splits):
        sampled = np.concatenate([_sample(images) for images in splits])
        return _compare_likely(splits, *np.unique(sampled, return_inverse=True, return_counts=True)[1:])
    files = [_files_of(split) for split in (train, test)]
    if None in files:
        return np.arange(len(train) + len(test))
    decodes = by_pixels(train, test)
    hashes = [each.pixel_hashes() if decodes else each.coded_hashes() for each in files if each is not None]
    return np.unique(_as_items(np.concatenate(hashes)), return_inverse=True)[1].reshape(-1).astype(np.int64)


def by_pixels(train: ImageSet, test: ImageSet) -> bool:
    """Whether the images of two splits are compared by their pixels, or, as they are too many to decode, as stored."""
    splits = (train.images, test.images)
    if all(isinstance(images, Tensor | Subset) for images in splits):
        return True
    return sum(each.encoded_bytes for split in (train, test) if (each := _files_of(split)) is not None) <= MOST_DECODED


def _files_of(split: ImageSet) -> LazyImages | None:
    return split.images if isinstance(split.images, LazyImages) else split.files


def _sample(images: Images) -> npt.NDArray[np.void]:
    """A few elements of each image, as one item an image."""
    places = torch.from_numpy(np.unique(np.linspace(0, images.shape[1:].numel() - 1, _SAMPLED).astype(np.int64)))
    chunks = (images[start : start + _CHUNK].flatten(1) for start in range(0, len(images), _CHUNK))
    return np.concatenate([_as_items(_bytes(chunk[:, places])) for chunk in chunks])


def _compare_likely(
    splits: Sequence[Images], inverse: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Tell images apart whose sampled elements are equal."""
    numbers = inverse.reshape(-1).astype(np.int64)
    likely = np.flatnonzero(counts[numbers] > 1)
    first = len(splits[0])
    exact: dict[tuple[int, bytes], int] = {}
    for images, rows, offset in ((splits[0], likely[likely < first], 0), (splits[1], likely[likely >= first], first)):
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            for row, content in zip(part, _bytes(images[torch.from_numpy(part - offset)].flatten(1)), strict=True):
                key = int(numbers[row]), hashlib.blake2b(content.tobytes(), digest_size=16).digest()
                # Beyond the numbers that are there already.
                numbers[row] = exact.setdefault(key, len(counts) + len(exact))
    return numbers


def _bytes(rows: Tensor) -> npt.NDArray[np.uint8]:
    """The bytes of each row of a tensor of any type: uint8 [n, bytes]."""
    return np.asarray(rows.cpu().contiguous().view(torch.uint8).numpy())


def _as_items(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Rows of bytes as single items, which sort and compare as a whole."""
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).reshape(-1)
