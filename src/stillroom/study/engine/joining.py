"""Joining a Ray cluster, or starting one for this machine alone, and checking that its nodes can do a study's jobs."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from stillroom.errors import BadInput
from stillroom.files import DATA_VARIABLE
from stillroom.study.engine.ray import where
from stillroom.teachers.cache_store import ROOT_VARIABLE

_ANSWER = 5.0  # seconds in which a machine takes a connection
_JOIN = 60.0  # seconds in which a cluster that takes connections lets one in: a busy one takes its time
_START = 120.0  # seconds in which a Ray of our own is there
_CHECK = 120.0  # seconds in which every node says what it has
_CLIENT_PORT = 10001  # of a ray:// address that names none

GiveUp = Callable[[BadInput], None]


@dataclass(frozen=True)
class Plan:
    """What the process that speaks with Ray is asked for.

    Attributes:
        address: of the cluster; None starts a Ray of our own.
        cpus: how many cores our own is told that it has; None counts them.
        folder: the study's.
        patience: seconds without the cluster after which it is taken as gone.
        cwd: the working folder that relative paths in recipes start from.
    """

    address: str | None
    cpus: int | None
    folder: str
    patience: float
    cwd: str


@contextmanager
def joined(plan: Plan, give_up: GiveUp) -> Iterator[tuple[str, int]]:
    """Be connected to the cluster for a block; a Ray of our own ends with it.

    Args:
        plan: which cluster.
        give_up: told the error where Ray does not come back with one.

    Yields:
        Host and port at which the cluster's head can be reached.

    Raises:
        BadInput: there is no cluster, or it lets nobody in.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    variables = {name: os.environ[name] for name in (DATA_VARIABLE, ROOT_VARIABLE) if name in os.environ}
    if variables:
        options["runtime_env"] = {"env_vars": variables}
    if plan.address is None:
        with _short_folder() as folder:
            yield from _own(plan, give_up, options, folder)
        return
    place = locate(plan.address)
    try:
        reach(*place)
    except OSError as error:
        told = error.strerror or in_a_line(error)
        raise BadInput("--address", plan.address, f"a Ray cluster that answers there ({told})") from None
    late = BadInput("--address", plan.address, f"a Ray cluster that lets one in within {_JOIN:g} s")
    with _within(_JOIN, late, give_up):
        import ray

        try:
            ray.init(address=plan.address, **options)
        except Exception as error:
            expected = f"a Ray cluster that lets one in ({in_a_line(error)})"
            raise BadInput("--address", plan.address, expected) from None
    try:
        yield place
    finally:
        # What is not answered within the time that is left, ends with this process.
        ray.shutdown()


def adopt() -> None:
    """Make processes whose parent dies children of this one: where Ray is killed half-way, others of it live on."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def end_family() -> None:
    """End all processes that this one has brought about."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()


def _own(plan: Plan, give_up: GiveUp, options: dict[str, Any], folder: str) -> Iterator[tuple[str, int]]:
    late = BadInput(*where(None), f"a Ray that starts within {_START:g} s on this machine")
    with _within(_START, late, give_up):
        import ray

        ray.init(
            address="local",
            num_cpus=plan.cpus,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            # Jobs and outcomes are a few kilobytes.
            object_store_memory=80 << 20,
            **options,
        )
    try:
        yield locate(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()
        end_family()


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
    """Connect once.

    Raises:
        OSError: nobody answers.
    """
    socket.create_connection((host, port), timeout=_ANSWER).close()


def usable_nodes() -> list[dict[str, Any]]:
    """The cluster's nodes that take jobs."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in found if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def check_nodes(plan: Plan) -> None:
    """Ask every node what it has: a study's runs are compared, so all must do the same.

    Raises:
        BadInput: a node has other versions or code, or does not see the study's folder.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = usable_nodes()
    if not nodes:
        raise BadInput(*where(plan.address), "a Ray cluster with at least one core for jobs")
    look = make_look()
    token = Path(plan.folder, f".seen-{secrets.token_hex(8)}.part")
    token.write_text(token.name, encoding="utf-8")
    try:
        task = ray.remote(max_retries=2)(look)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # No core: the cluster may be busy with something else.
            asked[task.options(num_cpus=0, scheduling_strategy=there).remote(str(token))] = node
        answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_CHECK)
        for one in late:
            raise BadInput(*where(plan.address), f"nodes that answer: {_name(asked[one])} does not")
        here = json.loads(look(str(token)))
        for one in answered:
            _compare(plan, _name(asked[one]), json.loads(ray.get(one)), here)
    finally:
        token.unlink(missing_ok=True)


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _compare(plan: Plan, name: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse a node that differs from this one.

    Raises:
        BadInput: naming the node, what it has, and what was expected.
    """
    for what in ("stillroom", "torch"):
        if there[what] != here[what]:
            found = f"{what} {there[what]}" if there[what] else f"no {what}"
            raise BadInput(*where(plan.address), f"{what} {here[what]} on every node: {name} has {found}")
    if there["code"] != here["code"]:
        raise BadInput(
            *where(plan.address), f"the code of stillroom on every node as it is here: that of {name} differs"
        )
    if there["seen"] != here["seen"]:
        raise BadInput("--out", plan.folder, f"a folder that every node of the cluster sees: {name} does not")


def make_look() -> Callable[[str], str]:
    """What a node is asked: a function that Ray sends as it is, since stillroom may be missing there."""

    def look(token: str) -> str:
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

    return look


def in_a_line(error: BaseException, limit: int = 300) -> str:
    """An exception with all that it says, in one line.

    >>> in_a_line(ValueError("a bad\\n  port"))
    'ValueError: a bad port'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
