"""Decoded images are kept once: the same pixels, decoded again where anything they depend on, or the store, changed."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from stillroom.cli import run
from stillroom.data import decoded, parquet
from stillroom.data.parquet import read_parquet


def write_pictures(folder: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    contents = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        contents.append({"bytes": buffer.getvalue(), "path": None})
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": contents, "label": [0, 1, 0, 1, 0, 1]}), folder / "train.parquet")


@pytest.fixture
def decodings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each reading decoded; every array is stored, however small."""
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "_LEAST", 1)
    read, counts = parquet._read_images, []

    def counting(files: object, columns: object, wanted: np.ndarray, side: object) -> np.ndarray:  # type: ignore[type-arg]
        counts.append(len(wanted))
        return read(files, columns, wanted, side)  # type: ignore[arg-type]

    monkeypatch.setattr(parquet, "_read_images", counting)
    return counts


def test_a_second_reading_decodes_nothing_and_gives_the_same_data(tmp_path: Path, decodings: list[int]) -> None:
    write_pictures(tmp_path / "data", 0)
    first, second = (read_parquet(tmp_path / "data", "train") for _ in range(2))
    assert decodings == [6]
    assert torch.equal(torch.as_tensor(first.images), torch.as_tensor(second.images))
    assert first.fingerprint == second.fingerprint
    # Who writes to the images that a run was given changes no other run's.
    torch.as_tensor(second.images).zero_()
    assert torch.equal(torch.as_tensor(read_parquet(tmp_path / "data", "train").images), torch.as_tensor(first.images))
    assert decodings == [6]


def test_other_rows_and_other_content_under_the_same_name_are_decoded(tmp_path: Path, decodings: list[int]) -> None:
    write_pictures(tmp_path / "data", 0)
    first = read_parquet(tmp_path / "data", "train")
    read_parquet(tmp_path / "data", "train", limit=4)
    write_pictures(tmp_path / "data", 1)
    other = read_parquet(tmp_path / "data", "train")
    assert decodings == [6, 4, 6]
    assert first.fingerprint != other.fingerprint


@pytest.mark.parametrize("harm", ["flipped", "cut", "no record", "record"])
def test_what_is_damaged_is_decoded_again_and_repaired(tmp_path: Path, decodings: list[int], harm: str) -> None:
    write_pictures(tmp_path / "data", 0)
    first = read_parquet(tmp_path / "data", "train")
    (pixels,) = (tmp_path / "cache").glob("images/*.bin")
    content = pixels.read_bytes()
    if harm == "flipped":
        pixels.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif harm == "cut":
        pixels.write_bytes(content[:-1])
    elif harm == "no record":
        pixels.with_suffix(".json").unlink()
    else:
        pixels.with_suffix(".json").write_text("{")
    for _ in range(2):
        assert read_parquet(tmp_path / "data", "train").fingerprint == first.fingerprint
    assert decodings == [6, 6]


def test_a_store_that_cannot_be_written_is_done_without(
    tmp_path: Path, decodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "data", 0)
    (tmp_path / "cache").write_text("no folder")
    assert len(read_parquet(tmp_path / "data", "train")) == 6
    assert decodings == [6]


def test_the_least_recently_used_leave_beyond_the_limit(
    tmp_path: Path, decodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "_LIMIT", 2 * 6 * 48)
    for seed in range(3):
        write_pictures(tmp_path / "data", seed)
        read_parquet(tmp_path / "data", "train")
        for age, path in enumerate(
            sorted((tmp_path / "cache" / "images").glob("*.bin"), key=lambda p: p.stat().st_mtime)
        ):
            os.utime(path, (1000 * seed + age, 1000 * seed + age))
    assert [entry["bytes"] for entry in decoded.list_decoded()] == [288, 288]
    read_parquet(tmp_path / "data", "train")
    write_pictures(tmp_path / "data", 0)
    read_parquet(tmp_path / "data", "train")
    assert decodings == [6, 6, 6, 6]


def test_the_command_lists_and_removes_them(
    tmp_path: Path, decodings: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "pets", 0)
    read_parquet(tmp_path / "pets", "train")
    assert run(["cache", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["decoded"]
    assert (entry["name"], entry["images"], entry["bytes"]) == ("pets", 6, 288)
    assert run(["cache"]) == 0
    assert "decoded pets" in capsys.readouterr().out
    assert run(["cache", "--remove", entry["key"][:8]]) == 0
    assert decoded.list_decoded() == []


def test_a_prefix_of_several_keys_lists_them_and_removes_nothing(
    tmp_path: Path, decodings: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "cache"
    (kept / "images").mkdir(parents=True)
    # Decoded images and outputs of a teacher are in one list, so a prefix may mean either.
    (kept / "images" / f"ab{'0' * 30}.bin").write_bytes(b"pixels")
    (kept / f"ab{'1' * 30}").mkdir()
    (kept / f"cd{'2' * 30}").mkdir()
    assert run(["cache", "--remove", "cd", "--remove", "ab"]) == 2
    error = capsys.readouterr().err
    assert "got 'ab'" in error
    assert f"2 begin so: ab{'1' * 10}, ab{'0' * 10}" in error
    assert run(["cache", "--remove", "ab0", "--remove", "ab00", "--json"]) == 0
    (removed,) = json.loads(capsys.readouterr().out)["removed"]
    assert removed["key"].startswith("ab0")
    assert (kept / f"ab{'1' * 30}").is_dir()
    assert (kept / f"cd{'2' * 30}").is_dir()
