"""Parquet in Hugging Face's layout: what is read, and every way in which a file can be wrong."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from stillroom.data.config import DataConfig
from stillroom.data.decoding import decode
from stillroom.data.images import ImageSet
from stillroom.data.parquet import parquet_splits, read_parquet
from stillroom.errors import BadInput

Write = Callable[..., Path]
Png = Callable[[np.ndarray], bytes]
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


def same_pixels(images: ImageSet, arrays: np.ndarray) -> bool:
    expected = torch.from_numpy(arrays)
    expected = expected[:, None] if expected.ndim == 3 else expected.permute(0, 3, 1, 2)
    return torch.equal(images.images, expected)


def test_a_file_comes_back_as_it_was_written(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    folder = tmp_path / "pets"
    write_parquet(folder / "train.parquet", [png(each) for each in colours], LABELS, names=["cat", "dog", "emu"])
    images = read_parquet(folder, "train")
    assert same_pixels(images, colours)
    assert images.labels.tolist() == LABELS
    assert (images.class_names, images.name) == (("cat", "dog", "emu"), "pets")


def test_grey_stays_grey(tmp_path: Path, greys: np.ndarray, write_parquet: Write, png: Png) -> None:
    write_parquet(tmp_path / "train.parquet", [png(each) for each in greys], LABELS, names=list("abc"))
    images = read_parquet(tmp_path, "train")
    assert images.channels == 1
    assert same_pixels(images, greys)


@pytest.mark.parametrize("grey_first", [True, False])
def test_grey_among_rgb_becomes_rgb(
    tmp_path: Path, colours: np.ndarray, greys: np.ndarray, write_parquet: Write, png: Png, grey_first: bool
) -> None:
    mixed = [greys[0], greys[1], colours[2], greys[3]] if grey_first else [colours[0], greys[1], colours[2], greys[3]]
    write_parquet(tmp_path / "train.parquet", [png(each) for each in mixed], LABELS[:4], names=list("abc"))
    expected = np.stack([each if each.ndim == 3 else np.repeat(each[..., None], 3, -1) for each in mixed])
    assert same_pixels(read_parquet(tmp_path, "train"), expected)


def test_without_metadata_the_only_fitting_columns_are_taken(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    write_parquet(
        tmp_path / "train.parquet",
        [png(each) for each in colours],
        LABELS,
        plain=True,
        image="anything",
        label="number",
        extra={"caption": ["x"] * 12, "weight": [0.5] * 12},
    )
    images = read_parquet(tmp_path, "train")
    assert same_pixels(images, colours)
    assert images.labels.tolist() == LABELS
    assert images.class_names == ("0", "1", "2")


@pytest.mark.parametrize("below", ["", "data"])
def test_shards_are_read_in_order(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png, below: str
) -> None:
    for shard in (2, 0, 1):
        rows = slice(4 * shard, 4 * shard + 4)
        path = tmp_path / below / f"train-{shard:05}-of-00003.parquet"
        write_parquet(path, [png(each) for each in colours[rows]], LABELS[rows], names=list("abc"))
    images = read_parquet(tmp_path, "train")
    assert same_pixels(images, colours)
    assert images.labels.tolist() == LABELS


def test_many_rows_keep_their_order(tmp_path: Path, write_parquet: Write, png: Png) -> None:
    count = 2500  # more than two readings of the file, and no multiple of anything
    write_parquet(
        tmp_path / "train.parquet",
        [png(np.full((1, 2), row % 256, np.uint8)) for row in range(count)],
        [row % 7 for row in range(count)],
        names=list("abcdefg"),
    )
    images = read_parquet(tmp_path, "train")
    assert torch.equal(images.images[:, 0, 0, 0].long(), torch.arange(count) % 256)
    assert torch.equal(images.labels, torch.arange(count) % 7)


def test_splits_are_found_by_the_names_of_files(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation-0.parquet").touch()
    (tmp_path / "data" / "test.parquet").touch()
    found = parquet_splits(tmp_path)
    assert sorted(found) == ["test", "train", "validation"]
    assert [path.name[:11] for path in found["train"]] == ["train-00000", "train-00001"]
    assert found["test"] == [tmp_path / "test.parquet"]  # the folder's own goes before data/


def refused(folder: Path, match: str, field: str = "data.path", **options: Any) -> None:
    with pytest.raises(BadInput, match=match) as raised:
        read_parquet(folder, "train", DataConfig(**options))
    assert raised.value.field == field
    assert "\n" not in str(raised.value)


def test_a_missing_split_lists_those_found(tmp_path: Path) -> None:
    for name in ("test.parquet", "dev-1.parquet"):
        (tmp_path / name).touch()
    refused(tmp_path, "got 'train'; expected a split of the data, which has dev, test", "split")


def test_a_missing_shard_is_reported(tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [png(colours[0])], [0], names=["a"])
    refused(tmp_path, "all 2 shards of split 'train', found 1")


def test_a_split_that_lies_there_twice_is_reported(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    for name in ("train.parquet", "train-00000-of-00001.parquet"):
        write_parquet(tmp_path / name, [png(colours[0])], [0], names=["a"])
    refused(tmp_path, "in one file or in shards, not both")


def test_shards_that_do_not_agree_are_reported(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    write_parquet(tmp_path / "train-0.parquet", [png(colours[0])], [0], names=["a", "b"])
    write_parquet(tmp_path / "train-1.parquet", [png(colours[1])], [0], names=["b", "a"])
    refused(tmp_path, "train-1.parquet.*same columns and classes as in train-0.parquet")


# Columns.


@pytest.fixture
def two_of_each(tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png) -> Callable[..., Path]:
    def write(label: str = "coarse", other: str = "mass", features: Any = None, plain: bool = True) -> Path:
        pictures = [png(each) for each in colours]
        extra = {"mask": pa.array([png(255 - each) for each in colours], pa.binary()), other: [5] * 12}
        path = tmp_path / "train.parquet"
        write_parquet(path, pictures, LABELS, plain=plain, label=label, extra=extra, features=features)
        return tmp_path

    return write


def test_several_image_columns_are_listed(two_of_each: Callable[..., Path]) -> None:
    folder = two_of_each()
    refused(folder, "one of image, mask: .*set data.image_column", "data.image_column", label_column="coarse")
    refused(folder, "one of coarse, mass: .*set data.label_column", "data.label_column", image_column="mask")


def test_columns_may_be_named(two_of_each: Callable[..., Path], colours: np.ndarray) -> None:
    images = read_parquet(two_of_each(), "train", DataConfig(image_column="mask", label_column="mass"))
    assert same_pixels(images, 255 - colours)
    assert images.labels.tolist() == [5] * 12


@pytest.mark.parametrize(
    ("names", "taken"),
    [(("label", "fine_label"), 0), (("fine_label", "label"), 1), (("coarse_label", "fine_label"), 1)],
)
def test_label_is_preferred_then_fine_label(
    two_of_each: Callable[..., Path], names: tuple[str, str], taken: int
) -> None:
    kinds = {name: {"_type": "ClassLabel", "names": list("abcdef")} for name in names}
    folder = two_of_each(*names, features={"image": {"_type": "Image"}, **kinds})
    assert read_parquet(folder, "train").labels.tolist() == [LABELS, [5] * 12][taken]


def test_metadata_decides_among_columns_that_fit(two_of_each: Callable[..., Path], colours: np.ndarray) -> None:
    features = {"mask": {"_type": "Image"}, "mass": {"_type": "ClassLabel", "names": list("abcdef")}}
    images = read_parquet(two_of_each(features=features), "train")
    assert same_pixels(images, 255 - colours)
    assert (images.labels.tolist(), images.class_names) == ([5] * 12, tuple("abcdef"))


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b"null", b'{"info": {"features": []}}', b'{"info": {"features": {"image": 3}}}']
)
def test_metadata_that_make_no_sense_are_as_good_as_none(
    tmp_path: Path, colours: np.ndarray, png: Png, metadata: bytes
) -> None:
    table = pa.table({"image": [png(each) for each in colours], "label": LABELS})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "train.parquet")
    assert read_parquet(tmp_path, "train").class_names == ("0", "1", "2")


def test_a_named_column_must_exist_and_fit(two_of_each: Callable[..., Path]) -> None:
    folder = two_of_each()
    refused(folder, "'imgae'.*did you mean 'image'", "data.image_column", image_column="imgae")
    refused(folder, "'mass'.*encoded pictures .*int64", "data.image_column", image_column="mass")
    refused(folder, "'mask'.*whole numbers.*binary", "data.label_column", image_column="image", label_column="mask")


def test_a_file_without_pictures_or_labels_is_reported(tmp_path: Path, colours: np.ndarray, png: Png) -> None:
    pq.write_table(pa.table({"label": LABELS, "text": ["x"] * 12}), tmp_path / "train.parquet")
    refused(tmp_path, "a column of encoded pictures .*its columns are label, text")
    table = pa.table({"image": [png(each) for each in colours], "label": ["cat"] * 12})
    pq.write_table(table, tmp_path / "train.parquet")
    refused(tmp_path, "a column of whole numbers; its columns are image, label")


# Rows.


def test_pictures_of_two_sizes_are_reported_with_both(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    pictures = [png(colours[0]), png(colours[1]), png(colours[2][:3])]
    write_parquet(tmp_path / "train.parquet", pictures, [0, 0, 0], names=["a"])
    refused(tmp_path, "one size, but sample 0 is 5×4 pixels .* and sample 2 is 3×4 pixels")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"RIFF\x04\x00\x00\x00WEBP"])
def test_a_picture_that_cannot_be_decoded_is_reported_by_row(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png, content: bytes
) -> None:
    write_parquet(tmp_path / "train.parquet", [png(colours[0]), png(colours[1]), content], [0, 0, 0], names=["a"])
    refused(tmp_path, "train.parquet'; expected a picture in row 2 that can be decoded")


def test_rows_are_counted_through_the_whole_file(tmp_path: Path, write_parquet: Write, png: Png) -> None:
    pictures: list[bytes | None] = [png(np.zeros((1, 2), np.uint8))] * 2400
    write_parquet(tmp_path / "train.parquet", [*pictures, b"?", *pictures], [0] * 4801, names=["a"])
    refused(tmp_path, "a picture in row 2400 that can be decoded")
    write_parquet(tmp_path / "train.parquet", pictures, [0] * 2100 + [-1] + [0] * 299, names=["a"])
    refused(tmp_path, "row 2100 has -1")


def test_half_a_picture_is_reported_by_row(tmp_path: Path, write_parquet: Write, png: Png) -> None:
    noise = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    write_parquet(tmp_path / "train.parquet", [noise, noise[: len(noise) // 2]], [0, 0], names=["a"])
    refused(tmp_path, "a picture in row 1 that can be decoded")


def test_a_decompression_bomb_is_refused(tmp_path: Path, write_parquet: Write, png: Png) -> None:
    # The header of a PNG alone: 30,000 × 30,000 pixels, in 33 bytes.
    content = png(np.zeros((1, 1), np.uint8))
    header = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + content[24:29]
    bomb = content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    write_parquet(tmp_path / "train.parquet", [bomb], [0], names=["a"])
    refused(tmp_path, "a picture in row 0 that can be decoded .*900000000 pixels")


def test_more_than_fits_into_memory_is_refused(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "train.parquet", [png(each) for each in colours], LABELS, names=list("abc"))
    monkeypatch.setattr("stillroom.data.reading.machine_memory", lambda: 12 * 60)
    assert len(read_parquet(tmp_path, "train")) == 12
    monkeypatch.setattr("stillroom.data.reading.machine_memory", lambda: 12 * 60 - 1)
    refused(tmp_path, "data that fit into memory")


def test_a_row_without_picture_or_label_is_reported(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    write_parquet(tmp_path / "train.parquet", [png(colours[0]), None], [0, 0], names=["a"])
    refused(tmp_path, "a picture's bytes in every row, but row 1 has none")
    write_parquet(tmp_path / "train.parquet", [png(colours[0]), png(colours[1])], [0, None], names=["a"])
    refused(tmp_path, "a label in every row, but row 1 has none")


def test_labels_out_of_range_are_reported(tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png) -> None:
    pictures = [png(each) for each in colours[:3]]
    write_parquet(tmp_path / "train.parquet", pictures, [0, 1, -1], names=["a", "b"])
    refused(tmp_path, "row 2 has -1")
    write_parquet(tmp_path / "train.parquet", pictures, [0, 1, 2], names=["a", "b"])
    refused(tmp_path, "got 2; expected a class number, 0 to 1", "data.labels")
    write_parquet(tmp_path / "train.parquet", pictures, [0, 1, 1 << 50], plain=True)
    refused(tmp_path, "class numbers counted from 0", "data.labels")


def test_an_empty_file_of_rows_is_reported(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [], [], names=["a"])
    refused(tmp_path, "at least 1 sample")


# Files.


def test_what_is_no_parquet_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    for content in (b"", b"PAR1", b"not parquet at all, but long enough to look at", b"PAR1" + bytes(50) + b"PAR1"):
        path.write_bytes(content)
        refused(tmp_path, r"train.parquet'; expected a file or folder that can be read \(.+\)")
    path.unlink()
    path.mkdir()
    refused(tmp_path, "can be read")


def test_a_truncated_file_is_reported(tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png) -> None:
    path = write_parquet(tmp_path / "train.parquet", [png(each) for each in colours], LABELS, names=list("abc"))
    path.write_bytes(path.read_bytes()[:-20])
    refused(tmp_path, "can be read")


def test_a_damaged_file_never_ends_in_a_traceback(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    path = write_parquet(tmp_path / "train.parquet", [png(each) for each in colours], LABELS, names=list("abc"))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    ends = {"refused": 0, "read": 0}
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[random.integers(4, len(whole) - 8)] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            read_parquet(tmp_path, "train")
            ends["read"] += 1
        except BadInput:
            ends["refused"] += 1
    assert ends["refused"] > 50, ends


def test_a_damaged_page_with_checksums_is_reported(tmp_path: Path, colours: np.ndarray) -> None:
    raw = io.BytesIO()
    Image.fromarray(colours[0]).save(raw, "BMP")  # a picture without checks of its own
    path = tmp_path / "train.parquet"
    table = pa.table({"image": [raw.getvalue()], "label": [0]})
    pq.write_table(
        table, path, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
    )
    content = path.read_bytes()
    where = content.index(raw.getvalue()) + len(raw.getvalue()) - 1
    path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    refused(tmp_path, "can be read")


def test_metadata_written_by_the_helper_is_that_of_hugging_face(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png
) -> None:
    path = write_parquet(tmp_path / "x.parquet", [png(colours[0])], [0], names=["a"])
    features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a"]}}


@pytest.mark.parametrize("limit", [1, 5, 11, 12, 99])
def test_a_limit_gives_the_subset_of_the_whole_without_decoding_the_rest(
    tmp_path: Path, colours: np.ndarray, write_parquet: Write, png: Png, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    pictures = [png(each) for each in colours]
    for shard in (0, 1):
        rows = slice(6 * shard, 6 * shard + 6)
        path = tmp_path / f"train-0000{shard}-of-00002.parquet"
        write_parquet(path, pictures[rows], LABELS[rows], names=list("abc"))
    whole = read_parquet(tmp_path, "train").balanced_subset(limit)
    decoded = []

    def counting(content: bytes, formats: tuple[str, ...]) -> np.ndarray:
        decoded.append(content)
        return decode(content, formats)

    monkeypatch.setattr("stillroom.data.parquet.decode", counting)
    some = read_parquet(tmp_path, "train", limit=limit)
    assert some.fingerprint == whole.fingerprint
    assert len(decoded) == len(some) == min(limit, 12)
