"""From what a teacher says to the arrays that are kept of it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.teachers.cache.identity import CacheSpec
from stillroom.teachers.cache.layout import Array
from stillroom.teachers.knowledge import ModelOutput

Arrays = dict[str, npt.NDArray[Any]]
_LARGEST = float(np.finfo(np.float16).max)


def encode(said: ModelOutput, spec: CacheSpec, arrays: list[Array], view: int, rows: npt.NDArray[np.int64]) -> Arrays:
    """What is kept of a teacher's answers to some images.

    Args:
        said: its answers, B of them, on any device.
        spec: what is kept.
        arrays: what it is kept in.
        view: the view they are of, for errors.
        rows: the images, [B], for errors.

    Returns:
        An array [B, …] for each of ``arrays``, by its name, of its type.

    Raises:
        BadInput: an answer has another shape than it should, is not finite, or is too large for float16.

    >>> from stillroom.teachers.cache.layout import arrays_of
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
    logits = _plain(said.logits, "logits", (spec.classes,), view, rows)
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        if spec.top_k is None:
            kept = {"logits": logits.astype(types["logits"])}
        else:
            kept = split_top(logits, spec.top_k, spec.off_top_k_temperature, types)
    _check_range(kept["logits" if spec.top_k is None else "values"], "logits", view, rows)
    for place, tap in enumerate(spec.taps):
        name = f"feature-{place}"
        if tap not in said.features:
            raise BadInput(
                "teacher", tap, f"its features at {tap!r} beside its logits; it gave {sorted(said.features)}"
            )
        features = _plain(said.features[tap], f"features at {tap}", shapes[name], view, rows)
        with np.errstate(over="ignore"):
            kept[name] = features.astype(types[name])
        _check_range(kept[name], f"features at {tap}", view, rows)
    for place, of in enumerate(spec.fishers):
        name, what = f"fisher-{place}", f"Fisher weights of {of}"
        if of not in said.fishers:
            raise BadInput("teacher", str(of), f"its {what} beside its logits")
        # Their roots, the gradients' size: float16 reaches 6e-8 and would lose the weights of a sure teacher.
        roots = np.sqrt(_plain(said.fishers[of], what, shapes[name], view, rows))
        with np.errstate(over="ignore"):
            kept[name] = roots.astype(types[name])
        _check_range(kept[name], what, view, rows)
    return kept


def split_top(logits: npt.NDArray[np.float32], top_k: int, temperature: float, types: Mapping[str, str]) -> Arrays:
    """The largest k logits of each image, and one number that stands for each of the others.

    With z the logits, T the k kept and ẑ their values as kept (rounded): rest = τ·(LSE_{j∉T}(z_j/τ) − log(K−k) +
    LSE_{j∈T}(ẑ_j/τ) − LSE_{j∈T}(z_j/τ)), where LSE is log-sum-exp. Softened by τ, the K−k others at ``rest`` then have
    together exactly the probability that they had; the last two terms make up for the rounding, and are 0 without it.
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
    """The logits of all classes: those kept, and ``rest`` for each other one.

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
    said: Tensor, what: str, shape: tuple[int, ...], view: int, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """An answer as a float32 array, if it is of the shape that it should be, and finite."""
    if tuple(said.shape) != (len(rows), *shape):
        raise BadInput("teacher", list(said.shape), f"{what} of shape {[len(rows), *shape]} for {len(rows)} images")
    values = said.detach().to("cpu", torch.float32).numpy()
    if (image := _first_infinite(values, rows)) is not None:
        expected = f"finite {what}: those of image {image} in view {view} are not; the teacher or its input is broken"
        raise BadInput("teacher", "NaN or infinity", expected)
    return values


def _check_range(kept: npt.NDArray[Any], what: str, view: int, rows: npt.NDArray[np.int64]) -> None:
    """Refuse finite answers that became infinite in float16."""
    if (image := _first_infinite(kept, rows)) is not None:
        expected = f"float32: the {what} of image {image} in view {view} are beyond the {_LARGEST:,.0f}"
        raise BadInput("cache.dtype", "float16", f"{expected} that float16 reaches")


def _first_infinite(values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> int | None:
    finite = np.isfinite(values)
    if finite.all():
        return None
    return int(rows[np.argwhere(~finite)[0, 0]])
