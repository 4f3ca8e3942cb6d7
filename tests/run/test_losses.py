"""Every loss at once, in one run: live as cached, stopped as never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.losses.registry import losses
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.run import execute

# What a network of images can learn by.
OF_CLASSES = [name for name, kind in losses().items() if "single_label" in kind.tasks and not kind.reads_attention]


@pytest.fixture
def of_all_losses(recipe: Callable[..., Recipe]) -> Recipe:
    content = recipe("data.train_limit=96", "training.log_every=1").model_dump(mode="json")
    content["losses"] = [{"name": name, "weight": 0.01} for name in OF_CLASSES]
    return parse_recipe(content)


def test_every_loss_trains_and_a_stopped_run_ends_with_the_same_bytes(of_all_losses: Recipe, tmp_path: Path) -> None:
    execute(of_all_losses, tmp_path / "whole")
    stop_and_resume(of_all_losses, tmp_path / "stopped", 4)
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")
    first, last = (read_lines(tmp_path / "whole" / "metrics.jsonl")[place] for place in (0, -1))
    logged = {name.removeprefix("loss/") for name in first if name.startswith("loss/")}
    assert set(OF_CLASSES) <= logged
    assert all(value == value for value in first.values() if isinstance(value, float))
    assert last
