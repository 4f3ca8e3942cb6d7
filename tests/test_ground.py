"""The ground floor: random streams, atomic files, statistics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from stillroom.errors import BadInput
from stillroom.files import atomic_write, digest, find_input, remove_partial, write_json, write_text
from stillroom.randomness import PURPOSES, counter_uniform, derive_seed, permutation, seed_rng
from stillroom.study.statistics import paired_difference


def test_every_purpose_and_counter_has_its_own_stream() -> None:
    seeds = {derive_seed(s, purpose, c) for s in range(5) for purpose in PURPOSES for c in range(5)}
    assert len(seeds) == 5 * len(PURPOSES) * 5


def test_streams_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, "order", 0) == 3471081512423777433
    assert sorted(permutation(100, 3, "order", 1).tolist()) == list(range(100))
    assert permutation(100, 3, "order", 1).tolist() == permutation(100, 3, "order", 1).tolist()
    assert permutation(100, 3, "order", 1).tolist() != permutation(100, 3, "order", 2).tolist()


def test_an_unknown_purpose_is_refused() -> None:
    with pytest.raises(ValueError, match="purpose"):
        derive_seed(0, "weather")  # type: ignore[arg-type]


def test_a_seeded_block_leaves_the_users_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with seed_rng(0, "student-init"):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seed_rng(0, "student-init"):
        assert torch.equal(torch.rand(3), first)


def test_counter_draws_are_uniform_and_independent_of_each_other() -> None:
    index = np.arange(20000)
    a, b = counter_uniform(0, 0, index, 0), counter_uniform(0, 0, index, 1)
    assert stats.kstest(a, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert abs(np.corrcoef(a, counter_uniform(0, 1, index, 0))[0, 1]) < 0.03
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.03


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]


def test_what_a_killed_write_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".student.safetensors.abc.part").write_bytes(b"half")
    (tmp_path / "kept.part").write_bytes(b"a user's file")
    remove_partial(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["kept.part"]


def test_nan_is_never_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": math.nan})
    assert not list(tmp_path.iterdir())


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_inputs_are_looked_for_here_and_then_under_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root" / "cifar10").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("STILLROOM_DATA", str(tmp_path / "root"))
    assert find_input("cifar10") == tmp_path / "root" / "cifar10"
    (tmp_path / "here" / "cifar10").mkdir()
    assert find_input("cifar10") == Path("cifar10")
    assert find_input("nothing") == Path("nothing")


def test_paired_difference_equals_scipys_test_and_interval() -> None:
    a, b = [33.6, 34.1, 33.0, 35.2], [40.2, 39.1, 38.7, 41.9]
    found = paired_difference(a, b)
    test = stats.ttest_rel(b, a)
    interval = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue, rel=1e-9)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_equal_differences_show_no_spread_and_claim_no_interval() -> None:
    found = paired_difference([1.0, 2.0], [1.5, 2.5])
    assert (found.mean, found.low, found.high, found.p) == (0.5, None, None, None)
    assert "no spread between the pairs" in str(found)


def test_a_level_that_is_no_coverage_is_refused() -> None:
    with pytest.raises(BadInput, match="level: got 95"):
        paired_difference([1.0, 2.0], [2.0, 4.0], level=95)


def test_no_difference_gives_p_of_one_and_one_seed_gives_no_interval() -> None:
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p == 1
    alone = paired_difference([1.0], [2.0])
    assert (alone.low, alone.high, alone.p) == (None, None, None)
    assert "no interval" in str(alone)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0])])
def test_pairs_that_are_none_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(BadInput):
        paired_difference(a, b)
