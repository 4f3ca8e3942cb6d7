"""``python -m stillroom.study.engine.ray_client``: uses Ray for the process that started it.

A process of its own, since Ray waits two minutes for a cluster that is not there, ends the process that uses it when
the cluster is gone, and reports both in its own way on the terminal.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

import psutil

from stillroom.errors import BadInput
from stillroom.files import CACHE_VARIABLE, DATA_VARIABLE
from stillroom.study.engine.base import Job, Outcome
from stillroom.study.engine.pipes import JsonWriter, claim_standard_streams
from stillroom.study.engine.ray import GONE, option_of

_POLL = 0.05  # seconds between two looks at the jobs under way
_PULSE = 1.0  # seconds between two looks at the cluster
_LEAVE = 8.0  # seconds for the end of the jobs
_SAVE = 5.0  # of these, for a step to end and be saved
_ANSWER = 5.0  # seconds in which a machine takes a connection
_JOIN = 60.0  # seconds in which a cluster that takes connections lets one in: a busy one takes its time
_START = 120.0  # seconds in which a Ray of our own is there
_CHECK = 120.0  # seconds in which every node says what it has
_CLIENT_PORT = 10001  # of a ray:// address that names none

GiveUp = Callable[[BadInput], None]


@dataclass(frozen=True)
class ClusterOptions:
    """What the process that speaks with Ray is asked for."""

    address: str | None  # of the cluster; None starts a Ray of our own
    cpus: int | None  # how many cores our own shall have; None counts them
    folder: str  # the study's
    patience: float  # seconds without the cluster after which it is taken as gone
    cwd: str  # the working folder that relative paths in recipes start from


@contextmanager
def connect(options: ClusterOptions, give_up: GiveUp) -> Iterator[tuple[str, int]]:
    """Be connected to the cluster for a block; a Ray of our own ends with it.

    Args:
        give_up: called with the error where Ray does not come back with one.

    Yields:
        Host and port at which the cluster's head can be reached.

    Raises:
        BadInput: there is no cluster, or it lets nobody in.
    """
    ray_options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    variables = {name: os.environ[name] for name in (DATA_VARIABLE, CACHE_VARIABLE) if name in os.environ}
    if variables:
        ray_options["runtime_env"] = {"env_vars": variables}
    if options.address is None:
        with _short_folder() as folder:
            yield from _own(options, give_up, ray_options, folder)
        return
    place = locate(options.address)
    try:
        reach(*place)
    except OSError as error:
        reason = error.strerror or format_line(error)
        raise BadInput("--address", options.address, f"a Ray cluster that answers there ({reason})") from None
    late = BadInput("--address", options.address, f"a Ray cluster that lets one in within {_JOIN:g} s")
    with _within(_JOIN, late, give_up):
        import ray

        try:
            ray.init(address=options.address, **ray_options)
        except Exception as error:
            expected = f"a Ray cluster that lets one in ({format_line(error)})"
            raise BadInput("--address", options.address, expected) from None
    try:
        yield place
    finally:
        # What is not answered within the time that is left, ends with this process.
        ray.shutdown()


def become_subreaper() -> None:
    """Make processes whose parent dies children of this one: where Ray is killed half-way, others of it live on."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def kill_descendants() -> None:
    """End all processes that this one has brought about."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()


def _own(
    options: ClusterOptions, give_up: GiveUp, ray_options: dict[str, Any], folder: str
) -> Iterator[tuple[str, int]]:
    late = BadInput(*option_of(None), f"a Ray that starts within {_START:g} s on this machine")
    with _within(_START, late, give_up):
        import ray

        ray.init(
            address="local",
            num_cpus=options.cpus,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            # Jobs and outcomes are a few kilobytes.
            object_store_memory=80 << 20,
            **ray_options,
        )
    try:
        yield locate(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()
        kill_descendants()


@contextmanager
def _short_folder() -> Iterator[str]:
    """A temporary folder for Ray's sockets, whose paths the system limits to a hundred characters."""
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="stillroom-", dir=base if len(base) <= 20 else "/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _within(seconds: float, error: BadInput, give_up: GiveUp) -> Iterator[None]:
    """Give up with an error, and end this process, where a block takes longer."""

    def over() -> None:
        give_up(error)
        os._exit(1)

    timer = threading.Timer(seconds, over)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def locate(address: str) -> tuple[str, int]:
    """Host and port of a cluster's address.

    Raises:
        BadInput: it is none, or it is ``auto`` and there is no cluster on this machine.

    >>> locate("ray://head"), locate("[::1]:6379")
    (('head', 10001), ('::1', 6379))
    """
    expected = "auto, host:port or ray://host:port"
    if address == "auto":
        address = _found_here()
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        port = parts.port or (_CLIENT_PORT if parts.scheme == "ray" else None)
    except ValueError:
        raise BadInput("--address", address, expected) from None
    if parts.scheme not in ("", "ray") or not parts.hostname or port is None:
        raise BadInput("--address", address, expected)
    return parts.hostname, port


def _found_here() -> str:
    from ray._private import services

    try:
        return str(services.canonicalize_bootstrap_address_or_die("auto"))
    except ConnectionError:
        raise BadInput("--address", "auto", "a Ray cluster on this machine; `ray start --head` starts one") from None


def reach(host: str, port: int) -> None:
    """Connect once; OSError where nobody answers."""
    socket.create_connection((host, port), timeout=_ANSWER).close()


def usable_nodes() -> list[dict[str, Any]]:
    """The cluster's nodes that take jobs."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()
    return [node for node in found if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def check_nodes(options: ClusterOptions) -> None:
    """Ask every node what it has: a study's runs are compared, so all must do the same.

    Raises:
        BadInput: a node has other versions or code, or does not see the study's folder.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = usable_nodes()
    if not nodes:
        raise BadInput(*option_of(options.address), "a Ray cluster with at least one core for jobs")
    probe = make_probe()
    token = Path(options.folder, f".seen-{secrets.token_hex(8)}.part")
    token.write_text(token.name, encoding="utf-8")
    try:
        task = ray.remote(max_retries=2)(probe)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # No core: the cluster may be busy with something else.
            asked[task.options(num_cpus=0, scheduling_strategy=there).remote(str(token))] = node
        answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_CHECK)
        for one in late:
            raise BadInput(*option_of(options.address), f"nodes that answer: {_name(asked[one])} does not")
        here = json.loads(probe(str(token)))
        for one in answered:
            _compare(options, _name(asked[one]), json.loads(ray.get(one)), here)
    finally:
        token.unlink(missing_ok=True)


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _compare(options: ClusterOptions, name: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse a node that differs from this one.

    Raises:
        BadInput: naming the node, what it has, and what was expected.
    """
    for what in ("stillroom", "torch"):
        if there[what] != here[what]:
            found = f"{what} {there[what]}" if there[what] else f"no {what}"
            raise BadInput(*option_of(options.address), f"{what} {here[what]} on every node: {name} has {found}")
    if there["code"] != here["code"]:
        raise BadInput(
            *option_of(options.address), f"the code of stillroom on every node as it is here: that of {name} differs"
        )
    if there["seen"] != here["seen"]:
        raise BadInput("--out", options.folder, f"a folder that every node of the cluster sees: {name} does not")


def make_probe() -> Callable[[str], str]:
    """What a node is asked: a function that Ray sends as it is, since stillroom may be missing there."""

    def probe(token: str) -> str:
        import hashlib
        import json
        from importlib import metadata, util
        from pathlib import Path

        def version(package: str) -> str | None:
            try:
                # Builds for other GPUs differ in what follows the plus alone.
                return metadata.version(package).partition("+")[0]
            except metadata.PackageNotFoundError:
                return None

        code = hashlib.sha256()
        spec = util.find_spec("stillroom")
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent
            for path in sorted(folder.rglob("*.py")):
                code.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        try:
            seen = Path(token).read_text(encoding="utf-8")
        except OSError:
            seen = ""
        found = {name: version(name) for name in ("stillroom", "torch")}
        return json.dumps({**found, "code": code.hexdigest(), "seen": seen})

    return probe


def format_line(error: BaseException, limit: int = 300) -> str:
    """An exception with all that it says, in one line.

    >>> format_line(ValueError("a bad\\n  port"))
    'ValueError: a bad port'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def main() -> None:
    """Do jobs until standard input ends."""
    # Ctrl-C reaches every process of the terminal; whoever started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    become_subreaper()
    incoming, answers = claim_standard_streams()
    options = ClusterOptions(**json.loads(incoming.readline()))
    # Ray has the tasks import from this process's working folder before all else: let it be one without modules.
    os.chdir(Path(options.folder, "state", "logs"))
    orders: SimpleQueue[bytes | None] = SimpleQueue()
    threading.Thread(target=_read, args=(incoming, orders), daemon=True).start()

    def give_up(error: BadInput) -> None:
        answers.send({"refused": [error.field, error.value, error.expected]})

    try:
        with connect(options, give_up) as address:
            try:
                check_nodes(options)
                answers.send({"ready": {"cpus": [node["Resources"]["CPU"] for node in usable_nodes()]}})
                _RayJobs(options, address, answers).serve(orders)
            except BadInput as error:
                # Sent before Ray is left, which takes long where the cluster is gone.
                give_up(error)
            finally:
                threading.Thread(target=_leave, daemon=True).start()
    except BadInput as error:
        give_up(error)
    except OSError:
        pass  # nobody listens any more
    except Exception as error:
        give_up(BadInput(*option_of(options.address), f"a Ray cluster that works ({format_line(error)})"))
    os._exit(0)


def _read(incoming: IO[bytes], orders: SimpleQueue[bytes | None]) -> None:
    for line in incoming:
        orders.put(line)
    orders.put(None)
    _leave()


def _leave() -> None:
    """End the process before long: Ray may wait for what never comes."""
    time.sleep(_LEAVE)
    try:
        kill_descendants()
    finally:
        os._exit(1)


def do(order: str) -> str:
    """Do a job, on whatever node Ray runs this; JSON in, JSON out.

    Args:
        order: ``job``, and the working folder ``cwd`` that relative paths in its recipe start from.

    Returns:
        The outcome.
    """
    from stillroom.study.engine.jobs import attempt

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # A run saves first, be it cancelled or its node withdrawn; Ray's own handlers end the process at once.
    with suppress(ValueError):  # not the main thread, as where a user's Ray runs tasks in others
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
    content = json.loads(order)
    os.chdir(content["cwd"])
    job = Job(**content["job"])
    try:
        outcome = attempt(job)
    except KeyboardInterrupt:
        outcome = Outcome(job.id, "crashed", reason="its process was asked to end; a run saved first, and goes on")
    return json.dumps(asdict(outcome), allow_nan=False)


class _RayJobs:
    """The jobs under way on the cluster.

    Args:
        address: host and port at which the cluster's head can be reached.
    """

    def __init__(self, options: ClusterOptions, address: tuple[str, int], answers: JsonWriter) -> None:
        import ray

        self._ray = ray
        self._options = options
        self._address = address
        self._answers = answers
        self._under_way: dict[Any, tuple[str, float]] = {}
        self._seen = time.monotonic()
        # Retries are the study's to make; it counts them.
        self._task = ray.remote(max_retries=0)(do)
        self._most = max(node["Resources"]["CPU"] for node in usable_nodes())
        self._has_gpus = any(node["Resources"].get("GPU") for node in usable_nodes())

    def serve(self, orders: SimpleQueue[bytes | None]) -> None:
        """Do what is ordered until the orders end; BadInput where the cluster is gone."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            while True:
                with suppress(Empty):
                    order = orders.get(timeout=_POLL if self._under_way else _PULSE)
                    if order is None:
                        return
                    self._begin(Job(**json.loads(order)["job"]))
                self._look()
                if time.monotonic() - self._seen > self._options.patience:
                    self._under_way.clear()
                    raise BadInput(*option_of(self._options.address), GONE)
        finally:
            self._cancel()

    def _cancel(self) -> None:
        """End the jobs under way; each has some seconds to end its step and save."""
        tasks = list(self._under_way)
        for force in (False, True):
            for task in tasks:
                with suppress(Exception):
                    self._ray.cancel(task, force=force)
            if tasks and not force:
                with suppress(Exception):
                    tasks = self._ray.wait(tasks, num_returns=len(tasks), timeout=_SAVE)[1]

    def _begin(self, job: Job) -> None:
        device = (job.recipe.get("training") or {}).get("device", "auto")
        task = self._task.options(
            name=job.id,
            # More threads than any node has cores are slow; asked for, they would wait for ever.
            num_cpus=min(job.threads, self._most),
            num_gpus=1 if self._has_gpus and device != "cpu" else 0,
        )
        order = json.dumps({"job": job.as_dict(), "cwd": self._options.cwd})
        self._under_way[task.remote(order)] = (job.id, time.perf_counter())

    def _look(self) -> None:
        if not self._under_way:
            return
        ended, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=0)
        for task in ended:
            name, began = self._under_way[task]
            try:
                outcome = json.loads(self._ray.get(task))
            except Exception as error:
                if time.monotonic() - self._seen > 2 * _PULSE:
                    # The whole cluster may be gone, not this task's process alone: known soon.
                    return
                reason = f"its process on the cluster died: {format_line(error)}"
                outcome = asdict(Outcome(name, "crashed", reason=reason, seconds=round(time.perf_counter() - began, 4)))
            del self._under_way[task]
            self._answers.send({"outcome": outcome})

    def _watch(self) -> None:
        """See now and then whether the cluster is there, in a thread of its own: asked itself, Ray would wait."""
        while True:
            time.sleep(_PULSE)
            with suppress(OSError):
                reach(*self._address)
                self._seen = time.monotonic()


if __name__ == "__main__":
    main()
