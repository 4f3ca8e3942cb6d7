"""The weights files of the table of oddities: each is written from one network and loaded into another."""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.models.config import ModelConfig
from stillroom.models.tail import head_tensors
from stillroom.models.weights import load_weights

State = dict[str, Tensor]
NAME = "net.pt"


def network(seed: int, classes: int = 10) -> nn.Module:
    """A small network with batch norm; every tensor depends on the seed."""
    from stillroom.models.registry import build

    generator = torch.Generator().manual_seed(seed)
    config = ModelConfig(name="resnet8", options={"width": 2})
    model = build(config, num_classes=classes, in_channels=3, image_size=32)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.25)
        else:
            tensor.fill_(seed + 3)
    return model


@dataclass(frozen=True)
class WeightsCase:
    """A weights file.

    Attributes:
        write: makes it in a folder, from the state that should be loaded and that of another network; returns its path.
        line: what a line or an error must hold, as a regular expression.
        refused: whether it must be refused.
        tolerance: how far weights may be off, for files of less precision.
        options: of ``load_weights``; ``head: new`` keeps the last layer.
    """

    group: str
    name: str
    write: Callable[[Path, State, State], Path]
    line: str = ""
    refused: bool = False
    tolerance: float = 0.0
    options: dict[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        if self.refused:
            return f"refused: {self.line}"
        return f"loads, and says: {self.line}" if self.line else "loads"


def try_weights(case: WeightsCase, folder: Path) -> tuple[bool, str]:
    """Whether a case ends as it should, and what happened."""
    source, other, target = network(1), network(2), network(3)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    path = case.write(folder, dict(source.state_dict()), dict(other.state_dict()))
    lines: list[str] = []
    options: dict[str, Any] = dict(case.options)
    if options.pop("head", None):
        options["fresh"] = head_tensors(target, torch.zeros(2, 3, 32, 32), 10)
    try:
        load_weights(target, path, note=lines.append, **options)
    except BadInput as error:
        text = str(error).replace(str(folder), "…")
        changed = any(not torch.equal(each, before[name]) for name, each in target.state_dict().items())
        ran = (folder / "sprung").exists()
        fits = case.refused and re.search(case.line, text) and "\n" not in text and len(text) <= 1000
        return bool(fits and not changed and not ran), f"error: {text.partition('expected ')[2] or text}"
    except Exception as error:
        return False, f"traceback: {type(error).__name__}: {error}"
    fresh = options.get("fresh", ())
    wanted = {name: before[name] if name in fresh else each for name, each in source.state_dict().items()}
    off = max(float((each.double() - wanted[name].double()).abs().max()) for name, each in target.state_dict().items())
    counted = {name for name in wanted if name.endswith("num_batches_tracked")}
    if off > case.tolerance and "old file" not in case.name:
        return False, f"loads other weights, off by {off:.3g}"
    if "old file" in case.name and any(
        not torch.equal(each, wanted[name]) for name, each in target.state_dict().items() if name not in counted
    ):
        return False, "loads other weights"
    said = " ".join(lines).replace(str(folder), "…")
    right = not case.refused and (bool(re.search(case.line, said)) if case.line else not said)
    return right, "loads" + (f'; "{said}"' if said else "")


def saved(make: Callable[[State, State], object], name: str = NAME, **options: Any) -> Callable[..., Path]:
    """Write what ``make`` gives by ``torch.save``."""

    def write(folder: Path, state: State, other: State) -> Path:
        torch.save(make(state, other), folder / name, **options)
        return folder / name

    return write


def raw(content: bytes, name: str = NAME) -> Callable[..., Path]:
    def write(folder: Path, state: State, other: State) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def as_dtype(dtype: torch.dtype) -> Callable[[State, State], object]:
    return lambda state, other: {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


def safe(make: Callable[[State, State], State], name: str = "net.safetensors") -> Callable[..., Path]:
    def write(folder: Path, state: State, other: State) -> Path:
        safetensors.torch.save_file({n: t.contiguous().clone() for n, t in make(state, other).items()}, folder / name)
        return folder / name

    return write


def sharded(
    *,
    torch_bin: bool = False,
    lose: str = "",
    point: str = "folder",
    change: Callable[[dict[str, Any]], object] = lambda index: None,
) -> Callable[..., Path]:
    """A folder of two shards with their index."""

    def write(folder: Path, state: State, other: State) -> Path:
        place = folder / "shards"
        place.mkdir()
        names = list(state)
        kind = "bin" if torch_bin else "safetensors"
        stem = "pytorch_model" if torch_bin else "model"
        index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": {}}
        for number, part in ((1, names[::2]), (2, names[1::2])):
            file = f"{stem}-0000{number}-of-00002.{kind}"
            content = {name: state[name].contiguous().clone() for name in part}
            if torch_bin:
                torch.save(content, place / file)
            else:
                safetensors.torch.save_file(content, place / file)
            index["weight_map"].update(dict.fromkeys(part, file))
        changed = change(index)
        path = place / f"{stem}.{kind}.index.json"
        path.write_text(changed if isinstance(changed, str) else json.dumps(index))
        if lose:
            (place / lose).unlink()
        return place if point == "folder" else path

    return write


def cut(share: float, write: Callable[..., Path]) -> Callable[..., Path]:
    def shortened(folder: Path, state: State, other: State) -> Path:
        path = write(folder, state, other)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        return path

    return shortened


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def trapped(protocol: int = 2, *, bare: bool = False) -> Callable[..., Path]:
    def write(folder: Path, state: State, other: State) -> Path:
        content = {"state_dict": state, "extra": Trap(folder / "sprung")}
        if bare:
            (folder / NAME).write_bytes(pickle.dumps({"w": Trap(folder / "sprung")}, protocol=protocol))
        else:
            torch.save(content, folder / NAME, pickle_protocol=protocol)
        return folder / NAME

    return write


def bomb(folder: Path, state: State, other: State) -> Path:
    """A checkpoint whose zip entries unpack to two gigabytes."""
    torch.save(state, folder / "plain.pt")
    with zipfile.ZipFile(folder / "plain.pt") as old, zipfile.ZipFile(folder / NAME, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
        with new.open(zipfile.ZipInfo("archive/data/999"), "w", force_zip64=True) as file:
            file.write(b"")
        info = zipfile.ZipInfo("archive/data/998")
        info.compress_type = zipfile.ZIP_DEFLATED
        with new.open(info, "w", force_zip64=True) as file:
            for _ in range(200):
                file.write(bytes(10**7))
    return folder / NAME


def packed_again(folder: Path, state: State, other: State) -> Path:
    """A checkpoint whose entries were compressed by another tool."""
    torch.save(state, folder / "plain.pt")
    with zipfile.ZipFile(folder / "plain.pt") as old:
        content = {entry: old.read(entry) for entry in old.namelist()}
    with zipfile.ZipFile(folder / NAME, "w", zipfile.ZIP_DEFLATED) as new:
        for entry, each in content.items():
            new.writestr(entry, each)
    return folder / NAME


def huge_view(folder: Path, state: State, other: State) -> Path:
    """A tensor of 4 bytes that is expanded to four terabytes."""
    torch.save({**state, "linear.bias": torch.zeros(1).expand(10**12)}, folder / NAME)
    return folder / NAME


def nested_containers(folder: Path, state: State, other: State) -> Path:
    """Mappings within mappings, each twice in the next: 2^30 ways to the tensors."""
    inner: dict[str, Any] = {"weight": torch.zeros(1)}
    for _ in range(30):
        inner = {"a": inner, "b": inner}
    torch.save(inner, folder / NAME)
    return folder / NAME


def circular(folder: Path, state: State, other: State) -> Path:
    content: dict[str, Any] = {"state_dict": state}
    content["self"] = content
    torch.save(content, folder / NAME)
    return folder / NAME


def other_kind(kind: str) -> Callable[..., Path]:
    def write(folder: Path, state: State, other: State) -> Path:
        torch.save(state, folder / "plain.pt")
        path = folder / f"net.{kind}"
        if kind == "gz":
            path.write_bytes(gzip.compress((folder / "plain.pt").read_bytes()))
        elif kind == "tar":
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
                archive.add(folder / "plain.pt", "net.pt")
        elif kind == "npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
        elif kind == "npy":
            np.save(path, np.zeros(3))
        elif kind == "h5":
            path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
        elif kind == "gguf":
            path.write_bytes(b"GGUF" + bytes(600))
        return path

    return write


def script_module(folder: Path, state: State, other: State) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(folder / NAME))  # type: ignore[no-untyped-call]
    return folder / NAME


def attribute_dict(folder: Path, state: State, other: State) -> Path:
    """A Lightning checkpoint, whose hyper-parameters are of a class of Lightning's."""
    import sys
    import types

    name = "lightning.fabric.utilities.data"
    module = types.ModuleType(name)
    kind = type("AttributeDict", (dict,), {"__module__": name, "__qualname__": "AttributeDict"})
    module.AttributeDict = kind  # type: ignore[attr-defined]
    parts = name.split(".")
    added = [".".join(parts[: end + 1]) for end in range(len(parts))]
    held = {each: sys.modules.get(each) for each in added}
    try:
        for each in added:
            sys.modules[each] = module if each == name else types.ModuleType(each)
        hyper = kind()
        hyper["lr"] = 0.1
        torch.save({"state_dict": prefixed("model.", state), "hyper_parameters": hyper}, folder / NAME)
    finally:
        for each, before in held.items():
            if before is None:
                del sys.modules[each]
            else:
                sys.modules[each] = before
    return folder / NAME


def torch_quantised(state: State, other: State) -> object:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {**state, "linear.weight": torch.quantize_per_tensor(state["linear.weight"], 0.1, 0, torch.qint8)}


def quantised(state: State, other: State) -> object:
    scale = 1 / 127
    return {n: (t / scale).round().clamp(-127, 127).to(torch.int8) if t.dim() > 1 else t for n, t in state.items()}


def lightning(state: State, other: State, **both: State) -> dict[str, Any]:
    tensors = {key: value for name, each in both.items() for key, value in prefixed(f"{name}.", each).items()}
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": tensors,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    }


def without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name not in names}


def other_head(state: State, classes: int = 1000) -> State:
    return {**state, "linear.weight": torch.ones(classes, 8), "linear.bias": torch.ones(classes)}


def nested_modules(state: State, other: State) -> object:
    """One mapping for each module, within that of the module above."""
    tree: dict[str, Any] = {}
    for name, tensor in state.items():
        place = tree
        *parts, last = name.split(".")
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = tensor
    return {"params": tree}


def counters(state: State, other: State) -> object:
    modules = {name.rpartition(".")[0] for name in state}
    added = {f"{module}.{what}": torch.zeros(1) for module in modules for what in ("total_ops", "total_params")}
    return {**state, **added, "total_ops": torch.zeros(1)}


class Odd:
    """A user's class with the weights."""


_PREFIXES = (
    *("module.", "_orig_mod.", "model.", "net.", "student.", "teacher.", "ema.", "backbone.", "encoder."),
    *("base_model.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.module.", "model.backbone."),
    "module.encoder.base_model.",
)
_CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net", "network", "module", "weights", "params")
_DTYPES = (
    (torch.float16, 1e-3),
    (torch.bfloat16, 1e-2),
    (torch.float64, 0.0),
    (torch.float8_e4m3fn, 0.1),
)
WEIGHTS_CASES: list[WeightsCase] = [
    *(
        WeightsCase("prefixes", prefix, saved(lambda state, other, prefix=prefix: prefixed(prefix, state)))
        for prefix in _PREFIXES
    ),
    WeightsCase(
        "prefixes",
        "detector.backbone.bottom_up.",
        saved(lambda s, o: prefixed("detector.backbone.bottom_up.", s)),
        "missing: .*unexpected",
        refused=True,
    ),
    WeightsCase(
        "prefixes",
        "detector.backbone.bottom_up., named by weights_prefix",
        saved(lambda s, o: prefixed("detector.backbone.bottom_up.", s)),
        options={"prefix": "detector.backbone.bottom_up"},
    ),
    WeightsCase(
        "prefixes",
        "module. for half of the names (DataParallel of one part)",
        saved(lambda s, o: {("module." if n.startswith("layer") else "") + n: t for n, t in s.items()}),
    ),
    *(
        WeightsCase("containers", name, saved(lambda s, o, name=name: {name: s, "epoch": 3}))
        for name in (*_CONTAINERS, "my_own_name")
    ),
    WeightsCase("containers", "none, torch zip", saved(lambda s, o: s)),
    WeightsCase("containers", "none, an OrderedDict", saved(lambda s, o: OrderedDict(s))),
    WeightsCase(
        "containers",
        "none, parameters with gradients",
        saved(lambda s, o: {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in s.items()}),
    ),
    WeightsCase("containers", "model within state_dict", saved(lambda s, o: {"model": {"state_dict": s}, "epoch": 1})),
    WeightsCase(
        "containers",
        "with an optimizer's state and a random state",
        saved(
            lambda s, o: {
                "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
                "rng_state": torch.zeros(8, dtype=torch.uint8),
                "model": s,
            }
        ),
    ),
    WeightsCase("containers", "a mapping for each module (nested)", saved(nested_modules)),
    WeightsCase("containers", "weights next to numbers", saved(lambda s, o: {**s, "epoch": 3, "best": 0.5})),
    WeightsCase(
        "containers",
        "generator and discriminator: the one that fits",
        saved(lambda s, o: {"discriminator": {"a": torch.ones(2)}, "generator": s}),
    ),
    WeightsCase(
        "containers",
        "two models that fit, under a and b",
        saved(lambda s, o: {"a": s, "b": o}),
        "several fit: `a`, `b`; set model.weights_key",
        refused=True,
    ),
    WeightsCase("containers", "the same, weights_key: a", saved(lambda s, o: {"a": s, "b": o}), options={"key": "a"}),
    WeightsCase(
        "containers",
        "a weights_key that is not there",
        saved(lambda s, o: {"a": s, "b": o}),
        r"weights_key: got 'c'; expected an entry of .* \(a, b\)",
        refused=True,
        options={"key": "c"},
    ),
    WeightsCase("containers", "the same weights twice", saved(lambda s, o: {"model": s, "best": dict(s)})),
    *(
        WeightsCase(
            "moving averages",
            f"{plain} and {average}",
            saved(lambda s, o, plain=plain, average=average: {plain: o, average: s}),
            f"loaded `{average}`, the moving average; it also holds `{plain}`",
        )
        for plain, average in (
            ("state_dict", "state_dict_ema"),
            ("model", "model_ema"),
            ("model", "ema"),
            ("params", "params_ema"),
        )
    ),
    WeightsCase(
        "moving averages",
        "state_dict and state_dict_ema, weights_key: state_dict",
        saved(lambda s, o: {"state_dict": s, "state_dict_ema": o}),
        options={"key": "state_dict"},
    ),
    WeightsCase(
        "moving averages",
        "model. and ema. of one state",
        saved(lambda s, o: {"state_dict": prefixed("model.", o) | prefixed("ema.", s)}),
        "loaded `ema.` in `state_dict`, the moving average; it also holds `model.`",
    ),
    WeightsCase(
        "moving averages",
        "torch's AveragedModel (n_averaged, module.)",
        saved(lambda s, o: {"n_averaged": torch.tensor(4), **prefixed("module.", s)}),
    ),
    WeightsCase("Lightning", "model.", saved(lambda s, o: lightning(s, o, model=s))),
    WeightsCase(
        "Lightning",
        "model. and a metric's buffers",
        saved(lambda s, o: lightning(s, o, model=s, train_acc={"tp": torch.ones(2)})),
        "loaded the tensors under `model.` in `state_dict`; left out: train_acc.tp",
    ),
    WeightsCase(
        "Lightning",
        "student. and teacher. of one shape",
        saved(lambda s, o: lightning(s, o, student=s, teacher=o)),
        "several fit: `student.` in `state_dict`, `teacher.` in `state_dict`; set model.weights_prefix",
        refused=True,
    ),
    *(
        WeightsCase(
            "Lightning",
            f"student. and teacher., weights_prefix: {name}",
            saved(
                lambda s, o, name=name: lightning(
                    s, o, student=s if name == "student" else o, teacher=s if name == "teacher" else o
                )
            ),
            f"left out: {'teacher' if name == 'student' else 'student'}",
            options={"prefix": name},
        )
        for name in ("student", "teacher")
    ),
    WeightsCase(
        "Lightning",
        "student. and a larger teacher.",
        saved(lambda s, o: lightning(s, o, student=s, teacher={"fc": torch.ones(3)})),
        "left out: teacher.fc",
    ),
    WeightsCase(
        "Lightning",
        "hyper-parameters as Lightning's AttributeDict",
        attribute_dict,
    ),
    WeightsCase(
        "Lightning",
        "a weights_prefix that is not there",
        saved(lambda s, o: lightning(s, o, student=s)),
        r"weights_prefix: got 'generator\.'; expected what names in .* begin with",
        refused=True,
        options={"prefix": "generator"},
    ),
    *(
        WeightsCase("numbers", str(dtype).removeprefix("torch."), saved(as_dtype(dtype)), tolerance=tolerance)
        for dtype, tolerance in _DTYPES
    ),
    WeightsCase("numbers", "int8, scales lost", saved(quantised), "is int8, not float32", refused=True),
    WeightsCase("numbers", "int8 in safetensors", safe(quantised), "is int8, not float32", refused=True),  # type: ignore[arg-type]
    WeightsCase(
        "numbers",
        "uint8 for one bias",
        saved(lambda s, o: {**s, "linear.bias": torch.ones(10, dtype=torch.uint8)}),
        "linear.bias is uint8",
        refused=True,
    ),
    WeightsCase(
        "numbers",
        "complex",
        saved(lambda s, o: {**s, "linear.bias": torch.ones(10, dtype=torch.complex64)}),
        "linear.bias is complex64, not float32",
        refused=True,
    ),
    WeightsCase(
        "numbers",
        "torch's quantised tensors",
        saved(torch_quantised),
        "missing: linear.weight; quantised, sparse or without data: linear.weight",
        refused=True,
    ),
    WeightsCase(
        "numbers",
        "sparse",
        saved(lambda s, o: {**s, "linear.weight": s["linear.weight"].to_sparse()}),
        "quantised, sparse or without data: linear.weight",
        refused=True,
    ),
    WeightsCase(
        "numbers",
        "without data (meta)",
        saved(lambda s, o: {n: t.to("meta") for n, t in s.items()}),
        "tensors",
        refused=True,
    ),
    WeightsCase(
        "numbers",
        "counts as floats",
        saved(lambda s, o: {n: t.float() for n, t in s.items()}),
    ),
    WeightsCase(
        "numbers", "NaN", saved(lambda s, o: {**s, "linear.bias": torch.full((10,), float("nan"))}), "NaN", refused=True
    ),
    WeightsCase(
        "numbers",
        "infinity",
        saved(lambda s, o: {**s, "linear.bias": torch.full((10,), float("inf"))}),
        "infinity",
        refused=True,
    ),
    WeightsCase(
        "numbers",
        "not contiguous, a view into a larger storage",
        saved(lambda s, o: {**s, "linear.weight": torch.stack([s["linear.weight"].T] * 2)[0].T}),
    ),
    WeightsCase("names", "a key missing", saved(lambda s, o: without(s, "linear.bias")), "missing: linear.bias", True),
    WeightsCase(
        "names", "a key too much", saved(lambda s, o: {**s, "fc.bias": torch.ones(1)}), "unexpected: fc.bias", True
    ),
    WeightsCase(
        "names", "another shape", saved(lambda s, o: other_head(s)), r"linear.weight has \[1000, 8\]", refused=True
    ),
    WeightsCase(
        "names",
        "transposed",
        saved(lambda s, o: {**s, "linear.weight": s["linear.weight"].T}),
        r"has \[8, 10\], wants \[10, 8\]",
        refused=True,
    ),
    WeightsCase(
        "names",
        "no num_batches_tracked (an old file)",
        saved(lambda s, o: {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")}),
    ),
    WeightsCase("names", "thop's counters (total_ops, total_params)", saved(counters)),
    WeightsCase("names", "of another network", saved(lambda s, o: {"a.weight": torch.ones(2)}), "missing", True),
    WeightsCase(
        "names",
        "hostile: escape sequences and line breaks",
        saved(lambda s, o: {f"\x1b[31m{n}\n": t for n, t in s.items()}),
        "unexpected",
        refused=True,
    ),
    WeightsCase(
        "names", "of 10,000 letters", saved(lambda s, o: {n * 1000: t for n, t in s.items()}), "unexpected", True
    ),
    WeightsCase(
        "new head",
        "of 1,000 classes in the file, head: new",
        saved(lambda s, o: other_head(s)),
        "new, not from the file: linear.bias, linear.weight",
        options={"head": "new"},
    ),
    WeightsCase(
        "new head",
        "no head in the file, head: new",
        saved(lambda s, o: prefixed("backbone.", without(s, "linear.weight", "linear.bias"))),
        "new, not from the file: linear.bias, linear.weight",
        options={"head": "new"},
    ),
    WeightsCase(
        "new head",
        "a projection of another name, head: new",
        saved(
            lambda s, o: {**without(s, "linear.weight", "linear.bias"), "fc.0.weight": torch.ones(4, 8)},
        ),
        "not used of the file: .*fc.0.weight",
        options={"head": "new"},
    ),
    WeightsCase(
        "new head",
        "the same number of classes, head: new",
        saved(lambda s, o: s),
        "new, not from the file: linear.bias, linear.weight",
        options={"head": "new"},
    ),
    WeightsCase(
        "new head",
        "a layer before the head missing, head: new",
        saved(lambda s, o: without(other_head(s), "conv1.weight")),
        "missing: conv1.weight",
        refused=True,
        options={"head": "new"},
    ),
    WeightsCase("formats", "safetensors", safe(lambda s, o: s)),
    WeightsCase("formats", "safetensors, named .pth", safe(lambda s, o: s, "net.pth")),
    WeightsCase("formats", "safetensors, module.", safe(lambda s, o: prefixed("module.", s))),
    WeightsCase("formats", "torch zip, named .safetensors", saved(lambda s, o: s, "net.safetensors"), "damaged", True),
    WeightsCase("formats", "torch, old format", saved(lambda s, o: s, _use_new_zipfile_serialization=False)),
    *(
        WeightsCase("formats", f"torch, pickle protocol {protocol}", saved(lambda s, o: s, pickle_protocol=protocol))
        for protocol in (3, 4, 5)
    ),
    WeightsCase(
        "formats",
        "torch, old format, pickle protocol 4",
        saved(lambda s, o: {"model": s}, _use_new_zipfile_serialization=False, pickle_protocol=4),
    ),
    WeightsCase(
        "formats",
        "pickle protocol 4, options, bytes and sets next to the weights",
        saved(lambda s, o: {"args": argparse.Namespace(a={1, 2}, b=b"x"), "state_dict": s}, pickle_protocol=4),
    ),
    WeightsCase("formats", "no suffix", saved(lambda s, o: s, "checkpoint")),
    WeightsCase("formats", ".pth.tar", saved(lambda s, o: {"state_dict": s, "epoch": 1}, "model_best.pth.tar")),
    WeightsCase("formats", ".bin", saved(lambda s, o: s, "pytorch_model.bin")),
    *(
        WeightsCase("formats", kind, other_kind(kind), words, refused=True)
        for kind, words in (
            ("gz", "packed by gzip: unpack it"),
            ("tar", "tar archive: unpack it"),
            ("npz", r"numpy \(\.npz\)"),
            ("npy", "a numpy array"),
            ("h5", "Keras"),
            ("gguf", "GGUF"),
        )
    ),
    WeightsCase("formats", "TorchScript", script_module, "TorchScript", refused=True),
    WeightsCase("shards", "safetensors, the folder", sharded()),
    WeightsCase("shards", "safetensors, the index", sharded(point="index")),
    WeightsCase("shards", "torch, the folder", sharded(torch_bin=True)),
    WeightsCase("shards", "torch, the index", sharded(torch_bin=True, point="index")),
    WeightsCase(
        "shards", "one missing", sharded(lose="model-00002-of-00002.safetensors"), "00002.* is not there", True
    ),
    WeightsCase(
        "shards",
        "the index names a tensor that no shard has",
        sharded(change=lambda i: i["weight_map"].update({"fc.weight": "model-00001-of-00002.safetensors"})),
        "missing: fc.weight",
        refused=True,
    ),
    WeightsCase(
        "shards",
        "the index names a file outside",
        sharded(change=lambda i: i["weight_map"].update({"fc.weight": "../../net.safetensors"})),
        "an index that names files next to it",
        refused=True,
    ),
    WeightsCase("shards", "the index is no JSON", sharded(change=lambda i: "{"), "an index of shards", refused=True),
    WeightsCase(
        "shards",
        "the index is empty",
        sharded(change=lambda i: i["weight_map"].clear()),
        "an index of shards",
        refused=True,
    ),
    WeightsCase(
        "shards",
        "a folder with one model.safetensors",
        lambda folder, s, o: safe(lambda s, o: s, "model.safetensors")(folder, s, o).parent,
    ),
    WeightsCase("shards", "an empty folder", lambda folder, s, o: folder, "it holds nothing", refused=True),
    WeightsCase(
        "objects",
        "argparse.Namespace",
        saved(lambda s, o: {"state_dict": s, "args": argparse.Namespace(lr=0.1, data=Path("x"))}, "net.pth.tar"),
    ),
    WeightsCase("objects", "a numpy number", saved(lambda s, o: {"state_dict": s, "best": np.float64(0.5)})),
    WeightsCase("objects", "a path", saved(lambda s, o: {"state_dict": s, "out": Path("runs/x")})),
    WeightsCase(
        "objects", "a whole model", saved(lambda s, o: nn.Linear(2, 2)), r"more than tensors \(torch.nn", refused=True
    ),
    WeightsCase(
        "objects",
        "a class of the user's",
        saved(lambda s, o: {"state_dict": s, "x": Odd()}),
        "more than tensors .*Odd",
        refused=True,
    ),
    WeightsCase("objects", "code that runs when unpickled, zip", trapped(), "was not opened", refused=True),
    WeightsCase("objects", "the same, protocol 4", trapped(4), "was not opened", refused=True),
    WeightsCase("objects", "the same, a bare pickle", trapped(bare=True), "was not opened", refused=True),
    WeightsCase("damaged", "empty", raw(b""), "empty", refused=True),
    WeightsCase("damaged", "text", raw(b"epoch,loss\n1,0.5\n"), "text", refused=True),
    WeightsCase("damaged", "a web page", raw(b"<!doctype html><html>404</html>"), "a web page", refused=True),
    WeightsCase(
        "damaged", "a Git LFS pointer", raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "LFS", True
    ),
    WeightsCase("damaged", "random bytes", raw(bytes(range(256)) * 4), "another kind", refused=True),
    *(
        WeightsCase("damaged", f"{kind} cut to {share:.0%}", cut(share, write), "damaged|cut short|torch.Fl", True)
        for kind, write in (
            ("zip", saved(lambda s, o: s)),
            ("old format", saved(lambda s, o: s, _use_new_zipfile_serialization=False)),
            ("safetensors", safe(lambda s, o: s)),
        )
        for share in (0.02, 0.5, 0.99)
    ),
    WeightsCase(
        "damaged",
        "a folder named net.pt",
        lambda folder, s, o: (folder / NAME).mkdir() or folder / NAME,  # type: ignore[func-returns-value]
        "it holds nothing",
        refused=True,
    ),
    WeightsCase("damaged", "not there", lambda folder, s, o: folder / "gone.pt", "a file that exists", refused=True),
    WeightsCase("bombs", "a zip that unpacks to 2 GB", bomb, "unpacks to 2.0 GB", refused=True),
    WeightsCase("bombs", "a zip compressed by another tool", packed_again),
    WeightsCase("bombs", "4 bytes expanded to 4 TB", huge_view, r"linear.bias has \[1000000000000\]", refused=True),
    WeightsCase("bombs", "mappings of mappings, 2^30 ways", nested_containers, "a mapping of names to tensors", True),
    WeightsCase("bombs", "a mapping that holds itself", circular),
    WeightsCase(
        "bombs",
        "a safetensors header of 2^40 bytes",
        raw((1 << 40).to_bytes(8, "little") + b'{"a":1}', "net.safetensors"),
        "damaged",
        refused=True,
    ),
]
