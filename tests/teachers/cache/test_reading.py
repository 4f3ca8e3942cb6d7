"""What is read is what was said."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from processes import in_child
from stillroom.errors import BadInput
from stillroom.teachers import cache as cache_module
from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.output import ModelOutput
from teachers.cache.answering import BLOCK, COUNT, Rows, Talker, cache, contents

TAPS = {"layer1": (2, 3, 3), "features": (5,)}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_answer_is_read_back_to_storage_precision(tmp_path: Path, dtype: str) -> None:
    talker = Talker()
    kept = cache(tmp_path, dtype=dtype)
    kept.ensure([0, 3], talker)
    answers = kept.open([0, 3])
    for view in (0, 3):
        said = talker.all(view).logits
        read = answers.read(np.arange(COUNT), view).logits
        assert read.dtype == torch.float32
        assert torch.equal(read, said.to(getattr(torch, dtype)).float())


def test_features_come_back_beside_the_logits(tmp_path: Path) -> None:
    talker = Talker(taps=TAPS)
    kept = cache(tmp_path, dtype="float32", taps=("layer1", "features"))
    assert kept.ensure([0, 1], talker).images_queried == 2 * COUNT  # the first block is not asked twice
    assert len(talker.asked) == len(set(talker.asked)) == 2 * COUNT
    read = kept.open([0, 1]).read(np.array([22, 3, 3]), 1)
    said = talker.all(1)
    assert torch.equal(read.logits, said.logits[[22, 3, 3]])
    assert set(read.features) == set(TAPS)
    for tap in TAPS:
        assert torch.equal(read.features[tap], said.features[tap][[22, 3, 3]])


def test_rows_may_come_in_any_order_twice_or_not_at_all(tmp_path: Path) -> None:
    talker = Talker()
    kept = cache(tmp_path, dtype="float32")
    kept.ensure([0], talker)
    answers, said = kept.open([0]), talker.all(0).logits
    for rows in (np.arange(COUNT)[::-1], np.array([5, 0, 5]), np.arange(COUNT)[::4], np.array([], dtype=np.int64)):
        assert torch.equal(answers.read(rows, 0).logits, said[torch.from_numpy(rows.copy())])


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize(("rows", "view"), [([COUNT], 0), ([-1], 0), ([0, 10**12], 0), ([0], 1), ([0], -1)])
def test_what_is_not_there_is_an_index_error(
    tmp_path: Path, rows: list[int], view: int, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_fits", lambda views, device: resident)
    kept = cache(tmp_path)
    kept.ensure([0], Talker())
    with pytest.raises(IndexError, match="expected"):
        kept.open([0]).read(np.array(rows), view)


@pytest.mark.parametrize("top_k", [None, 3])
def test_arrays_on_the_device_give_what_the_map_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_k: int | None
) -> None:
    kept = cache(tmp_path, top_k=top_k, taps=tuple(TAPS))
    kept.ensure([0, 1], Talker(taps=TAPS))
    mapped = kept.open([0, 1])
    monkeypatch.setattr(cache_module, "_fits", lambda views, device: True)
    monkeypatch.setattr(cache_module, "_PIECE", 100)
    resident = kept.open([0, 1])
    assert resident.resident
    assert not mapped.resident
    rows = np.array([9, 22, 0])
    one, other = mapped.read(rows, 1), resident.read(rows, 1)
    assert torch.equal(one.logits, other.logits)
    assert all(torch.equal(one.features[tap], other.features[tap]) for tap in TAPS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("top_k", [None, 3])
def test_a_gpu_reads_the_same_from_itself_and_from_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_k: int | None
) -> None:
    kept = cache(tmp_path, top_k=top_k)
    kept.ensure([0], Talker())
    rows = np.arange(COUNT)[::-1]
    expected = kept.open([0]).read(rows, 0).logits
    resident = kept.open([0], "cuda")
    assert resident.resident
    assert torch.equal(resident.read(rows, 0).logits.cpu(), expected)
    monkeypatch.setattr(cache_module, "_fits", lambda views, device: False)
    read = kept.open([0], "cuda").read(rows, 0).logits
    assert read.is_cuda
    assert torch.equal(read.cpu(), expected)


def test_a_run_of_eight_views_uses_the_four_that_are_there(tmp_path: Path) -> None:
    talker, notes = Talker(), list[str]()
    cache(tmp_path).ensure(range(4), talker)
    before = contents(cache(tmp_path).folder)
    built = cache(tmp_path).ensure(range(8), talker, note=notes.append)
    assert built.images_queried == 4 * COUNT
    assert {view for view, _ in talker.asked[4 * COUNT :]} == {4, 5, 6, 7}
    after = contents(cache(tmp_path).folder)
    assert {name: after[name] for name in before} == before
    assert "4 of them already built" in notes[0]
    assert built.bytes == 8 * COUNT * 7 * 2


def test_the_size_is_announced_before_and_the_way_while_it_is_built(tmp_path: Path) -> None:
    talker, notes, phases = Talker(), list[str](), list[tuple[str, int, int]]()
    cache(tmp_path).ensure([0, 1], talker, note=notes.append, phase=lambda *phase: phases.append(phase))
    assert notes == [
        f"teacher cache: 2 views of 23 images, 7 logits each in float16: 644 bytes in {cache(tmp_path).folder}"
    ]
    assert [done for _, done, _ in phases] == [0, 8, 16, 23, 23, 31, 39, 46]
    assert {(what, total) for what, _, total in phases} == {("teacher cache: building", 46)}
    notes.clear()
    assert cache(tmp_path).ensure([1, 0, 1], talker, note=notes.append).images_queried == 0
    assert notes == []


def test_the_teacher_is_asked_block_by_block_whoever_builds(tmp_path: Path) -> None:
    sizes = []

    def ask(view: int, rows: Rows) -> ModelOutput:
        assert rows.dtype == np.int64
        sizes.append(len(rows))
        return Talker()(view, rows)

    cache(tmp_path).ensure([0], ask)
    assert sizes == [BLOCK, BLOCK, COUNT - 2 * BLOCK]


def test_a_read_only_folder_serves_what_is_complete() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        talker = Talker()
        cache(root).ensure([0], talker)
        folder = cache(root).folder
        assert cache(root).open([0]).read(np.array([1]), 0).logits.shape == (1, 7)  # imports what it needs
        before = contents(folder)

        def use() -> None:
            if os.geteuid() == 0:  # to whom nothing is read-only
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            with pytest.raises(PermissionError):
                (folder / "new").touch()
            kept = cache(root)
            assert kept.ensure([0], talker).images_queried == 0
            read = kept.open([0]).read(np.arange(COUNT), 0).logits
            assert torch.equal(read, talker.all(0).logits.half().float())
            with pytest.raises(BadInput, match="a folder that can be written"):
                kept.ensure([0, 1], talker)

        for path in [*root.rglob("*"), root, root.parent]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            assert in_child(use) == 0
        finally:
            for path in [root.parent, root, folder]:
                path.chmod(0o755)
        assert contents(folder) == before


@settings(max_examples=40)
@given(data=st.data())
def test_reading_equals_indexing_whatever_the_shapes(data: st.DataObject) -> None:
    count, classes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    block = data.draw(st.integers(1, 50))
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3)))
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=12)), dtype=np.int64)
    talker = Talker(count, classes, {"tap": shape})
    what = CacheSpec({}, count=count, classes=classes, block=block, dtype=dtype, taps=("tap",))
    with tempfile.TemporaryDirectory() as root:
        kept = TeacherCache(what, root=Path(root))
        kept.ensure([2], talker)
        read, said = kept.open([2]).read(rows, 2), talker.all(2)
        number = getattr(torch, dtype)
        assert torch.equal(read.logits, said.logits[rows].to(number).float())
        assert torch.equal(read.features["tap"], said.features["tap"][rows].to(number).float())


def test_a_user_s_own_array_is_kept_like_a_teacher_s(tmp_path: Path) -> None:
    mine = np.random.default_rng(0).normal(size=(1200, 4)).astype(np.float32)
    kept = TeacherCache(CacheSpec({"data": "test"}, count=1200, classes=4, dtype="float32", block=500), root=tmp_path)
    assert kept.ensure([0], lambda view, rows: ModelOutput(torch.from_numpy(mine[rows]))).images_queried == 1200
    assert np.array_equal(kept.open([0]).read(np.arange(1200), 0).logits.numpy(), mine)


def test_nothing_wanted_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="views"):
        cache(tmp_path).ensure([], Talker())
