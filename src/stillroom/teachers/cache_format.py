"""The identity and file format of a cache of teacher outputs: arrays, checksums, encoding."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from stillroom.config import Config
from stillroom.errors import BadInput, shorten
from stillroom.files import canonical_json, digest
from stillroom.schema.cache import CacheIdentity
from stillroom.teachers.config import CacheConfig
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput

FORMAT = 1


@dataclass(frozen=True)
class CacheSpec:
    """Which outputs are stored, and in which form.

    The number of views is not part of it: view v shows the same pixels however many there are, so a run with eight
    views reuses the four that a run with four views built. Options without effect (``top_k`` of all classes or more,
    ``off_top_k_temperature`` without it) become None, so that the same bytes have one key.

    Args:
        parts: what else the outputs depend on, as JSON: the teacher, its preprocess, the data's fingerprint, the
            augmentation, the precision.
        count: N, the number of images.
        classes: K, the number of logits of each image.
        taps: modules whose features are stored with the logits.
        fishers: Fisher weights in these features that are stored too.
        block: images queried and written at once. It is not the run's batch size: the last bits of an output depend
            on the batch it was computed in, and must not depend on which run built the cache.
        dtype: number format of logits and features.
        top_k: the number of largest logits stored of each image; None stores all.
        off_top_k_temperature: τ at which the other classes together keep their exact probability mass.

    Raises:
        ValueError: a number is below 1.

    >>> four = CacheSpec({"data": "abc"}, count=100, classes=10, top_k=4)
    >>> four.key == CacheSpec({"data": "abc"}, count=100, classes=10, top_k=5).key
    False
    >>> CacheSpec({"data": "abc"}, count=100, classes=10, top_k=10).top_k is None
    True
    """

    parts: Mapping[str, Any]
    count: int
    classes: int
    taps: tuple[str, ...] = ()
    block: int = 256
    dtype: Literal["float16", "float32"] = "float16"
    top_k: int | None = None
    off_top_k_temperature: float = 4.0
    fishers: tuple[FisherOf, ...] = ()

    def __post_init__(self) -> None:
        for name in ("count", "classes", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 1 or more")
        if taken := {"format", "kept"} & set(self.parts):
            raise ValueError(f"parts: got {sorted(taken)}; expected other names: the cache uses these itself")
        object.__setattr__(self, "taps", tuple(sorted(set(self.taps))))
        object.__setattr__(self, "fishers", tuple(sorted(set(self.fishers))))
        if alone := {of.tap for of in self.fishers} - set(self.taps):
            raise ValueError(f"fishers: got {sorted(alone)}; expected taps whose features are stored")
        if self.top_k is not None and self.top_k >= self.classes:
            object.__setattr__(self, "top_k", None)

    @classmethod
    def of(
        cls,
        config: CacheConfig,
        parts: Mapping[str, Any],
        *,
        count: int,
        classes: int,
        taps: tuple[str, ...] = (),
        fishers: tuple[FisherOf, ...] = (),
        block: int = 256,
    ) -> CacheSpec:
        """The spec that a recipe's ``cache`` options ask for.

        >>> CacheSpec.of(CacheConfig(dtype="float32"), {}, count=5, classes=3).dtype
        'float32'
        """
        return cls(
            parts, count, classes, taps, block, config.dtype, config.top_k, config.off_top_k_temperature, fishers
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The identity, as JSON reads it back.

        >>> CacheSpec({"teacher": {"name": "resnet56"}}, count=5, classes=3, top_k=2).identity["kept"]["top_k"]
        2
        """
        kept: dict[str, Any] = {
            "images": self.count,
            "classes": self.classes,
            "block": self.block,
            "dtype": self.dtype,
            "top_k": self.top_k,
            "off_top_k_temperature": self.off_top_k_temperature if self.top_k is not None else None,
            "taps": list(self.taps),
        }
        if self.fishers:
            kept["fishers"] = [of.as_dict() for of in self.fishers]
        content = json.loads(canonical_json({"format": FORMAT, **self.parts, "kept": kept}))
        return CacheIdentity.model_validate(content).as_dict()

    @cached_property
    def key(self) -> str:
        """The cache's folder name: the first 32 hex digits of the SHA-256 of the identity."""
        return digest(canonical_json(self.identity))[:32]

    def blocks(self) -> Iterator[range]:
        """The images of each block, in order.

        >>> [len(rows) for rows in CacheSpec({}, count=5, classes=3, block=2).blocks()]
        [2, 2, 1]
        """
        for start in range(0, self.count, self.block):
            yield range(start, min(start + self.block, self.count))


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Each part in which two identities differ, with both values.

    >>> differences({"teacher": {"weights": "a1"}, "seed": 0}, {"teacher": {"weights": "b2"}, "seed": 0})
    ["teacher.weights is 'a1', this run has 'b2'"]
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            difference
            for part in sorted({*found, *wanted})
            for difference in differences(
                found.get(part, _NOTHING), wanted.get(part, _NOTHING), f"{name}.{part}" if name else str(part)
            )
        ]
    if found == wanted and type(found) is type(wanted):
        return []
    return [f"{name} is {shorten(found, 80)}, this run has {shorten(wanted, 80)}"]


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


_NUMBERS = {"float16": "<f2", "float32": "<f4"}


@dataclass(frozen=True)
class Array:
    """One array of a view, as it lies in its file."""

    # ``logits``, or ``values``, ``classes`` and ``rest``; ``feature-0`` and on, one a tap; ``fisher-0`` and on, the
    # square roots of Fisher weights.
    name: str
    dtype: str  # its numbers, as numpy writes it, little-endian
    shape: tuple[int, ...]  # [N, …]; the first is the images

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all images."""
        return self.shape[0] * self.row_bytes

    def path(self, folder: Path, view: int) -> Path:
        """Where it lies.

        >>> Array("logits", "<f2", (5, 3)).path(Path("cache"), 2).name
        'view-0002.logits.bin'
        """
        return folder / f"{view_name(view)}.{self.name}.bin"


def view_name(view: int) -> str:
    """The common prefix of a view's file names.

    >>> view_name(3)
    'view-0003'
    """
    return f"view-{view:04d}"


def arrays_of(spec: CacheSpec, features: Mapping[str, Sequence[int]]) -> list[Array]:
    """The arrays of each view.

    Args:
        spec: what is kept.
        features: of each tap, the shape of one image's features.

    >>> [array.name for array in arrays_of(CacheSpec({}, count=9, classes=1000, top_k=8), {})]
    ['values', 'classes', 'rest']
    """
    number, count = _NUMBERS[spec.dtype], spec.count
    if spec.top_k is None:
        arrays = [Array("logits", number, (count, spec.classes))]
    else:
        names = "<u2" if spec.classes <= 1 << 16 else "<i4"
        arrays = [
            Array("values", number, (count, spec.top_k)),
            Array("classes", names, (count, spec.top_k)),
            Array("rest", "<f4", (count,)),
        ]
    arrays += [Array(f"feature-{place}", number, (count, *features[tap])) for place, tap in enumerate(spec.taps)]
    return arrays + [Array(f"fisher-{p}", number, (count, *features[of.tap])) for p, of in enumerate(spec.fishers)]


class ArrayRecord(Config):
    """One array, as a view's JSON describes it."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    crc32: str = Field("", pattern="^([0-9a-f]{8}( [0-9a-f]{8})*)?$")


class ViewRecord(Config):
    """A view's JSON. Written last, it makes the view complete. Without checksums it is the header of a progress file.

    It names the identity and the view, so that files copied from another folder or number are detected. The checksums
    are CRC-32, one for each block of each array, 8 hex digits each. They guard against damage, not against an attacker:
    they detect every flipped byte and every burst of 32 bits, at a fifth of the cost of BLAKE2b or SHA-256, so the
    whole cache can be verified whenever it is opened.
    """

    format: int
    key: str
    view: int
    block: int
    arrays: dict[str, ArrayRecord]

    @classmethod
    def of(cls, spec: CacheSpec, view: int, arrays: Iterable[Array], sums: Sequence[Sequence[int]] = ()) -> ViewRecord:
        """The record of a view; ``sums`` holds the checksums of each block, one an array."""
        described = {
            array.name: ArrayRecord(
                dtype=array.dtype,
                shape=array.shape,
                bytes=array.bytes,
                crc32=" ".join(f"{block[place]:08x}" for block in sums),
            )
            for place, array in enumerate(arrays)
        }
        return cls(format=FORMAT, key=spec.key, view=view, block=spec.block, arrays=described)

    def features(self, spec: CacheSpec) -> dict[str, tuple[int, ...]]:
        """Of each tap, the shape of one image's features."""
        return {tap: self.arrays[f"feature-{place}"].shape[1:] for place, tap in enumerate(spec.taps)}


def read_record(text: str, spec: CacheSpec, view: int) -> ViewRecord:
    """Read a view's record and check that it is this view's, of this cache, with the arrays that the spec asks for.

    Raises:
        ValueError: it is not; the message says what is wrong.
    """
    try:
        record = ViewRecord.model_validate_json(text)
    except ValidationError:
        raise ValueError("an unharmed JSON file: this one is damaged") from None
    if record.format != FORMAT:
        raise ValueError(f"format {FORMAT}, not {record.format}: another version of stillroom wrote it")
    if (record.key, record.view) != (spec.key, view):
        raise ValueError(f"view {view} of cache {spec.key}: this is view {record.view} of cache {record.key}")
    try:
        arrays = arrays_of(spec, record.features(spec))
    except KeyError as error:
        raise ValueError(f"an unharmed JSON file: this one is damaged, {error} is missing") from None
    wanted = ViewRecord.of(spec, view, arrays)
    bare = {name: array.model_copy(update={"crc32": ""}) for name, array in record.arrays.items()}
    if record.model_copy(update={"arrays": bare}) != wanted:
        raise ValueError("the shapes and sizes of this cache: the file is damaged")
    return record


def checksums(file: BinaryIO, array: Array, spec: CacheSpec, limit: int | None = None) -> list[int]:
    """The CRC-32 of each block of an open file, read in order; of the first ``limit`` blocks, as far as it reaches."""
    file.seek(0)
    found = []
    for place, rows in enumerate(spec.blocks()):
        if place == limit:
            break
        size = len(rows) * array.row_bytes
        content = file.read(size)
        if len(content) < size:
            break
        found.append(zlib.crc32(content))
    return found


def map_array(path: Path, array: Array, spec: CacheSpec, sums: Sequence[int]) -> npt.NDArray[Any]:
    """Memory-map a file once its size and each of its blocks are verified.

    Raises:
        ValueError: it is cut short, too long or damaged; the message says which.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != array.bytes:
            how = "cut short" if size < array.bytes else "too long"
            raise ValueError(f"{array.bytes:,} bytes, not {size:,}: the file is {how}")
        # Through the file, not the map: a read error then raises, where a map would kill the process by a signal.
        found = checksums(file, array, spec)
        if len(found) != len(sums):
            raise ValueError(f"{len(found)} checksums in its JSON, not {len(sums)}: that file is damaged")
        for place, (ours, theirs) in enumerate(zip(found, sums, strict=True)):
            if ours != theirs:
                first = place * spec.block
                last = min(first + spec.block, spec.count) - 1
                raise ValueError(f"checksum {theirs:08x} of images {first} to {last}, not {ours:08x}: it is damaged")
        mapped = np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape)
    # A plain array over the same memory: indexing the subclass costs microseconds. The copy is for big-endian only.
    return np.asarray(mapped).astype(np.dtype(array.dtype).newbyteorder("="), copy=False)


def refusal(folder: Path, name: str, expected: str) -> BadInput:
    """The error of a cache file that cannot be used."""
    return BadInput("cache", name, f"{expected}; remove the folder {folder} to build it again")


Arrays = dict[str, npt.NDArray[Any]]
_LARGEST = float(np.finfo(np.float16).max)


def encode(output: ModelOutput, spec: CacheSpec, arrays: list[Array], view: int, rows: npt.NDArray[np.int64]) -> Arrays:
    """Encode a teacher's outputs for some images.

    Args:
        output: for B images, on any device.
        spec: what is stored.
        arrays: the arrays of a view.
        view: their view, for errors.
        rows: the images, [B], for errors.

    Returns:
        An array [B, …] for each of ``arrays``, by name.

    Raises:
        BadInput: an output has a wrong shape, is not finite, or is too large for float16.

    >>> spec = CacheSpec({}, count=1, classes=3)
    >>> encode(ModelOutput(torch.tensor([[1.0, 2.0, 1e6]])), spec, arrays_of(spec, {}), 0, np.array([7]))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: cache.dtype: got 'float16'; expected float32: the logits of image 7 in view 0 are
    beyond the 65,504 that float16 reaches
    """
    types = {array.name: array.dtype for array in arrays}
    shapes = {array.name: array.shape[1:] for array in arrays}
    kept: Arrays
    logits = _plain(output.logits, "logits", (spec.classes,), view, rows)
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        if spec.top_k is None:
            kept = {"logits": logits.astype(types["logits"])}
        else:
            kept = split_top(logits, spec.top_k, spec.off_top_k_temperature, types)
    _check_range(kept["logits" if spec.top_k is None else "values"], "logits", view, rows)
    for place, tap in enumerate(spec.taps):
        name = f"feature-{place}"
        if tap not in output.features:
            raise BadInput(
                "teacher", tap, f"its features at {tap!r} with its logits; it gave {sorted(output.features)}"
            )
        features = _plain(output.features[tap], f"features at {tap}", shapes[name], view, rows)
        with np.errstate(over="ignore"):
            kept[name] = features.astype(types[name])
        _check_range(kept[name], f"features at {tap}", view, rows)
    for place, of in enumerate(spec.fishers):
        name, what = f"fisher-{place}", f"Fisher weights of {of}"
        if of not in output.fishers:
            raise BadInput("teacher", str(of), f"its {what} with its logits")
        # Square roots, of the gradients' size: float16 reaches 6e-8 and would lose the weights of a confident teacher.
        roots = np.sqrt(_plain(output.fishers[of], what, shapes[name], view, rows))
        with np.errstate(over="ignore"):
            kept[name] = roots.astype(types[name])
        _check_range(kept[name], what, view, rows)
    return kept


def split_top(logits: npt.NDArray[np.float32], top_k: int, temperature: float, types: Mapping[str, str]) -> Arrays:
    """The largest k logits of each image, and one value that replaces each of the others.

    With z the logits, T the k kept and ẑ their values as kept (rounded): rest = τ·(LSE_{j∉T}(z_j/τ) − log(K−k) +
    LSE_{j∈T}(ẑ_j/τ) − LSE_{j∈T}(z_j/τ)), where LSE is log-sum-exp. At temperature τ, the K−k others at ``rest`` then
    have exactly their original total probability; the last two terms correct for rounding, and are 0 without it.
    Among equal logits the lower class is kept, on any machine; the kept ones are in the order of their classes.

    Args:
        logits: float32 [B, K].
        top_k: k, less than K.
        temperature: τ.
        types: number formats of ``values`` and ``classes``.

    Returns:
        ``values`` [B, k], ``classes`` [B, k] and ``rest`` float32 [B].

    >>> kept = split_top(np.array([[0.0, 3.0, 1.0, 1.0]], np.float32), 2, 1.0, {"values": "<f4", "classes": "<u2"})
    >>> kept["values"].tolist(), kept["classes"].tolist()
    ([[3.0, 1.0]], [[1, 2]])
    >>> bool(np.isclose(2 * np.exp(kept["rest"][0]), np.exp(0.0) + np.exp(1.0)))
    True
    """
    batch, classes = logits.shape
    edge = np.partition(logits, classes - top_k, axis=1)[:, classes - top_k, None]
    above, level = logits > edge, logits == edge
    chosen = above | level
    if chosen.sum() > batch * top_k:  # several are equal at the edge
        chosen = above | (level & (level.cumsum(axis=1) <= top_k - above.sum(axis=1, keepdims=True)))
    exact = logits[chosen].reshape(batch, top_k)
    values = exact.astype(types["values"])
    others = logits[~chosen].reshape(batch, classes - top_k)
    rest = rest_of(others, exact, values, temperature)
    where = np.nonzero(chosen)[1].reshape(batch, top_k).astype(types["classes"])
    return {"values": values, "classes": where, "rest": rest.astype("<f4")}


def rest_of(
    others: npt.NDArray[Any], exact: npt.NDArray[Any], values: npt.NDArray[Any], temperature: float
) -> npt.NDArray[np.float64]:
    """``rest`` of :func:`split_top`: others [B, K−k], exact and values [B, k]; float64 [B]."""
    total = _lse(others, temperature) + _lse(values, temperature) - _lse(exact, temperature)
    rest: npt.NDArray[np.float64] = temperature * (total - np.log(others.shape[1]))
    return rest


def join_top(values: Tensor, classes: Tensor, rest: Tensor, count: int) -> Tensor:
    """The logits of all classes: the stored ones, and ``rest`` for every other class.

    Args:
        values: float32 [B, k].
        classes: int64 [B, k].
        rest: float32 [B].
        count: K.

    Returns:
        float32 [B, K].

    >>> join_top(torch.tensor([[3.0, 1.0]]), torch.tensor([[1, 2]]), torch.tensor([-0.5]), 4)
    tensor([[-0.5000,  3.0000,  1.0000, -0.5000]])
    """
    return rest[:, None].repeat(1, count).scatter_(1, classes, values)


def _lse(values: npt.NDArray[Any], temperature: float) -> npt.NDArray[np.float64]:
    scaled = values.astype(np.float64) / temperature
    highest = scaled.max(axis=1)
    total: npt.NDArray[np.float64] = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return total


def _plain(
    output: Tensor, what: str, shape: tuple[int, ...], view: int, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """An output as a float32 array, checked to be of the given shape and finite."""
    if tuple(output.shape) != (len(rows), *shape):
        raise BadInput("teacher", list(output.shape), f"{what} of shape {[len(rows), *shape]} for {len(rows)} images")
    values = output.detach().to("cpu", torch.float32).numpy()
    if (image := _first_infinite(values, rows)) is not None:
        expected = f"finite {what}: those of image {image} in view {view} are not; check the teacher and its input"
        raise BadInput("teacher", "NaN or infinity", expected)
    return values


def _check_range(kept: npt.NDArray[Any], what: str, view: int, rows: npt.NDArray[np.int64]) -> None:
    """Refuse finite outputs that became infinite in float16."""
    if (image := _first_infinite(kept, rows)) is not None:
        expected = f"float32: the {what} of image {image} in view {view} are beyond the {_LARGEST:,.0f}"
        raise BadInput("cache.dtype", "float16", f"{expected} that float16 reaches")


def _first_infinite(values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> int | None:
    finite = np.isfinite(values)
    if finite.all():
        return None
    return int(rows[np.argwhere(~finite)[0, 0]])


def arrays_in(spec: CacheSpec, other: CacheSpec) -> dict[str, str]:
    """For each array of a cache, its name in a cache that covers it.

    >>> small, large = CacheSpec({}, 1, 2, taps=("b",)), CacheSpec({}, 1, 2, taps=("a", "b"))
    >>> arrays_in(small, large)
    {'logits': 'logits', 'feature-0': 'feature-1'}
    """
    logits = ["logits"] if spec.top_k is None else ["values", "classes", "rest"]
    names = {name: name for name in logits}
    names |= {f"feature-{place}": f"feature-{other.taps.index(tap)}" for place, tap in enumerate(spec.taps)}
    return names | {f"fisher-{place}": f"fisher-{other.fishers.index(of)}" for place, of in enumerate(spec.fishers)}
