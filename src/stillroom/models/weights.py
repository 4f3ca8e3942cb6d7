"""Weights from a file into a model and back; nothing but tensors is read, equal weights give equal bytes."""

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
from torch import Tensor, nn

from stillroom.errors import BadInput, shorten
from stillroom.files import digest, find_input, verify, write_bytes

# What wrappers put before every name: DataParallel and DDP, torch.compile, Lightning and the like.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "student.")
WRAPPED = 3


def load_weights(model: nn.Module, path: str | Path, *, field: str = "model") -> None:
    """Put the weights of a file into a model, cast to the model's own dtypes.

    The model changes only if every tensor fits. ``num_batches_tracked`` may be missing, as it is in old files.

    Args:
        path: .safetensors, .pt, .pth or .th; a relative one is also looked for under ``$STILLROOM_DATA``.

    Raises:
        BadInput: the file cannot be read as weights, does not fit the model, or holds numbers that are not finite.

    >>> import tempfile
    >>> net, other = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(net, Path(folder, "net.safetensors"))
    ...     load_weights(other, Path(folder, "net.safetensors"))
    >>> torch.equal(net.weight, other.weight)
    True
    """
    where = f"{field}.weights"
    wanted = _tensors(model)
    found = _strip_prefixes(read_state(path, field=where), wanted)
    storages = {wanted[name].untyped_storage().data_ptr() for name in wanted if name in found}
    missing = [
        name
        for name, tensor in wanted.items()
        # A tensor tied to another that is there comes with it: some tools write tied weights once.
        if name not in found
        and not name.endswith("num_batches_tracked")
        and (tensor.numel() == 0 or tensor.untyped_storage().data_ptr() not in storages)
    ]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} has {list(found[name].shape)}, wants {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    parts = [("missing", missing), ("unexpected", unexpected), ("other shapes", misshapen)]
    if misfits := [f"{kind}: {first_of(items)}" for kind, items in parts if items]:
        raise BadInput(where, str(path), "weights that fit the model; " + "; ".join(misfits))
    cast = {name: tensor.to(wanted[name].dtype) for name, tensor in found.items()}
    for name, tensor in cast.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            held = "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
            raise BadInput(where, str(path), f"finite numbers; {name} holds {held}")
    model.load_state_dict(cast, strict=False)


def save_weights(model: nn.Module, path: str | Path, *, checksum: bool = False) -> None:
    """Write a model's parameters and buffers as safetensors, atomically; equal weights give equal bytes.

    Tied tensors are written under each of their names. With ``checksum``, :func:`read_state` finds out about damage.
    """
    content = _storable(model)
    write_bytes(Path(path), safetensors.torch.save(content, metadata=_METADATA), checksum=checksum)


def state_bytes(model: nn.Module) -> int:
    """Size in bytes of the file :func:`save_weights` would write.

    >>> state_bytes(nn.Linear(256, 4)) > 4 * (256 * 4 + 4)
    True
    """
    return len(safetensors.torch.save(_storable(model), metadata=_METADATA))


def state_hash(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all parameters and buffers; 64 hex digits.

    >>> net = nn.Linear(2, 1)
    >>> before = state_hash(net)
    >>> with torch.no_grad():
    ...     _ = net.weight.add_(1e-3)
    >>> state_hash(net) == before
    False
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    parts: list[bytes] = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        parts += [name.encode(), str(tensor.dtype).encode(), str(list(tensor.shape)).encode()]
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest(*parts)


_METADATA = {"format": "pt"}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _storable(model: nn.Module) -> dict[str, Tensor]:
    """The state as safetensors wants it: on the CPU, contiguous, no two tensors in one storage."""
    seen: set[int] = set()
    content: dict[str, Tensor] = {}
    for name, value in _tensors(model).items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        content[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return content


def _strip_prefixes(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the shortest chain of wrappers' prefixes, of at most ``WRAPPED``, that makes the most names fit."""
    best, most = found, sum(name in wanted for name in found)
    chains = [found]
    for _ in range(WRAPPED):
        longer = []
        for state in chains:
            for prefix in PREFIXES:
                stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                if stripped.keys() == state.keys() or len(stripped) < len(state):
                    continue
                longer.append(stripped)
                fitting = sum(name in wanted for name in stripped)
                if fitting > most:
                    best, most = stripped, fitting
        chains = longer
    return best


# Where training scripts put the state: the first that is there, from outside in.
CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net", "network", "module", "weights", "params")
SHOWN = 5


def read_state(path: str | Path, *, field: str = "weights") -> dict[str, Tensor]:
    """Read the named tensors of a file of weights, on the CPU, whatever containers they are wrapped in.

    Args:
        path: .safetensors, or what ``torch.save`` wrote; recognised by content, not by the suffix.

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
        verify(file)
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
    # Names come from files that are not trusted: no line break or escape sequence of theirs reaches the terminal.
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
