"""CSV files that list images, folders of `save_to_disk`, data sets of the hub: what is read, and what is refused."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from stillroom.data.config import DataConfig
from stillroom.data.hub import find_data
from stillroom.data.images import DataPair
from stillroom.data.sources import detect_layout, load, parse_data_argument
from stillroom.errors import BadInput


@pytest.fixture
def flat(tmp_path: Path) -> Callable[..., Path]:
    """A folder of eight images whose names begin with their class, and CSV files that list them."""
    (tmp_path / "pets" / "images").mkdir(parents=True)
    for row in range(8):
        Image.new("RGB", (6 + row, 7), (30 * row, 0, 0)).save(
            tmp_path / "pets" / "images" / f"{'cd'[row % 2]}{row}.png"
        )

    def write(header: str = "path,label", cells: str = "", file: str = "labels.csv", rows: Any = range(8)) -> Path:
        lines = [f"{'cd'[row % 2]}{row}.png,{'cat' if row % 2 == 0 else 'dog'}{cells.format(row=row)}" for row in rows]
        (tmp_path / "pets" / file).write_text("\n".join([header, *lines]) + "\n")
        return tmp_path / "pets"

    return write


def pair(folder: Path, **options: Any) -> DataPair:
    return load(DataConfig(path=str(folder), image_size=4, **options))


def test_a_csv_file_gives_each_image_its_class(flat: Callable[..., Path]) -> None:
    folder = flat()
    assert detect_layout(folder) == "csv"
    assert detect_layout(folder / "labels.csv") == "csv"
    found = pair(folder, holdout=0.25)
    assert (len(found.train), len(found.test), found.train.class_names) == (6, 2, ("cat", "dog"))
    whole = found.train.parent
    assert isinstance(whole.images, torch.Tensor)
    assert whole.images[:, 0, 0, 0].tolist() == [30 * row for row in range(8)]
    assert whole.labels.tolist() == [0, 1] * 4
    # Read on demand, or named by its file, they are the same images.
    lazy = pair(folder / "labels.csv", holdout=0.25, in_memory=False).train.parent
    assert torch.equal(lazy.images[:], whole.images)


def test_splits_are_files_or_a_column(flat: Callable[..., Path]) -> None:
    flat(file="train.csv", rows=range(6))
    found = pair(flat(file="val.csv", rows=range(6, 8)))
    assert (len(found.train), len(found.test)) == (6, 2)
    for name in ("train.csv", "val.csv"):
        (flat() / name).unlink()
    lines = ["file,label,split", *(f"{name}{row}.png,{name},{'train' if row < 6 else 'test'}"
                                  for row, name in enumerate("cdcdcdcd"))]  # fmt: skip
    folder = flat()
    (folder / "labels.csv").write_text("\n".join(lines))
    by_column = pair(folder)
    assert (by_column.train.class_names, len(by_column.train), len(by_column.test)) == (("c", "d"), 6, 2)


def test_labels_may_be_numbers_or_vectors(flat: Callable[..., Path]) -> None:
    rows = [0, 1, 2, 3, 0, 1, 2, 3]
    numbered = pair(flat("file,name,number", ",{row}", rows=rows), label_column="number", holdout=0.25).train.parent
    assert (numbered.labels.tolist(), numbered.num_classes) == (rows, 4)
    folder = flat("file,name,a,b", ",{row},{row}.5")
    vectors = pair(folder, task="regression", label_columns=("a", "b"), holdout=0.25).train.parent
    assert (vectors.task, vectors.class_names, vectors.labels[3].tolist()) == ("regression", ("a", "b"), [3.0, 3.5])


@pytest.mark.parametrize(
    ("header", "cells", "options", "expected"),
    [
        ("path,label", "", {}, "data.holdout=0.2"),
        ("path,a,b", ",x", {"holdout": 0.2}, "data.label_column: got None"),
        ("path,label", "", {"holdout": 0.2, "label_column": "lable"}, "did you mean 'label'"),
        ("path,label,x", ",.5", {"holdout": 0.2, "label_column": "x"}, "whole numbers or words"),
        ("path,label,x", ",y", {"holdout": 0.2, "image_column": "x"}, "there is no 'y'"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(
    flat: Callable[..., Path], header: str, cells: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(BadInput) as raised:
        pair(flat(header, cells), source="csv", **options)
    assert expected in str(raised.value)


def test_a_file_that_is_missing_is_named_or_skipped(flat: Callable[..., Path]) -> None:
    folder = flat()
    (folder / "images" / "c2.png").unlink()
    with pytest.raises(BadInput, match=r"row 2 has .c2\.png"):
        pair(folder, holdout=0.25)
    assert pair(folder, holdout=0.25, bad_files="skip").train.skipped == ("c2.png",)


def test_loose_images_are_met_with_an_offer(flat: Callable[..., Path]) -> None:
    with pytest.raises(
        BadInput, match=r"CSV file in it .* for its 8 images: a line such as c0\.png,c, .*c \(4\), d \(4\)"
    ):
        parse_data_argument(str(flat() / "images"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train/cat/1.jpg", b"", ["train/cat/1.jpg", "the file is empty", "data.bad_files=skip"]),
        ("train/cat/1.cr2", b"x", [".cr2 (1)", "convert them to .jpg"]),
        ("train/cat/.keep", b"", ["there are none in train"]),
    ],
)
def test_what_is_no_picture_is_said_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(parents=True)
        if name.endswith("jpg"):
            Image.new("RGB", (4, 4)).save(tmp_path / "train" / label / "0.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as raised:
        load(DataConfig(path=str(tmp_path), holdout=0.5))
    assert all(word in str(raised.value) for word in words), raised.value


def save(folder: Path, tables: dict[str, pa.Table]) -> Path:
    """What ``DatasetDict.save_to_disk`` of the datasets package leaves."""
    for split, table in tables.items():
        (folder / split).mkdir(parents=True)
        path = folder / split / "data-00000-of-00001.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(tables)}))
    return folder


@pytest.fixture
def tables(flat: Callable[..., Path]) -> dict[str, pa.Table]:
    files = sorted((flat() / "images").iterdir())
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    feature = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    described = json.dumps({"info": {"features": feature}})
    table = pa.table({"image": images, "label": [0] * 4 + [1] * 4}).replace_schema_metadata({"huggingface": described})
    return {"train": table, "test": table.slice(3, 2)}


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    folder = save(tmp_path / "saved", tables)
    assert detect_layout(folder) == "parquet"
    found = pair(folder)
    assert (len(found.train), found.test.labels.tolist(), found.train.class_names) == (8, [0, 1], ("cat", "dog"))
    # One of its splits, saved by itself.
    assert len(pair(folder / "train", holdout=0.25).train) == 6
    path = folder / "train" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"data-00000-of-00001\.arrow"):
        pair(folder)


def test_of_two_that_fetch_at_once_the_second_waits_for_the_first(
    tmp_path: Path, tables: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def save_to_disk(self, folder: str) -> None:
            begun.set()
            assert go_on.wait(10)
            save(Path(folder), tables)

    def load_dataset(name: str, config: str | None, revision: str | None) -> Slow:
        asked.append(name)
        return Slow()

    module: Any = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(find_data, "hf:me/pets")
        assert begun.wait(10)
        second = pool.submit(find_data, "hf:me/pets")
        with pytest.raises(TimeoutError):
            second.result(0.2)
        go_on.set()
        assert first.result(10) == second.result(10)
    assert asked == ["me/pets"]


def test_a_dataset_of_the_hub_is_fetched_once(
    tmp_path: Path, tables: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    asked: list[tuple[Any, ...]] = []

    class Fetched:
        def save_to_disk(self, folder: str) -> None:
            save(Path(folder), tables)

    def load_dataset(name: str, config: str | None, revision: str | None) -> Fetched:
        asked.append((name, config, revision))
        if name == "nobody/pets":
            raise ConnectionError("no network")
        return Fetched()

    module: Any = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    for _ in range(2):
        assert np.bincount(
            load(DataConfig(path="hf:me/pets:small@v1", image_size=4)).train.labels.numpy()
        ).tolist() == [4, 4]
    assert asked == [("me/pets", "small", "v1")]
    with pytest.raises(BadInput, match=r"got 'hf:nobody/pets'; .*save_to_disk.*no network"):
        load(DataConfig(path="hf:nobody/pets"))
    kept = [path.name for path in (tmp_path / "cache" / "hub").iterdir() if path.is_dir()]
    assert kept == ["me--pets--small--v1"], "nothing is left of what failed"
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"stillroom\[hf\]"):
        load(DataConfig(path="hf:other"))
    for name in ("hf:../../etc", "hf:..", "hf:a/b/c", "hf:"):
        with pytest.raises(BadInput, match="hf:NAME"):
            load(DataConfig(path=name))
