"""For every test and doctest: outputs of teachers are cached in a folder of this test run, no test has a deadline, and
the longest files of tests come first.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Threads that wait for each other sleep, here and in the processes that tests start: the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A busy machine makes no example wrong. In CI the examples are the same each time.
settings.register_profile(
    "stillroom",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("stillroom")

# A shell without job control starts its children with SIGINT ignored, and they hand that on to theirs.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files of more than some 10 seconds, the longest first: one that began last would leave the other cores idle.
LONGEST = (
    "tests/test_real_data.py",
    "tests/study/engine/test_ray.py",
    "tests/report/test_study_browser.py",
    "tests/models/test_external.py",
    "tests/diagnose/test_recipe_real.py",
    "tests/study/test_compare.py",
    "tests/run/test_execute.py",
    "tests/study/engine/test_local.py",
    "tests/continual/test_run.py",
    "tests/diagnose/test_recipe_faults.py",
    "tests/diagnose/test_audit.py",
    "tests/losses/test_losses.py",
    "tests/train/test_processes.py",
    "tests/report/test_browser.py",
    "tests/test_demo.py",
    "tests/test_cli.py",
    "tests/diagnose/test_check_loss.py",
    "tests/models/test_export.py",
    "tests/diagnose/test_recipe_checks.py",
)


# Nothing that was imported or collected is ever freed: the collector need not look through it, neither now nor later.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::")[0], len(rank)))


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLROOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
