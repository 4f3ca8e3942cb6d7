"""Any PyTorch dataset of (image, label) pairs, read once into memory; what the labels are is seen from them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from stillroom.data.decoding import pixels
from stillroom.data.images import MAX_CLASSES, UNLABELLED, Images, ImageSet, LazyImages, Rows, has_label, number_classes
from stillroom.data.reading import ArrayStack
from stillroom.data.tokens import BUCKET, NO_TOKEN, Tokenization
from stillroom.errors import BadInput
from stillroom.randomness import derive_seed, generator, seed_every_rng
from stillroom.tasks import TASK_INFO, Task

_CHANNELS = (1, 3, 4)
# Pillow modes of four bytes a pixel that a dataset's pictures may all have.
_FOUR_BYTES = ("RGBA", "CMYK")
# Items that are read again: at random places of a dataset that has an order, all of the first of a stream.
_READ_AGAIN, _STREAM_READ_AGAIN, _VIEWS_READ_AGAIN = 256, 1024, 32


class _Changes(Exception):  # noqa: N818 - caught where the dataset may have views
    """Two readings of an item differ."""


class DatasetViews(LazyImages):
    """A dataset with random transforms of its own, each view of an item a pure function of (seed, view, index).

    The global generators of ``random``, NumPy and torch are seeded around each ``__getitem__`` and restored after it;
    so are transforms of the dataset that have a ``set_random_seed``, as albumentations' have. As these generators are
    the process's own, items are read between two steps, not by threads.

    Args:
        dataset: map-style, of items that :func:`from_dataset` reads.

    Attributes:
        labels: those of view 0, int64 [N], or floats of other tasks.
    """

    workers = 0
    has_views = True

    def __init__(self, dataset: Any, field: str) -> None:
        self._dataset, self._field = dataset, field
        self._rows = np.arange(len(dataset))
        # Those that albumentations keeps, which no global seed reaches.
        parts = vars(dataset).values() if hasattr(dataset, "__dict__") else ()
        self._seeded = [part for part in parts if callable(getattr(part, "set_random_seed", None))]
        total, labels = hashlib.sha256(), list[Label]()
        for row in range(len(dataset)):
            array, label = self._item(row, 0, 0)
            if row == 0:
                self._first = array
            elif array.shape != self._first.shape or array.dtype != self._first.dtype:
                sizes = ["×".join(map(str, each.shape)) for each in (self._first, array)]
                expected = f"samples of one size, but sample 0 is {sizes[0]} and sample {row} is {sizes[1]}"
                raise BadInput(field, type(dataset).__name__, expected)
            total.update(array.tobytes())
            labels.append(label)
        self.labels = _stacked(labels, field)
        self.shape = torch.Size((len(dataset), *self._first.shape))
        self.dtype, self.ndim = _with_bfloat16(self._first[None]).dtype, len(self.shape)
        some = torch.randperm(len(dataset), generator=generator(0, "subset"))[:_VIEWS_READ_AGAIN].tolist()
        if any(self._item(row, 0, 1)[1] != labels[row] for row in some):
            raise BadInput(field, type(dataset).__name__, "the same label each time an item is read")
        self.repeats = all(_hash(*self._item(row, 0, 1)) == _hash(*self._item(row, 0, 1)) for row in some)
        # What answers anew each time has no content that could be hashed.
        self._hash = total.digest() if self.repeats else hashlib.sha256(self.labels.numpy().tobytes()).digest()

    def __repr__(self) -> str:
        return f"DatasetViews({type(self._dataset).__name__}: {len(self)} items)"

    def _item(self, row: int, seed: int, view: int) -> tuple[npt.NDArray[Any], Label]:
        index = int(self._rows[row])
        with seed_every_rng(seed, "augmentation", view, index):
            for part in self._seeded:
                part.set_random_seed(derive_seed(seed, "augmentation", view, index) & 0xFFFFFFFF)
            return _read_pair(self._dataset[index], self._field, index, None)

    def read_view(self, row: int, seed: int, view: int) -> npt.NDArray[Any]:
        array = self._item(row, seed, view)[0]
        if array.shape != self._first.shape:
            got, expected = ("×".join(map(str, shape)) for shape in (array.shape, self._first.shape))
            raise BadInput(self._field, got, f"{expected} in every view (item {int(self._rows[row])}, view {view})")
        return array

    def read(self, row: int) -> npt.NDArray[Any]:
        return self.read_view(row, 0, 0)

    def __getitem__(self, rows: Rows | int) -> Tensor:
        wanted = np.arange(len(self))[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        if wanted.ndim == 0:
            return _with_bfloat16(self.read(int(wanted)).copy())
        return _with_bfloat16(
            np.stack([self.read(int(row)) for row in wanted]) if len(wanted) else self._first[None][:0]
        )

    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        part = copy.copy(self)
        part._rows, part.labels = self._rows[rows], self.labels[torch.from_numpy(rows)]
        part.shape = torch.Size((len(rows), *self.shape[1:]))
        part._hash = hashlib.sha256(self._hash + part._rows.tobytes()).digest()
        return part

    def content_hash(self) -> bytes:
        """Of the items in view 0 of seed 0; of the labels alone where items answer anew each time."""
        return self._hash

    def pixel_hashes(self) -> npt.NDArray[np.uint8]:
        each = [hashlib.blake2b(self.read(row).tobytes(), digest_size=16).digest() for row in range(len(self))]
        return np.frombuffer(b"".join(each), np.uint8).reshape(-1, 16)

    coded_hashes = pixel_hashes

    @property
    def encoded_bytes(self) -> int:
        return 0


def from_dataset(
    dataset: Any, *, name: str = "dataset", field: str = "data", views: bool = False, task: Task | None = None
) -> ImageSet:
    """Read a dataset once into memory, or, where it has random transforms and ``views``, its views on demand.

    Images may be Pillow images, uint8 tensors [C, H, W] or [H, W], uint8 numpy arrays [H, W, C] or [H, W], or floats
    of any type and shape (tensors or arrays). Floats are kept as they are: values, type and shape. Pillow images give
    their bytes: one channel of a grey one, four of RGBA or CMYK where all are of that mode, else RGB.

    Args:
        dataset: map-style or iterable, of pairs (image, class number); None, or −100, is the label of an image
            without one. A label may also be a vector of 0 and 1 (multi_label), or a number or a vector of floats
            (regression). Its ``classes`` name the classes or the targets where there
            are enough of them; else they are numbered. Items may be dicts, with ``image``, ``img`` or ``pixel_values``
            and ``label`` or ``labels``; texts are dicts with ``input_ids``, ``attention_mask`` where there is padding,
            and a label, as transformers has them. Of a ``DataLoader`` its dataset is taken. Random changes are looked
            for: 256 items at random places (of an iterable, the first 1,024) are read again. A change
            that two readings show with probability q is missed with probability (1 − q)^256: of flips with
            probability .05, q = .095, less than 10⁻¹⁰; with .01, .006. An iterator that ends cannot be read again,
            which :attr:`ImageSet.notes` says.
        views: whether a map-style dataset that changes its images at random is read as :class:`DatasetViews`; else it
            is refused.
        task: what the labels are; None: what they look like, which the notes say where it is not one class an image.

    Raises:
        BadInput: it is empty, its items are not such pairs, shapes vary, images change at random, or it does not fit
            into memory.

    >>> items = [(np.zeros((8, 8, 3), np.uint8), 0), (np.ones((8, 8, 3), np.uint8), 1)]
    >>> from_dataset(items, name="mine")
    ImageSet('mine': 2 images of 3×8×8, uint8, 2 classes)
    """
    notes = []
    images: Images
    if isinstance(dataset, DataLoader):
        notes.append("a DataLoader was given: its dataset is read, and batches are made here")
        dataset = dataset.dataset
    tokens = None
    if type(dataset) is TensorDataset:
        images, labels = _from_tensors(dataset.tensors, field)
    elif _is_of_tokens(dataset):
        images, labels, tokens = _from_token_ids(dataset, field)
        notes.append(f"texts as token ids from 0 to {tokens.vocabulary - 1:,}, up to {images.shape[1]} in a text")
    else:
        try:
            images, labels, can_repeat = _from_items(dataset, field)
        except _Changes:
            if not views or not _is_map_style(dataset):
                raise _changing(dataset, field) from None
            images = DatasetViews(dataset, field)
            labels, can_repeat = images.labels, True
            notes.append(_views_note(images, field))
        if not can_repeat:
            kind = type(dataset).__name__
            notes.append(f"a {kind} is read once: random transforms in it would be frozen, and cannot be found")
    if isinstance(images, Tensor) and images.is_floating_point():
        notes += _check_floats(images, field)
    labels, found = _targets(labels, task, field)
    own = _class_names(dataset)
    if found != "single_label":
        count = labels.shape[1]
        names = own if own is not None and len(own) == count else tuple(map(str, range(count)))
        what = f"{count} {TASK_INFO[found].outputs}"
        seen = "vectors of 0 and 1" if found == "multi_label" else "numbers"
        notes.append(f"labels are {seen}: {found} of {what}" + ("" if task else "; task= says another"))
        return ImageSet(images, labels, names, name, notes=tuple(notes), task=found)
    names = number_classes(labels)
    names = own if own is not None and len(own) >= len(names) else names
    return ImageSet(images, labels, names, name, notes=tuple(notes), tokens=tokens)


def _is_of_tokens(dataset: Any) -> bool:
    """Whether the items of a dataset are dicts with token ids."""
    if not _is_map_style(dataset) or isinstance(dataset, Mapping | str | bytes) or not len(dataset):
        return False
    first = dataset[0]
    return isinstance(first, Mapping) and "input_ids" in first


def _from_token_ids(dataset: Any, field: str) -> tuple[Tensor, Tensor, Tokenization]:
    """Token ids int32 [N, L], −1 where there is none, labels, and what is known of the ids."""
    rows, labels = list[npt.NDArray[np.int64]](), list[Label]()
    for position in range(len(dataset)):
        item = dataset[position]
        label = next((item[key] for key in _LABEL_KEYS if key in item), _LABEL_KEYS)
        if "input_ids" not in item or label is _LABEL_KEYS:
            held = ", ".join(map(str, list(item)[:5]))
            expected = "dicts with input_ids and label, and attention_mask where there is padding"
            raise BadInput(field, f"a dict with {held}", f"{expected} (item {position})")
        ids, mask = (_token_row(item.get(key), key, field, position) for key in ("input_ids", "attention_mask"))
        if mask.size and mask.shape != ids.shape:
            got = f"attention_mask of {len(mask)} for {len(ids)} input_ids"
            raise BadInput(field, got, f"as many of both (item {position})")
        if (_token_row(item.get("token_type_ids"), "token_type_ids", field, position) > 0).any():
            expected = "texts of one segment: models are given input_ids and attention_mask alone"
            raise BadInput(field, "token_type_ids above 0", f"{expected} (item {position})")
        own = ids[mask > 0] if mask.size else ids
        if not own.size or own.min() < 0 or own.max() >= 2**31:
            got = f"input_ids {own[:8].tolist()}"
            raise BadInput(field, got, f"one token or more, numbers from 0 (item {position})")
        rows.append(own)
        labels.append(_label(label, field, position))
    longest = max(map(len, rows))
    held_ids = np.full((len(rows), -(-longest // BUCKET) * BUCKET), NO_TOKEN, np.int32)
    for row, own in zip(held_ids, rows, strict=True):
        row[: len(own)] = own
    vocabulary = int(held_ids.max()) + 1
    return torch.from_numpy(held_ids), _stacked(labels, field), Tokenization(vocabulary, (), 0, "")


def _token_row(value: Any, key: str, field: str, position: int) -> npt.NDArray[np.int64]:
    """One of the rows of an item, int64 [L]; empty where it is not there."""
    if value is None:
        return np.empty(0, np.int64)
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        got = f"{key} of {array.dtype} {list(array.shape)}"
        raise BadInput(field, got, f"whole numbers, one a token (item {position})")
    return array.astype(np.int64)


def _targets(labels: Tensor, task: Task | None, field: str) -> tuple[Tensor, Task]:
    """Labels in the form of their task, and the task: class numbers are int64 [N], all others floats."""
    if labels.dtype == torch.int64:
        if task in (None, "single_label"):
            return labels, "single_label"
        raise BadInput(
            field, "class numbers", f"vectors of {TASK_INFO[task or 'regression'].outputs}, as task={task!r}"
        )
    known = labels[has_label(labels if labels.ndim == 2 else labels[:, None])]
    binary = labels.ndim == 2 and bool(((known == 0) | (known == 1)).all())
    found: Task = task or ("multi_label" if binary else "regression")
    if (found == "multi_label" and not binary) or found == "single_label":
        expected = "vectors of 0 and 1" if found == "multi_label" else "class numbers, whole numbers from 0"
        raise BadInput(field, f"labels of {list(labels.shape)} floats", f"{expected}, as task={task!r}")
    if task is None and labels.ndim == 1 and bool((known == known.round()).all()):
        expected = "labels that are class numbers, as integers; task='regression' takes whole numbers as numbers"
        raise BadInput(field, "floats that are whole numbers", expected)
    if task is None and binary and labels.shape[1] > 1 and bool((known.sum(1) == 1).all()):
        expected = "class numbers, labels.argmax(1); task='multi_label' takes them as classes that are not exclusive"
        raise BadInput(field, "one-hot labels", expected)
    return (labels if labels.ndim == 2 else labels[:, None]).float(), found


def _views_note(images: DatasetViews, field: str) -> str:
    if images.repeats:
        return (
            f"{field} has random transforms: seeded by (augmentation.seed, view, index), they make the views, "
            "data.augmentation.views of each image"
        )
    return (
        f"{field} has random transforms that answer differently for the same seed of random, NumPy and torch, from a "
        "generator of their own: no view comes twice, so the teacher runs live, and a run is not repeated exactly"
    )


def from_images(images: Any, *, field: str = "images") -> Tensor:
    """Images without labels as :func:`from_dataset` reads them: a tensor of them all, or one after another.

    >>> from_images([Image.new("L", (4, 2)), Image.new("L", (4, 2))]).shape
    torch.Size([2, 1, 2, 4])
    """
    if isinstance(images, Tensor):
        return images.detach().cpu()
    return _from_items([(image, 0) for image in images], field)[0]


def _check_floats(images: Tensor, field: str) -> list[str]:
    """What to say of images of floats, which no model's preprocess changes.

    Raises:
        BadInput: some are not finite.
    """
    finite = images.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        position = int((~finite).nonzero()[0, 0])
        held = "NaN" if bool(images[position].isnan().any()) else "infinity"
        raise BadInput(field, held, f"finite numbers (item {position})")
    low, high = (float(value) for value in torch.aminmax(images))
    if images.ndim == 4 and low >= 0 and high > _BEYOND_UNIT:
        return [
            f"floats from {low:g} to {high:g} go to the models as they are: divide by 255 for models that take 0 … 1"
        ]
    return []


# Images divided by 255 are at most 1, and normalised ones have values below 0.
_BEYOND_UNIT = 4.0


def _from_items(dataset: Any, field: str) -> tuple[Tensor, Tensor, bool]:
    """Images, labels, and whether items could be read again."""
    size, items = _items(dataset, field)
    again: Collection[int] = range(size or 0)
    if size is not None and size > _READ_AGAIN:
        again = set(torch.randint(size, (_READ_AGAIN,), generator=generator(0, "subset")).tolist())
    stack = ArrayStack(size, field, type(dataset).__name__)
    labels: list[Label] = []
    first: list[int] = []
    mode: str | None = None

    def read(item: Any, position: int) -> tuple[npt.NDArray[Any], Label]:
        return _read_pair(item, field, position, mode)

    for position, given in enumerate(items):
        item = _as_pair(given)
        if position == 0 and isinstance(item, tuple | list) and isinstance(item[0], Image.Image):
            mode = item[0].mode if item[0].mode in _FOUR_BYTES else None
        array, label = read(item, position)
        stack.add(array, mix_grey=isinstance(item[0], Image.Image))
        labels.append(label)
        # Reading once a dataset that changes its images at random would freeze them without a word.
        if position in again and _hash(*read(dataset[position], position)) != _hash(array, label):
            raise _Changes
        if size is None and position < _STREAM_READ_AGAIN:
            first.append(_hash(array, label))
    can_repeat = size is not None
    if not can_repeat and not isinstance(dataset, Iterator):
        second = [_hash(*read(item, position)) for position, item in enumerate(islice(iter(dataset), len(first)))]
        can_repeat = bool(second)
        if can_repeat and second != first:
            raise _Changes
    return _with_bfloat16(stack.finish()), _stacked(labels, field), can_repeat


_IMAGE_KEYS, _LABEL_KEYS = ("image", "img", "pixel_values"), ("label", "labels")


def _as_pair(item: Any) -> Any:
    """The image and the label of a dict; another item as it is."""
    if isinstance(item, Mapping):
        found = [[item[key] for key in keys if key in item] for keys in (_IMAGE_KEYS, _LABEL_KEYS)]
        if all(found):
            return found[0][0], found[1][0]
    return item


def _read_pair(item: Any, field: str, position: int, mode: str | None) -> tuple[npt.NDArray[Any], Label]:
    pair = _as_pair(item)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        keys = f" with {', '.join(map(str, list(item)[:5]))}" if isinstance(item, Mapping) else ""
        expected = "items that are pairs (image, label), or dicts with image and label"
        raise BadInput(field, f"{type(item).__name__}{keys}", f"{expected} (item {position})")
    return _array(pair[0], field, position, mode), _label(pair[1], field, position)


def _hash(array: npt.NDArray[Any], label: Label) -> int:
    """Of one reading of an item; NaN equals NaN, and is reported as such later."""
    return hash((array.shape, array.dtype.str, array.tobytes(), label))


def _changing(dataset: Any, field: str) -> BadInput:
    expected = (
        "the same image and label each time an item is read, in the same order: it is read once, which would freeze "
        "random transforms; take them out, and for training images set augmentation"
    )
    return BadInput(field, type(dataset).__name__, expected)


def _items(dataset: Any, field: str) -> tuple[int | None, Iterator[Any]]:
    """The number of items where it is known, and the items."""
    if isinstance(dataset, Mapping | str | bytes):
        raise BadInput(field, type(dataset).__name__, "a dataset of pairs (image, label), such as one of its splits")
    if _is_map_style(dataset):
        size = len(dataset)
        return size, (dataset[position] for position in range(size))
    if isinstance(dataset, Iterable):
        return None, iter(dataset)
    raise BadInput(field, type(dataset).__name__, "a dataset of pairs (image, label)")


def _is_map_style(dataset: Any) -> bool:
    return hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)


# numpy has no bfloat16: its two bytes travel as a type of their own.
_BFLOAT16 = np.dtype([("bfloat16", np.int16)])


def _with_bfloat16(array: npt.NDArray[Any]) -> Tensor:
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(image: Any, field: str, position: int, mode: str | None = None) -> npt.NDArray[Any]:
    """One image as uint8 [C, H, W], or floats as they are; pictures of ``mode`` keep its four channels."""
    if isinstance(image, Image.Image):
        try:
            if mode is not None and image.mode == mode:
                return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
            return pixels(image)
        except (OSError, ValueError) as error:
            raise BadInput(field, f"item {position}", f"a picture that can be decoded ({error})") from None
    if isinstance(image, Tensor):
        plain = image.detach().as_subclass(Tensor).cpu()
        if plain.dtype == torch.bfloat16:
            return np.atleast_1d(plain.contiguous().view(torch.int16).numpy()).view(_BFLOAT16)
        if plain.is_floating_point():
            return np.atleast_1d(plain.numpy())
        array = plain.numpy() if plain.dtype == torch.uint8 else None
        given = f"{plain.dtype} {list(plain.shape)}"
        channels_last = False
    elif isinstance(image, np.ndarray) and image.dtype in (np.float16, np.float32, np.float64):
        return np.atleast_1d(image)
    else:
        array = image if isinstance(image, np.ndarray) and image.dtype == np.uint8 else None
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        channels_last = True
    if array is None or array.ndim not in (2, 3):
        raise BadInput(
            field,
            given,
            f"an image: a Pillow image, a uint8 tensor [C, H, W] or array [H, W, C], or floats (item {position})",
        )
    if array.ndim == 2:
        return array[None]
    # Both orders are common, and a wrong one would train on without a word.
    first, last = array.shape[0] in _CHANNELS, array.shape[-1] in _CHANNELS
    if (channels_last and first and not last) or (not channels_last and last and not first):
        order = "[H, W, C], as it is a numpy array" if channels_last else "[C, H, W], as it is a tensor"
        raise BadInput(field, given, f"{order} (item {position})")
    return array.transpose(2, 0, 1) if channels_last else array


# A class number; or a vector, of length 0 for a number of its own.
Label = int | float | tuple[float, ...]


def _stacked(labels: Sequence[Label], field: str) -> Tensor:
    """All labels: class numbers, int64 [N]; or floats, [N] or [N, K], of which NaN is none."""
    kinds = [len(label) if isinstance(label, tuple) else type(label) for label in labels if label != UNLABELLED]
    width = kinds[0] if kinds else int
    if width is int and set(kinds) <= {int}:
        return torch.tensor(labels, dtype=torch.int64)
    for position, label in enumerate(labels):
        if label != UNLABELLED and (len(label) if isinstance(label, tuple) else type(label)) != width:
            expected = f"a vector of {width}, as the first" if isinstance(width, int) else "a number, as the first"
            expected = "a class number, a whole number from 0" if width is int else expected
            raise BadInput(field, label, f"{expected} (item {position})")
    none = (float("nan"),) * width if isinstance(width, int) else float("nan")
    return torch.tensor([none if label == UNLABELLED else label for label in labels], dtype=torch.float64)


def _label(label: Any, field: str, position: int) -> Label:
    if label is None:
        return UNLABELLED
    if isinstance(label, list | tuple) and label and all(isinstance(each, int | float) for each in label):
        label = np.asarray(label)
    if isinstance(label, Tensor):
        label = label.detach().cpu().float().numpy() if label.dtype == torch.bfloat16 else label.detach().cpu().numpy()
    if isinstance(label, float | np.floating):
        label = np.asarray(label)
    if isinstance(label, np.ndarray) and label.ndim <= 1 and label.size:
        if label.dtype.kind == "f":
            found = tuple(map(float, np.atleast_1d(label)))
            return found if label.ndim else found[0]
        if label.dtype.kind in "biu" and label.size > 1 and bool(((label == 0) | (label == 1)).all()):
            return tuple(map(float, label))
        if label.dtype.kind in "iu" and label.size > 1:
            raise BadInput(field, label.tolist(), f"0 or 1 for each class, or floats for numbers (item {position})")
    whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if isinstance(label, np.ndarray) and label.shape in ((), (1,)):
        label = label.item()
        whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole or not (0 <= label < MAX_CLASSES or label == UNLABELLED):
        expected = "a label that is a class number, a whole number from 0, or a vector of 0 and 1 or of floats"
        raise BadInput(field, label, f"{expected} (item {position})")
    return int(label)


def _from_tensors(tensors: tuple[Tensor, ...], field: str) -> tuple[Tensor, Tensor]:
    """The same without a step for each item."""
    if len(tensors) != 2:
        raise BadInput(field, f"TensorDataset of {len(tensors)} tensors", "two tensors, images and labels")
    images, labels = (tensor.detach().cpu() for tensor in tensors)
    if not len(images):
        raise BadInput(field, "TensorDataset", "at least 1 sample, but there is none")
    first = _array(images[0], field, 0)  # the checks of one image hold for all
    images = images.reshape(len(images), *first.shape)
    if labels.is_floating_point() and labels.ndim in (1, 2) and labels.numel():
        return images, labels.double()
    if labels.ndim == 2 and labels.numel() and bool(((labels == 0) | (labels == 1)).all()):
        return images, labels.double()
    if labels.ndim != 1 or labels.is_complex() or labels.dtype == torch.bool:
        expected = "labels that are class numbers, whole numbers [N]; or 0 and 1, or floats, [N, K]"
        raise BadInput(field, f"{labels.dtype} {list(labels.shape)}", expected)
    outside = ((labels < 0) & (labels != UNLABELLED)) | (labels >= MAX_CLASSES)
    if bool(outside.any()):
        position = int(outside.nonzero()[0, 0])
        raise BadInput(field, int(labels[position]), f"class numbers from 0 (item {position})")
    return images, labels.long()


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
