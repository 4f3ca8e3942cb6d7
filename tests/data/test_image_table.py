"""CSV files of image files and labels: columns, places, classes, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillroom.cli import run
from stillroom.data.config import DataConfig
from stillroom.data.sources import detect_layout, load
from stillroom.errors import BadInput

MULTI: dict[str, Any] = {"task": "multi_label", "label_columns": ("cat", "dog")}


def write_table(root: Path, head: str, rows: dict[str, str], *, split: str = "train", place: str = "images") -> Path:
    """A file of a split; picture n is grey n."""
    (root / place).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(rows):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(root / place / name)
    lines = [head, *(f"{name},{labels}" for name, labels in rows.items())]
    (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two attributes and a weight; one row of the training split has no labels."""
    root = tmp_path / "pets"
    rows = {"a.png": "1,0,2.5,cat", "b.png": ",,,cat", "c.png": "0,1,-1,dog", "d.png": "1,1,0.5,owl"}
    write_table(root, "file,cat,dog,weight,kind", rows)
    return write_table(root, "file,cat,dog,weight,kind", {"e.png": "1,0,3,owl", "f.png": "0,1,1,cat"}, split="test")


def test_several_columns_are_labels_of_files(pets: Path) -> None:
    assert detect_layout(pets) == "csv"
    pair = load(DataConfig(path=str(pets), **MULTI))
    assert pair.train.class_names == ("cat", "dog")
    assert pair.train.images[:][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert pair.train.labels[[0, 2, 3]].tolist() == [[1, 0], [0, 1], [1, 1]]
    assert pair.train.labels[1].isnan().all()
    assert pair.test.labels.tolist() == [[1, 0], [0, 1]]
    numbers = load(DataConfig(path=str(pets), task="regression", label_columns=("weight",), train_limit=2))
    assert numbers.test.labels.tolist() == [[3], [1]]
    assert len(numbers.train) == 2


def test_words_are_classes_as_in_the_training_split(pets: Path) -> None:
    pair = load(DataConfig(path=str(pets), label_column="kind"))
    assert pair.train.class_names == pair.test.class_names == ("cat", "dog", "owl")
    assert pair.test.labels.tolist() == [2, 0]
    held = load(DataConfig(path=str(pets), label_column="kind", holdout=0.25))
    assert (len(held.train), len(held.test)) == (3, 1)


@pytest.mark.parametrize("place", [".", "train", "images"])
def test_files_lie_below_the_folder_the_split_or_images(place: str, tmp_path: Path) -> None:
    write_table(tmp_path, "image,label", {"a.png": "0", "b.png": "1"}, place=place)
    pair = load(DataConfig(source="csv", path=str(tmp_path), test_split="train"))
    assert (pair.train.labels.tolist(), len(pair.train.images)) == ([0, 1], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"label_column.*label_columns"),
        ({**MULTI, "label_columns": ("cat", "dogs")}, r"label_columns.*'dogs'.*dog"),
        ({**MULTI, "label_columns": ("kind",)}, r"label_columns.*'kind'.*numbers"),
        ({**MULTI, "label_columns": ("weight",)}, "0 or 1"),
        ({**MULTI, "image_column": "files"}, r"image_column.*'files'.*file"),
        ({**MULTI, "train_split": "trian"}, r"train_split.*'trian'.*test, train"),
    ],
)
def test_what_cannot_be_read_is_named(options: dict[str, Any], message: str, pets: Path) -> None:
    with pytest.raises(BadInput, match=message):
        load(DataConfig(source="csv", path=str(pets), **options))


def test_rows_without_a_file_or_with_some_labels_are_named(pets: Path) -> None:
    (pets / "test.csv").write_text("file,cat,dog\ne.png,1,\n")
    with pytest.raises(BadInput, match=r"row 0 has some"):
        load(DataConfig(path=str(pets), **MULTI))
    (pets / "images" / "c.png").unlink()
    with pytest.raises(BadInput, match=r"row 2 has 'c.png'"):
        load(DataConfig(path=str(pets), **MULTI))


def test_without_a_test_table_a_part_is_kept(pets: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (pets / "test.csv").unlink()
    rows = {f"{n}.png": f"{n % 2},{n % 3 == 0:d},{n},cat" for n in range(10)}
    write_table(pets, "file,cat,dog,weight,kind", rows)
    models = ["--teacher", "mlp", "--student", "mlp", "--image-size", "4", "--epochs", "1"]
    changes = ["data.task=regression", "data.label_columns=[weight]", "training.optimizer.lr=0.001"]
    assert run(["distill", "--data", str(pets), *models, "--out", str(tmp_path / "out"), *changes]) == 0
    assert "20% of its images are kept" in capsys.readouterr().err
