"""Fixtures of several folders of tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from report.browser import Visits, browser_context

if TYPE_CHECKING:  # the process that hands tests to workers reads this file, too, and needs no torch
    from torch import Tensor, nn


@pytest.fixture
def script_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``stillroom audit`` gives a script in this process is put back: else the next tests find no module."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(autouse=True)
def _paths_stay() -> Iterator[None]:
    """A test that takes away where modules are found fails itself, not those that its worker runs after it."""
    before = list(sys.path)
    yield
    lost = [path for path in before if path not in sys.path]
    if lost:
        sys.path[:] = before
        pytest.fail(f"it took {', '.join(lost)} from sys.path and did not put it back")


@pytest.fixture(scope="session")
def context() -> Iterator[Any]:
    """A Chromium for the whole session: playwright can run but one at a time in a process."""
    with browser_context() as running:
        yield running


@pytest.fixture(scope="module")
def visit(context: Any) -> Iterator[Visits]:
    """Opens each page once for the tests of a file, which leave it as they found it."""
    with ExitStack() as stack:
        yield Visits(context, stack)


@pytest.fixture(scope="session", autouse=True)
def _no_disk() -> Iterator[None]:
    """Nothing waits for the disk: a run asks it twenty times to keep what was written, for the day the power fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # both refuse a file that is not open
        yield


@pytest.fixture(scope="session", autouse=True)
def _found_once() -> Iterator[None]:
    """What a run finds out about a model of the zoo is found out once, not in each run: a third of a small run's time.

    tests/models looks at how it is found.
    """
    from stillroom.models import prepared
    from stillroom.models.modes import copy_model
    from stillroom.models.weights import state_hash
    from stillroom.teachers import live, tails

    kept: dict[Any, Any] = {}

    def once(find: Callable[..., Any], give: Callable[[Any], Any] = lambda found: found) -> Callable[..., Any]:
        def remember(model: nn.Module, example: Tensor, **more: Any) -> Any:
            hooked = any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
            if hooked or not type(model).__module__.startswith("stillroom."):
                return find(model, example, **more)
            key = (find, repr(model), state_hash(model), example.shape, example.dtype, repr(more))
            if key not in kept:
                kept[key] = find(model, example, **more)
            return give(kept[key])

        return remember

    fold = once(live.fold_batchnorm, lambda found: (copy_model(found[0]), found[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "trace", once(tails.trace))
        patch.setattr(tails, "fold_batchnorm", fold)
        patch.setattr(live, "fold_batchnorm", fold)
        patch.setattr(prepared, "multiply_adds", once(prepared.multiply_adds))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_latency() -> Iterator[None]:
    """Runs of the tests time their models once, not twenty times: a third of a small run's time."""
    from stillroom.run import artifacts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "latency", partial(artifacts.latency, repeats=1))
        yield
