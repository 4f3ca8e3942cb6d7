"""Fixtures of several folders of tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from report.browser import launched


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium for the whole session: playwright can run but one at a time in a process."""
    with launched() as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def _one_latency() -> Iterator[None]:
    """Runs of the tests time their models once, not twenty times: a third of a small run's time."""
    from stillroom.run import artifacts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "latency", partial(artifacts.latency, repeats=1))
        yield
