"""Where caches lie, what there is, and removing it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stillroom.errors import BadInput
from stillroom.files import cache_root
from stillroom.teachers.cache_store import list_caches, locked, remove_cache
from teachers.cache.answering import Talker, cache


def test_the_root_is_named_by_the_variables_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("STILLROOM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == Path("/home/me/.cache/stillroom")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == Path("/home/me/.cache/stillroom")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_root() == Path("/var/cache/stillroom")
    monkeypatch.setenv("STILLROOM_CACHE", "~/answers")
    assert cache_root() == Path("/home/me/answers")
    monkeypatch.setenv("STILLROOM_CACHE", "")
    assert cache_root() == Path("/var/cache/stillroom")
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path))
    from stillroom.teachers.cache import TeacherCache

    assert TeacherCache(cache(tmp_path).spec).folder.parent == tmp_path


def test_caches_are_listed_and_removed(tmp_path: Path) -> None:
    one, other = cache(tmp_path), cache(tmp_path, dtype="float32")
    one.ensure([0, 1], Talker())
    other.ensure([0], Talker())
    (tmp_path / "something-else").mkdir()
    listed = {entry["key"]: entry for entry in list_caches(tmp_path)}
    assert set(listed) == {one.spec.key, other.spec.key}
    mine = listed[one.spec.key]
    assert (mine["teacher"], mine["data"], mine["images"], mine["views"]) == ("talker", "d1", 23, 2)
    assert mine["folder"] == str(one.folder)
    assert mine["bytes"] == sum(path.stat().st_size for path in one.folder.iterdir())
    assert mine["problem"] is None
    removed = remove_cache(one.spec.key[:8], tmp_path)
    assert removed == mine
    assert not one.folder.exists()
    assert [entry["key"] for entry in list_caches(tmp_path)] == [other.spec.key]
    one.ensure([0], Talker())


@pytest.mark.parametrize("content", ["", "[]", '{"identity": 3}', '{"identity": {"kept": 3}}'])
def test_a_damaged_cache_is_listed_and_can_be_removed(tmp_path: Path, content: str) -> None:
    kept = cache(tmp_path)
    kept.ensure([0], Talker())
    (kept.folder / "cache.json").write_text(content)
    (entry,) = list_caches(tmp_path)
    assert entry["problem"] == "cache.json is missing or damaged"
    assert entry["teacher"] is None
    remove_cache(kept.spec.key, tmp_path)
    assert list_caches(tmp_path) == []


def test_only_a_cache_that_is_there_can_be_removed(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.ensure([0], Talker())
    for key in ("", "..", "../..", "zz", kept.spec.key + "0", "/"):
        with pytest.raises(BadInput, match="expected the key of a cache"):
            remove_cache(key, tmp_path)
    with locked(kept.folder, lambda: True), pytest.raises(BadInput, match="that no process is building"):
        remove_cache(kept.spec.key, tmp_path)
    assert kept.open([0])


def test_a_root_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    talker = Talker()
    with pytest.raises(BadInput, match=re.escape("a folder that can be")):
        cache(tmp_path / "file" / "root").ensure([0], talker)
    assert talker.asked == []
