"""Runs the tests in worker processes that are forked from the one that has collected them: ``pytest --workers 4``.

With pytest-xdist each worker imports torch and collects all tests for itself, a twentieth of the suite's time.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import processes

_NUMBER = "STILLROOM_TEST_WORKER"


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of this test run that all its workers see."""
    base = factory.getbasetemp()
    return base.parent if _NUMBER in os.environ else base


def run(session: pytest.Session, count: int) -> bool | None:
    """Run all tests of a session: a worker that has nothing to do gets the next file, or all that open a browser.

    Returns:
        None where there is nothing to run, which is pytest's own to report.
    """
    if session.config.option.collectonly or session.testsfailed:
        return None
    files = [item.nodeid.split("::")[0] for item in session.items]
    in_browser = {file for file, item in zip(files, session.items, strict=True) if item.get_closest_marker("browser")}
    groups: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        groups.setdefault("browser" if file in in_browser else file, []).append(index)
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    reporter.showfspath = False
    pool = _Pool(session, deque(groups.values()))
    try:
        for _ in range(min(count, len(groups))):
            pool.start()
        pool.run()
    finally:
        pool.end()
    return True


_threads = 1  # of each worker


def keep_single() -> None:
    """Until the workers are forked this process computes in one thread: OpenMP's threads are not in a copy of it.

    A copy of a process that has them waits for them for ever.
    """
    global _threads
    _threads = torch.get_num_threads()
    torch.set_num_threads(1)


class _Worker(NamedTuple):
    pid: int
    left: deque[int]  # the items that it was given, from the one that it runs


class _Pool:
    """The workers of a session, from the side of the process that forked them.

    Args:
        session: the session, with all its items.
        waiting: items that are run one after the other, as indices.
    """

    def __init__(self, session: pytest.Session, waiting: deque[list[int]]) -> None:
        self._session = session
        self._waiting = waiting
        self._workers: dict[Connection, _Worker] = {}
        self._started = 0
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined] # before there are several

    def start(self) -> None:
        ours, theirs = Pipe()
        self._started += 1
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(self._session, theirs, self._started)
        theirs.close()
        self._workers[ours] = _Worker(pid, deque())

    def run(self) -> None:
        """Hand out items and pass on what is reported until all workers have ended."""
        hook, session = self._session.config.hook, self._session
        while self._workers:
            for connection in wait(list(self._workers)):
                assert isinstance(connection, Connection)
                worker = self._workers[connection]
                try:
                    kind, content = connection.recv()
                except (EOFError, ConnectionError):
                    self._mourn(connection)
                    continue
                if kind == "idle":
                    worker.left.extend(self._waiting.popleft() if self._waiting else [])
                    connection.send(list(worker.left))
                elif kind == "error":
                    raise RuntimeError(f"a worker of the tests failed:\n{content}")
                elif kind == "finish":
                    worker.left.popleft()
                elif kind == "warning":
                    hook.pytest_warning_recorded.call_historic(kwargs=content)
                elif kind == "report":
                    report = hook.pytest_report_from_serializable(config=session.config, data=content)
                    hook.pytest_runtest_logreport(report=report)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)

    def _mourn(self, connection: Connection) -> None:
        """A worker has ended. A test that it was running has failed; what it has not begun, another one runs."""
        worker = self._workers.pop(connection)
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        if not worker.left:
            assert code == 0, f"a worker of the tests ended with {code}"
            return
        item = self._session.items[worker.left.popleft()]
        text = f"the process that ran it ended with {code}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
        self._session.config.hook.pytest_runtest_logreport(report=report)
        if worker.left:
            self._waiting.appendleft(list(worker.left))
        self.start()

    def end(self) -> None:
        """Interrupt the workers, which then tear down what they have set up; kill those that do not end."""
        for connection, worker in self._workers.items():
            connection.close()
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGINT)
        deadline = time.monotonic() + 30
        for worker in self._workers.values():
            while os.waitpid(worker.pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(0.02)


class _Sender:
    """Sends what a worker's tests report."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection
        self.registered = False  # where it registers, it gets the warnings so far, which are known

    def pytest_runtest_logfinish(self) -> None:
        self._connection.send(("finish", None))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._connection.send(("report", data))

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str) -> None:
        if not self.registered:
            return
        category = warning_message.category
        try:
            pickle.dumps(category)
        except (pickle.PicklingError, AttributeError):
            category = Warning
        text = str(warning_message.message)
        copy = warnings.WarningMessage(text, category, warning_message.filename, warning_message.lineno)
        content = {"warning_message": copy, "when": when, "nodeid": nodeid, "location": None}
        self._connection.send(("warning", content))


def _serve(session: pytest.Session, connection: Connection, number: int) -> None:
    """Be a worker: run what is handed out, and end this process."""
    code = 1
    try:
        torch.set_num_threads(_threads)
        _settle(session.config, connection, number)
        for items in _handed_out(session, connection):
            # Between two files, what was set up for the session stays.
            for item, following in zip(items, [*items[1:], session], strict=True):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        session._setupstate.teardown_exact(None)
        code = 0
    except BaseException:
        with suppress(OSError):
            connection.send(("error", traceback.format_exc()))
        with suppress(BaseException):
            session._setupstate.teardown_exact(None)
    finally:
        os._exit(code)


def _handed_out(session: pytest.Session, connection: Connection) -> Iterator[list[Any]]:
    while True:
        connection.send(("idle", None))
        indices = connection.recv()
        if not indices:
            return
        yield [session.items[index] for index in indices]


def _settle(config: pytest.Config, connection: Connection, number: int) -> None:
    """Have a terminal's place, a temporary folder and captured output of its own."""
    os.environ[_NUMBER] = str(number)
    processes.join()
    config.pluginmanager.unregister(name="terminalreporter")
    sender = _Sender(config, connection)
    config.pluginmanager.register(sender)
    sender.registered = True
    capture = config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    factory = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory.getbasetemp() / f"worker-{number}"
    factory._basetemp.mkdir(mode=0o700)
