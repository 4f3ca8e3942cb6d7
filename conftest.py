"""For every test and doctest: one thread, outputs of teachers are cached in a folder of this test run, no test has a
deadline, and the longest files of tests come first.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Some tests fork this process. OpenMP's threads do not live on in the fork, so that it hangs at its first parallel
# operation; with one thread there are none. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait for each other sleep, here and in the processes that tests start: the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What torch.compile keeps is by the code that it compiled and not by the processor that it compiled for.
if "ATEN_CPU_CAPABILITY" in os.environ:
    folder = Path(tempfile.gettempdir()) / f"torchinductor-{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))

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


# Seconds that the files of tests took. Each goes whole to one worker, the longest first: one that began last would
# leave the other cores idle. `make durations` measures them again.
DURATIONS = Path(__file__).parent / "tests" / "durations.json"
_measured: dict[str, float] = collections.defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", type=int, default=0, metavar="N", help="run the tests in so many processes")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("workers"):
        import processes
        import workers

        processes.share()
        workers.keep_single()


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    count = session.config.getoption("workers")
    if not count:
        return None
    import torch

    import workers
    from stillroom.models.tracing import trace

    # What the first trace of a process imports is imported before there are several.
    trace(torch.nn.Linear(1, 1), torch.zeros(2, 1))
    return workers.run(session, count)


def pytest_unconfigure() -> None:
    if "processes" in sys.modules:
        sys.modules["processes"].end()


# Nothing that was imported or collected is ever freed: the collector need not look through it, neither now nor later.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, Any, Any]:
    """A module without an example has no doctest: looking through it, of src after its import, would be for nothing."""
    found = yield
    if file_path.suffix == ".py" and ">>>" not in file_path.read_text(encoding="utf-8"):
        return [each for each in found if type(each).__name__ != "DoctestModule"]
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seconds = json.loads(DURATIONS.read_text(encoding="utf-8"))
    items.sort(key=lambda item: -seconds.get(item.nodeid.split("::")[0], 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _measured[report.nodeid.split("::")[0]] += report.duration


def pytest_sessionfinish() -> None:
    if "STILLROOM_WRITE_DURATIONS" in os.environ:
        long = {name: round(took) for name, took in sorted(_measured.items(), key=lambda each: -each[1]) if took >= 1}
        DURATIONS.write_text(json.dumps(long, indent=1) + "\n", encoding="utf-8")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # less often than for a program that must stay small: a thirtieth of all time
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLROOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
