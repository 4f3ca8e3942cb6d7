"""Folders of image files: which are read, as which class, and as which pixels; and what is refused."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.data.config import DataConfig
from stillroom.data.image_folder import SUFFIXES, read_image_folder
from stillroom.data.images import ImageSet, balanced_rows
from stillroom.data.sources import detect_layout, load, load_split, parse_data_argument
from stillroom.errors import BadInput

Write = Callable[..., Path]


def read(folder: Path, split: str, *, limit: int | None = None, **options: Any) -> ImageSet:
    return read_image_folder(folder, split, DataConfig(**options), limit=limit)


def refused(folder: Path, match: str, split: str = "train", **options: Any) -> BadInput:
    with pytest.raises(BadInput, match=match) as raised:
        read(folder, split, **options)
    return raised.value


def chw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array[None] if array.ndim == 2 else array.transpose(2, 0, 1)))


# Which files, and as which class.


def test_files_come_back_by_class_then_name(pet_folder: Path, colours: np.ndarray) -> None:
    images = read(pet_folder, "train")
    assert torch.equal(images.images, torch.stack([chw(colours[row]) for row in (0, 2, 4, 6, 1, 3, 5, 7)]))
    assert images.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (images.class_names, images.name) == (("cat", "dog"), "pets")


def test_classes_are_sorted_as_text(tmp_path: Path, greys: np.ndarray, write_images: Write) -> None:
    write_images(tmp_path / "train", {f"{name}/1.png": greys[0] for name in ("b", "10", "9", "a", "B")})
    assert read(tmp_path, "train").class_names == ("10", "9", "B", "a", "b")


@pytest.mark.skipif(".avif" not in SUFFIXES, reason="this Pillow reads no AVIF")
def test_avif_files_are_read(tmp_path: Path) -> None:
    for name, level in (("cat", 40), ("dog", 200)):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (6, 4), (level,) * 3).save(tmp_path / "train" / name / "1.AVIF", format="AVIF")
    images = read(tmp_path, "train").images
    assert isinstance(images, torch.Tensor)
    assert images.flatten(1).float().mean(1).tolist() == pytest.approx([40, 200], abs=4)


def test_a_split_may_be_written_in_another_case(pet_folder: Path) -> None:
    expected = [read(pet_folder, split).fingerprint for split in ("train", "test")]
    for split in ("train", "test"):
        (pet_folder / split).rename(pet_folder / f"{split}-")
        (pet_folder / f"{split}-").rename(pet_folder / split.capitalize())
    assert detect_layout(pet_folder) == "folders"
    made = load(DataConfig(source="folders", path=str(pet_folder)))
    assert [made.train.fingerprint, made.test.fingerprint] == expected


def test_files_lie_however_deep_below_their_class(pet_folder: Path, colours: np.ndarray, write_images: Write) -> None:
    write_images(pet_folder / "train", {"cat/deep/er/a.png": colours[8], "cat/deep/b.PNG": colours[9]})
    images = read(pet_folder, "train")
    assert images.labels.tolist() == [0] * 6 + [1] * 4
    assert torch.equal(images.images[4:6], torch.stack([chw(colours[9]), chw(colours[8])]))


def test_hidden_names_and_what_is_no_picture_are_passed_over(
    pet_folder: Path, colours: np.ndarray, write_images: Write
) -> None:
    before = read(pet_folder, "train").fingerprint
    write_images(pet_folder / "train", {"cat/.thumb.png": colours[8], "cat/.cache/1.png": colours[8]})
    write_images(pet_folder, {".trash/emu/1.png": colours[8], "train/.emu/1.png": colours[8]})
    write_images(pet_folder / "train", {"loose.png": colours[8]})
    (pet_folder / "train" / "cat" / "notes.txt").write_text("a cat")
    assert read(pet_folder, "train").fingerprint == before


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp", "JPG"])
def test_every_common_format_is_read(tmp_path: Path, colours: np.ndarray, write_images: Write, suffix: str) -> None:
    write_images(tmp_path / "train", {f"{name}/1.{suffix}": np.full((6, 6, 3), 100, np.uint8) for name in "ab"})
    images = read(tmp_path, "train")
    assert images.images.shape == (2, 3, 6, 6)
    assert bool(((images.images.int() - 100).abs() <= 2).all())


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_but_not_in_circles(pet_folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    (linked / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (linked / "train" / name).symlink_to(pet_folder / "train" / name)
    (pet_folder / "train" / "cat" / "back").symlink_to(pet_folder / "train")
    (pet_folder / "train" / "dog" / "self").symlink_to(".")
    shutil.rmtree(pet_folder / "test")
    images = read(linked, "train")
    assert torch.bincount(images.labels).tolist() == [4 + 4, 4]  # `back` leads to the dogs, and to where it came from
    shutil.rmtree(linked)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_broken_link_is_reported(pet_folder: Path) -> None:
    (pet_folder / "train" / "cat" / "gone.png").symlink_to("nowhere.png")
    assert "gone.png" in str(refused(pet_folder, "No such file").value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(pet_folder: Path) -> None:
    os.mkfifo(pet_folder / "train" / "cat" / "pipe.png")
    assert len(read(pet_folder, "train")) == 8


# Splits.


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_split_stands_in_for_a_test_split_that_is_not_there(pet_folder: Path, name: str) -> None:
    (pet_folder / "test").rename(pet_folder / name)
    expected = read(pet_folder, name).fingerprint
    assert read(pet_folder, "test").fingerprint == expected
    assert load(DataConfig(path=str(pet_folder))).test.fingerprint == expected


def test_nothing_stands_in_where_it_would_be_a_guess(pet_folder: Path) -> None:
    shutil.copytree(pet_folder / "test", pet_folder / "val")
    shutil.rmtree(pet_folder / "val" / "dog")
    assert len(read(pet_folder, "test")) == 4  # the test split that is there is taken
    refused(pet_folder, r"split: got 'dev'; expected a split of the data, which has test, train, val", "dev")
    shutil.rmtree(pet_folder / "val")
    (pet_folder / "test").rename(pet_folder / "val")
    refused(pet_folder, "a split of the data, which has train, val", "test", train_split="val")
    shutil.copytree(pet_folder / "val", pet_folder / "validation")
    refused(pet_folder, "a split of the data, which has train, val, validation", "test")


def test_a_split_that_is_not_there_names_its_field(pet_folder: Path) -> None:
    with pytest.raises(BadInput, match="expected a split of the data, which has test, train") as raised:
        load(DataConfig(path=str(pet_folder), train_split="trian"))
    assert raised.value.field == "data.train_split"


def test_splits_must_have_the_same_classes(pet_folder: Path) -> None:
    shutil.rmtree(pet_folder / "test" / "dog")
    (pet_folder / "test" / "emu").mkdir()
    expected = r"'emu'.*expected the classes of training: it lacks 'dog'; training lacks 'emu'"
    with pytest.raises(BadInput, match=expected) as raised:
        load(DataConfig(path=str(pet_folder)))
    assert raised.value.field == "data.test_split"


def test_a_class_may_be_empty_only_where_nothing_is_learned(pet_folder: Path) -> None:
    for split in ("train", "test"):
        for path in (pet_folder / split / "dog").iterdir():
            path.unlink()
        if split == "train":
            error = refused(pet_folder, r"at least 1 image file \(.*\.png.*\), but there is none")
            assert str(error.value).endswith("dog")
            read(pet_folder, "train", train_split="other")
    assert read(pet_folder, "test").labels.tolist() == [0, 0]
    assert read(pet_folder, "test").class_names == ("cat", "dog")


def test_no_class_folders_or_only_one(pet_folder: Path) -> None:
    shutil.rmtree(pet_folder / "train" / "dog")
    refused(pet_folder, "at least 2 class folders.*it holds cat")
    for path in (pet_folder / "train" / "cat").iterdir():
        path.rename(pet_folder / "train" / path.name)
    (pet_folder / "train" / "cat").rmdir()
    refused(pet_folder, "at least 2 class folders.*it holds 00.png")


def test_a_split_without_any_picture(pet_folder: Path) -> None:
    for path in (pet_folder / "test").rglob("*.png"):
        path.unlink()
    assert str(refused(pet_folder, "at least 1 image file", "test").value).endswith("test")


# Limits.


def test_a_limit_gives_the_same_images_as_a_subset(pet_folder: Path) -> None:
    whole, part = read(pet_folder, "train"), read(pet_folder, "train", limit=4)
    assert part.fingerprint == whole.balanced_subset(4).fingerprint
    pair = load(DataConfig(path=str(pet_folder), train_limit=4, test_limit=2))
    assert pair.train.fingerprint == part.fingerprint
    assert len(pair.test) == 2
    assert load_split(DataConfig(path=str(pet_folder), test_limit=2), "test").fingerprint == pair.test.fingerprint


@pytest.mark.parametrize("in_memory", [True, False])
def test_nothing_but_the_wanted_files_is_decoded(pet_folder: Path, in_memory: bool) -> None:
    wanted = set(balanced_rows(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 4).tolist())
    for row, path in enumerate(sorted((pet_folder / "train").rglob("*.png"))):
        if row not in wanted:
            path.write_bytes(b"damaged")
    images = read(pet_folder, "train", limit=4, in_memory=in_memory)
    assert images.images[:].shape == (4, 3, 5, 4)
    refused(pet_folder, "of no known format", in_memory=in_memory)


# Pixels.


def test_grey_stays_grey_where_every_picture_is(tmp_path: Path, greys: np.ndarray, write_images: Write) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split, {"a/1.png": greys[0], "b/1.png": greys[1]})
    assert torch.equal(load(DataConfig(path=str(tmp_path))).train.images, torch.from_numpy(greys[:2])[:, None])


@pytest.mark.parametrize("where", ["train/b/2.png", "test/a/2.png"])
def test_one_coloured_picture_in_either_split_makes_both_coloured(
    tmp_path: Path, greys: np.ndarray, colours: np.ndarray, write_images: Write, where: str
) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split, {"a/1.png": greys[0], "b/1.png": greys[1]})
    write_images(tmp_path, {where: colours[0]})
    pair = load(DataConfig(path=str(tmp_path)))
    assert torch.equal(pair.train.images[0], torch.from_numpy(greys[0]).expand(3, 5, 4))
    # Neither a limit nor reading one split alone may change what the other pictures look like.
    assert load_split(DataConfig(path=str(tmp_path), train_limit=2), "train").channels == 3
    assert load_split(DataConfig(path=str(tmp_path)), "test").fingerprint == pair.test.fingerprint


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "1", "I;16"])
def test_every_mode_of_a_file_is_read(tmp_path: Path, colours: np.ndarray, write_images: Write, mode: str) -> None:
    source = Image.fromarray(colours[0])
    if mode == "I;16":
        image = Image.fromarray(colours[0, :, :, 0].astype(np.uint16) * 257)
    else:
        image = source.convert("L").convert(mode) if mode in ("LA", "1") else source.convert(mode)
    name = "1.tif" if mode == "CMYK" else "1.png"
    write_images(tmp_path / "train", {f"a/{name}": image, f"b/{name}": image})
    images = read(tmp_path, "train")
    expected = colours[0, :, :, 0] if mode == "I;16" else np.array(image.convert("L" if mode == "1" else "RGB"))
    assert torch.equal(images.images[1], chw(expected))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path: Path, write_images: Write, suffix: str, orientation: int) -> None:
    marked = np.zeros((16, 24, 3), np.uint8)
    marked[:8, :8], marked[8:, :8] = (255, 0, 0), (0, 255, 0)  # tells every turn and mirroring from every other
    stored = Image.fromarray(marked)
    turns = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # what brings upright to how it is stored
    for turn in turns.get(orientation, []):
        stored = stored.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    write_images(tmp_path / "train", {f"{name}/1.{suffix}": stored for name in "ab"}, exif=exif, **lossless)
    for options in ({}, {"image_size": 16}):
        images = read(tmp_path, "train", **options).images
        expected = marked if not options else marked[:, 4:20]
        assert images.shape[1:] == chw(expected).shape
        assert bool(((images[0].int() - chw(expected).int()).abs() <= (2 if suffix == "jpg" else 0)).all())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_does_not_spoil_a_photo(
    tmp_path: Path, colours: np.ndarray, write_images: Write
) -> None:
    for damaged in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0nonsense", b"Exif\0\0"):
        write_images(tmp_path / "train", {"a/1.jpg": colours[0], "b/1.jpg": colours[1]}, exif=damaged)
        assert read(tmp_path, "train").images.shape == (2, 3, 5, 4)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (20, 35), (35, 20), (7, 5), (11, 30)])
@pytest.mark.parametrize("grey", [True, False])
def test_resizing_is_torchvisions(tmp_path: Path, write_images: Write, height: int, width: int, grey: bool) -> None:
    array = np.random.default_rng(2).integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)
    write_images(tmp_path / "train", {"a/1.png": array, "b/1.png": np.flip(array).copy()})
    images = read(tmp_path, "train", image_size=10)
    shorter = min(height, width)
    sizes = [10 if side == shorter else int(10 * side / shorter) for side in (width, height)]
    resized = np.asarray(Image.fromarray(array).resize(sizes, Image.Resampling.BILINEAR))
    top, left = (round((side - 10) / 2.0) for side in resized.shape[:2])
    assert torch.equal(images.images[0], chw(resized[top : top + 10, left : left + 10]))
    assert images.image_size == 10


def test_sizes_that_differ_name_the_first_two(pet_folder: Path, write_images: Write) -> None:
    write_images(pet_folder / "train", {"dog/03.png": Image.new("RGB", (9, 7)), "dog/07.png": Image.new("RGB", (2, 2))})
    for workers in (1, 3):
        error = refused(pet_folder, "cat/00.png is 5×4 and dog/03.png is 7×9; set data.image_size", workers=workers)
        assert error.field == "data.path"
    assert read(pet_folder, "train", image_size=4).images.shape == (8, 3, 4, 4)


# Damaged files.


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n"])
def test_a_file_that_is_no_picture(pet_folder: Path, content: bytes, in_memory: bool) -> None:
    (pet_folder / "train" / "cat" / "04.png").write_bytes(content)
    why = "of no known format" if content else "the file is empty"
    error = refused(pet_folder, rf"a picture that can be decoded \({why}\)", in_memory=in_memory)
    assert error.field == "data.path"
    assert str(error.value).endswith("04.png")


def test_pixels_that_are_floats_are_reported_before_training(pet_folder: Path, write_images: Write) -> None:
    write_images(pet_folder / "train", {"cat/00.tif": np.zeros((5, 4), np.float32)})
    refused(pet_folder, "pixels are floats", in_memory=False)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_file_that_ends_too_early(tmp_path: Path, write_images: Write, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    write_images(tmp_path / "train", {f"{name}.{kind}": noise for name in ("a/1", "a/2", "b/1")})
    path = tmp_path / "train" / "a" / f"2.{kind}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for in_memory in (True, False):
        error = refused(tmp_path, "a picture that can be decoded", in_memory=in_memory)
        assert str(error.value).endswith(f"2.{kind}")


def test_a_picture_that_would_fill_the_memory(pet_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19)
    with pytest.warns(Image.DecompressionBombWarning):
        refused(pet_folder, "5 pixels is more than the limit of 19")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    refused(pet_folder, "exceeds limit")


def test_a_picture_so_narrow_that_resized_it_would(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / "train", {"a/1.png": Image.new("L", (2, 40_000)), "b/1.png": Image.new("L", (2, 2))})
    refused(tmp_path, "224×4480000 pixels is more than the limit", image_size=224)


def test_more_than_memory_is_held_only_in_files(pet_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillroom.data.reading.machine_memory", lambda: 100)
    assert refused(pet_folder, "data that fit into memory", in_memory=True).field == "data.in_memory"
    assert len(read(pet_folder, "train", in_memory=False)) == 8


def test_beyond_some_size_files_are_read_when_asked_for(pet_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 8 * 3 * 5 * 4
    for limit, held in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr("stillroom.data.image_folder._AUTO_IN_MEMORY", limit)
        assert isinstance(read(pet_folder, "train").images, torch.Tensor) == held
        assert isinstance(read(pet_folder, "train", in_memory=True).images, torch.Tensor)


# Recognition and options.


def test_the_layout_is_recognised(pet_folder: Path) -> None:
    assert detect_layout(pet_folder) == "folders"
    assert parse_data_argument(str(pet_folder)) == DataConfig(source="folders", path=str(pet_folder))
    (pet_folder / "train").rename(pet_folder / "mine")
    (pet_folder / "test").rename(pet_folder / "yours")
    with pytest.raises(BadInput, match="it holds mine, yours"):
        detect_layout(pet_folder)
    assert len(load(DataConfig(path=str(pet_folder), train_split="mine", test_split="yours")).train) == 8


def test_pictures_beside_parquet_or_idx_change_nothing(
    pet_folder: Path, greys: np.ndarray, png: Callable[..., bytes], write_parquet: Write, write_idx: Callable[..., None]
) -> None:
    write_idx(pet_folder, "train", greys, np.arange(12) % 2)
    assert detect_layout(pet_folder) == "idx"
    assert len(load(DataConfig(path=str(pet_folder), source="folders")).train) == 8
    for path in pet_folder.glob("*.gz"):
        path.unlink()
    write_parquet(pet_folder / "data" / "train.parquet", [png(greys[0])], [0], names=["a"])
    assert detect_layout(pet_folder) == "parquet"


def test_a_folder_of_data_sets_or_of_classes_alone_is_of_no_known_layout(pet_folder: Path) -> None:
    for folder in (pet_folder.parent, pet_folder / "train"):
        with pytest.raises(BadInput, match=r"or image files in a folder for each class \(train/cat/1.png"):
            detect_layout(folder)


def test_options_that_other_layouts_cannot_follow_are_refused(
    tmp_path: Path, greys: np.ndarray, write_idx: Callable[..., None]
) -> None:
    for split in ("train", "t10k"):
        write_idx(tmp_path, split, greys, np.arange(12) % 3)
    for option, value in (("image_size", 8), ("in_memory", False)):
        for path in (str(tmp_path), None):
            with pytest.raises(BadInput, match="only `folders` and `csv` have it") as raised:
                load(DataConfig(path=path, **{option: value}))
            assert raised.value.field == f"data.{option}"
        for source, path in (("idx", "x"), ("parquet", "x"), ("digits", None), ("python", None)):
            if (option, source) == ("image_size", "parquet"):
                continue
            with pytest.raises(ValueError, match=f"no {option} with source: {source}"):
                DataConfig(source=source, path=path, **{option: value})
    load(DataConfig(path=str(tmp_path), in_memory=True, workers=2))


def test_folders_need_a_path() -> None:
    with pytest.raises(ValueError, match="a path with source: folders"):
        DataConfig(source="folders")


def test_options_are_handed_on(pet_folder: Path) -> None:
    pair = load(DataConfig(path=str(pet_folder), image_size=3, in_memory=False, workers=2))
    assert pair.train.images.shape == (8, 3, 3, 3)
    assert pair.train.images.workers == 2


# A slice of benchmarks/oddities.py, which has some 100 folders.


@pytest.fixture(scope="module")
def oddities() -> Iterator[ModuleType]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        yield importlib.import_module("oddities_images")
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize(
    "name",
    [
        ".jfif",
        "JPEG, of two images (MPO)",
        "a PNG named .jpg",
        ".heic",
        "4 of .heic, 2 without",
        "alpha",
        "RGB of 16 bits, PNG",
        "GIF: its first frame",
        "60,000 × 60,000 (a bomb)",
        "an image next to the classes",
        "a name with line break and escape",
        "to a folder elsewhere",
        "in a class to a folder of the test split",
        "to one image of the test split",
        "two training images in the test split",
        "the test split is the training split",
    ],
)
def test_an_image_is_read_or_a_line_says_why_not(oddities: ModuleType, tmp_path: Path, name: str) -> None:
    (case,) = [case for case in oddities.IMAGE_CASES if case.name == name]
    right, happened = oddities.try_images(case, tmp_path)
    assert right, happened


def test_class_folders_of_files_that_are_no_images_by_their_names_are_named_as_such(tmp_path: Path) -> None:
    for name in ("train/cat/1.heic", "train/dog/2.heic", "test/cat/3.jxl", "test/dog/4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for field in ("data.path", "--data"):
        with pytest.raises(BadInput, match=r"hold \.heic \(2\), \.jxl \(1\), no suffix \(1\): .*convert") as error:
            detect_layout(tmp_path, field)
        assert error.value.field == field
