"""CSV files of image files and their labels: one class, several columns of 0 and 1, or of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from stillroom.data.config import DataConfig
from stillroom.data.image_folder import SUFFIXES, TEST_ALTERNATIVES, USUAL_SPLITS, ImageTree, set_of_files
from stillroom.data.images import ImageSet
from stillroom.data.parquet import check_label_columns, label_matrix
from stillroom.data.reading import list_folder, path_error, split_error
from stillroom.data.text import SEPARATORS, column_strings, find_label, is_text, label_numbers, read_table
from stillroom.errors import BadInput, nearest

_SPLIT = "split"
_IMAGES = ("image", "file_name", "filename", "file", "path", "image_path", "image_file")


@dataclass(frozen=True, eq=False)
class TableSplit:
    """A split: a CSV file, or its rows with a value in the column ``split``."""

    path: Path
    table: pa.Table  # the whole file
    value: str | None = None

    def rows(self) -> pa.Table:
        """Its rows."""
        if self.value is None:
            return self.table
        held = pa.array([cell == self.value for cell in self.table[_SPLIT].to_pylist()])
        return self.table.filter(held).drop_columns([_SPLIT])


def table_splits(place: Path) -> dict[str, TableSplit]:
    """The splits of a CSV file that names image files, or of a folder of such files.

    A column ``split`` says which split a row is of; a file without it is a split called as the file is, or ``train``
    where it is the only one and so named.

    >>> table_splits(Path("tests"))
    {}
    """
    tables = {}
    for path in [place] if place.is_file() else list_folder(place):
        if path.suffix in SEPARATORS and path.is_file():
            try:
                table = read_table(path)
            except BadInput:
                continue  # whoever reads it says so
            if _image_columns(table):
                tables[path] = table
    found: dict[str, TableSplit] = {}
    for path, table in tables.items():
        if _SPLIT in table.column_names and is_text(table.schema.field(_SPLIT).type):
            names = sorted(set(filter(None, table[_SPLIT].to_pylist())))
            found |= {name: TableSplit(path, table, name) for name in names}
        else:
            alone = len(tables) == 1 and path.stem not in (*USUAL_SPLITS, "test")
            found["train" if alone or place.is_file() else path.stem] = TableSplit(path, table)
    return found


def read_image_table(
    folder: Path, split: str, config: DataConfig, *, limit: int | None = None, field: str = "split"
) -> ImageSet:
    """Read one split of a CSV or TSV file, or of ``FOLDER/SPLIT.csv``: a row an image, its file and its labels.

    Files are looked for below the folder itself, then below its folders ``SPLIT`` and ``images``. Classes may be words,
    numbered in the order of the training split's sorted names, or whole numbers. With ``label_columns`` a row in which
    all of them are empty has no label.

    Raises:
        BadInput: no such split or column, a file that is not there or no picture, or a label that is none.
    """
    table = _ImageTable.of(table_splits(folder), split, config, field)
    names, root = table.files(split)
    labels, classes = table.labels()
    files = ImageTree(root, classes, names, labels, ())

    def other_files() -> list[Path]:
        found: list[Path] = []
        for other in {config.train_split, config.test_split} - {split}:
            if other in table.splits:
                rest, place = _ImageTable.of(table.splits, other, config, field).files(other)
                found += [place / name for name in rest]
        return found

    return set_of_files(folder, files, config, limit=limit, other_files=other_files)


def table_class_names(folder: Path, split: str, config: DataConfig) -> tuple[str, ...]:
    """The classes of a split that is there, without opening a picture."""
    splits = table_splits(folder)
    return _ImageTable.of(splits, split, config, "split").labels()[1] if split in splits else ()


@dataclass(frozen=True)
class _ImageTable:
    """A split's file, read whole, next to that of the training split, which numbers classes that are words."""

    splits: Mapping[str, TableSplit]
    path: Path
    table: pa.Table
    train: pa.Table
    config: DataConfig

    @classmethod
    def of(cls, splits: Mapping[str, TableSplit], split: str, config: DataConfig, field: str) -> _ImageTable:
        others = [name for name in TEST_ALTERNATIVES if name in splits and name != config.train_split]
        if split == "test" and split not in splits and len(others) == 1:
            split = others[0]
        if split not in splits:
            hint = "; data.holdout=0.2 keeps a part of the training images for the test" if "test" in field else ""
            raise BadInput(field, split, f"{split_error(field, split, splits).expected}{hint}")
        train = splits.get(config.train_split, splits[split])
        return cls(splits, splits[split].path, splits[split].rows(), train.rows(), config)

    def files(self, split: str) -> tuple[list[str], Path]:
        """The image files as names below a folder, and that folder."""
        column = self._image_column()
        names = column_strings(self.table[column], self.path, column)
        if not names:
            raise path_error(self.path, "at least 1 row")
        folder = self.path.parent
        places = [folder, folder / split, folder / "images"]
        root = next((place for place in places if (place / names[0]).is_file()), None)
        if root is None:
            where = ", ".join(f"{place.name}/" for place in places)
            raise path_error(self.path, f"image files below {where}, but there is no {names[0]!r} of column {column!r}")
        missing = next((row for row, name in enumerate(names) if not (root / name).is_file()), None)
        if missing is not None and self.config.bad_files == "error":
            raise path_error(self.path, f"an image file in every row, but row {missing} has {names[missing]!r}")
        return names, root

    def labels(self) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
        """Class numbers, int64 [N], or vectors, float32 [N, K]; and the names of the classes or targets."""
        types = {each.name: each.type for each in self.table.schema}
        columns = self.config.label_columns
        if columns is not None:
            check_label_columns(types, columns, self.path)
            return label_matrix(self.table, columns, self.path), columns
        others = {name: kind for name, kind in types.items() if name != self._image_column()}
        try:
            label = find_label(others, {}, self.path, self.config.label_column)
        except BadInput as error:
            more = "of several columns, data.label_columns with data.task multi_label or regression"
            raise BadInput(error.field, error.value, f"{error.expected}; {more}") from None
        if label not in self.train.column_names:
            raise BadInput("data.label_column", label, f"a column of the training split, too ({self.path.name} has it)")
        return label_numbers(self.table[label], self.train[label], self.path, label)

    def _image_column(self) -> str:
        named, there = self.config.image_column, self.table.column_names
        if named is not None:
            if named not in there:
                raise BadInput("data.image_column", named, f"a column of {self.path.name} ({nearest(named, there)})")
            if not is_text(self.table.schema.field(named).type):
                kind = self.table.schema.field(named).type
                raise BadInput("data.image_column", named, f"names of image files, but it holds {kind}")
            return named
        found = _image_columns(self.table)
        usual = [name for name in _IMAGES if name in found] or found
        if len(found) > 1 and usual == found:
            raise BadInput("data.image_column", None, f"one of {', '.join(found)}; {self.path.name} has more than one")
        return usual[0]


def _image_columns(table: pa.Table) -> list[str]:
    """The columns whose first cell is the name of an image file."""
    text = [name for name in table.column_names if table.num_rows and is_text(table.schema.field(name).type)]
    return [name for name in text if str(table[name][0]).lower().endswith(SUFFIXES)]
