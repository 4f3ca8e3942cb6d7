"""Models of timm and torchvision, by ``timm:NAME`` and ``torchvision:NAME``: random weights, no download."""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save
from torch import nn

from stillroom.errors import BadInput, format_error
from stillroom.files import cache_root, write_bytes

LIBRARIES = ("timm", "torchvision")
# Each of these would fetch weights or unpickle a file.
_FETCHES = frozenset(
    {"pretrained", "weights", "weights_backbone", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
)


def is_external(name: str) -> bool:
    """Whether a model's name is one of another library's.

    >>> is_external("timm:resnet18"), is_external("torchvision.models:resnet18")
    (True, False)
    """
    return name.partition(":")[0] in LIBRARIES


def build_external(
    name: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    in_channels: int,
    image_size: int | None,
    field: str = "model",
) -> nn.Module:
    """Make a model of timm or torchvision with random weights; nothing is downloaded.

    The image size is passed to models that take it, such as vision transformers.
    """
    library, _, model = name.partition(":")
    where = f"{field}.name"
    for key in options:
        if key in _FETCHES:
            raise BadInput(
                f"{field}.options.{key}",
                options[key],
                f"no such option: nothing is downloaded; {field}.weights names a file",
            )
    make, known = _timm(where, name) if library == "timm" else _torchvision(where, name)
    if model.partition(".")[0] not in known:
        raise BadInput(where, name, f"a model that {library} has ({_hint(model, known, library)})")
    sizes: dict[str, Any] = {"num_classes": num_classes}
    if library == "timm":
        sizes |= {"in_chans": in_channels}
    elif in_channels != 3:
        raise BadInput(where, name, f"a model for {in_channels} channel(s); torchvision's take 3, timm's any number")
    if image_size is not None:
        sizes["img_size" if library == "timm" else "image_size"] = image_size
    return _make(lambda keywords: make(model, **keywords), sizes, options, where, name)


def default_image_size(name: str, field: str = "model") -> int:
    """The side of the images that a model was published for, in pixels; 224 where its library does not say.

    >>> default_image_size("timm:efficientnet_b3"), default_image_size("torchvision:resnet18")
    (288, 224)
    """
    library, _, model = name.partition(":")
    if library != "timm":
        return 224
    timm = _import("timm", f"{field}.name", name)
    config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    return int(config.input_size[-1]) if config is not None else 224


PRETRAINED = "pretrained"


def pretrained_file(name: str, field: str, file_field: str | None = None) -> Path:
    """The published weights of a model as a file below the folder of caches, fetched once.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``.
        field: what errors call the wish for them.
        file_field: what names a file in their place; left out: the same.

    Raises:
        BadInput: they cannot be had, with how to bring a file.
    """
    kept = cache_root() / PRETRAINED / f"{re.sub(r'[^A-Za-z0-9._-]', '--', name)}.safetensors"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.is_file():
                write_bytes(kept, save(_pretrained_state(name, field, file_field or field)), checksum=True)
    return kept


def _pretrained_state(name: str, field: str, file_field: str) -> dict[str, torch.Tensor]:
    """The published weights of a model, fetched by its library (over the network, or from its cache)."""
    library, _, model = name.partition(":")
    if not is_external(name):
        raise BadInput(field, name, f"a model of timm or torchvision; {file_field} FILE for others")
    make, known = _timm(field, name) if library == "timm" else _torchvision(field, name)
    if model.partition(".")[0] not in known:
        raise BadInput(field, name, f"a model that {library} has ({_hint(model, known, library)})")
    try:
        found = make(model, **({"pretrained": True} if library == "timm" else {"weights": "DEFAULT"}))
    except Exception as error:  # of the hub, of the network, or there are none
        code = (
            f"timm.create_model('{model}', pretrained=True)"
            if library == "timm"
            else f"torchvision.models.get_model('{model}', weights='DEFAULT')"
        )
        raise BadInput.with_message(
            field,
            name,
            f"{field}: the weights of {name} could not be fetched ({format_error(error, 120)}). On a machine with "
            f"a network: python -c \"import torch, {library}; torch.save({code}.state_dict(), 'weights.pth')\"; copy "
            f"weights.pth here; then give {file_field} weights.pth",
        ) from None
    return {key: tensor.contiguous().clone() for key, tensor in found.state_dict().items()}


def _make(
    make: Callable[[dict[str, Any]], nn.Module],
    sizes: dict[str, Any],
    options: Mapping[str, Any],
    where: str,
    name: str,
) -> nn.Module:
    """The model; without the image size where it refuses that."""
    keywords = {**sizes, **options}
    before = torch.get_rng_state()
    while True:
        # Weights are the same whether or not a keyword had to be dropped first.
        torch.set_rng_state(before)
        try:
            return make(keywords)
        except Exception as error:
            size = next((k for k in ("img_size", "image_size") if k in keywords and k not in options), None)
            if isinstance(error, TypeError) and size and f"'{size}'" in str(error):
                del keywords[size]
                continue
            raise BadInput(where, name, f"a model that can be made; it raised {format_error(error)}") from None


def _timm(where: str, name: str) -> tuple[Callable[..., nn.Module], list[str]]:
    timm = _import("timm", where, name)
    return partial(timm.create_model, pretrained=False), list(timm.list_models())


def _torchvision(where: str, name: str) -> tuple[Callable[..., nn.Module], list[str]]:
    models = _import("torchvision.models", where, name)
    # Classifiers alone: the others fetch a backbone of their own accord.
    return partial(models.get_model, weights=None), list(models.list_models(module=models))


def _import(module: str, where: str, name: str) -> Any:
    library = module.partition(".")[0]
    declare_missing_ops()
    try:
        # A library that draws as it is imported must not move the weights drawn next.
        with torch.random.fork_rng(devices=[]):
            return importlib.import_module(module)
    except ModuleNotFoundError:
        expected = f"{library} to be installed: pip install 'stillroom[{library}]'"
    except Exception as error:
        expected = f"a {library} that can be imported; it raised {format_error(error)}"
    raise BadInput(where, name, expected)


def _hint(model: str, known: Iterable[str], library: str) -> str:
    close = difflib.get_close_matches(model, list(known), n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    return f"{library}{'' if library == 'timm' else '.models'}.list_models() names them"


# Operators that torchvision's modules use while they are imported.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# Held for good: the declarations go when their library does.
_declared: list[Any] = []


def declare_missing_ops() -> bool:
    """Declare the two operators without which torchvision cannot be imported, where its extension cannot be loaded.

    The torchvision of PyPI is built for CUDA; with a CPU-only PyTorch, importing it, timm or torchmetrics
    raises ``operator torchvision::nms does not exist``. Its models need no operator of the extension: after this, all
    three can be imported. It does nothing where torchvision is not installed or its extension loads.

    >>> declare_missing_ops() == declare_missing_ops()
    True
    """
    if _declared:
        return True
    spec = importlib.util.find_spec("torchvision")
    if (
        spec is None
        or not spec.submodule_search_locations
        or _extension_loads(Path(spec.submodule_search_locations[0]))
    ):
        return False
    # A fragment: others may have declared some of them before.
    untyped: Any = torch.library
    library = untyped.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
    return True


def _extension_loads(folder: Path) -> bool:
    # `_C.so`, from torchvision 0.29 on `_C_stable.so`: to declare an operator that is loaded later ends the process.
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    found = next((file for file in sorted(folder.glob("_C*")) if file.name.endswith(suffixes)), None)
    if found is None:
        return False
    operators: Any = torch.ops
    try:
        operators.load_library(str(found))
    except (ImportError, OSError):
        return False
    return True
