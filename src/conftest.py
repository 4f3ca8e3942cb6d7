"""For doctests: the worker processes of a study are forked, as importing takes most of their time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from processes import fork_python  # type: ignore[import-not-found] # of tests/


@pytest.fixture(scope="module", autouse=True)
def _forked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fork_python(patch)
        yield
