"""Files of weights, read with suspicion: nothing is unpickled beyond tensors, and what cannot be used is told."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from stillroom.errors import BadInput, shorten
from stillroom.files import find_input

# Where training scripts put the state: the first that is there, from outside in.
CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net", "network", "module", "weights", "params")
SHOWN = 5


def read_state(path: str | Path, *, field: str = "weights") -> dict[str, Tensor]:
    """Read the named tensors of a file of weights, on the CPU, whatever containers they are wrapped in.

    Args:
        path: .safetensors, or what ``torch.save`` wrote; told apart by content, not by the suffix.
        field: what messages call the path.

    Returns:
        Name → tensor, in the file's order. Prefixes such as ``module.`` are kept.

    Raises:
        BadInput: no such file, not a file of weights, damaged, or it holds more than tensors (it is then not opened:
            no code of the file runs).
    """
    shown = str(path)
    try:
        file = find_input(path)
        there, plain = file.exists(), file.is_file()
    except (OSError, RuntimeError):  # a name too long for any file, a ~user who is not
        there = False
    if not there:
        raise BadInput(field, shown, "a file that exists, here or under $STILLROOM_DATA")
    if not plain:
        raise BadInput(field, shown, "a file of weights, not a folder")
    try:
        with file.open("rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise BadInput(field, shown, f"a file that can be read ({error.strerror})") from None
    if not head:
        raise BadInput(field, shown, "a file of weights; this one is empty")
    if _looks_like_safetensors(head, file.stat().st_size) or file.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(file))
        except (SafetensorError, KeyError, ValueError, RuntimeError, OSError):
            raise BadInput(field, shown, f"a safetensors file; this one is {_condition(head)}") from None
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise BadInput(
            field, shown, f"a file of weights (.safetensors, .pt, .pth, .th); this one is {_condition(head)}"
        )
    return _state_in(_load_tensors(file, field, shown), field, shown)


def first_of(items: list[str]) -> str:
    """The first names of a list, and how many more there are.

    >>> first_of(list("abcdefg"))
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    # Names come from files of strangers: no line break or escape sequence of theirs reaches the terminal.
    shown = [item if item.isprintable() and len(item) <= 160 else shorten(item) for item in items[:SHOWN]]
    return ", ".join(shown) + more


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    # Eight bytes that give the length of the header, then the header, which is JSON.
    return len(head) > 8 and head[8:9] == b"{" and int(struct.unpack("<Q", head[:8])[0]) + 8 <= size


def _condition(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: fetch the file itself with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "a web page, not the file it should have been"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "text"
    return "damaged, cut short or of another kind"


def _load_tensors(file: Path, field: str, shown: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|Trying to \w+ ([\w.]+)", str(error))
        what = f" ({named[1] or named[2]})" if named else ""
        raise BadInput(
            field,
            shown,
            f"tensors alone; the file holds more than tensors{what} and was not opened: save its state_dict",
        ) from None
    except Exception as error:  # bytes that were changed can fail anywhere in the reader
        if "TorchScript" in str(error):
            raise BadInput(
                field, shown, "tensors alone; the file holds more than tensors (TorchScript) and was not opened"
            ) from None
        raise BadInput(field, shown, "a file of weights; this one is damaged or cut short") from None


def _state_in(content: Any, field: str, shown: str) -> dict[str, Tensor]:
    """The mapping of names to tensors, found through the containers around it."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if isinstance(content, Mapping):
        state = {key: value for key, value in content.items() if isinstance(key, str) and _is_plain(value)}
        if state:
            return state
        held = f"a mapping with {first_of([str(key) for key in content])}" if content else "an empty mapping"
    else:
        held = f"a {type(content).__name__}"
    raise BadInput(field, shown, f"a mapping of names to tensors, alone or as `state_dict`; the file holds {held}")


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
