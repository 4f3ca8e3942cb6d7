"""Similarity of networks: CKA between their layers, agreement of predictions, similarity of attributions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from stillroom.data.images import ImageSet
from stillroom.errors import BadInput
from stillroom.explain.grid import make_grid
from stillroom.files import verify
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.prepared import PreparedModel
from stillroom.models.reader import LOGITS
from stillroom.models.taps import find_taps
from stillroom.observer import Observer
from stillroom.run.fidelity.measure import evenly_spread, read_features
from stillroom.schema.base import six_digits, six_digits_or_none
from stillroom.schema.explanation import CkaTable, NetworkAgreement

CKA_IMAGES = 256
_BATCH = 64
# Larger maps are averaged down to this side: a stem's would take gigabytes, with the same result.
_SIDE = 16
# Points of the path of integrated gradients between the mean colour and the image.
_STEPS = 24


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment of two layers' features of the same images, debiased.

    CKA = HSIC(K, L)/√(HSIC(K, K)·HSIC(L, L)), K = XXᵀ, L = YYᵀ, HSIC the unbiased estimator: with fewer images than
    features the usual one is near 1 whatever the layers are. 1: equal up to rotation and scale; about 0: unrelated.

    Args:
        one: X, [n, …], n of 4 or more; a row an image.
        other: Y, [n, …].

    Returns:
        CKA, at most 1; NaN where a layer gives all images the same.

    Raises:
        BadInput: the numbers of rows differ, or are fewer than 4.

    Paper: Kornblith et al., "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414); the estimator
    is of Song et al. 2012, used so by Nguyen et al. (arXiv 2010.15327).

    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> rotated, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    >>> round(linear_cka(x, 3 * x @ rotated), 6)
    1.0
    """
    if len(one) != len(other) or len(one) < 4:
        raise BadInput("features", [len(one), len(other)], "as many rows in both, 4 or more")
    return _alignment(_gram(one), _gram(other))


def _gram(features: Tensor) -> Tensor:
    """XXᵀ of centred features with an empty diagonal, float64 [n, n], of norm 1."""
    rows = features.flatten(1).double()
    rows = rows - rows.mean(0)
    gram = rows @ rows.T
    gram.fill_diagonal_(0)
    norm = gram.norm()
    return gram / norm if norm > 0 else gram


def _hsic(one: Tensor, other: Tensor) -> float:
    """n(n − 3) times the unbiased estimator, of matrices with empty diagonals."""
    n = len(one)
    total = (one * other).sum() + one.sum() * other.sum() / ((n - 1) * (n - 2))
    return float(total - 2 * (one.sum(0) @ other.sum(0)) / (n - 2))


def _alignment(one: Tensor, other: Tensor) -> float:
    own, its = _hsic(one, one), _hsic(other, other)
    return _hsic(one, other) / (own * its) ** 0.5 if own > 0 and its > 0 else float("nan")


def tap_names(prepared: PreparedModel, data: ImageSet) -> tuple[str, ...]:
    """The taps of a network, shallow to deep."""
    example = prepared.inputs(data.images[:2])
    return tuple(tap.name for tap in find_taps(prepared.model, example, field="student"))


def gram_matrices(prepared: PreparedModel, names: Sequence[str], data: ImageSet) -> list[Tensor]:
    """The Gram matrices of a network's taps over some images of a split, evenly spread; a matrix each."""
    rows = torch.from_numpy(evenly_spread(len(data), CKA_IMAGES))
    device = device_of(prepared.model)
    pipe = prepared.preprocess().to(device)
    held: dict[str, list[Tensor]] = {name: [] for name in names}
    taps = [name for name in names if name != LOGITS]
    for start in range(0, len(rows), _BATCH):
        logits, features = read_features(
            prepared.model, pipe, data.images[rows[start : start + _BATCH]].to(device), taps
        )
        for name, found in {**features, LOGITS: logits}.items():
            held[name].append(_smaller(found).cpu())
    return [_gram(torch.cat(held[name])) for name in names]


def _smaller(features: Tensor) -> Tensor:
    if features.ndim == 4 and max(features.shape[2:]) > _SIDE:
        return adaptive_avg_pool2d(features, _SIDE)
    return features


def cka_table(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[tuple[float | None, ...], ...]:
    """CKA of each of one network's layers with each of another's."""
    return tuple(tuple(six_digits_or_none(_alignment(mine, its)) for its in other) for mine in one)


def agreement(one: Path, other: Path | None) -> tuple[float, float, int] | None:
    """How often two runs' students predict the same class over the test split, or a run's student and its teacher."""
    mine = _predictions(one)
    if mine is None:
        return None
    if other is None:
        if "teacher_logits" not in mine:
            return None
        others = mine["teacher_logits"].argmax(1)
    else:
        theirs = _predictions(other)
        if theirs is None or not torch.equal(theirs["labels"], mine["labels"]):
            return None
        others = theirs["student_logits"].argmax(1)
    own = mine["student_logits"].argmax(1)
    alike = own == others
    right = alike & (own == mine["labels"])
    return float(alike.double().mean()), float(right.double().mean()), len(own)


def _predictions(run: Path) -> dict[str, Tensor] | None:
    path = run / "predictions.safetensors"
    try:
        verify(path)
        held = load_file(path)
    except BadInput:
        raise
    except Exception:  # the library has errors of its own for a damaged file
        return None
    return held if {"student_logits", "labels"} <= set(held) else None


def captum_version() -> str:
    """The version of Captum."""
    try:
        return version("captum")
    except PackageNotFoundError:
        raise BadInput("--attributions", True, "Captum: pip install 'stillroom[captum]'") from None


def attributions(prepared: PreparedModel, images: Tensor, labels: Tensor, cells: int) -> Tensor:
    """Which cells of each image the network's logit of its true class comes from: integrated gradients, by Captum.

    The path begins at the mean colour, |·| is added up over channels and each cell's pixels, and each image sums to 1.

    Args:
        images: as they are stored, [I, C, H, W].
        labels: the data's classes, int64 [I].

    Returns:
        [I, g, g] on the CPU; of an image that moves nothing all cells alike.

    Paper: Sundararajan et al., "Axiomatic Attribution for Deep Networks" (arXiv 1703.01365).
    """
    from captum.attr import IntegratedGradients

    device = device_of(prepared.model)
    pipe = prepared.preprocess().to(device)

    def logits(given: Tensor) -> Tensor:
        return pipe.reorder(prepared.model(given))

    method = IntegratedGradients(logits)
    found = []
    with eval_mode(prepared.model):
        for image, label in zip(images, labels.tolist(), strict=True):
            given = pipe(image[None].to(device))
            attributed = method.attribute(given, target=int(label), n_steps=_STEPS, internal_batch_size=_STEPS)
            found.append(attributed.abs().sum(1).float().detach().cpu())
    pixels = torch.cat(found)
    cells_of = make_grid(cells, *pixels.shape[1:]).gather(pixels)
    total = cells_of.sum((1, 2), keepdim=True)
    return torch.where(total > 0, cells_of / total.clamp_min(1e-30), torch.full_like(cells_of, 1 / cells**2))


def compare_representations(
    runs: Sequence[tuple[Path, PreparedModel]],
    explained: int,
    teacher: PreparedModel | None,
    data: ImageSet,
    observer: Observer,
) -> tuple[tuple[NetworkAgreement, ...], tuple[CkaTable, ...]]:
    """Agreement and CKA of the trained students: each explained one with its baseline, and with the teacher."""
    networks = [student for _, student in runs] + ([teacher] if teacher is not None else [])
    # All students are built alike.
    taps = [tap_names(runs[0][1], data)] * len(runs) + ([tap_names(teacher, data)] if teacher is not None else [])
    grams = []
    for names, network in zip(taps, networks, strict=True):
        grams.append(gram_matrices(network, names, data))
        observer.phase("comparing layers", len(grams), len(networks))
    agreements, tables = [], []
    for one in range(explained):
        for other in ([one + explained] if one + explained < len(runs) else []) + [None]:
            named: int | Literal["teacher"] = "teacher" if other is None else other
            shares = agreement(runs[one][0], None if other is None else runs[other][0])
            if shares is not None:
                agree, both_right, count = six_digits(shares[0]), six_digits(shares[1]), shares[2]
                agreements.append(
                    NetworkAgreement(one=one, other=named, agree=agree, both_right=both_right, count=count)
                )
            if other is not None or teacher is not None:
                place = len(runs) if other is None else other
                tables.append(
                    CkaTable(
                        one=one,
                        other=named,
                        one_taps=taps[one],
                        other_taps=taps[place],
                        values=cka_table(grams[one], grams[place]),
                        images=min(CKA_IMAGES, len(data)),
                    )
                )
    return tuple(agreements), tuple(tables)
