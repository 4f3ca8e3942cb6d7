"""A study's jobs on a Ray cluster, or on a Ray of this machine alone."""

from __future__ import annotations

import importlib.util
import os
import secrets
from pathlib import Path
from queue import Empty, Queue
from time import monotonic

from stillroom.errors import BadInput
from stillroom.study.engine.base import Engine, Job, Outcome
from stillroom.study.engine.pipes import Message, WorkerProcess

_CLIENT_MODULE = "stillroom.study.engine.ray_client"
_LEAVE = 10.0  # seconds that the jobs' end and a private Ray's take at most


class RayEngine(Engine):
    """Each job is a Ray task. A process of its own uses Ray, see :mod:`stillroom.study.engine.ray_client`.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``; left out: ``$RAY_ADDRESS``, or else a Ray that is
            started for this study alone and listens to this machine alone.
        slots: how many jobs go side by side; left out: as many as the cluster's cores allow.
        study_folder: every node must see it; ``state/logs/ray.log`` in it holds what Ray prints.
        threads: CPU threads of a job, for the number of slots.
        patience: seconds without the cluster after which it is taken as gone.

    Raises:
        BadInput: Ray is not installed, there is no cluster, or a node of it cannot do a study's jobs.
    """

    name = "ray"

    def __init__(
        self, address: str | None, slots: int | None, study_folder: Path, *, threads: int = 1, patience: float = 20.0
    ) -> None:
        # A folder called `ray` in the user's folder passes for an empty package, which has no origin.
        found = importlib.util.find_spec("ray")
        if found is None or found.origin is None:
            raise BadInput("--engine", "ray", "the extra: pip install 'stillroom[ray]'")
        address = address or os.environ.get("RAY_ADDRESS") or None
        self._address = None if address == "local" else address
        self._under_way: set[str] = set()
        self._lost: BadInput | None = None
        self._messages: Queue[Message | None] = Queue()
        folder = study_folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._client = WorkerProcess(
            _CLIENT_MODULE, folder / "state" / "logs" / "ray.log", self._environment(), self._receive
        ).listen()
        try:
            cpus = slots * threads if slots is not None and self._address is None else None
            plan = {"address": self._address, "cpus": cpus, "folder": str(folder), "patience": patience}
            self._client.send({**plan, "cwd": str(Path.cwd())})
            ready = self._check(self._messages.get())["ready"]
        except BaseException:
            self.close()
            raise
        self.slots = slots if slots is not None else max(sum(int(each // threads) for each in ready["cpus"]), 1)

    def submit(self, job: Job) -> None:
        """Hand the job to the cluster, which begins it where there is room."""
        self._under_way.add(job.id)
        self._client.send({"job": job.as_dict()})

    def wait(self, timeout: float) -> list[Outcome]:
        """The jobs that ended since; returned as soon as there is one, and at once where none is under way."""
        if self._lost is not None:
            raise self._lost
        deadline = monotonic() + timeout
        ended: list[Outcome] = []
        while self._under_way:
            try:
                # One that ended may have brought others along.
                message = self._messages.get(timeout=0 if ended else max(deadline - monotonic(), 0))
            except Empty:
                break
            if ended and (message is None or "refused" in message):
                # What ended is returned first; the next call raises this.
                self._messages.put(message)
                break
            outcome = Outcome(**self._check(message)["outcome"])
            self._under_way.discard(outcome.id)
            ended.append(outcome)
        return ended

    def close(self) -> None:
        """End what is under way, and a Ray that was started here; a cluster that was there before stays."""
        self._client.close_input()
        self._client.stop(patience=_LEAVE)
        self._under_way.clear()

    def _environment(self) -> dict[str, str]:
        # No telemetry; and `uv run` would have Ray copy the working folder to every node.
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        if self._address is None:
            environment.pop("RAY_ADDRESS", None)
            # Ray then takes 127.0.0.1 as this machine's address, and listens there alone; on Linux it else listens on
            # every network, whatever address it is given. Other users of the machine lack the token.
            environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        return environment

    def _receive(self, child: WorkerProcess, message: Message | None) -> None:
        self._messages.put(message)

    def _check(self, message: Message | None) -> Message:
        """The message, unless it is that the other process cannot go on."""
        if message is None:
            self._lost = BadInput(*option_of(self._address), f"{GONE}; {self._client.describe_end()}")
        elif "refused" in message:
            self._lost = BadInput(*message["refused"])
        else:
            return message
        raise self._lost


GONE = "a Ray cluster that stays: it is gone; finished runs are kept, run the same command again"


def option_of(address: str | None) -> tuple[str, str]:
    """The option that an error about the cluster names, and its value.

    >>> option_of("auto"), option_of(None)
    (('--address', 'auto'), ('--engine', 'ray'))
    """
    return ("--address", address) if address is not None else ("--engine", "ray")
