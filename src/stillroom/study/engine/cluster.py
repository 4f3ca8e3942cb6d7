"""``python -m stillroom.study.engine.cluster``: speaks with Ray for the process that started it.

A process of its own, since Ray waits two minutes for a cluster that is not there, ends the process that uses it when
the cluster is gone, and tells both in its own way on the terminal.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from stillroom.errors import BadInput
from stillroom.study.engine.base import Job, Outcome
from stillroom.study.engine.joining import (
    Plan,
    adopt,
    check_nodes,
    end_family,
    in_a_line,
    joined,
    reach,
    usable_nodes,
)
from stillroom.study.engine.pipes import Mouth, take_pipes
from stillroom.study.engine.ray import STAYS, where

_LOOK = 0.05  # seconds between two looks at the jobs under way
_PULSE = 1.0  # seconds between two looks at the cluster
_LEAVE = 8.0  # seconds for the end of the jobs


def main() -> None:
    """Do jobs until standard input ends."""
    # Ctrl-C reaches every process of the terminal; whoever started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt()
    incoming, mouth = take_pipes()
    plan = Plan(**json.loads(incoming.readline()))
    # Ray has the tasks import from this process's working folder before all else: let it be one without modules.
    os.chdir(Path(plan.folder, "state", "logs"))
    orders: SimpleQueue[bytes | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, orders), daemon=True).start()

    def give_up(error: BadInput) -> None:
        mouth.say({"refused": [error.field, error.value, error.expected]})

    try:
        with joined(plan, give_up) as address:
            try:
                check_nodes(plan)
                mouth.say({"ready": {"cpus": [node["Resources"]["CPU"] for node in usable_nodes()]}})
                _Tasks(plan, address, mouth).serve(orders)
            except BadInput as error:
                # Told before Ray is left, which takes long where the cluster is gone.
                give_up(error)
            finally:
                threading.Thread(target=_leave, daemon=True).start()
    except BadInput as error:
        give_up(error)
    except OSError:
        pass  # nobody listens any more
    except Exception as error:
        give_up(BadInput(*where(plan.address), f"a Ray cluster that works ({in_a_line(error)})"))
    os._exit(0)


def _listen(incoming: IO[bytes], orders: SimpleQueue[bytes | None]) -> None:
    for line in incoming:
        orders.put(line)
    orders.put(None)
    _leave()


def _leave() -> None:
    """End the process before long: Ray may wait for what never comes."""
    time.sleep(_LEAVE)
    try:
        end_family()
    finally:
        os._exit(1)


def do(order: str) -> str:
    """Do a job, on whatever node Ray runs this; JSON in, JSON out.

    Args:
        order: ``job``, and the working folder ``cwd`` that relative paths in its recipe start from.

    Returns:
        The outcome.
    """
    from stillroom.study.engine.performing import attempt

    content = json.loads(order)
    os.chdir(content["cwd"])
    return json.dumps(asdict(attempt(Job(**content["job"]))), allow_nan=False)


class _Tasks:
    """The jobs under way on the cluster.

    Args:
        plan: what was asked for.
        address: host and port at which the cluster's head can be reached.
        mouth: told how jobs ended.
    """

    def __init__(self, plan: Plan, address: tuple[str, int], mouth: Mouth) -> None:
        import ray

        self._ray = ray
        self._plan = plan
        self._address = address
        self._mouth = mouth
        self._under_way: dict[Any, tuple[str, float]] = {}
        self._seen = time.monotonic()
        # Retries are the study's to make; it counts and tells them.
        self._task = ray.remote(max_retries=0)(do)
        self._most = max(node["Resources"]["CPU"] for node in usable_nodes())
        self._has_gpus = any(node["Resources"].get("GPU") for node in usable_nodes())

    def serve(self, orders: SimpleQueue[bytes | None]) -> None:
        """Do what is ordered until the orders end.

        Raises:
            BadInput: the cluster is gone.
        """
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            while True:
                with suppress(Empty):
                    order = orders.get(timeout=_LOOK if self._under_way else _PULSE)
                    if order is None:
                        return
                    self._begin(Job(**json.loads(order)["job"]))
                self._look()
                if time.monotonic() - self._seen > self._plan.patience:
                    self._under_way.clear()
                    raise BadInput(*where(self._plan.address), STAYS)
        finally:
            for task in self._under_way:
                with suppress(Exception):
                    self._ray.cancel(task, force=True)

    def _begin(self, job: Job) -> None:
        device = (job.recipe.get("training") or {}).get("device", "auto")
        task = self._task.options(
            name=job.id,
            # More threads than any node has cores are slow; asked for, they would wait for ever.
            num_cpus=min(job.threads, self._most),
            num_gpus=1 if self._has_gpus and device != "cpu" else 0,
        )
        order = json.dumps({"job": job.as_dict(), "cwd": self._plan.cwd})
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
                reason = f"its process on the cluster died: {in_a_line(error)}"
                outcome = asdict(Outcome(name, "crashed", reason=reason, seconds=round(time.perf_counter() - began, 4)))
            del self._under_way[task]
            self._mouth.say({"outcome": outcome})

    def _watch(self) -> None:
        """See now and then whether the cluster is there, in a thread of its own: asked itself, Ray would wait."""
        while True:
            time.sleep(_PULSE)
            with suppress(OSError):
                reach(*self._address)
                self._seen = time.monotonic()


if __name__ == "__main__":
    main()
