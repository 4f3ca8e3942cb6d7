"""Connectors: learned maps from the student's features to the shape of the teacher's, inferred from both shapes."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.models.taps import Tap

Grid = tuple[int, int]


def connector(
    student_tap: Tap, teacher_tap: Tap, *, kind: Literal["auto", "identity"] = "auto", field: str = "connector"
) -> nn.Module:
    """A map from the student's features [B, …] to the shape of the teacher's, [B, …].

    To a vector: mean over places, then a linear layer. To a map: 1×1 convolution and batch norm, resized by average
    pooling down and bilinear interpolation up. To tokens: a linear layer on each, the grid resized in the same way;
    class tokens are kept, and missing ones are the mean over places. Tokens become a map by their square grid.

    Args:
        student_tap: where the student is read.
        teacher_tap: where the teacher is read.
        kind: ``auto`` learns a map, also between equal shapes, because channels differ in meaning between networks;
            ``identity`` compares features as they are.
        field: the option's name in messages.

    Raises:
        BadInput: a map or tokens opposite a vector, tokens without a square grid, ``identity`` of unequal shapes.

    >>> vit = Tap("blocks.3", (65, 32), 0, 1.0, "token")
    >>> cnn = Tap("layer3", (64, 4, 4), 2, 1.0, "map")
    >>> connector(vit, cnn)(torch.zeros(2, 65, 32)).shape
    torch.Size([2, 64, 4, 4])
    >>> connector(cnn, vit)(torch.zeros(2, 64, 4, 4)).shape
    torch.Size([2, 65, 32])
    """
    if kind == "identity":
        if student_tap.shape != teacher_tap.shape:
            raise BadInput(field, "identity", f"auto: {_unequal(student_tap, teacher_tap)}")
        return nn.Identity()
    if teacher_tap.kind == "vector":
        return VectorConnector(student_tap, teacher_tap)
    if _same_tokens(student_tap, teacher_tap):
        return TokenConnector(student_tap, teacher_tap)
    tried = "1×1 convolution" if teacher_tap.kind == "map" else "linear layer on each token"
    for who, tap in (("student", student_tap), ("teacher", teacher_tap)):
        if tap.resolution is None:
            why = "is a vector" if tap.kind == "vector" else "has tokens that make no square grid"
            expected = f"taps that a {tried} can connect: {_unequal(student_tap, teacher_tap)}, and the {who}'s {why}"
            raise BadInput(field, kind, expected)
    return (MapConnector if teacher_tap.kind == "map" else TokenConnector)(student_tap, teacher_tap)


class VectorConnector(nn.Module):
    """The mean over places, where there are any, and a linear layer: [B, …] → [B, d]."""

    def __init__(self, student: Tap, teacher: Tap) -> None:
        super().__init__()
        self._student = student
        self._shape = teacher.shape
        self.linear = nn.Linear(channels_of(student), math.prod(teacher.shape))

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.linear(self._pooled(features))
        return mapped.reshape(-1, *self._shape)

    def linear_input(self, features: Tensor) -> Tensor:
        """The linear layer's input, [B, 1, d of the student]."""
        return self._pooled(features)[:, None]

    def _pooled(self, features: Tensor) -> Tensor:
        tap = self._student
        if tap.kind == "map":
            features = _channels_first(features, tap).mean((2, 3))
        elif tap.kind == "token":
            features = features.mean(1)
        return features.flatten(1)


class MapConnector(nn.Module):
    """A 1×1 convolution and batch norm: a map, or tokens that make a grid → [B, C, H, W], or [B, H, W, C]."""

    def __init__(self, student: Tap, teacher: Tap) -> None:
        super().__init__()
        self._student = student
        self._grid = _grid(teacher)
        self._last = teacher.channels_last
        out = channels_of(teacher)
        # One place has no statistics in a batch of one.
        normed = math.prod(self._grid) > 1
        self.conv = nn.Conv2d(channels_of(student), out, 1, bias=not normed)
        self.norm = nn.BatchNorm2d(out) if normed else nn.Identity()
        # Convolution and resizing commute, as both are linear and interpolation weights sum to 1: the cheaper order.
        self._conv_first = math.prod(self._grid) > math.prod(_grid(student))

    def forward(self, features: Tensor) -> Tensor:
        x = as_map(features, self._student)
        x = resize(self.conv(x), self._grid) if self._conv_first else self.conv(resize(x, self._grid))
        mapped: Tensor = self.norm(x)
        return mapped.permute(0, 2, 3, 1) if self._last else mapped

    def linear_input(self, features: Tensor) -> Tensor:
        """The convolution's input at each place of the teacher's, [B, places, channels of the student]."""
        return resize(as_map(features, self._student), self._grid).flatten(2).transpose(1, 2)


class TokenConnector(nn.Module):
    """A linear layer on each token: tokens, or a map → [B, tokens, d]."""

    def __init__(self, student: Tap, teacher: Tap) -> None:
        super().__init__()
        self._student = student
        self._teacher = teacher
        self._same_tokens = _same_tokens(student, teacher)
        self.linear = nn.Linear(channels_of(student), channels_of(teacher))

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.linear(self.linear_input(features))
        return mapped

    def linear_input(self, features: Tensor) -> Tensor:
        """The linear layer's input for each token of the teacher's, [B, tokens, d of the student]."""
        return features if self._same_tokens else self._resized(features)

    def _resized(self, features: Tensor) -> Tensor:
        """As many tokens as the teacher has, class tokens first, of the student's width."""
        places = resize(as_map(features, self._student), _grid(self._teacher)).flatten(2).transpose(1, 2)
        wanted = _class_tokens(self._teacher)
        own = features[:, : min(wanted, _class_tokens(self._student))] if self._student.kind == "token" else None
        missing = wanted - (own.shape[1] if own is not None else 0)
        mean = places.mean(1, keepdim=True).expand(-1, missing, -1)
        return torch.cat([mean, places] if own is None else [own, mean, places], 1)


def resize(x: Tensor, grid: Grid) -> Tensor:
    """A map [B, C, H, W] at another resolution: average pooling down, bilinear interpolation up.

    >>> resize(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), (1, 2)).tolist()
    [[[[3.0, 5.0]]]]
    """
    height, width = (min(have, want) for have, want in zip(x.shape[2:], grid, strict=True))
    if (height, width) != x.shape[2:]:
        if x.shape[2] % height or x.shape[3] % width:
            x = F.adaptive_avg_pool2d(x, (height, width))
        else:
            # The same means, and a gradient that keeps the memory layout.
            x = F.avg_pool2d(x, (x.shape[2] // height, x.shape[3] // width))
    if (height, width) != grid:
        x = F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
    return x


def channels_of(tap: Tap) -> int:
    """Width of a tap's features: channels of a map, numbers in a token or a vector."""
    if tap.kind == "vector":
        return math.prod(tap.shape)
    return tap.shape[0] if tap.kind == "map" and not tap.channels_last else tap.shape[-1]


def to_rows(features: Tensor, tap: Tap) -> Tensor:
    """Features of a tap as one row of channels for each place: [B, …] → [B, places, channels].

    >>> to_rows(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]), Tap("a", (2, 1, 2), 0, 0.5, "map")).tolist()
    [[[1.0, 3.0], [2.0, 4.0]]]
    """
    if tap.kind == "map":
        return _channels_first(features, tap).flatten(2).transpose(1, 2)
    return features if tap.kind == "token" else features.flatten(1)[:, None]


def from_rows(rows: Tensor, tap: Tap) -> Tensor:
    """Rows of channels [B, places, channels] as features of a tap: the inverse of :func:`to_rows`."""
    if tap.kind == "map":
        grid = rows.reshape(len(rows), *_grid(tap), -1)
        return grid if tap.channels_last else grid.permute(0, 3, 1, 2)
    return rows if tap.kind == "token" else rows.reshape(-1, *tap.shape)


def shape_of(tap: Tap) -> str:
    """The shape of a tap's features as messages write it.

    >>> shape_of(Tap("layer1", (16, 8, 8), 0, 0.5, "map"))
    '16×8×8'
    """
    return "×".join(map(str, tap.shape))


def _same_tokens(student: Tap, teacher: Tap) -> bool:
    return student.kind == teacher.kind == "token" and student.shape[0] == teacher.shape[0]


def _grid(tap: Tap) -> Grid:
    grid = tap.resolution
    assert grid is not None, "the connector was chosen by it"
    return grid


def _class_tokens(tap: Tap) -> int:
    return tap.shape[0] - math.prod(_grid(tap)) if tap.kind == "token" else 0


def _channels_first(features: Tensor, tap: Tap) -> Tensor:
    return features.permute(0, 3, 1, 2) if tap.channels_last else features


def as_map(features: Tensor, tap: Tap) -> Tensor:
    """A map, the grid that tokens make, or a vector as a map of one place: [B, C, H, W]."""
    if tap.kind == "map":
        return _channels_first(features, tap)
    if tap.kind == "vector":
        return features.flatten(1)[:, :, None, None]
    places = features[:, _class_tokens(tap) :].transpose(1, 2)
    return places.reshape(*places.shape[:2], *_grid(tap))


def _unequal(student: Tap, teacher: Tap) -> str:
    return (
        f"the student's {student.name!r} has the shape {shape_of(student)} ({student.kind}), "
        f"the teacher's {teacher.name!r} {shape_of(teacher)} ({teacher.kind})"
    )
