"""Which classes belong together, as a file beside the data says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.data.config import DataConfig
from stillroom.data.sources import SUPERCLASSES_FILE, load, load_split, read_superclasses
from stillroom.errors import BadInput

ROOT = os.environ.get("STILLROOM_DATA")
NAMES = ("cat", "oak", "dog")
WHOLE = {"animals": ["cat", "dog"], "trees": ["oak"]}


def write(folder: Path, content: Any) -> Path:
    (folder / SUPERCLASSES_FILE).write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )
    return folder


def test_each_class_gets_the_superclass_that_names_it(tmp_path: Path) -> None:
    assert read_superclasses(tmp_path, NAMES) is None
    assert read_superclasses(write(tmp_path, WHOLE), NAMES) == ("animals", "trees", "animals")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({**WHOLE, "trees": ["oka"]}, r"classes of the data alone, not 'oka' \(did you mean 'oak'\?\)"),
        ({"animals": ["cat"]}, "a superclass of every class, but it lacks 'oak', 'dog'"),
        ({}, "it lacks 'cat', 'oak', 'dog'"),
        ({**WHOLE, "pets": ["dog"]}, "each class in one superclass, but 'dog' is in 'animals' and 'pets'"),
        ({**WHOLE, "trees": ["oak", "oak"]}, "'oak' is in 'trees' and 'trees'"),
        ('{"a": ["cat"], "b": ["oak"], "a": ["dog"]}', "each superclass once, but 'a' is there twice"),
        (["cat", "oak", "dog"], "a mapping from superclasses to lists of class names"),
        ([["a", ["cat", "oak", "dog"]]], "a mapping from superclasses"),
        ({"a": "cat"}, "a mapping from superclasses"),
        ({"a": {"cat": ["oak"]}}, "a mapping from superclasses"),
        ({"a": ["cat", 3]}, "a mapping from superclasses"),
        ({"a": []}, "it lacks"),
        ("null", "a mapping from superclasses"),
        ("", "valid JSON"),
        ('{"a": [', "valid JSON"),
        ("[" * 200_000, "valid JSON"),
    ],
)
def test_a_file_that_is_not_about_these_classes_is_refused(tmp_path: Path, content: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match) as raised:
        read_superclasses(write(tmp_path, content), NAMES)
    assert raised.value.field == "data.path"
    assert str(raised.value.value).endswith(SUPERCLASSES_FILE)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / SUPERCLASSES_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="valid JSON"):
        read_superclasses(tmp_path, NAMES)
    (tmp_path / SUPERCLASSES_FILE).unlink()
    (tmp_path / SUPERCLASSES_FILE).mkdir()
    with pytest.raises(BadInput, match="a file or folder that can be read"):
        read_superclasses(tmp_path, NAMES)


@pytest.fixture
def garden(tmp_path: Path, colours: np.ndarray, write_parquet: Callable[..., Path], png: Callable[..., bytes]) -> Path:
    for split, size in (("train", 12), ("test", 6)):
        write_parquet(tmp_path / f"{split}.parquet", [png(each) for each in colours[:size]], [0, 1, 2] * (size // 3), names=NAMES)  # fmt: skip  # noqa: E501
    return tmp_path


def test_sets_know_them_and_their_parts_do(garden: Path) -> None:
    config = DataConfig(path=str(garden))
    without = load(config)
    assert without.train.superclasses is without.test.superclasses is None
    write(garden, WHOLE)
    held_out = load(DataConfig(path=str(garden), holdout=0.25, train_limit=8))
    sets = [*(getattr(load(config), split) for split in ("train", "test")), held_out.train, held_out.test]
    for images in [*sets, load_split(config, "test"), sets[0].balanced_subset(3), sets[0].subset(np.array([2]))]:
        assert images.superclasses == ("animals", "trees", "animals")
        assert images.truth is None
    assert sets[0].fingerprint == without.train.fingerprint, "caches made before the file came stay good"


def test_they_stand_beside_image_files_and_idx_files_too(
    tmp_path: Path, pet_folder: Path, write_idx: Callable[..., None], greys: np.ndarray
) -> None:
    write(pet_folder, {"pets": ["dog", "cat"]})
    assert load(DataConfig(path=str(pet_folder))).test.superclasses == ("pets", "pets")
    clothes = tmp_path / "clothes"
    write_idx(clothes, "train", greys, np.array([0, 1, 2, 3] * 3))
    write_idx(clothes, "t10k", greys[:3], np.array([0, 1, 2]))
    write(clothes, {"even": ["0", "2"], "odd": ["1", "3"]})
    assert load(DataConfig(path=str(clothes))).test.superclasses == ("even", "odd", "even", "odd")


def test_a_bad_file_is_reported_before_anything_is_trained(garden: Path) -> None:
    write(garden, {"animals": ["cat", "dgo"], "trees": ["oak"]})
    for options in ({}, {"holdout": 0.25}):
        with pytest.raises(BadInput, match="not 'dgo'"):
            load(DataConfig(path=str(garden), **options))


@pytest.mark.real_data
@pytest.mark.skipif(not ROOT, reason="STILLROOM_DATA is not set: no real images to read")
def test_cifar100_has_twenty_groups_of_five() -> None:
    images = load_split(DataConfig(path="cifar100-part", test_limit=100), "test")
    assert images.superclasses is not None
    assert len(images.superclasses) == 100
    assert sorted(images.superclasses.count(name) for name in set(images.superclasses)) == [5] * 20
    assert images.superclasses[images.class_names.index("maple_tree")] == "trees"
