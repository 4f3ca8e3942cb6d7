"""What one cache keeps, another that asks for less of it finds there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput

SPEC = CacheSpec({"data": "abc"}, count=5, classes=3, dtype="float32")
OF = FisherOf("b", 4.0)


def ask(view: int, rows: np.ndarray) -> ModelOutput:
    x = torch.from_numpy(rows)[:, None].float() + view
    features = {"a": x + torch.tensor([0.1, 0.2]), "b": x + torch.tensor([0.3])}
    return ModelOutput(x + torch.tensor([0.0, 0.5, 1.0]), features, {OF: x.abs() + 1})


def cache(root: Path, *taps: str, fishers: tuple[FisherOf, ...] = ()) -> TeacherCache:
    return TeacherCache(replace(SPEC, taps=taps, fishers=fishers), root=root)


def test_a_smaller_cache_is_read_out_of_a_larger(tmp_path: Path) -> None:
    large = cache(tmp_path, "a", "b", fishers=(OF,))
    large.ensure([0, 1], ask)
    for wanted in (cache(tmp_path), cache(tmp_path, "b"), cache(tmp_path, "b", fishers=(OF,))):
        found = wanted.covering([0, 1])
        assert found.folder == large.folder
        read = found.open([0, 1], only=wanted.spec).read(np.array([4, 0]), 1)
        said = ask(1, np.array([4, 0]))
        assert torch.equal(read.logits, said.logits)
        assert set(read.features) == set(wanted.spec.taps)
        assert all(torch.equal(read.features[tap], said.features[tap]) for tap in read.features)
        assert set(read.fishers) == set(wanted.spec.fishers)
        torch.testing.assert_close(read.fishers.get(OF, said.fishers[OF]), said.fishers[OF])
        assert found.ensure([0, 1], ask).images_queried == 0


def test_its_own_comes_first_and_what_covers_only_a_part_does_not_count(tmp_path: Path) -> None:
    cache(tmp_path, "a").ensure([0], ask)
    for wanted, views in ((cache(tmp_path, "b"), [0]), (cache(tmp_path), [0, 1]), (cache(tmp_path, "a"), [0])):
        assert wanted.covering(views).folder == wanted.folder
    other = TeacherCache(replace(SPEC, parts={"data": "xyz"}), root=tmp_path)
    assert other.covering([0]).folder == other.folder
    own = cache(tmp_path)
    assert own.covering([0]).folder != own.folder
    own.ensure([0], ask)
    assert own.covering([0]).folder == own.folder


def test_only_what_is_wanted_is_verified_and_a_damaged_larger_cache_is_passed_by(tmp_path: Path) -> None:
    large, small = cache(tmp_path, "a"), cache(tmp_path)
    large.ensure([0], ask)
    features = large.folder / "view-0000.feature-0.bin"
    features.write_bytes(b"\xff" + features.read_bytes()[1:])
    assert small.covering([0]).open([0], only=small.spec).read(np.array([2]), 0).logits.tolist() == [[2.0, 2.5, 3.0]]
    (large.folder / "view-0000.json").write_text("{}")
    assert small.covering([0]).folder == small.folder
    (large.folder / "cache.json").write_text("no JSON")
    assert small.covering([0]).folder == small.folder
