"""A teacher whose code changed and whose weights hash alike is found by asking it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.errors import BadInput
from stillroom.teachers.output import ModelOutput
from teachers.cache.answering import COUNT, Rows, Talker, cache


class Changed(Talker):
    """A teacher whose code has changed: it says something else of one image in one view, by so much."""

    def __init__(self, view: int, row: int, by: float, **given: Any) -> None:
        super().__init__(**given)
        self.view, self.row, self.by = view, row, by

    def all(self, view: int) -> ModelOutput:
        said = super().all(view)
        if view == self.view:
            said.logits[self.row] += self.by
        return said


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_teacher_that_built_it_is_not_stale(tmp_path: Path, dtype: str, top_k: int | None) -> None:
    talker = Talker(taps={"layer1": (3, 2)})
    kept = cache(tmp_path, dtype=dtype, top_k=top_k, taps=("layer1",))
    kept.ensure(range(4), talker)
    talker.asked.clear()
    kept.open(range(4)).check(talker, tolerance=0.0)
    assert {view for view, _ in talker.asked} == {0, 1, 2, 3}
    assert len(talker.asked) <= 4 * 16
    assert {row for view, row in talker.asked if view == 3} >= {0, COUNT - 1}


@pytest.mark.parametrize("view", [0, 3])
@pytest.mark.parametrize("top_k", [None, 3])
def test_a_teacher_that_says_something_else_is_stale(tmp_path: Path, view: int, top_k: int | None) -> None:
    kept = cache(tmp_path, top_k=top_k)
    kept.ensure(range(4), Talker())
    answers = kept.open(range(4))
    row = COUNT - 1
    by = 0.1
    with pytest.raises(BadInput, match=f"stale: .* image {row} in view {view}: max.Δ. of its logits is 0.1") as caught:
        answers.check(Changed(view, row, by))
    assert f"remove the folder {kept.folder}" in caught.value.expected
    answers.check(Changed(view, row, by), tolerance=0.1)
    with pytest.raises(BadInput, match="stale"):
        answers.check(Changed(view, row, float("nan")), tolerance=10.0)
    with pytest.raises(BadInput, match="stale"):
        answers.check(Talker(classes=8))


def test_changed_features_are_stale(tmp_path: Path) -> None:
    kept = cache(tmp_path, taps=("layer1",))
    kept.ensure([0], Talker(taps={"layer1": (3, 2)}))

    def ask(view: int, rows: Rows) -> ModelOutput:
        said = Talker(taps={"layer1": (3, 2)})(view, rows)
        return ModelOutput(said.logits, {"layer1": said.features["layer1"] * 1.1})

    answers = kept.open([0])
    with pytest.raises(BadInput, match=r"stale: .* of its features at layer1"):
        answers.check(ask)
    with pytest.raises(BadInput, match=r"stale: .* features at layer1 of shape"):
        answers.check(Talker())
