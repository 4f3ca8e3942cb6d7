"""Killed, full, or two at once: one good cache comes of it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from processes import Process, begun, die, exit_code, in_child, until
from stillroom import files
from stillroom.errors import BadInput
from stillroom.teachers import cache as cache_module
from stillroom.teachers import cache_store
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.output import ModelOutput
from teachers.cache.answering import BLOCK, COUNT, Rows, Talker, cache, contents

VIEWS = [0, 1]
TAPS = {"layer1": (2, 2)}
BLOCKS = -(-COUNT // BLOCK)


@pytest.fixture
def unkilled(tmp_path: Path) -> dict[str, bytes]:
    """What a build that nothing disturbs leaves."""
    kept = cache(tmp_path / "unkilled", taps=tuple(TAPS))
    kept.ensure(VIEWS, Talker(taps=TAPS))
    return contents(kept.folder)


def every_write(monkeypatch: pytest.MonkeyPatch, strike: Callable[[int], None]) -> None:
    """Call ``strike`` in the middle of each write, and before and after each step that makes something final."""
    count = 0

    def event() -> None:
        nonlocal count
        count += 1
        strike(count)

    def write(file: Any, content: bytes) -> None:
        half = len(content) // 2
        file.write(content[:half])
        event()
        file.write(content[half:])
        event()

    def around(step: Callable[..., None]) -> Callable[..., None]:
        def stepped(*given: Any) -> None:
            event()
            step(*given)
            event()

        return stepped

    monkeypatch.setattr(cache_module, "_write_all", write)
    monkeypatch.setattr(cache_module, "write_json", around(cache_module.write_json))
    monkeypatch.setattr(files.Path, "replace", around(Path.replace))


def test_killed_at_any_write_a_build_goes_on_and_ends_the_same(
    tmp_path: Path, unkilled: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 0
    while True:
        number += 1
        kept = cache(tmp_path / f"killed-{number}", taps=tuple(TAPS))

        def build(number: int = number, kept: Any = kept) -> None:
            every_write(monkeypatch, lambda count: die() if count == number else None)
            kept.ensure(VIEWS, Talker(taps=TAPS))

        ended = in_child(build)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        there = sum(
            len(path.read_bytes().splitlines()) - 1
            for path in kept.folder.glob("*.progress")
            if not path.with_suffix(".json").exists()
        )
        done = sum(COUNT for path in kept.folder.glob("view-*.json"))
        talker = Talker(taps=TAPS)
        kept.ensure(VIEWS, talker)
        assert {n: c for n, c in contents(kept.folder).items() if not n.endswith(".progress")} == unkilled
        # What was listed is not asked again, nor is anything asked twice but to learn the shape of the features.
        assert len(talker.asked) == len(set(talker.asked))
        assert len(talker.asked) <= 2 * COUNT - done - max(there - 1, 0) * BLOCK
    assert number > 2 * (2 + 2 * BLOCKS)


def test_killed_twice_a_build_still_ends_the_same(
    tmp_path: Path, unkilled: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = cache(tmp_path / "killed", taps=tuple(TAPS))

    def build(number: int) -> None:
        every_write(monkeypatch, lambda count: die() if count == number else None)
        kept.ensure(VIEWS, Talker(taps=TAPS))

    for number in (9, 5, 3, 8):
        assert in_child(lambda number=number: build(number)) == -signal.SIGKILL
    kept.ensure(VIEWS, Talker(taps=TAPS))
    assert contents(kept.folder) == unkilled


SLOW_BUILD = """
import sys, time
from pathlib import Path
from teachers.cache.answering import Talker, cache
talker, left = Talker(count=400), int(sys.argv[2]) + 5
def ask(view, rows):
    global left
    left -= 1
    if left < 0:
        time.sleep(3600)
    return talker(view, rows)
cache(Path(sys.argv[1]), count=400).ensure([0, 1], ask)
"""


@pytest.mark.parametrize("blocks", [1, 30, 70])
def test_killed_from_outside_a_build_goes_on(tmp_path: Path, blocks: int) -> None:
    whole = cache(tmp_path / "whole", count=400)
    whole.ensure(VIEWS, Talker(count=400))
    kept = cache(tmp_path / "killed", count=400)
    child = Process(str(tmp_path / "killed"), str(blocks), script=SLOW_BUILD)
    until(lambda: sum(kept._cache_folder.images_done(view) for view in VIEWS) >= blocks * BLOCK, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with pytest.raises(BadInput, match=r"half-built, .* of 400 images|not built"):
        kept.open(VIEWS)
    talker = Talker(count=400)
    assert kept.ensure(VIEWS, talker).images_queried == len(talker.asked) <= 800 - blocks * BLOCK
    assert contents(kept.folder) == contents(whole.folder)


def test_a_damaged_block_of_a_half_built_view_is_asked_again_and_reported(tmp_path: Path) -> None:
    kept = cache(tmp_path)

    def ask(view: int, rows: Rows) -> ModelOutput:
        if rows[0] >= 2 * BLOCK:
            die()
        return Talker()(view, rows)

    assert in_child(lambda: kept.ensure([0], ask)) == -signal.SIGKILL
    data = kept.folder / "view-0000.logits.bin"
    content = bytearray(data.read_bytes())
    content[BLOCK * 7 * 2 + 3] ^= 1
    data.write_bytes(content)
    talker, notes = Talker(), list[str]()
    kept.ensure([0], talker, note=notes.append)
    assert talker.asked[0] == (0, BLOCK)
    assert any("damaged: built again from sample 8 on" in note for note in notes)
    read = kept.open([0]).read(np.arange(COUNT), 0).logits
    assert torch.equal(read, talker.all(0).logits.half().float())


def refused(work: Callable[[], object]) -> BadInput | None:
    try:
        work()
    except BadInput as error:
        return error
    return None


def counted(log: Path, pause: float) -> Callable[[int, Rows], ModelOutput]:
    def ask(view: int, rows: Rows) -> ModelOutput:
        time.sleep(pause)
        with log.open("a") as lines:
            lines.write(f"{view} {rows[0]}\n")
        return Talker()(view, rows)

    return ask


def test_two_processes_at_once_build_one_cache(tmp_path: Path) -> None:
    log = tmp_path / "asked"

    def use() -> None:
        kept = cache(tmp_path)
        kept.ensure(VIEWS, counted(log, 0.02))
        for view in VIEWS:
            read = kept.open(VIEWS).read(np.arange(COUNT), view).logits
            assert torch.equal(read, Talker().all(view).logits.half().float())

    children = [begun(use) for _ in range(3)]
    assert [exit_code(child) for child in children] == [0, 0, 0]
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) == 2 * BLOCKS


def test_who_waits_is_reported_and_takes_over_from_a_killed_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_store, "_POLL", 0.01)
    log = tmp_path / "asked"

    def ask(view: int, rows: Rows) -> ModelOutput:
        if view == 1:
            time.sleep(3600)
        return counted(log, 0)(view, rows)

    builder = begun(lambda: cache(tmp_path).ensure(VIEWS, ask))
    kept = cache(tmp_path)
    until((kept.folder / "view-0001.progress").exists)
    assert cache(tmp_path).ensure([0], Talker()).images_queried == 0  # what is complete waits for nobody
    phases = []

    def phase(what: str, done: int, total: int) -> None:
        phases.append((what, done, total))
        if len(phases) == 5:
            os.kill(builder, signal.SIGKILL)

    talker = Talker()
    assert kept.ensure(VIEWS, talker, phase=phase).images_queried == COUNT
    assert exit_code(builder) == -signal.SIGKILL
    assert phases[0] == ("teacher cache: waiting for another process to build it", COUNT, 2 * COUNT)
    assert phases[-1] == ("teacher cache: building", COUNT, COUNT)
    assert {view for view, _ in talker.asked} == {1}


def test_a_full_disk_is_reported_and_loses_nothing(
    tmp_path: Path, unkilled: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 0
    while True:
        number += 1
        kept = cache(tmp_path / f"full-{number}", taps=tuple(TAPS))

        def strike(count: int, number: int = number) -> None:
            if count == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            every_write(patched, strike)
            error = refused(lambda kept=kept: kept.ensure(VIEWS, Talker(taps=TAPS)))
        if error is None:
            break
        assert error.field == "cache"
        assert str(kept.folder) == error.value
        assert "No space left" in error.expected
        kept.ensure(VIEWS, Talker(taps=TAPS))
        assert {n: c for n, c in contents(kept.folder).items() if not n.endswith(".progress")} == unkilled
    assert number > 2 * (2 + 2 * BLOCKS)


@pytest.mark.parametrize("limit", [10, 300, 3000])
def test_a_file_that_may_not_grow_is_reported_and_gone_on_with(tmp_path: Path, limit: int) -> None:
    kept = cache(tmp_path, count=400)

    def build() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(BadInput, match=r"cache: got .* expected room for .* more \(File too large\)"):
            kept.ensure([0], Talker(count=400))

    assert in_child(build) == 0
    talker = Talker(count=400)
    kept.ensure([0], talker)
    assert (len(talker.asked) < 400) == (limit == 3000)
    read = kept.open([0]).read(np.arange(400), 0).logits
    assert torch.equal(read, talker.all(0).logits.half().float())


def test_too_little_room_is_reported_before_a_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 600})
    monkeypatch.setattr(cache_store.shutil, "disk_usage", lambda path: usage)
    talker = Talker()
    with pytest.raises(BadInput, match=r"room for 644 bytes, of which 600 bytes are free"):
        cache(tmp_path).ensure(VIEWS, talker)
    assert talker.asked == []
    assert not cache(tmp_path).folder.exists()
    cache(tmp_path).ensure([0], talker)


def test_an_error_of_the_teacher_is_its_own_and_what_was_built_stays(tmp_path: Path) -> None:
    def ask(view: int, rows: Rows) -> ModelOutput:
        if rows[0]:
            raise OSError(errno.ENOSPC, "the teacher's own disk")
        return Talker()(view, rows)

    with pytest.raises(OSError, match="the teacher's own disk"):
        cache(tmp_path).ensure([0], ask)
    talker = Talker()
    assert cache(tmp_path).ensure([0], talker).images_queried == COUNT - BLOCK


def test_a_view_that_another_process_begins_meanwhile_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its progress file comes first, then its data: both right after one look for the progress file."""
    folder = cache_module.CacheFolder(tmp_path, CacheSpec({}, count=4, classes=3))
    exists = Path.exists

    def begin(path: Path, **options: bool) -> bool:
        found = exists(path, **options)
        if path == folder.progress_path(0):
            path.touch()
            (tmp_path / "view-0000.logits.bin").touch()
        return found

    monkeypatch.setattr(Path, "exists", begin)
    assert folder.record(0) is None
