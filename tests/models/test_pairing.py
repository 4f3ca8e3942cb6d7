"""Pairs of taps: the same resolution first, then depth, never crossing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.models.taps import Kind, Tap, pair_taps


def tap(name: str, shape: tuple[int, ...], depth: float, kind: Kind = "map") -> Tap:
    return Tap(name, shape, 0, depth, kind)


def names(pairs: list[tuple[Tap, Tap]]) -> list[tuple[str, str]]:
    return [(teacher.name, student.name) for teacher, student in pairs]


def test_the_same_resolution_comes_before_depth() -> None:
    teacher = [tap("t8", (4, 8, 8), 0.1), tap("t4", (4, 4, 4), 0.2), tap("t2", (4, 2, 2), 0.9)]
    student = [tap("s8", (4, 8, 8), 0.8), tap("s4", (4, 4, 4), 0.9)]
    assert names(pair_taps(teacher, student)) == [("t8", "s8"), ("t4", "s4")]


def test_tokens_stand_opposite_maps_of_their_grid() -> None:
    teacher = [tap("blocks.0", (65, 32), 0.5, "token"), tap("blocks.1", (65, 32), 1.0, "token")]
    student = [tap("a", (4, 8, 8), 0.4), tap("b", (4, 4, 4), 0.9)]
    assert names(pair_taps(teacher, student)) == [("blocks.0", "a"), ("blocks.1", "b")]


def test_of_equal_resolutions_the_nearest_depth_leaves_room_for_the_rest() -> None:
    teacher = [tap(f"t{n}", (16, 8), n / 12, "token") for n in range(1, 13)]
    student = [tap(f"s{n}", (16, 8), n / 4, "token") for n in range(1, 5)]
    assert names(pair_taps(teacher, student)) == [("t3", "s1"), ("t6", "s2"), ("t9", "s3"), ("t12", "s4")]
    late = [tap(f"s{n}", (16, 8), 0.05, "token") for n in range(1, 5)]
    assert len(pair_taps(teacher, late)) == 4


def test_reserved_names_pair_with_their_like_and_vectors_with_no_map() -> None:
    teacher = [tap("m", (4, 8, 8), 0.5), tap("features", (9,), 1, "vector"), tap("logits", (2,), 1, "vector")]
    student = [tap("v", (4,), 0.5, "vector"), tap("logits", (2,), 1, "vector")]
    assert names(pair_taps(teacher, student)) == [("logits", "logits")]


sides = st.lists(st.tuples(st.sampled_from([32, 16, 8, 4]), st.floats(0, 1)), max_size=6)


@settings(max_examples=200)
@given(sides, sides)
def test_pairs_never_cross_and_use_each_tap_once(left: list[tuple[int, float]], right: list[tuple[int, float]]) -> None:
    teacher, student = (
        [
            tap(f"{who}{place}", (3, side, side), depth)
            for place, (side, depth) in enumerate(zip([s for s, _ in rows], sorted(d for _, d in rows), strict=True))
        ]
        for who, rows in (("t", left), ("s", right))
    )
    places = [(teacher.index(t), student.index(s)) for t, s in pair_taps(teacher, student)]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(places))
    if teacher and student:
        assert places


@pytest.mark.parametrize(("tokens", "side"), [(64, 8), (65, 8), (66, 8), (197, 14), (201, 14)])
def test_tokens_know_their_grid(tokens: int, side: int) -> None:
    assert tap("x", (tokens, 4), 0, "token").resolution == (side, side)
