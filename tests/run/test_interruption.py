"""Ctrl-C and SIGTERM during a run: it saves, and goes on as if nothing had been."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from run.conftest import StopAt, bytes_of
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.run import Finished, execute
from stillroom.train.interruption import Interruption
from stillroom.train.recorders import StepInfo

pytestmark = pytest.mark.usefixtures("perceptrons")
Make = Callable[..., Recipe]
# Twelve steps, six an epoch, a line every four: see the fixture of recipes.
OPTIONS = (
    "student={name: mlp, options: {hidden: [4]}}",
    "training.record_weight_distance=[linear]",
    "training.record_gradient_rescaling=true",
)


class SignalAt(StopAt):
    """Sends SIGINT to its own process after a step."""

    def after_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            signal.raise_signal(signal.SIGINT)


class SignalInEvaluation(Observer):
    """Sends SIGINT while the student is evaluated for the first time."""

    def phase(self, what: str, done: int, total: int) -> None:
        if what == "evaluating":
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def whole(recipe: Make, once: Callable[[Recipe], Finished]) -> dict[str, bytes]:
    return bytes_of(once(recipe(*OPTIONS)).path)


@pytest.mark.parametrize("step", [3, 6])
def test_an_interrupted_run_is_saved_at_that_very_step(
    recipe: Make, tmp_path: Path, whole: dict[str, bytes], step: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        execute(recipe(*OPTIONS), out, hooks=[SignalAt(step)])
    assert torch.load(out / "state" / "last.pt", weights_only=True)["progress"]["step"] == step
    execute(recipe(*OPTIONS), out, resume=True, hooks=[SignalAt(-1)])
    assert bytes_of(out) == whole


def test_a_run_interrupted_in_an_evaluation_is_saved_before_it(
    recipe: Make, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        execute(recipe(*OPTIONS), out, observer=SignalInEvaluation())
    assert torch.load(out / "state" / "last.pt", weights_only=True)["progress"]["step"] == 6
    execute(recipe(*OPTIONS), out, resume=True)
    assert bytes_of(out) == whole


def test_the_second_signal_interrupts_at_once_and_the_handlers_come_back() -> None:
    def handlers() -> list[Any]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.pending
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_an_earlier_signal_is_heeded_where_it_may_interrupt() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interruption.immediate():
            pytest.fail("not reached")
