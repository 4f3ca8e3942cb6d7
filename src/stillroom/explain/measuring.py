"""The entropies of runs at their checkpoints, each kept in its run's folder as it is found."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.explain.entropy import pixel_entropy_with_error
from stillroom.explain.features import TapFeatures
from stillroom.explain.subject import Pictures
from stillroom.files import canonical, write_bytes
from stillroom.models.modes import device_of
from stillroom.models.prepared import PreparedModel
from stillroom.models.weights import state_hash

FOLDER = "explain"
# Images between two writes: what a kill can lose.
_BLOCK = 8
_FIELDS = ("entropy", "error", "energies", "sigma_f")

Arrays = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Search:
    """How entropies are found.

    Attributes:
        grid: g.
        weight: λ.
        stop: the mean entropy to stop at.
        seed: of the noise.
        passes: most network passes an image.
    """

    grid: int
    weight: float
    stop: float
    seed: int
    passes: int | None


@dataclass(frozen=True)
class Maps:
    """What was found of one network.

    Attributes:
        entropy: H [I, g, g], NaN for images that it does not respond to.
        error: its standard error, [I, g, g].
        energies: a [I, g, g].
        sigma_f: [I].
    """

    entropy: Tensor
    error: Tensor
    energies: Tensor
    sigma_f: Tensor


def entropies(
    prepared: PreparedModel, tap: str, pictures: Pictures, search: Search, path: Path, told: Callable[[int], None]
) -> Maps:
    """The entropies of one network, from its file where they are there, else found and kept, some images at a time.

    An image's noise depends on the seed and its row alone, so all networks see the same.

    Args:
        prepared: the network with its weights and preprocess.
        tap: where its features are read.
        pictures: the images.
        search: how.
        path: the file.
        told: called with how many images are done.

    Raises:
        BadInput: features that are not finite, or cannot be used.
    """
    key = {
        "weights": state_hash(prepared.model),
        "preprocess": None
        if prepared.preprocess_config is None
        else prepared.preprocess_config.model_dump(mode="json"),
        "tap": tap,
        "images": hashlib.sha256(canonical([pictures.fingerprint, list(pictures.rows)])).hexdigest(),
        "search": vars(search),
    }
    held = _held(path, key)
    done = len(held["sigma_f"]) if held else 0
    told(done)
    device = device_of(prepared.model)
    features, pipe = TapFeatures(prepared.model, tap), prepared.preprocess().to(device)
    for start in range(done, len(pictures.rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        found = pixel_entropy_with_error(
            features,
            pipe(pictures.images[part].to(device)),
            grid=search.grid,
            weight=search.weight,
            stop=search.stop,
            seed=search.seed,
            passes=search.passes,
            index=pictures.rows[part],
        )
        fresh = {name: getattr(found, name).double().cpu().numpy() for name in _FIELDS}
        held = {name: np.concatenate([held[name], fresh[name]]) for name in _FIELDS} if held else fresh
        _keep(path, key, held)
        told(len(held["sigma_f"]))
    return Maps(*(torch.from_numpy(held[name]) for name in _FIELDS))


def _held(path: Path, key: dict[str, Any]) -> Arrays:
    """What a file holds, where it is of the same key; nothing where it is not, or damaged."""
    try:
        with np.load(path) as file:
            if bytes(file["key"]) != canonical(key):
                return {}
            held = {name: np.asarray(file[name]) for name in _FIELDS}
    except (OSError, ValueError, KeyError, BadZipFile):
        return {}
    return held if len({len(each) for each in held.values()}) == 1 else {}


def _keep(path: Path, key: dict[str, Any], held: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, key=np.frombuffer(canonical(key), dtype=np.uint8), **held)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def responding(of_all: list[Maps]) -> Tensor:
    """Which images all networks respond to, bool [I].

    Raises:
        BadInput: fewer than two.
    """
    there = torch.stack([maps.sigma_f > 0 for maps in of_all]).all(0)
    if int(there.sum()) < 2:
        expected = (
            "features that move with the images; noise changes nothing (σ_f = 0) in all images but one, or in all"
        )
        raise BadInput("--tap", f"{int(there.sum())} of {len(there)} images with a response", expected)
    return there


def describe(search: Search) -> dict[str, Any]:
    """The search as ``explain.json`` has it."""
    return json.loads(json.dumps(vars(search)))  # type: ignore[no-any-return]
