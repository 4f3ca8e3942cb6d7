"""From options to a pair of splits, and from ``--data`` to options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stillroom.data.config import DataConfig
from stillroom.data.sources import detect_layout, load, load_split, parse_data_argument
from stillroom.errors import BadInput

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


@pytest.fixture
def pets(tmp_path: Path, colours: np.ndarray, write_parquet: Callable[..., Path], png: Callable[..., bytes]) -> Path:
    for split, arrays in (("train", colours), ("test", 255 - colours)):
        path = tmp_path / "pets" / f"{split}.parquet"
        write_parquet(path, [png(each) for each in arrays], LABELS, names=list("abc"))
    return tmp_path / "pets"


@pytest.fixture
def clothes(tmp_path: Path, greys: np.ndarray, write_idx: Callable[..., None]) -> Path:
    write_idx(tmp_path / "clothes", "train", greys, np.array(LABELS))
    write_idx(tmp_path / "clothes", "t10k", greys[:6], np.array([0, 1, 0, 1, 0, 1]))
    return tmp_path / "clothes"


def test_digits_are_there_without_a_file() -> None:
    pair = load(DataConfig())
    assert (len(pair.train), len(pair.test)) == (1297, 500)
    assert (pair.train.channels, pair.train.image_size, pair.train.num_classes) == (1, 8, 10)
    assert pair.train.fingerprint == load(DataConfig(source="digits")).train.fingerprint


def test_digits_are_scaled_and_every_image_is_in_one_split() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    expected = np.floor(original.images * 255 / 16 + 0.5)  # 8 of 16 is 127.5: either neighbour is right
    pair = load(DataConfig())
    mine = torch.cat([pair.train.images, pair.test.images]).flatten(1).numpy()
    assert mine.max() == 255
    rows = {
        (*image.astype(int), int(label)) for image, label in zip(expected.reshape(-1, 64), original.target, strict=True)
    }
    labels = torch.cat([pair.train.labels, pair.test.labels])
    seen = {
        (*np.where(image == 127, 128, image).tolist(), label)
        for image, label in zip(mine, labels.tolist(), strict=True)
    }
    assert seen == {tuple(int(value) for value in row) for row in rows}
    assert len(mine) == 1797


def test_digits_hold_every_class_in_its_share() -> None:
    pair = load(DataConfig())
    whole = torch.bincount(pair.train.labels) + torch.bincount(pair.test.labels)
    expected = whole * 500 / 1797
    assert bool(((torch.bincount(pair.test.labels) - expected).abs() < 1).all())


def test_digits_have_two_splits() -> None:
    with pytest.raises(BadInput, match=r"data\.test_split: got 'dev'; expected a split .* test, train"):
        load(DataConfig(test_split="dev"))


@pytest.mark.parametrize("source", ["auto", "parquet"])
def test_a_folder_of_parquet(pets: Path, source: str) -> None:
    pair = load(DataConfig(source=source, path=str(pets)))
    assert pair.train.name == pair.test.name == "pets"
    assert torch.equal(pair.train.images, 255 - pair.test.images)


@pytest.mark.parametrize("source", ["auto", "idx"])
def test_a_folder_of_idx_where_a_split_lacks_a_class(clothes: Path, source: str) -> None:
    pair = load(DataConfig(source=source, path=str(clothes)))
    assert (len(pair.train), len(pair.test)) == (12, 6)
    assert pair.test.class_names == ("0", "1", "2")


def test_a_path_is_looked_for_under_the_data_folder(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLROOM_DATA", str(pets.parent))
    assert load(DataConfig(path="pets")).train.name == "pets"
    assert parse_data_argument("pets").path == "pets"


def test_the_folder_one_stands_in_has_a_name(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets)
    assert load(DataConfig(path=".")).train.name == "pets"


def test_limits_hold_for_their_own_split(pets: Path) -> None:
    config = DataConfig(path=str(pets), train_limit=6, test_limit=3)
    pair = load(config)
    assert (len(pair.train), len(pair.test)) == (6, 3)
    assert torch.bincount(pair.train.labels).tolist() == [2, 2, 2]
    assert load_split(config, "train").fingerprint == pair.train.fingerprint
    assert load_split(config, "test").fingerprint == pair.test.fingerprint


def test_a_split_of_any_name_may_be_read_alone(pets: Path) -> None:
    (pets / "test.parquet").rename(pets / "dev-0.parquet")
    assert len(load_split(DataConfig(path=str(pets), test_limit=3), "dev")) == 12
    with pytest.raises(BadInput, match=r"split: got 'x'; expected .* dev, train"):
        load_split(DataConfig(path=str(pets)), "x")


def test_one_split_may_serve_as_both(pets: Path) -> None:
    pair = load(DataConfig(path=str(pets), test_split="train", test_limit=3))
    assert (len(pair.train), len(pair.test)) == (12, 3)


@pytest.mark.parametrize(
    ("changes", "field"), [({"train_split": "trian"}, "data.train_split"), ({"test_split": "val"}, "data.test_split")]
)
def test_a_missing_split_names_its_field(pets: Path, changes: dict[str, str], field: str) -> None:
    with pytest.raises(BadInput, match="expected a split of the data, which has test, train") as raised:
        load(DataConfig(path=str(pets), **changes))
    assert raised.value.field == field


def test_columns_are_handed_on(pets: Path) -> None:
    with pytest.raises(BadInput, match=r"data\.image_column: got 'imag'"):
        load(DataConfig(path=str(pets), image_column="imag"))
    with pytest.raises(BadInput, match=r"data\.label_column: got 'lable'"):
        load(DataConfig(path=str(pets), label_column="lable"))


def test_splits_that_do_not_agree(
    pets: Path, greys: np.ndarray, write_parquet: Callable[..., Path], png: Callable[..., bytes]
) -> None:
    write_parquet(pets / "test.parquet", [png(each) for each in greys], LABELS, names=list("abc"))
    with pytest.raises(BadInput, match=r"data\.test_split: got 'images of 1×5×4'; expected 3×5×4"):
        load(DataConfig(path=str(pets)))


def test_a_python_dataset_cannot_be_loaded_from_a_recipe() -> None:
    with pytest.raises(BadInput, match=r"data\.source: got 'python'"):
        load(DataConfig(source="python"))


def test_layouts_are_recognised(pets: Path, clothes: Path) -> None:
    assert detect_layout(pets) == "parquet"
    assert detect_layout(clothes) == "idx"
    (pets / "data").mkdir()
    for path in pets.glob("*.parquet"):
        path.rename(pets / "data" / path.name)
    assert detect_layout(pets) == "parquet"


def refused(path: Path, match: str) -> None:
    with pytest.raises(BadInput, match=match) as raised:
        detect_layout(path)
    assert raised.value.field == "data.path"
    with pytest.raises(BadInput, match=match):
        load(DataConfig(path=str(path)))


def test_a_folder_of_no_known_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    refused(tmp_path, r"parquet files .* or idx files .*; it holds nothing")
    for number in range(7):
        (tmp_path / f"{number}.bin").touch()
    refused(tmp_path, r"it holds 0.bin, 1.bin, 2.bin, 3.bin, 4.bin, \.\.\.")


def test_a_folder_of_two_layouts_is_not_guessed(pets: Path, greys: np.ndarray, write_idx: Callable[..., None]) -> None:
    write_idx(pets, "train", greys, np.array(LABELS))
    refused(pets, "it holds parquet and idx; set data.source")
    write_idx(pets, "t10k", greys, np.array(LABELS))
    assert load(DataConfig(source="idx", path=str(pets))).train.channels == 1


def test_what_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "none", "a folder that exists")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "a folder, or a CSV file")

    def denied(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    refused(tmp_path, r"can be read \(Permission denied\)")


def test_an_argument_is_a_name_or_a_folder(pets: Path, clothes: Path) -> None:
    assert parse_data_argument("digits") == DataConfig(source="digits")
    assert parse_data_argument(str(pets)) == DataConfig(source="parquet", path=str(pets))
    assert parse_data_argument(str(clothes)) == DataConfig(source="idx", path=str(clothes))


@pytest.mark.parametrize("data", ["digts", "", "no/such/folder"])
def test_an_argument_that_is_neither(data: str) -> None:
    with pytest.raises(BadInput, match=r"a folder that exists, .* or a known name .*digits") as raised:
        parse_data_argument(data)
    assert raised.value.field == "--data"


def test_an_argument_of_no_known_layout(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--data: .*it holds nothing"):
        parse_data_argument(str(tmp_path))
