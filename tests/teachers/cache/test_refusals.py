"""What is not exactly what was written is refused, with an error that names the file, what is wrong, what to do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.errors import BadInput
from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.output import ModelOutput
from teachers.cache.answering import BLOCK, COUNT, Rows, Talker, cache, contents, spec

DATA, RECORD, IDENTITY = "view-0001.logits.bin", "view-0001.json", "cache.json"


@pytest.fixture
def kept(tmp_path: Path) -> TeacherCache:
    complete = cache(tmp_path)
    complete.ensure([0, 1], Talker())
    return complete


def edited(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def cut(path: Path, by: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-by])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "truncated": (lambda f: cut(f / DATA), DATA, "322 bytes, not 321: the file is cut short"),
    "too long": (lambda f: (f / DATA).write_bytes((f / DATA).read_bytes() + b"x"), DATA, "not 323: the file is too"),
    "data gone": (lambda f: (f / DATA).unlink(), DATA, "the data of view 1: the file is missing"),
    "json gone": (lambda f: (f / RECORD).unlink(), RECORD, "the JSON file of view 1: it is missing"),
    "json empty": (lambda f: (f / RECORD).write_bytes(b""), RECORD, "an unharmed JSON file"),
    "json cut": (lambda f: cut(f / RECORD, 9), RECORD, "an unharmed JSON file"),
    "json no text": (lambda f: (f / RECORD).write_bytes(b"\xff\xfe{}"), RECORD, "an unharmed JSON file"),
    "json a list": (lambda f: (f / RECORD).write_text("[1]"), RECORD, "an unharmed JSON file"),
    "json other format": (lambda f: edited(f / RECORD, lambda r: r.update(format=9)), RECORD, "format 1, not 9"),
    "json other shape": (
        lambda f: edited(f / RECORD, lambda r: r["arrays"]["logits"].update(shape=[99, 7])),
        RECORD,
        "the shapes and sizes of this cache",
    ),
    "json no array": (lambda f: edited(f / RECORD, lambda r: r["arrays"].clear()), RECORD, "the shapes and sizes"),
    "json no checksums": (
        lambda f: edited(f / RECORD, lambda r: r["arrays"]["logits"].update(crc32="zz zz zz")),
        RECORD,
        "an unharmed JSON file",
    ),
    "another view's json": (
        lambda f: shutil.copy(f / "view-0000.json", f / RECORD),
        RECORD,
        "this is view 0 of cache",
    ),
    "identity gone": (lambda f: (f / IDENTITY).unlink(), IDENTITY, "it is missing"),
    "identity cut": (lambda f: cut(f / IDENTITY, 9), IDENTITY, "an unharmed JSON file"),
    "identity a list": (lambda f: (f / IDENTITY).write_text("[]"), IDENTITY, "an unharmed JSON file"),
    "identity other format": (
        lambda f: edited(f / IDENTITY, lambda r: r.update(format=2)),
        IDENTITY,
        "format 1, not 2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_building_and_by_opening(kept: TeacherCache, damage: str) -> None:
    harm, name, wrong = DAMAGES[damage]
    harm(kept.folder)
    before = contents(kept.folder)
    talker = Talker()
    for use in (lambda: kept.ensure([0, 1], talker), lambda: kept.open([0, 1])):
        with pytest.raises(BadInput, match=re.escape(wrong)) as caught:
            use()
        assert caught.value.field == "cache"
        assert caught.value.value == name
        assert f"remove the folder {kept.folder}" in caught.value.expected
    assert talker.asked == []
    assert contents(kept.folder) == before


SUBTLE: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a flipped bit": (lambda f: flipped(f / DATA, 150), DATA, "of images 8 to 15"),
    "a flipped bit at the end": (lambda f: flipped(f / DATA, 321), DATA, "of images 16 to 22"),
    "another view's data": (lambda f: shutil.copy(f / "view-0000.logits.bin", f / DATA), DATA, "of images 0 to 7"),
    "a changed checksum": (
        lambda f: edited(f / RECORD, lambda r: r["arrays"]["logits"].update(crc32="00000000 00000000 00000000")),
        DATA,
        "checksum 00000000 of images 0 to 7",
    ),
    "too few checksums": (
        lambda f: edited(f / RECORD, lambda r: r["arrays"]["logits"].update(crc32="00000000")),
        DATA,
        "3 checksums in its JSON, not 1",
    ),
}


@pytest.mark.parametrize("damage", SUBTLE)
def test_damage_that_only_checksums_show_is_refused_by_opening(kept: TeacherCache, damage: str) -> None:
    harm, name, wrong = SUBTLE[damage]
    harm(kept.folder)
    kept.open([0])
    with pytest.raises(BadInput, match=re.escape(wrong)) as caught:
        kept.open([0, 1])
    assert caught.value.value == name


def test_one_flipped_byte_in_the_middle_of_a_big_file_is_found(tmp_path: Path) -> None:
    big = TeacherCache(CacheSpec({}, count=20_000, classes=100), root=tmp_path)
    big.ensure([0], lambda view, rows: ModelOutput(torch.from_numpy(rows)[:, None].expand(-1, 100).float()))
    flipped(big.folder / "view-0000.logits.bin", 2_000_001)
    with pytest.raises(BadInput, match="of images 9984 to 10239"):
        big.open([0])


def test_a_foreign_cache_is_refused_and_each_difference_named(kept: TeacherCache, tmp_path: Path) -> None:
    other = {"teacher": {"name": "talker", "weights": "b2" * 100}, "data": "d1"}
    mine = cache(tmp_path, parts=other, dtype="float32")
    shutil.copytree(kept.folder, mine.folder)
    for use in (lambda: mine.ensure([0], Talker()), lambda: mine.open([0])):
        with pytest.raises(BadInput, match="foreign") as caught:
            use()
        assert "teacher.weights is 'a1', this run has 'b2b2" in caught.value.expected
        assert "kept.dtype is 'float16', this run has 'float32'" in caught.value.expected
        assert caught.value.expected.count(", this run has ") == 2
        assert "b2" * 60 not in caught.value.expected  # shortened


def test_views_under_a_forged_identity_are_known_by_their_own_key(kept: TeacherCache, tmp_path: Path) -> None:
    mine = cache(tmp_path, parts={"data": "mine"})
    mine.ensure([1], Talker())
    for name in ("view-0000.json", "view-0000.logits.bin"):
        shutil.copy(kept.folder / name, mine.folder / name)
    with pytest.raises(BadInput, match=f"view 0 of cache {mine.spec.key}: this is view 0 of cache {kept.spec.key}"):
        mine.ensure([0], Talker())


def test_each_part_of_the_identity_has_a_folder_of_its_own(tmp_path: Path) -> None:
    base = spec(top_k=3)
    others = [
        replace(base, parts={**base.parts, "data": "d2"}),
        replace(base, parts={**base.parts, "precision": "bfloat16"}),
        replace(base, count=22),
        replace(base, classes=8),
        replace(base, block=9),
        replace(base, dtype="float32"),
        replace(base, top_k=2),
        replace(base, top_k=None),
        replace(base, off_top_k_temperature=2.0),
        replace(base, taps=("layer1",)),
    ]
    assert len({one.key for one in [base, *others]}) == len(others) + 1
    assert replace(base, top_k=None, off_top_k_temperature=2.0).key == replace(base, top_k=None).key
    assert replace(base, taps=("b", "a")).key == replace(base, taps=("a", "b", "a")).key


def test_what_is_not_built_is_reported_by_opening(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a complete view 0: it is not built"):
        cache(tmp_path).open([0])
    assert list(tmp_path.iterdir()) == []


def test_a_half_built_view_is_refused_by_opening(tmp_path: Path) -> None:
    def ask(view: int, rows: Rows) -> ModelOutput:
        if rows[0] >= 2 * BLOCK:
            raise KeyboardInterrupt
        return Talker()(view, rows)

    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path).ensure([0], ask)
    with pytest.raises(BadInput, match="a complete view 0: it is half-built, 16 of 23 images"):
        cache(tmp_path).open([0])
    assert cache(tmp_path).missing([0]) == [0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["logits", "features at layer1"])
def test_answers_that_are_not_finite_are_refused(tmp_path: Path, value: float, where: str) -> None:
    def ask(view: int, rows: Rows) -> ModelOutput:
        logits, features = torch.zeros(len(rows), 7), torch.zeros(len(rows), 4)
        (logits if where == "logits" else features)[rows == 12] = value
        return ModelOutput(logits, {"layer1": features})

    with pytest.raises(BadInput, match=f"finite {where}: those of image 12 in view 2 are not") as caught:
        cache(tmp_path, taps=("layer1",)).ensure([2], ask)
    assert caught.value.field == "teacher"


def test_logits_beyond_float16_ask_for_float32(tmp_path: Path) -> None:
    def ask(view: int, rows: Rows) -> ModelOutput:
        return ModelOutput(torch.where(torch.from_numpy(rows == 20)[:, None], -7e4, 1.0).expand(-1, 7))

    with pytest.raises(BadInput, match=r"float32: the logits of image 20 in view 0 are beyond the 65,504") as caught:
        cache(tmp_path).ensure([0], ask)
    assert caught.value.field == "cache.dtype"
    assert cache(tmp_path, dtype="float32").ensure([0], ask).images_queried == COUNT


def test_only_what_is_kept_must_fit_into_float16(tmp_path: Path) -> None:
    def ask(view: int, rows: Rows) -> ModelOutput:
        return ModelOutput(torch.tensor([5.0, 1, 2, -1e9, 3, 4, 0]).expand(len(rows), -1))

    masked = cache(tmp_path, top_k=5)
    masked.ensure([0], ask)
    assert masked.open([0]).read(np.array([0]), 0).logits[0, [0, 1]].tolist() == [5.0, 1.0]
    with pytest.raises(BadInput, match="float32"):
        cache(tmp_path, top_k=6).ensure([0], lambda view, rows: ModelOutput(ask(view, rows).logits - 1e6))


def test_answers_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"logits of shape \[8, 7\] for 8 images"):
        cache(tmp_path).ensure([0], lambda view, rows: ModelOutput(torch.zeros(len(rows), 6)))
    with pytest.raises(BadInput, match="features at it with the logits"):
        cache(tmp_path, taps=("layer9",)).ensure([0], Talker(taps={"layer1": (2,)}))


def test_features_that_change_their_shape_are_refused(tmp_path: Path) -> None:
    def ask(view: int, rows: Rows) -> ModelOutput:
        return ModelOutput(torch.zeros(len(rows), 7), {"layer1": torch.zeros(len(rows), 2 if rows[0] == 0 else 3)})

    with pytest.raises(BadInput, match=r"features at layer1 of shape \[8, 2\]"):
        cache(tmp_path, taps=("layer1",)).ensure([0], ask)


def test_a_cache_beyond_max_gb_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    talker, notes = Talker(), list[str]()
    small = TeacherCache(spec(), max_gb=600e-9, root=tmp_path)
    with pytest.raises(
        BadInput, match=r"cache.max_gb: got 6e-07; expected room for 644 bytes, 2 views .*top_k"
    ) as caught:
        small.ensure([0, 1], talker, note=notes.append)
    assert "cache.enabled false" in caught.value.expected
    assert "fewer" in caught.value.expected
    assert len(notes) == 1
    assert talker.asked == []
    assert not small.folder.exists()
    small.ensure([0], talker)


def test_features_count_towards_max_gb_once_their_shape_is_known(tmp_path: Path) -> None:
    talker = Talker(taps={"layer1": (1000,)})
    small = TeacherCache(spec(taps=("layer1",)), max_gb=1e-5, root=tmp_path)
    with pytest.raises(BadInput, match=r"46.3 kB, 1 view .* 7 logits and features at layer1"):
        small.ensure([0], talker)
    assert len(talker.asked) == BLOCK
    assert not small.folder.exists()


def test_nothing_in_a_cache_is_run(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.ensure([0], Talker())
    kinds = {path.suffix for path in kept.folder.iterdir()}
    assert kinds == {".json", ".bin"}
    raw = np.fromfile(kept.folder / "view-0000.logits.bin", dtype="<f2").reshape(COUNT, 7)
    assert np.array_equal(raw, Talker().all(0).logits.half().numpy())
