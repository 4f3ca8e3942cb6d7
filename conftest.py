"""For every test and doctest: teachers' outputs are cached in a folder of this test run, and no test has a deadline."""

from __future__ import annotations

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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLROOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
