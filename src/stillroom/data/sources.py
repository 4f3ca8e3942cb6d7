"""From the data options to a pair of splits: digits, generated data, or a folder of a known layout."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stillroom.data.config import ONLY_IMAGE_FILES, SIZED, DataConfig, ShapesConfig, SourceName, SyntheticConfig
from stillroom.data.hub import find_data
from stillroom.data.idx import idx_class_names, idx_splits, read_idx
from stillroom.data.image_folder import (
    USUAL_SPLITS,
    describe_loose_images,
    image_splits,
    left_out_of_splits,
    read_image_folder,
    read_images,
)
from stillroom.data.image_table import read_image_table, table_class_names, table_splits
from stillroom.data.images import (
    DataPair,
    ImageSet,
    add_unlabelled,
    extend_classes,
    hide_labels,
    holdout_mask,
    make_pair,
    number_classes,
    stratified_mask,
)
from stillroom.data.parquet import parquet_class_names, parquet_splits, read_parquet
from stillroom.data.reading import list_folder, read_error, split_error
from stillroom.data.synthetic import read_shapes, read_synthetic
from stillroom.data.text import read_text, text_class_names, text_splits
from stillroom.errors import BadInput, nearest
from stillroom.files import find_input
from stillroom.tasks import Task

BUILTIN_NAMES: tuple[SourceName, ...] = ("digits", "synthetic", "shapes")
SUPERCLASSES_FILE = "superclasses.json"
_DIGITS_SPLITS = ("test", "train")
_DIGITS_TEST_SIZE = 500
_CONVERT_TO = (".jpg", ".png")
_LAYOUTS = (
    "parquet files ({split}.parquet or {split}-*.parquet, here or in data/) or idx files (train-images-idx3-ubyte.gz) "
    "or image files in a folder for each class (train/cat/1.png, test/cat/2.png) "
    "or a CSV file of image paths and labels "
    "or texts (train.csv or train.parquet, with a column of text and one of labels)"
)


def load(config: DataConfig) -> DataPair:
    """Read both splits, within their limits; with ``holdout`` both are subsets of the training split.

    With ``validation`` there is a third: a further subset of the training split, or a split of its own.

    Raises:
        BadInput: the data are missing, damaged, of no known layout, or the splits do not agree; or a
            ``superclasses.json`` in their folder is not about their classes.

    >>> pair = load(DataConfig(train_limit=100))
    >>> pair.train, pair.test
    (ImageSet('digits': 100 images of 1×8×8, uint8, 10 classes),
     ImageSet('digits': 500 images of 1×8×8, uint8, 10 classes))
    """
    if config.holdout is not None:
        train = _read(config, config.train_split, "data.train_split", config.train_limit)
        # The test split may have a class that this one lacks by chance: read its labels, not its images.
        whole = _add_superclasses(config, extend_classes(train, _test_classes(config)))
        return _split_training(config, whole.balanced_subset(config.train_limit), None)
    if config.test_split == config.train_split:
        train = test = _read(config, config.train_split, "data.train_split")
    else:
        train = _read(config, config.train_split, "data.train_split", config.train_limit)
        test = _read(config, config.test_split, "data.test_split", config.test_limit)
    pair = make_pair(train, test)
    train, test = (_add_superclasses(config, split) for split in (pair.train, pair.test))
    train, test = train.balanced_subset(config.train_limit), test.balanced_subset(config.test_limit)
    return _split_training(config, train, test)


def take_validation(data: DataPair, share: float) -> DataPair:
    """The pair that :func:`load` gives with ``validation`` set to a share, of one that was loaded without."""
    train = data.train
    held = holdout_mask(train.strata, share, "data.validation", train.class_names)
    return DataPair(train.subset(np.flatnonzero(~held)), data.test, train.subset(np.flatnonzero(held)))


def _split_training(config: DataConfig, whole: ImageSet, test: ImageSet | None) -> DataPair:
    """The training images less those that ``holdout`` (in place of a test split) and ``validation`` take of them."""
    named = isinstance(config.validation, str)
    shares = {"holdout": config.holdout, "validation": None if named else config.validation}
    free, taken = np.ones(len(whole), dtype=np.bool_), dict[str, npt.NDArray[np.bool_]]()
    for name, share in shares.items():
        if isinstance(share, float):
            rows = np.flatnonzero(free)
            taken[name] = np.zeros(len(whole), dtype=np.bool_)
            taken[name][rows[holdout_mask(whole.strata[rows], share, f"data.{name}", whole.class_names)]] = True
            free &= ~taken[name]
    validation = None
    if isinstance(config.validation, str):
        validation = _add_superclasses(config, _read(config, config.validation, "data.validation"))
        validation = extend_classes(validation, whole.class_names)
    if not taken:
        assert test is not None
        return DataPair(_with_unlabelled(config, whole), test, validation)
    whole = _with_unlabelled(config, whole, ~free)
    learned = np.concatenate([free, np.ones(len(whole) - len(free), dtype=np.bool_)])
    parts = {name: whole.subset(np.flatnonzero(mask)) for name, mask in taken.items()}
    held = test or parts["holdout"]
    return DataPair(whole.subset(np.flatnonzero(learned)), held, validation or parts.get("validation"))


def _with_unlabelled(config: DataConfig, train: ImageSet, held: npt.NDArray[np.bool_] | None = None) -> ImageSet:
    """The training images with as many labels as are used (those held out keep theirs), and further ones without."""
    if config.labelled is not None:
        hidden = hide_labels(train, config.labelled).labels
        if held is not None:
            kept = torch.from_numpy(held)
            hidden = torch.where(kept if hidden.ndim == 1 else kept[:, None], train.labels, hidden)
        train = replace(train, labels=hidden)
    if config.unlabelled is not None:
        folder = find_input(config.unlabelled)
        train = add_unlabelled(train, read_images(folder, train.images.shape[1:], config.workers, "data.unlabelled"))
    return train


def _test_classes(config: DataConfig) -> tuple[str, ...]:
    """The classes of the test split; none where there is no such split, or all splits have them by their layout."""
    split = config.test_split
    if config.path is None or split == config.train_split or config.label_columns is not None:
        return ()
    source, folder = _layout_and_folder(config)
    if source == "idx" and split in idx_splits(folder):
        return idx_class_names(folder, split)
    if source == "csv":
        return table_class_names(folder, split, config)
    if source == "text":
        return text_class_names(folder, split, config)
    if source == "parquet" and split in parquet_splits(folder):
        return parquet_class_names(folder, split, config)
    return ()


def load_split(config: DataConfig, split: str) -> ImageSet:
    """Read one split; a limit of the config holds for the split that it names.

    >>> load_split(DataConfig(test_limit=50), "test")
    ImageSet('digits': 50 images of 1×8×8, uint8, 10 classes)
    """
    field, limit = "split", None
    if split == config.train_split:
        field, limit = "data.train_split", config.train_limit
    elif split == config.test_split:
        field, limit = "data.test_split", config.test_limit
    return _add_superclasses(config, _read(config, split, field, limit))


def detect_layout(folder: Path, field: str = "data.path", splits: Iterable[str] = ()) -> SourceName:
    """The layout of a folder, from the names of its files; or of a CSV file.

    Folders of image files are looked for only where there are no parquet or idx files, which may lie with pictures in
    them, and only by the usual names of splits.
    """
    if folder.is_file():
        if table_splits(folder):
            return "csv"
        raise BadInput(field, str(folder), "a folder, or a CSV file with a column of image files' names")
    there = list_folder(folder, field)
    layouts: list[SourceName] = []
    listed = table_splits(folder)
    if set(text_splits(folder)) - {each.path.stem for each in listed.values()}:
        layouts.append("text")
    elif parquet_splits(folder):
        layouts.append("parquet")
    if idx_splits(folder):
        layouts.append("idx")
    if not layouts and image_splits(folder, {*USUAL_SPLITS, *splits}):
        layouts.append("folders")
    if not layouts and listed:
        layouts.append("csv")
    if len(layouts) == 1:
        return layouts[0]
    if layouts:
        raise BadInput(field, str(folder), f"one layout, but it holds {' and '.join(layouts)}; set data.source")
    found = ", ".join(path.name for path in there[:5]) + (", ..." if len(there) > 5 else "")
    if others := left_out_of_splits(folder, {*USUAL_SPLITS, *splits}):
        how = f"convert them to {' or '.join(_CONVERT_TO)}"
        how = f"pip install 'stillroom[heif]', or {how}" if ".hei" in others else how
        raise BadInput(field, str(folder), f"images that can be read; its class folders hold {others}: {how}")
    if empty := next((path.name for path in there if path.is_dir() and path.name.lower() in USUAL_SPLITS), None):
        expected = f"image files in a folder for each class ({empty}/cat/1.png); there are none in {empty}"
        raise BadInput(field, str(folder), f"{expected}, nor parquet, idx or CSV files in the folder")
    if offer := describe_loose_images(folder):
        raise BadInput(field, str(folder), offer)
    raise BadInput(field, str(folder), f"{_LAYOUTS}; it holds {found or 'nothing'}")


def parse_data_argument(data: str, image_size: int | None = None) -> DataConfig:
    """The options of ``--data``: the name of built-in data, or a folder of a known layout.

    Args:
        data: what the user wrote; a folder with such a name is written ``./digits``.
        image_size: side in pixels that image files are brought to.

    >>> parse_data_argument("digits").source
    'digits'
    >>> parse_data_argument("digts")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: --data: got 'digts'; expected a folder that exists, here or under $STILLROOM_DATA,
    or a known name (did you mean 'digits'?)
    """
    for name in BUILTIN_NAMES:
        if data == name:
            return _with_size(DataConfig(source=name), image_size)
    folder = find_data(data, "--data")
    if not data or not folder.exists():
        expected = "a folder that exists, here or under $STILLROOM_DATA, or a known name"
        raise BadInput("--data", data, f"{expected} ({nearest(data, BUILTIN_NAMES)})")
    return _with_size(DataConfig(source=detect_layout(folder, "--data"), path=data), image_size)


def _with_size(config: DataConfig, image_size: int | None) -> DataConfig:
    if image_size is not None and config.source not in SIZED:
        raise BadInput("--image-size", image_size, f"none: {config.source} has images of one size")
    return config.model_copy(update={"image_size": image_size})


def _read(config: DataConfig, split: str, field: str, limit: int | None = None) -> ImageSet:
    if config.source == "python":
        raise BadInput("data.source", "python", "data that a recipe can name; give your dataset again from Python")
    if config.source == "synthetic":
        return read_synthetic(config.synthetic or SyntheticConfig(), split, field).balanced_subset(limit)
    if config.source == "shapes":
        return read_shapes(config.shapes or ShapesConfig(), split, field).balanced_subset(limit)
    if config.path is None:
        _refuse_image_file_options(config, "digits")
        return read_digits(split, field, config.task or "single_label").balanced_subset(limit)
    source, folder = _layout_and_folder(config)
    if source == "folders":
        return read_image_folder(folder, split, config, limit=limit, field=field)
    if source == "csv":
        return read_image_table(folder, split, config, limit=limit, field=field)
    _refuse_image_file_options(config, source)
    if source == "text":
        return read_text(folder, split, config, limit=limit, field=field)
    if source == "idx":
        return read_idx(folder, split, field).balanced_subset(limit)
    return read_parquet(folder, split, config, limit=limit, field=field)


def _add_superclasses(config: DataConfig, images: ImageSet) -> ImageSet:
    """The set with the superclasses of the file in the data's folder, where there is one."""
    if config.path is None or images.task != "single_label":
        return images
    place = find_data(config.path)
    found = read_superclasses(place.parent if place.is_file() else place, images.class_names)
    return images if found is None else replace(images, superclasses=found)


def _layout_and_folder(config: DataConfig) -> tuple[SourceName, Path]:
    """The layout of data that lie in a folder, and the folder."""
    assert config.path is not None
    folder = find_data(config.path)
    if config.class_from == "file_name" and config.source in ("auto", "folders"):
        return "folders", folder
    if config.source == "auto":
        return detect_layout(folder, splits=(config.train_split, config.test_split)), folder
    return config.source, folder


def _refuse_image_file_options(config: DataConfig, source: SourceName) -> None:
    """Raise where an option is set that only image files can follow."""
    for name in config.unfit_for(source):
        raise BadInput(f"data.{name}", getattr(config, name), f"none with {source} data; {ONLY_IMAGE_FILES}")


# Of each digit 0 … 9, what it is: the classes of the multi-label form.
_DIGIT_ATTRIBUTES = {
    "even": (0, 2, 4, 6, 8),
    "at_least_5": (5, 6, 7, 8, 9),
    "prime": (2, 3, 5, 7),
    "has_loop": (0, 6, 8, 9),
}
_DIGIT_TARGETS = ("ink", "row", "column")


def read_digits(split: str, field: str = "split", task: Task = "single_label") -> ImageSet:
    """A split of scikit-learn's digits, grey images of 8×8 pixels: 1,297 in ``train``, 500 in ``test``.

    Every class has its share in both. Pixels are round(255·v/16) of the original values v = 0 … 16.

    Args:
        split: ``train`` or ``test``.
        field: what an error calls it.
        task: the digit; ``multi_label``: whether it is even, at least 5, a prime, and has a loop; ``regression``: the
            sum of its pixels (ink), and the row and column of the ink's centre, each in standard deviations from the
            mean over all digits.

    >>> read_digits("train")
    ImageSet('digits': 1297 images of 1×8×8, uint8, 10 classes)
    """
    if split not in _DIGITS_SPLITS:
        raise split_error(field, split, _DIGITS_SPLITS)
    images, labels = _digits()
    in_test = stratified_mask(labels, _DIGITS_TEST_SIZE, "subset")
    rows = torch.from_numpy(in_test if split == "test" else ~in_test)
    targets = torch.from_numpy(labels)
    pixels = torch.from_numpy(images)[rows]
    if task == "multi_label":
        found = torch.stack([torch.isin(targets[rows], torch.tensor(each)) for each in _DIGIT_ATTRIBUTES.values()], 1)
        return ImageSet(pixels, found.float(), tuple(_DIGIT_ATTRIBUTES), "digits", task=task)
    if task == "regression":
        mass, places = torch.from_numpy(images[:, 0]).double(), torch.arange(8, dtype=torch.float64)
        total = mass.sum((1, 2))
        raw = torch.stack([total, (mass.sum(2) @ places) / total, (mass.sum(1) @ places) / total], 1)
        scaled = (raw - raw.mean(0)) / raw.std(0)
        return ImageSet(pixels, scaled[rows].float(), _DIGIT_TARGETS, "digits", task=task)
    return ImageSet(pixels, targets[rows], number_classes(targets), "digits")


@cache
def _digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All digits: pixels [N, 1, 8, 8] and labels [N], read from scikit-learn's file.

    Importing scikit-learn takes longer than many a run on these images.
    """
    package = find_spec("sklearn")
    file = Path(package.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if file is not None and file.exists():
        text = gzip.decompress(file.read_bytes()).decode("ascii").replace("\n", ",")
        values = np.fromstring(text, sep=",").reshape(-1, 65)
        pixels, labels = values[:, :-1], values[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    return images, labels.astype(np.int64)


def read_superclasses(folder: Path, class_names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The superclass of each class, from ``superclasses.json``: ``{"fish": ["ray", "shark"], "trees": ["oak"]}``.

    Returns:
        K names, in the order of the classes; None where there is no such file.
    """
    path = folder / SUPERCLASSES_FILE

    def refuse(expected: str) -> BadInput:
        return BadInput("data.path", str(path), expected)

    try:
        # Objects as tuples of pairs, so that a superclass that is there twice does not lose its first classes.
        groups = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=tuple)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(path, error) from None
    except (ValueError, RecursionError):
        raise refuse("valid JSON") from None
    if not isinstance(groups, tuple) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for _, names in groups
    ):
        raise refuse('a mapping from superclasses to lists of class names, {"fish": ["ray", "shark"]}')
    found: dict[str, str] = {}
    for position, (superclass, names) in enumerate(groups):
        if superclass in (other for other, _ in groups[:position]):
            raise refuse(f"each superclass once, but {superclass!r} is there twice")
        for name in names:
            if name not in class_names:
                raise refuse(f"classes of the data alone, not {name!r} ({nearest(name, class_names)})")
            if name in found:
                raise refuse(f"each class in one superclass, but {name!r} is in {found[name]!r} and {superclass!r}")
            found[name] = superclass
    missing = [name for name in class_names if name not in found]
    if missing:
        listed = ", ".join(map(repr, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise refuse(f"a superclass of every class, but it lacks {listed}")
    return tuple(found[name] for name in class_names)
