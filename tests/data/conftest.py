"""Small data written to disk, as the published ones are."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def _png(array: np.ndarray) -> bytes:
    """An array [H, W] or [H, W, 3] as the bytes of a PNG, which loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _metadata(features: dict[str, Any]) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def _write_parquet(
    path: Path,
    pictures: Sequence[bytes | None],
    labels: Sequence[int | None],
    *,
    names: Sequence[str] | None = None,
    image: str = "image",
    label: str = "label",
    plain: bool = False,
    extra: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
) -> Path:
    """One file in Hugging Face's layout; ``plain`` stores bare bytes and no metadata."""
    cells = list(pictures) if plain else [{"bytes": each, "path": None} for each in pictures]
    kind = pa.binary() if plain else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({image: pa.array(cells, kind), label: pa.array(labels, pa.int64()), **(extra or {})})
    if features is None and not plain:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(names or [])}}
    if features:
        table = table.replace_schema_metadata(_metadata(features))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def _write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray, *, packed: bool = True) -> None:
    """The two idx files of a split, as published."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
        content = header + array.astype(np.uint8).tobytes()
        name = f"{split}-{kind}-ubyte"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def _write_images(folder: Path, images: dict[str, np.ndarray | Image.Image], **options: Any) -> Path:
    """Image files below a folder, by their names; the ending tells the format."""
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return folder


@pytest.fixture
def write_images() -> Callable[..., Path]:
    return _write_images


@pytest.fixture
def pet_folder(tmp_path: Path, colours: np.ndarray) -> Path:
    """Two splits of cats and dogs as PNG files of 5×4 pixels: eight to learn from, four to evaluate on."""
    folder = tmp_path / "pets"
    for row, array in enumerate(colours):
        split = "train" if row < 8 else "test"
        _write_images(folder / split, {f"{'dog' if row % 2 else 'cat'}/{row:02}.png": array})
    return folder


@pytest.fixture
def png() -> Callable[..., bytes]:
    return _png


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    return _write_parquet


@pytest.fixture
def write_idx() -> Callable[..., None]:
    return _write_idx


@pytest.fixture
def colours() -> np.ndarray:
    """Twelve RGB pictures of 5×4 pixels, uint8 [12, 5, 4, 3]."""
    return np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)


@pytest.fixture
def greys() -> np.ndarray:
    """Twelve grey pictures of 5×4 pixels, uint8 [12, 5, 4]."""
    return np.random.default_rng(1).integers(0, 256, (12, 5, 4), dtype=np.uint8)
