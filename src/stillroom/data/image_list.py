"""CSV files that list images: a column of their paths, a column of classes or several of other labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc
import torch

from stillroom.data.config import DataConfig
from stillroom.data.image_folder import SUFFIXES, TEST_ALTERNATIVES, ImageTree, read_tree_images
from stillroom.data.images import ImageSet, number_classes
from stillroom.data.parquet import class_labels, number_column
from stillroom.data.reading import data_name, list_folder, path_error, split_error
from stillroom.data.text import LABELS, SEPARATORS, csv_options, is_text, read_strings, read_table
from stillroom.errors import BadInput, nearest

_SPLIT = "split"  # the column that says which split a row is of


@dataclass(frozen=True)
class _Split:
    """The rows of a split."""

    table: pa.Table
    path: Path  # the CSV file
    image: str
    labels: tuple[str, ...]

    def strings(self, column: str) -> list[str]:
        return read_strings(self.table[column], self.path, column)


def image_lists(place: Path) -> list[Path]:
    """The CSV files of a folder (or a file itself) that have a column of image files' names."""
    files = [place] if place.is_file() else list_folder(place)
    return [path for path in files if path.suffix in SEPARATORS and path.is_file() and _lists_images(path)]


def _lists_images(path: Path) -> bool:
    try:
        with pc.open_csv(path, **csv_options(path)) as reader:
            return bool(_image_columns(reader.read_next_batch()))
    except (OSError, pa.ArrowException, ValueError, StopIteration):
        return False


def _image_columns(table: Any) -> list[str]:
    """The columns whose first cell is an image file's name."""
    if not table.num_rows:
        return []
    first = {name: table.column(name)[0].as_py() for name, kind in _types(table).items() if is_text(kind)}
    return [name for name, cell in first.items() if str(cell).lower().endswith(SUFFIXES)]


def list_splits(place: Path, config: DataConfig | None = None) -> dict[str, tuple[Path, str | None]]:
    """The splits of CSV files that list images: each with its file, and its value in the column ``split``.

    A file without that column is a split of its own: ``train`` where it is the only one, else called as the file is.
    """
    files = image_lists(place)
    if not files and place.is_file() and config is not None and config.image_column is not None:
        files = [place]
    found: dict[str, tuple[Path, str | None]] = {}
    for path in files:
        table = read_table(path)
        if _SPLIT in table.column_names and is_text(table[_SPLIT].type):
            found |= {name: (path, name) for name in sorted(set(read_strings(table[_SPLIT], path, _SPLIT)))}
        else:
            found["train" if len(files) == 1 else path.stem] = (path, None)
    return found


def list_class_names(place: Path, split: str, config: DataConfig) -> tuple[str, ...]:
    """The classes of a split, without reading an image; none where it is not there."""
    if split not in list_splits(place, config):
        return ()
    return _classes(_open(place, split, config, "data.test_split"), _reference(place, config))[1]


def read_image_list(
    place: Path, split: str, config: DataConfig, *, limit: int | None = None, field: str = "split"
) -> ImageSet:
    """Read one split of a CSV file that lists images, or of a folder of such files.

    Paths are relative to the CSV file's folder, or to the folder in it where the first image lies. Classes are words,
    sorted, or whole numbers from 0; those of ``data.label_columns`` are vectors. Images become pixels as those of
    :func:`~stillroom.data.image_folder.read_image_folder` do.

    Raises:
        BadInput: no such split or column, a cell without a value, or a file that cannot be decoded.
    """
    rows = _open(place, split, config, field)
    name = data_name(place.with_suffix("") if place.is_file() else place)
    read = partial(
        read_tree_images,
        name=name,
        image_size=config.image_size,
        in_memory=config.in_memory,
        workers=config.workers,
        limit=limit,
        bad_files=config.bad_files,
        other_files=lambda: _other_files(place, split, config),
    )
    if config.label_columns is not None:
        targets = np.stack([number_column(rows.table[each]) for each in rows.labels], 1)
        if not np.isfinite(targets).all():
            at = np.flatnonzero(~np.isfinite(targets).all(1))[0]
            raise path_error(rows.path, f"a number in each of {', '.join(rows.labels)}, but row {at} lacks one")
        tree = ImageTree(*_files(rows, config.label_columns), np.zeros(len(targets), np.int64))
        return read(tree, targets=torch.from_numpy(targets), task=config.task or "multi_label")
    labels, classes = _classes(rows, _reference(place, config))
    return read(ImageTree(*_files(rows, classes), labels))


def _files(rows: _Split, classes: tuple[str, ...]) -> tuple[Path, tuple[str, ...], list[str]]:
    """The folder that the paths start from, the classes, the paths."""
    root, names = rows.path.parent, rows.strings(rows.image)
    if names and not (root / names[0]).exists():
        places = [path for path in list_folder(root) if path.is_dir() and (path / names[0]).exists()]
        if len(places) == 1:
            names = [f"{places[0].name}/{name}" for name in names]
    return root, classes, names


def _other_files(place: Path, split: str, config: DataConfig) -> list[Path]:
    found = []
    for other in {config.train_split, config.test_split} - {split}:
        if other in list_splits(place, config):
            root, _, names = _files(_open(place, other, config, "split"), ())
            found += [root / name for name in names]
    return found


def _reference(place: Path, config: DataConfig) -> _Split | None:
    """The training split, whose words are the classes."""
    there = config.train_split in list_splits(place, config)
    return _open(place, config.train_split, config, "data.train_split") if there else None


def _classes(rows: _Split, reference: _Split | None) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Class numbers, int64 [N], and the names of the classes."""
    (label,) = rows.labels
    column = rows.table[label].combine_chunks()
    if not is_text(column.type):
        labels = class_labels(column, rows.path, 0).copy()
        return labels, number_classes(torch.from_numpy(labels))
    words = rows.strings(label)
    names = tuple(sorted(set(words if reference is None else reference.strings(label))))
    numbers = {name: number for number, name in enumerate(names)}
    if (at := next((at for at, word in enumerate(words) if word not in numbers), None)) is not None:
        raise path_error(rows.path, f"a label of the training split in every row, but row {at} has {words[at]!r}")
    return np.array([numbers[word] for word in words], np.int64), names


def _open(place: Path, split: str, config: DataConfig, field: str) -> _Split:
    splits = list_splits(place, config)
    others = [name for name in TEST_ALTERNATIVES if name in splits and name != config.train_split]
    if split == "test" and split not in splits and len(others) == 1:
        split = others[0]
    if split not in splits:
        hint = "; data.holdout=0.2 keeps a part of the training images for the test" if "test" in field else ""
        error = split_error(field, split, splits)
        raise BadInput(field, split, f"{error.expected}{hint}")
    path, value = splits[split]
    table = read_table(path)
    image = _choose("image", config.image_column, _image_columns(table), table, path)
    used = {image, *([_SPLIT] if value is not None else [])}
    if config.label_columns is not None:
        for name in config.label_columns:
            _check_column("data.label_columns", name, table, path)
        labels = config.label_columns
    else:
        others = [name for name in table.column_names if name not in used]
        words = [name for name in others if is_text(table[name].type)]
        usual = [name for name in LABELS if name in others][:1] or (words if len(words) == 1 else others)
        labels = (_choose("label", config.label_column, usual, table, path),)
        kind = _types(table)[labels[0]]
        if not (is_text(kind) or pa.types.is_integer(kind)):
            raise BadInput("data.label_column", labels[0], f"a column of words or whole numbers, but it holds {kind}")
    if value is not None:
        table = table.filter(pa.array([name == value for name in read_strings(table[_SPLIT], path, _SPLIT)]))
    return _Split(table, path, image, labels)


def _choose(kind: str, named: str | None, fitting: Sequence[str], table: pa.Table, path: Path) -> str:
    field = f"data.{kind}_column"
    if named is not None:
        _check_column(field, named, table, path)
        return named
    if len(fitting) != 1:
        wanted = "image files' names" if kind == "image" else "classes"
        raise BadInput(
            field, None, f"the name of the column of {wanted}; {path.name} has {', '.join(table.column_names)}"
        )
    return fitting[0]


def _check_column(field: str, name: str, table: pa.Table, path: Path) -> None:
    if name not in table.column_names:
        raise BadInput(field, name, f"a column of {path.name} ({nearest(name, table.column_names)})")


def _types(table: Any) -> dict[str, Any]:
    return dict(zip(table.schema.names, table.schema.types, strict=True))
