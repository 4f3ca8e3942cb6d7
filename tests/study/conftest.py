"""Databases of trials that are opened quickly."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _migrations_once() -> Iterator[None]:
    """Optuna's migrations are imported once, not for each database: half of the time that it takes to open one."""
    from alembic.util import pyfiles

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyfiles, "load_module_py", functools.cache(pyfiles.load_module_py))
        yield
