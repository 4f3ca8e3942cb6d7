"""Which columns of a parquet file hold the pictures and the class numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stillroom.errors import BadInput, nearest

_PREFERRED_LABELS = ("label", "fine_label")


@dataclass(frozen=True)
class Columns:
    """The two columns that are read, and the classes' names where the file tells them."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, path: Path, image_column: str | None, label_column: str | None) -> Columns:
    """Find the columns: those named, else by Hugging Face's metadata, else the only one of a fitting type.

    Args:
        schema: of the file.
        path: of the file, for errors.
        image_column: the column of the pictures, where the user named it.
        label_column: the column of the labels, where the user named it.

    Raises:
        BadInput: no column fits or several do; the message lists them and names the field to set.
    """
    features = _features(schema)
    types = dict(zip(schema.names, schema.types, strict=True))
    pictures = [name for name in types if _holds_bytes(types[name])]
    numbers = [name for name in types if pa.types.is_integer(types[name])]
    image = _choose("image", image_column, pictures, _declared(features, pictures, "Image"), types, path)
    label = _choose("label", label_column, numbers, _declared(features, numbers, "ClassLabel"), types, path)
    return Columns(image, label, _class_names(features.get(label)))


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
    raise BadInput("data.path", str(path), f"a column of {wanted}; its columns are {', '.join(types) or 'none'}")


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's description of the columns; empty where there is none that can be read."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _declared(features: dict[str, Any], fitting: list[str], kind: str) -> list[str]:
    return [name for name in fitting if isinstance(features.get(name), dict) and features[name].get("_type") == kind]


def _class_names(feature: Any) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
