"""Fisher weights, kept beside the features they weigh."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from processes import die, in_child
from stillroom.errors import BadInput
from stillroom.teachers import cache as cache_module
from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput
from teachers.cache.answering import BLOCK, COUNT, Rows, Talker, cache, contents, spec

TAPS = {"features": (5,), "layer1": (2, 3, 3)}
ALL, DRAWN = FisherOf("layer1", 4.0), FisherOf("layer1", 1.0, samples=2)
OTHER = FisherOf("features", 4.0)
KEPT: dict[str, Any] = {"taps": tuple(TAPS), "fishers": (DRAWN, ALL)}
DATA = "view-0001.fisher-1.bin"


def talker() -> Talker:
    return Talker(taps=TAPS, fishers=(ALL, DRAWN))


@pytest.fixture
def kept(tmp_path: Path) -> TeacherCache:
    complete = cache(tmp_path, **KEPT)
    complete.ensure([0, 1], talker())
    return complete


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("resident", [False, True])
def test_weights_come_back_to_storage_precision(
    tmp_path: Path, dtype: str, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_fits", lambda views, device: resident)
    complete = cache(tmp_path, dtype=dtype, **KEPT)
    assert complete.ensure([0, 1], talker()).images_queried == 2 * COUNT
    rows = np.array([22, 3, 3, *range(COUNT)])
    read, said = complete.open([0, 1]).read(rows, 1), talker().all(1)
    assert set(read.fishers) == {ALL, DRAWN}
    for of in (ALL, DRAWN):
        wanted = said.fishers[of][rows]
        assert read.fisher(of).dtype == torch.float32
        # A square root's rounding, twice; below 6e-5, where float16 thins out, that of its last bit.
        close = 2**-10 if dtype == "float16" else 2**-21
        torch.testing.assert_close(read.fisher(of), wanted, rtol=close, atol=1e-11)
        assert wanted.min() < 1e-7
        assert wanted.max() > 1
    assert torch.equal(read.logits, said.logits[rows].to(getattr(torch, dtype)).float()), "and all else as without"


def test_the_weights_of_a_sure_teacher_do_not_vanish(tmp_path: Path) -> None:
    """Kept as they are, float16 would make 0 of them: at a gap of 20 between logits they are of this size."""

    def ask(view: int, rows: Rows) -> ModelOutput:
        said = talker()(view, rows)
        return ModelOutput(said.logits, said.features, {of: torch.full_like(w, 2e-9) for of, w in said.fishers.items()})

    sure = cache(tmp_path, **KEPT)
    sure.ensure([0], ask)
    read = sure.open([0]).read(np.arange(COUNT), 0).fisher(ALL)
    torch.testing.assert_close(read, torch.full_like(read, 2e-9), rtol=2e-3, atol=0)


def test_fisher_weights_make_another_cache() -> None:
    taps = tuple(TAPS)
    assert "fishers" not in spec(taps=taps).identity["kept"]
    others = [(), (ALL,), (DRAWN,), (ALL, DRAWN), (FisherOf("layer1", 2.0),), (FisherOf("layer1", 1.0, 3),), (OTHER,)]
    assert len({spec(taps=taps, fishers=fishers).key for fishers in others}) == len(others)
    assert spec(taps=taps, fishers=(DRAWN, ALL, ALL)).key == spec(taps=taps, fishers=(ALL, DRAWN)).key
    assert spec(taps=taps, fishers=(FisherOf("layer1", 4),)).key == spec(taps=taps, fishers=(ALL,)).key
    assert spec(taps=taps, fishers=(ALL,)).identity["kept"]["fishers"] == [
        {"tap": "layer1", "temperature": 4.0, "samples": 0}
    ]
    with pytest.raises(ValueError, match=r"fishers: got \['layer1'\]; expected taps whose features are stored"):
        spec(taps=("features",), fishers=(ALL,))


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_build_goes_on_and_ends_the_same(tmp_path: Path, kept: TeacherCache, after: int) -> None:
    killed = cache(tmp_path / "killed", **KEPT)

    def ask(view: int, rows: Rows) -> ModelOutput:
        if view == 1 and rows[0] >= after * BLOCK:
            die()
        return talker()(view, rows)

    assert in_child(lambda: killed.ensure([0, 1], ask)) == -signal.SIGKILL
    with pytest.raises(BadInput, match="half-built"):
        killed.open([0, 1])
    again = talker()
    assert killed.ensure([0, 1], again).images_queried == len(again.asked) == COUNT - after * BLOCK
    assert contents(killed.folder) == contents(kept.folder)


@pytest.mark.parametrize(
    ("harm", "wrong"),
    [
        (lambda content: content[:-1], "the file is cut short"),
        (lambda content: content + b"x", "the file is too long"),
        (lambda content: content[:300] + bytes([content[300] ^ 16]) + content[301:], "of images 8 to 15"),
    ],
)
def test_a_damaged_file_of_weights_is_refused(kept: TeacherCache, harm: Any, wrong: str) -> None:
    path = kept.folder / DATA
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(BadInput, match=re.escape(wrong)) as caught:
        kept.open([0, 1])
    assert caught.value.value == DATA
    path.unlink()
    with pytest.raises(BadInput, match="the file is missing"):
        kept.open([0, 1])


def test_a_record_that_lacks_them_is_no_record_of_this_cache(kept: TeacherCache, tmp_path: Path) -> None:
    plain = cache(tmp_path / "plain", taps=tuple(TAPS))
    plain.ensure([1], talker())
    written = (plain.folder / "view-0001.json").read_text().replace(plain.spec.key, kept.spec.key)
    (kept.folder / "view-0001.json").write_text(written)
    with pytest.raises(BadInput, match="the shapes and sizes of this cache"):
        kept.open([0, 1])


@pytest.mark.parametrize(
    ("weight", "field", "match"),
    [
        (float("nan"), "teacher", r"finite Fisher weights of layer1 at τ = 4, all classes: those of image 0 in view 0"),
        (1e10, "cache.dtype", r"float32: the Fisher weights of layer1 at τ = 4, all classes of image 0 .* beyond"),
        (None, "teacher", r"its Fisher weights of layer1 at τ = 4, all classes with its logits"),
    ],
)
def test_weights_that_cannot_be_kept_are_reported(tmp_path: Path, weight: float | None, field: str, match: str) -> None:
    def ask(view: int, rows: Rows) -> ModelOutput:
        said = talker()(view, rows)
        weights = {} if weight is None else {of: torch.full_like(w, weight) for of, w in said.fishers.items()}
        return ModelOutput(said.logits, said.features, weights)

    with pytest.raises(BadInput, match=match) as caught:
        cache(tmp_path, **{**KEPT, "fishers": (ALL,)}).ensure([0], ask)
    assert caught.value.field == field


def test_they_count_towards_the_size_that_is_announced(tmp_path: Path) -> None:
    notes = list[str]()
    complete = cache(tmp_path, **KEPT)
    built = complete.ensure([0], talker(), note=notes.append)
    assert built.bytes == COUNT * 2 * (7 + 5 + 3 * 18)
    assert (
        "features at features, layer1 with Fisher weights of layer1 at τ = 1, 2 drawn classes; layer1 at τ = 4, "
        "all classes each in float16" in notes[0]
    )


def test_the_teacher_that_built_it_is_not_stale(kept: TeacherCache) -> None:
    kept.open([0, 1]).check(talker(), tolerance=0.0)
