"""Which tap of the student stands opposite which of the teacher: by resolution, then by depth."""

from __future__ import annotations

from collections.abc import Sequence

from stillroom.models.finding import FEATURES, LOGITS, Tap

__all__ = ["pair_taps"]


def pair_taps(teacher_taps: Sequence[Tap], student_taps: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Pair a teacher's taps with a student's: the same resolution first, then the nearest relative depth.

    From the deepest to the shallowest, and without crossing: of two pairs, the one that is deeper in the teacher is
    deeper in the student. Where one of them has more taps of a resolution, the nearest in relative depth are taken;
    what is then left on both sides is paired by depth alone. ``features`` and ``logits`` pair with their like, a
    vector never with a map.

    Args:
        teacher_taps: as :func:`~stillroom.models.finding.find_taps` gives them, shallow to deep.
        student_taps: the same of the student.

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
            if place >= left and not _crosses(_ordered(one, other, few_side), [*pairs, *found])
        ]
        if not fitting:
            continue
        depth = inner[few_side][one].depth
        best = min(fitting, key=lambda place: (abs(inner[1 - few_side][many[place]].depth - depth), -place))
        found.append(_ordered(one, many[best], few_side))
        del many[best:]
    return found


def _ordered(one: int, other: int, few_side: int) -> tuple[int, int]:
    return (other, one) if few_side == 1 else (one, other)


def _crosses(pair: tuple[int, int], pairs: list[tuple[int, int]]) -> bool:
    return any((pair[0] < other[0]) != (pair[1] < other[1]) for other in pairs)
