"""Where images come from: a name or a folder in, a pair of splits out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from stillroom.data.config import DataConfig, ShapesConfig, SourceName, SyntheticConfig
from stillroom.data.digits import read_digits
from stillroom.data.folders import entries
from stillroom.data.idx import idx_class_names, idx_splits, read_idx
from stillroom.data.image_folder import read_image_folder
from stillroom.data.image_tree import USUAL_SPLITS, image_splits
from stillroom.data.images import DataPair, ImageSet, held_out, paired, with_numbers
from stillroom.data.parquet import parquet_class_names, parquet_splits, read_parquet
from stillroom.data.shapes import read_shapes
from stillroom.data.superclasses import read_superclasses
from stillroom.data.synthetic import read_synthetic
from stillroom.errors import BadInput, nearest
from stillroom.files import find_input

KNOWN_NAMES: tuple[SourceName, ...] = ("digits", "synthetic", "shapes")
_LAYOUTS = (
    "parquet files ({split}.parquet or {split}-*.parquet, here or in data/) or idx files (train-images-idx3-ubyte.gz) "
    "or image files in a folder for each class (train/cat/1.png, test/cat/2.png)"
)


def load(config: DataConfig) -> DataPair:
    """Read both splits, limited as asked; with ``holdout`` both are parts of the training split.

    Args:
        config: the data's options.

    Raises:
        BadInput: the data are missing, damaged, of no known layout, or the splits do not agree; or a
            ``superclasses.json`` beside them is not about their classes.

    >>> pair = load(DataConfig(train_limit=100))
    >>> pair.train, pair.test
    (ImageSet('digits': 100 images of 1×8×8, uint8, 10 classes),
     ImageSet('digits': 500 images of 1×8×8, uint8, 10 classes))
    """
    if config.holdout is not None:
        return _without_test(config, config.holdout)
    if config.test_split == config.train_split:
        train = test = _read(config, config.train_split, "data.train_split")
    else:
        train = _read(config, config.train_split, "data.train_split", config.train_limit)
        test = _read(config, config.test_split, "data.test_split", config.test_limit)
    whole = paired(train, test)
    train, test = (_with_superclasses(config, split) for split in (whole.train, whole.test))
    return DataPair(train.subset(config.train_limit), test.subset(config.test_limit))


def _without_test(config: DataConfig, share: float) -> DataPair:
    """What is learned from and what is held out, of the training images that a run without ``holdout`` has."""
    train = _read(config, config.train_split, "data.train_split", config.train_limit)
    # The other split may have a class that this one lacks by chance; its labels say so without its images.
    whole = _with_superclasses(config, with_numbers(train, _classes_in_test(config))).subset(config.train_limit)
    held = held_out(whole.labels.numpy(), share)
    return DataPair(whole.part(np.flatnonzero(~held)), whole.part(np.flatnonzero(held)))


def _classes_in_test(config: DataConfig) -> tuple[str, ...]:
    """The classes of the test split; none where there is no such split, or all splits have them by their layout."""
    split = config.test_split
    if config.path is None or split == config.train_split:
        return ()
    source, folder = _place(config)
    if source == "idx" and split in idx_splits(folder):
        return idx_class_names(folder, split)
    if source == "parquet" and split in parquet_splits(folder):
        return parquet_class_names(folder, split, image_column=config.image_column, label_column=config.label_column)
    return ()


def load_split(config: DataConfig, split: str) -> ImageSet:
    """Read one split; a limit of the config holds for the split that it names.

    Args:
        config: the data's options.
        split: the split's name, such as ``test``.

    Raises:
        BadInput: as :func:`load`.

    >>> load_split(DataConfig(test_limit=50), "test")
    ImageSet('digits': 50 images of 1×8×8, uint8, 10 classes)
    """
    field, limit = "split", None
    if split == config.train_split:
        field, limit = "data.train_split", config.train_limit
    elif split == config.test_split:
        field, limit = "data.test_split", config.test_limit
    return _with_superclasses(config, _read(config, split, field, limit))


def recognise(folder: Path, field: str = "data.path", splits: Iterable[str] = ()) -> SourceName:
    """Tell the layout of a folder by the names of its files.

    Folders of image files are looked for where there are neither parquet nor idx files, which may well have pictures
    beside them; and by the usual names of splits, as folders within folders with a picture somewhere are everywhere.

    Args:
        folder: where the data lie.
        field: the field that an error names.
        splits: names of splits, beside the usual ones (train, test, val, valid, validation).

    Raises:
        BadInput: it is no folder that can be read, or holds no known layout, or two of them.
    """
    there = entries(folder, field)
    layouts: list[SourceName] = []
    if parquet_splits(folder):
        layouts.append("parquet")
    if idx_splits(folder):
        layouts.append("idx")
    if not layouts and image_splits(folder, {*USUAL_SPLITS, *splits}):
        layouts.append("folders")
    if len(layouts) == 1:
        return layouts[0]
    if layouts:
        raise BadInput(field, str(folder), f"one layout, but it holds {' and '.join(layouts)}; set data.source")
    found = ", ".join(path.name for path in there[:5]) + (", ..." if len(there) > 5 else "")
    raise BadInput(field, str(folder), f"{_LAYOUTS}; it holds {found or 'nothing'}")


def from_argument(data: str) -> DataConfig:
    """The options of ``--data``: a name that is known, or a folder whose layout is recognised.

    Args:
        data: what the user wrote; a folder called as a known name is written ``./digits``.

    Raises:
        BadInput: it is neither.

    >>> from_argument("digits").source
    'digits'
    >>> from_argument("digts")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: --data: got 'digts'; expected a folder that exists, here or under $STILLROOM_DATA,
    or a known name (did you mean 'digits'?)
    """
    for name in KNOWN_NAMES:
        if data == name:
            return DataConfig(source=name)
    folder = find_input(data)
    if not data or not folder.exists():
        raise BadInput("--data", data, _folder_or_name(data))
    return DataConfig(source=recognise(folder, "--data"), path=data)


def _folder_or_name(data: str) -> str:
    return f"a folder that exists, here or under $STILLROOM_DATA, or a known name ({nearest(data, KNOWN_NAMES)})"


def _read(config: DataConfig, split: str, field: str, limit: int | None = None) -> ImageSet:
    if config.source == "python":
        raise BadInput("data.source", "python", "data that a recipe can name; give your dataset again from Python")
    if config.source == "synthetic":
        return read_synthetic(config.synthetic or SyntheticConfig(), split, field).subset(limit)
    if config.source == "shapes":
        return read_shapes(config.shapes or ShapesConfig(), split, field).subset(limit)
    if config.path is None:
        _only_for_files(config, "digits")
        return read_digits(split, field).subset(limit)
    source, folder = _place(config)
    if source == "folders":
        return read_image_folder(
            folder,
            split,
            image_size=config.image_size,
            in_memory=config.in_memory,
            workers=config.workers,
            limit=limit,
            train_split=config.train_split,
            test_split=config.test_split,
            field=field,
        )
    _only_for_files(config, source)
    if source == "idx":
        return read_idx(folder, split, field).subset(limit)
    return read_parquet(
        folder,
        split,
        image_column=config.image_column,
        label_column=config.label_column,
        limit=limit,
        field=field,
    )


def _with_superclasses(config: DataConfig, images: ImageSet) -> ImageSet:
    """The same with the superclasses that a file beside the data tells, where there is one."""
    if config.path is None:
        return images
    found = read_superclasses(find_input(config.path), images.class_names)
    return images if found is None else replace(images, superclasses=found)


def _place(config: DataConfig) -> tuple[SourceName, Path]:
    """The layout of data that lie in a folder, and the folder."""
    assert config.path is not None
    folder = find_input(config.path)
    if config.source == "auto":
        return recognise(folder, splits=(config.train_split, config.test_split)), folder
    return config.source, folder


def _only_for_files(config: DataConfig, source: SourceName) -> None:
    """Refuse what only image files can follow: images of another size than asked for would train on without a word."""
    for name in config.of_image_files:
        raise BadInput(f"data.{name}", getattr(config, name), f"none beside {source} data; only `folders` has it")
