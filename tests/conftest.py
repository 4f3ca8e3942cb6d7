"""Fixtures of several folders of tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

from report.browser import Visits, launched


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium for the whole session: playwright can run but one at a time in a process."""
    with launched() as running:
        yield running


@pytest.fixture(scope="module")
def visit(browser: Any) -> Iterator[Visits]:
    """Opens each page once for the tests of a file, which leave it as they found it."""
    with ExitStack() as stack:
        yield Visits(browser, stack)


@pytest.fixture(scope="session", autouse=True)
def _no_disk() -> Iterator[None]:
    """Nothing waits for the disk: a run asks it twenty times to keep what was written, for the day the power fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # both refuse a file that is not open
        yield


@pytest.fixture(scope="session", autouse=True)
def _traced_once() -> Iterator[None]:
    """A teacher of the zoo is traced once, not in each run that cuts it: a second each time."""
    from stillroom.models.tracing import Traced
    from stillroom.models.weights import state_hash
    from stillroom.teachers import tails

    trace, kept = tails.trace, dict[Any, Traced]()

    def remember(model: nn.Module, example: Tensor) -> Traced:
        if not type(model).__module__.startswith("stillroom."):
            return trace(model, example)
        key = (repr(model), state_hash(model), example.shape, example.dtype)
        if key not in kept:
            kept[key] = trace(model, example)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "trace", remember)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_latency() -> Iterator[None]:
    """Runs of the tests time their models once, not twenty times: a third of a small run's time."""
    from stillroom.run import artifacts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "latency", partial(artifacts.latency, repeats=1))
        yield
