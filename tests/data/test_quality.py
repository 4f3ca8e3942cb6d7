"""Copies of images within and between splits, classes of unequal size, and what is said of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stillroom.data.config import DataConfig
from stillroom.data.decoding import without_metadata
from stillroom.data.image_folder import ImageFiles
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.quality import describe_data, measure_quality
from stillroom.data.sources import load
from stillroom.diagnose.check import Check, Skip
from stillroom.diagnose.checks.data import data_checks
from stillroom.diagnose.run import diagnose_run
from stillroom.observer import Observer
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute
from stillroom.schema.run import DataQuality
from stillroom.study.engine.base import Job
from stillroom.study.engine.jobs import build_cache

NAMES = ("a", "b")


def images(pixels: torch.Tensor, labels: list[int]) -> ImageSet:
    return ImageSet(pixels, torch.tensor(labels), NAMES, "x")


def noise(count: int, seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_copies_are_found_in_images_of_any_type(kind: torch.dtype) -> None:
    pixels = noise(20, 0, 3, 9, 9).to(kind)
    train = images(torch.cat([pixels[:10], pixels[:2]]), [0, 1] * 5 + [0, 0])
    test = images(torch.cat([pixels[10:15], pixels[2:5]]), [0] * 5 + [0, 0, 0])
    found = measure_quality(DataPair(train, test))
    assert (found.copies, found.copies_relabelled) == (2, 1)
    assert (found.shared, found.shared_relabelled) == (3, 1)


def test_images_that_differ_in_one_pixel_are_no_copies() -> None:
    pixels = noise(1, 0, 3, 40, 40).expand(200, 3, 40, 40).clone()
    for row in range(200):  # at most one value each, which no sample of a few pixels would see
        pixels[row, 1, row % 40, row // 40] ^= 1
    found = measure_quality(DataPair(images(pixels[:100], [0, 1] * 50), images(pixels[100:], [0, 1] * 50)))
    assert (found.copies, found.shared) == (0, 0)


def test_subsets_of_one_set_are_compared_by_their_own_images() -> None:
    whole = images(torch.cat([noise(9, 0, 1, 4, 4), noise(1, 0, 1, 4, 4)]), [0, 1] * 5)
    pair = DataPair(whole.subset(np.arange(7)), whole.subset(np.arange(7, 10)))
    found = measure_quality(pair)
    assert (found.train, found.test, found.shared) == (7, 3, 1)  # the last image is the first again


@pytest.mark.parametrize("in_memory", [True, False])
def test_copied_files_are_found(pet_folder: Path, in_memory: bool) -> None:
    for number in range(2):
        shutil.copy(
            sorted((pet_folder / "train" / "cat").iterdir())[number], pet_folder / "test" / f"dog/copy{number}.png"
        )
    found = measure_quality(load(DataConfig(path=str(pet_folder), in_memory=in_memory)))
    assert (found.shared, found.shared_relabelled) == (2, 2)


def stored_anew(pet_folder: Path) -> None:
    """Two training images in the test split: one with a comment in its file, one in another format."""
    cats = sorted((pet_folder / "train" / "cat").iterdir())
    with Image.open(cats[0]) as image:
        info = PngInfo()
        info.add_text("Comment", "the same pixels")
        image.save(pet_folder / "test" / "cat" / "commented.png", pnginfo=info)
    with Image.open(cats[1]) as image:
        image.save(pet_folder / "test" / "cat" / "other.bmp")


@pytest.mark.parametrize("in_memory", [True, False])
def test_copies_are_found_in_files_of_other_bytes(pet_folder: Path, in_memory: bool) -> None:
    stored_anew(pet_folder)
    found = measure_quality(load(DataConfig(path=str(pet_folder), in_memory=in_memory)))
    assert (found.shared, found.by_pixels) == (2, True)


def test_of_more_files_than_can_be_decoded_copies_with_other_metadata_are_found(
    pet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_anew(pet_folder)
    data = load(DataConfig(path=str(pet_folder), in_memory=False))
    monkeypatch.setattr("stillroom.data.quality.MOST_DECODED", 100)
    monkeypatch.setattr(ImageFiles, "read", lambda self, row: pytest.fail("decoded"))
    found = measure_quality(data)
    assert (found.shared, found.by_pixels) == (1, False)
    leak = data_checks(lambda found: found)[0]
    assert leak.run(found.model_copy(update={"shared": 0})).summary.endswith("by its file.")


def test_of_jpegs_and_pngs_only_what_makes_pixels_counts(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(1, 3, 16, 16, 3)[0].numpy())
    exif = Image.Exif()
    exif[0x010E] = "a description"
    for name, options in (("a.jpg", {}), ("b.jpg", {"exif": exif, "comment": b"x"}), ("c.jpg", {"quality": 40})):
        picture.save(tmp_path / name, **options)
    parts = [b"".join(without_metadata((tmp_path / name).read_bytes())) for name in ("a.jpg", "b.jpg", "c.jpg")]
    assert parts[0] == parts[1] != parts[2]
    content = (tmp_path / "a.jpg").read_bytes()
    for length in range(len(content)):  # one cut short at any place ends, too
        without_metadata(content[:length])


def test_a_split_in_memory_is_compared_with_one_in_files(pet_folder: Path) -> None:
    held, streamed = (load(DataConfig(path=str(pet_folder), in_memory=each)) for each in (True, False))
    assert measure_quality(DataPair(held.train, streamed.train)).shared == len(held.train)
    assert measure_quality(DataPair(held.train, streamed.test)).shared == 0


def test_what_was_read_is_said_once_and_what_is_wrong_with_it() -> None:
    pixels = noise(220, 1, 1, 4, 4)
    lines: list[str] = []
    pair = DataPair(images(pixels[:212], [0] * 206 + [1] * 6), images(pixels[206:], [1] * 14))
    describe_data(pair, lines.append)
    assert lines == [
        "data x: 212 training and 14 test images, 2 classes",
        "data x: 6 of 14 test images are training images, too",
        "data x: 206 training images of 'a', 6 of 'b': 34 to 1",
    ]
    lines.clear()
    describe_data(DataPair(pair.train, pair.train), lines.append)
    assert "all 212 test images are training images, too: the accuracy is that of training" in lines[1]
    lines.clear()
    describe_data(pair.test, lines.append, "val")
    assert lines == ["data x: 14 images of the val split, 2 classes"]


def quality(**changes: int) -> DataQuality:
    counts = {"shared": 0, "shared_relabelled": 0, "copies": 0, "copies_relabelled": 0, "empty_classes": 0}
    sizes = {"train": 1000, "test": 1000, "largest": 100, "smallest": 100}
    return DataQuality(**{**counts, **sizes, **changes}, largest_class="a", smallest_class="b", by_pixels=True)


@pytest.mark.parametrize(
    ("check", "changes", "verdict"),
    [
        ("leak", {}, "ok"),
        ("leak", {"shared": 4}, "ok"),
        ("leak", {"shared": 5}, "warning"),
        ("leak", {"shared": 50}, "problem"),
        ("duplicates", {"copies": 49}, "ok"),
        ("duplicates", {"copies": 50}, "warning"),
        ("imbalance", {"smallest": 11}, "ok"),
        ("imbalance", {"smallest": 10}, "warning"),
        ("imbalance", {"smallest": 1}, "problem"),
        ("imbalance", {"empty_classes": 1}, "problem"),
    ],
)
def test_verdicts_turn_at_their_limits(check: str, changes: dict[str, int], verdict: str) -> None:
    checks: tuple[Check[DataQuality], ...] = data_checks(lambda found: found)
    finding = next(each for each in checks if each.id == check).run(quality(**changes))
    assert finding.verdict == verdict
    assert (finding.remedy is not None) == (verdict != "ok")


def test_where_nothing_is_recorded_the_checks_are_skipped() -> None:
    def unknown(context: None) -> DataQuality:
        raise Skip("The run did not end.")

    assert {check.run(None).verdict for check in data_checks(unknown)} == {"skipped"}


def test_real_data_have_the_copies_that_are_published() -> None:
    if not os.environ.get("STILLROOM_DATA"):
        pytest.skip("STILLROOM_DATA is not set")
    found = measure_quality(load(DataConfig(path="cifar100-part")))
    assert (found.shared, found.copies, found.copies_relabelled) == (2, 3, 3)


def test_a_run_and_a_study_say_what_they_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    content = {
        "data": {"train_limit": 40, "test_limit": 30, "test_split": "train", "batch_size": 20},
        "student": {"name": "mlp", "options": {"hidden": [4]}},
        "training": {"steps": 2, "device": "cpu"},
    }
    expected = [
        "data digits: 40 training and 30 test images, 10 classes",
        "data digits: all 30 test images are training images, too: the accuracy is that of training",
    ]
    lines: list[str] = []
    observer = Observer()
    observer.note = lines.append  # type: ignore[method-assign]
    summary = execute(parse_recipe(content), tmp_path / "run", observer=observer, latency=False).summary
    assert lines == expected
    assert summary["data"]["quality"]["shared"] == 30
    verdicts = {finding.check: finding.verdict for finding in diagnose_run(tmp_path / "run")}
    assert (verdicts["leak"], verdicts["duplicates"], verdicts["imbalance"]) == ("problem", "ok", "ok")
    job = Job("prepare/all/a", "cache", content, str(tmp_path / "job"), options={"recipes": [content, content]})
    assert build_cache(job)["notes"] == expected
