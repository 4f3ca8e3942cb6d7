"""The largest k logits, and one number that keeps the mass of all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import kl_div

from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.cache_format import CacheSpec, split_top
from stillroom.teachers.output import ModelOutput

COUNT, CLASSES = 40, 100


def logits() -> torch.Tensor:
    return torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(0)) * 4


def kept_of(tmp_path: Path, said: torch.Tensor, **given: object) -> torch.Tensor:
    what = CacheSpec({}, count=len(said), classes=said.shape[1], **given)  # type: ignore[arg-type]
    cache = TeacherCache(what, root=tmp_path)
    cache.ensure([0], lambda view, rows: ModelOutput(said[torch.from_numpy(rows)]))
    return cache.open([0]).read(np.arange(len(said)), 0).logits


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("top_k", [1, 5, 99])
def test_the_others_keep_their_mass_at_the_temperature(
    tmp_path: Path, top_k: int, temperature: float, dtype: str
) -> None:
    said = logits()
    read = kept_of(tmp_path, said, top_k=top_k, off_top_k_temperature=temperature, dtype=dtype)
    top = said.topk(top_k).indices
    assert torch.equal(read.gather(1, top), said.gather(1, top).to(getattr(torch, dtype)).float())
    others = torch.ones_like(said, dtype=torch.bool).scatter_(1, top, False)
    rest = read[others].reshape(COUNT, -1)
    assert torch.equal(rest, rest[:, :1].expand_as(rest))
    before, after = ((z.double() / temperature).softmax(1) for z in (said, read))
    assert torch.allclose((before * others).sum(1), (after * others).sum(1), rtol=0, atol=1e-6)
    if dtype == "float32":
        assert torch.allclose(before.gather(1, top), after.gather(1, top), rtol=0, atol=1e-6)
        mine = said.double()[others].reshape(COUNT, -1) / temperature
        formula = temperature * (mine.logsumexp(1) - np.log(CLASSES - top_k))
        assert torch.allclose(rest[:, 0].double(), formula, rtol=0, atol=1e-5)


def test_kl_at_the_temperature_is_that_of_the_grouped_classes(tmp_path: Path) -> None:
    # A student that is even over the others loses nothing by their being kept as one mass.
    said = logits()
    read = kept_of(tmp_path, said, top_k=10, off_top_k_temperature=4.0, dtype="float32")
    top = said.topk(10).indices
    teacher = (said.double() / 4).softmax(1)
    kept = (read.double() / 4).softmax(1)
    cross = -(kept.log() * teacher).sum(1)
    even = -(kept.log() * kept).sum(1)
    assert torch.allclose(cross, even, atol=1e-6)
    assert (kl_div(kept.log(), teacher, reduction="none").sum(1) >= 0).all()
    assert torch.equal(read.argmax(1), said.argmax(1))
    assert torch.equal(read.topk(10).indices, top)


def test_all_classes_or_more_are_kept_plain(tmp_path: Path) -> None:
    said = logits()
    for top_k in (CLASSES, CLASSES + 1):
        assert torch.equal(kept_of(tmp_path, said, top_k=top_k, dtype="float32"), said)
    assert len(list(tmp_path.glob("*/view-0000.logits.bin"))) == 1


def test_many_classes_are_named_by_wider_numbers(tmp_path: Path) -> None:
    said = torch.zeros(3, 70_000)
    said[[0, 1, 2], [69_999, 65_536, 4]] = 9.0
    read = kept_of(tmp_path, said, top_k=1)
    assert torch.equal(read.argmax(1), torch.tensor([69_999, 65_536, 4]))


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(1, 5))
def test_of_equal_logits_the_lower_class_is_kept(rows: list[list[int]], top_k: int) -> None:
    values = np.array(rows, dtype=np.float32)
    kept = split_top(values, top_k, 4.0, {"values": "<f4", "classes": "<u2"})
    expected = np.sort(np.argsort(-values, axis=1, kind="stable")[:, :top_k], axis=1)
    assert np.array_equal(kept["classes"], expected)
    assert np.array_equal(kept["values"], np.take_along_axis(values, expected, axis=1))
