"""Weights from a file into a model and back; nothing but tensors is read, equal weights give equal bytes."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stillroom.errors import BadInput, shorten
from stillroom.files import digest, find_input, verify, write_bytes
from stillroom.models.pickles import as_protocol_2

Note = Callable[[str], None]

# What wrappers put before every name: DataParallel and DDP, torch.compile, Lightning, timm, self-supervised training.
PREFIXES = (
    *("module.", "_orig_mod.", "model.", "net.", "student.", "teacher.", "ema.", "model_ema.", "ema_model."),
    *("backbone.", "encoder.", "base_model."),
)
_DEEPEST_PREFIX = 3
# Where training scripts put the state: the first of these that fits, unless there is a moving average.
CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net", "network", "module", "weights", "params")
_MOVING_AVERAGE = re.compile(r"(?:^|[._])ema(?:$|[._])")
# What the CIFAR networks of RepDistiller and mdistiller call parts of the zoo's.
_OTHER_NAMES = (
    (re.compile(r"(?:^|(?<=\.))fc\.(?=weight$|bias$)"), "linear."),
    (re.compile(r"\.(?:downsample|convShortcut)\."), ".shortcut."),
    (re.compile(r"(?:^|(?<=\.))block(\d)\.layer\."), r"layer\1."),
)
# Counters that tools add to a state: torch's AveragedModel, thop.
_COUNTERS = frozenset({"n_averaged", "total_ops", "total_params"})
SHOWN = 5


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    field: str = "model",
    key: str | None = None,
    prefix: str | None = None,
    fresh: Collection[str] = (),
    note: Note = lambda text: None,
) -> None:
    """Put the weights of a file into a model, cast to the model's own dtypes.

    The model changes only if every tensor fits. ``num_batches_tracked`` may be missing, as it is in old files. Of a
    file with a moving average next to the weights, the average is loaded, as timm does. Where several models of a file
    fit, ``key`` or ``prefix`` must name one.

    Args:
        model: what the weights are for.
        path: .safetensors, .pt, .pth or .th, or a folder or an index file of shards; a relative one is also looked for
            under ``$STILLROOM_DATA``.
        field: what errors call the model.
        key: the entry of the file to load, such as ``state_dict_ema``, or ``a.b`` of one within another.
        prefix: load only the tensors whose names begin with this, such as ``student``; the others are left out.
        fresh: names of the model's tensors that keep their values; the file may hold others in their place.
        note: called with a line where a choice was made, or where tensors of the file were left out.

    Raises:
        BadInput: the file cannot be read as weights, does not fit the model, fits in several ways, or holds numbers
            that are not finite or of another kind, such as the integers of quantised weights.

    >>> import tempfile
    >>> net, other = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(net, Path(folder, "net.safetensors"))
    ...     load_weights(other, Path(folder, "net.safetensors"))
    >>> torch.equal(net.weight, other.weight)
    True
    """
    where = f"{field}.weights"
    wanted = {name: tensor for name, tensor in _tensors(model).items() if name not in fresh}
    states = _read_states(path, where)
    if key is not None:
        named = [state for state in states if state.place == key]
        if not named:
            others = first_of([state.place for state in states if state.place]) or "none: the tensors are not nested"
            raise BadInput(f"{field}.weights_key", key, f"an entry of {path} that holds tensors ({others})")
        states = named
    if prefix is not None:
        states = _under(states, prefix.removesuffix(".") + ".", f"{field}.weights_prefix", path)
    state, line = _choose(states, wanted, bool(fresh), field, path)
    if line and key is None:
        note(f"{where}: {line}")
    if fresh:
        beyond = sorted({*state.left_out, *(name for name in state.tensors if name not in wanted)})
        left = f"; not used of the file: {first_of(beyond)}" if beyond else ""
        note(f"{where}: new, not from the file: {first_of(sorted(fresh))}{left}")
    cast = {
        name: _cast(name, state.tensors[name], wanted[name], where, path) for name in wanted if name in state.tensors
    }
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


@dataclass(frozen=True)
class _State:
    """Named tensors at one place of a file."""

    place: str  # the keys that lead to it, joined by dots; empty for the whole file
    tensors: dict[str, Tensor]
    unread: list[str]  # names of tensors that are quantised, sparse or without data
    prefix: str = ""  # what was taken off the names
    left_out: list[str] = field(default_factory=list)  # names without ``prefix``, which are not loaded

    @property
    def label(self) -> str:
        return " in ".join(f"`{each}`" for each in (self.prefix, self.place) if each) or "the bare tensors"

    @property
    def is_average(self) -> bool:
        return bool(_MOVING_AVERAGE.search(self.place) or _MOVING_AVERAGE.search(self.prefix))


@dataclass(frozen=True)
class _Misfits:
    """What of a model a state lacks, has too much, and has in another shape."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def __str__(self) -> str:
        parts = (("missing", self.missing), ("unexpected", self.unexpected), ("other shapes", self.shapes))
        return "; ".join(f"{kind}: {first_of(items)}" for kind, items in parts if items)


def _choose(
    states: Sequence[_State], wanted: Mapping[str, Tensor], any_other: bool, field: str, path: str | Path
) -> tuple[_State, str]:
    """The state that fits the model, and a line where it was chosen among several or left something out.

    Args:
        any_other: whether the state may hold more than is wanted.
    """
    fitting, closest = _fitting(states, wanted, any_other)
    if not fitting:
        fitting, _ = _fitting([_in_names_of_zoo(state) for state in states], wanted, any_other)
    if not fitting:
        assert closest is not None
        misfits, state = closest
        where = f"the model ({state.label})" if len(states) > 1 and state.place else "the model"
        unread = f"; quantised, sparse or without data: {first_of(state.unread)}" if state.unread else ""
        of_head = misfits.shapes and not misfits.missing and not misfits.unexpected and field == "student"
        hint = "; student.head: new keeps a new last layer for other classes" if of_head else ""
        if any(".downsample.0." in name for name in misfits.unexpected) and not any("shortcut" in n for n in wanted):
            hint += "; a resnet of the CRD benchmark takes options: {projection: true}"
        raise BadInput(f"{field}.weights", str(path), f"weights that fit {where}; {misfits}{unread}{hint}")
    chosen = next((state for state in fitting if state.is_average), fitting[0])
    others: list[_State] = []
    for state in fitting:
        if not any(_equal(state.tensors, other.tensors) for other in (chosen, *others)):
            others.append(state)
    labels = ", ".join(state.label for state in others[:SHOWN])
    how = f"{field}.weights_{'prefix' if chosen.prefix and chosen.left_out else 'key'}"
    if others and not chosen.is_average:
        expected = f"one model, but several fit: {chosen.label}, {labels}; set {how}"
        raise BadInput(f"{field}.weights", str(path), expected)
    if others:
        return chosen, f"loaded {chosen.label}, the moving average; it also holds {labels} ({how} chooses)"
    if chosen.left_out and not any_other:
        return chosen, f"loaded the tensors under {chosen.label}; left out: {first_of(chosen.left_out)}"
    return chosen, ""


def _fitting(
    states: Sequence[_State], wanted: Mapping[str, Tensor], any_other: bool
) -> tuple[list[_State], tuple[_Misfits, _State] | None]:
    """The states that fit the model, and the one of the others that has most of it."""
    closest: tuple[int, _Misfits, _State] | None = None
    fitting: list[_State] = []
    for state in states:
        whole: list[_State] = []
        parts: list[_State] = []
        for variant in _without_prefixes(state):
            misfits = _misfits(variant, wanted, any_other=any_other)
            if not misfits:
                (parts if variant.left_out else whole).append(variant)
            elif not variant.left_out:
                found = sum(name in wanted for name in variant.tensors)
                if closest is None or found > closest[0]:
                    closest = found, misfits, variant
        fitting += whole[:1] or parts
    return fitting, closest[1:] if closest else None


def _in_names_of_zoo(state: _State) -> _State:
    """A state whose tensors have other libraries' names, with ours."""
    tensors = {}
    for name, tensor in state.tensors.items():
        for pattern, ours in _OTHER_NAMES:
            name = pattern.sub(ours, name)
        tensors[name] = tensor
    return replace(state, tensors=tensors)


def _without_prefixes(state: _State) -> Iterator[_State]:
    """A state as it is, then without each chain of wrappers' prefixes: of all names, and of those that have it."""
    yield state
    chains = [("", state.tensors)]
    for _ in range(_DEEPEST_PREFIX):
        longer = []
        for chain, tensors in chains:
            for prefix in PREFIXES:
                under = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
                if not under:
                    continue
                stripped = {name.removeprefix(prefix): each for name, each in tensors.items()}
                if len(stripped) == len(tensors):
                    yield replace(state, tensors=stripped, prefix=chain + prefix)
                if len(under) < len(tensors) or chain:
                    others = [name for name in state.tensors if not name.startswith(chain + prefix)]
                    yield replace(state, tensors=under, prefix=chain + prefix, left_out=others + state.left_out)
                longer.append((chain + prefix, under))
        chains = longer


def _under(states: Sequence[_State], prefix: str, field: str, path: str | Path) -> list[_State]:
    """Of each state the tensors whose names begin with a prefix, without it."""
    found = []
    for state in states:
        under = {name.removeprefix(prefix): each for name, each in state.tensors.items() if name.startswith(prefix)}
        if under:
            others = [name for name in state.tensors if not name.startswith(prefix)]
            found.append(replace(state, tensors=under, prefix=prefix, left_out=others))
    if not found:
        there = dict.fromkeys(name.partition(".")[0] for name in states[0].tensors)
        raise BadInput(field, prefix, f"what names in {path} begin with ({first_of(list(there))})")
    return found


def _misfits(state: _State, wanted: Mapping[str, Tensor], *, any_other: bool) -> _Misfits:
    found = state.tensors
    storages = {wanted[name].untyped_storage().data_ptr() for name in wanted if name in found}
    missing = [
        name
        for name, tensor in wanted.items()
        # A tensor tied to another that is there comes with it: some tools write tied weights once.
        if name not in found
        and not name.endswith("num_batches_tracked")
        and (tensor.numel() == 0 or tensor.untyped_storage().data_ptr() not in storages)
    ]
    unexpected = [] if any_other else [n for n in found if n not in wanted and n.rpartition(".")[2] not in _COUNTERS]
    shapes = [
        f"{name} has {list(found[name].shape)}, wants {list(tensor.shape)}{_why_shape(name, found[name], tensor)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    return _Misfits(missing, unexpected, shapes)


def _why_shape(name: str, found: Tensor, wanted: Tensor) -> str:
    """What to do where embeddings of words have another number of rows."""
    is_words = re.search(r"(?<!position_)(embeddings|embed_tokens|tokens)\.weight$", name) is not None
    if is_words and found.dim() == wanted.dim() == 2 and found.shape[1] == wanted.shape[1]:
        return " (of another tokenizer: give data.text.tokenizer the one that it was trained with)"
    return ""


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor is other[name]
        or (
            (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape)
            # By their bytes: a NaN equals itself, and not every dtype can be compared.
            and torch.equal(*(each.contiguous().reshape(-1).view(torch.uint8) for each in (tensor, other[name])))
        )
        for name, tensor in one.items()
    )


def _cast(name: str, tensor: Tensor, model: Tensor, where: str, path: str | Path) -> Tensor:
    """A tensor of a file in the dtype of the model's own, where that changes no more than its precision."""
    if _kind(tensor) != _kind(model):
        cast = tensor.to(model.dtype) if not tensor.is_complex() else tensor
        # Counts that were saved as floats, masks that were saved as bytes.
        if _kind(model) == "float" or tensor.is_complex() or not torch.equal(cast.to(tensor.dtype), tensor):
            kinds = f"{_dtype(tensor)}, not {_dtype(model)}"
            expected = f"numbers of the model's kind; {name} is {kinds}: export quantised weights as floats"
            raise BadInput(where, str(path), expected)
    cast = tensor.to(model.dtype)
    if (cast.is_floating_point() or cast.is_complex()) and not bool(torch.isfinite(cast).all()):
        held = "NaN" if bool(torch.isnan(cast).any()) else "infinity"
        raise BadInput(where, str(path), f"finite numbers; {name} holds {held}")
    return cast


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "whole"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def read_state(path: str | Path, *, field: str = "weights") -> dict[str, Tensor]:
    """Read the named tensors of a file of weights, on the CPU, whatever containers they are wrapped in.

    Args:
        path: .safetensors, or what ``torch.save`` wrote, recognised by content, not by the suffix; or a folder of
            shards, or their index.

    Returns:
        Name → tensor, in the file's order. Prefixes such as ``module.`` are kept. Of several states the moving average
        comes first, then the usual names.

    Raises:
        BadInput: no such file, not a file of weights, damaged, or it holds more than tensors (it is then not opened:
            no code of the file runs).
    """
    return _read_states(path, field)[0].tensors


def _read_states(path: str | Path, field: str) -> list[_State]:
    """The states of a file, those first that it is most likely meant for."""
    shown = str(path)
    try:
        file = find_input(path)
        there, folder = file.exists(), file.is_dir()
    except (OSError, RuntimeError):  # a name too long for any file, a ~user who is not
        there = False
    if not there:
        raise BadInput(field, shown, "a file that exists, here or under $STILLROOM_DATA")
    if folder:
        file = _file_in(file, field, shown)
    if file.name.endswith(_INDEX):
        return [_State("", _read_shards(file, field, shown), [])]
    return _read_file(file, field, shown)


def _read_file(file: Path, field: str, shown: str) -> list[_State]:
    if not file.is_file():
        raise BadInput(field, shown, "a file of weights")
    try:
        with file.open("rb") as opened:
            head = opened.read(512)
        verify(file)
    except OSError as error:
        raise BadInput(field, shown, f"a file that can be read ({error.strerror})") from None
    if not head:
        raise BadInput(field, shown, "a file of weights; this one is empty")
    if _looks_like_safetensors(head, file.stat().st_size) or file.suffix == ".safetensors":
        try:
            return [_State("", dict(safetensors.torch.load_file(file)), [])]
        except (SafetensorError, KeyError, ValueError, RuntimeError, OSError):
            raise BadInput(field, shown, f"a safetensors file; this one is {_condition(head)}") from None
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise BadInput(
            field, shown, f"a file of weights (.safetensors, .pt, .pth, .th); this one is {_condition(head)}"
        )
    return _states_in(_load_tensors(file, field, shown), field, shown)


def first_of(items: Sequence[str]) -> str:
    """The first names of a list, and how many more there are.

    >>> first_of(list("abcdefg"))
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    # Names come from files that are not trusted: no line break or escape sequence of theirs reaches the terminal.
    shown = [item if item.isprintable() and len(item) <= 120 else shorten(item) for item in items[:SHOWN]]
    return ", ".join(shown) + more


_INDEX = ".index.json"
_SINGLE = ("model.safetensors", "pytorch_model.bin")


def _file_in(folder: Path, field: str, shown: str) -> Path:
    """The file of weights of a folder: the index of its shards, or the only one."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise BadInput(field, shown, f"a folder that can be read ({error.strerror})") from None
    # safetensors before what torch wrote, where a folder has both.
    for kind in ("safetensors", ""):
        indices = [name for name in names if name.endswith(f"{kind}{_INDEX}")]
        if len(indices) == 1:
            return folder / indices[0]
    single = next((name for name in _SINGLE if name in names), None)
    if single is None:
        held = first_of(names) or "nothing"
        expected = f"a file of weights, or a folder with {', '.join(_SINGLE)} or one index of shards (*{_INDEX})"
        raise BadInput(field, shown, f"{expected}; it holds {held}")
    return folder / single


def _read_shards(index: Path, field: str, shown: str) -> dict[str, Tensor]:
    """The tensors of all the files that an index of shards names."""
    try:
        content = json.loads(index.read_bytes())
        shards = content["weight_map"]
    except OSError as error:
        raise BadInput(field, shown, f"an index that can be read ({error.strerror})") from None
    except (ValueError, RecursionError, TypeError, KeyError):
        shards = None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise BadInput(field, shown, f"an index of shards, with the file of each tensor as `weight_map` ({index.name})")
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(shards.values()):
        # Files of the folder alone: an index that came from elsewhere opens nothing else.
        if name != Path(name).name or name in ("", ".", ".."):
            raise BadInput(field, shown, f"an index that names files next to it, not {shorten(name)}")
        if not (index.parent / name).is_file():
            raise BadInput(field, shown, f"all the shards of {index.name}; {shorten(name)} is not there")
        states = _read_file(index.parent / name, field, str(Path(shown) / name if shown != str(index) else name))
        tensors.update((key, tensor) for key, tensor in states[0].tensors.items() if shards.get(key, name) == name)
    if missing := [name for name in shards if name not in tensors]:
        raise BadInput(field, shown, f"shards with all the tensors of {index.name}; missing: {first_of(missing)}")
    return tensors


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    # Eight bytes that give the length of the header, then the header, which is JSON.
    return len(head) > 8 and head[8:9] == b"{" and int(struct.unpack("<Q", head[:8])[0]) + 8 <= size


_OTHER_KINDS = (
    (b"\x1f\x8b", "packed by gzip: unpack it"),
    (b"BZh", "packed by bzip2: unpack it"),
    (b"\xfd7zXZ", "packed by xz: unpack it"),
    (b"\x89HDF", "of Keras (HDF5)"),
    (b"\x93NUMPY", "a numpy array"),
    (b"GGUF", "of llama.cpp (GGUF)"),
)


def _condition(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: fetch the file itself with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "a web page, not the file it should have been"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    for magic, what in _OTHER_KINDS:
        if head.startswith(magic):
            return what
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "text"
    return "damaged, cut short or of another kind"


class _Inert(dict[Any, Any]):
    """Stands in for an object of a checkpoint that is no weight, such as a script's options; it keeps nothing."""

    def __new__(cls, *args: Any, **options: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainMapping:
    """Stands in for a class of mappings that scripts keep their options in: a plain one takes its place."""

    def __new__(cls, *args: Any, **options: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


# What scripts save with the weights. None of these classes is imported or made: _Inert takes the place of each.
_HARMLESS = (
    "argparse.Namespace",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode"),
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Bool")),
    *("typing.Any", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")),
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "Boolean", "Float", "Integer", "String", "Path")),
)
_MAPPINGS = (
    *("lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict"),
    *("lightning.pytorch.utilities.parsing.AttributeDict", "pytorch_lightning.utilities.parsing.AttributeDict"),
    *("yacs.config.CfgNode", "easydict.EasyDict", "addict.addict.Dict", "box.box.Box"),
    *("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict"),
)


def _load_tensors(file: Path, field: str, shown: str) -> Any:
    _check_zip(file, field, shown)

    def load(source: Path | io.BytesIO) -> Any:
        stand_ins: list[Any] = [(_Inert, name) for name in _HARMLESS]
        stand_ins += [(_PlainMapping, name) for name in _MAPPINGS]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)

    try:
        try:
            return load(file)
        except pickle.UnpicklingError as error:
            if "nsupported operand" not in str(error):
                raise
        return load(as_protocol_2(file))
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


def _check_zip(file: Path, field: str, shown: str) -> None:
    """Refuse a zip file that is no checkpoint, or that is far larger unpacked: torch stores tensors as they are."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return  # no zip file, or one cut short, which the reader reports
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > 4 * file.stat().st_size + 10**6:
        raise BadInput(field, shown, f"a file of weights; this one unpacks to {unpacked / 1e9:,.1f} GB")
    if entries and all(entry.filename.endswith(".npy") for entry in entries):
        raise BadInput(field, shown, "a file of weights (.safetensors, .pt, .pth, .th); this one is of numpy (.npz)")


# Entries of a checkpoint that hold tensors but no weights.
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|callbacks|loops|hyper_param|args|config|rng")
_MOST_ENTRIES = 1_000_000


def _states_in(content: Any, field: str, shown: str) -> list[_State]:
    """Every mapping of names to tensors in a checkpoint, nested ones as `a.b`; the likeliest first."""
    states: dict[str, _State] = {}
    entries = 0

    def read(mapping: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        nonlocal entries
        state = states[".".join(place)] = _State(".".join(place), {}, [])
        for key, value in mapping.items():
            entries += 1
            if entries > _MOST_ENTRIES:
                raise BadInput(field, shown, f"a file of weights; this one has more than {_MOST_ENTRIES:,} entries")
            if not isinstance(key, str):
                continue
            if isinstance(value, Tensor):
                if _is_plain(value):
                    state.tensors[key] = value
                    yield key, value
                else:
                    state.unread.append(key)
            elif isinstance(value, Mapping) and len(place) < 4 and not _NOT_WEIGHTS.search(key.lower()):
                for name, tensor in read(value, (*place, key)):
                    state.tensors[f"{key}.{name}"] = tensor
                    yield f"{key}.{name}", tensor

    if isinstance(content, Mapping):
        for _ in read(content, ()):
            pass
        found = [state for state in states.values() if state.tensors]
        if found:
            return sorted(found, key=lambda state: _likelihood(state.place))
        while isinstance(content, Mapping):
            inner = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]
            if not inner:
                break
            content = inner[0]
    if not isinstance(content, Mapping):
        held = f"a {type(content).__name__}"
    else:
        held = f"a mapping with {first_of([str(key) for key in content])}" if content else "an empty mapping"
    raise BadInput(field, shown, f"a mapping of names to tensors, alone or as `state_dict`; the file holds {held}")


def _likelihood(place: str) -> tuple[bool, int, bool]:
    """The order in which the states of a file are tried: moving averages, the usual names, the file's own tensors."""
    last = place.rpartition(".")[2]
    usual = CONTAINERS.index(last) if last in CONTAINERS else len(CONTAINERS)
    return not _MOVING_AVERAGE.search(place), usual, place != ""


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
