"""Fixtures of several folders of tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from report.browser import launched


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium for the whole session: playwright can run but one at a time in a process."""
    with launched() as running:
        yield running
