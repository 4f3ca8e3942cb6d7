"""idx files: what is read, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stillroom.data.idx import idx_splits, read_idx
from stillroom.errors import BadInput

WriteIdx = Callable[..., None]
LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
IMAGES, TARGETS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def folder(tmp_path: Path, greys: np.ndarray, write_idx: WriteIdx) -> Path:
    write_idx(tmp_path / "clothes", "train", greys, LABELS)
    return tmp_path / "clothes"


def refused(folder: Path, match: str, split: str = "train") -> None:
    with pytest.raises(BadInput, match=match) as raised:
        read_idx(folder, split)
    assert raised.value.field == ("data.path" if split == "train" else "split")


def repack(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


@pytest.mark.parametrize("packed", [True, False])
def test_files_come_back_as_they_were_written(
    tmp_path: Path, greys: np.ndarray, write_idx: WriteIdx, packed: bool
) -> None:
    write_idx(tmp_path / "clothes", "train", greys, LABELS, packed=packed)
    images = read_idx(tmp_path / "clothes", "train")
    assert torch.equal(images.images, torch.from_numpy(greys)[:, None])
    assert images.labels.tolist() == LABELS.tolist()
    assert (images.class_names, images.name) == (tuple("0123456789"), "clothes")


def test_t10k_is_the_test_split(folder: Path, greys: np.ndarray, write_idx: WriteIdx) -> None:
    write_idx(folder, "t10k", 255 - greys, LABELS)
    assert sorted(idx_splits(folder)) == ["test", "train"]
    assert torch.equal(read_idx(folder, "test").images[:, 0], torch.from_numpy(255 - greys))


def test_a_missing_split_lists_those_found(folder: Path) -> None:
    refused(folder, "got 'dev'; expected a split of the data, which has train", split="dev")


def test_a_missing_file_of_a_split_is_reported(folder: Path) -> None:
    (folder / TARGETS).unlink()
    refused(folder, f"the labels of split 'train' as well as {IMAGES}")


def test_images_and_labels_that_were_swapped_are_reported(folder: Path) -> None:
    images, labels = folder / IMAGES, folder / TARGETS
    images.rename(folder / "aside")
    labels.rename(images)
    (folder / "aside").rename(labels)
    refused(folder, r"an idx file of images \(magic number 2051\), but it begins with 2049")


@pytest.mark.parametrize(
    ("name", "magic", "match"), [(IMAGES, b"\x00\x00\x0d\x03", "3331"), (TARGETS, b"\x00\x00\x08\x03", "labels.*2051")]
)
def test_a_wrong_magic_number_is_reported(folder: Path, name: str, magic: bytes, match: str) -> None:
    repack(folder / name, lambda content: magic + content[4:])
    refused(folder, match)


@pytest.mark.parametrize("name", [IMAGES, TARGETS])
def test_content_that_ends_early_or_late_is_reported(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    repack(folder / name, lambda content: content[:-1])
    refused(folder, "bytes, as its header says .*found only")
    (folder / name).write_bytes(whole)
    repack(folder / name, lambda content: content + b"\x00")
    refused(folder, "found more")
    (folder / name).write_bytes(whole)
    repack(folder / name, lambda content: content[:6])
    refused(folder, "whole idx header")
    repack(folder / name, lambda content: b"")
    refused(folder, "magic number")


def test_every_truncation_of_a_packed_file_is_reported(folder: Path) -> None:
    path = folder / IMAGES
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(folder, "data.path: got .*train-images")


def test_damage_within_a_packed_file_is_reported(folder: Path) -> None:
    path = folder / IMAGES
    whole = path.read_bytes()
    for place in range(10, len(whole), 11):  # after the header of gzip, whose time and flags change nothing
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        refused(folder, "data.path: got .*train-images")


def test_a_header_cannot_make_the_reader_allocate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repack(folder / IMAGES, lambda content: content[:4] + b"\xff" * 12 + content[16:])
    refused(folder, "fit into memory")
    # Where the system does not tell its memory, the count is still only a claim.
    monkeypatch.setattr("stillroom.data.reading.machine_memory", lambda: None)
    refused(folder, "found only 240")


def test_counts_that_differ_are_reported(folder: Path, greys: np.ndarray, write_idx: WriteIdx) -> None:
    write_idx(folder, "train", greys[:11], LABELS)
    refused(folder, "as many labels as images, but 'train' has 12 and 11")


def test_no_images_are_reported(folder: Path, write_idx: WriteIdx) -> None:
    write_idx(folder, "train", np.zeros((0, 5, 4)), np.zeros(0))
    refused(folder, "at least 1 image")


def test_a_folder_in_the_place_of_a_file_is_reported(folder: Path) -> None:
    (folder / IMAGES).unlink()
    (folder / IMAGES).mkdir()
    refused(folder, "can be read")
