"""Weights from a file into a model and back: a misfit is told name by name, equal weights give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.files import digest, write_bytes
from stillroom.models.reading import first_of, read_state

__all__ = ["load_weights", "read_state", "save_weights", "state_bytes", "state_hash"]

# What wrappers put before every name: DataParallel and DDP, torch.compile, Lightning and the like.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "student.")
WRAPPED = 3


def load_weights(model: nn.Module, path: str | Path, *, field: str = "model") -> None:
    """Put the weights of a file into a model, cast to the model's own dtypes.

    The model changes only if every tensor fits. ``num_batches_tracked`` may be missing, as it is in old files.

    Args:
        model: what receives them.
        path: .safetensors, .pt, .pth or .th; a relative one is also looked for under ``$STILLROOM_DATA``.
        field: what messages call the model, such as ``teacher``.

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
    found = _without_prefixes(read_state(path, field=where), wanted)
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
            raise BadInput(where, str(path), f"finite numbers; {name} holds {_not_finite(tensor)}")
    model.load_state_dict(cast, strict=False)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's parameters and buffers as safetensors, atomically; equal weights give equal bytes.

    Tied tensors are written under each of their names.

    Args:
        model: what is saved.
        path: the file; its folder is made where needed.
    """
    content = _prepared(model)
    write_bytes(Path(path), safetensors.torch.save(content, metadata=_METADATA))


def state_bytes(model: nn.Module) -> int:
    """Size in bytes of the file :func:`save_weights` would write.

    >>> state_bytes(nn.Linear(256, 4)) > 4 * (256 * 4 + 4)
    True
    """
    return len(safetensors.torch.save(_prepared(model), metadata=_METADATA))


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


def _prepared(model: nn.Module) -> dict[str, Tensor]:
    """The state as safetensors wants it: on the CPU, contiguous, no two tensors in one storage."""
    seen: set[int] = set()
    content: dict[str, Tensor] = {}
    for name, value in _tensors(model).items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        content[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return content


def _without_prefixes(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def _not_finite(tensor: Tensor) -> str:
    return "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
