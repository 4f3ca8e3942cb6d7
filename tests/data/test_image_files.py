"""Image files in place of a tensor: what a slice gives, what the fingerprint tells, what may go wrong later."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.data.config import DataConfig
from stillroom.data.decoding import check_photo, decode_photo
from stillroom.data.image_folder import FORMATS, ImageFiles, read_image_folder
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.reading import map_in_order
from stillroom.errors import BadInput


def both(folder: Path, **options: Any) -> tuple[ImageSet, ImageSet]:
    """The same split held in memory and read when asked for."""
    held, lazy = (
        read_image_folder(folder, "train", DataConfig(in_memory=choice, **options)) for choice in (True, False)
    )
    assert isinstance(held.images, torch.Tensor)
    assert isinstance(lazy.images, ImageFiles)
    return held, lazy


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(2, 5),
        slice(None, 3),
        slice(-2, None),
        slice(6, 99),
        slice(None, None, 3),
        slice(5, 5),
        torch.tensor([7, 0, 0, 3]),
        np.array([1, -1]),
        torch.arange(8) % 2 == 0,
    ],
    ids=str,
)
def test_rows_are_those_of_a_tensor(pet_folder: Path, rows: Any, workers: int) -> None:
    held, lazy = both(pet_folder, workers=workers)
    index = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
    made = lazy.images[rows]
    assert torch.equal(made, held.images[index])
    assert made.dtype == torch.uint8
    assert made.is_contiguous()


def test_one_row_has_no_batch_dimension_and_none_beyond_the_end(pet_folder: Path) -> None:
    held, lazy = both(pet_folder)
    assert torch.equal(lazy.images[3], held.images[3])
    for rows in (8, torch.tensor([8]), np.array([-9])):
        with pytest.raises(IndexError):
            lazy.images[rows]
    with pytest.raises(IndexError, match="expected 1"):
        lazy.images[torch.zeros(2, 2, dtype=torch.int64)]


def test_a_set_of_files_is_like_one_in_memory(pet_folder: Path) -> None:
    held, lazy = both(pet_folder)
    assert repr(lazy) == repr(held) == "ImageSet('pets': 8 images of 3×5×4, uint8, 2 classes)"
    assert (lazy.is_pixels, lazy.channels, lazy.image_size, len(lazy)) == (True, 3, None, 8)
    assert (lazy.images.shape, lazy.images.ndim) == (held.images.shape, 4)
    assert DataPair(lazy, read_image_folder(pet_folder, "test")).train is lazy


def test_files_are_read_when_asked_for_and_no_others(pet_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lazy = both(pet_folder)
    opened: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.name) or original(self))
    part = lazy.balanced_subset(4)
    assert not opened
    part.images[1:2]
    assert len(opened) == 1


def test_a_subset_of_files_is_that_of_the_images(pet_folder: Path) -> None:
    held, lazy = both(pet_folder)
    assert torch.equal(lazy.balanced_subset(4).images[:], held.balanced_subset(4).images)
    assert torch.equal(lazy.balanced_subset(4).labels, held.balanced_subset(4).labels)
    assert (
        lazy.balanced_subset(4).fingerprint
        == read_image_folder(pet_folder, "train", DataConfig(in_memory=False), limit=4).fingerprint
    )
    assert lazy.balanced_subset(4).fingerprint != lazy.fingerprint


def test_the_fingerprint_does_not_know_where_the_folder_lies_or_who_reads(pet_folder: Path, tmp_path: Path) -> None:
    first = both(pet_folder, workers=1)[1].fingerprint
    assert both(pet_folder, workers=3)[1].fingerprint == first
    shutil.copytree(pet_folder, tmp_path / "elsewhere" / "copied")
    assert both(tmp_path / "elsewhere" / "copied")[1].fingerprint == first


def test_any_change_of_a_file_changes_the_fingerprint(pet_folder: Path) -> None:
    def now(**options: Any) -> str:
        return read_image_folder(pet_folder, "train", DataConfig(in_memory=False, **options)).fingerprint

    path = pet_folder / "train" / "dog" / "05.png"
    original = path.read_bytes()
    prints = [now(), now(image_size=4), now(image_size=3)]
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))  # the last byte is no pixel's
    prints.append(now())
    path.write_bytes(original + b"\0")
    prints.append(now())
    path.write_bytes(original)
    assert now() == prints[0]
    path.rename(path.with_name("055.png"))
    prints.append(now())
    path.with_name("055.png").rename(pet_folder / "train" / "cat" / "05.png")
    prints.append(now())
    assert len(set(prints)) == 6 + 1


def test_a_file_that_changed_since_is_reported(pet_folder: Path) -> None:
    _, lazy = both(pet_folder)
    path = pet_folder / "train" / "cat" / "02.png"
    Image.new("RGB", (6, 6)).save(path)
    with pytest.raises(BadInput, match=r"02.png.*an image of 3×5×4 .* as when .* but it is 3×6×6 now"):
        lazy.images[:]
    path.unlink()
    with pytest.raises(BadInput, match=r"02.png.*No such file"):
        lazy.images[:]


def test_the_first_of_several_errors_is_reported_whoever_was_faster(pet_folder: Path) -> None:
    for workers in (1, 5):
        _, lazy = both(pet_folder, workers=workers)
        for name in ("dog/01.png", "cat/06.png"):
            (pet_folder / "train" / name).rename(pet_folder / "train" / f"{name}.away")
        with pytest.raises(BadInput, match=r"cat/06\.png"):
            lazy.images[:]
        for name in ("dog/01.png", "cat/06.png"):
            (pet_folder / "train" / f"{name}.away").rename(pet_folder / "train" / name)


def test_more_than_fits_into_memory_cannot_be_asked_for_at_once(
    pet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lazy = both(pet_folder)
    monkeypatch.setattr("stillroom.data.reading.machine_memory", lambda: 100)
    lazy.images[:1]
    with pytest.raises(BadInput, match="data that fit into memory"):
        lazy.images[:]


# Threads.


@pytest.mark.parametrize("workers", [1, 4])
def test_results_come_in_order_and_no_thread_stays(workers: int) -> None:
    before = threading.active_count()
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = map_in_order(lambda item: item * 2, endless(), workers)
    assert [next(results) for _ in range(50)] == list(range(0, 100, 2))
    assert len(taken) <= 50 + 2 * workers
    results.close()
    assert threading.active_count() == before


def test_an_error_ends_the_work_and_the_threads() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda item: 1 // item, [3, 2, 1, 0, 1], workers=2))
    assert threading.active_count() == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_file_cut_short_is_found_before_anything_is_streamed(pet_folder: Path) -> None:
    cut(pet_folder / "train" / "dog" / "05.png")
    with pytest.raises(BadInput, match=r"05\.png"):
        read_image_folder(pet_folder, "train", DataConfig(in_memory=False))


@pytest.mark.parametrize("in_memory", ["auto", False])
def test_bad_files_are_skipped_named_and_part_of_the_fingerprint(pet_folder: Path, in_memory: Any) -> None:
    def read() -> ImageSet:
        return read_image_folder(pet_folder, "train", DataConfig(in_memory=in_memory, bad_files="skip"))

    whole = read()
    assert whole.skipped == ()
    cut(pet_folder / "train" / "dog" / "05.png")
    (pet_folder / "train" / "cat" / "00.png").write_bytes(b"no picture")
    some = read()
    assert some.skipped == ("cat/00.png", "dog/05.png")
    assert some.notes == ("2 files left out that cannot be decoded: 'cat/00.png', 'dog/05.png'",)
    assert len(some) == len(whole) - 2
    assert len(some.images[:]) == len(some)
    for name in some.skipped:
        (pet_folder / "train" / name).unlink()
    less = read()
    assert torch.equal(less.images[:], some.images[:])
    assert len({each.fingerprint for each in (whole, some, less)}) == 3


def test_only_bad_files_leave_nothing_to_read(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        (tmp_path / "train" / name).write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"1\.png"):
        read_image_folder(tmp_path, "train", DataConfig(bad_files="skip"))


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_a_file_is_refused_in_the_check_exactly_if_it_cannot_be_decoded(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    assert not check_photo(content, None, FORMATS).drafted
    refused = 0
    for length in [*range(200, len(content), max(len(content) // 40, 1)), len(content) - 1]:
        try:
            decode_photo(content[:length], None, FORMATS)
        except Exception:
            refused += 1
            with pytest.raises(Exception, match=r"."):
                check_photo(content[:length], None, FORMATS)
        else:
            check_photo(content[:length], None, FORMATS)
    assert refused > 10


def test_a_thumbnails_end_is_not_the_photographs(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), (9, 99, 9))
    picture.save(tmp_path / "small.jpg")
    exif = b"Exif\x00\x00" + (tmp_path / "small.jpg").read_bytes()
    picture.resize((256, 256)).save(tmp_path / "large.jpg", exif=exif)
    content = (tmp_path / "large.jpg").read_bytes()
    check_photo(content, None, FORMATS)
    with pytest.raises(OSError, match="truncated"):
        check_photo(content[:-50], None, FORMATS)


def test_a_jpeg_far_above_the_target_is_decoded_at_a_fraction_and_its_fingerprint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for side in (127, 128):
        for name in ("a/1.jpg", "b/1.jpg"):
            path = tmp_path / str(side) / "train" / name
            path.parent.mkdir(parents=True)
            noise = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
            noise.resize((side, side + 40), Image.Resampling.BICUBIC).save(path, quality=95)

    def read(side: int) -> ImageSet:
        return read_image_folder(tmp_path / str(side), "train", DataConfig(image_size=32, in_memory=False))

    now = {side: (read(side).images[:], read(side).fingerprint) for side in (127, 128)}
    monkeypatch.setattr("stillroom.data.decoding._DRAFTED", ())
    before = {side: (read(side).images[:], read(side).fingerprint) for side in (127, 128)}
    # Nothing changes for pictures below four times the target.
    assert torch.equal(now[127][0], before[127][0])
    assert now[127][1] == before[127][1]
    difference = (now[128][0].int() - before[128][0].int()).abs()
    assert 0 < int(difference.max()) <= 4
    assert now[128][1] != before[128][1]
