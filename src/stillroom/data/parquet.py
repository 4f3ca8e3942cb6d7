"""Parquet and Arrow files in Hugging Face's layout: encoded pictures in one column, class numbers in another."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stillroom.data.config import DataConfig
from stillroom.data.decoded import stored_images
from stillroom.data.decoding import decode, decode_error, decode_photo
from stillroom.data.image_folder import FORMATS
from stillroom.data.images import ImageSet, balanced_rows, number_classes
from stillroom.data.reading import ArrayStack, data_name, list_folder, map_in_order, path_error, read_error, split_error
from stillroom.errors import BadInput, nearest
from stillroom.files import digest, file_hash

_PREFERRED_LABELS = ("label", "fine_label")
_DEFAULTS = DataConfig()


@dataclass(frozen=True)
class ParquetColumns:
    """The columns that are read, and the class names where the file has them."""

    image: str
    labels: tuple[str, ...]  # one of class numbers, or several of other labels
    class_names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, path: Path, config: DataConfig) -> ParquetColumns:
    """Find the columns: those named, else by Hugging Face's metadata, else the only one of a fitting type."""
    features = declared_features(schema)
    types = dict(zip(schema.names, schema.types, strict=True))
    pictures = [name for name in types if _holds_bytes(types[name])]
    numbers = [name for name in types if pa.types.is_integer(types[name])]
    image = _choose("image", config.image_column, pictures, _declared(features, pictures, "Image"), types, path)
    if config.label_columns is not None:
        check_label_columns(types, config.label_columns, path)
        return ParquetColumns(image, config.label_columns, config.label_columns)
    label = _choose("label", config.label_column, numbers, _declared(features, numbers, "ClassLabel"), types, path)
    return ParquetColumns(image, (label,), declared_class_names(features.get(label)))


def check_label_columns(types: Mapping[str, Any], columns: Sequence[str], path: Path) -> None:
    """Refuse ``data.label_columns`` that a file lacks, or that hold no numbers."""
    for name in columns:
        if name not in types:
            raise BadInput("data.label_columns", name, f"a column of {path.name} ({nearest(name, types)})")
        kind = types[name]
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
        if not any(holds(kind) for holds in numbers):
            raise BadInput("data.label_columns", name, f"a column of numbers, but it holds {kind}")


def _choose(
    kind: str, named: str | None, fitting: list[str], declared: list[str], types: dict[str, Any], path: Path
) -> str:
    field = f"data.{kind}_column"
    wanted = "encoded pictures (bytes)" if kind == "image" else "whole numbers"
    if named is not None:
        if named not in types:
            raise BadInput(field, named, f"a column of {path.name} ({nearest(named, types)})")
        if named not in fitting:
            raise BadInput(field, named, f"a column of {wanted}, but it holds {types[named]}")
        return named
    candidates = declared or fitting
    if kind == "label":
        candidates = next(([name] for name in _PREFERRED_LABELS if name in candidates), candidates)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise BadInput(
            field, None, f"one of {', '.join(candidates)}: {path.name} has more than one that fits; set {field}"
        )
    raise path_error(path, f"a column of {wanted}; its columns are {', '.join(types) or 'none'}")


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def declared_features(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's description of the columns; empty where there is none that can be read."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _declared(features: dict[str, Any], fitting: list[str], kind: str) -> list[str]:
    return [name for name in fitting if isinstance(features.get(name), dict) and features[name].get("_type") == kind]


def declared_class_names(feature: Any) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


# A split's name holds no hyphen: what follows one names the shard.
_NAME = re.compile(r"(?P<split>[^-]+)(-(?P<shard>.+))?\.parquet")
_SHARD_OF = re.compile(r"\d+-of-(?P<total>\d+)")
ARROW = ".arrow"
_ROWS = 1024  # read at a time: enough to keep every thread busy, little to hold twice
_JOB = 64  # pictures a thread decodes in one go; handing over small ones singly costs more than decoding them


def parquet_splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a folder, each with its files in order: ``{split}.parquet`` or ``{split}-*.parquet``.

    A split is looked for in the folder itself, then in its ``data`` folder. A folder that ``datasets`` wrote by
    ``save_to_disk`` has a folder of Arrow files for each split, or is one.
    """
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        inside: dict[str, list[Path]] = {}
        for path in list_folder(place) if place == folder or place.is_dir() else []:
            if match := _NAME.fullmatch(path.name):
                inside.setdefault(match["split"], []).append(path)
        found = inside | found
    return _saved_splits(folder) | found


def _saved_splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a folder written by ``save_to_disk``, each with the Arrow files that its ``state.json`` names."""
    found: dict[str, list[Path]] = {}
    for place in (folder, *(path for path in list_folder(folder) if path.is_dir())):
        try:
            state = json.loads((place / "state.json").read_text(encoding="utf-8"))
            names = [Path(str(each["filename"])).name for each in state["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        split = place.name if place != folder else str(state.get("_split") or "train")
        found[split] = [place / name for name in names]
    return found


class SavedTable:
    """An Arrow file of ``save_to_disk``, with what is read of a ``ParquetFile``; its columns stay on disk."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            self.metadata: pa.Table = pa.ipc.open_stream(source).read_all()
        self.metadata.validate(full=True)
        self.schema_arrow = self.metadata.schema

    def iter_batches(self, size: int, columns: list[str]) -> Iterator[Any]:
        """The rows of some columns, some at a time."""
        yield from self.metadata.select(columns).to_batches(max_chunksize=size)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The table, or some of its columns."""
        return self.metadata if columns is None else self.metadata.select(columns)

    def close(self) -> None:
        """Nothing: the map ends with the table."""


def read_parquet(
    folder: Path, split: str, config: DataConfig = _DEFAULTS, *, limit: int | None = None, field: str = "split"
) -> ImageSet:
    """Read and decode every shard of one split.

    Args:
        image_column: column of the pictures; found by the files' own metadata or types where None.
        label_column: column of the class numbers; found likewise.
        label_columns: in its place, of another task, those of 0 and 1 or of numbers.
        task: what the labels are.
        image_size: side of the square that each picture is brought to, as a file's is; None: all are of one size.
        limit: only the images of ``ImageSet.balanced_subset(limit)``; no other is decoded.
    """
    one_class, image_size = config.label_columns is None, config.image_size
    with _open_split(folder, split, config, field) as (files, columns):
        labels: npt.NDArray[Any] = _read_labels(files, columns) if one_class else _read_vectors(files, columns)
        names = columns.class_names or number_classes(torch.from_numpy(labels))
        wanted = balanced_rows(labels if one_class else np.zeros(len(labels), np.int64), limit)

        def source() -> dict[str, Any]:
            content = [file_hash(path) for path, _ in files]
            side = {} if image_size is None else {"side": image_size}
            return {"parquet": content, "column": columns.image, "rows": digest(wanted.tobytes()), **side}

        images = stored_images(
            data_name(folder), len(wanted), source, lambda: _read_images(files, columns, wanted, image_size)
        )
    targets = torch.from_numpy(labels[wanted])
    return ImageSet(torch.from_numpy(images), targets, names, data_name(folder), task=config.task or "single_label")


def parquet_class_names(folder: Path, split: str, config: DataConfig) -> tuple[str, ...]:
    """The classes of a split that is there, without reading a picture; arguments and errors as :func:`read_parquet`."""
    with _open_split(folder, split, config, "split") as (files, columns):
        return columns.class_names or number_classes(torch.from_numpy(_read_labels(files, columns)))


@contextmanager
def _open_split(
    folder: Path, split: str, config: DataConfig, field: str
) -> Iterator[tuple[list[tuple[Path, Any]], ParquetColumns]]:
    """The files of a split with their paths, and the columns that all of them have."""
    found = parquet_splits(folder)
    if split not in found:
        raise split_error(field, split, found)
    paths = found[split]
    _check_shards(paths, split)
    opened: list[tuple[Path, Any, ParquetColumns]] = []
    try:
        for path in paths:
            with _reporting_damage(path):
                if path.suffix == ARROW:
                    file: Any = SavedTable(path)
                else:
                    file = pq.ParquetFile(path, page_checksum_verification=True)
                opened.append((path, file, find_columns(file.schema_arrow, path, config)))
        first = opened[0][2]
        for path, _, columns in opened:
            if columns != first:
                raise path_error(path, f"the same columns and classes as in {paths[0].name}")
        yield [(path, file) for path, file, _ in opened], first
    finally:
        for _, file, _ in opened:
            file.close()


def _check_shards(paths: list[Path], split: str) -> None:
    """Refuse a split that lacks shards, or that lies there twice: either would silently change the data."""
    if paths[0].suffix == ARROW:
        return  # their list is not made of names
    shards = [_NAME.fullmatch(path.name)["shard"] for path in paths]  # type: ignore[index]  # matched when listed
    if len(paths) > 1 and None in shards:
        names = ", ".join(path.name for path in paths)
        raise path_error(paths[0].parent, f"split {split!r} in one file or in shards, not both ({names})")
    totals = {int(match["total"]) for shard in shards if shard and (match := _SHARD_OF.fullmatch(shard))}
    if totals and totals != {len(paths)}:
        announced = " or ".join(map(str, sorted(totals)))
        raise path_error(paths[0].parent, f"all {announced} shards of split {split!r}, found {len(paths)}")


def _read_labels(files: list[tuple[Path, Any]], columns: ParquetColumns) -> npt.NDArray[np.int64]:
    labels = [np.empty(0, np.int64)]
    for path, file in files:
        row = 0
        with _reporting_damage(path):
            for batch in file.iter_batches(_ROWS, columns=[*columns.labels]):
                labels.append(class_labels(batch.column(columns.labels[0]), path, row))
                row += len(labels[-1])
    return np.concatenate(labels)


def _read_vectors(files: list[tuple[Path, Any]], columns: ParquetColumns) -> npt.NDArray[np.float32]:
    parts = []
    for path, file in files:
        with _reporting_damage(path):
            table = file.read(columns=[*columns.labels])
        parts.append(label_matrix(table, columns.labels, path))
    return np.concatenate(parts)


def label_matrix(table: pa.Table, columns: Sequence[str], path: Path) -> npt.NDArray[np.float32]:
    """The label columns side by side, float32 [N, K]; a row without any label is one of NaN."""
    with _reporting_damage(path):
        found = np.stack([_numbers(table.column(name)) for name in columns], 1)
    partly = np.flatnonzero(np.isnan(found).any(1) & ~np.isnan(found).all(1))
    if partly.size:
        raise path_error(path, f"all of {', '.join(columns)} in a row, or none, but row {partly[0]} has some")
    return found


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    return np.asarray(column.cast(pa.float32()).to_numpy(), dtype=np.float32)


def _read_images(
    files: list[tuple[Path, Any]], columns: ParquetColumns, wanted: npt.NDArray[np.int64], side: int | None
) -> npt.NDArray[np.uint8]:
    """The pictures of the wanted rows, which are numbered through all files and sorted."""
    stack = ArrayStack(len(wanted), "data.path", str(files[0][0].parent))
    before = 0  # rows of the files read so far
    for path, file in files:
        with _reporting_damage(path):
            decode_some = partial(_decode_all, path=path, side=side)
            chunks = _chunks(file, columns.image, wanted[wanted >= before] - before)
            with closing(map_in_order(decode_some, chunks, min(8, os.cpu_count() or 1))) as decoded:
                for pictures in decoded:
                    for picture in pictures:
                        stack.add(picture, mix_grey=True)
        before += file.metadata.num_rows
    return stack.finish()


def _chunks(file: Any, column: str, wanted: npt.NDArray[np.int64]) -> Iterator[list[tuple[int, Any]]]:
    """The cells of the wanted rows of a file with their rows, some at a time."""
    row = 0
    for batch in file.iter_batches(_ROWS, columns=[column]):
        first, last = np.searchsorted(wanted, [row, row + len(batch)])
        rows = wanted[first:last]
        cells = list(zip(rows.tolist(), batch.column(column).take(pa.array(rows - row)).to_pylist(), strict=True))
        yield from (cells[at : at + _JOB] for at in range(0, len(cells), _JOB))
        row += len(batch)


def class_labels(column: pa.Array, path: Path, row: int) -> npt.NDArray[np.int64]:
    if column.null_count:
        first = row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise path_error(path, f"a label in every row, but row {first} has none")
    labels = np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)
    if labels.size and labels.min() < 0:
        first = int(np.flatnonzero(labels < 0)[0])
        raise path_error(
            path, f"class numbers from 0, but row {row + first} has {labels[first]} (a split without labels?)"
        )
    return labels


def _decode_all(cells: list[tuple[int, Any]], path: Path, side: int | None) -> list[npt.NDArray[np.uint8]]:
    pictures = []
    for row, cell in cells:
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is None:
            raise path_error(path, f"a picture's bytes in every row, but row {row} has none")
        try:
            pictures.append(decode(content, FORMATS) if side is None else decode_photo(content, side, FORMATS))
        except Exception as error:  # Pillow's decoders raise many kinds on damaged pictures
            raise decode_error(path, f"a picture in row {row}", error) from None
    return pictures


@contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    """Every way in which a damaged file fails becomes bad input."""
    try:
        yield
    except BadInput:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, MemoryError) as error:
        raise read_error(path, error) from None
