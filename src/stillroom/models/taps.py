"""Taps: places in a model where features can be read, found automatically, and paired between two models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, format_error
from stillroom.models.cost import count_multiply_adds
from stillroom.models.modes import eval_mode
from stillroom.models.reader import FEATURES, LOGITS, TapReader
from stillroom.models.tail import can_replay
from stillroom.models.tracing import Traced, Untraceable, is_activation, owner, trace

Kind = Literal["map", "token", "vector"]


@dataclass(frozen=True)
class Tap:
    """A place in a model where features are read."""

    name: str  # module path whose output it is, ``path:pre``, ``features`` or ``logits``
    # Of one image's features, without the batch, as they are read: C×H×W (H×W×C where ``channels_last``), tokens×d, or
    # d.
    shape: tuple[int, ...]
    stage: int  # number of its resolution, counted from 0; what comes after the last map has the number after it
    depth: float  # share of the model's multiply-adds done when it is read, 0 to 1; of its layers, where it has none
    kind: Kind  # ``map``, ``token`` or ``vector``

    @property
    def channels_last(self) -> bool:
        """Whether a map is laid out H×W×C, as Swin's are."""
        return self.kind == "map" and self.shape[0] == self.shape[1] != self.shape[2]

    @property
    def resolution(self) -> tuple[int, int] | None:
        """Height and width of a map, or of the grid that tokens make, less class tokens; None for a vector.

        >>> Tap("blocks.0", (197, 192), 0, 0.1, "token").resolution
        (14, 14)
        """
        if self.kind == "map":
            height, width = self.shape[:2] if self.channels_last else self.shape[1:]
            return height, width
        if self.kind == "token":
            # A class token, one of a distilled model, up to four registers.
            for extra in range(min(6, self.shape[0])):
                side = math.isqrt(self.shape[0] - extra)
                if side * side == self.shape[0] - extra:
                    return side, side
        return None


@dataclass(frozen=True)
class _Point:
    """A tensor that every path crosses: the modules whose output it is, the outermost first."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    activated: bool

    @property
    def tap(self) -> Tap:
        return Tap(self.names[0], self.shape, 0, 0.0, _kind(self.shape))


def find_taps(
    model: nn.Module,
    example: Tensor,
    names: Sequence[str] | None = None,
    *,
    traced: Traced | None = None,
    field: str = "model",
) -> tuple[Tap, ...]:
    """Find where a model's features can be read so that nothing passes by, and say what lies there.

    Taken are, of the points that every path from the input to the logits crosses, the last of each resolution; of
    models whose resolution does not change, the end of each block; then ``features``, what the layer that makes the
    logits is given, and ``logits``. The points are those of the traced graph; where a model cannot be traced, modules
    that are found to cut it when their output is put into a pass over other images.

    Args:
        names: taps by hand, which need not be such points; left out: found.
        traced: what :func:`~stillroom.models.tracing.trace` gave of this model, where it is there.

    Returns:
        The taps, shallow to deep.

    Raises:
        BadInput: a name that the model does not have, or that gives no features of each image.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    >>> [(tap.name, tap.shape, tap.kind) for tap in find_taps(net, torch.zeros(1, 3, 8, 8))]
    [('1', (4, 3, 3), 'map'), ('features', (36,), 'vector'), ('logits', (2,), 'vector')]
    """
    if names is None:
        try:
            traced = traced or trace(model, example)
            points, last = _points_of_graph(traced), _has_features(traced)
        except Untraceable:
            points, last = _points_by_trial(model, example), can_replay(model, FEATURES, example)
        found = list(dict.fromkeys(_select(model, points)))
        names = [*(n for n in found if n not in (FEATURES, LOGITS)), *([FEATURES] if last else []), LOGITS]
    return _read_taps(model, example, names, field)


def _kind(shape: tuple[int, ...]) -> Kind:
    if len(shape) == 3 and shape[1:] != (1, 1):
        return "map"
    return "token" if len(shape) == 2 else "vector"


def _points_of_graph(traced: Traced) -> list[_Point]:
    batch = traced.image.meta["val"].shape[0]
    classifier = traced.classifier()
    # The vector that the logits are made of has a name of its own.
    taken = {traced.logits, classifier, classifier.args[0] if classifier is not None else None}
    points = []
    for node in traced.cuts():
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            continue
        shape = value.shape
        fits = 2 <= len(shape) <= 4 and shape[0] == batch and all(isinstance(side, int) for side in shape[1:])
        paths = [path for path, given in traced.outputs.items() if given is node and path != FEATURES]
        if node not in taken and fits and value.is_floating_point() and paths:
            names = tuple(sorted(paths, key=lambda path: path.count(".")))
            points.append(_Point(names, tuple(shape[1:]), is_activation(node)))
    return points


def _has_features(traced: Traced) -> bool:
    node = traced.classifier()
    # What a model's own code multiplies, outside any layer, no hook can read.
    return node is not None and node.args[0] in traced.cuts() and bool(owner(node))


def _points_by_trial(model: nn.Module, example: Tensor) -> list[_Point]:
    """Modules that cut the model when tried, for a model that cannot be traced: the last of each shape."""
    given: list[tuple[str, Tensor]] = []
    calls: dict[str, int] = {}

    def note(name: str) -> Any:
        def read(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor) and 2 <= output.dim() <= 4 and len(output) == len(example):
                given.append((name, output))

        return read

    with ExitStack() as hooks, eval_mode(model), torch.no_grad():
        for name, module in model.named_modules():
            if name not in ("", FEATURES):
                hooks.enter_context(module.register_forward_hook(note(name)))
        logits = model(example)
    rows = [(name, tuple(out.shape[1:])) for name, out in given if calls[name] == 1 and out is not logits]
    points = []
    for shape, group in groupby(rows, key=lambda row: row[1]):
        # The outermost end last; a few tries find it.
        for name, _ in list(group)[: -1 - 8 : -1]:
            if _kind(shape) != "vector" and can_replay(model, name, example):
                points.append(_Point((name,), shape, False))
                break
    return points


def _select(model: nn.Module, points: Sequence[_Point]) -> Iterator[str]:
    spatial = [point for point in points if point.tap.kind != "vector"]
    if not spatial:
        # A multilayer perceptron: what its activations give, or, where it has none, its layers.
        yield from (point.names[0] for point in [p for p in points if p.activated] or points)
        return
    keyed = groupby(spatial, key=lambda point: (point.tap.kind, point.tap.resolution))
    groups = [(key, list(group)) for key, group in keyed]
    taken: list[str] = []
    level, one_resolution = _stage_depth(spatial), len({key for key, _ in groups}) == 1
    for place, ((kind, resolution), group) in enumerate(groups):
        following = groups[place + 1][0] if place + 1 < len(groups) else None
        if kind == "map" and following == ("token", resolution):
            continue  # the patches, before they are tokens
        ends = _blocks(model, group) if kind == "token" or one_resolution else []
        # Not inside the block that changes the resolution, where whole stages end.
        whole = [point for point in group if point.names[0].count(".") <= level]
        names = ends or [_outermost((whole or group)[-1].names, taken)]
        taken += names
        yield from names


def _stage_depth(points: Sequence[_Point]) -> int:
    """How deep the modules lie whose siblings give the most resolutions: 0 for ``layer2``, 1 for ``stages.2``."""
    seen: dict[str, set[Any]] = {}
    for point in points:
        for name in point.names:
            seen.setdefault(name.rpartition(".")[0], set()).add(point.tap.resolution)
    parent = max(seen, key=lambda path: (len(seen[path]), -len(path)), default="")
    return parent.count(".") + 1 if parent else 0


def _blocks(model: nn.Module, group: Sequence[_Point]) -> list[str]:
    """The ends of the blocks of the longest sequence of modules that these points end."""
    ends: dict[str, list[str]] = {}
    for point in group:
        for name in point.names:
            parent = name.rpartition(".")[0]
            # A block is more than one layer.
            if any(model.get_submodule(name).children()) and isinstance(
                model.get_submodule(parent), nn.Sequential | nn.ModuleList
            ):
                ends.setdefault(parent, []).append(name)
    return max(ends.values(), key=len, default=[])


def _outermost(names: Sequence[str], taken: Sequence[str]) -> str:
    """The shortest of a point's names that holds none of the taps before it: ``stages.3`` rather than ``stages``."""
    fitting = [name for name in names if not any(f"{other}.".startswith(f"{name}.") for other in taken)]
    return (fitting or names)[0]


def _read_taps(model: nn.Module, example: Tensor, names: Sequence[str], field: str) -> tuple[Tap, ...]:
    layers = 0
    done: dict[str, tuple[int, int]] = {}

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal layers
        layers += 1

    taps = TapReader(model, names, field=field, on_read=lambda name: done.update({name: (counted(), layers)}))
    leaves = [module for module in model.modules() if not any(module.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        with taps, count_multiply_adds(model) as counted:
            model(example[:1])
        read = taps.take()
    except RuntimeError as error:
        raise BadInput(
            f"{field} tap", ", ".join(names), f"taps that can be read; it raised {format_error(error)}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    total, all_layers = counted(), layers
    unordered = []
    if LOGITS in read and read[LOGITS].dim() != 2:
        raise BadInput(
            field, type(model).__name__, f"a model that gives logits [batch, classes], not {_sides(read[LOGITS])}"
        )
    for name in names:
        if not 2 <= read[name].dim() <= 4 or len(read[name]) != 1:
            expected = f"features [batch, …] of each image; it gives {_sides(read[name])} for one"
            raise BadInput(f"{field} tap", name, expected)
        depth = done[name][0] / total if total else done[name][1] / max(all_layers, 1)
        shape = tuple(read[name].shape[1:])
        unordered.append((done[name], Tap(name, shape, 0, depth, _kind(shape))))
    unordered.sort(key=lambda row: (row[1].name == LOGITS, row[1].name == FEATURES, row[0]))
    return _number_stages([tap for _, tap in unordered])


def _sides(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def _number_stages(taps: Sequence[Tap]) -> tuple[Tap, ...]:
    stage, before, staged = -1, object(), []
    for tap in taps:
        key: object = tap.resolution
        if (tap.name != LOGITS and key != before) or stage < 0:
            stage, before = stage + 1, key
        staged.append(Tap(tap.name, tap.shape, stage, tap.depth, tap.kind))
    return tuple(staged)


def pair_taps(teacher_taps: Sequence[Tap], student_taps: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Pair a teacher's taps with a student's: the same resolution first, then the nearest relative depth.

    From the deepest to the shallowest, and without crossing: of two pairs, the one that is deeper in the teacher is
    deeper in the student. Where one of them has more taps of a resolution, the nearest in relative depth are taken;
    what is then left on both sides is paired by depth alone. ``features`` and ``logits`` pair with their like, a
    vector never with a map.

    Returns:
        (teacher's, student's), shallow to deep; each tap is there once at most.

    >>> teacher = [Tap(f"layer{n}", (8 * n, side, side), n, n / 3, "map") for n, side in ((1, 8), (2, 4), (3, 2))]
    >>> student = [Tap("a", (4, 8, 8), 0, 0.5, "map"), Tap("b", (4, 2, 2), 1, 1.0, "map")]
    >>> [(t.name, s.name) for t, s in pair_taps(teacher, student)]
    [('layer1', 'a'), ('layer3', 'b')]
    """
    inner = [[tap for tap in taps if tap.name not in (FEATURES, LOGITS)] for taps in (teacher_taps, student_taps)]
    pairs: list[tuple[int, int]] = []
    for wanted in ("resolution", "depth"):
        left = [[n for n in range(len(taps)) if n not in {p[side] for p in pairs}] for side, taps in enumerate(inner)]
        for kind in dict.fromkeys(_group(inner[1][n], wanted) for n in reversed(left[1])):
            teachers, students = ([n for n in left[side] if _group(inner[side][n], wanted) == kind] for side in (0, 1))
            pairs += _nearest(inner, teachers, students, pairs)
    found = [(inner[0][t], inner[1][s]) for t, s in sorted(pairs)]
    for name in (FEATURES, LOGITS):
        both = [next((tap for tap in taps if tap.name == name), None) for taps in (teacher_taps, student_taps)]
        if both[0] is not None and both[1] is not None:
            found.append((both[0], both[1]))
    return found


def _group(tap: Tap, wanted: str) -> object:
    return (tap.kind == "vector", tap.resolution) if wanted == "resolution" else tap.kind == "vector"


def _nearest(
    inner: list[list[Tap]], teachers: list[int], students: list[int], pairs: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Pair all of the shorter list, deepest first, each with the nearest depth that leaves enough for the rest."""
    found: list[tuple[int, int]] = []
    few, many = (students, teachers) if len(students) <= len(teachers) else (teachers, students)
    few_side = 1 if few is students else 0
    many = list(many)
    for left, one in reversed(list(enumerate(few))):
        fitting = [
            place
            for place, other in enumerate(many)
            if place >= left and not _crosses(_in_order(one, other, few_side), [*pairs, *found])
        ]
        if not fitting:
            continue
        depth = inner[few_side][one].depth
        best = min(fitting, key=lambda place: (abs(inner[1 - few_side][many[place]].depth - depth), -place))
        found.append(_in_order(one, many[best], few_side))
        del many[best:]
    return found


def _in_order(one: int, other: int, few_side: int) -> tuple[int, int]:
    return (other, one) if few_side == 1 else (one, other)


def _crosses(pair: tuple[int, int], pairs: list[tuple[int, int]]) -> bool:
    return any((pair[0] < other[0]) != (pair[1] < other[1]) for other in pairs)
